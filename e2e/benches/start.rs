//! Warm `gtvp run` to nginx's first answer, booted and from a template, against the same tree booted by hand with QEMU and stock
//! virtiofsd: in turn (A B C, C B A, …), the median of the ratios.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use gtvp_e2e::bench::by_hand::{self, ByHand};
use gtvp_e2e::bench::{Bench, Figure, median, quartiles};
use gtvp_e2e::{Lab, SOON, START_WITHIN, http_get, until};

const PAIRS: usize = 15;
const SHORT: usize = 1;
const TARGET: f64 = 1.10;
const TEMPLATE_TARGET: f64 = 0.25;
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
    start(&lab, false);
    let peer = ByHand::prepare(&lab, "bench");
    end(&lab);
    until("a template is there", START_WITHIN, || {
        lab.json(&["template", "ls"]).as_array().filter(|all| !all.is_empty()).map(drop)
    });
    // One of each for the host's caches.
    peer.start();
    for cold in [true, false] {
        start(&lab, cold);
        end(&lab);
    }

    let pairs = if bench.short { SHORT } else { PAIRS };
    let mut times: [Vec<f64>; 3] = Default::default();
    let mut phases: [Phases; 2] = Default::default();
    for pair in 0..pairs {
        let mut order = [0usize, 1, 2];
        if pair % 2 == 1 {
            order.reverse();
        }
        for which in order {
            let took = match which.checked_sub(1) {
                None => peer.start(),
                Some(way) => {
                    let (took, parts) = start(&lab, way == 0);
                    end(&lab);
                    phases[way].add(&parts);
                    took
                }
            };
            times[which].push(took.as_secs_f64());
        }
        let [by_hand, booted, template] = [0, 1, 2].map(|w: usize| times[w][pair]);
        println!(
            "  {}: by hand {by_hand:.2} s, gtvp run --cold {booted:.2} s, gtvp run {template:.2} s",
            pair + 1
        );
    }
    let figures = [
        ("warm `gtvp run --cold` to nginx's first answer ÷ the same tree booted by hand", TARGET),
        (
            "warm `gtvp run` to nginx's first answer, from a template, ÷ the same tree booted by hand",
            TEMPLATE_TARGET,
        ),
    ];
    for (way, (what, target)) in figures.into_iter().enumerate() {
        let ratios: Vec<f64> =
            times[way + 1].iter().zip(&times[0]).map(|(ours, theirs)| ours / theirs).collect();
        let (ratio, (low, high)) = (median(&ratios), quartiles(&ratios));
        bench.figure(Figure {
            what: what.into(),
            target: format!("≤ {target:.2}"),
            result: format!("{ratio:.3} (quartiles {low:.3} and {high:.3})"),
            reached: Some(ratio <= target),
            count: pairs as u64,
            full: PAIRS as u64,
        });
    }
    bench.note(
        "By hand: stock virtiofsd (`--cache=always`) over a folder with the box's whole tree, after its maintainer scripts; the \
         box's own kernel, kernel arguments, emulated machine and memory; a busybox initramfs with the modules that are needed, an \
         overlay on tmpfs, a static address, nginx. It has no disk, agent, balloon, firewall or address translation: a start of \
         GTVP has all of that in its time.",
    );
    bench.note("Time from the start of the processes (`gtvp run --detach`; virtiofsd and QEMU) to the first answer of status 200.");
    for (way, head) in
        ["Phase of `gtvp run --cold`", "Phase of `gtvp run` from a template"].iter().enumerate()
    {
        bench.table(&[head, "part of its time"], phases[way].rows(median(&times[way + 1])));
    }
    bench.end(Some(&lab));
}

/// One start: how long it took to the first answer, and its phases in milliseconds.
fn start(lab: &Lab, cold: bool) -> (Duration, Vec<(String, f64)>) {
    let address = lab.address();
    let options: &[&str] = if cold { &["--cold"] } else { &[] };
    let command = [&RUN[..1], options, &RUN[1..]].concat();
    let begun = Instant::now();
    lab.ok(&command);
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
