//! The end of the box: everything is asked to end, then killed; the writable layer is put to rest; the machine goes off.
//! PID 1 itself never returns and never panics its kernel.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::process::{Signal, WaitOptions};
use rustix::system::RebootCommand;

use crate::console::{line, say};

/// What is left of the box's processes when the application is gone has this long from SIGTERM to SIGKILL.
const LEFTOVER_GRACE: Duration = Duration::from_secs(2);
/// Killed processes need this long at most; one that hangs in the kernel is left behind.
const KILL_WAIT: Duration = Duration::from_secs(3);

/// A panic says so on the console and powers the box off: a PID 1 that returns would panic the kernel instead.
pub fn off_at_panic() {
    std::panic::set_hook(Box::new(|info| {
        line(&format!("gtvp-init: defect: {info}"));
        if rustix::process::getpid() == rustix::process::Pid::INIT {
            off();
        }
        // A child that has not become its program yet.
        // SAFETY: _exit ends this process and touches no memory.
        unsafe { libc::_exit(125) };
    }));
}

/// Ends every process but this one, and makes what they wrote durable. `disk` is the mount of the writable layer's disk.
pub fn end_everything(disk: Option<BorrowedFd<'_>>) {
    signal_all(Signal::TERM);
    if !reap_all(LEFTOVER_GRACE) {
        signal_all(Signal::KILL);
        if !reap_all(KILL_WAIT) {
            say!("a process did not end");
        }
    }
    rustix::fs::sync();
    // The journal is then clean; after a failure it is replayed at the next mount, which is as good.
    let Some(disk) = disk else { return };
    for at in ["/".to_string(), format!("/proc/self/fd/{}", disk.as_raw_fd())] {
        if let Err(e) = rustix::mount::mount_remount(&at, MountFlags::RDONLY, c"") {
            say!("{at} cannot be made read-only: {e}");
        }
    }
}

fn signal_all(signal: Signal) {
    // SAFETY: kill takes two numbers; -1 is every process but PID 1 and the caller, which is PID 1.
    unsafe { libc::kill(-1, signal.as_raw()) };
}

/// Whether no child was left within `limit`.
fn reap_all(limit: Duration) -> bool {
    let end = Instant::now() + limit;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) if Instant::now() >= end => return false,
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            Err(Errno::INTR) => {}
            Err(_) => return true,
        }
    }
}

/// Powers the machine off.
pub fn off() -> ! {
    rustix::fs::sync();
    // SAFETY: tcdrain waits until the console has taken what was written to descriptor 2.
    unsafe { libc::tcdrain(2) };
    loop {
        if let Err(e) = rustix::system::reboot(RebootCommand::PowerOff) {
            say!("the machine does not power off: {e}");
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}
