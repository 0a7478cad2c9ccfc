//! The virtio-serial port: frames both ways, and whether a host is there. Nothing here blocks.
//!
//! A port whose other side is not connected reports HUP for as long as that lasts, so it is not polled then: the
//! kernel's SIGIO says when the other side has come.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use gtvp_model::guest::{Decoder, Frame, PORT, ToGuest, ToHost};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Bytes that wait for the port before the application's pipes and the sessions are left unread.
const FULL: usize = 128 * 1024;
/// Bytes that wait for the port before the host is not read either: answers to what it asks would grow without bound.
const STUFFED: usize = 1024 * 1024;
/// One read of the port. The driver hands out one buffer of a page at a time.
const READ: usize = 32 * 1024;
/// A frame that has not come whole after this long may be the torn end of a connection that went while nobody looked.
const TORN: Duration = Duration::from_millis(250);
/// Looking again for the port's name.
const FIND_PAUSE: Duration = Duration::from_millis(10);

/// Why there is no port.
#[derive(Debug, thiserror::Error)]
pub enum NoPort {
    /// No port of that name came.
    #[error("no virtio port {PORT} in {0:?}")]
    Absent(Duration),
    /// It is there and cannot be used.
    #[error("port {0} cannot be opened: {1}")]
    Open(PathBuf, io::Error),
}

/// The way to the host.
pub struct Link {
    port: OwnedFd,
    decoder: Decoder,
    out: VecDeque<u8>,
    there: bool,
    torn_at: Option<Instant>,
}

/// What reading brought.
#[derive(Debug, Default)]
pub struct Received {
    /// Whole frames, in order.
    pub frames: Vec<Frame>,
    /// The host was found to be gone (after those frames).
    pub gone: bool,
}

impl Link {
    /// Waits for the port, at most `limit`, and opens it.
    pub fn open(limit: Duration) -> Result<Self, NoPort> {
        let end = Instant::now() + limit;
        let path = loop {
            if let Some(path) = find() {
                break path;
            }
            if Instant::now() >= end {
                return Err(NoPort::Absent(limit));
            }
            std::thread::sleep(FIND_PAUSE);
        };
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let port = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(io::Error::from)
            .and_then(|port| ask_for_sigio(&port).map(|()| port))
            .map_err(|e| NoPort::Open(path, e))?;
        Ok(Self { port, decoder: Decoder::new(), out: VecDeque::new(), there: true, torn_at: None })
    }

    /// Whether the host was there when last looked.
    pub fn there(&self) -> bool {
        self.there
    }

    /// Whether bulk data may be added.
    pub fn has_room(&self) -> bool {
        self.there && self.out.len() < FULL
    }

    /// What to poll for; nothing while the host is away.
    pub fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, self.out.len() < STUFFED);
        flags.set(PollFlags::OUT, !self.out.is_empty());
        self.there.then(|| (self.port.as_fd(), flags))
    }

    /// When to look at a frame that does not end.
    pub fn due(&self) -> Option<Instant> {
        self.torn_at
    }

    /// Looks whether a host that was away has come: to be asked after each signal.
    pub fn look(&mut self) -> bool {
        self.there = !self.there && !self.hung_up();
        self.there
    }

    fn hung_up(&self) -> bool {
        let mut fds = [PollFd::new(&self.port, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_err() || fds[0].revents().contains(PollFlags::HUP)
    }

    /// The host is away: nothing of either direction's beginnings is left.
    fn lose(&mut self) {
        self.there = false;
        self.decoder = Decoder::new();
        self.out.clear();
        self.torn_at = None;
    }

    /// Reads what has come.
    pub fn receive(&mut self, now: Instant) -> Received {
        let mut received = Received::default();
        if self.out.len() >= STUFFED && !self.hung_up() {
            return received;
        }
        let mut buffer = vec![0; READ];
        while received.frames.len() < 64 {
            match rustix::io::read(&self.port, buffer.as_mut_slice()) {
                Ok(0) => {
                    received.gone = true;
                    break;
                }
                Ok(n) => {
                    self.decoder.push(&buffer[..n]);
                    self.torn_at = Some(now + TORN);
                    received.frames.extend(std::iter::from_fn(|| self.decoder.next_frame()));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    received.gone = true;
                    break;
                }
            }
        }
        if self.decoder.unfinished().is_empty() {
            self.torn_at = None;
        }
        if received.gone {
            self.lose();
        }
        received
    }

    /// If a frame has not ended for too long and a Hello stands in it, another host has come in the middle: gives the
    /// frames from that Hello on.
    pub fn torn(&mut self, now: Instant) -> Vec<Frame> {
        if self.torn_at.is_none_or(|at| now < at) {
            return Vec::new();
        }
        self.torn_at = None;
        let Some((frames, rest)) = hello_within(self.decoder.unfinished()) else { return Vec::new() };
        self.decoder = rest;
        frames
    }

    /// Queues a message. It is dropped when the host is away: who comes is told the state anew.
    pub fn send(&mut self, message: &ToHost) {
        self.send_frame(&Frame::control(message));
    }

    /// Queues a frame.
    pub fn send_frame(&mut self, frame: &Frame) {
        if self.there {
            self.out.extend(frame.encode());
        }
    }

    /// Writes what the port takes.
    pub fn flush(&mut self) {
        while self.there && !self.out.is_empty() {
            let (front, _) = self.out.as_slices();
            match rustix::io::write(&self.port, front) {
                Ok(n) => {
                    self.out.drain(..n);
                }
                Err(Errno::INTR) => {}
                // Full, or the host is away: reading finds out which.
                Err(_) => break,
            }
        }
    }

    /// Whether everything was handed to the port.
    pub fn flushed(&self) -> bool {
        self.out.is_empty()
    }
}

/// The device of the port with our name.
fn find() -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    let ours = |dir: &fs::DirEntry| {
        fs::read_to_string(dir.path().join("name")).is_ok_and(|name| name.trim_end() == PORT)
    };
    ports
        .flatten()
        .find(ours)
        .map(|dir| PathBuf::from("/dev").join(dir.file_name()))
        .filter(|dev| dev.exists())
}

/// Has the kernel send this process SIGIO when the port's other side comes or goes.
fn ask_for_sigio(port: &OwnedFd) -> io::Result<()> {
    let fd = port.as_raw_fd();
    // SAFETY: fcntl with commands that take and give numbers, on a descriptor that is open.
    let failed = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        flags < 0
            || libc::fcntl(fd, libc::F_SETOWN, libc::getpid()) < 0
            || libc::fcntl(fd, libc::F_SETFL, flags | libc::O_ASYNC) < 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The frames of `bytes` from a Hello on that stands in it behind its first byte, and a decoder with what is left.
fn hello_within(bytes: &[u8]) -> Option<(Vec<Frame>, Decoder)> {
    let mut decoder = Decoder::new();
    decoder.push(bytes.get(1..)?);
    let mut frames: Vec<Frame> = std::iter::from_fn(|| decoder.next_frame()).collect();
    let is_hello =
        |f: &Frame| matches!(serde_json::from_slice::<ToGuest>(&f.payload), Ok(ToGuest::Hello { .. }));
    let first = frames.iter().position(is_hello)?;
    Some((frames.split_off(first), decoder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_inside_a_torn_frame_is_found() {
        let hello = Frame::control(&ToGuest::Hello { protocol: 1, nonce: 9 });
        let mut wire = Frame::data(16, vec![7; 1000]).encode();
        wire.truncate(500);
        assert!(hello_within(&wire).is_none());
        wire.extend(hello.encode());
        wire.extend_from_slice(b"GTV1");
        let (frames, rest) = hello_within(&wire).unwrap();
        assert_eq!(frames, [hello]);
        assert_eq!(rest.unfinished(), b"GTV1");
    }
}
