//! Attestation results: what is signed is read back, and nothing else is believed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use ciborium::Value;
use gtvp_appraisal::alg::HashAlg;
use gtvp_appraisal::appraise::{NotMade, State, TpmClass, appraise};
use gtvp_appraisal::cose::{CoseRefusal, Unsigned};
use gtvp_appraisal::reference::{Manifest, ManifestRefusal, SignedManifest};
use gtvp_appraisal::result::{Asked, AttestationResult, Claims, MAX_LIFETIME, ResultRefusal, SignedResult};
use gtvp_appraisal::tpm::{Scheme, Signature, SignatureRefusal, VerifyingKey};
use gtvp_model::digest::Digest;
use support::*;

const ES256: Scheme = Scheme::Ecdsa(HashAlg::Sha256);

fn result(evil: bool) -> AttestationResult {
    let mut machine = Machine::booted("kl_bbm_sb");
    machine.start();
    let boot = manifest("rhel-9", 1, machine.boot_rules(gtvp_appraisal::reference::Status::Current));
    let references = references(&[boot, programs()]);
    if evil {
        machine.measure(gtvp_appraisal::ownlog::EntryKind::Binary, "drivers", Digest::of(b"evil"));
    }
    let attester = machine.ak.attester(TpmClass::Hardware);
    let verdict = appraise(&machine.evidence(NONCE), &question(&attester, None), &references, NOW).verdict;
    let tls = *Key::with(0x0004_0072).parsed().name();
    let claims = Claims::of(&verdict, TpmClass::Hardware, None, tls);
    AttestationResult { claims, issued: NOW, expires: NOW + 60 }
}

fn sign(verifier: &Key, unsigned: &Unsigned) -> Signature {
    Signature::parse(&verifier.sign(&unsigned.to_be_signed())).unwrap()
}

fn signed(verifier: &Key, result: &AttestationResult) -> Vec<u8> {
    let unsigned = result.unsigned(ES256, verifier.parsed().name()).unwrap();
    let signature = sign(verifier, &unsigned);
    result.signed(unsigned, &signature).unwrap()
}

fn verify(bytes: &[u8], verifier: &Key, now: i64) -> Result<AttestationResult, ResultRefusal> {
    let key = VerifyingKey::of(&verifier.parsed()).unwrap();
    SignedResult::parse(bytes)?.verify(&key, verifier.parsed().name(), now)
}

#[test]
fn a_result_says_what_the_verdict_said() {
    let verifier = Key::ak();
    for evil in [false, true] {
        let made = result(evil);
        let bytes = signed(&verifier, &made);
        let read = verify(&bytes, &verifier, NOW + 1).unwrap();
        assert_eq!(read, made);
        assert!(bytes.len() < 2048, "{} bytes", bytes.len());
        assert_eq!(read.claims.state, if evil { State::Untrusted } else { State::Trusted });
        assert!(read.claims.not_made.contains(&NotMade::FilesNotMeasured));
        if evil {
            assert!(read.claims.failed[0].text.contains("drivers"));
        }
    }
}

#[test]
fn anybody_reads_its_ear_claims() {
    let verifier = Key::ak();
    let bytes = signed(&verifier, &result(true));
    // COSE_Sign1 is tag 18: [protected, unprotected, payload, signature].
    let Value::Tag(18, sign1) = ciborium::from_reader(bytes.as_slice()).unwrap() else { panic!("no tag 18") };
    let payload = sign1.as_array().unwrap()[2].as_bytes().unwrap().clone();
    let claims: Value = ciborium::from_reader(payload.as_slice()).unwrap();
    let get = |map: &Value, key: Value| {
        map.as_map().unwrap().iter().find(|(k, _)| *k == key).map(|(_, v)| v.clone()).unwrap()
    };
    assert_eq!(get(&claims, 265.into()).as_text(), Some("tag:ietf.org,2026:rats/ear#04"));
    let member = get(&get(&claims, 266.into()), "member".into());
    assert_eq!(get(&member, 1000.into()), 96.into());
    let vector = get(&member, 1001.into());
    // Configuration is contraindicated, executables affirmed, files not claimed.
    assert_eq!(get(&vector, 1.into()), 96.into());
    assert_eq!(get(&vector, 2.into()), 2.into());
    assert_eq!(get(&vector, 3.into()), 0.into());
}

#[test]
fn no_changed_byte_and_no_other_signer_is_believed() {
    let (verifier, other) = (Key::ak(), Key::ak());
    let bytes = signed(&verifier, &result(false));
    for i in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[i] ^= 1;
        assert!(verify(&changed, &verifier, NOW).is_err(), "byte {i}");
        assert!(verify(&bytes[..i], &verifier, NOW).is_err(), "cut at {i}");
    }
    assert_eq!(verify(&bytes, &other, NOW), Err(ResultRefusal::Cose(CoseRefusal::OtherSigner)));
    // Another's signature under this verifier's name.
    let made = result(false);
    let unsigned = made.unsigned(ES256, verifier.parsed().name()).unwrap();
    let forged = made.signed(unsigned.clone(), &sign(&other, &unsigned)).unwrap();
    assert_eq!(
        verify(&forged, &verifier, NOW),
        Err(ResultRefusal::Cose(CoseRefusal::Signature(SignatureRefusal::Wrong)))
    );
}

#[test]
fn it_is_valid_while_it_says_and_not_longer_than_it_may() {
    let verifier = Key::ak();
    let made = result(false);
    let bytes = signed(&verifier, &made);
    assert!(verify(&bytes, &verifier, NOW + 59).is_ok());
    assert!(matches!(verify(&bytes, &verifier, NOW + 60), Err(ResultRefusal::Expired { .. })));
    assert!(verify(&bytes, &verifier, NOW - 60).is_ok());
    // Threat 70: an hour off.
    assert!(matches!(verify(&bytes, &verifier, NOW - 3600), Err(ResultRefusal::FromTheFuture { .. })));
    for expires in [NOW, NOW - 1, NOW + MAX_LIFETIME + 1, i64::MIN] {
        let never = AttestationResult { expires, ..made.clone() };
        assert!(matches!(
            never.unsigned(ES256, verifier.parsed().name()),
            Err(ResultRefusal::Lifetime { .. })
        ));
    }
}

#[test]
fn a_result_that_contradicts_itself_is_refused() {
    let verifier = Key::ak();
    let mut lie = result(true);
    lie.claims.state = State::Trusted;
    let refused = verify(&signed(&verifier, &lie), &verifier, NOW);
    assert_eq!(refused, Err(ResultRefusal::Contradiction("list of failures")));
}

#[test]
fn a_result_about_a_box_says_which() {
    use gtvp_appraisal::boxes::BoxFinding;
    let verifier = Key::ak();
    let mut made = result(false);
    let later = |n: u32| (format!("deb:late-{n}=1:amd64"), Digest::of(&n.to_be_bytes()));
    let asked = Asked { by: "shop".parse().unwrap(), nonce: vec![5; 16] };
    let finding = BoxFinding {
        name: "web".parse().unwrap(),
        composition: Digest::of(b"nginx"),
        linked: vec!["deb:nginx=1.22.1-9:amd64".to_owned()],
        later: (0..100).map(later).collect(),
        template: Some(Digest::of(b"template")),
    };
    made.claims = made.claims.about(&finding, asked.clone());
    let bytes = signed(&verifier, &made);
    let read = verify(&bytes, &verifier, NOW).unwrap();
    assert_eq!(read, made);
    let about = read.claims.about.unwrap();
    assert_eq!((about.name.as_str(), about.linked, about.later.len(), about.later_more), ("web", 1, 32, 68));
    assert_eq!((about.asked, about.template), (asked, finding.template), "and for whom, and from what");
}

#[test]
fn a_result_of_many_failures_is_still_short() {
    let verifier = Key::ak();
    let mut machine = Machine::booted("kl_bbm_sb");
    machine.start();
    let references = references(&[programs()]);
    let attester = machine.ak.attester(TpmClass::Hardware);
    let verdict = appraise(&machine.evidence(NONCE), &question(&attester, None), &references, NOW).verdict;
    assert!(verdict.failed.len() > 30, "each boot event is unknown");
    let tls = *Key::with(0x0004_0072).parsed().name();
    let claims = Claims::of(&verdict, TpmClass::Hardware, None, tls);
    let made = AttestationResult { claims, issued: NOW, expires: NOW + 60 };
    let bytes = signed(&verifier, &made);
    assert!(bytes.len() < 8192, "{} bytes", bytes.len());
    assert_eq!(verify(&bytes, &verifier, NOW).unwrap().claims.failed.last().unwrap().name, "more");
}

#[test]
fn a_result_is_no_manifest_and_a_manifest_no_result() {
    let verifier = Key::ak();
    let name = *verifier.parsed().name();
    let bytes = signed(&verifier, &result(false));
    assert!(matches!(
        SignedManifest::parse(&bytes),
        Err(ManifestRefusal::Cose(CoseRefusal::OtherContent { .. }))
    ));
    let made = programs();
    let unsigned = made.unsigned(ES256, &name).unwrap();
    let signature = sign(&verifier, &unsigned);
    let manifest = made.signed(unsigned, &signature).unwrap();
    assert!(SignedResult::parse(&manifest).is_err());
    // And it is read back as what it was.
    let key = VerifyingKey::of(&verifier.parsed()).unwrap();
    let trusted = SignedManifest::parse(&manifest).unwrap().verify(&key, &name).unwrap();
    assert_eq!(*trusted.manifest(), made);
    for i in 0..manifest.len() {
        let mut changed = manifest.clone();
        changed[i] ^= 1;
        assert!(SignedManifest::parse(&changed).and_then(|m| m.verify(&key, &name)).is_err(), "byte {i}");
    }
    // An older version does not take a newer one's place.
    let newer = verifier.publish(&Manifest { version: 2, ..made });
    assert!(newer.replaces(&trusted).is_ok());
    assert!(matches!(trusted.replaces(&newer), Err(ManifestRefusal::NotNewer { got: 1, held: 2, .. })));
}
