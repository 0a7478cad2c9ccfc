//! Servers that become members, and some that do not.

use gtvp_e2e::union::{PERIOD, all_trust, made, verdict};
use gtvp_e2e::{Lab, SOON, until};

use crate::contain::events;

pub fn servers_join_by_attestation(lab: &Lab) {
    let (m1, m2, m3) = (lab.member(1), lab.member(2), lab.member(3));
    let said = m1.refused(&["token", "create"]);
    assert!(said.contains("gtvp union init"), "{said}");
    m1.ok(&["union", "init", "--name", "lab", "--allow-software-tpm", "--attest-every", PERIOD]);
    let token = m1.ok(&["token", "create"]);
    assert!(token.starts_with("gtvp-join-"), "{token}");
    let joined = m2.ok(&["join", token.trim()]);
    assert!(joined.contains("lab"), "{joined}");
    // The union is asked through any member: this token leads to the second one.
    let token = m2.json(&["token", "create", "--expires", "10m"]);
    assert_ne!(token["endpoint"], m1.json(&["token", "create"])["endpoint"]);
    m3.ok(&["join", token["token"].as_str().expect("a token")]);
    all_trust(&[m1, m2, m3]);
    for m in [m1, m2, m3] {
        let rows = m.json(&["member", "ls"]);
        let rows = rows.as_array().expect("an array");
        assert_eq!(rows.len(), 3, "{rows:?}");
        assert!(rows.iter().all(|r| r["tpm"] == "software"), "{rows:?}");
        let table = m.ok(&["member", "ls"]);
        assert!(table.contains("SOFTWARE"), "a software TPM is marked: {table}");
    }
    let shown = m1.json(&["member", "show", "m2"]);
    let checks = shown["checks"].as_array().expect("checks");
    assert!(checks.iter().any(|c| c["outcome"] == "passed"), "{shown}");
    let unmeasured = |c: &serde_json::Value| c.to_string().contains("files executed after boot");
    assert!(checks.iter().any(|c| c["outcome"] == "not_checked" && unmeasured(c)), "{shown}");
}

pub fn what_does_not_fit_joins_nothing(lab: &Lab) {
    made(lab);
    let (m1, m2) = (lab.member(1), lab.member(2));
    let before = m1.json(&["union", "show"]);
    let token = m1.ok(&["token", "create"]);
    let said = m2.refused(&["join", token.trim()]);
    assert!(said.contains("already") && said.contains("union"), "{said}");
    let said = m2.refused(&["join", "gtvp-join-nonsense"]);
    assert!(said.contains("token"), "{said}");
    let said = m1.refused(&["token", "create", "--ek", "nonsense"]);
    assert!(said.contains("nonsense") || said.contains("digest"), "{said}");
    let id = m1.json(&["token", "create"])["id"].as_str().expect("an id").to_owned();
    let listed = m1.json(&["token", "ls"]);
    let mine = listed
        .as_array()
        .expect("an array")
        .iter()
        .find(|t| t["id"] == id.as_str())
        .expect("it is listed")
        .clone();
    assert_eq!(mine["by"], "m1", "{mine}");
    assert!(!listed.to_string().contains("gtvp-join"), "never the secret");
    m1.ok(&["token", "end", &id]);
    assert!(!m1.ok(&["token", "ls", "-o", "wide"]).contains(&id));
    m1.refused(&["token", "end", &"0".repeat(64)]);
    let after = m1.json(&["union", "show"]);
    assert_eq!((&before["members"], &before["id"]), (&after["members"], &after["id"]));
}

pub fn a_member_leaves_and_comes_back(lab: &Lab) {
    made(lab);
    let (m1, m3) = (lab.member(1), lab.member(3));
    let told = |kind| events(m1, kind, "m3").len();
    let before = (told("member.unknown"), told("member.trusted"));
    m3.ok(&["member", "leave"]);
    until("m1 knows that m3 has left", SOON, || (verdict(m1, "m3") == "no member").then_some(()));
    until("m3 knows it too", SOON, || (m3.gtvp(&["union", "show"]).code != 0).then_some(()));
    let history = m1.json(&["member", "history", "m3"]);
    let acts: Vec<&str> =
        history.as_array().expect("an array").iter().map(|h| h["act"].as_str().expect("an act")).collect();
    assert!(acts.contains(&"admitted") && acts.contains(&"left"), "{acts:?}");
    // A token that is for another TPM is not for this one; the right one is.
    let others = m1.json(&["member", "show"])["tpm"]["ek"].as_str().expect("an EK").to_owned();
    let token = m1.ok(&["token", "create", "--ek", &others]);
    let said = m3.refused(&["join", token.trim()]);
    assert!(said.contains("TPM"), "{said}");
    let own = m3.json(&["member", "show"])["tpm"]["ek"].as_str().expect("an EK").to_owned();
    let token = m1.ok(&["token", "create", "--ek", &own]);
    m3.ok(&["join", token.trim()]);
    // It is used up.
    let said = lab.member(2).refused(&["join", token.trim()]);
    assert!(!said.is_empty());
    all_trust(&[m1, lab.member(2), m3]);
    // It has come again, and is trusted: that is one change.
    until("m1 tells that m3 is trusted", SOON, || (told("member.trusted") > before.1).then_some(()));
    assert_eq!((told("member.unknown"), told("member.trusted")), (before.0, before.1 + 1));
}
