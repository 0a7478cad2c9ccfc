//! Rules for EK certificates and their issuers, on certificates that are made here: each one broken has its name, and the
//! unbroken one beside it verifies.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use aws_lc_rs::signature::KeyPair;
use gtvp_appraisal::ek::{
    EkKey, EkRefusal, MAX_DEPTH, Oddity, Revocation, Roots, RootsRefusal, VerifiedEk, verify,
};

#[path = "support/certificates.rs"]
mod certificates;
use certificates::*;

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

/// What real certificates of vendors do that RFC 5280 or the EK profile does not have them do.
#[test]
fn harmless_deviations_of_vendors_are_borne() {
    let w = world();
    let extensions = tlv(0xa3, &[&seq(&[&ek_usage()])]);
    let leaf = |serial: &[u8], dates: &[u8], subject: &[u8], rest: &[u8]| {
        w.verify(&w.root.odd(ECDSA, serial, dates, subject, &w.ek.spki(), rest), &[])
    };
    let name = &w.ek.name;
    // Serial numbers: negative, zero, longer than 20 bytes, with a leading zero too many.
    let long = tlv(2, &[&[0x7f; 40]]);
    for serial in [&[2, 1, 0x80][..], &[2, 1, 0], &long, &[2, 3, 0, 0, 7]] {
        assert!(leaf(serial, &always(), name, &extensions).is_ok(), "{serial:02x?}");
    }
    // No subject (Intel, AMD), with and without a critical alternative name.
    assert!(leaf(&[2, 1, 7], &always(), &seq(&[]), &extensions).is_ok());
    // A date of GeneralizedTime where UTCTime should be; without an end (RFC 5280 §4.1.2.5).
    for (from, to) in [("20200101000000Z", "20300101000000Z"), ("20200101000000Z", "99991231235959Z")] {
        assert!(leaf(&[2, 1, 7], &dates(from, to), name, &extensions).is_ok(), "{from} {to}");
    }
    // FALSE, which is the default, written out; TRUE as another number than 255 (BER).
    let critical = |value: u8| {
        let with = seq(&[&oid("2.5.29.37"), &[1, 1, value], &tlv(4, &[&seq(&[&oid("2.23.133.8.1")])])]);
        w.leaf(&[with])
    };
    assert!([0, 1, 0xff].into_iter().all(|value| critical(value).is_ok()));
    // What a TPM says of itself, where to find its issuer and its lists: critical, which they should not be.
    let attributes = extension("2.5.29.9", true, &seq(&[]));
    assert!(w.leaf(&[ek_usage(), attributes]).is_ok());
    let uri = tlv(0x86, &[b"http://example.org/ca.crt"]);
    let access = extension("1.3.6.1.5.5.7.1.1", true, &seq(&[&seq(&[&oid("1.3.6.1.5.5.7.48.2"), &uri])]));
    assert!(w.leaf(&[ek_usage(), access]).is_ok(), "AMD's have nothing but that to find the issuer by");
    // Limits on names are not understood, and not passed over.
    let names = extension("2.5.29.30", true, &seq(&[]));
    assert!(matches!(w.leaf(&[ek_usage(), names]), Err(EkRefusal::UnknownCritical { .. })));
    // In its NV index as TPM 1.2 had it, padded besides.
    let plain = w.ek.by(&w.root, &[ek_usage()]);
    let header = |tag: &[u8]| {
        let length = u16::try_from(plain.len() + tag.len()).unwrap().to_be_bytes();
        [&[0x10, 0x01, 0], &length[..], tag, &plain, &[0xff; 9]].concat()
    };
    for wrapped in [header(&[]), header(&[0x10, 0x02])] {
        assert!(w.verify(&wrapped, &[]).unwrap().oddities.contains(&Oddity::Wrapped));
    }
    let mut cut = header(&[]);
    cut[4] += 200;
    assert!(w.verify(&cut, &[]).is_err());
    // White space and case in names.
    let spaced = Authority { name: self::name(" ROOT ", 0x0c), key: clone(&w.root.key) };
    assert!(w.verify(&w.ek.by(&spaced, &[ek_usage()]), &[]).is_ok());
}

#[test]
fn a_certificate_that_has_ended_is_told_and_one_that_has_not_begun_is_refused() {
    let w = world();
    let extensions = tlv(0xa3, &[&seq(&[&ek_usage()])]);
    let of = |dates: &[u8]| {
        w.verify(&w.root.odd(ECDSA, &[2, 1, 7], dates, &w.ek.name, &w.ek.spki(), &extensions), &[])
    };
    let ended = of(&dates("150101000000Z", "250101000000Z")).unwrap();
    assert!(ended.oddities.contains(&Oddity::Ended(1_735_689_600)), "{:?}", ended.oddities);
    assert!(of(&always()).unwrap().oddities.iter().all(|o| !matches!(o, Oddity::Ended(_))));
    assert!(matches!(of(&dates("300101000000Z", "400101000000Z")), Err(EkRefusal::OutOfDate { .. })));
    // Between it and its root.
    let rest = tlv(0xa3, &[&seq(&[&ca(None)])]);
    let old = dates("150101000000Z", "250101000000Z");
    let middle = w.root.odd(ECDSA, &[2, 1, 9], &old, &w.middle.name, &w.middle.spki(), &rest);
    let found = w.verify(&w.ek.by(&w.middle, &[ek_usage()]), &[middle]).unwrap();
    assert!(found.oddities.contains(&Oddity::IssuerEnded(1_735_689_600)), "{:?}", found.oddities);
}

#[test]
fn a_root_of_version_1_issues_and_an_intermediate_of_version_1_does_not() {
    let w = world();
    let v1 = |a: &Authority, by: &Authority| by.odd(ECDSA, &[2, 1, 3], &always(), &a.name, &a.spki(), &[]);
    let mut roots = Roots::new();
    roots.add(&v1(&w.root, &w.root)).unwrap();
    assert!(verify(&w.ek.by(&w.root, &[ek_usage()]), &[], &roots, NOW).is_ok());
    let leaf = w.ek.by(&w.middle, &[ek_usage()]);
    let refused = verify(&leaf, &[v1(&w.middle, &w.root)], &roots, NOW).unwrap_err();
    assert!(matches!(refused, EkRefusal::NotAnIssuer { .. }), "{refused:?}");
}

#[test]
fn a_sha1_intermediate_counts_only_where_an_administrator_put_it_among_the_roots() {
    let w = world();
    let middle = w.root.issue_as("1.2.840.10045.4.1", &w.middle.name, &w.middle.spki(), &[ca(None)]);
    let leaf = w.ek.by(&w.middle, &[ek_usage()]);
    assert!(matches!(w.verify(&leaf, std::slice::from_ref(&middle)), Err(EkRefusal::WeakSignature { .. })));
    let mut roots = Roots::new();
    roots.add(&middle).unwrap();
    assert!(verify(&leaf, &[], &roots, NOW).is_ok());
}

#[test]
fn a_revoked_certificate_is_refused_and_a_list_counts_only_by_its_issuer() {
    let w = world();
    let leaf = w.ek.by(&w.root, &[ek_usage()]);
    // One that may sign lists; that of `world` may sign certificates only.
    let mut may = Roots::new();
    may.add(&w.root.by(&w.root, &[ca(None), extension("2.5.29.15", true, &[3, 2, 1, 6])])).unwrap();
    let with = |lists: &[Vec<u8>]| {
        let mut roots = may.clone();
        lists.iter().for_each(|l| roots.add(l).unwrap());
        verify(&leaf, &[], &roots, NOW)
    };
    let end = 2_019_686_400;
    assert_eq!(with(&[]).unwrap().revocation, Revocation::NotChecked);
    assert_eq!(
        with(&[w.root.revokes(&[], "340101000000Z", &[])]).unwrap().revocation,
        Revocation::Checked(end)
    );
    assert_eq!(
        with(&[w.root.revokes(&[&[2, 1, 8]], "340101000000Z", &[])]).unwrap().revocation,
        Revocation::Checked(end)
    );
    let revoked = |e: Result<VerifiedEk, EkRefusal>| matches!(e, Err(EkRefusal::Revoked { .. }));
    for serial in [&[2, 1, 7][..], &[2, 2, 0, 7]] {
        assert!(revoked(with(&[w.root.revokes(&[serial], "340101000000Z", &[])])));
    }
    // An old list still says what was revoked, and not what was not.
    assert!(revoked(with(&[w.root.revokes(&[&[2, 1, 7]], "210101000000Z", &[])])));
    let old = w.root.revokes(&[], "210101000000Z", &[]);
    assert_eq!(with(std::slice::from_ref(&old)).unwrap().revocation, Revocation::OldList(1_609_459_200));
    assert_eq!(
        with(&[old, w.root.revokes(&[], "340101000000Z", &[])]).unwrap().revocation,
        Revocation::Checked(end)
    );
    // A part of a list stands for its part only.
    let part = extension("2.5.29.28", true, &seq(&[&[0x81, 1, 0xff]]));
    let part = w.root.revokes(&[], "340101000000Z", &[part]);
    assert_eq!(with(&[part]).unwrap().revocation, Revocation::OldList(end));
    // Somebody else's list with the issuer's name is nobody's.
    let impostor = Authority::new("root").revokes(&[&[2, 1, 7]], "340101000000Z", &[]);
    assert_eq!(with(&[impostor]).unwrap().revocation, Revocation::NotChecked);
    let mut forged = w.root.revokes(&[], "340101000000Z", &[]);
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(with(&[forged]).unwrap().revocation, Revocation::NotChecked);
    let mut only_certificates = w.roots.clone();
    only_certificates.add(&w.root.revokes(&[&[2, 1, 7]], "340101000000Z", &[])).unwrap();
    let found = verify(&leaf, &[], &only_certificates, NOW).unwrap();
    assert_eq!(found.revocation, Revocation::NotChecked, "its key may not sign lists");
    // An intermediate that was revoked takes all that it has issued with it.
    let middle = w.middle.by(&w.root, &[ca(None)]);
    let mut roots = may.clone();
    roots.add(&w.root.revokes(&[&[2, 1, 7]], "340101000000Z", &[])).unwrap();
    let below = w.ek.by(&w.middle, &[ek_usage()]);
    assert!(revoked(verify(&below, std::slice::from_ref(&middle), &roots, NOW)));
    assert!(w.verify(&below, &[middle]).is_ok());
    // What is no list.
    let mut roots = Roots::new();
    let mut cut = w.root.revokes(&[], "340101000000Z", &[]);
    cut.truncate(40);
    assert!(matches!(roots.add(&cut), Err(RootsRefusal::Certificate { .. })));
}
