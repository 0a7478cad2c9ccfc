//! One thread for each box: waits for its machine, its guest, its callers and the clock, asks the engine, and carries
//! out what it answers. It sleeps while nothing happens.
//!
//! Decides nothing about the box's life; `engine.rs` does.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, mpsc};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use gtvp_ipc::drivers::{BoxHappening, TEMPLATE_FAILED};
use gtvp_ipc::supervisor::Ended;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::guest::{Frame, GuestConfig, Program, TerminalSize, ToGuest, ToHost, split_stream};
use gtvp_model::ids::Slot;
use gtvp_model::operation::Progress;
use gtvp_model::peer::{PeerAnswer, PeerQuestion};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::agent::{Agent, Broken, Said};
use crate::applog::AppLog;
use crate::engine::{self, Ask, Command, Life, Phase};
use crate::exec::Form;
use crate::follow::{Bell, End};
use crate::inbox::Inbox;
use crate::monitor::{Heard, Monitor};
use crate::peer::Asking;
use crate::qmp;
use crate::record::{self, Record};
use crate::service::Shared;
use crate::sessions::{Caller, Sessions};
use crate::{console, words};

/// Where an answer goes. Nobody may wait for it any more.
pub type Reply = mpsc::Sender<Result<(), Fault>>;

/// What is asked of a box's thread.
pub enum Request {
    /// Something about its life.
    Ask(Ask, Reply),
    /// Memory that the guest may use.
    SetMemory(u64, Reply),
    /// A command beside the application.
    Exec {
        /// What.
        program: Program,
        /// Its terminal.
        terminal: Option<TerminalSize>,
        /// The caller's stream.
        caller: Caller,
        /// Where the answer goes.
        reply: Reply,
    },
    /// The writable layer as an archive.
    Export(Caller, Reply),
    /// A signal for the application.
    Signal(i32, Reply),
    /// The answer to what it asked about another box.
    AnswerPeer(u64, PeerAnswer, Reply),
    /// The supervisor says that a machine of this slot ended.
    Ended(Ended),
    /// Whoever asked for the start has gone.
    Cancel,
}

/// What whoever waits for a start hears.
pub enum News {
    /// How far it is.
    Progress(Progress),
    /// Its answer.
    Done(Result<(), Fault>),
}

/// What a box's thread works with.
pub struct Machine {
    /// The domain.
    pub shared: Arc<Shared>,
    /// The box.
    pub slot: Slot,
    /// Its number with the supervisor.
    pub process: u64,
    /// What is kept of it.
    pub record: Record,
    /// Its life.
    pub life: Life,
    /// Who it will be, for a guest that is not configured yet.
    pub config: Option<GuestConfig>,
    /// What is asked.
    pub inbox: Arc<Inbox<Request>>,
    /// The followers of its logs.
    pub bell: Arc<Bell>,
    /// Who waits for its start.
    pub starter: Option<Arc<Inbox<News>>>,
    /// Its guest.
    pub agent: Option<Agent>,
    /// Its QEMU.
    pub monitor: Option<Monitor>,
    /// What its application wrote.
    pub log: AppLog,
    /// Whether its writable layer was made for this start.
    pub new_disk: bool,
    /// Commands beside its application.
    pub sessions: Sessions,
    /// What happened on the way.
    pub notes: Notes,
}

/// What a box's thread remembers.
#[derive(Default)]
pub struct Notes {
    full: bool,
    gap: bool,
    shutdown: Option<String>,
    stops: Vec<Reply>,
    pauses: Vec<Reply>,
    resumes: Vec<Reply>,
    balloons: BTreeMap<u64, Reply>,
    asking: Asking,
    released: bool,
}

/// A descriptor that the thread waits for.
#[derive(Clone, Copy)]
enum Source {
    Inbox,
    Agent,
    Monitor,
    Session(u32),
}

impl Machine {
    /// Runs until the machine is gone.
    pub fn run(mut self) {
        if self.agent.is_none() || self.monitor.is_none() {
            self.feed(engine::Event::Lost("its QEMU cannot be reached".into()));
        }
        while !self.notes.released {
            let ready = self.wait();
            for (source, flags) in ready {
                match source {
                    Source::Inbox => self.on_inbox(),
                    Source::Agent => self.on_agent(flags),
                    Source::Monitor => self.on_monitor(),
                    Source::Session(id) => {
                        let frames = self.sessions.on_ready(id, flags);
                        self.tell_guest(frames);
                    }
                }
            }
            if self.life.deadline().is_some_and(|d| d <= Instant::now()) {
                self.feed(engine::Event::Due);
            }
            self.flush();
        }
        for reply in self.notes.stops.drain(..) {
            let _ = reply.send(Ok(()));
        }
    }

    fn wait(&self) -> Vec<(Source, PollFlags)> {
        let mut sources = vec![(Source::Inbox, self.inbox.as_fd(), PollFlags::IN)];
        if let Some(agent) = &self.agent {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, !agent.flooded());
            flags.set(PollFlags::OUT, agent.wants_write());
            sources.push((Source::Agent, agent.as_fd(), flags));
        }
        if let Some(monitor) = &self.monitor {
            sources.push((Source::Monitor, monitor.as_fd(), monitor.wants()));
        }
        // A guest that does not read its port gets nothing more to read.
        let congested = self.agent.as_ref().is_none_or(Agent::congested);
        sources
            .extend(self.sessions.sources(congested).map(|(id, fd, flags)| (Source::Session(id), fd, flags)));
        let timeout = self.life.deadline().map(|d| {
            // Rounded up, so that it has passed when this ends.
            let left = d.saturating_duration_since(Instant::now()) + std::time::Duration::from_millis(1);
            Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(3600),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        poll_all(&sources, timeout.as_ref())
    }

    fn on_inbox(&mut self) {
        for request in self.inbox.take() {
            match request {
                Request::Ask(ask, reply) => self.on_ask(ask, reply),
                Request::Cancel => {
                    if let Ok(commands) = self.life.ask(Ask::Cancel, Instant::now()) {
                        self.carry_out(commands);
                    }
                }
                Request::Ended(end) if end.process == self.process => {
                    let words = self.last_words(&end.how);
                    self.feed(engine::Event::MachineGone(words));
                }
                // Of an earlier machine in this slot.
                Request::Ended(_) => {}
                Request::SetMemory(bytes, reply) => self.set_memory(bytes, reply),
                Request::Signal(signal, reply) => {
                    let can = self.can_tell();
                    if can.is_ok() {
                        self.tell_guest([Frame::control(&ToGuest::Signal { session: 0, signal })]);
                    }
                    let _ = reply.send(can);
                }
                Request::AnswerPeer(ask, answer, reply) => {
                    if let Some(ask) = self.notes.asking.answered(ask) {
                        self.tell_guest([Frame::control(&ToGuest::PeerAnswer { ask, answer })]);
                    }
                    let _ = reply.send(Ok(()));
                }
                Request::Exec { program, terminal, caller, reply } => {
                    let session = self.can_tell().and_then(|()| self.sessions.open(caller, Form::Frames));
                    let told = session.map(|session| {
                        self.tell_guest([Frame::control(&ToGuest::Exec { session, program, terminal })]);
                    });
                    let _ = reply.send(told);
                }
                Request::Export(caller, reply) => {
                    let session =
                        self.life.check_export().and_then(|()| self.sessions.open(caller, Form::Raw));
                    let told = session.map(|session| {
                        self.tell_guest([Frame::control(&ToGuest::ExportUpper { session })]);
                    });
                    let _ = reply.send(told);
                }
            }
        }
    }

    fn can_tell(&self) -> Result<(), Fault> {
        self.life.check_running()?;
        match &self.agent {
            Some(agent) if !agent.congested() => Ok(()),
            _ => Err(Fault::new(FaultKind::Unavailable, "the box's guest does not listen at the moment")),
        }
    }

    fn on_ask(&mut self, ask: Ask, reply: Reply) {
        let waiting = match ask {
            Ask::Stop { .. } | Ask::Cancel => &mut self.notes.stops,
            Ask::Pause => &mut self.notes.pauses,
            Ask::Resume => &mut self.notes.resumes,
        };
        match self.life.ask(ask, Instant::now()) {
            Ok(commands) => {
                waiting.push(reply);
                self.carry_out(commands);
            }
            Err(fault) => drop(reply.send(Err(fault))),
        }
    }

    fn set_memory(&mut self, bytes: u64, reply: Reply) {
        let can = self.life.check_running().and_then(|()| {
            if bytes > self.record.memory {
                let message = "a running box can have no more memory than it was started with";
                return Err(Fault::new(FaultKind::WrongState, message).hint("it can at its next start"));
            }
            self.monitor
                .as_mut()
                .ok_or_else(|| Fault::new(FaultKind::Unavailable, "the box's QEMU does not answer"))
        });
        match can {
            Ok(monitor) => {
                drop(self.notes.balloons.insert(monitor.tell(qmp::Command::Balloon(bytes)), reply))
            }
            Err(fault) => drop(reply.send(Err(fault))),
        }
    }

    fn on_agent(&mut self, flags: PollFlags) {
        let Some(agent) = &mut self.agent else { return };
        let mut outcome = Ok(Vec::new());
        if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            outcome = agent.receive();
        }
        match outcome {
            Ok(said) => self.on_said(said),
            Err(e) => self.lose_agent(&e),
        }
    }

    fn lose_agent(&mut self, why: &Broken) {
        self.agent = None;
        self.sessions.fail_all(&Fault::new(FaultKind::BoxFailed, "the box's machine has gone"));
        self.feed(engine::Event::Lost(why.to_string()));
    }

    fn on_said(&mut self, said: Vec<Said>) {
        let mut acknowledge = None;
        for said in said {
            match said {
                Said::Data { stream, bytes } => {
                    if let Some((session, channel)) = split_stream(stream) {
                        let frames = self.sessions.on_output(session, channel, &bytes);
                        self.tell_guest(frames);
                    }
                }
                Said::Control(ToHost::Output { seq, fd, data }) => {
                    self.on_output(seq, fd, &data);
                    acknowledge = Some(seq);
                }
                Said::Control(message) => {
                    // What the application wrote before is kept before its end is noted.
                    self.acknowledge(acknowledge.take());
                    self.on_message(message);
                }
            }
        }
        self.acknowledge(acknowledge);
    }

    fn acknowledge(&mut self, seq: Option<u64>) {
        if let Some(seq) = seq {
            self.bell.ring();
            self.tell_guest([Frame::control(&ToGuest::AckOutput { seq })]);
        }
    }

    fn on_output(&mut self, seq: u64, fd: u8, data: &str) {
        let last = self.log.last_seq();
        if seq <= last {
            // Sent again after a reconnection: it is kept already.
            return;
        }
        if seq != last + 1 && !std::mem::replace(&mut self.notes.gap, true) {
            self.notice(format!("output is missing between number {last} and {seq}"));
        }
        let Some(bytes) = gtvp_model::component::unescape(data) else { return };
        if let Err(e) = self.log.append(seq, if fd == 2 { 2 } else { 1 }, &bytes) {
            // The application is not held up by a full disk of the member.
            if !std::mem::replace(&mut self.notes.full, true) {
                self.notice(format!("what the application writes cannot be kept: {e}"));
            }
        }
    }

    fn on_message(&mut self, message: ToHost) {
        match message {
            ToHost::Welcome { protocol, state, .. } => {
                self.feed(engine::Event::Welcome { protocol, state });
            }
            ToHost::State(state) => self.feed(engine::Event::State(state)),
            ToHost::ExecFailed { session, reason } => {
                let reason: String = reason.chars().filter(|c| !c.is_control()).take(400).collect();
                let fault =
                    Fault::new(FaultKind::Invalid, format!("the command could not be started: {reason}"));
                self.sessions.on_fault(session, &fault);
            }
            ToHost::ExecExited { session, status } => self.sessions.on_exited(session, &status),
            ToHost::Credit { session, bytes } => {
                let frames = self.sessions.on_credit(session, bytes);
                self.tell_guest(frames);
            }
            ToHost::AskPeer { ask, question } => self.ask_peer(ask, question),
            // Taken care of before.
            ToHost::Output { .. } => {}
        }
    }

    /// Passes a question on, or refuses it.
    fn ask_peer(&mut self, theirs: u32, question: PeerQuestion) {
        let ask = self.shared.next_ask();
        let asked = question.check().map_err(|e| e.to_string()).and_then(|_| {
            self.notes.asking.ask(theirs, ask, Instant::now()).map_err(str::to_owned)?;
            if self.shared.hub.pass_on(self.slot, BoxHappening::AsksAboutPeer { ask, question }) {
                return Ok(());
            }
            self.notes.asking.answered(ask);
            Err("the member cannot answer at the moment: try again in a second".to_owned())
        });
        if let Err(why) = asked {
            let answer = PeerAnswer::refused(&why);
            self.tell_guest([Frame::control(&ToGuest::PeerAnswer { ask: theirs, answer })]);
        }
    }

    fn on_monitor(&mut self) {
        let Some(monitor) = &mut self.monitor else { return };
        let heard = match monitor.receive() {
            Ok(heard) => heard,
            Err(e) => {
                self.monitor = None;
                self.feed(engine::Event::Lost(e.to_string()));
                return;
            }
        };
        for heard in heard {
            match heard {
                Heard::Running(true) | Heard::Event(qmp::Event::Resumed) => self.feed(engine::Event::Resumed),
                Heard::Running(false) | Heard::Event(qmp::Event::Stopped) => self.feed(engine::Event::Halted),
                Heard::Event(qmp::Event::Shutdown(reason)) => self.notes.shutdown = Some(reason),
                Heard::Event(qmp::Event::Panicked) => self.notes.shutdown = Some("guest-panic".into()),
                Heard::Event(qmp::Event::DiskError(reason)) => {
                    self.notice(format!(
                        "its writable layer cannot be written ({reason}); it is paused until it is resumed"
                    ));
                }
                Heard::Done(id) => {
                    if let Some(reply) = self.notes.balloons.remove(&id) {
                        let _ = reply.send(Ok(()));
                    }
                }
                Heard::Refused(id, command, why) => {
                    let fault = || Fault::new(FaultKind::WrongState, "QEMU refused").because(why.clone());
                    let waiting = match command {
                        qmp::Command::Stop => std::mem::take(&mut self.notes.pauses),
                        qmp::Command::Cont => std::mem::take(&mut self.notes.resumes),
                        _ => self.notes.balloons.remove(&id).into_iter().collect(),
                    };
                    for reply in waiting {
                        let _ = reply.send(Err(fault()));
                    }
                }
            }
        }
    }

    fn notice(&self, message: String) {
        self.shared.hub.emit(self.slot, BoxHappening::Notice { message });
    }

    fn tell_guest(&mut self, frames: impl IntoIterator<Item = Frame>) {
        if let Some(agent) = &mut self.agent {
            frames.into_iter().for_each(|f| agent.send(&f));
        }
    }

    /// What was queued meanwhile is sent as far as it goes.
    fn flush(&mut self) {
        let frames = self.sessions.flush();
        self.tell_guest(frames);
        if let Some(Err(e)) = self.agent.as_mut().map(Agent::flush) {
            self.lose_agent(&e);
        }
        if let Some(Err(e)) = self.monitor.as_mut().map(Monitor::flush) {
            self.monitor = None;
            self.feed(engine::Event::Lost(e.to_string()));
        }
    }

    fn feed(&mut self, event: engine::Event) {
        let commands = self.life.on(event, Instant::now());
        self.carry_out(commands);
    }

    fn carry_out(&mut self, commands: Vec<Command>) {
        let mut commands = VecDeque::from(commands);
        while let Some(command) = commands.pop_front() {
            match command {
                Command::Persist => self.persist(),
                Command::Configure => self.configure(),
                Command::Send(message) => self.tell_guest([Frame::control(&message)]),
                Command::Qmp(command) => {
                    if let Some(monitor) = &mut self.monitor {
                        monitor.tell(command);
                    }
                }
                Command::Kill => match self.shared.link.kill(self.slot) {
                    Ok(()) => {
                        let words = self.last_words("killed");
                        commands.extend(self.life.on(engine::Event::MachineGone(words), Instant::now()));
                    }
                    // Tried again at the next deadline.
                    Err(e) => eprintln!("drivers: box {} cannot be killed: {e}", self.slot.get()),
                },
                Command::Progress(phase, message) => {
                    let progress =
                        Progress { phase: phase.into(), message: message.into(), ..Progress::default() };
                    self.tell_starter(News::Progress(progress));
                }
                Command::Started(outcome) => {
                    let outcome = outcome.map_err(|f| self.with_template(self.with_console(f)));
                    self.tell_starter(News::Done(outcome));
                    self.starter = None;
                }
                Command::Paused => answer(&mut self.notes.pauses),
                Command::Resumed => answer(&mut self.notes.resumes),
                Command::Emit(happening) => self.shared.hub.emit(self.slot, happening),
                Command::Release => self.release(),
            }
        }
    }

    fn tell_starter(&self, news: News) {
        if let Some(starter) = &self.starter {
            starter.push(news);
        }
    }

    /// A guest that never spoke has said why on its console, if anywhere.
    fn with_console(&self, fault: Fault) -> Fault {
        if !self.life.silent() {
            return fault;
        }
        match words::last_of_console(&words::tail(&console::path(&self.folder()))) {
            Some(line) => fault.because(format!("the last on its console: {line}")),
            None => fault,
        }
    }

    /// A machine that was loaded and whose guest never spoke may boot.
    fn with_template(&self, fault: Fault) -> Fault {
        let loaded = self.record.template.is_some() && !self.life.met() && fault.kind != FaultKind::Cancelled;
        if loaded { fault.because(TEMPLATE_FAILED) } else { fault }
    }

    fn folder(&self) -> std::path::PathBuf {
        self.shared.folders.of_box(self.slot)
    }

    fn last_words(&self, how: &str) -> String {
        let folder = self.folder();
        words::last_words(&words::Known {
            console: &words::tail(&console::path(&folder)),
            stderr: &words::tail(&console::stderr_path(&folder)),
            how,
            shutdown: self.notes.shutdown.as_deref(),
        })
    }

    fn persist(&mut self) {
        self.record.state = self.life.phase().clone();
        self.record.paused = self.life.paused();
        if let Err(e) = self.record.save(&self.folder()) {
            eprintln!("drivers: the record of box {} cannot be written: {e}", self.slot.get());
        }
    }

    fn configure(&mut self) {
        let Some(mut config) = self.config.take() else { return };
        config.time_ms =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis().try_into().unwrap_or(0));
        self.tell_guest([Frame::control(&ToGuest::Configure(config))]);
    }

    fn release(&mut self) {
        let folder = self.folder();
        if !self.record.publish.is_empty() {
            if let Err(e) = self.shared.link.publish(self.slot, &[]) {
                eprintln!("drivers: the ports of box {} cannot be given back: {e}", self.slot.get());
            }
        }
        self.shared.keeper.leave(&folder);
        self.sessions.fail_all(&Fault::new(FaultKind::BoxFailed, "the box's machine has gone"));
        // What it would tell the guest is of no use any more.
        drop(self.sessions.flush());
        self.agent = None;
        self.monitor = None;
        let mut leftovers = vec![self.shared.folders.sockets(self.slot)];
        let end = match self.life.phase() {
            Phase::Gone { last } => {
                if self.new_disk && *last == engine::Last::NeverStarted {
                    leftovers.push(folder.join("upper.img"));
                }
                End::from(last)
            }
            _ => End::Plain,
        };
        for path in leftovers {
            if let Err(e) = record::remove(&path) {
                eprintln!("drivers: {} cannot be removed: {e}", path.display());
            }
        }
        self.bell.end(end);
        self.shared.forget(self.slot);
        self.notes.released = true;
    }
}

fn answer(waiting: &mut Vec<Reply>) {
    for reply in waiting.drain(..) {
        let _ = reply.send(Ok(()));
    }
}

fn poll_all(
    sources: &[(Source, BorrowedFd<'_>, PollFlags)],
    timeout: Option<&Timespec>,
) -> Vec<(Source, PollFlags)> {
    let mut fds: Vec<_> =
        sources.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
    match poll(&mut fds, timeout) {
        Ok(0) | Err(rustix::io::Errno::INTR) => Vec::new(),
        Ok(_) => {
            let ready = sources.iter().zip(&fds).map(|((source, ..), fd)| (*source, fd.revents()));
            ready.filter(|(_, flags)| !flags.is_empty()).collect()
        }
        Err(e) => {
            // Only a lack of memory is left as a reason; it passes or ends this process.
            eprintln!("drivers: poll: {e}");
            std::thread::sleep(std::time::Duration::from_millis(100));
            Vec::new()
        }
    }
}
