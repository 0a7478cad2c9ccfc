//! What guest-init does once the box is booted: one loop that waits for the host, for processes and for their output, and
//! never for time alone when there is nothing to wait for.
//!
//! Waiting → Configuring → Running → Exited, or Failed: [`GuestState`] says it to the host. When to power off is
//! [`Ending`]'s.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use gtvp_model::boxspec::Protocol;
use gtvp_model::boxview::ExitStatus;
use gtvp_model::guest::{
    Channel, Frame, FrameKind, GuestConfig, GuestState, PROTOCOL, Program, TerminalSize, ToGuest, ToHost,
    split_stream, stream_id,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus};

use crate::command;
use crate::console::say;
use crate::ending::{Ending, Step};
use crate::export;
use crate::link::{Link, NoPort};
use crate::output::Output;
use crate::peers::Peers;
use crate::ready::{Port, Readiness, table};
use crate::session::{Process, Session, Start};
use crate::setup::{self, Setup};
use crate::signals::Signals;
use crate::spawn::{self, Stdio, spawn};

/// Most sessions at once; each holds up to five descriptors and [`gtvp_model::guest::STREAM_WINDOW`] bytes each way.
const MAX_SESSIONS: usize = 64;
/// A session whose host has gone has this long from SIGHUP to SIGKILL.
const HANGUP_GRACE: Duration = Duration::from_secs(2);
/// Bytes read for the host at a time, so that one talker does not shut the others out.
const TURN: usize = 32 * 1024;

/// Why there is no agent.
#[derive(Debug, thiserror::Error)]
pub enum NoAgent {
    /// No way to the host.
    #[error(transparent)]
    Port(#[from] NoPort),
    /// The kernel gives no signals.
    #[error("signals: {0}")]
    Signals(io::Error),
}

/// PID 1 at work.
pub struct Agent {
    link: Link,
    signals: Signals,
    state: GuestState,
    /// The host has not had `state` on this connection.
    untold: bool,
    /// The host has said Hello on this connection.
    met: bool,
    setup: Option<Setup>,
    application: Option<Process>,
    ready: Option<Readiness>,
    ready_ports: Vec<Port>,
    output: Output,
    sessions: BTreeMap<u32, Session>,
    /// Sessions that were hung up, until they have ended or are killed.
    leaving: Vec<(Process, Instant)>,
    ending: Ending,
    /// Processes that ask about other boxes.
    peers: Peers,
}

impl Agent {
    /// Opens the way to the host, waiting at most `limit` for its port.
    pub fn start(limit: Duration) -> Result<Self, NoAgent> {
        let signals = Signals::new().map_err(NoAgent::Signals)?;
        Ok(Self {
            link: Link::open(limit)?,
            signals,
            state: GuestState::Waiting,
            untold: false,
            met: false,
            setup: None,
            application: None,
            ready: None,
            ready_ports: Vec::new(),
            output: Output::default(),
            sessions: BTreeMap::new(),
            leaving: Vec::new(),
            ending: Ending::default(),
            peers: Peers::default(),
        })
    }

    /// The writable layer's mount, once there is one.
    pub fn disk(&self) -> Option<BorrowedFd<'_>> {
        self.setup.as_ref().map(|s| s.root.layer())
    }

    /// Works until the box is to power off, and says why.
    pub fn run(&mut self) -> &'static str {
        loop {
            let now = Instant::now();
            self.advance(now);
            match self.ending.step(now) {
                Step::Off(why) => return why,
                Step::Kill => {
                    if let Some(application) = &self.application {
                        application.signal(libc::SIGKILL, false);
                    }
                }
                Step::Wait(until) => self.wait(until, now),
            }
        }
    }

    /// Moves everything that can be moved without waiting.
    fn advance(&mut self, now: Instant) {
        self.follow_application(now);
        if self.ready.as_mut().is_some_and(|r| r.check(now, table)) {
            self.ready = None;
            self.enter(GuestState::Running { ready: true });
        }
        self.tell();
        self.follow_sessions();
        // A host that does not read is not asked.
        if let Some(question) = self.peers.advance(self.met && self.link.has_room(), now) {
            self.link.send(&question);
        }
        self.leaving.retain(|(process, kill_at)| {
            if now >= *kill_at {
                process.signal(libc::SIGKILL, true);
            }
            process.pid().is_some() && now < *kill_at
        });
        self.link.flush();
    }

    fn enter(&mut self, state: GuestState) {
        self.state = state;
        self.untold = true;
    }

    /// Output and state to the host. That the application has ended comes after everything it wrote.
    fn tell(&mut self) {
        if !self.met {
            return;
        }
        let last = matches!(self.state, GuestState::Exited { .. });
        if self.untold && !last {
            self.link.send(&ToHost::State(self.state.clone()));
            self.untold = false;
        }
        while self.link.has_room() {
            let Some(message) = self.output.next_message() else { break };
            self.link.send(&message);
        }
        if self.untold && self.output.all_sent() {
            self.link.send(&ToHost::State(self.state.clone()));
            self.untold = false;
        }
    }

    fn follow_application(&mut self, now: Instant) {
        let Some(application) = &mut self.application else { return };
        if application.handshake().is_some() {
            match application.started() {
                Start::Pending => {}
                Start::Done => {
                    let mut readiness = Readiness::of(&self.ready_ports, now);
                    let ready = readiness.check(now, table);
                    self.ready = (!ready).then_some(readiness);
                    self.enter(GuestState::Running { ready });
                }
                Start::Failed(reason) => {
                    self.application = None;
                    self.fail("exec", reason, now);
                    return;
                }
            }
        }
        let Some(application) = &mut self.application else { return };
        loop {
            let room = self.output.room().min(TURN);
            let mut read = 0;
            application.read(room, |channel, data| {
                read += data.len();
                self.output.push(if channel == Channel::Stderr { 2 } else { 1 }, data);
            });
            // While it runs, poll says when there is more.
            if read == 0 || !application.draining() {
                break;
            }
        }
        if application.finished() {
            let status = application.status().cloned().unwrap_or(ExitStatus::Code(255));
            say!("the application has ended: {status:?}");
            self.application = None;
            self.ready = None;
            self.ending.ended(now);
            self.enter(GuestState::Exited { status });
        }
    }

    fn fail(&mut self, step: &str, reason: String, now: Instant) {
        say!("{step}: {reason}");
        self.ready = None;
        self.ending.ended(now);
        self.enter(GuestState::Failed { step: step.into(), reason });
    }

    fn follow_sessions(&mut self) {
        let link = &mut self.link;
        self.sessions.retain(|id, session| {
            if let Start::Failed(reason) = session.process.started() {
                link.send(&ToHost::ExecFailed { session: *id, reason });
                return false;
            }
            let taken = session.feed();
            if taken > 0 {
                let bytes = u32::try_from(taken).unwrap_or(u32::MAX);
                link.send(&ToHost::Credit { session: *id, bytes });
            }
            loop {
                let mut read = 0;
                let room = if link.has_room() { TURN } else { 0 };
                session.read(room, |channel, data| {
                    read += data.len();
                    link.send_frame(&Frame::data(stream_id(*id, channel), data.to_vec()));
                });
                if read == 0 || !session.process.draining() {
                    break;
                }
            }
            if session.process.finished() {
                let status = session.process.status().cloned().unwrap_or(ExitStatus::Code(255));
                link.send(&ToHost::ExecExited { session: *id, status });
                return false;
            }
            true
        });
    }

    /// Waits until something can be done, at the latest until `until`.
    fn wait(&mut self, until: Option<Instant>, now: Instant) {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if let Some((port, flags)) = self.link.interest() {
            fds.push(PollFd::from_borrowed_fd(port, flags));
        }
        let readable = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let writable = |fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT);
        if let Some(application) = &self.application {
            fds.extend(application.handshake().map(readable));
            // Without room the application waits, as it would for any slow reader.
            if self.output.room() > 0 {
                fds.extend(application.outputs().map(readable));
            }
        }
        for session in self.sessions.values() {
            fds.extend(session.process.handshake().map(readable));
            fds.extend(session.wants_input().map(writable));
            if self.link.has_room() && session.credit() > 0 {
                fds.extend(session.process.outputs().map(readable));
            }
        }
        fds.extend(self.peers.interest().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        let peers = self.peers.due(self.met && self.link.has_room());
        let due = [until, self.link.due(), self.ready.as_ref().and_then(Readiness::due), peers];
        let kills = self.leaving.iter().map(|(_, at)| *at);
        let timeout = due.into_iter().flatten().chain(kills).min().map(|at| timespec(at, now));
        let waited = poll(&mut fds, timeout.as_ref());
        let signalled = fds[0].revents().contains(PollFlags::IN);
        drop(fds);
        match waited {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => say!("poll: {e}"),
        }
        let now = Instant::now();
        if signalled {
            self.signals.drain();
            self.reap();
        }
        if self.link.there() || self.link.look() {
            self.receive(now);
        }
    }

    fn reap(&mut self) {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => self.note_end(pid, exit_status(status)),
                Err(Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Whose end it was. Most belong to nobody: what the application left behind is PID 1's to bury.
    fn note_end(&mut self, pid: Pid, status: ExitStatus) {
        let sessions = self.sessions.values_mut().map(|s| &mut s.process);
        let leaving = self.leaving.iter_mut().map(|(p, _)| p);
        let mut all = self.application.iter_mut().chain(sessions).chain(leaving);
        if let Some(process) = all.find(|p| p.pid() == Some(pid)) {
            process.reaped(status);
        }
    }

    fn receive(&mut self, now: Instant) {
        let torn = self.link.torn(now);
        let received = self.link.receive(now);
        for frame in torn.into_iter().chain(received.frames) {
            self.take(frame, now);
        }
        if received.gone {
            self.met = false;
            self.hang_up(now);
        }
        self.ending.host(self.link.there(), now);
    }

    /// The host has gone, and what it had started goes too.
    fn hang_up(&mut self, now: Instant) {
        self.peers.lost();
        for (_, session) in std::mem::take(&mut self.sessions) {
            session.process.signal(libc::SIGHUP, true);
            self.leaving.push((session.process.close(), now + HANGUP_GRACE));
        }
    }

    fn take(&mut self, frame: Frame, now: Instant) {
        match frame.kind {
            FrameKind::Data => {
                let Some((id, Channel::Stdin)) = split_stream(frame.stream) else { return };
                // A session that has ended may still be sent to.
                let Some(session) = self.sessions.get_mut(&id) else { return };
                if !session.give(&frame.payload) {
                    session.process.signal(libc::SIGKILL, true);
                    say!("session {id}: more input than there was credit for");
                }
            }
            FrameKind::Control => match serde_json::from_slice(&frame.payload) {
                Ok(message) => self.obey(message, now),
                Err(e) => say!("a message that this version does not know: {e}"),
            },
        }
    }

    fn obey(&mut self, message: ToGuest, now: Instant) {
        if !self.met && !matches!(message, ToGuest::Hello { .. }) {
            return;
        }
        match message {
            ToGuest::Hello { protocol, nonce } => self.welcome(protocol, nonce, now),
            ToGuest::Configure(config) => self.configure(config, now),
            ToGuest::AckOutput { seq } => self.output.acknowledge(seq),
            ToGuest::Exec { session, program, terminal } => self.exec(session, program, terminal),
            ToGuest::ExportUpper { session } => self.export(session),
            ToGuest::Resize { session, size } => {
                if let Some(s) = self.sessions.get(&session) {
                    s.resize(size);
                }
            }
            ToGuest::Signal { session: 0, signal } => {
                if let Some(application) = &self.application {
                    application.signal(signal, false);
                }
            }
            ToGuest::Signal { session, signal } => {
                if let Some(s) = self.sessions.get(&session) {
                    s.process.signal(signal, true);
                }
            }
            ToGuest::Credit { session, bytes } => {
                if let Some(s) = self.sessions.get_mut(&session) {
                    s.add_credit(bytes);
                }
            }
            ToGuest::Shutdown { grace_ms } => self.shut_down(Duration::from_millis(grace_ms), now),
            ToGuest::PeerAnswer { ask, answer } => self.peers.answered(ask, &answer, now),
            ToGuest::AckExited => self.ending.acknowledge(),
            ToGuest::DropDentries => {
                // 2: dentries and inodes (Linux Documentation/admin-guide/sysctl/vm.rst).
                if let Err(e) = std::fs::write("/proc/sys/vm/drop_caches", "2") {
                    say!("drop_caches: {e}");
                }
            }
        }
    }

    fn welcome(&mut self, protocol: u32, nonce: u64, now: Instant) {
        // A host that comes without having been seen to go is another connection all the same.
        self.hang_up(now);
        let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let uptime_ms = u64::try_from(uptime.tv_sec).unwrap_or(0) * 1000
            + u64::try_from(uptime.tv_nsec).unwrap_or(0) / 1_000_000;
        self.link.send(&ToHost::Welcome { protocol: PROTOCOL, nonce, state: self.state.clone(), uptime_ms });
        if protocol != PROTOCOL {
            say!("the host speaks version {protocol} of the protocol, this is {PROTOCOL}");
            self.met = false;
            return;
        }
        self.met = true;
        self.output.rewind();
        self.untold = self.state != GuestState::Waiting;
    }

    fn configure(&mut self, config: GuestConfig, now: Instant) {
        if self.state != GuestState::Waiting {
            return say!("configured a second time: not done");
        }
        self.enter(GuestState::Configuring);
        self.tell();
        self.link.flush();
        match setup::set_up(&config) {
            Ok(setup) => self.setup = Some(setup),
            Err(e) => return self.fail(e.step, e.reason, now),
        }
        if let Err(e) = self.peers.listen() {
            say!("{}: {e}", gtvp_model::peer::SOCKET);
        }
        let tcp = config.ready_ports.into_iter().map(|port| (Protocol::Tcp, port));
        self.ready_ports =
            tcp.chain(config.ready_udp_ports.into_iter().map(|port| (Protocol::Udp, port))).collect();
        let program = config.program;
        match spawn(Stdio::Outputs, None, |_| command::become_program(&program, false)) {
            Ok(child) => self.application = Some(Process::new(child).0),
            Err(e) => self.fail("exec", format!("the application cannot be started: {e}"), now),
        }
    }

    /// Whether a session may be started under this number; if not, the host is told why.
    fn may_start(&mut self, session: u32) -> bool {
        let reason = if session == 0 || session >= 1 << 28 || self.sessions.contains_key(&session) {
            "the session's number is not usable"
        } else if self.sessions.len() >= MAX_SESSIONS {
            "the box has too many sessions"
        } else if self.setup.is_none() {
            "the box is not set up"
        } else {
            return true;
        };
        self.link.send(&ToHost::ExecFailed { session, reason: reason.into() });
        false
    }

    fn exec(&mut self, session: u32, program: Program, terminal: Option<TerminalSize>) {
        if !self.may_start(session) {
            return;
        }
        let is_terminal = terminal.is_some();
        let stdio = terminal.map_or(Stdio::Pipes, Stdio::Terminal);
        let child = spawn(stdio, None, |_| command::become_program(&program, is_terminal));
        self.follow(session, child, is_terminal);
    }

    fn export(&mut self, session: u32) {
        if !self.may_start(session) {
            return;
        }
        let Some(setup) = &self.setup else { return };
        let child = spawn(Stdio::Outputs, Some(setup.root.upper()), |handshake| {
            handshake.done();
            // SAFETY: `spawn` has put the layer there, and it stays open for this process's life.
            let upper = unsafe { BorrowedFd::borrow_raw(spawn::CHILD_EXTRA) };
            let stdout = rustix::stdio::stdout();
            let Ok(out) = stdout.try_clone_to_owned() else { return "no standard output".into() };
            match export::write(upper.as_fd(), &setup.own, std::fs::File::from(out)) {
                Ok(()) => String::new(),
                Err(e) => format!("the writable layer cannot be sent: {e}"),
            }
        });
        self.follow(session, child, false);
    }

    fn follow(&mut self, session: u32, child: io::Result<spawn::Spawned>, is_terminal: bool) {
        match child {
            Ok(child) => {
                self.sessions.insert(session, Session::new(child, is_terminal));
            }
            Err(e) => {
                let reason = format!("the command cannot be started: {e}");
                self.link.send(&ToHost::ExecFailed { session, reason });
            }
        }
    }

    fn shut_down(&mut self, grace: Duration, now: Instant) {
        if let Some(application) = &self.application {
            application.signal(libc::SIGTERM, false);
        }
        let told = !self.untold && self.link.flushed();
        self.ending.shutdown(grace, self.application.is_some(), told, now);
    }
}

fn exit_status(status: WaitStatus) -> ExitStatus {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitStatus::Code(code),
        (None, Some(signal)) => ExitStatus::Signal(signal),
        (None, None) => ExitStatus::Code(255),
    }
}

/// From `now` to `at`, rounded up so that the moment has come when the wait is over.
fn timespec(at: Instant, now: Instant) -> Timespec {
    let left = at.saturating_duration_since(now) + Duration::from_millis(1);
    Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    }
}
