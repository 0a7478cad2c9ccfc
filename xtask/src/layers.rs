//! Which crate may depend on which. The tables are ARCHITECTURE.md's "Direction"; what they do not allow fails.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// Crates of the workspace, and the crates of the workspace that each may use.
const INSIDE: &[(&str, &[&str])] = &[
    ("gtvp-model", &[]),
    ("gtvp-ipc", &["gtvp-model", "gtvp-protocol"]),
    ("gtvp-appraisal", &["gtvp-model"]),
    ("gtvp-protocol", &["gtvp-model"]),
    ("gtvp-supervisor", &["gtvp-ipc", "gtvp-model"]),
    ("gtvp-management", &["gtvp-ipc", "gtvp-model"]),
    ("gtvp-security", &["gtvp-appraisal", "gtvp-ipc", "gtvp-model", "gtvp-protocol"]),
    ("gtvp-components", &["gtvp-ipc", "gtvp-model"]),
    ("gtvp-communication", &["gtvp-ipc", "gtvp-model", "gtvp-protocol"]),
    ("gtvp-drivers", &["gtvp-ipc", "gtvp-model"]),
    ("gtvp-lazyfs", &["gtvp-ipc", "gtvp-model"]),
    ("gtvp-gateway", &["gtvp-ipc", "gtvp-model"]),
    ("gtvp-cli", &["gtvp-appraisal", "gtvp-ipc", "gtvp-model"]),
    ("gtvp-fetcher", &["gtvp-ipc", "gtvp-model"]),
    ("gtvp-guest-init", &["gtvp-model"]),
    ("gtvp-e2e", &["gtvp-model"]),
    ("gtvp-sim", &["gtvp-model", "gtvp-protocol"]),
    ("gtvp-fuzz", &["gtvp-appraisal", "gtvp-ipc", "gtvp-model", "gtvp-protocol"]),
    ("xtask", &[]),
];

/// Libraries that only these crates may hold.
const HELD: &[(&str, &[&str])] = &[
    ("p256", &["gtvp-security"]),
    ("axum", &["gtvp-gateway"]),
    ("hyper", &["gtvp-gateway", "gtvp-cli"]),
    ("hyper-util", &["gtvp-gateway", "gtvp-cli"]),
    ("tokio", &["gtvp-gateway", "gtvp-cli"]),
    ("clap", &["gtvp-cli"]),
    ("landlock", &["gtvp-supervisor"]),
    ("seccompiler", &["gtvp-supervisor"]),
    ("tar", &["gtvp-components"]),
    ("liblzma", &["gtvp-components"]),
    ("flate2", &["gtvp-components"]),
    ("ureq", &["gtvp-fetcher"]),
    ("rustls", &["gtvp-communication"]),
    ("raft", &["gtvp-protocol"]),
    ("slog", &["gtvp-protocol"]),
];

/// A feature that no product may have: it leaves checks out.
const PLANTED: &str = "planted";

/// Fails with every edge that no table allows.
pub fn check() -> Result<(), String> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--locked"])
        .output()
        .map_err(|e| format!("cargo metadata cannot run: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let metadata: Value =
        serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata: {e}"))?;
    let wrong = wrong_edges(&metadata);
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{}\nARCHITECTURE.md says which way dependencies go; xtask/src/layers.rs has the table",
        wrong.join("\n")
    ))
}

fn wrong_edges(metadata: &Value) -> Vec<String> {
    let inside: BTreeMap<_, _> = INSIDE.iter().copied().collect();
    let held: BTreeMap<_, _> = HELD.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(allowed) = inside.get(name) else {
            wrong.push(format!("{name} has no row in the table of layers"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            // Tests may use what they like; the product may not.
            if dependency["kind"].as_str() == Some("dev") {
                continue;
            }
            let to = dependency["name"].as_str().unwrap_or_default();
            let features = dependency["features"].as_array().into_iter().flatten();
            if features.filter_map(Value::as_str).any(|f| f == PLANTED) {
                wrong.push(format!("{name} → {to}: {PLANTED} leaves checks out, and is for tests"));
            }
            if inside.contains_key(to) && !allowed.contains(&to) {
                wrong.push(format!("{name} → {to} is not allowed"));
            }
            if held.get(to).is_some_and(|holders| !holders.contains(&name)) {
                wrong.push(format!("{name} → {to}: only {} may hold it", held[to].join(", ")));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_keeps_its_layers() {
        assert_eq!(check(), Ok(()));
    }

    #[test]
    fn a_domain_on_a_domain_and_a_library_out_of_place_are_found() {
        let package = |name: &str, on: &str, kind: Value| {
            serde_json::json!({
                "name": name, "dependencies": [{ "name": on, "kind": kind }],
            })
        };
        let metadata = serde_json::json!({ "packages": [
            package("gtvp-drivers", "gtvp-components", Value::Null),
            package("gtvp-management", "p256", Value::Null),
            package("gtvp-gateway", "gtvp-ipc", Value::Null),
            package("gtvp-ipc", "gtvp-drivers", "dev".into()),
            package("gtvp-new", "serde", Value::Null),
        ] });
        let mut planted = package("gtvp-communication", "gtvp-protocol", Value::Null);
        planted["dependencies"][0]["features"] = serde_json::json!(["planted"]);
        assert_eq!(wrong_edges(&serde_json::json!({ "packages": [planted] })).len(), 1);
        let wrong = wrong_edges(&metadata);
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        assert!(wrong[0].contains("gtvp-drivers → gtvp-components"));
        assert!(wrong[1].contains("only gtvp-security"));
    }
}
