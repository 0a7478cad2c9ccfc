//! The client and the actor on a real software TPM.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

#[allow(dead_code, reason = "what other tests need of it")]
mod played;

use std::sync::{Arc, Mutex};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use gtvp_appraisal::alg::{HashAlg, LogDigest};
use gtvp_appraisal::cose::{Sealed, Unsigned};
use gtvp_appraisal::ownlog::{EntryKind, OwnLog, PCR};
use gtvp_appraisal::tpm::{
    Attest, Attested, Public, Scheme, Signature, VerifyingKey, check_ak, check_ak_certified, check_ek,
    check_tls_key,
};
use gtvp_model::digest::Digest;
use gtvp_security::tpm::actor::{Measured, Tpm};
use gtvp_security::tpm::client::{Client, TpmError};
use gtvp_security::tpm::codes::handle;
use gtvp_security::tpm::commands::ecdsa;
use gtvp_security::tpm::credential::make_credential;
use gtvp_security::tpm::log::Step;
use gtvp_security::tpm::pcrs::{Bank, Selection};
use gtvp_security::tpm::saved::SavedError;
use gtvp_security::tpm::templates::{self, EkKind};
use gtvp_security::tpm::tls::{CertificateVerify, Role};
use gtvp_security::tpm::transport::{self, Transport};
use gtvp_security::tpm::wire::{Auth, Command, Writer};
use played::SoftwareTpm;

fn actor(tpm: &SoftwareTpm) -> Tpm {
    Tpm::start(tpm.address(), tpm.state()).unwrap()
}

/// A P-256 key's point, from the end of its public area.
fn point(public: &[u8]) -> Vec<u8> {
    let y = &public[public.len() - 32..];
    let x = &public[public.len() - 66..public.len() - 34];
    [&[4], x, y].concat()
}

fn holds(public: &[u8], message: &[u8], signature: &[[u8; 32]; 2]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point(public))
        .verify(message, &signature.concat())
        .is_ok()
}

fn own() -> Selection {
    Selection::new(Bank::Sha256, [0, 7, u32::from(PCR.get())]).unwrap()
}

fn measured(subject: &str, n: u8) -> Measured {
    Measured { kind: EntryKind::Binary, subject: subject.into(), value: Digest([n; 32]) }
}

fn replay(log: &[u8]) -> LogDigest {
    OwnLog::parse(log).unwrap().replay(LogDigest::filled(HashAlg::Sha256, 0))
}

#[test]
fn a_quote_holds_for_its_key_its_challenge_and_its_values_and_for_no_other() {
    let tpm = SoftwareTpm::start();
    let actor = actor(&tpm);
    let identity = actor.state().unwrap().identity;
    actor.measure(measured("management", 1)).unwrap();
    let evidence = actor.evidence(own(), vec![5; 32], 0).unwrap();
    let quote = &evidence.quote;
    let signature = ecdsa(&quote.signature).unwrap();
    assert!(holds(&identity.ak_public, &quote.attest, &signature));
    assert!(!holds(&identity.tls_public, &quote.attest, &signature));
    let mut changed = quote.attest.clone();
    changed[60] ^= 1;
    assert!(!holds(&identity.ak_public, &changed, &signature));
    // What is quoted is what was read, and the log replays to it.
    let values = quote.values.concat();
    assert!(quote.attest.ends_with(digest(&SHA256, &values).as_ref()));
    assert_eq!(quote.values.len(), 3);
    assert_eq!(quote.values[2], replay(&evidence.log).as_bytes());
    // Another challenge, another quote.
    let other = actor.evidence(own(), vec![6; 32], evidence.log_size).unwrap();
    assert_ne!(other.quote.attest, quote.attest);
    assert_eq!(other.log, b"");
    assert!(matches!(actor.evidence(own(), vec![0; 65], 0), Err(TpmError::Unfit(_))));
}

#[test]
fn verifiers_take_the_keys_and_what_they_sign() {
    let tpm = SoftwareTpm::start();
    let actor = actor(&tpm);
    let identity = actor.state().unwrap().identity;
    let public = |bytes: &[u8]| Public::parse(bytes).unwrap();
    let (ek, ak, tls) =
        (public(&identity.ek_public), public(&identity.ak_public), public(&identity.tls_public));
    check_ek(&ek).unwrap();
    check_ak(&ak).unwrap();
    check_tls_key(&tls).unwrap();
    // The controls: no key passes for another.
    assert!(check_ak(&tls).is_err() && check_tls_key(&ak).is_err() && check_ek(&ak).is_err());
    assert_eq!(ak.name().to_bytes(), templates::name(&identity.ak_public));
    let key = VerifyingKey::of(&ak).unwrap();
    let certified = actor.certify_tls(b"challenge".to_vec()).unwrap();
    let check = |challenge: &[u8], name| {
        check_ak_certified(&key, &certified.attest, &certified.signature, challenge, name)
    };
    check(b"challenge", tls.name()).unwrap();
    assert!(check(b"another", tls.name()).is_err() && check(b"challenge", ek.name()).is_err());
    let quote = actor.evidence(own(), vec![5; 32], 0).unwrap().quote;
    key.verify(&quote.attest, &Signature::parse(&quote.signature).unwrap()).unwrap();
    let read = Attest::parse(&quote.attest).unwrap();
    assert_eq!(read.extra_data, [5; 32]);
    assert_eq!(read.clock.reset_count, quote.clock.reset_count);
    assert!(matches!(read.attested, Attested::Quote { .. }));
    let other = VerifyingKey::of(&tls).unwrap();
    assert!(other.verify(&quote.attest, &Signature::parse(&quote.signature).unwrap()).is_err());
}

#[test]
fn results_are_signed_by_the_attestation_key_and_nothing_that_begins_like_a_quote_is() {
    const TYPE: &str = "application/x-test";
    let tpm = SoftwareTpm::start();
    let actor = actor(&tpm);
    let identity = actor.state().unwrap().identity;
    let ak = Public::parse(&identity.ak_public).unwrap();
    let name = ak.name().to_bytes();
    // Shorter and longer than the TPM takes at once, and exactly two steps.
    for size in [1usize, 900, 1024, 2048, 5000] {
        let unsigned = Unsigned::new(TYPE, vec![7; size], Scheme::Ecdsa(HashAlg::Sha256), &name).unwrap();
        let signed = actor.sign_result(unsigned).unwrap();
        let key = VerifyingKey::of(&ak).unwrap();
        assert_eq!(Sealed::parse(&signed, TYPE, 8192).unwrap().open(&key, &name).unwrap(), vec![7; size]);
        let tls = VerifyingKey::of(&Public::parse(&identity.tls_public).unwrap()).unwrap();
        assert!(Sealed::parse(&signed, TYPE, 8192).unwrap().open(&tls, &name).is_err());
    }
    // The TPM itself refuses a forged attestation. It serves one connection at a time.
    drop(actor);
    let mut client = Client::open(&tpm.address()).unwrap();
    let primary = client.create_primary(handle::ENDORSEMENT, &templates::storage()).unwrap();
    let wrapped = client.create(primary.handle, &templates::attestation()).unwrap();
    let ak = client.load(primary.handle, &wrapped).unwrap();
    let wrapped = client.create(primary.handle, &templates::tls()).unwrap();
    let unrestricted = client.load(primary.handle, &wrapped).unwrap();
    client.flush(primary.handle).unwrap();
    let forged = [&[0xff, 0x54, 0x43, 0x47, 0x80, 0x18][..], &[0; 200]].concat();
    assert!(matches!(client.sign_hashed(ak.handle, &forged), Err(TpmError::Refused { command: "Sign", .. })));
    client.sign_hashed(ak.handle, &forged[1..]).unwrap();
    // The control: a key that is not restricted signs it.
    client.sign_hashed(unrestricted.handle, &forged).unwrap();
}

#[test]
fn every_pcr_of_both_banks_is_read_in_order() {
    let tpm = SoftwareTpm::start();
    let actor = actor(&tpm);
    for (bank, size) in [(Bank::Sha256, 32), (Bank::Sha384, 48)] {
        let all = Selection::new(bank, 0..24).unwrap();
        let quote = actor.evidence(all, vec![1; 32], 0).unwrap().quote;
        assert_eq!(quote.values.len(), 24);
        // PC Client Platform TPM Profile: 17 to 22 begin as ones, the others as zeros.
        for (pcr, value) in quote.values.iter().enumerate() {
            let first = if (17..=22).contains(&pcr) { 0xff } else { 0 };
            assert_eq!(*value, vec![first; size], "PCR {pcr}");
        }
    }
}

#[test]
fn the_tls_key_is_certified_and_signs_only_handshakes() {
    let tpm = SoftwareTpm::start();
    let actor = actor(&tpm);
    let identity = actor.state().unwrap().identity;
    let certified = actor.certify_tls(b"challenge".to_vec()).unwrap();
    assert!(holds(&identity.ak_public, &certified.attest, &ecdsa(&certified.signature).unwrap()));
    let name = templates::name(&identity.tls_public);
    assert!(certified.attest.windows(name.len()).any(|w| w == name), "the name of the TLS key is in it");
    let what = CertificateVerify::new(Role::Client, vec![9; 48]).unwrap();
    let signature = actor.sign_tls(what.clone()).unwrap();
    assert!(holds(&identity.tls_public, &what.content(), &signature));
    assert!(!holds(&identity.tls_public, &[9; 48], &signature));
    let server = CertificateVerify::new(Role::Server, vec![9; 48]).unwrap();
    assert!(!holds(&identity.tls_public, &server.content(), &signature));
}

#[test]
fn only_the_tpm_and_the_key_that_a_credential_is_made_for_get_the_secret() {
    let (one, two) = (SoftwareTpm::start(), SoftwareTpm::start());
    let (a, b) = (actor(&one), actor(&two));
    let (ia, ib) = (a.state().unwrap().identity, b.state().unwrap().identity);
    assert_ne!(ia.ek_public, ib.ek_public);
    let name = templates::name(&ia.ak_public);
    let credential = make_credential(&ia.ek_public, &name, &[0x5a; 32]).unwrap();
    let activate = |tpm: &Tpm| tpm.activate_credential(credential.blob.clone(), credential.secret.clone());
    assert_eq!(activate(&a).unwrap(), [0x5a; 32]);
    assert!(matches!(activate(&b), Err(TpmError::Refused { .. })), "another TPM got the secret");
    // An AK that is not from that EK.
    let diverted = make_credential(&ia.ek_public, &templates::name(&ib.ak_public), &[0x5a; 32]).unwrap();
    assert!(a.activate_credential(diverted.blob, diverted.secret).is_err());
    let mut changed = credential.clone();
    changed.blob[40] ^= 1;
    assert!(a.activate_credential(changed.blob, changed.secret).is_err());
    // Neither leaves anything behind: more often than there are places for sessions and keys.
    for n in 0..12 {
        assert!(activate(&b).is_err());
        assert_eq!(activate(&a).unwrap(), [0x5a; 32], "time {n}");
    }
}

#[test]
fn an_rsa_endorsement_key_activates_too() {
    let tpm = SoftwareTpm::start();
    let mut client = Client::open(&tpm.address()).unwrap();
    let ek = client.create_primary(handle::ENDORSEMENT, &templates::endorsement(EkKind::Rsa2048)).unwrap();
    let primary = client.create_primary(handle::ENDORSEMENT, &templates::storage()).unwrap();
    let wrapped = client.create(primary.handle, &templates::attestation()).unwrap();
    let ak = client.load(primary.handle, &wrapped).unwrap();
    client.flush(primary.handle).unwrap();
    let credential = make_credential(&ek.public, &templates::name(&ak.public), &[3; 20]).unwrap();
    let session = client.endorsement_session(&[8; 32]).unwrap();
    let secret =
        client.activate_credential(ak.handle, ek.handle, session, &credential.blob, &credential.secret);
    assert_eq!(secret.unwrap(), [3; 20]);
}

#[test]
fn a_restarted_process_has_the_same_keys_and_finds_a_clean_tpm() {
    let tpm = SoftwareTpm::start();
    let first = actor(&tpm).state().unwrap();
    // Each start leaves two keys in the TPM, which has places for three.
    for _ in 0..4 {
        let again = actor(&tpm).state().unwrap();
        assert_eq!(again.identity, first.identity);
        assert_eq!(again.clock.reset_count, first.clock.reset_count);
    }
}

#[test]
fn a_reset_is_lived_through_and_told() {
    let mut tpm = SoftwareTpm::start();
    let actor = actor(&tpm);
    let before = actor.state().unwrap();
    actor.measure(measured("management", 1)).unwrap();
    actor.measure(measured("management", 2)).unwrap();
    actor.measure(measured("components", 3)).unwrap();
    let first = actor.evidence(own(), vec![5; 32], 0).unwrap();
    tpm.reset();
    let evidence = actor.evidence(own(), vec![5; 32], 0).unwrap();
    let after = actor.state().unwrap();
    assert_eq!(after.identity, before.identity);
    assert_eq!(after.clock.reset_count, before.clock.reset_count + 1);
    // The counters in a quote are the TPM's own, not hidden ones.
    assert_eq!(first.quote.clock.reset_count, before.clock.reset_count);
    assert_eq!(evidence.quote.clock.reset_count, before.clock.reset_count + 1);
    assert_eq!(evidence.quote.clock.restart_count, 0);
    assert_eq!(after.reconnects, 1);
    // What runs was measured again, as it is now: an old quote and an old log are of another epoch.
    let log = OwnLog::parse(&evidence.log).unwrap();
    let said: Vec<_> = log.entries().iter().map(|e| (e.entry.subject, e.entry.value.0[0])).collect();
    assert_eq!(said, [("management", 2), ("components", 3)]);
    assert_eq!(evidence.quote.values[2], replay(&evidence.log).as_bytes());
    // A TPM that is away is an error, and none any more when it is back.
    tpm.kill();
    assert!(matches!(actor.state(), Err(TpmError::Transport(_))));
    tpm.run();
    assert_eq!(actor.state().unwrap().clock.reset_count, before.clock.reset_count + 2);
}

#[test]
fn the_log_stays_in_step_over_restarts_and_tampering_shows() {
    let tpm = SoftwareTpm::start();
    let file = tpm.state().join("measured.log");
    {
        let actor = actor(&tpm);
        for (name, n) in [("a", 1), ("b", 2), ("a", 1), ("b", 3)] {
            actor.measure(measured(name, n)).unwrap();
        }
        let evidence = actor.evidence(own(), vec![0; 32], 0).unwrap();
        assert_eq!(OwnLog::parse(&evidence.log).unwrap().entries().len(), 3, "nothing is said twice");
    }
    let whole = std::fs::read(&file).unwrap();
    // A crash after the entry was written, before it was extended.
    let pending = gtvp_appraisal::ownlog::OwnEntry::new(EntryKind::Binary, "c", Digest([4; 32])).unwrap();
    std::fs::write(&file, [whole.clone(), pending.encode()].concat()).unwrap();
    {
        let actor = actor(&tpm);
        assert_eq!(actor.state().unwrap().step, Step::Repaired);
        let evidence = actor.evidence(own(), vec![0; 32], 0).unwrap();
        assert_eq!(evidence.quote.values[2], replay(&evidence.log).as_bytes());
    }
    let whole = std::fs::read(&file).unwrap();
    // Cut, changed, and extended by somebody else: each is seen, and in the evidence too.
    let cut = whole[..whole.len() - pending.encode().len()].to_vec();
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    for bad in [cut, changed] {
        std::fs::write(&file, bad).unwrap();
        let actor = actor(&tpm);
        assert_eq!(actor.state().unwrap().step, Step::Out);
        let evidence = actor.evidence(own(), vec![0; 32], 0).unwrap();
        assert_ne!(evidence.quote.values[2], replay(&evidence.log).as_bytes());
    }
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(actor(&tpm).state().unwrap().step, Step::In, "the control: as it was");
    let mut client = Client::open(&tpm.address()).unwrap();
    client.pcr_extend(u32::from(PCR.get()), &[(Bank::Sha256.algorithm(), &[1; 32])]).unwrap();
    drop(client);
    assert_eq!(actor(&tpm).state().unwrap().step, Step::Out);
}

/// Changes a byte of some answers, always the same ones.
struct Flipping {
    way: Box<dyn Transport>,
    seed: Arc<Mutex<Seed>>,
}

struct Seed {
    state: u64,
    flipped: u32,
}

impl Seed {
    /// Knuth's MMIX generator: its upper half.
    fn next(&mut self) -> usize {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.state >> 33).unwrap()
    }
}

impl Transport for Flipping {
    fn exchange(&mut self, command: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut answer = self.way.exchange(command)?;
        let mut seed = self.seed.lock().unwrap();
        if seed.next() % 16 == 0 {
            let at = seed.next() % answer.len();
            answer[at] ^= u8::try_from(seed.next() % 255 + 1).unwrap();
            if seed.next() % 2 == 0 {
                let cut = seed.next() % answer.len();
                answer.truncate(cut);
            }
            seed.flipped += 1;
        }
        Ok(answer)
    }
}

#[test]
fn whatever_a_tpm_answers_is_an_error_or_fits_the_question() {
    let tpm = SoftwareTpm::start();
    let seed = Arc::new(Mutex::new(Seed { state: 0x5eed, flipped: 0 }));
    let all = Selection::new(Bank::Sha256, 0..24).unwrap();
    let mut told = 0;
    for round in 0..400u32 {
        let way = Flipping { way: transport::open(&tpm.address()).unwrap(), seed: seed.clone() };
        let quote = Client::over(Box::new(way), true).and_then(|mut client| {
            let primary = client.create_primary(handle::ENDORSEMENT, &templates::storage())?;
            let wrapped = client.create(primary.handle, &templates::attestation())?;
            let ak = client.load(primary.handle, &wrapped)?;
            client.flush(primary.handle)?;
            // Whatever they say is only not to do harm.
            let _ = client.certify(ak.handle, ak.handle, b"x");
            let _ = client.sign_hashed(ak.handle, &[1; 1500]);
            let _ = client.nv_read(handle::EK_CERTIFICATE_RSA, 4096);
            let _ = client.endorsement_session(&[1; 32]).map(|session| client.flush(session));
            client.quote_with_values(ak.handle, &round.to_be_bytes(), all)
        });
        if let Ok(quote) = quote {
            told += 1;
            assert!(quote.attest.ends_with(digest(&SHA256, &quote.values.concat()).as_ref()));
            assert_eq!(Attest::parse(&quote.attest).unwrap().extra_data, round.to_be_bytes());
        }
    }
    let flipped = seed.lock().unwrap().flipped;
    assert!(flipped > 100 && told > 20, "{flipped} flips, {told} quotes");
}

#[test]
fn keys_of_another_tpm_are_refused_and_kept() {
    let (one, two) = (SoftwareTpm::start(), SoftwareTpm::start());
    actor(&one).state().unwrap();
    let keys = std::fs::read(one.state().join("tpm-keys.json")).unwrap();
    std::fs::write(two.state().join("tpm-keys.json"), &keys).unwrap();
    assert!(matches!(actor(&two).state(), Err(TpmError::Saved(SavedError::OtherTpm))));
    assert_eq!(std::fs::read(two.state().join("tpm-keys.json")).unwrap(), keys);
}

#[test]
fn a_vendors_certificate_is_found_and_is_of_the_endorsement_key() {
    let mut tpm = SoftwareTpm::new();
    manufacture(&tpm);
    tpm.run();
    let identity = actor(&tpm).state().unwrap().identity;
    assert_eq!(identity.ek_kind, EkKind::Rsa2048);
    let modulus = &identity.ek_public[identity.ek_public.len() - 256..];
    let certificate = identity.ek_certificate.expect("a certificate");
    assert!(certificate.windows(256).any(|w| w == modulus), "the certificate is of another key");
}

#[test]
fn of_two_certified_endorsement_keys_the_elliptic_one_is_taken() {
    let mut tpm = SoftwareTpm::new();
    manufacture(&tpm);
    tpm.run();
    // More than is read at once.
    let certificate: Vec<u8> = (0..1300u32).map(|n| n as u8).collect();
    let mut client = Client::open(&tpm.address()).unwrap();
    define(&mut client, handle::EK_CERTIFICATE_ECC, &certificate);
    drop(client);
    let identity = actor(&tpm).state().unwrap().identity;
    assert_eq!((identity.ek_kind, identity.ek_certificate), (EkKind::EccP256, Some(certificate)));
}

#[test]
fn the_chain_that_lies_beside_a_certificate_goes_with_it() {
    let tpm = SoftwareTpm::start();
    let certificate =
        |size: u16, fill: u8| [&[0x30, 0x82], &size.to_be_bytes()[..], &vec![fill; size.into()]].concat();
    let (own, one, two) = (certificate(700, 1), certificate(600, 2), certificate(900, 3));
    let mut client = Client::open(&tpm.address()).unwrap();
    // Padded, and the chain cut where an index ends, as vendors have it; the last one is more than others take.
    define(&mut client, handle::EK_CERTIFICATE_ECC, &[&own[..], &[0xff; 90]].concat());
    let chain = [&one[..], &two, &certificate(2500, 4), &[0; 20]].concat();
    for (n, part) in chain.chunks(1100).enumerate() {
        define(&mut client, handle::EK_CHAIN.start + n as u32, part);
    }
    drop(client);
    let identity = actor(&tpm).state().unwrap().identity;
    assert_eq!(identity.ek_certificate, Some([own, one, two].concat()));
}

/// Makes a non-volatile index with these contents, as a vendor does.
fn define(client: &mut Client, index: u32, contents: &[u8]) {
    // Owner and password may write and read, no dictionary lockout.
    const ATTRIBUTES: u32 = 1 << 1 | 1 << 2 | 1 << 17 | 1 << 18 | 1 << 25;
    let size = u16::try_from(contents.len()).unwrap();
    let public = Writer::new().u32(index).u16(0x0b).u32(ATTRIBUTES).sized(&[]).u16(size).done();
    let define = Command::plain(0x12a).on_with(handle::OWNER, Auth::Empty);
    client.run("NV_DefineSpace", &define.with(Writer::new().sized(&[]).sized(&public))).unwrap();
    for (n, part) in contents.chunks(500).enumerate() {
        let write = Command::plain(0x137).on_with(handle::OWNER, Auth::Empty).on(index);
        let offset = u16::try_from(n * 500).unwrap();
        client.run("NV_Write", &write.with(Writer::new().sized(part).u16(offset))).unwrap();
    }
}

/// swtpm_setup as a vendor: a CA of its own, an EK certificate in the TPM's memory.
fn manufacture(tpm: &SoftwareTpm) {
    let ca = tpm.folder.join("ca");
    std::fs::create_dir_all(&ca).unwrap();
    let at = |name: &str| ca.join(name).display().to_string();
    let local = format!(
        "statedir = {0}\nsigningkey = {0}/key.pem\nissuercert = {0}/cert.pem\ncertserial = {0}/serial\n",
        ca.display()
    );
    std::fs::write(ca.join("localca.conf"), local).unwrap();
    std::fs::write(ca.join("options"), "--tpm-manufacturer IBM\n--tpm-model swtpm\n--tpm-version 2\n")
        .unwrap();
    let setup = format!(
        "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {}\n\
         create_certs_tool_options = {}\nactive_pcr_banks = sha256\n",
        at("localca.conf"),
        at("options")
    );
    std::fs::write(ca.join("setup.conf"), setup).unwrap();
    let mut command = std::process::Command::new("/usr/bin/swtpm_setup");
    command.args(["--tpm2", "--create-ek-cert", "--lock-nvram", "--tpm-state"]).arg(tpm.tpm_state());
    command.arg("--config").arg(ca.join("setup.conf"));
    let output = command
        .output()
        .expect("swtpm_setup runs: it is of the Debian package swtpm-tools (scripts/setup installs it)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
