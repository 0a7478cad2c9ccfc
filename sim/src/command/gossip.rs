//! `gtvp-sim gossip`: replays a run, looks for one that fails, and measures the published figures. What it prints is `name value` in
//! pairs, a line for each measurement.

use std::time::{Duration, Instant};

use gtvp_sim::gossip::{Evil, Setup, Spread, Template, busy, rounds_allowed, safety};

/// Frames of 1,000 that are lost where figures are measured; half as many come twice.
const LOSS: u64 = 100;
/// Members of 1,000 that have something new to say in a period, where links are measured.
const CHANGES: u64 = 100;
/// Rounds of that.
const ROUNDS: u64 = 24;
const STORIES: [(&str, Option<Evil>); 4] = [
    ("honest", None),
    ("forger", Some(Evil::Forger)),
    ("flooder", Some(Evil::Flooder)),
    ("replayer", Some(Evil::Replayer)),
];

/// The value of an option.
pub fn option(args: &[&str], name: &str) -> Option<u64> {
    let at = args.iter().position(|a| *a == name)?;
    args.get(at + 1)?.parse().ok()
}

/// Does what the words say; whether all was good. `None`: they say nothing.
pub fn command(args: &[&str]) -> Option<bool> {
    let members = usize::try_from(option(args, "--members").unwrap_or(1_000)).ok()?;
    match args {
        ["run", seed, story, ..] => {
            let (name, evil) = STORIES.iter().find(|(n, _)| n == story)?;
            Some(run(seed.parse().ok()?, name, *evil))
        }
        ["soak", "--minutes", minutes] => Some(soak(minutes.parse().ok()?)),
        ["spread", ..] => {
            let channels = option(args, "--channels").and_then(|c| usize::try_from(c).ok());
            Some(spread(option(args, "--seeds")?, members, channels))
        }
        ["busy", ..] => {
            let busy = busy(&Template::new(members, None), 1, ROUNDS, CHANGES, LOSS);
            println!(
                "members {members} link_most {} link_mean {} member_mean {} stale {}",
                busy.link_most, busy.link_mean, busy.member_mean, busy.stale
            );
            Some(true)
        }
        _ => None,
    }
}

fn run(seed: u64, name: &str, evil: Option<Evil>) -> bool {
    let outcome = safety(&Setup::of(seed, evil));
    let Some(violation) = &outcome.violation else { return true };
    println!(
        "gtvp-sim gossip run {seed} {name}: at {} ms: {}: {}",
        violation.at, violation.invariant, violation.what
    );
    false
}

fn soak(minutes: u64) -> bool {
    let (start, limit) = (Instant::now(), Duration::from_secs(minutes * 60));
    let (mut runs, mut bad) = (0u64, 0u64);
    for seed in 0.. {
        for (name, evil) in STORIES {
            runs += 1;
            bad += u64::from(!run(seed, name, evil));
        }
        if start.elapsed() >= limit {
            break;
        }
    }
    println!("{runs} runs of gossip, {bad} failed");
    bad == 0
}

fn spread(seeds: u64, members: usize, channels: Option<usize>) -> bool {
    let template = Template::new(members, channels);
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let part = |thread: u64| -> Vec<Spread> {
        (0..seeds).filter(|s| s % threads == thread).map(|seed| template.spread(seed, LOSS)).collect()
    };
    let all: Vec<Spread> = std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads).map(|t| scope.spawn(move || part(t))).collect();
        // A thread that fails has said why, and then nothing is measured.
        parts.into_iter().flat_map(|p| p.join().unwrap_or_default()).collect()
    });
    let count = all.len() as u64;
    let everywhere = all.iter().filter(|s| s.everywhere).count() as u64;
    let worst = all.iter().map(|s| s.rounds).max().unwrap_or(u64::MAX);
    let mean = all.iter().map(|s| s.rounds).sum::<u64>() as f64 / count.max(1) as f64;
    let bytes = all.iter().map(|s| s.bytes).sum::<u64>() / count.max(1);
    let allowed = rounds_allowed(members);
    println!(
        "members {members} seeds {count} everywhere {everywhere} worst {worst} mean {mean:.2} allowed {allowed:.2} bytes {bytes}"
    );
    count == seeds && everywhere == seeds && worst as f64 <= allowed
}
