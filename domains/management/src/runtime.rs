//! Carries long work out: starts, stops, removals, imports; and keeps what the engine decides.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gtvp_ipc::Place;
use gtvp_ipc::components::{self, Compose, Composed, Configure, Derive, OpenRoot, View};
use gtvp_ipc::drivers::{self, BoxHappening};
use gtvp_ipc::security::{EndBox, PermitRun};
use gtvp_ipc::supervisor::{Status, StatusReply};
use gtvp_model::boxspec::{BoxSpec, Need};
use gtvp_model::boxview::{BoxState, ExitStatus};
use gtvp_model::digest::Digest;
use gtvp_model::event::Severity;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::guest::Program;
use gtvp_model::ids::{BoxName, Slot};
use gtvp_model::member::MemberConfig;
use gtvp_model::operation::{Operation, READY};
use gtvp_model::units::Bytes;

use crate::boot::Booting;
use crate::current::once_current;
use crate::engine::{Effect, Engine, check_size, has_machine};
use crate::events::Events;
use crate::operations::{Handle, Operations};
use crate::records::{BoxRecord, Records};
use crate::vouch::AtWork;
use crate::{peers, views};

/// How long a start waits for the published ports to listen. A box that is slower runs all the same, and is not yet ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a builder box's maintainer scripts may take. Under TCG a large closure takes minutes.
const CONFIGURE_WITHIN: Duration = Duration::from_secs(30 * 60);
/// How long a start that is cancelled may take to undo what it had begun; a machine is ended in a moment.
const CANCEL_WITHIN: Duration = Duration::from_secs(30);
/// Writable layer of a builder box; only what is written takes room.
const BUILDER_DISK: Bytes = Bytes::mib(8 * 1024);
/// Last bytes of a builder box's output that a failure shows.
const LAST_WORDS: usize = 4096;

/// Everything that `management` holds.
pub struct Runtime {
    /// This member.
    pub config: MemberConfig,
    /// What happened.
    pub events: Events,
    /// Long work.
    pub operations: Operations,
    /// Boxes that ask about others.
    pub boxes_ask: AtWork,
    /// Members that ask about boxes.
    pub members_ask: AtWork,
    engine: Mutex<Engine>,
    changed: Condvar,
    records: Records,
    /// Templates.
    pub booting: Booting,
    configuring: Mutex<BTreeSet<Digest>>,
    configured: Condvar,
}

impl Runtime {
    /// Opens what was kept.
    pub fn open(place: Place, state: &Path) -> io::Result<Self> {
        let records = Records::open(state)?;
        let events = Events::open(state, place.config.name.to_string())?;
        let (kept, damaged) = records.load()?;
        for path in damaged {
            events.tell(
                Severity::Error,
                "box.record_damaged",
                None,
                format!("{path} could not be read and was set aside"),
            );
        }
        Ok(Self {
            operations: Operations::open(state)?,
            config: place.config,
            events,
            boxes_ask: AtWork::default(),
            members_ask: AtWork::default(),
            engine: Mutex::new(Engine::new(kept)),
            changed: Condvar::new(),
            records,
            booting: Booting::default(),
            configuring: Mutex::default(),
            configured: Condvar::new(),
        })
    }

    /// The engine.
    pub fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `drivers` reports, with its effects.
    pub fn observed(self: &Arc<Self>, slot: Slot, what: &BoxHappening) {
        let effects = self.engine().observed(slot, what, crate::now_ms());
        self.carry_out(effects);
    }

    fn carry_out(self: &Arc<Self>, effects: Vec<Effect>) {
        self.changed.notify_all();
        for effect in effects {
            match effect {
                Effect::Save(name) => self.save(&name),
                Effect::Event { severity, kind, name, message } => {
                    self.events.tell(severity, kind, Some(name.to_string()), message);
                }
                Effect::CloseRoot(name) => self.close_root(&name),
                Effect::Undo(name) => {
                    let runtime = self.clone();
                    std::thread::spawn(move || runtime.undo(&name));
                }
            }
        }
    }

    fn save(&self, name: &BoxName) {
        if let Err(e) = self.records.save(|| self.engine().get_mut(name).cloned()) {
            let message = format!("the record of {name} is not kept: {e}");
            self.events.tell(Severity::Error, "box.record_not_kept", Some(name.to_string()), message);
        }
    }

    /// Gives a box's root back and lets it come to rest.
    fn close_root(self: &Arc<Self>, name: &BoxName) {
        let Some(slot) = self.engine().get_mut(name).map(|r| r.slot) else { return };
        let linked = peers::ask(&components::Linked { slot }).ok();
        if let Err(fault) = peers::ask(&components::CloseRoot { slot }) {
            self.events.tell(Severity::Warning, "root.not_closed", Some(name.to_string()), fault.to_string());
        }
        if let Err(fault) = peers::ask(&EndBox { slot }) {
            self.events.tell(Severity::Warning, "vtpm.not_ended", Some(name.to_string()), fault.to_string());
        }
        let effects = self.engine().settled(name, linked);
        self.carry_out(effects);
    }

    /// How the member is.
    pub fn status(&self) -> Result<StatusReply, Fault> {
        peers::ask(&Status {})
    }

    /// Begins the making of a box.
    pub fn create(self: &Arc<Self>, spec: BoxSpec, operator_uid: u32) -> Result<Operation, Fault> {
        spec.check()?;
        let status = self.status()?;
        let name = spec.name.clone();
        check_size(spec.memory, spec.cpus, Bytes(status.memory_bytes), status.cpus)?;
        {
            let mut engine = self.engine();
            engine.check_room(spec.memory, Bytes(status.memory_bytes))?;
            engine.admit(spec, false, crate::now_ms())?;
        }
        self.save(&name);
        self.operate("run", name.clone(), move |runtime, operation, hold| {
            let outcome = runtime.start(operation, &name, operator_uid, hold);
            if outcome.is_err() {
                runtime.discard(&name);
            }
            outcome
        })
    }

    /// Begins the start of a box that exists.
    pub fn start_existing(self: &Arc<Self>, name: &str, operator_uid: u32) -> Result<Operation, Fault> {
        let status = self.status()?;
        let record = {
            let mut engine = self.engine();
            let spec = &engine.get(name)?.spec;
            check_size(spec.memory, spec.cpus, Bytes(status.memory_bytes), status.cpus)?;
            engine.check_room(spec.memory, Bytes(status.memory_bytes))?;
            engine.begin_start(name)?
        };
        let name = record.spec.name;
        let slot = record.slot;
        self.operate("start", name.clone(), move |runtime, operation, hold| {
            let outcome = runtime.start(operation, &name, operator_uid, hold);
            match &outcome {
                Err(fault) if hold.held => {
                    if let Some(r) = runtime.engine().get_mut(&name) {
                        r.failure = Some(fault.to_string());
                    }
                    runtime.close_root(&name);
                }
                // Its machine runs already.
                Err(fault) if fault.kind == FaultKind::Cancelled => {
                    runtime.stop_machine(&name, slot, 0)?;
                }
                _ => {}
            }
            outcome
        })
    }

    /// Begins a stop.
    pub fn stop(self: &Arc<Self>, name: &str, grace_ms: u64) -> Result<Operation, Fault> {
        let record = self.begin(name, "stop", &[BoxState::Running, BoxState::Paused, BoxState::Stopping])?;
        let name = record.spec.name;
        self.operate("stop", name.clone(), move |runtime, operation, _| {
            operation.phase("stop", format!("stopping {name}"))?;
            runtime.stop_machine(&name, record.slot, grace_ms)?;
            Ok(serde_json::Value::Null)
        })
    }

    fn stop_machine(self: &Arc<Self>, name: &BoxName, slot: Slot, grace_ms: u64) -> Result<(), Fault> {
        if let Some(r) = self.engine().get_mut(name) {
            r.state = BoxState::Stopping;
        }
        self.save(name);
        // A stop that is made twice stops once.
        peers::ask(&drivers::Stop { slot, grace_ms })?;
        self.close_root(name);
        self.events.tell(
            Severity::Info,
            "box.stopped",
            Some(name.to_string()),
            format!("{name} was stopped"),
        );
        Ok(())
    }

    /// Begins a removal.
    pub fn remove(self: &Arc<Self>, name: &str, force: bool) -> Result<Operation, Fault> {
        let mut states = vec![BoxState::Stopped, BoxState::Failed];
        if force {
            states.extend([BoxState::Running, BoxState::Paused, BoxState::Stopping]);
        }
        if force && self.cancel_start(name) && self.engine().get(name).is_err() {
            // Its first start: with that it is gone.
            let operation = self.operations.begin("remove", name);
            self.operations.end(&operation, Ok(serde_json::Value::Null));
            return Ok(operation.snapshot());
        }
        let record = self.begin(name, "be removed", &states).map_err(|f| match f.hint {
            None if !force => f.hint(format!("stop it first, or: gtvp box rm --force {name}")),
            _ => f,
        })?;
        let name = record.spec.name;
        self.operate("remove", name.clone(), move |runtime, operation, _| {
            operation.phase("remove", format!("removing {name}"))?;
            runtime.discard(&name);
            Ok(serde_json::Value::Null)
        })
    }

    /// Takes a box for an operation; one that is busy is told with what to do about it.
    fn begin(&self, name: &str, verb: &str, states: &[BoxState]) -> Result<BoxRecord, Fault> {
        let outcome = self.engine().begin(name, verb, states);
        outcome.map_err(|fault| match self.operations.running_on(name) {
            Some(handle) if fault.kind == FaultKind::WrongState => {
                let id = handle.snapshot().id;
                fault.hint(format!("wait for its end, or cancel it: gtvp operation cancel {id}"))
            }
            _ => fault,
        })
    }

    /// Cancels a start of the box that is under way, and waits until what it had begun is undone. False when there is none.
    fn cancel_start(&self, name: &str) -> bool {
        let starting = self.operations.running_on(name);
        let Some(handle) = starting.filter(|h| matches!(h.snapshot().kind.as_str(), "run" | "start")) else {
            return false;
        };
        handle.cancel();
        handle.wait_end(CANCEL_WITHIN);
        true
    }

    /// Begins an import.
    pub fn import(self: &Arc<Self>, need: Need) -> Operation {
        let operation = self.operations.begin("import", &need.to_string());
        let (runtime, handle) = (self.clone(), operation.clone());
        std::thread::spawn(move || {
            let outcome = peers::work_again(&handle, &components::Import { need });
            runtime.operations.end(&handle, outcome.map(|view| serde_json::json!(view)));
        });
        operation.snapshot()
    }

    /// Runs `work` on a thread as an operation on a box that is busy, and releases it at the end if `work` has not.
    fn operate(
        self: &Arc<Self>,
        kind: &str,
        name: BoxName,
        work: impl FnOnce(&Arc<Self>, &Arc<Handle>, &mut Hold) -> Result<serde_json::Value, Fault>
        + Send
        + 'static,
    ) -> Result<Operation, Fault> {
        let operation = self.operations.begin(kind, name.as_str());
        let (runtime, handle) = (self.clone(), operation.clone());
        std::thread::spawn(move || {
            let mut hold = Hold { runtime: runtime.clone(), name: name.clone(), held: true };
            let outcome = work(&runtime, &handle, &mut hold);
            drop(hold);
            runtime.save(&name);
            if let Err(fault) = &outcome {
                let kind = if handle.is_cancelled() { "box.cancelled" } else { "box.operation_failed" };
                runtime.events.tell(Severity::Warning, kind, Some(name.to_string()), fault.to_string());
            }
            runtime.changed.notify_all();
            runtime.operations.end(&handle, outcome);
        });
        Ok(operation.snapshot())
    }

    /// Puts a box together, boots it, lets go of it and waits until it serves. The caller undoes what a failure leaves.
    fn start(
        self: &Arc<Self>,
        operation: &Arc<Handle>,
        name: &BoxName,
        operator_uid: u32,
        hold: &mut Hold,
    ) -> Result<serde_json::Value, Fault> {
        let record = self.record(name)?;
        self.permit(operation, &record.spec, operator_uid)?;
        let composed = self.compose(operation, &record.spec.needs)?;
        self.change(name, |r| r.composition = Some(composed.digest));
        let spec = &record.spec;
        let program = Program {
            argv: spec.command.clone(),
            env: spec.env.clone(),
            user: spec.user.clone(),
            workdir: spec.workdir.clone(),
        };
        let nameservers = self.status()?.nameservers;
        let machine = |boot, template| drivers::Start {
            slot: record.slot,
            name: name.clone(),
            memory: spec.memory,
            cpus: spec.cpus,
            disk: spec.disk,
            publish: spec.publish.clone(),
            network: true,
            nameservers: nameservers.clone(),
            program: program.clone(),
            hold: false,
            boot,
            template,
        };
        let open = OpenRoot {
            box_name: name.clone(),
            slot: record.slot,
            composition: composed.digest,
            view: View::Application,
        };
        let started = self.boot(operation, &open, !spec.cold, machine)?;
        let booted = started.template.is_none() && !spec.cold;
        self.change(name, |r| {
            r.accelerator = Some(started.accelerator.clone());
            r.template = started.template;
            r.first_start = false;
            if r.state == BoxState::Starting {
                r.state = BoxState::Running;
            }
        });
        self.events.tell(
            Severity::Info,
            "box.started",
            Some(name.to_string()),
            match started.template {
                Some(template) => format!("{name} was started from template {}", template.short()),
                None => format!("{name} was started"),
            },
        );
        operation.phase(READY, "waiting for the application to be ready")?;
        // It may be stopped, signalled and looked into before it serves.
        hold.let_go();
        let held = hold.held;
        let deadline = Instant::now() + READY_WITHIN;
        self.wait(deadline, operation, |e| {
            e.get_mut(name).is_none_or(|r| r.ready_ms.is_some() || held || !has_machine(r.state))
        })?;
        let phases = operation.phases();
        self.change(name, |r| r.phases = phases);
        if booted {
            self.template_after(composed.digest, spec);
        }
        let mut record = self.record(name)?;
        if let Some(why) = &record.failure {
            return Err(Fault::new(FaultKind::BoxFailed, format!("box {name} failed")).because(why.clone()));
        }
        if record.exit.is_some() && held {
            // It ran and has ended: it comes to rest before the operation does.
            self.wait_gone(record.slot);
            self.close_root(name);
            record = self.record(name)?;
        }
        Ok(serde_json::json!(views::summary(&self.config, &record)))
    }

    /// Asks for leave.
    fn permit(&self, operation: &Arc<Handle>, spec: &BoxSpec, operator_uid: u32) -> Result<(), Fault> {
        operation.phase("permit", "asking for leave")?;
        let mut waits = false;
        let permit = || peers::ask(&PermitRun { spec: spec.clone(), operator_uid });
        once_current(permit, |pause| {
            if !std::mem::replace(&mut waits, true) {
                operation.phase("permit", "waiting until this member's record is current")?;
            }
            self.wait(Instant::now() + pause, operation, |_| false).map(|_| ())
        })
        .map(|_| ())
    }

    /// Resolves needs, and sees to it that the maintainer scripts of the composition have run.
    pub fn compose(self: &Arc<Self>, operation: &Arc<Handle>, needs: &[Need]) -> Result<Composed, Fault> {
        operation.phase("resolve", "finding what it needs")?;
        loop {
            let composed = peers::work_again(operation, &Compose { needs: needs.to_vec() })?;
            let Some(configure) = composed.configure.clone() else { return Ok(composed) };
            // One builder box for a composition, however many boxes wait for it.
            if !self.claim_configure(operation, composed.digest)? {
                continue;
            }
            let outcome = self.configure(operation, &composed, &configure);
            self.configuring.lock().unwrap_or_else(PoisonError::into_inner).remove(&composed.digest);
            self.configured.notify_all();
            outcome?;
        }
    }

    /// True when this operation is to run the builder box; false when another did meanwhile.
    fn claim_configure(&self, operation: &Handle, composition: Digest) -> Result<bool, Fault> {
        let mut under_way = self.configuring.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waited = false;
        while under_way.contains(&composition) {
            operation.phase("configure", "waiting for another box's maintainer scripts")?;
            waited = true;
            under_way = match self.configured.wait_timeout(under_way, Duration::from_millis(500)) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        Ok(!waited && under_way.insert(composition))
    }

    /// Runs a composition's maintainer scripts in a builder box and makes the derived component of what they changed.
    fn configure(
        self: &Arc<Self>,
        operation: &Arc<Handle>,
        composed: &Composed,
        configure: &Configure,
    ) -> Result<(), Fault> {
        let name: BoxName = format!("builder-{}", composed.digest.short())
            .parse()
            .map_err(|e| Fault::internal("a builder box has no name", &e))?;
        let mut spec = BoxSpec::new(name.clone(), Vec::new(), configure.command.clone());
        spec.memory = Bytes::mib(configure.memory_mib);
        spec.disk = BUILDER_DISK;
        let slot = self.engine().admit(spec.clone(), true, crate::now_ms())?;
        self.save(&name);
        let outcome = self.run_builder(operation, composed, configure, &spec, slot);
        self.discard(&name);
        outcome
    }

    fn run_builder(
        self: &Arc<Self>,
        operation: &Arc<Handle>,
        composed: &Composed,
        configure: &Configure,
        spec: &BoxSpec,
        slot: Slot,
    ) -> Result<(), Fault> {
        let machine = |boot, template| drivers::Start {
            slot,
            name: spec.name.clone(),
            memory: spec.memory,
            cpus: 1,
            disk: spec.disk,
            publish: Vec::new(),
            network: false,
            nameservers: Vec::new(),
            program: Program {
                argv: configure.command.clone(),
                env: Default::default(),
                user: None,
                workdir: None,
            },
            hold: true,
            boot,
            template,
        };
        let (box_name, composition) = (spec.name.clone(), composed.digest);
        let open = OpenRoot { box_name, slot, composition, view: View::Builder };
        self.boot(operation, &open, false, machine)?;
        operation.phase(
            "configure",
            format!("running the maintainer scripts of {} packages", configure.packages.len()),
        )?;
        let name = &spec.name;
        let ended = |e: &mut Engine| e.get_mut(name).is_none_or(|r| r.exit.is_some() || r.failure.is_some());
        let in_time = self.wait(Instant::now() + CONFIGURE_WITHIN, operation, ended)?;
        let record = self.record(name)?;
        let why = match (&record.failure, &record.exit) {
            _ if !in_time => Some("they did not end in time".to_owned()),
            (Some(why), _) => Some(why.clone()),
            (None, Some(ExitStatus::Code(0))) => None,
            (None, status) => {
                Some(format!("their run {}", status.as_ref().map_or("was lost".into(), crate::engine::how)))
            }
        };
        if let Some(why) = why {
            return Err(Fault::new(FaultKind::BoxFailed, "the maintainer scripts of its packages failed")
                .because(why)
                .because(last_words(slot))
                .hint("the box was not started: none starts half-configured"));
        }
        operation.phase("derive", "keeping what the maintainer scripts changed")?;
        let upper = peers::ask_fds(&drivers::ExportUpper { slot })?;
        let borrowed: Vec<_> = upper.iter().map(AsFd::as_fd).collect();
        peers::work(operation, &Derive { composition: composed.digest }, &borrowed)?;
        Ok(())
    }

    /// Removes whatever there is of a box. What cannot be removed now is told, and tried again at the next removal.
    pub fn discard(self: &Arc<Self>, name: &BoxName) {
        let Some(slot) = self.engine().get_mut(name).map(|r| r.slot) else { return };
        let problems = [
            peers::ask(&drivers::Stop { slot, grace_ms: 0 }).err(),
            peers::ask(&components::CloseRoot { slot }).err(),
            peers::ask(&EndBox { slot }).err(),
            peers::ask(&drivers::Remove { slot }).err(),
        ];
        for fault in problems.into_iter().flatten().filter(|f| f.kind != FaultKind::NotFound) {
            self.events.tell(
                Severity::Warning,
                "box.not_removed_whole",
                Some(name.to_string()),
                fault.to_string(),
            );
        }
        let builder = self.engine().get_mut(name).is_some_and(|r| r.builder);
        if let Err(e) = self.records.remove(name, || self.engine().forget(name)) {
            self.events.tell(
                Severity::Error,
                "box.record_not_removed",
                Some(name.to_string()),
                e.to_string(),
            );
        }
        if !builder {
            self.events.tell(
                Severity::Info,
                "box.removed",
                Some(name.to_string()),
                format!("{name} was removed"),
            );
        }
    }

    /// Undoes a first start that was under way when this domain ended.
    fn undo(self: &Arc<Self>, name: &BoxName) {
        let builder = match self.engine().get_mut(name) {
            Some(r) => r.builder,
            None => return,
        };
        if !builder {
            let message = format!("the first start of {name} was interrupted; what it had begun is removed");
            self.events.tell(Severity::Warning, "box.start_interrupted", Some(name.to_string()), message);
        }
        self.discard(name);
    }

    /// Waits until `done`, the deadline (false), or the operation's cancellation (a fault).
    fn wait(
        &self,
        deadline: Instant,
        operation: &Handle,
        mut done: impl FnMut(&mut Engine) -> bool,
    ) -> Result<bool, Fault> {
        let mut engine = self.engine();
        loop {
            if done(&mut engine) {
                return Ok(true);
            }
            if operation.is_cancelled() {
                return Err(Fault::new(FaultKind::Cancelled, "cancelled"));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            engine = match self.changed.wait_timeout(engine, left.min(Duration::from_millis(500))) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Makes sure that the machine of a box whose application has ended is gone.
    fn wait_gone(&self, slot: Slot) {
        if let Err(fault) = peers::ask(&drivers::Stop { slot, grace_ms: 0 }) {
            self.events.tell(Severity::Warning, "box.not_gone", None, fault.to_string());
        }
    }

    fn record(&self, name: &BoxName) -> Result<BoxRecord, Fault> {
        self.engine()
            .get_mut(name)
            .cloned()
            .ok_or_else(|| Fault::new(FaultKind::NotFound, format!("box {name} has been removed")))
    }

    fn change(&self, name: &BoxName, change: impl FnOnce(&mut BoxRecord)) {
        if let Some(record) = self.engine().get_mut(name) {
            change(record);
        }
        self.save(name);
    }

    /// Notes that a running box has been given this much memory.
    pub fn memory_applied(&self, name: &BoxName, memory: Bytes) {
        self.change(name, |r| r.memory_now = memory);
    }

    /// Keeps a box's record after a change of its spec.
    pub fn keep(&self, name: &BoxName) {
        self.save(name);
    }
}

/// A box that an operation holds, until this is dropped or the box is let go.
struct Hold {
    runtime: Arc<Runtime>,
    name: BoxName,
    held: bool,
}

impl Hold {
    /// Lets go of a box that runs.
    fn let_go(&mut self) {
        self.held = !self.runtime.engine().release_running(&self.name);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.held {
            self.runtime.engine().release(&self.name);
        }
    }
}

/// The end of a builder box's output.
fn last_words(slot: Slot) -> String {
    let logs = drivers::Logs { slot, source: drivers::LogSource::Application, follow: false, tail: Some(20) };
    let Ok(fds) = peers::ask_fds(&logs) else { return "its output cannot be read".into() };
    let Some(fd) = fds.into_iter().next() else { return "its output cannot be read".into() };
    let mut file = std::fs::File::from(fd);
    let mut text = Vec::new();
    while let Ok(Some((_, payload))) = gtvp_model::stream::read(&mut file) {
        text.extend_from_slice(&payload);
        text.drain(..text.len().saturating_sub(LAST_WORDS));
    }
    format!("it said last: {}", String::from_utf8_lossy(&text).trim())
}
