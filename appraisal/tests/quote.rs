//! A quote of a real vTPM (GCE; tests/vectors/README.md): what its bytes say, that its signature holds, and that changed
//! bytes do not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use gtvp_appraisal::alg::{HashAlg, LogDigest};
use gtvp_appraisal::tpm::{
    Attest, Attested, KeyKind, Malformed, PcrIndex, PcrValues, Public, Scheme, Signature, SignatureRefusal,
    VerifyingKey, check_ak, check_ek, check_tls_key,
};

fn vector(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/vectors/quote/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn pcrs(bank: HashAlg) -> PcrValues {
    let text = String::from_utf8(vector(&format!("gce_q_{bank}.pcrs"))).unwrap();
    let mut values = PcrValues::new(bank);
    for line in text.lines() {
        let (index, hex) = line.split_once(' ').unwrap();
        let value: LogDigest = format!("{bank}:{hex}").parse().unwrap();
        assert!(values.set(PcrIndex::new(index.parse().unwrap()).unwrap(), value));
    }
    values
}

#[test]
fn a_real_ak_is_one_and_nothing_else() {
    let ak = Public::parse(&vector("gce_ak.pub")).unwrap();
    assert!(matches!(ak.key, KeyKind::Rsa { bits: 2048, exponent: 65537, .. }));
    assert_eq!(ak.scheme, Scheme::RsaSsa(HashAlg::Sha256));
    assert_eq!(ak.attributes.bits(), 0x0005_0072);
    assert_eq!(check_ak(&ak), Ok(()));
    assert!(check_tls_key(&ak).unwrap_err().to_string().contains("restricted"));
    assert!(check_ek(&ak).unwrap_err().to_string().contains("decrypt"));
    assert_eq!(ak.name().to_bytes().len(), 34);
}

#[test]
fn each_missing_attribute_makes_it_no_ak() {
    let bytes = vector("gce_ak.pub");
    for (bit, name) in
        [(1, "fixedTPM"), (4, "fixedParent"), (5, "sensitiveDataOrigin"), (16, "restricted"), (18, "sign")]
    {
        let mut changed = bytes.clone();
        let attributes = u32::from_be_bytes(changed[4..8].try_into().unwrap()) & !(1 << bit);
        changed[4..8].copy_from_slice(&attributes.to_be_bytes());
        let ak = Public::parse(&changed).unwrap();
        assert!(check_ak(&ak).unwrap_err().to_string().contains(name), "{name}");
    }
    let mut decrypts = bytes.clone();
    decrypts[5] |= 2;
    assert!(check_ak(&Public::parse(&decrypts).unwrap()).unwrap_err().to_string().contains("decrypt"));
    let mut reserved = bytes;
    reserved[7] |= 1;
    assert!(matches!(Public::parse(&reserved), Err(Malformed::Value { what: "objectAttributes", .. })));
}

#[test]
fn real_quotes_verify_and_are_over_their_pcrs() {
    let key = VerifyingKey::of(&Public::parse(&vector("gce_ak.pub")).unwrap()).unwrap();
    for bank in [HashAlg::Sha1, HashAlg::Sha256, HashAlg::Sha384] {
        let (raw, sig) = (vector(&format!("gce_q_{bank}.att")), vector(&format!("gce_q_{bank}.sig")));
        let sig = Signature::parse(&sig).unwrap();
        key.verify(&raw, &sig).unwrap();
        let attest = Attest::parse(&raw).unwrap();
        assert_eq!(attest.extra_data, [0x90, 0x09]);
        assert_eq!((attest.clock.reset_count, attest.clock.restart_count, attest.clock.safe), (10, 0, true));
        let Attested::Quote { selection, digest } = attest.attested else { panic!("not a quote") };
        assert_eq!(selection.single_bank(), Ok(bank));
        let values = pcrs(bank);
        assert_eq!(values.digest(&selection, sig.hash()).unwrap().as_bytes(), digest);

        // One PCR less or another value: not this digest.
        let mut other = values.clone();
        other.set(PcrIndex::new(7).unwrap(), LogDigest::filled(bank, 1));
        assert_ne!(other.digest(&selection, sig.hash()).unwrap().as_bytes(), digest);
        let mut fewer = PcrValues::new(bank);
        values.iter().skip(1).for_each(|(p, v)| assert!(fewer.set(p, *v)));
        assert_eq!(fewer.digest(&selection, sig.hash()), None);
    }
}

#[test]
fn no_changed_byte_verifies_and_no_cut_panics() {
    let public = vector("gce_ak.pub");
    let key = VerifyingKey::of(&Public::parse(&public).unwrap()).unwrap();
    let (raw, sig) = (vector("gce_q_sha256.att"), vector("gce_q_sha256.sig"));
    let good = Signature::parse(&sig).unwrap();
    for i in 0..raw.len() {
        let mut changed = raw.clone();
        changed[i] ^= 1;
        assert_eq!(key.verify(&changed, &good), Err(SignatureRefusal::Wrong), "byte {i}");
        assert!(Attest::parse(&raw[..i]).is_err(), "cut at {i}");
    }
    for i in (0..sig.len()).step_by(7) {
        assert!(matches!(Signature::parse(&sig[..i]), Err(Malformed::Cut { .. })));
        let mut changed = sig.clone();
        changed[i] ^= 1;
        assert!(!Signature::parse(&changed).is_ok_and(|s| key.verify(&raw, &s).is_ok()));
    }
    for i in 0..public.len() {
        assert!(Public::parse(&public[..i]).is_err());
    }
    let mut longer = raw.clone();
    longer.push(0);
    assert_eq!(Attest::parse(&longer), Err(Malformed::Trailing(1)));
    let mut forged = raw;
    forged[0] = 0;
    assert_eq!(Attest::parse(&forged), Err(Malformed::NotTpmGenerated));
}

#[test]
fn a_sha1_signature_is_refused_by_name() {
    let key = VerifyingKey::of(&Public::parse(&vector("gce_ak.pub")).unwrap()).unwrap();
    let mut sig = vector("gce_q_sha256.sig");
    sig[3] = 0x04;
    let sig = Signature::parse(&sig).unwrap();
    assert_eq!(key.verify(&vector("gce_q_sha256.att"), &sig), Err(SignatureRefusal::Sha1));
}
