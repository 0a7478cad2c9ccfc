//! The protocol between a member's `drivers` domain and `guest-init` in a box, over one virtio-serial port.
//!
//! Frames, so that either side can find its place again after the other has gone and come back in the middle of one:
//!
//! ```text
//! 0      4      5      6      8          12         16
//! | GTV1 | kind | 0    | 0 0  | stream   | length   | CRC-32 | payload … |
//! ```
//!
//! Numbers are little endian; the CRC (IEEE 802.3) covers bytes 4..16 and the payload; a payload is at most
//! [`MAX_PAYLOAD`]. A receiver that finds no valid frame moves on by one byte and looks again, and one whose end of the
//! port reports the other side gone begins with an empty [`Decoder`]: what follows a torn frame is never taken for its rest.
//!
//! Who says what:
//!
//! ```text
//! host                                   guest
//!  Hello{protocol, nonce}          →            a host that (re)connects says this first
//!                                  ←  Welcome{protocol, nonce, state}
//!  Configure{…}                    →            only in state Waiting
//!                                  ←  Started / Ready / Exited{…} / Failed{…}
//!                                  ←  Output stream 1|2, numbered; kept until acknowledged
//!  AckOutput{seq}                  →
//!  Exec{stream,…} Stdin Resize …   ↔  Data{stream}, ExecExited{stream}
//!                                  ←  AskPeer{ask,…}       about another box
//!  PeerAnswer{ask,…}               →
//!  Shutdown{grace}                 →
//!                                  ←  Exited{…}, then the guest powers off
//! ```
//!
//! After a Welcome the guest sends again every output chunk that was not acknowledged and the last state. Exec streams
//! do not outlive the connection they were made on: the guest hangs their processes up.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::boxview::ExitStatus;
use crate::peer::{PeerAnswer, PeerQuestion};

/// Version of this protocol. A guest of another version refuses at Welcome.
pub const PROTOCOL: u32 = 1;
/// Name of the virtio-serial port, found in `/sys/class/virtio-ports/*/name`.
pub const PORT: &str = "org.gtvp.agent.1";
/// Most bytes in one frame's payload: a Configure with [`crate::boxspec::MAX_ARGS_BYTES`] of arguments fits.
pub const MAX_PAYLOAD: usize = 256 * 1024;
/// Output bytes that the guest keeps while they are not acknowledged; then it stops reading the application's pipe.
pub const OUTPUT_WINDOW: usize = 256 * 1024;
/// Bytes of an exec stream that may be under way without credit, each way.
pub const STREAM_WINDOW: usize = 64 * 1024;
/// Tag of the box's root on virtio-fs.
pub const ROOT_TAG: &str = "gtvp-root";
/// Serial number of the writable layer's virtio disk (`/sys/block/*/serial`).
pub const DISK_SERIAL: &str = "gtvp-upper";

const MAGIC: &[u8; 4] = b"GTV1";
const HEADER: usize = 20;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A [`ToGuest`] or [`ToHost`] in JSON.
    Control = 1,
    /// Bytes of an exec stream; the stream's number is in the header. An empty payload is end of file.
    Data = 2,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: FrameKind,
    /// Exec stream and channel: see [`stream_id`]; 0 for control.
    pub stream: u32,
    /// The payload.
    pub payload: Vec<u8>,
}

/// Channel of an exec stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Channel {
    /// Host to guest: the command's standard input.
    Stdin = 0,
    /// Guest to host: standard output, or the terminal.
    Stdout = 1,
    /// Guest to host: standard error.
    Stderr = 2,
}

/// The header's stream number of channel `channel` of exec session `session` (below 2^28).
pub fn stream_id(session: u32, channel: Channel) -> u32 {
    (session << 4) | channel as u32
}

/// Session and channel of a header's stream number.
pub fn split_stream(id: u32) -> Option<(u32, Channel)> {
    let channel = match id & 15 {
        0 => Channel::Stdin,
        1 => Channel::Stdout,
        2 => Channel::Stderr,
        _ => return None,
    };
    Some((id >> 4, channel))
}

impl Frame {
    /// A control frame. Messages of this module always serialize.
    pub fn control<T: Serialize>(message: &T) -> Self {
        Self { kind: FrameKind::Control, stream: 0, payload: serde_json::to_vec(message).unwrap_or_default() }
    }

    /// Bytes of an exec stream.
    pub fn data(stream: u32, payload: Vec<u8>) -> Self {
        Self { kind: FrameKind::Data, stream, payload }
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        debug_assert!(self.payload.len() <= MAX_PAYLOAD);
        let mut out = Vec::with_capacity(HEADER + self.payload.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[self.kind as u8, 0, 0, 0]);
        out.extend_from_slice(&self.stream.to_le_bytes());
        out.extend_from_slice(&u32::try_from(self.payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        let crc = crc32(&[&out[4..16], &self.payload]);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&self.payload);
        out
    }
}

/// Bytes of payloads whose checksum is tried in vain in one go: a torn frame's, and a header's that it has by chance.
const MOST_TRIED: usize = 2 * MAX_PAYLOAD;

/// Finds frames in a stream of bytes, whatever is between them.
#[derive(Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    skipped: u64,
}

impl Decoder {
    /// A decoder with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes that belonged to no frame so far, and those of payloads that were not what their checksum says: a payload is looked at
    /// once for each header before it, so whoever sends headers alone has the same bytes looked at again and again.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Bytes that may be the beginning of a frame whose rest has not come.
    pub fn unfinished(&self) -> &[u8] {
        &self.buffer
    }

    /// Adds bytes that were received.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if one is there. After [`MOST_TRIED`] bytes of payloads that are none, what follows waits for the next
    /// bytes, so that whoever reads may look at [`Self::skipped`] first.
    pub fn next_frame(&mut self) -> Option<Frame> {
        let (mut at, mut tried) = (0, 0);
        let found = loop {
            let rest = &self.buffer[at..];
            if rest.len() < HEADER {
                // Keep a possible beginning only.
                if !MAGIC.starts_with(&rest[..rest.len().min(4)]) {
                    at += 1;
                    continue;
                }
                break None;
            }
            let word = |i: usize| u32::from_le_bytes([rest[i], rest[i + 1], rest[i + 2], rest[i + 3]]);
            let length = word(12) as usize;
            let kind = match rest[4] {
                1 => FrameKind::Control,
                2 => FrameKind::Data,
                _ => {
                    at += 1;
                    continue;
                }
            };
            if &rest[..4] != MAGIC || length > MAX_PAYLOAD {
                at += 1;
                continue;
            }
            if rest.len() < HEADER + length {
                break None;
            }
            let payload = &rest[HEADER..HEADER + length];
            if tried > MOST_TRIED {
                break None;
            }
            if crc32(&[&rest[4..16], payload]) != word(16) {
                at += 1;
                tried += length;
                continue;
            }
            break Some((Frame { kind, stream: word(8), payload: payload.to_vec() }, HEADER + length));
        };
        self.skipped += (at + tried) as u64;
        let used = at + found.as_ref().map_or(0, |(_, n)| *n);
        self.buffer.drain(..used);
        found.map(|(frame, _)| frame)
    }
}

/// CRC-32 of IEEE 802.3 over `parts` in order, by the 4-bit table.
fn crc32(parts: &[&[u8]]) -> u32 {
    const TABLE: [u32; 16] = {
        let mut table = [0; 16];
        let mut i = 0;
        while i < 16 {
            let mut c = i as u32;
            let mut bit = 0;
            while bit < 4 {
                c = if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 };
                bit += 1;
            }
            table[i] = c;
            i += 1;
        }
        table
    };
    let mut crc = !0u32;
    for b in parts.iter().flat_map(|p| p.iter()) {
        crc = TABLE[((crc ^ u32::from(*b)) & 15) as usize] ^ (crc >> 4);
        crc = TABLE[((crc ^ (u32::from(*b) >> 4)) & 15) as usize] ^ (crc >> 4);
    }
    !crc
}

/// A program to run in the box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Program {
    /// Program (looked up in PATH when it has no `/`) and arguments.
    pub argv: Vec<String>,
    /// Environment beside the defaults.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// User by name or number; root when none.
    #[serde(default)]
    pub user: Option<String>,
    /// Working directory; `/` when none.
    #[serde(default)]
    pub workdir: Option<String>,
}

/// The box's network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestNetwork {
    /// MAC address of the interface, `52:54:00:…`.
    pub mac: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Prefix length.
    pub prefix: u8,
    /// Gateway.
    pub gateway: Ipv4Addr,
    /// Name servers.
    pub nameservers: Vec<String>,
}

/// A size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub cols: u16,
}

/// What guest-init does once it is told who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestConfig {
    /// Host name.
    pub hostname: String,
    /// 32 hexadecimal digits for /etc/machine-id.
    pub machine_id: String,
    /// The host's clock: milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// Entropy for the guest's pool, 64 hexadecimal digits.
    pub entropy: String,
    /// Network; none for a builder box.
    pub network: Option<GuestNetwork>,
    /// The application.
    pub program: Program,
    /// TCP ports of the box that must listen before it counts as ready.
    pub ready_ports: Vec<u16>,
    /// UDP ports of the box that must be bound by then.
    #[serde(default)]
    pub ready_udp_ports: Vec<u16>,
}

/// From the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToGuest {
    /// First on every connection.
    Hello {
        /// [`PROTOCOL`].
        protocol: u32,
        /// Chosen by the host; comes back in Welcome.
        nonce: u64,
    },
    /// Who the box is. Only in state Waiting.
    Configure(GuestConfig),
    /// Every output chunk up to this number has been kept by the host.
    AckOutput {
        /// Last number.
        seq: u64,
    },
    /// Start a command beside the application.
    Exec {
        /// Session number, chosen by the host, not used before on this connection.
        session: u32,
        /// What to run.
        program: Program,
        /// A terminal of this size, or pipes.
        terminal: Option<TerminalSize>,
    },
    /// The terminal's new size.
    Resize {
        /// Session.
        session: u32,
        /// Size.
        size: TerminalSize,
    },
    /// A signal for the session's process group.
    Signal {
        /// Session; 0 is the application.
        session: u32,
        /// Linux signal number.
        signal: i32,
    },
    /// The host has taken this many bytes of the session's output.
    Credit {
        /// Session.
        session: u32,
        /// Bytes.
        bytes: u32,
    },
    /// Ask the application to end (SIGTERM), kill it after the grace, power off.
    Shutdown {
        /// Milliseconds.
        grace_ms: u64,
    },
    /// Send the writable layer as a tar archive (overlayfs whiteouts and opaque directories as they are) on stdout of
    /// this session. Only builder boxes are asked this.
    ExportUpper {
        /// Session.
        session: u32,
    },
    /// The host has taken note of how the application ended; the guest may power off.
    AckExited,
    /// The host has put in place a component that answers names the guest may remember as missing.
    DropDentries,
    /// The answer to [`ToHost::AskPeer`].
    PeerAnswer {
        /// The question's number.
        ask: u32,
        /// The answer.
        answer: PeerAnswer,
    },
}

/// Where guest-init is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum GuestState {
    /// Booted, not configured.
    Waiting,
    /// Configured, the application is being started.
    Configuring,
    /// The application runs.
    Running {
        /// All ready ports listen.
        ready: bool,
    },
    /// The application has ended.
    Exited {
        /// How.
        status: ExitStatus,
    },
    /// The application could not be started.
    Failed {
        /// Which step.
        step: String,
        /// Why, for people.
        reason: String,
    },
}

/// From the guest. All of it is outside input to the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToHost {
    /// Answer to Hello.
    Welcome {
        /// The guest's [`PROTOCOL`].
        protocol: u32,
        /// The Hello's.
        nonce: u64,
        /// Where it is.
        state: GuestState,
        /// Milliseconds since the kernel started.
        uptime_ms: u64,
    },
    /// It is somewhere else now.
    State(GuestState),
    /// Output of the application, numbered from 1 without gaps. Data in hexadecimal would double it, so it is text with
    /// the escapes of [`crate::component::escape`].
    Output {
        /// Number.
        seq: u64,
        /// 1 standard output, 2 standard error.
        fd: u8,
        /// The bytes, escaped.
        data: String,
    },
    /// A session's command could not be started.
    ExecFailed {
        /// Session.
        session: u32,
        /// Why, for people.
        reason: String,
    },
    /// A session's command has ended; its output came before.
    ExecExited {
        /// Session.
        session: u32,
        /// How.
        status: ExitStatus,
    },
    /// The guest has taken this many bytes of the session's standard input.
    Credit {
        /// Session.
        session: u32,
        /// Bytes.
        bytes: u32,
    },
    /// A process of the box asks about another box; one question at a time. A guest that does not wait is refused.
    AskPeer {
        /// Number, chosen by the guest.
        ask: u32,
        /// The question.
        question: PeerQuestion,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_the_standard_one() {
        assert_eq!(crc32(&[b"1234", b"56789"]), 0xcbf4_3926);
    }

    /// Found by `gtvp-fuzz`: half a MiB of headers, each of the longest frame, took a minute of checksums.
    #[test]
    fn headers_without_frames_are_not_tried_without_end() {
        let mut header = Frame::data(1, Vec::new()).encode();
        header[12..16].copy_from_slice(&u32::try_from(MAX_PAYLOAD).unwrap().to_le_bytes());
        let wire = header.repeat(2 * MAX_PAYLOAD / header.len());
        let mut d = Decoder::new();
        for chunk in wire.chunks(64 * 1024) {
            let before = d.skipped();
            d.push(chunk);
            assert_eq!(d.next_frame(), None);
            let most = MOST_TRIED + MAX_PAYLOAD + chunk.len();
            assert!(d.skipped() - before <= most as u64, "as much as that is looked at in one go");
        }
        assert!(d.skipped() > 2 * 1024 * 1024, "and whoever reads can tell");
        // What comes behind it is found.
        let frame = Frame::data(1, b"hello".to_vec());
        let mut d = Decoder::new();
        d.push(&header.repeat(10));
        d.push(&vec![0; MAX_PAYLOAD]);
        d.push(&frame.encode());
        let found = (0..20).find_map(|_| d.next_frame());
        assert_eq!(found, Some(frame));
    }

    #[test]
    fn frames_are_found_among_rubbish_and_in_pieces() {
        let a = Frame::control(&ToGuest::Hello { protocol: PROTOCOL, nonce: 7 });
        let b = Frame::data(stream_id(3, Channel::Stderr), b"GTV1 inside".to_vec());
        let mut wire = b"half a frame GTV1\x01".to_vec();
        wire.extend(a.encode());
        let mut torn = b.encode();
        torn.truncate(15);
        wire.extend(torn);
        wire.extend(a.encode());
        wire.extend(b.encode());
        for piece in [1, 3, wire.len()] {
            let mut d = Decoder::new();
            let mut got = Vec::new();
            for chunk in wire.chunks(piece) {
                d.push(chunk);
                got.extend(std::iter::from_fn(|| d.next_frame()));
            }
            assert_eq!(got, [a.clone(), a.clone(), b.clone()], "pieces of {piece}");
        }
        assert_eq!(split_stream(b.stream), Some((3, Channel::Stderr)));
    }

    #[test]
    fn a_flipped_bit_is_no_frame() {
        let mut wire = Frame::data(1, vec![9; 100]).encode();
        wire[50] ^= 1;
        let mut d = Decoder::new();
        d.push(&wire);
        assert_eq!(d.next_frame(), None);
    }
}
