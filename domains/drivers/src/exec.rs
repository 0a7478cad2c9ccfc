//! Commands beside the application: between the frames of [`gtvp_model::stream`] on the caller's socket and the exec
//! streams of the agent port, with credit both ways so that neither a slow caller nor a slow command makes this
//! domain hold more than a window. Pure: bytes in, frames and bytes out.

use std::collections::VecDeque;

use gtvp_model::boxview::ExitStatus;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::guest::{Channel, Frame, STREAM_WINDOW, TerminalSize, ToGuest, stream_id};
use gtvp_model::stream::{self, StreamKind};

/// Most bytes of a session that wait for its caller. The window, and what a guest may have sent before it saw it.
const MOST_HELD: usize = 4 * STREAM_WINDOW;
/// Pieces in which standard input goes to the guest: a big one would hold up everything else on the port.
const PIECE: usize = 16 * 1024;
/// SIGHUP.
const HANGUP: i32 = 1;

/// What the caller gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Frames of [`gtvp_model::stream`].
    Frames,
    /// The bare bytes of standard output: an exported layer.
    Raw,
}

/// One command.
pub struct Session {
    id: u32,
    form: Form,
    /// Bytes of the caller that are no whole frame yet.
    unparsed: Vec<u8>,
    /// Standard input that waits for credit; an empty piece is its end.
    stdin: VecDeque<Vec<u8>>,
    stdin_ended: bool,
    credit: usize,
    /// Bytes for the caller.
    out: VecDeque<u8>,
    /// Payload bytes in `out` that the guest has no credit for yet.
    owed: usize,
    over: bool,
    caller_gone: bool,
}

impl Session {
    /// A command that was just asked for.
    pub fn new(id: u32, form: Form) -> Self {
        Self {
            id,
            form,
            unparsed: Vec::new(),
            stdin: VecDeque::new(),
            stdin_ended: false,
            credit: STREAM_WINDOW,
            out: VecDeque::new(),
            owed: 0,
            over: false,
            caller_gone: false,
        }
    }

    /// Whether more of the caller's bytes are wanted.
    pub fn wants_caller(&self) -> bool {
        self.form == Form::Frames && !self.over && !self.caller_gone && self.stdin.is_empty()
    }

    /// Whether bytes wait for the caller.
    pub fn wants_write(&self) -> bool {
        !self.out.is_empty() && !self.caller_gone
    }

    /// Whether nothing more will happen.
    pub fn finished(&self) -> bool {
        self.over && !self.wants_write()
    }

    /// Bytes for the caller, some of them.
    pub fn waiting(&self) -> &[u8] {
        self.out.as_slices().0
    }

    /// The caller sent bytes.
    pub fn on_caller(&mut self, bytes: &[u8]) -> Vec<Frame> {
        self.unparsed.extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let Some((header, rest)) = self.unparsed.split_first_chunk::<8>() {
            let Ok((kind, length)) = stream::header_of(*header) else {
                self.end(StreamKind::Fault, &Fault::new(FaultKind::Invalid, "the stream cannot be read"));
                frames.push(self.signal(HANGUP));
                break;
            };
            if rest.len() < length {
                break;
            }
            let payload = rest[..length].to_vec();
            self.unparsed.drain(..8 + length);
            match kind {
                StreamKind::Stdin => self.on_stdin(&payload),
                StreamKind::Resize => {
                    if let Ok(size) = serde_json::from_slice::<TerminalSize>(&payload) {
                        frames.push(Frame::control(&ToGuest::Resize { session: self.id, size }));
                    }
                }
                StreamKind::Signal => {
                    let number = std::str::from_utf8(&payload).ok().and_then(|t| t.parse().ok());
                    frames.extend(number.filter(|n| (1..=64).contains(n)).map(|n| self.signal(n)));
                }
                StreamKind::Stdout | StreamKind::Stderr | StreamKind::Exit | StreamKind::Fault => {}
            }
        }
        frames.extend(self.pump());
        frames
    }

    /// The caller will send nothing more.
    pub fn on_caller_end(&mut self) -> Vec<Frame> {
        self.on_stdin(&[]);
        self.pump()
    }

    /// The caller has gone. The command is hung up; what it still writes is dropped.
    pub fn on_caller_gone(&mut self) -> Vec<Frame> {
        if std::mem::replace(&mut self.caller_gone, true) || self.over {
            return Vec::new();
        }
        self.stdin.clear();
        self.out.clear();
        let mut frames = Vec::new();
        if self.form == Form::Frames {
            frames.push(self.signal(HANGUP));
            self.credit = self.credit.max(1);
            self.on_stdin(&[]);
            frames.extend(self.pump());
        }
        frames.extend(self.pay());
        frames
    }

    fn on_stdin(&mut self, bytes: &[u8]) {
        if self.stdin_ended {
            return;
        }
        self.stdin_ended = bytes.is_empty();
        if bytes.is_empty() {
            self.stdin.push_back(Vec::new());
        }
        self.stdin.extend(bytes.chunks(PIECE).map(<[u8]>::to_vec));
    }

    /// Standard input as far as there is credit.
    fn pump(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(piece) = self.stdin.front() {
            if piece.len() > self.credit {
                break;
            }
            self.credit -= piece.len();
            let piece = self.stdin.pop_front().unwrap_or_default();
            frames.push(Frame::data(stream_id(self.id, Channel::Stdin), piece));
        }
        frames
    }

    fn signal(&self, signal: i32) -> Frame {
        Frame::control(&ToGuest::Signal { session: self.id, signal })
    }

    /// The guest has taken standard input.
    pub fn on_credit(&mut self, bytes: u32) -> Vec<Frame> {
        self.credit = self.credit.saturating_add(bytes as usize).min(STREAM_WINDOW);
        self.pump()
    }

    /// The command wrote something.
    pub fn on_output(&mut self, channel: Channel, bytes: &[u8]) -> Vec<Frame> {
        if self.over || bytes.is_empty() {
            return Vec::new();
        }
        self.owed += bytes.len();
        if self.caller_gone {
            return self.pay().into_iter().collect();
        }
        if self.out.len() + bytes.len() > MOST_HELD {
            self.out.clear();
            self.end(
                StreamKind::Fault,
                &Fault::new(FaultKind::BoxFailed, "the guest ignores the stream's window"),
            );
            return vec![self.signal(HANGUP)];
        }
        let kind = if channel == Channel::Stderr { StreamKind::Stderr } else { StreamKind::Stdout };
        match (self.form, channel) {
            (Form::Frames, _) => self.out.extend(stream::encode(kind, bytes)),
            (Form::Raw, Channel::Stdout) => self.out.extend(bytes),
            (Form::Raw, _) => {}
        }
        if self.out.is_empty() { self.pay().into_iter().collect() } else { Vec::new() }
    }

    /// The caller took `n` bytes.
    pub fn on_written(&mut self, n: usize) -> Option<Frame> {
        self.out.drain(..n.min(self.out.len()));
        if self.out.is_empty() { self.pay() } else { None }
    }

    fn pay(&mut self) -> Option<Frame> {
        let bytes = u32::try_from(std::mem::take(&mut self.owed)).unwrap_or(u32::MAX);
        (bytes > 0 && !self.over).then(|| Frame::control(&ToGuest::Credit { session: self.id, bytes }))
    }

    /// The command has ended.
    pub fn on_exited(&mut self, status: &ExitStatus) {
        self.end(StreamKind::Exit, status);
    }

    /// The command, or the way to it, has failed.
    pub fn on_fault(&mut self, fault: &Fault) {
        self.end(StreamKind::Fault, fault);
    }

    fn end<T: serde::Serialize>(&mut self, kind: StreamKind, last: &T) {
        if !std::mem::replace(&mut self.over, true) && self.form == Form::Frames {
            self.out.extend(stream::encode(kind, &serde_json::to_vec(last).unwrap_or_default()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stdin_bytes(frames: &[Frame]) -> usize {
        frames.iter().filter(|f| f.stream == stream_id(5, Channel::Stdin)).map(|f| f.payload.len()).sum()
    }

    #[test]
    fn standard_input_waits_for_credit() {
        let mut s = Session::new(5, Form::Frames);
        let first = s.on_caller(&stream::encode(StreamKind::Stdin, &vec![1; 100_000]));
        assert_eq!(stdin_bytes(&first), STREAM_WINDOW);
        assert!(!s.wants_caller(), "more is not read while this waits");
        let more = s.on_credit(u32::try_from(STREAM_WINDOW).unwrap());
        assert_eq!(stdin_bytes(&more), 100_000 - STREAM_WINDOW);
        assert!(s.wants_caller());
        let end = s.on_caller(&stream::encode(StreamKind::Stdin, b""));
        assert_eq!(end, [Frame::data(stream_id(5, Channel::Stdin), vec![])]);
    }

    #[test]
    fn the_guest_gets_credit_when_the_caller_has_taken_its_output() {
        let mut s = Session::new(5, Form::Frames);
        assert!(s.on_output(Channel::Stdout, b"hello").is_empty());
        assert_eq!(s.on_written(3), None);
        let n = s.waiting().len();
        assert_eq!(s.on_written(n), Some(Frame::control(&ToGuest::Credit { session: 5, bytes: 5 })));
    }

    #[test]
    fn a_guest_that_ignores_the_window_is_cut_off() {
        let mut s = Session::new(5, Form::Frames);
        let frames: Vec<_> = (0..20).flat_map(|_| s.on_output(Channel::Stdout, &[0; 16384])).collect();
        assert_eq!(frames, [Frame::control(&ToGuest::Signal { session: 5, signal: 1 })]);
        let out: Vec<u8> = s.out.iter().copied().collect();
        assert_eq!(stream::read(&mut out.as_slice()).unwrap().unwrap().0, StreamKind::Fault);
    }

    #[test]
    fn a_caller_that_goes_hangs_the_command_up() {
        let mut s = Session::new(5, Form::Frames);
        s.on_output(Channel::Stdout, b"x");
        let frames = s.on_caller_gone();
        assert_eq!(frames[0], Frame::control(&ToGuest::Signal { session: 5, signal: 1 }));
        assert!(frames.contains(&Frame::control(&ToGuest::Credit { session: 5, bytes: 1 })));
        assert!(!s.finished(), "its end is still awaited");
        s.on_exited(&ExitStatus::Signal(1));
        assert!(s.finished());
    }

    #[test]
    fn garbage_from_the_caller_ends_the_session() {
        let mut s = Session::new(5, Form::Frames);
        assert_eq!(s.on_caller(&[77; 20]), [Frame::control(&ToGuest::Signal { session: 5, signal: 1 })]);
        assert!(s.over);
    }
}
