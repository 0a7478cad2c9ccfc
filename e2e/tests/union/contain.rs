//! Members that are not what they were, and members that are not wanted.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gtvp_e2e::union::{all_trust, extend, made, reset, verdict};
use gtvp_e2e::{Lab, Member, SOON, build_dir, signal, until};
use rustix::process::Signal;

/// From tampering to containment: with a period of 2 s, and a machine that does other things too.
const CONTAINED: Duration = Duration::from_secs(10);

/// The checks of `of` that failed, as `at` has them.
fn failed(at: &Member, of: &str) -> Vec<String> {
    let shown = at.json(&["member", "show", of]);
    let checks = shown["checks"].as_array().expect("checks").clone();
    checks.iter().filter(|c| c["outcome"] == "failed").map(ToString::to_string).collect()
}

/// What `at` has told of `of` by events of this kind.
pub fn events(at: &Member, kind: &str, of: &str) -> Vec<String> {
    let all = at.json(&["events"]).as_array().expect("an array").clone();
    let about =
        |e: &serde_json::Value| e["kind"] == kind && e["message"].as_str().is_some_and(|m| m.starts_with(of));
    all.iter().filter(|e| about(e)).map(|e| e["message"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Waits until `at` trusts `of` no more, which may take so long.
fn contained(at: &Member, of: &str, begun: Instant) {
    until("it is trusted no more", SOON, || (verdict(at, of) == "untrusted").then_some(()));
    println!("    contained after {:.1} s: {:?}", begun.elapsed().as_secs_f32(), failed(at, of));
    assert!(begun.elapsed() < CONTAINED, "{:?}", begun.elapsed());
    assert!(!failed(at, of).is_empty());
}

pub fn a_log_that_was_cut_costs_the_verdict(lab: &Lab) {
    made(lab);
    let (m1, m2, m3) = (lab.member(1), lab.member(2), lab.member(3));
    let three = || (m1.json(&["union", "show"])["voters"].as_array()?.len() == 3).then_some(());
    until("three vote", SOON, three);
    let trusted_before = events(m1, "member.trusted", "m3").len();
    let untrusted_before = events(m1, "member.untrusted", "m3").len();
    assert!(trusted_before > 0, "that it was trusted was told");
    // The log explains what the TPM has seen. Root can write to it; what is measured next shows that.
    let log = m3.state().join("security/measured.log");
    let whole = std::fs::read(&log).expect("the log of measurements");
    std::fs::write(&log, &whole[..whole.len() / 2]).expect("it can be written");
    let begun = Instant::now();
    signal(m3.domain_pid("security").expect("it runs"), Signal::KILL);
    contained(m1, "m3", begun);
    contained(m2, "m3", begun);
    // That is told once, with the entry, and with what it held.
    for at in [m1, m2] {
        let event = until("it is told", SOON, || events(at, "member.untrusted", "m3").pop());
        for said in
            ["pcr-mismatch", "PCR 14", "vote: yes", "channel closed", "boxes on it: not known to this member"]
        {
            assert!(event.contains(said), "{said}: {event}");
        }
        let shown = at.json(&["member", "show", "m3"])["held"].clone();
        assert_eq!((&shown["voter"], &shown["boxes"]), (&true.into(), &serde_json::Value::Null), "{shown}");
        assert!(shown["channel"].as_str().unwrap().starts_with("closed"), "{shown}");
        assert!(at.ok(&["member", "show", "m3"]).contains("not known to this member"));
    }
    // It hears that neither of them believes it, and grants nothing new.
    // Where a busy machine has it not hear that in time, its record ceases to be current.
    until("m3 is fenced", 2 * SOON, || {
        let why = crate::fence::fenced(m3);
        (why.contains("rule \"standing\"") || why.contains("rule \"current\"")).then_some(())
    });
    let said = m3.refused(&["token", "create"]);
    assert!(said.contains("rule \""), "{said}");
    // Its own word is no better: it does not come back by starting anything again.
    m3.kill_domain("communication");
    std::thread::sleep(Duration::from_secs(4));
    assert_ne!(verdict(m1, "m3"), "trusted");
    // A restart of the server begins a new log.
    reset(m3);
    all_trust(&[m1, m2, m3]);
    until("its trust is told", SOON, || {
        (events(m1, "member.trusted", "m3").len() > trusted_before).then_some(())
    });
    // However many periods it was so.
    assert_eq!(events(m1, "member.untrusted", "m3").len(), untrusted_before + 1);
    until("m3 is fenced no more", SOON, || crate::fence::fenced(m3).is_empty().then_some(()));
}

pub fn a_tpm_that_was_reset_proves_itself_anew(lab: &Lab) {
    made(lab);
    let (m1, m2, m3) = (lab.member(1), lab.member(2), lab.member(3));
    let since = |at: &Member| {
        let rows = at.json(&["member", "ls"]);
        let row = rows.as_array().expect("an array").iter().find(|m| m["name"] == "m3").cloned();
        row.and_then(|r| r["since_ms"].as_u64()).unwrap_or(0)
    };
    let before = since(m1);
    reset(m3);
    until("the verdict is another one", SOON, || (since(m1) > before).then_some(()));
    all_trust(&[m1, m2, m3]);
}

/// A copy of `build/`, in which something will be changed.
fn copy(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("gtvp-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    for file in std::fs::read_dir(build_dir()).expect("build/").flatten() {
        std::fs::copy(file.path(), folder.join(file.file_name())).expect("a copy");
    }
    folder
}

fn append(file: &Path, what: &[u8]) {
    let mut file = std::fs::OpenOptions::new().append(true).open(file).expect("it can be written");
    file.write_all(what).expect("it can be written");
}

pub fn a_replaced_program_costs_the_verdict_until_it_is_accepted(lab: &Lab) {
    made(lab);
    let (m1, m2, m3) = (lab.member(1), lab.member(2), lab.member(3));
    let folder = copy("replaced");
    append(&folder.join("gtvp-drivers"), b"\0");
    let begun = Instant::now();
    m3.run_from(&folder, 3);
    contained(m1, "m3", begun + Duration::from_secs(5));
    assert!(failed(m1, "m3").concat().contains("drivers"), "the program is named");
    // Whoever accepts it has seen it.
    contained(m2, "m3", begun + Duration::from_secs(5));
    // An update is accepted by whoever may change the union, on any member.
    let said = m2.ok(&["reference", "accept", "m3"]);
    assert!(!said.is_empty());
    all_trust(&[m1, m2, m3]);
    // What was healthy before still is.
    m3.run_from(&build_dir(), 3);
    all_trust(&[m1, m2, m3]);
    let _ = std::fs::remove_dir_all(&folder);
}

pub fn a_changed_topology_costs_the_verdict(lab: &Lab) {
    made(lab);
    let (m1, m2, m3) = (lab.member(1), lab.member(2), lab.member(3));
    let folder = copy("topology");
    append(&folder.join("topology.toml"), b"# more\n");
    let begun = Instant::now();
    m3.run_from(&folder, 3);
    contained(m1, "m3", begun + Duration::from_secs(5));
    assert!(failed(m1, "m3").concat().contains("topology.toml"), "the file is named");
    // Undone it is not forgotten: the log of this life of the TPM has it.
    m3.run_from(&build_dir(), 3);
    until("m1 hears of m3 again", SOON, || (verdict(m1, "m3") == "untrusted").then_some(()));
    reset(m3);
    all_trust(&[m1, m2, m3]);
    let _ = std::fs::remove_dir_all(&folder);
}

pub fn an_extend_that_no_log_has_costs_the_verdict(lab: &Lab) {
    made(lab);
    let (m1, m2, m3) = (lab.member(1), lab.member(2), lab.member(3));
    let begun = extend(m3);
    contained(m1, "m3", begun);
    reset(m3);
    all_trust(&[m1, m2, m3]);
}

/// What `at` says of `of`, and by whose word.
fn said(at: &Member, of: &str) -> (String, String) {
    let rows = at.json(&["member", "ls"]);
    let row = rows.as_array().expect("an array").iter().find(|m| m["name"] == of).expect("a member").clone();
    let word = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    (word("verdict"), word("attested_by"))
}

/// Packets of `at` to `to` are lost from now on, or no more.
fn cut(at: &Member, to: &Member, cut: bool) {
    let (namespace, address) = (at.namespace(), to.address());
    let verb = if cut { "add" } else { "del" };
    let mut ip = std::process::Command::new("ip");
    ip.args(["netns", "exec", &namespace, "ip", "route", verb, "blackhole", &address]);
    assert!(ip.status().expect("ip").success(), "{ip:?}");
}

pub fn who_is_not_reached_is_known_by_what_others_say(lab: &Lab) {
    made(lab);
    let (m1, m2, m3) = (lab.member(1), lab.member(2), lab.member(3));
    let is = |verdict: &str, by: &str| (verdict.to_owned(), by.to_owned());
    // Of itself a member says what others have found.
    until("m1 hears of itself", SOON, || (said(m1, "m1") == is("trusted", "m2, m3")).then_some(()));
    cut(m1, m3, true);
    until("m1 goes by m2's word", SOON, || {
        let now = said(m1, "m3");
        assert_ne!(now.0, "untrusted", "unreachable is never untrusted");
        (now == is("trusted", "m2")).then_some(())
    });
    assert_eq!(said(m2, "m3").0, "trusted");
    // Without that word it knows nothing.
    cut(m1, m2, true);
    until("m1 knows of nobody", SOON, || {
        let now = [said(m1, "m2").0, said(m1, "m3").0];
        assert!(now.iter().all(|v| v != "untrusted"), "{now:?}");
        now.iter().all(|v| v == "unknown").then_some(())
    });
    cut(m1, m2, false);
    cut(m1, m3, false);
    all_trust(&[m1, m2, m3]);
}

pub fn a_member_is_evicted(lab: &Lab) {
    made(lab);
    let (m1, m2) = (lab.member(1), lab.member(2));
    let epoch = m1.json(&["union", "show"])["epoch"].as_u64().expect("an epoch");
    m2.ok(&["member", "evict", "m3", "--reason", "a test"]);
    for m in [m1, m2] {
        until("it is gone", SOON, || (verdict(m, "m3") == "no member").then_some(()));
    }
    assert_eq!(m1.json(&["union", "show"])["epoch"].as_u64(), Some(epoch + 1));
    let history = m1.ok(&["member", "history", "m3"]);
    assert!(history.contains("a test"), "{history}");
    let event = until("its going is told", SOON, || events(m1, "member.evicted", "m3").pop());
    for said in ["by m2: m3 is removed: a test", "What it held: channel closed", "boxes on it: not known"] {
        assert!(event.contains(said), "{said}: {event}");
    }
    m1.refused(&["member", "evict", "m3"]);
    m1.refused(&["member", "show", "m3"]);
}
