//! Members that their union does not stand behind: what they have goes on, and nothing new is granted.

use std::time::Duration;

use gtvp_e2e::union::{all_trust, cable, made};
use gtvp_e2e::{Lab, Member, SOON, until};

/// A record counts as current for a minute.
const NOT_CURRENT: Duration = Duration::from_secs(120);

/// Why it grants nothing new; "": it does.
pub fn fenced(at: &Member) -> String {
    at.json(&["union", "show"])["grants_nothing"].as_str().unwrap_or_default().to_owned()
}

pub fn who_is_cut_off_grants_nothing_new_and_what_runs_goes_on(lab: &Lab) {
    made(lab);
    let (m1, m2, m3) = (lab.member(1), lab.member(2), lab.member(3));
    until("three vote", SOON, || {
        (m1.json(&["union", "show"])["voters"].as_array()?.len() == 3).then_some(())
    });
    m2.idle_box("kept");
    m2.ok(&["box", "stop", "--grace", "1", "kept"]);
    m2.ok(&["box", "start", "kept"]);
    cable(m2, false);
    until("m2's record is not current", NOT_CURRENT, || {
        fenced(m2).contains("rule \"current\"").then_some(())
    });
    assert!(m2.ok(&["union", "show"]).contains("NOTHING NEW"));
    let said = m2.refused(&["run", "--name", "new", "--needs", "python3", "--", "python3", "-c", "1"]);
    for word in ["starting box new", "rule \"current\"", "what runs goes on", "gtvp union show"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(m2.find("new").is_none(), "nothing is left of it");
    m2.refused(&["token", "create"]);
    assert_eq!(m2.state_of("kept"), "running");
    m2.ok(&["exec", "kept", "--", "true"]);
    // The others are a majority: nothing is different for them.
    assert_eq!((fenced(m1), fenced(m3)), (String::new(), String::new()));
    m1.ok(&["token", "create"]);

    cable(m2, true);
    until("m2 has caught up", SOON, || fenced(m2).is_empty().then_some(()));
    m2.ok(&["box", "stop", "--grace", "1", "kept"]);
    m2.ok(&["box", "start", "kept"]);
    // Whoever starts anew waits until it has heard of the voters, and is not refused. As long as it hears nobody, it waits.
    m2.ok(&["box", "stop", "--grace", "1", "kept"]);
    cable(m2, false);
    m2.kill_domain("security");
    until("it has heard of nobody", SOON, || fenced(m2).contains("rule \"current\"").then_some(()));
    let mut start = m2.command(&["box", "start", "kept"]).spawn().expect("gtvp runs");
    until("the start waits", SOON, || {
        let waits = "waiting until this member's record is current";
        m2.json(&["operation", "ls"]).to_string().contains(waits).then_some(())
    });
    assert!(start.try_wait().expect("it runs").is_none(), "neither started nor refused");
    cable(m2, true);
    assert!(start.wait().expect("it ends").success(), "it was heard of in time");
    assert_eq!(m2.state_of("kept"), "running");
    m2.remove("kept");
    all_trust(&[m1, m2, m3]);
}
