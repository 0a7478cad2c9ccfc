//! The domain as a process of its own, and a caller that is `management`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use gtvp_ipc::components::BootParts;
use gtvp_ipc::drivers::{
    BoxEvent, BoxHappening, BuildTemplate, Exec, FindTemplate, FoundTemplate, LogSource, Logs, Shape, Start,
    Watch,
};
use gtvp_ipc::place::Acl;
use gtvp_ipc::{CallError, Client, Method};
use gtvp_model::digest::Digest;
use gtvp_model::fault::Fault;
use gtvp_model::guest::Program;
use gtvp_model::ids::{Domain, Slot};
use gtvp_model::member::MemberConfig;
use gtvp_model::stream::{self, StreamKind};
use gtvp_model::template::TemplateView;
use gtvp_model::topology::Topology;
use gtvp_model::units::Bytes;

use super::supervisor::{Spawner, Supervisor};
use super::{Folder, until};

const FOLDER: &str = "GTVP_TEST_DRIVERS";
const UID_BASE: u32 = 900_000;

fn topology() -> Topology {
    Topology::parse(include_str!("../../../../topology.toml")).unwrap()
}

fn config() -> MemberConfig {
    gtvp_model::member::parse(&format!(
        "name = 'm1'\nstate_dir = '/s'\nrun_dir = '/r'\napi_socket = '/a'\nuid_base = {UID_BASE}\n\
         box_network = '10.77.0.0'\ntransit_network = '10.78.0.0'"
    ))
    .unwrap()
}

/// Not a test: the domain itself, when a story starts it. Without a story it ends at once.
#[test]
fn the_domain() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let folders = crate::record::Folders { state: folder.join("state"), run: folder.join("run") };
    let link = crate::link::Link::new(&folder.join("supervisor.sock"));
    let drivers = crate::service::Drivers::open(config(), folders, link).unwrap();
    let path = folder.join("drivers.sock");
    crate::record::remove(&path).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    let acl = Acl::new(Domain::Drivers, config(), &topology());
    panic!("{}", gtvp_ipc::serve(&listener, acl, Arc::new(drivers)));
}

/// A member with this domain only.
pub struct World {
    folder: Folder,
    domain: Option<Child>,
    /// The supervisor.
    pub supervisor: Arc<Supervisor>,
}

impl World {
    /// Starts everything, in a network of its own.
    pub fn new(spawner: Box<Spawner>) -> Self {
        super::own_network();
        let folder = Folder::new();
        for name in ["state", "run"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let supervisor = Supervisor::start(&folder.path().join("supervisor.sock"), spawner);
        let mut world = Self { folder, domain: None, supervisor };
        world.start_domain();
        world
    }

    fn start_domain(&mut self) {
        let socket = self.folder.path().join("drivers.sock");
        crate::record::remove(&socket).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::world::the_domain", "--nocapture"])
            .env(FOLDER, self.folder.path())
            .stdout(std::process::Stdio::null())
            .spawn();
        self.domain = Some(child.unwrap());
        until("the domain answers", || self.connect().is_ok());
    }

    /// Kills the domain and starts it again.
    pub fn kill_domain(&mut self) {
        self.end_domain();
        self.start_domain();
    }

    /// Kills the domain.
    pub fn end_domain(&mut self) {
        if let Some(mut child) = self.domain.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts the domain again.
    pub fn begin_domain(&mut self) {
        self.start_domain();
    }

    /// The domain's process.
    pub fn domain_pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(self.domain.as_ref().unwrap())
    }

    /// The domain's context switches so far.
    pub fn context_switches(&self) -> u64 {
        let pid = self.domain.as_ref().unwrap().id();
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let of_task = |path: PathBuf| {
            let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
            let lines = status.lines().filter(|l| l.contains("ctxt_switches"));
            lines.filter_map(|l| l.split_whitespace().last()?.parse::<u64>().ok()).sum::<u64>()
        };
        tasks.map(|t| of_task(t.unwrap().path())).sum()
    }

    /// A file of a box.
    pub fn file(&self, slot: u16, name: &str) -> PathBuf {
        self.folder.path().join("state/boxes").join(slot.to_string()).join(name)
    }

    /// What is in the domain's run folder and in the network: sockets and taps of boxes.
    pub fn left_behind(&self) -> Vec<String> {
        let run = std::fs::read_dir(self.folder.path().join("run")).unwrap();
        let mut left: Vec<_> = run.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        let dev = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        left.extend(dev.lines().filter(|l| l.contains("gtvp-t")).map(str::to_owned));
        left
    }

    /// Connects as `management`.
    pub fn connect(&self) -> std::io::Result<Client> {
        let path = self.folder.path().join("drivers.sock");
        let uid = |euid: u32| {
            // SAFETY: the raw call changes this thread's effective uid only, which is what the kernel tells of the caller.
            unsafe { libc::syscall(libc::SYS_setresuid, -1, euid, -1) }
        };
        assert_eq!(uid(UID_BASE + 1), 0);
        let client = Client::connect(&path);
        assert_eq!(uid(0), 0);
        client
    }

    /// One call.
    pub fn call<M: Method>(&self, params: &M) -> Result<M::Reply, Fault> {
        self.call_with(params).map(|(reply, _)| reply)
    }

    fn call_with<M: Method>(&self, params: &M) -> Result<(M::Reply, Vec<OwnedFd>), Fault> {
        let mut client = self.connect().unwrap();
        client.call(params, &[], |_| ControlFlow::Continue(())).map_err(Fault::from)
    }

    /// Starts a box; gives its answer and the phases that were told.
    pub fn start(&self, start: &Start) -> (Result<String, Fault>, Vec<String>) {
        let mut phases: Vec<String> = Vec::new();
        let outcome = self.start_until(start, |phase| {
            if phases.last().map(String::as_str) != Some(phase) {
                phases.push(phase.into());
            }
            ControlFlow::Continue(())
        });
        (outcome.map_err(Fault::from), phases)
    }

    /// Starts a box, which the caller may give up.
    pub fn start_until(
        &self,
        start: &Start,
        mut on_phase: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<String, CallError> {
        let mut client = self.connect().unwrap();
        let (root, _kept) = std::os::unix::net::UnixStream::pair().unwrap();
        let (kernel, initrd) = (File::open("/dev/null").unwrap(), File::open("/dev/null").unwrap());
        let fds = [root.as_fd(), kernel.as_fd(), initrd.as_fd()];
        client.call(start, &fds, |p| on_phase(&p.phase)).map(|(started, _)| started.accelerator)
    }

    /// Boots a template for [`a_box`]'s machine.
    pub fn build_template(&self, slot: u16) -> Result<TemplateView, Fault> {
        let start = a_box(slot);
        let Start { memory, cpus, network, boot, .. } = start;
        let build = BuildTemplate { slot: at(slot), shape: Shape { memory, cpus, network, boot } };
        let mut client = self.connect().unwrap();
        let (root, _kept) = std::os::unix::net::UnixStream::pair().unwrap();
        let (kernel, initrd) = (File::open("/dev/null").unwrap(), File::open("/dev/null").unwrap());
        let fds = [root.as_fd(), kernel.as_fd(), initrd.as_fd()];
        client.call(&build, &fds, |_| ControlFlow::Continue(())).map(|(view, _)| view).map_err(Fault::from)
    }

    /// The template for [`a_box`]'s machine.
    pub fn find_template(&self) -> FoundTemplate {
        let Start { memory, cpus, network, boot, .. } = a_box(0);
        self.call(&FindTemplate { shape: Shape { memory, cpus, network, boot } }).unwrap()
    }

    /// The folder of templates.
    pub fn templates(&self) -> PathBuf {
        self.folder.path().join("state/templates")
    }

    /// Runs a command in a box; gives its stream.
    pub fn exec(&self, slot: u16, argv: &[&str]) -> Result<std::os::unix::net::UnixStream, Fault> {
        let exec = Exec { slot: at(slot), program: program(argv), terminal: None };
        self.call_with(&exec).map(|(_, mut fds)| fds.remove(0).into())
    }

    /// A box's log, which may be followed.
    pub fn logs(&self, slot: u16, follow: bool) -> File {
        let logs = Logs { slot: at(slot), source: LogSource::Application, follow, tail: None };
        self.call_with(&logs).unwrap().1.remove(0).into()
    }

    /// A builder box's layer.
    pub fn export(&self, slot: u16) -> Vec<u8> {
        let export = gtvp_ipc::drivers::ExportUpper { slot: at(slot) };
        let mut bytes = Vec::new();
        File::from(self.call_with(&export).unwrap().1.remove(0)).read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// Watches everything from now on.
    pub fn watch(&self) -> Watcher {
        let mut client = self.connect().unwrap();
        let events: Arc<Mutex<Vec<BoxEvent>>> = Arc::default();
        let heard = events.clone();
        std::thread::spawn(move || {
            let _ = client.call(&Watch {}, &[], |event| {
                heard.lock().unwrap().push(event);
                ControlFlow::Continue(())
            });
        });
        let watcher = Watcher(events);
        watcher.until(|w| w.contains(&BoxHappening::Current));
        watcher
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.end_domain();
        self.supervisor.kill(|_, _| true);
    }
}

/// What a watcher has heard.
pub struct Watcher(Arc<Mutex<Vec<BoxEvent>>>);

impl Watcher {
    /// All so far, without notices.
    pub fn heard(&self) -> Vec<BoxHappening> {
        let heard = self.0.lock().unwrap();
        let all = heard.iter().map(|e| e.what.clone());
        all.filter(|w| !matches!(w, BoxHappening::Notice { .. })).collect()
    }

    /// The notices so far.
    pub fn notices(&self) -> Vec<String> {
        let heard = self.0.lock().unwrap();
        let all = heard.iter().filter_map(|e| match &e.what {
            BoxHappening::Notice { message } => Some(message.clone()),
            _ => None,
        });
        all.collect()
    }

    /// Waits until what was heard fits.
    pub fn until(&self, fits: impl Fn(&[BoxHappening]) -> bool) {
        let waited = std::panic::AssertUnwindSafe(|| until("something is heard", || fits(&self.heard())));
        if let Err(panic) = std::panic::catch_unwind(waited) {
            eprintln!("heard so far: {:?}", self.heard());
            std::panic::resume_unwind(panic);
        }
    }
}

/// A slot.
pub fn at(slot: u16) -> Slot {
    Slot::new(slot).unwrap()
}

/// A program.
pub fn program(argv: &[&str]) -> Program {
    Program {
        argv: argv.iter().map(|a| (*a).to_owned()).collect(),
        env: BTreeMap::new(),
        user: None,
        workdir: None,
    }
}

/// An ordinary start.
pub fn a_box(slot: u16) -> Start {
    Start {
        slot: at(slot),
        name: "web".parse().unwrap(),
        memory: Bytes::mib(512),
        cpus: 1,
        disk: Bytes::mib(64),
        publish: vec!["8080:80".parse().unwrap()],
        network: true,
        nameservers: vec!["10.77.0.1".into()],
        program: program(&["nginx"]),
        hold: false,
        boot: boot_parts(),
        template: None,
    }
}

/// What every box of these tests boots.
pub fn boot_parts() -> BootParts {
    BootParts { kernel: Digest::of(b"kernel"), initramfs: Digest::of(b"initramfs") }
}

/// Every frame until the end.
pub fn frames(from: &mut impl Read) -> Vec<(StreamKind, Vec<u8>)> {
    std::iter::from_fn(|| stream::read(from).unwrap()).collect()
}
