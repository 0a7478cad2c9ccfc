//! Certificates by hand: as DER wants them, and as it does not.

#![allow(dead_code, clippy::unwrap_used, reason = "each test uses some of it; a test that cannot go on ends")]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use gtvp_appraisal::ek::{EkRefusal, Roots, VerifiedEk, verify};

pub const NOW: i64 = 1_795_500_000;

pub fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut out = vec![tag];
    match body.len() {
        n @ 0..=0x7f => out.push(n as u8),
        n @ 0x80..=0xff => out.extend([0x81, n as u8]),
        n => out.extend([0x82, (n >> 8) as u8, n as u8]),
    }
    out.extend(body);
    out
}

pub fn seq(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, parts)
}

/// An object identifier from its arcs.
pub fn oid(text: &str) -> Vec<u8> {
    let arcs: Vec<u32> = text.split('.').map(|a| a.parse().unwrap()).collect();
    let mut body = vec![(arcs[0] * 40 + arcs[1]) as u8];
    for arc in &arcs[2..] {
        let mut bytes = vec![(arc & 0x7f) as u8];
        let mut rest = arc >> 7;
        while rest > 0 {
            bytes.insert(0, 0x80 | (rest & 0x7f) as u8);
            rest >>= 7;
        }
        body.extend(bytes);
    }
    tlv(6, &[&body])
}

pub fn name(common: &str, tag: u8) -> Vec<u8> {
    seq(&[&tlv(0x31, &[&seq(&[&oid("2.5.4.3"), &tlv(tag, &[common.as_bytes()])])])])
}

pub fn extension(id: &str, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
    seq(&[&oid(id), critical, &tlv(4, &[value])])
}

pub const TRUE: &[u8] = &[1, 1, 0xff];

pub fn ca(path_len: Option<u8>) -> Vec<u8> {
    let len = path_len.map(|n| vec![2, 1, n]).unwrap_or_default();
    extension("2.5.29.19", true, &seq(&[TRUE, &len]))
}

pub fn ek_usage() -> Vec<u8> {
    extension("2.5.29.37", false, &seq(&[&oid("2.23.133.8.1")]))
}

pub fn cert_sign() -> Vec<u8> {
    extension("2.5.29.15", true, &[3, 2, 2, 4])
}

pub const ECDSA: &str = "1.2.840.10045.4.3.2";

pub fn dates(from: &str, to: &str) -> Vec<u8> {
    // UTCTime has 13 characters, GeneralizedTime 15.
    let time = |t: &str| tlv(if t.len() == 13 { 0x17 } else { 0x18 }, &[t.as_bytes()]);
    seq(&[&time(from), &time(to)])
}

pub fn always() -> Vec<u8> {
    dates("200101000000Z", "20500101000000Z")
}

pub struct Authority {
    pub key: EcdsaKeyPair,
    pub name: Vec<u8>,
}

impl Authority {
    pub fn new(common: &str) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        Self { key, name: name(common, 0x0c) }
    }

    pub fn spki(&self) -> Vec<u8> {
        spki(self.key.public_key().as_ref(), &oid("1.2.840.10045.3.1.7"))
    }

    /// Issues a certificate of `extensions` for a key.
    pub fn issue(&self, subject: &[u8], spki: &[u8], extensions: &[Vec<u8>]) -> Vec<u8> {
        self.issue_as("1.2.840.10045.4.3.2", subject, spki, extensions)
    }

    pub fn issue_as(&self, algorithm: &str, subject: &[u8], spki: &[u8], extensions: &[Vec<u8>]) -> Vec<u8> {
        self.odd(
            algorithm,
            &[2, 1, 7],
            &always(),
            subject,
            spki,
            &tlv(0xa3, &[&seq(&[&extensions.concat()])]),
        )
    }

    /// With a serial number and a validity of the test's own, and whatever follows the key.
    pub fn odd(
        &self,
        algorithm: &str,
        serial: &[u8],
        dates: &[u8],
        subject: &[u8],
        spki: &[u8],
        rest: &[u8],
    ) -> Vec<u8> {
        let version: &[u8] = if rest.is_empty() { &[] } else { &[0xa0, 3, 2, 1, 2] };
        let algorithm = seq(&[&oid(algorithm)]);
        self.sign(&algorithm, &seq(&[version, serial, &algorithm, &self.name, dates, subject, spki, rest]))
    }

    pub fn sign(&self, algorithm: &[u8], tbs: &[u8]) -> Vec<u8> {
        let signature = self.key.sign(&SystemRandom::new(), tbs).unwrap();
        seq(&[tbs, algorithm, &tlv(3, &[&[0], signature.as_ref()])])
    }

    /// A list of these serial numbers that ends then (UTCTime), with these extensions.
    pub fn revokes(&self, serials: &[&[u8]], until: &str, extensions: &[Vec<u8>]) -> Vec<u8> {
        let algorithm = seq(&[&oid(ECDSA)]);
        let date = tlv(0x17, &[b"200101000000Z"]);
        let entries: Vec<Vec<u8>> = serials.iter().map(|s| seq(&[s, &date])).collect();
        let entries = if entries.is_empty() { Vec::new() } else { seq(&[&entries.concat()]) };
        let extensions =
            if extensions.is_empty() { Vec::new() } else { tlv(0xa0, &[&seq(&[&extensions.concat()])]) };
        let until = tlv(0x17, &[until.as_bytes()]);
        self.sign(
            &algorithm,
            &seq(&[&[2, 1, 1], &algorithm, &self.name, &date, &until, &entries, &extensions]),
        )
    }

    /// The certificate of this authority, by `issuer`.
    pub fn by(&self, issuer: &Authority, extensions: &[Vec<u8>]) -> Vec<u8> {
        issuer.issue(&self.name, &self.spki(), extensions)
    }
}

pub fn spki(point: &[u8], parameters: &[u8]) -> Vec<u8> {
    seq(&[&seq(&[&oid("1.2.840.10045.2.1"), parameters]), &tlv(3, &[&[0], point])])
}

pub struct World {
    pub root: Authority,
    pub middle: Authority,
    pub ek: Authority,
    pub roots: Roots,
}

pub fn world() -> World {
    let (root, middle, ek) = (Authority::new("root"), Authority::new("middle"), Authority::new("ek"));
    let mut roots = Roots::new();
    roots.add(&root.by(&root, &[ca(None), cert_sign()])).unwrap();
    World { root, middle, ek, roots }
}

impl World {
    pub fn verify(&self, leaf: &[u8], between: &[Vec<u8>]) -> Result<VerifiedEk, EkRefusal> {
        verify(leaf, between, &self.roots, NOW)
    }

    /// An EK certificate under an intermediate with these extensions.
    pub fn under(&self, middle: &[Vec<u8>]) -> Result<VerifiedEk, EkRefusal> {
        let leaf = self.ek.by(&self.middle, &[ek_usage()]);
        self.verify(&leaf, &[self.middle.by(&self.root, middle)])
    }

    pub fn leaf(&self, extensions: &[Vec<u8>]) -> Result<VerifiedEk, EkRefusal> {
        self.verify(&self.ek.by(&self.root, extensions), &[])
    }
}

pub fn clone(key: &EcdsaKeyPair) -> EcdsaKeyPair {
    let pkcs8 = key.to_pkcs8v1().unwrap();
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref()).unwrap()
}
