//! Some members in one process: nodes with keepers behind them, and frames that go from one to the other. What time, faults and
//! hours do is the simulator's (`sim/`).

mod attacks;
mod spec;
mod story;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use gtvp_model::union::UnixTime;

use super::*;
use crate::csp::page::{self, Committed};
use crate::csp::testing::{Cheap, World};
use crate::csp::{Act, Keeper};

/// A member.
struct Member {
    name: &'static str,
    node: Node,
    keeper: Keeper,
    journal: Vec<Committed>,
    head: CoSigned,
    disk: Option<Vec<u8>>,
    outcomes: BTreeMap<u64, Proposal>,
    told: Vec<(&'static str, String)>,
}

/// Members, and what is on its way between them.
struct Union {
    world: World,
    members: BTreeMap<&'static str, Member>,
    now: Millis,
    wire: VecDeque<(&'static str, &'static str, Frame)>,
    cut: BTreeSet<(&'static str, &'static str)>,
    tickets: u64,
}

const WALL: u64 = 1_000_000;

impl Union {
    fn of(names: &[&'static str]) -> Self {
        let world = World::begin(names);
        let mut union = Self {
            world,
            members: BTreeMap::new(),
            now: Millis(0),
            wire: VecDeque::new(),
            cut: BTreeSet::new(),
            tickets: 0,
        };
        names.iter().for_each(|n| union.start(n));
        union.run(2_000);
        union
    }

    fn ctx(&self) -> Context {
        Context { now: self.now, wall: UnixTime(WALL + self.now.0 / 1000) }
    }

    /// A member that begins with the world's record, or goes on with what it had.
    fn start(&mut self, name: &'static str) {
        let ctx = self.ctx();
        let id = self.world.id(name);
        let seed = u64::from(name.as_bytes()[0]) << 32 | self.now.0;
        let member = match self.members.remove(name) {
            Some(m) => {
                let keeper = Keeper::new(id, m.keeper.record().clone(), m.keeper.promised());
                let node = Node::new(id, m.disk.as_deref(), seed, ctx).unwrap();
                Member { node, keeper, outcomes: BTreeMap::new(), ..m }
            }
            None => {
                let head = self.world.co_sign_at(self.world.record().view().head, UnixTime(WALL));
                let keeper = Keeper::new(id, self.world.record_at(UnixTime(WALL)), None);
                let mut journal: Vec<Committed> =
                    self.world.entries().iter().map(|e| Committed { entry: e.clone(), head: None }).collect();
                journal.last_mut().unwrap().head = Some(head.clone());
                Member {
                    name,
                    node: Node::new(id, None, seed, ctx).unwrap(),
                    keeper,
                    journal,
                    head,
                    disk: None,
                    outcomes: BTreeMap::new(),
                    told: Vec::new(),
                }
            }
        };
        let state = member.state();
        self.members.insert(name, member);
        self.event(name, Event::Union(state));
        let others: Vec<&'static str> = self.members.keys().copied().filter(|n| *n != name).collect();
        for other in others {
            self.connect(name, other);
        }
    }

    fn connect(&mut self, a: &'static str, b: &'static str) {
        if self.cut.contains(&(a, b)) {
            return;
        }
        let (ida, idb) = (self.world.id(a), self.world.id(b));
        self.event(a, Event::Up(idb, Grant::Full));
        self.event(b, Event::Up(ida, Grant::Full));
    }

    fn part(&mut self, left: &[&'static str], right: &[&'static str]) {
        for (a, b) in left.iter().flat_map(|a| right.iter().map(move |b| (*a, *b))) {
            self.cut.extend([(a, b), (b, a)]);
            let (ida, idb) = (self.world.id(a), self.world.id(b));
            self.event(a, Event::Down(idb));
            self.event(b, Event::Down(ida));
        }
    }

    fn heal(&mut self) {
        let cut = std::mem::take(&mut self.cut);
        cut.into_iter().filter(|(a, b)| a < b).for_each(|(a, b)| self.connect(a, b));
    }

    /// A member is off: its channels are down and nothing happens to it.
    fn stop(&mut self, name: &'static str) -> Member {
        let others: Vec<&'static str> = self.members.keys().copied().filter(|n| *n != name).collect();
        let id = self.world.id(name);
        let member = self.members.remove(name).unwrap();
        others.iter().for_each(|o| self.event(o, Event::Down(id)));
        self.wire.retain(|(from, to, _)| *from != name && *to != name);
        member
    }

    fn back(&mut self, member: Member) {
        let name = member.name;
        self.members.insert(name, member);
        self.start(name);
    }

    fn event(&mut self, name: &'static str, event: Event) {
        let ctx = self.ctx();
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let Some(member) = self.members.get_mut(name) else { return };
            for command in member.node.on(event, ctx) {
                member.carry_out(command, ctx, &self.world, &mut events, &mut self.wire);
            }
        }
    }

    /// Lets frames through until there are none.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            let Some((from, to, frame)) = self.wire.pop_front() else { return };
            if !self.cut.contains(&(from, to)) && self.members.contains_key(from) {
                let id = self.world.id(from);
                self.event(to, Event::Frame(id, frame));
            }
        }
        panic!("frames without end");
    }

    /// Lets `ms` go by.
    fn run(&mut self, ms: u64) {
        let until = self.now.after(ms);
        loop {
            self.settle();
            let next = self.members.values().filter_map(|m| Some((m.node.deadline()?, m.name))).min();
            let Some((at, name)) = next.filter(|(at, _)| *at <= until) else { break };
            assert!(at > self.now || self.now == at, "time goes back");
            self.now = self.now.max(at);
            self.event(name, Event::Tick);
        }
        self.now = until;
    }

    fn propose(&mut self, name: &'static str, act: Act) -> u64 {
        let entry = self.world.next_of(self.members[name].keeper.record(), name, act);
        self.propose_entry(name, entry)
    }

    fn propose_entry(&mut self, name: &'static str, entry: SignedEntry) -> u64 {
        self.tickets += 1;
        let ticket = self.tickets;
        self.event(name, Event::Propose { ticket, entry });
        ticket
    }

    fn outcome(&self, name: &str, ticket: u64) -> Option<&Proposal> {
        self.members[name].outcomes.get(&ticket)
    }

    fn voters(&mut self, by: &'static str, names: &[&str]) {
        let voters = names.iter().map(|n| self.world.id(n)).collect();
        let ticket = self.propose(by, Act::Voters(voters));
        self.run(3_000);
        assert_eq!(self.outcome(by, ticket), Some(&Proposal::Taken), "{names:?}");
    }

    fn token(&mut self, by: &'static str, token: &str) -> u64 {
        self.propose(by, Act::TokenMade(World::token_for(token)))
    }

    fn numbers(&self) -> Vec<u64> {
        self.members.values().map(|m| m.keeper.record().view().head.number).collect()
    }

    fn leader(&self) -> Option<&'static str> {
        self.members.values().find(|m| m.node.leads()).map(|m| m.name)
    }

    #[track_caller]
    fn agree(&self) {
        let mut records: Vec<_> = self.members.values().map(|m| m.keeper.record().view().head).collect();
        records.dedup();
        assert_eq!(records.len(), 1, "{records:?}");
    }
}

impl Member {
    fn state(&self) -> Arc<UnionState> {
        Arc::new(UnionState::of(self.keeper.record(), self.head.clone()))
    }

    fn told(&self, kind: &str) -> bool {
        self.told.iter().any(|(k, _)| *k == kind)
    }

    fn carry_out(
        &mut self,
        command: Command,
        ctx: Context,
        world: &World,
        events: &mut VecDeque<Event>,
        wire: &mut VecDeque<(&'static str, &'static str, Frame)>,
    ) {
        match command {
            Command::Send(to, frame) => {
                let name = ["a", "b", "c", "d", "e"].into_iter().find(|n| world.id(n) == to);
                wire.extend(name.map(|n| (self.name, n, frame)));
            }
            Command::Vote(entry) => {
                let outcome = self.keeper.promise(&entry, ctx.wall, &Cheap);
                let outcome = outcome.map(|head| (head, world.vote(self.name, &head))).map_err(NoVote::from);
                events.push_back(Event::Voted { entry: entry.hash(), outcome });
            }
            Command::Refresh => {
                let outcome = self.keeper.refresh(ctx.wall).map_err(|e| e.to_string());
                let outcome = outcome.map(|head| (head, world.vote(self.name, &head)));
                events.push_back(Event::Refreshed(outcome));
            }
            Command::Take(from, offer) => {
                let outcome = self.keeper.take(&offer, from, ctx.wall, &Cheap);
                if outcome.is_ok() {
                    self.journal.extend(Committed::of(&offer));
                    self.journal.last_mut().unwrap().head = Some(offer.head.clone());
                    self.head = offer.head;
                    events.push_back(Event::Union(self.state()));
                }
                events.push_back(Event::Taken { from, outcome: outcome.map_err(NotTaken::from) });
            }
            Command::Read(to, from) => {
                let from = usize::try_from(from).unwrap();
                let offer = self.journal.get(from..).and_then(page::offer);
                events.push_back(Event::Read { to, offer });
            }
            Command::Persist(bytes) => self.disk = Some(bytes),
            Command::Proposed(ticket, outcome) => drop(self.outcomes.insert(ticket, outcome)),
            Command::Tell(kind, words) => self.told.push((kind, words)),
        }
    }
}
