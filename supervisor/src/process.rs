//! Processes by pidfd: whether one is still the one that was meant, how it ended, ending it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

/// A running process, by number and descriptor.
#[derive(Debug)]
pub struct Process {
    /// Its process id.
    pub pid: i32,
    /// Its descriptor: readable when it has ended.
    pub fd: OwnedFd,
    /// Whether gtvpd started it, and so hears how it ends.
    pub ours: bool,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Its exit status, if it had one.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// In words.
    pub how: String,
}

impl Process {
    /// A child of gtvpd.
    pub fn child(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).map_err(io::Error::other)?;
        Ok(Self { pid, fd: open(pid)?, ours: true })
    }

    /// A process that an earlier gtvpd started, if it is still the same.
    pub fn adopt(pid: i32, start_time: u64) -> Option<Self> {
        let fd = open(pid).ok()?;
        // Opened first, checked then: a pid that was used again has another start time.
        let alive = self::start_time(pid) == Some(start_time) && !is_readable(&fd, Duration::ZERO);
        alive.then_some(Self { pid, fd, ours: false })
    }

    /// Ends it at once.
    pub fn kill(&self) {
        // Gone already is what is wanted.
        let _ = pidfd_send_signal(&self.fd, Signal::KILL);
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        // As above.
        let _ = pidfd_send_signal(&self.fd, Signal::TERM);
    }

    /// Waits until it has ended, at most so long.
    pub fn wait(&self, most: Duration) -> bool {
        is_readable(&self.fd, most)
    }

    /// How it ended. To be called when `fd` is readable.
    pub fn end(&self) -> End {
        let unknown = |why: &str| End { code: None, signal: None, how: format!("unknown ({why})") };
        if !self.ours {
            return unknown("it was started by an earlier gtvpd");
        }
        match waitid(WaitId::PidFd(self.fd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => {
                if let Some(code) = status.exit_status() {
                    return End { code: Some(code), signal: None, how: format!("exit status {code}") };
                }
                let signal = status.terminating_signal();
                End { code: None, signal, how: format!("signal {}", signal.unwrap_or(0)) }
            }
            Ok(None) => unknown("it has not ended"),
            Err(e) => unknown(&e.to_string()),
        }
    }
}

fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

fn is_readable(fd: &OwnedFd, most: Duration) -> bool {
    let most = Timespec {
        tv_sec: most.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: most.subsec_nanos().into(),
    };
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    loop {
        match poll(&mut fds, Some(&most)) {
            Err(rustix::io::Errno::INTR) => {}
            result => return matches!(result, Ok(n) if n > 0),
        }
    }
}

/// When the process started, in clock ticks since boot (proc(5), stat field 22): with the pid it names one process.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may itself contain anything.
    let (_, after) = stat.rsplit_once(')')?;
    after.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_adopted_only_when_it_is_the_same() {
        let mut child = Command::new("/bin/sleep").arg("600").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let started = start_time(pid).unwrap();
        assert!(Process::adopt(pid, started + 1).is_none());
        let adopted = Process::adopt(pid, started).unwrap();
        adopted.kill();
        assert!(adopted.wait(Duration::from_secs(10)));
        assert_eq!(adopted.end().code, None);
        assert!(Process::adopt(pid, started).is_none(), "a dead process was adopted");
        child.wait().unwrap();
    }
}
