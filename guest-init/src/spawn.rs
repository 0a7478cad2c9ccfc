//! Starting a process: its descriptors, its session, and a pipe on which it says why it could not become what it should.
//! That pipe closes by itself at exec, so its end without a word means that the program runs.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use gtvp_model::guest::TerminalSize;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use rustix::termios::Winsize;

use crate::signals;

/// Where a child's standard descriptors go.
#[derive(Debug, Clone, Copy)]
pub enum Stdio {
    /// Nothing to read, pipes for both outputs.
    Outputs,
    /// Pipes for all three.
    Pipes,
    /// A terminal of this size.
    Terminal(TerminalSize),
}

/// A child that was started.
#[derive(Debug)]
pub struct Spawned {
    /// Its number; it leads a session and a process group of this number.
    pub pid: Pid,
    /// Says why it could not become its program; ends when it has.
    pub handshake: OwnedFd,
    /// Writes to its standard input or terminal.
    pub stdin: Option<OwnedFd>,
    /// Reads its standard output, or its terminal.
    pub stdout: OwnedFd,
    /// Reads its standard error.
    pub stderr: Option<OwnedFd>,
}

/// The child's end of the handshake.
pub struct Handshake(Option<File>);

impl Handshake {
    /// The child is what it should be.
    pub fn done(&mut self) {
        self.0 = None;
    }
}

/// The descriptors that a child keeps: three standard ones and its handshake.
const CHILD_HANDSHAKE: i32 = 3;
/// Where descriptors wait while the low numbers are filled; above all of those.
const ASIDE: i32 = 16;
/// Where `extra` is in the child.
pub const CHILD_EXTRA: i32 = 4;

/// Starts a child in a session of its own. In it, `work` either does not come back (exec), or says why it could not do
/// its work; a reason that is empty is success. `extra` is descriptor [`CHILD_EXTRA`] there.
pub fn spawn(
    stdio: Stdio,
    extra: Option<&OwnedFd>,
    work: impl FnOnce(&mut Handshake) -> String,
) -> io::Result<Spawned> {
    let (handshake, handshake_child) = pipe_with(PipeFlags::CLOEXEC)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let mut ours = (None, None);
    let (stdout, child) = match stdio {
        Stdio::Terminal(size) => {
            let (master, terminal) = open_terminal(size)?;
            ours.0 = Some(rustix::io::fcntl_dupfd_cloexec(&master, 0)?);
            let again = || rustix::io::fcntl_dupfd_cloexec(&terminal, 0);
            (master, [again()?, again()?, again()?])
        }
        Stdio::Outputs | Stdio::Pipes => {
            let (out, out_child) = pipe_with(PipeFlags::CLOEXEC)?;
            let (err, err_child) = pipe_with(PipeFlags::CLOEXEC)?;
            ours.1 = Some(err);
            let input = if matches!(stdio, Stdio::Pipes) {
                let (input, writer) = pipe_with(PipeFlags::CLOEXEC)?;
                ours.0 = Some(writer);
                input
            } else {
                null
            };
            (out, [input, out_child, err_child])
        }
    };
    for fd in [Some(&handshake), Some(&stdout), ours.0.as_ref(), ours.1.as_ref()].into_iter().flatten() {
        rustix::io::ioctl_fionbio(fd, true)?;
    }
    // SAFETY: PID 1 has one thread, so the child may do whatever the parent may.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        let terminal = matches!(stdio, Stdio::Terminal(_));
        let why = match arrange(&child, &handshake_child, extra, terminal) {
            Ok(mut handshake) => {
                let why = work(&mut handshake);
                if let (Some(pipe), false) = (&mut handshake.0, why.is_empty()) {
                    // A parent that is gone needs no reason.
                    let _ = pipe.write_all(why.as_bytes());
                } else if !why.is_empty() {
                    let _ = io::stderr().write_all(format!("{why}\n").as_bytes());
                }
                why
            }
            Err(e) => {
                let why = format!("the command cannot be started: {e}");
                let _ = rustix::io::write(&handshake_child, why.as_bytes());
                why
            }
        };
        // SAFETY: the child ends here without running the parent's destructors.
        unsafe { libc::_exit(if why.is_empty() { 0 } else { 127 }) };
    }
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::Other)?;
    Ok(Spawned { pid, handshake, stdin: ours.0, stdout, stderr: ours.1 })
}

fn open_terminal(size: TerminalSize) -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    unlockpt(&master)?;
    let terminal = ioctl_tiocgptpeer(&master, flags)?;
    resize(&master, size)?;
    Ok((master, terminal))
}

/// Gives a terminal its size.
pub fn resize(terminal: impl AsFd, size: TerminalSize) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// In the child: session, descriptors, signals; nothing else of the parent's stays open.
fn arrange(
    standard: &[OwnedFd; 3],
    handshake: &OwnedFd,
    extra: Option<&OwnedFd>,
    terminal: bool,
) -> io::Result<Handshake> {
    signals::reset();
    rustix::process::setsid()?;
    let mut wanted: Vec<(&OwnedFd, i32)> = standard.iter().zip(0..).collect();
    wanted.push((handshake, CHILD_HANDSHAKE));
    wanted.extend(extra.map(|fd| (fd, CHILD_EXTRA)));
    // First out of the way of the numbers that are filled next.
    let aside: Vec<(OwnedFd, i32)> = wanted
        .into_iter()
        .map(|(fd, number)| Ok((rustix::io::fcntl_dupfd_cloexec(fd, ASIDE)?, number)))
        .collect::<io::Result<_>>()?;
    for (fd, number) in &aside {
        // SAFETY: this process is about to become another; descriptors below ASIDE that Rust values own are not used
        // again by it, and CLOEXEC keeps the handshake and the extra one from the program.
        let done = unsafe {
            if *number < CHILD_HANDSHAKE {
                libc::dup2(fd.as_raw_fd(), *number)
            } else {
                libc::dup3(fd.as_raw_fd(), *number, libc::O_CLOEXEC)
            }
        };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let first = if extra.is_some() { CHILD_EXTRA + 1 } else { CHILD_HANDSHAKE + 1 };
    std::mem::forget(aside);
    // SAFETY: closes numbers that nothing in this process uses again. Sessions whose pipes they were would otherwise not
    // see their ends for as long as this child lives.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if terminal {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // PID 1 is spared when memory runs out; what it starts is not. A kernel that refuses keeps it spared.
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    use std::os::fd::FromRawFd;
    // SAFETY: the number was made above and no other value owns it.
    Ok(Handshake(Some(unsafe { File::from_raw_fd(CHILD_HANDSHAKE) })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn read(fd: OwnedFd) -> String {
        rustix::io::ioctl_fionbio(&fd, false).unwrap();
        let mut text = String::new();
        File::from(fd).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_child_says_why_it_cannot_and_where_its_descriptors_are() {
        let s = spawn(Stdio::Outputs, None, |_| "no such thing".into()).unwrap();
        assert_eq!(read(s.handshake), "no such thing");
        let s = spawn(Stdio::Pipes, None, |h| {
            h.done();
            let _ = rustix::io::write(rustix::stdio::stdout(), b"out");
            let _ = rustix::io::write(rustix::stdio::stderr(), b"err");
            String::new()
        })
        .unwrap();
        assert_eq!(read(s.handshake), "");
        assert_eq!((read(s.stdout), read(s.stderr.unwrap())), ("out".into(), "err".into()));
    }
}
