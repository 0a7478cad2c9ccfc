//! One process that the host follows: its start, its pipes or terminal, the credit for what it writes, its end. The
//! application's output goes another way ([`crate::output`]), since it must survive the host's absence.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gtvp_model::boxview::ExitStatus;
use gtvp_model::guest::{Channel, STREAM_WINDOW, TerminalSize};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::spawn::{self, Spawned};

/// After a process has ended, what is left in its pipes is still sent: at most this, a pipe's largest size for a user
/// without privileges. What its own children go on writing is not waited for.
const DRAIN: usize = 1024 * 1024;
/// One read; a [`gtvp_model::guest::Frame`] carries it.
const READ: usize = 32 * 1024;
/// Longest reason that a child may give.
const MAX_REASON: usize = 16 * 1024;
/// What a terminal takes for the end of its input.
const END_OF_INPUT: u8 = 4;

/// How a child's start stands.
#[derive(Debug, PartialEq, Eq)]
pub enum Start {
    /// It has not become its program yet.
    Pending,
    /// It has.
    Done,
    /// It could not.
    Failed(String),
}

/// A process with its outputs.
pub struct Process {
    pid: Pid,
    handshake: Option<OwnedFd>,
    reason: Vec<u8>,
    outputs: Vec<(Channel, OwnedFd)>,
    status: Option<ExitStatus>,
    drained: usize,
}

impl Process {
    /// Takes a child and gives its input back.
    pub fn new(spawned: Spawned) -> (Self, Option<OwnedFd>) {
        let mut outputs = vec![(Channel::Stdout, spawned.stdout)];
        outputs.extend(spawned.stderr.map(|fd| (Channel::Stderr, fd)));
        let process = Self {
            pid: spawned.pid,
            handshake: Some(spawned.handshake),
            reason: Vec::new(),
            outputs,
            status: None,
            drained: 0,
        };
        (process, spawned.stdin)
    }

    /// Its number, while it has not been reaped.
    pub fn pid(&self) -> Option<Pid> {
        self.status.is_none().then_some(self.pid)
    }

    /// Its end was reaped.
    pub fn reaped(&mut self, status: ExitStatus) {
        self.status = Some(status);
    }

    /// How it ended, once that is known.
    pub fn status(&self) -> Option<&ExitStatus> {
        self.status.as_ref()
    }

    /// The pipe that tells about its start, while it has not ended.
    pub fn handshake(&self) -> Option<BorrowedFd<'_>> {
        self.handshake.as_ref().map(AsFd::as_fd)
    }

    /// Reads that pipe.
    pub fn started(&mut self) -> Start {
        let Some(pipe) = &self.handshake else { return Start::Done };
        let mut buffer = [0; 1024];
        loop {
            match rustix::io::read(pipe, &mut buffer) {
                Ok(n) if n > 0 => {
                    let room = MAX_REASON - self.reason.len().min(MAX_REASON);
                    self.reason.extend_from_slice(&buffer[..n.min(room)]);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Start::Pending,
                Ok(_) | Err(_) => break,
            }
        }
        self.handshake = None;
        if self.reason.is_empty() {
            Start::Done
        } else {
            Start::Failed(String::from_utf8_lossy(&self.reason).into_owned())
        }
    }

    /// Outputs that are still open.
    pub fn outputs(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.outputs.iter().map(|(_, fd)| fd.as_fd())
    }

    /// Reads at most `room` bytes of each output. After the process's end an output that is empty is closed.
    pub fn read(&mut self, mut room: usize, mut take: impl FnMut(Channel, &[u8])) {
        let ended = self.status.is_some();
        let mut buffer = vec![0; READ.min(room)];
        let drained = &mut self.drained;
        self.outputs.retain(|(channel, fd)| {
            let most = buffer.len().min(room);
            if most == 0 {
                return true;
            }
            match rustix::io::read(fd, &mut buffer[..most]) {
                Ok(n) if n > 0 => {
                    room -= n;
                    take(*channel, &buffer[..n]);
                    if ended {
                        *drained += n;
                    }
                    *drained < DRAIN
                }
                Err(Errno::INTR) => true,
                Err(Errno::AGAIN) => !ended,
                // The end, or a terminal (EIO) that nobody has open.
                Ok(_) | Err(_) => false,
            }
        });
    }

    /// Whether it has ended and its outputs are empty.
    pub fn finished(&self) -> bool {
        self.status.is_some() && self.outputs.is_empty() && self.handshake.is_none()
    }

    /// Whether there is something to read that no descriptor will report: the rest after its end.
    pub fn draining(&self) -> bool {
        self.status.is_some() && !self.outputs.is_empty()
    }

    /// Sends a signal to it, or to its process group. A number that is no signal is not sent.
    pub fn signal(&self, number: i32, group: bool) {
        let (Some(pid), Some(signal)) = (self.pid(), Signal::from_named_raw(number)) else { return };
        if group && rustix::process::kill_process_group(pid, signal).is_ok() {
            return;
        }
        // Not yet leading a group, just after its start, or ended this moment.
        let _ = rustix::process::kill_process(pid, signal);
    }

    /// Closes its pipes: a terminal hangs up by that.
    pub fn close(mut self) -> Self {
        self.outputs.clear();
        self.handshake = None;
        self
    }

    fn terminal(&self) -> Option<&OwnedFd> {
        self.outputs.iter().find(|(c, _)| *c == Channel::Stdout).map(|(_, fd)| fd)
    }
}

/// A command that the host started beside the application.
pub struct Session {
    /// The process.
    pub process: Process,
    input: Option<OwnedFd>,
    queue: VecDeque<u8>,
    input_ends: bool,
    is_terminal: bool,
    credit: usize,
}

impl Session {
    /// Takes a child; `is_terminal` says what its descriptors are.
    pub fn new(spawned: Spawned, is_terminal: bool) -> Self {
        let (process, input) = Process::new(spawned);
        let queue = VecDeque::new();
        Self { process, input, queue, input_ends: false, is_terminal, credit: STREAM_WINDOW }
    }

    /// The host has taken bytes.
    pub fn add_credit(&mut self, bytes: u32) {
        self.credit = self.credit.saturating_add(bytes as usize).min(STREAM_WINDOW);
    }

    /// Bytes that may be sent to the host.
    pub fn credit(&self) -> usize {
        self.credit
    }

    /// Input from the host; none is its end. False when the host sends more than it was given credit for.
    pub fn give(&mut self, data: &[u8]) -> bool {
        if self.input_ends {
            return true;
        }
        if data.is_empty() {
            self.input_ends = true;
            if self.is_terminal {
                self.queue.push_back(END_OF_INPUT);
            }
            return true;
        }
        self.queue.extend(data);
        self.queue.len() <= STREAM_WINDOW
    }

    /// The input, while something waits for it.
    pub fn wants_input(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().filter(|_| !self.queue.is_empty()).map(AsFd::as_fd)
    }

    /// Writes what the input takes; gives the bytes that the host may send again.
    pub fn feed(&mut self) -> usize {
        let mut taken = 0;
        while !self.queue.is_empty() {
            let Some(input) = &self.input else {
                // Nobody reads it: as good as read.
                taken += self.queue.len();
                self.queue.clear();
                break;
            };
            match rustix::io::write(input, self.queue.as_slices().0) {
                Ok(n) => {
                    self.queue.drain(..n);
                    taken += n;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.input = None,
            }
        }
        if self.input_ends && self.queue.is_empty() {
            self.input = None;
        }
        taken
    }

    /// Reads at most `room` bytes, as far as there is credit.
    pub fn read(&mut self, room: usize, mut take: impl FnMut(Channel, &[u8])) {
        let mut used = 0;
        self.process.read(room.min(self.credit), |channel, data| {
            used += data.len();
            take(channel, data);
        });
        self.credit -= used;
    }

    /// The terminal's new size.
    pub fn resize(&self, size: TerminalSize) {
        if let (true, Some(terminal)) = (self.is_terminal, self.process.terminal()) {
            // A terminal that is going needs no size.
            let _ = spawn::resize(terminal, size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spawn::{Stdio, spawn};
    use rustix::process::{WaitOptions, waitpid};

    fn wait(session: &mut Session) {
        let pid = session.process.pid().unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
        session.process.reaped(ExitStatus::Code(status.exit_status().unwrap_or(-1)));
    }

    fn echo(stdio: Stdio) -> Session {
        let terminal = matches!(stdio, Stdio::Terminal(_));
        let child = spawn(stdio, None, |h| {
            h.done();
            let mut b = [0; 100];
            while let Ok(n @ 1..) = rustix::io::read(rustix::stdio::stdin(), &mut b) {
                let _ = rustix::io::write(rustix::stdio::stdout(), &b[..n]);
            }
            String::new()
        });
        Session::new(child.unwrap(), terminal)
    }

    #[test]
    fn input_comes_back_as_output_and_ends() {
        for stdio in [Stdio::Pipes, Stdio::Terminal(TerminalSize { rows: 24, cols: 80 })] {
            let mut s = echo(stdio);
            assert!(s.give(b"hello\n"));
            assert_eq!(s.feed(), 6);
            assert!(s.give(b""));
            s.feed();
            wait(&mut s);
            assert_eq!(s.process.started(), Start::Done);
            let mut out = Vec::new();
            while !s.process.finished() {
                s.read(READ, |_, d| out.extend_from_slice(d));
            }
            assert!(String::from_utf8_lossy(&out).contains("hello"), "{stdio:?}");
            assert_eq!(s.credit(), STREAM_WINDOW - out.len());
        }
    }

    #[test]
    fn without_credit_nothing_is_read_and_too_much_input_is_refused() {
        let mut s = echo(Stdio::Pipes);
        s.credit = 0;
        s.read(READ, |_, _| panic!("read without credit"));
        assert!(!s.give(&vec![0; STREAM_WINDOW + 1]));
        s.process.signal(9, true);
        wait(&mut s);
    }
}
