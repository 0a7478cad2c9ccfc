//! A short run of each target by a fixed seed; `make fuzz` has the long one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use gtvp_fuzz::{Target, run, targets};

/// Peak of this process' memory, KiB: what one input of a MiB may make of itself many times over, and no announced length does.
const MOST_MEMORY: u64 = 512 * 1024;

#[test]
fn no_parser_breaks_takes_long_or_takes_a_second_form() {
    let inputs = if cfg!(debug_assertions) { 1500 } else { 20_000 };
    for target in targets() {
        assert!(!(target.seeds)().is_empty(), "{} has nothing real", target.name);
        if let Err(found) = run(&target, 1, inputs, None) {
            let start: String = found.input.iter().take(400).map(|b| format!("{b:02x}")).collect();
            panic!("{}: {}: {} bytes: {start}", found.target, found.what, found.input.len());
        }
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < MOST_MEMORY, "{peak} KiB");
}

/// The driver sees what is wrong.
#[test]
fn a_parser_that_panics_dawdles_or_takes_too_much_is_found() {
    let seeds = || vec![b"0123456789".to_vec()];
    let target = |feed| Target { name: "a bad one", seeds, feed };
    let panics = target(|b| if b.contains(&0xff) { panic!("as it should") } else { Ok(()) });
    let dawdles = target(|b| {
        if b.len() > 40 {
            std::thread::sleep(std::time::Duration::from_millis(3100));
        }
        Ok(())
    });
    let takes = target(|b| if b.len() > 11 { Err("a second form".into()) } else { Ok(()) });
    for (target, why) in [(panics, "panics"), (dawdles, "takes 3."), (takes, "second form")] {
        let found = run(&target, 1, 10_000, None).unwrap_err();
        assert!(found.what.contains(why), "{found:?}");
    }
}
