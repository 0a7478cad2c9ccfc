//! Joining, and that it is a transaction: whatever happens to whichever message, and whoever dies when, either nothing
//! has changed or the joiner is a member; and the next try with the same token comes to the end.

use gtvp_model::token::JoinToken;
use gtvp_model::union::{Identity, PlatformIdentity, TpmClass, UnionSettings};

use super::world::*;
use crate::frame::Frame;
use crate::hsp::message::Message;
use crate::hsp::{Durable, Event, Millis, Refusal};

struct Union {
    alpha: Tpm,
    gamma: Tpm,
    ledger: Ledger,
    token: JoinToken,
}

fn union() -> Union {
    let (alpha, gamma) = (Tpm::new("alpha"), Tpm::new("gamma"));
    let mut ledger = Ledger::new(1, &[entry("alpha", &alpha)], UnionSettings::default());
    let token = ledger.token(9, |t| t.platform_identity = PlatformIdentity::try_from(2).unwrap());
    // Other things happen after the token was made.
    ledger.change(|v| v.head_time.0 += 1);
    ledger.change(|v| v.head_time.0 += 1);
    Union { alpha, gamma, ledger, token }
}

#[test]
fn a_server_with_a_token_becomes_a_member() {
    let lab = Lab::default();
    let u = union();
    let (mut j, mut v) = enrolment(&lab, &u.ledger, &u.alpha, &u.gamma, &u.token, 1);
    straight(&lab, &mut j, &mut v);
    assert_eq!((j.refusal(), v.refusal()), (None, None));
    assert_eq!(v.committed.len(), 1);
    let entry = &v.ledger.view.members[&u.gamma.identity().member_id()];
    assert_eq!((entry.name.as_str(), entry.platform_identity.get()), ("gamma", 2));
    assert!(entry.identity.same_keys(&u.gamma.identity()));
    let [Durable::Intent { .. }, Durable::Membership { entry: own, head, .. }] = &j.durable[..] else {
        panic!("{:?}", j.durable)
    };
    assert_eq!((own.as_ref(), *head), (entry, v.ledger.view.head));
    // The entry is written down before it is told, and the intent before the union can have it.
    let at = |name: &str, nth: usize| {
        j.commands.iter().enumerate().filter(|(_, c)| *c == name).nth(nth).unwrap().0
    };
    let accept = j.commands.len() - j.commands.iter().rev().position(|c| c == "Send").unwrap() - 1;
    assert!(at("Persist", 0) < accept && at("Persist", 1) < at("Established", 0));
    assert!(j.channel.is_some() && v.channel.is_some());

    // The session goes on as any other, and ends when the member is evicted.
    for node in [&mut j, &mut v] {
        let machine = std::mem::replace(&mut node.machine, Machine::Gone);
        node.machine = Machine::Session(
            match machine {
                Machine::Joiner(m) => m.into_session(),
                Machine::Verifier(m) => m.into_session(),
                _ => None,
            }
            .unwrap(),
        );
    }
    v.on(&lab, Event::Renew { nonce: [50; 32], ask: ask() });
    straight(&lab, &mut j, &mut v);
    assert_eq!(v.renewed, 1);
    v.ledger.change(|view| {
        view.members.remove(&u.gamma.identity().member_id());
    });
    v.on(&lab, Event::ViewChanged);
    assert!(matches!(v.refusal(), Some(Refusal::Evicted { .. })));
    assert!(v.channel.is_none());
}

#[test]
fn a_server_without_a_tpm_joins_only_where_the_union_says_so() {
    let lab = Lab::default();
    let mut u = union();
    let gamma = bare("gamma");
    let run = |ledger: &Ledger| {
        let mut setup = join_setup(&u.gamma, &u.token, "gamma", 1, &u.alpha);
        (setup.keys, setup.identity) = (None, gamma.identity.clone());
        let mut j = Node::joiner(&lab, &u.gamma, ledger, setup);
        let own = entry("alpha", &u.alpha);
        let mut v = Node::verifier(&u.alpha, ledger, verifier_setup(&own, 1, gamma.identity.spki()));
        straight(&lab, &mut j, &mut v);
        (j, v)
    };
    let (j, v) = run(&u.ledger);
    assert_eq!(v.refusal(), Some(&Refusal::ClassNotAdmitted { class: TpmClass::None }));
    assert!(j.durable.is_empty() && v.committed.is_empty());
    u.ledger.change(|v| v.settings.without_tpm = true);
    let (j, v) = run(&u.ledger);
    assert!(j.is_member());
    assert!(matches!(v.committed[0].member.identity, Identity::Bare { .. }));
    assert_eq!(v.channel.unwrap().class(), TpmClass::None);
}

#[test]
fn what_the_union_does_not_take_changes_nothing() {
    let lab = Lab::default();
    let mut u = union();
    u.ledger.refuses = Some("no quorum".into());
    let (mut j, mut v) = enrolment(&lab, &u.ledger, &u.alpha, &u.gamma, &u.token, 1);
    straight(&lab, &mut j, &mut v);
    assert_eq!(v.refusal(), Some(&Refusal::NotCommitted { why: "no quorum".into() }));
    assert!(matches!(j.refusal(), Some(Refusal::PeerRefused { code: 58, .. })));
    assert!(!j.is_member() && j.channel.is_none() && v.channel.is_none());
    u.ledger.refuses = None;
    retry(&lab, &u, &u.ledger, "after a refused commit");
}

/// What must hold of both sides after whatever happened.
fn check(u: &Union, j: &Node, ledger: &Ledger, what: &str) {
    let id = u.gamma.identity().member_id();
    let there = ledger.view.members.get(&id);
    let used = ledger.view.tokens.values().filter(|t| t.used_by.is_some()).count();
    assert_eq!(used, usize::from(there.is_some()), "{what}: token and member go together");
    if there.is_none() {
        assert_eq!(ledger.view, u.ledger.view, "{what}: the union has changed");
    }
    if j.is_member() {
        assert!(there.is_some(), "{what}: a member that the record does not have");
    } else {
        let only_intent = j.durable.iter().all(|d| matches!(d, Durable::Intent { .. }));
        assert!(only_intent && j.channel.is_none(), "{what}: the joiner has changed");
    }
}

/// The next try, with the same token and keys, on another connection.
fn retry(lab: &Lab, u: &Union, ledger: &Ledger, what: &str) {
    let admitted = ledger.view.members.contains_key(&u.gamma.identity().member_id());
    let (mut j, mut v) = enrolment(lab, ledger, &u.alpha, &u.gamma, &u.token, 99);
    straight(lab, &mut j, &mut v);
    assert!(j.is_member(), "{what}: the next try ends with {:?} / {:?}", j.refusal(), v.refusal());
    assert_eq!(v.committed.len(), usize::from(!admitted), "{what}: one entry, once");
    check(u, &j, &v.ledger, what);
}

fn ended(lab: &Lab, node: &mut Node, event: Event) {
    // Nobody waits for ever: what is not over by then, the deadline ends.
    if !matches!(node.machine.state(), "a member" | "closed") {
        node.on(lab, event);
        node.now = Millis(1_000_000);
        node.on(lab, Event::Tick);
    }
}

/// How often `fault` has a way to go wrong on an honest run, one run each.
fn every(what: &str, mut fault: impl FnMut(usize, Frame, &mut Vec<Frame>) -> bool, corrupts: bool) -> usize {
    let lab = Lab::default();
    let u = union();
    let mut runs = 0;
    for at in 0.. {
        let (mut j, mut v) = enrolment(&lab, &u.ledger, &u.alpha, &u.gamma, &u.token, 1);
        let (mut n, mut hit) = (0, None);
        let mut late = Vec::new();
        carry(&lab, &mut j, &mut v, &mut |_, frame| {
            n += 1;
            if n - 1 == at {
                let mut out = Vec::new();
                hit = Some(Message::decode(&frame).unwrap().name());
                if fault(at, frame, &mut out) {
                    late.append(&mut out);
                }
                return out;
            }
            let mut out = vec![frame];
            out.append(&mut late);
            out
        });
        let Some(name) = hit else {
            assert!(at > 15, "an honest join has more messages than {at}");
            return runs;
        };
        runs += 1;
        let told = format!("{what} message {at}, {name}");
        if corrupts {
            assert!(j.refusal().is_some() || v.refusal().is_some(), "{told}: nobody noticed");
        }
        ended(&lab, &mut j, Event::Lost);
        ended(&lab, &mut v, Event::Lost);
        check(&u, &j, &v.ledger, &told);
        retry(&lab, &u, &v.ledger, &told);
    }
    runs
}

#[test]
fn any_message_can_be_lost() {
    every("lost", |_, _, _| false, false);
}

#[test]
fn any_message_can_come_twice() {
    every(
        "twice",
        |_, frame, out| {
            out.extend([frame.clone(), frame]);
            false
        },
        true,
    );
}

#[test]
fn any_message_can_come_after_the_next() {
    every(
        "late",
        |_, frame, out| {
            out.push(frame);
            true
        },
        false,
    );
}

#[test]
fn any_message_can_be_changed_anywhere() {
    let mut runs = 0;
    for nth in 0..40 {
        runs += every(
            "changed",
            |_, mut frame, out| {
                let len = frame.body.len();
                // Spread over the body, each byte of a short one.
                let at = nth * len.max(40) / 40;
                match frame.body.get_mut(at) {
                    Some(byte) => *byte ^= 1 << (nth % 8),
                    None => frame.body.push(0),
                }
                out.push(frame);
                false
            },
            true,
        );
    }
    assert!(runs > 600, "{runs}");
}

#[test]
fn either_side_can_die_at_any_message_before_or_after_it_is_handled() {
    let lab = Lab::default();
    let u = union();
    for joiner_dies in [true, false] {
        for handled in [true, false] {
            for at in 0.. {
                let what = format!("message {at}, joiner dies: {joiner_dies}, handled: {handled}");
                let (mut j, mut v) = enrolment(&lab, &u.ledger, &u.alpha, &u.gamma, &u.token, 1);
                let mut n = 0;
                let mut dead = false;
                carry(&lab, &mut j, &mut v, &mut |_, frame| {
                    n += 1;
                    dead |= n > at + usize::from(handled);
                    if dead { vec![] } else { vec![frame] }
                });
                if !dead {
                    break;
                }
                let (victim, other) = if joiner_dies { (&mut j, &mut v) } else { (&mut v, &mut j) };
                (victim.machine, victim.channel) = (Machine::Gone, None);
                ended(&lab, other, Event::Lost);
                check(&u, &j, &v.ledger, &what);
                retry(&lab, &u, &v.ledger, &what);
            }
        }
    }
}

#[test]
fn what_is_proposed_may_be_decided_after_the_verifier_died() {
    let lab = Lab::default();
    let u = union();
    let (mut j, mut v) = enrolment(&lab, &u.ledger, &u.alpha, &u.gamma, &u.token, 1);
    v.slow = true;
    // The verifier dies with the entry in the record, and its outcome unknown to it.
    loop {
        straight(&lab, &mut j, &mut v);
        if v.machine.state() == "committing" {
            break;
        }
        let outcome = v.outcomes.pop_front().expect("nothing happens any more");
        v.on(&lab, outcome);
    }
    j.on(&lab, Event::Lost);
    assert!(!j.is_member());
    assert_eq!(v.ledger.view.members.len(), 2);
    retry(&lab, &u, &v.ledger, "decided, not told");
}

#[test]
fn two_that_use_one_token_at_once_make_one_member() {
    let lab = Lab::default();
    let u = union();
    let delta = Tpm::new("delta");
    let (mut j, mut v) = enrolment(&lab, &u.ledger, &u.alpha, &u.gamma, &u.token, 1);
    let (mut k, mut w) = enrolment(&lab, &u.ledger, &u.alpha, &delta, &u.token, 2);
    // The second stops just before its last word; the first comes to its end.
    let mut last_word = None;
    carry(&lab, &mut k, &mut w, &mut |_, frame| {
        if frame.kind == 20 {
            last_word = Some(frame);
            return vec![];
        }
        vec![frame]
    });
    straight(&lab, &mut j, &mut v);
    assert!(j.is_member());
    w.ledger = v.ledger.clone();
    w.on(&lab, Event::Frame(last_word.unwrap()));
    let by = u.gamma.identity().member_id();
    assert_eq!(w.refusal(), Some(&Refusal::TokenSpent { by }));
    assert!(w.committed.is_empty() && !k.is_member());
}
