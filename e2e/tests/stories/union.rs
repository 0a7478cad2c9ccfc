//! A union that begins.

use gtvp_e2e::Lab;

pub fn a_union_is_begun_by_choice_and_outlives_security(lab: &Lab) {
    let said = lab.refused(&["union", "init", "--name", "lab"]);
    assert!(said.contains("software") && said.contains("--allow-software-tpm"), "{said}");
    lab.refused(&["union", "show"]);
    lab.ok(&["union", "init", "--name", "lab", "--allow-software-tpm"]);
    let begun = lab.json(&["union", "show"]);
    lab.kill_domain("security");
    assert_eq!(lab.json(&["union", "show"]), begun);
    let members = lab.json(&["member", "ls"]);
    assert_eq!((&members[0]["tpm"], &members[0]["verdict"]), (&"software".into(), &"unknown".into()));
}
