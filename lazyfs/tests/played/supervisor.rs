//! The supervisor, as far as a file-system server meets it: starts it, holds what it stores, starts it again when it dies.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex};

use gtvp_ipc::keeper::Held;

/// The part. Killing the server is the test's; starting it again too.
pub struct Supervisor {
    keeper: UnixListener,
    socket: PathBuf,
    components: PathBuf,
    held: Arc<(Mutex<Held>, Condvar)>,
    holding: Option<(UnixStream, std::thread::JoinHandle<()>)>,
    server: Option<Child>,
}

/// Gives a child these descriptors at their own numbers.
pub fn hand_over(command: &mut Command, fds: &[&OwnedFd]) {
    let numbers: Vec<i32> = fds.iter().map(|f| f.as_raw_fd()).collect();
    // SAFETY: only fcntl, which may be called between fork and exec.
    unsafe {
        command.pre_exec(move || {
            for n in &numbers {
                let fd = std::os::fd::BorrowedFd::borrow_raw(*n);
                rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
            }
            Ok(())
        });
    }
}

impl Supervisor {
    pub fn new(folder: &Path, components: &Path) -> Self {
        let socket = folder.join("keeper.sock");
        let keeper = UnixListener::bind(&socket).unwrap();
        let (held, holding, server) = (Arc::default(), None, None);
        Self { keeper, socket, components: components.into(), held, holding, server }
    }

    /// Starts the server; with `vhost` as the first process of its box, else with what is held.
    pub fn start(&mut self, vhost: Option<&OwnedFd>) {
        let program = std::env::current_exe().unwrap();
        let program = program.ancestors().nth(2).unwrap().join("examples/standalone");
        assert!(program.exists(), "{} is missing: cargo test builds it with the examples", program.display());
        let keeper = self.keeper.as_fd().try_clone_to_owned().unwrap();
        let mut command = Command::new(program);
        command.arg(keeper.as_raw_fd().to_string());
        command.arg(vhost.map_or("-".into(), |v| v.as_raw_fd().to_string()));
        command.arg(&self.components);
        hand_over(&mut command, &[&keeper].into_iter().chain(vhost).collect::<Vec<_>>());
        self.server = Some(command.spawn().unwrap());
        self.connect();
    }

    /// Says what is held, and holds what comes.
    fn connect(&mut self) {
        let stream = UnixStream::connect(&self.socket).unwrap();
        self.held.0.lock().unwrap().send(&stream).unwrap();
        let held = self.held.clone();
        let kept = stream.try_clone().unwrap();
        let holding = std::thread::spawn(move || {
            while let Ok(Some(new)) = Held::recv(&stream) {
                *held.0.lock().unwrap() = new;
                held.1.notify_all();
            }
        });
        self.holding = Some((kept, holding));
    }

    /// Forgets everything and connects again, as a supervisor that was itself restarted.
    pub fn restart_itself(&mut self) {
        // The old one's connection does not count any more, whatever still comes over it.
        self.held = Arc::default();
        self.connect();
    }

    /// Waits until the server has said what it wants held.
    pub fn wait_until_it_holds(&self) {
        let (held, changed) = &*self.held;
        let held = held.lock().unwrap();
        let patience = std::time::Duration::from_secs(30);
        let (_held, timeout) = changed.wait_timeout_while(held, patience, |h| h.state.is_empty()).unwrap();
        assert!(!timeout.timed_out(), "the server did not say what to hold");
    }

    /// Waits until the server has ended by itself, successfully.
    pub fn wait_for_end(&mut self) {
        assert!(self.server.take().unwrap().wait().unwrap().success());
    }

    pub fn pid(&self) -> u32 {
        self.server.as_ref().unwrap().id()
    }

    /// kill -9, and wait until it and its last words are here.
    pub fn kill(&mut self) {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
        if let Some((stream, holding)) = self.holding.take() {
            // It may have died before it took our connection; what it did send is still read.
            stream.shutdown(std::net::Shutdown::Read).unwrap();
            holding.join().unwrap();
        }
    }

    /// Proportional set size, KiB.
    pub fn pss(&self) -> u64 {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid())).unwrap();
        let line = rollup.lines().find(|l| l.starts_with("Pss:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Context switches of all its threads so far.
    pub fn switches(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let status = |t: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(t.unwrap().path().join("status")).unwrap_or_default()
        };
        let count = |s: String| {
            let lines = s.lines().filter(|l| l.contains("ctxt_switches"));
            lines.filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).sum::<u64>()
        };
        tasks.map(|t| count(status(t))).sum()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Some(mut s) = self.server.take() {
            let _ = s.kill();
            let _ = s.wait();
        }
    }
}
