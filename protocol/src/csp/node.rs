//! What a member does for the record among other members: sans-IO.

use std::collections::BTreeSet;
use std::sync::Arc;

use gtvp_model::digest::Digest;
use gtvp_model::union::{MemberId, UnionView, UnixTime};
use serde::{Deserialize, Serialize};

use super::{CoSigned, Head, Offer, SignedEntry, Vote};
use crate::frame::Frame;
use crate::hsp::{Grant, Millis};

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
        outcome: Result<(Head, Vote), String>,
    },
    /// Outcome of [`Command::Refresh`].
    Refreshed(Result<(Head, Vote), String>),
    /// Outcome of [`Command::Take`]. What was taken has come before as [`Event::Union`].
    Taken {
        /// Who offered.
        from: MemberId,
        /// Entries that were new, or why it was refused.
        outcome: Result<usize, String>,
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

/// What to do, in this order.
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

/// Kinds of frames that are CSP's.
pub const KINDS: std::ops::RangeInclusive<u8> = 32..=63;

/// The longest body of a kind; `None` for one that CSP does not have.
pub fn limits(kind: u8) -> Option<usize> {
    KINDS.contains(&kind).then_some(6 * 1024 * 1024)
}

/// See the module.
#[derive(Debug)]
pub struct Node {
    own: MemberId,
}

impl Node {
    /// With what was persisted last, if anything was. `seed` is random, and is all that is.
    ///
    /// # Errors
    /// What was persisted is damaged.
    pub fn new(own: MemberId, persisted: Option<&[u8]>, seed: u64, ctx: Context) -> Result<Self, String> {
        let _ = (persisted, seed, ctx);
        Ok(Self { own })
    }

    /// What is to be done about `event`.
    pub fn on(&mut self, event: Event, ctx: Context) -> Vec<Command> {
        let _ = (event, ctx, self.own);
        Vec::new()
    }

    /// When [`Event::Tick`] is needed at the latest.
    pub fn deadline(&self) -> Option<Millis> {
        None
    }
}
