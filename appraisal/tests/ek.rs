//! EK certificates of real vendors (tests/vectors/README.md): those that lead to a root verify although they break rules,
//! and the others are refused by name.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use gtvp_appraisal::ek::{EkRefusal, Oddity, Pin, Roots, RootsRefusal, VerifiedEk, stacked, verify};
use gtvp_appraisal::tpm::Public;
use x509_parser::pem::Pem;

/// 2026-11-24.
const NOW: i64 = 1_795_500_000;

fn vector(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/vectors/ek/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn der(name: &str) -> Vec<u8> {
    let file = vector(name);
    if file[0] == 0x30 { file } else { Pem::iter_from_buffer(&file).next().unwrap().unwrap().contents }
}

fn roots(names: &[&str]) -> Roots {
    let mut roots = Roots::new();
    names.iter().for_each(|n| roots.add(&vector(n)).unwrap());
    roots
}

fn st(between: &[&str], at: &[&str], now: i64) -> Result<VerifiedEk, EkRefusal> {
    let between: Vec<_> = between.iter().map(|n| der(n)).collect();
    verify(&der("st_sha256_with_rsa_der.der"), &between, &roots(at), now)
}

#[test]
fn a_padded_certificate_leads_through_its_intermediate_to_its_root() {
    let ek = st(&["STM_RSA_05I.pem"], &["STM_RSA_RT.pem"], NOW).unwrap();
    assert_eq!(ek.intermediates, 1);
    assert!(ek.root.contains("STM TPM EK Root CA"), "{}", ek.root);
    assert_eq!(ek.manufacturer.as_deref(), Some("id:53544D20"));
    assert_eq!(ek.model.as_deref(), Some("ST33HTPHAHB4"));
    assert_eq!(ek.oddities, [Oddity::CriticalAltName, Oddity::Padded(431)]);
    // All of a vendor's certificates in one folder, or only the intermediate one.
    assert_eq!(st(&[], &["STM_RSA_RT.pem", "STM_RSA_05I.pem"], NOW).unwrap().intermediates, 0);
    assert_eq!(st(&[], &["STM_RSA_05I.pem"], NOW).unwrap().key, ek.key);
    // What openssl says of the same certificate.
    let spki = "st_sha256_with_rsa_der.der";
    assert_eq!(ek.fingerprint().0.to_string(), fingerprint_by_parser(&der(spki)));
}

fn fingerprint_by_parser(cert: &[u8]) -> String {
    use x509_parser::prelude::FromDer;
    let (_, cert) = x509_parser::certificate::X509Certificate::from_der(cert).unwrap();
    gtvp_model::digest::Digest::of(cert.public_key().raw).to_string()
}

#[test]
fn a_root_that_is_its_own_certificate_is_told_as_odd() {
    let cert = der("nuvoton_ecdsa_sha256_der.der");
    let ek = verify(&cert, &[], &roots(&["NUVO_2110.pem"]), NOW).unwrap();
    assert!(
        ek.oddities.contains(&Oddity::IsCa) && ek.oddities.contains(&Oddity::IsRoot),
        "{:?}",
        ek.oddities
    );
    assert_eq!(ek.fingerprint().0.to_string(), fingerprint_by_parser(&cert));
    // Issued by itself is not enough.
    let alone = verify(&cert, std::slice::from_ref(&cert), &roots(&["STM_RSA_RT.pem"]), NOW);
    assert!(matches!(alone, Err(EkRefusal::Unchained { .. })), "{alone:?}");
}

#[test]
fn without_an_issuer_it_is_refused_as_unchained() {
    let every = &["STM_RSA_RT.pem", "STM_RSA_05I.pem", "NUVO_2110.pem"];
    for name in ["gce_uca_tpm_ecc_enc_cert.pem", "gce_uca_tpm_rsa_enc_cert.pem"] {
        let refused = verify(&der(name), &[], &roots(every), NOW).unwrap_err();
        assert!(
            matches!(&refused, EkRefusal::Unchained { issuer, .. } if issuer.contains("tpm_ek_v1_cloud_host"))
        );
        let key = fingerprint_by_parser(&der(name));
        assert_eq!(key.len(), 64);
    }
    assert!(matches!(st(&[], &["STM_RSA_RT.pem"], NOW), Err(EkRefusal::Unchained { .. })));
    assert!(matches!(st(&["STM_RSA_05I.pem"], &["NUVO_2110.pem"], NOW), Err(EkRefusal::Unchained { .. })));
    assert!(matches!(st(&["STM_RSA_05I.pem", "STM_RSA_RT.pem"], &[], NOW), Err(EkRefusal::Unchained { .. })));
}

#[test]
fn a_changed_certificate_does_not_verify() {
    let cert = der("st_sha256_with_rsa_der.der");
    let len = 1169;
    let roots = roots(&["STM_RSA_05I.pem"]);
    let mut names = std::collections::BTreeSet::new();
    for i in 0..cert.len() {
        let mut changed = cert.clone();
        changed[i] ^= 1;
        let refused = verify(&changed, &[], &roots, NOW).err();
        assert!(refused.is_some(), "byte {i}");
        names.insert(format!("{:?}", refused.unwrap()).split([' ', '(']).next().unwrap().to_owned());
        if i >= len {
            assert_eq!(verify(&changed, &[], &roots, NOW), Err(EkRefusal::Trailing(cert.len() - len)));
        }
        if i < len {
            assert!(verify(&cert[..i], &[], &roots, NOW).is_err(), "cut at {i}");
        }
    }
    assert!(names.contains("BadSignature") && names.contains("NotACertificate"), "{names:?}");
}

#[test]
fn dates_and_issuers_count() {
    // What has ended is told and believed; what has not begun is not.
    let ended = st(&[], &["STM_RSA_05I.pem"], 9_900_000_000).unwrap();
    assert!(ended.oddities.iter().any(|o| matches!(o, Oddity::Ended(_))), "{:?}", ended.oddities);
    assert!(matches!(st(&[], &["STM_RSA_05I.pem"], 0), Err(EkRefusal::OutOfDate { .. })));
    // The leaf is no CA, so it issues nothing, even as a root.
    let leaf = der("gce_uca_tpm_ecc_enc_cert.pem");
    let mut pinned = Roots::new();
    pinned.add(&vector("gce_uca_tpm_ecc_enc_cert.pem")).unwrap();
    assert!(verify(&der("gce_uca_tpm_rsa_enc_cert.pem"), &[], &pinned, NOW).is_err());
    assert!(verify(&leaf, &[], &pinned, NOW).is_err(), "a certificate is no pin");
}

#[test]
fn a_chain_that_stands_behind_its_certificate_is_its_chain() {
    let at = roots(&["STM_RSA_RT.pem"]);
    let padded = der("st_sha256_with_rsa_der.der");
    let leaf = stacked(&padded)[0];
    assert_eq!((leaf.len(), padded.len()), (1169, 1600));
    let middle = der("STM_RSA_05I.pem");
    let with = |parts: &[&[u8]]| verify(&parts.concat(), &[], &at, NOW);
    assert_eq!(with(&[leaf, &middle]).unwrap().intermediates, 1);
    let odd = with(&[leaf, &der("STM_RSA_02.pem"), &middle, &[0xff; 40]]).unwrap();
    assert!(odd.oddities.contains(&Oddity::Padded(40)), "{:?}", odd.oddities);
    assert_eq!(stacked(&[leaf, &middle, &[0; 9]].concat()), [leaf, &middle]);
    // What stands there is believed for nothing but its signatures, and the first one is whose key it is.
    assert!(matches!(with(&[leaf, &der("STM_RSA_02.pem")]), Err(EkRefusal::Unchained { .. })));
    assert_ne!(with(&[&middle, leaf]).unwrap().key, odd.key);
    // Padding between them, one that is cut, more than any vendor has.
    assert!(matches!(with(&[leaf, &[0xff; 4], &middle]), Err(EkRefusal::Trailing(_))));
    assert!(matches!(with(&[leaf, &middle[..middle.len() - 1]]), Err(EkRefusal::NotACertificate(_))));
    let short = der("gce_uca_tpm_ecc_enc_cert.pem");
    let nine: Vec<&[u8]> = std::iter::once(leaf).chain(std::iter::repeat_n(&short[..], 9)).collect();
    let refused = with(&nine).unwrap_err();
    assert!(matches!(refused, EkRefusal::TooManyIntermediates(_) | EkRefusal::TooLong(_)), "{refused:?}");
}

#[test]
fn a_root_that_another_one_issued_is_one_or_leads_to_that() {
    // GlobalSign issued ST's.
    let found = st(&["STM_RSA_05I.pem", "STM_RSA_RT.pem"], &["GLOBALSIGN_RT.pem"], NOW).unwrap();
    assert_eq!(found.intermediates, 2);
    assert!(found.root.contains("GlobalSign"), "{}", found.root);
    // Where both are roots, the nearer one is enough; without the one between, GlobalSign's is none.
    let both = st(&["STM_RSA_05I.pem"], &["GLOBALSIGN_RT.pem", "STM_RSA_RT.pem"], NOW).unwrap();
    assert_eq!((both.intermediates, both.key), (1, found.key));
    assert!(matches!(
        st(&["STM_RSA_05I.pem"], &["GLOBALSIGN_RT.pem"], NOW),
        Err(EkRefusal::Unchained { .. })
    ));
}

#[test]
fn the_certificate_of_a_tpm_1_2_is_refused_for_its_hash_and_its_issuer_is_read() {
    let leaf = der("stm_sha1_oaep_leaf.pem");
    for at in [&["STM_RSA_02.pem"][..], &["STM_RSA_RT.pem"]] {
        let between = [der("STM_RSA_02.pem")];
        let refused = verify(&leaf, &between, &roots(at), NOW).unwrap_err();
        assert!(
            matches!(&refused, EkRefusal::WeakSignature { algorithm, .. } if algorithm == "RSA with SHA-1"),
            "{refused:?}"
        );
        assert!(refused.proves_nothing(), "an administrator's pin may stand in its place");
    }
    // Its issuer's number is written with zeros before it, and it leads to ST's root all the same.
    let refused = verify(&der("STM_RSA_02.pem"), &[], &roots(&["STM_RSA_RT.pem"]), NOW);
    assert!(refused.is_ok_and(|f| f.oddities.contains(&Oddity::IsCa)));
}

#[test]
fn roots_that_are_none_are_refused() {
    let mut roots = Roots::new();
    assert_eq!(roots.add(b""), Err(RootsRefusal::Empty));
    assert_eq!(roots.add(b"hello"), Err(RootsRefusal::Empty));
    assert!(roots.add(&[0x30, 0x82]).is_err());
    let mut cut = vector("NUVO_2110.pem");
    cut.truncate(300);
    assert!(roots.add(&cut).is_err());
    assert!(roots.is_empty());
}

#[test]
fn a_pin_is_of_one_key() {
    let path = format!("{}/tests/vectors/quote/gce_ak.pub", env!("CARGO_MANIFEST_DIR"));
    let public = Public::parse(&std::fs::read(path).unwrap()).unwrap();
    let pin = gtvp_appraisal::ek::EkKey::of_public(&public).fingerprint();
    assert_eq!(pin.check(&public), Ok(()));
    let other = Pin(gtvp_model::digest::Digest::of(b"other"));
    assert!(matches!(other.check(&public), Err(EkRefusal::NotPinned { .. })));
    let st = st(&[], &["STM_RSA_05I.pem"], NOW).unwrap();
    assert_eq!(st.check(&public), Err(EkRefusal::OtherKey));
}
