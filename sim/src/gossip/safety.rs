//! A run of some dozen members with faults and, if wanted, a liar among them, held to the invariants.

use std::collections::BTreeSet;
use std::sync::Arc;

use gtvp_model::digest::Digest;
use gtvp_protocol::frame::{Frame, HEADER};
use gtvp_protocol::gossip::{Event, Gossip, SPREAD, Spread};

use super::evil::{Evil, Memory, lies};
use super::invariant::{Invariants, Seen};
use super::network::{Did, Faults, Network, What, id, number, status};
use crate::invariant::Violation;
use crate::rng::Rng;

/// After faults are over so many rounds pass before what is said must be everywhere.
const SETTLE: u64 = 20;
/// The liar's number.
const LIAR: usize = 0;

/// What a run is.
#[derive(Debug, Clone)]
pub struct Setup {
    /// All chance comes from it.
    pub seed: u64,
    /// Members at the beginning.
    pub members: usize,
    /// So long faults happen, ms.
    pub faulty_ms: u64,
    /// What the network does.
    pub faults: Faults,
    /// Of 1,000 pairs so many have no channel.
    pub without: u64,
    /// What the liar does.
    pub evil: Option<Evil>,
}

impl Setup {
    /// The run of a seed.
    pub fn of(seed: u64, evil: Option<Evil>) -> Self {
        let mut rng = Rng::new(seed.wrapping_mul(5).wrapping_add(evil.map_or(0, |e| e as u64 + 1)));
        let members = usize::try_from(rng.between(6, 40)).unwrap_or(6);
        let faults = Faults {
            loss: rng.pick(&[0, 20, 100, 300]).unwrap_or(0),
            duplicates: rng.pick(&[0, 20, 200]).unwrap_or(0),
            delay: rng.pick(&[(1, 3), (1, 50), (5, 4_000)]).unwrap_or((1, 3)),
        };
        let without = rng.pick(&[0, 100, 500]).unwrap_or(0);
        Self { seed, members, faulty_ms: rng.between(200, 600) * 1_000, faults, without, evil }
    }
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What did not hold.
    pub violation: Option<Violation>,
    /// Frames that members sent.
    pub frames: u64,
    /// Entries that members took.
    pub taken: u64,
    /// Over all that happened: two runs with the same are the same.
    pub trace: Digest,
}

struct Run {
    network: Network,
    invariants: Invariants,
    channels: Vec<BTreeSet<usize>>,
    groups: Vec<u8>,
    evil: Option<Evil>,
    memory: Memory,
    newest: Vec<u64>,
    left: Option<usize>,
    outcome: Outcome,
    settled: bool,
    /// Faults happen until then.
    end: u64,
}

/// What a run does by itself.
#[repr(u64)]
enum Act {
    Say,
    Lie,
    Fault,
    Leave,
    Calm,
}

/// Runs it.
pub fn safety(setup: &Setup) -> Outcome {
    let mut rng = Rng::new(setup.seed);
    let members: BTreeSet<_> = (0..setup.members).map(id).collect();
    let mut channels = vec![BTreeSet::new(); setup.members];
    for a in 0..setup.members {
        for b in a + 1..setup.members {
            // Around the ring there always is one.
            let ring = b == a + 1 || (a == 0 && b == setup.members - 1);
            if ring || !rng.permille(setup.without) {
                channels[a].insert(b);
                channels[b].insert(a);
            }
        }
    }
    let engines = vec![Gossip::default(); setup.members];
    let mut network = Network::new(engines, Arc::new(members), setup.faults, rng);
    for node in &mut network.nodes {
        node.skew = i64::try_from(network.rng.between(0, 4_000)).unwrap_or(0) - 2_000;
    }
    let mut run = Run {
        invariants: Invariants::all(network.times, setup.members),
        groups: vec![0; setup.members],
        newest: vec![0; setup.members],
        channels,
        evil: setup.evil,
        memory: Memory::default(),
        left: None,
        outcome: Outcome { violation: None, frames: 0, taken: 0, trace: Digest([0; 32]) },
        settled: false,
        end: setup.faulty_ms,
        network,
    };
    let found = run.run();
    run.outcome.violation = found.err();
    run.outcome
}

impl Run {
    fn run(&mut self) -> Result<(), Violation> {
        let members = self.network.nodes.len();
        self.see(&Seen::Members(&self.network.members.clone()))?;
        for of in 0..members {
            self.begin(of)?;
            let at = self.network.rng.between(0, 20_000);
            self.act(at, of, Act::Say);
        }
        if self.evil.is_some() {
            self.act(1_000, LIAR, Act::Lie);
        }
        self.act(5_000, 1, Act::Fault);
        self.act(self.end / 2, members - 1, Act::Leave);
        self.act(self.end, 1, Act::Calm);
        let end = self.end + SETTLE * self.network.times.round;
        while let Some(arrival) = self.network.next(end) {
            self.note(arrival.at, arrival.to, &arrival.what);
            match arrival.what {
                What::Frame(from, frame) => self.event(arrival.to, Event::Frame(id(from), frame))?,
                What::Tick => {
                    if self.network.nodes[arrival.to].gossip.deadline().is_some_and(|at| at <= arrival.at) {
                        self.see(&Seen::Round(arrival.to))?;
                    }
                    self.event(arrival.to, Event::Tick)?;
                }
                What::Act(act) => self.acts(arrival.to, act)?,
            }
        }
        self.settle()
    }

    fn act(&mut self, after: u64, who: usize, act: Act) {
        let at = self.network.now + after;
        self.network.arrives(at, who, What::Act(act as u64));
    }

    fn note(&mut self, at: u64, to: usize, what: &What) {
        let frame = match what {
            What::Frame(from, frame) => [&from.to_be_bytes()[..], &[frame.kind], &frame.body].concat(),
            What::Tick => vec![1],
            What::Act(n) => vec![2, u8::try_from(*n).unwrap_or(0)],
        };
        let line = [&self.outcome.trace.0[..], &at.to_be_bytes(), &to.to_be_bytes(), &frame].concat();
        self.outcome.trace = Digest::of(&line);
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), Violation> {
        self.invariants.see(seen, self.network.now)
    }

    fn lies(&self, who: usize) -> bool {
        self.evil.is_some() && who == LIAR || self.left == Some(who)
    }

    /// A member starts with nothing, and its channels come up.
    fn begin(&mut self, of: usize) -> Result<(), Violation> {
        self.network.nodes[of].gossip = Gossip::default();
        self.see(&Seen::Restarted(of))?;
        for did in self.network.union(of) {
            self.did(of, did)?;
        }
        for other in self.channels[of].clone() {
            if self.left != Some(other) {
                self.event(of, Event::Up(id(other)))?;
            }
        }
        Ok(())
    }

    fn event(&mut self, of: usize, event: Event) -> Result<(), Violation> {
        let dids = self.network.event(of, event);
        dids.into_iter().try_for_each(|did| self.did(of, did))
    }

    fn did(&mut self, by: usize, did: Did) -> Result<(), Violation> {
        let wall = self.network.wall(by);
        match did {
            Did::Sent(to, frame) => {
                self.outcome.frames += 1;
                let entries = match frame.kind {
                    SPREAD => Spread::decode(&frame).map(|s| s.entries.as_slice().to_vec()),
                    _ => Ok(Vec::new()),
                };
                let (bytes, entries) = (frame.body.len() + HEADER, entries.unwrap_or_default());
                if !self.lies(by) {
                    self.see(&Seen::Sent { by, to, bytes, entries: &entries, wall })?;
                }
                self.carry(by, to, frame);
            }
            Did::Looked(from) if !self.lies(by) => self.see(&Seen::Looked { by, from })?,
            Did::Looked(..) => {}
            Did::Took(entry) => {
                self.outcome.taken += 1;
                if self.lies(by) {
                    self.memory.keep(entry);
                } else {
                    self.see(&Seen::Took { by, entry: &entry, wall })?;
                }
            }
        }
        Ok(())
    }

    fn carry(&mut self, from: usize, to: usize, frame: Frame) {
        if self.channels[from].contains(&to) && self.groups[from] == self.groups[to] {
            self.network.carry(from, to, frame);
        }
    }

    fn acts(&mut self, who: usize, act: u64) -> Result<(), Violation> {
        let period = self.network.times.period;
        if act == Act::Say as u64 {
            if self.settled || self.left == Some(who) {
                return Ok(());
            }
            let lasts = self.network.rng.between(period, self.network.times.status());
            self.say(who, lasts)?;
            let after = self.network.rng.between(period / 2, period * 4);
            self.act(after, who, Act::Say);
        } else if act == Act::Lie as u64 {
            if let Some(evil) = self.evil {
                for (to, frame) in lies(&mut self.network, evil, who, &self.memory) {
                    self.carry(who, to, frame);
                }
                self.act(500, who, Act::Lie);
            }
        } else if act == Act::Fault as u64 {
            if !self.settled {
                self.fault()?;
                let after = self.network.rng.between(1_000, 30_000);
                self.act(after, 1, Act::Fault);
            }
        } else if act == Act::Leave as u64 {
            self.leave(who)?;
        } else {
            self.settled = true;
            self.groups.fill(0);
            self.network.faults = Faults { loss: 0, duplicates: 0, delay: (1, 50) };
            for of in 0..self.network.nodes.len() {
                self.network.nodes[of].stalled = 0;
                if self.left != Some(of) && !self.lies(of) {
                    self.say(of, self.network.times.status())?;
                }
            }
        }
        Ok(())
    }

    fn say(&mut self, who: usize, lasts: u64) -> Result<(), Violation> {
        let version = self.network.wall(who).max(self.newest[who] + 1);
        self.newest[who] = version;
        self.event(who, Event::Put(Box::new(status(who, version, lasts)), true))
    }

    fn fault(&mut self) -> Result<(), Violation> {
        let members = self.network.nodes.len();
        let whom = usize::try_from(self.network.rng.bits() % members as u64).unwrap_or(0);
        match self.network.rng.between(0, 3) {
            0 => {
                let until = self.network.now + self.network.rng.between(1_000, 120_000);
                self.network.nodes[whom].stalled = until.min(self.end);
                Ok(())
            }
            1 => {
                for group in &mut self.groups {
                    *group = u8::from(self.network.rng.permille(500));
                }
                Ok(())
            }
            2 => {
                self.groups.fill(0);
                Ok(())
            }
            _ if self.left == Some(whom) => Ok(()),
            _ => self.begin(whom),
        }
    }

    fn leave(&mut self, who: usize) -> Result<(), Violation> {
        self.left = Some(who);
        let mut members = (*self.network.members).clone();
        members.remove(&id(who));
        self.network.members = Arc::new(members);
        for of in (0..self.network.nodes.len()).filter(|of| *of != who) {
            self.event(of, Event::Down(id(who)))?;
            let told = self.network.union(of);
            told.into_iter().try_for_each(|did| self.did(of, did))?;
        }
        self.see(&Seen::Members(&self.network.members.clone()))
    }

    fn settle(&mut self) -> Result<(), Violation> {
        let honest: Vec<usize> =
            (0..self.network.nodes.len()).filter(|n| !self.lies(*n) && self.left != Some(*n)).collect();
        let has = |of: usize, author: usize| {
            let entries = self.network.nodes[of].gossip.entries();
            entries.filter(|e| number(e.author) == author).map(|e| e.version).max()
        };
        let all: Vec<_> = honest
            .iter()
            .map(|a| (*a, self.newest[*a], honest.iter().map(|of| (*of, has(*of, *a))).collect()))
            .collect();
        self.see(&Seen::Settled { all: &all })
    }
}
