//! A real software TPM that a test starts and ends.

pub mod enrolment;
pub mod server;
pub mod union;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gtvp_security::tpm::transport::Address;

const SWTPM: &str = "/usr/bin/swtpm";
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// swtpm over a folder of its own.
pub struct SoftwareTpm {
    pub folder: PathBuf,
    child: Option<Child>,
}

impl SoftwareTpm {
    /// A new TPM, running.
    pub fn start() -> Self {
        let mut tpm = Self::new();
        tpm.run();
        tpm
    }

    /// A new TPM that does not run yet.
    pub fn new() -> Self {
        assert!(
            Path::new(SWTPM).exists(),
            "{SWTPM} is not here: this test needs the Debian package swtpm (scripts/setup installs it)"
        );
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("gtvp-swtpm-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        for name in ["tpm", "state"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        Self { folder, child: None }
    }

    pub fn address(&self) -> Address {
        Address::Software { socket: self.socket(), uid: None }
    }

    /// Where security keeps keys and log.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// swtpm's own state.
    pub fn tpm_state(&self) -> PathBuf {
        self.folder.join("tpm")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("tpm.sock")
    }

    /// Starts it: a TPM reset.
    pub fn run(&mut self) {
        let child = Command::new(SWTPM)
            .args(["socket", "--tpm2", "--flags", "not-need-init", "--tpmstate"])
            .arg(format!("dir={},mode=0600", self.tpm_state().display()))
            .arg("--server")
            .arg(format!("type=unixio,path={},mode=0600", self.socket().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("swtpm starts");
        self.child = Some(child);
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < deadline, "swtpm does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// It answers nothing from now on, or answers again.
    pub fn sleeps(&self, sleeps: bool) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().unwrap());
        let signal = if sleeps { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Kills it and starts it again.
    pub fn reset(&mut self) {
        self.kill();
        self.run();
    }
}

impl Drop for SoftwareTpm {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Copies a folder with all that is in it.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap().flatten() {
        let to = to.join(file.file_name());
        if file.path().is_dir() {
            copy_folder(&file.path(), &to);
        } else {
            fs::copy(file.path(), to).unwrap();
        }
    }
}
