//! One TLS connection to another member: frames in, frames out, on one thread that sleeps until there is something to do.
//!
//! Sending never waits: what is sent waits here while frames go on coming in, so that two ends that both send much do not wait for
//! each other. What the peer sends is bounded before it is kept, frame by frame; a peer that does not read, or does not go on, is
//! given up after a time. What frames mean is the engines' business.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
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
/// How long the last words may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// Bytes that wait here to become frames: a peer that sends more waits itself.
const PENDING: usize = 256 * 1024;
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

/// How long a connection took to become a channel, from its first packet on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Took {
    /// Until TLS was done.
    pub tls: Duration,
    /// Until both had proved themselves.
    pub all: Duration,
}

/// See the module.
pub struct Link {
    socket: TcpStream,
    tls: Connection,
    frames: FrameReader,
    /// Came, and is no frame yet.
    pending: VecDeque<u8>,
    /// Is to go.
    outbox: VecDeque<(Vec<u8>, usize)>,
    waiting: usize,
    stalled: Option<Instant>,
    ended: bool,
    waker: Waker,
    begun: Instant,
    shook: Duration,
}

impl Link {
    /// Shakes hands over a connected socket, which was begun on at `begun`. Frames are bounded by `limits`.
    ///
    /// # Errors
    /// The connection's; a peer that is no member of anything, or too slow.
    pub fn begin(
        socket: TcpStream,
        begun: Instant,
        tls: Connection,
        limits: Limits,
    ) -> io::Result<(Self, Facts)> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let mut link = Self {
            socket,
            tls,
            frames: FrameReader::new(limits),
            pending: VecDeque::new(),
            outbox: VecDeque::new(),
            waiting: 0,
            stalled: None,
            ended: false,
            waker: Waker::new()?,
            begun,
            shook: Duration::ZERO,
        };
        let deadline = Instant::now() + HANDSHAKE;
        while link.tls.is_handshaking() || link.tls.wants_write() {
            if link.ended {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            link.turn(Some(deadline))?;
            if Instant::now() >= deadline {
                return Err(io::Error::new(ErrorKind::TimedOut, "the TLS handshake took too long"));
            }
        }
        let facts = tls::facts(&link.tls)?;
        link.shook = begun.elapsed();
        Ok((link, facts))
    }

    /// How long TLS took, and all until now.
    pub fn took(&self) -> Took {
        Took { tls: self.shook, all: self.begun.elapsed() }
    }

    /// What wakes this link's thread.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// The address that the peer reaches us by.
    ///
    /// # Errors
    /// The kernel's.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// From the next frame on, other frames are taken. To be called when a frame has just come.
    pub fn bound_by(&mut self, limits: Limits) {
        self.frames = FrameReader::new(limits);
    }

    /// Sends a frame, behind those that wait. It goes while [`Self::next`] is called.
    ///
    /// # Errors
    /// A frame longer than any can be.
    pub fn send(&mut self, frame: &Frame) -> io::Result<()> {
        let bytes = frame.encode().ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
        self.waiting = self.waiting.saturating_add(bytes.len());
        self.outbox.push_back((bytes, 0));
        self.fill()
    }

    /// Bytes that wait to go.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// What comes next, until `until`. Without `frames`, those that came wait.
    ///
    /// # Errors
    /// The peer sent what is no frame, or no TLS; it reads nothing.
    pub fn next(&mut self, until: Option<Instant>, frames: bool) -> io::Result<Heard> {
        loop {
            if frames {
                if let Some(frame) = self.frame()? {
                    return Ok(Heard::Frame(frame));
                }
                if self.ended {
                    return Ok(Heard::Ended);
                }
            }
            if self.turn(until)? {
                return Ok(Heard::Woken);
            }
            if until.is_some_and(|at| Instant::now() >= at) {
                return Ok(Heard::Time);
            }
        }
    }

    /// Says what is still to be said, and goodbye, as far as the peer takes it.
    pub fn end(mut self) {
        let deadline = Instant::now() + GOODBYE;
        let mut told = false;
        while !self.ended && Instant::now() < deadline {
            if self.outbox.is_empty() && !told {
                self.tls.send_close_notify();
                told = true;
            }
            if told && !self.tls.wants_write() {
                // Whoever closes with bytes unread takes back what it said: they are read until the peer has heard it.
                let _ = self.socket.shutdown(Shutdown::Write);
            }
            self.pending.clear();
            if self.turn(Some(deadline)).is_err() {
                return;
            }
        }
    }

    fn frame(&mut self) -> io::Result<Option<Frame>> {
        while !self.pending.is_empty() {
            let (mut bytes, _) = self.pending.as_slices();
            let before = bytes.len();
            let frame =
                self.frames.read(&mut bytes).map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
            let used = before - bytes.len();
            self.pending.drain(..used);
            if frame.is_some() {
                return Ok(frame);
            }
        }
        Ok(None)
    }

    /// Hands TLS what it takes of what is to go.
    fn fill(&mut self) -> io::Result<()> {
        while !self.tls.wants_write() {
            let Some((bytes, gone)) = self.outbox.front_mut() else { return Ok(()) };
            let rest = bytes.get(*gone..).unwrap_or_default();
            let n = self.tls.writer().write(rest.get(..CHUNK).unwrap_or(rest))?;
            *gone += n;
            self.waiting = self.waiting.saturating_sub(n);
            if *gone >= bytes.len() {
                self.outbox.pop_front();
            }
        }
        Ok(())
    }

    /// Sleeps until there is something to do or `until`; does it. True when somebody woke us.
    fn turn(&mut self, until: Option<Instant>) -> io::Result<bool> {
        if self.ended {
            self.stalled = None;
        } else {
            self.fill()?;
        }
        let mut wanted = PollFlags::empty();
        if self.pending.len() < PENDING {
            wanted |= PollFlags::IN;
        }
        if self.tls.wants_write() {
            wanted |= PollFlags::OUT;
            self.stalled.get_or_insert_with(|| Instant::now() + STALLED);
        }
        let until = match (until, self.stalled) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let left = until.map(|at| at.saturating_duration_since(Instant::now()));
        // Rounded up, so that a deadline is over when it is looked at.
        let left = left.and_then(|l| Timespec::try_from(l + Duration::from_micros(1)).ok());
        let waker = PollFd::from_borrowed_fd(self.waker.0.as_fd(), PollFlags::IN);
        // A connection that has ended is always ready, and has nothing more.
        let (ready, woken) = if self.ended || wanted.is_empty() {
            let mut fds = [waker];
            wait(&mut fds, left.as_ref())?;
            let [waker] = &fds;
            (PollFlags::empty(), !waker.revents().is_empty())
        } else {
            let mut fds = [PollFd::new(&self.socket, wanted), waker];
            wait(&mut fds, left.as_ref())?;
            let [socket, waker] = &fds;
            (socket.revents(), !waker.revents().is_empty())
        };
        if ready.intersects(PollFlags::OUT | PollFlags::HUP | PollFlags::ERR) && self.tls.wants_write() {
            self.write()?;
        }
        if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.read()?;
        }
        if self.stalled.is_some_and(|at| Instant::now() >= at) && !self.ended {
            return Err(io::Error::new(ErrorKind::TimedOut, "the peer reads nothing"));
        }
        Ok(woken && self.waker.was_woken())
    }

    fn write(&mut self) -> io::Result<()> {
        match self.tls.write_tls(&mut self.socket) {
            Ok(0) => self.ended = true,
            Ok(_) => self.stalled = None,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // What came before it is still to be read.
            Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                self.read()?;
                self.ended = true;
            }
            Err(e) => return Err(e),
        }
        Ok(())
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
                Ok(n) => self.pending.extend(chunk.get(..n).unwrap_or_default()),
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
}

fn wait(fds: &mut [PollFd<'_>], left: Option<&Timespec>) -> io::Result<()> {
    match poll(fds, left) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
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
            Link::begin(TcpStream::connect(address).unwrap(), Instant::now(), calling, limits).unwrap().0
        });
        let (socket, _) = listener.accept().unwrap();
        let server = Link::begin(socket, Instant::now(), called, limits).unwrap().0;
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
            let heard = b.next(None, true).unwrap();
            b.send(&frame(2, 0)).unwrap();
            // It goes while it listens.
            assert_eq!(b.next(None, true).unwrap(), Heard::Frame(frame(2, 1)));
            (heard, b)
        });
        a.send(&frame(0, EACH)).unwrap();
        assert_eq!(a.next(None, true).unwrap(), Heard::Frame(frame(1, EACH)));
        assert_eq!(a.next(None, true).unwrap(), Heard::Frame(frame(2, 0)));
        a.send(&frame(2, 1)).unwrap();
        assert_eq!(a.next(Some(Instant::now()), true).unwrap(), Heard::Time);
        let (heard, mut b) = there.join().unwrap();
        assert_eq!(heard, Heard::Frame(frame(0, EACH)));
        b.send(&frame(0, 7)).unwrap();
        let ended = std::thread::spawn(move || b.end());
        assert_eq!(a.next(Some(Instant::now() + HANDSHAKE / 100), false).unwrap(), Heard::Time, "held back");
        ended.join().unwrap();
        assert_eq!(a.next(None, true).unwrap(), Heard::Frame(frame(0, 7)));
        assert_eq!(a.next(None, true).unwrap(), Heard::Ended);
    }

    #[test]
    fn it_wakes_for_others_and_for_the_time() {
        let (mut a, _b) = pair();
        assert_eq!(a.next(Some(Instant::now()), true).unwrap(), Heard::Time);
        let waker = a.waker();
        let other = std::thread::spawn(move || waker.wake());
        assert_eq!(a.next(None, true).unwrap(), Heard::Woken);
        other.join().unwrap();
    }

    #[test]
    fn a_frame_that_is_too_long_or_unknown_ends_it() {
        for bad in [frame(3, 1), frame(1, 4 * 1024 * 1024 + 1)] {
            let (mut a, mut b) = pair();
            let there = std::thread::spawn(move || {
                b.send(&bad).unwrap();
                let _ = b.next(None, true);
                b
            });
            assert_eq!(a.next(None, true).unwrap_err().kind(), ErrorKind::InvalidData);
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
        assert!(Link::begin(socket, Instant::now(), called, limits).is_err());
        stranger.join().unwrap();
        let (listener, _, called) = sockets();
        drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let (socket, _) = listener.accept().unwrap();
        assert!(Link::begin(socket, Instant::now(), called, limits).is_err());
    }
}
