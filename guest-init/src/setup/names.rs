//! The files that say who the box is: /etc/hostname, hosts, resolv.conf, machine-id. A root that does not take one is said
//! and no reason to stop.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use gtvp_model::guest::GuestConfig;

use crate::console::say;
use crate::export::Own;

/// Writes them into the box's root and gives what was written.
pub fn write(config: &GuestConfig) -> Own {
    let mut written = Own::new();
    for (path, text) in files(config) {
        let at = Path::new("/").join(path);
        // A link, as resolv.conf often is, leads to a file of a service that does not run here.
        if fs::symlink_metadata(&at).is_ok_and(|m| m.is_symlink()) {
            let _ = fs::remove_file(&at);
        }
        let done = match fs::read(&at) {
            Ok(there) if there == text.as_bytes() => Ok(()),
            _ => fs::create_dir_all("/etc").and_then(|()| fs::write(&at, &text)),
        };
        match done {
            Ok(()) => written.push((path.into(), text.into_bytes())),
            Err(e) => say!("/{path}: {e}"),
        }
    }
    written
}

fn files(config: &GuestConfig) -> Vec<(&'static str, String)> {
    let name = &config.hostname;
    let own_address = config.network.as_ref().map_or("127.0.1.1".to_string(), |n| n.address.to_string());
    let hosts =
        format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{own_address}\t{name}\n");
    let mut files = vec![
        ("etc/hostname", format!("{name}\n")),
        ("etc/hosts", hosts),
        ("etc/machine-id", format!("{}\n", config.machine_id)),
    ];
    if let Some(network) = &config.network {
        let mut text = String::new();
        for server in network.nameservers.iter().filter(|s| !s.contains(char::is_whitespace)) {
            // Writing to a String does not fail.
            let _ = writeln!(text, "nameserver {server}");
        }
        files.push(("etc/resolv.conf", text));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use gtvp_model::guest::{GuestNetwork, Program};

    #[test]
    fn a_box_without_a_network_keeps_its_resolver() {
        let mut config = GuestConfig {
            hostname: "web".into(),
            machine_id: "0".repeat(32),
            time_ms: 0,
            entropy: String::new(),
            network: None,
            program: Program { argv: vec![], env: Default::default(), user: None, workdir: None },
            ready_ports: vec![],
            ready_udp_ports: vec![],
        };
        assert!(files(&config).iter().all(|(p, _)| *p != "etc/resolv.conf"));
        config.network = Some(GuestNetwork {
            mac: String::new(),
            address: [10, 0, 0, 2].into(),
            prefix: 24,
            gateway: [10, 0, 0, 1].into(),
            nameservers: vec!["10.0.0.1".into(), "1\nsearch x".into()],
        });
        let files = files(&config);
        assert!(files.contains(&("etc/resolv.conf", "nameserver 10.0.0.1\n".into())));
        assert!(files.iter().any(|(p, t)| *p == "etc/hosts" && t.ends_with("10.0.0.2\tweb\n")));
    }
}
