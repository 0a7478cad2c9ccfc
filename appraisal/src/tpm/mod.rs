//! TPM 2.0 structures from their raw bytes ("TPM 2.0 Library, Part 2: Structures", rev. 1.59): public areas and Names,
//! attestations, signatures, and what keys must be to be believed.
//!
//! The bytes are the contents of TPM2B_PUBLIC and TPM2B_ATTEST, and a TPMT_SIGNATURE. Nothing here talks to a TPM, and
//! signatures are verified over the bytes as they came, never over a re-encoding.

mod attest;
mod pcr;
mod public;
mod rules;
mod signature;

pub use attest::{Attest, Attested, ClockInfo, Epoch};
pub use pcr::{MAX_PCR, PcrIndex, PcrSelection, PcrValues};
pub use public::{Attributes, Curve, KeyKind, Name, Public, Scheme};
pub use rules::{KeyRefusal, check_ak, check_ak_certified, check_ek, check_tls_key};
pub use signature::{Signature, SignatureRefusal, VerifyingKey};

use crate::reader::Short;

/// Longest TPM structure taken: an RSA-4096 public area or signature is below 700 bytes, NV contents below 2 KiB.
pub const MAX_STRUCTURE: usize = 4096;

/// Why bytes are no such TPM structure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Longer than [`MAX_STRUCTURE`].
    #[error("{0} bytes are longer than any TPM structure")]
    TooLong(usize),
    /// The bytes end inside a field.
    #[error("cut at byte {at}: {what} needs {need} bytes, {have} are there")]
    Cut {
        /// The field.
        what: &'static str,
        /// Offset of the field.
        at: usize,
        /// Its length.
        need: usize,
        /// What is left.
        have: usize,
    },
    /// Bytes follow the structure.
    #[error("{0} bytes follow the structure")]
    Trailing(usize),
    /// A field has a value that the specification does not give it, or that GTVP has no use for.
    #[error("{what} is 0x{value:x}, which is not usable")]
    Value {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// Not made by a TPM: the magic number is not TPM_GENERATED_VALUE.
    #[error("the attestation does not start with TPM_GENERATED: not made inside a TPM")]
    NotTpmGenerated,
}

impl From<Short> for Malformed {
    fn from(s: Short) -> Self {
        Self::Cut { what: s.what, at: s.at, need: s.need, have: s.have }
    }
}

/// A reader of one structure, which must fill `bytes` exactly.
fn whole<'a, T>(
    bytes: &'a [u8],
    parse: impl FnOnce(&mut crate::reader::Reader<'a>) -> Result<T, Malformed>,
) -> Result<T, Malformed> {
    if bytes.len() > MAX_STRUCTURE {
        return Err(Malformed::TooLong(bytes.len()));
    }
    let mut reader = crate::reader::Reader::new(bytes);
    let value = parse(&mut reader)?;
    match reader.rest().len() {
        0 => Ok(value),
        n => Err(Malformed::Trailing(n)),
    }
}

/// A TPM2B: length, then that many bytes.
fn sized<'a>(r: &mut crate::reader::Reader<'a>, what: &'static str) -> Result<&'a [u8], Malformed> {
    let len = r.u16_be(what)?;
    Ok(r.take(len.into(), what)?)
}

fn bad<T>(what: &'static str, value: impl Into<u64>) -> Result<T, Malformed> {
    Err(Malformed::Value { what, value: value.into() })
}
