//! What QEMU is handed when it is started, beside its parameters: a box's machine and a template's have the same.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::record;
use crate::start::Given;

/// What is opened here; the rest comes with the call.
pub struct Handed {
    /// The writable layer.
    pub disk: File,
    /// Where QMP is listened for.
    pub qmp: UnixListener,
    /// Where the agent's port is.
    pub agent: UnixListener,
    /// The guest's console.
    pub console: File,
    /// QEMU's own words.
    pub stderr: File,
    /// The network interface, if it has one.
    pub tap: Option<OwnedFd>,
    /// /dev/kvm, if it runs on that.
    pub kvm: Option<File>,
}

impl Handed {
    /// By the names that topology.toml has for them.
    pub fn descriptors<'a>(&'a self, given: &'a Given) -> Vec<(&'static str, BorrowedFd<'a>)> {
        let mut fds = vec![
            ("root", given.root.as_fd()),
            ("disk", self.disk.as_fd()),
            ("qmp", self.qmp.as_fd()),
            ("agent", self.agent.as_fd()),
            ("console", self.console.as_fd()),
            ("kernel", given.kernel.as_fd()),
            ("initrd", given.initrd.as_fd()),
            ("stderr", self.stderr.as_fd()),
        ];
        fds.extend(self.tap.as_ref().map(|t| ("tap", t.as_fd())));
        fds.extend(self.kvm.as_ref().map(|k| ("kvm", k.as_fd())));
        fds
    }
}

/// Listens for QMP and for the agent, in a folder of its own that is made anew.
pub fn listen(sockets: &Path) -> io::Result<[UnixListener; 2]> {
    record::remove(sockets)?;
    record::private_dir(sockets)?;
    Ok([UnixListener::bind(sockets.join("qmp"))?, UnixListener::bind(sockets.join("agent"))?])
}
