//! vhost-user's messages (QEMU docs/interop/vhost-user.rst), the back end's side, as far as virtio-fs needs them.
//!
//! A message is looked at first and taken from the socket only when its effect is safe with the supervisor: a process that
//! dies in between leaves it to the next one.

use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::memory::{MAX_REGIONS, Region};

/// VIRTIO_F_VERSION_1.
pub const VERSION_1: u64 = 1 << 32;
/// VHOST_USER_F_PROTOCOL_FEATURES.
pub const PROTOCOL_FEATURES: u64 = 1 << 30;
/// VIRTIO_RING_F_EVENT_IDX.
pub const EVENT_INDEX: u64 = 1 << 29;
/// VHOST_F_LOG_ALL. QEMU saves no machine whose back end does not offer it; see [`Message::SetLogBase`].
pub const LOG_ALL: u64 = 1 << 26;
/// VIRTIO_RING_F_INDIRECT_DESC.
pub const INDIRECT: u64 = 1 << 28;
/// VHOST_USER_PROTOCOL_F_MQ: says how many queues there may be.
pub const PROTOCOL_MQ: u64 = 1;
/// VHOST_USER_PROTOCOL_F_LOG_SHMFD: as [`LOG_ALL`].
pub const PROTOCOL_LOG: u64 = 1 << 1;
/// VHOST_USER_PROTOCOL_F_DEVICE_STATE: the back end's state travels in QEMU's stream.
pub const PROTOCOL_STATE: u64 = 1 << 19;
/// VHOST_USER_PROTOCOL_F_REPLY_ACK.
pub const PROTOCOL_REPLY_ACK: u64 = 1 << 3;

const HEADER: usize = 12;
/// The longest that is understood: a full memory table.
const MAX_PAYLOAD: usize = 8 + MAX_REGIONS * 32;
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;
/// How often a message that has not arrived in full is looked at again, a millisecond apart. QEMU sends each in one piece.
const MAX_LOOKS: u32 = 1000;

/// Descriptor numbers of rings: bit 8 says that there is none.
const NO_DESCRIPTOR: u64 = 1 << 8;

/// What QEMU asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Message {
    GetFeatures,
    SetFeatures(u64),
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetQueueNum,
    /// SET_OWNER, RESET_OWNER, SET_VRING_ERR and the like: nothing to do.
    Ignored,
    /// Where to note which pages were written. It is answered and nothing more: QEMU then asks for [`LOG_ALL`], which is refused,
    /// so a machine is saved only while it is stopped.
    SetLogBase,
    /// Where to write the state to, or to read it from.
    SetDeviceState {
        load: bool,
    },
    /// Whether that worked.
    CheckDeviceState,
    SetMemTable(Vec<Region>),
    SetVringNum {
        queue: usize,
        size: u32,
    },
    SetVringAddr {
        queue: usize,
        descriptors: u64,
        used: u64,
        available: u64,
    },
    SetVringBase {
        queue: usize,
        base: u32,
    },
    GetVringBase {
        queue: usize,
    },
    SetVringKick {
        queue: usize,
        descriptor: bool,
    },
    SetVringCall {
        queue: usize,
        descriptor: bool,
    },
    SetVringEnable {
        queue: usize,
        on: bool,
    },
    /// Not known, or malformed.
    Unknown,
}

/// A message and what came with it.
pub struct Received {
    /// Its number in the protocol.
    pub code: u32,
    /// What it is.
    pub message: Message,
    /// Its descriptors.
    pub fds: Vec<OwnedFd>,
    /// Whether QEMU waits for an acknowledgement, if the message has no answer of its own.
    pub acknowledge: bool,
    bytes: usize,
}

impl Received {
    /// What a refusal is answered with, for a message that QEMU always waits for an answer of.
    pub fn refusal(&self) -> Option<u64> {
        match self.message {
            Message::SetDeviceState { .. } => Some(crate::stream::TAKEN | 1),
            Message::CheckDeviceState => Some(1),
            _ => None,
        }
    }
}

/// Waits for the next message and looks at it. `None` when QEMU has gone.
pub fn look(socket: &UnixStream) -> io::Result<Option<Received>> {
    let mut header = [0; HEADER];
    if peek(socket, &mut header)?.is_none() {
        return Ok(None);
    }
    let word = |i: usize| u32::from_le_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
    let (code, flags) = (word(0), word(4));
    let size = usize::try_from(word(8)).unwrap_or(usize::MAX);
    if size > MAX_PAYLOAD || flags & 3 != VERSION {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "QEMU sent what is no vhost-user message"));
    }
    let mut whole = vec![0; HEADER + size];
    let Some(mut fds) = peek(socket, &mut whole)? else { return Ok(None) };
    let mut message = parse(code, &whole[HEADER..]).unwrap_or(Message::Unknown);
    match message.descriptors() {
        // Linux gives a look the descriptors of the next message that has some, when this one has none.
        0 => fds.clear(),
        n if n == fds.len() => {}
        _ => message = Message::Unknown,
    }
    Ok(Some(Received { code, message, fds, acknowledge: flags & NEED_REPLY != 0, bytes: HEADER + size }))
}

/// Takes a message that was looked at from the socket.
pub fn take(socket: &UnixStream, received: &Received) -> io::Result<()> {
    let mut reader = socket;
    // Its descriptors were had with the look; the kernel drops these.
    reader.read_exact(&mut vec![0; received.bytes])
}

/// Answers message `code` with a number.
pub fn reply(socket: &UnixStream, code: u32, value: u64) -> io::Result<()> {
    let mut out = Vec::with_capacity(HEADER + 8);
    for word in [code, VERSION | REPLY, 8] {
        out.extend(word.to_le_bytes());
    }
    out.extend(value.to_le_bytes());
    let mut writer = socket;
    writer.write_all(&out)
}

/// The first bytes on the socket and their descriptors, all left where they are.
fn peek(socket: &UnixStream, buffer: &mut [u8]) -> io::Result<Option<Vec<OwnedFd>>> {
    for _ in 0..MAX_LOOKS {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_REGIONS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::PEEK | RecvFlags::CMSG_CLOEXEC;
        let n =
            match rustix::net::recvmsg(socket.as_fd(), &mut [IoSliceMut::new(buffer)], &mut ancillary, flags)
            {
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                other => other?.bytes,
            };
        let mut fds = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        match n {
            0 => return Ok(None),
            n if n == buffer.len() => return Ok(Some(fds)),
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "QEMU sent half a message"))
}

impl Message {
    /// How many descriptors come with it.
    fn descriptors(&self) -> usize {
        match self {
            Self::SetMemTable(regions) => regions.len(),
            Self::SetDeviceState { .. } | Self::SetLogBase => 1,
            Self::SetVringKick { descriptor, .. } | Self::SetVringCall { descriptor, .. } => {
                usize::from(*descriptor)
            }
            _ => 0,
        }
    }
}

fn parse(code: u32, payload: &[u8]) -> Option<Message> {
    let u64_at = |at: usize| Some(u64::from_le_bytes(payload.get(at..at + 8)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(payload.get(at..at + 4)?.try_into().ok()?));
    let queue = || usize::try_from(u32_at(0)?).ok();
    // A ring's descriptor: the ring's number and whether there is one.
    let ring = || {
        let word = u64_at(0)?;
        Some((usize::try_from(word & 0xff).ok()?, word & NO_DESCRIPTOR == 0))
    };
    Some(match code {
        1 => Message::GetFeatures,
        2 => Message::SetFeatures(u64_at(0)?),
        // SET_OWNER, RESET_OWNER, SET_LOG_FD, SET_VRING_ERR.
        3 | 4 | 7 | 14 => Message::Ignored,
        6 => Message::SetLogBase,
        5 => {
            let n = usize::try_from(u32_at(0)?).ok()?;
            if n > MAX_REGIONS || payload.len() != 8 + 32 * n {
                return None;
            }
            let region = |i: usize| {
                let at = 8 + 32 * i;
                Some(Region {
                    guest: u64_at(at)?,
                    size: u64_at(at + 8)?,
                    user: u64_at(at + 16)?,
                    offset: u64_at(at + 24)?,
                })
            };
            Message::SetMemTable((0..n).map(region).collect::<Option<_>>()?)
        }
        8 => Message::SetVringNum { queue: queue()?, size: u32_at(4)? },
        9 => Message::SetVringAddr {
            queue: queue()?,
            descriptors: u64_at(8)?,
            used: u64_at(16)?,
            available: u64_at(24)?,
        },
        10 => Message::SetVringBase { queue: queue()?, base: u32_at(4)? },
        11 => Message::GetVringBase { queue: queue()? },
        12 => ring().map(|(queue, descriptor)| Message::SetVringKick { queue, descriptor })?,
        13 => ring().map(|(queue, descriptor)| Message::SetVringCall { queue, descriptor })?,
        15 => Message::GetProtocolFeatures,
        16 => Message::SetProtocolFeatures(u64_at(0)?),
        17 => Message::GetQueueNum,
        18 => Message::SetVringEnable { queue: queue()?, on: u32_at(4)? != 0 },
        // Direction 0 saves, 1 loads; phase 0, the only one, is a machine that is stopped.
        42 => match (u32_at(0)?, u32_at(4)?) {
            (direction @ (0 | 1), 0) => Message::SetDeviceState { load: direction == 1 },
            _ => return None,
        },
        43 => Message::CheckDeviceState,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(code: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
        let mut b = Vec::new();
        for word in [code, flags, payload.len() as u32] {
            b.extend(word.to_le_bytes());
        }
        b.extend(payload);
        b
    }

    #[test]
    fn looking_leaves_the_message_for_the_next_process() {
        let (qemu, us) = UnixStream::pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let kick = frame(12, 1, &1u64.to_le_bytes());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = rustix::net::SendAncillaryBuffer::new(&mut space);
        let fds = [null.as_fd()];
        ancillary.push(rustix::net::SendAncillaryMessage::ScmRights(&fds));
        (&qemu).write_all(&frame(1, 1 | NEED_REPLY, &[])).unwrap();
        rustix::net::sendmsg(
            &qemu,
            &[io::IoSlice::new(&kick)],
            &mut ancillary,
            rustix::net::SendFlags::empty(),
        )
        .unwrap();
        for _ in 0..2 {
            let first = look(&us).unwrap().unwrap();
            assert_eq!(first.message, Message::GetFeatures);
            assert!(first.acknowledge && first.fds.is_empty());
        }
        let first = look(&us).unwrap().unwrap();
        take(&us, &first).unwrap();
        for _ in 0..2 {
            let second = look(&us).unwrap().unwrap();
            assert_eq!(second.message, Message::SetVringKick { queue: 1, descriptor: true });
            assert_eq!(second.fds.len(), 1, "each look has the descriptor");
        }
        take(&us, &look(&us).unwrap().unwrap()).unwrap();
        drop(qemu);
        assert!(look(&us).unwrap().is_none());
    }

    #[test]
    fn what_is_malformed_is_unknown() {
        assert_eq!(parse(5, &[0; 8]), Some(Message::SetMemTable(vec![])));
        assert_eq!(
            parse(5, &[&[9, 0, 0, 0, 0, 0, 0, 0][..], &[0; 288]].concat()),
            None,
            "more regions than there may be"
        );
        assert_eq!(parse(5, &[1, 0, 0, 0, 0, 0, 0, 0]), None, "regions that are not there");
        assert_eq!(parse(8, &[0; 7]), None);
        assert_eq!(parse(4711, &[]), None);
        let (qemu, us) = UnixStream::pair().unwrap();
        (&qemu).write_all(&frame(12, 1, &[0; 8])).unwrap();
        assert_eq!(look(&us).unwrap().unwrap().message, Message::Unknown, "a kick without its descriptor");
        let (qemu, us) = UnixStream::pair().unwrap();
        (&qemu).write_all(&frame(2, 1, &[0; 4000])).unwrap();
        assert!(look(&us).is_err(), "too long");
    }
}
