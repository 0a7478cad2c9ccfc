//! A connection to a box's QEMU: [`crate::qmp`] over a non-blocking socket.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::PollFlags;

use crate::qmp::{BadMonitor, Command, Decoder, Event, Message};

/// Why QEMU cannot be talked to any more.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It has closed the connection.
    #[error("QEMU has closed its monitor")]
    Closed,
    /// The connection failed.
    #[error("QEMU's monitor failed")]
    Io(#[from] io::Error),
    /// It talks nonsense.
    #[error(transparent)]
    Nonsense(#[from] BadMonitor),
}

/// What QEMU said.
#[derive(Debug)]
pub enum Heard {
    /// Whether the processors run.
    Running(bool),
    /// Something happened.
    Event(Event),
    /// Carried out.
    Done(u64),
    /// Refused.
    Refused(u64, Command, String),
}

/// The connection.
pub struct Monitor {
    stream: UnixStream,
    decoder: Decoder,
    next: u64,
    pending: BTreeMap<u64, Command>,
    out: Vec<u8>,
    ready: bool,
}

impl Monitor {
    /// Connects. Its greeting, and whether the processors run, come by themselves.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_nonblocking(true)?;
        let mut monitor = Self {
            stream,
            decoder: Decoder::default(),
            next: 1,
            pending: BTreeMap::new(),
            out: Vec::new(),
            ready: false,
        };
        monitor.tell(Command::Capabilities);
        monitor.tell(Command::QueryStatus);
        Ok(monitor)
    }

    /// Queues a command; gives its number.
    pub fn tell(&mut self, command: Command) -> u64 {
        let id = self.next;
        self.next += 1;
        self.pending.insert(id, command);
        self.out.extend(command.encode(id));
        id
    }

    /// What to wait for. Nothing is said before its greeting.
    pub fn wants(&self) -> PollFlags {
        if self.ready && !self.out.is_empty() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }
    }

    /// Sends what can be sent now.
    pub fn flush(&mut self) -> Result<(), Broken> {
        while self.ready && !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(n) => drop(self.out.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Err(Broken::Closed),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Reads what is there, once.
    pub fn receive(&mut self) -> Result<Vec<Heard>, Broken> {
        let mut chunk = [0; 8192];
        let n = match self.stream.read(&mut chunk) {
            Ok(0) => return Err(Broken::Closed),
            Ok(n) => n,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Err(Broken::Closed),
            Err(e) => return Err(e.into()),
        };
        let mut heard = Vec::new();
        for message in self.decoder.push(&chunk[..n])? {
            match message {
                Message::Greeting(_) => self.ready = true,
                Message::Event(event) => heard.push(Heard::Event(event)),
                Message::Done { id, running, .. } => {
                    let command = self.pending.remove(&id);
                    match (command, running) {
                        (Some(Command::QueryStatus), Some(running)) => heard.push(Heard::Running(running)),
                        _ => heard.push(Heard::Done(id)),
                    }
                }
                Message::Refused { id, why } => {
                    heard.extend(self.pending.remove(&id).map(|command| Heard::Refused(id, command, why)));
                }
            }
        }
        Ok(heard)
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
