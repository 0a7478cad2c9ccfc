//! One TLS connection to another member: frames in, frames out, on one thread that sleeps until there is something to do.
//!
//! What the peer sends is bounded before it is kept; a peer that does not read, or does not go on, is given up after a time. What
//! frames mean is the engines' business.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gtvp_protocol::frame::{Frame, FrameReader, Limits};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustls::Connection;

use crate::tls::{self, Facts};

/// How long a TLS handshake may take: a discrete TPM signs in 100 to 500 ms, and another end may be far.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a peer may read nothing while something waits for it.
const STALLED: Duration = Duration::from_secs(20);
/// Frames that wait here while we write, bytes: a peer that sends more waits itself.
const INBOX: usize = 8 * 1024 * 1024;
/// Bytes of one read.
const CHUNK: usize = 16 * 1024;

/// Wakes a link's thread from another one.
#[derive(Debug, Clone)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// A new one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Wakes.
    pub fn wake(&self) {
        // Full means that it is awake already.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    fn was_woken(&self) -> bool {
        rustix::io::read(&*self.0, &mut [0; 8]).is_ok()
    }
}

/// What a link has for its thread.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// A frame came.
    Frame(Frame),
    /// Somebody woke us.
    Woken,
    /// The time came.
    Time,
    /// The peer ended the connection, or it broke.
    Ended,
}

/// See the module.
pub struct Link {
    socket: TcpStream,
    tls: Connection,
    frames: FrameReader,
    inbox: VecDeque<Frame>,
    waiting: usize,
    ended: bool,
    waker: Waker,
}

impl Link {
    /// Shakes hands over a connected socket. Frames are bounded by `limits`.
    ///
    /// # Errors
    /// The connection's; a peer that is no member of anything, or too slow.
    pub fn begin(socket: TcpStream, tls: Connection, limits: Limits) -> io::Result<(Self, Facts)> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let frames = FrameReader::new(limits);
        let waker = Waker::new()?;
        let mut link = Self { socket, tls, frames, inbox: VecDeque::new(), waiting: 0, ended: false, waker };
        let deadline = Instant::now() + HANDSHAKE;
        while link.tls.is_handshaking() {
            if link.ended {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            link.turn(Some(deadline))?;
            if Instant::now() >= deadline {
                return Err(io::Error::new(ErrorKind::TimedOut, "the TLS handshake took too long"));
            }
        }
        link.flush()?;
        let facts = tls::facts(&link.tls)?;
        Ok((link, facts))
    }

    /// What wakes this link's thread.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Sends a frame, reading meanwhile, so that two ends that both send much do not wait for each other.
    ///
    /// # Errors
    /// The connection's; a peer that reads nothing.
    pub fn send(&mut self, frame: &Frame) -> io::Result<()> {
        let bytes = frame.encode().ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
        for piece in bytes.chunks(CHUNK) {
            self.tls.writer().write_all(piece)?;
            self.flush()?;
        }
        Ok(())
    }

    /// What comes next, until `until`.
    ///
    /// # Errors
    /// The peer sent what is no frame, or no TLS.
    pub fn next(&mut self, until: Option<Instant>) -> io::Result<Heard> {
        loop {
            if let Some(frame) = self.inbox.pop_front() {
                self.waiting = self.waiting.saturating_sub(frame.body.len());
                return Ok(Heard::Frame(frame));
            }
            if self.ended {
                return Ok(Heard::Ended);
            }
            if self.turn(until)? {
                return Ok(Heard::Woken);
            }
            if self.inbox.is_empty() && until.is_some_and(|at| Instant::now() >= at) {
                return Ok(Heard::Time);
            }
        }
    }

    /// Says goodbye, as far as the peer still takes it.
    pub fn end(mut self) {
        self.tls.send_close_notify();
        let _ = self.flush();
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut deadline = Instant::now() + STALLED;
        while self.tls.wants_write() && !self.ended {
            let before = Instant::now();
            match self.tls.write_tls(&mut self.socket) {
                Ok(0) => self.ended = true,
                Ok(_) => deadline = before + STALLED,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    if before >= deadline {
                        return Err(io::Error::new(ErrorKind::TimedOut, "the peer reads nothing"));
                    }
                    self.turn(Some(deadline))?;
                }
                Err(e) => return Err(e),
            }
        }
        if self.ended && self.tls.wants_write() { Err(ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }

    /// Sleeps until there is something to do or `until`; does it. True when somebody woke us.
    fn turn(&mut self, until: Option<Instant>) -> io::Result<bool> {
        let mut wanted = PollFlags::empty();
        if self.waiting < INBOX {
            wanted |= PollFlags::IN;
        }
        if self.tls.wants_write() {
            wanted |= PollFlags::OUT;
        }
        let left = until.map(|at| at.saturating_duration_since(Instant::now()));
        // Rounded up, so that a deadline is over when it is looked at.
        let left = left.and_then(|l| Timespec::try_from(l + Duration::from_micros(1)).ok());
        let mut fds = [
            PollFd::new(&self.socket, wanted),
            PollFd::from_borrowed_fd(self.waker.0.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let [socket, waker] = &fds;
        let (ready, woken) = (socket.revents(), !waker.revents().is_empty());
        if ready.contains(PollFlags::OUT) {
            match self.tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(e) => return Err(e),
            }
        }
        if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.read()?;
        }
        Ok(woken && self.waker.was_woken())
    }

    fn read(&mut self) -> io::Result<()> {
        match self.tls.read_tls(&mut self.socket) {
            Ok(0) => self.ended = true,
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => self.ended = true,
            Err(e) => return Err(e),
        }
        if let Err(e) = self.tls.process_new_packets() {
            // The alert that tells the peer why.
            let _ = self.tls.write_tls(&mut self.socket);
            return Err(io::Error::new(ErrorKind::InvalidData, e));
        }
        let mut chunk = [0; CHUNK];
        loop {
            match self.tls.reader().read(&mut chunk) {
                Ok(0) => {
                    self.ended = true;
                    return Ok(());
                }
                Ok(n) => self.take(chunk.get(..n).unwrap_or_default())?,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                // The connection was cut without a goodbye.
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
                    self.ended = true;
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let frame =
                self.frames.read(&mut bytes).map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
            if let Some(frame) = frame {
                self.waiting = self.waiting.saturating_add(frame.body.len());
                self.inbox.push_back(frame);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::tls::Ends;
    use crate::tls::software::Software;

    fn limits(kind: u8) -> Option<usize> {
        (kind < 3).then_some(4 * 1024 * 1024)
    }

    /// Two ends over a real socket.
    fn pair() -> (Link, Link) {
        let (listener, calling, called) = sockets();
        let address = listener.local_addr().unwrap();
        let dialled = std::thread::spawn(move || {
            Link::begin(TcpStream::connect(address).unwrap(), calling, limits).unwrap().0
        });
        let (socket, _) = listener.accept().unwrap();
        let server = Link::begin(socket, called, limits).unwrap().0;
        (dialled.join().unwrap(), server)
    }

    fn sockets() -> (TcpListener, Connection, Connection) {
        let (a, b) = (Ends::new(Software::new()).unwrap(), Ends::new(Software::new()).unwrap());
        (TcpListener::bind("127.0.0.1:0").unwrap(), a.calling().unwrap(), b.called().unwrap())
    }

    fn frame(kind: u8, size: usize) -> Frame {
        Frame { kind, body: vec![kind; size] }
    }

    #[test]
    fn two_ends_that_send_much_at_once_both_arrive() {
        let (mut a, mut b) = pair();
        const EACH: usize = 3 * 1024 * 1024;
        let there = std::thread::spawn(move || {
            b.send(&frame(1, EACH)).unwrap();
            let heard = b.next(None).unwrap();
            b.send(&frame(2, 0)).unwrap();
            (heard, b)
        });
        a.send(&frame(0, EACH)).unwrap();
        assert_eq!(a.next(None).unwrap(), Heard::Frame(frame(1, EACH)));
        assert_eq!(a.next(None).unwrap(), Heard::Frame(frame(2, 0)));
        let (heard, b) = there.join().unwrap();
        assert_eq!(heard, Heard::Frame(frame(0, EACH)));
        b.end();
        assert_eq!(a.next(None).unwrap(), Heard::Ended);
        assert!(a.send(&frame(0, EACH)).is_err());
    }

    #[test]
    fn it_wakes_for_others_and_for_the_time() {
        let (mut a, _b) = pair();
        assert_eq!(a.next(Some(Instant::now())).unwrap(), Heard::Time);
        let waker = a.waker();
        let other = std::thread::spawn(move || waker.wake());
        assert_eq!(a.next(None).unwrap(), Heard::Woken);
        other.join().unwrap();
    }

    #[test]
    fn a_frame_that_is_too_long_or_unknown_ends_it() {
        for bad in [frame(3, 1), frame(1, 4 * 1024 * 1024 + 1)] {
            let (mut a, mut b) = pair();
            let there = std::thread::spawn(move || {
                let _ = b.send(&bad);
                b
            });
            assert_eq!(a.next(None).unwrap_err().kind(), ErrorKind::InvalidData);
            drop(a);
            drop(there.join().unwrap());
        }
    }

    #[test]
    fn whoever_speaks_no_tls_is_no_link() {
        let (listener, _, called) = sockets();
        let address = listener.local_addr().unwrap();
        let stranger = std::thread::spawn(move || {
            let mut socket = TcpStream::connect(address).unwrap();
            socket.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
            let mut answer = Vec::new();
            let _ = socket.read_to_end(&mut answer);
        });
        let (socket, _) = listener.accept().unwrap();
        assert!(Link::begin(socket, called, limits).is_err());
        stranger.join().unwrap();
        let (listener, _, called) = sockets();
        drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let (socket, _) = listener.accept().unwrap();
        assert!(Link::begin(socket, called, limits).is_err());
    }
}
