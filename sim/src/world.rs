//! Members, the network between them, and time: one event after the other, in an order that the seed decides.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use gtvp_model::digest::Digest;
use gtvp_model::union::{MemberId, RecordHead, UnionSettings, UnixTime};
use gtvp_protocol::csp::node::{Command, Context, Event, NoVote, Node, Proposal};
use gtvp_protocol::csp::page::{self, Committed};
use gtvp_protocol::csp::{Act, CoSigned, Entry, Head, Offer, Record, SignedEntry};
use gtvp_protocol::frame::{Frame, wire};
use gtvp_protocol::hsp::Millis;
use sha2::{Digest as _, Sha256};

use crate::config::{Bug, Config, Faults, Story};
use crate::invariant::{Invariants, Seen, Violation};
use crate::keys::{Cheap, Keys, admission, token};
use crate::member::{Life, Member, promise_bytes};
use crate::rng::Rng;

/// Seconds since 1970 when a run begins.
pub const WALL: u64 = 1_750_000_000;
/// Members that a run may come to have.
pub(crate) const MOST: usize = 9;
/// After the last fault so long, ms, until all members must have the same record: detection of lost channels, elections, blame.
const SETTLE: u64 = 90_000;
/// A proposal then has so long, ms.
const LAST: u64 = 30_000;

/// What happens next.
pub(crate) enum What {
    Start(usize),
    Deliver { from: usize, to: usize, connection: u64, frame: Frame },
    Persisted(usize, u32, bool),
    Begin(usize, u32, Op),
    End(usize, u32, Done),
    Timer(usize, u32),
    Connect(usize, usize),
    Notice { at: usize, peer: usize, connection: u64 },
    Fault,
    Mend(Mend),
    Work,
    Join(usize, usize),
    Hsp(crate::hsp::What),
}

pub(crate) enum Mend {
    Links,
    Disk(usize),
}

/// What `security` is asked.
pub(crate) enum Op {
    Vote(SignedEntry),
    Refresh,
    Take(usize, Offer),
    Read(usize, u64),
}

/// What `security` has done, once its disk has it.
pub(crate) struct Done {
    events: Vec<Event>,
    seen: Option<Seen>,
    promise: bool,
    promise_number: u64,
    record: bool,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What must not be, if it was.
    pub violation: Option<Violation>,
    /// SHA-256 over all that happened, in order.
    pub trace: Digest,
    /// Simulated time, ms.
    pub ms: u64,
    /// Events.
    pub events: u64,
    /// Entries of the longest record.
    pub entries: u64,
    /// What people were told, by kind, how often.
    pub told: BTreeMap<&'static str, u64>,
    /// What became of proposals, how often.
    pub proposals: BTreeMap<&'static str, u64>,
    /// What there was of HSP, how often.
    pub hsp: BTreeMap<&'static str, u64>,
}

/// See the module.
pub struct World {
    pub(crate) config: Config,
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    sequence: u64,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    whats: BTreeMap<usize, What>,
    pub(crate) members: Vec<Member>,
    pub(crate) ids: BTreeMap<MemberId, usize>,
    pub(crate) faults: Faults,
    /// Pairs that hear nothing of each other.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    pub(crate) connections: u64,
    pub(crate) connecting: BTreeSet<(usize, usize)>,
    invariants: Invariants,
    violation: Option<Violation>,
    trace: Sha256,
    events: u64,
    pub(crate) tickets: u64,
    pub(crate) tokens: u64,
    told: BTreeMap<&'static str, u64>,
    proposals: BTreeMap<&'static str, u64>,
    last: Option<(u64, String)>,
    /// The voter whose disk goes back, and an older state of it.
    pub(crate) rolled: Option<usize>,
    pub(crate) old_disk: Option<crate::disk::Disk>,
    /// Who lies, and what it says in place of what.
    pub(crate) liar: Option<usize>,
    pub(crate) instead: BTreeMap<Digest, SignedEntry>,
    pub(crate) working: bool,
    pub(crate) joining: Option<(usize, u64)>,
    pub(crate) hsp: crate::hsp::State,
}

/// The run of a configuration, from beginning to end or to the first violation.
pub fn run(config: &Config) -> Outcome {
    let mut world = World::new(config.clone());
    world.play();
    let entries =
        world.members.iter().filter_map(|m| m.alive.as_ref()).map(|l| l.at().number).max().unwrap_or(0);
    Outcome {
        violation: world.violation,
        trace: Digest(world.trace.finalize().into()),
        ms: world.now,
        events: world.events,
        entries,
        told: world.told,
        proposals: world.proposals,
        hsp: world.hsp.counts,
    }
}

/// Quotes of a union in which nothing happens and each appraises each.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quiet {
    /// All members' together, in a period, on average.
    pub quotes: f64,
    /// Challenges that were answered and believed, in a period.
    pub believed: f64,
    /// Channels, counted at both ends.
    pub channels: usize,
}

/// So many members for so many periods, after all have channels. `None`: they do not come to have them.
pub fn quiet(members: usize, periods: u64, seed: u64) -> Option<Quiet> {
    let mut config = Config::of(seed, Story::Union);
    config.members = members;
    let mut world = World::new(config);
    for m in 0..members {
        world.after(m as u64, What::Start(m));
    }
    let all = members * (members - 1);
    let channels = |world: &World| world.members.iter().map(|m| m.channels.len()).sum::<usize>();
    while channels(&world) < all {
        world.until(world.now + 1_000);
        if world.now > 300_000 || world.violation.is_some() {
            return None;
        }
    }
    let period = u64::from(crate::hsp::PERIOD);
    // What began with each channel falls into step.
    world.until(world.now + 20 * period);
    let counts = |world: &World| ["quotes", "renewed"].map(|n| world.hsp.counts.get(n).copied().unwrap_or(0));
    let before = counts(&world);
    world.until(world.now + periods * period);
    let [quotes, believed] = counts(&world);
    if world.violation.is_some() {
        return None;
    }
    let mean = |n: u64, before: u64| (n - before) as f64 / periods as f64;
    Some(Quiet {
        quotes: mean(quotes, before[0]),
        believed: mean(believed, before[1]),
        channels: channels(&world),
    })
}

impl World {
    fn new(config: Config) -> Self {
        let keys: Vec<Keys> = (0..config.members).map(Keys::of).collect();
        let (journal, head) = beginning(&keys);
        let mut members: Vec<Member> = keys.into_iter().map(|k| Member::new(k, &journal, &head)).collect();
        if config.story == Story::Union {
            // Servers without a union, which are to join or must not.
            let all = config.members + crate::hsp::JOINERS + crate::hsp::ROGUES;
            members.extend((config.members..all).map(|n| Member::outside(Keys::of(n))));
        }
        let ids = members.iter().enumerate().map(|(i, m)| (m.id(), i)).collect();
        let invariants = match config.story {
            _ if config.rolls_back => Invariants::safety(WALL, config.faults.skew),
            Story::Honest | Story::Union => Invariants::all(WALL, config.faults.skew),
            Story::Liar | Story::Traitor | Story::Rollback => Invariants::safety(WALL, config.faults.skew),
        };
        Self {
            rng: Rng::new(config.seed),
            now: 0,
            sequence: 0,
            queue: BinaryHeap::new(),
            whats: BTreeMap::new(),
            members,
            ids,
            faults: Faults::NONE,
            cut: BTreeSet::new(),
            connections: 0,
            connecting: BTreeSet::new(),
            invariants,
            violation: None,
            trace: Sha256::new(),
            events: 0,
            tickets: 0,
            tokens: 1000,
            told: BTreeMap::new(),
            proposals: BTreeMap::new(),
            last: None,
            rolled: None,
            old_disk: None,
            liar: None,
            instead: BTreeMap::new(),
            working: true,
            joining: None,
            hsp: crate::hsp::State::new(&config),
            config,
        }
    }

    fn play(&mut self) {
        for m in 0..self.members.len() {
            self.after(m as u64, What::Start(m));
        }
        self.after(100, What::Work);
        self.hsp_begin();
        // Until there are as many voters as there should be.
        self.until(10_000 + 4_000 * self.config.voters as u64);
        self.faults = self.config.faults.clone();
        self.after(0, What::Fault);
        if self.hsp.on {
            self.after(0, What::Hsp(crate::hsp::What::Mischief));
        }
        if matches!(self.config.story, Story::Liar | Story::Traitor) {
            self.liar = self.a_voter();
            if let Some(liar) = self.liar {
                self.members[liar].exempt = true;
            }
        }
        self.until(self.now + self.config.faulty_ms);
        self.mend();
        self.until(self.now + SETTLE);
        let failed = self.last_proposals();
        self.hsp_settled();
        let heads = self.union_heads();
        for m in 0..self.members.len() {
            let raft = self.members[m].alive.as_ref().map(|l| l.node.raft());
            let voters = self.members[m].alive.as_ref().map(|l| l.keeper.record().voters().len());
            self.note(m, || format!("{voters:?} voters, raft: {raft:?}"));
        }
        self.see(Seen::Settled { heads, failed });
    }

    /// Each member has an entry of its own go in. Gives the first that does not, and what became of it.
    fn last_proposals(&mut self) -> Option<(usize, String)> {
        if !matches!(self.config.story, Story::Honest | Story::Union) {
            return None;
        }
        let failed = self.in_union().into_iter().find_map(|m| {
            let outcome = self.last_proposal(m);
            (outcome != "taken").then_some((m, outcome))
        });
        // So that all have what is in.
        self.until(self.now + LAST);
        failed
    }

    fn last_proposal(&mut self, m: usize) -> String {
        let mut outcome = "no outcome".to_owned();
        for _ in 0..3 {
            self.tokens += 1;
            let Some(ticket) = self.propose(m, Act::TokenMade(token(self.tokens))) else { break };
            self.last = Some((ticket, "no outcome".into()));
            let end = self.now + LAST / 3;
            while self.now < end && self.last.as_ref().is_some_and(|(_, o)| o == "no outcome") {
                self.until(self.now + 100);
            }
            outcome = self.last.take().map(|(_, outcome)| outcome).unwrap_or_default();
            if outcome == "taken" {
                break;
            }
        }
        outcome
    }

    // Time.

    pub(crate) fn after(&mut self, ms: u64, what: What) {
        self.sequence += 1;
        let key = usize::try_from(self.sequence).unwrap_or(usize::MAX);
        self.queue.push(Reverse((self.now + ms, self.sequence, key)));
        self.whats.insert(key, what);
    }

    fn until(&mut self, end: u64) {
        let mut at_once = 0u32;
        while self.violation.is_none() {
            let Some(Reverse((at, _, _))) = self.queue.peek() else { break };
            if *at > end {
                break;
            }
            let Some(Reverse((at, _, key))) = self.queue.pop() else { break };
            let Some(what) = self.whats.remove(&key) else { continue };
            at_once = if at == self.now { at_once + 1 } else { 0 };
            if at_once > 200_000 {
                self.violate("time goes on", "a member never comes to rest".into());
            }
            self.now = at;
            self.events += 1;
            self.happen(what);
        }
        self.now = self.now.max(end);
    }

    pub(crate) fn violate(&mut self, invariant: &'static str, what: String) {
        let at = self.now;
        self.violation.get_or_insert(Violation { invariant, what, at });
    }

    fn see(&mut self, seen: Seen) {
        if self.violation.is_none() {
            self.violation = self.invariants.see(&seen, self.now).err();
        }
    }

    pub(crate) fn record(&mut self, kind: u8, member: usize, content: &[u8]) {
        self.trace.update([kind]);
        self.trace.update(self.now.to_be_bytes());
        self.trace.update((member as u64).to_be_bytes());
        self.trace.update(content);
    }

    /// A line for people, if they asked for it.
    pub(crate) fn note(&self, member: usize, what: impl FnOnce() -> String) {
        if self.config.verbose {
            println!("{:>9} m{member} {}", self.now, what());
        }
    }

    /// A member that stands still has it later.
    fn postponed(&mut self, member: usize, what: What) -> Option<What> {
        let now = self.now;
        match &self.members[member].alive {
            Some(life) if life.paused > now => {
                let wait = life.paused - now;
                self.after(wait, what);
                None
            }
            _ => Some(what),
        }
    }

    fn happen(&mut self, what: What) {
        let member = match &what {
            What::Deliver { to, .. } => Some(*to),
            What::Persisted(m, ..) | What::Begin(m, ..) | What::End(m, ..) | What::Timer(m, _) => Some(*m),
            What::Notice { at, .. } => Some(*at),
            What::Hsp(what) => self.hsp_member(what),
            _ => None,
        };
        let what = match member {
            Some(m) => match self.postponed(m, what) {
                Some(what) => what,
                None => return,
            },
            None => what,
        };
        match what {
            What::Start(m) => self.start(m),
            What::Deliver { from, to, connection, frame } => {
                let open = self.members[to].channels.get(&from).is_some_and(|(c, _)| *c == connection);
                if open && self.members[to].alive.is_some() {
                    self.record(frame.kind, to, &frame.body);
                    let id = self.members[from].id();
                    self.event(to, Event::Frame(id, frame));
                }
            }
            What::Persisted(m, life, good) => self.in_life(m, life, |w| w.persisted(m, good)),
            What::Begin(m, life, op) => self.in_life(m, life, |w| w.begin(m, op)),
            What::End(m, life, done) => self.in_life(m, life, |w| w.end(m, done)),
            What::Timer(m, life) => self.in_life(m, life, |w| {
                if let Some(life) = &mut w.members[m].alive {
                    life.timer = None;
                }
                w.event(m, Event::Tick);
            }),
            What::Connect(a, b) => self.connect(a, b),
            What::Notice { at, peer, connection } => {
                if self.members[at].channels.get(&peer).is_some_and(|(c, _)| *c == connection) {
                    self.members[at].channels.remove(&peer);
                    if self.members[at].alive.is_some() {
                        let id = self.members[peer].id();
                        self.event(at, Event::Down(id));
                    }
                    self.review(at, peer);
                }
            }
            What::Fault => self.fault(),
            What::Mend(mend) => match mend {
                Mend::Links => {
                    self.cut.clear();
                    self.review_all();
                }
                Mend::Disk(m) => self.go_back(m),
            },
            What::Work => self.work(),
            What::Join(new, by) => self.join(new, by),
            What::Hsp(what) => self.hsp_happen(what),
        }
    }

    fn in_life(&mut self, m: usize, life: u32, f: impl FnOnce(&mut Self)) {
        if self.members[m].life == life && self.members[m].alive.is_some() {
            f(self);
        }
    }

    // Members.

    pub(crate) fn start(&mut self, m: usize) {
        if self.members[m].alive.is_some() || self.hsp.on && self.members[m].disk.record.read().is_empty() {
            return;
        }
        let loaded = self.members[m].load();
        let (keeper, head, journal) = match loaded {
            Ok(loaded) => loaded,
            Err(why) => return self.violate("a record is found again", format!("m{m}: {why}")),
        };
        let seed = self.rng.bits();
        let member = &mut self.members[m];
        member.life += 1;
        let ctx = Context { now: Millis(0), wall: wall(self.now, member.skew) };
        let node = match Node::new(member.id(), member.disk.raft.read(), seed, ctx) {
            Ok(node) => node,
            Err(why) => return self.violate("a record is found again", format!("m{m}: raft: {why}")),
        };
        let life = Life {
            node,
            keeper,
            head,
            journal,
            todo: Default::default(),
            persisting: false,
            born: self.now,
            security_free: self.now,
            timer: None,
            paused: 0,
        };
        let at = life.at();
        let promised = life.keeper.promised().map_or(0, |p| p.number);
        let state = life.state();
        member.alive = Some(life);
        self.record(200, m, &at.hash.0);
        self.note(m, || format!("starts with entry {}", at.number));
        if !self.members[m].exempt {
            self.see(Seen::Loaded { member: m, head: at, promised });
        }
        self.event(m, Event::Union(state));
        self.review_of(m);
    }

    pub(crate) fn crash(&mut self, m: usize) {
        if self.members[m].alive.take().is_none() {
            return;
        }
        self.record(201, m, &[]);
        self.note(m, || "power is gone".into());
        let mut rng = self.rng.fork();
        self.members[m].disk.crash(&mut rng);
        self.members[m].tickets.clear();
        self.hsp_crash(m);
        let peers = std::mem::take(&mut self.members[m].channels);
        for (peer, (connection, _)) in peers {
            if self.hsp.on {
                continue;
            }
            let wait = self.rng.between(0, 2000);
            self.after(wait, What::Notice { at: peer, peer: m, connection });
        }
    }

    pub(crate) fn ctx(&self, m: usize) -> Context {
        let born = self.members[m].alive.as_ref().map_or(0, |l| l.born);
        Context { now: Millis(self.now - born), wall: wall(self.now, self.members[m].skew) }
    }

    pub(crate) fn event(&mut self, m: usize, event: Event) {
        let ctx = self.ctx(m);
        let Some(life) = &mut self.members[m].alive else { return };
        let commands = life.node.on(event, ctx);
        life.todo.extend(commands);
        self.pump(m);
        self.set_timer(m);
    }

    fn set_timer(&mut self, m: usize) {
        let now = self.now;
        let member = &mut self.members[m];
        let (life_number, Some(life)) = (member.life, &mut member.alive) else { return };
        if life.node.deadline().is_some_and(|d| life.born + d.0 <= now) {
            return self.violate(
                "a node rests until something happens",
                format!("m{m} wants to be woken in the past"),
            );
        }
        let Some(at) = life.node.deadline().map(|d| (life.born + d.0).max(now + 1)) else { return };
        if life.timer.is_none_or(|t| t > at) {
            life.timer = Some(at);
            self.after(at - now, What::Timer(m, life_number));
        }
    }

    /// Carries commands out until one waits for the disk.
    fn pump(&mut self, m: usize) {
        loop {
            let life_number = self.members[m].life;
            let Some(life) = &mut self.members[m].alive else { return };
            if life.persisting {
                return;
            }
            let Some(command) = life.todo.pop_front() else { return };
            match command {
                Command::Send(to, frame) => {
                    if let Some(to) = self.ids.get(&to).copied() {
                        self.send(m, to, frame);
                    }
                }
                Command::Vote(entry) => self.ask(m, Op::Vote(entry)),
                Command::Refresh => self.ask(m, Op::Refresh),
                Command::Take(from, offer) => {
                    let from = self.ids.get(&from).copied().unwrap_or(m);
                    self.ask(m, Op::Take(from, offer));
                }
                Command::Read(to, from) => {
                    let to = self.ids.get(&to).copied().unwrap_or(m);
                    self.ask(m, Op::Read(to, from));
                }
                Command::Persist(bytes) => {
                    life.persisting = true;
                    self.members[m].disk.raft.write(bytes);
                    let good = !self.rng.permille(self.faults.bad_disk);
                    let wait = self.rng.between(1, 10);
                    self.after(wait, What::Persisted(m, life_number, good));
                }
                Command::Proposed(ticket, outcome) => self.proposed(m, ticket, &outcome),
                Command::Tell(kind, words) => {
                    self.record(202, m, words.as_bytes());
                    self.note(m, || format!("{kind}: {words}"));
                    *self.told.entry(kind).or_default() += 1;
                }
            }
        }
    }

    fn persisted(&mut self, m: usize, good: bool) {
        let bug = self.config.bug;
        if bug != Some(Bug::RaftNotSynced) && good {
            self.members[m].disk.raft.sync();
        }
        let Some(life) = &mut self.members[m].alive else { return };
        life.persisting = false;
        if !good && bug != Some(Bug::PersistFailureIgnored) {
            // What stands behind it in this batch, and in later ones, was made by a node that did not know.
            life.todo.retain(|c| {
                !matches!(c, Command::Send(_, f) if f.kind == 37) && !matches!(c, Command::Vote(_))
            });
            self.event(m, Event::NotPersisted("no space".into()));
            return;
        }
        self.pump(m);
    }

    fn proposed(&mut self, m: usize, ticket: u64, outcome: &Proposal) {
        let name = match outcome {
            Proposal::Taken => "taken",
            Proposal::Overtaken => "overtaken",
            Proposal::Refused(_) => "refused",
            Proposal::Unknown(_) => "unknown",
        };
        self.record(203, m, name.as_bytes());
        self.note(m, || format!("proposal {ticket}: {outcome:?}"));
        *self.proposals.entry(name).or_default() += 1;
        if let Some((_, last)) = self.last.as_mut().filter(|(t, _)| *t == ticket) {
            *last = name.into();
        }
        self.hsp_proposed(ticket, outcome);
        let at = self.members[m].tickets.remove(&ticket);
        if let (Some(at), Proposal::Taken, false) = (at, outcome, self.members[m].exempt) {
            self.see(Seen::Acknowledged { at });
        }
    }

    // `security`.

    fn ask(&mut self, m: usize, op: Op) {
        let wait = match &op {
            Op::Vote(_) | Op::Refresh => self.rng.between(2, 30),
            Op::Take(..) | Op::Read(..) => self.rng.between(1, 5),
        };
        let life_number = self.members[m].life;
        let Some(life) = &mut self.members[m].alive else { return };
        let at = life.security_free.max(self.now) + wait;
        // It does one thing after the other, the disk's time included.
        life.security_free = at + 12;
        let now = self.now;
        self.after(at - now, What::Begin(m, life_number, op));
    }

    fn begin(&mut self, m: usize, op: Op) {
        let wall = self.ctx(m).wall;
        let bug = self.config.bug;
        let exempt = self.members[m].exempt;
        let member = &mut self.members[m];
        let (life_number, Some(life)) = (member.life, &mut member.alive) else { return };
        let (mut seen, mut promise, mut record) = (None, false, false);
        let events = match op {
            Op::Vote(entry) => {
                let outcome = life.keeper.promise(&entry, wall, &Cheap);
                if let Ok(head) = &outcome {
                    member.disk.promise.write(promise_bytes(head.at));
                    promise = bug != Some(Bug::PromiseNotSynced);
                    seen = Some(Seen::Promised { voter: m, at: head.at });
                }
                let outcome = outcome.map(|h| (h, member.keys.vote(&h))).map_err(NoVote::from);
                vec![Event::Voted { entry: entry.hash(), outcome }]
            }
            Op::Refresh => {
                let outcome = life.keeper.refresh(wall).map_err(|e| e.to_string());
                vec![Event::Refreshed(outcome.map(|h| (h, member.keys.vote(&h))))]
            }
            Op::Take(from, offer) => {
                let from_id = Keys::of(from).id();
                match life.keeper.take(&offer, from_id, wall, &Cheap) {
                    Ok(new) => {
                        let taken = Committed::of(&offer);
                        member.disk.record.append(&page::join(&taken));
                        member.disk.head.write(wire::encode(&offer.head));
                        // The journal keeps the head by which an entry was taken: of one that changes who votes, those who vote
                        // after it do not speak.
                        life.journal.extend(taken);
                        life.head = offer.head.clone();
                        record = bug != Some(Bug::RecordNotSynced);
                        let end = offer.head.head.at;
                        let first = end.number + 1 - offer.entries.len() as u64;
                        let at = (first..)
                            .zip(&offer.entries)
                            .map(|(number, e)| RecordHead { number, hash: e.hash() });
                        let time = life.head.head.time;
                        seen = Some(Seen::Took { member: m, entries: at.collect(), head: life.at(), time });
                        vec![Event::Union(life.state()), Event::Taken { from: from_id, outcome: Ok(new) }]
                    }
                    Err(e) => vec![Event::Taken { from: from_id, outcome: Err(e.into()) }],
                }
            }
            Op::Read(to, from) => {
                let from = usize::try_from(from).unwrap_or(usize::MAX);
                let offer = life.journal.get(from..).and_then(page::offer);
                vec![Event::Read { to: Keys::of(to).id(), offer }]
            }
        };
        // Nobody hears of it before the disk has it.
        let promise_number = match &seen {
            Some(Seen::Promised { at, .. }) => at.number,
            _ => 0,
        };
        let done = Done { events, seen: seen.filter(|_| !exempt), promise, promise_number, record };
        let wait = self.rng.between(1, 12);
        self.after(wait, What::End(m, life_number, done));
    }

    fn end(&mut self, m: usize, done: Done) {
        if done.promise {
            self.members[m].disk.promise.sync();
            self.members[m].counter = self.members[m].counter.max(done.promise_number);
        }
        if done.record {
            self.members[m].disk.record.sync();
            self.members[m].disk.head.sync();
        }
        if let Some(seen) = done.seen {
            if let Seen::Took { entries, head, .. } = &seen {
                self.record(205, m, &head.hash.0);
                let acts = self.members[m].alive.as_ref().map(|l| {
                    let last = l.journal.iter().rev().take(entries.len());
                    let act = |c: &Committed| Entry::decode(c.entry.entry.as_slice()).map(|e| brief(&e.act));
                    last.map(|c| act(c).unwrap_or_default()).collect::<Vec<_>>()
                });
                self.note(m, || format!("takes up to {} ({} new) {acts:?}", head.number, entries.len()));
                self.who_joined(m, entries.len());
                self.hsp_took(m, entries.len());
            }
            self.see(seen);
        }
        done.events.into_iter().for_each(|e| self.event(m, e));
        if done.record {
            self.regrant(m);
        }
    }
}

fn brief(act: &Act) -> String {
    let text = format!("{act:?}");
    text.chars().take_while(|c| c.is_alphanumeric()).collect()
}

pub(crate) fn wall(now: u64, skew: i64) -> UnixTime {
    UnixTime((WALL + now / 1000).saturating_add_signed(skew))
}

/// A union of these members, of which the first founds and votes.
fn beginning(keys: &[Keys]) -> (Vec<Committed>, CoSigned) {
    let founder = keys.first().unwrap_or_else(|| unreachable!("a union has a founder"));
    let zero = [0; 32];
    let genesis = founder.signed(&Entry {
        union: zero.into(),
        number: 0,
        previous: Digest(zero),
        author: founder.id(),
        time: UnixTime(WALL),
        act: Act::Genesis {
            name: "sim".parse().unwrap_or_else(|_| unreachable!("a name")),
            founder: founder.entry.clone(),
            settings: UnionSettings::default(),
            random: [7; 32],
        },
    });
    let good = "what a founder writes first is good";
    let mut record = Record::begin(&genesis, &Cheap).unwrap_or_else(|e| unreachable!("{good}: {e}"));
    let mut entries = vec![genesis];
    for (i, joiner) in (0u64..).zip(keys).skip(1) {
        for act in [Act::TokenMade(token(i)), Act::Admitted(admission(joiner, i))] {
            let entry = founder.write(&record, UnixTime(WALL), act);
            record.apply(&entry, &Cheap).unwrap_or_else(|e| unreachable!("{good}: {e}"));
            entries.push(entry);
        }
    }
    let head = Head { union: record.view().union, at: record.view().head, time: UnixTime(WALL) };
    let votes = vec![founder.vote(&head)];
    let head = CoSigned { head, votes: votes.try_into().unwrap_or_default() };
    let last = entries.len() - 1;
    let journal =
        (0..).zip(entries).map(|(i, entry)| Committed { entry, head: (i == last).then(|| head.clone()) });
    (journal.collect(), head)
}
