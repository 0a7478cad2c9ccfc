//! No author can have others take more versions than its budget: at once one about each member and 16, then two about each in a period
//! (docs/spec/gossip.md, "Bounds").

use std::collections::BTreeMap;

use gtvp_model::union::MemberId;
use gtvp_protocol::gossip::Times;

use super::super::network::number;
use super::{Invariant, Seen};

/// What each member has taken of each author, and since when.
pub struct Share {
    times: Times,
    members: u64,
    taken: BTreeMap<(usize, MemberId), (u64, u64)>,
}

impl Share {
    /// With these times, among so many.
    pub fn new(times: Times, members: usize) -> Self {
        Self { times, members: members as u64, taken: BTreeMap::new() }
    }
}

impl Invariant for Share {
    fn name(&self) -> &'static str {
        "an author has its share and no more"
    }

    fn see(&mut self, seen: &Seen<'_>, now: u64) -> Result<(), String> {
        match seen {
            Seen::Restarted(by) => self.taken.retain(|(m, _), _| m != by),
            Seen::Took { by, entry, .. } if number(entry.author) != *by => {
                let (count, since) = self.taken.entry((*by, entry.author)).or_insert((0, now));
                *count += 1;
                let most = self.members + 16 + (now - *since) * self.members * 2 / self.times.period;
                if *count > most {
                    return Err(format!(
                        "m{by} took {count} versions of m{}, {most} are allowed",
                        number(entry.author)
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
