//! Measurements that another program of the project makes and prints.

use std::collections::BTreeMap;
use std::process::Command;

/// `cargo` with these words, in the project.
pub fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(words).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    command
}

/// What it prints; it must succeed.
pub fn said(mut command: Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// `name value` in pairs: the line that begins with how many members there are.
pub fn pairs(text: &str) -> BTreeMap<String, f64> {
    let line = text.lines().find(|l| l.starts_with("members ")).expect("a measurement");
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    words.chunks(2).filter_map(|p| Some(((*p.first()?).to_owned(), p.get(1)?.parse().ok()?))).collect()
}
