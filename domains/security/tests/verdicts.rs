//! Verdicts as news: told once a change, with the reason; and what a member holds of its union.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

#[allow(dead_code, reason = "what other tests need of it")]
mod played;

use std::collections::BTreeMap;
use std::time::Duration;

use gtvp_appraisal::ownlog::EntryKind;
use gtvp_ipc::security::{HeldBy, Wish};
use gtvp_model::union::UnixTime;
use played::server::{NOW, Server, at, measured};
use played::union::{PERIOD, appraises, joins, token, union};

#[test]
fn each_change_of_a_verdict_is_told_once_with_its_reason() {
    let members = union(&["m1", "m2"]);
    let [m1, m2] = <[Server; 2]>::try_from(members).ok().unwrap();
    let mut told = BTreeMap::new();
    let mut news = |ms| {
        let new = m1.peers.verdicts(&mut told, at(ms)).unwrap();
        new.into_iter().map(|v| (v.name.to_string(), v.verdict, v.reason, v.begins)).collect::<Vec<_>>()
    };
    let first = news(0);
    assert_eq!(first.len(), 2, "all of them at first: {first:?}");
    assert!(first.iter().all(|v| v.3));
    let m2_was = first.iter().find(|v| v.0 == "m2").unwrap();
    assert_eq!((m2_was.1.as_str(), m2_was.2.as_str()), ("trusted", "attested by m1"));
    // Period after period nothing is news.
    for ms in [PERIOD, 2 * PERIOD] {
        appraises(&m1, &m2, ms);
        assert_eq!(news(ms), []);
    }
    let late = 2 * PERIOD + 5 * PERIOD;
    let silent = news(late);
    assert_eq!((silent.len(), silent[0].1.as_str()), (1, "unknown"));
    assert!(silent[0].2.contains("has not proven itself"), "{silent:?}");
    assert_eq!(news(late + 1), []);
    appraises(&m1, &m2, late + 2);
    assert_eq!(news(late + 2)[0].1, "trusted");
    // The log is cut, and that is said.
    let m2 = m2.restart_after(|tpm| {
        let log = tpm.state().join("measured.log");
        let bytes = std::fs::read(&log).unwrap();
        std::fs::write(&log, &bytes[..bytes.len() - 40]).unwrap();
    });
    assert!(m2.evidence(&m1, 0).appraised_by(&m1, late + 3).is_err());
    let bad = news(late + 3);
    assert_eq!((bad.len(), bad[0].1.as_str(), bad[0].3), (1, "untrusted", false));
    assert!(bad[0].2.contains("PCR 14"), "the reason is the entry: {bad:?}");
    assert_eq!(news(late + 4), []);
}

#[test]
fn who_comes_again_is_told_as_somebody_who_comes() {
    let members = union(&["m1", "m2"]);
    let [m1, m2] = <[Server; 2]>::try_from(members).ok().unwrap();
    let mut told = BTreeMap::new();
    let mut news = || {
        let new = m1.peers.verdicts(&mut told, at(0)).unwrap();
        new.into_iter().map(|v| (v.name.to_string(), v.verdict, v.begins, v.first)).collect::<Vec<_>>()
    };
    assert!(news().iter().all(|v| v.2 && v.3));
    let evicted = m1.wish(Wish::Evict { member: "m2".parse().unwrap(), reason: String::new() }).unwrap();
    Server::decide(&evicted.entry, &[&m1], &[&m1, &m2]).unwrap();
    // It is looked at at once: it may be back soon.
    let seen = m1.peers.wait_verdicts(u64::MAX, at(0), Duration::ZERO);
    m1.peers.entries_taken();
    assert_ne!(m1.peers.wait_verdicts(seen, at(0), Duration::from_secs(60)), seen);
    assert_eq!(news(), []);
    joins(&m2, &m1, &token(&[&m1]));
    let comes = news();
    assert_eq!(comes.iter().map(|v| (v.0.as_str(), v.2, v.3)).collect::<Vec<_>>(), [("m2", false, true)]);
    // The control: what changes while it is there is a change.
    m2.actor.measure(measured(EntryKind::Binary, "security", 66)).unwrap();
    assert!(m2.evidence(&m1, 0).appraised_by(&m1, 0).is_err());
    assert_eq!(news(), [("m2".to_owned(), "untrusted".to_owned(), false, false)]);
}

#[test]
fn whoever_waits_for_a_verdict_wakes_for_an_appraisal_and_for_its_end() {
    let members = union(&["m1", "m2"]);
    let [m1, m2] = &members[..] else { panic!("two") };
    let seen = m1.peers.wait_verdicts(u64::MAX, at(0), Duration::ZERO);
    let long = Duration::from_secs(60);
    std::thread::scope(|both| {
        both.spawn(|| appraises(m1, m2, 0));
        assert_ne!(m1.peers.wait_verdicts(seen, at(0), long), seen);
    });
    // Its end comes by itself: shortly before it the wait is short.
    let begun = std::time::Instant::now();
    let seen = m1.peers.wait_verdicts(u64::MAX, at(0), Duration::ZERO);
    assert_eq!(m1.peers.wait_verdicts(seen, at(PERIOD * 5 / 2 - 10), long), seen);
    assert!(begun.elapsed() < long / 2);
}

#[test]
fn what_a_member_holds_is_what_the_record_says_also_after_it_has_gone() {
    let members = union(&["m1", "m2"]);
    let [m1, m2] = &members[..] else { panic!("two") };
    let held = |of: &Server| m1.peers.held_by(&HeldBy { member: of.id() }, at(0)).unwrap();
    let of_m1 = held(m1);
    assert_eq!((of_m1.voter, of_m1.references.as_slice()), (true, &["founder".to_owned()][..]));
    assert!(of_m1.tokens.is_empty(), "the one that let m2 in is used up");
    assert_eq!(of_m1.boxes, None);
    let made = m2.wish(Wish::Token { expires_s: 60, ek: None, platform_identity: None }).unwrap();
    Server::decide(&made.entry, &[m1], &[m1, m2]).unwrap();
    let token = made.token.unwrap();
    let id = token.id.to_string();
    assert_eq!((held(m2).voter, held(m2).tokens), (false, vec![id.clone()]));
    let listed = m1.union.tokens(at(0).unix()).unwrap();
    assert_eq!((listed.len(), &listed[0].id, listed[0].by.as_str()), (1, &id, "m2"));
    let secret: String = token.secret.as_bytes().iter().map(|b| format!("{b:02x}")).collect();
    assert!(!serde_json::to_string(&listed).unwrap().contains(&secret));
    assert!(m1.union.tokens(UnixTime(NOW + 61)).unwrap().is_empty(), "it has ended by itself");
    // m2 is removed: its token is good for whoever has it, and that is said.
    let evicted = m1.wish(Wish::Evict { member: "m2".parse().unwrap(), reason: String::new() }).unwrap();
    Server::decide(&evicted.entry, &[m1], &[m1]).unwrap();
    assert_eq!(held(m2).tokens, std::slice::from_ref(&id));
    assert!(m1.union.tokens(at(0).unix()).unwrap()[0].by.contains("gone"));
    let ended = m1.wish(Wish::EndToken(token.id)).unwrap();
    Server::decide(&ended.entry, &[m1], &[m1]).unwrap();
    assert!(held(m2).tokens.is_empty() && m1.union.tokens(at(0).unix()).unwrap().is_empty());
}
