//! BENCHMARKS.md, made of the results that are kept: nobody writes it by hand.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

const HEAD: &str = "# What was measured

Made by `make bench`; nobody writes this by hand. A time counts only as a ratio, ours and the peer's in turn in one run. A figure
that was not run at its full count counts as missed. How each is measured stands in its file under `e2e/benches/`.

";

/// Where the last result of each bench is kept, beside the benches: one may be run without the others.
pub fn results() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results")
}

/// Writes it from the results in `dir`.
pub fn write(dir: &Path) {
    let mut results: Vec<Value> = std::fs::read_dir(dir)
        .expect("e2e/benches/results")
        .flatten()
        .map(|e| serde_json::from_slice(&std::fs::read(e.path()).expect("a result")).expect("JSON"))
        .collect();
    results.sort_by_key(|r| r["name"].as_str().unwrap_or_default().to_owned());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../BENCHMARKS.md");
    std::fs::write(&path, text(&results)).expect("BENCHMARKS.md is written");
    println!("  BENCHMARKS.md is written");
}

fn row(out: &mut String, cells: &[&str]) {
    let cells: Vec<String> = cells.iter().map(|c| c.replace('|', "\\|")).collect();
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

fn rule(out: &mut String, columns: usize) {
    let _ = writeln!(out, "|{}", "---|".repeat(columns));
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn text(results: &[Value]) -> String {
    let mut out = HEAD.to_owned();
    row(&mut out, &["Figure", "Target", "Result", "", "Count"]);
    rule(&mut out, 5);
    for figure in results.iter().flat_map(|r| list(&r["figures"])) {
        let count = format!("{} of {}", figure["count"], figure["full"]);
        let cells = [&figure["what"], &figure["target"], &figure["result"], &figure["verdict"]].map(word);
        row(&mut out, &[cells[0], cells[1], cells[2], cells[3], &count]);
    }
    for result in results {
        let _ = writeln!(out, "\n## {}\n\n    {}\n", word(&result["title"]), word(&result["command"]));
        for note in list(&result["notes"]) {
            let _ = writeln!(out, "* {}", word(note));
        }
        for table in list(&result["tables"]) {
            out.push('\n');
            let head: Vec<&str> = list(&table["head"]).iter().map(word).collect();
            row(&mut out, &head);
            rule(&mut out, head.len());
            for cells in list(&table["rows"]) {
                row(&mut out, &list(cells).iter().map(word).collect::<Vec<_>>());
            }
        }
        let versions = result["versions"].as_object().into_iter().flatten();
        let versions: Vec<String> = versions.map(|(name, v)| format!("{name}: {}", word(v))).collect();
        let _ = writeln!(out, "\nMeasured on {}.", versions.join(" · "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_figure_is_written_down_as_missed() {
        let result = serde_json::json!({
            "name": "x", "title": "X", "command": "c", "notes": ["n"], "tables": [{ "head": ["a", "b"], "rows": [["1", "2|3"]] }],
            "figures": [{ "what": "w", "target": "≤ 1", "result": "2", "verdict": "missed", "count": 1, "full": 15 }],
            "versions": { "CPU": "c" },
        });
        let text = text(&[result]);
        for line in
            ["| w | ≤ 1 | 2 | missed | 1 of 15 |", "| 1 | 2\\|3 |", "## X", "* n", "Measured on CPU: c."]
        {
            assert!(text.lines().any(|l| l == line), "{line:?} is not in {text}");
        }
    }
}
