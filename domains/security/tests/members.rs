//! Members on real software TPMs: enrolment by HSP's own engines, and evidence that was tampered with, each refused by its name.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

#[allow(dead_code, reason = "what other tests need of it")]
mod played;

use std::path::Path;

use gtvp_appraisal::ek::{self, EkKey, Roots};
use gtvp_appraisal::ownlog::{EntryKind, PCR};
use gtvp_ipc::bulk;
use gtvp_ipc::security::{
    ActivateCredential, AppraiseCertification, AppraiseKeys, AskOf, Asking, BeginUnion, Challenged,
    LearnRecord, MakeCredential, Quote, Wish, WriteAdmission, WriteHousekeeping,
};
use gtvp_model::digest::Digest;
use gtvp_model::fault::FaultKind;
use gtvp_model::token::{JoinToken, TokenSecret};
use gtvp_model::union::{
    Admission, EkDigest, Identity, PlatformIdentity, RosterEntry, TpmClass, TpmKind, TpmMaker, UnixTime,
};
use gtvp_model::unionview::UnionBegin;
use gtvp_protocol::csp::{CoSigned, Offer};
use gtvp_protocol::frame::wire;
use gtvp_protocol::hsp::join::{CredentialSecret, JoinBinding};
use gtvp_protocol::hsp::message::{Certification, JoinKeys, LogKind};
use gtvp_protocol::hsp::{Binding, Durable, Event, Refusal, Rejection, RejectionKind, Role};
use gtvp_security::peers::asks::{self, GOES_ON_MS};
use gtvp_security::tpm::client::Client;
use gtvp_security::tpm::pcrs::Bank;
use gtvp_security::tpm::templates::{EkKind, endorsement};
use played::SoftwareTpm;
use played::enrolment::{End, enrolment, run, unwanted};
use played::server::{NOW, Sent, Server, at, hardware, measured, own_evidence, sent};
use played::union::{joins, token};

fn joined() -> (Server, Server) {
    let (m1, m2) = (Server::start("m1"), Server::start("m2"));
    m1.begin().unwrap();
    let token = token(&[&m1]);
    joins(&m2, &m1, &token);
    (m1, m2)
}

fn verdict(server: &Server, of: &str, ms: u64) -> String {
    let rows = server.peers.members(at(ms)).unwrap();
    rows.into_iter().find(|r| r.name == of).unwrap().verdict
}

fn kind<T: std::fmt::Debug>(outcome: Result<T, Rejection>) -> (RejectionKind, String) {
    let rejection = outcome.unwrap_err();
    (rejection.kind, rejection.why)
}

/// Extends the PCR of the log behind the log's back.
fn extend_unlogged(server: Server) -> Server {
    server.restart_after(|tpm| {
        let mut client = Client::open(&tpm.address()).unwrap();
        client.pcr_extend(u32::from(PCR.get()), &[(Bank::Sha256.algorithm(), &[1; 32])]).unwrap();
    })
}

#[test]
fn a_server_with_its_own_tpm_becomes_a_member_by_the_real_engines() {
    // On a stack as small as those of the process's own threads.
    let small = std::thread::Builder::new().stack_size(256 * 1024);
    small.spawn(become_a_member).unwrap().join().unwrap();
}

fn become_a_member() {
    let (m1, m2) = (Server::start("m1"), Server::start("m2"));
    m1.begin().unwrap();
    let token = token(&[&m1]);
    let (mut j, mut v) = enrolment(&m2, &m1, &token);
    run(&mut j, &mut v);
    assert_eq!((j.refusal(), v.refusal()), (None, None));
    assert_eq!(m1.view(), m2.view(), "both have the same record");
    assert_eq!(m2.entry().name.as_str(), "m2");
    assert_eq!((verdict(&m1, "m2", 0), verdict(&m2, "m1", 0)), ("trusted".into(), "trusted".into()));
    assert_eq!(verdict(&m2, "m2", 0), "unknown", "nobody speaks for itself");
    let persisted = |end: &End<'_>| end.done.iter().filter(|c| *c == "Persist").count();
    assert_eq!((persisted(&j), persisted(&v)), (2, 0));

    // The session goes on: the next round sends what is new of the logs, which is nothing.
    let Asking { nonce, ask } = m1.peers.ask_of(&AskOf { member: m2.id() }, at(0)).unwrap();
    let own = ask.held.as_slice().iter().find(|h| h.log == LogKind::Own).unwrap();
    assert!(own.bytes > 0);
    j.go_on();
    v.go_on();
    v.on(Event::Renew { nonce, ask });
    run(&mut j, &mut v);
    assert_eq!((j.refusal(), v.refusal()), (None, None));
    assert!(v.done.contains(&"Renewed".to_owned()));

    // Both are the same after a restart, and what is not on the disk is not known.
    let head = m1.head();
    drop((j, v));
    let m2 = m2.restart();
    assert_eq!(m2.head(), head);
    assert_eq!(verdict(&m2, "m1", 0), "unknown");
    let shown = m1.peers.show(&"m2".parse().unwrap(), at(0)).unwrap();
    assert!(shown.result.is_some());
    let checks: Vec<_> = shown.checks.iter().map(|c| (c.outcome.as_str(), c.detail.as_str())).collect();
    assert!(checks.iter().all(|(outcome, _)| *outcome != "failed"));
    for open in ["member.toml: not checked", "a software TPM", "files executed after boot: not measured"] {
        let said = |c: &(&str, &str)| c.0 == "not_checked" && c.1.starts_with(open);
        assert!(checks.iter().any(said), "{open}: {checks:?}");
    }
}

#[test]
fn a_joiner_whose_programs_nobody_knows_stays_out_until_they_are_accepted() {
    let (m1, m2) = (Server::start("m1"), Server::start("m2"));
    m2.actor.measure(measured(EntryKind::Binary, "drivers", 66)).unwrap();
    m1.begin().unwrap();
    let token = token(&[&m1]);
    let before = m1.view();
    let (mut j, mut v) = enrolment(&m2, &m1, &token);
    run(&mut j, &mut v);
    let why = v.refusal().unwrap();
    assert!(why.contains("own-entry: GTVP log entry 5") && why.contains("drivers"), "{why}");
    assert_eq!(m1.view(), before);
    assert!(m2.union.known().unwrap().is_none());
    // An administrator who has seen it says that it is healthy; the same token still holds.
    let wish = Wish::AcceptReference { member: "m2".parse().unwrap(), next: false };
    let written = m1.wish(wish.clone()).unwrap();
    assert!(written.about.starts_with("1 measurements of m2 count as healthy now"), "{}", written.about);
    Server::decide(&written.entry, &[&m1], &[&m1]).unwrap();
    joins(&m2, &m1, &token);
    assert_eq!(m1.view(), m2.view());
    assert_eq!(m1.wish(wish).unwrap_err().kind, FaultKind::WrongState, "nothing is left to accept");
    let rows = m1.union.references().unwrap();
    let names: Vec<_> = rows.iter().map(|r| (r.name.as_str(), r.version, r.rules, r.next)).collect();
    assert_eq!(names[0], ("accepted-m2", 1, 1, 0));
    assert_eq!(names[1].0, "founder");
}

#[test]
fn nobody_has_their_programs_accepted_by_wanting_a_name_that_another_wants() {
    let (m1, m2, evil) = (Server::start("m1"), Server::start("m2"), Server::start("m2"));
    m1.begin().unwrap();
    let (token, leaked) = (token(&[&m1]), self::token(&[&m1]));
    m2.actor.measure(measured(EntryKind::Binary, "drivers", 66)).unwrap();
    evil.actor.measure(measured(EntryKind::Binary, "rootkit", 67)).unwrap();
    let joins = |server: &Server, token: &JoinToken| {
        let (mut j, mut v) = enrolment(server, &m1, token);
        run(&mut j, &mut v);
        v.refusal()
    };
    joins(&m2, &token).unwrap();
    joins(&evil, &leaked).unwrap();
    let accept = |whom: &str| m1.wish(Wish::AcceptReference { member: whom.parse().unwrap(), next: false });
    let ek = |server: &Server| match server.identity() {
        Identity::Tpm { ek, .. } => ek.to_string(),
        Identity::Bare { .. } => panic!("it has a TPM"),
    };
    let refused = accept("m2").unwrap_err();
    assert!(refused.message.contains("more than one server"), "{refused:?}");
    for server in [&m2, &evil] {
        assert!(refused.causes.iter().any(|c| c.contains(&ek(server))), "{refused:?}");
    }
    // The one that is meant, by its endorsement key; what was accepted is told.
    let written = accept(&ek(&m2)).unwrap();
    assert!(written.about.starts_with("1 measurements of m2 count as healthy now: "), "{}", written.about);
    assert!(written.about.contains("drivers") && !written.about.contains("rootkit"), "{}", written.about);
    Server::decide(&written.entry, &[&m1], &[&m1]).unwrap();
    assert_eq!(joins(&m2, &token), None);
    // A member's name and a stranger's are no different.
    assert!(accept("m2").unwrap_err().causes[0].ends_with("a member"));
    assert!(joins(&evil, &leaked).is_some());
}

#[test]
fn nobody_is_admitted_of_whom_less_was_seen_here() {
    let (m1, m2) = (Server::start("m1"), Server::start("m2"));
    m1.begin().unwrap();
    let token = token(&[&m1]);
    let admit = |secret: &TokenSecret| {
        let member = RosterEntry::new(
            "m2".parse().unwrap(),
            m2.identity(),
            PlatformIdentity::try_from(8).unwrap(),
            hardware(),
        );
        let admission = Admission { member, token: secret.key().id(), secret: secret.clone() };
        m1.peers.write_admission(&WriteAdmission { admission }, at(0))
    };
    let refused = admit(&token.secret).unwrap_err();
    assert_eq!(refused.kind, FaultKind::Denied);
    // Its keys alone are not enough.
    let keys = m2.peers.own_keys().unwrap();
    let asked = AppraiseKeys { keys: keys.keys.clone().unwrap(), spki: keys.identity.spki() };
    let checked = m1.peers.appraise_keys(&asked, at(0)).unwrap();
    let refused = admit(&token.secret).unwrap_err();
    assert!(refused.causes[0].contains("has not proven"), "{refused:?}");
    // Control: after all of it the entry is written.
    let (mut j, mut v) = enrolment(&m2, &m1, &token);
    run(&mut j, &mut v);
    assert_eq!(v.refusal(), None);

    // Keys that TLS did not show, and keys in the wrong places.
    let elsewhere = AppraiseKeys { spki: [7; 32].into(), ..clone(&asked) };
    assert_eq!(kind(m1.peers.appraise_keys(&elsewhere, at(0))).0, RejectionKind::Keys);
    let mut swapped = clone(&asked);
    std::mem::swap(&mut swapped.keys.ak, &mut swapped.keys.tls);
    let (what, why) = kind(m1.peers.appraise_keys(&swapped, at(0)));
    assert_eq!(what, RejectionKind::Keys);
    assert!(why.contains("attestation key is not restricted"), "{why}");
    // A credential opens in the TPM with that EK, for that AK, and in no other; none is made for keys that were not believed.
    m1.peers.appraise_keys(&asked, at(0)).unwrap();
    let make = |ek: &[u8]| MakeCredential { ek: ek.to_vec(), ak: checked.ak.clone() };
    let made = m1.peers.make_credential(&make(&checked.ek_public), at(0)).unwrap();
    let open = |s: &Server, credential| s.peers.activate_credential(&ActivateCredential { credential });
    assert!(open(&m2, made.credential.clone()).is_ok());
    assert!(open(&m1, made.credential).is_err());
    let own = m1.peers.own_keys().unwrap().keys.unwrap();
    let foreign = m1.peers.make_credential(&make(own.ek.as_slice()), at(0)).unwrap_err();
    assert_eq!(foreign.kind, FaultKind::Denied, "another TPM's endorsement key");
}

#[test]
fn a_communication_that_is_taken_over_admits_no_tpm_whose_credential_was_not_opened() {
    let (m1, m2, forger) = (Server::start("m1"), Server::start("m2"), Server::start("forger"));
    m1.begin().unwrap();
    let token = token(&[&m1]);
    // What is proven in m1's name, with keys of the forger's beside this endorsement key; whether its entry is written then.
    let admit = |of: &Server, own: bool, change: &dyn Fn(&mut JoinBinding)| {
        let ek = of.peers.own_keys().unwrap().keys.unwrap().ek;
        let keys = JoinKeys { ek, ..forger.peers.own_keys().unwrap().keys.unwrap() };
        let asked = AppraiseKeys { keys, spki: forger.identity().spki() };
        let keys = *m1.peers.appraise_keys(&asked, at(0)).unwrap();
        let ask = MakeCredential { ek: keys.ek_public.clone(), ak: keys.ak.clone() };
        let credential = m1.peers.make_credential(&ask, at(0)).unwrap().credential;
        let mut binding = JoinBinding {
            union: token.union,
            token: token.secret.key().id(),
            verifier: m1.id(),
            exporter: [5; 32],
            transcript: Digest([6; 32]),
        };
        change(&mut binding);
        let secret = match own {
            true => forger.peers.activate_credential(&ActivateCredential { credential }).unwrap(),
            false => CredentialSecret([0; 32]),
        };
        let proof = binding.prove(&secret, &keys.ak, &keys.tls);
        let made = forger.actor.certify_tls(binding.certify_data().0.to_vec()).unwrap();
        let certification = Certification {
            attest: made.attest.try_into().unwrap(),
            signature: made.signature.try_into().unwrap(),
        };
        let what = AppraiseCertification { proof, certification, binding, keys: keys.clone() };
        let outcome = m1.peers.appraise_certification(&what, at(0));
        let member = RosterEntry::new(
            "m2".parse().unwrap(),
            keys.identity(),
            PlatformIdentity::try_from(8).unwrap(),
            hardware(),
        );
        let secret = token.secret.clone();
        let admission = Admission { member, token: secret.key().id(), secret };
        let written = m1.peers.write_admission(&WriteAdmission { admission }, at(0)).unwrap_err();
        (outcome.map_err(|r| r.kind), written.causes[0].clone())
    };
    let unproven = "it has not proven here that its keys are in the TPM of its endorsement key".to_owned();
    assert_eq!(admit(&m2, false, &|_| ()), (Err(RejectionKind::Credential), unproven.clone()));
    assert_eq!(admit(&forger, false, &|_| ()), (Err(RejectionKind::Credential), unproven.clone()));
    let elsewhere = |change: &dyn Fn(&mut JoinBinding)| {
        assert_eq!(admit(&forger, true, change), (Err(RejectionKind::BoundElsewhere), unproven.clone()));
    };
    elsewhere(&|b| b.verifier = m2.id());
    elsewhere(&|b| b.union = [1; 32].into());
    // Control: with an endorsement key of its own the forger is a server like any other, and only its evidence is missing.
    assert_eq!(admit(&forger, true, &|_| ()), (Ok(()), "its evidence was not believed here".into()));
}

fn clone(asked: &AppraiseKeys) -> AppraiseKeys {
    AppraiseKeys { keys: asked.keys.clone(), spki: asked.spki }
}

#[test]
fn evidence_that_is_bound_to_something_else_is_refused() {
    let (m1, m2) = joined();
    let good = m2.evidence(&m1, 0);
    good.appraised_by(&m1, 0).unwrap();
    let bound = |change: &dyn Fn(&mut gtvp_protocol::hsp::Binding)| {
        let mut sent = m2.evidence(&m1, 0);
        change(&mut sent.binding);
        let rejection = sent.appraised_by(&m1, 0).unwrap_err();
        // What its attester signed for another connection counts against it (HSP's 20, docs/spec/csp.md, "standing"); what only this
        // side has wrong does not (30).
        let counts = Refusal::from(rejection.clone()).name() == "EvidenceRejected";
        assert_eq!(counts, rejection.kind != RejectionKind::Unknown, "{rejection}");
        rejection.kind
    };
    let (elsewhere, ours) = (RejectionKind::BoundElsewhere, RejectionKind::Unknown);
    assert_eq!(bound(&|b| b.nonce = [0; 32]), RejectionKind::Unknown, "replayed: nobody asked that");
    assert_eq!(bound(&|b| b.exporter = [0; 32]), elsewhere, "relayed");
    assert_eq!(bound(&|b| b.role = Role::Initiator), elsewhere, "reflected");
    assert_eq!(bound(&|b| b.epoch.0 += 1), elsewhere);
    assert_eq!(bound(&|b| b.challenger = [1; 32].into()), ours, "no connection of this member's");
    assert_eq!(bound(&|b| b.attester = m1.id()), ours);
    assert_eq!(bound(&|b| b.challenger_tls = vec![1]), ours);
    assert_eq!(
        bound(&|b| b.attester_tls = m1.identity().tls_name()),
        ours,
        "it has rejoined since, with new keys"
    );
    assert_eq!(bound(&|b| b.transcript.0 = [0; 32]), elsewhere);
    assert_eq!(
        bound(&|b| b.union = [1; 32].into()),
        RejectionKind::Unknown,
        "nothing is known of that union"
    );
    // This member quotes for nobody else, nothing else, and nowhere else.
    let (binding, ask) = m2.challenge(&m1, Role::Responder);
    let denied = |change: &dyn Fn(&mut gtvp_protocol::hsp::Binding)| {
        let mut other = binding.clone();
        change(&mut other);
        m2.quote(&other, &ask).unwrap_err().kind
    };
    assert_eq!(denied(&|b| b.attester = m1.id()), FaultKind::Denied);
    assert_eq!(denied(&|b| b.attester_tls = vec![0; 34]), FaultKind::Denied);
    assert_eq!(denied(&|b| b.union = [1; 32].into()), FaultKind::Denied);
    assert_eq!(denied(&|b| b.challenger = m2.id()), FaultKind::Denied);
    assert!(m2.quote(&binding, &ask).is_ok());
}

#[test]
fn evidence_of_another_key_and_a_changed_quote_are_refused() {
    let (m1, m2) = joined();
    // Another member's key signs, over what this one is asked.
    let stranger = Server::start("m3");
    let mut sent = m2.evidence(&m1, 0);
    sent.evidence.ak =
        stranger.peers.own_keys().unwrap().keys.unwrap().ak.as_slice().to_vec().try_into().unwrap();
    let (what, why) = kind(sent.appraised_by(&m1, 0));
    assert_eq!(what, RejectionKind::Signature);
    assert!(why.starts_with("other-ak: "), "{why}");
    let mut sent = m2.evidence(&m1, 0);
    let mut attest = sent.evidence.attest.as_slice().to_vec();
    *attest.last_mut().unwrap() ^= 1;
    sent.evidence.attest = attest.try_into().unwrap();
    let (what, why) = kind(sent.appraised_by(&m1, 0));
    assert_eq!(what, RejectionKind::Signature);
    assert!(why.starts_with("signature: "), "{why}");
    let mut sent = m2.evidence(&m1, 0);
    let mut pcrs = sent.evidence.pcrs.as_slice().to_vec();
    pcrs.pop();
    sent.evidence.pcrs = pcrs.try_into().unwrap();
    assert_eq!(kind(sent.appraised_by(&m1, 0)).0, RejectionKind::Pcrs);
    // A stranger with a good TPM is nobody.
    let mut sent = m2.evidence(&m1, 0);
    sent.of =
        RosterEntry::new("m2".parse().unwrap(), stranger.identity(), PlatformIdentity::default(), hardware());
    assert_eq!(kind(sent.appraised_by(&m1, 0)).0, RejectionKind::Unknown);
    assert_eq!(verdict(&m1, "m2", 0), "unknown", "evidence that cannot be believed ends a verdict");
    m2.evidence(&m1, 0).appraised_by(&m1, 0).unwrap();
    assert_eq!(verdict(&m1, "m2", 0), "trusted");
}

#[test]
fn a_cut_or_rewritten_log_is_refused_and_so_is_an_extend_that_no_log_has() {
    let (m1, m2) = joined();
    m2.evidence(&m1, 1).appraised_by(&m1, 0).unwrap();
    // Whole logs, as for somebody who has started again.
    let m1 = m1.restart();
    let own = |sent: &Sent| sent.logs.iter().position(|l| l.log == LogKind::Own).unwrap();
    let mut cut = m2.evidence(&m1, 0);
    let at_own = own(&cut);
    // The last entry: "communication".
    let length = cut.logs[at_own].bytes.len() - (2 + "communication".len() + 32);
    cut.logs[at_own].bytes.truncate(length);
    assert_eq!(
        kind(cut.appraised_by(&m1, 0)).0,
        RejectionKind::Malformed,
        "the evidence says how long it is"
    );
    let mut cut = m2.evidence(&m1, 0);
    cut.logs[at_own].bytes.truncate(length);
    cut.evidence.ends = vec![0, 0, length as u64].try_into().unwrap();
    let (what, why) = kind(cut.appraised_by(&m1, 0));
    assert_eq!(what, RejectionKind::Replay);
    assert!(why.starts_with("pcr-mismatch: PCR 14") && why.contains("GTVP log entry 3"), "{why}");
    assert_eq!(verdict(&m1, "m2", 0), "untrusted");
    let mut rewritten = m2.evidence(&m1, 0);
    *rewritten.logs[at_own].bytes.last_mut().unwrap() ^= 1;
    assert!(kind(rewritten.appraised_by(&m1, 0)).1.starts_with("pcr-mismatch"));
    m2.evidence(&m1, 0).appraised_by(&m1, 0).unwrap();
    assert_eq!(verdict(&m1, "m2", 0), "trusted");

    // While a session goes on: what is new of the log, and a PCR that says more.
    let m2 = extend_unlogged(m2);
    let sent = m2.evidence(&m1, 1);
    assert!(sent.logs.iter().all(|l| l.bytes.is_empty()), "nothing is new");
    let (what, why) = kind(sent.appraised_by(&m1, 0));
    assert_eq!(what, RejectionKind::Replay);
    assert!(why.starts_with("pcr-mismatch"), "{why}");
    assert_eq!(verdict(&m1, "m2", 0), "untrusted");
    // It stays so: for a new session too, and by silence it does not become better.
    assert_eq!(kind(m2.evidence(&m1, 0).appraised_by(&m1, 0)).0, RejectionKind::Replay);
    assert_eq!(verdict(&m1, "m2", 3_600_000), "untrusted");
}

#[test]
fn a_replaced_program_is_refused_by_its_entry_and_an_accepted_update_is_not() {
    let (m1, m2) = joined();
    let accept = |next| {
        let written = m1.wish(Wish::AcceptReference { member: "m2".parse().unwrap(), next }).unwrap();
        Server::decide(&written.entry, &[&m1], &[&m1, &m2]).unwrap();
    };
    m2.evidence(&m1, 1).appraised_by(&m1, 0).unwrap();
    m2.actor.measure(measured(EntryKind::Binary, "security", 77)).unwrap();
    let (what, why) = kind(m2.evidence(&m1, 2).appraised_by(&m1, 0));
    assert_eq!(what, RejectionKind::Reference);
    assert!(why.starts_with("own-entry: GTVP log entry 5 at byte"), "{why}");
    let failed = m1.peers.show(&"m2".parse().unwrap(), at(0)).unwrap();
    let row = failed.checks.iter().find(|c| c.outcome == "failed").unwrap();
    assert_eq!(row.check, "own_entries");
    assert!(row.detail.contains("GTVP log entry 5"), "{}", row.detail);
    accept(true);
    // Other reference values: all logs are judged again.
    let whole = m2.evidence(&m1, 0);
    assert!(whole.logs.iter().all(|l| l.from == 0));
    whole.appraised_by(&m1, 0).unwrap();
    let rows = m1.union.references().unwrap();
    assert_eq!((rows[0].name.as_str(), rows[0].rules, rows[0].next), ("accepted-m2", 0, 1));
    // Evidence that was asked for shortly before reference values changed still counts, once.
    let (asked_before, kept) = (m2.evidence(&m1, 1), m2.evidence(&m1, 1));
    let (binding, ask) = m2.challenge(&m1, Role::Responder);
    let retire = m1.wish(Wish::RetireReference { name: "accepted-m2".into() }).unwrap();
    Server::decide(&retire.entry, &[&m1], &[&m1, &m2]).unwrap();
    asked_before.appraised_by(&m1, GOES_ON_MS - 1).unwrap();
    // It does not stay so by answers that are kept back, nor by an old question that is put with a new nonce.
    assert!(kind(kept.appraised_by(&m1, GOES_ON_MS)).1.starts_with("log-from: "));
    let own = m2.quote(&binding, &ask).unwrap();
    assert!(own.logs.iter().any(|l| l.from > 0));
    let (new, whole) = m2.challenge(&m1, Role::Responder);
    assert_ne!(whole, ask);
    let own = m2.quote(&new, &ask).map(|again| (sent(&again, 1), again.logs)).unwrap();
    let put = Sent { of: m2.entry(), evidence: own.0, logs: own.1, binding: new, ask };
    assert_eq!(kind(put.appraised_by(&m1, 0)).0, RejectionKind::Unknown);
    assert_eq!(kind(m2.evidence(&m1, 2).appraised_by(&m1, 0)).0, RejectionKind::Reference);
}

#[test]
fn a_communication_that_is_taken_over_keeps_no_dead_member_trusted() {
    let (m1, m2) = joined();
    let good = m2.evidence(&m1, 1);
    good.appraised_by(&m1, 0).unwrap();
    let unknown = |what: &Sent, ms| {
        let kind = kind(what.appraised_by(&m1, ms)).0;
        assert!(matches!(kind, RejectionKind::Unknown | RejectionKind::BoundElsewhere), "{kind:?}");
    };
    // The same evidence again, with the same binding; with a nonce that is new, or that nobody gave.
    unknown(&good, 2000);
    let (binding, ask) = m2.challenge(&m1, Role::Responder);
    unknown(&Sent { ask, binding, ..good.clone() }, 2000);
    // Evidence that m2 has made for nonces of its challenger's own choice.
    let (mut binding, ask) = m2.challenge(&m1, Role::Responder);
    binding.nonce = [7; 32];
    let own = m2.quote(&binding, &ask).unwrap();
    unknown(&Sent { of: m2.entry(), evidence: sent(&own, 1), logs: own.logs, binding, ask }, 2000);
    // What was asked long ago is no sign of life either.
    let kept = m2.evidence(&m1, 0);
    unknown(&kept, asks::LASTS_MS);
    assert_eq!(verdict(&m1, "m2", asks::LASTS_MS), "unknown");
    // Control: what is asked now and answered is.
    m2.evidence(&m1, 0).appraised_by(&m1, 2000).unwrap();
    assert_eq!(verdict(&m1, "m2", 2000), "trusted");
}

#[test]
fn a_reset_tpm_is_noticed_within_a_session_and_begins_anew_with_another() {
    let (m1, mut m2) = joined();
    m2.evidence(&m1, 1).appraised_by(&m1, 0).unwrap();
    m2.tpm.reset();
    m2.boot();
    let (what, why) = kind(m2.evidence(&m1, 2).appraised_by(&m1, 0));
    assert_eq!(what, RejectionKind::TpmReset);
    assert!(why.starts_with("tpm-reset: "), "{why}");
    assert_eq!(verdict(&m1, "m2", 0), "untrusted");
    // Another session: a machine may be started again, and shows itself whole.
    let again = m2.evidence(&m1, 0);
    assert!(again.logs.iter().all(|l| l.from == 0));
    again.appraised_by(&m1, 0).unwrap();
    assert_eq!(verdict(&m1, "m2", 0), "trusted");
    // After a reset of which this member has not heard, the log may go on from the same bytes: they are replayed to other quotes.
    m2.tpm.reset();
    let since = |ms| m1.peers.members(at(ms)).unwrap().into_iter().find(|r| r.name == "m2").unwrap().since_ms;
    let before = since(0);
    let same = m2.evidence(&m1, 0);
    assert!(same.logs.iter().all(|l| l.from > 0));
    same.appraised_by(&m1, 1000).unwrap();
    assert!(since(1000) > before, "it is another verdict");
    m2.tpm.reset();
    m2.actor.measure(measured(EntryKind::Template, "tpm", 9)).unwrap();
    let (what, why) = kind(m2.evidence(&m1, 0).appraised_by(&m1, 0));
    assert_eq!(what, RejectionKind::Reference, "{why}");
    assert!(why.contains("GTVP log entry 5"), "{why}");
}

#[test]
fn a_tpm_that_was_put_back_to_an_earlier_life_is_refused_by_any_session() {
    let (m1, mut m2) = joined();
    let copy = m2.tpm.folder.join("copy");
    let files = |from: &Path, to: &Path| {
        for file in std::fs::read_dir(from).unwrap().flatten().filter(|f| f.path().is_file()) {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    };
    m2.tpm.kill();
    std::fs::create_dir(&copy).unwrap();
    files(&m2.tpm.tpm_state(), &copy);
    m2.tpm.run();
    // The life that is gone back to later, and two more: each is another session's.
    for _ in 0..3 {
        m2.boot();
        m2.evidence(&m1, 0).appraised_by(&m1, 0).unwrap();
        m2.tpm.reset();
    }
    m2.boot();
    // What was seen last was bad, and is not forgotten for that.
    m2.actor.measure(measured(EntryKind::Binary, "security", 77)).unwrap();
    assert_eq!(kind(m2.evidence(&m1, 0).appraised_by(&m1, 0)).0, RejectionKind::Reference);
    m2.tpm.kill();
    files(&copy, &m2.tpm.tpm_state());
    m2.tpm.run();
    m2.boot();
    let (what, why) = kind(m2.evidence(&m1, 0).appraised_by(&m1, 0));
    assert_eq!(what, RejectionKind::TpmReset);
    assert!(why.starts_with("earlier-life: "), "{why}");
    assert_eq!(verdict(&m1, "m2", 0), "untrusted");
    // Nor is it forgotten with the process: it is on the disk.
    let m1 = m1.restart();
    let (what, why) = kind(m2.evidence(&m1, 0).appraised_by(&m1, 0));
    assert_eq!(what, RejectionKind::TpmReset);
    assert!(why.starts_with("earlier-life: "), "{why}");
    // Control: somebody who has seen nothing of it finds it healthy.
    let m1 = m1.restart_after(|tpm| std::fs::remove_file(tpm.state().join("clocks.json")).unwrap());
    m2.evidence(&m1, 0).appraised_by(&m1, 0).unwrap();
}

#[test]
fn an_answer_that_another_one_overtakes_is_compared_with_what_was_known_when_it_was_asked() {
    let (m1, mut m2) = joined();
    m2.evidence(&m1, 0).appraised_by(&m1, 0).unwrap();
    // Two connections: one's question is of a stranger, as that of whoever is dialled; both answers go on from what was held.
    let stranger = |m2: &Server| {
        let Asking { nonce, ask } = m1.peers.ask_of(&AskOf { member: [0; 32].into() }, at(0)).unwrap();
        let (binding, _) = m2.challenge(&m1, Role::Responder);
        let binding = Binding { nonce, ..binding };
        let own = m2.quote(&binding, &ask).unwrap();
        Sent { of: m2.entry(), evidence: sent(&own, 0), logs: own.logs, binding, ask }
    };
    let (whole, first) = (stranger(&m2), m2.evidence(&m1, 1));
    assert!(first.logs.iter().all(|l| l.from > 0) && whole.logs.iter().all(|l| l.from == 0));
    let second = m2.evidence(&m1, 1);
    second.appraised_by(&m1, 0).unwrap();
    first.appraised_by(&m1, 0).unwrap();
    whole.appraised_by(&m1, 0).unwrap();
    assert_eq!(verdict(&m1, "m2", 0), "trusted");
    // What was found since stands, and is not trusted again by an answer from before.
    let good = m2.evidence(&m1, 1);
    m2.actor.measure(measured(EntryKind::Binary, "security", 77)).unwrap();
    assert_eq!(kind(m2.evidence(&m1, 1).appraised_by(&m1, 0)).0, RejectionKind::Reference);
    assert_eq!(kind(good.appraised_by(&m1, 0)).0, RejectionKind::Reference);
    assert_eq!(verdict(&m1, "m2", 0), "untrusted");
    // A TPM that is reset between two answers: the one from before is no earlier life to who asked then.
    m2.tpm.reset();
    m2.boot();
    m2.evidence(&m1, 0).appraised_by(&m1, 0).unwrap();
    let (before, late) = (stranger(&m2), m2.evidence(&m1, 1));
    let asked_before = m2.challenge(&m1, Role::Responder);
    m2.tpm.reset();
    m2.boot();
    m2.evidence(&m1, 0).appraised_by(&m1, 0).unwrap();
    before.appraised_by(&m1, 0).unwrap();
    late.appraised_by(&m1, 0).unwrap();
    // In a round that was asked before the reset and is answered after it: another session has begun with this life.
    let own = m2.quote(&asked_before.0, &asked_before.1).unwrap();
    let (binding, ask) = asked_before;
    Sent { of: m2.entry(), evidence: sent(&own, 1), logs: own.logs, binding, ask }
        .appraised_by(&m1, 0)
        .unwrap();
    assert_eq!(verdict(&m1, "m2", 0), "trusted");
}

#[test]
fn who_is_silent_is_unknown_after_two_and_a_half_periods_and_never_untrusted() {
    let (m1, m2) = joined();
    m2.evidence(&m1, 1).appraised_by(&m1, 0).unwrap();
    let row = |ms| m1.peers.members(at(ms)).unwrap().into_iter().find(|r| r.name == "m2").unwrap();
    let now = row(5000);
    assert_eq!((now.verdict.as_str(), now.attested_by.as_deref()), ("trusted", Some("m1")));
    assert_eq!(now.next_attestation_ms, Some(NOW * 1000 + 2000));
    let later = row(5001);
    assert_eq!((later.verdict.as_str(), later.since_ms), ("unknown", Some(NOW * 1000 + 5000)));
    m2.evidence(&m1, 2).appraised_by(&m1, 9000).unwrap();
    assert_eq!((row(9000).verdict.as_str(), row(9000).since_ms), ("trusted", Some(NOW * 1000 + 9000)));
    let shown = m1.peers.show(&"m2".parse().unwrap(), at(20_000)).unwrap();
    assert!(shown.checks[0].detail.starts_with("it was trusted, and has not proven itself since"));
}

#[test]
fn a_voter_ceases_to_vote_before_it_goes() {
    let (m1, m2) = joined();
    let all = [&m1, &m2];
    let evict = || m1.wish(Wish::Evict { member: "m2".parse().unwrap(), reason: "gone".into() }).unwrap();
    // m1 alone votes; to leave it hands over first, and the union goes on without it.
    let first = m1.wish(Wish::Leave).unwrap();
    assert!(first.about.contains("m2 votes first"), "{}", first.about);
    Server::decide(&first.entry, &[&m1], &all).unwrap();
    let second = m1.wish(Wish::Leave).unwrap();
    assert!(second.about.contains("m1 ceases to vote"), "{}", second.about);
    Server::decide(&second.entry, &[&m1, &m2], &all).unwrap();
    assert_eq!(m2.union.show().unwrap().voters, ["m2"]);
    assert!(evict().about.contains("m1 votes first"), "m2 is the only voter now");
    let third = m1.wish(Wish::Leave).unwrap();
    Server::decide(&third.entry, &[&m2], &all).unwrap();
    assert_eq!(m2.union.show().unwrap().members, 1);
    assert!(m1.union.now().0.union.is_some(), "as it had it last");
    assert_eq!(m1.union.show().unwrap_err().kind, FaultKind::NotFound);
    assert_eq!(m1.peers.members(at(0)).unwrap().len(), 1, "outside of a union this one alone");
    let refused = m1.wish(Wish::Token { expires_s: 60, ek: None, platform_identity: None }).unwrap_err();
    assert_eq!(refused.kind, FaultKind::WrongState);
    let (binding, ask) = m2.challenge(&m2, Role::Responder);
    assert!(m2.quote(&binding, &ask).is_err());
    // It may join again, with the same keys, and take the record of then for its own; what it gave its word for it knows still.
    let promise = || std::fs::read(m1.tpm.state().join("record/promise")).unwrap();
    let promised = promise();
    let token = token(&[&m2]);
    joins(&m1, &m2, &token);
    assert_eq!((m1.view(), promise()), (m2.view(), promised));
    let about_m1 = m2.union.history(Some(&"m1".parse().unwrap())).unwrap();
    let acts: Vec<_> = about_m1.iter().map(|r| r.act.as_str()).collect();
    assert_eq!(acts.iter().filter(|a| **a == "admitted").count(), 2, "the one that it wrote, and its own");
    assert!(acts.contains(&"left") && acts.contains(&"genesis"), "{acts:?}");
}

#[test]
fn a_communication_that_is_taken_over_makes_a_server_no_member_of_a_union_that_nobody_wants() {
    let (m1, m2) = (Server::start("m1"), Server::start("m2"));
    m1.begin().unwrap();
    let token = token(&[&m1]);
    let denied = "no administrator of this server wants it to join that union";
    let (mut j, mut v) = unwanted(&m2, &m1, &token);
    run(&mut j, &mut v);
    assert!(j.refusal().unwrap().contains(denied), "{:?}", j.refusal());
    // Another union is not what they want either.
    m2.union.want([1; 32].into(), token.head);
    let (mut j, mut v) = unwanted(&m2, &m1, &token);
    run(&mut j, &mut v);
    assert!(j.refusal().unwrap().contains(denied) && m2.union.known().unwrap().is_none());
    joins(&m2, &m1, &token);
    let entry = Box::new(m2.entry());
    let keep = Durable::Membership { union: token.union, entry, head: m2.head() };
    assert!(m2.union.keep(&keep, at(0).unix()).is_ok(), "it is so already");
}

#[test]
fn a_voter_that_has_left_is_not_given_less_of_its_own_record() {
    let (m1, m2) = joined();
    let (begun, all) = (m1.head(), [&m1, &m2]);
    let bytes = bulk::take(m1.union.page(0, 1 << 20).unwrap(), 1 << 20).unwrap();
    for by in [&[&m1][..], &[&m1, &m2], &[&m2]] {
        let written = m1.wish(Wish::Leave).unwrap();
        Server::decide(&written.entry, by, &all).unwrap();
    }
    assert!(m1.union.show().is_err());
    // All this time ago it was a member, and the only voter.
    let union = m2.view().union;
    let back = |server: &Server| {
        server.union.want(union, begun);
        let asked = LearnRecord { union, known: begun, end: begun, from: m2.id() };
        server.union.learn(&asked, vec![bulk::give(&bytes).unwrap()], at(0).unix()).unwrap()
    };
    let why = back(&m1).unwrap_err();
    assert!(why.contains(&format!("does not have entry {}", m2.head().number)), "{why}");
    let entry = Box::new(m1.entry());
    let keep = Durable::Membership { union, entry, head: begun };
    assert_eq!(m1.union.keep(&keep, at(0).unix()).unwrap_err().kind, FaultKind::WrongState);
    // Control: on a server that has forgotten all of it, it would be taken.
    let m1 = m1.restart_after(|tpm| std::fs::remove_dir_all(tpm.state().join("record")).unwrap());
    back(&m1).unwrap();
    m1.union.keep(&keep, at(0).unix()).unwrap();
    assert_eq!(m1.union.show().unwrap().voters, ["m1"]);
}

#[test]
fn a_server_that_has_begun_a_union_by_mistake_leaves_it_and_joins_another() {
    let (m1, m2) = (Server::start("m1"), Server::start("m2"));
    m1.begin().unwrap();
    m2.begin().unwrap();
    let token = token(&[&m1]);
    let (mut j, mut v) = enrolment(&m2, &m1, &token);
    run(&mut j, &mut v);
    assert!(j.refusal().unwrap().contains("is not joining that union"), "{:?}", j.refusal());
    m2.union.end().unwrap().unwrap();
    joins(&m2, &m1, &token);
    // With others in it neither of them ends it.
    let head = m1.head();
    assert_eq!((m1.union.end().unwrap(), m2.union.end().unwrap()), (None, None));
    assert_eq!((m1.head(), m2.head()), (head, head));
}

#[test]
fn one_quote_answers_everybody_who_asks() {
    let (m1, m2) = joined();
    let asked: Vec<_> = (0..20).map(|_| m2.challenge(&m1, Role::Responder)).collect();
    let challenges = asked
        .iter()
        .enumerate()
        // Every other one holds nothing of the logs.
        .map(|(i, (binding, ask))| Challenged {
            binding: binding.clone(),
            held: if i % 2 == 0 { ask.held.clone() } else { Default::default() },
        })
        .collect();
    let quote = Quote { selection: asked[0].1.selection.clone(), challenges };
    let (quoted, fd) = m2.peers.quote(&quote).unwrap();
    for (i, (binding, ask)) in asked.into_iter().enumerate() {
        let own = own_evidence(quoted.clone(), fd.try_clone().unwrap(), i);
        assert_eq!(own.logs[0].from > 0, i % 2 == 0);
        let evidence = sent(&own, 1);
        let sent = Sent { of: m2.entry(), evidence, logs: own.logs, binding, ask };
        if i < 19 {
            sent.appraised_by(&m1, 0).unwrap();
            continue;
        }
        // Another's path leads another leaf to it.
        let mut other = sent.clone();
        other.evidence.path.index ^= 1;
        assert_eq!(kind(other.appraised_by(&m1, 0)).0, RejectionKind::BoundElsewhere);
    }
    let none = Quote { challenges: Vec::new(), ..quote };
    assert_eq!(m2.peers.quote(&none).unwrap_err().kind, FaultKind::Invalid);
}

/// A vendor's certificate, and the public area of the endorsement key that it is of.
fn vendors() -> (Vec<u8>, Vec<u8>) {
    let certificate = vector("st_sha256_with_rsa_der.der");
    let mut roots = Roots::new();
    roots.add(&vector("STM_RSA_05I.pem")).unwrap();
    let EkKey::Rsa(modulus, _) = ek::verify(&certificate, &[], &roots, NOW as i64).unwrap().key else {
        panic!("it is an RSA key")
    };
    let mut public = endorsement(EkKind::Rsa2048);
    let unique = public.len() - modulus.len();
    public[unique..].copy_from_slice(&modulus);
    (certificate, public)
}

fn vector(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../appraisal/tests/vectors/ek");
    std::fs::read(format!("{folder}/{name}")).unwrap()
}

/// A server that knows these vendors, in a union that takes software TPMs, or none.
fn verifier(roots: &[&str], software: bool) -> Server {
    let tpm = SoftwareTpm::start();
    std::fs::create_dir(tpm.state().join("ek-roots")).unwrap();
    for name in roots {
        std::fs::write(tpm.state().join("ek-roots").join(name), vector(name)).unwrap();
    }
    std::fs::write(tpm.state().join("ek-roots/README"), "not a certificate").unwrap();
    let server =
        if software { Server::over(tpm, "m1") } else { Server::booted_on(tpm, "m1", &boot_log("kl_bbm_sb")) };
    server.boot();
    let begin = |ek| BeginUnion {
        union: UnionBegin {
            name: "lab".parse().unwrap(),
            software_tpms: software,
            without_tpm: false,
            attest_every_ms: Some(2000),
            ek,
        },
        hardware: hardware(),
    };
    let own = server.platform.view().ek.unwrap();
    if !software {
        let refused = server.union.begin(&begin(None), at(0).unix()).unwrap_err();
        assert_eq!(refused.kind, FaultKind::Denied);
        let command = format!("gtvp union init --name lab --ek {own}");
        assert!(refused.hint.as_deref().unwrap().contains(&command), "{refused:?}");
        let other = server.union.begin(&begin(Some("07".repeat(32))), at(0).unix()).unwrap_err();
        assert_eq!(other.kind, FaultKind::Invalid);
    }
    let begun = server.union.begin(&begin((!software).then_some(own)), at(0).unix()).unwrap();
    assert!(begun.own_tpm.starts_with(if software { "SOFTWARE" } else { "pinned" }), "{}", begun.own_tpm);
    server
}

#[test]
fn a_tpm_is_hardware_by_a_certificate_that_leads_to_a_root_or_by_its_administrators_word_and_by_nothing_else()
{
    let (certificate, public) = vendors();
    let own = Server::start("m2").peers.own_keys().unwrap();
    let appraise = |server: &Server, certificate: &[u8], ek: &[u8]| {
        let mut keys = own.keys.clone().unwrap();
        keys.ek = ek.to_vec().try_into().unwrap();
        keys.ek_certificate = certificate.to_vec().try_into().unwrap();
        server.peers.appraise_keys(&AppraiseKeys { keys, spki: own.identity.spki() }, at(0)).map(|k| k.kind)
    };
    let st = Ok(TpmKind::Hardware(TpmMaker::of_certificate(Some("id:53544D20"))));
    let ek = EkKey::of_public(&gtvp_appraisal::tpm::Public::parse(&public).unwrap()).fingerprint().0;
    let mut forged = certificate.clone();
    forged[200] ^= 1;
    for software in [true, false] {
        // Nobody vouches for it: software where that is let in; else what to do is told, with its name.
        let nobody = |outcome: Result<TpmKind, Rejection>| {
            if software {
                assert_eq!(outcome, Ok(TpmKind::Software));
            } else {
                let (what, why) = kind(outcome);
                assert_eq!(what, RejectionKind::Keys);
                assert!(why.contains(&format!("gtvp token create --ek {ek}")), "{why}");
            }
        };
        let vendors = verifier(&["STM_RSA_05I.pem"], software);
        assert_eq!(appraise(&vendors, &certificate, &public), st);
        nobody(appraise(&vendors, &[], &public));
        let none = verifier(&[], software);
        nobody(appraise(&none, &certificate, &public));
        let others = verifier(&["NUVO_2110.pem"], software);
        nobody(appraise(&others, &certificate, &public));

        // An administrator names it. A token that has ended names nobody.
        let named = |server: &Server, expires_s| {
            let ek = Some(EkDigest::new(ek));
            let wish = Wish::Token { expires_s, ek, platform_identity: None };
            Server::decide(&server.wish(wish).unwrap().entry, &[server], &[server]).unwrap();
        };
        named(&others, 60);
        let word = if software { TpmKind::Software } else { TpmKind::Pinned };
        assert_eq!(
            appraise(&others, &certificate, &public),
            Ok(word),
            "of a union of software TPMs it may be one"
        );
        assert_eq!(appraise(&others, &[], &public), Ok(word));
        let mut keys = own.keys.clone().unwrap();
        keys.ek = public.clone().try_into().unwrap();
        keys.ek_certificate = Vec::new().try_into().unwrap();
        let late = others.peers.appraise_keys(&AppraiseKeys { keys, spki: own.identity.spki() }, at(61_000));
        nobody(late.map(|k| k.kind));
        named(&vendors, 60);
        assert_eq!(appraise(&vendors, &certificate, &public), st, "a vendor's word is worth more");
        // A certificate of another key, or one that does not hold, is no mistake, whoever is named.
        let ours = own.keys.as_ref().unwrap().ek.as_slice();
        assert_eq!(kind(appraise(&vendors, &certificate, ours)).0, RejectionKind::Keys);
        assert_eq!(kind(appraise(&vendors, &forged, &public)).0, RejectionKind::Keys);
        let row = vendors.peers.members(at(0)).unwrap().remove(0);
        assert_eq!(row.tpm, if software { TpmClass::Software } else { TpmClass::Pinned });
        assert!(row.tpm_by.unwrap().starts_with(if software { "SOFTWARE" } else { "pinned" }));
    }
}

#[test]
fn an_updated_founder_is_accepted_by_whoever_is_its_administrator() {
    let m1 = Server::start("m1");
    m1.begin().unwrap();
    let wish = || m1.wish(Wish::AcceptReference { member: "m1".parse().unwrap(), next: false });
    assert!(wish().unwrap_err().causes[0].contains("was healthy"));
    m1.actor.measure(measured(EntryKind::Binary, "security", 77)).unwrap();
    let token = token(&[&m1]);
    let m2 = Server::start("m2");
    let (mut j, mut v) = enrolment(&m2, &m1, &token);
    run(&mut j, &mut v);
    assert!(j.refusal().unwrap().contains("own-entry"), "a joiner looks at whom it joins: {:?}", j.refusal());
    assert!(m2.union.known().unwrap().is_none());
    let written = wish().unwrap();
    Server::decide(&written.entry, &[&m1], &[&m1]).unwrap();
    joins(&m2, &m1, &token);
}

#[test]
fn a_server_without_a_tpm_is_let_in_where_somebody_said_so_and_proves_nothing() {
    let m1 = Server::start("m1");
    m1.begin_with(true).unwrap();
    let token = token(&[&m1]);
    let m2 = Server::without_tpm("m2");
    joins(&m2, &m1, &token);
    assert_eq!(m1.view(), m2.view());
    let row = m1.peers.members(at(0)).unwrap().into_iter().find(|r| r.name == "m2").unwrap();
    assert_eq!((row.tpm, row.verdict.as_str()), (TpmClass::None, "unknown"));
    // It appraises others, and neither quotes nor votes nor changes the union.
    m1.evidence(&m2, 0).appraised_by(&m2, 0).unwrap();
    let refused = m2.wish(Wish::Token { expires_s: 60, ek: None, platform_identity: None }).unwrap_err();
    assert!(refused.causes[0].contains("has no TPM"), "{refused:?}");
    let (binding, ask) = m2.challenge(&m1, Role::Responder);
    assert_eq!(m2.quote(&binding, &ask).unwrap_err().kind, FaultKind::WrongState);
    assert_eq!(m2.union.vote_again(at(0).unix()).unwrap_err().kind, FaultKind::Denied);
    let kept = m1.peers.write_housekeeping(&WriteHousekeeping { reachable: vec![m2.id()] }, at(0)).unwrap();
    assert_eq!(kept.entry, None);
    // Where nobody said so, it stays out.
    let m3 = Server::start("m3");
    m3.begin().unwrap();
    let token = self::token(&[&m3]);
    let m4 = Server::without_tpm("m4");
    let (mut j, mut v) = enrolment(&m4, &m3, &token);
    run(&mut j, &mut v);
    assert!(v.refusal().unwrap().contains("does not take members whose TPM is NONE"));
}

/// Another one joins a union of these, by the first.
fn third(name: &'static str, union: &[&Server]) -> Server {
    let token = token(union);
    let server = Server::start(name);
    joins(&server, union[0], &token);
    server
}

#[test]
fn nobody_becomes_a_voter_by_the_word_of_communication() {
    let (m1, m2) = joined();
    let m3 = third("m3", &[&m1, &m2]);
    let keeps = |server: &Server, reachable: &[&Server], ms| {
        let reachable = reachable.iter().map(|s| s.id()).collect();
        server.peers.write_housekeeping(&WriteHousekeeping { reachable }, at(ms))
    };
    m2.evidence(&m1, 0).appraised_by(&m1, 0).unwrap();
    m3.evidence(&m1, 0).appraised_by(&m1, 4000).unwrap();
    // m2 was silent for too long by now.
    assert_eq!(keeps(&m1, &[&m2], 6000).unwrap().entry, None, "a channel with it is no proof");
    assert_eq!(keeps(&m1, &[], 6000).unwrap().entry, None);
    let voters = keeps(&m1, &[&m2, &m3], 6000).unwrap().entry.unwrap();
    Server::decide(&voters, &[&m1], &[&m1]).unwrap();
    assert_eq!(m1.union.show().unwrap().voters.len(), 2);
    assert!(m1.union.now().0.union.unwrap().state.voters.contains(&m3.id()));
    // Whoever does not vote itself makes nobody a voter.
    assert_eq!(keeps(&m2, &[&m1, &m3], 0).unwrap_err().kind, FaultKind::Denied);
}

#[test]
fn a_slow_clock_of_the_author_admits_nobody_by_a_token_that_has_ended() {
    let m1 = Server::start("m1");
    m1.begin_with(true).unwrap();
    let made = m1.wish(Wish::Token { expires_s: 60, ek: None, platform_identity: None }).unwrap();
    Server::decide(&made.entry, &[&m1], &[&m1]).unwrap();
    let admit = || {
        let identity = Identity::Bare { spki: [7; 32].into() };
        let level = PlatformIdentity::try_from(8).unwrap();
        let member = RosterEntry::new("m2".parse().unwrap(), identity, level, hardware());
        let secret = made.token.clone().unwrap().secret;
        let admission = Admission { member, token: secret.key().id(), secret };
        m1.peers.write_admission(&WriteAdmission { admission }, at(0))
    };
    assert!(admit().is_ok());
    // A majority has put a later time on the record; this member's clock stands still.
    let voted = m1.union.vote_again(UnixTime(NOW + 61)).unwrap();
    let head = CoSigned { head: voted.head, votes: vec![voted.vote].try_into().unwrap() };
    let offer = bulk::give(&wire::encode(&Offer { entries: Vec::new(), head })).unwrap();
    m1.union.take(m1.id(), vec![offer], UnixTime(NOW + 61)).unwrap();
    let refused = admit().unwrap_err();
    assert!(refused.causes[0].contains("token"), "{refused:?}");
}

fn boot_log(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../appraisal/tests/vectors/logs");
    std::fs::read(format!("{folder}/{name}")).unwrap()
}

#[test]
fn a_whole_boot_is_learned_shown_once_and_an_unknown_one_refused_by_its_events() {
    let (known, unknown) = (boot_log("kl_bbm_sb"), boot_log("ga_crypto_agile_eventlog"));
    let (m1, m2) = (Server::booted("m1", &known), Server::booted("m2", &known));
    m1.begin().unwrap();
    let token = token(&[&m1]);
    joins(&m2, &m1, &token);
    // The boot log is sent once, and then only said to be held.
    let next = m2.evidence(&m1, 1);
    let boot = next.logs.iter().find(|l| l.log == LogKind::Boot).unwrap();
    assert_eq!((boot.from, boot.bytes.len()), (known.len() as u64, 0));
    next.appraised_by(&m1, 0).unwrap();
    let shown = m1.peers.show(&"m2".parse().unwrap(), at(0)).unwrap();
    let passed: Vec<_> =
        shown.checks.iter().filter(|c| c.outcome == "passed").map(|c| c.check.as_str()).collect();
    assert!(passed.contains(&"boot_replay") && passed.contains(&"boot_entries"), "{passed:?}");

    // Another machine: all its events can be accepted at once.
    let token = self::token(&[&m1]);
    let m3 = Server::booted("m3", &unknown);
    let (mut j, mut v) = enrolment(&m3, &m1, &token);
    run(&mut j, &mut v);
    let why = v.refusal().unwrap();
    assert!(why.contains("boot-entry: boot log entry") && why.contains("more"), "{why}");
    let written = m1.wish(Wish::AcceptReference { member: "m3".parse().unwrap(), next: false }).unwrap();
    Server::decide(&written.entry, &[&m1], &[&m1]).unwrap();
    joins(&m3, &m1, &token);

    // A server without a boot log hides one: this union's founder had one.
    let token = self::token(&[&m1]);
    let m4 = Server::start("m4");
    let (mut j, mut v) = enrolment(&m4, &m1, &token);
    run(&mut j, &mut v);
    assert!(v.refusal().unwrap().contains("log-absent"), "{:?}", v.refusal());
}

/// As it goes through a socket.
fn through_json<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) {
    let json = serde_json::to_vec(value).unwrap();
    assert_eq!(serde_json::from_slice::<T>(&json).unwrap(), *value);
}

#[test]
fn what_is_answered_is_the_same_on_the_other_side_of_the_socket() {
    let (m1, m2) = joined();
    through_json(&m1.union.now().0);
    through_json(&m2.union.now().0);
    through_json(&Box::new(m1.view()));
    through_json(&m1.peers.own_keys().unwrap());
    through_json(&m1.union.vote_again(at(0).unix()).unwrap());
    through_json(&m1.wish(Wish::Token { expires_s: 60, ek: None, platform_identity: None }).unwrap());
    let (binding, ask) = m2.challenge(&m1, Role::Responder);
    through_json(&ask);
    let challenges = vec![Challenged { binding, held: ask.held.clone() }];
    through_json(&challenges[0]);
    through_json(&m2.peers.quote(&Quote { selection: ask.selection, challenges }).unwrap().0);
    let good = m2.evidence(&m1, 1);
    through_json(&good.evidence);
    through_json(&good.appraised_by(&m1, 0));
    m2.actor.measure(measured(EntryKind::Binary, "security", 77)).unwrap();
    let refused = m2.evidence(&m1, 2).appraised_by(&m1, 0);
    assert!(refused.is_err());
    through_json(&refused);
    through_json(&m1.peers.show(&"m2".parse().unwrap(), at(0)).unwrap());
    through_json(&m1.union.history(None).unwrap());
    let keys = m2.peers.own_keys().unwrap();
    let asked = AppraiseKeys { keys: keys.keys.unwrap(), spki: keys.identity.spki() };
    let checked = m1.peers.appraise_keys(&asked, at(0));
    through_json(&checked);
    let ask = MakeCredential { ek: checked.as_ref().unwrap().ek_public.clone(), ak: checked.unwrap().ak };
    through_json(&m1.peers.make_credential(&ask, at(0)).unwrap());
}
