//! What this domain answers, and which boxes it has. Each request goes to its box's thread.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Instant;

use gtvp_ipc::drivers::{
    AcceleratorReply, BoxEvent, BoxHappening, BuildTemplate, FoundTemplate, Logs, Request, Shape, Start,
    Started,
};
use gtvp_ipc::supervisor::ProcessEvent;
use gtvp_ipc::{Answer, Caller as Who, Service, Session};
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::Slot;
use gtvp_model::member::MemberConfig;
use gtvp_model::template::TemplateView;
use rustix::event::{PollFd, PollFlags, poll};

use crate::accelerator::Chooser;
use crate::agent::Agent;
use crate::applog::AppLog;
use crate::engine::{Ask, Last, Life, Phase};
use crate::follow::{self, Bell, End, Then};
use crate::hub::Hub;
use crate::inbox::Inbox;
use crate::link::{Link, QEMU};
use crate::monitor::Monitor;
use crate::record::{self, Folders, Record};
use crate::runtime::{self, Machine, News, Notes};
use crate::sessions::{Caller, Sessions};
use crate::templates::{Key, Templates};
use crate::{build, console, start, words};

/// Stack of a box's thread.
const STACK: usize = 256 * 1024;

/// The way to one box's thread.
#[derive(Clone)]
pub struct Handle {
    /// What is asked of it.
    pub inbox: Arc<Inbox<runtime::Request>>,
    /// The followers of its logs.
    pub bell: Arc<Bell>,
}

/// What all of this domain's threads share.
pub struct Shared {
    /// The member.
    pub config: MemberConfig,
    /// Its folders.
    pub folders: Folders,
    /// The supervisor.
    pub link: Link,
    /// The watchers.
    pub hub: Hub,
    /// The consoles.
    pub keeper: Arc<console::Keeper>,
    /// The accelerator.
    pub chooser: Chooser,
    /// The templates.
    pub templates: Templates,
    /// The last question of any box about another one.
    asks: AtomicU64,
    boxes: Mutex<BTreeMap<Slot, Handle>>,
}

/// The domain.
pub struct Drivers {
    shared: Arc<Shared>,
}

impl Shared {
    fn boxes(&self) -> MutexGuard<'_, BTreeMap<Slot, Handle>> {
        self.boxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that no other question of any box has, of the last process either: an answer that comes late finds nobody.
    pub fn next_ask(&self) -> u64 {
        self.asks.fetch_add(1, Ordering::Relaxed)
    }

    /// A box's machine is gone.
    pub fn forget(&self, slot: Slot) {
        self.boxes().remove(&slot);
    }

    /// Takes a slot for a machine.
    fn claim(&self, slot: Slot) -> Result<Handle, Fault> {
        let mut boxes = self.boxes();
        if boxes.contains_key(&slot) {
            return Err(Fault::new(FaultKind::WrongState, "the box's machine is there already"));
        }
        let inbox = Inbox::new().map_err(|e| Fault::internal("out of descriptors", &e))?;
        let handle = Handle { inbox: Arc::new(inbox), bell: Arc::default() };
        boxes.insert(slot, handle.clone());
        Ok(handle)
    }

    fn run(&self, machine: Machine) -> Result<(), Fault> {
        let name = format!("box-{}", machine.slot.get());
        let thread = std::thread::Builder::new().name(name).stack_size(STACK);
        thread.spawn(move || machine.run()).map_err(|e| Fault::internal("out of threads", &e))?;
        Ok(())
    }

    fn on_process(&self, event: ProcessEvent) {
        if let ProcessEvent::Ended(end) = event {
            let handle =
                end.slot.filter(|_| end.template == QEMU).and_then(|slot| self.boxes().get(&slot).cloned());
            if let Some(handle) = handle {
                handle.inbox.push(runtime::Request::Ended(end));
            }
        }
    }
}

impl Drivers {
    /// Finds the boxes that run, and those that ended while nobody watched.
    pub fn open(config: MemberConfig, folders: Folders, link: Link) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            config,
            chooser: Chooser::new(&folders.state),
            templates: Templates::open(&folders.state)?,
            folders,
            link,
            hub: Hub::default(),
            keeper: console::Keeper::start()?,
            asks: AtomicU64::new(random()?),
            boxes: Mutex::default(),
        });
        let running = Arc::new(Mutex::new(Some(BTreeMap::new())));
        let (events, found) = (shared.clone(), running.clone());
        // The first run of the watch only lists; boxes are claimed below before an end can be missed.
        let early = Arc::new(Mutex::new(Vec::new()));
        let early_events = early.clone();
        shared.link.watch(move |event| {
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            match (found.as_mut(), event) {
                (Some(found), ProcessEvent::Running { process, template, slot: Some(slot), .. })
                    if template == QEMU =>
                {
                    found.insert(slot, process);
                }
                (Some(_), event) => early_events.lock().unwrap_or_else(PoisonError::into_inner).push(event),
                (None, event) => events.on_process(event),
            }
        })?;
        let drivers = Self { shared };
        let list = running.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default();
        drivers.recover(&list)?;
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        *running = None;
        for event in std::mem::take(&mut *early.lock().unwrap_or_else(PoisonError::into_inner)) {
            drivers.shared.on_process(event);
        }
        drop(running);
        Ok(drivers)
    }

    fn recover(&self, running: &BTreeMap<Slot, u64>) -> std::io::Result<()> {
        let shared = &self.shared;
        let known: BTreeSet<Slot> =
            shared.folders.slots()?.into_iter().chain(running.keys().copied()).collect();
        for slot in known {
            let folder = shared.folders.of_box(slot);
            let outcome = match (Record::load(&folder), running.get(&slot)) {
                (Some(record), Some(process)) => self.attach(slot, record, *process),
                (Some(record), None) => {
                    self.bury(slot, record, "it ended while the drivers domain was restarting");
                    Ok(())
                }
                (None, Some(_)) => shared.link.kill(slot),
                (None, None) => Ok(()),
            };
            if let Err(e) = outcome {
                eprintln!("drivers: box {} cannot be found again: {e}", slot.get());
            }
        }
        Ok(())
    }

    /// A machine that runs on.
    fn attach(&self, slot: Slot, record: Record, process: u64) -> Result<(), Fault> {
        let shared = &self.shared;
        let folder = shared.folders.of_box(slot);
        if matches!(record.state, Phase::Booting | Phase::Configuring | Phase::Gone { .. }) {
            // Whoever asked for this start was told that it is lost, and will ask again.
            shared.link.kill(slot)?;
            self.bury(slot, record, "its start was lost");
            return Ok(());
        }
        let sockets = shared.folders.sockets(slot);
        let failed = |e: std::io::Error| Fault::internal("the box's machine cannot be reached", &e);
        let handle = shared.claim(slot)?;
        let log = AppLog::open(&folder).map_err(failed)?;
        for path in [console::path(&folder), console::stderr_path(&folder)] {
            if let Err(e) = shared.keeper.keep(&path, &handle.bell) {
                eprintln!("drivers: {} cannot be watched: {e}", path.display());
            }
        }
        let present = match (&record.state, record.paused) {
            (Phase::Exited { status }, _) => BoxHappening::Exited { status: status.clone() },
            (_, true) => BoxHappening::Paused,
            (Phase::Running { ready }, _) => BoxHappening::Running { ready: *ready },
            _ => BoxHappening::Running { ready: false },
        };
        shared.hub.emit(slot, present);
        let life = Life::attached(record.state.clone(), record.paused, record.hold, Instant::now());
        let machine = Machine {
            shared: shared.clone(),
            slot,
            process,
            // Without these it is as good as gone: its thread notices at its first look.
            agent: Agent::connect(&sockets.join("agent")).ok(),
            monitor: Monitor::connect(&sockets.join("qmp")).ok(),
            life,
            record,
            config: None,
            inbox: handle.inbox,
            bell: handle.bell,
            starter: None,
            log,
            new_disk: false,
            sessions: Sessions::default(),
            notes: Notes::default(),
        };
        shared.run(machine)
    }

    /// A machine that is gone.
    fn bury(&self, slot: Slot, mut record: Record, how: &str) {
        let shared = &self.shared;
        let folder = shared.folders.of_box(slot);
        let last = match record.state {
            Phase::Gone { last } | Phase::Ending { last } => last,
            Phase::Exited { status } => Last::Exited(status),
            Phase::Stopping { .. } => Last::Exited(gtvp_model::boxview::ExitStatus::Signal(9)),
            Phase::Booting | Phase::Configuring => Last::NeverStarted,
            Phase::Running { .. } => Last::Died(words::last_words(&words::Known {
                console: &words::tail(&console::path(&folder)),
                stderr: &words::tail(&console::stderr_path(&folder)),
                how,
                shutdown: None,
            })),
        };
        if let Some(happening) = last.happening() {
            shared.hub.emit(slot, happening);
        }
        shared.hub.emit(slot, BoxHappening::Gone);
        if !record.publish.is_empty() {
            if let Err(e) = shared.link.publish(slot, &[]) {
                eprintln!("drivers: the ports of box {} cannot be given back: {e}", slot.get());
            }
            record.publish.clear();
        }
        record.state = Phase::Gone { last };
        if let Err(e) = record.save(&folder).and_then(|()| record::remove(&shared.folders.sockets(slot))) {
            eprintln!("drivers: box {} cannot be cleared away: {e}", slot.get());
        }
    }

    fn start(&self, start: &Start, fds: Vec<OwnedFd>, session: &mut Session) -> Result<Started, Fault> {
        let given = start::Given::new(fds)?;
        let shared = &self.shared;
        let handle = shared.claim(start.slot)?;
        let prepared = start::machine(shared, start, &given, &handle, session);
        drop(given);
        let (machine, starter) = match prepared {
            Ok(both) => both,
            Err(fault) => {
                shared.forget(start.slot);
                return Err(fault);
            }
        };
        let (accelerator, template) = (machine.record.accelerator.clone(), machine.record.template);
        shared.run(machine).inspect_err(|_| {
            // Its thread would have given all back.
            let given_back = shared.link.kill(start.slot).and_then(|()| shared.link.publish(start.slot, &[]));
            if let Err(e) = given_back {
                eprintln!("drivers: box {} cannot be cleared away: {e}", start.slot.get());
            }
            shared.forget(start.slot);
        })?;
        let mut asked = false;
        loop {
            let gone = wait(&*starter, session);
            if gone && !std::mem::replace(&mut asked, true) {
                handle.inbox.push(runtime::Request::Cancel);
            }
            for news in starter.take() {
                match news {
                    News::Progress(progress) => drop(session.progress(&progress)),
                    News::Done(Ok(())) if asked => {
                        // It was started in the same moment in which nobody wanted it any more.
                        self.ask(start.slot, |reply| {
                            runtime::Request::Ask(Ask::Stop { grace_ms: 0 }, reply)
                        })?;
                        return Err(Fault::new(FaultKind::Cancelled, "the start was cancelled"));
                    }
                    News::Done(outcome) => return outcome.map(|()| Started { accelerator, template }),
                }
            }
            if asked {
                // Its caller's end stays readable: only the thread is waited for from now on.
                let _ = poll(&mut [PollFd::from_borrowed_fd(starter.as_fd(), PollFlags::IN)], None);
            }
        }
    }

    fn find_template(&self, shape: Shape) -> FoundTemplate {
        let found = self.shared.chooser.found().map(|a| self.shared.templates.find(&Key::new(shape, &a)));
        match found.transpose() {
            Ok(found) => FoundTemplate { template: found.flatten().map(|(t, _)| t.digest), problem: None },
            Err(e) => FoundTemplate { template: None, problem: Some(e.to_string()) },
        }
    }

    fn build_template(
        &self,
        asked: &BuildTemplate,
        fds: Vec<OwnedFd>,
        session: &mut Session,
    ) -> Result<TemplateView, Fault> {
        let given = start::Given::new(fds)?;
        let _claimed = self.shared.claim(asked.slot)?;
        let outcome = build::template(&self.shared, asked, &given, session);
        self.shared.forget(asked.slot);
        outcome
    }

    /// Asks a box's thread and waits for its answer.
    fn ask(&self, slot: Slot, request: impl FnOnce(runtime::Reply) -> runtime::Request) -> Result<(), Fault> {
        let handle = self.shared.boxes().get(&slot).cloned();
        let handle = handle.ok_or_else(|| Fault::new(FaultKind::WrongState, "the box does not run"))?;
        let (tell, told) = mpsc::channel();
        if !handle.inbox.push(request(tell)) {
            return Err(Fault::new(FaultKind::Unavailable, "too much is asked of this box at once"));
        }
        drop(handle);
        let gone = || Fault::new(FaultKind::WrongState, "the box's machine is gone");
        told.recv().unwrap_or_else(|_| Err(gone()))
    }

    fn stop(&self, slot: Slot, grace_ms: u64) -> Result<(), Fault> {
        let asked = self.ask(slot, |reply| runtime::Request::Ask(Ask::Stop { grace_ms }, reply));
        // Gone is what was asked for.
        asked.or_else(|fault| if fault.kind == FaultKind::WrongState { Ok(()) } else { Err(fault) })
    }

    fn remove(&self, slot: Slot) -> Result<(), Fault> {
        let boxes = self.shared.boxes();
        if boxes.contains_key(&slot) {
            return Err(
                Fault::new(FaultKind::WrongState, "the box's machine is there").hint("stop the box first")
            );
        }
        let failed = |e: std::io::Error| Fault::internal("the box's files cannot be removed", &e);
        record::remove(&self.shared.folders.of_box(slot)).map_err(failed)?;
        record::remove(&self.shared.folders.sockets(slot)).map_err(failed)?;
        drop(boxes);
        self.shared.hub.forget(slot);
        Ok(())
    }

    fn logs(&self, logs: &Logs) -> Result<OwnedFd, Fault> {
        let folder = self.shared.folders.of_box(logs.slot);
        let live = self.shared.boxes().get(&logs.slot).cloned();
        let then = match live {
            _ if !logs.follow => Then::Stop,
            Some(handle) => Then::Follow(handle.bell),
            None => match Record::load(&folder).map(|r| r.state) {
                Some(Phase::Gone { last }) => Then::End(End::from(&last)),
                _ => Then::Stop,
            },
        };
        follow::start(&folder, logs.source, logs.tail, then)
    }

    fn watch(&self, session: &mut Session) -> Result<(), Fault> {
        let inbox = self.shared.hub.watch().map_err(|e| Fault::internal("out of descriptors", &e))?;
        loop {
            if wait(&*inbox, session) {
                return Ok(());
            }
            let behind = !self.shared.hub.hears(&inbox);
            for event in inbox.take() {
                if session.progress::<BoxEvent>(&event).is_err() {
                    return Ok(());
                }
            }
            if behind {
                return Err(Fault::new(
                    FaultKind::Unavailable,
                    "the watcher was too slow: it has to begin again",
                ));
            }
        }
    }
}

fn random() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    // JSON's numbers are whole up to here in every reader.
    Ok(u64::from_ne_bytes(bytes) >> 12)
}

/// Waits for the bell; `true` when the caller has gone.
fn wait(bell: &impl AsFd, session: &Session) -> bool {
    let mut fds = [
        PollFd::from_borrowed_fd(bell.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(session.stream().as_fd(), PollFlags::RDHUP),
    ];
    // An interruption is a look too many, nothing else.
    let _ = poll(&mut fds, None);
    !fds[1].revents().is_empty()
}

impl Service for Drivers {
    type Request = Request;

    fn handle(
        &self,
        _: &Who,
        request: Request,
        fds: Vec<OwnedFd>,
        session: &mut Session,
    ) -> Result<Answer, Fault> {
        let nothing = |()| Answer::nothing();
        let out = |e: std::io::Error| Fault::internal("out of descriptors", &e);
        match request {
            Request::Start(start) => self.start(&start, fds, session).map(|started| Answer::of(&started)),
            Request::FindTemplate(r) => Ok(Answer::of(&self.find_template(r.shape))),
            Request::BuildTemplate(r) => self.build_template(&r, fds, session).map(|t| Answer::of(&t)),
            Request::ListTemplates(_) => Ok(Answer::of(&self.shared.templates.list())),
            Request::RemoveTemplate(r) => self.shared.templates.remove(&r.digest).map(|t| Answer::of(&t)),
            Request::Stop(stop) => self.stop(stop.slot, stop.grace_ms).map(nothing),
            Request::Pause(r) => {
                self.ask(r.slot, |reply| runtime::Request::Ask(Ask::Pause, reply)).map(nothing)
            }
            Request::Resume(r) => {
                self.ask(r.slot, |reply| runtime::Request::Ask(Ask::Resume, reply)).map(nothing)
            }
            Request::SetMemory(r) => {
                self.ask(r.slot, |reply| runtime::Request::SetMemory(r.memory.0, reply)).map(nothing)
            }
            Request::Remove(r) => self.remove(r.slot).map(nothing),
            Request::Signal(r) if !(1..=64).contains(&r.signal) => {
                Err(Fault::new(FaultKind::Invalid, format!("{} is no signal", r.signal)))
            }
            Request::Signal(r) => {
                self.ask(r.slot, |reply| runtime::Request::Signal(r.signal, reply)).map(nothing)
            }
            Request::Exec(r) => {
                let (caller, theirs) = Caller::stream().map_err(out)?;
                let (program, terminal) = (r.program, r.terminal);
                self.ask(r.slot, |reply| runtime::Request::Exec { program, terminal, caller, reply })?;
                Ok(Answer::nothing().with_fds(vec![theirs]))
            }
            Request::ExportUpper(r) => {
                let (caller, theirs) = Caller::pipe().map_err(out)?;
                self.ask(r.slot, |reply| runtime::Request::Export(caller, reply))?;
                Ok(Answer::nothing().with_fds(vec![theirs]))
            }
            Request::Logs(r) => Ok(Answer::nothing().with_fds(vec![self.logs(&r)?])),
            Request::Accelerator(_) => {
                Ok(Answer::of(&AcceleratorReply { accelerator: self.shared.chooser.known() }))
            }
            Request::AnswerPeer(r) => {
                self.ask(r.slot, |reply| runtime::Request::AnswerPeer(r.ask, r.answer, reply)).map(nothing)
            }
            Request::Watch(_) => self.watch(session).map(nothing),
        }
    }
}
