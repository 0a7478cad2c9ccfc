//! No neighbour can have a member check more signatures than four messages at once can hold, and one and a half in each round
//! (docs/spec/gossip.md, "Bounds").

use std::collections::BTreeMap;

use gtvp_protocol::gossip::{LINK_ROUND, Times};

use super::{Invariant, Seen};

/// Bytes of the shortest entry that a run has.
const SHORTEST: u64 = 250;

/// What each neighbour has had each member look at, and since when.
pub struct Neighbour {
    times: Times,
    looked: BTreeMap<(usize, usize), (u64, u64)>,
}

impl Neighbour {
    /// With these times.
    pub fn new(times: Times) -> Self {
        Self { times, looked: BTreeMap::new() }
    }
}

impl Invariant for Neighbour {
    fn name(&self) -> &'static str {
        "a neighbour costs so many checks and no more"
    }

    fn see(&mut self, seen: &Seen<'_>, now: u64) -> Result<(), String> {
        match seen {
            Seen::Restarted(by) => self.looked.retain(|(m, _), _| m != by),
            Seen::Looked { by, from } => {
                let (count, since) = self.looked.entry((*by, *from)).or_insert((0, now));
                *count += 1;
                let link = LINK_ROUND as u64;
                let bytes = link * 4 + (now - *since) * (link * 3 / 2) / self.times.round;
                if *count > bytes / SHORTEST + 1 {
                    return Err(format!("m{from} had m{by} look at {count} entries in {} ms", now - *since));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
