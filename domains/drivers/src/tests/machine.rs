//! A machine as the tests play it: the ends of QEMU's monitor and of guest-init that the domain sees.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};

use gtvp_model::boxview::ExitStatus;
use gtvp_model::guest::{
    Channel, Decoder, Frame, FrameKind, GuestConfig, GuestState, PROTOCOL, ToGuest, ToHost, split_stream,
    stream_id,
};

use super::supervisor::Process;

/// How a machine behaves.
#[derive(Clone, Default)]
pub struct Character {
    /// Its guest never says a word.
    pub silent: bool,
    /// Its kernel panics at once.
    pub panics: bool,
    /// Its application cannot be started.
    pub no_such_command: bool,
    /// Its application writes this and ends with that.
    pub prints: Option<(&'static str, i32)>,
    /// It ignores a shutdown.
    pub stubborn: bool,
    /// Once it runs it writes without end and reads nothing.
    pub floods: bool,
    /// Its QEMU cannot load a machine.
    pub does_not_load: bool,
    /// Its guest never says a word once it was loaded.
    pub wakes_not: bool,
}

type OnEnd = Box<dyn FnOnce(Option<i32>, String) + Send>;

/// The machine.
pub struct Played(Arc<Inner>);

struct Inner {
    character: Character,
    state: Mutex<State>,
}

struct State {
    on_end: Option<OnEnd>,
    guest: GuestState,
    config: Option<GuestConfig>,
    unacknowledged: Vec<ToHost>,
    paused: bool,
    loaded: bool,
    connections: Vec<UnixStream>,
    monitors: Vec<UnixStream>,
    sockets: Vec<std::path::PathBuf>,
    said: Vec<ToGuest>,
    console: std::fs::File,
    held: BTreeMap<String, OwnedFd>,
}

impl Played {
    /// Runs on threads of its own.
    pub fn start(character: Character, mut fds: BTreeMap<String, OwnedFd>, on_end: OnEnd) -> Self {
        let listener = |fd: Option<OwnedFd>| UnixListener::from(fd.unwrap());
        let (qmp, agent) = (listener(fds.remove("qmp")), listener(fds.remove("agent")));
        let console: std::fs::File = fds.remove("console").unwrap().into();
        let path = |l: &UnixListener| l.local_addr().unwrap().as_pathname().unwrap().to_owned();
        let state = State {
            on_end: Some(on_end),
            guest: GuestState::Waiting,
            config: None,
            unacknowledged: Vec::new(),
            paused: false,
            loaded: false,
            connections: Vec::new(),
            monitors: Vec::new(),
            sockets: vec![path(&qmp), path(&agent)],
            said: Vec::new(),
            console,
            held: fds,
        };
        let inner = Arc::new(Inner { character, state: Mutex::new(state) });
        let (a, b) = (inner.clone(), inner.clone());
        std::thread::spawn(move || a.listen(&qmp, Inner::monitor));
        std::thread::spawn(move || b.listen(&agent, Inner::agent));
        if inner.character.panics {
            let mut state = inner.state();
            state
                .console
                .write_all(b"[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\n")
                .unwrap();
            drop(state);
            inner.end(Some(0), "exit status 0");
        }
        Self(inner)
    }
}

impl Process for Played {
    fn kill(&mut self) {
        self.0.end(None, "signal 9");
    }
}

impl Inner {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(self: &Arc<Self>, listener: &UnixListener, serve: fn(&Self, UnixStream)) {
        for stream in listener.incoming() {
            if self.state().on_end.is_none() {
                return;
            }
            let (this, stream) = (self.clone(), stream.unwrap());
            std::thread::spawn(move || serve(&this, stream));
        }
    }

    fn end(&self, code: Option<i32>, how: &str) {
        let mut state = self.state();
        let Some(on_end) = state.on_end.take() else { return };
        for stream in state
            .connections
            .drain(..)
            .collect::<Vec<_>>()
            .into_iter()
            .chain(state.monitors.drain(..).collect::<Vec<_>>())
        {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        state.held.clear();
        // So that the listening threads see the end.
        for path in state.sockets.drain(..).collect::<Vec<_>>() {
            let _ = UnixStream::connect(path);
        }
        drop(state);
        on_end(code, how.into());
    }

    fn monitor(&self, stream: UnixStream) {
        self.state().monitors.push(stream.try_clone().unwrap());
        let say = |text: &str| writeln!(&stream, "{text}\r").is_ok();
        say(
            r#"{"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 2}, "package": "played"}, "capabilities": []}}"#,
        );
        for line in BufReader::new(&stream).lines() {
            let Ok(line) = line else { return };
            let command: serde_json::Value = serde_json::from_str(&line).unwrap();
            let id = &command["id"];
            let mut event = None;
            let mut value = serde_json::json!({});
            match command["execute"].as_str().unwrap() {
                "stop" => {
                    self.state().paused = true;
                    event = Some("STOP");
                }
                "cont" => {
                    self.state().paused = false;
                    event = Some("RESUME");
                }
                "migrate-incoming" => self.state().loaded = true,
                "query-migrate" if self.character.does_not_load && self.state().loaded => {
                    value = serde_json::json!({ "status": "failed", "error-desc": "section mismatch" });
                }
                "query-migrate" => value = serde_json::json!({ "status": "completed" }),
                "query-status" => {
                    value = serde_json::json!({ "running": !self.state().paused, "status": "x" })
                }
                "quit" => {
                    say(r#"{"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"}}"#);
                    self.end(Some(0), "exit status 0");
                    return;
                }
                _ => {}
            }
            if let Some(event) = event {
                say(&format!(r#"{{"event": "{event}"}}"#));
            }
            say(&serde_json::json!({ "return": value, "id": id }).to_string());
        }
    }

    fn agent(&self, stream: UnixStream) {
        let mut state = self.state();
        state.connections = vec![stream.try_clone().unwrap()];
        drop(state);
        let mut decoder = Decoder::new();
        let mut chunk = [0; 65536];
        loop {
            let n = match (&stream).read(&mut chunk) {
                Ok(0) | Err(_) => return,
                Ok(n) => n,
            };
            decoder.push(&chunk[..n]);
            while let Some(frame) = decoder.next_frame() {
                let sleeps = self.character.wakes_not && self.state().loaded;
                if !self.character.silent && !sleeps {
                    self.on_frame(&stream, frame);
                }
            }
        }
    }

    fn say(mut stream: &UnixStream, message: &ToHost) {
        let _ = stream.write_all(&Frame::control(message).encode());
    }

    fn on_frame(&self, mut stream: &UnixStream, frame: Frame) {
        if frame.kind == FrameKind::Data {
            // Every command is `cat`.
            let (session, channel) = split_stream(frame.stream).unwrap();
            assert_eq!(channel, Channel::Stdin);
            if frame.payload.is_empty() {
                Self::say(stream, &ToHost::ExecExited { session, status: ExitStatus::Code(3) });
                return;
            }
            let bytes = u32::try_from(frame.payload.len()).unwrap();
            Self::say(stream, &ToHost::Credit { session, bytes });
            let data = Frame::data(stream_id(session, Channel::Stdout), frame.payload);
            stream.write_all(&data.encode()).unwrap();
            return;
        }
        let message: ToGuest = serde_json::from_slice(&frame.payload).unwrap();
        let mut state = self.state();
        state.said.push(message.clone());
        match message {
            ToGuest::Hello { nonce, .. } => {
                let guest = state.guest.clone();
                Self::say(stream, &ToHost::Welcome { protocol: PROTOCOL, nonce, state: guest, uptime_ms: 1 });
                for output in &state.unacknowledged {
                    Self::say(stream, output);
                }
            }
            ToGuest::Configure(config) => {
                state.config = Some(config);
                Self::enter(&mut state, stream, GuestState::Configuring);
                if self.character.no_such_command {
                    let reason = "nosuch: no such command in the box".into();
                    return Self::enter(
                        &mut state,
                        stream,
                        GuestState::Failed { step: "program".into(), reason },
                    );
                }
                Self::enter(&mut state, stream, GuestState::Running { ready: false });
                if let Some((text, code)) = self.character.prints {
                    let data = gtvp_model::component::escape(text.as_bytes());
                    let output = ToHost::Output { seq: 1, fd: 1, data };
                    Self::say(stream, &output);
                    state.unacknowledged.push(output);
                    Self::enter(&mut state, stream, GuestState::Exited { status: ExitStatus::Code(code) });
                } else {
                    Self::enter(&mut state, stream, GuestState::Running { ready: true });
                    if self.character.floods {
                        let heard = flood(stream);
                        writeln!(state.console, "not heard after {heard} bytes").unwrap();
                    }
                }
            }
            ToGuest::AckOutput { seq } => {
                state.unacknowledged.retain(|o| !matches!(o, ToHost::Output { seq: s, .. } if *s <= seq));
            }
            ToGuest::Shutdown { .. } if !self.character.stubborn => {
                Self::enter(&mut state, stream, GuestState::Exited { status: ExitStatus::Signal(15) });
            }
            ToGuest::Signal { session: 0, signal } => {
                Self::enter(&mut state, stream, GuestState::Exited { status: ExitStatus::Signal(signal) });
            }
            ToGuest::Signal { session, signal } => {
                Self::say(stream, &ToHost::ExecExited { session, status: ExitStatus::Signal(signal) });
            }
            ToGuest::AckExited => {
                drop(state);
                self.end(Some(0), "exit status 0");
            }
            ToGuest::ExportUpper { session } => {
                let data = Frame::data(stream_id(session, Channel::Stdout), b"an archive".to_vec());
                stream.write_all(&data.encode()).unwrap();
                Self::say(stream, &ToHost::ExecExited { session, status: ExitStatus::Code(0) });
            }
            _ => {}
        }
    }

    fn enter(state: &mut State, stream: &UnixStream, guest: GuestState) {
        state.guest = guest.clone();
        Self::say(stream, &ToHost::State(guest));
    }
}

/// Writes what has to be answered, until nobody takes it for a while. Gives how much was taken.
fn flood(mut stream: &UnixStream) -> usize {
    /// More than the domain may hold.
    const ENDLESS: usize = 256 * 1024 * 1024;
    stream.set_write_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
    let mut taken = 0;
    let mut seq = 0;
    while taken < ENDLESS {
        let mut batch = Vec::new();
        for _ in 0..500 {
            seq += 1;
            batch.extend(Frame::control(&ToHost::Output { seq, fd: 1, data: "x".into() }).encode());
            batch.extend(Frame::control(&ToHost::Credit { session: 1, bytes: 0 }).encode());
        }
        match stream.write(&batch) {
            Ok(n) if n == batch.len() => taken += n,
            _ => break,
        }
    }
    taken
}
