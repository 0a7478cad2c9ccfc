//! A member on this machine as a user has it: `gtvp lab up`, `gtvp run`, HTTP to a published port. Nothing here reaches
//! into a daemon; what a story knows it has from `gtvp` or from the network.
//!
//! A story panics when it is not true: `expect` and `assert!` are its language.
#![allow(clippy::expect_used, clippy::unwrap_used)]

pub mod bench;
pub mod runner;
pub mod union;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a box may take to start. Under TCG on a loaded machine a boot takes tens of seconds, and the first start of a
/// closure runs its maintainer scripts.
pub const START_WITHIN: Duration = Duration::from_secs(600);
/// How long anything else may take.
pub const SOON: Duration = Duration::from_secs(60);

/// The folder with the staged binaries.
pub fn build_dir() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build");
    dir.canonicalize().expect("build/ is missing: make build")
}

/// A lab. It is used like its first member.
pub struct Lab {
    members: Vec<Member>,
}

/// A member of a lab.
pub struct Member {
    lab: String,
    name: String,
    dir: PathBuf,
    socket: PathBuf,
}

impl std::ops::Deref for Lab {
    type Target = Member;
    fn deref(&self) -> &Member {
        &self.members[0]
    }
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit status; -1 for a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Lab {
    /// Starts a lab called `name`. Its components are kept under `target/` from one run to the next, so that only the first
    /// fetches.
    pub fn up(name: &str) -> Self {
        Self::with(name, 1)
    }

    /// [`Self::up`] with so many members.
    pub fn with(name: &str, members: u8) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e").join(name);
        std::fs::create_dir_all(&dir).expect("target/e2e");
        let dir = dir.canonicalize().expect("target/e2e");
        let lab = Self::named(name, &dir, members);
        // What a run that was killed left behind.
        lab.lab(&["down"]);
        let up = lab.lab(&["up", "--members", &members.to_string()]);
        assert_eq!(up.code, 0, "the lab does not come up: {}{}", up.out, up.err);
        for view in lab.boxes() {
            lab.ok(&["box", "rm", "--force", view["name"].as_str().expect("name")]);
        }
        lab
    }

    /// Starts a lab whose member has never been: no indices, no components, no boxes.
    pub fn fresh(name: &str, members: u8) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e").join(name);
        // What a run that was killed left behind ends as this goes.
        drop(Self::named(name, &dir, members));
        let _ = std::fs::remove_dir_all(&dir);
        Self::with(name, members)
    }

    fn named(lab: &str, dir: &Path, members: u8) -> Self {
        let member = |n| {
            let name = format!("m{n}");
            let socket = PathBuf::from(format!("/run/gtvp/lab/{lab}/{name}/api.sock"));
            Member { lab: lab.to_owned(), name, dir: dir.to_owned(), socket }
        };
        Self { members: (1..=members).map(member).collect() }
    }

    /// Member `n`, from 1.
    pub fn member(&self, n: usize) -> &Member {
        &self.members[n - 1]
    }

    /// Ends the lab.
    pub fn down(&self) {
        self.lab(&["down"]);
    }
}

impl Member {
    /// Bytes of IP that have come to the fetcher from package sources since the lab is up: the kernel's count in the fetcher's
    /// network namespace, headers of packets and of HTTP among them.
    pub fn bytes_from_sources(&self) -> u64 {
        let namespace = format!("gtvp-{}-{:x}-src", self.name, self.config().uid_base);
        let output = Command::new("ip")
            .args(["netns", "exec", &namespace, "cat", "/proc/net/netstat"])
            .output()
            .expect("ip");
        // Two lines: names, then numbers.
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = text.lines().filter(|l| l.starts_with("IpExt:")).map(str::split_ascii_whitespace);
        let (names, numbers) = (lines.next().expect("names"), lines.next().expect("numbers"));
        let (_, octets) = names.zip(numbers).find(|(name, _)| *name == "InOctets").expect("InOctets");
        octets.parse().expect("a count")
    }

    /// A box that runs Python, and in it nothing.
    pub fn idle_box(&self, name: &str) {
        let sleep = ["python3", "-c", "import time; time.sleep(10**6)"];
        let options = ["--needs", "python3", "--memory", "384M", "--"];
        self.ok(&[&["run", "--detach", "--quiet", "--name", name], &options[..], &sleep].concat());
    }

    fn lab(&self, verb: &[&str]) -> Ran {
        let mut command = Command::new(build_dir().join("gtvp"));
        command.arg("lab").args(verb).args(["--name", &self.lab]);
        if verb[0] == "up" {
            command.arg("--dir").arg(&self.dir);
        }
        ran(command.stdin(Stdio::null()).output().expect("gtvp runs"))
    }

    /// The network namespace of the member.
    pub fn namespace(&self) -> String {
        format!("gtvp-{}-{}", self.lab, self.name)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The member's state directory.
    pub fn state(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// `gtvp` with these arguments, ready to be run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(build_dir().join("gtvp"));
        command
            .env("GTVP_SOCKET", &self.socket)
            .env_remove("GTVP_MEMBER")
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Runs `gtvp`.
    pub fn gtvp(&self, arguments: &[&str]) -> Ran {
        ran(self.command(arguments).output().expect("gtvp runs"))
    }

    /// Runs `gtvp`, which must succeed, and gives what it printed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.gtvp(arguments);
        assert_eq!(ran.code, 0, "gtvp {arguments:?} failed: {}{}", ran.out, ran.err);
        ran.out
    }

    /// Runs `gtvp`, which must fail, and gives what it said of it.
    pub fn refused(&self, arguments: &[&str]) -> String {
        let ran = self.gtvp(arguments);
        assert_ne!(ran.code, 0, "gtvp {arguments:?} was not refused: {}", ran.out);
        assert!(ran.err.contains("error"), "gtvp {arguments:?} said nothing of why: {ran:?}");
        ran.err
    }

    /// A listing or a thing, as JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("gtvp {arguments:?} -o json: {e}: {text}"))
    }

    /// Every box.
    pub fn boxes(&self) -> Vec<Value> {
        self.json(&["box", "ls"]).as_array().expect("box ls is an array").clone()
    }

    /// A box in full, None when there is none.
    pub fn find(&self, name: &str) -> Option<Value> {
        self.boxes().into_iter().find(|b| b["name"] == name)?;
        Some(self.json(&["box", "show", name]))
    }

    /// A box's state.
    pub fn state_of(&self, name: &str) -> String {
        self.find(name).map_or("none".into(), |b| b["state"].as_str().expect("state").to_owned())
    }

    /// The address at which published ports are reached.
    pub fn address(&self) -> String {
        self.json(&["member", "show"])["addresses"][0].as_str().expect("an address").to_owned()
    }

    /// A value of the member's metrics, by its name with labels.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let mut stream = std::os::unix::net::UnixStream::connect(&self.socket).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: gtvp\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok())
    }

    /// Process id of a domain.
    pub fn domain_pid(&self, domain: &str) -> Option<i32> {
        let member = self.json(&["member", "show"]);
        let row = member["domains"].as_array()?.iter().find(|d| d["domain"] == domain)?.clone();
        row["pid"].as_i64().and_then(|p| i32::try_from(p).ok())
    }

    /// Kills a domain, and waits until it runs again.
    pub fn kill_domain(&self, domain: &str) {
        let pid = self.domain_pid(domain).expect("the domain runs");
        signal(pid, rustix::process::Signal::KILL);
        until(&format!("{domain} is back"), SOON, || self.domain_pid(domain).filter(|now| *now != pid));
    }

    fn config(&self) -> gtvp_model::member::MemberConfig {
        let text = std::fs::read_to_string(self.socket.with_file_name("member.toml"))
            .expect("the member's member.toml");
        gtvp_model::member::parse(&text).expect("member.toml")
    }

    /// Process ids of the member whose command line has all of `words`: those that run under its uids.
    pub fn processes(&self, words: &[&str]) -> Vec<i32> {
        let base = self.config().uid_base;
        let uids = base..base + gtvp_model::member::UIDS_PER_MEMBER;
        running(words).into_iter().filter(|(_, uid)| uids.contains(uid)).map(|(pid, _)| pid).collect()
    }

    /// Process id of the member's gtvpd.
    pub fn gtvpd(&self) -> Option<i32> {
        let config = format!("lab/{}/{}/member.toml", self.lab, self.name);
        // Its jailing stages carry the same words for a moment; it is the oldest.
        running(&["gtvpd", "--config", &config])
            .into_iter()
            .filter(|(_, uid)| *uid == 0)
            .map(|(pid, _)| pid)
            .min()
    }

    /// Starts the member again from the binaries and the topology in this folder, which is laid out like `build/`.
    pub fn run_from(&self, folder: &Path, members: u8) {
        self.stop();
        self.start_from(folder, members);
    }

    /// Ends the member with all that belongs to it: a server that is shut down.
    pub fn stop(&self) {
        let lock = self.socket.with_file_name("keeper.lock");
        let keeper = std::fs::read_to_string(lock).expect("the keeper's lock");
        let keeper: i32 = keeper.trim().parse().expect("a process id");
        signal(keeper, rustix::process::Signal::TERM);
        until("its keeper is gone", SOON, || (!Path::new(&format!("/proc/{keeper}")).exists()).then_some(()));
    }

    /// Starts it after [`Self::stop`]. `members`: of the lab.
    pub fn start_from(&self, folder: &Path, members: u8) {
        let up = Command::new(folder.join("gtvp"))
            .args(["lab", "up", "--name", &self.lab, "--members", &members.to_string(), "--dir"])
            .arg(&self.dir)
            .stdin(Stdio::null())
            .output();
        let up = ran(up.expect("gtvp runs"));
        assert_eq!(up.code, 0, "{} does not come up: {}{}", self.name, up.out, up.err);
    }

    /// The socket of its software TPM. Root of the server can use it, as root can use everything.
    pub fn tpm_socket(&self) -> PathBuf {
        self.socket.with_file_name("sockets").join("tpm/tpm.sock")
    }

    /// Waits until no template is being booted: after the first box of a shape one is, with processes of its own.
    pub fn settled(&self) {
        until("no template is being booted", START_WITHIN, || {
            let operations = self.json(&["operation", "ls"]);
            let boots = |o: &Value| o["kind"] == "template" && o["state"] == "running";
            (!operations.as_array()?.iter().any(boots)).then_some(())
        });
    }

    /// Removes a box whatever it does.
    pub fn remove(&self, name: &str) {
        self.ok(&["box", "rm", "--force", name]);
    }

    /// One HTTP GET to a published port; the status line and the body.
    pub fn get(&self, port: u16, path: &str) -> Result<(String, String), String> {
        http_get(&self.address(), port, path)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.down();
    }
}

fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// One HTTP GET; the status line and the body.
pub fn http_get(address: &str, port: u16, path: &str) -> Result<(String, String), String> {
    let text = tcp(address, port, format!("GET {path} HTTP/1.0\r\nHost: e2e\r\n\r\n").as_bytes())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("no HTTP answer: {text:?}"))?;
    Ok((head.lines().next().unwrap_or_default().to_owned(), body.to_owned()))
}

/// Sends `request`, and reads until the other side closes or has said a line that ends the talk.
pub fn tcp(address: &str, port: u16, request: &[u8]) -> Result<String, String> {
    let to: SocketAddr = format!("{address}:{port}").parse().map_err(|e| format!("{address}: {e}"))?;
    let told = |e: std::io::Error| e.to_string();
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(10)).map_err(told)?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(told)?;
    stream.write_all(request).map_err(told)?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&piece[..n]),
            Err(e) => return Err(told(e)),
        }
        if answer.ends_with(b"+PONG\r\n") {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Waits until `condition` gives something; panics with `what` when it does not in time.
pub fn until<T>(what: &str, within: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "in {within:?} it did not happen that {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ends `child` if it still runs when dropped.
pub struct Ended(pub Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends a signal to a process.
pub fn signal(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
    rustix::process::kill_process(pid, signal).expect("the process is there");
}

/// Process ids and uids of this machine's processes whose command line has all of `words`.
fn running(words: &[&str]) -> Vec<(i32, u32)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let Ok(meta) = entry.metadata() else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if words.iter().all(|w| line.contains(w)) {
            found.push((pid, std::os::unix::fs::MetadataExt::uid(&meta)));
        }
    }
    found
}
