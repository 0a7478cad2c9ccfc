//! Rules for EK certificates and their issuers, on certificates that are made here: each one broken has its name, and the
//! unbroken one beside it verifies.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use gtvp_appraisal::ek::{EkKey, EkRefusal, MAX_DEPTH, Oddity, Roots, VerifiedEk, verify};

const NOW: i64 = 1_795_500_000;

fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
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

fn seq(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, parts)
}

/// An object identifier from its arcs.
fn oid(text: &str) -> Vec<u8> {
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

fn name(common: &str, tag: u8) -> Vec<u8> {
    seq(&[&tlv(0x31, &[&seq(&[&oid("2.5.4.3"), &tlv(tag, &[common.as_bytes()])])])])
}

fn extension(id: &str, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
    seq(&[&oid(id), critical, &tlv(4, &[value])])
}

const TRUE: &[u8] = &[1, 1, 0xff];

fn ca(path_len: Option<u8>) -> Vec<u8> {
    let len = path_len.map(|n| vec![2, 1, n]).unwrap_or_default();
    extension("2.5.29.19", true, &seq(&[TRUE, &len]))
}

fn ek_usage() -> Vec<u8> {
    extension("2.5.29.37", false, &seq(&[&oid("2.23.133.8.1")]))
}

fn cert_sign() -> Vec<u8> {
    extension("2.5.29.15", true, &[3, 2, 2, 4])
}

struct Authority {
    key: EcdsaKeyPair,
    name: Vec<u8>,
}

impl Authority {
    fn new(common: &str) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        Self { key, name: name(common, 0x0c) }
    }

    fn spki(&self) -> Vec<u8> {
        spki(self.key.public_key().as_ref(), &oid("1.2.840.10045.3.1.7"))
    }

    /// Issues a certificate of `extensions` for a key.
    fn issue(&self, subject: &[u8], spki: &[u8], extensions: &[Vec<u8>]) -> Vec<u8> {
        self.issue_as("1.2.840.10045.4.3.2", subject, spki, extensions)
    }

    fn issue_as(&self, algorithm: &str, subject: &[u8], spki: &[u8], extensions: &[Vec<u8>]) -> Vec<u8> {
        let algorithm = seq(&[&oid(algorithm)]);
        let validity = seq(&[&tlv(0x17, &[b"200101000000Z"]), &tlv(0x18, &[b"20500101000000Z"])]);
        let tbs = seq(&[
            &tlv(0xa0, &[&[2, 1, 2]]),
            &[2, 1, 7],
            &algorithm,
            &self.name,
            &validity,
            subject,
            spki,
            &tlv(0xa3, &[&seq(&[&extensions.concat()])]),
        ]);
        let signature = self.key.sign(&SystemRandom::new(), &tbs).unwrap();
        seq(&[&tbs, &algorithm, &tlv(3, &[&[0], signature.as_ref()])])
    }

    /// The certificate of this authority, by `issuer`.
    fn by(&self, issuer: &Authority, extensions: &[Vec<u8>]) -> Vec<u8> {
        issuer.issue(&self.name, &self.spki(), extensions)
    }
}

fn spki(point: &[u8], parameters: &[u8]) -> Vec<u8> {
    seq(&[&seq(&[&oid("1.2.840.10045.2.1"), parameters]), &tlv(3, &[&[0], point])])
}

struct World {
    root: Authority,
    middle: Authority,
    ek: Authority,
    roots: Roots,
}

fn world() -> World {
    let (root, middle, ek) = (Authority::new("root"), Authority::new("middle"), Authority::new("ek"));
    let mut roots = Roots::new();
    roots.add(&root.by(&root, &[ca(None), cert_sign()])).unwrap();
    World { root, middle, ek, roots }
}

impl World {
    fn verify(&self, leaf: &[u8], between: &[Vec<u8>]) -> Result<VerifiedEk, EkRefusal> {
        verify(leaf, between, &self.roots, NOW)
    }

    /// An EK certificate under an intermediate with these extensions.
    fn under(&self, middle: &[Vec<u8>]) -> Result<VerifiedEk, EkRefusal> {
        let leaf = self.ek.by(&self.middle, &[ek_usage()]);
        self.verify(&leaf, &[self.middle.by(&self.root, middle)])
    }

    fn leaf(&self, extensions: &[Vec<u8>]) -> Result<VerifiedEk, EkRefusal> {
        self.verify(&self.ek.by(&self.root, extensions), &[])
    }
}

#[test]
fn an_issuer_must_be_one() {
    let w = world();
    let found = w.under(&[ca(Some(0)), cert_sign()]).unwrap();
    assert_eq!((found.intermediates, found.root.as_str()), (1, "CN=root"));
    assert!(w.under(&[ca(None)]).is_ok(), "no key usage, no limit");
    let not = |e: Result<VerifiedEk, EkRefusal>| matches!(e, Err(EkRefusal::NotAnIssuer { .. }));
    assert!(not(w.under(&[])), "no basic constraints");
    assert!(not(w.under(&[extension("2.5.29.19", true, &seq(&[]))])), "cA is false");
    // Digital signature only.
    assert!(not(w.under(&[ca(None), extension("2.5.29.15", true, &[3, 2, 7, 0x80])])));
    // A critical extension that nobody knows; the same not critical; one about policies.
    let unknown = |critical| extension("1.3.6.1.4.1.99999.1", critical, &[5, 0]);
    assert!(matches!(w.under(&[ca(None), unknown(true)]), Err(EkRefusal::UnknownCritical { .. })));
    assert!(w.under(&[ca(None), unknown(false)]).is_ok());
    assert!(w.under(&[ca(None), extension("2.5.29.54", true, &[2, 1, 0])]).is_ok());
}

#[test]
fn a_path_is_no_longer_than_it_may_be() {
    let w = world();
    let lower = Authority::new("lower");
    let leaf = w.ek.by(&lower, &[ek_usage()]);
    let chain = |limit| {
        let between = [lower.by(&w.middle, &[ca(Some(0))]), w.middle.by(&w.root, &[ca(limit)])];
        w.verify(&leaf, &between)
    };
    assert_eq!(chain(Some(1)).unwrap().intermediates, 2);
    assert!(matches!(chain(Some(0)), Err(EkRefusal::NotAnIssuer { .. })));

    // A chain without end: two authorities that certify each other.
    let (a, b) = (Authority::new("a"), Authority::new("b"));
    let loops = [a.by(&b, &[ca(None)]), b.by(&a, &[ca(None)])];
    assert_eq!(w.verify(&w.ek.by(&a, &[ek_usage()]), &loops), Err(EkRefusal::TooDeep));
    // Longer than any vendor's.
    let many: Vec<Authority> = (0..=MAX_DEPTH).map(|n| Authority::new(&format!("ca {n}"))).collect();
    let between: Vec<Vec<u8>> = (0..MAX_DEPTH).map(|n| many[n].by(&many[n + 1], &[ca(None)])).collect();
    assert!(w.verify(&w.ek.by(&many[0], &[ek_usage()]), &between).is_err());
    assert!(matches!(w.verify(&leaf, &vec![between[0].clone(); 9]), Err(EkRefusal::TooManyIntermediates(9))));
}

#[test]
fn a_leaf_is_for_an_endorsement_key() {
    let w = world();
    assert_eq!(w.leaf(&[ek_usage()]).unwrap().oddities, [Oddity::NoManufacturer]);
    assert!(w.leaf(&[]).unwrap().oddities.contains(&Oddity::NoKeyUsage));
    // A TLS server's certificate by the same vendor.
    let server = extension("2.5.29.37", false, &seq(&[&oid("1.3.6.1.5.5.7.3.1")]));
    assert_eq!(w.leaf(&[server]), Err(EkRefusal::NotAnEk));
    let unknown = extension("1.3.6.1.4.1.99999.1", true, &[5, 0]);
    assert!(matches!(w.leaf(&[ek_usage(), unknown]), Err(EkRefusal::UnknownCritical { .. })));
    assert!(matches!(w.leaf(&[ek_usage(), ek_usage()]), Err(EkRefusal::NotACertificate(_))), "twice");
}

#[test]
fn names_are_equal_in_whatever_string_type_and_a_name_proves_nothing() {
    let w = world();
    // The issuer's name as PrintableString, where the root has UTF8String.
    let printable = Authority { name: name("root", 0x13), key: clone(&w.root.key) };
    assert!(w.verify(&w.ek.by(&printable, &[ek_usage()]), &[]).is_ok());
    let impostor = Authority::new("root");
    assert!(matches!(w.verify(&w.ek.by(&impostor, &[ek_usage()]), &[]), Err(EkRefusal::BadSignature { .. })));
    // An impostor beside the true one does not hide it.
    let between = [impostor.by(&impostor, &[ca(None)])];
    assert!(w.verify(&w.ek.by(&w.root, &[ek_usage()]), &between).is_ok());
    // Its own root, sent along, is none.
    let own = w.ek.by(&impostor, &[ek_usage()]);
    assert!(w.verify(&own, &between).is_err());
}

fn clone(key: &EcdsaKeyPair) -> EcdsaKeyPair {
    let pkcs8 = key.to_pkcs8v1().unwrap();
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref()).unwrap()
}

#[test]
fn sha1_is_refused_by_name() {
    let w = world();
    let leaf = w.root.issue_as("1.2.840.10045.4.1", &w.ek.name, &w.ek.spki(), &[ek_usage()]);
    assert!(matches!(w.verify(&leaf, &[]), Err(EkRefusal::WeakSignature { algorithm, .. })
        if algorithm == "ECDSA with SHA-1"));
}

#[test]
fn keys_are_known_by_what_they_are() {
    let w = world();
    let point = w.ek.key.public_key().as_ref();
    let of = |spki: Vec<u8>| w.verify(&w.root.issue(&w.ek.name, &spki, &[ek_usage()]), &[]).map(|f| f.key);
    let p256 = EkKey::Ecc(gtvp_appraisal::tpm::Curve::P256, point.to_vec());
    assert_eq!(of(w.ek.spki()), Ok(p256.clone()));
    assert_eq!(w.ek.spki(), p256.spki());
    // Parameters written out, as some vendors do; another curve of the same size; a compressed point.
    assert_eq!(of(spki(point, &seq(&[&[2, 1, 1]]))), Ok(p256));
    assert!(matches!(of(spki(point, &oid("1.3.132.0.10"))), Err(EkRefusal::Key(_))));
    assert!(matches!(of(spki(&point[..33], &oid("1.2.840.10045.3.1.7"))), Err(EkRefusal::Key(_))));
    // RSA, under either name; too short a one.
    let rsa = |algorithm: &str, bytes: usize| {
        let mut modulus = vec![0, 0x80];
        modulus.resize(bytes + 1, 1);
        let key = seq(&[&tlv(2, &[&modulus]), &[2, 3, 1, 0, 1]]);
        of(seq(&[&seq(&[&oid(algorithm), &[5, 0]]), &tlv(3, &[&[0], &key])]))
    };
    let plain = rsa("1.2.840.113549.1.1.1", 256).unwrap();
    assert!(matches!(&plain, EkKey::Rsa(m, 65537) if m.len() == 256));
    assert_eq!(rsa("1.2.840.113549.1.1.7", 256), Ok(plain));
    assert!(matches!(rsa("1.2.840.113549.1.1.1", 128), Err(EkRefusal::Key(_))));
}
