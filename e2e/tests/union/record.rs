//! The record: the same on every member, whoever was away.

use gtvp_e2e::union::{all_trust, made};
use gtvp_e2e::{Lab, Member, SOON, signal, until};
use rustix::process::Signal;
use serde_json::Value;

fn head(at: &Member) -> Value {
    at.json(&["union", "show"])["head"].clone()
}

/// Waits until all have one head.
fn agree(members: &[&Member]) {
    until("all have one record", SOON, || {
        let first = head(members[0]);
        members.iter().all(|m| head(m) == first).then_some(())
    });
}

pub fn every_member_has_the_whole_record(lab: &Lab) {
    made(lab);
    let all = [lab.member(1), lab.member(2), lab.member(3)];
    // Each of them can change the union.
    for m in all {
        m.ok(&["token", "create"]);
    }
    agree(&all);
    let records: Vec<Value> = all.iter().map(|m| m.json(&["union", "history"])).collect();
    assert!(records.windows(2).all(|w| w[0] == w[1]), "{records:?}");
    until("three vote", SOON, || {
        (all[0].json(&["union", "show"])["voters"].as_array()?.len() == 3).then_some(())
    });
    // Others hear of it a moment later.
    until("m2 says that a lost voter is borne", SOON, || {
        all[1].ok(&["union", "show"]).contains("is borne").then_some(())
    });
}

pub fn a_member_that_was_away_catches_up(lab: &Lab) {
    made(lab);
    let all = [lab.member(1), lab.member(2), lab.member(3)];
    until("three vote", SOON, || {
        (all[0].json(&["union", "show"])["voters"].as_array()?.len() == 3).then_some(())
    });
    // The communication and security of one member are killed while the others go on: two of three decide.
    for domain in ["communication", "security"] {
        let pid = all[2].domain_pid(domain).expect("it runs");
        signal(pid, Signal::STOP);
        all[0].ok(&["token", "create"]);
        all[1].ok(&["token", "create"]);
        signal(pid, Signal::KILL);
        until(&format!("{domain} is back"), SOON, || all[2].domain_pid(domain).filter(|p| *p != pid));
    }
    agree(&all);
    all_trust(&all);
}
