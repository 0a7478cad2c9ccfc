//! A node's work: what an event changes, and then, whatever the event was, what there is to do.

use std::collections::BTreeSet;
use std::sync::Arc;

use gtvp_model::digest::Digest;
use gtvp_model::union::{MemberId, RecordHead};

use super::log::{Log, MAX_OPEN};
use super::message::{Announce, Lost, MAX_REASON, Message, Offered, Propose, Pull, Refresh, Refused, Voted};
use super::order::{Order, Unfit, raft_id};
use super::proposals::{DEADLINE, MAX_WAITING, Own, Place};
use super::{Command, Event, NoVote, Node, NotTaken, Proposal, UnionState, limits};
use crate::csp::follow::CURRENT;
use crate::csp::{Entry, Offer, SignedEntry};
use crate::frame::Frame;
use crate::frame::wire::BodyFault;
use crate::hsp::{Grant, Millis};

/// Words and proposals are said again after so long, ms: they may have been lost.
const AGAIN: u64 = 1_000;
/// Voters sign the head anew after so long, ms: a record counts as current for [`CURRENT`] seconds.
const REFRESH: u64 = 5_000;
/// A voter is asked to sign the head anew no more often, ms: each time costs its TPM a signature.
const REFRESH_LEAST: u64 = 1_000;
/// A member that is not a voter tells one other how far it is after so long, ms, whether or not there is news.
const GOSSIP: u64 = 10_000;
/// To so many members news is passed on by who is no voter: with three, rumours reach all.
const FANOUT: usize = 3;
/// A pull is waited for so long, ms: 6 MiB on a link of 10 Mbit/s take 5 s.
const PULL: u64 = 10_000;
/// Without a leader for so long, ms, a voter says that there is no quorum: elections take 2 s.
const LEADERLESS: u64 = 10_000;
/// Most decided entries that wait for their place in the record: leaders have one decided at a time.
const MAX_DECIDED: usize = MAX_OPEN;
/// Most refused entries that are remembered.
const MAX_DEAD: usize = 64;
/// Without a leader for so long, ms, though a majority of voters is reached, Raft begins anew: its voters are not the record's, or
/// their logs were made not to agree.
const RESET: u64 = 30_000;
/// A voter is reached if something came of it not longer ago, ms: without a leader voters ask each other for votes each 2 s.
const HEARD: u64 = 5_000;
/// An entry that is decided and has no majority of votes after so long, ms, is decided again: votes take less than a second.
const STUCK: u64 = 3_000;
/// After a disk that did not write, it is tried again after so long, ms.
const DISK: u64 = 1_000;

/// An entry that Raft has decided.
#[derive(Debug)]
pub struct Decided {
    index: u64,
    place: Place,
    entry: SignedEntry,
}

/// Commands under way.
#[derive(Debug, Default)]
pub struct Waits {
    /// An offer is being taken: whose, and what is in it.
    taking: Option<Taking>,
    /// One could not be taken: not before this time again.
    take_again: Option<Millis>,
    /// Entries are asked for: whom, and until when.
    pulling: Option<(MemberId, Millis)>,
    /// An entry is being promised.
    voting: Option<Digest>,
    /// One was not promised: not before this time again.
    vote_again: Option<Millis>,
    /// The head is being signed anew, for these, and for us if we lead.
    refreshing: Option<BTreeSet<MemberId>>,
    /// The record is asked what has this number.
    reading: Option<u64>,
    /// An offer that came while another one was being taken.
    pulled: Option<(MemberId, Offer)>,
    /// What was taken last.
    last: Option<Offer>,
}

#[derive(Debug)]
struct Taking {
    entries: Vec<(u64, Digest)>,
}

/// When what is done again.
#[derive(Debug)]
pub struct Timers {
    again: Millis,
    refresh: Millis,
    gossip: Millis,
    /// A disk that failed.
    disk: Option<Millis>,
    /// What is decided and not taken is decided again.
    stuck: Option<Millis>,
    /// Raft begins anew.
    reset: Millis,
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
    led: Option<u64>,
    leaderless: Option<Millis>,
    no_quorum: bool,
    not_current: bool,
    forked: bool,
    withheld: Option<Digest>,
}

impl Node {
    pub(super) fn is_voter(&self) -> bool {
        self.union.as_ref().is_some_and(|u| u.voters.contains(&self.own))
    }

    fn head(&self) -> Option<RecordHead> {
        self.union.as_ref().map(|u| u.view.head)
    }

    fn tell(&mut self, kind: &'static str, words: impl Into<String>) {
        self.first.push(Command::Tell(kind, words.into()));
    }

    fn send(&mut self, to: MemberId, message: impl Into<Message>) {
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

    fn on_not_persisted(&mut self, why: &str) {
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

    fn on_union(&mut self, union: Arc<UnionState>) {
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
        if same.is_none_or(|b| b.view.members.len() != view.members.len() || b.view.epoch != view.epoch) {
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
        }
    }

    /// Whoever is a member no more hears so, while there is a channel: nobody else would tell it.
    fn part(&mut self, before: Option<&UnionState>, now: &UnionState) {
        let Some(before) = before.filter(|b| b.view.union == now.view.union) else { return };
        let Some(offer) = self.waits.last.clone().filter(|o| o.head.head.at == now.view.head) else { return };
        for gone in before.view.members.keys().filter(|m| !now.view.members.contains_key(m)) {
            if *gone != self.own && self.peers.get(gone).is_some() {
                self.send(*gone, Offered { offer: Some(offer.clone()) });
            }
        }
    }

    /// Begins, loads, empties or keeps Raft's log, as the record has this member as a voter or not.
    fn place_voter(&mut self, union: &UnionState, was_voter: bool, first: bool) {
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
    fn resolve(&mut self) {
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

    fn end(&mut self, ticket: u64, outcome: Proposal) {
        if self.proposals.own.remove(&ticket).is_some() {
            self.first.push(Command::Proposed(ticket, outcome));
        }
    }

    fn on_own_read(&mut self, offer: Option<Offer>) {
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

    fn on_propose(&mut self, ticket: u64, entry: SignedEntry) {
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

    /// To the leader, if it is known; else to some voter.
    fn pass_on(&mut self, entry: SignedEntry) {
        let (Some(head), Some(union)) = (self.head(), self.union.clone()) else { return };
        if self.leads() {
            self.proposals.queue(entry, head, self.now);
            return;
        }
        let leader = self.leader().filter(|l| self.peers.is_full(l));
        let voters = self.peers.full(&union.voters);
        let any = usize::try_from(self.rng.below(voters.len().max(1) as u64)).unwrap_or(0);
        if let Some(to) = leader.or_else(|| voters.get(any).copied()) {
            self.send(to, Propose { passed: false, entry });
        }
    }

    fn leader(&self) -> Option<MemberId> {
        self.ids.get(&self.order.as_ref()?.leader()).copied()
    }

    fn on_voted(&mut self, hash: Digest, outcome: Result<(crate::csp::Head, crate::csp::Vote), NoVote>) {
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
    fn say(&mut self, voted: &Voted) {
        let Some(union) = self.union.clone() else { return };
        for voter in self.peers.full(&union.voters) {
            self.send(voter, voted.clone());
        }
    }

    fn on_taken(&mut self, from: MemberId, outcome: Result<usize, NotTaken>) {
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

    fn blame(&mut self, peer: MemberId, why: &str) {
        let ms = self.peers.blame(peer, self.now);
        self.tell("peer.blamed", format!("{peer} is not asked for {} s: {why}", ms / 1000));
    }

    fn on_frame(&mut self, from: MemberId, frame: &Frame) {
        let Some(union) = self.union.clone() else { return };
        let bounded = limits(frame.kind).is_some_and(|max| frame.body.len() <= max);
        let message = if bounded {
            Message::decode(frame)
        } else {
            Err(BodyFault::Shape(format!("kind {} with {} bytes", frame.kind, frame.body.len())))
        };
        let message = match message {
            Ok(message) => message,
            Err(fault) => return self.wrong(from, &fault.to_string()),
        };
        let of_record = matches!(message, Message::Announce(_) | Message::Pull(_) | Message::Offered(_));
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.heard = Some(now);
        if !union.view.members.contains_key(&from) || (peer.grant != Grant::Full && !of_record) {
            return;
        }
        match message {
            Message::Announce(Announce { head }) => {
                if head.head.union != union.view.union {
                    return self.wrong(from, "it announces another union's record");
                }
                if let Some(peer) = self.peers.get_mut(&from) {
                    peer.announced = Some(head);
                }
            }
            Message::Pull(pull) => self.on_pull(from, &pull),
            Message::Offered(offered) => self.on_offered(from, offered.offer),
            Message::Propose(propose) => self.on_proposed(from, propose),
            Message::Refused(refused) => self.on_refused(from, &refused),
            Message::Raft(raft) => self.on_raft(from, &raft),
            Message::Voted(voted) => self.on_vote_of(from, voted),
            Message::Refresh(_) => self.on_refresh(from),
            Message::Lost(_) => self.on_lost(from),
        }
    }

    fn wrong(&mut self, from: MemberId, what: &str) {
        let times = self.peers.wrong(from);
        // Not each time: a peer does not fill the log.
        if times.is_power_of_two() {
            self.tell("message.refused", format!("{from}, {times} so far: {what}"));
        }
    }

    fn on_pull(&mut self, from: MemberId, pull: &Pull) {
        let Some(head) = self.head() else { return };
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if peer.reads {
            return;
        }
        if pull.from > head.number {
            return self.send(from, Offered { offer: None });
        }
        peer.reads = true;
        self.first.push(Command::Read(from, pull.from));
    }

    fn on_offered(&mut self, from: MemberId, offer: Option<Offer>) {
        let asked = self.waits.pulling.take_if(|(of, _)| *of == from).is_some();
        // Unasked, only the very next entry is looked at: the one that ends a membership comes so.
        let next = self.head().map(|h| h.number.saturating_add(1));
        let first = offer.as_ref().and_then(|o| o.entries.first()).and_then(Place::of).map(|p| p.number);
        if !asked && (self.waits.pulled.is_some() || first.is_none() || first != next) {
            return;
        }
        match offer {
            Some(offer) => self.waits.pulled = Some((from, offer)),
            None => self.blame(from, "it has not what it announced"),
        }
    }

    fn on_proposed(&mut self, from: MemberId, propose: Propose) {
        let Some(head) = self.head() else { return };
        let hash = propose.entry.hash();
        if let Some((_, why)) = self.dead.iter().find(|(h, _)| *h == hash) {
            let cut =
                why.char_indices().map(|(i, c)| i + c.len_utf8()).take_while(|i| *i <= MAX_REASON).last();
            let reason = why.get(..cut.unwrap_or(0)).unwrap_or_default().to_owned();
            self.send(from, Refused { entry: hash, reason });
        } else if self.leads() {
            self.proposals.queue(propose.entry, head, self.now);
        } else if !propose.passed {
            let leader = self.leader().filter(|l| self.peers.is_full(l) && *l != from);
            if let Some(leader) = leader {
                self.send(leader, Propose { passed: true, entry: propose.entry });
            }
        }
    }

    fn on_refused(&mut self, from: MemberId, refused: &Refused) {
        if !self.union.as_ref().is_some_and(|u| u.voters.contains(&from)) {
            return;
        }
        let about = self.proposals.own.iter().filter(|(_, o)| o.place.hash == refused.entry);
        for ticket in about.map(|(t, _)| *t).collect::<Vec<_>>() {
            self.end(ticket, Proposal::Refused(refused.reason.clone()));
        }
    }

    fn on_raft(&mut self, from: MemberId, raft: &super::message::Raft) {
        if self.timers.disk.is_some() {
            return;
        }
        let (Some(order), Some(union)) = (&mut self.order, &self.union) else { return };
        let id = raft_id(&from);
        let votes = union.voters.contains(&from) || order.has(id);
        if !votes || self.ids.get(&id) != Some(&from) {
            return;
        }
        let voters = union.voters.iter().map(raft_id).collect();
        match order.step(id, raft, &voters, &self.voted) {
            Ok(()) | Err(Unfit::Early(_)) => {}
            Err(Unfit::Wrong(why)) => self.wrong(from, why),
            // One of us was told things by a leader that lied, or has an older disk than it had.
            Err(Unfit::Ahead) => self.send(from, Lost {}),
            Err(Unfit::Lost) => {
                self.send(from, Lost {});
                self.begin_anew("it is not what the leader has");
            }
        }
    }

    fn on_lost(&mut self, from: MemberId) {
        if self.leads() {
            if let Some(order) = &mut self.order {
                order.lost_by(raft_id(&from));
            }
        } else if self.leader() == Some(from) {
            self.begin_anew("it is not what the leader has");
        }
    }

    /// Our log of Raft leads nowhere: it begins where each voter's did, with the record's voters. The record does not rest on it.
    fn begin_anew(&mut self, why: &str) {
        let (Some(order), Some(union)) = (&mut self.order, self.union.clone()) else { return };
        let in_log = order.entries();
        if order.forget(union.voters.iter().map(raft_id).collect(), self.now).is_ok() {
            self.persist = true;
            let decided: Vec<SignedEntry> = self.decided.drain(..).map(|d| d.entry).collect();
            self.keep_open(decided.into_iter().chain(in_log));
            self.tell("raft.began_anew", format!("what voters had agreed on is forgotten: {why}"));
        }
    }

    /// Entries that others may have promised: they are proposed again until the record has their number.
    fn keep_open(&mut self, entries: impl IntoIterator<Item = SignedEntry>) {
        let number = self.head().map_or(0, |h| h.number);
        for entry in entries {
            let past = Place::of(&entry).is_none_or(|p| p.number <= number);
            if !past && self.open.len() < MAX_DECIDED && !self.open.contains(&entry) {
                self.open.push(entry);
            }
        }
    }

    fn on_vote_of(&mut self, from: MemberId, voted: Voted) {
        let Some(union) = self.union.clone() else { return };
        let (head, ours) = (voted.head, union.view.head);
        let of_it =
            voted.vote.voter == from && voted.vote.time == head.time && head.union == union.view.union;
        if !of_it {
            return self.wrong(from, "a vote that is not the sender's own");
        }
        if !union.voters.contains(&from) {
            return;
        }
        if head.at == ours || ours.number.checked_add(1) == Some(head.at.number) {
            self.votes.add(head.at, voted.vote, ours);
        } else if head.at.number <= ours.number {
            // It asks for what is decided: it has not heard.
            self.announce_to(from);
        }
    }

    fn on_refresh(&mut self, from: MemberId) {
        if self.leader() != Some(from) || !self.is_voter() {
            return;
        }
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if peer.refreshed.is_some_and(|at| at.after(REFRESH_LEAST) > now) {
            return;
        }
        peer.refreshed = Some(now);
        self.refresh(Some(from));
    }

    fn refresh(&mut self, asker: Option<MemberId>) {
        if self.waits.refreshing.is_none() {
            self.first.push(Command::Refresh);
        }
        self.waits.refreshing.get_or_insert_default().extend(asker);
    }

    fn announce_to(&mut self, to: MemberId) {
        let Some(union) = self.union.clone() else { return };
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.told = Some((union.view.head.number, union.head.head.time));
            self.send(to, Announce { head: union.head.clone() });
        }
    }

    /// News of the record, to those who are not known to have it: by voters to all, by others to a few.
    fn spread(&mut self) {
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

    /// What there is to do, whatever happened.
    pub(super) fn drive(&mut self) {
        let Some(union) = self.union.clone() else { return };
        let head = union.view.head;
        self.lead(&union);
        self.run_raft();
        self.fates(head);
        if self.timers.again <= self.now {
            self.timers.again = self.now.after(AGAIN);
            self.say_again(head);
        }
        self.vote(head);
        self.take(&union);
        self.pull(head);
        self.gossip(&union);
        self.watch(&union);
        for (ticket, why) in self.late() {
            self.end(ticket, Proposal::Unknown(why));
        }
    }

    /// As the leader: Raft's voters follow the record's, one entry at a time is decided, heads stay fresh.
    fn lead(&mut self, union: &UnionState) {
        let head = union.view.head;
        let voters = union.voters.iter().map(raft_id).collect();
        let Some(order) = &mut self.order else { return };
        if !order.leads() || self.timers.disk.is_some() {
            self.proposals.clear_queue();
            self.timers.stuck = None;
            return;
        }
        let free = order.follow(&voters) && !order.is_deciding();
        if self.decided.is_empty() {
            self.timers.stuck = None;
        }
        let decided: Vec<Digest> = self.decided.iter().map(|d| d.place.hash).collect();
        let stuck =
            !decided.is_empty() && *self.timers.stuck.get_or_insert(self.now.after(STUCK)) <= self.now;
        if free && (decided.is_empty() || stuck) {
            self.timers.stuck = None;
            // Some voters may have promised another entry, or have lost this one, or been told that it is over.
            let other = self.proposals.pop(head, &decided, self.now);
            let again = || self.decided.iter().find(|d| d.place.follows(head)).map(|d| d.entry.clone());
            if let Some(entry) = other.or_else(again) {
                order.propose(&entry);
            }
        }
        if self.timers.refresh <= self.now {
            self.timers.refresh = self.now.after(REFRESH);
            if self.is_voter() {
                self.refresh(None);
            }
            for voter in self.peers.full(&union.voters) {
                self.send(voter, Refresh {});
            }
        }
    }

    fn run_raft(&mut self) {
        if self.timers.disk.is_some() {
            return;
        }
        let Some(order) = &mut self.order else { return };
        let outcome = order.ready();
        self.persist |= outcome.persist;
        if let Some(index) = outcome.skipped {
            self.decided.retain(|d| d.index > index);
        }
        for (index, entry) in outcome.decided {
            let known = |p: &Place| self.decided.iter().any(|d| d.place.hash == p.hash);
            if let Some(place) = Place::of(&entry).filter(|p| !known(p)) {
                self.decided.push_back(Decided { index, place, entry });
            }
        }
        for (to, raft) in outcome.send {
            let to = self.ids.get(&to).copied().filter(|m| self.peers.is_full(m));
            if let (Some(to), Some(frame)) = (to, frame(&raft.into())) {
                self.then.push(Command::Send(to, frame));
            }
        }
    }

    /// Lets go of decided entries that the record has decided about, too.
    fn fates(&mut self, head: RecordHead) {
        let next = head.number.saturating_add(1);
        let dead = &self.dead;
        self.decided.retain(|d| {
            let place = d.place;
            let alive = place.number > next || place.follows(head);
            alive && !dead.iter().any(|(h, _)| *h == place.hash)
        });
        while self.decided.len() > MAX_DECIDED {
            // Only a leader that lies has so many decided; those of a place far off go first.
            let far = self.decided.iter().position(|d| d.place.number != next).unwrap_or(0);
            self.decided.remove(far);
        }
        let before = self.decided.iter().map(|d| d.index).min().unwrap_or(u64::MAX);
        if let Some(order) = &mut self.order {
            order.compact(before);
        }
    }

    /// The first entry that can be next has our word; a later one if we have given it for that one before.
    fn vote(&mut self, head: RecordHead) {
        if self.waits.voting.is_some() || !self.is_voter() || self.timers.disk.is_some() {
            return;
        }
        if self.waits.vote_again.is_some_and(|at| at > self.now) {
            return;
        }
        let open = |d: &&Decided| d.place.follows(head) && !self.passed.contains(&d.place.hash.0);
        let Some(next) = self.decided.iter().find(open) else { return };
        if self.votes.has_next(&self.own).is_some() {
            return;
        }
        let (hash, entry) = (next.place.hash, next.entry.clone());
        self.waits.voting = Some(hash);
        // Raft may forget what was promised, another member's disk may: it can be proposed again as long as this one has it.
        self.keep_open([entry.clone()]);
        self.persist = true;
        self.then.push(Command::Vote(entry));
    }

    fn say_again(&mut self, head: RecordHead) {
        self.votes.again();
        if let (Some((at, vote)), Some(union)) = (self.votes.has_next(&self.own).cloned(), self.union.clone())
        {
            let signed = crate::csp::Head { union: union.view.union, at, time: vote.time };
            self.say(&Voted { head: signed, vote });
        }
        let own = self.proposals.own.values().filter(|o| o.place.number > head.number);
        // What we have promised may be all that can be next: no majority is left for another.
        for entry in own.map(|o| o.entry.clone()).chain(self.open.clone()).collect::<Vec<_>>() {
            self.pass_on(entry);
        }
    }

    /// One offer at a time: what voters have agreed on, what was pulled, a newer word for what we have.
    fn take(&mut self, union: &UnionState) {
        if self.waits.taking.is_some() || self.waits.take_again.is_some_and(|at| at > self.now) {
            return;
        }
        let (view, need) = (&union.view, union.voters.len() / 2 + 1);
        let next = self.is_voter().then(|| self.votes.next(view.union, need)).flatten();
        let agreed = next.and_then(|signed| {
            let entry = self.decided.iter().find(|d| d.place.hash == signed.head.at.hash)?;
            Some(Offer { entries: vec![entry.entry.clone()], head: signed })
        });
        let fresh = || self.votes.fresh(view.union, view.head, need, union.head.head.time);
        if let Some(offer) = agreed {
            self.begin_take(self.own, offer);
        } else if let Some((from, offer)) =
            self.waits.pulled.take().and_then(|(from, offer)| Some((from, unknown_part(offer, view.head)?)))
        {
            self.begin_take(from, offer);
        } else if let Some(head) = self.is_voter().then(fresh).flatten() {
            self.begin_take(self.own, Offer { entries: Vec::new(), head });
        } else if let Some((from, head)) = self.peers.newer(&union.head, &union.voters, view.head, self.now) {
            self.begin_take(from, Offer { entries: Vec::new(), head });
        }
    }

    fn begin_take(&mut self, from: MemberId, offer: Offer) {
        let end = offer.head.head.at.number;
        let first = end.saturating_sub(offer.entries.len() as u64).saturating_add(1);
        let entries = (first..).zip(offer.entries.iter().map(SignedEntry::hash)).collect();
        self.waits.taking = Some(Taking { entries });
        if !offer.entries.is_empty() {
            self.waits.last = Some(offer.clone());
        }
        self.first.push(Command::Take(from, offer));
    }

    fn pull(&mut self, head: RecordHead) {
        let now = self.now;
        if let Some((from, _)) = self.waits.pulling.take_if(|(_, until)| *until <= now) {
            self.blame(from, "it does not answer");
        }
        let busy = self.waits.pulling.is_some() || self.waits.pulled.is_some() || self.waits.taking.is_some();
        if busy {
            return;
        }
        if let Some(of) = self.peers.ahead(head, self.now) {
            self.waits.pulling = Some((of, self.now.after(PULL)));
            self.send(of, Pull { from: head.number.saturating_add(1) });
        }
    }

    fn gossip(&mut self, union: &UnionState) {
        if self.timers.gossip > self.now {
            return;
        }
        self.timers.gossip = self.now.after(GOSSIP);
        let ours = (union.view.head.number, union.head.head.time);
        let behind = |m: &MemberId| {
            let said = self.peers.get(m).and_then(|p| p.announced.as_ref());
            said.is_none_or(|a| (a.head.at.number, a.head.time) < ours)
        };
        let behind: Vec<MemberId> = self.peers.ids().into_iter().filter(behind).collect();
        let i = usize::try_from(self.rng.below(behind.len().max(1) as u64)).unwrap_or(0);
        if let Some(to) = behind.get(i) {
            self.announce_to(*to);
        }
    }

    /// Says what people should know: that there is no quorum, that the record is old.
    fn watch(&mut self, union: &UnionState) {
        let old = self.wall.0.saturating_sub(union.head.head.time.0) > CURRENT;
        if old != self.told.not_current {
            self.told.not_current = old;
            if old {
                let time = union.head.head.time;
                self.tell("record.not_current", format!("no majority of voters has signed it since {time}"));
            } else {
                self.tell("record.current", "a majority of voters has signed it just now");
            }
        }
        let voter = self.is_voter();
        let Some(order) = self.order.as_ref().filter(|_| voter) else {
            (self.told.leaderless, self.told.no_quorum) = (None, false);
            return;
        };
        let (leads, term, leader) = (order.leads(), order.term(), order.leader());
        let deposed = !leads && leader == 0 && self.told.led == Some(term);
        self.told.led = leads.then_some(term).or(self.told.led.filter(|_| !deposed));
        self.told.leaderless = if leader != 0 { None } else { self.told.leaderless.or(Some(self.now)) };
        let long = self.told.leaderless.is_some_and(|at| at.after(LEADERLESS) <= self.now);
        if (deposed || long) && !self.told.no_quorum {
            self.told.no_quorum = true;
            self.tell(
                "quorum.lost",
                "no majority of voters is reached: the record stays as it is until one is",
            );
        } else if leader != 0 && self.told.no_quorum {
            self.told.no_quorum = false;
            self.tell("quorum.regained", "a majority of voters is reached again");
        }
        let heard = |m: &MemberId| {
            self.peers.get(m).and_then(|p| p.heard).is_some_and(|at| at.after(HEARD) > self.now)
        };
        let reached = self.peers.full(&union.voters).into_iter().filter(heard).count() + 1;
        if leader != 0 || reached <= union.voters.len() / 2 {
            self.timers.reset = self.now.after(RESET);
        } else if self.timers.reset <= self.now {
            self.timers.reset = self.now.after(RESET);
            self.begin_anew("no leader is found");
        }
    }

    fn late(&self) -> Vec<(u64, String)> {
        let late = self.proposals.own.iter().filter(|(_, o)| o.until <= self.now);
        late.map(|(t, _)| (*t, "no majority of voters has answered in time".to_owned())).collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Millis> {
        let union = self.union.as_ref()?;
        let disk = self.timers.disk;
        let raft = self.order.as_ref().filter(|_| disk.is_none()).and_then(|o| o.deadline());
        let again = !self.proposals.own.is_empty()
            || self.votes.has_next(&self.own).is_some()
            || !self.decided.is_empty();
        let refresh = self.leads() && disk.is_none();
        let leaderless = self.told.leaderless.filter(|_| !self.told.no_quorum).map(|at| at.after(LEADERLESS));
        let current = (!self.told.not_current).then(|| {
            let left = union.head.head.time.0.saturating_add(CURRENT + 1).saturating_sub(self.wall.0);
            self.now.after(left.saturating_mul(1000).max(1))
        });
        let all = [
            disk,
            self.waits.take_again.filter(|at| *at > self.now),
            raft,
            again.then_some(self.timers.again),
            refresh.then_some(self.timers.refresh),
            Some(self.timers.gossip),
            self.waits.pulling.map(|(_, until)| until),
            self.proposals.own.values().map(|o| o.until).min(),
            leaderless,
            current,
        ];
        all.into_iter().flatten().min()
    }
}

/// A message as it is sent; one that nobody would take is not.
fn frame(message: &Message) -> Option<Frame> {
    let frame = message.encode();
    limits(frame.kind).is_some_and(|max| frame.body.len() <= max).then_some(frame)
}

/// An offer without the entries that the record has come to in the meantime; `None` if it has all.
fn unknown_part(mut offer: Offer, head: RecordHead) -> Option<Offer> {
    let number = |e: &SignedEntry| Entry::decode(e.entry.as_slice()).map_or(u64::MAX, |e| e.number);
    let known = offer.entries.iter().take_while(|e| number(e) <= head.number).count();
    if known == 0 {
        return Some(offer);
    }
    let rest = offer.entries.split_off(known);
    (!rest.is_empty()).then_some(Offer { entries: rest, head: offer.head })
}
