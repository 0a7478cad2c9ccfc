//! Files that are healthy because a key has signed them: the signature in `security.ima` (evmctl's version 2), which the templates `ima-sig`,
//! `ima-sigv2` and `ima-modsig` bring along. It stands for each version of each file that the key has ever signed, so old ones too.
//! Signatures of fs-verity digests (version 3) and appended ones (modsig) are not looked at.

use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::signature::{self as aws, UnparsedPublicKey, VerificationAlgorithm};
use gtvp_model::hex::{hex, unhex};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Pattern, Status};
use crate::alg::{HashAlg, LogDigest};

/// Longest key, SubjectPublicKeyInfo in DER: RSA of 8192 bits.
const MAX_KEY: usize = 1100;

/// A key, SubjectPublicKeyInfo in DER; hexadecimal where it is text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignerKey(pub Vec<u8>);

impl Serialize for SignerKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for SignerKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let bytes = Some(&text).filter(|t| t.len() <= 2 * MAX_KEY).and_then(unhex);
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom("a key is hexadecimal, 1100 bytes at most"))
    }
}

/// Files that this key has signed are healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignerRule {
    /// Which key: RSA of 2048 bits and more, or ECDSA on P-256 or P-384.
    pub key: SignerKey,
    /// The path that a file must have; anywhere if none.
    pub path: Option<Pattern>,
    /// Whose key it is, for people.
    pub about: String,
    /// Now or next.
    pub status: Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
}

type Algorithm = &'static dyn VerificationAlgorithm;

impl Kind {
    fn algorithm(self, hash: HashAlg) -> Option<Algorithm> {
        Some(match (self, hash) {
            (Self::Rsa, HashAlg::Sha256) => &aws::RSA_PKCS1_2048_8192_SHA256,
            (Self::Rsa, HashAlg::Sha384) => &aws::RSA_PKCS1_2048_8192_SHA384,
            (Self::Rsa, HashAlg::Sha512) => &aws::RSA_PKCS1_2048_8192_SHA512,
            (Self::P256, HashAlg::Sha256) => &aws::ECDSA_P256_SHA256_ASN1,
            (Self::P256, HashAlg::Sha384) => &aws::ECDSA_P256_SHA384_ASN1,
            (Self::P384, HashAlg::Sha256) => &aws::ECDSA_P384_SHA256_ASN1,
            (Self::P384, HashAlg::Sha384) => &aws::ECDSA_P384_SHA384_ASN1,
            _ => return None,
        })
    }
}

impl SignerKey {
    /// Of which kind it is; none for a key that is not usable.
    fn kind(&self) -> Option<Kind> {
        [Kind::Rsa, Kind::P256, Kind::P384].into_iter().find(|kind| {
            let algorithm = kind.algorithm(HashAlg::Sha256);
            algorithm.is_some_and(|a| UnparsedPublicKey::new(a, &self.0).parse().is_ok())
        })
    }

    /// Whether signatures can be checked with it.
    pub(super) fn is_usable(&self) -> bool {
        self.0.len() <= MAX_KEY && self.kind().is_some()
    }
}

impl SignerRule {
    /// Whether this signature, as `security.ima` has it, is the key's over a file with this digest.
    pub(super) fn has_signed(&self, file: &LogDigest, signature: &[u8]) -> bool {
        let Some((hash, signature)) = parts(signature) else { return false };
        if hash != file.alg() {
            return false;
        }
        let algorithm: &'static digest::Algorithm = match hash {
            HashAlg::Sha256 => &digest::SHA256,
            HashAlg::Sha384 => &digest::SHA384,
            _ => &digest::SHA512,
        };
        let Ok(digest) = Digest::import_less_safe(file.as_bytes(), algorithm) else { return false };
        let by = self.key.kind().and_then(|kind| kind.algorithm(hash));
        by.is_some_and(|by| UnparsedPublicKey::new(by, &self.key.0).verify_digest(&digest, signature).is_ok())
    }
}

/// struct signature_v2_hdr of the kernel (security/integrity/integrity.h): type 3, version 2, hash algorithm (enum hash_algo), key id, length.
/// The key id is not looked at: that the key signed it is what counts.
fn parts(bytes: &[u8]) -> Option<(HashAlg, &[u8])> {
    let [3, 2, hash, _, _, _, _, high, low, signature @ ..] = bytes else { return None };
    let hash = match hash {
        4 => HashAlg::Sha256,
        5 => HashAlg::Sha384,
        6 => HashAlg::Sha512,
        _ => return None,
    };
    (signature.len() == usize::from(u16::from_be_bytes([*high, *low]))).then_some((hash, signature))
}
