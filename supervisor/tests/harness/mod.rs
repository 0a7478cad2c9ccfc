//! A real gtvpd in a network namespace of its own, with stand-ins for its programs. Everything that it makes is gone
//! when the test ends, however it ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
#![allow(dead_code, reason = "each test uses a part")]

use std::fs;
use std::io::Read;
use std::ops::ControlFlow;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gtvp_ipc::{CallError, Client, Method, wire};
use gtvp_model::topology::Topology;

/// A time that nothing here takes, unless it is broken.
const LONG: Duration = Duration::from_secs(30);

/// One member on this machine.
pub struct Member {
    pub name: String,
    pub folder: PathBuf,
    pub netns: String,
    gtvpd: Option<Child>,
    boxes: Vec<String>,
}

impl Member {
    /// A running member with the repository's topology.
    pub fn start() -> Self {
        Self::start_with(|topology| topology)
    }

    /// A running member with the repository's topology, changed.
    pub fn start_with(change: impl FnOnce(String) -> String) -> Self {
        let mut member = Self::prepare(change);
        member.serve();
        member
    }

    /// A member whose gtvpd does not run yet.
    pub fn prepare(change: impl FnOnce(String) -> String) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests make jails and networks: run them as root"
        );
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = std::process::id();
        let name = format!("t{id}-{n}");
        let folder = std::env::temp_dir().join(format!("gtvpd-test-{name}"));
        let lib = folder.join("lib");
        fs::create_dir_all(&lib).unwrap();
        let gtvpd = Path::new(env!("CARGO_BIN_EXE_gtvpd"));
        fs::copy(gtvpd, lib.join("gtvpd")).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_gtvp-probe"), lib.join("gtvp-probe")).unwrap();
        let standin = gtvpd.with_file_name("examples").join("standin");
        for program in [
            "management",
            "security",
            "components",
            "communication",
            "drivers",
            "gateway",
            "lazyfs",
            "fetcher",
            "guest-init",
        ] {
            fs::copy(&standin, lib.join(format!("gtvp-{program}"))).unwrap();
        }
        let topology = change(include_str!("../../../topology.toml").to_owned());
        fs::write(lib.join("topology.toml"), topology).unwrap();
        // Uids of this run and this member alone.
        let uid_base = 3_000_000_000 + (id % 4096) * 4096 * 16 + (n % 16) * 4096;
        let config = format!(
            "name = {name:?}\nstate_dir = {:?}\nrun_dir = {:?}\napi_socket = {:?}\nuid_base = {uid_base}\n\
             box_network = \"10.211.0.0\"\ntransit_network = \"10.212.0.0\"\n",
            folder.join("state"),
            folder.join("run"),
            folder.join("api.sock"),
        );
        fs::write(folder.join("member.toml"), config).unwrap();
        let netns = format!("gtvpt-{name}");
        let member = Self { name, folder, netns, gtvpd: None, boxes: Vec::new() };
        let netns = &member.netns;
        run("ip", &["netns", "add", netns]);
        run("ip", &["-n", netns, "link", "set", "lo", "up"]);
        // An address that is not loopback, as a server has one.
        run("ip", &["-n", netns, "link", "add", "lan", "type", "bridge"]);
        run("ip", &["-n", netns, "addr", "add", "10.213.0.1/24", "dev", "lan"]);
        run("ip", &["-n", netns, "link", "set", "lan", "up"]);
        member
    }

    pub fn topology(&self) -> Topology {
        Topology::parse(&fs::read_to_string(self.folder.join("lib/topology.toml")).unwrap()).unwrap()
    }

    pub fn config(&self) -> gtvp_model::member::MemberConfig {
        gtvp_model::member::parse(&fs::read_to_string(self.folder.join("member.toml")).unwrap()).unwrap()
    }

    /// A command of gtvpd for this member, in its network namespace.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns]).arg(self.folder.join("lib/gtvpd"));
        command.arg("--config").arg(self.folder.join("member.toml")).args(words);
        command
    }

    pub fn serve(&mut self) {
        self.serve_as(&[]);
    }

    pub fn serve_as(&mut self, words: &[&str]) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log")).unwrap();
        let child = self.command(words).stdin(Stdio::null()).stderr(log).spawn().unwrap();
        self.gtvpd = Some(child);
        until("gtvpd is ready", || self.folder.join("run/ready").exists().then_some(()));
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// gtvpd's process id: `ip netns exec` becomes the program that it runs.
    pub fn gtvpd(&self) -> i32 {
        i32::try_from(self.gtvpd.as_ref().unwrap().id()).unwrap()
    }

    /// kill -9.
    pub fn kill_gtvpd(&mut self) {
        let mut child = self.gtvpd.take().unwrap();
        // The file stands for a running gtvpd; a killed one cannot remove it.
        let _ = fs::remove_file(self.folder.join("run/ready"));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM.
    pub fn stop_gtvpd(&mut self) -> bool {
        let mut child = self.gtvpd.take().unwrap();
        kill(i32::try_from(child.id()).unwrap(), rustix::process::Signal::TERM);
        child.wait().unwrap().success()
    }

    pub fn socket(&self, domain: &str) -> PathBuf {
        self.folder.join(format!("run/ipc/{domain}.sock"))
    }

    /// Tells a stand-in to do something, and returns its answer.
    pub fn tell(&self, domain: &str, words: &[&str]) -> std::io::Result<String> {
        let stream = UnixStream::connect(self.socket(domain))?;
        stream.set_read_timeout(Some(LONG))?;
        wire::send(&stream, &serde_json::to_vec(words).unwrap(), &[])?;
        let answer = wire::recv(&stream)?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        Ok(String::from_utf8(answer.0).unwrap())
    }

    pub fn pid(&self, domain: &str) -> i32 {
        self.tell(domain, &["pid"]).unwrap().parse().unwrap()
    }

    /// A connection to `callee` that comes from `caller`.
    pub fn client(&self, caller: &str, callee: &str) -> Client {
        let stream = UnixStream::connect(self.socket(caller)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        wire::send(&stream, &serde_json::to_vec(&["call", callee]).unwrap(), &[]).unwrap();
        Client::over(stream)
    }

    /// A call to the supervisor that comes from `caller`.
    pub fn call<M: Method>(&self, caller: &str, params: &M) -> Result<M::Reply, CallError> {
        self.call_with(caller, params, &[])
    }

    pub fn call_with<M: Method>(
        &self,
        caller: &str,
        params: &M,
        fds: &[BorrowedFd<'_>],
    ) -> Result<M::Reply, CallError> {
        self.client(caller, "supervisor")
            .call(params, fds, |_| ControlFlow::Continue(()))
            .map(|(reply, _)| reply)
    }

    /// A network namespace on the boxes' bridge, with the address of the box of `slot`: all of a box that its network
    /// sees. Returns its path.
    pub fn pretend_box(&mut self, slot: u16) -> String {
        let name = format!("{}-b{slot}", self.netns);
        run("ip", &["netns", "add", &name]);
        self.boxes.push(name.clone());
        let place = gtvp_model::ids::Slot::new(slot).unwrap();
        let (link, inner) = (gtvp_model::member::MemberConfig::box_tap(place), name.clone());
        let mac = self.config().box_mac(place);
        in_netns(&format!("/proc/{}/ns/net", self.pid("drivers")), move || {
            run("ip", &["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &inner]);
            run("ip", &["link", "set", &link, "master", "gtvp0", "up"]);
        });
        run("ip", &["-n", &name, "addr", "add", &format!("10.211.0.{}/24", slot + 2), "dev", "eth0"]);
        run("ip", &["-n", &name, "link", "set", "lo", "up"]);
        run("ip", &["-n", &name, "link", "set", "eth0", "address", &mac, "up"]);
        run("ip", &["-n", &name, "route", "add", "default", "via", "10.211.0.1"]);
        format!("/run/netns/{name}")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("gtvpd's log:\n{}", self.log());
        }
        if let Some(mut child) = self.gtvpd.take() {
            kill(i32::try_from(child.id()).unwrap(), rustix::process::Signal::TERM);
            let _ = child.wait();
        }
        let down = self.command(&["down"]).status();
        for netns in self.boxes.iter().chain([&self.netns]) {
            let _ = Command::new("ip").args(["netns", "del", netns]).status();
        }
        let _ = fs::remove_dir_all(&self.folder);
        if !std::thread::panicking() {
            assert!(down.unwrap().success(), "gtvpd down failed");
        }
    }
}

pub fn kill(pid: i32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}

pub fn alive(pid: i32) -> bool {
    // A zombie's command line is empty.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| !c.is_empty())
}

/// Waits for a condition.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(start.elapsed() < LONG, "it never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
}

/// One line of a stand-in's, without reading ahead.
pub fn line(stream: &mut UnixStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap().trim().to_owned()
}

/// Runs `f` in a network namespace, on a thread of its own.
pub fn in_netns<T: Send + 'static>(path: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    use std::os::fd::AsFd;
    let file: OwnedFd = fs::File::open(path).unwrap().into();
    let enter = move || {
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind)).unwrap();
        f()
    };
    std::thread::spawn(enter).join().unwrap()
}
