//! No channel for everything between members whose rosters have different epochs: who has not caught up gets the record (docs/spec/hsp.md,
//! "A session"; threat 16).

use super::{Invariant, Seen};

/// Has nothing to remember.
pub struct Epochs;

impl Invariant for Epochs {
    fn name(&self) -> &'static str {
        "who has an old roster gets the record only"
    }

    fn see(&mut self, seen: &Seen, _: u64) -> Result<(), String> {
        let Seen::Opened(open) = seen else { return Ok(()) };
        let [ours, theirs] = open.epochs;
        if open.full && open.there == Some(open.peer) && ours != theirs {
            let (by, peer) = (open.by, open.peer);
            return Err(format!("m{by} in epoch {} and m{peer} in epoch {}", ours.0, theirs.0));
        }
        Ok(())
    }
}
