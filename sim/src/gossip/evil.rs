//! A member that lies: what it sends beside what it should.

use gtvp_protocol::frame::Frame;
use gtvp_protocol::frame::wire;
use gtvp_protocol::gossip::{Entry, HAVE, SPREAD, Spread};

use super::network::{Network, id, signature, status};

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evil {
    /// Says things in others' names.
    Forger,
    /// Says more than anybody should, with its own signature, and asks without end.
    Flooder,
    /// Says again what was said once: old versions, what has ended, what somebody said who has left.
    Replayer,
}

/// All that a liar has ever had; it forgets what came first.
#[derive(Debug, Default)]
pub struct Memory(Vec<Entry>);

/// Entries that a liar remembers.
const MEMORY: usize = 2_000;

impl Memory {
    /// Remembers this.
    pub fn keep(&mut self, entry: Entry) {
        if self.0.len() >= MEMORY {
            self.0.remove(0);
        }
        self.0.push(entry);
    }

    fn any(&self, network: &mut Network) -> Option<Entry> {
        let at = usize::try_from(network.rng.bits() % self.0.len().max(1) as u64).ok()?;
        self.0.get(at).cloned()
    }
}

fn spread(entries: Vec<Entry>) -> Frame {
    let spread = Spread { more: true, entries: entries.try_into().unwrap_or_default() };
    Frame { kind: SPREAD, body: wire::encode(&spread) }
}

/// Frames of a liar's: to whom, what.
pub fn lies(network: &mut Network, evil: Evil, by: usize, memory: &Memory) -> Vec<(usize, Frame)> {
    let members = network.nodes.len();
    let mut lies = Vec::new();
    let wall = network.wall(by);
    let lasts = network.times.status();
    for n in 0..20u64 {
        let to = usize::try_from(network.rng.bits() % members as u64).unwrap_or(0);
        let entry = match evil {
            Evil::Forger => {
                let Some(mut entry) = memory.any(network).filter(|e| e.author != id(by)) else { continue };
                (entry.version, entry.expires) = (wall, wall + lasts);
                if n % 2 == 0 {
                    // By its own key.
                    let own = Entry { author: id(by), ..entry.clone() };
                    entry.signature = signature(&own).try_into().unwrap_or_default();
                }
                entry
            }
            Evil::Flooder => status(by, wall + n, lasts),
            Evil::Replayer => match memory.any(network) {
                Some(entry) => entry,
                None => continue,
            },
        };
        lies.push((to, spread(vec![entry.clone()])));
        if evil == Evil::Flooder {
            // All to one, and a question that wants everything.
            lies.push((1, spread(vec![status(by, wall + 100 + n, lasts)])));
            let have =
                gtvp_protocol::gossip::Have { ask: true, salt: n, probes: 1, bits: Default::default() };
            lies.push((to, Frame { kind: HAVE, body: wire::encode(&have) }));
        }
    }
    lies
}
