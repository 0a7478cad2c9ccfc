//! `gtvp doctor`: the member's own checks; when it cannot be asked, what can be seen from here.

use std::path::{Path, PathBuf};

use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::member::HostCheck;

use crate::args::{Cli, Doctor};
use crate::client::Api;
use crate::failure::FAILED;
use crate::lab::state;
use crate::output::{Column, column, listing};
use crate::target::{run_root, socket};

/// Columns of checks.
pub const COLUMNS: &[Column<HostCheck>] = &[
    column("CHECK", |c| c.name.clone()),
    column("STATUS", |c| c.status.clone()),
    column("FOUND", |c| c.detail.clone()),
    column("TRY", |c| c.hint.clone().unwrap_or_default()),
];

/// Checks; gives the exit status.
pub async fn doctor(cli: &Cli, words: &Doctor) -> Result<u8, Fault> {
    let checks = match socket(cli) {
        Ok(path) => match Api::new(path.clone()).get::<Vec<HostCheck>>("/v1/doctor").await {
            Ok(mut checks) => {
                checks.insert(0, check("api", "ok", format!("{} answers", path.display()), None));
                checks
            }
            Err(fault) => from_here(Some(&path), &fault),
        },
        // A wrong choice of the member is the person's to correct.
        Err(fault) if fault.kind == FaultKind::Invalid => return Err(fault),
        Err(fault) => from_here(None, &fault),
    };
    listing(words.output.output, &checks, COLUMNS)?;
    Ok(if checks.iter().any(|c| c.status == "failed") { FAILED } else { 0 })
}

fn check(name: &str, status: &str, detail: impl Into<String>, hint: Option<String>) -> HostCheck {
    HostCheck { name: name.into(), status: status.into(), detail: detail.into(), hint }
}

/// What can be seen when the member does not answer.
fn from_here(socket: Option<&Path>, fault: &Fault) -> Vec<HostCheck> {
    let mut checks = vec![check("api", "failed", fault.to_string(), fault.hint.clone())];
    let path = socket.map_or_else(|| run_root().join("api.sock"), Path::to_path_buf);
    checks.push(socket_check(&path));
    checks.push(match running() {
        Some(pid) => check("gtvpd", "ok", format!("runs as process {pid}"), None),
        None => check(
            "gtvpd",
            "failed",
            "does not run",
            Some("gtvp lab up, or on a server: systemctl start gtvpd".into()),
        ),
    });
    let lab = state::members(&run_root());
    if !lab.is_empty() {
        let names: Vec<String> = lab.iter().map(state::LabMember::full_name).collect();
        let dead: Vec<&String> =
            names.iter().zip(&lab).filter(|(_, m)| m.keeper().is_none()).map(|(name, _)| name).collect();
        checks.push(match dead.is_empty() {
            true => check("lab", "ok", format!("members {}", names.join(", ")), None),
            false => check(
                "lab",
                "failed",
                format!("nothing keeps {dead:?} running"),
                Some("gtvp lab up repairs it".into()),
            ),
        });
    }
    checks
}

fn socket_check(path: &PathBuf) -> HostCheck {
    let at = path.display();
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => check("socket", "ok", format!("{at} takes connections"), None),
        Err(e) => {
            let hint = match e.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    "be root, or in the group that member.toml names as api_group"
                }
                std::io::ErrorKind::NotFound => "start a member, or name its socket with --socket",
                _ => "its gtvpd is gone: start it again",
            };
            check("socket", "failed", format!("{at}: {e}"), Some(hint.into()))
        }
    }
}

/// A gtvpd that runs, whoever's it is.
fn running() -> Option<i32> {
    let entries = std::fs::read_dir("/proc").ok()?;
    entries.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        (name.trim_end() == "gtvpd").then_some(pid)
    })
}
