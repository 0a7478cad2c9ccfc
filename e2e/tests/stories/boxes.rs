//! A box's evidence: the chain from its member's TPM over its vTPM to what was linked.

use std::collections::BTreeSet;

use gtvp_e2e::{Lab, SOON, signal, until};
use rustix::process::Signal;
use serde_json::Value;

use crate::attest::{has, verify};

const VTPM: &[&str] = &["swtpm", "dir=/tmp,"];

fn attest(lab: &Lab, nonce: &str) -> Vec<u8> {
    let out = lab.command(&["box", "attest", "proof", "--nonce", nonce]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// What a reader far away finds about the box.
fn found(lab: &Lab) -> Value {
    let nonce = "5e".repeat(32);
    let (code, found) = verify(&attest(lab, &nonce), &["--nonce", &nonce]);
    assert_eq!((code, &found["conclusion"]), (0, &"consistent".into()), "{found}");
    found["box"].clone()
}

fn names(list: &Value) -> BTreeSet<String> {
    // As people read them: without the architecture.
    let name = |v: &Value| v.as_str().unwrap().trim_end_matches(":amd64").to_owned();
    list.as_array().unwrap().iter().map(name).collect()
}

/// The components that the member itself says are linked.
fn linked(lab: &Lab) -> BTreeSet<String> {
    let shown = lab.json(&["box", "show", "proof"]);
    let all = shown["linked"].as_array().unwrap().iter();
    all.map(|l| l["component"].as_str().unwrap().to_owned()).collect()
}

pub fn a_box_proves_what_it_runs(lab: &Lab) {
    lab.idle_box("proof");
    let more =
        |modules: &str| lab.ok(&["exec", "proof", "--", "python3", "-c", &format!("import {modules}")]);
    more("json");
    let about = found(lab);
    assert_eq!(about["name"], "proof");
    assert_eq!(about["composition"], lab.json(&["box", "show", "proof"])["composition"]);
    assert!(has(&about["linked"], "deb:python3-minimal="), "{about}");
    let all = &names(&about["linked"]) | &names(&about["beside"]);
    assert_eq!(all, linked(lab), "nothing is linked that is not in the evidence");

    // The answer to another nonce, and a byte that is another one anywhere.
    let evidence = attest(lab, &"5e".repeat(32));
    let (code, refused) = verify(&evidence, &["--nonce", &"5f".repeat(32)]);
    assert!(code == 1 && has(&refused["failed"], "bound-elsewhere"), "{refused}");
    for at in (0..evidence.len()).step_by(1 + evidence.len() / 200) {
        let mut changed = evidence.clone();
        changed[at] ^= 1;
        assert_eq!(verify(&changed, &[]).0, 1, "byte {at} of {} may be changed", evidence.len());
    }

    // What is linked later is in it later, whoever was killed meanwhile: the vTPM goes on.
    let [vtpm] = lab.processes(VTPM)[..] else { panic!("a running box has one vTPM") };
    lab.ok(&["box", "pause", "proof"]);
    assert_eq!(found(lab), about, "a halted box is what it was");
    lab.ok(&["box", "resume", "proof"]);
    for domain in ["security", "drivers", "components", "management"] {
        lab.kill_domain(domain);
        until("it can be attested", SOON, || (lab.gtvp(&["box", "attest", "proof"]).code == 0).then_some(()));
        assert_eq!(found(lab), about, "after {domain} was killed");
    }
    more("sqlite3, curses, readline");
    let now = found(lab);
    assert!(names(&now["linked"]).is_superset(&names(&about["linked"])));
    assert!(has(&now["linked"], "deb:libsqlite3-0=") && !has(&about["linked"], "deb:libsqlite3-0="), "{now}");
    assert_eq!(lab.processes(VTPM), [vtpm]);

    // Without its vTPM it has no evidence any more, and goes on.
    signal(vtpm, Signal::KILL);
    until("it is gone", SOON, || lab.processes(VTPM).is_empty().then_some(()));
    let said = lab.refused(&["box", "attest", "proof"]);
    assert!(said.contains("the vTPM of box proof has ended") && said.contains("start it again"), "{said}");
    more("lzma");
    assert_eq!(lab.gtvp(&["member", "attest"]).code, 0, "the member has its own TPM");
    lab.ok(&["box", "stop", "--grace", "1", "proof"]);
    let said = lab.refused(&["box", "attest", "proof"]);
    assert!(said.contains("it is stopped"), "{said}");
    lab.ok(&["box", "start", "--quiet", "proof"]);
    more("json");
    // A new start is a new vTPM.
    assert_eq!(found(lab)["composition"], about["composition"]);
    assert_eq!(lab.processes(VTPM).len(), 1);
    assert_eq!(verify(&evidence, &[]).0, 0, "what was true stays so");
    lab.remove("proof");
    assert!(lab.processes(VTPM).is_empty());
}
