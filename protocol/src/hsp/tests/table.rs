//! The transition tables, event by event, as they are: `snapshots/` has what each machine does with each event after
//! each step of an honest run. A change there is a change of the protocol. `GTVP_BLESS=1` writes them anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use gtvp_model::union::UnionSettings;

use super::world::*;
use crate::frame::Frame;
use crate::hsp::message::{Message, NoEvidence, Refuse};
use crate::hsp::{Event, Millis, Request};

/// One message of each kind, from honest runs.
fn messages() -> BTreeMap<u8, Frame> {
    let lab = Lab::default();
    let p = pair();
    let (mut a, mut b) = (p.dialling(&lab, 1, 1), p.called(&lab, 1, 2));
    straight(&lab, &mut a, &mut b);
    b.on(&lab, Event::Renew { nonce: [9; 32], ask: ask() });
    straight(&lab, &mut a, &mut b);
    let (gamma, mut ledger) = (Tpm::new("gamma"), p.ledger.clone());
    let token = ledger.token(9, |_| ());
    let (mut j, mut v) = enrolment(&lab, &ledger, &p.a, &gamma, &token, 1);
    straight(&lab, &mut j, &mut v);
    let refuse = Refuse { code: 1, reason: b"because".to_vec().try_into().unwrap() };
    let own = [Message::from(NoEvidence {}).frame(), Message::from(refuse).frame()];
    let frames = [a.sent, b.sent, j.sent, v.sent, own.to_vec()].concat();
    let mut kinds = BTreeMap::new();
    frames.into_iter().for_each(|f| {
        kinds.entry(f.kind).or_insert(f);
    });
    assert_eq!(kinds.len(), Message::TABLE.len());
    kinds
}

/// Each event that there is, in a form that this state might meet; the peer's own messages where it has them.
fn events(peer: &[Frame]) -> Vec<(String, Event)> {
    let request = Request(9999);
    let mut events = Vec::new();
    for (kind, frame) in messages() {
        let name = Message::decode(&frame).unwrap().name();
        let frame = peer.iter().find(|f| f.kind == kind).cloned().unwrap_or(frame);
        events.push((name.to_owned(), Event::Frame(frame)));
    }
    let rejected = || crate::hsp::Rejection { kind: crate::hsp::RejectionKind::Unknown, why: "old".into() };
    events.extend([
        ("(unknown message)".into(), Event::Frame(Frame { kind: 99, body: vec![] })),
        ("(malformed message)".into(), Event::Frame(Frame { kind: 5, body: vec![0xFF] })),
        ("Renew".into(), Event::Renew { nonce: [88; 32], ask: ask() }),
        ("ViewChanged".into(), Event::ViewChanged),
        ("Tick".into(), Event::Tick),
        ("Lost".into(), Event::Lost),
        ("End".into(), Event::End),
        ("NotPersisted".into(), Event::NotPersisted { why: "full".into() }),
        ("Quoted (old)".into(), Event::Quoted { request, outcome: Err("old".into()) }),
        ("Appraised (old)".into(), Event::Appraised { request, outcome: Err(rejected()) }),
        ("KeysAppraised (old)".into(), Event::KeysAppraised { request, outcome: Err(rejected()) }),
        ("CredentialMade (old)".into(), Event::CredentialMade { request, outcome: Err("old".into()) }),
        ("Activated (old)".into(), Event::Activated { request, outcome: Err("old".into()) }),
        ("Certified (old)".into(), Event::Certified { request, outcome: Err("old".into()) }),
        (
            "CertificationAppraised (old)".into(),
            Event::CertificationAppraised { request, outcome: Err(rejected()) },
        ),
        ("RecordLearned (old)".into(), Event::RecordLearned { request, outcome: Err("old".into()) }),
        ("Committed (old)".into(), Event::Committed { request, outcome: Err("old".into()) }),
    ]);
    events
}

/// No bytes of a peer make a decoder panic, and what one takes is what it would itself have written.
#[test]
fn every_byte_of_every_message_can_be_anything() {
    for (kind, frame) in messages() {
        let step = frame.body.len().div_ceil(600).max(1);
        for at in (0..frame.body.len()).step_by(step) {
            for with in
                [0x00, 0x01, 0x17, 0x18, 0x1B, 0x3B, 0x5B, 0x5F, 0x7B, 0x9B, 0x9F, 0xBF, 0xDB, 0xF6, 0xFF]
            {
                let mut body = frame.body.clone();
                body[at] = with;
                if let Ok(message) = Message::decode(&Frame { kind, body: body.clone() }) {
                    assert_eq!(message.frame().body, body, "kind {kind}, byte {at}");
                }
            }
        }
        for len in (0..frame.body.len()).step_by(step) {
            let cut = Frame { kind, body: frame.body[..len].to_vec() };
            assert!(Message::decode(&cut).is_err(), "kind {kind} cut to {len}");
        }
    }
}

fn word(event: &Event) -> String {
    match event {
        Event::Frame(frame) => Message::decode(frame).unwrap().name().to_owned(),
        other => {
            let shown = format!("{other:?}");
            shown.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
        }
    }
}

/// What `fresh` does with every event after each step of `history`.
fn table(fresh: impl Fn() -> Node, history: &[Event], peer: &[Frame]) -> String {
    let lab = Lab::default();
    let after = |steps: usize| {
        let mut node = fresh();
        node.slow = true;
        node.outcomes.clear();
        history[..steps].iter().for_each(|event| node.on(&lab, event.clone()));
        node.commands.clear();
        node
    };
    let mut out = String::new();
    for steps in 0..=history.len() {
        let last = steps.checked_sub(1).map_or("start".into(), |n| word(&history[n]));
        writeln!(out, "{}, after {last}", after(steps).machine.state()).unwrap();
        let mut rows = events(peer);
        if let Some(next) = history.get(steps).filter(|e| !matches!(e, Event::Frame(_))) {
            rows.push((word(next), next.clone()));
        }
        for (name, event) in rows {
            let mut node = after(steps);
            node.on(&lab, event);
            write_row(&mut out, &name, &node);
        }
        let mut node = after(steps);
        node.now = Millis(10_000_000);
        node.on(&lab, Event::Tick);
        write_row(&mut out, "(deadline)", &node);
        out.push('\n');
    }
    out
}

fn write_row(out: &mut String, name: &str, node: &Node) {
    let end = node.refusal().map(|r| format!(" {}", r.name())).unwrap_or_default();
    let commands = node.commands.join(" ");
    writeln!(out, "  {name:<29} → {}{end:<22} {commands}", node.machine.state()).unwrap();
}

fn compare(name: &str, have: &str) {
    let have: String = have.lines().map(|l| format!("{}\n", l.trim_end())).collect();
    let path = format!("{}/src/hsp/tests/snapshots/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("GTVP_BLESS").is_some() {
        std::fs::write(&path, &have).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = want.lines().zip(have.lines()).find(|(w, h)| w != h);
    assert!(want == have, "{path}: the table has changed, first at {differs:?}; GTVP_BLESS=1 writes it anew");
}

#[test]
fn the_session_does_what_its_table_says() {
    let lab = Lab::default();
    let p = pair();
    let (mut a, mut b) = (p.dialling(&lab, 1, 1), p.called(&lab, 1, 2));
    straight(&lab, &mut a, &mut b);
    a.on(&lab, Event::Renew { nonce: [7; 32], ask: ask() });
    straight(&lab, &mut a, &mut b);
    b.on(&lab, Event::Renew { nonce: [8; 32], ask: ask() });
    straight(&lab, &mut a, &mut b);
    compare("session_dialling", &table(|| p.dialling(&lab, 1, 1), &a.history, &b.sent));
    compare("session_called", &table(|| p.called(&lab, 1, 2), &b.history, &a.sent));
}

#[test]
fn both_sides_of_an_enrolment_do_what_their_tables_say() {
    let lab = Lab::default();
    let (alpha, gamma) = (Tpm::new("alpha"), Tpm::new("gamma"));
    let mut ledger = Ledger::new(1, &[entry("alpha", &alpha)], UnionSettings::default());
    let token = ledger.token(9, |_| ());
    let (mut j, mut v) = enrolment(&lab, &ledger, &alpha, &gamma, &token, 1);
    straight(&lab, &mut j, &mut v);
    let fresh = || enrolment(&lab, &ledger, &alpha, &gamma, &token, 1);
    compare("joiner", &table(|| fresh().0, &j.history, &v.sent));
    compare("verifier", &table(|| fresh().1, &v.history, &j.sent));
}
