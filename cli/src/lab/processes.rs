//! Processes of a lab: the keepers, gtvpd, and what is left of a member's own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use gtvp_model::member::{MemberConfig, UIDS_PER_MEMBER};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Process namespaces around what we start ourselves.
const HERE: usize = 1;
/// Around what gtvpd jails: each has one of its own.
const JAILED: usize = 2;

/// Asks a process to end, and ends it after `grace`. Returns when it is gone.
pub fn end(pid: Pid, grace: Duration) {
    // No such process any more: that is what is wanted.
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    for (signal, wait) in [(Signal::TERM, grace), (Signal::KILL, Duration::from_secs(10))] {
        if pidfd_send_signal(&handle, signal).is_err() {
            return;
        }
        let mut fds = [PollFd::new(&handle, PollFlags::IN)];
        let timeout = Timespec::try_from(wait).ok();
        if matches!(poll(&mut fds, timeout.as_ref()), Ok(n) if n > 0) {
            return;
        }
    }
}

/// Processes that run under one of the member's uids: its domains, its boxes.
pub fn of_member(config: &MemberConfig) -> Vec<Pid> {
    let uids = config.uid_base..config.uid_base + UIDS_PER_MEMBER;
    all(JAILED)
        .filter(|(dir, _)| uid_of(dir).is_some_and(|uid| uids.contains(&uid)))
        .map(|(_, pid)| pid)
        .collect()
}

/// A gtvpd that was started with this configuration.
pub fn gtvpd_of(config_file: &Path) -> Option<Pid> {
    let wanted = config_file.as_os_str().as_encoded_bytes();
    all(HERE).find_map(|(dir, pid)| {
        let line = std::fs::read(dir.join("cmdline")).ok()?;
        let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
        let program = words.first().and_then(|w| w.rsplit(|b| *b == b'/').next());
        (program == Some(b"gtvpd") && words.contains(&wanted) && !words.contains(&&b"down"[..]))
            .then_some(pid)
    })
}

/// Processes that have at most so many process namespaces around them, ours among them: a container on this machine may have
/// a lab with the same paths and uids, and what is in it is one further in.
fn all(most: usize) -> impl Iterator<Item = (PathBuf, Pid)> {
    std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(move |entry| {
        let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
        let levels = status(&entry.path(), "NSpid:")?.split_whitespace().count();
        (levels <= most).then(|| (entry.path(), pid))
    })
}

/// A line of a process's status (proc_pid_status(5)).
fn status(dir: &Path, name: &str) -> Option<String> {
    let status = std::fs::read_to_string(dir.join("status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix(name)).map(str::to_owned)
}

fn uid_of(dir: &Path) -> Option<u32> {
    status(dir, "Uid:")?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ignores_the_request_is_ended() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "trap '' TERM; echo ready; while :; do read -r x || exec sleep 1000; done"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        end(Pid::from_child(&child), Duration::from_millis(50));
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn a_containers_processes_are_not_ours_to_end() {
        let found = |most: usize, pid: i32| all(most).any(|(_, p)| p.as_raw_nonzero().get() == pid);
        assert!(found(HERE, i32::try_from(std::process::id()).unwrap()));
        // unshare stays outside of the namespace that it makes, its child is inside.
        let mut child = std::process::Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "sh", "-c", "echo ready; read -r x"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        let outside = i32::try_from(child.id()).unwrap();
        let inside = std::fs::read_to_string(format!("/proc/{outside}/task/{outside}/children")).unwrap();
        let inside = inside.trim().parse().unwrap();
        assert!(found(HERE, outside));
        assert!(!found(HERE, inside) && found(JAILED, inside));
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn our_own_uid_is_read() {
        assert_eq!(uid_of(Path::new("/proc/self")), Some(rustix::process::getuid().as_raw()));
    }
}
