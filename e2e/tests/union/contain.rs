//! Members that are not what they were, and members that are not wanted.

use std::io::Write;
use std::time::{Duration, Instant};

use gtvp_e2e::{Lab, SOON, signal, until};
use rustix::process::Signal;

use crate::join::{all_trust, made, verdict};

pub fn a_changed_file_costs_the_verdict(lab: &Lab) {
    made(lab);
    let (m1, m2, m3) = (lab.member(1), lab.member(2), lab.member(3));
    // What gtvpd measures is on its disk, where root can reach: the log that stands for the TPM's PCR is cut.
    let log = m3.state().join("security/measured.log");
    let whole = std::fs::read(&log).expect("the log of measurements");
    let mut file = std::fs::OpenOptions::new().append(true).open(&log).expect("it can be written");
    file.write_all(b"not measured").expect("it can be written");
    drop(file);
    let begun = Instant::now();
    let pid = m3.domain_pid("security").expect("it runs");
    signal(pid, Signal::KILL);
    until("m1 trusts m3 no more", SOON, || (verdict(m1, "m3") != "trusted").then_some(()));
    println!("    contained after {:.1} s", begun.elapsed().as_secs_f32());
    assert!(begun.elapsed() < Duration::from_secs(20));
    std::fs::write(&log, whole).expect("it can be written");
    let pid = m3.domain_pid("security");
    if let Some(pid) = pid {
        signal(pid, Signal::KILL);
    }
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
    m1.refused(&["member", "evict", "m3"]);
    m1.refused(&["member", "show", "m3"]);
}
