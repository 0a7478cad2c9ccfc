//! Appraisal: evidence, a question and reference values in; a verdict out.
//!
//! The order is docs/spec/evidence.md's, and each step rests on the ones before it: the key is the member's · it signed ·
//! the quote answers this question · the TPM's epoch goes on · the logs give the quoted PCRs · every entry is healthy.
//! The first step that fails ends the rest, and those are told as not made.
//!
//! Nothing here asks whether somebody *may* be trusted with less: what a verdict leaves unchecked stands in it.

mod entries;
mod failure;
mod held;
mod logs;
#[cfg(any(test, feature = "planted"))]
pub mod planted;
#[cfg(not(any(test, feature = "planted")))]
mod planted;
mod quote;
mod verdict;

pub use failure::{Failure, LogEntryRef, LogName};
pub use held::Held;
pub use verdict::{Check, Heads, NotMade, State, Told, Verdict};

use serde::{Deserialize, Serialize};

use crate::evidence::Evidence;
use crate::reference::ReferenceSet;
use crate::tpm::{ClockInfo, KeyRefusal, Malformed, Name, Public, SignatureRefusal, VerifyingKey, check_ak};

/// What kind of TPM a member has, as the record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TpmClass {
    /// A TPM whose EK leads to a vendor, or that was pinned as hardware.
    Hardware,
    /// swtpm: the host's root owns it.
    Software,
}

/// The key that evidence must be from.
#[derive(Debug)]
pub struct Attester {
    public: Vec<u8>,
    name: Name,
    key: VerifyingKey,
    class: TpmClass,
}

/// Why a key cannot be an attester's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttesterRefusal {
    /// Its public area is malformed.
    #[error("the attestation key's public area is malformed")]
    Malformed(#[from] Malformed),
    /// It is no AK.
    #[error("the key is no attestation key")]
    Key(#[from] KeyRefusal),
    /// It cannot be verified with.
    #[error("the attestation key is not usable")]
    Unusable(#[from] SignatureRefusal),
}

impl Attester {
    /// From an AK's public area (contents of TPM2B_PUBLIC) and the record's word for its TPM.
    pub fn new(public: &[u8], class: TpmClass) -> Result<Self, AttesterRefusal> {
        let parsed = Public::parse(public)?;
        check_ak(&parsed)?;
        let key = VerifyingKey::of(&parsed)?;
        Ok(Self { public: public.to_vec(), name: *parsed.name(), key, class })
    }

    /// The AK's Name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The AK, to verify with.
    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }
}

/// Where the attester's key is known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownFrom {
    /// The union's record: the key was activated by an EK that was admitted.
    Record,
    /// The evidence itself, offline: nobody vouches for the key, so the state is unknown at best.
    Claim,
}

/// What the quote must answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding<'a> {
    /// Exactly this qualifyingData.
    Qualifying(&'a [u8]),
    /// Anything, offline: the evidence may be old, so the state is unknown at best.
    NotChecked,
}

/// What is asked of the evidence.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Whose it must be.
    pub attester: &'a Attester,
    /// Where that key is known from.
    pub known_from: KnownFrom,
    /// What it must answer.
    pub binding: Binding<'a>,
    /// What was appraised of this member before, in one session: the epoch must be the same, and logs may go on from
    /// there. `None` for a first appraisal.
    pub held: Option<&'a Held>,
    /// The newest clock that this key has shown in any session: a TPM does not go back to an older life. `None` if none is known.
    pub newest: Option<ClockInfo>,
}

/// A verdict, and what to hold for the next appraisal.
#[derive(Debug, Clone)]
pub struct Appraisal {
    /// The verdict.
    pub verdict: Verdict,
    /// Only after a trusted verdict.
    pub held: Option<Held>,
}

/// Appraises `evidence`. `now` in seconds since 1970, for the verdict's time.
pub fn appraise(
    evidence: &Evidence,
    question: &Question<'_>,
    references: &ReferenceSet,
    now: i64,
) -> Appraisal {
    let attester = question.attester;
    let mut verdict = Verdict::new(attester.name, references.digest(), now);
    if attester.class == TpmClass::Software {
        verdict.not_made.push(NotMade::SoftwareTpm);
    }
    let held = match steps(evidence, question, references, &mut verdict) {
        Ok(held) => Some(held),
        Err(failure) => {
            verdict.failed.push(failure);
            None
        }
    };
    verdict.conclude();
    let held = held.filter(|_| verdict.state == State::Trusted);
    Appraisal { verdict, held }
}

fn steps(
    evidence: &Evidence,
    question: &Question<'_>,
    references: &ReferenceSet,
    verdict: &mut Verdict,
) -> Result<Held, Failure> {
    let question = &Question { held: question.held.filter(|h| h.ak == question.attester.name), ..*question };
    let quote = quote::check(evidence, question, verdict)?;
    // Logs that were judged by other reference values are judged again, whole.
    let held = question.held.filter(|h| h.references == references.digest());
    logs::check(evidence, &quote, held, references, verdict)
}

#[cfg(test)]
mod attacks;
