//! What the tests of this crate share, and the stories of whole boxes: the domain as a process of its own, which can be
//! killed, between a supervisor and machines that the tests play.

mod machine;
mod stories;
mod supervisor;
mod templates;
mod world;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A folder that goes with the test.
pub struct Folder(PathBuf);

impl Folder {
    /// A new one.
    pub fn new() -> Self {
        let path =
            std::env::temp_dir().join(format!("gtvp-drivers-{}", crate::record::random_hex(8).unwrap()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits for a condition.
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether this test can do what only root can; says so when not.
pub fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// Gives this thread, and what it starts, a network of its own that has the boxes' bridge.
pub fn own_network() {
    // SAFETY: only this thread's network namespace changes.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let name = c"gtvp0";
    // SAFETY: SIOCBRADDBR (0x89a0) reads a NUL-terminated name.
    let made = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), 0x89a0, name.as_ptr()) };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
}

/// Runs on a thread with a network of its own.
pub fn in_own_network(test: impl FnOnce() + Send + 'static) {
    if !root() {
        return;
    }
    let thread = std::thread::spawn(move || {
        own_network();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
