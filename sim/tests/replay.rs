//! A seed is a run: the same again, byte for byte; and much faster than the time that it simulates.

use std::time::Instant;

use gtvp_sim::{Config, Story, quiet, run};

#[test]
fn a_seed_replays_byte_for_byte() {
    for story in [Story::Honest, Story::Liar, Story::Union] {
        let config = Config::of(7, story);
        let (first, again) = (run(&config), run(&config));
        assert_eq!(first, again, "{story:?}");
        assert_ne!(first.trace, run(&Config::of(8, story)).trace, "another seed is another run");
    }
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn runs_are_real() {
    let (mut taken, mut overtaken, mut entries) = (0, 0, 0);
    let start = Instant::now();
    let mut ms = 0;
    for seed in 0..10 {
        let outcome = run(&Config::of(seed, Story::Honest));
        taken += outcome.proposals.get("taken").copied().unwrap_or(0);
        overtaken += outcome.proposals.get("overtaken").copied().unwrap_or(0);
        entries += outcome.entries;
        ms += outcome.ms;
    }
    let times = ms as f64 / 1000.0 / start.elapsed().as_secs_f64();
    println!("{times:.0} × real time, {entries} entries, {taken} proposals taken, {overtaken} overtaken");
    assert!(taken > 200 && overtaken > 20 && entries > 200, "{taken} {overtaken} {entries}");
}

/// Of all that can happen to HSP a few runs have everything, many times.
#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn runs_of_hsp_are_real() {
    let mut counts = std::collections::BTreeMap::<&str, u64>::new();
    let (start, mut ms) = (Instant::now(), 0);
    for seed in 0..40 {
        let outcome = run(&Config::of(seed, Story::Union));
        outcome.hsp.into_iter().for_each(|(what, n)| *counts.entry(what).or_default() += n);
        ms += outcome.ms;
    }
    let times = ms as f64 / 1000.0 / start.elapsed().as_secs_f64();
    println!("{times:.0} × real time, {counts:?}");
    for (what, least) in [
        ("channels", 500),
        ("renewed", 5000),
        ("joined", 60),
        ("failed joins", 50),
        ("not believed", 100),
        ("tampered", 50),
        ("resets", 20),
        ("relay", 10),
        ("divert", 10),
        ("clone", 10),
        ("replay", 10),
        ("reflect", 10),
        ("forger", 10),
        ("thief", 10),
        ("token again", 10),
        ("tampered joiner", 10),
        ("narrow channels", 10),
        ("gone", 10),
        ("lies", 3),
    ] {
        let got = counts.get(what).copied().unwrap_or(0);
        assert!(got >= least, "{what}: {got}, {counts:?}");
    }
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn members_quote_once_a_period_however_many_appraise_them() {
    for members in [2, 8, 24] {
        let quiet = quiet(members, 20, 3).expect("all have channels");
        let (quotes, most) = (quiet.quotes, members as f64);
        println!("{members} members: {quiet:?}");
        assert!((0.8 * most..=1.05 * most).contains(&quotes), "{quotes} quotes of {members} members");
        assert!(quiet.believed > 0.85 * quiet.channels as f64, "{quiet:?}");
    }
}
