//! TPMT_PUBLIC (Part 2 §12.2.4) and the Name of an object (Part 1 §16). ECC P-256/P-384 and RSA keys only.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Malformed, bad, sized, whole};
use crate::alg::{HashAlg, LogDigest};
use crate::reader::Reader;

const ALG_NULL: u16 = 0x0010;

/// TPMA_OBJECT (Part 2 §8.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes(u32);

macro_rules! attributes {
    ($($(#[$doc:meta])* $name:ident = $bit:literal;)*) => {
        impl Attributes {
            const KNOWN: u32 = 0 $(| 1 << $bit)*;
            $($(#[$doc])* pub fn $name(self) -> bool { self.0 & (1 << $bit) != 0 })*
        }
    };
}

attributes! {
    /// The key never leaves its TPM by duplication.
    fixed_tpm = 1;
    /// Saved contexts die with a TPM Reset.
    st_clear = 2;
    /// The parent never changes.
    fixed_parent = 4;
    /// The TPM made the private part itself.
    sensitive_data_origin = 5;
    /// The auth value allows use.
    user_with_auth = 6;
    /// Admin actions need the policy.
    admin_with_policy = 7;
    /// Not under dictionary-attack protection.
    no_da = 10;
    /// Duplication is always encrypted.
    encrypted_duplication = 11;
    /// Only signs what the TPM made, or only decrypts what has the TPM's structure.
    restricted = 16;
    /// May decrypt.
    decrypt = 17;
    /// May sign.
    sign = 18;
    /// Signs X.509 only.
    x509_sign = 19;
}

impl Attributes {
    /// The bits as the TPM gave them.
    pub fn bits(self) -> u32 {
        self.0
    }
}

/// The Name of a TPM object: nameAlg ‖ H(public area).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Name(LogDigest);

impl Name {
    /// From TPM2B_NAME contents. Handles (4 bytes) and empty names are no object's name.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let id = r.u16_be("name algorithm")?;
        let Some(alg) = HashAlg::from_id(id) else { return bad("name algorithm", id) };
        match LogDigest::new(alg, r.rest()) {
            Ok(d) => Ok(Self(d)),
            Err(_) => bad("name length", bytes.len() as u64),
        }
    }

    /// As TPM2B_NAME contents.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.0.alg().id().to_be_bytes().to_vec();
        out.extend_from_slice(self.0.as_bytes());
        out
    }

    /// Its digest.
    pub fn digest(&self) -> &LogDigest {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// TPM_ECC_CURVE, those that GTVP verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
}

impl Curve {
    /// Length of one coordinate, in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }
}

/// The key itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyKind {
    /// A point: 0x04 ‖ x ‖ y, each coordinate padded to the curve's length (SEC 1 §2.3.3).
    Ecc {
        /// Its curve.
        curve: Curve,
        /// The uncompressed point.
        point: Vec<u8>,
    },
    /// A modulus.
    Rsa {
        /// Length of the modulus in bits.
        bits: u16,
        /// Public exponent.
        exponent: u32,
        /// The modulus, big-endian.
        modulus: Vec<u8>,
    },
}

/// The signing scheme that a key is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// None: chosen at each use.
    Any,
    /// ECDSA with this hash.
    Ecdsa(HashAlg),
    /// RSASSA-PKCS1-v1_5 with this hash.
    RsaSsa(HashAlg),
    /// RSASSA-PSS with this hash.
    RsaPss(HashAlg),
    /// Some other scheme: its TPM_ALG_ID.
    Other(u16),
}

/// A checked public area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Public {
    /// Algorithm of the Name.
    pub name_alg: HashAlg,
    /// What the key may do and where it came from.
    pub attributes: Attributes,
    /// Digest of the policy that authorizes use; empty if there is none.
    pub auth_policy: Vec<u8>,
    /// Bound scheme.
    pub scheme: Scheme,
    /// Whether it is a storage key: has a symmetric algorithm for its children.
    pub has_symmetric: bool,
    /// Key material.
    pub key: KeyKind,
    name: Name,
}

impl Public {
    /// A public area from the contents of a TPM2B_PUBLIC.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        whole(bytes, |r| {
            let kind = r.u16_be("type")?;
            let id = r.u16_be("nameAlg")?;
            let Some(name_alg) = HashAlg::from_id(id) else { return bad("nameAlg", id) };
            let bits = r.u32_be("objectAttributes")?;
            if bits & !Attributes::KNOWN != 0 {
                return bad("objectAttributes", bits);
            }
            let auth_policy = sized(r, "authPolicy")?.to_vec();
            let has_symmetric = symmetric(r)?;
            let (scheme, key) = match kind {
                0x0001 => rsa(r)?,
                0x0023 => ecc(r)?,
                other => return bad("type", other),
            };
            let name = Name(name_alg.hash(bytes));
            Ok(Self { name_alg, attributes: Attributes(bits), auth_policy, scheme, has_symmetric, key, name })
        })
    }

    /// The object's Name, over the bytes that were parsed.
    pub fn name(&self) -> &Name {
        &self.name
    }
}

/// TPMT_SYM_DEF_OBJECT: whether there is one.
fn symmetric(r: &mut Reader<'_>) -> Result<bool, Malformed> {
    match r.u16_be("symmetric")? {
        ALG_NULL => Ok(false),
        // AES, SM4, Camellia: key bits and mode follow.
        0x0006 | 0x0013 | 0x0026 => {
            r.u16_be("symmetric.keyBits")?;
            r.u16_be("symmetric.mode")?;
            Ok(true)
        }
        other => bad("symmetric", other),
    }
}

fn scheme_hash(r: &mut Reader<'_>) -> Result<Option<HashAlg>, Malformed> {
    Ok(HashAlg::from_id(r.u16_be("scheme.hashAlg")?))
}

/// TPMT_RSA_SCHEME and TPMT_ECC_SCHEME (Part 2 §11.2.4.2, §11.2.5.6).
fn scheme(r: &mut Reader<'_>) -> Result<Scheme, Malformed> {
    let id = r.u16_be("scheme")?;
    match id {
        ALG_NULL => Ok(Scheme::Any),
        // RSAES has no details.
        0x0015 => Ok(Scheme::Other(id)),
        0x0014 => Ok(scheme_hash(r)?.map_or(Scheme::Other(id), Scheme::RsaSsa)),
        0x0016 => Ok(scheme_hash(r)?.map_or(Scheme::Other(id), Scheme::RsaPss)),
        0x0018 => Ok(scheme_hash(r)?.map_or(Scheme::Other(id), Scheme::Ecdsa)),
        // OAEP, ECDH, SM2, EC-Schnorr, ECMQV: a hash.
        0x0017 | 0x0019 | 0x001b | 0x001c | 0x001d => {
            scheme_hash(r)?;
            Ok(Scheme::Other(id))
        }
        // ECDAA: a hash and a count.
        0x001a => {
            scheme_hash(r)?;
            r.u16_be("scheme.count")?;
            Ok(Scheme::Other(id))
        }
        other => bad("scheme", other),
    }
}

fn rsa(r: &mut Reader<'_>) -> Result<(Scheme, KeyKind), Malformed> {
    let scheme = scheme(r)?;
    let bits = r.u16_be("keyBits")?;
    if ![2048, 3072, 4096].contains(&bits) {
        return bad("keyBits", bits);
    }
    let exponent = match r.u32_be("exponent")? {
        0 => 65537,
        e if e % 2 == 1 && e >= 65537 => e,
        e => return bad("exponent", e),
    };
    let modulus = sized(r, "modulus")?;
    if modulus.len() != usize::from(bits) / 8 || modulus.first().is_none_or(|b| *b < 0x80) {
        return bad("modulus length", modulus.len() as u64);
    }
    Ok((scheme, KeyKind::Rsa { bits, exponent, modulus: modulus.to_vec() }))
}

fn ecc(r: &mut Reader<'_>) -> Result<(Scheme, KeyKind), Malformed> {
    let scheme = scheme(r)?;
    let curve = match r.u16_be("curveID")? {
        0x0003 => Curve::P256,
        0x0004 => Curve::P384,
        other => return bad("curveID", other),
    };
    if r.u16_be("kdf")? != ALG_NULL {
        r.u16_be("kdf.hashAlg")?;
    }
    let mut point = vec![0x04];
    for what in ["x", "y"] {
        let coordinate = sized(r, what)?;
        // Some TPMs leave leading zeros out.
        let Some(pad) = curve.size().checked_sub(coordinate.len()) else {
            return bad("coordinate length", coordinate.len() as u64);
        };
        point.resize(point.len() + pad, 0);
        point.extend_from_slice(coordinate);
    }
    Ok((scheme, KeyKind::Ecc { curve, point }))
}
