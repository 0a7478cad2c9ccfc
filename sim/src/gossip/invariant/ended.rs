//! What has ended is neither taken nor passed on (docs/spec/gossip.md, "What is taken").

use super::super::network::number;
use super::{Invariant, Seen};

/// Has nothing to remember.
pub struct Ended;

impl Invariant for Ended {
    fn name(&self) -> &'static str {
        "what has ended goes nowhere"
    }

    fn see(&mut self, seen: &Seen<'_>, _: u64) -> Result<(), String> {
        let (by, entries, wall) = match seen {
            Seen::Took { by, entry, wall } => (by, std::slice::from_ref(*entry), wall),
            Seen::Sent { by, entries, wall, .. } => (by, *entries, wall),
            _ => return Ok(()),
        };
        match entries.iter().find(|e| e.expires <= *wall) {
            Some(e) => Err(format!(
                "m{by} has what m{} said, {} ms after its end",
                number(e.author),
                wall - e.expires
            )),
            None => Ok(()),
        }
    }
}
