//! What other members say to a node.

use gtvp_model::union::MemberId;

use super::message::{Announce, Lost, MAX_REASON, Message, Offered, Propose, Pull, Refused, Voted};
use super::order::{Unfit, raft_id};
use super::proposals::Place;
use super::run::MAX_DECIDED;
use super::{Command, Node, Proposal, limits};
use crate::csp::follow::MAX_LEAD;
use crate::csp::keeper::{VoteRefusal, ahead};
use crate::csp::{Offer, SignedEntry};
use crate::frame::Frame;
use crate::frame::wire::BodyFault;
use crate::hsp::Grant;

/// A voter is asked to sign the head anew no more often, ms: each time costs its TPM a signature.
const REFRESH_LEAST: u64 = 1_000;

impl Node {
    pub(super) fn on_frame(&mut self, from: MemberId, frame: &Frame) {
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

    pub(super) fn wrong(&mut self, from: MemberId, what: &str) {
        let times = self.peers.wrong(from);
        // Not each time: a peer does not fill the log.
        if times.is_power_of_two() {
            self.tell("message.refused", format!("{from}, {times} so far: {what}"));
        }
    }

    pub(super) fn on_pull(&mut self, from: MemberId, pull: &Pull) {
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

    pub(super) fn on_offered(&mut self, from: MemberId, offer: Option<Offer>) {
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

    pub(super) fn on_proposed(&mut self, from: MemberId, propose: Propose) {
        let Some(head) = self.head() else { return };
        let hash = propose.entry.hash();
        // Each voter has a clock of its own: what some might not vote for is not decided at all.
        let voters = self.union.as_ref().map(|u| &u.voters);
        let ahead =
            voters.filter(|_| self.leads()).and_then(|voters| ahead(&propose.entry, voters, self.wall));
        let ahead = ahead.filter(|ahead| *ahead > MAX_LEAD).map(VoteRefusal::Ahead);
        let dead = self.dead.iter().find(|(h, _)| *h == hash).map(|(_, why)| why.clone());
        if let Some(why) = dead.or_else(|| ahead.map(|refusal| refusal.to_string())) {
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

    pub(super) fn on_refused(&mut self, from: MemberId, refused: &Refused) {
        if !self.union.as_ref().is_some_and(|u| u.voters.contains(&from)) {
            return;
        }
        let about = self.proposals.own.iter().filter(|(_, o)| o.place.hash == refused.entry);
        for ticket in about.map(|(t, _)| *t).collect::<Vec<_>>() {
            self.end(ticket, Proposal::Refused(refused.reason.clone()));
        }
    }

    pub(super) fn on_raft(&mut self, from: MemberId, raft: &super::message::Raft) {
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

    pub(super) fn on_lost(&mut self, from: MemberId) {
        if self.leads() {
            if let Some(order) = &mut self.order {
                order.lost_by(raft_id(&from));
            }
        } else if self.leader() == Some(from) {
            self.begin_anew("it is not what the leader has");
        }
    }

    /// Our log of Raft leads nowhere: it begins where each voter's did, with the record's voters. The record does not rest on it.
    pub(super) fn begin_anew(&mut self, why: &str) {
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
    pub(super) fn keep_open(&mut self, entries: impl IntoIterator<Item = SignedEntry>) {
        let number = self.head().map_or(0, |h| h.number);
        for entry in entries {
            let past = Place::of(&entry).is_none_or(|p| p.number <= number);
            if !past && self.open.len() < MAX_DECIDED && !self.open.contains(&entry) {
                self.open.push(entry);
            }
        }
    }

    pub(super) fn on_vote_of(&mut self, from: MemberId, voted: Voted) {
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

    pub(super) fn on_refresh(&mut self, from: MemberId) {
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

    pub(super) fn refresh(&mut self, asker: Option<MemberId>) {
        if self.waits.refreshing.is_none() {
            self.first.push(Command::Refresh);
        }
        self.waits.refreshing.get_or_insert_default().extend(asker);
    }
}
