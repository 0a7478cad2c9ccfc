//! Decides, and opens nothing: whom to dial and when, which of two channels with one member stays, how many strangers may be in at
//! once. `runtime` carries it out.
//!
//! * The member with the smaller id dials; the other one dials too when there has been no channel for [`PATIENCE`].
//! * Of two channels with one member the one that the smaller id has dialled stays; of two that the same one dialled, the newer.
//! * Whoever has not proved itself is a stranger: at most [`STRANGERS`] at once, and past [`EASY`] one for each address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use gtvp_model::token::Endpoint;
use gtvp_model::union::MemberId;
use gtvp_protocol::hsp::Millis;

use crate::link::Took;

/// After how long without a channel the member with the larger id dials too, milliseconds.
pub const PATIENCE: u64 = 10_000;
/// Most strangers at once: each costs a thread, a signature of the TPM and half a mebibyte.
pub const STRANGERS: usize = 64;
/// Strangers up to which an address may have several: members behind one address start together.
pub const EASY: usize = 8;
/// Most joins at once: each may read the whole record.
pub const JOINS: usize = 4;
/// Joins without a token's proof that may come at once after a quiet time.
const JOIN_BURST: u64 = 16;
/// One more each so many milliseconds.
const JOIN_EVERY: u64 = 2_000;
/// Links that are not yet channels that one member may have: one either way, and one that is only just ending.
pub const UNPROVED: usize = 3;
/// First and longest time before a member is dialled again, milliseconds.
const BACK_OFF: (u64, u64) = (500, 30_000);

/// A connection, by its number in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Do {
    /// Dial this member there.
    Dial(LinkId, MemberId, Endpoint),
    /// End this link: why.
    End(LinkId, &'static str),
}

#[derive(Debug, Clone)]
struct Link {
    /// Whom we dialled; `None`: it came.
    dialled: Option<MemberId>,
    /// From where it came.
    address: Option<IpAddr>,
    /// Whose key TLS showed, if a member's.
    key_of: Option<MemberId>,
    /// Whose channel it is.
    channel: Option<MemberId>,
    took: Option<Took>,
    joins: bool,
    /// We join by it.
    by_token: bool,
}

/// What is known of the way to another member.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// The channel.
    pub channel: Option<LinkId>,
    /// The link that is being made.
    pub dialling: Option<LinkId>,
    /// Why there is no channel.
    pub problem: Option<String>,
    tries: u32,
    next: Millis,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Engine {
    own: Option<MemberId>,
    peers: BTreeMap<MemberId, Peer>,
    links: BTreeMap<LinkId, Link>,
    last: u64,
    join_tokens: u64,
    join_time: Millis,
}

/// Addresses that one party has in any number count as one.
fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Engine {
    /// The other members.
    pub fn peers(&self) -> &BTreeMap<MemberId, Peer> {
        &self.peers
    }

    /// Who is in the union now.
    pub fn union(&mut self, own: MemberId, members: &BTreeSet<MemberId>, now: Millis) {
        self.own = Some(own);
        self.peers.retain(|id, _| members.contains(id) && *id != own);
        for id in members.iter().filter(|id| **id != own) {
            if self.peers.contains_key(id) {
                continue;
            }
            let dialling = self.links.iter().find(|(_, l)| l.dialled == Some(*id)).map(|(n, _)| *n);
            let next = if own < *id { now } else { now.after(PATIENCE) };
            self.peers.insert(*id, Peer { dialling, next, ..Peer::default() });
        }
    }

    /// This member is in no union: everything ends.
    pub fn left(&mut self) -> Vec<Do> {
        self.own = None;
        self.peers.clear();
        // A join is on its way into one.
        let ends = self.links.iter().filter(|(_, l)| !l.by_token || l.channel.is_some());
        ends.map(|(id, _)| Do::End(*id, "this server is in no union")).collect()
    }

    /// Somebody connects from there. `None`: not now.
    pub fn came(&mut self, from: IpAddr) -> Option<LinkId> {
        let from = group(from);
        let strangers = || self.links.values().filter(|l| l.channel.is_none()).filter_map(|l| l.address);
        let full = strangers().count();
        if full >= STRANGERS || full >= EASY && strangers().any(|a| a == from) {
            return None;
        }
        Some(self.link(None, Some(from)))
    }

    /// We dial this member, or a stranger by a token.
    pub fn dials(&mut self, whom: Option<MemberId>) -> LinkId {
        let link = self.link(whom, None);
        if let Some(peer) = whom.and_then(|w| self.peers.get_mut(&w)) {
            peer.dialling = Some(link);
        }
        link
    }

    fn link(&mut self, dialled: Option<MemberId>, address: Option<IpAddr>) -> LinkId {
        self.last += 1;
        let by_token = dialled.is_none() && address.is_none();
        let link = Link { dialled, address, key_of: None, channel: None, took: None, joins: false, by_token };
        self.links.insert(LinkId(self.last), link);
        LinkId(self.last)
    }

    /// TLS showed this member's key. False: it has too many links that are no channels.
    pub fn shows(&mut self, link: LinkId, member: MemberId) -> bool {
        let unproved = |l: &&Link| l.key_of == Some(member) && l.channel.is_none();
        if self.links.values().filter(unproved).count() >= UNPROVED {
            return false;
        }
        if let Some(l) = self.links.get_mut(&link) {
            l.key_of = Some(member);
        }
        true
    }

    /// Whoever was dialled by a token is this member.
    pub fn is(&mut self, link: LinkId, member: MemberId) {
        if let Some(l) = self.links.get_mut(&link) {
            l.dialled = Some(member);
        }
    }

    /// Somebody wants to join. False: not now.
    pub fn joins(&mut self, link: LinkId, now: Millis) -> bool {
        // At the beginning all of the time before counts.
        let more = now.0.saturating_sub(self.join_time.0) / JOIN_EVERY;
        self.join_tokens = self.join_tokens.saturating_add(more).min(JOIN_BURST);
        self.join_time = self.join_time.after(more.saturating_mul(JOIN_EVERY));
        if self.join_tokens == 0 || self.links.values().filter(|l| l.joins).count() >= JOINS {
            return false;
        }
        let Some(l) = self.links.get_mut(&link) else { return false };
        self.join_tokens -= 1;
        l.joins = true;
        true
    }

    /// Who joins by this link has proved a token: what was held against strangers is given back.
    pub fn proved_token(&mut self, link: LinkId) {
        if self.links.get(&link).is_some_and(|l| l.joins) {
            self.join_tokens = self.join_tokens.saturating_add(1).min(JOIN_BURST);
        }
    }

    /// A link took so long to become a channel.
    pub fn opened(&mut self, link: LinkId, took: Took) {
        if let Some(l) = self.links.get_mut(&link) {
            l.took = Some(took);
        }
    }

    /// How long a link took to become a channel.
    pub fn took(&self, link: LinkId) -> Option<Took> {
        self.links.get(&link)?.took
    }

    /// A link has become a channel with this member.
    pub fn up(&mut self, link: LinkId, with: MemberId) -> Vec<Do> {
        let Some(own) = self.own else { return vec![Do::End(link, "this server is in no union")] };
        if !self.peers.contains_key(&with) {
            return vec![Do::End(link, "it is no member any more")];
        }
        let by_smaller = |l: &Link| {
            let dialler = if l.dialled.is_some() { own } else { with };
            dialler == own.min(with)
        };
        let Some(new) = self.links.get_mut(&link) else { return Vec::new() };
        new.joins = false;
        new.channel = Some(with);
        let new = by_smaller(new);
        let Some(peer) = self.peers.get_mut(&with) else { return Vec::new() };
        if peer.dialling == Some(link) {
            peer.dialling = None;
        }
        let old = peer.channel.filter(|old| *old != link);
        let old_stays = old.and_then(|o| self.links.get(&o)).is_some_and(|o| by_smaller(o) && !new);
        match old {
            Some(_) if old_stays => vec![Do::End(link, ANOTHER)],
            other => {
                (peer.channel, peer.tries, peer.problem) = (Some(link), 0, None);
                other.map(|o| Do::End(o, ANOTHER)).into_iter().collect()
            }
        }
    }

    /// A link is over. Gives the member with which there is no channel any more.
    pub fn down(&mut self, link: LinkId, why: &str, now: Millis, chance: u64) -> Option<MemberId> {
        let gone = self.links.remove(&link)?;
        let with = gone.channel.or(gone.dialled).or(gone.key_of)?;
        // Of whoever is no member any more, everybody still hears that the channel is gone.
        let (Some(own), Some(peer)) = (self.own, self.peers.get_mut(&with)) else { return gone.channel };
        let was_channel = peer.channel == Some(link);
        if peer.dialling == Some(link) {
            peer.dialling = None;
        }
        if was_channel {
            peer.channel = None;
            peer.tries = 0;
        }
        if peer.channel.is_none() {
            peer.problem = Some(why.to_owned());
            let (first, longest) = BACK_OFF;
            let wait = first.saturating_mul(1 << peer.tries.min(10)).min(longest);
            // Half of it is chance, so that members that lost each other at once do not meet at once.
            let wait = wait / 2 + chance % (wait / 2 + 1);
            let next = if was_channel && own > with { PATIENCE } else { wait };
            if was_channel || gone.dialled.is_some() {
                peer.next = now.after(next);
                peer.tries = peer.tries.saturating_add(1);
            }
        }
        was_channel.then_some(with)
    }

    /// Whom to dial now; `places` knows the ways, best first.
    pub fn tick(&mut self, now: Millis, places: impl Fn(MemberId) -> Vec<Endpoint>, chance: u64) -> Vec<Do> {
        let mut dials = Vec::new();
        let due = |p: &Peer| p.channel.is_none() && p.dialling.is_none() && p.next <= now;
        let due: Vec<MemberId> = self.peers.iter().filter(|(_, p)| due(p)).map(|(id, _)| *id).collect();
        for id in due {
            let ways = places(id);
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let turn = usize::try_from(peer.tries).unwrap_or(0).checked_rem(ways.len());
            let Some(way) = turn.and_then(|t| ways.get(t)) else {
                // Somebody who knows it may come; then it is looked at anew.
                let (_, longest) = BACK_OFF;
                peer.next = now.after(longest / 2 + chance % (longest / 2));
                peer.problem.get_or_insert_with(|| "nobody has said where it is".into());
                continue;
            };
            let way = way.clone();
            dials.push(Do::Dial(self.dials(Some(id)), id, way));
        }
        dials
    }

    /// A way to this member was heard of that was not known.
    pub fn heard(&mut self, of: MemberId, now: Millis) {
        if let (Some(own), Some(peer)) = (self.own, self.peers.get_mut(&of))
            && own < of
        {
            peer.next = peer.next.min(now);
        }
    }

    /// When [`Self::tick`] is worth asking.
    pub fn deadline(&self) -> Option<Millis> {
        let waits = |p: &&Peer| p.channel.is_none() && p.dialling.is_none();
        self.peers.values().filter(waits).map(|p| p.next).min()
    }

    /// The channel with a member.
    pub fn channel(&self, with: MemberId) -> Option<LinkId> {
        self.peers.get(&with)?.channel
    }
}

/// Why the other one of two ends.
pub const ANOTHER: &str = "another channel with this member stays";

#[cfg(test)]
mod tests;
