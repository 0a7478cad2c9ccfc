//! When faults are over, all members come to have the same record, and an entry of each goes in (docs/spec/csp.md, "What a union needs").

use super::{Invariant, Seen};

/// Has nothing to remember.
pub struct Live;

impl Invariant for Live {
    fn name(&self) -> &'static str {
        "the union goes on"
    }

    fn see(&mut self, seen: &Seen, _: u64) -> Result<(), String> {
        let Seen::Settled { heads, failed } = seen else { return Ok(()) };
        if heads.windows(2).any(|w| w[0].1 != w[1].1) {
            let all: Vec<_> = heads.iter().map(|(m, h)| format!("m{m}: {}", h.number)).collect();
            return Err(format!("members end with different records: {}", all.join(", ")));
        }
        match failed {
            None => Ok(()),
            Some((m, outcome)) => Err(format!("an entry of m{m} does not go in: {outcome}")),
        }
    }
}
