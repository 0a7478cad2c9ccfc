//! Who was told that its entry is in the record has it there for good (docs/spec/csp.md, "Proposals").

use std::collections::BTreeMap;

use gtvp_model::digest::Digest;

use super::{Invariant, Seen};

/// What is in some member's record, and the last entry that anybody was told of.
#[derive(Default)]
pub struct Acknowledged {
    there: BTreeMap<u64, Digest>,
    last: u64,
}

impl Invariant for Acknowledged {
    fn name(&self) -> &'static str {
        "what was acknowledged is in the record"
    }

    fn see(&mut self, seen: &Seen, _: u64) -> Result<(), String> {
        match seen {
            Seen::Took { entries, .. } => {
                for entry in entries {
                    self.there.entry(entry.number).or_insert(entry.hash);
                }
            }
            Seen::Acknowledged { at } => {
                self.last = self.last.max(at.number);
                if self.there.get(&at.number) != Some(&at.hash) {
                    return Err(format!("entry {} was acknowledged, and no member has it", at.number));
                }
            }
            Seen::Settled { heads, .. } => {
                if let Some((member, head)) = heads.iter().find(|(_, h)| h.number < self.last) {
                    let last = self.last;
                    return Err(format!(
                        "m{member} ends with entry {}, entry {last} was acknowledged",
                        head.number
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
