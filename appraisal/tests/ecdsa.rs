//! ECDSA keys and signatures in the TPM's encoding, made with a software key.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use gtvp_appraisal::alg::HashAlg;
use gtvp_appraisal::tpm::{
    KeyRefusal, Malformed, Public, Scheme, Signature, SignatureRefusal, VerifyingKey, check_ak,
    check_ak_certified, check_tls_key,
};

fn key() -> EcdsaKeyPair {
    EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()
}

fn sized(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u16).to_be_bytes());
    out.extend(bytes);
}

/// TPMT_PUBLIC of an ECDSA P-256 key.
fn public(key: &EcdsaKeyPair, attributes: u32, scheme: &[u16]) -> Vec<u8> {
    let mut out = vec![0x00, 0x23, 0x00, 0x0b];
    out.extend(attributes.to_be_bytes());
    out.extend([0, 0, 0, 0x10]);
    scheme.iter().for_each(|s| out.extend(s.to_be_bytes()));
    out.extend([0, 3, 0, 0x10]);
    let point = key.public_key().as_ref();
    sized(&mut out, &point[1..33]);
    sized(&mut out, &point[33..]);
    out
}

/// TPMT_SIGNATURE; leading zeros are left out, as some TPMs do.
fn sign(key: &EcdsaKeyPair, message: &[u8]) -> Vec<u8> {
    let fixed = key.sign(&SystemRandom::new(), message).unwrap();
    let mut out = vec![0x00, 0x18, 0x00, 0x0b];
    for half in fixed.as_ref().chunks(32) {
        let trimmed: Vec<u8> = half.iter().copied().skip_while(|b| *b == 0).collect();
        sized(&mut out, &trimmed);
    }
    out
}

const AK: u32 = 0x0005_0072;
const TLS: u32 = 0x0004_0072;

#[test]
fn signatures_with_and_without_leading_zeros_verify() {
    let key = key();
    let ak = Public::parse(&public(&key, AK, &[0x18, 0x0b])).unwrap();
    assert_eq!(ak.scheme, Scheme::Ecdsa(HashAlg::Sha256));
    assert_eq!(check_ak(&ak), Ok(()));
    let verifier = VerifyingKey::of(&ak).unwrap();
    // About one in 128 has a short r or s.
    for i in 0..600u32 {
        let message = i.to_be_bytes();
        let sig = Signature::parse(&sign(&key, &message)).unwrap();
        assert_eq!(verifier.verify(&message, &sig), Ok(()), "{i}");
        assert_eq!(verifier.verify(b"other", &sig), Err(SignatureRefusal::Wrong));
    }
    let other = VerifyingKey::of(&Public::parse(&public(&self::key(), AK, &[0x18, 0x0b])).unwrap()).unwrap();
    let sig = Signature::parse(&sign(&key, b"m")).unwrap();
    assert_eq!(other.verify(b"m", &sig), Err(SignatureRefusal::Wrong));
    let long = Signature::Ecdsa { hash: HashAlg::Sha256, r: vec![1; 33], s: vec![1; 32] };
    assert_eq!(verifier.verify(b"m", &long), Err(SignatureRefusal::TooLong));
    let rsa = Signature::RsaSsa { hash: HashAlg::Sha256, signature: vec![1; 256] };
    assert!(matches!(verifier.verify(b"m", &rsa), Err(SignatureRefusal::OtherScheme { .. })));
}

#[test]
fn a_point_off_the_curve_is_no_key() {
    let mut bytes = public(&key(), AK, &[0x18, 0x0b]);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let public = Public::parse(&bytes).unwrap();
    assert_eq!(VerifyingKey::of(&public).unwrap_err(), SignatureRefusal::BadKey);
}

/// TPMS_ATTEST of a certification.
fn certify(name: &[u8], challenge: &[u8]) -> Vec<u8> {
    let mut out = vec![0xff, b'T', b'C', b'G', 0x80, 0x17];
    sized(&mut out, &[0; 34]);
    sized(&mut out, challenge);
    out.extend([0; 16]);
    out.push(1);
    out.extend([0; 8]);
    sized(&mut out, name);
    sized(&mut out, &[0; 34]);
    out
}

#[test]
fn a_certified_tls_key_is_the_one_that_was_certified() {
    let (ak_key, tls_key) = (key(), key());
    let ak = VerifyingKey::of(&Public::parse(&public(&ak_key, AK, &[0x18, 0x0b])).unwrap()).unwrap();
    let tls = Public::parse(&public(&tls_key, TLS, &[0x10])).unwrap();
    assert_eq!(check_tls_key(&tls), Ok(()));
    let attest = certify(&tls.name().to_bytes(), b"challenge");
    let check = |attest: &[u8], by: &EcdsaKeyPair, challenge: &[u8], want: &Public| {
        check_ak_certified(&ak, attest, &sign(by, attest), challenge, want.name())
    };
    assert_eq!(check(&attest, &ak_key, b"challenge", &tls), Ok(()));
    assert_eq!(check(&attest, &ak_key, b"other", &tls), Err(KeyRefusal::BoundElsewhere));
    assert_eq!(
        check(&attest, &tls_key, b"challenge", &tls),
        Err(KeyRefusal::Signature(SignatureRefusal::Wrong))
    );
    let another = Public::parse(&public(&key(), TLS, &[0x10])).unwrap();
    assert!(matches!(check(&attest, &ak_key, b"challenge", &another), Err(KeyRefusal::OtherObject(_))));
    // What an unrestricted key could sign: the same bytes without the TPM's magic.
    let mut forged = attest.clone();
    forged[0] = 0;
    assert_eq!(
        check(&forged, &ak_key, b"challenge", &tls),
        Err(KeyRefusal::Malformed(Malformed::NotTpmGenerated))
    );
}

#[test]
fn an_unrestricted_key_is_no_ak_and_a_restricted_one_no_tls_key() {
    let key = key();
    let unrestricted = Public::parse(&public(&key, TLS, &[0x18, 0x0b])).unwrap();
    assert!(matches!(check_ak(&unrestricted), Err(KeyRefusal::Lacks { attribute: "restricted", .. })));
    let restricted = Public::parse(&public(&key, AK, &[0x18, 0x0b])).unwrap();
    assert!(matches!(check_tls_key(&restricted), Err(KeyRefusal::Has { attribute: "restricted", .. })));
    let no_scheme = Public::parse(&public(&key, AK, &[0x10])).unwrap();
    assert!(matches!(check_ak(&no_scheme), Err(KeyRefusal::Scheme { .. })));
    let sha1 = Public::parse(&public(&key, AK, &[0x18, 0x04])).unwrap();
    assert!(matches!(check_ak(&sha1), Err(KeyRefusal::Scheme { .. })));
    let portable = Public::parse(&public(&key, AK & !2, &[0x18, 0x0b])).unwrap();
    assert!(matches!(check_ak(&portable), Err(KeyRefusal::Lacks { attribute: "fixedTPM", .. })));
}

#[test]
fn p384_verifies() {
    use aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED_SIGNING;
    let key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let mut public = vec![0x00, 0x23, 0x00, 0x0c];
    public.extend(AK.to_be_bytes());
    public.extend([0, 0, 0, 0x10, 0, 0x18, 0, 0x0c, 0, 4, 0, 0x10]);
    let point = key.public_key().as_ref();
    sized(&mut public, &point[1..49]);
    sized(&mut public, &point[49..]);
    let parsed = Public::parse(&public).unwrap();
    assert_eq!(check_ak(&parsed), Ok(()));
    assert_eq!(parsed.name().to_bytes().len(), 50, "a SHA-384 name");
    let verifier = VerifyingKey::of(&parsed).unwrap();
    let fixed = key.sign(&SystemRandom::new(), b"m").unwrap();
    let halves = fixed.as_ref().split_at(48);
    let sig = Signature::Ecdsa { hash: HashAlg::Sha384, r: halves.0.to_vec(), s: halves.1.to_vec() };
    assert_eq!(verifier.verify(b"m", &sig), Ok(()));
    assert_eq!(verifier.verify(b"n", &sig), Err(SignatureRefusal::Wrong));
}

#[test]
fn rsa_pss_verifies() {
    use aws_lc_rs::rsa::{KeyPair as RsaKey, KeySize};
    use aws_lc_rs::signature::RSA_PSS_SHA256;
    let key = RsaKey::generate(KeySize::Rsa2048).unwrap();
    // RSAPublicKey: SEQUENCE and INTEGER with two length bytes each, a zero for the sign.
    let modulus = key.public_key().as_ref()[9..9 + 256].to_vec();
    let mut public = vec![0x00, 0x01, 0x00, 0x0b];
    public.extend(AK.to_be_bytes());
    public.extend([0, 0, 0, 0x10, 0, 0x16, 0, 0x0b, 8, 0, 0, 0, 0, 0]);
    sized(&mut public, &modulus);
    let ak = Public::parse(&public).unwrap();
    assert_eq!((ak.scheme, check_ak(&ak)), (Scheme::RsaPss(HashAlg::Sha256), Ok(())));
    let mut raw = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PSS_SHA256, &SystemRandom::new(), b"m", &mut raw).unwrap();
    let verifier = VerifyingKey::of(&ak).unwrap();
    let sig = Signature::RsaPss { hash: HashAlg::Sha256, signature: raw.clone() };
    assert_eq!(verifier.verify(b"m", &sig), Ok(()));
    assert_eq!(verifier.verify(b"n", &sig), Err(SignatureRefusal::Wrong));
    // The same bytes as another scheme's.
    let other = Signature::RsaSsa { hash: HashAlg::Sha256, signature: raw };
    assert!(matches!(verifier.verify(b"m", &other), Err(SignatureRefusal::OtherScheme { .. })));
}
