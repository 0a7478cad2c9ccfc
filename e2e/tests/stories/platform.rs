//! The member's TPM: what it is called, and that its reset shows.

use gtvp_e2e::{Lab, SOON, signal, until};
use rustix::process::Signal;
use serde_json::Value;

/// The TPM as `member show` has it, once it answers.
fn tpm(lab: &Lab) -> Value {
    until("the TPM answers", SOON, || {
        let ran = lab.gtvp(&["member", "show", "-o", "json"]);
        let member: Value = serde_json::from_str(&ran.out).ok()?;
        Some(member["tpm"].clone()).filter(|tpm| tpm["epoch"].is_object())
    })
}

pub fn a_software_tpm_is_marked_and_its_reset_shows(lab: &Lab) {
    let first = tpm(lab);
    assert_eq!(first["class"], "software");
    assert!(lab.ok(&["member", "show"]).contains("SOFTWARE"), "it is not marked");
    assert!(lab.ok(&["doctor"]).contains("software"), "doctor does not say it");
    assert_eq!(first["log"], "in step with the TPM");
    let life = |tpm: &Value| tpm["epoch"]["reset_count"].as_u64().expect("a count");
    let software = || *lab.processes(&["/usr/bin/swtpm"]).first().expect("swtpm runs");

    // Without its only user it stays, with its PCRs.
    let pid = software();
    lab.kill_domain("security");
    let second = tpm(lab);
    assert_eq!((software(), life(&second)), (pid, life(&first)));
    assert_eq!((&second["ek"], &second["log"]), (&first["ek"], &first["log"]));

    // Ended, it comes back as itself, in another life; what runs is measured again.
    signal(pid, Signal::KILL);
    let third =
        until("it has begun another life", SOON, || Some(tpm(lab)).filter(|t| life(t) > life(&first)));
    assert_eq!((&third["ek"], &third["log"]), (&first["ek"], &first["log"]));
}
