//! Hash algorithms by their TCG identifiers, digests that know their algorithm, and the PCR extend operation.
//!
//! Only what this crate can compute is a [`HashAlg`]. Logs may carry other algorithms (SM3, SHA-3); those are skipped
//! by the size that the log's own header gives, never guessed.

use gtvp_model::hex::unhex;
use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

/// The longest digest of any supported algorithm, in bytes.
pub const MAX_DIGEST: usize = 64;

/// A hash algorithm of the TCG Algorithm Registry (section 6.10) that GTVP computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HashAlg {
    /// TPM_ALG_SHA1, 0x0004. Parsed and replayed, never trusted.
    Sha1,
    /// TPM_ALG_SHA256, 0x000B.
    Sha256,
    /// TPM_ALG_SHA384, 0x000C.
    Sha384,
    /// TPM_ALG_SHA512, 0x000D.
    Sha512,
}

impl HashAlg {
    /// All of them, weakest first.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The algorithm with this TPM_ALG_ID, if GTVP computes it.
    pub fn from_id(id: u16) -> Option<Self> {
        match id {
            0x0004 => Some(Self::Sha1),
            0x000b => Some(Self::Sha256),
            0x000c => Some(Self::Sha384),
            0x000d => Some(Self::Sha512),
            _ => None,
        }
    }

    /// The TPM_ALG_ID.
    pub fn id(self) -> u16 {
        match self {
            Self::Sha1 => 0x0004,
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
            Self::Sha512 => 0x000d,
        }
    }

    /// Length of its digests, in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Whether collisions in it are out of reach: what a PCR bank or a signature must have to be trusted.
    pub fn is_trusted(self) -> bool {
        self != Self::Sha1
    }

    /// Lower-case name, as Linux writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    fn aws(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }

    /// The digest of `bytes`.
    pub fn hash(self, bytes: &[u8]) -> LogDigest {
        LogDigest::computed(self, digest::digest(self.aws(), bytes).as_ref())
    }

    /// The digest of `parts`, one after the other.
    pub fn hash_parts(self, parts: &[&[u8]]) -> LogDigest {
        let mut context = digest::Context::new(self.aws());
        parts.iter().for_each(|p| context.update(p));
        LogDigest::computed(self, context.finish().as_ref())
    }
}

impl fmt::Display for HashAlg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A digest and the algorithm that made it. Always of that algorithm's length.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct LogDigest {
    alg: HashAlg,
    bytes: [u8; MAX_DIGEST],
}

/// Why bytes or text are no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDigest {
    /// The length is not the algorithm's.
    #[error("a {alg} digest has {want} bytes, not {got}", want = alg.size())]
    Length {
        /// The algorithm.
        alg: HashAlg,
        /// The length found.
        got: usize,
    },
    /// Not `algorithm:hexadecimal`.
    #[error("{0:?} is not ALGORITHM:HEXADECIMAL")]
    Text(String),
}

impl LogDigest {
    /// A digest from its bytes.
    pub fn new(alg: HashAlg, bytes: &[u8]) -> Result<Self, BadDigest> {
        if bytes.len() != alg.size() {
            return Err(BadDigest::Length { alg, got: bytes.len() });
        }
        Ok(Self::computed(alg, bytes))
    }

    /// All bytes the same: what PCRs start with.
    pub fn filled(alg: HashAlg, byte: u8) -> Self {
        Self::computed(alg, &[byte; MAX_DIGEST])
    }

    /// Takes the first bytes of `bytes`; what is missing stays zero.
    pub(crate) fn computed(alg: HashAlg, bytes: &[u8]) -> Self {
        let mut out = Self { alg, bytes: [0; MAX_DIGEST] };
        out.bytes.iter_mut().take(alg.size()).zip(bytes).for_each(|(to, from)| *to = *from);
        out
    }

    /// The algorithm.
    pub fn alg(&self) -> HashAlg {
        self.alg
    }

    /// The digest's bytes, as many as the algorithm gives.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.alg.size()).unwrap_or(&self.bytes)
    }

    /// Whether every byte is `byte`.
    pub fn is_filled(&self, byte: u8) -> bool {
        self.as_bytes().iter().all(|b| *b == byte)
    }

    /// TPM2_PCR_Extend: H(self ‖ digest). `digest` must be of the same bank, else `None`.
    #[must_use]
    pub fn extended(&self, digest: &LogDigest) -> Option<Self> {
        if digest.alg != self.alg {
            return None;
        }
        self.extended_by(digest.as_bytes())
    }

    /// The same, with the digest's bytes. `None` if there are not as many as the bank's digests have.
    #[inline]
    pub(crate) fn extended_by(&self, digest: &[u8]) -> Option<Self> {
        let size = self.alg.size();
        if digest.len() != size {
            return None;
        }
        let mut both = [0u8; 2 * MAX_DIGEST];
        both.get_mut(..size)?.copy_from_slice(self.as_bytes());
        both.get_mut(size..2 * size)?.copy_from_slice(digest);
        Some(self.alg.hash(both.get(..2 * size)?))
    }
}

impl fmt::Display for LogDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.alg)?;
        self.as_bytes().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for LogDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for LogDigest {
    type Err = BadDigest;
    fn from_str(s: &str) -> Result<Self, BadDigest> {
        let bad = || BadDigest::Text(s.chars().take(160).collect());
        let (alg, hex) = s.split_once(':').ok_or_else(bad)?;
        let alg = HashAlg::ALL.into_iter().find(|a| a.name() == alg).ok_or_else(bad)?;
        Self::new(alg, &unhex(hex).ok_or_else(bad)?)
    }
}

/// How a digest travels in CBOR: TPM_ALG_ID, bytes.
#[derive(Serialize, Deserialize)]
struct Bytes(u16, #[serde(with = "crate::bytes")] Vec<u8>);

impl From<LogDigest> for Bytes {
    fn from(d: LogDigest) -> Self {
        Self(d.alg.id(), d.as_bytes().to_vec())
    }
}

impl TryFrom<Bytes> for LogDigest {
    type Error = String;
    fn try_from(b: Bytes) -> Result<Self, String> {
        let alg = HashAlg::from_id(b.0).ok_or_else(|| format!("unknown hash algorithm 0x{:04x}", b.0))?;
        Self::new(alg, &b.1).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extend_is_the_hash_of_both() {
        let zero = LogDigest::filled(HashAlg::Sha256, 0);
        let one = zero.extended(&HashAlg::Sha256.hash(&[0; 4])).unwrap();
        // PCR 2 of every machine that only measured a separator into it.
        assert_eq!(
            one.to_string(),
            "sha256:3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969"
        );
        assert!(zero.extended(&HashAlg::Sha1.hash(&[0; 4])).is_none());
    }

    #[test]
    fn text_and_digest_agree() {
        let d = HashAlg::Sha384.hash(b"x");
        assert_eq!(d.to_string().parse::<LogDigest>().unwrap(), d);
        for bad in ["", "sha256:", "sha256:00", "md5:00", "sha1:zz00000000000000000000000000000000000000"] {
            assert!(bad.parse::<LogDigest>().is_err(), "{bad}");
        }
    }
}
