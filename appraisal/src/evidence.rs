//! Evidence: a quote, the values it is over, and the logs that explain them (docs/spec/evidence.md).
//!
//! As it is sent inside a session and as it stands in a file: deterministic CBOR with bounds. Nothing in it is believed
//! before [`crate::appraise`] has gone through it.

use serde::{Deserialize, Serialize};

use crate::alg::HashAlg;
use crate::cose::{from_cbor, to_cbor};
use crate::tpm::{MAX_STRUCTURE, PcrIndex, PcrValues};

/// Longest encoded evidence: the longest logs, and some room for the rest.
pub const MAX_EVIDENCE: usize =
    crate::bootlog::MAX_LOG + crate::ima::MAX_LOG + crate::ownlog::MAX_LOG + 64 * 1024;

/// Version of the format.
pub const VERSION: u8 = 1;

/// The PCRs that a quote must be over: firmware and boot loader (0 to 9), IMA (10) and GTVP's own log (14). Others may
/// be quoted too; what no log explains in them is told as not checked.
pub const QUOTED: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14];

/// [`QUOTED`] as PCRs.
pub fn quoted() -> impl Iterator<Item = PcrIndex> {
    QUOTED.into_iter().filter_map(PcrIndex::new)
}

/// A log, or the part that the verifier does not hold yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LogPart {
    /// The member has no such log.
    Absent,
    /// The log's bytes after the first `from`.
    From {
        /// How many bytes the verifier is expected to hold.
        from: u64,
        /// The rest.
        #[serde(with = "crate::bytes")]
        bytes: Vec<u8>,
    },
}

impl LogPart {
    /// A whole log.
    pub fn whole(bytes: Vec<u8>) -> Self {
        Self::From { from: 0, bytes }
    }
}

/// What a member shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// [`VERSION`].
    pub version: u8,
    /// AK: contents of its TPM2B_PUBLIC.
    #[serde(with = "crate::bytes")]
    pub ak: Vec<u8>,
    /// Contents of the quote's TPM2B_ATTEST.
    #[serde(with = "crate::bytes")]
    pub quote: Vec<u8>,
    /// TPMT_SIGNATURE over it.
    #[serde(with = "crate::bytes")]
    pub signature: Vec<u8>,
    /// Values of the quoted PCRs.
    pub pcrs: PcrValues,
    /// TCG boot log.
    pub boot: LogPart,
    /// IMA log, in either form.
    pub ima: LogPart,
    /// GTVP's own log.
    pub own: LogPart,
}

/// Why bytes are no evidence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEvidence {
    /// Longer than [`MAX_EVIDENCE`].
    #[error("{0} bytes are more than evidence may have ({MAX_EVIDENCE})")]
    TooLong(usize),
    /// Not CBOR of evidence.
    #[error("not evidence: {0}")]
    NotEvidence(String),
    /// Another version.
    #[error("evidence of version {0}; this is for version {VERSION}")]
    Version(u8),
    /// A part is longer than it may be.
    #[error("{what} has {len} bytes, at most {max} are taken")]
    PartTooLong {
        /// Which part.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The most.
        max: usize,
    },
}

impl Evidence {
    /// Evidence from its encoding.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadEvidence> {
        if bytes.len() > MAX_EVIDENCE {
            return Err(BadEvidence::TooLong(bytes.len()));
        }
        let evidence: Self = from_cbor(bytes).map_err(BadEvidence::NotEvidence)?;
        evidence.check()?;
        Ok(evidence)
    }

    /// Whether it is of this version and within its bounds.
    ///
    /// # Errors
    /// [`BadEvidence`].
    pub fn check(&self) -> Result<(), BadEvidence> {
        let evidence = self;
        if evidence.version != VERSION {
            return Err(BadEvidence::Version(evidence.version));
        }
        let log = |part: &LogPart| match part {
            LogPart::Absent => 0,
            LogPart::From { bytes, .. } => bytes.len(),
        };
        for (what, len, max) in [
            ("the AK", evidence.ak.len(), MAX_STRUCTURE),
            ("the quote", evidence.quote.len(), MAX_STRUCTURE),
            ("the signature", evidence.signature.len(), MAX_STRUCTURE),
            ("the boot log", log(&evidence.boot), crate::bootlog::MAX_LOG),
            ("the IMA log", log(&evidence.ima), crate::ima::MAX_LOG),
            ("the GTVP log", log(&evidence.own), crate::ownlog::MAX_LOG),
        ] {
            if len > max {
                return Err(BadEvidence::PartTooLong { what, len, max });
            }
        }
        Ok(())
    }

    /// Its encoding.
    pub fn encode(&self) -> Vec<u8> {
        to_cbor(self)
    }

    /// The bank that it is about.
    pub fn bank(&self) -> HashAlg {
        self.pcrs.bank()
    }
}
