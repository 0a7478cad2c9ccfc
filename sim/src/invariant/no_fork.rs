//! No two members have different entries of one number (docs/spec/csp.md, "The record has one history").

use std::collections::BTreeMap;

use gtvp_model::digest::Digest;

use super::{Invariant, Seen};

/// What any member has had.
#[derive(Default)]
pub struct NoFork(BTreeMap<u64, (Digest, usize)>);

impl Invariant for NoFork {
    fn name(&self) -> &'static str {
        "the record has one history"
    }

    fn see(&mut self, seen: &Seen, _: u64) -> Result<(), String> {
        let (member, entries) = match seen {
            Seen::Took { member, entries, head, .. } => (*member, [&entries[..], &[*head]].concat()),
            Seen::Loaded { member, head, .. } => (*member, vec![*head]),
            _ => return Ok(()),
        };
        for at in entries {
            let (hash, other) = self.0.entry(at.number).or_insert((at.hash, member));
            if *hash != at.hash {
                return Err(format!("m{member} and m{other} have different entries {}", at.number));
            }
        }
        Ok(())
    }
}
