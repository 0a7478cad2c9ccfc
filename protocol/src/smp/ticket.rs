//! What both ends of a migration sign before anything is built: which box, in which epoch, from where to where, of what, on which
//! channel, by whose verdicts, and until when.
//!
//! A ticket moves nothing by itself: the record does, by [`Terms`](crate::csp::owner::Terms) that name the ticket and the state.

use gtvp_model::digest::Digest;
use gtvp_model::owner::{BoxId, OwnerEpoch};
use gtvp_model::union::{Epoch, MemberId, UnionId, UnionView, UnixTime};
use minicbor::{Decode, Encode};

use crate::csp::{Signature, Signatures};
use crate::fields;
use crate::frame::wire::{self, BodyFault, id};
use crate::planted::{Check, check};

/// For how long a ticket may be good, seconds: a box of many GiB over a slow link. Whoever signs puts less.
pub const MAX_LIFE: u64 = 6 * 3600;
/// How far the clocks of two members may be apart, seconds: as with results.
pub const SKEW: u64 = 60;
/// Stands in front of what is signed: nothing else that the key signs begins so.
const LABEL: &[u8] = b"gtvp-ticket/1\0";
const VERSION: u8 = 1;

/// A ticket.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Ticket {
    /// Of this form: 1.
    #[n(0)]
    pub version: u8,
    /// The union.
    #[cbor(n(1), with = "id")]
    pub union: UnionId,
    /// The box.
    #[cbor(n(2), with = "id")]
    pub id: BoxId,
    /// In this epoch of it.
    #[cbor(n(3), with = "fields::owner_epoch")]
    pub epoch: OwnerEpoch,
    /// Where it is.
    #[cbor(n(4), with = "id")]
    pub source: MemberId,
    /// Where it goes.
    #[cbor(n(5), with = "id")]
    pub target: MemberId,
    /// What its root is made of.
    #[cbor(n(6), with = "fields::digest")]
    pub composition: Digest,
    /// The policy that permitted it: the union's epoch, until policies have their own.
    #[cbor(n(7), with = "fields::epoch")]
    pub policy: Epoch,
    /// The attested channel that it is signed on: its exporter's digest.
    #[cbor(n(8), with = "fields::digest")]
    pub channel: Digest,
    /// Not good from then on, until the target has promised.
    #[cbor(n(9), with = "fields::time")]
    pub expires: UnixTime,
    /// The template that state is sent against; none: it is sent in full.
    #[n(10)]
    pub template: Option<Hash>,
    /// Digest of the target's attestation result that the source went by.
    #[cbor(n(11), with = "fields::digest")]
    pub target_result: Digest,
    /// Digest of the source's attestation result that the target goes by; of the evidence, where it appraised that itself.
    #[cbor(n(12), with = "fields::digest")]
    pub source_result: Digest,
    /// Random: no two tickets are the same.
    #[n(13)]
    pub nonce: Hash,
}

/// 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Hash(#[cbor(n(0), with = "id")] pub [u8; 32]);

/// A ticket with what was signed of it so far.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SignedTicket {
    /// What is signed.
    #[n(0)]
    pub ticket: Ticket,
    /// By the source's identity key, over [`Ticket::signed_content`].
    #[n(1)]
    pub source: Signature,
    /// By the target's, over the same.
    #[n(2)]
    pub target: Option<Signature>,
}

/// Why a ticket is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketRefusal {
    /// Not of the form.
    #[error("it is no ticket: {0}")]
    Form(#[from] BodyFault),
    /// Of another version.
    #[error("the ticket is of version {0}, this member reads version {VERSION}")]
    Version(u8),
    /// Of another union.
    #[error("the ticket is of another union")]
    OtherUnion,
    /// It does not come from its source.
    #[error("the ticket's source is {0}, which is not who sent it")]
    Source(MemberId),
    /// It is for somebody else.
    #[error("the ticket is for {0}, not for this member")]
    Target(MemberId),
    /// It was signed on another channel.
    #[error("the ticket is bound to another channel: it was passed on, or used before")]
    Channel,
    /// Its source does not own the box.
    #[error(
        "the record does not have the box as the source's in epoch {0}: it has moved, ended, or this member's record is behind"
    )]
    NotOwner(OwnerEpoch),
    /// The union has changed since.
    #[error(
        "the ticket was permitted in epoch {have} of the union, which is in {now}: ask for a permit again"
    )]
    Policy {
        /// The ticket's.
        have: Epoch,
        /// The record's.
        now: Epoch,
    },
    /// Too late.
    #[error("the ticket expired at {0}")]
    Expired(UnixTime),
    /// It would be good for too long.
    #[error("the ticket would be good until {0}, longer than {MAX_LIFE} s")]
    Life(UnixTime),
    /// A member's signature does not hold.
    #[error("the {0}'s signature does not stand behind the ticket")]
    Signature(&'static str),
}

/// What a target knows before it takes a ticket.
pub struct Known<'a> {
    /// This member.
    pub own: MemberId,
    /// Who is at the other end of the channel.
    pub peer: MemberId,
    /// The channel.
    pub channel: Digest,
    /// The record.
    pub view: &'a UnionView,
    /// The time.
    pub now: UnixTime,
    /// Checks signatures.
    pub signatures: &'a dyn Signatures,
}

impl Ticket {
    /// What both sign.
    pub fn signed_content(&self) -> Vec<u8> {
        [LABEL, &wire::encode(self)].concat()
    }

    /// Names it in the record and in messages.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.signed_content())
    }

    /// Checks everything that can be checked of a ticket that came, but the target's own signature.
    ///
    /// # Errors
    /// [`TicketRefusal`].
    pub fn check(&self, by: &Signature, known: &Known<'_>) -> Result<(), TicketRefusal> {
        if self.version != VERSION {
            return Err(TicketRefusal::Version(self.version));
        }
        let view = known.view;
        check(Check::TicketUnion, self.union == view.union, || TicketRefusal::OtherUnion)?;
        check(Check::TicketSource, self.source == known.peer, || TicketRefusal::Source(self.source))?;
        check(Check::TicketTarget, self.target == known.own, || TicketRefusal::Target(self.target))?;
        check(Check::TicketChannel, self.channel == known.channel, || TicketRefusal::Channel)?;
        let owns = view.boxes.get(&self.id).is_some_and(|b| b.owner == self.source && b.epoch == self.epoch);
        check(Check::TicketOwner, owns, || TicketRefusal::NotOwner(self.epoch))?;
        let refusal = || TicketRefusal::Policy { have: self.policy, now: view.epoch };
        check(Check::TicketPolicy, self.policy == view.epoch, refusal)?;
        let now = known.now.0;
        check(Check::TicketExpiry, now < self.expires.0, || TicketRefusal::Expired(self.expires))?;
        let life = self.expires.0 <= now.saturating_add(MAX_LIFE + SKEW);
        check(Check::TicketExpiry, life, || TicketRefusal::Life(self.expires))?;
        self.signed(by, self.source, "source", view, known.signatures)
    }

    /// Checks one end's signature.
    ///
    /// # Errors
    /// [`TicketRefusal::Signature`].
    pub fn signed(
        &self,
        by: &Signature,
        member: MemberId,
        end: &'static str,
        view: &UnionView,
        signatures: &dyn Signatures,
    ) -> Result<(), TicketRefusal> {
        let entry = view.members.get(&member);
        let good = entry.is_some_and(|m| by.is_by(m, &self.signed_content(), signatures));
        check(Check::TicketSignature, good, || TicketRefusal::Signature(end))
    }
}
