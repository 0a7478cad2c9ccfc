//! One box running, nobody asking: what the member's processes hold, and how often they wake.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::time::Duration;

use gtvp_e2e::bench::processes::{pss, watch};
use gtvp_e2e::bench::{Bench, Figure, bytes};
use gtvp_e2e::{Lab, build_dir, until};

const FIVE: [&str; 5] = ["management", "security", "components", "communication", "drivers"];
const MEMORY_MIB: f64 = 9.0;
const SWITCHES: f64 = 20.0;
/// Seconds of a full watch, and of a short one.
const FULL: u64 = 60;
const SHORT: u64 = 5;
const PORT: u16 = 18083;
const RUN: &[&str] = &[
    "run",
    "--detach",
    "--name",
    "idle",
    "--needs",
    "nginx",
    "--publish",
    "18083:80",
    "--",
    "nginx",
    "-g",
    "daemon off;",
];

fn main() {
    let mut bench = Bench::begin("idle", "Idle, one box running");
    let lab = Lab::up("bench");
    lab.ok(RUN);
    assert!(lab.get(PORT, "/").expect("nginx answers").0.contains(" 200 "));
    // The processes that bring packages stay for a while after their last use.
    until("apt and fetcher have ended", Duration::from_secs(120), || {
        lab.processes(&["gtvp-fetcher"]).is_empty().then_some(())
    });
    let mut rows: Vec<(String, i32)> =
        FIVE.iter().map(|d| ((*d).to_owned(), lab.domain_pid(d).expect("the domain runs"))).collect();
    let one =
        |words: &[&str]| *lab.processes(words).first().unwrap_or_else(|| panic!("{words:?} does not run"));
    rows.push(("gtvpd".into(), lab.gtvpd().expect("gtvpd runs")));
    rows.push(("gateway".into(), lab.domain_pid("gateway").expect("the gateway runs")));
    rows.push(("lazyfs of the box".into(), one(&["gtvp-lazyfs"])));
    rows.push(("QEMU of the box, its guest's memory too".into(), one(&["qemu-system-x86_64"])));

    let pids: Vec<i32> = rows.iter().map(|(_, pid)| *pid).collect();
    let seconds = if bench.short { SHORT } else { FULL };
    let did = watch(&pids, Duration::from_secs(seconds));
    let memory: Vec<f64> = pids.iter().map(|p| pss(*p) as f64 / f64::from(1 << 20)).collect();
    let rate = |n: u64| n as f64 / seconds as f64;
    let (five_memory, five_switches): (f64, f64) =
        (memory[..5].iter().sum(), rate(did[..5].iter().map(|d| d.switches).sum()));
    bench.figure(Figure {
        what: "memory of the five domains together (PSS), idle, one box running".into(),
        target: format!("≤ {MEMORY_MIB} MiB"),
        result: format!("{five_memory:.2} MiB"),
        reached: Some(five_memory <= MEMORY_MIB),
        count: seconds,
        full: FULL,
    });
    bench.figure(Figure {
        what: "context switches of the five domains together, idle, one box running".into(),
        target: format!("≤ {SWITCHES}/s"),
        result: format!("{five_switches:.2}/s"),
        reached: Some(five_switches <= SWITCHES),
        count: seconds,
        full: FULL,
    });
    let row = |i: usize| {
        vec![rows[i].0.clone(), format!("{:.2} MiB", memory[i]), format!("{:.2}/s", rate(did[i].switches))]
    };
    bench.table(&["Process", "PSS", "context switches"], (0..rows.len()).map(row).collect());
    let ticks: u64 = did[..5].iter().map(|d| d.ticks).sum();
    bench.note(format!(
        "The counts are seconds watched. Of a core the five domains took {:.3} % (aim: 0.2 %).",
        rate(ticks)
    ));
    let size = |d: &&str| std::fs::metadata(build_dir().join(format!("gtvp-{d}"))).expect("staged").len();
    bench.note(format!(
        "The binaries are static, so that domains share no pages; the five have {} on disk. A domain that is asked nothing for 10 s lets go of the pages of its program that its last answers needed (ipc/src/server.rs); they are in the system's cache of files and come back when they are used.",
        bytes(FIVE.iter().map(size).sum())
    ));
    lab.remove("idle");
    bench.end(Some(&lab));
}
