//! What a member does for the record among other members: sans-IO.
//!
//! ```text
//!   voters:    propose ─▶ Raft decides ─▶ Vote: `security` promises and signs ─▶ a majority of votes ─▶ Take
//!   everybody: announce ─▶ who is behind pulls ─▶ Take
//! ```
//!
//! What a frame may look like is `message`'s; what Raft bears is `order`'s. Nothing here checks a signature or a rule of the record:
//! `security` does, before anything is taken or signed. docs/spec/csp.md has the messages and what a member can do that lies.

mod due;
mod heard;
mod log;
pub mod message;
mod order;
mod peers;
mod proposals;
mod run;
#[cfg(test)]
mod tests;
mod votes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use gtvp_model::digest::Digest;
use gtvp_model::union::{MemberId, UnionView, UnixTime};
use serde::{Deserialize, Serialize};

use super::follow::OfferRefusal;
use super::keeper::VoteRefusal;
use super::{CoSigned, Head, Offer, Record, SignedEntry, Vote};
use crate::frame::Frame;
use crate::hsp::{Grant, Millis};

pub use message::{KINDS, Message, limits};

/// The union as this member's `security` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnionState {
    /// Members, tokens, settings, epoch, head.
    pub view: UnionView,
    /// Who votes.
    pub voters: BTreeSet<MemberId>,
    /// A majority's word for the head, the newest that this member has.
    pub head: CoSigned,
}

impl UnionState {
    /// That of a record, of which `head` is signed.
    pub fn of(record: &Record, head: CoSigned) -> Self {
        Self { view: record.view().clone(), voters: record.voters().clone(), head }
    }
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The record as it is now: first of all, and after every change.
    Union(Arc<UnionState>),
    /// A channel to this member is open.
    Up(MemberId, Grant),
    /// It is not any more.
    Down(MemberId),
    /// A frame of CSP came on this member's channel.
    Frame(MemberId, Frame),
    /// This member's `security` has signed an entry that is to be next.
    Propose {
        /// Comes back with the outcome.
        ticket: u64,
        /// The entry.
        entry: SignedEntry,
    },
    /// Outcome of [`Command::Vote`].
    Voted {
        /// [`SignedEntry::hash`].
        entry: Digest,
        /// Our word, or why we do not give it.
        outcome: Result<(Head, Vote), NoVote>,
    },
    /// Outcome of [`Command::Refresh`].
    Refreshed(Result<(Head, Vote), String>),
    /// Outcome of [`Command::Take`]. What was taken has come before as [`Event::Union`].
    Taken {
        /// Who offered.
        from: MemberId,
        /// Entries that were new, or why it was not taken.
        outcome: Result<usize, NotTaken>,
    },
    /// Outcome of [`Command::Read`].
    Read {
        /// For whom.
        to: MemberId,
        /// From the entry asked for on; `None`: there is none.
        offer: Option<Offer>,
    },
    /// A [`Command::Persist`] failed: what stood after it was not carried out.
    NotPersisted(String),
    /// Time went on.
    Tick,
}

/// Why this member's `security` gives no word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoVote {
    /// A rule of the record refuses the entry (`VoteRefusal::Entry`), as every voter will: another one may be next.
    Never(String),
    /// It has promised another entry of this number (`VoteRefusal::Promised`, `Forgotten`), which may be decided too; or by its clock alone
    /// (`Ahead`) it leaves this one to the others.
    Another(String),
    /// It cannot now: this one stays the one to be next.
    NotNow(String),
}

impl From<VoteRefusal> for NoVote {
    fn from(refusal: VoteRefusal) -> Self {
        match refusal {
            VoteRefusal::Entry(e) => Self::Never(e.to_string()),
            VoteRefusal::Promised(_) | VoteRefusal::Forgotten(_) | VoteRefusal::Ahead(_) => {
                Self::Another(refusal.to_string())
            }
            other => Self::NotNow(other.to_string()),
        }
    }
}

/// Why this member's `security` has not taken an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotTaken {
    /// It is not what it should be: whoever offered it is not asked for a while.
    Refused(String),
    /// A majority of voters stands behind it, and it contradicts the record (`OfferRefusal::Forked`).
    Forked(String),
    /// It cannot take anything now.
    NotNow(String),
}

impl From<OfferRefusal> for NotTaken {
    fn from(refusal: OfferRefusal) -> Self {
        match refusal {
            OfferRefusal::Forked(_) => Self::Forked(refusal.to_string()),
            other => Self::Refused(other.to_string()),
        }
    }
}

/// How a proposal ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proposal {
    /// It is in the record.
    Taken,
    /// Another entry has its number: sign it anew.
    Overtaken,
    /// The voters refuse it, for this reason.
    Refused(String),
    /// Not known: no majority answered in time. It may be taken later.
    Unknown(String),
}

/// What to do, in this order. Each [`Self::Vote`], [`Self::Refresh`], [`Self::Take`] and [`Self::Read`] that is carried out has an
/// outcome, whatever happens.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Send it on the member's channel; nothing if there is none.
    Send(MemberId, Frame),
    /// Have `security` promise this entry and sign the head.
    Vote(SignedEntry),
    /// Have `security` sign the present head with a new time.
    Refresh,
    /// Have `security` take an offer.
    Take(MemberId, Offer),
    /// Have `security` read an offer: entries from this number on.
    Read(MemberId, u64),
    /// Write it down before going on: the whole of what must survive a crash.
    Persist(Vec<u8>),
    /// A proposal has ended.
    Proposed(u64, Proposal),
    /// For people: an event of this kind, in these words.
    Tell(&'static str, String),
}

/// What a node may know beside the event.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// Never goes back.
    pub now: Millis,
    /// May be wrong.
    pub wall: UnixTime,
}

/// See the module.
#[derive(Debug)]
pub struct Node {
    own: MemberId,
    rng: Rng,
    now: Millis,
    wall: UnixTime,
    union: Option<Arc<UnionState>>,
    loaded: Option<log::Loaded>,
    order: Option<order::Order>,
    /// Members by their ids in Raft.
    ids: BTreeMap<u64, MemberId>,
    /// Raft's ids of those who vote or did.
    voted: BTreeSet<u64>,
    /// Entries that Raft has decided and the record has not, in Raft's order.
    decided: VecDeque<run::Decided>,
    /// Entries that a rule of the record refuses: they are decided about, and never taken.
    dead: VecDeque<(Digest, String)>,
    /// Entries that our `security` has promised others of the same number for.
    passed: BTreeSet<[u8; 32]>,
    /// What it has promised, and others may have, until the record has the number.
    open: Vec<SignedEntry>,
    votes: votes::Votes,
    peers: peers::Peers,
    proposals: proposals::Proposals,
    /// The commands whose outcomes are waited for.
    waits: run::Waits,
    timers: run::Timers,
    told: run::Told,
    /// Carried out whatever becomes of [`Command::Persist`], and only if it succeeds.
    first: Vec<Command>,
    then: Vec<Command>,
    persist: bool,
}

impl Node {
    /// With what was persisted last, if anything was. `seed` is random, and is all that is.
    ///
    /// # Errors
    /// What was persisted is damaged.
    pub fn new(own: MemberId, persisted: Option<&[u8]>, seed: u64, ctx: Context) -> Result<Self, String> {
        let loaded = persisted.map(log::Log::from_bytes).transpose()?;
        Ok(Self {
            own,
            rng: Rng(seed),
            now: ctx.now,
            wall: ctx.wall,
            union: None,
            loaded,
            order: None,
            ids: BTreeMap::new(),
            voted: BTreeSet::new(),
            decided: VecDeque::new(),
            dead: VecDeque::new(),
            passed: BTreeSet::new(),
            open: Vec::new(),
            votes: votes::Votes::default(),
            peers: peers::Peers::default(),
            proposals: proposals::Proposals::default(),
            waits: run::Waits::default(),
            timers: run::Timers::new(ctx.now),
            told: run::Told::default(),
            first: Vec::new(),
            then: Vec::new(),
            persist: false,
        })
    }

    /// What is to be done about `event`.
    pub fn on(&mut self, event: Event, ctx: Context) -> Vec<Command> {
        let before = self.now;
        self.now = before.max(ctx.now);
        self.wall = ctx.wall;
        self.tick(before);
        self.handle(event);
        self.drive();
        self.commands()
    }

    /// When [`Event::Tick`] is needed at the latest.
    pub fn deadline(&self) -> Option<Millis> {
        self.next_deadline()
    }

    /// Whether this member leads the voters now.
    pub fn leads(&self) -> bool {
        self.order.as_ref().is_some_and(order::Order::leads)
    }

    /// How this member's Raft stands, for people.
    pub fn raft(&self) -> String {
        self.order.as_ref().map_or_else(|| "does not vote".into(), |o| format!("{o:?}"))
    }

    fn commands(&mut self) -> Vec<Command> {
        let mut commands = std::mem::take(&mut self.first);
        let persist = std::mem::take(&mut self.persist);
        if let (true, Some(order), Some(union)) = (persist, &self.order, &self.union) {
            let bytes = order.to_bytes(union.view.union, self.is_voter(), self.open.clone());
            commands.push(Command::Persist(bytes));
        }
        commands.append(&mut self.then);
        commands
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): all of a node's randomness comes from its seed, so that a run can be had again.
#[derive(Debug, Clone)]
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Less than `n`, which is not 0; for small `n` evenly enough.
    fn below(&mut self, n: u64) -> u64 {
        self.next().checked_rem(n).unwrap_or(0)
    }

    fn fork(&mut self) -> Self {
        Self(self.next())
    }
}
