//! `gtvp-fuzz`: feeds every parser for as long as it is told to, each time with another seed; what it finds it writes to a file.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gtvp_fuzz::{Found, run, targets};

const USAGE: &str =
    "gtvp-fuzz --minutes N [--target NAME] [--seed FIRST]\ngtvp-fuzz --feed FILE --target NAME";
/// Inputs of one turn of a target.
const TURN: u64 = 20_000;

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| {
        let at = args.iter().position(|a| a == name)?;
        args.get(at + 1).cloned()
    };
    let only = option("--target");
    let good = match (option("--minutes").map(|m| m.parse::<u64>()), option("--feed")) {
        (Some(Ok(minutes)), None) => {
            let today = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
            let first = option("--seed").and_then(|s| s.parse().ok()).unwrap_or(today);
            long(Instant::now() + Duration::from_secs(minutes * 60), first, only.as_deref())
        }
        (None, Some(file)) => feed(&file, only.as_deref()),
        _ => {
            eprintln!("{USAGE}");
            false
        }
    };
    if good { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}

fn long(until: Instant, first: u64, only: Option<&str>) -> bool {
    let (mut fed, mut seed) = (0, first);
    println!("seed {first}");
    while Instant::now() < until {
        for target in targets().iter().filter(|t| only.is_none_or(|o| o == t.name)) {
            match run(target, seed, TURN, Some(until)) {
                Ok(n) => fed += n,
                Err(found) => return tell(&found),
            }
        }
        seed += 1;
    }
    println!("{fed} inputs, nothing found");
    true
}

fn tell(found: &Found) -> bool {
    let file = format!("found-{}", found.target);
    let kept = std::fs::write(&file, &found.input);
    eprintln!("{}: {}; the input is in {file}: {kept:?}", found.target, found.what);
    eprintln!("gtvp-fuzz --feed {file} --target {}", found.target);
    false
}

fn feed(file: &str, target: Option<&str>) -> bool {
    let all = targets();
    let Some(target) = all.iter().find(|t| Some(t.name) == target) else {
        let names: Vec<_> = all.iter().map(|t| t.name).collect();
        eprintln!("{USAGE}\ntargets: {}", names.join(", "));
        return false;
    };
    match std::fs::read(file) {
        Ok(bytes) => {
            let start = Instant::now();
            let outcome = (target.feed)(&bytes);
            println!("{outcome:?} after {:?}", start.elapsed());
            outcome.is_ok()
        }
        Err(e) => {
            eprintln!("{file}: {e}");
            false
        }
    }
}
