//! What a node has to do, whatever happened.

use gtvp_model::digest::Digest;
use gtvp_model::union::{MemberId, RecordHead};

use super::message::{Pull, Refresh, Voted};
use super::order::raft_id;
use super::proposals::Place;
use super::run::{AGAIN, Decided, GOSSIP, HEARD, LEADERLESS, MAX_DECIDED, REFRESH, RESET, Taking, frame};
use super::{Command, Node, Proposal, UnionState};
use crate::csp::follow::CURRENT;
use crate::csp::{Entry, Offer, SignedEntry};
use crate::hsp::Millis;

/// A pull is waited for so long, ms: 6 MiB on a link of 10 Mbit/s take 5 s.
const PULL: u64 = 10_000;
/// An entry that is decided and has no majority of votes after so long, ms, is decided again: votes take less than a second.
const STUCK: u64 = 3_000;

impl Node {
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
    pub(super) fn lead(&mut self, union: &UnionState) {
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

    pub(super) fn run_raft(&mut self) {
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
    pub(super) fn fates(&mut self, head: RecordHead) {
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
    pub(super) fn vote(&mut self, head: RecordHead) {
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

    pub(super) fn say_again(&mut self, head: RecordHead) {
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
    pub(super) fn take(&mut self, union: &UnionState) {
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

    pub(super) fn begin_take(&mut self, from: MemberId, offer: Offer) {
        let end = offer.head.head.at.number;
        let first = end.saturating_sub(offer.entries.len() as u64).saturating_add(1);
        let entries = (first..).zip(offer.entries.iter().map(SignedEntry::hash)).collect();
        self.waits.taking = Some(Taking { entries });
        if !offer.entries.is_empty() {
            self.waits.last = Some(offer.clone());
        }
        self.first.push(Command::Take(from, offer));
    }

    pub(super) fn pull(&mut self, head: RecordHead) {
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

    pub(super) fn gossip(&mut self, union: &UnionState) {
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
    pub(super) fn watch(&mut self, union: &UnionState) {
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

    pub(super) fn late(&self) -> Vec<(u64, String)> {
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

/// An offer without the entries that the record has come to in the meantime; `None` if it has all.
pub(super) fn unknown_part(mut offer: Offer, head: RecordHead) -> Option<Offer> {
    let number = |e: &SignedEntry| Entry::decode(e.entry.as_slice()).map_or(u64::MAX, |e| e.number);
    let known = offer.entries.iter().take_while(|e| number(e) <= head.number).count();
    if known == 0 {
        return Some(offer);
    }
    let rest = offer.entries.split_off(known);
    (!rest.is_empty()).then_some(Offer { entries: rest, head: offer.head })
}
