//! COSE_Sign1 (RFC 9052 §4.2) over TPM keys: what is to be signed is handed out, the TPM's signature is put in.
//!
//! Only what GTVP signs with: ES256, ES384, RS256 and PS256, one signature, no detached payload, no critical headers.

use coset::iana;
use coset::{
    CoseSign1, CoseSign1Builder, Header, HeaderBuilder, RegisteredLabelWithPrivate, TaggedCborSerializable,
};

use crate::alg::HashAlg;
use crate::tpm::{Scheme, Signature, SignatureRefusal, VerifyingKey};

/// Why a signed object is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoseRefusal {
    /// Longer than such an object may be.
    #[error("{len} bytes, more than {max}")]
    TooLong {
        /// Its length.
        len: usize,
        /// The most allowed.
        max: usize,
    },
    /// Not a COSE_Sign1.
    #[error("not a COSE_Sign1: {0}")]
    NotCose(String),
    /// A header that GTVP does not understand, or that is missing.
    #[error("header {0} is missing or not understood")]
    Header(&'static str),
    /// Something else is signed.
    #[error("it is a {got:?}, not a {want:?}")]
    OtherContent {
        /// Content type found.
        got: String,
        /// Content type wanted.
        want: &'static str,
    },
    /// No algorithm of COSE for this key.
    #[error("the key's scheme has no COSE algorithm here")]
    Scheme,
    /// Signed by another key than the one that should.
    #[error("it names another key as its signer")]
    OtherSigner,
    /// The signature does not count.
    #[error("its signature does not count")]
    Signature(#[from] SignatureRefusal),
}

/// An object that waits for its signature.
#[derive(Debug, Clone)]
pub struct Unsigned {
    sign1: CoseSign1,
    algorithm: iana::Algorithm,
}

fn algorithm(scheme: Scheme) -> Option<iana::Algorithm> {
    match scheme {
        Scheme::Ecdsa(HashAlg::Sha256) => Some(iana::Algorithm::ES256),
        Scheme::Ecdsa(HashAlg::Sha384) => Some(iana::Algorithm::ES384),
        Scheme::RsaSsa(HashAlg::Sha256) => Some(iana::Algorithm::RS256),
        Scheme::RsaPss(HashAlg::Sha256) => Some(iana::Algorithm::PS256),
        _ => None,
    }
}

impl Unsigned {
    /// `payload` as `content` (a media type), to be signed with `scheme` by the key that `signer` names (a TPM Name's
    /// bytes).
    pub fn new(
        content: &'static str,
        payload: Vec<u8>,
        scheme: Scheme,
        signer: &[u8],
    ) -> Result<Self, CoseRefusal> {
        let algorithm = algorithm(scheme).ok_or(CoseRefusal::Scheme)?;
        let protected = HeaderBuilder::new()
            .algorithm(algorithm)
            .content_type(content.to_owned())
            .key_id(signer.to_vec())
            .build();
        Ok(Self { sign1: CoseSign1Builder::new().protected(protected).payload(payload).build(), algorithm })
    }

    /// The bytes to sign: Sig_structure. They never begin like a TPM's own attestations, so a restricted key signs them
    /// after TPM2_Hash.
    pub fn to_be_signed(&self) -> Vec<u8> {
        self.sign1.tbs_data(&[])
    }

    /// The finished object, with a TPM's signature over [`Self::to_be_signed`].
    pub fn signed(mut self, signature: &Signature) -> Result<Vec<u8>, CoseRefusal> {
        let size = match self.algorithm {
            iana::Algorithm::ES384 => 48,
            _ => 32,
        };
        self.sign1.signature = match signature {
            Signature::Ecdsa { r, s, .. } => {
                let mut out = Vec::new();
                for n in [r, s] {
                    let pad = size_left(size, n.len())?;
                    out.resize(out.len() + pad, 0);
                    out.extend_from_slice(n);
                }
                out
            }
            Signature::RsaSsa { signature, .. } | Signature::RsaPss { signature, .. } => signature.clone(),
        };
        self.sign1.to_tagged_vec().map_err(|e| CoseRefusal::NotCose(e.to_string()))
    }
}

fn size_left(size: usize, len: usize) -> Result<usize, CoseRefusal> {
    size.checked_sub(len).ok_or(CoseRefusal::Signature(SignatureRefusal::TooLong))
}

/// An object that was read and not yet believed.
#[derive(Debug)]
pub struct Sealed {
    sign1: CoseSign1,
    signer: Vec<u8>,
    algorithm: iana::Algorithm,
}

impl Sealed {
    /// Reads an object of type `content` of at most `max` bytes.
    pub fn parse(bytes: &[u8], content: &'static str, max: usize) -> Result<Self, CoseRefusal> {
        if bytes.len() > max {
            return Err(CoseRefusal::TooLong { len: bytes.len(), max });
        }
        let sign1 = CoseSign1::from_tagged_slice(bytes).map_err(|e| CoseRefusal::NotCose(e.to_string()))?;
        if sign1.unprotected != Header::default() {
            return Err(CoseRefusal::Header("unprotected"));
        }
        let header = &sign1.protected.header;
        if !header.crit.is_empty() || !header.rest.is_empty() {
            return Err(CoseRefusal::Header("critical"));
        }
        match &header.content_type {
            Some(coset::ContentType::Text(got)) if got == content => {}
            Some(coset::ContentType::Text(got)) => {
                let got = got.chars().take(80).collect();
                return Err(CoseRefusal::OtherContent { got, want: content });
            }
            _ => return Err(CoseRefusal::Header("content type")),
        }
        let algorithm = match &header.alg {
            Some(RegisteredLabelWithPrivate::Assigned(a)) => *a,
            _ => return Err(CoseRefusal::Header("algorithm")),
        };
        let signer = header.key_id.clone();
        if signer.is_empty() {
            return Err(CoseRefusal::Header("key id"));
        }
        Ok(Self { sign1, signer, algorithm })
    }

    /// The key that it names as its signer. Unproven.
    pub fn signer(&self) -> &[u8] {
        &self.signer
    }

    /// Its payload, if `key`, known as `name`, signed it.
    pub fn open(&self, key: &VerifyingKey, name: &[u8]) -> Result<&[u8], CoseRefusal> {
        if self.signer != name {
            return Err(CoseRefusal::OtherSigner);
        }
        let sig = &self.sign1.signature;
        let ecdsa = |hash, size| match sig.split_at_checked(size) {
            Some((r, s)) if s.len() == size => Ok(Signature::Ecdsa { hash, r: r.to_vec(), s: s.to_vec() }),
            _ => Err(CoseRefusal::Signature(SignatureRefusal::Wrong)),
        };
        let signature = match self.algorithm {
            iana::Algorithm::ES256 => ecdsa(HashAlg::Sha256, 32)?,
            iana::Algorithm::ES384 => ecdsa(HashAlg::Sha384, 48)?,
            iana::Algorithm::RS256 => Signature::RsaSsa { hash: HashAlg::Sha256, signature: sig.clone() },
            iana::Algorithm::PS256 => Signature::RsaPss { hash: HashAlg::Sha256, signature: sig.clone() },
            _ => return Err(CoseRefusal::Header("algorithm")),
        };
        key.verify(&self.sign1.tbs_data(&[]), &signature)?;
        self.sign1.payload.as_deref().ok_or(CoseRefusal::Header("payload"))
    }
}

/// Deterministic CBOR of a value, as signed payloads are.
pub(crate) fn to_cbor<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    // Writing to a vector cannot fail, and the values are this crate's own.
    let _ = ciborium::into_writer(value, &mut out);
    out
}

/// A value from all of `bytes`.
pub(crate) fn from_cbor<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let mut rest = bytes;
    let value = ciborium::from_reader(&mut rest).map_err(|e| match e {
        ciborium::de::Error::Io(_) => "it ends too early".to_owned(),
        ciborium::de::Error::Syntax(at) => format!("no CBOR at byte {at}"),
        ciborium::de::Error::Semantic(_, why) => why.chars().take(200).collect(),
        ciborium::de::Error::RecursionLimitExceeded => "it is nested too deep".to_owned(),
    })?;
    if rest.is_empty() { Ok(value) } else { Err(format!("{} bytes follow", rest.len())) }
}

/// The COSE algorithm's number, for the specification's test.
#[cfg(test)]
fn number(scheme: Scheme) -> Option<i64> {
    use coset::iana::EnumI64;
    algorithm(scheme).map(|a| a.to_i64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_are_those_of_the_specification() {
        assert_eq!(number(Scheme::Ecdsa(HashAlg::Sha256)), Some(-7));
        assert_eq!(number(Scheme::RsaSsa(HashAlg::Sha256)), Some(-257));
        assert_eq!(number(Scheme::RsaPss(HashAlg::Sha256)), Some(-37));
        assert_eq!(number(Scheme::Any), None);
    }
}
