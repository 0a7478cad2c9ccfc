//! Processes that gtvpd starts from templates when their owners ask: it knows each by number, hears their ends, starts
//! those again that are to be, and finds them again after its own restart.

use std::collections::{BTreeMap, VecDeque};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use gtvp_ipc::keeper::Held;
use gtvp_ipc::supervisor::{Ended, MeasuredKind, ProcessEvent, Spawn, Spawned};
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::Slot;
use gtvp_model::topology::{Network, TemplateRow};

use crate::backoff::Backoff;
use crate::domains::{Means, StartError, measured, stdio};
use crate::mail::{Post, mailbox};
use crate::member::instance;
use crate::plan::{self, Contents, Namespaces};
use crate::process::{self, Process};
use crate::records::Record;
use crate::spec::{Descriptor, FileFrom};
use crate::supervise::Ask;
use crate::template::{self, KEEPER};
use crate::{host, keeper, kmsg, places};

/// Ends that are remembered for a `wait` that comes after them.
const REMEMBERED: usize = 256;
/// Longest wait for what a process stored just before it died.
const LAST_WORD: Duration = Duration::from_millis(900);
/// Processes of templates without a box (imports) at once.
const MAX_WITHOUT_BOX: usize = 16;
/// What a process may leave in its log: reasons why it ended, never its work.
const MAX_LOG: u64 = 1024 * 1024;

/// A running process of a template.
#[derive(Debug)]
struct Running {
    record: Record,
    process: Option<Process>,
    /// Descriptors that it was started with, for those that start again.
    fds: Vec<(String, OwnedFd)>,
    /// The socket through which it stores; `None` when an earlier gtvpd made it.
    keeper: Option<OwnedFd>,
    held: Held,
    /// Which of its lives stored that.
    life: u64,
    /// What it stores may still be on its way.
    storing: bool,
    killed: bool,
    started: Instant,
    due: Option<Instant>,
    wait: Duration,
    how: String,
    backoff: Backoff,
    waiters: Vec<Post<Result<Ended, Fault>>>,
}

impl Running {
    /// What this record names, before its process is known.
    fn of(record: Record) -> Self {
        Self {
            record,
            process: None,
            fds: Vec::new(),
            keeper: None,
            held: Held::default(),
            life: 0,
            storing: false,
            killed: false,
            started: Instant::now(),
            due: None,
            wait: Duration::ZERO,
            how: String::new(),
            backoff: Backoff::default(),
            waiters: Vec::new(),
        }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Boxes {
    running: BTreeMap<u64, Running>,
    last: u64,
    remembered: VecDeque<(String, Ended)>,
    watchers: Vec<(String, Post<ProcessEvent>)>,
}

/// A request to spawn, with what came with it.
pub struct Request {
    /// Who asks.
    pub owner: String,
    /// For what.
    pub spawn: Spawn,
    /// With these.
    pub fds: Vec<OwnedFd>,
    /// The connection that it came on.
    pub stream: Option<UnixStream>,
}

impl Boxes {
    /// Finds the processes that an earlier gtvpd left.
    pub fn adopt(means: &Means<'_>, asker: &Post<Ask>) -> Self {
        let mut boxes = Self::default();
        for record in means.records.read() {
            boxes.last = boxes.last.max(record.process);
            let Some(process) = Process::adopt(record.pid, record.start_time) else {
                means.records.remove(&record);
                continue;
            };
            let known = means.member.topology.template.contains_key(&record.template);
            if record.domain || record.tied || !known {
                // It should have ended with its gtvpd or its owner.
                process.kill();
                process.wait(Duration::from_secs(5));
                means.records.remove(&record);
                continue;
            }
            say!("{} (pid {}) is still running", instance(&record.template, record.slot), record.pid);
            let number = record.process;
            boxes.running.insert(number, Running { process: Some(process), ..Running::of(record) });
            boxes.keep(means, asker, number);
        }
        boxes
    }

    /// Descriptors to poll, with the process' number.
    pub fn descriptors(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        self.running.iter().filter_map(|(n, r)| Some((*n, r.process.as_ref()?.fd.as_fd())))
    }

    /// When the next one is to be started again.
    pub fn next_due(&self) -> Option<Instant> {
        self.running.values().filter_map(|r| r.due).min()
    }

    /// Starts a process.
    pub fn spawn(
        &mut self,
        means: &Means<'_>,
        asker: &Post<Ask>,
        request: Request,
    ) -> Result<Spawned, Fault> {
        let Request { owner, spawn, fds, stream } = request;
        let row = owned_row(means, &owner, &spawn.template)?;
        if spawn.fds.len() != fds.len() {
            return Err(Fault::new(FaultKind::Invalid, "names and descriptors do not match in number"));
        }
        if has_wrong_slot(row, spawn.slot) {
            return Err(Fault::new(FaultKind::Invalid, format!("{} belongs to no box", spawn.template)));
        }
        let same = |r: &&Running| r.record.template == spawn.template && r.record.slot == spawn.slot;
        if spawn.slot.is_some() && self.running.values().any(|r| same(&r)) {
            let what = instance(&spawn.template, spawn.slot);
            return Err(Fault::new(FaultKind::WrongState, format!("{what} runs already")));
        }
        if row.single && self.running.values().any(|r| same(&r)) {
            return Err(Fault::new(FaultKind::WrongState, format!("{} runs already", spawn.template)));
        }
        if spawn.slot.is_none() && self.running.values().filter(same).count() >= MAX_WITHOUT_BOX {
            return Err(Fault::new(
                FaultKind::Unavailable,
                format!("too many of {} run at once", spawn.template),
            ));
        }
        let expanded = template::expand(row, &spawn.params, &spawn.fds)?;
        let mut named: Vec<(String, OwnedFd)> = spawn.fds.iter().cloned().zip(fds).collect();
        let number = self.last + 1;
        let mut running = Running::of(Record {
            process: number,
            template: spawn.template.clone(),
            slot: spawn.slot,
            owner,
            domain: false,
            tied: row.tied,
            argv: expanded.argv,
            numbers: expanded.numbers,
            pid: 0,
            start_time: 0,
        });
        if row.restart {
            let path = means.member.keeper_of(&spawn.template, spawn.slot);
            let listener = keeper::listener(&path);
            running.keeper =
                Some(listener.map_err(|e| Fault::internal("a keeper's socket cannot be made", &e))?);
            running.fds = std::mem::take(&mut named);
        }
        let from = if row.restart { &running.fds } else { &named };
        let process = launch(means, row, &running, from, &expanded.files).map_err(|e| {
            Fault::internal(format!("{} does not start", instance(&spawn.template, spawn.slot)), &e)
        })?;
        self.last = number;
        self.begin(means, &mut running, process);
        let pid = running.record.pid;
        let event =
            ProcessEvent::Running { process: number, template: spawn.template, slot: spawn.slot, pid };
        let owner = running.record.owner.clone();
        self.running.insert(number, running);
        if row.restart {
            self.keep(means, asker, number);
        }
        if let (true, Some(stream)) = (row.tied, stream) {
            tie(number, stream, asker.clone());
        }
        self.tell(&owner, &event);
        Ok(Spawned { process: number, pid })
    }

    fn begin(&self, means: &Means<'_>, running: &mut Running, process: Process) {
        running.record.pid = process.pid;
        running.record.start_time = process::start_time(process.pid).unwrap_or(0);
        running.started = Instant::now();
        running.life += 1;
        running.due = None;
        means.records.write(&running.record);
        running.process = Some(process);
    }

    /// Begins to keep what a process stores, and tells it what is kept.
    fn keep(&mut self, means: &Means<'_>, asker: &Post<Ask>, number: u64) {
        let Some(running) = self.running.get(&number) else { return };
        let record = &running.record;
        if !means.member.topology.template.get(&record.template).is_some_and(|row| row.restart) {
            return;
        }
        let name = instance(&record.template, record.slot);
        let path = means.member.keeper_of(&record.template, record.slot);
        let (asker, life) = (asker.clone(), running.life);
        let end = asker.clone();
        let store = move |held| {
            // One at a time: what is stored may not fill the loop's mailbox, which everyone's questions go through.
            let Ok((taken, wait)) = mailbox() else { return false };
            asker.send(Ask::Held { process: number, life, held, taken }) && wait.next().is_some()
        };
        let gone = move || {
            end.send(Ask::KeeperGone { process: number, life });
        };
        let kept = keeper::copy(&running.held)
            .and_then(|held| keeper::start(name.clone(), &path, held, store, gone));
        match kept {
            Ok(()) => {
                if let Some(running) = self.running.get_mut(&number) {
                    running.storing = true;
                }
            }
            Err(e) => say!("{name}: what it stores cannot be kept: {e}"),
        }
    }

    /// A process stores nothing more. One that has died already can start again with all that it stored.
    pub fn keeper_gone(&mut self, number: u64, life: u64) {
        let Some(running) = self.running.get_mut(&number).filter(|r| r.life == life) else { return };
        running.storing = false;
        if running.process.is_none() {
            let earliest = Instant::now() + running.wait;
            running.due = running.due.map(|due| due.min(earliest));
        }
    }

    /// A process has stored something.
    pub fn held(&mut self, number: u64, life: u64, held: Held) {
        if let Some(running) = self.running.get_mut(&number).filter(|r| r.life == life) {
            running.held = held;
        }
    }

    /// A process has ended: starts it again if that is its template's way, else tells everyone.
    pub fn ended(&mut self, means: &Means<'_>, number: u64) {
        let Some(mut running) = self.running.remove(&number) else { return };
        let Some(process) = running.process.take() else { return };
        let end = process.end();
        let name = instance(&running.record.template, running.record.slot);
        let mut how = end.how;
        if end.signal == Some(libc::SIGSYS) {
            let call = kmsg::killed_by(process.pid).unwrap_or_else(|| "unknown: see `gtvpd trace`".into());
            how = format!("{how}: system call {call}, which its row in topology.toml does not have");
        }
        let restart =
            means.member.topology.template.get(&running.record.template).is_some_and(|row| row.restart);
        if restart && !running.killed && end.code != Some(0) {
            let now = Instant::now();
            let wait = running.backoff.died(running.started, now);
            say!("{name} (pid {}) ended: {how}; it starts again in {} ms", process.pid, wait.as_millis());
            running.how = how;
            running.wait = wait;
            // Its last word may still be on its way, at most for so long.
            running.due = Some(now + if running.storing { wait.max(LAST_WORD) } else { wait });
            self.running.insert(number, running);
            return;
        }
        if !running.killed && end.code != Some(0) {
            say!("{name} (pid {}) ended: {how}", process.pid);
        }
        self.finish(means, running, end.code, how);
    }

    fn finish(&mut self, means: &Means<'_>, running: Running, code: Option<i32>, how: String) {
        let Running { record, waiters, .. } = running;
        means.records.remove(&record);
        let name = instance(&record.template, record.slot);
        means.launcher.cgroups.remove(&name);
        // Neither need be there.
        let _ = std::fs::remove_file(means.member.keeper_of(&record.template, record.slot));
        let ended =
            Ended { process: record.process, template: record.template, slot: record.slot, code, how };
        for waiter in waiters {
            waiter.send(Ok(ended.clone()));
        }
        self.tell(&record.owner, &ProcessEvent::Ended(ended.clone()));
        self.remembered.push_back((record.owner, ended));
        if self.remembered.len() > REMEMBERED {
            self.remembered.pop_front();
        }
    }

    /// Starts again what is due.
    pub fn start_due(&mut self, means: &Means<'_>, asker: &Post<Ask>) {
        let now = Instant::now();
        let due: Vec<u64> =
            self.running.iter().filter(|(_, r)| r.due.is_some_and(|d| d <= now)).map(|(n, _)| *n).collect();
        for number in due {
            let Some(mut running) = self.running.remove(&number) else { continue };
            running.due = None;
            let Some(row) = means.member.topology.template.get(&running.record.template) else { continue };
            match again(means, row, &mut running) {
                Ok(process) => {
                    self.begin(means, &mut running, process);
                    let record = running.record.clone();
                    let how = std::mem::take(&mut running.how);
                    self.running.insert(number, running);
                    self.keep(means, asker, number);
                    self.tell(
                        &record.owner,
                        &ProcessEvent::Restarted {
                            process: number,
                            template: record.template.clone(),
                            slot: record.slot,
                            pid: record.pid,
                            how,
                        },
                    );
                }
                Err(e) => {
                    let wait = running.backoff.died(now, now).max(Duration::from_millis(100));
                    say!(
                        "{} does not start again: {e}",
                        instance(&running.record.template, running.record.slot)
                    );
                    running.due = Some(now + wait);
                    self.running.insert(number, running);
                }
            }
        }
    }

    /// Tells `waiter` when the process has ended.
    pub fn wait(&mut self, owner: &str, number: u64, waiter: Post<Result<Ended, Fault>>) {
        if let Some((_, ended)) = self.remembered.iter().find(|(o, e)| o == owner && e.process == number) {
            waiter.send(Ok(ended.clone()));
            return;
        }
        match self.running.get_mut(&number) {
            Some(running) if running.record.owner == owner => running.waiters.push(waiter),
            _ => {
                waiter.send(Err(Fault::new(
                    FaultKind::NotFound,
                    format!("there is no process {number} of {owner}"),
                )));
            }
        }
    }

    /// Kills a process and tells `waiter` when it is gone.
    pub fn kill(
        &mut self,
        means: &Means<'_>,
        owner: &str,
        template: &str,
        slot: Slot,
        waiter: Post<Result<Ended, Fault>>,
    ) {
        if let Err(fault) = owned_row(means, owner, template) {
            waiter.send(Err(fault));
            return;
        }
        let found =
            self.running.values().find(|r| r.record.template == template && r.record.slot == Some(slot));
        let Some(number) = found.map(|r| r.record.process) else {
            let how = "it did not run".to_owned();
            waiter.send(Ok(Ended {
                process: 0,
                template: template.to_owned(),
                slot: Some(slot),
                code: None,
                how,
            }));
            return;
        };
        if let Some(running) = self.running.get_mut(&number) {
            running.waiters.push(waiter);
        }
        self.end(means, number);
    }

    /// Ends a process for good.
    pub fn end(&mut self, means: &Means<'_>, number: u64) {
        let Some(running) = self.running.get_mut(&number) else { return };
        running.killed = true;
        if let Some(process) = &running.process {
            process.kill();
        } else if let Some(running) = self.running.remove(&number) {
            // Between two lives.
            let how = running.how.clone();
            self.finish(means, running, None, how);
        }
    }

    /// A watcher: hears of each process of `owner` first, then of changes.
    pub fn watch(&mut self, owner: String, watcher: Post<ProcessEvent>) {
        for r in self.running.values().filter(|r| r.record.owner == owner) {
            watcher.send(ProcessEvent::Running {
                process: r.record.process,
                template: r.record.template.clone(),
                slot: r.record.slot,
                pid: r.record.pid,
            });
        }
        watcher.send(ProcessEvent::Current);
        self.watchers.push((owner, watcher));
    }

    fn tell(&mut self, owner: &str, event: &ProcessEvent) {
        self.watchers.retain(|(watches, post)| watches != owner || post.send(event.clone()));
    }
}

/// A slot for a template that is no box's would be a name past the bound of those without one.
fn has_wrong_slot(row: &TemplateRow, slot: Option<Slot>) -> bool {
    slot.is_some() && !row.uid.starts_with("box:")
}

/// The row, if the caller owns it.
fn owned_row<'a>(means: &Means<'a>, owner: &str, template: &str) -> Result<&'a TemplateRow, Fault> {
    let row = means.member.topology.template.get(template);
    row.filter(|row| row.owner == owner).ok_or_else(|| {
        let template: String = template.chars().take(64).collect();
        Fault::new(FaultKind::Denied, format!("{owner} owns no template {template:?}"))
            .hint("topology.toml says who may start what")
    })
}

/// Starts a process that has died, with what is kept for it.
fn again(means: &Means<'_>, row: &TemplateRow, running: &mut Running) -> Result<Process, StartError> {
    if running.keeper.is_none() {
        let path = means.member.keeper_of(&running.record.template, running.record.slot);
        running.keeper = Some(keeper::listener(&path)?);
    }
    launch(means, row, running, &running.fds, &[])
}

fn launch(
    means: &Means<'_>,
    row: &TemplateRow,
    running: &Running,
    named: &[(String, OwnedFd)],
    files: &[(String, String)],
) -> Result<Process, StartError> {
    let record = &running.record;
    let name = instance(&record.template, record.slot);
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    let log = if record.tied { bounded_log(means, &name)? } else { log_file(means, &name)?.into() };
    // Whoever took its standard error wants to hear what it says.
    let output = if record.numbers.iter().any(|(n, _)| n == "stderr") { null.as_fd() } else { log.as_fd() };
    let mut fds =
        vec![means.networks.boxes.as_fd(), means.networks.boxes_user.as_fd(), means.networks.sources.as_fd()];
    let mut place = |fd| {
        fds.push(fd);
        fds.len() - 1
    };
    let mut descriptors = Vec::new();
    // What the owner did not hand over.
    for (standard, number, fd) in
        [("stdin", 0, null.as_fd()), ("stdout", 1, output), ("stderr", 2, log.as_fd())]
    {
        if !record.numbers.iter().any(|(n, _)| n == standard) {
            descriptors.push(Descriptor { from: place(fd), number });
        }
    }
    for (wanted, number) in &record.numbers {
        let given = named.iter().find(|(n, _)| n == wanted).map(|(_, fd)| fd.as_fd());
        let given = given.or_else(|| running.keeper.as_ref().filter(|_| wanted == KEEPER).map(AsFd::as_fd));
        // After gtvpd's own restart only what the process has stored is left, and that is sent to its keeper socket.
        if let Some(fd) = given {
            descriptors.push(Descriptor { from: place(fd), number: *number });
        }
    }
    let mut from_fds = Vec::new();
    for (wanted, at) in files {
        if let Some((_, fd)) = named.iter().find(|(n, _)| n == wanted) {
            let mode = rustix::fs::fcntl_getfl(fd).map_err(io::Error::from)?;
            let writable = mode.intersects(rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::RDWR);
            from_fds.push(FileFrom { from: place(fd.as_fd()), at: at.clone(), writable });
        }
    }
    let mut contents = Contents {
        program: plan::program(means.member, row),
        argv: record.argv.clone(),
        env: row.env.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        descriptors,
        files: from_fds,
        texts: Vec::new(),
        slot: record.slot,
    };
    if row.jail.network == Network::Sources {
        contents.texts.push((plan::RESOLV_CONF.into(), host::resolv_conf()));
    }
    let uid = plan::template_uid(means.member, row, record.slot)?;
    if let Some(slot) = record.slot {
        places::box_sockets(means.member, &record.template, row, slot, uid)?;
    }
    let namespaces = Namespaces { boxes_net: Some(0), boxes_user: Some(1), sources_net: Some(2) };
    let spec = plan::jail(means.member, &record.template, &row.jail, uid, contents, namespaces)?;
    let memory = row.jail.memory_max.map(|b| b.0);
    let program = plan::program(means.member, row);
    measured(means, MeasuredKind::Template, &record.template, &program, || {
        Ok(means.launcher.start(spec, &fds, stdio()?, &name, memory)?)
    })
}

/// Where a process that outlives gtvpd writes what its owner did not take: gtvpd's own standard error may go before it.
fn log_file(means: &Means<'_>, name: &str) -> io::Result<std::fs::File> {
    let path = means.member.run("log").join(format!("{name}.log"));
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    if file.metadata()?.len() > MAX_LOG {
        file.set_len(0)?;
    }
    Ok(file)
}

/// The same for a process that does not outlive gtvpd: a pipe, of which only the beginning goes into the file.
fn bounded_log(means: &Means<'_>, name: &str) -> io::Result<OwnedFd> {
    let mut file = log_file(means, name)?;
    let (reading, writing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let copy = move || {
        let mut reading = std::fs::File::from(reading);
        // A full disk loses the log, and the process goes on.
        let _ = io::copy(&mut io::Read::take(&mut reading, MAX_LOG), &mut file);
        let _ = io::copy(&mut reading, &mut io::sink());
    };
    std::thread::Builder::new().stack_size(64 * 1024).spawn(copy)?;
    Ok(writing)
}

/// Ends the process when the connection that it came from closes.
fn tie(number: u64, stream: UnixStream, asker: Post<Ask>) {
    use rustix::event::{PollFd, PollFlags, poll};
    let watch = move || {
        let mut fds = [PollFd::new(&stream, PollFlags::RDHUP)];
        while let Err(rustix::io::Errno::INTR) = poll(&mut fds, None) {}
        asker.send(Ask::End { process: number });
    };
    if let Err(e) = std::thread::Builder::new().stack_size(64 * 1024).spawn(watch) {
        say!("process {number} is not tied to its owner: {e}");
    }
}
