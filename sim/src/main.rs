//! `gtvp-sim`: replays one run, or looks for one that fails for as long as it is told to.

#[path = "command/gossip.rs"]
mod gossip;

use std::time::{Duration, Instant};

use gtvp_sim::smp::{self, Run};
use gtvp_sim::{Config, Outcome, Quiet, Story, quiet, run};

const USAGE: &str = "gtvp-sim run SEED honest|liar|traitor|rollback|union [-v]\n\
gtvp-sim soak --minutes N [--seed FIRST] [--story NAME]\n\
gtvp-sim quotes --members N [--periods N]\n\
gtvp-sim gossip run SEED honest|forger|flooder|replayer\n\
gtvp-sim gossip spread --seeds N [--members N] [--channels N]\ngtvp-sim gossip busy [--members N]\ngtvp-sim gossip soak --minutes N\n\
gtvp-sim smp [deep]";
const STORIES: [(&str, Story); 5] = [
    ("honest", Story::Honest),
    ("liar", Story::Liar),
    ("traitor", Story::Traitor),
    ("rollback", Story::Rollback),
    ("union", Story::Union),
];

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let good = match args.as_slice() {
        ["run", seed, story, rest @ ..] => {
            let verbose = rest.first() == Some(&"-v");
            match (seed.parse(), STORIES.iter().find(|(n, _)| n == story)) {
                (Ok(seed), Some((name, story))) => one(seed, name, *story, verbose),
                _ => usage(),
            }
        }
        ["quotes", rest @ ..] => quotes(rest).unwrap_or_else(usage),
        ["smp"] => smp::RUNS.iter().all(Run::tell),
        ["smp", "deep"] => smp::RUNS.iter().chain(smp::DEEP).all(Run::tell),
        ["gossip", rest @ ..] => gossip::command(rest).unwrap_or_else(usage),
        ["soak", "--minutes", minutes, rest @ ..] => {
            let (mut first, mut only) = (Some(0), None);
            let mut good = rest.len() % 2 == 0;
            for option in rest.chunks(2) {
                match option {
                    ["--seed", seed] => first = seed.parse().ok(),
                    ["--story", name] if STORIES.iter().any(|(n, _)| n == name) => only = Some(*name),
                    _ => good = false,
                }
            }
            match (minutes.parse(), first.filter(|_| good)) {
                (Ok(minutes), Some(first)) => soak(minutes, first, only),
                _ => usage(),
            }
        }
        _ => usage(),
    };
    if good { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}

fn usage() -> bool {
    eprintln!("{USAGE}");
    false
}

fn one(seed: u64, name: &str, story: Story, verbose: bool) -> bool {
    let config = Config { verbose, ..Config::of(seed, story) };
    println!("{config:#?}");
    let start = Instant::now();
    let outcome = run(&config);
    println!("{outcome:#?}");
    println!("{:.0} × real time", outcome.ms as f64 / 1000.0 / start.elapsed().as_secs_f64());
    told(seed, name, &outcome)
}

/// How often members quote when nothing happens: `name value` in pairs.
fn quotes(args: &[&str]) -> Option<bool> {
    let members = gossip::option(args, "--members").and_then(|n| usize::try_from(n).ok())?;
    let periods = gossip::option(args, "--periods").unwrap_or(20);
    let Quiet { quotes, believed, channels } = quiet(members, periods, 1)?;
    println!("members {members} quotes {quotes:.3} believed {believed:.1} channels {channels}");
    Some(true)
}

fn told(seed: u64, name: &str, outcome: &Outcome) -> bool {
    let Some(violation) = &outcome.violation else { return true };
    println!(
        "gtvp-sim run {seed} {name}: at {} ms: {}: {}",
        violation.at, violation.invariant, violation.what
    );
    false
}

fn soak(minutes: u64, first: u64, only: Option<&str>) -> bool {
    let (start, limit) = (Instant::now(), Duration::from_secs(minutes * 60));
    let (mut runs, mut ms, mut bad) = (0u64, 0u64, 0u64);
    for seed in first.. {
        for (name, story) in STORIES.into_iter().filter(|(n, _)| only.is_none_or(|o| o == *n)) {
            let outcome = run(&Config::of(seed, story));
            runs += 1;
            ms += outcome.ms;
            bad += u64::from(!told(seed, name, &outcome));
        }
        if start.elapsed() >= limit {
            break;
        }
    }
    let (hours, real) = (ms as f64 / 3_600_000.0, start.elapsed().as_secs_f64());
    println!(
        "{runs} runs, {hours:.1} simulated hours, {:.0} × real time, {bad} failed",
        hours * 3600.0 / real
    );
    bad == 0
}
