//! A management that plays a member, behind the real gateway: for the tests of the gateway and of the command line. What a box does
//! follows from its command's first word (see [`Played`]).
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::{Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use gtvp_ipc::components::ShowReply;
use gtvp_ipc::management::{Request, SetReply};
use gtvp_ipc::place::Acl;
use gtvp_ipc::{Answer, Caller, Service, Session};
use gtvp_model::boxspec::BoxSpec;
use gtvp_model::boxview::{Appraisal, BoxDetail, BoxState, BoxView, ClosureUse, ExitStatus, LinkedComponent};
use gtvp_model::component::ComponentView;
use gtvp_model::event::{Event, Severity};
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::guest::{Program, TerminalSize};
use gtvp_model::ids::Domain;
use gtvp_model::member::{DomainStatus, HostCheck, MemberConfig, MemberView, TpmView};
use gtvp_model::operation::{Operation, OperationState, PhaseTime, Progress};
use gtvp_model::stream::{self, StreamKind};
use gtvp_model::topology::Topology;
use gtvp_model::union::TpmClass;
use gtvp_model::unionview::{
    Change, CheckRow, Departure, HistoryRow, MemberRow, PeerView, Recovery, ReferenceRow, TokenMade,
    UnionSummary,
};

/// Evidence of a lab's member, for this nonce.
pub const EVIDENCE: &[u8] = include_bytes!("../../../cli/tests/vectors/software.cbor");
pub const EVIDENCE_NONCE: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// Nothing in a test takes longer.
pub const SOON: Duration = Duration::from_secs(20);

/// A member that is played, in a directory of its own.
pub struct Member {
    pub dir: tempfile::TempDir,
    pub played: Arc<Played>,
}

impl Member {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let played = Arc::new(Played::default());
        let topology = include_str!("../../../topology.toml");
        let mut topology = Topology::parse(topology).unwrap();
        // Whoever runs the test calls as the gateway.
        let uid = rustix::process::geteuid().as_raw();
        for row in topology.domain.values_mut() {
            row.uid += 1_000_000_000;
        }
        topology.domain.get_mut("gateway").unwrap().uid = uid;
        let config = MemberConfig {
            name: "m1".parse().unwrap(),
            state_dir: "/nonexistent".into(),
            run_dir: "/nonexistent".into(),
            api_socket: dir.path().join("api.sock"),
            api_group: None,
            uid_base: 0,
            box_network: "10.90.1.0".parse().unwrap(),
            transit_network: "10.91.1.0".parse().unwrap(),
            endpoint: None,
            tpm: None,
        };
        let acl = Acl::new(Domain::Management, config, &topology);
        let listener = UnixListener::bind(dir.path().join("management.sock")).unwrap();
        let service = Arc::new(Front(played.clone()));
        std::thread::spawn(move || gtvp_ipc::serve(&listener, acl, service));
        let member = Self { dir, played };
        gateway(&member.socket(), member.dir.path().join("management.sock"));
        member
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("api.sock")
    }
}

/// The real gateway on `socket`.
pub fn gateway(socket: &Path, management: PathBuf) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        panic!("the gateway ended: {}", runtime.block_on(gtvp_gateway::serve(listener, management)));
    });
}

/// What a box does, by its command's first word: `exit N` writes to both outputs and ends with N · `serve` writes a line and
/// ends by the signal that it gets · `stubborn` takes no notice of signals · `slow` does not start before it is
/// cancelled · `late` starts although it is cancelled · `breaks` loses its log half-way, once.
#[derive(Default)]
pub struct Played {
    state: Mutex<State>,
    changed: Condvar,
    /// This many calls find management restarting.
    pub away: AtomicUsize,
    /// Boxes are made only once this is no longer set.
    pub hesitates: AtomicBool,
}

#[derive(Default)]
pub struct State {
    pub boxes: BTreeMap<String, PlayedBox>,
    pub operations: Vec<Operation>,
    /// Each call's method and the process that made the person's connection.
    pub calls: Vec<(String, i32)>,
    /// Calls that ended because their caller hung up.
    pub hung_up: Vec<&'static str>,
    pub signals: Vec<i32>,
    pub program: Option<Program>,
    log_broke: bool,
}

pub struct PlayedBox {
    pub spec: BoxSpec,
    pub state: BoxState,
    pub exit: Option<ExitStatus>,
}

impl Played {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits until it is so.
    pub fn wait(&self, what: &str, mut so: impl FnMut(&State) -> bool) {
        let deadline = Instant::now() + SOON;
        let mut state = self.state();
        while !so(&state) {
            assert!(Instant::now() < deadline, "it did not come to this: {what}");
            state = self.changed.wait_timeout(state, Duration::from_millis(20)).unwrap().0;
        }
    }

    fn view(name: &str, b: &PlayedBox) -> BoxView {
        BoxView {
            name: name.into(),
            state: b.state,
            member: "m1".into(),
            kind: "lazy".into(),
            address: "10.90.1.2".into(),
            published: b
                .spec
                .publish
                .iter()
                .map(|p| format!("{}:{}/{}", p.host, p.guest, p.protocol))
                .collect(),
            composition: None,
            ready_ms: Some(1),
            exit: b.exit.clone(),
            failure: None,
            memory_bytes: b.spec.memory.0,
            cpus: b.spec.cpus,
            pending: Vec::new(),
            created_ms: 1,
        }
    }

    fn operation(&self, kind: &str, target: &str, state: OperationState) -> Operation {
        let mut s = self.state();
        let operation = Operation {
            id: format!("op-{}", s.operations.len() + 1),
            kind: kind.into(),
            target: target.into(),
            state,
            progress: Progress { phase: "boot".into(), message: "booting".into(), ..Progress::default() },
            phases: vec![PhaseTime { phase: "resolve".into(), ms: 12 }],
            started_ms: 1,
            ended_ms: None,
            fault: None,
            result: None,
        };
        s.operations.push(operation.clone());
        self.changed.notify_all();
        operation
    }

    fn end_operation(&self, id: &str, end: OperationState) -> Result<Operation, Fault> {
        let mut s = self.state();
        let o = s.operations.iter_mut().find(|o| o.id == id).ok_or_else(|| not_found("operation", id))?;
        if o.state == OperationState::Running {
            o.state = end;
        }
        self.changed.notify_all();
        Ok(o.clone())
    }

    fn watch(&self, id: &str, session: &mut Session) -> Result<Answer, Fault> {
        loop {
            let s = self.state();
            let o = s
                .operations
                .iter()
                .find(|o| o.id == id)
                .cloned()
                .ok_or_else(|| not_found("operation", id))?;
            if o.state != OperationState::Running {
                return Ok(Answer::of(&o));
            }
            drop(s);
            if session.progress(&o).is_err() || session.cancelled() {
                self.gone("watch_operation");
                return Err(Fault::new(FaultKind::Cancelled, "gone"));
            }
            drop(self.changed.wait_timeout(self.state(), Duration::from_millis(20)));
        }
    }

    fn gone(&self, what: &'static str) {
        self.state().hung_up.push(what);
        self.changed.notify_all();
    }

    fn cancel(&self, id: &str) -> Result<Answer, Fault> {
        let target = {
            let s = self.state();
            s.operations.iter().find(|o| o.id == id).ok_or_else(|| not_found("operation", id))?.target.clone()
        };
        let late = self.state().boxes.get(&target).is_some_and(|b| b.spec.command[0] == "late");
        if !late {
            self.state().boxes.remove(&target);
        }
        let end = if late { OperationState::Done } else { OperationState::Cancelled };
        self.end_operation(id, end).map(|o| Answer::of(&o))
    }

    fn create(&self, spec: BoxSpec) -> Result<Answer, Fault> {
        while self.hesitates.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let name = spec.name.to_string();
        if self.state().boxes.contains_key(&name) {
            return Err(Fault::new(FaultKind::InUse, format!("a box called {name} exists already"))
                .hint("choose another name"));
        }
        let slow = matches!(spec.command[0].as_str(), "slow" | "late");
        let state = if slow { BoxState::Starting } else { BoxState::Running };
        let mut played = PlayedBox { state, exit: None, spec };
        if played.spec.command[0] == "exit" {
            (played.state, played.exit) =
                (BoxState::Stopped, Some(ExitStatus::Code(played.spec.command[1].parse().unwrap())));
        }
        self.state().boxes.insert(name.clone(), played);
        let end = if slow { OperationState::Running } else { OperationState::Done };
        Ok(Answer::of(&self.operation("run", &name, end)))
    }

    fn logs(self: &Arc<Self>, name: &str, follow: bool) -> Result<Answer, Fault> {
        let word =
            self.state().boxes.get(name).ok_or_else(|| not_found("box", name))?.spec.command[0].clone();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (me, name) = (self.clone(), name.to_owned());
        std::thread::spawn(move || {
            let _ = stream::write(&mut ours, StreamKind::Stdout, b"out\n");
            let _ = stream::write(&mut ours, StreamKind::Stderr, b"err\n");
            if word == "breaks" && !std::mem::replace(&mut me.state().log_broke, true) {
                let fault = Fault::new(FaultKind::Unavailable, "drivers went away");
                let _ = stream::write(&mut ours, StreamKind::Fault, &serde_json::to_vec(&fault).unwrap());
                return;
            }
            if word == "breaks" {
                let _ = stream::write(&mut ours, StreamKind::Stdout, b"more\n");
                me.exit(&name, ExitStatus::Code(0));
            }
            loop {
                let exit = match me.state().boxes.get(&name) {
                    Some(b) => b.exit.clone(),
                    None => return,
                };
                if let Some(status) = exit {
                    if follow {
                        let _ =
                            stream::write(&mut ours, StreamKind::Exit, &serde_json::to_vec(&status).unwrap());
                    }
                    return;
                }
                if !follow {
                    return;
                }
                drop(me.changed.wait_timeout(me.state(), Duration::from_millis(20)));
                let mut fds = [rustix::event::PollFd::new(&ours, rustix::event::PollFlags::RDHUP)];
                let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
                if matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(n) if n > 0) {
                    return me.gone("box_logs");
                }
            }
        });
        Ok(Answer::nothing().with_fds(vec![OwnedFd::from(theirs)]))
    }

    fn exit(&self, name: &str, status: ExitStatus) {
        if let Some(b) = self.state().boxes.get_mut(name) {
            (b.state, b.exit) = (BoxState::Stopped, Some(status));
        }
        self.changed.notify_all();
    }

    fn exec(
        self: &Arc<Self>,
        name: &str,
        program: Program,
        terminal: Option<TerminalSize>,
    ) -> Result<Answer, Fault> {
        if !self.state().boxes.contains_key(name) {
            return Err(not_found("box", name));
        }
        self.state().program = Some(program.clone());
        let (ours, theirs) = UnixStream::pair().unwrap();
        let me = self.clone();
        std::thread::spawn(move || {
            if played_command(ours, &program, terminal).is_none() {
                me.gone("exec_box");
            }
        });
        Ok(Answer::nothing().with_fds(vec![OwnedFd::from(theirs)]))
    }
}

/// `exit N` · `cat` echoes its input · `size` prints each size of its terminal and ends after the second · `wait` ends by
/// the signal that it gets. `None` when the other side went first.
fn played_command(mut io: UnixStream, program: &Program, terminal: Option<TerminalSize>) -> Option<()> {
    let exit = |io: &mut UnixStream, status: &ExitStatus| {
        stream::write(io, StreamKind::Exit, &serde_json::to_vec(status).unwrap()).ok()
    };
    let size =
        |t: Option<TerminalSize>| t.map_or("none\r\n".into(), |t| format!("{}x{}\r\n", t.rows, t.cols));
    match program.argv[0].as_str() {
        "exit" => {
            stream::write(&mut io, StreamKind::Stdout, b"out\n").ok()?;
            stream::write(&mut io, StreamKind::Stderr, b"err\n").ok()?;
            return exit(&mut io, &ExitStatus::Code(program.argv[1].parse().unwrap()));
        }
        "size" => stream::write(&mut io, StreamKind::Stdout, size(terminal).as_bytes()).ok()?,
        "wait" => stream::write(&mut io, StreamKind::Stdout, b"waiting\n").ok()?,
        _ => {}
    }
    loop {
        let (kind, payload) = stream::read(&mut io).ok()??;
        match (program.argv[0].as_str(), kind) {
            ("cat", StreamKind::Stdin) if payload.is_empty() => return exit(&mut io, &ExitStatus::Code(0)),
            ("cat", StreamKind::Stdin) => stream::write(&mut io, StreamKind::Stdout, &payload).ok()?,
            ("size", StreamKind::Resize) => {
                let new = serde_json::from_slice(&payload).unwrap();
                stream::write(&mut io, StreamKind::Stdout, size(Some(new)).as_bytes()).ok()?;
                return exit(&mut io, &ExitStatus::Code(0));
            }
            ("wait", StreamKind::Signal) => {
                let signal = String::from_utf8(payload).unwrap().parse().unwrap();
                return exit(&mut io, &ExitStatus::Signal(signal));
            }
            _ => {}
        }
    }
}

fn not_found(what: &str, name: &str) -> Fault {
    Fault::new(FaultKind::NotFound, format!("there is no {what} {name}")).hint(format!("gtvp {what} ls"))
}

fn template() -> gtvp_model::template::TemplateView {
    gtvp_model::template::TemplateView {
        digest: "ef".repeat(32),
        created_ms: 1_795_501_801_007,
        memory_bytes: 512 << 20,
        cpus: 1,
        size_bytes: 86_000_000,
        accelerator: "tcg".into(),
        qemu: "10.0.2 (Debian 1:10.0.2)".into(),
        kernel: "aa".repeat(32),
        initramfs: "bb".repeat(32),
        starts: 3,
    }
}

fn component() -> ComponentView {
    ComponentView {
        reference: "deb:nginx=1.22.1-9:amd64".into(),
        digest: "ab".repeat(32),
        origin: "Debian bookworm main".into(),
        source_bytes: 500_000,
        content_bytes: 1_500_000,
        entries: 17,
        imported_ms: 1,
        appraisal: Appraisal {
            checked: vec!["apt signature chain".into()],
            not_checked: vec!["TPM evidence".into()],
        },
    }
}

fn event(seq: u64) -> Event {
    Event {
        seq,
        time_ms: 1_795_501_801_007,
        member: "m1".into(),
        severity: Severity::Info,
        kind: "box.started".into(),
        box_name: Some("web".into()),
        message: format!("event {seq}"),
    }
}

/// The service as `serve` wants it.
struct Front(Arc<Played>);

impl Service for Front {
    type Request = Request;
    fn handle(
        &self,
        _: &Caller,
        request: Request,
        fds: Vec<OwnedFd>,
        session: &mut Session,
    ) -> Result<Answer, Fault> {
        self.0.answer(request, &fds, session)
    }
}

impl Played {
    fn answer(
        self: &Arc<Self>,
        request: Request,
        fds: &[OwnedFd],
        session: &mut Session,
    ) -> Result<Answer, Fault> {
        let person =
            fds.first().ok_or_else(|| Fault::new(FaultKind::Denied, "no person came with the request"))?;
        let pid = rustix::net::sockopt::socket_peercred(person).unwrap().pid.as_raw_nonzero().get();
        let method = serde_json::to_value(&request).unwrap()["method"].as_str().unwrap().to_owned();
        self.state().calls.push((method, pid));
        self.changed.notify_all();
        if self.away.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Err(Fault::new(FaultKind::Unavailable, "management is restarting"));
        }
        match request {
            Request::CreateBox(r) => self.create(r.spec),
            Request::StartBox(r) => self.known(&r.name, "start"),
            Request::StopBox(r) => {
                self.exit(&r.name, ExitStatus::Signal(15));
                self.known(&r.name, "stop")
            }
            Request::PauseBox(r) => self.set_state(&r.name, BoxState::Paused),
            Request::ResumeBox(r) => self.set_state(&r.name, BoxState::Running),
            Request::RemoveBox(r) => {
                let answer = self.known(&r.name, "remove")?;
                let running = self.state().boxes[&r.name].state == BoxState::Running;
                if running && !r.force {
                    return Err(Fault::new(FaultKind::WrongState, format!("box {} runs", r.name))
                        .hint("stop it, or --force"));
                }
                self.state().boxes.remove(&r.name);
                self.changed.notify_all();
                Ok(answer)
            }
            Request::SetBox(r) => {
                self.known(&r.name, "set")?;
                Ok(Answer::of(&SetReply { applied: vec!["memory".into()], pending: vec!["cpus".into()] }))
            }
            Request::ListBoxes(_) => {
                Ok(Answer::of(&self.state().boxes.iter().map(|(n, b)| Self::view(n, b)).collect::<Vec<_>>()))
            }
            Request::ShowBox(r) => {
                let s = self.state();
                let b = s.boxes.get(&r.name).ok_or_else(|| not_found("box", &r.name))?;
                Ok(Answer::of(&BoxDetail {
                    summary: Self::view(&r.name, b),
                    spec: b.spec.clone(),
                    accelerator: Some("tcg (no kernel runs on /dev/kvm)".into()),
                    template: Some("ef".repeat(32)),
                    linked: vec![LinkedComponent {
                        component: "deb:libpcre2-8-0=10.42-1:amd64".into(),
                        digest: "cd".repeat(32),
                        linked_ms: 1_795_501_801_007,
                        because_of: Some("/usr/lib/x86_64-linux-gnu/libpcre2-8.so.0".into()),
                        took_ms: 87,
                        fetched_bytes: 261_000,
                        appraisal: Appraisal::default(),
                    }],
                    closure: ClosureUse {
                        components: 40,
                        linked: 7,
                        bytes: 20_000_000,
                        linked_bytes: 4_000_000,
                    },
                    phases: vec![PhaseTime { phase: "boot".into(), ms: 700 }],
                }))
            }
            Request::BoxLogs(r) => self.logs(&r.name, r.follow),
            Request::ExecBox(r) => self.exec(&r.name, r.program, r.terminal),
            Request::SignalBox(r) => {
                self.known(&r.name, "signal")?;
                self.state().signals.push(r.signal);
                let serves = self.state().boxes[&r.name].spec.command[0] == "serve";
                if serves {
                    self.exit(&r.name, ExitStatus::Signal(r.signal));
                }
                Ok(Answer::nothing())
            }
            Request::ListOperations(_) => Ok(Answer::of(&self.state().operations)),
            Request::ShowOperation(r) => {
                let s = self.state();
                s.operations
                    .iter()
                    .find(|o| o.id == r.id)
                    .map(Answer::of)
                    .ok_or_else(|| not_found("operation", &r.id))
            }
            Request::WatchOperation(r) => self.watch(&r.id, session),
            Request::CancelOperation(r) => self.cancel(&r.id),
            Request::Events(r) => {
                for seq in (r.after + 1)..=3 {
                    let _ = session.progress(&event(seq));
                }
                if r.follow {
                    while !session.cancelled() {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    self.gone("events");
                }
                Ok(Answer::nothing())
            }
            Request::ListComponents(_) => Ok(Answer::of(&vec![component()])),
            Request::ShowComponent(_) => Ok(Answer::of(&ShowReply {
                view: component(),
                needs: vec!["libc6 (>= 2.34)".into()],
                provides: vec!["httpd".into()],
                paths: vec!["usr/sbin/nginx".into()],
            })),
            Request::ImportComponent(r) => {
                let mut o = self.operation("import", &r.need.to_string(), OperationState::Done);
                o.result = serde_json::to_value(component()).ok();
                *self.state().operations.last_mut().unwrap() = o.clone();
                Ok(Answer::of(&o))
            }
            Request::ListTemplates(_) => Ok(Answer::of(&vec![template()])),
            Request::BuildTemplate(_) => {
                let mut o = self.operation("template", "512M-1", OperationState::Done);
                o.result = serde_json::to_value(template()).ok();
                *self.state().operations.last_mut().unwrap() = o.clone();
                Ok(Answer::of(&o))
            }
            Request::RemoveTemplate(r) if template().digest.starts_with(&r.digest) => {
                Ok(Answer::of(&template()))
            }
            Request::RemoveTemplate(r) => Err(not_found("template", &r.digest)),
            Request::ShowMember(_) => Ok(Answer::of(&MemberView {
                name: "m1".into(),
                version: "0.1.0".into(),
                verdict: "unknown".into(),
                not_checked: vec!["TPM evidence".into()],

                tpm: TpmView {
                    class: TpmClass::None,
                    ek: None,
                    ek_certificate: false,
                    epoch: None,
                    log: None,
                    problem: None,
                },
                accelerator: "tcg (no kernel runs on /dev/kvm)".into(),
                cpus: 2,
                memory_bytes: 8 << 30,
                memory_promised_bytes: 1 << 29,
                boxes_running: 1,
                addresses: vec!["10.88.0.11".into()],
                domains: vec![DomainStatus {
                    domain: "management".into(),
                    pid: Some(42),
                    restarts: 1,
                    started_ms: 1,
                    last_exit: Some("signal 9".into()),
                }],
                host: Vec::new(),
            })),
            Request::BeginUnion(r) => Ok(Answer::of(&union(r.union.name.as_str()))),
            Request::ShowUnion(_) => Ok(Answer::of(&union("lab"))),
            Request::ListMembers(_) => Ok(Answer::of(&vec![row("m1")])),
            Request::CreateToken(r) => Ok(Answer::of(&TokenMade {
                token: "gtvp-join-1".into(),
                id: "0a".repeat(32),
                expires: 1_790_000_000 + r.wish.expires_s.unwrap_or(3600),
                endpoint: "192.0.2.1:7433".into(),
            })),
            Request::EndToken(r) => change(format!("token {} ended", r.id)),
            Request::JoinUnion(_) => {
                let operation = self.operation("join", "m1", OperationState::Running);
                self.end_operation(&operation.id, OperationState::Done).map(|o| Answer::of(&o))
            }
            Request::LeaveUnion(_) => change("m1 has left the union".into()),
            Request::ListTokens(_) => Ok(Answer::of(&Vec::<gtvp_model::unionview::TokenRow>::new())),
            Request::LeaveByForce(r) => Ok(Answer::of(&Departure {
                union: "lab".into(),
                entries: 9,
                head_time: 1_790_000_000,
                heard: vec!["m2: the peer refuses (9)".into()],
                instead: None,
                gives_up: vec!["this server's membership of union lab".into()],
                aside: r.wish.confirmed.then(|| "record.5f0c".into()),
            })),
            Request::EvictMember(r) => change(format!("{} was evicted: {}", r.name, r.eviction.reason)),
            Request::ShowPeer(r) => Ok(Answer::of(&PeerView {
                row: row(r.name.as_str()),
                checks: vec![CheckRow {
                    check: "quote".into(),
                    outcome: "passed".into(),
                    detail: String::new(),
                }],
                result: None,
                held: None,
            })),
            Request::History(r) => Ok(Answer::of(&vec![HistoryRow {
                number: 0,
                time: 1_790_000_000,
                author: "m1".into(),
                act: "genesis".into(),
                about: r.member.map_or_else(|| "union lab begins with m1".into(), |m| format!("about {m}")),
                hash: "0a".repeat(32),
            }])),
            Request::RecoverUnion(r) => Ok(Answer::of(&Recovery {
                entries: 9,
                head: "0a".repeat(32),
                head_time: 1_790_000_000,
                lost: r.wish.lost,
                follow: vec!["m2".into()],
                hash: r.wish.confirmed.then(|| "0b".repeat(32)),
            })),
            Request::FollowRecovery(r) => change(format!("{} may replace the voters", r.follow.hash)),
            Request::ListReferences(_) => Ok(Answer::of(&vec![ReferenceRow {
                name: "founder".into(),
                version: 1,
                issued: 1_790_000_000,
                rules: 12,
                next: 0,
                digest: "0a".repeat(32),
            }])),
            Request::ShowReference(r) => Ok(Answer::of(&serde_json::json!({ "name": r.name }))),
            Request::AcceptReference(r) => change(format!("{:?} accepted", r.wish.member)),
            Request::RetireReference(r) => change(format!("{} retired", r.name)),
            Request::AttestBox(_) | Request::AttestMember(_) => {
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(EVIDENCE).and_then(|()| file.rewind()).unwrap();
                Ok(Answer::nothing().with_fds(vec![file.into()]))
            }
            Request::Doctor(_) => Ok(Answer::of(&vec![HostCheck {
                name: "kvm".into(),
                status: "missing".into(),
                detail: "no kernel runs on it".into(),
                hint: Some("boxes run emulated".into()),
            }])),
            Request::Metrics(_) => Ok(Answer::of(&"gtvp_boxes 1\n")),
        }
    }

    fn set_state(&self, name: &str, state: BoxState) -> Result<Answer, Fault> {
        let mut s = self.state();
        let b = s.boxes.get_mut(name).ok_or_else(|| not_found("box", name))?;
        b.state = state;
        Ok(Answer::of(&Self::view(name, b)))
    }

    fn known(&self, name: &str, kind: &str) -> Result<Answer, Fault> {
        if !self.state().boxes.contains_key(name) {
            return Err(not_found("box", name));
        }
        Ok(Answer::of(&self.operation(kind, name, OperationState::Done)))
    }
}

fn change(about: String) -> Result<Answer, Fault> {
    Ok(Answer::of(&Change { about }))
}

fn row(name: &str) -> MemberRow {
    MemberRow {
        name: name.into(),
        id: None,
        verdict: "unknown".into(),
        tpm: TpmClass::None,
        tpm_by: None,
        platform_identity: None,
        own: name == "m1",
        since_ms: None,
        attested_by: None,
        next_attestation_ms: None,
        voter: false,
        only_voter: false,
        status: None,
    }
}

fn union(name: &str) -> UnionSummary {
    UnionSummary {
        name: name.into(),
        id: "00".repeat(32),
        epoch: 0,
        entries: 1,
        head: "00".repeat(32),
        voters: vec!["m1".into()],
        members: 1,
        software_tpms: false,
        without_tpm: false,
        own_tpm: String::new(),
        withheld: None,
        grants_nothing: None,
    }
}
