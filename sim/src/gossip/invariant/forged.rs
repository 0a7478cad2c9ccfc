//! Nobody keeps or passes on what its author has not signed (docs/spec/gossip.md, "What is taken").

use super::super::network::{is_signed, number};
use super::{Invariant, Seen};

/// Has nothing to remember.
pub struct Forged;

impl Invariant for Forged {
    fn name(&self) -> &'static str {
        "what is kept and passed on is its author's"
    }

    fn see(&mut self, seen: &Seen<'_>, _: u64) -> Result<(), String> {
        let (by, entries) = match seen {
            Seen::Took { by, entry, .. } => (by, std::slice::from_ref(*entry)),
            Seen::Sent { by, entries, .. } => (by, *entries),
            _ => return Ok(()),
        };
        match entries.iter().find(|e| !is_signed(e)) {
            Some(e) => Err(format!("m{by} has what m{} has not signed", number(e.author))),
            None => Ok(()),
        }
    }
}
