//! A union that begins.

use std::time::Duration;

use gtvp_e2e::{Lab, until};

pub fn a_union_is_begun_by_choice_and_outlives_security(lab: &Lab) {
    let said = lab.refused(&["union", "init", "--name", "lab"]);
    assert!(said.contains("software") && said.contains("--allow-software-tpm"), "{said}");
    lab.refused(&["union", "show"]);
    lab.ok(&["union", "init", "--name", "lab", "--allow-software-tpm"]);
    // In the same moment, and after security has begun anew: what is granted waits for what the union has decided.
    lab.ok(&["token", "create"]);
    let begun = lab.json(&["union", "show"]);
    lab.kill_domain("security");
    lab.ok(&["token", "create"]);
    let (fields, now) = (["id", "name", "epoch", "voters"], lab.json(&["union", "show"]));
    assert!(fields.iter().all(|f| now[f] == begun[f]), "{now}\n{begun}");
    until("the member grants again", Duration::from_secs(20), || {
        lab.json(&["union", "show"]).get("grants_nothing").is_none().then_some(())
    });
    let members = lab.json(&["member", "ls"]);
    assert_eq!((&members[0]["tpm"], &members[0]["verdict"]), (&"software".into(), &"unknown".into()));
}
