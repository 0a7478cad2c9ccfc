//! Signals as something to poll: SIGCHLD when a process has ended, SIGIO when the port's other side has come.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// The signals that PID 1 listens to, blocked for itself.
pub struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Blocks and collects SIGCHLD and SIGIO.
    pub fn new() -> io::Result<Self> {
        let set = set_of(&[libc::SIGCHLD, libc::SIGIO]);
        // SAFETY: `set` is an initialized signal set; the old one is not asked for.
        if unsafe { libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `set` is initialized; the descriptor that comes back is new and owned here alone.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above: a new descriptor.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Takes what has come. Which signals they were does not matter: who listens looks for itself.
    pub fn drain(&self) {
        let mut buffer = [0u8; 8 * size_of::<libc::signalfd_siginfo>()];
        while rustix::io::read(&self.fd, &mut buffer).is_ok_and(|n| n > 0) {}
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// In a child: every signal unblocked and with its default action, as programs expect to be started.
pub fn reset() {
    let none = set_of(&[]);
    // SAFETY: `none` is an initialized set.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut()) };
    for signal in 1..=64 {
        // SAFETY: SIG_DFL needs no handler; numbers that cannot be set are refused by the kernel and stay as they are.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initializes the set; sigaddset works on it after that.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for s in signals {
            libc::sigaddset(set.as_mut_ptr(), *s);
        }
        set.assume_init()
    }
}
