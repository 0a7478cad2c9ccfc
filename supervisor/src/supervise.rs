//! gtvpd's loop: one thread that owns everything it knows about processes. It waits for ends, questions and signals,
//! and never wakes otherwise. It is also the thread that starts every process, because domains die with their parent
//! *thread*.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gtvp_ipc::keeper::Held;
use gtvp_ipc::place::Acl;
use gtvp_ipc::supervisor::{Ended, MeasuredKind, Measurement, ProcessEvent, Spawned};
use gtvp_model::boxspec::Publish;
use gtvp_model::fault::Fault;
use gtvp_model::ids::{Domain, Slot};
use gtvp_model::member::DomainStatus;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::boxes::{Boxes, Request};
use crate::cgroup::Cgroups;
use crate::domains::{Kept, Means};
use crate::launch::Launcher;
use crate::mail::{Mailbox, Post, mailbox};
use crate::measure::Measurements;
use crate::member::Member;
use crate::network::{NetworkError, Networks};
use crate::places::{self, PlaceError};
use crate::published::Ports;
use crate::records::Records;
use crate::service::Supervision;
use crate::{notify, sys};

/// A question to the loop.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "short-lived messages")]
pub enum Ask {
    /// Start a process.
    Spawn {
        /// What.
        request: Box<Request>,
        /// The answer's way.
        reply: Post<Result<Spawned, Fault>>,
    },
    /// Wait for a process.
    Wait {
        /// Who asks.
        owner: String,
        /// Which.
        process: u64,
        /// The answer's way.
        reply: Post<Result<Ended, Fault>>,
    },
    /// Kill a process.
    Kill {
        /// Who asks.
        owner: String,
        /// Row of topology.toml.
        template: String,
        /// The box.
        slot: Slot,
        /// The answer's way.
        reply: Post<Result<Ended, Fault>>,
    },
    /// Hear of processes.
    Watch {
        /// Who asks.
        owner: String,
        /// Where events go.
        watcher: Post<ProcessEvent>,
    },
    /// Lead ports to a box.
    SetPublished {
        /// The box.
        slot: Slot,
        /// The ports.
        ports: Vec<Publish>,
        /// The answer's way.
        reply: Post<Result<(), Fault>>,
    },
    /// Hear of what is measured.
    Measurements {
        /// Where it goes.
        watcher: Post<Measurement>,
    },
    /// How the domains are.
    Status {
        /// The answer's way.
        reply: Post<Vec<DomainStatus>>,
    },
    /// A process stored something.
    Held {
        /// Which.
        process: u64,
        /// Which of its lives.
        life: u64,
        /// What.
        held: Held,
        /// Told when it is kept.
        taken: Post<()>,
    },
    /// A process stores nothing more: it is going or gone.
    KeeperGone {
        /// Which.
        process: u64,
        /// Which of its lives.
        life: u64,
    },
    /// The connection that a process is tied to has closed.
    End {
        /// Which.
        process: u64,
    },
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "spawn {} for {}", self.spawn.template, self.owner)
    }
}

/// Why gtvpd does not run.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// Folders or sockets.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// Networks.
    #[error("the member's networks: {0}")]
    Network(#[from] NetworkError),
    /// Something of the kernel's.
    #[error("{0}: {1}")]
    Step(&'static str, #[source] io::Error),
}

/// Longest time that domains get to end by themselves.
const GRACE: Duration = Duration::from_secs(2);

/// Borrows what starting a process takes, and nothing else.
macro_rules! means {
    ($s:ident) => {
        Means {
            member: &$s.member,
            networks: &$s.networks,
            launcher: &$s.launcher,
            records: &$s.records,
            measured: &$s.measured,
        }
    };
}

struct Supervisor {
    member: Member,
    networks: Networks,
    launcher: Launcher,
    records: Records,
    measured: RefCell<Measurements>,
    domains: Vec<Kept>,
    boxes: Boxes,
    ports: Ports,
    asker: Post<Ask>,
    questions: Mailbox<Ask>,
    signals: OwnedFd,
}

/// Serves the member until SIGTERM. `tell`: filters tell instead of kill.
pub fn run(member: Member, tell: bool) -> Result<(), SuperviseError> {
    let step = |what| move |e: io::Error| SuperviseError::Step(what, e);
    // Before any other thread starts, so that all block them.
    let signals =
        sys::signal_descriptor(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP]).map_err(step("signals"))?;
    places::raise_file_limit();
    let _lock = places::lock(&member)?;
    places::folders(&member)?;
    let networks = Networks::ensure(&member)?;
    let cgroups = Cgroups::open(&member.server_wide_name());
    let cgroup_kind = cgroups.kind();
    let launcher =
        Launcher { ids: (member.config.uid_base, gtvp_model::member::UIDS_PER_MEMBER), cgroups, tell };
    let records = Records::new(member.run("procs"));
    let (asker, questions) = mailbox().map_err(step("descriptors"))?;
    let measured = RefCell::new(measured_first(&member).map_err(step("measuring gtvpd itself"))?);
    let boxes = Boxes::adopt(
        &Means {
            member: &member,
            networks: &networks,
            launcher: &launcher,
            records: &records,
            measured: &measured,
        },
        &asker,
    );
    let ports = Ports::restore(&member, &networks);
    let mut domains = Vec::new();
    // Whoever takes up measurements comes first.
    let (first, others): (Vec<_>, Vec<_>) =
        member.topology.domain.keys().partition(|name| *name == Domain::Security.as_str());
    for name in first.into_iter().chain(others) {
        let people = if Kept::answers_people(name) { Some(places::people_socket(&member)?) } else { None };
        domains.push(Kept::new(name, places::socket(&member, name)?, people));
    }
    let own = places::socket(&member, Domain::Supervisor.as_str())?;
    places::ways(&member)?;
    answer(own, &member, asker.clone(), cgroup_kind)?;

    let mut supervisor = Supervisor {
        member,
        networks,
        launcher,
        records,
        measured,
        domains,
        boxes,
        ports,
        asker,
        questions,
        signals,
    };
    supervisor.start_due();
    supervisor.measure_templates();
    supervisor.serve();
    supervisor.end();
    Ok(())
}

/// gtvpd itself and what it has read.
fn measured_first(member: &Member) -> io::Result<Measurements> {
    let mut measured = Measurements::default();
    measured.program(MeasuredKind::Start, env!("CARGO_PKG_VERSION"), Path::new("/proc/self/exe"))?;
    for (kind, subject, value) in [
        (MeasuredKind::Topology, "topology.toml", member.topology_digest),
        (MeasuredKind::Configuration, "member.toml", member.config_digest),
    ] {
        measured.add(Measurement { kind, subject: subject.to_owned(), value });
    }
    Ok(measured)
}

fn answer(
    listener: UnixListener,
    member: &Member,
    asker: Post<Ask>,
    cgroups: Option<&'static str>,
) -> Result<(), SuperviseError> {
    let acl = Acl::new(Domain::Supervisor, member.config.clone(), &member.topology);
    let service = Arc::new(Supervision { asker, member: member.clone(), cgroups });
    let serve = move || {
        let error = gtvp_ipc::serve(&listener, acl, service);
        // Without its interface gtvpd is of no use; the next one has it again.
        say!("the supervisor's socket: {error}");
        std::process::exit(1);
    };
    let spawned = std::thread::Builder::new().stack_size(256 * 1024).spawn(serve);
    spawned.map(drop).map_err(|e| SuperviseError::Step("starting a thread", e))
}

/// What a wake-up is about.
enum Woken {
    Signal,
    Question,
    Domain(usize),
    Process(u64),
}

impl Supervisor {
    /// Measures what templates would start, so that what a member *can* run is known before its first box runs it. Each is measured
    /// again when it is started; what is not installed is measured then.
    fn measure_templates(&self) {
        let mut measured = self.measured.borrow_mut();
        for (name, row) in &self.member.topology.template {
            let program = crate::plan::program(&self.member, row);
            match measured.program(MeasuredKind::Template, name, &program) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => say!("{}: {e}", program.display()),
                _ => {}
            }
        }
    }

    fn serve(&mut self) {
        let mut ready = false;
        loop {
            if !ready && self.domains.iter().all(|d| d.process.is_some()) {
                ready = true;
                notify::ready();
                if let Err(e) = std::fs::write(self.member.run("ready"), "") {
                    say!("the ready file: {e}");
                }
                say!("{} is up: {} domains", self.member.config.name, self.domains.len());
            }
            for woken in self.wait() {
                match woken {
                    Woken::Signal => return,
                    Woken::Question => self.answer_questions(),
                    Woken::Domain(n) => {
                        let means = means!(self);
                        if let Some(domain) = self.domains.get_mut(n) {
                            domain.ended(&means);
                        }
                    }
                    Woken::Process(n) => self.boxes.ended(&means!(self), n),
                }
            }
            self.start_due();
        }
    }

    fn wait(&self) -> Vec<Woken> {
        let mut what = vec![Woken::Signal, Woken::Question];
        let bell = self.questions.bell();
        let mut fds =
            vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::from_borrowed_fd(bell, PollFlags::IN)];
        for (n, domain) in self.domains.iter().enumerate() {
            if let Some(process) = &domain.process {
                what.push(Woken::Domain(n));
                fds.push(PollFd::new(&process.fd, PollFlags::IN));
            }
        }
        for (number, fd) in self.boxes.descriptors() {
            what.push(Woken::Process(number));
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        let due = self.domains.iter().filter_map(|d| d.due).chain(self.boxes.next_due()).min();
        let timeout = due.map(|at| {
            let rest = at.saturating_duration_since(Instant::now());
            // One millisecond more than less: not to wake just before.
            let rest = rest + Duration::from_millis(1);
            Timespec { tv_sec: rest.as_secs().try_into().unwrap_or(0), tv_nsec: rest.subsec_nanos().into() }
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => what
                .into_iter()
                .zip(&fds)
                .filter(|(_, fd)| !fd.revents().is_empty())
                .map(|(w, _)| w)
                .collect(),
            Err(_) => Vec::new(),
        }
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        let means = means!(self);
        for domain in self.domains.iter_mut().filter(|d| d.due.is_some_and(|due| due <= now)) {
            domain.start(&means);
        }
        self.boxes.start_due(&means, &self.asker);
    }

    fn answer_questions(&mut self) {
        self.questions.silence();
        while let Ok(question) = self.questions.try_next() {
            let means = means!(self);
            match question {
                Ask::Spawn { request, reply } => {
                    reply.send(self.boxes.spawn(&means, &self.asker, *request));
                }
                Ask::Wait { owner, process, reply } => self.boxes.wait(&owner, process, reply),
                Ask::Kill { owner, template, slot, reply } => {
                    self.boxes.kill(&means, &owner, &template, slot, reply);
                }
                Ask::Watch { owner, watcher } => self.boxes.watch(owner, watcher),
                Ask::Measurements { watcher } => self.measured.borrow_mut().watch(watcher),
                Ask::SetPublished { slot, ports, reply } => {
                    reply.send(self.ports.set(&self.member, &self.networks, slot, &ports));
                }
                Ask::Status { reply } => {
                    reply.send(self.domains.iter().map(Kept::status).collect());
                }
                Ask::Held { process, life, held, taken } => {
                    self.boxes.held(process, life, held);
                    taken.send(());
                }
                Ask::KeeperGone { process, life } => self.boxes.keeper_gone(process, life),
                Ask::End { process } => self.boxes.end(&means, process),
            }
        }
    }

    /// Ends the domains; box processes stay.
    fn end(&mut self) {
        notify::stopping();
        let running: Vec<_> = self.domains.iter_mut().filter_map(|d| d.process.take()).collect();
        for process in &running {
            process.terminate();
        }
        let deadline = Instant::now() + GRACE;
        for process in &running {
            if !process.wait(deadline.saturating_duration_since(Instant::now())) {
                process.kill();
                process.wait(GRACE);
            }
            process.end();
        }
        for record in self.records.read().iter().filter(|r| r.domain) {
            self.records.remove(record);
        }
        places::close(&self.member);
        say!("{} is down; its boxes keep running", self.member.config.name);
    }
}
