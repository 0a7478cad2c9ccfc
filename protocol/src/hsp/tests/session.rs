//! Sessions between members who mean well.

use gtvp_model::union::{Epoch, TpmClass, UnionSettings};

use super::world::*;
use crate::hsp::message::{MAX_LOG_PIECE, Message};
use crate::hsp::{Batcher, Event, Expect, Grant, Lengths, Millis, Refusal, Role};

#[test]
fn two_members_open_a_channel_and_keep_proving_themselves() {
    let lab = Lab::default();
    let p = pair();
    let (mut a, mut b) = (p.dialling(&lab, 1, 1), p.called(&lab, 1, 2));
    straight(&lab, &mut a, &mut b);
    for (node, peer) in [(&a, p.beta()), (&b, p.alpha())] {
        let channel = node.channel.as_ref().expect("no channel");
        assert_eq!(
            (channel.peer(), channel.grant(), channel.class()),
            (peer.id(), Grant::Full, TpmClass::Hardware)
        );
        assert!(channel.result().is_some());
        assert_eq!(channel.exporter(), &[1; 32]);
    }
    let names: Vec<_> = a.sent.iter().map(|f| Message::decode(f).unwrap().name()).collect();
    assert_eq!(names, ["Hello", "LogPiece", "Evidence", "Accept"]);

    for round in 1..=3u8 {
        a.tpm.extend(&format!("good:box {round}"));
        b.on(&lab, Event::Renew { nonce: [round + 10; 32], ask: ask() });
        a.on(&lab, Event::Renew { nonce: [round + 20; 32], ask: ask() });
        straight(&lab, &mut a, &mut b);
        assert_eq!((a.renewed, b.renewed), (usize::from(round), usize::from(round)));
    }
    assert_eq!(a.tpm.quotes, 4);
}

#[test]
fn only_what_is_new_of_a_log_is_sent() {
    let lab = Lab::default();
    let mut p = pair();
    for i in 0..50_000 {
        p.a.extend(&format!("good:{i}"));
    }
    let (mut a, mut b) = (p.dialling(&lab, 1, 1), p.called(&lab, 1, 2));
    straight(&lab, &mut a, &mut b);
    let pieces = a.sent.iter().filter(|f| f.kind == 2).count();
    assert_eq!(pieces, log_bytes(&a.tpm.log).len().div_ceil(MAX_LOG_PIECE));
    assert!(b.channel.is_some());

    a.tpm.extend("good:one more");
    a.sent.clear();
    let mut again = ask();
    again.held = vec![b.appraiser.held(p.alpha().id()).unwrap()].try_into().unwrap();
    b.on(&lab, Event::Renew { nonce: [9; 32], ask: again });
    let asked: usize = b.outbox.iter().map(|f| f.body.len()).sum();
    straight(&lab, &mut a, &mut b);
    let answered: usize = a.sent.iter().map(|f| f.body.len()).sum();
    assert_eq!(b.renewed, 1);
    assert!(asked + answered < 1024, "{asked} + {answered} bytes for one entry");
}

#[test]
fn a_change_that_nobody_knows_ends_the_session_at_the_next_round() {
    let lab = Lab::default();
    let p = pair();
    let (mut a, mut b) = (p.dialling(&lab, 1, 1), p.called(&lab, 1, 2));
    straight(&lab, &mut a, &mut b);
    a.tpm.extend("a replaced binary");
    b.on(&lab, Event::Renew { nonce: [9; 32], ask: ask() });
    straight(&lab, &mut a, &mut b);
    assert!(matches!(b.refusal(), Some(Refusal::EvidenceRejected { .. })), "{:?}", b.refusal());
    assert!(b.channel.is_none());
    // The other side hears by name why.
    assert!(
        matches!(a.refusal(), Some(Refusal::PeerRefused { code: 20, reason }) if reason.contains("replaced"))
    );
}

#[test]
fn who_has_not_caught_up_gets_the_record_and_nothing_else() {
    let lab = Lab::default();
    let mut p = pair();
    let old = p.called(&lab, 1, 2);
    p.ledger.change(|v| v.epoch = Epoch(2));
    let (mut a, mut b) = (p.dialling(&lab, 1, 1), old);
    straight(&lab, &mut a, &mut b);
    assert_eq!(a.channel.unwrap().grant(), Grant::RecordOnly);
    assert_eq!(b.channel.unwrap().grant(), Grant::RecordOnly);
}

#[test]
fn a_member_without_a_tpm_is_seen_as_such() {
    let lab = Lab::default();
    let mut p = pair();
    let gamma = bare("gamma");
    p.ledger.change(|v| {
        v.members.insert(gamma.id(), gamma.clone());
        v.settings = UnionSettings { without_tpm: true, ..v.settings };
    });
    let to_gamma = setup(Role::Responder, &p.beta(), 1, gamma.identity.spki(), Expect::Member);
    let to_beta = setup(Role::Initiator, &gamma, 1, p.b.spki(), Expect::Dialled(p.beta().id()));
    let mut b = Node::session(&lab, &p.b, &p.ledger, to_gamma.clone(), 1);
    let mut c = Node::session(&lab, &p.a, &p.ledger, to_beta.clone(), 2);
    straight(&lab, &mut c, &mut b);
    let channel = b.channel.unwrap();
    assert_eq!((channel.class(), channel.result()), (TpmClass::None, None));
    assert_eq!(c.channel.unwrap().class(), TpmClass::Hardware);
    assert_eq!(c.tpm.quotes, 0);

    // The union changes its mind: the next session is refused.
    p.ledger.change(|v| v.settings.without_tpm = false);
    let mut b = Node::session(&lab, &p.b, &p.ledger, to_gamma, 1);
    let mut c = Node::session(&lab, &p.a, &p.ledger, to_beta, 2);
    straight(&lab, &mut c, &mut b);
    assert_eq!(b.refusal(), Some(&Refusal::EvidenceMissing));
}

#[test]
fn versions_are_agreed_on_before_anything_else_is_read() {
    let lab = Lab::default();
    let p = pair();
    let mut b = p.called(&lab, 1, 2);
    // A hello of HSP 9: versions first, then things that nobody here knows.
    let body = vec![0x82, 0x81, 9, 0x63, b'n', b'e', b'w'];
    b.on(&lab, Event::Frame(crate::frame::Frame { kind: 1, body }));
    assert_eq!(b.refusal(), Some(&Refusal::NoCommonVersion { theirs: vec![9] }));
}

#[test]
fn one_quote_answers_many_challengers_and_each_only_itself() {
    let lab = Lab::default();
    let p = pair();
    let n = 7u8;
    let mut connections: Vec<_> = (0..n)
        .map(|i| {
            let mut a = p.dialling(&lab, i, 100 + i);
            a.holds_quotes = true;
            let b = p.called(&lab, i, 200 + i);
            (a, b)
        })
        .collect();
    let mut batcher = Batcher::new(Lengths { period: 0, window: 0 });
    for (i, (a, b)) in connections.iter_mut().enumerate() {
        straight(&lab, a, b);
        let (request, binding, ask) = a.held_quotes.pop().unwrap();
        batcher.add((i, request), &binding, &ask.selection, false, Millis(0)).unwrap();
    }
    let sealed = batcher.poll(Millis(0)).unwrap();
    // One quote; what differs is the way to its root.
    let mut tpm = p.a.clone();
    let quote = tpm.quote_over(sealed.qualifying_data, Default::default(), &ask());
    let mut evidence = Vec::new();
    for ((i, request), path) in sealed.answers {
        let own = crate::hsp::OwnEvidence { path, ..quote.clone() };
        let (a, _) = &mut connections[i];
        a.on(&lab, Event::Quoted { request, outcome: Ok(Box::new(own)) });
        evidence.push(a.outbox.clone());
    }
    assert_eq!(tpm.quotes, 1);
    // The first gets the second's answer, and believes nothing.
    let (_, mut first) = connections.remove(0);
    evidence[1].iter().for_each(|f| first.on(&lab, Event::Frame(f.clone())));
    assert!(matches!(first.refusal(), Some(Refusal::EvidenceRejected { .. })), "{:?}", first.refusal());
    for (a, b) in &mut connections {
        straight(&lab, a, b);
        assert!(a.channel.is_some() && b.channel.is_some());
    }
}
