//! gtvpd's side of starting a jailed process: runs the stage, gives it its specification and descriptors, writes its
//! id maps, places it in its cgroup, hears whether it worked.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use gtvp_ipc::wire;

use crate::cgroup::Cgroups;
use crate::confine;
use crate::process::Process;
use crate::spec::{JailSpec, StageSays};
use crate::{sys, syscalls};

/// Longest time that building a jail may take: copying a kernel from a slow disk is the longest step.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a process did not start.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// gtvpd could not start the stage.
    #[error("the jail cannot be started: {0}")]
    Start(#[source] io::Error),
    /// The stage said why.
    #[error("the jail cannot be built: {0}")]
    Stage(String),
    /// The stage did not say why.
    #[error("the jail was not built in time: {0}")]
    Silent(#[source] io::Error),
}

/// What every launch of a member shares.
#[derive(Debug)]
pub struct Launcher {
    /// First uid of the member, and how many.
    pub ids: (u32, u32),
    /// Its cgroups.
    pub cgroups: Cgroups,
    /// Filters tell instead of kill: `gtvpd trace`.
    pub tell: bool,
}

impl Launcher {
    /// Starts the jail. `group` names its cgroup.
    pub fn start(
        &self,
        mut spec: JailSpec,
        fds: &[BorrowedFd<'_>],
        stdio: [Stdio; 2],
        group: &str,
        memory_max: Option<u64>,
    ) -> Result<Process, LaunchError> {
        spec.tell_filter = self.tell && confine::can_tell(&spec.filter);
        let (process, socket) = self.stage(&spec, stdio)?;
        self.cgroups.place(group, process.pid, memory_max);
        match self.converse(&spec, fds, &socket, process.pid) {
            Ok(()) => Ok(process),
            Err(e) => {
                process.kill();
                process.wait(PATIENCE);
                process.end();
                Err(e)
            }
        }
    }

    fn stage(&self, spec: &JailSpec, stdio: [Stdio; 2]) -> Result<(Process, UnixStream), LaunchError> {
        let (socket, theirs) = UnixStream::pair().map_err(LaunchError::Start)?;
        let [out, err] = stdio;
        let mut command = Command::new("/proc/self/exe");
        command.arg("jail").stdin(OwnedFd::from(theirs)).stdout(out).stderr(err).env_clear();
        let child = if spec.pid_namespace {
            in_new_pid_namespace(|| command.spawn()).map_err(LaunchError::Start)?
        } else {
            command.spawn().map_err(LaunchError::Start)?
        };
        // The command still has the stage's end of the socket; while it does, the stage's exec is not seen.
        drop(command);
        Ok((Process::child(child.id()).map_err(LaunchError::Start)?, socket))
    }

    fn converse(
        &self,
        spec: &JailSpec,
        fds: &[BorrowedFd<'_>],
        socket: &UnixStream,
        pid: i32,
    ) -> Result<(), LaunchError> {
        socket.set_read_timeout(Some(PATIENCE)).map_err(LaunchError::Start)?;
        let json = serde_json::to_vec(spec).map_err(|e| LaunchError::Start(e.into()))?;
        wire::send(socket, &json, fds).map_err(LaunchError::Start)?;
        loop {
            let Some((json, mut fds)) = wire::recv(socket).map_err(LaunchError::Silent)? else {
                return Ok(());
            };
            match serde_json::from_slice(&json).map_err(|e| LaunchError::Silent(e.into()))? {
                StageSays::Failed(why) => return Err(LaunchError::Stage(why)),
                StageSays::WriteMaps => {
                    self.write_maps(pid).map_err(LaunchError::Start)?;
                    wire::send(socket, b"{}", &[]).map_err(LaunchError::Start)?;
                }
                StageSays::Listener => {
                    if let Some(listener) = fds.pop() {
                        listen_to_filter(spec.name.clone(), listener);
                    }
                }
            }
        }
    }

    /// Ids are the same inside and outside, so that peers see who is who (SO_PEERCRED).
    pub fn write_maps(&self, pid: i32) -> io::Result<()> {
        let (first, count) = self.ids;
        for map in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/{pid}/{map}"), format!("{first} {first} {count}\n"))?;
        }
        Ok(())
    }
}

/// Children of this thread started in `f` are the first of a new pid namespace.
fn in_new_pid_namespace<T>(f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let own = std::fs::File::open("/proc/thread-self/ns/pid")?;
    sys::unshare(libc::CLONE_NEWPID)?;
    let result = f();
    sys::join(own.as_fd(), libc::CLONE_NEWPID)?;
    result
}

/// Tells each call outside the row, once.
fn listen_to_filter(name: String, listener: OwnedFd) {
    let spawned = std::thread::Builder::new().spawn(move || {
        let mut told = std::collections::BTreeSet::new();
        loop {
            match sys::next_told(listener.as_fd()) {
                Ok((number, pid)) => {
                    if told.insert(number) {
                        let call = syscalls::name(number).unwrap_or("?");
                        say!("trace: {name} (pid {pid}) is missing \"{call}\" ({number}) in its row");
                    }
                }
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
                // The process went between the call and our reading it, or all of them are gone.
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) && alive(&listener) => {}
                Err(_) => return,
            }
        }
    });
    if let Err(e) = spawned {
        say!("trace: {e}");
    }
}

/// Whether a process of the filter still exists: the listener hangs up with the last one.
fn alive(listener: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    let polled = poll(&mut fds, Some(&none));
    polled.is_ok() && !fds[0].revents().contains(PollFlags::HUP)
}
