//! The life of one box. Pure: what happened and the time in, what to do out. No socket, file or clock is touched here.
//!
//! ```text
//!              Welcome(waiting)        State(running)            State(exited)
//!   Booting ───────────────▶ Configuring ──────────▶ Running ──────────────────▶ Exited ──┐ acknowledged unless held;
//!      │ 120 s                  │ State(failed)         │ Ask(stop)                 ▲     │ 20 s, then quit
//!      │ or machine gone        │ 10 min, gone          ▼          State(exited)    │     ▼
//!      └──────────┬─────────────┘                    Stopping ──────────────────────┘   Ending ── 3 s ─▶ killed
//!                 ▼                                     │ grace + 10 s                     │
//!              Ending ◀────────────────────────────────┘                                  ▼
//!                 └────────────────────────── the machine is gone ─────────────────────▶ Gone
//! ```
//!
//! A machine that was loaded from a template has 20 s for its first word.
//!
//! Halted processors (`paused`) are beside all this: only a running box can be halted when someone asks, but QEMU may halt any (a full disk). Whatever the state, a machine that is gone makes the box `Gone`; what is said then depends
//! on whether its application had ended, whether someone had asked, and whether its start was still awaited.

use std::time::{Duration, Instant};

use gtvp_ipc::drivers::BoxHappening;
use gtvp_model::boxview::ExitStatus;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::guest::{GuestState, PROTOCOL, ToGuest};
use serde::{Deserialize, Serialize};

use crate::qmp;

/// From QEMU's start to the guest's first word. Under TCG on a busy machine a boot takes up to half a minute.
pub const BOOT: Duration = Duration::from_secs(120);
/// From the moment in which a machine that was loaded goes on to the guest's first word, which takes it a few milliseconds.
const WAKE: Duration = Duration::from_secs(20);
/// From the configuration to a started application, whose files may have to be fetched first.
pub const CONFIGURE: Duration = Duration::from_secs(600);
/// Beyond a stop's grace: what guest-init needs to unmount and power off under TCG.
const AFTER_GRACE: Duration = Duration::from_secs(10);
/// From the acknowledged end of the application to power off.
const POWER_OFF: Duration = Duration::from_secs(20);
/// From `quit` to SIGKILL.
const QUIT: Duration = Duration::from_secs(3);

/// Where a box is; what is written to disk of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// QEMU was started, the guest has not spoken.
    Booting,
    /// It has its configuration.
    Configuring,
    /// The application runs.
    Running {
        /// Its ports listen.
        ready: bool,
    },
    /// Someone asked it to end.
    Stopping {
        /// The grace that was given.
        grace_ms: u64,
    },
    /// The application has ended.
    Exited {
        /// How.
        status: ExitStatus,
    },
    /// The machine is being ended.
    Ending {
        /// What will be said of it.
        last: Last,
    },
    /// The machine is gone.
    Gone {
        /// What is to be said of it.
        last: Last,
    },
}

/// What is said of a box that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Last {
    /// Its start was refused or failed, and whoever asked was told.
    NeverStarted,
    /// Its application ended so.
    Exited(ExitStatus),
    /// It died; why.
    Died(String),
}

impl Last {
    /// As a watcher hears it.
    pub fn happening(&self) -> Option<BoxHappening> {
        match self {
            Self::NeverStarted => None,
            Self::Exited(status) => Some(BoxHappening::Exited { status: status.clone() }),
            Self::Died(why) => Some(BoxHappening::Died { why: why.clone() }),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The guest answered Hello.
    Welcome {
        /// Its protocol.
        protocol: u32,
        /// Where it is.
        state: GuestState,
    },
    /// The guest is somewhere else.
    State(GuestState),
    /// The processors are halted.
    Halted,
    /// The processors run.
    Resumed,
    /// QEMU has closed a connection or talks nonsense.
    Lost(String),
    /// The machine is gone; its last words.
    MachineGone(String),
    /// The deadline has passed.
    Due,
}

/// What someone asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// End it.
    Stop {
        /// From SIGTERM to SIGKILL; 0 kills at once.
        grace_ms: u64,
    },
    /// Halt the processors.
    Pause,
    /// Let them go on.
    Resume,
    /// Whoever asked for the start has gone.
    Cancel,
}

/// What to do, in this order.
// Commands live for a moment, a few at a time: a box around the largest would only cost.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Write the box's record.
    Persist,
    /// Tell the guest who it is.
    Configure,
    /// Tell the guest something.
    Send(ToGuest),
    /// Tell QEMU something.
    Qmp(qmp::Command),
    /// Kill QEMU.
    Kill,
    /// Tell whoever waits for the start how far it is.
    Progress(&'static str, &'static str),
    /// Answer the start.
    Started(Result<(), Fault>),
    /// Answer who asked for a pause.
    Paused,
    /// Answer who asked to go on.
    Resumed,
    /// Tell the watchers.
    Emit(BoxHappening),
    /// Give back everything that the machine held; the last command of a box.
    Release,
}

/// One box.
#[derive(Debug, Clone)]
pub struct Life {
    phase: Phase,
    paused: bool,
    hold: bool,
    /// Whether the start is still unanswered. It is answered well when the application was started, and with a fault
    /// only when the machine is gone, so that nothing of a failed start is left behind.
    awaited: bool,
    /// What the start will be refused with.
    refusal: Option<Fault>,
    /// Whether the watchers know how the application ended.
    told: bool,
    /// Why QEMU is as good as gone.
    lost: Option<String>,
    /// Whether it was given up because its guest never spoke.
    silent: bool,
    /// Whether its guest ever spoke as it should.
    met: bool,
    /// How long its guest may be silent at first.
    wait: Duration,
    deadline: Option<Instant>,
}

impl Life {
    /// A box whose QEMU was just started.
    pub fn new(hold: bool, now: Instant) -> Self {
        Self { awaited: true, deadline: Some(now + BOOT), ..Self::at(Phase::Booting, false, hold) }
    }

    /// A box whose machine was just loaded from a template.
    pub fn loaded(hold: bool, now: Instant) -> Self {
        Self { deadline: Some(now + WAKE), wait: WAKE, ..Self::new(hold, now) }
    }

    /// A box that ran on while nobody watched.
    pub fn attached(phase: Phase, paused: bool, hold: bool, now: Instant) -> Self {
        let deadline = match &phase {
            Phase::Stopping { grace_ms } => Some(now + Duration::from_millis(*grace_ms) + AFTER_GRACE),
            Phase::Exited { .. } if !hold => Some(now + POWER_OFF),
            Phase::Ending { .. } => Some(now),
            _ => None,
        };
        let told = matches!(phase, Phase::Exited { .. });
        Self { deadline, told, ..Self::at(phase, paused, hold) }
    }

    fn at(phase: Phase, paused: bool, hold: bool) -> Self {
        Self {
            phase,
            paused,
            hold,
            awaited: false,
            refusal: None,
            told: false,
            lost: None,
            silent: false,
            met: false,
            wait: BOOT,
            deadline: None,
        }
    }

    /// Where it is.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Whether its processors are halted.
    pub fn paused(&self) -> bool {
        self.paused
    }

    /// Whether it was given up because its guest never spoke: only its console may say why.
    pub fn silent(&self) -> bool {
        self.silent
    }

    /// Whether its guest ever spoke as it should.
    pub fn met(&self) -> bool {
        self.met
    }

    /// When [`Event::Due`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether a command can be run in it.
    pub fn check_running(&self) -> Result<(), Fault> {
        let wrong = |what: &str| Err(Fault::new(FaultKind::WrongState, format!("the box {what}")));
        match &self.phase {
            Phase::Running { .. } if self.paused => {
                wrong("is paused").map_err(|f| f.hint("resume it first: gtvp box resume NAME"))
            }
            Phase::Running { .. } => Ok(()),
            Phase::Booting | Phase::Configuring => wrong("is still starting"),
            Phase::Stopping { .. } => wrong("is being stopped"),
            Phase::Exited { .. } | Phase::Ending { .. } | Phase::Gone { .. } => wrong("has ended"),
        }
    }

    /// Whether its writable layer can be exported: a held box whose application has ended.
    pub fn check_export(&self) -> Result<(), Fault> {
        match self.phase {
            Phase::Exited { .. } if self.hold => Ok(()),
            _ => Err(Fault::new(
                FaultKind::WrongState,
                "only a held box whose command has ended can be exported",
            )),
        }
    }

    /// Something happened.
    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Command> {
        match event {
            Event::Welcome { protocol, .. } if protocol != PROTOCOL => self.fail(
                format!("its guest-init speaks protocol {protocol}, this member speaks {PROTOCOL}"),
                now,
            ),
            Event::Welcome { state, .. } => self.on_welcome(state, now),
            Event::State(state) => self.on_state(state, now),
            Event::Halted => self.on_halted(),
            Event::Resumed => self.on_resumed(),
            Event::Lost(why) => self.on_lost(why, now),
            Event::MachineGone(words) => self.on_gone(words),
            Event::Due => self.on_due(now),
        }
    }

    /// Someone asks. A refusal changes nothing.
    pub fn ask(&mut self, ask: Ask, now: Instant) -> Result<Vec<Command>, Fault> {
        match ask {
            Ask::Stop { grace_ms } => Ok(self.stop(grace_ms, now)),
            Ask::Cancel if self.awaited => Ok(self.stop(0, now)),
            Ask::Cancel => Ok(Vec::new()),
            Ask::Pause if self.paused => Ok(vec![Command::Paused]),
            Ask::Pause => self.check_running().map(|()| vec![Command::Qmp(qmp::Command::Stop)]),
            Ask::Resume if self.paused => Ok(vec![Command::Qmp(qmp::Command::Cont)]),
            Ask::Resume => self.check_running().map(|()| vec![Command::Resumed]),
        }
    }

    fn on_welcome(&mut self, state: GuestState, now: Instant) -> Vec<Command> {
        match (&self.phase, state) {
            (Phase::Booting, GuestState::Waiting) => {
                self.met = true;
                self.phase = Phase::Configuring;
                self.deadline = Some(now + CONFIGURE);
                vec![Command::Progress("configure", "telling the guest who it is"), Command::Configure]
            }
            (Phase::Booting, _) => self.fail("its guest was configured by someone else".into(), now),
            (Phase::Running { .. } | Phase::Stopping { .. } | Phase::Exited { .. }, GuestState::Waiting) => {
                self.fail("its guest started again by itself".into(), now)
            }
            (Phase::Stopping { grace_ms }, GuestState::Running { .. }) => {
                vec![Command::Send(ToGuest::Shutdown { grace_ms: *grace_ms })]
            }
            // It had not heard that its end was noted.
            (Phase::Exited { .. }, GuestState::Exited { .. }) if !self.hold => {
                vec![Command::Send(ToGuest::AckExited)]
            }
            (_, state) => self.on_state(state, now),
        }
    }

    fn on_state(&mut self, state: GuestState, now: Instant) -> Vec<Command> {
        match (&self.phase, state) {
            (Phase::Configuring, GuestState::Configuring) => {
                vec![Command::Progress("start", "starting the application")]
            }
            (Phase::Configuring, GuestState::Running { ready }) => self.on_started(ready),
            (Phase::Configuring, GuestState::Exited { status }) => {
                let mut commands = self.on_started(false);
                commands.extend(self.on_exited(status, now));
                commands
            }
            (Phase::Configuring, GuestState::Failed { step, reason }) => {
                let (step, reason) = (plain(&step, 60), plain(&reason, 400));
                let fault = Fault::new(
                    FaultKind::BoxFailed,
                    format!("the box could not be started ({step}): {reason}"),
                );
                self.refuse_start(fault, now)
            }
            (Phase::Running { ready: false }, GuestState::Running { ready: true }) => {
                self.phase = Phase::Running { ready: true };
                vec![Command::Persist, Command::Emit(BoxHappening::Running { ready: true })]
            }
            (Phase::Running { .. } | Phase::Stopping { .. }, GuestState::Exited { status }) => {
                self.on_exited(status, now)
            }
            (Phase::Running { .. } | Phase::Stopping { .. }, GuestState::Failed { step, reason }) => {
                self.fail(format!("{} failed: {}", plain(&step, 60), plain(&reason, 400)), now)
            }
            // Nothing new, or nothing that could be believed any more.
            _ => Vec::new(),
        }
    }

    fn on_started(&mut self, ready: bool) -> Vec<Command> {
        self.phase = Phase::Running { ready };
        self.deadline = None;
        self.awaited = false;
        vec![Command::Persist, Command::Emit(BoxHappening::Running { ready }), Command::Started(Ok(()))]
    }

    fn on_exited(&mut self, status: ExitStatus, now: Instant) -> Vec<Command> {
        let acknowledge = !self.hold || matches!(self.phase, Phase::Stopping { .. });
        self.phase = Phase::Exited { status: status.clone() };
        self.deadline = acknowledge.then(|| now + POWER_OFF);
        self.told = true;
        let mut commands = vec![Command::Persist, Command::Emit(BoxHappening::Exited { status })];
        commands.extend(acknowledge.then_some(Command::Send(ToGuest::AckExited)));
        commands
    }

    fn on_halted(&mut self) -> Vec<Command> {
        let changed = !std::mem::replace(&mut self.paused, true);
        let mut commands = vec![Command::Paused];
        if changed && matches!(self.phase, Phase::Running { .. }) {
            commands.splice(0..0, [Command::Persist, Command::Emit(BoxHappening::Paused)]);
        }
        commands
    }

    fn on_resumed(&mut self) -> Vec<Command> {
        let changed = std::mem::replace(&mut self.paused, false);
        let mut commands = vec![Command::Resumed];
        if let (true, Phase::Running { ready }) = (changed, &self.phase) {
            let ready = *ready;
            commands.splice(0..0, [Command::Persist, Command::Emit(BoxHappening::Running { ready })]);
        }
        commands
    }

    /// QEMU closes its connections only when it ends: its end, with its words, is awaited a moment, then made.
    fn on_lost(&mut self, why: String, now: Instant) -> Vec<Command> {
        if !matches!(self.phase, Phase::Ending { .. } | Phase::Gone { .. }) && self.lost.is_none() {
            self.lost = Some(why);
            self.deadline = Some(now + QUIT);
        }
        Vec::new()
    }

    fn stop(&mut self, grace_ms: u64, now: Instant) -> Vec<Command> {
        match &self.phase {
            Phase::Gone { .. } => Vec::new(),
            Phase::Booting | Phase::Configuring => self
                .refuse_start(Fault::new(FaultKind::Cancelled, "the box was stopped while it started"), now),
            Phase::Running { .. } | Phase::Stopping { .. } if grace_ms > 0 => {
                self.phase = Phase::Stopping { grace_ms };
                self.deadline = Some(now + Duration::from_millis(grace_ms) + AFTER_GRACE);
                let wake = self.paused.then_some(Command::Qmp(qmp::Command::Cont));
                let ask = [Command::Persist, Command::Send(ToGuest::Shutdown { grace_ms })];
                wake.into_iter().chain(ask).collect()
            }
            Phase::Exited { .. } if grace_ms > 0 => {
                self.deadline = Some(now + POWER_OFF);
                vec![Command::Send(ToGuest::AckExited)]
            }
            Phase::Running { .. } | Phase::Stopping { .. } => {
                self.kill(Last::Exited(ExitStatus::Signal(9)), now)
            }
            Phase::Exited { status } => {
                let last = Last::Exited(status.clone());
                self.kill(last, now)
            }
            Phase::Ending { last } => {
                let last = last.clone();
                self.kill(last, now)
            }
        }
    }

    /// The record comes first: a drivers domain that dies in between finishes the killing.
    fn kill(&mut self, last: Last, now: Instant) -> Vec<Command> {
        self.enter_ending(last, now);
        vec![Command::Persist, Command::Kill]
    }

    fn refuse_start(&mut self, fault: Fault, now: Instant) -> Vec<Command> {
        self.refusal.get_or_insert(fault);
        self.kill(Last::NeverStarted, now)
    }

    fn fail(&mut self, why: String, now: Instant) -> Vec<Command> {
        match &self.phase {
            Phase::Ending { .. } | Phase::Gone { .. } => Vec::new(),
            _ if self.awaited => {
                let fault = Fault::new(FaultKind::BoxFailed, format!("the box could not be started: {why}"));
                self.refuse_start(fault, now)
            }
            Phase::Exited { status } => {
                let last = Last::Exited(status.clone());
                self.kill(last, now)
            }
            _ => self.kill(Last::Died(why), now),
        }
    }

    fn on_due(&mut self, now: Instant) -> Vec<Command> {
        self.deadline = None;
        if let Some(why) = self.lost.take() {
            return match &self.phase {
                Phase::Stopping { .. } => self.kill(Last::Exited(ExitStatus::Signal(9)), now),
                _ => self.fail(why, now),
            };
        }
        match &self.phase {
            Phase::Booting => {
                self.silent = true;
                self.fail(format!("its guest said nothing for {} seconds", self.wait.as_secs()), now)
            }
            Phase::Configuring => self
                .fail(format!("its application was not started within {} seconds", CONFIGURE.as_secs()), now),
            Phase::Stopping { .. } => self.quit(Last::Exited(ExitStatus::Signal(9)), now),
            Phase::Exited { status } => {
                let last = Last::Exited(status.clone());
                self.quit(last, now)
            }
            Phase::Ending { .. } => {
                self.deadline = Some(now + QUIT);
                vec![Command::Kill]
            }
            Phase::Running { .. } | Phase::Gone { .. } => Vec::new(),
        }
    }

    fn quit(&mut self, last: Last, now: Instant) -> Vec<Command> {
        self.enter_ending(last, now);
        vec![Command::Persist, Command::Qmp(qmp::Command::Quit)]
    }

    fn enter_ending(&mut self, last: Last, now: Instant) {
        self.phase = Phase::Ending { last };
        self.deadline = Some(now + QUIT);
        // Whatever else says that it is going has no part in it any more.
        self.lost = None;
    }

    fn on_gone(&mut self, words: String) -> Vec<Command> {
        self.deadline = None;
        let awaited = std::mem::replace(&mut self.awaited, false);
        let last = match &self.phase {
            Phase::Gone { .. } => return Vec::new(),
            _ if awaited => Last::NeverStarted,
            Phase::Exited { status } => Last::Exited(status.clone()),
            Phase::Ending { last } => last.clone(),
            Phase::Stopping { .. } => Last::Exited(ExitStatus::Signal(9)),
            Phase::Booting | Phase::Configuring | Phase::Running { .. } => Last::Died(words.clone()),
        };
        let emit = last.happening().filter(|_| !self.told).map(Command::Emit);
        self.phase = Phase::Gone { last };
        let mut commands = vec![Command::Persist];
        commands.extend(emit);
        commands.push(Command::Release);
        if awaited {
            let died = || Fault::new(FaultKind::BoxFailed, format!("the box could not be started: {words}"));
            commands.push(Command::Started(Err(self.refusal.take().unwrap_or_else(died))));
        }
        commands.push(Command::Emit(BoxHappening::Gone));
        commands
    }
}

/// Text of a guest for people: one line, bounded.
fn plain(text: &str, most: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(most).collect()
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
