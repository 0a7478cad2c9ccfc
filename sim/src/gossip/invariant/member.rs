//! Who has left is heard of no more (docs/spec/gossip.md, "What is taken").

use std::collections::BTreeSet;

use gtvp_model::union::MemberId;

use super::super::network::number;
use super::{Invariant, Seen};

/// The members.
#[derive(Default)]
pub struct Member(BTreeSet<MemberId>);

impl Invariant for Member {
    fn name(&self) -> &'static str {
        "who is no member is not heard"
    }

    fn see(&mut self, seen: &Seen<'_>, _: u64) -> Result<(), String> {
        let (by, entries) = match seen {
            Seen::Members(members) => {
                self.0.clone_from(members);
                return Ok(());
            }
            Seen::Took { by, entry, .. } => (by, std::slice::from_ref(*entry)),
            Seen::Sent { by, entries, .. } => (by, *entries),
            _ => return Ok(()),
        };
        match entries.iter().find(|e| !self.0.contains(&e.author)) {
            Some(e) => Err(format!("m{by} passes on what m{} says, which has left", number(e.author))),
            None => Ok(()),
        }
    }
}
