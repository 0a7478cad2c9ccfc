//! Attacks on HSP. Each is refused by name and changes nothing; with exactly its guards left out it succeeds, and with
//! any single one of them put back it does not: so each guard is needed, and the attack is a real one.
//!
//! The numbers are those of the threat list. Where an attack has TLS keys of others, their `communication` was taken
//! over: it can have handshakes signed, but no quotes that the engine did not ask for.

use gtvp_model::digest::Digest;
use gtvp_model::token::{JoinToken, TokenSecret};
use gtvp_model::union::{Epoch, UnionSettings, UnixTime};

use super::world::Field::*;
use super::world::Guard::{self, Appraisal, Engine, Field as In};
use super::world::{
    Field, GOOD, Lab, Ledger, Node, Pair, Part, Tpm, ask, bare, carry, enrolment, entry, join_setup,
    log_bytes, pair, setup, straight, verifier_setup,
};
use crate::Check;
use crate::frame::Frame;
use crate::hsp::join::JoinSetup;
use crate::hsp::message::{Accept, Ask, Bank, Challenge, Hello, LogPiece, Message, NoEvidence};
use crate::hsp::signable::CertificateVerify;
use crate::hsp::{
    Appraisal as Appraised, Event, Expect, Grant, Millis, Refusal, Request, Role as End,
    Setup as SessionSetup,
};

/// `Ok`: the attack succeeded. Else what it was refused by.
type Outcome = Result<(), String>;

struct Attack {
    run: fn(&Lab) -> Outcome,
    guards: &'static [Guard],
    refusal: &'static str,
}

fn refused_by(node: &Node) -> String {
    node.refusal().map_or_else(|| format!("({})", node.machine.state()), |r| r.name().to_owned())
}

/// Whether the victim has a channel now.
fn channel(victim: &Node) -> Outcome {
    if victim.channel.is_some() {
        return Ok(());
    }
    assert!(!victim.is_member() && victim.committed.is_empty());
    Err(refused_by(victim))
}

/// Whether the victim has let somebody in.
fn admitted(victim: &Node, before: &Ledger) -> Outcome {
    if !victim.committed.is_empty() {
        return Ok(());
    }
    assert_eq!(victim.ledger.view, before.view);
    Err(refused_by(victim))
}

fn feed(lab: &Lab, node: &mut Node, frames: &[Frame]) {
    frames.iter().for_each(|f| node.on(lab, Event::Frame(f.clone())));
}

fn holds(attack: &Attack) {
    assert_eq!((attack.run)(&Lab::default()), Err(attack.refusal.to_owned()));
    assert_eq!((attack.run)(&Lab::without(attack.guards)), Ok(()), "without its guards");
    for (i, guard) in attack.guards.iter().enumerate() {
        let others = [&attack.guards[..i], &attack.guards[i + 1..]].concat();
        assert!((attack.run)(&Lab::without(&others)).is_err(), "{guard:?} alone does not stop it");
    }
}

macro_rules! attacks {
    ($($(#[$doc:meta])* fn $name:ident($lab:ident) [$($guard:expr),*] $refusal:literal $body:block)*) => {
        $($(#[$doc])* #[test] fn $name() {
            holds(&Attack { run: |$lab| $body, guards: &[$($guard),*], refusal: $refusal });
        })*
        const GUARDS: &[&[Guard]] = &[$(&[$($guard),*]),*];
    };
}

attacks! {
    /// 1. What alpha sent on one connection, again on the next.
    fn a_replayed_quote_is_refused(lab) [In(Exporter), In(Nonce), In(Transcript)] "EvidenceRejected" {
        let p = pair();
        let (mut a, mut b) = (p.dialling(lab, 1, 1), p.called(lab, 1, 2));
        straight(lab, &mut a, &mut b);
        let mut again = p.called(lab, 3, 4);
        again.appraiser = b.appraiser;
        feed(lab, &mut again, &a.sent);
        channel(&again)
    }
    /// 2. Beta's random numbers failed: two connections have one nonce, and one answer is given on both.
    fn a_nonce_that_two_connections_have_is_not_answered_twice(lab) [In(Exporter)] "EvidenceRejected" {
        let p = pair();
        let (mut a, mut b) = (p.dialling(lab, 1, 1), p.called(lab, 1, 2));
        let mut other = p.called(lab, 3, 2);
        straight(lab, &mut a, &mut b);
        feed(lab, &mut other, &a.sent);
        channel(&other)
    }
    /// 2. A round with the nonce of the round before is not even asked for.
    fn a_nonce_is_not_asked_with_twice(lab) [Engine(Check::NonceFresh)] "NonceUsed" {
        let p = pair();
        let (mut a, mut b) = (p.dialling(lab, 1, 1), p.called(lab, 1, 2));
        straight(lab, &mut a, &mut b);
        b.on(lab, Event::Renew { nonce: [2; 32], ask: ask() });
        channel(&b)
    }
    /// 3. Gamma, a member, is attested by alpha, and hands that to beta as alpha's word to beta.
    fn evidence_for_one_member_is_none_for_another(lab)
    [In(Challenger), In(ChallengerTls), In(Exporter), In(Transcript)] "EvidenceRejected" {
        let (p, gamma) = three();
        let (mut a, mut m) = alpha_to_gamma(lab, &p, &gamma, 2);
        straight(lab, &mut a, &mut m);
        let mut b = p.called(lab, 3, 2);
        feed(lab, &mut b, &a.sent);
        channel(&b)
    }
    /// 3. Gamma, which runs something else, passes alpha's evidence off as its own: the PCRs are as they should be.
    fn evidence_of_another_member_with_equal_pcrs_is_refused(lab) [
        Appraisal(Part::Ak), In(Attester), In(AttesterTls), In(Challenger), In(ChallengerTls),
        In(Exporter), In(Transcript)
    ] "EvidenceRejected" {
        let (p, gamma) = three();
        let (mut a, mut m) = alpha_to_gamma(lab, &p, &gamma, 2);
        straight(lab, &mut a, &mut m);
        let as_gamma = setup(End::Initiator, &entry("gamma", &gamma), 3, p.b.spki(), Expect::Member);
        let hello = Node::session(lab, &gamma, &p.ledger, as_gamma, 1).sent;
        let called = setup(End::Responder, &p.beta(), 3, gamma.spki(), Expect::Member);
        let mut b = Node::session(lab, &p.b, &p.ledger, called, 2);
        feed(lab, &mut b, &hello);
        feed(lab, &mut b, &a.sent[1..]);
        channel(&b)
    }
    /// 4. Between alpha and beta stands one with TLS connections to both, who passes every byte on.
    fn a_relay_between_two_connections_is_refused(lab) [In(Exporter)] "EvidenceRejected" {
        let p = pair();
        let (mut a, mut b) = (p.dialling(lab, 1, 1), p.called(lab, 3, 2));
        straight(lab, &mut a, &mut b);
        channel(&b)
    }
    /// 5. Beta is told what it says itself.
    fn a_reflection_is_refused(lab)
    [Engine(Check::NotOurselves), Engine(Check::NonceEchoed), In(Role)] "Ourselves" {
        let p = pair();
        let own = setup(End::Initiator, &p.beta(), 1, p.b.spki(), Expect::Member);
        let mut b = Node::session(lab, &p.b, &p.ledger, own, 2);
        while let Some(frame) = b.outbox.pop_front() {
            b.on(lab, Event::Frame(frame));
        }
        channel(&b)
    }
    /// 6. Alpha's TLS key, and a quote from a genuine TPM that is not alpha's: the cuckoo.
    fn a_tpm_that_is_not_the_members_is_refused(lab) [Appraisal(Part::Ak)] "EvidenceRejected" {
        let p = pair();
        let cuckoo = Tpm::new("cuckoo");
        let (mut a, mut b) = (p.dialling(lab, 1, 1), p.called(lab, 1, 2));
        a = Node { tpm: cuckoo, ..a };
        straight(lab, &mut a, &mut b);
        channel(&b)
    }
    /// 6, 8. The same without alpha's TLS key: another TPM under alpha's id.
    fn another_tpm_under_a_members_id_is_refused(lab)
    [Engine(Check::TlsKey), Appraisal(Part::Ak)] "TlsKeyOfAnother" {
        let p = pair();
        let cuckoo = Tpm::new("cuckoo");
        let mut a = Node { tpm: cuckoo.clone(), ..p.dialling(lab, 1, 1) };
        let called = setup(End::Responder, &p.beta(), 1, cuckoo.spki(), Expect::Member);
        let mut b = Node::session(lab, &p.b, &p.ledger, called, 2);
        straight(lab, &mut a, &mut b);
        channel(&b)
    }
    /// 7. A genuine EK, and an AK that is somewhere else.
    fn an_attestation_key_that_is_not_in_the_tpm_of_the_ek_is_refused(lab)
    [Engine(Check::Credential)] "CredentialNotOpened" {
        let mut u = joining();
        let forger = Tpm::new("forger");
        let genuine = u.gamma.ek.clone();
        let identity = Tpm { ek: genuine.clone(), ..forger.clone() }.identity();
        let mut setup = join_setup(&forger, &u.token, "gamma", 1, &u.alpha);
        setup.keys.as_mut().unwrap().ek = genuine.try_into().unwrap();
        setup.identity = identity;
        u.gamma = forger;
        u.run(lab, setup, |j, _| j.forges = true)
    }
    /// 7. A TLS key that is not in the TPM: the AK did not certify it on this channel.
    fn a_tls_key_that_the_ak_did_not_certify_is_refused(lab) [Engine(Check::Certified)] "NotCertified" {
        let u = joining();
        u.run_tampered(lab, u.setup(), |message| match message {
            Message::JoinProof(mut m) => {
                m.certification.as_mut().unwrap().signature = vec![0; 32].try_into().unwrap();
                m.into()
            }
            other => other,
        })
    }
    /// 8. A member's EK comes again, with other keys.
    fn a_tpm_that_is_a_member_does_not_become_another(lab) [Engine(Check::MemberFree)] "AlreadyMember" {
        let mut u = joining();
        let there = entry("gamma", &u.gamma);
        u.ledger.change(|v| {
            v.members.insert(there.id(), there.clone());
        });
        u.gamma = Tpm { ek: u.gamma.ek.clone(), ..Tpm::new("new keys") };
        u.run(lab, u.setup(), |_, _| ())
    }
    /// 9. The PCR that would show it is not sent.
    fn evidence_without_a_pcr_that_was_asked_is_refused(lab) [Engine(Check::PcrSelection)] "OtherPcrs" {
        bad_alpha(lab, |message| match message {
            Message::Evidence(mut m) => {
                m.pcrs = Default::default();
                vec![m.into()]
            }
            other => vec![other],
        })
    }
    /// 9. A peer that asks for SHA-1 PCRs gets nothing.
    fn a_quote_over_a_weak_bank_is_not_given(lab) [Engine(Check::AskedBank)] "WeakBank" {
        let p = pair();
        let mut weak = setup(End::Initiator, &p.alpha(), 1, p.b.spki(), Expect::Member);
        weak.ask = Ask { selection: vec![Bank { algorithm: 4, pcrs: 1 }].try_into().unwrap(), held: Default::default() };
        let mut a = Node::session(lab, &p.a, &p.ledger, weak, 1);
        let mut b = p.called(lab, 1, 2);
        straight(lab, &mut a, &mut b);
        if b.tpm.quotes > 0 { Ok(()) } else { Err(refused_by(&b)) }
    }
    /// 10. The log comes without the entry that it is about.
    fn a_cut_log_is_refused(lab) [Appraisal(Part::Replay)] "EvidenceRejected" {
        bad_alpha(lab, |m| with_log(m, |log| log.retain(|e| e.starts_with(GOOD))))
    }
    /// 10. An entry more than was extended.
    fn an_extended_log_is_refused(lab) [Appraisal(Part::Replay)] "EvidenceRejected" {
        good_alpha(lab, |m| with_log(m, |log| log.push("good:more".into())))
    }
    /// 10. The entries in another order.
    fn a_reordered_log_is_refused(lab) [Appraisal(Part::Replay)] "EvidenceRejected" {
        good_alpha(lab, |m| with_log(m, |log| log.reverse()))
    }
    /// 10. An extend that is in no log.
    fn an_unlogged_extend_is_refused(lab) [Appraisal(Part::Replay)] "EvidenceRejected" {
        let p = pair();
        let (mut a, mut b) = (p.dialling(lab, 1, 1), p.called(lab, 1, 2));
        a.tpm.extend_unlogged("good:hidden");
        straight(lab, &mut a, &mut b);
        channel(&b)
    }
    /// 10. An honest log with an entry that nobody knows.
    fn an_entry_that_no_reference_value_knows_is_refused(lab)
    [Appraisal(Part::Reference)] "EvidenceRejected" {
        bad_alpha(lab, |m| vec![m])
    }
    /// 11. The TPM is reset and made to look as before.
    fn a_tpm_that_was_reset_and_extended_again_is_refused(lab) [Appraisal(Part::Clock)] "EvidenceRejected" {
        let p = pair();
        let (mut a, mut b) = (p.dialling(lab, 1, 1), p.called(lab, 1, 2));
        straight(lab, &mut a, &mut b);
        let (mut next, mut again) = (p.dialling(lab, 3, 3), p.called(lab, 3, 4));
        next.tpm = a.tpm;
        next.tpm.reset();
        next.tpm.extend("good:start");
        again.appraiser = b.appraiser;
        straight(lab, &mut next, &mut again);
        channel(&again)
    }
    /// 12. Alpha and beta are members of two unions, and beta is given what alpha says in the other.
    fn a_quote_for_another_union_is_refused(lab) [Engine(Check::Union), In(Union)] "OtherUnion" {
        let p = pair();
        let mut b = p.called(lab, 1, 2);
        let other = Pair { ledger: Ledger::new(2, &[p.alpha(), p.beta()], UnionSettings::default()), ..p };
        let mut a = other.dialling(lab, 1, 1);
        straight(lab, &mut a, &mut b);
        channel(&b)
    }
    /// 15. A member is evicted while it is connected.
    fn an_evicted_members_open_session_ends(lab) [Engine(Check::Evicted)] "Evicted" {
        let p = pair();
        let (mut a, mut b) = (p.dialling(lab, 1, 1), p.called(lab, 1, 2));
        straight(lab, &mut a, &mut b);
        b.ledger.change(|v| {
            v.epoch = Epoch(2);
            v.members.remove(&p.alpha().id());
        });
        b.on(lab, Event::ViewChanged);
        channel(&b)
    }
    /// 16. Alpha, whose roster is old, says that it is not: its hello is changed after it was bound.
    fn an_old_epoch_does_not_pass_for_the_new_one(lab) [In(Field::Epoch), In(Transcript)] "EvidenceRejected" {
        let mut p = pair();
        let mut a = p.dialling(lab, 1, 1);
        p.ledger.change(|v| v.epoch = Epoch(2));
        let mut b = p.called(lab, 1, 2);
        carry(lab, &mut a, &mut b, &mut |from_a, frame| match Message::decode(&frame) {
            Ok(Message::Hello(hello)) if from_a => {
                vec![Message::from(Hello { epoch: Epoch(2), ..hello }).frame()]
            }
            _ => vec![frame],
        });
        channel(&b)
    }
    /// 16. One that has not caught up gets no more than the record.
    fn an_old_roster_gets_no_full_channel(lab) [Engine(Check::EpochGrant)] "(open)" {
        let mut p = pair();
        let mut b = p.called(lab, 1, 2);
        p.ledger.change(|v| v.epoch = Epoch(2));
        let mut a = p.dialling(lab, 1, 1);
        straight(lab, &mut a, &mut b);
        match &b.channel {
            Some(channel) if channel.grant() == Grant::Full => Ok(()),
            _ => Err(refused_by(&b)),
        }
    }
    /// 19. An epoch that nobody can have reached.
    fn an_epoch_far_ahead_is_refused(lab) [Engine(Check::EpochLead)] "EpochFarAhead" {
        let mut p = pair();
        let mut b = p.called(lab, 1, 2);
        p.ledger.change(|v| v.epoch = Epoch(1 << 40));
        let mut a = p.dialling(lab, 1, 1);
        straight(lab, &mut a, &mut b);
        channel(&b)
    }
    /// A verdict on something else comes while bad evidence is being appraised.
    fn a_verdict_on_something_else_is_not_taken(lab) [Engine(Check::Request)] "EvidenceRejected" {
        let p = pair();
        let (mut a, mut b) = (p.dialling(lab, 1, 1), p.called(lab, 1, 2));
        a.tpm.extend("bad:program");
        b.slow = true;
        let mut verdict = None;
        while verdict.is_none() {
            straight(lab, &mut a, &mut b);
            match b.outcomes.pop_front() {
                Some(event @ Event::Appraised { .. }) => verdict = Some(event),
                Some(event) => b.on(lab, event),
                None => break,
            }
        }
        let old = Appraised { result: Digest([0; 32]) };
        b.on(lab, Event::Appraised { request: Request(77), outcome: Ok(old) });
        verdict.into_iter().for_each(|v| b.on(lab, v));
        straight(lab, &mut a, &mut b);
        channel(&b)
    }
    /// A member with a TPM says that it has none.
    fn a_member_with_a_tpm_is_not_believed_without_evidence(lab)
    [Engine(Check::NoEvidence)] "EvidenceMissing" {
        bad_alpha(lab, |message| match message {
            Message::LogPiece(_) => vec![],
            Message::Evidence(_) => vec![NoEvidence {}.into()],
            other => vec![other],
        })
    }
    /// Beta was dialled, gamma answers: a member too, but not that one.
    fn another_member_than_the_one_that_was_dialled_is_refused(lab)
    [Engine(Check::Dialled)] "NotWhoWasDialled" {
        let (p, gamma) = three();
        let dialled = Expect::Dialled(p.beta().id());
        let to_beta = setup(End::Initiator, &p.alpha(), 1, gamma.spki(), dialled);
        let mut a = Node::session(lab, &p.a, &p.ledger, to_beta, 1);
        let called = setup(End::Responder, &entry("gamma", &gamma), 1, p.a.spki(), Expect::Member);
        let mut m = Node::session(lab, &gamma, &p.ledger, called, 2);
        straight(lab, &mut a, &mut m);
        channel(&a)
    }
    /// 69. Alpha says nothing when fresh evidence is asked for.
    fn an_attester_that_stays_silent_loses_its_session(lab) [Engine(Check::Silence)] "Silent" {
        let p = pair();
        let (mut a, mut b) = (p.dialling(lab, 1, 1), p.called(lab, 1, 2));
        straight(lab, &mut a, &mut b);
        b.on(lab, Event::Renew { nonce: [9; 32], ask: ask() });
        b.now = Millis(2_000);
        b.on(lab, Event::Tick);
        channel(&b)
    }
    /// 70. The verifier's clock is an hour slow; the record's head says that it is later than that.
    fn a_slow_clock_does_not_make_an_expired_token_good(lab) [Engine(Check::TokenExpiry)] "TokenExpired" {
        let mut u = joining();
        u.ledger.change(|v| v.head_time = UnixTime(2_000_000));
        u.run(lab, u.setup(), |_, v| v.wall = UnixTime(2_000_000 - 3600))
    }
    /// A token that was never made.
    fn an_unknown_token_lets_nobody_in(lab) [Engine(Check::TokenKnown)] "TokenUnknown" {
        let mut u = joining();
        u.token.secret = TokenSecret::new([66; 16]);
        u.run(lab, u.setup(), |j, _| j.own_way.push(Check::VerifierProof))
    }
    /// A token that somebody has used.
    fn a_used_token_lets_nobody_else_in(lab) [Engine(Check::TokenUnused)] "TokenSpent" {
        let mut u = joining();
        let by = entry("alpha", &u.alpha).id();
        u.ledger.change(|v| v.tokens.values_mut().for_each(|t| t.used_by = Some(by)));
        u.run(lab, u.setup(), |_, _| ())
    }
    /// A token that was made for one TPM, in the hands of another, who has changed what it says.
    fn a_token_for_one_tpm_lets_no_other_in(lab) [Engine(Check::TokenEk)] "TokenForOtherTpm" {
        let mut u = joining();
        u.ledger.change(|v| v.tokens.values_mut().for_each(|t| t.ek = Some([5; 32].into())));
        u.run(lab, u.setup(), |_, _| ())
    }
    /// 4. Between joiner and verifier stands one who passes every byte on.
    fn a_relayed_enrolment_is_refused(lab) [
        Engine(Check::TokenProof), Engine(Check::VerifierProof), Engine(Check::Credential),
        Engine(Check::Certified), In(Exporter)
    ] "TokenProofWrong" {
        let u = joining();
        u.run(lab, JoinSetup { exporter: [3; 32], ..u.setup() }, |_, _| ())
    }
    /// A member that was taken over knows a token's key, but not its secret.
    fn a_tokens_key_alone_lets_nobody_in(lab) [Engine(Check::TokenSecret)] "TokenSecretWrong" {
        let u = joining();
        u.run_tampered(lab, u.setup(), |message| match message {
            Message::JoinAccept(mut m) => {
                m.secret = TokenSecret::new([0; 16]);
                m.into()
            }
            other => other,
        })
    }
    /// Somebody answers at the token's endpoint who does not have the union's record.
    fn an_impostor_admits_nobody(lab) [Engine(Check::VerifierProof)] "VerifierProofWrong" {
        let mut u = joining();
        u.ledger.change(|v| v.tokens.clear());
        let (mut j, mut v) = enrolment(lab, &u.ledger, &u.alpha, &u.gamma, &u.token, 1);
        v.own_way = vec![Check::TokenKnown];
        straight(lab, &mut j, &mut v);
        if j.commands.iter().any(|c| c == "LearnRecord") { Ok(()) } else { Err(refused_by(&j)) }
    }
    /// A software TPM, where the union takes none.
    fn a_software_tpm_is_not_let_in_unasked(lab) [Engine(Check::Class)] "ClassNotAdmitted" {
        let u = joining();
        let mut setup = u.setup();
        setup.keys.as_mut().unwrap().ek_certificate = Default::default();
        u.run(lab, setup, |_, _| ())
    }
    /// A joiner that calls itself as a member is called.
    fn a_members_name_is_not_given_twice(lab) [Engine(Check::NameFree)] "NameTaken" {
        let u = joining();
        u.run(lab, JoinSetup { name: "alpha".parse().unwrap(), ..u.setup() }, |_, _| ())
    }
    /// A member without a TPM, which proves nothing, plays the verifier.
    fn a_member_without_a_tpm_admits_nobody(lab) [Engine(Check::VerifierTpm)] "VerifierWithoutTpm" {
        let mut u = joining();
        let delta = bare("delta");
        u.ledger.change(|v| {
            v.settings.without_tpm = true;
            v.members.insert(delta.id(), delta.clone());
        });
        let own_way = [Check::VerifierTpm];
        let setup = JoinSetup { peer_spki: delta.identity.spki(), ..u.setup() };
        let mut j = Node::joiner(lab, &u.gamma, &u.ledger, setup);
        let own = verifier_setup(&delta, 1, u.gamma.spki());
        let mut v = Node::hostile_verifier(&u.alpha, &u.ledger, own, &own_way);
        straight(lab, &mut j, &mut v);
        if j.is_member() { Ok(()) } else { Err(refused_by(&j)) }
    }
    /// A verifier says "joined" and has not.
    fn a_join_that_the_record_does_not_have_is_none(lab) [Engine(Check::OwnEntry)] "NotAdmitted" {
        let mut u = joining();
        u.ledger.lies = true;
        let (mut j, mut v) = enrolment(lab, &u.ledger, &u.alpha, &u.gamma, &u.token, 1);
        straight(lab, &mut j, &mut v);
        if j.is_member() { Ok(()) } else { Err(refused_by(&j)) }
    }
}

/// Alpha, beta and gamma.
fn three() -> (Pair, Tpm) {
    let (mut p, gamma) = (pair(), Tpm::new("gamma"));
    let third = entry("gamma", &gamma);
    p.ledger.change(|v| {
        v.members.insert(third.id(), third.clone());
    });
    (p, gamma)
}

fn alpha_to_gamma(lab: &Lab, p: &Pair, gamma: &Tpm, nonce: u8) -> (Node, Node) {
    let third = entry("gamma", gamma);
    let dialled = Expect::Dialled(third.id());
    let a = setup(End::Initiator, &p.alpha(), 1, gamma.spki(), dialled);
    let m = setup(End::Responder, &third, 1, p.a.spki(), Expect::Member);
    (Node::session(lab, &p.a, &p.ledger, a, 1), Node::session(lab, gamma, &p.ledger, m, nonce))
}

/// Alpha opens a session; what it sends is changed.
fn alpha(lab: &Lab, entries: &[&str], change: fn(Message) -> Vec<Message>) -> Outcome {
    let mut p = pair();
    entries.iter().for_each(|e| p.a.extend(e));
    let (mut a, mut b) = (p.dialling(lab, 1, 1), p.called(lab, 1, 2));
    carry(lab, &mut a, &mut b, &mut |from_a, frame| match Message::decode(&frame) {
        Ok(message) if from_a => change(message).iter().map(Message::frame).collect(),
        _ => vec![frame],
    });
    channel(&b)
}

fn bad_alpha(lab: &Lab, change: fn(Message) -> Vec<Message>) -> Outcome {
    alpha(lab, &["good:one", "bad:program", "good:two"], change)
}

fn good_alpha(lab: &Lab, change: fn(Message) -> Vec<Message>) -> Outcome {
    alpha(lab, &["good:one", "good:two"], change)
}

/// The message with another log; the evidence with its length.
fn with_log(message: Message, change: fn(&mut Vec<String>)) -> Vec<Message> {
    thread_local!(static LENGTH: std::cell::Cell<u64> = const { std::cell::Cell::new(0) });
    match message {
        Message::LogPiece(piece) => {
            let text = String::from_utf8(piece.bytes.into_vec()).unwrap();
            let mut log: Vec<String> = text.lines().map(str::to_owned).collect();
            change(&mut log);
            let bytes = log_bytes(&log);
            LENGTH.set(bytes.len() as u64);
            vec![LogPiece { bytes: bytes.try_into().unwrap(), ..piece }.into()]
        }
        Message::Evidence(mut evidence) => {
            evidence.ends = vec![0, 0, LENGTH.get()].try_into().unwrap();
            vec![evidence.into()]
        }
        other => vec![other],
    }
}

/// A server that wants in.
struct Joining {
    alpha: Tpm,
    gamma: Tpm,
    ledger: Ledger,
    token: JoinToken,
}

fn joining() -> Joining {
    let (alpha, gamma) = (Tpm::new("alpha"), Tpm::new("gamma"));
    let mut ledger = Ledger::new(1, &[entry("alpha", &alpha)], UnionSettings::default());
    let token = ledger.token(9, |_| ());
    Joining { alpha, gamma, ledger, token }
}

impl Joining {
    fn setup(&self) -> JoinSetup {
        join_setup(&self.gamma, &self.token, "gamma", 1, &self.alpha)
    }

    fn ends(&self, lab: &Lab, setup: JoinSetup) -> (Node, Node) {
        let j = Node::joiner(lab, &self.gamma, &self.ledger, setup);
        let own = verifier_setup(&entry("alpha", &self.alpha), 1, self.gamma.spki());
        (j, Node::verifier(&self.alpha, &self.ledger, own))
    }

    fn run(&self, lab: &Lab, setup: JoinSetup, prepare: impl FnOnce(&mut Node, &mut Node)) -> Outcome {
        let (mut j, mut v) = self.ends(lab, setup);
        prepare(&mut j, &mut v);
        straight(lab, &mut j, &mut v);
        admitted(&v, &self.ledger)
    }

    fn run_tampered(&self, lab: &Lab, setup: JoinSetup, change: fn(Message) -> Message) -> Outcome {
        let (mut j, mut v) = self.ends(lab, setup);
        carry(lab, &mut j, &mut v, &mut |from_j, frame| match Message::decode(&frame) {
            Ok(message) if from_j => vec![change(message).frame()],
            _ => vec![frame],
        });
        admitted(&v, &self.ledger)
    }
}

#[test]
fn every_guard_of_hsp_has_an_attack_that_it_stops() {
    // These have theirs in the simulator (sim/tests/) and beside the record's rules.
    let of_csp = |c: &Check| {
        let record =
            ["Entry", "Head", "Voters", "OnePromise", "LastPromise", "Promise", "Recovery", "Author"];
        let others = ["Gossip", "Owner", "Move", "Ticket", "MigrationTicket"];
        record.iter().chain(&others).any(|p| format!("{c:?}").starts_with(p))
    };
    let guarded = |guard: Guard| GUARDS.iter().any(|g| g.contains(&guard));
    let missing: Vec<_> = Check::ALL.iter().filter(|c| !of_csp(c) && !guarded(Engine(**c))).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let fields = [
        Union,
        Field::Epoch,
        Role,
        Attester,
        Challenger,
        Exporter,
        Nonce,
        AttesterTls,
        ChallengerTls,
        Transcript,
    ];
    let missing: Vec<_> = fields.iter().filter(|f| !guarded(In(**f))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// 6. A genuine TPM that never joined.
#[test]
fn who_is_not_in_the_roster_has_no_session() {
    let lab = Lab::default();
    let p = pair();
    let out = Tpm::new("outsider");
    let called = setup(End::Responder, &p.beta(), 1, out.spki(), Expect::Member);
    let mut b = Node::session(&lab, &p.b, &p.ledger, called, 2);
    let own = entry("outsider", &out);
    let dialling = setup(End::Initiator, &own, 1, p.b.spki(), Expect::Member);
    let mut a = Node::session(&lab, &out, &p.ledger, SessionSetup { admitted: false, ..dialling }, 1);
    straight(&lab, &mut a, &mut b);
    assert_eq!(b.refusal(), Some(&Refusal::NotInRoster { member: own.id() }));
    assert_eq!(b.tpm.quotes, 0);
}

/// 13, 14. Whatever comes first on a connection, if it is not a member's hello, is answered by a refusal and nothing
/// else: there is nothing to resume, and nothing to be had without saying who one is.
#[test]
fn without_a_hello_there_is_nothing() {
    let lab = Lab::default();
    let p = pair();
    let (mut a, mut b) = (p.dialling(&lab, 1, 1), p.called(&lab, 1, 2));
    straight(&lab, &mut a, &mut b);
    let challenge = Challenge { round: 1, nonce: [1; 32], ask: ask() };
    let own = [
        Message::from(Accept {}).frame(),
        Message::from(challenge).frame(),
        Frame { kind: 99, body: vec![] },
    ];
    for first in a.sent[1..].iter().chain(&own) {
        let mut fresh = p.called(&lab, 3, 4);
        fresh.on(&lab, Event::Frame(first.clone()));
        assert!(fresh.channel.is_none() && fresh.refusal().is_some());
        let said: Vec<_> = fresh.outbox.iter().map(|f| f.kind).collect();
        assert_eq!((said, fresh.tpm.quotes), (vec![7], 0));
    }
    // The same of a verifier: a stranger hears that there is no such token, and no word of the record.
    let mut u = joining();
    u.token.secret = TokenSecret::new([66; 16]);
    let (mut j, mut v) = u.ends(&lab, u.setup());
    straight(&lab, &mut j, &mut v);
    assert_eq!(v.sent.iter().map(|f| f.kind).collect::<Vec<_>>(), [7]);
    assert_eq!(v.refusal(), Some(&Refusal::TokenUnknown));
}

/// 63. A signer that looks first signs handshakes and nothing else; one that does not signs a verdict.
#[test]
fn communication_cannot_have_arbitrary_bytes_signed() {
    type Signer = fn(&[u8]) -> Option<Vec<u8>>;
    let looks: Signer = |bytes| CertificateVerify::parse(bytes).ok().map(|_| vec![1]);
    let does_not: Signer = |_| Some(vec![1]);
    let verdict = b"\x84\x6ASignature1 alpha is trusted";
    assert_eq!(looks(verdict), None);
    assert!(does_not(verdict).is_some());
    // Nor can a quote be had over bytes: it is asked for by its binding, and the leaf has HSP's label.
    let p = pair();
    let a = p.dialling(&Lab::default(), 1, 1);
    assert!(a.commands.iter().all(|c| c != "Quote"), "before the peer said who it is");
}

/// 70. Sessions do not look at the wall clock at all; a fast verifier refuses a good token by name.
#[test]
fn clocks_an_hour_off_break_no_session_and_let_nobody_in() {
    let lab = Lab::default();
    let p = pair();
    let (mut a, mut b) = (p.dialling(&lab, 1, 1), p.called(&lab, 1, 2));
    (a.wall, b.wall) = (UnixTime(0), UnixTime(10_000_000));
    (a.now, b.now) = (Millis(0), Millis(9_999));
    straight(&lab, &mut a, &mut b);
    assert!(a.channel.is_some() && b.channel.is_some());
    let u = joining();
    let fast = u.run(&lab, u.setup(), |_, v| v.wall = UnixTime(2_000_000 + 3600));
    assert_eq!(fast, Err("TokenExpired".into()));
}
