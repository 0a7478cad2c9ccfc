//! Each check that is the only thing between an attack and its success has a name here, so that a test can leave it out
//! and see the attack succeed (`hsp/tests/attacks.rs`). Outside of tests and the simulator (feature `planted`) all of them are always made.

macro_rules! checks {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A check that an engine makes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Check { $($(#[$doc])* $name,)* }

        impl Check {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

checks! {
    /// The peer's hello is of this union.
    Union,
    /// The peer is not ourselves.
    NotOurselves,
    /// The peer's nonce is not the one that we sent.
    NonceEchoed,
    /// A round's nonce is not the one of the round before.
    NonceFresh,
    /// The peer is who was dialled.
    Dialled,
    /// TLS showed the key that the roster has for the peer.
    TlsKey,
    /// The peer's epoch is not far ahead of ours.
    EpochLead,
    /// A peer that does not say the same epoch gets the record and nothing else.
    EpochGrant,
    /// The peer asks for a bank that can be believed.
    AskedBank,
    /// Evidence has exactly the PCRs that were asked.
    PcrSelection,
    /// Only a member without a TPM sends no evidence, and only where the union takes such members.
    NoEvidence,
    /// An outcome belongs to the request that waits.
    Request,
    /// A peer that left the roster has no session.
    Evicted,
    /// A peer that does not answer in time has no session.
    Silence,
    /// The union has such a token.
    TokenKnown,
    /// The token has not expired, by our clock or the record's.
    TokenExpiry,
    /// The token was not used by somebody else.
    TokenUnused,
    /// The token is used by the TPM that it was made for.
    TokenEk,
    /// The joiner has the token, on this very channel.
    TokenProof,
    /// The verifier knows the token, on this very channel.
    VerifierProof,
    /// The union takes members of this class.
    Class,
    /// The member's name is free.
    NameFree,
    /// The TPM is not yet another member, or the same with the same keys.
    MemberFree,
    /// The keys are in the TPM that the EK names.
    Credential,
    /// The TLS key was certified by the AK.
    Certified,
    /// A verifier has a TPM.
    VerifierTpm,
    /// The token's secret was revealed.
    TokenSecret,
    /// The entry that admits us is ours, and the record has it.
    OwnEntry,
    /// An entry is of this union.
    EntryUnion,
    /// An entry is the next one.
    EntryNumber,
    /// An entry follows the last one.
    EntryChain,
    /// An entry is signed by its author.
    EntrySignature,
    /// The token of an admission is unused, in time and this TPM's, and its secret was shown.
    EntryToken,
    /// Nobody else has the keys or the name of who is admitted.
    EntryFree,
    /// Who is pinned is named by its token.
    EntryPin,
    /// A majority of voters stands behind a head.
    HeadMajority,
    /// Voters have signed the time of a head, or a later one.
    HeadSigned,
    /// An entry that replaces the voters is taken only if this member's administrator has said so.
    Recovery,
    /// Only members with a TPM change the union.
    AuthorTpm,
    /// No author has more entries written than its budget.
    EntryBudget,
    /// An entry's time is not ahead of the voters' clocks.
    EntryTime,
    /// A voter signs one entry a number.
    OnePromise,
    /// A voter promises nothing under the highest number that its TPM remembers.
    PromiseFloor,
    /// A voter that signed the next entry does not sign that this one is the last.
    LastPromise,
    /// A box changes hands in the epoch in which it is.
    OwnerEpoch,
    /// Only its owner moves, keeps or ends it.
    OwnerOnly,
    /// Only one of the two ends has a move written down.
    MoveEnds,
    /// Both ends have signed what moves.
    MoveConsent,
    /// Who has an owner is not adopted.
    Ownerless,
    /// A ticket is of this union.
    TicketUnion,
    /// It comes from its source.
    TicketSource,
    /// It is for this member.
    TicketTarget,
    /// It was signed on this channel.
    TicketChannel,
    /// Its source owns the box, in the ticket's epoch.
    TicketOwner,
    /// The union is as when it was permitted.
    TicketPolicy,
    /// It has not expired, and is not good for too long.
    TicketExpiry,
    /// Its ends have signed it.
    TicketSignature,
    /// A message is of the migration that it is taken for.
    MigrationTicket,
    /// What is taken is what the head is of.
    HeadEntries,
    /// A head is not of a time to come.
    HeadTime,
    /// An entry that changes who votes is the last of what one head covers.
    VotersLast,
    /// What gossip takes is newer than what is there.
    GossipVersion,
    /// It is signed by its author.
    GossipSignature,
    /// It has not ended, and does not last longer than it may.
    GossipEnded,
    /// It is by a member and about one.
    GossipMember,
    /// Its author has said no more than its budget.
    GossipAuthor,
    /// Who passes it on has said no more than its budget, and passed on nothing that was forged.
    GossipNeighbour,
    /// A link carries no more in a round than it may.
    GossipLink,
}

#[cfg(any(test, feature = "planted"))]
mod state {
    use std::cell::RefCell;

    use super::Check;

    thread_local! {
        static LEFT_OUT: RefCell<Vec<Check>> = const { RefCell::new(Vec::new()) };
    }

    /// Runs `f` on this thread with one check left out.
    pub fn without<R>(check: Check, f: impl FnOnce() -> R) -> R {
        without_all(&[check], f)
    }

    /// Runs `f` on this thread with these checks left out too.
    pub fn without_all<R>(checks: &[Check], f: impl FnOnce() -> R) -> R {
        struct Reset(usize);
        impl Drop for Reset {
            fn drop(&mut self) {
                LEFT_OUT.with_borrow_mut(|out| out.truncate(self.0));
            }
        }
        let before = LEFT_OUT.with_borrow_mut(|out| {
            let before = out.len();
            out.extend_from_slice(checks);
            before
        });
        let _reset = Reset(before);
        f()
    }

    pub(crate) fn left_out(check: Check) -> bool {
        LEFT_OUT.with_borrow(|out| out.contains(&check))
    }
}

#[cfg(any(test, feature = "planted"))]
use state::left_out;
#[cfg(any(test, feature = "planted"))]
pub use state::{without, without_all};

#[cfg(not(any(test, feature = "planted")))]
fn left_out(_: Check) -> bool {
    false
}

/// Refuses unless `good`.
pub(crate) fn check<E>(name: Check, good: bool, refusal: impl FnOnce() -> E) -> Result<(), E> {
    if good || left_out(name) { Ok(()) } else { Err(refusal()) }
}

/// Refuses unless `good`, always: what other checks would stop as well, later and by another name.
pub(crate) fn demand<E>(good: bool, refusal: impl FnOnce() -> E) -> Result<(), E> {
    if good { Ok(()) } else { Err(refusal()) }
}
