//! TPMT_SIGNATURE (Part 2 §11.3.4) and its verification over raw bytes: ECDSA (P-256, P-384), RSASSA and RSAPSS.
//!
//! SHA-1 signatures are parsed, so that old evidence can be shown, and refused.

use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{self as aws, ParsedPublicKey, UnparsedPublicKey};

use super::{Curve, KeyKind, Malformed, Public, Scheme, bad, sized, whole};
use crate::alg::HashAlg;
use crate::reader::Reader;

/// A parsed signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signature {
    /// ECDSA: r and s, big-endian, without a fixed length.
    Ecdsa {
        /// Hash of the message.
        hash: HashAlg,
        /// r.
        r: Vec<u8>,
        /// s.
        s: Vec<u8>,
    },
    /// RSASSA-PKCS1-v1_5.
    RsaSsa {
        /// Hash of the message.
        hash: HashAlg,
        /// The signature.
        signature: Vec<u8>,
    },
    /// RSASSA-PSS.
    RsaPss {
        /// Hash of the message.
        hash: HashAlg,
        /// The signature.
        signature: Vec<u8>,
    },
}

impl Signature {
    /// A signature from a TPMT_SIGNATURE.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        whole(bytes, |r| match r.u16_be("sigAlg")? {
            0x0018 => {
                let hash = hash(r)?;
                Ok(Self::Ecdsa {
                    hash,
                    r: sized(r, "signatureR")?.to_vec(),
                    s: sized(r, "signatureS")?.to_vec(),
                })
            }
            0x0014 => Ok(Self::RsaSsa { hash: hash(r)?, signature: sized(r, "sig")?.to_vec() }),
            0x0016 => Ok(Self::RsaPss { hash: hash(r)?, signature: sized(r, "sig")?.to_vec() }),
            other => bad("sigAlg", other),
        })
    }

    /// The hash of the signed message, with which a quote also digests its PCRs.
    pub fn hash(&self) -> HashAlg {
        match self {
            Self::Ecdsa { hash, .. } | Self::RsaSsa { hash, .. } | Self::RsaPss { hash, .. } => *hash,
        }
    }

    fn scheme(&self) -> Scheme {
        match self {
            Self::Ecdsa { hash, .. } => Scheme::Ecdsa(*hash),
            Self::RsaSsa { hash, .. } => Scheme::RsaSsa(*hash),
            Self::RsaPss { hash, .. } => Scheme::RsaPss(*hash),
        }
    }
}

fn hash(r: &mut Reader<'_>) -> Result<HashAlg, Malformed> {
    let id = r.u16_be("signature hash")?;
    HashAlg::from_id(id).map_or_else(|| bad("signature hash", id), Ok)
}

/// Why a signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureRefusal {
    /// SHA-1, in which collisions can be made.
    #[error("the signature is over a SHA-1 digest")]
    Sha1,
    /// The key is bound to another scheme, or is of another type.
    #[error("the signature's scheme {got:?} is not the key's {want:?}")]
    OtherScheme {
        /// Of the signature.
        got: Scheme,
        /// Of the key.
        want: Scheme,
    },
    /// r or s is longer than the curve allows.
    #[error("the signature's numbers are longer than the curve's")]
    TooLong,
    /// The public key is no usable key: not on its curve, or not an RSA modulus.
    #[error("the public key is not usable")]
    BadKey,
    /// The signature was not made by this key over these bytes.
    #[error("the signature does not verify")]
    Wrong,
}

/// A public key that is ready to verify with: parsed once, used for each quote.
#[derive(Debug)]
pub struct VerifyingKey {
    kind: Kind,
    scheme: Scheme,
}

#[derive(Debug)]
enum Kind {
    Ecc { curve: Curve, key: ParsedPublicKey, point: Vec<u8> },
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
}

impl VerifyingKey {
    /// Of a public area. That it is an AK is for [`super::check_ak`] to say.
    pub fn of(public: &Public) -> Result<Self, SignatureRefusal> {
        let kind = match &public.key {
            KeyKind::Ecc { curve, point } => {
                let algorithm = match curve {
                    Curve::P256 => &aws::ECDSA_P256_SHA256_FIXED,
                    Curve::P384 => &aws::ECDSA_P384_SHA384_FIXED,
                };
                let key = ParsedPublicKey::new(algorithm, point).map_err(|_| SignatureRefusal::BadKey)?;
                Kind::Ecc { curve: *curve, key, point: point.clone() }
            }
            KeyKind::Rsa { exponent, modulus, .. } => {
                let exponent = exponent.to_be_bytes().iter().copied().skip_while(|b| *b == 0).collect();
                Kind::Rsa { modulus: modulus.clone(), exponent }
            }
        };
        Ok(Self { kind, scheme: public.scheme })
    }

    /// Verifies `signature` over `message` as it came.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), SignatureRefusal> {
        if !signature.hash().is_trusted() {
            return Err(SignatureRefusal::Sha1);
        }
        let other = || SignatureRefusal::OtherScheme { got: signature.scheme(), want: self.scheme };
        if self.scheme != Scheme::Any && self.scheme != signature.scheme() {
            return Err(other());
        }
        match (&self.kind, signature) {
            (Kind::Ecc { curve, key, point }, Signature::Ecdsa { hash, r, s }) => {
                let fixed = fixed(*curve, r, s)?;
                let algorithm = match (curve, hash) {
                    (Curve::P256, HashAlg::Sha256) | (Curve::P384, HashAlg::Sha384) => {
                        return key.verify_sig(message, &fixed).map_err(|_| SignatureRefusal::Wrong);
                    }
                    (Curve::P256, HashAlg::Sha384) => &aws::ECDSA_P256_SHA384_ASN1,
                    (Curve::P256, HashAlg::Sha512) => &aws::ECDSA_P256_SHA512_ASN1,
                    (Curve::P384, HashAlg::Sha256) => &aws::ECDSA_P384_SHA256_ASN1,
                    (Curve::P384, HashAlg::Sha512) => &aws::ECDSA_P384_SHA512_ASN1,
                    (_, HashAlg::Sha1) => return Err(SignatureRefusal::Sha1),
                };
                UnparsedPublicKey::new(algorithm, point)
                    .verify(message, &der(r, s))
                    .map_err(|_| SignatureRefusal::Wrong)
            }
            (Kind::Rsa { modulus, exponent }, Signature::RsaSsa { hash, signature }) => {
                let algorithm = match hash {
                    HashAlg::Sha256 => &aws::RSA_PKCS1_2048_8192_SHA256,
                    HashAlg::Sha384 => &aws::RSA_PKCS1_2048_8192_SHA384,
                    HashAlg::Sha512 => &aws::RSA_PKCS1_2048_8192_SHA512,
                    HashAlg::Sha1 => return Err(SignatureRefusal::Sha1),
                };
                rsa(modulus, exponent, algorithm, message, signature)
            }
            (Kind::Rsa { modulus, exponent }, Signature::RsaPss { hash, signature }) => {
                let algorithm = match hash {
                    HashAlg::Sha256 => &aws::RSA_PSS_2048_8192_SHA256,
                    HashAlg::Sha384 => &aws::RSA_PSS_2048_8192_SHA384,
                    HashAlg::Sha512 => &aws::RSA_PSS_2048_8192_SHA512,
                    HashAlg::Sha1 => return Err(SignatureRefusal::Sha1),
                };
                rsa(modulus, exponent, algorithm, message, signature)
            }
            _ => Err(other()),
        }
    }
}

fn rsa(
    modulus: &[u8],
    exponent: &[u8],
    algorithm: &'static aws::RsaParameters,
    message: &[u8],
    signature: &[u8],
) -> Result<(), SignatureRefusal> {
    PublicKeyComponents { n: modulus, e: exponent }
        .verify(algorithm, message, signature)
        .map_err(|_| SignatureRefusal::Wrong)
}

/// r ‖ s, each padded to the curve's length.
fn fixed(curve: Curve, r: &[u8], s: &[u8]) -> Result<Vec<u8>, SignatureRefusal> {
    let mut out = Vec::with_capacity(2 * curve.size());
    for number in [r, s] {
        let pad = curve.size().checked_sub(number.len()).ok_or(SignatureRefusal::TooLong)?;
        out.resize(out.len() + pad, 0);
        out.extend_from_slice(number);
    }
    Ok(out)
}

/// ECDSA-Sig-Value (RFC 3279 §2.2.3). Both numbers are at most 48 bytes, so every length fits one byte.
fn der(r: &[u8], s: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for number in [r, s] {
        let number: Vec<u8> = number.iter().copied().skip_while(|b| *b == 0).collect();
        let sign = number.first().is_none_or(|b| *b >= 0x80);
        body.push(0x02);
        body.push((number.len() + usize::from(sign)) as u8);
        body.extend(sign.then_some(0));
        body.extend(number);
    }
    let mut out = vec![0x30, body.len() as u8];
    out.extend(body);
    out
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

    use super::*;

    #[test]
    fn der_of_r_and_s_is_what_verifiers_read() {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let verifier = UnparsedPublicKey::new(&aws::ECDSA_P256_SHA256_ASN1, key.public_key());
        // Leading zeros and high bits come up often enough.
        for n in 0..600u32 {
            let fixed = key.sign(&SystemRandom::new(), &n.to_be_bytes()).unwrap();
            let (r, s) = fixed.as_ref().split_at(32);
            verifier.verify(&n.to_be_bytes(), &der(r, s)).unwrap();
            assert_eq!(super::fixed(Curve::P256, r, s).unwrap(), fixed.as_ref());
        }
    }
}
