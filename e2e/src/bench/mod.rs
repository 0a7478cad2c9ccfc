//! What the benches share: how a figure is told and kept, and BENCHMARKS.md, which is made of what is kept.
//!
//! A bench is a program of its own under `benches/`. `-- --short` runs its short form: it measures, prints and asserts what
//! counts alone can show, and leaves BENCHMARKS.md as it is.

pub mod by_hand;
pub mod figure;
pub mod printed;
pub mod processes;
pub mod report;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub use figure::{Bench, Figure};

/// Where benches keep what they make once.
pub fn kept() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    std::fs::create_dir_all(&dir).expect("target/bench");
    dir.canonicalize().expect("target/bench")
}

/// Debian packages, if they are not there.
pub fn install(packages: &[&str]) {
    let query = Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status} "]).args(packages).output();
    let words = query.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    let there = words.split_ascii_whitespace().filter(|w| *w == "installed").count();
    if there < packages.len() {
        println!("  installing {}", packages.join(", "));
        run(Command::new("apt-get").args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages));
    }
}

/// Runs it to its end, which must be a good one.
pub fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The middle one; the mean of the middle two.
pub fn median(values: &[f64]) -> f64 {
    assert!(!values.is_empty(), "a median of nothing");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 }
}

/// The lower and the upper quartile, by nearest rank.
pub fn quartiles(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |part: usize| sorted[(sorted.len() * part).div_ceil(4).max(1) - 1];
    (at(1), at(3))
}

/// A number of bytes, for people.
pub fn bytes(n: u64) -> String {
    match n {
        0..1000 => format!("{n} bytes"),
        1000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        _ => format!("{:.2} MB", n as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_quarters() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        let all: Vec<f64> = (1..=16).map(f64::from).collect();
        assert_eq!(quartiles(&all), (4.0, 12.0));
        assert_eq!(quartiles(&[5.0]), (5.0, 5.0));
    }
}
