//! Evidence files of a real software TPM, as somebody far away checks them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

#[allow(dead_code, reason = "what other tests need of it")]
mod played;

use std::fs::File;
use std::sync::mpsc::channel;
use std::thread;

use gtvp_appraisal::appraise::{Check, NotMade, TpmClass};
use gtvp_appraisal::ek::Roots;
use gtvp_appraisal::evidence::LogPart;
use gtvp_appraisal::file::{Conclusion, EvidenceFile, FileVerdict, Reader};
use gtvp_appraisal::ownlog::{EntryKind, OwnLog, PCR};
use gtvp_appraisal::tpm::{Attest, Name, Public};
use gtvp_ipc::supervisor::KernelLog;
use gtvp_model::digest::Digest;
use gtvp_model::fault::FaultKind;
use gtvp_protocol::vouch::MAX_EVIDENCE;
use gtvp_security::attest::{Asked, answer, make, with_references};
use gtvp_security::evidence;
use gtvp_security::kernel_logs::KernelLogs;
use gtvp_security::others::{About, Others};
use gtvp_security::platform::Platform;
use gtvp_security::tpm::actor::{Measured, Tpm};
use gtvp_security::tpm::client::Client;
use gtvp_security::tpm::pcrs::Bank;
use played::SoftwareTpm;
use played::server::Server;

const NOW: i64 = 1_790_000_000;
const NONCE: [u8; 32] = [7; 32];

fn measured(subject: &str, n: u8) -> Measured {
    Measured { kind: EntryKind::Binary, subject: subject.into(), value: Digest([n; 32]) }
}

fn file(tpm: &Tpm) -> EvidenceFile {
    let made = make(tpm, None, TpmClass::Software, NONCE.to_vec(), NOW).unwrap();
    let mut bytes = Vec::new();
    made.write(&mut bytes).unwrap();
    let read = EvidenceFile::decode(&bytes).unwrap();
    assert_eq!(read, made);
    read
}

fn verify(file: &EvidenceFile) -> FileVerdict {
    file.verify(&Reader { roots: &Roots::new(), known: &[], nonce: Some(&NONCE) }, NOW).unwrap()
}

#[test]
fn a_file_holds_and_says_what_it_leaves_open() {
    let tpm = SoftwareTpm::start();
    let actor = Tpm::start(tpm.address(), tpm.state()).unwrap();
    for (name, n) in [("gtvpd", 1), ("gtvp-security", 2)] {
        actor.measure(measured(name, n)).unwrap();
    }
    let file = file(&actor);
    let verdict = verify(&file);
    assert_eq!(verdict.conclusion(), Conclusion::Consistent, "{:?}", verdict.member.told());
    assert_eq!(
        verdict.member.passed,
        [Check::Signature, Check::Binding, Check::Pcrs, Check::OwnReplay],
        "what was not looked at has not passed"
    );
    for open in [NotMade::SoftwareTpm, NotMade::KeyClaimed, NotMade::NotCompared, NotMade::FilesNotMeasured] {
        assert!(verdict.member.not_made.contains(&open), "{open:?}");
    }
    let LogPart::From { bytes, .. } = &file.evidence.own else { panic!("it has a log") };
    assert_eq!(OwnLog::parse(bytes).unwrap().entries().len(), 2);
    // What the TPM signed is no other's choice.
    let signed = Attest::parse(&file.evidence.quote).unwrap().extra_data;
    assert_eq!(signed, file.claims.qualifying_data(&file.evidence.ak).0);
    assert_ne!(signed, NONCE);
}

#[test]
fn a_log_that_the_tpm_has_not_seen_is_refused_and_a_reset_tpm_begins_anew() {
    let mut tpm = SoftwareTpm::start();
    let actor = Tpm::start(tpm.address(), tpm.state()).unwrap();
    actor.measure(measured("gtvpd", 1)).unwrap();
    let first = verify(&file(&actor));
    assert_eq!(first.conclusion(), Conclusion::Consistent);
    // Somebody else has extended the PCR: no later file hides it.
    drop(actor);
    let mut client = Client::open(&tpm.address()).unwrap();
    client.pcr_extend(u32::from(PCR.get()), &[(Bank::Sha256.algorithm(), &[1; 32])]).unwrap();
    drop(client);
    let actor = Tpm::start(tpm.address(), tpm.state()).unwrap();
    let verdict = verify(&file(&actor));
    assert_eq!(verdict.conclusion(), Conclusion::Refused);
    let failed = verdict.member.told();
    assert_eq!(failed[0].name, "pcr-mismatch");
    assert!(failed[0].text.contains("GTVP log entry 0"), "{}", failed[0].text);
    // Until the TPM is reset: then it is another life, and the file says which.
    tpm.reset();
    actor.measure(measured("gtvpd", 1)).unwrap();
    let again = verify(&file(&actor));
    assert_eq!(again.conclusion(), Conclusion::Consistent, "{:?}", again.member.told());
    let resets = |v: &FileVerdict| v.member.clock.unwrap().reset_count;
    assert!(resets(&again) > resets(&first));
}

#[test]
fn a_file_of_a_unions_member_brings_what_it_can_be_compared_with() {
    let m1 = Server::start("m1");
    let made = |s: &Server| {
        let file = make(&s.actor, None, TpmClass::Software, NONCE.to_vec(), NOW).unwrap();
        with_references(file, s.union.manifests())
    };
    assert!(made(&m1).references.is_empty(), "outside of a union there is nothing");
    m1.begin().unwrap();
    let file = made(&m1);
    let authority = *Public::parse(&file.authorities[0].0).unwrap().name();
    let verify = |file: &EvidenceFile, known: &[Name]| {
        let mut bytes = Vec::new();
        file.write(&mut bytes).unwrap();
        let read = EvidenceFile::decode(&bytes).unwrap();
        read.verify(&Reader { roots: &Roots::new(), known, nonce: Some(&NONCE) }, NOW).unwrap()
    };
    assert_eq!(verify(&file, &[authority]).conclusion(), Conclusion::ConsistentWithKnownValues);
    let unknown = verify(&file, &[]);
    assert_eq!(unknown.conclusion(), Conclusion::Consistent, "nobody says that its authority is one");
    assert_eq!((unknown.references[0].manifest.as_str(), unknown.references[0].known), ("founder", false));
    assert!(unknown.member.passed.contains(&Check::OwnEntries));
    m1.actor.measure(measured("security", 66)).unwrap();
    let verdict = verify(&made(&m1), &[authority]);
    assert_eq!(verdict.conclusion(), Conclusion::Refused);
    assert!(verdict.member.told()[0].text.contains("GTVP log entry 5"));
}

/// A server that has measured something.
fn booted(tpm: &SoftwareTpm) -> Tpm {
    let actor = Tpm::start(tpm.address(), tpm.state()).unwrap();
    actor.measure(measured("gtvpd", 1)).unwrap();
    actor
}

/// The same with an IMA log of this many bytes.
fn with_log(tpm: &SoftwareTpm, actor: &Tpm, bytes: u64) -> Platform {
    let place = tpm.folder.join(format!("ima-log-{bytes}"));
    File::create(&place).unwrap().set_len(bytes).unwrap();
    let logs = KernelLogs::of([(KernelLog::Ima, File::open(&place).unwrap())]);
    Platform::of(gtvp_model::union::TpmClass::Software, Some(actor.clone())).with_logs(logs)
}

fn asked<'a>(tpm: &'a SoftwareTpm, platform: &'a Platform, others: Option<&'a Others>) -> Asked<'a> {
    Asked {
        platform,
        manifests: &Vec::new,
        state: &tpm.folder,
        nonce: "0707070707070707070707070707070707",
        others,
    }
}

#[test]
fn a_member_that_asks_for_files_holds_up_no_quote_and_is_told_when_to_ask_again() {
    let tpm = SoftwareTpm::start();
    let (platform, others) = (with_log(&tpm, &booted(&tpm), 0), Others::default());
    // A quote of this member's is being made, or a long log appraised.
    let turn = evidence::turn();
    assert!(
        answer(&asked(&tpm, &platform, Some(&others))).is_ok(),
        "it neither waits for that nor takes its turn"
    );
    let again = answer(&asked(&tpm, &platform, Some(&others))).unwrap_err();
    assert!(again.kind == FaultKind::Unavailable && again.message.ends_with("try again in 1 s"), "{again}");
    let at_work = others.begin(About::Box).unwrap();
    thread::scope(|scope| {
        // Control: what may be long waits for its turn; and whoever is at work for others keeps no person here waiting.
        let (done, waits) = channel();
        let (tpm, platform) = (&tpm, &platform);
        scope.spawn(move || done.send(answer(&asked(tpm, platform, None)).map(drop)).unwrap());
        assert!(waits.recv_timeout(std::time::Duration::from_millis(300)).is_err());
        drop(turn);
        waits.recv().unwrap().unwrap();
    });
    drop(at_work);
}

#[test]
fn evidence_that_is_too_long_to_be_sent_is_refused_before_it_is_made() {
    let mut tpm = SoftwareTpm::start();
    let (actor, longest) = (booted(&tpm), MAX_EVIDENCE as u64);
    let control = with_log(&tpm, &actor, longest / 2);
    assert!(answer(&asked(&tpm, &control, Some(&Others::default()))).is_ok(), "the control");
    let platform = with_log(&tpm, &actor, longest);
    assert!(answer(&asked(&tpm, &platform, None)).is_ok(), "a person here gets it");
    // Nobody asks the TPM any more: it is not even there.
    tpm.kill();
    let refused = answer(&asked(&tpm, &platform, Some(&Others::default()))).unwrap_err();
    assert_eq!(refused.kind, FaultKind::NoRoom, "{refused}");
    assert!(refused.message.contains("longer than is sent to other members"), "{refused}");
    let refused = answer(&asked(&tpm, &control, Some(&Others::default()))).unwrap_err();
    assert_eq!(refused.kind, FaultKind::Unavailable, "the control: {refused}");
}
