//! Files that count because a key has signed them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on ends")]

mod support;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use gtvp_appraisal::alg::{HashAlg, LogDigest};
use gtvp_appraisal::appraise::{Binding, Failure, KnownFrom, Question, State, TpmClass, appraise};
use gtvp_appraisal::ek::EkKey;
use gtvp_appraisal::reference::{
    Manifest, ManifestRefusal, Pattern, Rule, RuleRefusal, SignerKey, SignerRule, Status,
};
use gtvp_appraisal::tpm::Curve;
use support::{Machine, manifest, programs, references};

const NONCE: &[u8] = b"a nonce of a test";
const CONTENTS: &[u8] = b"a program";

/// What evmctl writes to security.ima: type 3, version 2, SHA-256, a key id, the length.
fn xattr(hash: u8, signature: &[u8]) -> Vec<u8> {
    let length = u16::try_from(signature.len()).unwrap().to_be_bytes();
    [&[3, 2, hash, 1, 2, 3, 4], &length[..], signature].concat()
}

fn rule(key: Vec<u8>, path: Option<Pattern>) -> Rule {
    Rule::Signer(SignerRule { key: SignerKey(key), path, about: "a vendor".into(), status: Status::Current })
}

struct Signer(EcdsaKeyPair);

impl Signer {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
    }

    fn spki(&self) -> Vec<u8> {
        EkKey::Ecc(Curve::P256, self.0.public_key().as_ref().to_vec()).spki()
    }

    fn sign(&self, contents: &[u8]) -> Vec<u8> {
        xattr(4, self.0.sign(&SystemRandom::new(), contents).unwrap().as_ref())
    }
}

/// A server that has run this file, and what its evidence comes to by a rule.
fn found(rule: Rule, path: &str, digest: &LogDigest, signature: &[u8]) -> Result<(), Failure> {
    let mut machine = Machine::booted("kl_bbm_sb");
    machine.start();
    machine.start_ima();
    machine.execute_signed(path, digest, signature);
    let manifests: Vec<Manifest> = vec![
        manifest("boot", 1, machine.boot_rules(Status::Current)),
        programs(),
        manifest("files", 1, vec![rule]),
    ];
    let question = Question {
        attester: &machine.ak.attester(TpmClass::Hardware),
        known_from: KnownFrom::Record,
        binding: Binding::Qualifying(NONCE),
        held: None,
        newest: None,
    };
    let found = appraise(&machine.evidence(NONCE), &question, &references(&manifests), support::NOW).verdict;
    match found.state {
        State::Trusted => Ok(()),
        _ => Err(found.failed[0].clone()),
    }
}

#[test]
fn a_file_counts_by_its_signature_and_by_no_other() {
    let (signer, other) = (Signer::new(), Signer::new());
    let digest = HashAlg::Sha256.hash(CONTENTS);
    let path = "/usr/bin/program";
    let by = |key: &Signer, digest: &LogDigest, signature: &[u8]| {
        found(rule(key.spki(), None), path, digest, signature)
    };
    assert_eq!(by(&signer, &digest, &signer.sign(CONTENTS)), Ok(()));
    let refused = |outcome: Result<(), Failure>| matches!(outcome, Err(Failure::File { .. }));
    assert!(refused(by(&other, &digest, &signer.sign(CONTENTS))), "another key");
    assert!(refused(by(&signer, &HashAlg::Sha256.hash(b"evil"), &signer.sign(CONTENTS))), "another file");
    assert!(refused(by(&signer, &digest, &[])), "none");
    // Another form, hash or length; a digest without a signature (IMA_XATTR_DIGEST_NG).
    let good = signer.sign(CONTENTS);
    for at in [0, 1, 2, 7, 8, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(refused(by(&signer, &digest, &bad)), "byte {at}");
    }
    assert!(refused(by(&signer, &digest, &good[..good.len() - 1])));
    assert!(refused(by(&signer, &digest, &[&[4, 4][..], digest.as_bytes()].concat())));
    // Elsewhere than where it may be.
    let there = |p: &str| Some(Pattern::new(p).unwrap());
    assert_eq!(found(rule(signer.spki(), there(path)), path, &digest, &good), Ok(()));
    assert!(refused(found(rule(signer.spki(), there("/usr/sbin/program")), path, &digest, &good)));
}

#[test]
fn rsa_signs_as_well_and_what_is_no_key_is_refused() {
    let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), CONTENTS, &mut signature).unwrap();
    let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()).unwrap().as_ref().to_vec();
    let digest = HashAlg::Sha256.hash(CONTENTS);
    assert_eq!(found(rule(spki.clone(), None), "/bin/x", &digest, &xattr(4, &signature)), Ok(()));
    assert!(rule(spki, None).check().is_ok());
    assert_eq!(rule(b"no key".to_vec(), None).check(), Err(RuleRefusal::Key));
    let bad = Manifest { rules: vec![rule(vec![0; 2000], None)], ..programs() };
    assert!(matches!(bad.check(), Err(ManifestRefusal::Rule { .. })));
}
