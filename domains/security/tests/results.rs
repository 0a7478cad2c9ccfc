//! Attestation results between members on real software TPMs: whose is believed, and what is not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

#[allow(dead_code, reason = "what other tests need of it")]
mod played;

use std::collections::BTreeMap;
use std::time::Duration;

use gtvp_appraisal::appraise::State;
use gtvp_appraisal::ownlog::EntryKind;
use gtvp_appraisal::result::{AttestationResult, Claims, SignedResult};
use gtvp_appraisal::tpm::{Public, VerifyingKey};
use gtvp_ipc::security::{Challenged, Due, DueReply, OwnResult, Quote, Wish};
use gtvp_model::digest::Digest;
use gtvp_protocol::hsp::message::Challenge;
use gtvp_protocol::hsp::{Message, Role};
use gtvp_protocol::results::{MAX_RESULT, Told};
use played::server::{Sent, Server, at, measured, own_evidence, sent};
use played::union::{PERIOD, appraises, is, result, row, tell, union};

fn read(result: &OwnResult, ms: u64) -> AttestationResult {
    let public = Public::parse(&result.ak).unwrap();
    let key = VerifyingKey::of(&public).unwrap();
    SignedResult::parse(&result.result)
        .unwrap()
        .verify(&key, public.name(), at(ms).wall_ms as i64 / 1000)
        .unwrap()
}

/// The same with a change, signed by whose TPM that is: a verifier that lies.
fn signed(by: &Server, what: &AttestationResult) -> OwnResult {
    let ak = by.union.own_keys().unwrap().tpm.unwrap().ak_public;
    let public = Public::parse(&ak).unwrap();
    let unsigned = what.unsigned(public.scheme, public.name()).unwrap();
    OwnResult { of: by.id(), ak, result: by.actor.sign_result(unsigned).unwrap(), issued: 0, expires: 0 }
}

/// Three members; the second has appraised the third, and the first knows the second. What it knew of the third is forgotten.
fn three() -> (Server, Server, Server) {
    let mut all = union(&["m1", "m2", "m3"]);
    let (m3, m2, m1) = (all.pop().unwrap(), all.pop().unwrap(), all.pop().unwrap());
    let m1 = m1.restart();
    appraises(&m2, &m3, 0);
    (m1, m2, m3)
}

#[test]
fn a_result_counts_by_whoever_is_trusted_here_and_no_longer_than_that() {
    let (m1, m2, m3) = three();
    let told = result(&m2, &m3);
    assert!(Told::frame(told.ak.clone(), told.result.clone()).unwrap().body.len() <= 2048, "bytes a link");
    assert!(told.result.len() <= MAX_RESULT);
    let untrusted = tell(&m1, &m2, &told, 0).unwrap_err();
    assert_eq!(untrusted, "this member does not trust who signed it");
    assert_eq!(row(&m1, "m3", 0), is("unknown", ""), "nobody's word makes a verifier");
    // The control.
    appraises(&m1, &m2, 0);
    tell(&m1, &m2, &told, 0).unwrap();
    assert_eq!(row(&m1, "m3", 0), is("trusted", "m2"));
    let shown = m1.peers.show(&"m3".parse().unwrap(), at(0)).unwrap();
    assert!(
        shown.checks[0].check == "results" && shown.checks[0].detail.contains("m2"),
        "{:?}",
        shown.checks
    );
    // m1 has nothing to tell of m3: results never come of results.
    assert!(m1.peers.results_after(0, Duration::ZERO).0.iter().all(|r| r.of == m2.id()));
    // A verdict of the verifier's own goes with the trust in it.
    m2.actor.measure(measured(EntryKind::Binary, "security", 66)).unwrap();
    m2.evidence(&m1, 1).appraised_by(&m1, 1_000).unwrap_err();
    assert_eq!(row(&m1, "m2", 1_000).0, "untrusted");
    assert_eq!(row(&m1, "m3", 1_000), is("unknown", ""));
    assert!(tell(&m1, &m2, &told, 1_000).unwrap_err().contains("does not trust"));
}

#[test]
fn silence_ends_a_result_with_its_verifiers_trust_and_with_its_own_time() {
    let (m1, m2, m3) = three();
    appraises(&m1, &m2, 0);
    tell(&m1, &m2, &result(&m2, &m3), 0).unwrap();
    assert_eq!(row(&m1, "m3", 4_900).0, "trusted");
    assert_eq!(row(&m1, "m2", 5_001).0, "unknown");
    assert_eq!(row(&m1, "m3", 5_001), is("unknown", ""), "unreachable is never untrusted, and not trusted");
    appraises(&m1, &m2, 5_500);
    assert_eq!(row(&m1, "m3", 5_500).0, "unknown", "it has ended");
    let late = tell(&m1, &m2, &result(&m2, &m3), 5_500).unwrap_err();
    assert!(late.contains("it ended at"), "{late}");
    appraises(&m2, &m3, 6_000);
    tell(&m1, &m2, &result(&m2, &m3), 6_000).unwrap();
    assert_eq!(row(&m1, "m3", 6_000).0, "trusted", "the control");
}

#[test]
fn a_result_that_was_forged_altered_or_says_too_much_is_refused_by_name() {
    let (m1, m2, m3) = three();
    appraises(&m1, &m2, 0);
    let told = result(&m2, &m3);
    let good = read(&told, 0);
    let why = |result: &OwnResult| tell(&m1, &m2, result, 0).unwrap_err();
    let lies = |change: &dyn Fn(&mut AttestationResult)| {
        let mut other = good.clone();
        change(&mut other);
        why(&signed(&m2, &other))
    };
    // Another key signs, or is said to be the verifier's.
    let forged = signed(&m3, &good);
    assert!(why(&forged).contains("is not the attestation key of who told it"));
    assert!(why(&OwnResult { ak: told.ak.clone(), ..forged }).contains("it names another key as its signer"));
    for at in [told.result.len() / 2, told.result.len() - 1] {
        let mut altered = told.result.clone();
        altered[at] ^= 1;
        let why = why(&OwnResult { result: altered, ..(*told).clone() });
        assert!(why.contains("signature") || why.contains("not usable"), "{why}");
    }
    // About itself, about keys that no member has, about another's TPM.
    let of = |s: &Server| s.union.own_keys().unwrap().identity;
    let gtvp_model::union::Identity::Tpm { ek, ak, tls, .. } = of(&m2) else { panic!("it has a TPM") };
    let itself = lies(&|r| {
        r.claims.ak = gtvp_appraisal::tpm::Name::parse(ak.as_bytes()).unwrap();
        r.claims.tls = gtvp_appraisal::tpm::Name::parse(tls.as_bytes()).unwrap();
        r.claims.ek = Some(gtvp_appraisal::ek::Pin(ek.digest()));
    });
    assert_eq!(itself, "it is about who signed it");
    let nobody = "it is about keys that no member has";
    assert_eq!(lies(&|r| r.claims.ek = Some(gtvp_appraisal::ek::Pin(Digest([1; 32])))), nobody);
    assert_eq!(lies(&|r| r.claims.tls = r.claims.ak), nobody);
    assert_eq!(
        lies(&|r| r.claims.class = gtvp_appraisal::appraise::TpmClass::Hardware),
        nobody,
        "harder than it is"
    );
    // For too long, from the future, or of a time that is over.
    assert!(lies(&|r| r.expires = r.issued + 6).contains("it holds for 6 s, longer than a verdict does"));
    assert!(lies(&|r| (r.issued, r.expires) = (r.issued + 61, r.issued + 63)).contains("it was issued at"));
    assert!(lies(&|r| (r.issued, r.expires) = (r.issued - 9, r.issued - 4)).contains("it ended at"));
    // By other reference values; about somebody who is not trusted.
    assert!(lies(&|r| r.claims.references = Digest([9; 32])).contains("other reference values"));
    let bad: fn(&mut Claims) = |c| c.state = State::Untrusted;
    assert_eq!(lies(&|r| bad(&mut r.claims)), "it says something else than that a member is trusted");
    assert_eq!(row(&m1, "m3", 0), is("unknown", ""));
    assert_eq!(lies(&|r| r.claims.clock = None), "it says something else than that a member is trusted");
    // The control: what is signed here is believed if it says what it may.
    tell(&m1, &m2, &told, 0).unwrap();
    assert_eq!(row(&m1, "m3", 0).0, "trusted");
    // Again, older, and of a TPM that would have gone back.
    let again = tell(&m1, &m2, &told, 0).unwrap_err();
    assert_eq!(again, "it is older than what this verifier has said before");
    let later = |change: &dyn Fn(&mut gtvp_appraisal::tpm::ClockInfo)| {
        let mut other = read(&told, 0);
        change(other.claims.clock.as_mut().unwrap());
        tell(&m1, &m2, &signed(&m2, &other), 0)
    };
    assert!(later(&|c| c.clock -= 1).unwrap_err().contains("older than"));
    assert!(later(&|c| c.reset_count -= 1).unwrap_err().contains("gone back"));
    assert_eq!(later(&|c| c.clock += 1), Ok(()));
    // The same of somebody whom this member has seen itself, in another life of its TPM.
    let m1 = m1.restart();
    appraises(&m1, &m2, 0);
    appraises(&m1, &m3, 0);
    let mut older = read(&told, 0);
    older.claims.clock.as_mut().unwrap().reset_count -= 1;
    assert!(tell(&m1, &m2, &signed(&m2, &older), 0).unwrap_err().contains("gone back"));
    assert_eq!(tell(&m1, &m2, &told, 0), Ok(()));
    // Told by who did not sign it: nobody passes results on.
    appraises(&m1, &m3, 0);
    let relayed = tell(&m1, &m3, &told, 0).unwrap_err();
    assert!(relayed.contains("is not the attestation key of who told it"), "{relayed}");
}

#[test]
fn an_evicted_verifier_is_heard_no_more_and_what_it_said_is_over() {
    let (m1, m2, m3) = three();
    appraises(&m1, &m2, 0);
    let told = result(&m2, &m3);
    tell(&m1, &m2, &told, 0).unwrap();
    assert_eq!(row(&m1, "m3", 0).0, "trusted");
    let evict = m1.wish(Wish::Evict { member: "m2".parse().unwrap(), reason: "test".into() }).unwrap();
    Server::decide(&evict.entry, &[&m1], &[&m1]).unwrap();
    assert_eq!(row(&m1, "m3", 0), is("unknown", ""));
    appraises(&m2, &m3, 1_000);
    assert_eq!(
        tell(&m1, &m2, &result(&m2, &m3), 1_000).unwrap_err(),
        "who told it is no other member with a TPM"
    );
}

#[test]
fn what_was_seen_here_counts_more_than_what_anybody_says() {
    let (m1, m2, m3) = three();
    appraises(&m1, &m2, 0);
    let before = result(&m2, &m3);
    tell(&m1, &m2, &before, 0).unwrap();
    m3.actor.measure(measured(EntryKind::Binary, "security", 66)).unwrap();
    m3.evidence(&m1, 0).appraised_by(&m1, 100).unwrap_err();
    assert_eq!(row(&m1, "m3", 100).0, "untrusted");
    // Its verifier has not seen that yet, or lies.
    let mut newer = read(&before, 0);
    newer.claims.clock.as_mut().unwrap().clock += 1;
    tell(&m1, &m2, &signed(&m2, &newer), 200).unwrap();
    assert_eq!(row(&m1, "m3", 200).0, "untrusted");
    assert!(matches!(m1.peers.due(&Due { member: m3.id() }, at(200)).unwrap(), DueReply::Ask(_)));
}

#[test]
fn who_tells_too_much_is_not_listened_to_and_others_are() {
    let (m1, m2, m3) = three();
    appraises(&m1, &m2, 0);
    appraises(&m1, &m3, 0);
    let told = result(&m2, &m3);
    let mut outcomes = BTreeMap::new();
    for _ in 0..1_000 {
        let outcome = tell(&m1, &m2, &told, 0).err().unwrap_or_default();
        *outcomes.entry(outcome).or_insert(0) += 1;
    }
    assert_eq!(outcomes["it tells more results than is listened to"], 1_000 - 3 - 16, "{outcomes:?}");
    appraises(&m3, &m2, 0);
    tell(&m1, &m3, &result(&m3, &m2), 0).unwrap();
    appraises(&m2, &m3, PERIOD);
    appraises(&m1, &m2, PERIOD);
    tell(&m1, &m2, &result(&m2, &m3), PERIOD).unwrap();
}

#[test]
fn of_itself_a_member_says_what_enough_others_say() {
    let (m1, m2, m3) = three();
    for v in [&m2, &m3] {
        appraises(&m1, v, 0);
        appraises(v, &m1, 0);
    }
    assert_eq!(row(&m1, "m1", 0), is("unknown", ""));
    tell(&m1, &m2, &result(&m2, &m1), 0).unwrap();
    assert_eq!(row(&m1, "m1", 0), is("unknown", ""), "two could, and one has");
    tell(&m1, &m3, &result(&m3, &m1), 0).unwrap();
    assert_eq!(row(&m1, "m1", 0), is("trusted", "m2, m3"));
}

#[test]
fn a_round_on_a_link_is_small_however_many_ask_and_so_is_what_is_told() {
    let (m1, m2, _m3) = three();
    appraises(&m1, &m2, 0);
    // Two hundred ask, and one quote answers: its tree has eight levels.
    let asked: Vec<_> = (0..200).map(|_| m2.challenge(&m1, Role::Responder)).collect();
    let challenges =
        asked.iter().map(|(binding, ask)| Challenged { binding: binding.clone(), held: ask.held.clone() });
    let quote = Quote { selection: asked[0].1.selection.clone(), challenges: challenges.collect() };
    let (quoted, fd) = m2.peers.quote(&quote).unwrap();
    let own = own_evidence(quoted, fd, 7);
    assert!(own.logs.iter().all(|l| l.bytes.is_empty()), "nothing is new");
    let (binding, ask) = asked[7].clone();
    let length = |message: Message| message.frame().body.len() + 5;
    let challenge = length(Challenge { round: 1, nonce: [1; 32], ask: ask.clone() }.into());
    let evidence = sent(&own, 1);
    let evidence_bytes = length(evidence.clone().into());
    let pieces: usize = evidence_bytes + challenge;
    let told = Sent { of: m2.entry(), evidence, logs: own.logs, binding, ask };
    told.appraised_by(&m1, 0).unwrap();
    let result = result(&m1, &m2);
    let result = Told::frame(result.ak.clone(), result.result.clone()).unwrap().body.len() + 5;
    println!("a round: {challenge} B challenge, {evidence_bytes} B evidence; a result: {result} B");
    assert!(pieces <= 2048 && result <= 2048, "{pieces} B a round, {result} B a result");
}
