//! Checks of the tree itself: `cargo xtask verify` (changes nothing), `cargo xtask fix`, `cargo xtask layers`.

mod layers;
mod threats;

use std::process::{Command, ExitCode};

const USAGE: &str = "\
cargo xtask verify   formatting, lints, layers; changes nothing
cargo xtask fix      formats the code and applies what clippy can
cargo xtask layers   fails on a dependency that ARCHITECTURE.md does not allow";

fn main() -> ExitCode {
    let task = std::env::args().nth(1).unwrap_or_default();
    let outcome = match task.as_str() {
        "verify" => cargo(&["fmt", "--all", "--check"])
            .and_then(|()| {
                cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])
            })
            .and_then(|()| layers::check()),
        "fix" => {
            cargo(&["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"])
                .and_then(|()| cargo(&["fmt", "--all"]))
        }
        "layers" => layers::check(),
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn cargo(arguments: &[&str]) -> Result<(), String> {
    eprintln!("cargo {}", arguments.join(" "));
    let status =
        Command::new(env!("CARGO")).args(arguments).status().map_err(|e| format!("cargo cannot run: {e}"))?;
    status.success().then_some(()).ok_or_else(|| format!("cargo {} failed", arguments[0]))
}
