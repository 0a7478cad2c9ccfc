//! Attestation results between members on real software TPMs: whose is believed, what is not, and members that appraise each other in
//! turns.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

#[allow(dead_code, reason = "what other tests need of it")]
mod played;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gtvp_appraisal::appraise::State;
use gtvp_appraisal::ownlog::EntryKind;
use gtvp_appraisal::result::{AttestationResult, Claims, SignedResult};
use gtvp_appraisal::tpm::{Public, VerifyingKey};
use gtvp_ipc::bulk;
use gtvp_ipc::security::{Challenged, Due, DueReply, HearResult, OwnResult, Quote, Wish};
use gtvp_model::digest::Digest;
use gtvp_model::token::JoinToken;
use gtvp_protocol::csp::{Offer, page};
use gtvp_protocol::hsp::message::Challenge;
use gtvp_protocol::hsp::{Message, Role};
use gtvp_protocol::results::{MAX_RESULT, Told};
use gtvp_security::peers::Now;
use played::enrolment::{enrolment, run};
use played::server::{NOW, Sent, Server, appraise_at, at, measured, own_evidence, sent};

const PERIOD: u64 = 2_000;

fn token(server: &Server, all: &[Server]) -> JoinToken {
    let wish = Wish::Token { expires_s: 3600, ek: None, platform_identity: None };
    let written = server.wish(wish).unwrap();
    let all: Vec<&Server> = all.iter().collect();
    Server::decide(&written.entry, &all[..1], &all).unwrap();
    let view = server.view();
    JoinToken {
        union: view.union,
        head: view.head,
        endpoint: "192.0.2.1:7600".parse().unwrap(),
        expires: gtvp_model::union::UnixTime(NOW + 3600),
        ek: None,
        secret: written.token.unwrap().secret,
    }
}

/// Has `server` what `from` has of the record.
fn catch_up(server: &Server, from: &Server) {
    let bytes = from.union.page(server.head().number + 1, 1 << 20).unwrap();
    let mut entries = Vec::new();
    for committed in page::split(&bulk::take(bytes, 2 << 20).unwrap()).unwrap() {
        entries.push(committed.entry);
        if let Some(head) = committed.head {
            let offer = Offer { entries: std::mem::take(&mut entries), head };
            server.take(from.id(), &offer).unwrap();
        }
    }
    assert_eq!(server.head(), from.head());
}

/// A union whose first member has let the others in.
fn union(names: &[&'static str]) -> Vec<Server> {
    let first = Server::start(names[0]);
    first.begin().unwrap();
    let mut all = vec![first];
    for name in &names[1..] {
        let token = token(&all[0], &all);
        let joiner = Server::start(name);
        let (mut j, mut v) = enrolment(&joiner, &all[0], &token);
        run(&mut j, &mut v);
        assert_eq!((j.refusal(), v.refusal()), (None, None));
        drop((j, v));
        all[1..].iter().for_each(|m| catch_up(m, &all[0]));
        all.push(joiner);
    }
    all
}

fn appraises(verifier: &Server, subject: &Server, ms: u64) {
    subject.evidence(verifier, 1).appraised_by(verifier, ms).unwrap();
}

fn row(server: &Server, of: &str, ms: u64) -> (String, String) {
    let row = server.peers.members(at(ms)).unwrap().into_iter().find(|r| r.name == of).unwrap();
    (row.verdict, row.attested_by.unwrap_or_default())
}

fn is(verdict: &str, by: &str) -> (String, String) {
    (verdict.into(), by.into())
}

/// What a member has found of another one, last.
fn result(verifier: &Server, of: &Server) -> Arc<OwnResult> {
    let (all, _) = verifier.peers.results_after(0, Duration::ZERO);
    all.into_iter().find(|r| r.of == of.id()).unwrap()
}

fn tell(server: &Server, from: &Server, result: &OwnResult, ms: u64) -> Result<(), String> {
    let told = HearResult { from: from.id(), ak: result.ak.clone(), result: result.result.clone() };
    server.peers.hear(&told, at(ms))
}

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
    OwnResult { of: by.id(), ak, result: by.actor.sign_result(unsigned).unwrap() }
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
    assert!(matches!(m1.peers.due(&Due { member: m3.id() }, at(200)), DueReply::Ask(_)));
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

/// Members in turns: who asks whom when, and what everybody is told.
struct Turns {
    all: Vec<Server>,
    next: BTreeMap<(usize, usize), u64>,
    told: Vec<u64>,
    silent: Option<usize>,
    /// How far each one's clock is off, milliseconds.
    skew: Vec<i64>,
    /// What was not believed of what was told.
    refused: Vec<(usize, String)>,
    /// Who appraised whom, when, and whether it was believed.
    done: Vec<(usize, usize, u64, bool)>,
}

impl Turns {
    fn new(names: &[&'static str]) -> Self {
        Self::skewed(names, &vec![0; names.len()])
    }

    fn skewed(names: &[&'static str], skew: &[i64]) -> Self {
        let all = union(names);
        let pairs = (0..all.len()).flat_map(|v| (0..names.len()).map(move |s| (v, s)));
        let next: BTreeMap<_, _> = pairs.filter(|(v, s)| v != s).map(|pair| (pair, 0)).collect();
        // Their channels open: each appraises each.
        let mut turns = Self {
            told: vec![0; all.len()],
            all,
            next,
            silent: None,
            skew: skew.to_vec(),
            refused: Vec::new(),
            done: Vec::new(),
        };
        turns.next.clone().keys().for_each(|(v, s)| turns.appraise(*v, *s, 0));
        turns.tell(0);
        turns.done.clear();
        turns
    }

    /// What time a member thinks it is.
    fn now(&self, of: usize, ms: u64) -> Now {
        let now = at(ms);
        Now { wall_ms: now.wall_ms.checked_add_signed(self.skew[of]).unwrap(), ..now }
    }

    fn appraise(&mut self, v: usize, s: usize, ms: u64) {
        let evidence = self.all[s].evidence(&self.all[v], 1);
        let believed = appraise_at(&self.all[v], &evidence, self.now(v, ms)).is_ok();
        self.done.push((v, s, ms, believed));
        // As `communication` does: towards the end of the period, that it is not late.
        self.next.insert((v, s), ms + PERIOD - 300);
    }

    fn tell(&mut self, ms: u64) {
        for from in 0..self.all.len() {
            let (new, upto) = self.all[from].peers.results_after(self.told[from], Duration::ZERO);
            self.told[from] = upto;
            for result in new {
                for to in (0..self.all.len()).filter(|to| *to != from) {
                    let told = HearResult {
                        from: self.all[from].id(),
                        ak: result.ak.clone(),
                        result: result.result.clone(),
                    };
                    let heard = self.all[to].peers.hear(&told, self.now(to, ms));
                    self.refused.extend(heard.err().map(|why| (from, why)));
                }
            }
        }
    }

    fn step(&mut self, ms: u64) {
        for ((v, s), at_ms) in self.next.clone() {
            if at_ms > ms {
                continue;
            }
            match self.all[v].peers.due(&Due { member: self.all[s].id() }, self.now(v, ms)) {
                DueReply::Rest(rest) => drop(self.next.insert((v, s), ms + rest)),
                DueReply::Ask(_) if self.silent == Some(s) => drop(self.next.insert((v, s), ms + PERIOD)),
                DueReply::Ask(_) => self.appraise(v, s, ms),
            }
        }
        self.tell(ms);
    }

    fn verdicts(&self, of: usize, ms: u64) -> Vec<String> {
        let others = (0..self.all.len()).filter(|v| *v != of);
        let row = |v: usize| {
            let rows = self.all[v].peers.members(self.now(v, ms)).unwrap();
            rows.into_iter().find(|r| r.name == self.all[of].name).unwrap().verdict
        };
        others.map(row).collect()
    }
}

#[test]
fn in_turns_two_appraise_a_member_and_all_trust_it_until_it_is_silent_or_tampered_with() {
    const STEP: u64 = 100;
    let mut turns = Turns::new(&["m1", "m2", "m3", "m4", "m5", "m6"]);
    let periods = 12;
    let mut ms = 0;
    while ms < periods * PERIOD {
        ms += STEP;
        turns.step(ms);
        for of in 0..6 {
            assert!(turns.verdicts(of, ms).iter().all(|v| v == "trusted"), "m{} at {ms}", of + 1);
        }
    }
    // Two of five, and some more where a result came late.
    let two = 6 * 2 * periods as usize;
    assert!(turns.done.len() <= two * 5 / 4, "{} appraisals, {two} are needed", turns.done.len());
    assert!(turns.done.len() >= two * 3 / 4, "{} appraisals", turns.done.len());
    let verifiers = |of: usize| {
        let mut by: Vec<_> = turns.done.iter().filter(|d| d.1 == of).map(|d| d.0).collect();
        by.sort_unstable();
        by.dedup();
        by.len()
    };
    assert!((0..6).all(|of| verifiers(of) >= 4), "they take turns");
    let quotes: std::collections::BTreeSet<_> = turns.done.iter().map(|d| (d.1, d.2)).collect();
    assert!(
        quotes.len() <= 6 * (periods as usize + 2),
        "{} moments at which somebody is asked",
        quotes.len()
    );
    // Of a member with which there is no round of one's own it is said who has appraised it.
    let by: Vec<_> = (0..5).map(|v| row(&turns.all[v], "m6", ms).1).collect();
    assert!(by.iter().any(|by| by.contains(", ")), "{by:?}");

    // Tampered with: its next verifiers see it within a period, by no hook but its evidence.
    turns.done.clear();
    turns.all[5].actor.measure(measured(EntryKind::Binary, "security", 66)).unwrap();
    let tampered = ms;
    while turns.done.iter().all(|d| d.3) {
        ms += STEP;
        turns.step(ms);
    }
    assert!(ms - tampered <= PERIOD + STEP, "seen after {} ms", ms - tampered);
    // They say so, and whoever hears it asks at once: nobody is believed, all see it.
    let suspects: Vec<usize> = (0..5).collect();
    suspects.iter().for_each(|v| turns.appraise(*v, 5, ms));
    assert!(turns.verdicts(5, ms).iter().all(|v| v == "untrusted"));
    let heard = (0..5).map(|v| turns.all[v].peers.results_after(0, Duration::ZERO).0);
    let last = heard.flatten().filter(|r| r.of == turns.all[5].id()).count();
    assert!(last > 0, "what was said before is still around");
    turns.tell(ms);
    assert!(turns.verdicts(5, ms).iter().all(|v| v == "untrusted"), "and counts nowhere");

    // Silent: unknown to all, and untrusted to nobody.
    turns.silent = Some(4);
    let silent = ms;
    while ms < silent + 4 * PERIOD {
        ms += STEP;
        turns.step(ms);
        assert!(turns.verdicts(4, ms).iter().take(4).all(|v| v != "untrusted"));
    }
    assert!(turns.verdicts(4, ms).iter().take(4).all(|v| v == "unknown"), "{:?}", turns.verdicts(4, ms));
    assert!(turns.verdicts(3, ms).iter().take(3).all(|v| v == "trusted"), "the control");
}

#[test]
fn a_verdict_that_goes_on_ends_with_the_trust_in_those_by_whom_it_does() {
    for evicts in [false, true] {
        let mut turns = Turns::new(&["m1", "m2", "m3", "m4", "m5"]);
        let rests = |turns: &Turns, ms| {
            let pairs = (0..5).flat_map(|v| (0..5).map(move |s| (v, s))).filter(|(v, s)| v != s);
            pairs.into_iter().find_map(|(v, s)| {
                let (verdict, by) = row(&turns.all[v], turns.all[s].name, ms);
                let by: Vec<_> = by.split(", ").map(str::to_owned).collect();
                // m1 alone votes, and is not the one to go.
                let gone = by.iter().find(|name| *name != "m1").cloned()?;
                (verdict == "trusted" && by.len() == 2 && v != 0 && s != 0).then_some((v, s, gone))
            })
        };
        let mut ms = 0;
        let (v, s, gone) = loop {
            ms += 100;
            turns.step(ms);
            if let Some(found) = rests(&turns, ms) {
                break found;
            }
        };
        let x = turns.all.iter().position(|m| m.name == gone).unwrap();
        if evicts {
            let evict =
                turns.all[0].wish(Wish::Evict { member: gone.parse().unwrap(), reason: "test".into() });
            let all: Vec<&Server> = turns.all.iter().collect();
            Server::decide(&evict.unwrap().entry, &all[..1], &[&turns.all[0], &turns.all[v]]).unwrap();
        } else {
            turns.all[x].actor.measure(measured(EntryKind::Binary, "security", 66)).unwrap();
            turns.appraise(v, x, ms);
            assert!(!turns.done.last().unwrap().3);
        }
        let (verdict, by) = row(&turns.all[v], turns.all[s].name, ms);
        assert!(!by.contains(&gone), "{verdict} by {by}, though {gone} is gone");
        // It proves itself as before.
        turns.appraise(v, s, ms);
        assert_eq!(row(&turns.all[v], turns.all[s].name, ms), is("trusted", turns.all[v].name));
    }
}

#[test]
fn threat_70_clocks_that_are_off_cost_appraisals_and_never_a_verdict() {
    let names = ["m1", "m2", "m3", "m4", "m5"];
    // A part of a period; more than one; an hour.
    let mut turns = Turns::skewed(&names, &[0, 700, -700, 3_000, 3_600_000]);
    let mut ms = 0;
    while ms < 8 * PERIOD {
        ms += 100;
        turns.step(ms);
        for of in 0..5 {
            let verdicts = turns.verdicts(of, ms);
            assert!(verdicts.iter().all(|v| v == "trusted"), "{} at {ms}: {verdicts:?}", names[of]);
        }
    }
    let told =
        |from: usize, words: &str| turns.refused.iter().any(|(f, why)| *f == from && why.contains(words));
    assert!(told(4, "it was issued at"), "what is from the future is refused");
    assert!(told(0, "it ended at"), "and so is what has ended, by who is ahead");
    turns.done.clear();
    turns.all[1].actor.measure(measured(EntryKind::Binary, "security", 66)).unwrap();
    let tampered = ms;
    while turns.done.iter().all(|d| d.3) {
        ms += 100;
        turns.step(ms);
    }
    assert!(ms - tampered <= PERIOD + 100, "seen after {} ms", ms - tampered);
}
