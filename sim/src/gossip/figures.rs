//! What is published: how many rounds a change takes to be everywhere, and what links carry.

use std::collections::BTreeSet;
use std::sync::Arc;

use gtvp_model::union::MemberId;
use gtvp_protocol::frame::HEADER;
use gtvp_protocol::gossip::{Event, Gossip, LINK_ROUND, Times};

use super::network::{Did, Faults, Network, WALL, What, id, number, status};
use crate::rng::Rng;

/// Members that have channels and no union yet: made once, used by each seed.
pub struct Template {
    engines: Vec<Gossip>,
    members: Arc<BTreeSet<MemberId>>,
}

impl Template {
    /// So many members, each with channels to all, or to so many by chance.
    pub fn new(members: usize, channels: Option<usize>) -> Self {
        let mut rng = Rng::new(members as u64);
        let mut with: Vec<BTreeSet<MemberId>> = vec![BTreeSet::new(); members];
        for of in 0..members {
            // A channel is both ways, and everybody can be reached along the ring.
            let some: Vec<usize> = match channels {
                None => (of + 1..members).collect(),
                Some(count) => {
                    let any = (1..count.div_ceil(2))
                        .map(|_| usize::try_from(rng.bits() % members as u64).unwrap_or(0));
                    any.chain([(of + 1) % members]).filter(|to| *to != of).collect()
                }
            };
            for to in some {
                with[of].insert(id(to));
                with[to].insert(id(of));
            }
        }
        let engine = |with: BTreeSet<MemberId>| {
            let mut gossip = Gossip::default();
            let mut ctx = gtvp_protocol::gossip::Context { wall: WALL, ms: 0, chance: &mut || 0 };
            for other in with {
                gossip.on(Event::Up(other), &mut ctx);
            }
            gossip
        };
        let engines = with.into_iter().map(engine).collect();
        Self { engines, members: Arc::new((0..members).map(id).collect()) }
    }

    fn network(&self, seed: u64, loss: u64) -> Network {
        let faults = Faults { loss, duplicates: loss / 2, delay: (1, 50) };
        let mut network = Network::new(self.engines.clone(), self.members.clone(), faults, Rng::new(seed));
        for of in 0..self.engines.len() {
            network.union(of);
        }
        network
    }

    /// One member says something new; runs until it is everywhere. Of 1,000 frames `loss` are lost, half as many come twice.
    pub fn spread(&self, seed: u64, loss: u64) -> Spread {
        let mut network = self.network(seed, loss);
        let (members, round) = (self.engines.len(), network.times.round);
        let author = usize::try_from(network.rng.bits() % members as u64).unwrap_or(0);
        // Everybody is in its own rhythm by then.
        let begins = round;
        network.arrives(begins, author, What::Act(0));
        let key = status(author, 1, 1).key();
        let (mut has, mut bytes, mut at) = (0usize, 0u64, begins);
        let most = begins + round * 100;
        while has < members {
            let Some(arrival) = network.next(most) else { break };
            let to = arrival.to;
            let event = match arrival.what {
                What::Frame(from, frame) => Event::Frame(id(from), frame),
                What::Tick => Event::Tick,
                What::Act(_) => {
                    let lasts = network.times.status();
                    Event::Put(Box::new(status(author, network.wall(author), lasts)), true)
                }
            };
            for did in network.event(to, event) {
                match did {
                    Did::Sent(other, frame) => {
                        if network.now >= begins {
                            bytes += (frame.body.len() + HEADER) as u64;
                        }
                        network.carry(to, other, frame);
                    }
                    Did::Took(entry) if entry.key() == key => {
                        has += 1;
                        at = network.now;
                    }
                    Did::Took(_) | Did::Looked(..) => {}
                }
            }
        }
        let rounds = (at - begins).div_ceil(round);
        Spread { everywhere: has == members, rounds, bytes: bytes / members as u64 }
    }
}

/// How a change spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// Whether it was everywhere at last.
    pub everywhere: bool,
    /// In how many rounds, begun ones counted whole.
    pub rounds: u64,
    /// Bytes that a member sent meanwhile, on average.
    pub bytes: u64,
}

/// The rounds that a change may take among so many members: log2 of them, and six.
pub fn rounds_allowed(members: usize) -> f64 {
    (members as f64).log2() + 6.0
}

/// What links carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy {
    /// The most that one link carried one way in one round of its sender's, bytes.
    pub link_most: u64,
    /// What a member sent in a round, on average, bytes.
    pub member_mean: u64,
    /// What a link carried one way in a round, on average, bytes.
    pub link_mean: u64,
    /// Statuses that a member lacks or has in an old version, of 1,000, at the end of a round, on average.
    pub stale: u64,
}

/// All members say how they are, once at the beginning and then again with a chance of `changes` of 1,000 in a period; for so many rounds,
/// of which the first half is not counted.
pub fn busy(template: &Template, seed: u64, rounds: u64, changes: u64, loss: u64) -> Busy {
    let mut network = template.network(seed, loss);
    let members = template.engines.len();
    let Times { period, round } = network.times;
    for of in 0..members {
        let at = network.rng.between(0, round);
        network.arrives(at, of, What::Act(0));
    }
    let (begins, end) = (round * (rounds / 2), round * rounds);
    let mut newest = vec![0u64; members];
    let mut links = vec![0u64; members * members];
    let mut busy = Busy { link_most: 0, member_mean: 0, link_mean: 0, stale: 0 };
    let (mut bytes, mut stale, mut looks) = (0u64, 0u64, 0u64);
    let mut look = begins;
    while let Some(arrival) = network.next(end) {
        let to = arrival.to;
        if network.now >= look {
            look += round;
            looks += 1;
            for node in &network.nodes {
                let old = |e: &gtvp_protocol::gossip::Entry| e.version < newest[number(e.author)];
                let has = node.gossip.entries().count();
                stale += (members - has + node.gossip.entries().filter(|e| old(e)).count()) as u64;
            }
        }
        let event = match arrival.what {
            What::Frame(from, frame) => Event::Frame(id(from), frame),
            What::Tick => {
                links[to * members..(to + 1) * members].fill(0);
                Event::Tick
            }
            What::Act(_) => {
                network.arrives(network.now + period, to, What::Act(0));
                let wall = network.wall(to);
                // Before it ends it is said again, though nothing has changed.
                if !network.rng.permille(changes) && wall - newest[to] < period * 9 {
                    continue;
                }
                newest[to] = wall;
                Event::Put(Box::new(status(to, wall, network.times.status())), true)
            }
        };
        for did in network.event(to, event) {
            if let Did::Sent(other, frame) = did {
                let size = (frame.body.len() + HEADER) as u64;
                let link = &mut links[to * members + other];
                *link += size;
                busy.link_most = busy.link_most.max(*link);
                if network.now >= begins {
                    bytes += size;
                }
                network.carry(to, other, frame);
            }
        }
    }
    debug_assert!(busy.link_most <= LINK_ROUND as u64);
    busy.member_mean = bytes / members as u64 / (rounds - rounds / 2);
    busy.link_mean = busy.member_mean / (members as u64 - 1);
    busy.stale = stale * 1_000 / (looks.max(1) * (members * members) as u64);
    busy
}
