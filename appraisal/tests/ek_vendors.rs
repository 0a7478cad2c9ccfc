//! Certificates as vendors issue them, and as nobody should: built here after real ones, so that each detail can be changed. What is real and
//! odd verifies; what is hostile has a name.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "support/certificates.rs"]
mod certificates;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PSS_SHA256, RsaEncoding};
use certificates::*;
use gtvp_appraisal::ek::{EkKey, EkRefusal, MAX_DEPTH, Oddity, Roots, RootsRefusal, verify};
use gtvp_appraisal::tpm::Curve;

const ALT_NAME: &str = "2.5.29.17";
const USAGE: &str = "2.5.29.37";

/// `FALSE`, which is the default and so must not be written in DER (RFC 5280 §4.1), as Intel writes it.
const FALSE: &[u8] = &[1, 1, 0];

fn attribute(id: &str, value: &str) -> Vec<u8> {
    seq(&[&oid(id), &tlv(0x0c, &[value.as_bytes()])])
}

fn set(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x31, &[&parts.concat()])
}

/// tcg-at-tpmManufacturer, -tpmModel, -tpmVersion.
fn tpm(manufacturer: &str, model: &str) -> [Vec<u8>; 3] {
    [
        attribute("2.23.133.2.1", manufacturer),
        attribute("2.23.133.2.2", model),
        attribute("2.23.133.2.3", "id:00070002"),
    ]
}

fn alt_name(critical: bool, names: &[&[u8]]) -> Vec<u8> {
    extension(ALT_NAME, critical, &seq(names))
}

/// GeneralName: directoryName.
fn directory(name: &[u8]) -> Vec<u8> {
    tlv(0xa4, &[name])
}

/// Of what Intel puts into a certificate that one of its keys on the die has signed for an EK.
fn intel() -> Vec<Vec<u8>> {
    let explicit = |id: &str, value: &[u8]| seq(&[&oid(id), FALSE, &tlv(4, &[value])]);
    let specification =
        seq(&[&oid("2.23.133.2.16"), &set(&[seq(&[&tlv(0x0c, &[b"2.0"]), &[2, 1, 0], &[2, 2, 0, 0x8a]])])]);
    let name = seq(&[&tpm("id:494E5443", "ADL").map(|a| set(&[a])).concat()]);
    // An indirect list: its issuer is not the certificate's.
    let uri = tlv(0x86, &[b"https://tsci.intel.com/content/OnDieCA/crls/ODCA_CA2_CSME_Indirect.crl"]);
    let issuer = tlv(0xa2, &[&directory(&self::name("www.intel.com", 0x0c))]);
    let point = seq(&[&tlv(0xa0, &[&tlv(0xa0, &[&uri])]), &issuer]);
    vec![
        extension("2.5.29.19", true, &seq(&[FALSE])),
        extension("2.5.29.15", true, &[3, 2, 3, 8]),
        extension("2.5.29.31", false, &seq(&[&point])),
        ek_usage(),
        explicit("2.5.29.9", &seq(&[&specification])),
        alt_name(true, &[&directory(&name)]),
    ]
}

#[test]
fn keys_that_were_made_on_the_die_lead_through_five_intermediates() {
    let w = world();
    let names = [
        "CSME ADL PTT  01SVN",
        "CSME ADL SVN01 Kernel CA",
        "CSME ADL ROM CA",
        "ODCA 2 CSME Issuing CA",
        "ODCA CA2 CSME Intermediate CA",
    ];
    let chain = names.map(Authority::new);
    let by = |n: usize| chain.get(n + 1).unwrap_or(&w.root);
    let between: Vec<Vec<u8>> =
        (0..5).map(|n| chain[n].by(by(n), &[ca(Some(n as u8)), cert_sign()])).collect();
    // No subject: the alternative name is all that it has.
    let leaf = chain[0].issue(&seq(&[]), &w.ek.spki(), &intel());
    let found = w.verify(&leaf, &between).unwrap();
    assert_eq!((found.intermediates, found.root.as_str()), (5, "CN=root"));
    assert_eq!((found.manufacturer.as_deref(), found.model.as_deref()), (Some("id:494E5443"), Some("ADL")));
    assert_eq!(found.oddities, [Oddity::CriticalAltName]);
    // In whatever order they come, with others among them.
    let mut other_way: Vec<Vec<u8>> = between.iter().rev().cloned().collect();
    other_way.insert(2, w.middle.by(&w.root, &[ca(None)]));
    assert_eq!(w.verify(&leaf, &other_way).unwrap().intermediates, 5);
    for n in 0..5 {
        let mut without = between.clone();
        without.remove(n);
        let refused = w.verify(&leaf, &without).unwrap_err();
        assert!(matches!(refused, EkRefusal::Unchained { .. }), "{n}: {refused:?}");
        // One of them is no CA, or may have fewer below it.
        for (what, with) in [("no CA", vec![]), ("a shorter path", vec![ca(Some(n.saturating_sub(1) as u8))])]
        {
            let mut changed = between.clone();
            changed[n] = chain[n].by(by(n), &with);
            let refused = w.verify(&leaf, &changed);
            let not = matches!(refused, Err(EkRefusal::NotAnIssuer { .. }));
            assert!(not || n == 0 && what == "a shorter path", "{n}, {what}: {refused:?}");
        }
    }
}

#[test]
fn a_chain_ends_and_so_does_the_search_for_one() {
    let w = world();
    let long: Vec<Authority> = (0..=MAX_DEPTH).map(|n| Authority::new(&format!("ca {n}"))).collect();
    let up = |n: usize| long[n].by(long.get(n + 1).unwrap_or(&w.root), &[ca(None)]);
    let leaf = w.ek.by(&long[0], &[ek_usage()]);
    let mut roots = Roots::new();
    roots.add(&up(MAX_DEPTH - 1)).unwrap();
    let between: Vec<Vec<u8>> = (0..MAX_DEPTH - 1).map(up).collect();
    assert_eq!(verify(&leaf, &between, &roots, NOW).unwrap().intermediates, MAX_DEPTH - 1);
    let mut roots = Roots::new();
    roots.add(&up(MAX_DEPTH)).unwrap();
    let between: Vec<Vec<u8>> = (0..MAX_DEPTH).map(up).collect();
    assert_eq!(verify(&leaf, &between, &roots, NOW), Err(EkRefusal::TooDeep));
    // Eight authorities of one name that have all certified each other: each signature could be any one's.
    let alike: Vec<Authority> = (0..8).map(|_| Authority::new("alike")).collect();
    let between: Vec<Vec<u8>> = (0..8).map(|n| alike[n].by(&alike[(n + 1) % 8], &[ca(None)])).collect();
    assert!(w.verify(&w.ek.by(&alike[0], &[ek_usage()]), &between).is_err());
}

#[test]
fn what_a_certificate_says_of_its_tpm_is_found_in_each_form() {
    let w = world();
    let says = |extensions: &[Vec<u8>]| {
        let found = w.leaf(&[&[ek_usage()], extensions].concat()).unwrap();
        (found.manufacturer, found.model, found.version)
    };
    let [maker, model, version] = tpm("id:4E544300", "NPCT75x");
    let all = (Some("id:4E544300".into()), Some("NPCT75x".into()), Some("id:00070002".into()));
    let alone = |a: &Vec<u8>| set(std::slice::from_ref(a));
    let apart = seq(&[&alone(&maker), &alone(&model), &alone(&version)]);
    assert_eq!(says(&[alt_name(false, &[&directory(&apart)])]), all);
    // All in one set (Nuvoton), in an order that DER does not have.
    let together = seq(&[&set(&[version.clone(), maker.clone(), model.clone()])]);
    assert_eq!(says(&[alt_name(true, &[&directory(&together)])]), all);
    // Beside other names; one directory for each.
    let uri = tlv(0x86, &[b"urn:a"]);
    let one = |a: &Vec<u8>| directory(&seq(&[&alone(a)]));
    assert_eq!(says(&[alt_name(false, &[&uri, &one(&maker), &one(&model), &one(&version)])]), all);
    // In the subject.
    let subject = w.root.issue(&together, &w.ek.spki(), &[ek_usage()]);
    assert_eq!(w.verify(&subject, &[]).unwrap().manufacturer, all.0);
    // Not at all, or in no directory: who made it is not known, and that is told.
    for none in [vec![], vec![alt_name(false, &[&uri])], vec![alt_name(true, &[])]] {
        let found = w.leaf(&[&[ek_usage()], &none[..]].concat()).unwrap();
        assert!(found.manufacturer.is_none() && found.oddities.contains(&Oddity::NoManufacturer));
    }
    // Twice, or critical and not readable.
    let twice = w.leaf(&[ek_usage(), alt_name(false, &[&uri]), alt_name(false, &[&one(&maker)])]);
    assert!(matches!(twice, Err(EkRefusal::NotACertificate(_))), "{twice:?}");
    let unreadable = w.leaf(&[ek_usage(), extension(ALT_NAME, true, &[0x30, 0x05, 0x86, 0x7f])]);
    assert!(
        matches!(unreadable, Err(EkRefusal::UnknownCritical { .. } | EkRefusal::NotACertificate(_))),
        "{unreadable:?}"
    );
}

#[test]
fn a_multivalued_issuer_is_the_one_that_it_is() {
    // Nuvoton's issuers have all of their name in one set.
    let whole = |parts: [&str; 2]| seq(&[&set(&parts.map(|p| attribute("2.5.4.3", p)))]);
    let w = world();
    let nuvoton = Authority { key: clone(&w.root.key), name: whole(["Nuvoton TPM Root CA 2112", "Nuvoton"]) };
    let mut roots = Roots::new();
    roots.add(&nuvoton.by(&nuvoton, &[ca(None)])).unwrap();
    let leaf = w.ek.by(&nuvoton, &[ek_usage()]);
    assert_eq!(verify(&leaf, &[], &roots, NOW).unwrap().intermediates, 0);
    let other = Authority { key: clone(&w.root.key), name: whole(["Nuvoton TPM Root CA 2111", "Nuvoton"]) };
    let leaf = w.ek.by(&other, &[ek_usage()]);
    assert!(matches!(verify(&leaf, &[], &roots, NOW), Err(EkRefusal::Unchained { .. })));
}

#[test]
fn what_a_key_is_for_is_said_by_name() {
    let w = world();
    let usage = |critical: bool, ids: &[&str]| {
        let ids: Vec<Vec<u8>> = ids.iter().map(|id| oid(id)).collect();
        w.leaf(&[extension(USAGE, critical, &seq(&[&ids.concat()]))])
    };
    const EK: &str = "2.23.133.8.1";
    assert!(usage(true, &[EK]).is_ok());
    assert!(usage(false, &["1.3.6.1.5.5.7.3.2", EK]).is_ok());
    // Platform and AIK certificates of the same vendors, and those for anything.
    for other in ["2.23.133.8.2", "2.23.133.8.3", "1.3.6.1.5.5.7.3.1", "2.5.29.37.0"] {
        assert_eq!(usage(false, &[other]), Err(EkRefusal::NotAnEk), "{other}");
    }
}

#[test]
fn an_endorsement_key_issues_nothing() {
    // Whoever has a genuine certificate, and somehow its key, makes no TPMs of it.
    let w = world();
    let genuine = w.ek.by(&w.root, &[ek_usage(), extension("2.5.29.19", true, &seq(&[FALSE]))]);
    let forged = Authority::new("forged").by(&w.ek, &[ek_usage()]);
    assert!(w.verify(&genuine, &[]).is_ok());
    assert!(matches!(w.verify(&forged, std::slice::from_ref(&genuine)), Err(EkRefusal::NotAnIssuer { .. })));
    // Nor where its vendor did not say what it is not.
    let plain = w.ek.by(&w.root, &[ek_usage()]);
    assert!(matches!(w.verify(&forged, std::slice::from_ref(&plain)), Err(EkRefusal::NotAnIssuer { .. })));
    // A root that was pinned is no CA by that.
    let mut roots = Roots::new();
    roots.add(&plain).unwrap();
    assert!(matches!(verify(&forged, &[], &roots, NOW), Err(EkRefusal::NotAnIssuer { .. })));
}

/// A certificate for `spki` under an authority with an RSA key.
fn by_rsa(
    key: &RsaKeyPair,
    algorithm: &[u8],
    how: &'static dyn RsaEncoding,
    subject: &[u8],
    spki: &[u8],
    rest: &[Vec<u8>],
) -> Vec<u8> {
    let extensions = tlv(0xa3, &[&seq(&[&rest.concat()])]);
    let issuer = name("rsa root", 0x0c);
    let tbs =
        seq(&[&[0xa0, 3, 2, 1, 2], &[2, 1, 7], algorithm, &issuer, &always(), subject, spki, &extensions]);
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(how, &SystemRandom::new(), &tbs, &mut signature).unwrap();
    seq(&[&tbs, algorithm, &tlv(3, &[&[0], &signature])])
}

#[test]
fn vendors_sign_by_rsa_in_more_than_one_way() {
    let w = world();
    let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let public = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(key.public_key()).unwrap();
    let null: &[u8] = &[5, 0];
    let with = |id: &str, parameters: &[u8]| seq(&[&oid(id), parameters]);
    let sha256 = with("1.2.840.113549.1.1.11", null);
    let mut roots = Roots::new();
    roots
        .add(&by_rsa(&key, &sha256, &RSA_PKCS1_SHA256, &name("rsa root", 0x0c), public.as_ref(), &[ca(None)]))
        .unwrap();
    let leaf = |algorithm: &[u8], how| {
        let leaf = by_rsa(&key, algorithm, how, &w.ek.name, &w.ek.spki(), &[ek_usage()]);
        verify(&leaf, &[], &roots, NOW).map(|f| f.root)
    };
    assert_eq!(leaf(&sha256, &RSA_PKCS1_SHA256), Ok("CN=rsa root".into()));
    assert!(leaf(&with("1.2.840.113549.1.1.12", null), &RSA_PKCS1_SHA384).is_ok());
    // Without the NULL that RFC 4055 wants.
    assert!(leaf(&with("1.2.840.113549.1.1.11", &[]), &RSA_PKCS1_SHA256).is_ok());
    // By PSS; what it says of its hash is what counts.
    let hash = with("2.16.840.1.101.3.4.2.1", null);
    let mask = seq(&[&oid("1.2.840.113549.1.1.8"), &hash]);
    let pss = seq(&[
        &oid("1.2.840.113549.1.1.10"),
        &seq(&[&tlv(0xa0, &[&hash]), &tlv(0xa1, &[&mask]), &tlv(0xa2, &[&[2, 1, 32]])]),
    ]);
    assert!(leaf(&pss, &RSA_PSS_SHA256).is_ok());
    let sha1 = with("1.2.840.113549.1.1.10", &seq(&[]));
    assert!(
        matches!(leaf(&sha1, &RSA_PSS_SHA256), Err(EkRefusal::WeakSignature { .. })),
        "SHA-1 is what it does not say"
    );
    // Another algorithm than the signature's, an elliptic one, MD5.
    assert!(matches!(
        leaf(&with("1.2.840.113549.1.1.12", null), &RSA_PKCS1_SHA256),
        Err(EkRefusal::BadSignature { .. })
    ));
    for other in [ECDSA, "1.2.840.113549.1.1.4", "1.2.840.113549.1.1.5"] {
        assert!(
            matches!(leaf(&with(other, null), &RSA_PKCS1_SHA256), Err(EkRefusal::WeakSignature { .. })),
            "{other}"
        );
    }
}

#[test]
fn keys_of_each_size_that_an_ek_has_are_taken_and_no_others() {
    let w = world();
    let of = |spki: &[u8]| w.verify(&w.root.issue(&w.ek.name, spki, &[ek_usage()]), &[]).map(|f| f.key);
    let rsa = |bytes: usize, exponent: &[u8], parameters: &[u8]| {
        let mut modulus = vec![0, 0x80];
        modulus.resize(bytes + 1, 1);
        let key = seq(&[&tlv(2, &[&modulus]), &tlv(2, &[exponent])]);
        of(&seq(&[&seq(&[&oid("1.2.840.113549.1.1.1"), parameters]), &tlv(3, &[&[0], &key])]))
    };
    for bytes in [256, 384, 512] {
        assert!(matches!(rsa(bytes, &[1, 0, 1], &[5, 0]), Ok(EkKey::Rsa(m, 65537)) if m.len() == bytes));
        assert!(rsa(bytes, &[1, 0, 1], &[]).is_ok(), "without a NULL");
    }
    for bytes in [64, 128, 255, 257, 1024] {
        assert!(matches!(rsa(bytes, &[1, 0, 1], &[5, 0]), Err(EkRefusal::Key(_))), "{bytes}");
    }
    assert!(
        matches!(rsa(256, &[1, 0, 0, 0, 0, 1], &[5, 0]), Err(EkRefusal::Key(_))),
        "an exponent that no TPM has"
    );
    let point = |curve: &str, size: usize| {
        let mut point = vec![4];
        point.resize(1 + 2 * size, 7);
        of(&spki(&point, &oid(curve)))
    };
    assert!(matches!(point("1.3.132.0.34", 48), Ok(EkKey::Ecc(Curve::P384, _))));
    // P-521, Brainpool, SM2, Ed25519's size; a point that is longer than its curve.
    for (curve, size) in [
        ("1.3.132.0.35", 66),
        ("1.3.36.3.3.2.8.1.1.7", 32),
        ("1.2.156.10197.1.301", 32),
        ("1.3.132.0.34", 32),
        ("1.2.840.10045.3.1.7", 48),
    ] {
        assert!(matches!(point(curve, size), Err(EkRefusal::Key(_))), "{curve}");
    }
}

#[test]
fn what_is_no_der_is_no_certificate_and_what_differs_inside_was_not_signed() {
    let w = world();
    let good = w.ek.by(&w.root, &[ek_usage()]);
    assert!(w.verify(&good, &[]).is_ok());
    let refused = |bytes: &[u8]| w.verify(bytes, &[]).unwrap_err();
    // Of no announced length (BER), with a longer form of its length, with more in it than it has.
    let body = &good[4..];
    assert_eq!(good[..2], [0x30, 0x82]);
    let endless = [&[0x30, 0x80], body, &[0, 0]].concat();
    let longer = [&[0x30, 0x83, 0], &good[2..]].concat();
    let more = seq(&[body, &[5, 0]]);
    for bytes in [endless, more] {
        assert!(matches!(refused(&bytes), EkRefusal::NotACertificate(_) | EkRefusal::BadSignature { .. }));
    }
    // That form changes nothing that was signed: it is the same certificate, or none.
    if let Ok(found) = w.verify(&longer, &[]) {
        assert_eq!(found.key, w.verify(&good, &[]).unwrap().key);
    }
    // The algorithm outside is not the one inside.
    let extensions = tlv(0xa3, &[&seq(&[&ek_usage()])]);
    let tbs = |algorithm: &[u8]| {
        seq(&[
            &[0xa0, 3, 2, 1, 2],
            &[2, 1, 7],
            algorithm,
            &w.root.name,
            &always(),
            &w.ek.name,
            &w.ek.spki(),
            &extensions,
        ])
    };
    let (plain, null) = (seq(&[&oid(ECDSA)]), seq(&[&oid(ECDSA), &[5, 0]]));
    assert!(matches!(refused(&w.root.sign(&plain, &tbs(&null))), EkRefusal::BadSignature { .. }));
    // A NULL that should not be there, in both, as a vendor wrote it.
    assert!(w.verify(&w.root.sign(&null, &tbs(&null)), &[]).is_ok());
    // Unused bits in the signature; no signature.
    let signature = w.root.key.sign(&SystemRandom::new(), &tbs(&plain)).unwrap();
    let bits = seq(&[&tbs(&plain), &plain, &tlv(3, &[&[1], signature.as_ref()])]);
    assert!(matches!(refused(&bits), EkRefusal::BadSignature { .. } | EkRefusal::NotACertificate(_)));
    let none = seq(&[&tbs(&plain), &plain, &tlv(3, &[&[0]])]);
    assert!(matches!(refused(&none), EkRefusal::BadSignature { .. } | EkRefusal::NotACertificate(_)));
    // Long beyond all vendors', with something behind it, and in another's wrapping.
    let long = w.leaf(&[ek_usage(), extension("1.3.6.1.4.1.99999.1", false, &vec![4; 9000])]);
    assert!(matches!(long, Err(EkRefusal::TooLong(_))));
    assert_eq!(refused(&[&good[..], &[0xff; 8], &[0]].concat()), EkRefusal::Trailing(9));
    assert!(matches!(
        refused(&[&[0x10, 0x01, 0, 0xff, 0xff], &good[..]].concat()),
        EkRefusal::NotACertificate(_)
    ));
}

#[test]
fn a_folder_of_roots_has_files_of_each_kind_that_vendors_offer() {
    let vector = |name: &str| {
        std::fs::read(format!("{}/tests/vectors/ek/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let leaf = vector("nuvoton_ecdsa_sha256_der.der");
    let pem = String::from_utf8(vector("NUVO_2110.pem")).unwrap().replace("\r\n", "\n");
    let added = |file: &[u8]| {
        let mut roots = Roots::new();
        roots.add(file).map(|()| (roots.len(), verify(&leaf, &[], &roots, NOW).is_ok()))
    };
    assert_eq!(added(&leaf), Ok((1, true)), "DER");
    assert_eq!(added(pem.as_bytes()), Ok((1, true)));
    assert_eq!(added(pem.replace('\n', "\r\n").as_bytes()), Ok((1, true)), "from Windows");
    // With what a program has written before each.
    let two = format!("subject=CN = root\n\n{pem}\nissuer=CN = root\n{pem}");
    assert_eq!(added(two.as_bytes()), Ok((2, true)));
    // What is no certificate is named, and nothing of its file is taken: a key beside the certificate, a bundle.
    for label in ["PRIVATE KEY", "PKCS7", "TRUSTED CERTIFICATE"] {
        let file = format!("{pem}\n{}", pem.replace("CERTIFICATE", label));
        let refused = added(file.as_bytes()).unwrap_err();
        assert!(matches!(&refused, RootsRefusal::Certificate { number: 1, .. }), "{label}: {refused:?}");
    }
    assert!(added(&[&leaf[..], &leaf[..]].concat()).is_err(), "two in one file of DER");
    assert!(added(&leaf[..leaf.len() - 1]).is_err());
}
