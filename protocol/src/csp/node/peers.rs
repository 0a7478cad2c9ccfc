//! The members with which there is a channel: what they say of their records, whom to ask for entries, and who is not asked for a
//! while.

use std::collections::{BTreeMap, BTreeSet};

use gtvp_model::union::{MemberId, RecordHead, UnixTime};

use crate::csp::CoSigned;
use crate::hsp::{Grant, Millis};

/// Who offers what is refused is not asked for so long, ms; each time again twice as long, up to [`MAX_BLAME`].
const BLAME: u64 = 5_000;
const MAX_BLAME: u64 = 300_000;

/// A channel.
#[derive(Debug)]
pub struct Peer {
    pub grant: Grant,
    /// What it said last of its record.
    pub announced: Option<CoSigned>,
    /// What we told it last of ours.
    pub told: Option<(u64, UnixTime)>,
    /// It has asked for entries, and `security` reads them.
    pub reads: bool,
    /// When something came of it last.
    pub heard: Option<Millis>,
    /// When it asked us last to sign the head anew.
    pub refreshed: Option<Millis>,
}

/// A member whose words were of no use.
#[derive(Debug, Default)]
struct Blame {
    until: Millis,
    times: u32,
    /// Messages that made no sense.
    wrong: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Peers {
    up: BTreeMap<MemberId, Peer>,
    blames: BTreeMap<MemberId, Blame>,
    last_asked: Option<MemberId>,
}

impl Peers {
    pub fn up(&mut self, member: MemberId, grant: Grant) {
        let peer = Peer { grant, announced: None, told: None, reads: false, heard: None, refreshed: None };
        self.up.insert(member, peer);
    }

    pub fn down(&mut self, member: &MemberId) {
        self.up.remove(member);
    }

    /// Forgets what is known of those who are no members.
    pub fn keep(&mut self, members: impl Fn(&MemberId) -> bool) {
        self.blames.retain(|m, _| members(m));
    }

    pub fn get(&self, member: &MemberId) -> Option<&Peer> {
        self.up.get(member)
    }

    pub fn get_mut(&mut self, member: &MemberId) -> Option<&mut Peer> {
        self.up.get_mut(member)
    }

    pub fn ids(&self) -> Vec<MemberId> {
        self.up.keys().copied().collect()
    }

    /// Whether it may be told more than the record.
    pub fn is_full(&self, member: &MemberId) -> bool {
        self.up.get(member).is_some_and(|p| p.grant == Grant::Full)
    }

    /// Those of `members` that may be told more than the record.
    pub fn full(&self, members: &BTreeSet<MemberId>) -> Vec<MemberId> {
        members.iter().filter(|m| self.is_full(m)).copied().collect()
    }

    /// What it offered was of no use. Gives until when it is not asked.
    pub fn blame(&mut self, member: MemberId, now: Millis) -> u64 {
        if let Some(peer) = self.up.get_mut(&member) {
            peer.announced = None;
        }
        let blame = self.blames.entry(member).or_default();
        let ms = BLAME.saturating_mul(1u64.checked_shl(blame.times).unwrap_or(u64::MAX)).min(MAX_BLAME);
        blame.times = blame.times.saturating_add(1).min(32);
        blame.until = now.after(ms);
        ms
    }

    /// What it offered was taken.
    pub fn praise(&mut self, member: &MemberId) {
        if let Some(blame) = self.blames.get_mut(member) {
            (blame.until, blame.times) = (Millis(0), 0);
        }
    }

    /// Whether it is not asked now.
    pub fn is_blamed(&self, member: &MemberId, now: Millis) -> bool {
        self.blames.get(member).is_some_and(|b| b.until > now)
    }

    /// It has sent something that makes no sense: how often by now.
    pub fn wrong(&mut self, member: MemberId) -> u64 {
        let blame = self.blames.entry(member).or_default();
        blame.wrong = blame.wrong.saturating_add(1);
        blame.wrong
    }

    /// Whom to ask for what comes after `head`: one after the other.
    pub fn ahead(&mut self, head: RecordHead, now: Millis) -> Option<MemberId> {
        let good = |(id, p): (&MemberId, &Peer)| {
            let ahead = p.announced.as_ref().is_some_and(|a| a.head.at.number > head.number);
            (ahead && !self.is_blamed(id, now)).then_some(*id)
        };
        let all: Vec<MemberId> = self.up.iter().filter_map(good).collect();
        let next = all.iter().find(|m| Some(**m) > self.last_asked).or(all.first()).copied()?;
        self.last_asked = Some(next);
        Some(next)
    }

    /// A head of the number that we have, which says something new: another time, or another entry.
    pub fn newer(
        &self,
        ours: &CoSigned,
        voters: &BTreeSet<MemberId>,
        head: RecordHead,
        now: Millis,
    ) -> Option<(MemberId, CoSigned)> {
        // By those who vote now: where the last entry changed who votes, those who voted before say nothing more of it.
        let by_these = |a: &CoSigned| {
            let voters = a.votes.as_slice().iter().map(|v| v.voter).filter(|v| voters.contains(v));
            voters.collect::<BTreeSet<_>>().len()
        };
        let new = |a: &&CoSigned| {
            a.head.at.number == head.number
                && (a.head.at.hash != head.hash || a.head.time > ours.head.time)
                && by_these(a) > voters.len() / 2
        };
        let of = |(id, p): (&MemberId, &Peer)| {
            let announced = p.announced.as_ref().filter(new)?;
            (!self.is_blamed(id, now)).then(|| (*id, announced.clone()))
        };
        self.up.iter().filter_map(of).max_by_key(|(_, a)| a.head.time)
    }
}
