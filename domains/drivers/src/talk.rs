//! A short conversation with a QEMU whose machine does not run yet or no more: to load it from an image, or to save it to one. It
//! waits for each answer, with a limit; while the machine runs, [`crate::monitor`] has the connection.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::qmp::{BadMonitor, Command, Decoder, Message};

/// How often it is looked whether an image was read or written: what is waited for takes a tenth of a second.
const LOOK: Duration = Duration::from_millis(2);

/// Why it does not go on.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It has ended.
    #[error("QEMU has closed its monitor")]
    Closed,
    /// The connection failed, or nothing was said in time.
    #[error("QEMU's monitor: {0}")]
    Io(#[from] io::Error),
    /// It talks nonsense.
    #[error(transparent)]
    Nonsense(#[from] BadMonitor),
    /// It does not want to.
    #[error("QEMU refused {0:?}: {1}")]
    Refused(Command, String),
    /// The image was not read or written.
    #[error("QEMU says of the image: {0}")]
    Failed(String),
    /// It took too long.
    #[error("QEMU has not finished in time")]
    Late,
}

/// It.
pub struct Talk {
    stream: UnixStream,
    decoder: Decoder,
    heard: std::collections::VecDeque<Message>,
    next: u64,
    until: Instant,
    version: String,
}

impl Talk {
    /// Connects, and hears the greeting. Everything after has to happen within `limit`.
    pub fn begin(path: &Path, limit: Duration) -> Result<Self, Broken> {
        let mut talk = Self {
            stream: UnixStream::connect(path)?,
            decoder: Decoder::default(),
            heard: Default::default(),
            next: 1,
            until: Instant::now() + limit,
            version: String::new(),
        };
        talk.version = loop {
            if let Message::Greeting(version) = talk.hear()? {
                break version;
            }
        };
        talk.ask(Command::Capabilities)?;
        Ok(talk)
    }

    /// QEMU's version and its package's.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Has a command carried out; gives the state's word, where it has one.
    pub fn ask(&mut self, command: Command) -> Result<Option<String>, Broken> {
        self.tell(command, None)
    }

    /// Writes the machine, which is halted, to `image`.
    pub fn save(&mut self, image: BorrowedFd<'_>) -> Result<(), Broken> {
        self.with_image(Command::Save, image)
    }

    /// Reads the machine from `image`.
    pub fn load(&mut self, image: BorrowedFd<'_>) -> Result<(), Broken> {
        self.with_image(Command::Load, image)
    }

    fn with_image(&mut self, command: Command, image: BorrowedFd<'_>) -> Result<(), Broken> {
        self.ask(Command::MappedRam)?;
        self.tell(Command::TakeImage, Some(image))?;
        self.ask(command)?;
        loop {
            match self.ask(Command::QueryMigrate)?.as_deref() {
                Some("completed") => break,
                Some(word) if word.starts_with("failed") || word.starts_with("cancel") => {
                    return Err(Broken::Failed(word.to_owned()));
                }
                _ if Instant::now() >= self.until => return Err(Broken::Late),
                _ => std::thread::sleep(LOOK),
            }
        }
        self.ask(Command::DropImage).map(drop)
    }

    fn tell(&mut self, command: Command, fd: Option<BorrowedFd<'_>>) -> Result<Option<String>, Broken> {
        let id = self.next;
        self.next += 1;
        let line = command.encode(id);
        match fd {
            None => self.stream.write_all(&line)?,
            Some(fd) => {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                let fds = [fd];
                ancillary.push(SendAncillaryMessage::ScmRights(&fds));
                let parts = [IoSlice::new(&line)];
                let sent =
                    rustix::net::sendmsg(self.stream.as_fd(), &parts, &mut ancillary, SendFlags::NOSIGNAL)
                        .map_err(io::Error::from)?;
                // The descriptor went with the first byte.
                self.stream.write_all(line.get(sent..).unwrap_or_default())?;
            }
        }
        loop {
            match self.hear()? {
                Message::Done { id: of, status, .. } if of == id => return Ok(status),
                Message::Refused { id: of, why } if of == id => return Err(Broken::Refused(command, why)),
                _ => {}
            }
        }
    }

    fn hear(&mut self) -> Result<Message, Broken> {
        loop {
            if let Some(message) = self.heard.pop_front() {
                return Ok(message);
            }
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Broken::Late);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut chunk = [0; 8192];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Broken::Closed),
                Ok(n) => self.heard.extend(self.decoder.push(&chunk[..n])?),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(Broken::Late),
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Err(Broken::Closed),
                Err(e) => return Err(e.into()),
            }
        }
    }
}
