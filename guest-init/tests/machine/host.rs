//! The host's side of the port, as `drivers` plays it, with an ear for everything.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use gtvp_model::boxview::ExitStatus;
use gtvp_model::guest::{
    Channel, Decoder, Frame, FrameKind, GuestConfig, GuestNetwork, GuestState, PROTOCOL, Program, ToGuest,
    ToHost, split_stream, stream_id,
};

use super::{LIMIT, MAC};

/// What came.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Message(ToHost),
    Data(u32, Channel, Vec<u8>),
}

pub struct Host {
    socket: UnixStream,
    decoder: Decoder,
    heard: VecDeque<Event>,
    next_session: u32,
    /// Whether output is acknowledged as it comes.
    pub acknowledges: bool,
    /// The application's output, with the numbers it came under.
    pub output: BTreeMap<u64, (u8, String)>,
}

impl Host {
    /// The host behind a connection to the port.
    pub fn new(socket: UnixStream) -> Self {
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Self {
            socket,
            decoder: Decoder::new(),
            heard: VecDeque::new(),
            next_session: 1,
            acknowledges: true,
            output: BTreeMap::new(),
        }
    }

    pub fn send(&mut self, message: &ToGuest) {
        self.send_frame(&Frame::control(message));
    }

    pub fn send_frame(&mut self, frame: &Frame) {
        self.send_bytes(&frame.encode());
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    pub fn next(&mut self) -> Event {
        if let Some(event) = self.heard.pop_front() {
            return event;
        }
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(frame) = self.decoder.next_frame() {
                return self.hear(frame);
            }
            assert!(Instant::now() < end, "nothing came");
            let mut buffer = [0; 65536];
            let n = self.socket.read(&mut buffer).expect("the guest says something");
            assert!(n > 0, "the port has gone");
            self.decoder.push(&buffer[..n]);
        }
    }

    fn hear(&mut self, frame: Frame) -> Event {
        if frame.kind == FrameKind::Data {
            let (session, channel) = split_stream(frame.stream).unwrap();
            return Event::Data(session, channel, frame.payload);
        }
        let message = serde_json::from_slice(&frame.payload).unwrap();
        if let ToHost::Output { seq, fd, data } = &message {
            self.output.insert(*seq, (*fd, data.clone()));
            if self.acknowledges {
                self.send(&ToGuest::AckOutput { seq: *seq });
            }
        }
        Event::Message(message)
    }

    /// The next event for which `wanted` gives something; what else came stays to be heard.
    pub fn until<T>(&mut self, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        let mut others = VecDeque::new();
        let found = loop {
            let event = self.next();
            if let Some(found) = wanted(&event) {
                break found;
            }
            others.push_back(event);
        };
        others.append(&mut self.heard);
        self.heard = others;
        found
    }

    /// Says Hello and gives the Welcome's state.
    pub fn hello(&mut self, nonce: u64) -> GuestState {
        self.send(&ToGuest::Hello { protocol: PROTOCOL, nonce });
        self.until(|e| match e {
            Event::Message(ToHost::Welcome { nonce: n, state, .. }) if *n == nonce => Some(state.clone()),
            _ => None,
        })
    }

    pub fn state(&mut self, wanted: impl Fn(&GuestState) -> bool) -> GuestState {
        self.until(|e| match e {
            Event::Message(ToHost::State(s)) if wanted(s) => Some(s.clone()),
            _ => None,
        })
    }

    /// Everything that the application wrote on `fd` so far.
    pub fn text(&self, fd: u8) -> String {
        self.output.values().filter(|(f, _)| *f == fd).map(|(_, t)| t.replace("%0A", "\n")).collect()
    }

    /// Waits until it has written `text`.
    pub fn wait_text(&mut self, fd: u8, text: &str) {
        while !self.text(fd).contains(text) {
            self.until(|e| matches!(e, Event::Message(ToHost::Output { .. })).then_some(()));
        }
    }

    pub fn session(&mut self) -> u32 {
        self.next_session += 1;
        self.next_session
    }

    /// Collects a session's output to its end, giving credit for what came.
    pub fn finish(&mut self, session: u32) -> (Result<ExitStatus, String>, Vec<u8>, Vec<u8>) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            let event = self.until(|e| match e {
                Event::Data(s, ..) if *s == session => Some(e.clone()),
                Event::Message(
                    ToHost::ExecExited { session: s, .. } | ToHost::ExecFailed { session: s, .. },
                ) if *s == session => Some(e.clone()),
                _ => None,
            });
            match event {
                Event::Data(_, channel, data) => {
                    self.send(&ToGuest::Credit { session, bytes: data.len() as u32 });
                    if channel == Channel::Stderr { &mut err } else { &mut out }.extend(data);
                }
                Event::Message(ToHost::ExecExited { status, .. }) => return (Ok(status), out, err),
                Event::Message(ToHost::ExecFailed { reason, .. }) => return (Err(reason), out, err),
                Event::Message(_) => {}
            }
        }
    }

    /// Runs a command with `input` and gives status, output and errors.
    pub fn exec(&mut self, argv: &[&str], input: &[u8]) -> (Result<ExitStatus, String>, String, String) {
        let session = self.session();
        self.send(&ToGuest::Exec { session, program: program(argv), terminal: None });
        if !input.is_empty() {
            self.send_frame(&Frame::data(stream_id(session, Channel::Stdin), input.to_vec()));
        }
        self.send_frame(&Frame::data(stream_id(session, Channel::Stdin), Vec::new()));
        let (status, out, err) = self.finish(session);
        let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
        (status, text(out), text(err))
    }

    /// Runs a shell's line that must succeed.
    pub fn sh(&mut self, line: &str) -> String {
        let (status, out, err) = self.exec(&["sh", "-c", line], b"");
        assert_eq!(status, Ok(ExitStatus::Code(0)), "{line}: {out}{err}");
        out
    }
}

/// A program of these words.
pub fn program(argv: &[&str]) -> Program {
    Program {
        argv: argv.iter().map(|a| a.to_string()).collect(),
        env: BTreeMap::new(),
        user: None,
        workdir: None,
    }
}

/// A box `box1` on QEMU's own network that runs `argv`.
pub fn config(argv: &[&str]) -> GuestConfig {
    GuestConfig {
        hostname: "box1".into(),
        machine_id: "0123456789abcdef0123456789abcdef".into(),
        // 2033-05-18 03:33:20 UTC: the machine's own clock is elsewhere.
        time_ms: 2_000_000_000_000,
        entropy: "5a".repeat(32),
        network: Some(GuestNetwork {
            mac: MAC.into(),
            address: [10, 0, 2, 15].into(),
            prefix: 24,
            gateway: [10, 0, 2, 2].into(),
            nameservers: vec!["10.0.2.3".into()],
        }),
        program: program(argv),
        ready_ports: Vec::new(),
        ready_udp_ports: Vec::new(),
    }
}
