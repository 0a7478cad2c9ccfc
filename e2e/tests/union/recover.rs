//! A union that loses most of its voters, and a member that was given up and comes back.

use gtvp_e2e::union::{all_trust, cable, made, verdict};
use gtvp_e2e::{Lab, SOON, until};

pub fn who_was_given_up_leaves_by_force_and_joins_again(lab: &Lab) {
    made(lab);
    let (m1, m2, m3) = (lab.member(1), lab.member(2), lab.member(3));
    let voters =
        |n: usize| move || (m1.json(&["union", "show"])["voters"].as_array()?.len() == n).then_some(());
    until("three vote", SOON, voters(3));
    let said = m1.refused(&["union", "recover"]);
    assert!(said.contains("nothing to recover"), "{said}");
    for m in [m2, m3] {
        cable(m, false);
    }
    until("m1 finds itself alone", SOON, || {
        let ran = m1.gtvp(&["union", "recover"]);
        (ran.code == 0 && ["m2, m3", "m3, m2"].iter().any(|both| ran.out.contains(both))).then_some(())
    });
    let before = m1.json(&["union", "history"]);
    let told = m1.ok(&["union", "recover"]);
    assert!(told.contains("--yes does it"), "{told}");
    assert_eq!(m1.json(&["union", "history"]), before, "nothing was done");
    m1.ok(&["union", "recover", "--yes", "--reason", "a test"]);
    let history = m1.ok(&["union", "history"]);
    assert!(
        history.contains("given up: m2, m3: a test") || history.contains("given up: m3, m2: a test"),
        "{history}"
    );
    assert_eq!(m1.json(&["union", "show"])["voters"], serde_json::json!(["m1"]));
    // It goes on with m1 alone.
    let token = until("m1 decides alone", SOON, || {
        let ran = m1.gtvp(&["token", "create"]);
        (ran.code == 0).then_some(ran.out)
    });

    // m2 comes back. It hears from m1 that it is no member, and there is one way on.
    cable(m2, true);
    let said = m2.refused(&["join", token.trim()]);
    assert!(said.contains("in union lab") || said.contains("already"), "{said}");
    until("m2 hears that it was given up", SOON, || {
        m2.ok(&["union", "leave", "--force"]).contains("m1: the peer refuses (9)").then_some(())
    });
    let said = m2.refused(&["union", "leave"]);
    assert!(said.contains("gtvp union leave --force"), "{said}");
    let told = m2.ok(&["union", "leave", "--force"]);
    assert!(told.contains("membership of union lab") && told.contains("nothing was done"), "{told}");
    m2.ok(&["union", "show"]);
    let told = m2.ok(&["union", "leave", "--force", "--yes"]);
    assert!(told.contains("in no union"), "{told}");
    m2.refused(&["union", "show"]);
    m2.ok(&["join", token.trim()]);
    all_trust(&[m1, m2]);
    let history = m1.json(&["member", "history", "m2"]);
    assert!(
        history.to_string().contains("\"act\":\"recovered\""),
        "the record says that it was given up: {history}"
    );

    // The same for m3; then the union is as it was, and three vote.
    cable(m3, true);
    assert_eq!(verdict(m1, "m3"), "no member");
    m3.ok(&["member", "leave", "--force", "--yes"]);
    let token = m2.ok(&["token", "create"]);
    m3.ok(&["join", token.trim()]);
    all_trust(&[m1, m2, m3]);
    until("three vote again", SOON, voters(3));
    m3.ok(&["token", "create"]);
}
