//! What may happen to a box, and what an event changes. Pure: time and records come in, effects go out.
//!
//! ```text
//!            begin_start              Running               begin_stop / Exited / Died
//!  (none) ─────────────▶ Starting ─────────────▶ Running ──────────────────────────────▶ Stopping
//!            Stopped ───────▲  │                  │   ▲                                     │ Gone
//!            Failed  ───────┘  │ failed           │   │ Resume                    ┌─────────┴─────────┐
//!                              ▼                  ▼   │                           ▼                   ▼
//!                 removed, or Failed              Paused                       Stopped             Failed
//! ```
//!
//! While an operation works on a box it is *busy*: no other operation begins, and what `drivers` reports is recorded, but the operation
//! decides the state it leaves the box in.

use std::collections::{BTreeMap, BTreeSet};

use gtvp_ipc::components::LinkedReply;
use gtvp_ipc::drivers::BoxHappening;
use gtvp_model::boxspec::BoxSpec;
use gtvp_model::boxview::{BoxState, ExitStatus};
use gtvp_model::event::Severity;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::{BoxName, Slot};
use gtvp_model::units::Bytes;

use crate::records::BoxRecord;

/// Something to be done outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Keep this box's record.
    Save(BoxName),
    /// Tell this.
    Event {
        /// How much it matters.
        severity: Severity,
        /// `box.…`.
        kind: &'static str,
        /// The box.
        name: BoxName,
        /// One sentence.
        message: String,
    },
    /// The machine is gone: give its root back, then call [`Engine::settled`].
    CloseRoot(BoxName),
    /// A start that was under way when this domain ended: undo it.
    Undo(BoxName),
}

/// Every box of this member.
#[derive(Default)]
pub struct Engine {
    boxes: BTreeMap<BoxName, BoxRecord>,
    busy: BTreeSet<BoxName>,
    /// Boxes that `drivers` has told of since it was last connected to.
    told: BTreeSet<BoxName>,
}

impl Engine {
    /// With the records that were kept.
    pub fn new(records: Vec<BoxRecord>) -> Self {
        let boxes = records.into_iter().map(|r| (r.spec.name.clone(), r)).collect();
        Self { boxes, ..Self::default() }
    }

    /// Every box, builders too.
    pub fn boxes(&self) -> impl Iterator<Item = &BoxRecord> {
        self.boxes.values()
    }

    /// A box by its name.
    pub fn get(&self, name: &str) -> Result<&BoxRecord, Fault> {
        self.boxes.iter().find(|(n, r)| n.as_str() == name && !r.builder).map(|(_, r)| r).ok_or_else(|| {
            let fault = Fault::new(FaultKind::NotFound, format!("no box is called {name:?}"));
            match self.near(name) {
                Some(near) => fault.hint(format!("did you mean {near}? gtvp box ls lists them")),
                None => fault.hint("gtvp box ls lists them"),
            }
        })
    }

    /// A box by its name, builders too, to be changed. None once it has been removed.
    pub fn get_mut(&mut self, name: &BoxName) -> Option<&mut BoxRecord> {
        self.boxes.get_mut(name)
    }

    fn near(&self, name: &str) -> Option<&BoxName> {
        let visible = self.boxes.iter().filter(|(_, r)| !r.builder).map(|(n, _)| n);
        visible
            .filter(|n| n.as_str().starts_with(name) || name.starts_with(n.as_str()))
            .min_by_key(|n| n.as_str().len())
    }

    /// Memory promised to boxes that have a machine.
    pub fn promised(&self) -> Bytes {
        Bytes(self.boxes.values().filter(|r| has_machine(r.state)).map(|r| r.spec.memory.0).sum())
    }

    /// Whether the member has room for `memory` more.
    pub fn check_room(&self, memory: Bytes, member_memory: Bytes) -> Result<(), Fault> {
        let (promised, total) = (self.promised().0, member_memory.0);
        if promised.saturating_add(memory.0) <= total {
            return Ok(());
        }
        let free = Bytes::mib(total.saturating_sub(promised) / (1024 * 1024));
        Err(Fault::new(FaultKind::NoRoom, format!("the member has not {memory} of memory for this box"))
            .because(format!(
                "it has {} in all, {free} of it not promised to running boxes",
                whole_mib(total)
            ))
            .hint("give the box less with --memory, or stop another box"))
    }

    /// Takes a new box in: its name and ports must be free, a slot must be left. It is busy until [`Engine::release`].
    pub fn admit(&mut self, spec: BoxSpec, builder: bool, now: u64) -> Result<Slot, Fault> {
        if self.boxes.contains_key(&spec.name) {
            return Err(Fault::new(FaultKind::InUse, format!("a box called {} exists already", spec.name))
                .hint(format!("choose another name, or remove it: gtvp box rm {}", spec.name)));
        }
        self.check_ports(&spec)?;
        let used: BTreeSet<u16> = self.boxes.values().map(|r| r.slot.get()).collect();
        let slot = (0..=Slot::MAX).find(|n| !used.contains(n)).and_then(Slot::new).ok_or_else(|| {
            Fault::new(FaultKind::NoRoom, format!("the member has {} boxes, no more fit", used.len()))
                .hint("remove a box that is not needed: gtvp box rm NAME")
        })?;
        let record = BoxRecord {
            slot,
            builder,
            state: BoxState::Starting,
            first_start: true,
            created_ms: now,
            ready_ms: None,
            composition: None,
            accelerator: None,
            template: None,
            exit: None,
            failure: None,
            phases: Vec::new(),
            started_memory: spec.memory,
            memory_now: spec.memory,
            cpus_now: spec.cpus,
            linked: LinkedReply::default(),
            spec,
        };
        self.busy.insert(record.spec.name.clone());
        self.boxes.insert(record.spec.name.clone(), record);
        Ok(slot)
    }

    /// A port that another box's machine holds now is in use; a stopped box's is not.
    fn check_ports(&self, spec: &BoxSpec) -> Result<(), Fault> {
        for port in &spec.publish {
            let holder = self.boxes.values().find(|r| {
                r.spec.name != spec.name
                    && has_machine(r.state)
                    && r.spec.publish.iter().any(|p| (p.host, p.protocol) == (port.host, port.protocol))
            });
            if let Some(holder) = holder {
                return Err(Fault::new(
                    FaultKind::InUse,
                    format!("port {}/{} of the member is in use", port.host, port.protocol),
                )
                .because(format!("box {} publishes it", holder.spec.name))
                .hint(format!(
                    "publish another port, for example --publish {}:{}",
                    port.host.saturating_add(1),
                    port.guest
                )));
            }
        }
        Ok(())
    }

    /// Begins an operation on a box that must be in one of `states`.
    pub fn begin(&mut self, name: &str, verb: &str, states: &[BoxState]) -> Result<BoxRecord, Fault> {
        let record = self.get(name)?.clone();
        if self.busy.contains(&record.spec.name) {
            return Err(Fault::new(
                FaultKind::WrongState,
                format!("box {name} is busy with another operation"),
            )
            .hint("gtvp operation ls shows it"));
        }
        if !states.contains(&record.state) {
            return Err(Fault::new(
                FaultKind::WrongState,
                format!("box {name} cannot {verb}: it is {}", word(record.state)),
            ));
        }
        self.busy.insert(record.spec.name.clone());
        Ok(record)
    }

    /// Begins a start of a box that exists.
    pub fn begin_start(&mut self, name: &str) -> Result<BoxRecord, Fault> {
        let record = self.begin(name, "start", &[BoxState::Stopped, BoxState::Failed])?;
        if let Err(fault) = self.check_ports(&record.spec) {
            self.release(&record.spec.name);
            return Err(fault);
        }
        if let Some(r) = self.boxes.get_mut(&record.spec.name) {
            r.state = BoxState::Starting;
            (r.exit, r.failure, r.ready_ms) = (None, None, None);
            (r.started_memory, r.memory_now, r.cpus_now) = (r.spec.memory, r.spec.memory, r.spec.cpus);
        }
        Ok(record)
    }

    /// Ends an operation on a box.
    pub fn release(&mut self, name: &BoxName) {
        self.busy.remove(name);
    }

    /// Ends an operation on a box that runs by now and is only waited for. False, and the box stays busy, when its
    /// application has ended already: then the operation sees to its coming to rest.
    pub fn release_running(&mut self, name: &BoxName) -> bool {
        let runs = |r: &BoxRecord| r.state == BoxState::Running && r.exit.is_none() && r.failure.is_none();
        let released = self.boxes.get(name).is_some_and(runs);
        if released {
            self.release(name);
        }
        released
    }

    /// Forgets a box.
    pub fn forget(&mut self, name: &BoxName) {
        self.boxes.remove(name);
        self.busy.remove(name);
    }

    /// `drivers` is connected to anew and will tell of every box.
    pub fn drivers_connected(&mut self) {
        self.told.clear();
    }

    /// What `drivers` reports.
    pub fn observed(&mut self, slot: Slot, what: &BoxHappening, now: u64) -> Vec<Effect> {
        if *what == BoxHappening::Current {
            return self.all_told();
        }
        let Some(record) = self.boxes.values_mut().find(|r| r.slot == slot) else { return Vec::new() };
        let name = record.spec.name.clone();
        let busy = self.busy.contains(&name);
        let event =
            |severity, kind, message: String| Effect::Event { severity, kind, name: name.clone(), message };
        let mut effects = Vec::new();
        match what {
            BoxHappening::Running { ready } => {
                self.told.insert(name.clone());
                let was = record.state;
                record.state = BoxState::Running;
                record.first_start = false;
                if was == BoxState::Paused {
                    effects.push(event(Severity::Info, "box.resumed", format!("{name} goes on")));
                }
                if *ready && record.ready_ms.is_none() {
                    record.ready_ms = Some(now);
                    effects.push(event(Severity::Info, "box.ready", format!("{name} is ready")));
                }
            }
            BoxHappening::Paused => {
                self.told.insert(name.clone());
                if record.state != BoxState::Paused {
                    record.state = BoxState::Paused;
                    effects.push(event(Severity::Info, "box.paused", format!("{name} is paused")));
                }
            }
            BoxHappening::Exited { status } => {
                self.told.insert(name.clone());
                if record.exit.is_none() {
                    effects.push(event(
                        Severity::Info,
                        "box.exited",
                        format!("{name}: its application {}", how(status)),
                    ));
                }
                record.exit = Some(status.clone());
                record.first_start = false;
                record.state = BoxState::Stopping;
            }
            BoxHappening::Died { why } => {
                self.told.insert(name.clone());
                if record.failure.is_none() {
                    effects.push(event(Severity::Error, "box.died", format!("{name} died: {why}")));
                }
                record.failure = Some(why.clone());
                record.state = BoxState::Stopping;
            }
            BoxHappening::Gone => {
                if busy || !has_machine(record.state) {
                    return Vec::new();
                }
                record.state = BoxState::Stopping;
                effects.push(Effect::CloseRoot(name.clone()));
            }
            BoxHappening::Notice { message } => {
                return vec![event(Severity::Info, "box.notice", format!("{name}: {message}"))];
            }
            // Changes nothing of the box.
            BoxHappening::Current | BoxHappening::AsksAboutPeer { .. } => return Vec::new(),
        }
        effects.push(Effect::Save(name));
        effects
    }

    /// `drivers` has told of every box it has: the machines of the others are gone.
    fn all_told(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (name, record) in &mut self.boxes {
            if self.busy.contains(name) || self.told.contains(name) || !has_machine(record.state) {
                continue;
            }
            if record.first_start || record.builder {
                effects.push(Effect::Undo(name.clone()));
                continue;
            }
            if record.exit.is_none() && record.failure.is_none() {
                record.failure = Some("its machine was gone when the member came back".into());
                effects.push(Effect::Event {
                    severity: Severity::Warning,
                    kind: "box.lost",
                    name: name.clone(),
                    message: format!("{name} was running; its machine is gone"),
                });
            }
            record.state = BoxState::Stopping;
            effects.push(Effect::CloseRoot(name.clone()));
        }
        // A builder that still runs has lost the operation that wanted it.
        for (name, record) in &self.boxes {
            if record.builder && self.told.contains(name) && !self.busy.contains(name) {
                effects.push(Effect::Undo(name.clone()));
            }
        }
        effects
    }

    /// A box's root has been given back: it has come to rest.
    pub fn settled(&mut self, name: &BoxName, linked: Option<LinkedReply>) -> Vec<Effect> {
        let Some(record) = self.boxes.get_mut(name) else { return Vec::new() };
        if let Some(linked) = linked {
            record.linked = linked;
        }
        record.state = if record.failure.is_some() { BoxState::Failed } else { BoxState::Stopped };
        record.ready_ms = None;
        vec![Effect::Save(name.clone())]
    }

    /// Changes what the next start uses, and says what of it a running box can take now.
    pub fn set(&mut self, name: &str, memory: Option<Bytes>, cpus: Option<u16>) -> Result<Change, Fault> {
        let record = self.get(name)?.clone();
        let mut spec = record.spec.clone();
        spec.memory = memory.unwrap_or(spec.memory);
        spec.cpus = cpus.unwrap_or(spec.cpus);
        spec.check()?;
        let running = matches!(record.state, BoxState::Running | BoxState::Paused);
        let live = memory.filter(|m| running && *m <= record.started_memory && *m != record.memory_now);
        if let Some(r) = self.boxes.get_mut(&record.spec.name) {
            r.spec = spec;
            if !running {
                (r.memory_now, r.cpus_now) = (r.spec.memory, r.spec.cpus);
            }
        }
        Ok(Change { name: record.spec.name, slot: record.slot, running, live_memory: live })
    }
}

/// Whether a member with so much memory and so many processors could have such a box if it had no other.
pub fn check_size(memory: Bytes, cpus: u16, member_memory: Bytes, member_cpus: u16) -> Result<(), Fault> {
    if memory > member_memory {
        return Err(Fault::new(
            FaultKind::NoRoom,
            format!("the member has not {memory} of memory for this box"),
        )
        .because(format!("it has {} in all", whole_mib(member_memory.0)))
        .hint("give the box less with --memory"));
    }
    if cpus > member_cpus {
        // More would only take turns with each other, and with many a kernel does not even come up.
        return Err(Fault::new(
            FaultKind::NoRoom,
            format!("the member has not {cpus} processors for this box"),
        )
        .because(format!("it has {member_cpus}"))
        .hint("give the box less with --cpus"));
    }
    Ok(())
}

/// What [`Engine::set`] leaves to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The box.
    pub name: BoxName,
    /// Its slot.
    pub slot: Slot,
    /// Whether it has a machine.
    pub running: bool,
    /// Memory that the running machine can be given now.
    pub live_memory: Option<Bytes>,
}

/// Changes of a box that wait for its next start, one sentence each.
pub fn pending(record: &BoxRecord) -> Vec<String> {
    let mut pending = Vec::new();
    if has_machine(record.state) && record.spec.memory != record.memory_now {
        pending.push(format!(
            "memory {} at the next start: a running box takes at most the {} it was started with",
            record.spec.memory, record.started_memory
        ));
    }
    if has_machine(record.state) && record.spec.cpus != record.cpus_now {
        pending.push(format!(
            "{} processors at the next start: a running box keeps its processors",
            record.spec.cpus
        ));
    }
    pending
}

/// Whether a box in this state has, or may have, a machine.
pub fn has_machine(state: BoxState) -> bool {
    !matches!(state, BoxState::Stopped | BoxState::Failed)
}

/// A state as a word.
pub fn word(state: BoxState) -> &'static str {
    match state {
        BoxState::Starting => "starting",
        BoxState::Running => "running",
        BoxState::Paused => "paused",
        BoxState::Stopping => "stopping",
        BoxState::Stopped => "stopped",
        BoxState::Failed => "failed",
    }
}

/// How an application ended, for people.
pub fn how(status: &ExitStatus) -> String {
    match status {
        ExitStatus::Code(0) => "ended with status 0".into(),
        ExitStatus::Code(c) => format!("ended with status {c}"),
        ExitStatus::Signal(s) => format!("was ended by signal {s}"),
    }
}

fn whole_mib(bytes: u64) -> Bytes {
    Bytes::mib(bytes / (1024 * 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, publish: &[&str]) -> BoxSpec {
        let mut s = BoxSpec::new(name.parse().unwrap(), vec!["nginx".parse().unwrap()], vec!["nginx".into()]);
        s.publish = publish.iter().map(|p| p.parse().unwrap()).collect();
        s
    }

    fn running(engine: &mut Engine, name: &str, publish: &[&str]) -> Slot {
        let slot = engine.admit(spec(name, publish), false, 1).unwrap();
        engine.observed(slot, &BoxHappening::Running { ready: true }, 2);
        engine.release(&name.parse().unwrap());
        slot
    }

    fn state(engine: &Engine, name: &str) -> BoxState {
        engine.get(name).unwrap().state
    }

    #[test]
    fn a_name_or_port_in_use_is_refused_and_a_stopped_boxs_port_is_free() {
        let mut e = Engine::default();
        let slot = running(&mut e, "web", &["8080:80"]);
        assert_eq!(e.admit(spec("web", &[]), false, 3).unwrap_err().kind, FaultKind::InUse);
        let fault = e.admit(spec("web2", &["8080:81"]), false, 3).unwrap_err();
        assert_eq!(fault.kind, FaultKind::InUse);
        assert!(fault.to_string().contains("box web"), "{fault}");
        assert!(e.get("web2").is_err(), "a refused box was kept");
        e.observed(slot, &BoxHappening::Exited { status: ExitStatus::Code(0) }, 4);
        assert_eq!(e.observed(slot, &BoxHappening::Gone, 5)[0], Effect::CloseRoot("web".parse().unwrap()));
        e.settled(&"web".parse().unwrap(), None);
        assert_eq!(state(&e, "web"), BoxState::Stopped);
        assert!(e.admit(spec("web2", &["8080:81"]), false, 6).is_ok());
        assert_eq!(e.begin_start("web").unwrap_err().kind, FaultKind::InUse);
        assert_eq!(state(&e, "web"), BoxState::Stopped);
    }

    #[test]
    fn only_one_operation_at_a_time() {
        let mut e = Engine::default();
        running(&mut e, "web", &[]);
        e.begin("web", "stop", &[BoxState::Running]).unwrap();
        assert_eq!(e.begin("web", "stop", &[BoxState::Running]).unwrap_err().kind, FaultKind::WrongState);
        e.release(&"web".parse().unwrap());
        assert_eq!(e.begin_start("web").unwrap_err().kind, FaultKind::WrongState);
    }

    #[test]
    fn a_box_that_is_only_waited_for_is_free_unless_it_has_ended() {
        let mut e = Engine::default();
        let web: BoxName = "web".parse().unwrap();
        let slot = e.admit(spec("web", &["8080:80"]), false, 1).unwrap();
        assert!(!e.release_running(&web), "it has not been started yet");
        e.observed(slot, &BoxHappening::Running { ready: false }, 2);
        assert!(e.release_running(&web));
        e.begin("web", "stop", &[BoxState::Running]).unwrap();
        e.observed(slot, &BoxHappening::Exited { status: ExitStatus::Code(1) }, 3);
        assert!(!e.release_running(&web));
        assert_eq!(e.observed(slot, &BoxHappening::Gone, 4), [], "its operation gives its root back");
    }

    #[test]
    fn a_box_that_died_is_failed_and_keeps_its_last_words() {
        let mut e = Engine::default();
        let slot = running(&mut e, "web", &[]);
        e.observed(slot, &BoxHappening::Died { why: "its kernel panicked".into() }, 3);
        e.observed(slot, &BoxHappening::Gone, 4);
        e.settled(&"web".parse().unwrap(), None);
        assert_eq!(state(&e, "web"), BoxState::Failed);
        assert_eq!(e.get("web").unwrap().failure.as_deref(), Some("its kernel panicked"));
        assert!(e.begin_start("web").is_ok());
        assert_eq!(e.get("web").unwrap().failure, None);
    }

    #[test]
    fn after_a_restart_what_drivers_does_not_tell_of_is_gone() {
        let mut e = Engine::default();
        running(&mut e, "kept", &[]);
        running(&mut e, "lost", &[]);
        e.admit(spec("young", &[]), false, 3).unwrap();
        let mut e = Engine::new(e.boxes().cloned().collect());
        e.drivers_connected();
        let kept = e.get("kept").unwrap().slot;
        e.observed(kept, &BoxHappening::Running { ready: true }, 4);
        let effects = e.observed(kept, &BoxHappening::Current, 5);
        assert!(effects.contains(&Effect::CloseRoot("lost".parse().unwrap())));
        assert!(effects.contains(&Effect::Undo("young".parse().unwrap())), "{effects:?}");
        assert!(!effects.iter().any(|f| matches!(f, Effect::CloseRoot(n) if n.as_str() == "kept")));
        assert_eq!(state(&e, "kept"), BoxState::Running);
    }

    #[test]
    fn memory_beyond_the_members_is_refused() {
        let mut e = Engine::default();
        running(&mut e, "web", &[]);
        let member = Bytes::mib(1024);
        assert!(e.check_room(Bytes::mib(512), member).is_ok());
        let fault = e.check_room(Bytes::mib(513), member).unwrap_err();
        assert_eq!(fault.kind, FaultKind::NoRoom);
        assert!(fault.to_string().contains("512M"), "{fault}");
        assert!(e.check_room(Bytes(u64::MAX), member).is_err());
    }

    #[test]
    fn a_box_larger_than_the_member_is_refused() {
        let (memory, cpus) = (Bytes::mib(1024), 2);
        assert!(check_size(memory, cpus, memory, cpus).is_ok());
        let fault = check_size(memory, 3, memory, cpus).unwrap_err();
        assert_eq!(fault.kind, FaultKind::NoRoom);
        assert!(fault.to_string().contains("3 processors"), "{fault}");
        assert!(check_size(Bytes::mib(1025), 1, memory, cpus).unwrap_err().to_string().contains("1025M"));
    }

    #[test]
    fn a_change_is_live_only_where_it_can_be() {
        let mut e = Engine::default();
        running(&mut e, "web", &[]);
        let less = e.set("web", Some(Bytes::mib(256)), Some(2)).unwrap();
        assert_eq!(less.live_memory, Some(Bytes::mib(256)));
        assert_eq!(pending(e.get("web").unwrap()).len(), 2, "not applied by anybody yet");
        e.get_mut(&"web".parse().unwrap()).unwrap().memory_now = Bytes::mib(256);
        assert_eq!(pending(e.get("web").unwrap()).len(), 1);
        let more = e.set("web", Some(Bytes::mib(1024)), None).unwrap();
        assert_eq!(more.live_memory, None);
        assert!(e.set("web", Some(Bytes::mib(1)), None).is_err());
    }
}
