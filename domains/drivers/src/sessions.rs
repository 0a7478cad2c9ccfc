//! The commands beside one box's application, with their callers' descriptors. What goes where is decided in `exec.rs`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use gtvp_model::boxview::ExitStatus;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::guest::{Channel, Frame};
use rustix::event::PollFlags;

use crate::exec::{Form, Session};

/// Most commands at once beside one application.
const MOST: usize = 64;
/// Bytes read of a caller at once.
const CHUNK: usize = 32 * 1024;

/// A caller's descriptor, non-blocking.
pub enum Caller {
    /// Frames both ways.
    Stream(UnixStream),
    /// Bytes to it only.
    Pipe(File),
}

impl Caller {
    /// Frames over a new pair of sockets; the second is for the caller.
    pub fn stream() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((Self::Stream(ours), theirs.into()))
    }

    /// Bytes into a new pipe, whose reading end is for the caller.
    pub fn pipe() -> io::Result<(Self, OwnedFd)> {
        let (reading, writing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        rustix::fs::fcntl_setfl(&writing, rustix::fs::OFlags::NONBLOCK)?;
        Ok((Self::Pipe(File::from(writing)), reading))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stream(s) => s.write(bytes),
            Self::Pipe(p) => p.write(bytes),
        }
    }
}

impl AsFd for Caller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stream(s) => s.as_fd(),
            Self::Pipe(p) => p.as_fd(),
        }
    }
}

struct Live {
    session: Session,
    caller: Option<Caller>,
    half_closed: bool,
}

/// They.
#[derive(Default)]
pub struct Sessions {
    live: BTreeMap<u32, Live>,
    last: u32,
}

impl Sessions {
    /// A new one; its number.
    pub fn open(&mut self, caller: Caller, form: Form) -> Result<u32, Fault> {
        if self.live.len() >= MOST {
            return Err(Fault::new(
                FaultKind::Unavailable,
                format!("{MOST} commands run in this box already"),
            ));
        }
        // 0 is the application, and the stream number has 28 bits for it.
        self.last = self.last % 0x0fff_ffff + 1;
        let live = Live { session: Session::new(self.last, form), caller: Some(caller), half_closed: false };
        self.live.insert(self.last, live);
        Ok(self.last)
    }

    /// What to wait for. `congested`: nothing more is to be read of callers now.
    pub fn sources(&self, congested: bool) -> impl Iterator<Item = (u32, BorrowedFd<'_>, PollFlags)> {
        self.live.iter().filter_map(move |(id, live)| {
            let caller = live.caller.as_ref()?;
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, live.session.wants_caller() && !live.half_closed && !congested);
            flags.set(PollFlags::OUT, live.session.wants_write());
            Some((*id, caller.as_fd(), flags))
        })
    }

    /// A caller's descriptor is ready.
    pub fn on_ready(&mut self, id: u32, flags: PollFlags) -> Vec<Frame> {
        let Some(live) = self.live.get_mut(&id) else { return Vec::new() };
        let mut frames = Vec::new();
        if flags.contains(PollFlags::IN) && live.session.wants_caller() {
            frames.extend(live.read());
        }
        // Only when both directions are closed, or a pipe's reader has gone.
        if flags.intersects(PollFlags::HUP | PollFlags::ERR) {
            live.caller = None;
            frames.extend(live.session.on_caller_gone());
        }
        frames
    }

    /// Sends callers what can be sent now; forgets what has ended.
    pub fn flush(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        self.live.retain(|_, live| {
            frames.extend(live.write());
            !live.session.finished()
        });
        frames
    }

    /// A command wrote something.
    pub fn on_output(&mut self, id: u32, channel: Channel, bytes: &[u8]) -> Vec<Frame> {
        self.live.get_mut(&id).map(|l| l.session.on_output(channel, bytes)).unwrap_or_default()
    }

    /// The guest has taken standard input.
    pub fn on_credit(&mut self, id: u32, bytes: u32) -> Vec<Frame> {
        self.live.get_mut(&id).map(|l| l.session.on_credit(bytes)).unwrap_or_default()
    }

    /// A command has ended.
    pub fn on_exited(&mut self, id: u32, status: &ExitStatus) {
        if let Some(live) = self.live.get_mut(&id) {
            live.session.on_exited(status);
        }
    }

    /// A command could not be started.
    pub fn on_fault(&mut self, id: u32, fault: &Fault) {
        if let Some(live) = self.live.get_mut(&id) {
            live.session.on_fault(fault);
        }
    }

    /// Nothing more will come of any.
    pub fn fail_all(&mut self, fault: &Fault) {
        self.live.values_mut().for_each(|l| l.session.on_fault(fault));
    }
}

impl Live {
    fn read(&mut self) -> Vec<Frame> {
        let Some(Caller::Stream(stream)) = &mut self.caller else { return Vec::new() };
        let mut chunk = vec![0; CHUNK];
        match stream.read(&mut chunk) {
            Ok(0) => {
                self.half_closed = true;
                self.session.on_caller_end()
            }
            Ok(n) => self.session.on_caller(&chunk[..n]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Vec::new()
            }
            Err(_) => {
                self.caller = None;
                self.session.on_caller_gone()
            }
        }
    }

    fn write(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while self.session.wants_write() {
            let Some(caller) = &mut self.caller else { break };
            match caller.write(self.session.waiting()) {
                Ok(n) => frames.extend(self.session.on_written(n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.caller = None;
                    frames.extend(self.session.on_caller_gone());
                }
            }
        }
        frames
    }
}
