//! A channel's two ends are those of one connection, and at the other end is who this end believes (docs/spec/hsp.md, "What a quote is
//! bound to"; threats 1 to 6).

use super::{Invariant, Seen};

/// Has nothing to remember.
pub struct OneConnection;

impl Invariant for OneConnection {
    fn name(&self) -> &'static str {
        "at the other end is who is believed to be"
    }

    fn see(&mut self, seen: &Seen, _: u64) -> Result<(), String> {
        let Seen::Opened(open) = seen else { return Ok(()) };
        let (by, peer) = (open.by, open.peer);
        match open.there {
            _ if open.another => {
                Err(format!("m{by} has called somebody else, and has a channel with m{peer}"))
            }
            Some(there) if there == peer && open.one => Ok(()),
            Some(there) if there == peer => {
                Err(format!("between m{by} and m{peer} is somebody in the middle"))
            }
            Some(there) => Err(format!("m{by} takes m{there} for m{peer}")),
            None => Err(format!("m{by} takes somebody for m{peer} who is not")),
        }
    }
}
