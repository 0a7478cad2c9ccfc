//! An EK's key material and its fingerprint, from a certificate or from a TPM's public area.

use gtvp_model::digest::Digest;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::{PublicKey, RSAPublicKey};
use x509_parser::x509::SubjectPublicKeyInfo;

use super::EkRefusal;
use crate::tpm::{Curve, KeyKind, Public};

/// id-RSAES-OAEP: some vendors name their keys by what they are for.
const RSAES_OAEP: &str = "1.2.840.113549.1.1.7";

/// ASN.1's tag; the parser would read other values as one.
const OBJECT_IDENTIFIER: u32 = 6;

/// Key material of an EK, whatever it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EkKey {
    /// An uncompressed point.
    Ecc(Curve, Vec<u8>),
    /// Modulus without leading zeros, exponent.
    Rsa(Vec<u8>, u32),
}

/// The fingerprint of an EK, as an administrator writes it down: SHA-256 of the DER SubjectPublicKeyInfo, which is what
/// `openssl x509 -pubkey | openssl pkey -pubin -outform der | sha256sum` gives for its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pin(pub Digest);

impl Pin {
    /// Whether `public` is the pinned EK.
    pub fn check(&self, public: &Public) -> Result<(), EkRefusal> {
        let got = EkKey::of_public(public).fingerprint().0;
        if got == self.0 { Ok(()) } else { Err(EkRefusal::NotPinned { got, want: self.0 }) }
    }
}

impl EkKey {
    /// Of a TPM's public area.
    pub fn of_public(public: &Public) -> Self {
        match &public.key {
            KeyKind::Ecc { curve, point } => Self::Ecc(*curve, point.clone()),
            KeyKind::Rsa { modulus, exponent, .. } => Self::Rsa(modulus.clone(), *exponent),
        }
    }

    /// Of a certificate. EK certificates may name rsaEncryption or RSAES-OAEP (TPM 1.2 vendors did).
    pub(super) fn of_spki(spki: &SubjectPublicKeyInfo<'_>) -> Result<Self, EkRefusal> {
        match spki.parsed() {
            Ok(PublicKey::RSA(rsa)) => Self::of_rsa(&rsa),
            Ok(PublicKey::Unknown(der)) if spki.algorithm.algorithm.to_id_string() == RSAES_OAEP => {
                match RSAPublicKey::from_der(der) {
                    Ok((_, rsa)) => Self::of_rsa(&rsa),
                    Err(_) => Err(EkRefusal::Key("it is malformed")),
                }
            }
            Ok(PublicKey::EC(point)) => {
                // Some vendors write the curve's parameters out; then its size must do.
                let named = spki.algorithm.parameters.as_ref().filter(|p| p.tag().0 == OBJECT_IDENTIFIER);
                let named = named.and_then(|p| p.as_oid().ok());
                let named = named.map(|oid| oid.to_id_string());
                let is = |oid| named.as_deref().is_none_or(|n| n == oid);
                match point.data() {
                    p @ [0x04, ..] if p.len() == 65 && is("1.2.840.10045.3.1.7") => {
                        Ok(Self::Ecc(Curve::P256, p.to_vec()))
                    }
                    p @ [0x04, ..] if p.len() == 97 && is("1.3.132.0.34") => {
                        Ok(Self::Ecc(Curve::P384, p.to_vec()))
                    }
                    _ => Err(EkRefusal::Key("its point is not on P-256 or P-384, or compressed")),
                }
            }
            _ => Err(EkRefusal::Key("it is neither RSA nor ECC")),
        }
    }

    fn of_rsa(rsa: &RSAPublicKey<'_>) -> Result<Self, EkRefusal> {
        let modulus: Vec<u8> = rsa.modulus.iter().copied().skip_while(|b| *b == 0).collect();
        if ![256, 384, 512].contains(&modulus.len()) {
            return Err(EkRefusal::Key("its length is not 2048, 3072 or 4096 bits"));
        }
        let exponent = rsa.exponent.iter().copied().skip_while(|b| *b == 0);
        let exponent = exponent.fold(0u64, |e, b| e.saturating_mul(256).saturating_add(b.into()));
        u32::try_from(exponent)
            .map(|e| Self::Rsa(modulus, e))
            .map_err(|_| EkRefusal::Key("its exponent is longer than a TPM's"))
    }

    /// Its fingerprint.
    pub fn fingerprint(&self) -> Pin {
        Pin(Digest(sha256(&self.spki())))
    }

    /// SubjectPublicKeyInfo in DER (RFC 5280 §4.1.2.7, RFC 3279 §2.3).
    pub fn spki(&self) -> Vec<u8> {
        const RSA: &[u8] = &[0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
        const P256: &[u8] = &[
            0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7,
        ];
        const P384: &[u8] =
            &[0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 0x22];
        let (algorithm, key) = match self {
            Self::Ecc(Curve::P256, point) => (P256, point.clone()),
            Self::Ecc(Curve::P384, point) => (P384, point.clone()),
            Self::Rsa(modulus, exponent) => {
                let e: Vec<u8> = exponent.to_be_bytes().into_iter().skip_while(|b| *b == 0).collect();
                (RSA, der(0x30, &[integer(modulus), integer(&e)].concat()))
            }
        };
        let bits = der(0x03, &[&[0], key.as_slice()].concat());
        der(0x30, &[algorithm, &bits].concat())
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Digest::of(bytes).0
}

fn integer(number: &[u8]) -> Vec<u8> {
    let sign = number.first().is_none_or(|b| *b >= 0x80);
    der(0x02, &[if sign { &[0][..] } else { &[] }, number].concat())
}

/// One DER value; keys are below 64 KiB.
fn der(tag: u8, body: &[u8]) -> Vec<u8> {
    let [_, _, high, low] = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut out = vec![tag];
    match (high, low) {
        (0, 0..=0x7f) => out.push(low),
        (0, _) => out.extend([0x81, low]),
        _ => out.extend([0x82, high, low]),
    }
    out.extend_from_slice(body);
    out
}
