//! Threat 64: each domain tries everything from inside its jail. What its row of topology.toml gives is allowed, everything
//! else is denied.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod harness;

use std::path::Path;
use std::process::Command;

use gtvp_model::topology::{DomainRow, Network, Topology};
use harness::Member;

#[derive(Debug, serde::Deserialize)]
struct Outcome {
    attempt: String,
    allowed: bool,
    how: String,
}

/// What the row says about an attempt; `None` where the host decides.
fn expected(topology: &Topology, domain: &str, row: &DomainRow, attempt: &str) -> Option<bool> {
    let jail = &row.jail;
    let has = |at: &str| jail.paths.iter().any(|p| p.at.as_deref().unwrap_or(&p.path) == at);
    let device = |path: &str| jail.devices.iter().any(|d| d.path == path);
    let network = jail.network != Network::None;
    match attempt.split(' ').collect::<Vec<_>>()[..] {
        ["open", "/gtvp/member.toml"] | ["socket", "unix"] => Some(true),
        ["open", path @ ("/state" | "/run")] => Some(has(path)),
        ["create", "/state/.probe"] => Some(has("/state")),
        ["create", "/run/.probe"] => Some(has("/run")),
        ["write", path] if path.starts_with("/dev") => {
            // A device that the host lacks, or whose driver is not there, opens for nobody.
            if device(path) && !Path::new(path).exists() { None } else { Some(device(path)) }
        }
        ["socket", "inet" | "netlink"] => Some(network),
        // A host may have no IPv6.
        ["socket", "inet6"] if network => None,
        ["reach", _] => Some(network),
        ["connect", path] => match path.strip_prefix("/gtvp/ipc/").and_then(|p| p.strip_suffix(".sock")) {
            Some("supervisor") => Some(topology.supervisor_callers.contains_key(domain)),
            Some(callee) => Some(topology.domain[callee].callers.contains_key(domain)),
            None => Some(false),
        },
        _ => Some(false),
    }
}

#[test]
fn a_domain_can_do_what_its_row_says_and_nothing_else() {
    let member = Member::start();
    let topology = member.topology();
    for (domain, row) in &topology.domain {
        let output = member.command(&["probe", "--domain", domain]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{domain}: {said}");
        let outcomes: Vec<Outcome> = serde_json::from_slice(&output.stdout).unwrap();
        assert!(outcomes.len() > 80, "{domain}: only {} attempts", outcomes.len());
        let wrong: Vec<_> = outcomes
            .iter()
            .filter(|o| expected(&topology, domain, row, &o.attempt).is_some_and(|e| e != o.allowed))
            .collect();
        assert!(wrong.is_empty(), "{domain}: {wrong:#?}");
        // The jail was built each time, and it was the jail that refused.
        let broken: Vec<_> = outcomes.iter().filter(|o| o.how.contains("no attempt")).collect();
        assert!(broken.is_empty(), "{domain}: {broken:#?}");
    }
}

#[test]
fn outside_a_jail_the_same_attempts_succeed() {
    // The control: a probe that could do nothing anywhere would pass the test above.
    let probe = env!("CARGO_BIN_EXE_gtvp-probe");
    for attempt in [
        "open /etc/shadow",
        "open /usr/bin/env",
        "write own-binary",
        "exec /bin/sh",
        "socket inet",
        "socket packet",
        "reach 127.0.0.1:9",
        "fork",
        "clone newuser",
        "clone newnet",
        "clone3",
        "unshare user",
        "unshare mount",
        "unshare net",
        "chroot",
        "fsopen",
        "open_tree",
        "ptrace",
        "kill 1",
        "setuid 0",
        "setgid 0",
        "setgroups",
        "perf_event_open",
        "personality",
        "process_vm_readv",
    ] {
        let output = Command::new(probe).args(attempt.split(' ')).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{attempt}: {said}");
    }
}
