//! What a verifier keeps of a member between appraisals, so that continuous attestation sends and replays only what is
//! new.

use gtvp_model::digest::Digest;
use serde::{Deserialize, Serialize};

use super::NotMade;
use super::verdict::Heads;
use crate::alg::LogDigest;
use crate::ima::ImaState;
use crate::tpm::{ClockInfo, Name, PcrValues};

/// State after a trusted verdict. It is the verifier's own: never taken from the member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Whose. Of another key it counts for nothing.
    pub ak: Name,
    /// By which reference values the logs so far were judged.
    pub references: Digest,
    /// The TPM's clock then.
    pub clock: ClockInfo,
    /// How much of each log was appraised.
    pub heads: Heads,
    /// Values that the boot log left, of every PCR.
    pub(super) boot: PcrValues,
    /// Where IMA's replay stands, and entries so far.
    pub(super) ima: Option<(ImaState, u64)>,
    /// Where GTVP's own log stands, and entries so far.
    pub(super) own: Option<(LogDigest, u64)>,
    /// Required parts that were seen.
    pub(super) parts: u64,
    /// What was not checked of the logs so far.
    pub(super) not_made: Vec<NotMade>,
}

impl Held {
    /// The same of another life of the TPM. For a new session, which accepts any: what is held of logs is their bytes and what they come
    /// to, and each quote says anew whether they do.
    #[must_use]
    pub fn reborn(self, clock: ClockInfo) -> Self {
        Self { clock, ..self }
    }
}
