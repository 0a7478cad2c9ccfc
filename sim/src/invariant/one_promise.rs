//! A voter promises one entry a number, whatever it forgets (docs/spec/csp.md, "A voter gives its word once").

use std::collections::BTreeMap;

use gtvp_model::digest::Digest;

use super::{Invariant, Seen};

/// What each voter has promised.
#[derive(Default)]
pub struct OnePromise(BTreeMap<(usize, u64), Digest>);

impl Invariant for OnePromise {
    fn name(&self) -> &'static str {
        "a voter gives its word once"
    }

    fn see(&mut self, seen: &Seen, _: u64) -> Result<(), String> {
        match seen {
            Seen::Promised { voter, at } => {
                let before = self.0.entry((*voter, at.number)).or_insert(at.hash);
                if *before != at.hash {
                    return Err(format!("m{voter} has promised two entries {}", at.number));
                }
            }
            Seen::Loaded { member, head, promised } => {
                let last =
                    self.0.range((*member, 0)..=(*member, u64::MAX)).next_back().map_or(0, |((_, n), _)| *n);
                if last > (*promised).max(head.number) {
                    return Err(format!("m{member} has promised entry {last} and has forgotten it"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
