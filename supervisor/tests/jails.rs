//! Threat 64: each domain, and what stands in for each template's program, tries everything from inside its jail. What its
//! row of topology.toml gives is allowed, everything else is denied.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod harness;

use std::path::Path;
use std::process::Command;

use gtvp_model::topology::{Jail, Network, Seccomp, Topology};
use harness::Member;

#[derive(Debug, serde::Deserialize)]
struct Outcome {
    attempt: String,
    allowed: bool,
    how: String,
}

/// What the row says about an attempt; `None` where the host decides.
fn expected(topology: &Topology, name: &str, jail: &Jail, attempt: &str) -> Option<bool> {
    let has = |at: &str| jail.paths.iter().any(|p| p.at.as_deref().unwrap_or(&p.path) == at);
    let device = |path: &str| jail.devices.iter().any(|d| d.path == path);
    let network = jail.network != Network::None;
    match attempt.split(' ').collect::<Vec<_>>()[..] {
        ["open", "/gtvp/member.json"] | ["socket", "unix"] => Some(true),
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
            Some("supervisor") => Some(topology.supervisor_callers.contains_key(name)),
            Some(callee) => Some(topology.domain[callee].callers.contains_key(name)),
            None => Some(false),
        },
        _ => Some(false),
    }
}

/// A program of the distribution has the system's calls but a fixed list: it may start programs that it sees, and make
/// sockets, which lead nowhere.
fn expected_of_foreign(topology: &Topology, name: &str, jail: &Jail, attempt: &str) -> Option<bool> {
    let sees = |path: &str| jail.paths.iter().any(|p| path.starts_with(&format!("{}/", p.path)));
    match attempt.split(' ').collect::<Vec<_>>()[..] {
        ["fork" | "personality"] => Some(true),
        ["open", "/usr/bin/env"] => Some(sees("/usr/bin/env")),
        // It does not understand what the shell does.
        ["exec", "/usr/bin/env"] if sees("/usr/bin/env") => None,
        ["exec", "/bin/sh"] => Some(jail.paths.iter().any(|p| p.path == "/bin/sh")),
        ["open", "/proc/self/status"] => Some(jail.pid_namespace),
        // Itself.
        ["kill", "1"] => Some(jail.pid_namespace),
        ["socket", "inet" | "netlink"] => Some(true),
        // What the host's kernel has.
        ["socket", "inet6" | "vsock"] => None,
        _ => expected(topology, name, jail, attempt),
    }
}

/// Whose attempts came out otherwise than `expected` says.
fn wrong(member: &Member, words: &[&str], expected: impl Fn(&str) -> Option<bool>) -> Vec<Outcome> {
    let output = member.command(&[&["probe"], words].concat()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {said}");
    let outcomes: Vec<Outcome> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(outcomes.len() > 80, "{words:?}: only {} attempts", outcomes.len());
    // The jail was built each time, and it was the jail that refused.
    let broken: Vec<_> = outcomes.iter().filter(|o| o.how.contains("no attempt")).collect();
    assert!(broken.is_empty(), "{words:?}: {broken:#?}");
    outcomes.into_iter().filter(|o| expected(&o.attempt).is_some_and(|e| e != o.allowed)).collect()
}

#[test]
fn a_domain_can_do_what_its_row_says_and_nothing_else() {
    let member = Member::start();
    let topology = member.topology();
    for (domain, row) in &topology.domain {
        let wrong = wrong(&member, &["--domain", domain], |a| expected(&topology, domain, &row.jail, a));
        assert!(wrong.is_empty(), "{domain}: {wrong:#?}");
    }
}

#[test]
fn a_process_of_a_template_can_do_what_its_row_says_and_nothing_else() {
    let member = Member::start();
    let topology = member.topology();
    for (name, row) in &topology.template {
        let wrong = wrong(&member, &["--template", name], |a| match row.jail.seccomp {
            Seccomp::List => expected(&topology, name, &row.jail, a),
            _ => expected_of_foreign(&topology, name, &row.jail, a),
        });
        assert!(wrong.is_empty(), "{name}: {wrong:#?}");
        assert_ne!(row.jail.seccomp, Seccomp::Own, "{name} begins without a filter");
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
