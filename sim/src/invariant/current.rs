//! A head's time is one at which it was the last: the entry after it was in nobody's record then (docs/spec/csp.md, "Current";
//! threat 17).

use std::collections::BTreeMap;

use super::{Invariant, Seen};

/// When each entry was first in anybody's record, ms.
pub struct Current {
    first: BTreeMap<u64, u64>,
    wall: u64,
    skew: u64,
}

impl Current {
    /// Clocks began around `wall`, and are off by up to `skew` seconds.
    pub fn new(wall: u64, skew: u64) -> Self {
        Self { first: BTreeMap::new(), wall, skew }
    }
}

impl Invariant for Current {
    fn name(&self) -> &'static str {
        "a head was the last one at its time"
    }

    fn see(&mut self, seen: &Seen, now: u64) -> Result<(), String> {
        let Seen::Took { member, entries, head, time } = seen else { return Ok(()) };
        for entry in entries {
            self.first.entry(entry.number).or_insert(now);
        }
        // No clock was further ahead, so it was at least this late.
        let then = time.0.saturating_sub(self.wall + self.skew) * 1000;
        match self.first.get(&(head.number + 1)) {
            Some(next) if *next < then => {
                let number = head.number;
                Err(format!(
                    "m{member} holds that entry {number} was the last at {then} ms, the next came at {next} ms"
                ))
            }
            _ => Ok(()),
        }
    }
}
