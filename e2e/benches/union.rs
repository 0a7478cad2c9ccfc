//! A union: how long a server takes from its token to being trusted, how long one that was tampered with stays so, and what the domains
//! of a member of a larger union hold.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use gtvp_e2e::bench::processes::{pss, rss, watch};
use gtvp_e2e::bench::{Bench, Figure};
use gtvp_e2e::union::{all_trust, extend, made, reset, verdict};
use gtvp_e2e::{Lab, Member, SOON, until};

const FIVE: [&str; 5] = ["management", "security", "components", "communication", "drivers"];
/// Joins of a full count, and of a short one.
const JOINS: (u64, u64) = (50, 3);
/// Tamperings of a full count, and of a short one.
const TAMPERINGS: (u64, u64) = (100, 3);
const CONTAINED: f64 = 5.0;
/// Restarts of `communication`, each of which opens two channels, of a full count, and of a short one.
const RESTARTS: (u64, u64) = (25, 2);
/// Members of the larger union.
const LARGE: u8 = 64;
/// Seconds watched.
const WATCHED: (u64, u64) = (60, 5);

fn main() {
    let mut bench = Bench::begin("union", "A union");
    let lab = Lab::fresh("bench-union", 3);
    made(&lab);
    let (m1, m2, m3) = (lab.member(1), lab.member(2), lab.member(3));
    joins(&mut bench, m1, m3);
    all_trust(&[m1, m2, m3]);
    connections(&mut bench, m1);
    all_trust(&[m1, m2, m3]);
    tampering(&mut bench, [m1, m2, m3]);
    hold(&mut bench, m1, 3);
    lab.down();
    if !bench.short {
        let large = Lab::fresh("bench-large", LARGE);
        join_all(&large);
        hold(&mut bench, large.member(1), LARGE.into());
        large.down();
    }
    bench.note("A lab's members run the same programs on one machine, which shares their pages: RSS is what PSS is on a server of its own.");
    let lab = Lab::with("bench-union", 1);
    bench.end(Some(&lab));
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

/// The value below which this part of them is.
fn part(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    // Counts are small.
    let at = (values.len() as f64 * part).ceil() as usize;
    values[at.clamp(1, values.len()) - 1]
}

fn joins(bench: &mut Bench, m1: &Member, m3: &Member) {
    let count = if bench.short { JOINS.1 } else { JOINS.0 };
    let (mut joined, mut trusted) = (Vec::new(), Vec::new());
    for _ in 0..count {
        m3.ok(&["member", "leave"]);
        until("m1 knows it", SOON, || (verdict(m1, "m3") == "no member").then_some(()));
        let token = m1.ok(&["token", "create"]);
        let begun = Instant::now();
        m3.ok(&["join", "--quiet", token.trim()]);
        joined.push(seconds(begun));
        until("m1 trusts it", SOON, || (verdict(m1, "m3") == "trusted").then_some(()));
        trusted.push(seconds(begun));
    }
    for (what, values) in
        [("until it is in the record", &mut joined), ("until the first member trusts it", &mut trusted)]
    {
        bench.figure(Figure {
            what: format!("join, from `gtvp join` {what}: median, p90"),
            target: String::new(),
            result: format!("{:.0} ms, {:.0} ms", part(values, 0.5) * 1000.0, part(values, 0.9) * 1000.0),
            reached: None,
            count,
            full: JOINS.0,
        });
    }
}

/// How long channels take to open, by the member's own clock: each is compared with its own TLS handshake.
fn connections(bench: &mut Bench, m1: &Member) {
    let count = if bench.short { RESTARTS.1 } else { RESTARTS.0 };
    let (mut tls, mut all, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..count {
        m1.kill_domain("communication");
        for other in ["m2", "m3"] {
            let value = |of: &str| m1.metric(&format!("{of}{{member=\"{other}\"}}"));
            let [shook, open] = until("the channel is open", SOON, || {
                Some([value("gtvp_channel_tls_microseconds")?, value("gtvp_channel_opening_microseconds")?])
            });
            tls.push(shook / 1000.0);
            all.push(open / 1000.0);
            ratios.push(open / shook);
        }
    }
    bench.figure(Figure {
        what: "a channel, from its first packet until both have proved themselves ÷ its own mutual TLS handshake with keys in TPMs: median, p90".into(),
        target: String::new(),
        result: format!("{:.2}, {:.2}", part(&mut ratios, 0.5), part(&mut ratios, 0.9)),
        reached: None,
        count: 2 * count,
        full: 2 * RESTARTS.0,
    });
    bench.note(format!(
        "Channels, with software TPMs: TLS took {:.1} ms, all until both had proved themselves {:.1} ms (medians).",
        part(&mut tls, 0.5),
        part(&mut all, 0.5)
    ));
}

fn tampering(bench: &mut Bench, [m1, m2, m3]: [&Member; 3]) {
    let count = if bench.short { TAMPERINGS.1 } else { TAMPERINGS.0 };
    let mut times = Vec::new();
    for _ in 0..count {
        let begun = extend(m3);
        for at in [m1, m2] {
            until("it is contained", SOON, || (verdict(at, "m3") == "untrusted").then_some(()));
        }
        times.push(seconds(begun));
        reset(m3);
        all_trust(&[m1, m2, m3]);
    }
    let worst = part(&mut times, 0.99);
    bench.figure(Figure {
        what: "from an extend of PCR 14 that no log has to containment by every other member, p99".into(),
        target: format!("≤ {CONTAINED} s"),
        result: format!("{worst:.2} s, median {:.2} s", part(&mut times, 0.5)),
        reached: Some(worst <= CONTAINED),
        count,
        full: TAMPERINGS.0,
    });
}

/// Has all members of a lab in one union, whose period is the default.
fn join_all(lab: &Lab) {
    let m1 = lab.member(1);
    m1.ok(&["union", "init", "--name", "large", "--allow-software-tpm"]);
    for n in 2..=usize::from(LARGE) {
        let token = m1.ok(&["token", "create"]);
        lab.member(n).ok(&["join", "--quiet", token.trim()]);
    }
    until("m1 trusts everybody", Duration::from_secs(300), || {
        let rows = m1.json(&["member", "ls"]);
        let trusted =
            rows.as_array()?.iter().filter(|m| m["verdict"] == "trusted" && m["name"] != "m1").count();
        (trusted + 1 == usize::from(LARGE)).then_some(())
    });
}

fn hold(bench: &mut Bench, of: &Member, members: u64) {
    let during = if bench.short { WATCHED.1 } else { WATCHED.0 };
    let pids = FIVE.map(|d| of.domain_pid(d).expect("the domain runs"));
    let did = watch(&pids, Duration::from_secs(during));
    let sum = |of: fn(i32) -> u64| pids.iter().map(|p| of(*p) as f64).sum::<f64>() / f64::from(1 << 20);
    let (alone, shared) = (sum(rss), sum(pss));
    let switches = did.iter().map(|d| d.switches).sum::<u64>() as f64 / during as f64;
    bench.figure(Figure {
        what: format!(
            "the five domains of a member of a union of {members}, idle: memory (PSS alone on its server, which is RSS; PSS among these members), context switches"
        ),
        target: String::new(),
        result: format!("{alone:.2} MiB; {shared:.2} MiB; {switches:.1}/s"),
        reached: None,
        count: during,
        full: WATCHED.0,
    });
    let row = |i: usize| {
        vec![
            FIVE[i].to_owned(),
            format!("{:.2} MiB", rss(pids[i]) as f64 / f64::from(1 << 20)),
            format!("{:.2}/s", did[i].switches as f64 / during as f64),
        ]
    };
    bench.table(&["Domain", "RSS", "context switches"], (0..FIVE.len()).map(row).collect());
}
