//! What goes into the engines and what comes out of them.
//!
//! Commands are carried out in their order; a `Persist` stands before the `Send` that depends on it, and a command that
//! fails keeps the ones after it from being carried out. An outcome comes back with the number of its request.

use gtvp_model::digest::Digest;
use gtvp_model::token::TokenId;
use gtvp_model::union::{
    Admission, KeyName, RecordHead, RosterEntry, SpkiDigest, UnionId, UnionView, UnixTime,
};

use serde::{Deserialize, Serialize};

use super::binding::Binding;
use super::channel::AttestedChannel;
use super::join::{CheckedKeys, CredentialSecret, JoinBinding};
use super::logs::LogDelta;
use super::message::{Ask, Certification, Credential, Evidence, JoinKeys, Message, Pcr};
use super::refusal::{Refusal, Rejection};
use crate::Untrusted;
use crate::frame::Frame;
use crate::hsp::message::Path;

/// Milliseconds of a clock that never goes back (CLOCK_BOOTTIME). Means nothing on another member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// So much later.
    pub fn after(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

/// What an engine may know beside the event.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// For deadlines.
    pub now: Millis,
    /// For the expiry of tokens, and nothing else: it may be wrong.
    pub wall: UnixTime,
    /// The union as this member has checked it.
    pub view: &'a UnionView,
}

/// A command that has an outcome, by its number in this session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Request(pub u32);

/// What appraisal made of evidence that it believes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appraisal {
    /// Digest of the attestation result.
    pub result: Digest,
}

/// Evidence with everything that it must fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appraisable {
    /// Whose it must be: the AK is this one's, or it is refused.
    pub of: RosterEntry,
    /// The quote.
    pub evidence: Untrusted<Evidence>,
    /// The logs behind it.
    pub logs: Vec<LogDelta>,
    /// What it must be bound to: its qualifyingData is `binding.qualifying_data(&evidence.path)`.
    pub binding: Binding,
    /// What was asked.
    pub ask: Ask,
}

/// Our own TPM's quote and what it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnEvidence {
    /// TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// The quoted PCRs.
    pub pcrs: Vec<Pcr>,
    /// From the binding's leaf to the quoted root.
    pub path: Path,
    /// TPMT_PUBLIC of the attestation key.
    pub ak: Vec<u8>,
    /// The logs, from where the challenger has them.
    pub logs: Vec<LogDelta>,
}

/// What must survive a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Durable {
    /// This server has asked to be admitted with these keys: if it is asked to join again, with these. It is no member.
    Intent {
        /// The union.
        union: UnionId,
        /// By which token.
        token: TokenId,
        /// The entry that it will have.
        entry: Box<RosterEntry>,
    },
    /// This server is a member: the record says so.
    Membership {
        /// The union.
        union: UnionId,
        /// Its entry.
        entry: Box<RosterEntry>,
        /// The record's head with it.
        head: RecordHead,
    },
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Send it.
    Send(Message),
    /// Have the TPM quote.
    Quote {
        /// Its number.
        request: Request,
        /// The leaf.
        binding: Box<Binding>,
        /// What is asked.
        ask: Ask,
    },
    /// Appraise a peer's evidence.
    Appraise {
        /// Its number.
        request: Request,
        /// What.
        what: Box<Appraisable>,
    },
    /// The channel is open.
    Established(AttestedChannel),
    /// The peer's evidence of a later round is believed.
    Renewed(Appraisal),
    /// Check a joiner's EK, AK and TLS key, and that the last is `spki`.
    AppraiseKeys {
        /// Its number.
        request: Request,
        /// What the joiner says.
        keys: Box<Untrusted<JoinKeys>>,
        /// The key that TLS showed.
        spki: SpkiDigest,
    },
    /// Make a credential for an AK that its EK can open.
    MakeCredential {
        /// Its number.
        request: Request,
        /// TPMT_PUBLIC of the EK.
        ek: Vec<u8>,
        /// The AK.
        ak: KeyName,
    },
    /// Open a credential in our TPM.
    ActivateCredential {
        /// Its number.
        request: Request,
        /// What the verifier sent.
        credential: Box<Untrusted<Credential>>,
    },
    /// Have our AK certify our TLS key.
    Certify {
        /// Its number.
        request: Request,
        /// What it is bound to.
        binding: Box<JoinBinding>,
    },
    /// Check what a joiner proves its keys by: that it has opened the credential, and a certification.
    AppraiseCertification {
        /// Its number.
        request: Request,
        /// HMAC by the credential's secret, which stays where the credential was made.
        proof: [u8; 32],
        /// What the joiner sent.
        certification: Box<Untrusted<Certification>>,
        /// What it must be bound to.
        binding: Box<JoinBinding>,
        /// By which key, of which.
        keys: Box<CheckedKeys>,
    },
    /// Take a piece of the record; after the last, check it from `from` and say what it comes to.
    LearnRecord {
        /// Its number; the same for all pieces.
        request: Request,
        /// Where the union's record begins: its hash.
        union: UnionId,
        /// What is known to be in it.
        from: RecordHead,
        /// What it must come to.
        to: RecordHead,
        /// Its bytes.
        piece: Untrusted<Vec<u8>>,
        /// Nothing follows.
        last: bool,
    },
    /// Send the record as `Record` messages.
    SendRecord {
        /// From this entry, which the peer has.
        from: u64,
        /// Up to this one.
        to: RecordHead,
    },
    /// Put one entry into the record.
    Commit {
        /// Its number.
        request: Request,
        /// The entry.
        admission: Box<Admission>,
    },
    /// Write it down before going on.
    Persist(Durable),
    /// The connection is over; nothing that it made is of use any more.
    Close(Refusal),
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The peer sent something.
    Frame(Frame),
    /// Outcome of [`Command::Quote`].
    Quoted {
        /// Of which.
        request: Request,
        /// The quote, or why there is none.
        outcome: Result<Box<OwnEvidence>, String>,
    },
    /// Outcome of [`Command::Appraise`].
    Appraised {
        /// Of which.
        request: Request,
        /// Believed, or why not.
        outcome: Result<Appraisal, Rejection>,
    },
    /// It is time for fresh evidence.
    Renew {
        /// 32 random bytes, once.
        nonce: [u8; 32],
        /// What is wanted: the logs that are held have grown.
        ask: Ask,
    },
    /// The union's record went on: look at the context again.
    ViewChanged,
    /// Time went on.
    Tick,
    /// The connection ended.
    Lost,
    /// A [`Command::Persist`] failed; what stood after it was not carried out.
    NotPersisted {
        /// Why.
        why: String,
    },
    /// This side wants to end it.
    End,
    /// Outcome of [`Command::AppraiseKeys`].
    KeysAppraised {
        /// Of which.
        request: Request,
        /// The keys, or why not.
        outcome: Result<Box<CheckedKeys>, Rejection>,
    },
    /// Outcome of [`Command::MakeCredential`].
    CredentialMade {
        /// Of which.
        request: Request,
        /// The credential.
        outcome: Result<Box<Credential>, String>,
    },
    /// Outcome of [`Command::ActivateCredential`].
    Activated {
        /// Of which.
        request: Request,
        /// The secret.
        outcome: Result<CredentialSecret, String>,
    },
    /// Outcome of [`Command::Certify`].
    Certified {
        /// Of which.
        request: Request,
        /// The certification.
        outcome: Result<Box<Certification>, String>,
    },
    /// Outcome of [`Command::AppraiseCertification`].
    CertificationAppraised {
        /// Of which.
        request: Request,
        /// Believed, or why not.
        outcome: Result<(), Rejection>,
    },
    /// Outcome of [`Command::LearnRecord`] after its last piece.
    RecordLearned {
        /// Of which.
        request: Request,
        /// The union, or why the record is not believed.
        outcome: Result<Box<UnionView>, String>,
    },
    /// Outcome of [`Command::Commit`].
    Committed {
        /// Of which.
        request: Request,
        /// The head with the entry in it, or why it is not there and never will be.
        outcome: Result<RecordHead, String>,
    },
}

/// A transition: the next state, and what to do.
#[derive(Debug)]
pub struct Step<S> {
    /// The state that the event led to.
    pub next: S,
    /// To be carried out in this order.
    pub commands: Vec<Command>,
}

impl<S> Step<S> {
    /// A state without anything to do.
    pub fn stay(next: S) -> Self {
        Self { next, commands: Vec::new() }
    }

    /// The same commands, another state.
    pub fn map<T>(self, f: impl FnOnce(S) -> T) -> Step<T> {
        Step { next: f(self.next), commands: self.commands }
    }
}

/// Number of the next request.
pub(super) fn next(counter: &mut u32) -> Request {
    *counter = counter.wrapping_add(1);
    Request(*counter)
}

impl Refusal {
    /// What the peer is told of it; nothing if it has gone or has refused itself.
    pub fn told(&self) -> Option<Message> {
        if matches!(self, Self::Lost | Self::PeerRefused { .. }) {
            return None;
        }
        let mut reason = self.to_string().into_bytes();
        reason.truncate(super::message::MAX_REASON);
        let refuse = super::message::Refuse { code: self.code(), reason: reason.try_into().ok()? };
        Some(refuse.into())
    }
}

/// What is said and done when a state ends by a refusal.
pub(super) fn farewell(refusal: &Refusal) -> Vec<Command> {
    refusal.told().map(Command::Send).into_iter().chain([Command::Close(refusal.clone())]).collect()
}

/// A peer's refusal, in words that can be shown.
pub(super) fn refused(refuse: &super::message::Refuse) -> Refusal {
    let reason = String::from_utf8_lossy(refuse.reason.as_slice());
    let reason = reason.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    Refusal::PeerRefused { code: refuse.code, reason }
}
