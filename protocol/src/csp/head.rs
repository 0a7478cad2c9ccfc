//! Heads: how far the record has come, at what time, by the word of a majority of voters. A record without one is a
//! claim by whoever sent it.

use std::collections::{BTreeMap, BTreeSet};

use gtvp_model::union::{MemberId, RecordHead, RosterEntry, UnionId, UnixTime};
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::act::MAX_VOTERS;
use super::entry::{Signature, Signatures};
use crate::fields;
use crate::frame::wire::{List, id};
use crate::planted::{Check, check};

const LABEL: &[u8] = b"gtvp-head/1\0";

/// What voters sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Head {
    /// The union.
    #[cbor(n(0), with = "id")]
    pub union: UnionId,
    /// The last entry.
    #[cbor(n(1), with = "fields::head")]
    pub at: RecordHead,
    /// Not before this time was it the last: each voter signs no time that its own clock has not reached.
    /// Of a [`CoSigned`] head: what a majority has signed, or later.
    #[cbor(n(2), with = "fields::time")]
    pub time: UnixTime,
}

impl Head {
    /// What a voter signs.
    pub fn signed_content(&self) -> Vec<u8> {
        [
            LABEL,
            self.union.as_bytes(),
            &self.at.number.to_be_bytes(),
            &self.at.hash.0,
            &self.time.0.to_be_bytes(),
        ]
        .concat()
    }
}

/// One voter's word. Clocks differ, so each voter has a time of its own.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Vote {
    /// Who.
    #[cbor(n(0), with = "id")]
    pub voter: MemberId,
    /// The time of the head that it signed.
    #[cbor(n(1), with = "fields::time")]
    pub time: UnixTime,
    /// Over [`Head::signed_content`].
    #[n(2)]
    pub signature: Signature,
}

/// A head with the voters' words for it. Not checked by itself: see [`CoSigned::check`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct CoSigned {
    /// The head.
    #[n(0)]
    pub head: Head,
    /// One a voter.
    #[n(1)]
    pub votes: List<Vote, MAX_VOTERS>,
}

/// A head that is not to be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    /// Of another union.
    #[error("the head is of another union")]
    OtherUnion,
    /// Not enough voters stand behind it.
    #[error("{have} of {of} voters signed the head, {need} are a majority")]
    NoMajority {
        /// Distinct voters whose signatures hold.
        have: usize,
        /// Voters.
        of: usize,
        /// A majority of them.
        need: usize,
    },
}

impl CoSigned {
    /// Checks that a majority of `voters` has signed this head with its time or a later one.
    ///
    /// # Errors
    /// [`BadHead`].
    pub fn check(
        &self,
        union: UnionId,
        voters: &BTreeSet<MemberId>,
        members: &BTreeMap<MemberId, RosterEntry>,
        signatures: &dyn Signatures,
    ) -> Result<(), BadHead> {
        if self.head.union != union {
            return Err(BadHead::OtherUnion);
        }
        let holds = |vote: &&Vote| {
            let content = Head { time: vote.time, ..self.head }.signed_content();
            voters.contains(&vote.voter)
                && check(Check::HeadSigned, vote.time >= self.head.time, || ()).is_ok()
                && members.get(&vote.voter).is_some_and(|m| vote.signature.is_by(m, &content, signatures))
        };
        let have = self.votes.as_slice().iter().filter(holds).map(|v| v.voter).collect::<BTreeSet<_>>().len();
        let need = voters.len() / 2 + 1;
        if have < need { Err(BadHead::NoMajority { have, of: voters.len(), need }) } else { Ok(()) }
    }
}
