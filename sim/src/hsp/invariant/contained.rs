//! Who was tampered with has no channel for everything longer than a period, a round's time and the batch's window (docs/spec/results.md,
//! "How fast"; threats 9, 10, 11, 69), and gets none anew.

use super::super::PERIOD;
use super::{Invariant, Open, Seen};

/// A round (2 s), the window and a quote, delay both ways, and what the audit's pace adds.
const ROUND: u64 = 5000;
/// Evidence that is older than a handshake takes has none of it.
const HANDSHAKE: u64 = 10_000;

/// Has nothing to remember.
pub struct Contained;

fn look(open: &Open, now: u64) -> Result<(), String> {
    let Some(at) = open.tampered.filter(|_| open.full) else { return Ok(()) };
    let (by, peer) = (open.by, open.peer);
    if open.since.max(open.rested) > at + HANDSHAKE && open.since > at + HANDSHAKE {
        return Err(format!("m{by} has a new channel with m{peer}, which was tampered with at {at} ms"));
    }
    let last = at.max(open.since).max(open.rested);
    if now > last + u64::from(PERIOD) + ROUND {
        return Err(format!("m{by} still has a channel with m{peer}, which was tampered with at {at} ms"));
    }
    Ok(())
}

impl Invariant for Contained {
    fn name(&self) -> &'static str {
        "who was tampered with is cut off in time"
    }

    fn see(&mut self, seen: &Seen, now: u64) -> Result<(), String> {
        match seen {
            Seen::Opened(open) => look(open, now),
            Seen::Audit(all) => all.iter().try_for_each(|open| look(open, now)),
            _ => Ok(()),
        }
    }
}
