//! Members' engines, the frames between them, and what time each of them thinks it is.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;

use gtvp_model::digest::Digest;
use gtvp_model::union::MemberId;
use gtvp_protocol::frame::Frame;
use gtvp_protocol::gossip::{Checked, Command, Context, Entry, Event, Gossip, Key, Kind, Times, content};

use crate::rng::Rng;

/// When a run begins, milliseconds since 1970.
pub const WALL: u64 = 1_795_000_000_000;

/// The member with this number: its id ends with it.
pub fn id(number: usize) -> MemberId {
    let number = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = Digest::of(&number).0;
    if let Some(end) = bytes.last_chunk_mut::<4>() {
        *end = number;
    }
    bytes.into()
}

/// Its number.
pub fn number(id: MemberId) -> usize {
    id.as_bytes().last_chunk::<4>().map_or(usize::MAX, |b| u32::from_be_bytes(*b) as usize)
}

/// A cheap signature: SHA-256 over the author and what is signed.
pub fn signature(entry: &Entry) -> Vec<u8> {
    let content = content([1; 32].into(), entry);
    Digest::of(&[entry.author.as_bytes().as_slice(), &content].concat()).0.to_vec()
}

/// Whether its author has signed it.
pub fn is_signed(entry: &Entry) -> bool {
    entry.signature.as_slice() == signature(entry)
}

/// A status as long as real ones, by this member.
pub fn status(of: usize, version: u64, lasts: u64) -> Entry {
    let mut entry = Entry {
        author: id(of),
        kind: Kind::Status,
        subject: id(of),
        version,
        expires: version.saturating_add(lasts),
        body: vec![7; 48].try_into().unwrap_or_default(),
        public: vec![8; 91].try_into().unwrap_or_default(),
        signature: Default::default(),
    };
    // Real ones have 64 bytes.
    entry.signature = signature(&entry).try_into().unwrap_or_default();
    entry
}

/// What happens to frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    /// Of 1,000 so many are lost.
    pub loss: u64,
    /// So many come twice.
    pub duplicates: u64,
    /// They take so long, ms, at least and at most, and overtake each other.
    pub delay: (u64, u64),
}

/// What comes to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A frame of this one's.
    Frame(usize, Frame),
    /// Its engine's time may have come.
    Tick,
    /// Something that the run does.
    Act(u64),
}

/// At a time, the how manieth, to whom.
#[derive(Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When, ms.
    pub at: u64,
    nth: u64,
    /// To whom.
    pub to: usize,
    /// What.
    pub what: What,
}

impl Ord for Arrival {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.nth).cmp(&(other.at, other.nth))
    }
}

impl PartialOrd for Arrival {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// One member.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its engine.
    pub gossip: Gossip,
    /// How far its clock is off, ms.
    pub skew: i64,
    /// Until then it does nothing; what comes waits.
    pub stalled: u64,
    rng: Rng,
}

/// What a member has done with what came.
pub enum Did {
    /// It sends this to this one.
    Sent(usize, Frame),
    /// It checked an entry that this one passed on.
    Looked(usize),
    /// It has this, which is new to it.
    Took(Entry),
}

/// See the module.
pub struct Network {
    /// The members.
    pub nodes: Vec<Node>,
    /// Who they are.
    pub members: Arc<BTreeSet<MemberId>>,
    /// Their times.
    pub times: Times,
    /// Now, ms.
    pub now: u64,
    /// What the network does.
    pub faults: Faults,
    /// Chance of the run.
    pub rng: Rng,
    queue: BinaryHeap<Reverse<Arrival>>,
    nth: u64,
}

impl Network {
    /// Members with these engines, to whom nobody has told the union yet.
    pub fn new(engines: Vec<Gossip>, members: Arc<BTreeSet<MemberId>>, faults: Faults, mut rng: Rng) -> Self {
        let node = |gossip| Node { gossip, skew: 0, stalled: 0, rng: rng.fork() };
        let nodes = engines.into_iter().map(node).collect();
        Self {
            nodes,
            members,
            times: Times::of(30_000),
            now: 0,
            faults,
            rng,
            queue: BinaryHeap::new(),
            nth: 0,
        }
    }

    /// What time a member thinks it is.
    pub fn wall(&self, of: usize) -> u64 {
        (WALL + self.now).saturating_add_signed(self.nodes[of].skew)
    }

    /// Has something come to a member.
    pub fn arrives(&mut self, at: u64, to: usize, what: What) {
        self.nth += 1;
        self.queue.push(Reverse(Arrival { at, nth: self.nth, to, what }));
    }

    /// The next thing before `end`. What comes to one who is stalled waits for it.
    pub fn next(&mut self, end: u64) -> Option<Arrival> {
        loop {
            if self.queue.peek().is_none_or(|Reverse(a)| a.at > end) {
                return None;
            }
            let Reverse(arrival) = self.queue.pop()?;
            let stalled = self.nodes[arrival.to].stalled;
            if stalled > arrival.at && !matches!(arrival.what, What::Act(_)) {
                self.arrives(stalled, arrival.to, arrival.what);
                continue;
            }
            self.now = arrival.at;
            return Some(arrival);
        }
    }

    /// A frame goes on its way, or is lost.
    pub fn carry(&mut self, from: usize, to: usize, frame: Frame) {
        let Faults { loss, duplicates, delay } = self.faults;
        if self.rng.permille(loss) {
            return;
        }
        if duplicates > 0 && self.rng.permille(duplicates) {
            let at = self.now + self.rng.between(delay.0, delay.1);
            self.arrives(at, to, What::Frame(from, frame.clone()));
        }
        let at = self.now + self.rng.between(delay.0, delay.1);
        self.arrives(at, to, What::Frame(from, frame));
    }

    /// Tells a member the union.
    pub fn union(&mut self, of: usize) -> Vec<Did> {
        self.event(of, Event::Union(id(of), self.members.clone(), self.times))
    }

    /// Gives an event to a member's engine, with all that follows at once; tells what it did.
    pub fn event(&mut self, of: usize, event: Event) -> Vec<Did> {
        let before = self.nodes[of].gossip.deadline();
        let mut did = Vec::new();
        let put = match &event {
            Event::Put(entry, _) => Some(entry.key()),
            _ => None,
        };
        let commands = self.on(of, event);
        if let Some(taken) = put.and_then(|key| self.nodes[of].gossip.newest(&key).cloned()) {
            did.push(Did::Took(taken));
        }
        for command in commands {
            match command {
                Command::Send(to, frame) => did.push(Did::Sent(number(to), frame)),
                Command::Malformed(_) => {}
                Command::Check(ticket, from, entry) => {
                    let what = if is_signed(&entry) { Checked::Good } else { Checked::Forged };
                    let key: Key = entry.key();
                    let had = self.nodes[of].gossip.newest(&key).cloned();
                    did.push(Did::Looked(number(from)));
                    for next in self.on(of, Event::Checked(ticket, what)) {
                        if let Command::Send(to, frame) = next {
                            did.push(Did::Sent(number(to), frame));
                        }
                    }
                    let has = self.nodes[of].gossip.newest(&key).cloned();
                    did.extend(has.filter(|has| had.as_ref() != Some(has)).map(Did::Took));
                }
            }
        }
        let due = self.nodes[of].gossip.deadline();
        if let Some(at) = due.filter(|_| due != before) {
            self.arrives(at, of, What::Tick);
        }
        did
    }

    fn on(&mut self, of: usize, event: Event) -> Vec<Command> {
        let (wall, ms) = (self.wall(of), self.now);
        let Node { gossip, rng, .. } = &mut self.nodes[of];
        gossip.on(event, &mut Context { wall, ms, chance: &mut || rng.bits() })
    }
}
