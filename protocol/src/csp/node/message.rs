//! CSP's messages and their bounds (docs/spec/csp.md has the same table; a test keeps them together).
//!
//! Raft's messages have a form of their own here, with the fields that are used and no others: nothing that comes from a member is
//! given to the Raft library's own parser.

use gtvp_model::digest::Digest;
use minicbor::{Decode, Encode};

use crate::csp::entry::{MAX_ENTRY, MAX_SIGNATURE, MAX_SPKI};
use crate::csp::follow::{MAX_ENTRIES, MAX_OFFER};
use crate::csp::record::MAX_MEMBERS;
use crate::csp::{CoSigned, Head, Offer, SignedEntry, Vote};
use crate::fields::digest;
use crate::frame::messages::messages;
use crate::frame::wire::List;

/// Kinds of frames that are CSP's.
pub const KINDS: std::ops::RangeInclusive<u8> = 32..=63;
/// A signature with its key, and CBOR around them.
const MAX_SIGNED: usize = MAX_SPKI + MAX_SIGNATURE + 32;
/// A signed entry.
const MAX_SIGNED_ENTRY: usize = MAX_ENTRY + MAX_SIGNED;
/// A head with seven votes.
const MAX_CO_SIGNED: usize = 128 + 7 * (MAX_SIGNED + 64);
/// Entries of one message of Raft: leaders put one into their log at a time, and it is followed by changes of who votes.
pub const MAX_APPENDED: usize = 64;
/// Entries of one message of Raft, bytes, beside its first one.
pub const MAX_APPENDED_BYTES: usize = 64 * 1024;
/// Voters that a snapshot of Raft names: those of the record, and one that comes or goes.
pub const MAX_CONF: usize = 8;
/// Reason of a refusal, bytes: a sentence.
pub const MAX_REASON: usize = 256;

/// How far the sender's record has come.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Announce {
    /// The newest that it has.
    #[n(0)]
    pub head: CoSigned,
}

/// Asks for entries.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Pull {
    /// The first one.
    #[n(0)]
    pub from: u64,
}

/// Answers [`Pull`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Offered {
    /// `None`: there are no such entries.
    #[n(0)]
    pub offer: Option<Offer>,
}

/// Asks voters to put an entry into the record.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Propose {
    /// Whether a voter has passed it on: it is not passed on again.
    #[n(0)]
    pub passed: bool,
    /// The entry.
    #[n(1)]
    pub entry: SignedEntry,
}

/// The sender, a voter, refuses an entry that was proposed to it, by a rule of the record.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Refused {
    /// The entry's hash.
    #[cbor(n(0), with = "digest")]
    pub entry: Digest,
    /// Why.
    #[n(1)]
    pub reason: String,
}

/// A voter's word for a head.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Voted {
    /// What it signed.
    #[n(0)]
    pub head: Head,
    /// Its word.
    #[n(1)]
    pub vote: Vote,
}

/// The leader asks voters to sign the head anew.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Refresh {}

/// To the leader: the sender's log of Raft is gone, what it said it had it has no more. From the leader: the receiver's log is not of
/// this Raft, it begins anew.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Lost {}

/// What a message of Raft is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum RaftKind {
    /// MsgAppend
    #[n(0)]
    Append,
    /// MsgAppendResponse
    #[n(1)]
    Appended,
    /// MsgHeartbeat
    #[n(2)]
    Heartbeat,
    /// MsgHeartbeatResponse
    #[n(3)]
    Heard,
    /// MsgRequestVote
    #[n(4)]
    RequestVote,
    /// MsgRequestVoteResponse
    #[n(5)]
    Vote,
    /// MsgRequestPreVote
    #[n(6)]
    RequestPreVote,
    /// MsgRequestPreVoteResponse
    #[n(7)]
    PreVote,
    /// MsgSnapshot
    #[n(8)]
    Snapshot,
    /// MsgTimeoutNow
    #[n(9)]
    TimeoutNow,
}

/// A message of Raft (raft-rs 0.7, eraftpb.proto). Sender and receiver are the channel's.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Raft {
    /// What it is.
    #[n(0)]
    pub kind: RaftKind,
    /// The sender's term, or the one it asks votes for.
    #[n(1)]
    pub term: u64,
    /// As Raft has them.
    #[n(2)]
    pub index: u64,
    /// Term of the entry at `index`.
    #[n(3)]
    pub log_term: u64,
    /// How far the sender knows entries decided.
    #[n(4)]
    pub commit: u64,
    /// Term of the entry at `commit`.
    #[n(5)]
    pub commit_term: u64,
    /// A refusal.
    #[n(6)]
    pub reject: bool,
    /// Where the sender's log may agree.
    #[n(7)]
    pub reject_hint: u64,
    /// The leader has asked the sender to take over.
    #[n(8)]
    pub transfer: bool,
    /// The entries after `index`.
    #[n(9)]
    pub entries: List<Logged, MAX_APPENDED>,
    /// Of [`RaftKind::Snapshot`].
    #[n(10)]
    pub snapshot: Option<Snapshot>,
}

/// What an entry of Raft's log does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Does {
    /// Nothing: a leader begins its term.
    #[n(0)]
    Nothing,
    /// An entry of the record.
    #[n(1)]
    Entry,
    /// A voter of Raft comes.
    #[n(2)]
    Add,
    /// A voter of Raft goes.
    #[n(3)]
    Remove,
}

/// An entry of Raft's log.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Logged {
    /// Its term.
    #[n(0)]
    pub term: u64,
    /// What it does.
    #[n(1)]
    pub does: Does,
    /// Who comes or goes, by its id in Raft; else 0.
    #[n(2)]
    pub node: u64,
    /// Of [`Does::Entry`].
    #[n(3)]
    pub entry: Option<SignedEntry>,
}

/// Where a log begins: all before it has been decided, and is in the record or never will be.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Snapshot {
    /// The last entry that is not sent.
    #[n(0)]
    pub index: u64,
    /// Its term.
    #[n(1)]
    pub term: u64,
    /// Voters of Raft after it.
    #[n(2)]
    pub voters: List<u64, MAX_CONF>,
}

messages! {
    #[derive(Debug, Clone, PartialEq)]
    "CSP":
    Announce = 32, MAX_CO_SIGNED + 16;
    Pull = 33, 16;
    Offered = 34, MAX_OFFER + MAX_ENTRIES * (MAX_SIGNED + 16) + MAX_CO_SIGNED;
    Propose = 35, MAX_SIGNED_ENTRY + 16;
    Refused = 36, MAX_REASON + 48;
    Raft = 37, MAX_SIGNED_ENTRY + MAX_APPENDED_BYTES + 8192;
    Voted = 38, MAX_SIGNED + 256;
    Refresh = 39, 1;
    Lost = 40, 1;
}

const _: () = assert!(MAX_MEMBERS <= 4096, "announcements go to all members");
