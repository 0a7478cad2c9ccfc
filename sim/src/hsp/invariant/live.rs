//! When faults are over, all that should be members are, and all have channels for everything with all, by fresh evidence.

use super::{Invariant, Seen};

/// Has nothing to remember.
pub struct Live;

impl Invariant for Live {
    fn name(&self) -> &'static str {
        "in the end all are joined and trusted"
    }

    fn see(&mut self, seen: &Seen, _: u64) -> Result<(), String> {
        let Seen::Settled { apart, outside } = seen else { return Ok(()) };
        if let Some(s) = outside.first() {
            return Err(format!("m{s} should be a member and is none"));
        }
        match apart.first() {
            Some((a, b)) => Err(format!("m{a} has no fresh channel with m{b}")),
            None => Ok(()),
        }
    }
}
