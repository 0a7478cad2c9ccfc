//! A published figure: what was to be reached, what was, in how many runs, on what. Kept as a file; the report is made of those.

use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value, json};

use super::report;
use crate::{Lab, build_dir};

/// One bench: a program, its short form, its figures.
pub struct Bench {
    name: &'static str,
    title: &'static str,
    /// Whether this is the short form.
    pub short: bool,
    figures: Vec<Value>,
    notes: Vec<String>,
    tables: Vec<Value>,
}

/// One figure.
pub struct Figure {
    /// What is measured.
    pub what: String,
    /// What was to be reached, in words; empty for a figure that is only told.
    pub target: String,
    /// What was reached, in words.
    pub result: String,
    /// Whether it is the target or better; none for a figure that is only told.
    pub reached: Option<bool>,
    /// How many runs.
    pub count: u64,
    /// How many are a full count.
    pub full: u64,
}

impl Bench {
    /// Begins a bench; the words of the command line choose its form.
    pub fn begin(name: &'static str, title: &'static str) -> Self {
        let short = std::env::args().any(|a| a == "--short");
        println!("\n{title}{}", if short { " (short form)" } else { "" });
        Self { name, title, short, figures: Vec::new(), notes: Vec::new(), tables: Vec::new() }
    }

    /// Tells and keeps a figure.
    pub fn figure(&mut self, figure: Figure) {
        let verdict = match figure.reached {
            None => "told",
            // Not at its full count it is missed, whatever it shows.
            Some(true) if figure.count >= figure.full => "met",
            Some(_) => "missed",
        };
        let Figure { what, target, result, count, full, .. } = figure;
        println!("  {what}: {result} [target: {target}; {verdict}; {count} of {full}]");
        self.figures.push(json!({
            "what": what, "target": target, "result": result, "verdict": verdict, "count": count, "full": full,
        }));
    }

    /// A sentence on how it was measured.
    pub fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        println!("  {note}");
        self.notes.push(note);
    }

    /// A table of what the figures are made of.
    pub fn table(&mut self, head: &[&str], rows: Vec<Vec<String>>) {
        for row in &rows {
            println!("    {}", row.join(" | "));
        }
        self.tables.push(json!({ "head": head, "rows": rows }));
    }

    /// Keeps it, and makes BENCHMARKS.md anew unless this is the short form. `lab`: whose first member it was measured on, if any.
    pub fn end(self, lab: Option<&Lab>) {
        if self.short {
            return;
        }
        let all = json!({
            "name": self.name, "title": self.title, "figures": self.figures, "notes": self.notes, "tables": self.tables,
            "command": format!("cargo bench -p gtvp-e2e --bench {}", self.name), "versions": versions(lab),
        });
        let text = serde_json::to_string_pretty(&all).expect("JSON") + "\n";
        let dir = report::results();
        std::fs::write(dir.join(format!("{}.json", self.name)), text).expect("a result is kept");
        report::write(&dir);
    }
}

fn line_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").trim().to_owned()
}

/// What a figure was measured on.
fn versions(lab: Option<&Lab>) -> Value {
    let mut versions = Map::new();
    let mut add = |name: &str, value: String| versions.insert(name.to_owned(), Value::String(value));
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or(": unknown");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let commit = line_of("git", &["describe", "--always", "--dirty"]);
    add("CPU", format!("{}, {cores} cores", model.trim_start_matches([' ', '\t', ':'])));
    add("host kernel", line_of("uname", &["-r"]));
    if let Some(lab) = lab {
        let gtvp = line_of(build_dir().join("gtvp").to_str().expect("a path"), &["--version"]);
        add("GTVP", format!("{gtvp}, commit {commit}"));
        let member = lab.json(&["member", "show"]);
        add("accelerator", member["accelerator"].as_str().unwrap_or("unknown").to_owned());
        add("QEMU", line_of("qemu-system-x86_64", &["--version"]));
    } else {
        add("GTVP", format!("commit {commit}"));
    }
    if Path::new("/etc/debian_version").exists() {
        add("Debian", line_of("cat", &["/etc/debian_version"]));
    }
    Value::Object(versions)
}
