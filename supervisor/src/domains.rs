//! The domains that gtvpd keeps running: their listening sockets, which outlive them, and their lives.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use gtvp_ipc::place;
use gtvp_ipc::supervisor::MeasuredKind;
use gtvp_model::member::DomainStatus;

use crate::backoff::Backoff;
use crate::host;
use crate::kmsg;
use crate::launch::{LaunchError, Launcher};
use crate::measure::Measurements;
use crate::member::Member;
use crate::network::Networks;
use crate::places::PlaceError;
use crate::plan::{self, BadRow, Contents, Namespaces};
use crate::process::{self, Process};
use crate::records::{Record, Records};
use crate::spec::{Descriptor, JailSpec};

/// The gateway also answers people.
const GATEWAY: &str = "gateway";

/// Longest wait for the end of a process that was killed at once.
const END_OF_CHANGED: Duration = Duration::from_secs(5);

/// One domain.
#[derive(Debug)]
pub struct Kept {
    /// Row of topology.toml.
    pub name: String,
    listener: OwnedFd,
    people: Option<OwnedFd>,
    /// Its present process.
    pub process: Option<Process>,
    /// When to start it, if it does not run.
    pub due: Option<Instant>,
    started: Instant,
    started_ms: u64,
    restarts: u64,
    last_exit: Option<String>,
    backoff: Backoff,
}

/// What starting a domain takes.
pub struct Means<'a> {
    /// The member.
    pub member: &'a Member,
    /// Its networks.
    pub networks: &'a Networks,
    /// The launcher.
    pub launcher: &'a Launcher,
    /// Where it is written down.
    pub records: &'a Records,
    /// What is measured before it starts.
    pub measured: &'a RefCell<Measurements>,
}

/// Why a domain does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its row makes no jail.
    #[error(transparent)]
    Row(#[from] BadRow),
    /// The jail was not built.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// It has no place for its socket.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// gtvpd is short of something.
    #[error("descriptors: {0}")]
    Descriptors(#[from] std::io::Error),
    /// What cannot be measured is not started.
    #[error("it cannot be measured: {0}")]
    Unmeasured(#[source] std::io::Error),
    /// What was started may not be what was measured.
    #[error("{0} was changed while it was started")]
    Changed(PathBuf),
    /// topology.toml has no such row.
    #[error("topology.toml has no row {0}")]
    NoRow(String),
}

impl Kept {
    /// A domain with its sockets, not yet started.
    pub fn new(name: &str, listener: UnixListener, people: Option<UnixListener>) -> Self {
        Self {
            name: name.to_owned(),
            listener: listener.into(),
            people: people.map(Into::into),
            process: None,
            due: Some(Instant::now()),
            started: Instant::now(),
            started_ms: 0,
            restarts: 0,
            last_exit: None,
            backoff: Backoff::default(),
        }
    }

    /// Starts it.
    pub fn start(&mut self, means: &Means<'_>) {
        self.due = None;
        self.started = Instant::now();
        let name = self.name.clone();
        match self.launch(means) {
            Ok(process) => {
                self.started_ms = process::now_ms();
                means.records.write(&record(&name, &process));
                self.process = Some(process);
            }
            Err(e) => {
                let how = format!("it did not start: {e}");
                if self.last_exit.as_deref() != Some(&how) {
                    say!("{name}: {how}");
                }
                self.last_exit = Some(how);
                self.restarts += 1;
                let now = Instant::now();
                // Never in a tight loop: what failed to start fails again at once.
                self.due = Some(now + self.backoff.died(now, now).max(Duration::from_millis(100)));
            }
        }
    }

    fn launch(&self, means: &Means<'_>) -> Result<Process, StartError> {
        let null = std::fs::File::open("/dev/null")?;
        let mut fds = vec![
            means.networks.boxes.as_fd(),
            means.networks.boxes_user.as_fd(),
            means.networks.sources.as_fd(),
            null.as_fd(),
            self.listener.as_fd(),
        ];
        let mut descriptors =
            vec![Descriptor { from: 3, number: 0 }, Descriptor { from: 4, number: place::LISTEN_FD }];
        if let Some(people) = &self.people {
            fds.push(people.as_fd());
            descriptors.push(Descriptor { from: 5, number: place::SECOND_LISTEN_FD });
        }
        let spec = spec(means.member, &self.name, None, descriptors)?;
        let memory =
            means.member.topology.domain.get(&self.name).and_then(|row| row.jail.memory_max).map(|b| b.0);
        let program =
            means.member.topology.domain.get(&self.name).map(|row| means.member.lib.join(&row.binary));
        let program = program.ok_or_else(|| StartError::NoRow(self.name.clone()))?;
        measured(means, MeasuredKind::Binary, &self.name, &program, || {
            Ok(means.launcher.start(spec, &fds, stdio()?, &self.name, memory)?)
        })
    }

    /// Its process has ended: says how and decides when it starts again.
    pub fn ended(&mut self, means: &Means<'_>) {
        let Some(process) = self.process.take() else { return };
        let end = process.end();
        let mut how = end.how;
        if end.signal == Some(libc::SIGSYS) {
            how = match kmsg::killed_by(process.pid) {
                Some(call) => {
                    format!("{how}: system call {call}, which its row in topology.toml does not have")
                }
                None => format!(
                    "{how}: a system call that its row in topology.toml does not have (see `gtvpd trace`)"
                ),
            };
        }
        means.records.remove(&record(&self.name, &process));
        let now = Instant::now();
        let wait = self.backoff.died(self.started, now);
        say!("{} (pid {}) ended: {how}; it starts again in {} ms", self.name, process.pid, wait.as_millis());
        self.last_exit = Some(how);
        self.restarts += 1;
        self.due = Some(now + wait);
    }

    /// For people.
    pub fn status(&self) -> DomainStatus {
        DomainStatus {
            domain: self.name.clone(),
            pid: self.process.as_ref().map(|p| p.pid),
            restarts: self.restarts,
            started_ms: self.started_ms,
            last_exit: self.last_exit.clone(),
        }
    }

    /// Whether this domain also answers people, on a socket of its own.
    pub fn answers_people(name: &str) -> bool {
        name == GATEWAY
    }
}

/// A domain's jail, with its own program or (`gtvpd probe`) another one in its place.
pub fn spec(
    member: &Member,
    name: &str,
    instead: Option<(&str, Vec<String>)>,
    descriptors: Vec<Descriptor>,
) -> Result<JailSpec, StartError> {
    let row = member.topology.domain.get(name).ok_or_else(|| StartError::NoRow(name.to_owned()))?;
    let (binary, argv) = instead.map_or_else(|| (row.binary.as_str(), Vec::new()), |(b, argv)| (b, argv));
    let mut contents =
        Contents { program: member.lib.join(binary), argv, descriptors, ..Contents::default() };
    if row.jail.network == gtvp_model::topology::Network::Sources {
        contents.texts.push((plan::RESOLV_CONF.into(), host::resolv_conf()));
    }
    let namespaces = Namespaces { boxes_net: Some(0), boxes_user: Some(1), sources_net: Some(2) };
    let mut spec = plan::jail(member, name, &row.jail, member.config.uid(row.uid), contents, namespaces)?;
    spec.dies_with = i32::try_from(std::process::id()).ok();
    Ok(spec)
}

/// Measures `program`, starts it by `start`, and ends it if it was changed in between.
pub fn measured(
    means: &Means<'_>,
    kind: MeasuredKind,
    subject: &str,
    program: &Path,
    start: impl FnOnce() -> Result<Process, StartError>,
) -> Result<Process, StartError> {
    let stamp =
        means.measured.borrow_mut().program(kind, subject, program).map_err(StartError::Unmeasured)?;
    let process = start()?;
    if stamp.holds(program) {
        return Ok(process);
    }
    process.kill();
    process.wait(END_OF_CHANGED);
    process.end();
    Err(StartError::Changed(program.to_owned()))
}

/// A domain's output goes where gtvpd's own words go.
pub fn stdio() -> std::io::Result<[Stdio; 2]> {
    let error = || std::io::stderr().as_fd().try_clone_to_owned().map(Stdio::from);
    Ok([error()?, error()?])
}

fn record(name: &str, process: &Process) -> Record {
    Record {
        process: 0,
        template: name.to_owned(),
        slot: None,
        owner: String::new(),
        domain: true,
        tied: false,
        argv: Vec::new(),
        numbers: Vec::new(),
        pid: process.pid,
        start_time: process::start_time(process.pid).unwrap_or(0),
    }
}
