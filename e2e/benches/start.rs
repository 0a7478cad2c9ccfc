//! Warm `gtvp run` to nginx's first answer, against the same tree booted by hand with QEMU and stock virtiofsd: pairs in turn
//! (A B, B A, …), the median of their ratios.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use gtvp_e2e::bench::by_hand::{self, ByHand};
use gtvp_e2e::bench::{Bench, Figure, median, quartiles};
use gtvp_e2e::{Lab, SOON, http_get, until};

const PAIRS: usize = 15;
const SHORT: usize = 1;
const TARGET: f64 = 1.10;
const PORT: u16 = 18080;
const RUN: &[&str] = &[
    "run",
    "--detach",
    "--name",
    "bench",
    "--needs",
    "nginx",
    "--publish",
    "18080:80",
    "--",
    "nginx",
    "-g",
    "daemon off;",
];

fn main() {
    let mut bench = Bench::begin("start", "Warm start to the first answer");
    let lab = Lab::up("bench");
    // The first start makes everything that a warm one finds, and what the peer boots.
    start(&lab);
    let peer = ByHand::prepare(&lab, "bench");
    end(&lab);
    // One of each for the host's caches.
    peer.start();
    start(&lab);
    end(&lab);

    let pairs = if bench.short { SHORT } else { PAIRS };
    let (mut ours, mut theirs, mut phases) = (Vec::new(), Vec::new(), Phases::default());
    let mut ours_once = || {
        let (took, parts) = start(&lab);
        end(&lab);
        phases.add(&parts);
        took.as_secs_f64()
    };
    for pair in 0..pairs {
        let (a, b) = if pair % 2 == 0 {
            let a = peer.start().as_secs_f64();
            (a, ours_once())
        } else {
            let b = ours_once();
            (peer.start().as_secs_f64(), b)
        };
        println!("  pair {}: by hand {a:.2} s, gtvp run {b:.2} s, ratio {:.3}", pair + 1, b / a);
        theirs.push(a);
        ours.push(b);
    }
    let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(b, a)| b / a).collect();
    let (ratio, (low, high)) = (median(&ratios), quartiles(&ratios));
    bench.figure(Figure {
        what: "warm `gtvp run` to nginx's first answer ÷ the same tree booted by hand".into(),
        target: format!("≤ {TARGET:.2}"),
        result: format!("{ratio:.3} (quartiles {low:.3} and {high:.3})"),
        reached: Some(ratio <= TARGET),
        count: pairs as u64,
        full: PAIRS as u64,
    });
    bench.note(
        "By hand: stock virtiofsd (`--cache=always`) over a folder with the box's whole tree, after its maintainer scripts; the \
         box's own kernel, kernel arguments, emulated machine and memory; a busybox initramfs with the modules that are needed, an \
         overlay on tmpfs, a static address, nginx. It has no disk, agent, balloon, firewall or address translation: a start of \
         GTVP has all of that in its time.",
    );
    bench.note("Time from the start of the processes (`gtvp run --detach`; virtiofsd and QEMU) to the first answer of status 200.");
    bench.table(&["Phase of `gtvp run`", "part of its time"], phases.rows(median(&ours)));
    bench.end(Some(&lab));
}

/// One start: how long it took to the first answer, and its phases in milliseconds.
fn start(lab: &Lab) -> (Duration, Vec<(String, f64)>) {
    let address = lab.address();
    let begun = Instant::now();
    lab.ok(RUN);
    until("nginx answers", SOON, || {
        http_get(&address, PORT, "/").ok().filter(|(status, _)| status.contains(" 200 "))
    });
    let took = begun.elapsed();
    let shown = lab.json(&["box", "show", "bench"]);
    let phases = shown["phases"].as_array().expect("phases").iter();
    let phase = |p: &serde_json::Value| {
        (p["phase"].as_str().expect("a name").to_owned(), p["ms"].as_f64().expect("a time"))
    };
    (took, phases.map(phase).collect())
}

fn end(lab: &Lab) {
    lab.remove("bench");
    by_hand::at_rest(lab);
}

/// Phases in the order in which they came, each with its times.
#[derive(Default)]
struct Phases(Vec<(String, Vec<f64>)>);

impl Phases {
    /// One start's phases. A name that comes twice (management's and drivers' `boot`) is one phase.
    fn add(&mut self, parts: &[(String, f64)]) {
        let mut whole: Vec<(&str, f64)> = Vec::new();
        for (name, ms) in parts {
            match whole.iter_mut().find(|(n, _)| n == name) {
                Some((_, sum)) => *sum += ms,
                None => whole.push((name, *ms)),
            }
        }
        for (name, ms) in whole {
            match self.0.iter_mut().find(|(n, _)| n == name) {
                Some((_, all)) => all.push(ms),
                None => self.0.push((name.to_owned(), vec![ms])),
            }
        }
    }

    /// As parts of the whole: times by themselves say nothing of another machine.
    fn rows(&self, whole: f64) -> Vec<Vec<String>> {
        let share = |ms: f64| format!("{:.1} %", ms / whole / 10.0);
        let mut rows: Vec<_> = self.0.iter().map(|(n, ms)| vec![n.clone(), share(median(ms))]).collect();
        let told: f64 = self.0.iter().map(|(_, ms)| median(ms)).sum();
        rows.push(vec![
            "`gtvp` itself, and the request for the page".into(),
            share((whole * 1000.0 - told).max(0.0)),
        ]);
        rows
    }
}
