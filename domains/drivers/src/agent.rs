//! The host's end of a box's agent port: frames in and out of one non-blocking socket. What they mean is decided
//! elsewhere.
//!
//! Nothing that the guest says is believed before its Welcome has brought back this connection's nonce: what QEMU still
//! had of an earlier connection is skipped.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use gtvp_model::guest::{Decoder, Frame, FrameKind, PROTOCOL, ToGuest, ToHost};

/// Most bytes that wait for the guest to read them. Past it no new command is started in it.
const MOST_WAITING: usize = 4 * 1024 * 1024;
/// Past so many nothing more is read of the guest either: each of its messages can need an answer.
const MOST_OWED: usize = 2 * MOST_WAITING;
/// Sent bytes that are kept until all is sent; more are let go of before.
const MOST_SENT: usize = 1024 * 1024;
/// Most bytes of nonsense: a torn frame (256 KiB, skipped and tried) after each of a few reconnections is in order, more is not.
const MOST_SKIPPED: u64 = 2 * 1024 * 1024;
/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// What the guest said.
#[derive(Debug)]
pub enum Said {
    /// A message.
    Control(ToHost),
    /// Bytes of an exec stream.
    Data {
        /// See [`gtvp_model::guest::split_stream`].
        stream: u32,
        /// The bytes; empty is end of file.
        bytes: Vec<u8>,
    },
}

/// Why the port is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// QEMU has closed it.
    #[error("QEMU has closed the guest's port")]
    Closed,
    /// It failed.
    #[error("the guest's port failed")]
    Io(#[from] io::Error),
    /// The guest talks nonsense.
    #[error("the guest sent more than {MOST_SKIPPED} bytes of nonsense")]
    Nonsense,
}

/// The connection.
pub struct Agent {
    stream: UnixStream,
    decoder: Decoder,
    nonce: u64,
    welcomed: bool,
    out: Vec<u8>,
    sent: usize,
}

impl Agent {
    /// Connects, and says Hello.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let mut nonce = [0u8; 8];
        rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty())?;
        Self::over(UnixStream::connect(path)?, u64::from_ne_bytes(nonce))
    }

    /// Over a socket that is connected already.
    pub fn over(stream: UnixStream, nonce: u64) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let mut agent =
            Self { stream, decoder: Decoder::new(), nonce, welcomed: false, out: Vec::new(), sent: 0 };
        agent.send(&Frame::control(&ToGuest::Hello { protocol: PROTOCOL, nonce }));
        Ok(agent)
    }

    /// Queues a frame.
    pub fn send(&mut self, frame: &Frame) {
        self.out.extend_from_slice(&frame.encode());
    }

    /// Whether bytes wait to be sent.
    pub fn wants_write(&self) -> bool {
        self.sent < self.out.len()
    }

    /// Whether so many bytes wait that nothing new should be begun.
    pub fn congested(&self) -> bool {
        self.out.len() - self.sent > MOST_WAITING
    }

    /// Whether so many bytes wait that the guest is not to be heard before it has read some.
    pub fn flooded(&self) -> bool {
        self.out.len() - self.sent > MOST_OWED
    }

    /// Sends what can be sent now.
    pub fn flush(&mut self) -> Result<(), Broken> {
        while self.wants_write() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(n) => {
                    self.sent += n;
                    if self.sent > MOST_SENT {
                        self.out.drain(..self.sent);
                        self.sent = 0;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Err(Broken::Closed),
                Err(e) => return Err(e.into()),
            }
        }
        self.out = Vec::new();
        self.sent = 0;
        Ok(())
    }

    /// Reads what is there, once.
    pub fn receive(&mut self) -> Result<Vec<Said>, Broken> {
        let mut chunk = vec![0; CHUNK];
        let n = match self.stream.read(&mut chunk) {
            Ok(0) => return Err(Broken::Closed),
            Ok(n) => n,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Err(Broken::Closed),
            Err(e) => return Err(e.into()),
        };
        self.decoder.push(&chunk[..n]);
        let mut said = Vec::new();
        while let Some(frame) = self.decoder.next_frame() {
            said.extend(self.understand(frame));
        }
        if self.decoder.skipped() > MOST_SKIPPED {
            return Err(Broken::Nonsense);
        }
        Ok(said)
    }

    fn understand(&mut self, frame: Frame) -> Option<Said> {
        let said = match frame.kind {
            FrameKind::Data => Said::Data { stream: frame.stream, bytes: frame.payload },
            // A message of another version, or nonsense: nothing to do about either.
            FrameKind::Control => Said::Control(serde_json::from_slice(&frame.payload).ok()?),
        };
        if let Said::Control(ToHost::Welcome { nonce, .. }) = &said {
            self.welcomed |= *nonce == self.nonce;
            return (*nonce == self.nonce).then_some(said);
        }
        self.welcomed.then_some(said)
    }
}

impl AsFd for Agent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gtvp_model::guest::GuestState;

    #[test]
    fn what_an_earlier_connection_left_behind_is_not_believed() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut agent = Agent::over(ours, 7).unwrap();
        let old = Frame::control(&ToHost::State(GuestState::Running { ready: true })).encode();
        let welcome = |nonce| {
            Frame::control(&ToHost::Welcome {
                protocol: PROTOCOL,
                nonce,
                state: GuestState::Waiting,
                uptime_ms: 1,
            })
            .encode()
        };
        let mut wire = old[5..].to_vec();
        wire.extend(&old);
        wire.extend(welcome(6));
        wire.extend(welcome(7));
        wire.extend(&old);
        (&theirs).write_all(&wire).unwrap();
        let said = agent.receive().unwrap();
        assert!(matches!(
            said.as_slice(),
            [Said::Control(ToHost::Welcome { nonce: 7, .. }), Said::Control(ToHost::State(_))]
        ));
        drop(theirs);
        assert!(matches!(agent.receive(), Err(Broken::Closed)));
    }

    #[test]
    fn a_guest_that_never_reads_all_makes_nothing_grow() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut agent = Agent::over(ours, 7).unwrap();
        let frame = Frame::control(&ToGuest::AckOutput { seq: 1 });
        while !agent.congested() {
            agent.send(&frame);
        }
        let mut chunk = vec![0; 65536];
        for _ in 0..1000 {
            agent.flush().unwrap();
            let mut read = (&theirs).read(&mut chunk).unwrap();
            while read > 0 {
                agent.send(&frame);
                read = read.saturating_sub(frame.encode().len());
            }
        }
        assert!(agent.wants_write() && !agent.flooded());
        assert!(agent.out.len() < MOST_WAITING + 2 * MOST_SENT, "{} bytes are held", agent.out.len());
    }

    #[test]
    fn a_guest_that_talks_nonsense_is_given_up() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut agent = Agent::over(ours, 7).unwrap();
        let flood = std::thread::spawn(move || while (&theirs).write_all(&[b'x'; 65536]).is_ok() {});
        let broken = loop {
            if let Err(e) = agent.receive() {
                break e;
            }
        };
        assert!(matches!(broken, Broken::Nonsense));
        drop(agent);
        flood.join().unwrap();
    }
}
