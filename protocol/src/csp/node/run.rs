//! A node's work: what an event changes. What other members say is in `heard`; what there is to do then, whatever the event was, in `due`.

use std::collections::BTreeSet;
use std::sync::Arc;

use gtvp_model::digest::Digest;
use gtvp_model::union::{MemberId, RecordHead};

use super::log::{Log, MAX_OPEN};
use super::message::{Announce, Message, Offered, Propose, Voted};
use super::order::{Order, raft_id};
use super::proposals::{DEADLINE, MAX_WAITING, Own, Place};
use super::{Command, Event, NoVote, Node, NotTaken, Proposal, UnionState, limits};
use crate::csp::{Offer, SignedEntry};
use crate::frame::Frame;
use crate::hsp::Millis;

/// Words and proposals are said again after so long, ms: they may have been lost.
pub(super) const AGAIN: u64 = 1_000;
/// Voters sign the head anew after so long, ms: a record counts as current for [`CURRENT`] seconds.
pub(super) const REFRESH: u64 = 5_000;
/// A member that is not a voter tells one other how far it is after so long, ms, whether or not there is news.
pub(super) const GOSSIP: u64 = 10_000;
/// To so many members news is passed on by who is no voter: with three, rumours reach all.
pub(super) const FANOUT: usize = 3;
/// Without a leader for so long, ms, a voter says that there is no quorum: elections take 2 s.
pub(super) const LEADERLESS: u64 = 10_000;
/// Most decided entries that wait for their place in the record: leaders have one decided at a time.
pub(super) const MAX_DECIDED: usize = MAX_OPEN;
/// Most refused entries that are remembered.
pub(super) const MAX_DEAD: usize = 64;
/// Without a leader for so long, ms, though a majority of voters is reached, Raft begins anew: its voters are not the record's, or
/// their logs were made not to agree.
pub(super) const RESET: u64 = 30_000;
/// A voter is reached if something came of it not longer ago, ms: without a leader voters ask each other for votes each 2 s.
pub(super) const HEARD: u64 = 5_000;
/// After a disk that did not write, it is tried again after so long, ms.
pub(super) const DISK: u64 = 1_000;

/// An entry that Raft has decided.
#[derive(Debug)]
pub struct Decided {
    pub(super) index: u64,
    pub(super) place: Place,
    pub(super) entry: SignedEntry,
}

/// Commands under way.
#[derive(Debug, Default)]
pub struct Waits {
    /// An offer is being taken: whose, and what is in it.
    pub(super) taking: Option<Taking>,
    /// One could not be taken: not before this time again.
    pub(super) take_again: Option<Millis>,
    /// Entries are asked for: whom, and until when.
    pub(super) pulling: Option<(MemberId, Millis)>,
    /// An entry is being promised.
    pub(super) voting: Option<Digest>,
    /// One was not promised: not before this time again.
    pub(super) vote_again: Option<Millis>,
    /// The head is being signed anew, for these, and for us if we lead.
    pub(super) refreshing: Option<BTreeSet<MemberId>>,
    /// The record is asked what has this number.
    pub(super) reading: Option<u64>,
    /// An offer that came while another one was being taken.
    pub(super) pulled: Option<(MemberId, Offer)>,
    /// What was taken last.
    pub(super) last: Option<Offer>,
}

#[derive(Debug)]
pub(super) struct Taking {
    pub(super) entries: Vec<(u64, Digest)>,
}

/// When what is done again.
#[derive(Debug)]
pub struct Timers {
    pub(super) again: Millis,
    pub(super) refresh: Millis,
    pub(super) gossip: Millis,
    /// A disk that failed.
    pub(super) disk: Option<Millis>,
    /// What is decided and not taken is decided again.
    pub(super) stuck: Option<Millis>,
    /// Raft begins anew.
    pub(super) reset: Millis,
}

impl Timers {
    pub fn new(now: Millis) -> Self {
        Self {
            again: now,
            refresh: now,
            gossip: now.after(GOSSIP),
            disk: None,
            stuck: None,
            reset: now.after(RESET),
        }
    }
}

/// What people were told.
#[derive(Debug, Default)]
pub struct Told {
    pub(super) led: Option<u64>,
    pub(super) leaderless: Option<Millis>,
    pub(super) no_quorum: bool,
    pub(super) not_current: bool,
    pub(super) forked: bool,
    pub(super) withheld: Option<Digest>,
}

impl Node {
    pub(super) fn is_voter(&self) -> bool {
        self.union.as_ref().is_some_and(|u| u.voters.contains(&self.own))
    }

    pub(super) fn head(&self) -> Option<RecordHead> {
        self.union.as_ref().map(|u| u.view.head)
    }

    pub(super) fn tell(&mut self, kind: &'static str, words: impl Into<String>) {
        self.first.push(Command::Tell(kind, words.into()));
    }

    pub(super) fn send(&mut self, to: MemberId, message: impl Into<Message>) {
        if let Some(frame) = frame(&message.into()) {
            self.first.push(Command::Send(to, frame));
        }
    }

    pub(super) fn tick(&mut self, before: Millis) {
        if before.after(HEARD) < self.now {
            // This member stood still, or has slept: it knows nothing of the others.
            self.timers.reset = self.now.after(RESET);
        }
        if self.timers.disk.is_some_and(|at| at <= self.now) {
            self.timers.disk = None;
            self.persist = true;
        }
        let now = self.now;
        if let (Some(order), None) = (&mut self.order, self.timers.disk) {
            order.tick(now);
        }
    }

    pub(super) fn on_not_persisted(&mut self, why: &str) {
        self.tell("raft.disk", format!("what voters have agreed on cannot be written down: {why}"));
        self.timers.disk = Some(self.now.after(DISK));
        self.waits.voting = None;
    }

    pub(super) fn handle(&mut self, event: Event) {
        match event {
            Event::Union(union) => self.on_union(union),
            Event::Up(member, grant) => {
                self.peers.up(member, grant);
                self.announce_to(member);
            }
            Event::Down(member) => {
                self.peers.down(&member);
                self.waits.pulling.take_if(|(of, _)| *of == member);
            }
            Event::Frame(from, frame) => self.on_frame(from, &frame),
            Event::Propose { ticket, entry } => self.on_propose(ticket, entry),
            Event::Voted { entry, outcome } => self.on_voted(entry, outcome),
            Event::Refreshed(outcome) => {
                let askers = self.waits.refreshing.take().unwrap_or_default();
                let (Ok((head, vote)), Some(at)) = (outcome, self.head()) else { return };
                if head.at != at {
                    return;
                }
                self.votes.add(at, vote.clone(), at);
                for asker in askers {
                    self.send(asker, Voted { head, vote: vote.clone() });
                }
            }
            Event::Taken { from, outcome } => self.on_taken(from, outcome),
            Event::Read { to, offer } if to == self.own => self.on_own_read(offer),
            Event::Read { to, offer } => {
                if let Some(peer) = self.peers.get_mut(&to) {
                    peer.reads = false;
                    self.send(to, Offered { offer });
                }
            }
            Event::NotPersisted(why) => self.on_not_persisted(&why),
            Event::Tick => {}
        }
    }

    pub(super) fn on_union(&mut self, union: Arc<UnionState>) {
        let before = self.union.replace(union.clone());
        let same = before.as_ref().filter(|b| b.view.union == union.view.union);
        if before.is_some() && same.is_none() {
            self.order = None;
            self.decided.clear();
        }
        let was_voter = same.is_some_and(|b| b.voters.contains(&self.own));
        let news =
            same.is_none_or(|b| b.view.head != union.view.head || b.head.head.time < union.head.head.time);
        let view = &union.view;
        self.part(before.as_deref(), &union);
        // Who catches up may learn at once that one came and another left: as many as before, and not the same.
        if same.is_none_or(|b| !b.view.members.keys().eq(view.members.keys())) {
            self.ids = view.members.keys().map(|m| (raft_id(m), *m)).collect();
        }
        self.voted.extend(union.voters.iter().map(raft_id));
        self.peers.keep(|m| view.members.contains_key(m));
        if same.is_none_or(|b| b.view.head != view.head) {
            self.votes.advance(view.head);
            self.passed.clear();
            self.open.retain(|e| Place::of(e).is_some_and(|p| p.number > view.head.number));
        }
        self.place_voter(&union, was_voter, same.is_none());
        self.resolve();
        if news {
            self.spread();
        } else {
            // Said again, it is another life of `security`, which grants nothing until it has seen a head that is new.
            self.timers.refresh = self.now;
        }
    }

    /// Whoever is a member no more hears so, while there is a channel: nobody else would tell it.
    pub(super) fn part(&mut self, before: Option<&UnionState>, now: &UnionState) {
        let Some(before) = before.filter(|b| b.view.union == now.view.union) else { return };
        let Some(offer) = self.waits.last.clone().filter(|o| o.head.head.at == now.view.head) else { return };
        for gone in before.view.members.keys().filter(|m| !now.view.members.contains_key(m)) {
            if *gone != self.own && self.peers.get(gone).is_some() {
                self.send(*gone, Offered { offer: Some(offer.clone()) });
            }
        }
    }

    /// Begins, loads, empties or keeps Raft's log, as the record has this member as a voter or not.
    pub(super) fn place_voter(&mut self, union: &UnionState, was_voter: bool, first: bool) {
        let (own, now, id) = (raft_id(&self.own), self.now, union.view.union);
        let mut was_voter = was_voter;
        if first && self.order.is_none() {
            let seed = self.rng.fork();
            if let Some(loaded) = self.loaded.take().filter(|l| l.union == id) {
                was_voter = loaded.voter;
                self.open = loaded.open;
                self.order = Order::new(own, loaded.log, seed, now).ok();
            }
        }
        if !self.is_voter() {
            // Raft may need this one's answers until the leader has removed it.
            self.persist |= was_voter && self.order.is_some();
            return;
        }
        let alone = union.voters.len() == 1;
        if let Some(order) = &mut self.order {
            let only = alone && order.voters() != [own].into();
            // Alone it decides alone, whatever Raft was waiting for: the others that it knows are lost, or on their way out.
            if only && order.forget([own].into(), now).is_ok() {
                self.decided.clear();
                self.persist = true;
            // It became a voter anew: what it had before is of a time when its word was not needed.
            } else if !was_voter && !order.has(own) && order.forget(BTreeSet::new(), now).is_ok() {
                self.decided.clear();
                self.persist = true;
            }
        } else {
            let log = if alone { Log::begin([own].into(), 1, 0) } else { Log::blank(1, 0) };
            self.order = Order::new(own, log, self.rng.fork(), now).ok();
            self.persist = true;
        }
    }

    /// Ends proposals that the record has decided about.
    pub(super) fn resolve(&mut self) {
        let Some(head) = self.head() else { return };
        let taking = self.waits.taking.as_ref();
        let known = |n: u64| taking.and_then(|t| t.entries.iter().find(|(m, _)| *m == n)).map(|(_, h)| *h);
        for (ticket, outcome) in self.proposals.at(known, head) {
            match outcome {
                Some(outcome) => self.end(ticket, outcome),
                None => {
                    let own = self.proposals.own.get(&ticket);
                    if let (Some(own), None) = (own, self.waits.reading) {
                        self.waits.reading = Some(own.place.number);
                        self.first.push(Command::Read(self.own, own.place.number));
                    }
                }
            }
        }
    }

    pub(super) fn end(&mut self, ticket: u64, outcome: Proposal) {
        if self.proposals.own.remove(&ticket).is_some() {
            self.first.push(Command::Proposed(ticket, outcome));
        }
    }

    pub(super) fn on_own_read(&mut self, offer: Option<Offer>) {
        let number = self.waits.reading.take();
        let first = offer.as_ref().and_then(|o| o.entries.first()).and_then(Place::of);
        let about: Vec<u64> = self
            .proposals
            .own
            .iter()
            .filter(|(_, o)| Some(o.place.number) == number)
            .map(|(t, _)| *t)
            .collect();
        for ticket in about {
            let Some(own) = self.proposals.own.get(&ticket) else { continue };
            let outcome = match first {
                Some(place) if place.hash == own.place.hash => Proposal::Taken,
                Some(place) if place.number == own.place.number => Proposal::Overtaken,
                _ => Proposal::Unknown("the record could not be read".into()),
            };
            self.end(ticket, outcome);
        }
        self.resolve();
    }

    pub(super) fn on_propose(&mut self, ticket: u64, entry: SignedEntry) {
        let refuse = |why: &str| Command::Proposed(ticket, Proposal::Refused(why.into()));
        let (Some(place), Some(_)) = (Place::of(&entry), self.head()) else {
            self.first.push(refuse("it is no entry, or there is no union"));
            return;
        };
        if self.proposals.own.len() >= MAX_WAITING {
            let why = format!("{MAX_WAITING} proposals are waited for already");
            self.first.push(Command::Proposed(ticket, Proposal::Unknown(why)));
            return;
        }
        let own = Own { place, entry: entry.clone(), until: self.now.after(DEADLINE) };
        self.proposals.own.insert(ticket, own);
        self.resolve();
        if self.proposals.own.contains_key(&ticket) {
            self.pass_on(entry);
        }
    }

    /// To the leader, if it is known; else to some voter. Raft says nothing to whom it has removed: what that one holds to be the leader,
    /// itself perhaps, may be so no more.
    pub(super) fn pass_on(&mut self, entry: SignedEntry) {
        let (Some(head), Some(union)) = (self.head(), self.union.clone()) else { return };
        let votes = self.is_voter();
        if votes && self.leads() {
            self.proposals.queue(entry, head, self.now);
            return;
        }
        let leader = self.leader().filter(|l| votes && self.peers.is_full(l));
        let voters = self.peers.full(&union.voters);
        let any = usize::try_from(self.rng.below(voters.len().max(1) as u64)).unwrap_or(0);
        if let Some(to) = leader.or_else(|| voters.get(any).copied()) {
            self.send(to, Propose { passed: false, entry });
        }
    }

    pub(super) fn leader(&self) -> Option<MemberId> {
        self.ids.get(&self.order.as_ref()?.leader()).copied()
    }

    pub(super) fn on_voted(
        &mut self,
        hash: Digest,
        outcome: Result<(crate::csp::Head, crate::csp::Vote), NoVote>,
    ) {
        self.waits.voting.take_if(|h| *h == hash);
        let Some(head) = self.head() else { return };
        match outcome {
            Ok((signed, vote)) if signed.at.number > head.number => {
                self.votes.add(signed.at, vote.clone(), head);
                self.say(&Voted { head: signed, vote });
            }
            Ok(_) => {}
            Err(NoVote::Another(why)) => {
                if self.passed.insert(hash.0) {
                    self.tell("vote.withheld", why);
                }
            }
            Err(NoVote::NotNow(why)) => {
                self.waits.vote_again = Some(self.now.after(AGAIN));
                if self.told.withheld.replace(hash) != Some(hash) {
                    self.tell("vote.withheld", why);
                }
            }
            Err(NoVote::Never(why)) => {
                self.decided.retain(|d| d.place.hash != hash);
                self.dead.push_back((hash, why.clone()));
                if self.dead.len() > MAX_DEAD {
                    self.dead.pop_front();
                }
                let about: Vec<u64> = self
                    .proposals
                    .own
                    .iter()
                    .filter(|(_, o)| o.place.hash == hash)
                    .map(|(t, _)| *t)
                    .collect();
                for ticket in about {
                    self.end(ticket, Proposal::Refused(why.clone()));
                }
            }
        }
    }

    /// To all voters.
    pub(super) fn say(&mut self, voted: &Voted) {
        let Some(union) = self.union.clone() else { return };
        for voter in self.peers.full(&union.voters) {
            self.send(voter, voted.clone());
        }
    }

    pub(super) fn on_taken(&mut self, from: MemberId, outcome: Result<usize, NotTaken>) {
        if self.waits.taking.take().is_none() {
            return;
        }
        match outcome {
            Ok(_) if from != self.own => self.peers.praise(&from),
            Ok(_) => {}
            Err(NotTaken::NotNow(why)) => {
                self.waits.take_again = Some(self.now.after(AGAIN));
                self.tell("record.not_taken", why);
            }
            Err(NotTaken::Refused(_)) if from == self.own => self.votes.refused(),
            Err(NotTaken::Refused(why)) => self.blame(from, &why),
            Err(NotTaken::Forked(why)) => {
                if !std::mem::replace(&mut self.told.forked, true) {
                    self.tell("record.forked", format!("{from}: {why}"));
                }
                self.blame(from, &why);
            }
        }
    }

    pub(super) fn blame(&mut self, peer: MemberId, why: &str) {
        let ms = self.peers.blame(peer, self.now);
        self.tell("peer.blamed", format!("{peer} is not asked for {} s: {why}", ms / 1000));
    }

    pub(super) fn announce_to(&mut self, to: MemberId) {
        let Some(union) = self.union.clone() else { return };
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.told = Some((union.view.head.number, union.head.head.time));
            self.send(to, Announce { head: union.head.clone() });
        }
    }

    /// News of the record, to those who are not known to have it: by voters to all, by others to a few.
    pub(super) fn spread(&mut self) {
        let Some(union) = self.union.clone() else { return };
        let ours = (union.view.head.number, union.head.head.time);
        let behind = |m: &MemberId| {
            let peer = self.peers.get(m);
            let said = peer.and_then(|p| p.announced.as_ref()).map(|a| (a.head.at.number, a.head.time));
            said < Some(ours) && peer.and_then(|p| p.told) < Some(ours)
        };
        let mut to: Vec<MemberId> = self.peers.ids().into_iter().filter(behind).collect();
        if !self.is_voter() {
            while to.len() > FANOUT {
                let i = usize::try_from(self.rng.below(to.len() as u64)).unwrap_or(0);
                to.swap_remove(i);
            }
        }
        to.into_iter().for_each(|m| self.announce_to(m));
    }
}

/// A message as it is sent; one that nobody would take is not.
pub(super) fn frame(message: &Message) -> Option<Frame> {
    let frame = message.frame();
    limits(frame.kind).is_some_and(|max| frame.body.len() <= max).then_some(frame)
}
