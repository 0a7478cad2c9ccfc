//! `gtvp lab down`. Forwarding stays on: who else on this machine has come to need it meanwhile cannot be known.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use gtvp_model::fault::{Fault, FaultKind};

use super::plan::Lab;
use super::{keep, net, processes, state, up};
use crate::args::LabDown;
use crate::failure::{io, tell};
use crate::output::print;
use crate::target::run_root;

/// What a process that should be gone gets.
const LAST_GRACE: Duration = Duration::from_secs(2);

/// Takes away what there is of a lab.
pub fn down(words: &LabDown) -> Result<(), Fault> {
    super::need_root("gtvp lab down")?;
    let root = run_root();
    let _lock = state::lock(&root)?;
    let name = words.name.as_str();
    let run_dir = root.join("lab").join(name);
    let lab = match state::read_lab(&run_dir)? {
        Some(lab) => Some(lab),
        None => state::read_lab(&up::dir_of(name, words.dir.as_deref())?)?,
    };
    let was_up = run_dir.exists();
    let Some(lab) = lab else {
        if was_up {
            remove_tree(&run_dir)?;
        }
        print(&format!("lab {name} is not up\n"));
        return Ok(());
    };
    let members = state::members_of(&root, name);
    std::thread::scope(|all| {
        for member in &members {
            all.spawn(|| end_member(member));
        }
    });
    let netns_prefix = format!("gtvp-{name}-m");
    for entry in std::fs::read_dir(net::NETNS_DIR).into_iter().flatten().flatten() {
        let netns = entry.file_name().to_string_lossy().into_owned();
        if netns.strip_prefix(&netns_prefix).is_some_and(|n| n.parse::<u8>().is_ok()) {
            end_all(&net::processes_in(&netns));
            net::remove_member(&netns)?;
        }
    }
    net::remove_lab(&lab)?;
    if was_up {
        remove_tree(&run_dir)?;
    }
    if words.purge {
        remove_state(&lab)?;
    }
    print(&match (was_up, words.purge) {
        (true, true) => format!("lab {name} is down, and what it kept is gone\n"),
        (false, true) => format!("lab {name} was not up; what it kept is gone\n"),
        (true, false) => format!("lab {name} is down; {} is kept\n", lab.dir.display()),
        (false, false) => format!("lab {name} is not up\n"),
    });
    Ok(())
}

/// Keeper, gtvpd, boxes, and whatever else runs under the member's uids.
fn end_member(member: &state::LabMember) {
    if let Some(keeper) = member.keeper() {
        processes::end(keeper, keep::GRACE + Duration::from_secs(5));
    }
    let config = member.run_dir.join("member.toml");
    if let Some(orphan) = processes::gtvpd_of(&config) {
        processes::end(orphan, keep::GRACE);
    }
    if let Err(fault) = end_boxes(&config, &format!("gtvp-{}-{}", member.lab, member.config.name)) {
        // Told, and done by hand below.
        tell(&fault);
    }
    for pid in processes::of_member(&member.config) {
        processes::end(pid, LAST_GRACE);
    }
}

/// Has gtvpd end the boxes' processes and take their networks away.
fn end_boxes(config: &Path, netns: &str) -> Result<(), Fault> {
    if !Path::new(net::NETNS_DIR).join(netns).exists() {
        return Ok(());
    }
    let output = Command::new("ip")
        .args(["netns", "exec", netns])
        .arg(up::find_gtvpd()?)
        .arg("--config")
        .arg(config)
        .arg("down")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| io("ip cannot be run", &e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Fault::new(FaultKind::Internal, "gtvpd could not end the boxes")
        .because(said)
        .hint("they are ended without it"))
}

fn end_all(pids: &[i32]) {
    for pid in pids.iter().filter_map(|p| rustix::process::Pid::from_raw(*p)) {
        processes::end(pid, LAST_GRACE);
    }
}

fn remove_state(lab: &Lab) -> Result<(), Fault> {
    if lab.dir.exists() {
        remove_tree(&lab.dir)?;
    }
    Ok(())
}

/// Removes a tree of ours. What is mounted in it is taken off first: removing must not reach through it.
fn remove_tree(dir: &Path) -> Result<(), Fault> {
    let cannot = |e: &std::io::Error| io(format!("{} cannot be removed", dir.display()), e);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(|e| cannot(&e))?;
    for mount in mounts_below(&mounts, &dir.display().to_string()) {
        rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH).map_err(|e| cannot(&e.into()))?;
    }
    std::fs::remove_dir_all(dir).map_err(|e| cannot(&e))
}

/// The mount points at or below `dir`, innermost first. Their names have no spaces: we made them.
fn mounts_below<'m>(mountinfo: &'m str, dir: &str) -> Vec<&'m str> {
    let below =
        |point: &&str| *point == dir || point.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
    let mut points: Vec<&str> =
        mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).filter(below).collect();
    points.reverse();
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_below_are_taken_off_and_the_innermost_first() {
        let info = "1 0 0:1 / / rw - x x rw\n2 1 0:2 / /run/l rw - x x rw\n3 2 0:3 / /run/l/a rw - x x rw\n\
                    4 3 0:4 / /run/l/a/b rw - x x rw\n5 1 0:5 / /run/lab rw - x x rw\n";
        assert_eq!(mounts_below(info, "/run/l"), ["/run/l/a/b", "/run/l/a", "/run/l"]);
    }
}
