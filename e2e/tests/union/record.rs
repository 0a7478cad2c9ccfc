//! The record: the same on every member, whoever was away.

use std::path::Path;
use std::process::Command;

use gtvp_e2e::union::{all_trust, made};
use gtvp_e2e::{Lab, Member, SOON, build_dir, signal, until};
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

pub fn a_member_gives_fresh_evidence_of_another_as_a_file(lab: &Lab) {
    made(lab);
    let (m1, m2) = (lab.member(1), lab.member(2));
    let nonce = "5e".repeat(20);
    let file = std::env::temp_dir().join(format!("gtvp-evidence-{}", std::process::id()));
    let attested = m1.command(&["member", "attest", "m2", "--nonce", &nonce]).output().unwrap();
    assert!(attested.status.success(), "{}", String::from_utf8_lossy(&attested.stderr));
    std::fs::write(&file, &attested.stdout).unwrap();
    let path = file.to_str().unwrap();
    // It is m2's, by its endorsement key, and as new as the nonce.
    let ek = m2.json(&["member", "show"])["tpm"]["ek"].as_str().expect("an EK").to_owned();
    let said = m1.ok(&["verify", path, "--nonce", &nonce]);
    assert!(said.contains("consistent"), "{said}");
    // A member is not asked without pause: it says when again. Another one, and persons of its own, get it meanwhile.
    let busy = m1.refused(&["member", "attest", "m2", "--explain"]);
    assert!(busy.contains("try again in "), "{busy}");
    m2.ok(&["member", "attest", "--explain"]);
    let explained = until("m2 gives m1 its evidence again", SOON, || {
        let ran = m1.gtvp(&["member", "attest", "m2", "--explain"]);
        (ran.code == 0).then_some(ran.out)
    });
    assert!(explained.contains(&ek[..12]) || said.contains(&ek[..12]), "{ek}: {explained}");
    assert_ne!(m1.gtvp(&["verify", path, "--nonce", &"5f".repeat(20)]).code, 0, "another question");
    std::fs::remove_file(&file).unwrap();
    let said = m1.refused(&["member", "attest", "m9", "--explain"]);
    assert!(said.contains("no member m9"), "{said}");
}

pub fn every_member_says_how_it_is(lab: &Lab) {
    made(lab);
    let all = [lab.member(1), lab.member(2), lab.member(3)];
    let says = |at: &Member, of: &Member| {
        let rows = at.json(&["member", "ls"]);
        let row = rows.as_array()?.iter().find(|r| r["name"] == of.name())?.clone();
        (row["status"]["cpus"].as_u64()? > 0 && row["status"]["memory_mib"].as_u64()? > 0).then_some(())
    };
    for at in all {
        for of in all {
            until(&format!("{} knows how {} says it is", at.name(), of.name()), SOON, || says(at, of));
        }
    }
    assert!(all[0].ok(&["member", "ls", "--output", "wide"]).contains("MEMORY FREE"));
    assert!(all[0].ok(&["member", "show", "m2"]).contains("says of itself"));
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

/// `from` with owners and modes, in place of `to`.
fn replace(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(copied.success());
}

/// Its TPM remembers what its disk has forgotten: it takes what the others have before it votes again.
pub fn a_member_restored_from_an_old_disk_catches_up(lab: &Lab) {
    made(lab);
    let all = [lab.member(1), lab.member(2), lab.member(3)];
    let [m1, m2, m3] = all;
    until("three vote", SOON, || {
        (m1.json(&["union", "show"])["voters"].as_array()?.len() == 3).then_some(())
    });
    agree(&all);
    let (disk, backup) = (m3.state().join("security"), m3.state().join("security.backup"));
    m3.stop();
    replace(&disk, &backup);
    m3.start_from(&build_dir(), 3);
    all_trust(&all);
    // What it signs now is not in the backup.
    for m in [m1, m3, m2] {
        m.ok(&["token", "create"]);
    }
    agree(&all);
    m3.stop();
    m1.ok(&["token", "create"]);
    replace(&backup, &disk);
    m3.start_from(&build_dir(), 3);
    all_trust(&all);
    agree(&all);
    let records: Vec<Value> = all.iter().map(|m| m.json(&["union", "history"])).collect();
    assert!(records.windows(2).all(|w| w[0] == w[1]), "{records:?}");
    assert!(m3.json(&["union", "show"])["withheld"].is_null(), "{}", m3.ok(&["union", "show"]));
    // It votes again: with another voter away two are needed, and it is one of them.
    m2.stop();
    m3.ok(&["token", "create"]);
    m2.start_from(&build_dir(), 3);
    all_trust(&all);
    agree(&all);
    std::fs::remove_dir_all(backup).expect("the backup goes");
}
