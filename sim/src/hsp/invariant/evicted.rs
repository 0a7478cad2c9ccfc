//! Nobody has a channel with who is no member by its own record (docs/spec/hsp.md, "A session"; threat 15).

use super::{Invariant, Seen};

/// Has nothing to remember.
pub struct Evicted;

impl Invariant for Evicted {
    fn name(&self) -> &'static str {
        "who is evicted has no channel"
    }

    fn see(&mut self, seen: &Seen, _: u64) -> Result<(), String> {
        let (by, peer) = match seen {
            Seen::Changed { by, strangers } => (*by, strangers.first().copied()),
            Seen::Opened(open) => (open.by, (!open.known).then_some(open.peer)),
            _ => return Ok(()),
        };
        peer.map_or(Ok(()), |peer| Err(format!("m{by} has a channel with m{peer}, which is no member")))
    }
}
