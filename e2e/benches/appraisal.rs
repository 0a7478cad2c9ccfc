//! One appraisal of full evidence beside the bare verification and hashing: what appraisal/benches/appraisal.rs does, published.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use gtvp_e2e::bench::{Bench, Figure, install, run};

const RATE: f64 = 10_000.0;
const INSTRUCTIONS: f64 = 1.15;
/// Pairs of turns of the rates.
const PAIRS: u64 = 15;
/// How many are counted: the difference of two counts leaves the preparation out.
const COUNTS: (u64, u64) = (10, 110);

fn main() {
    let mut bench = Bench::begin("appraisal", "One appraisal");
    let program = program();
    let told = output(&mut Command::new(&program));
    let number = |of: &str| {
        let line = told.lines().find(|l| l.starts_with(of)).unwrap_or_else(|| panic!("no {of} in {told}"));
        let text = line.rsplit_once(": ").expect("a number").1;
        text.split(' ').next().unwrap().parse::<f64>().expect("a number")
    };
    let (rate, ratio) = (number("appraisals a second"), number("time of an appraisal"));
    bench.figure(Figure {
        what: "appraisals a second and core: AK, signature, binding, replay of a log of 150 events, reference values".into(),
        target: format!("≥ {RATE}"),
        result: format!("{rate:.0}; {ratio:.3} of the time of the bare P-256 verification and hashing"),
        reached: Some(rate >= RATE),
        count: PAIRS,
        full: PAIRS,
    });
    if !bench.short {
        install(&["valgrind"]);
        let of = |what| instructions(&program, what, COUNTS.1) - instructions(&program, what, COUNTS.0);
        let (ours, bare) = (of("appraise"), of("bare"));
        let ratio = ours / bare;
        bench.figure(Figure {
            what: "instructions of one appraisal ÷ of the bare P-256 verification and hashing (callgrind)"
                .into(),
            target: format!("≤ {INSTRUCTIONS}"),
            result: format!("{ratio:.3}"),
            reached: Some(ratio <= INSTRUCTIONS),
            count: COUNTS.1 - COUNTS.0,
            full: COUNTS.1 - COUNTS.0,
        });
    }
    bench.note("The pairs run in turn, 0.2 s each; the middle one counts.");
    bench.end(None);
}

/// The bench of appraisal, built.
fn program() -> PathBuf {
    let text = output(
        Command::new(env!("CARGO"))
            .args(["bench", "--locked", "--no-run", "--message-format=json", "-p", "gtvp-appraisal"])
            .args(["--bench", "appraisal"])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")),
    );
    let built = text.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
    let mut programs = built.filter(|m| m["target"]["name"] == "appraisal" && m["executable"].is_string());
    programs.next().expect("an executable")["executable"].as_str().expect("a path").into()
}

fn output(command: &mut Command) -> String {
    let output = command.stderr(std::process::Stdio::inherit()).output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

/// Instructions of a run, by callgrind.
fn instructions(program: &Path, what: &str, times: u64) -> f64 {
    let out = std::env::temp_dir().join(format!("gtvp-callgrind-{}", std::process::id()));
    run(Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args(["instructions", what])
        .arg(times.to_string()));
    let text = std::fs::read_to_string(&out).expect("callgrind's counts");
    std::fs::remove_file(&out).expect("its file");
    let line = text.lines().find_map(|l| l.strip_prefix("summary: ")).expect("a summary");
    line.trim().parse().expect("a number")
}
