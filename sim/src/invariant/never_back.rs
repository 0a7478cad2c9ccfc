//! A member's record never goes back, not by a crash either (docs/spec/csp.md, "The record has one history"; threat 16).

use std::collections::BTreeMap;

use gtvp_model::union::RecordHead;

use super::{Invariant, Seen};

/// How far each member has been.
#[derive(Default)]
pub struct NeverBack(BTreeMap<usize, RecordHead>);

impl Invariant for NeverBack {
    fn name(&self) -> &'static str {
        "a record never goes back"
    }

    fn see(&mut self, seen: &Seen, _: u64) -> Result<(), String> {
        let (Seen::Took { member, head, .. } | Seen::Loaded { member, head, .. }) = seen else {
            return Ok(());
        };
        match self.0.insert(*member, *head) {
            Some(before) if before.number > head.number => {
                Err(format!("m{member} had entry {} and has come back to {}", before.number, head.number))
            }
            _ => Ok(()),
        }
    }
}
