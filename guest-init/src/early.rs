//! What must be there before anything else: the kernel's file systems, a console, limits, the modules that the initramfs
//! brings.

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;

use rustix::mount::MountFlags;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::console::say;

/// Where the initramfs has the modules, decompressed, and lists of their file names in the order of insertion.
const MODULES: &str = "/modules";
/// What is inserted at once: pure software, and the way to the host.
pub const EARLY_MODULES: &str = "order";
/// What is inserted when the box is told who it is: drivers of the devices that are its own (disk, network, random numbers, memory).
/// A template (docs/design/templates.md) is saved before that, so nothing in it knows another box's devices.
pub const LATE_MODULES: &str = "late";
/// Descriptors that a process may have unasked, and may ask for: systemd's figures, which packages expect.
const OPEN_FILES: (u64, u64) = (1024, 524_288);

struct Early {
    what: &'static str,
    at: &'static str,
    flags: MountFlags,
    options: &'static CStr,
}

const NO_RUN: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC).union(MountFlags::NODEV);

const EARLY: [Early; 6] = [
    Early { what: "devtmpfs", at: "/dev", flags: MountFlags::NOSUID, options: c"mode=0755" },
    Early { what: "proc", at: "/proc", flags: NO_RUN, options: c"" },
    Early { what: "sysfs", at: "/sys", flags: NO_RUN, options: c"" },
    Early {
        what: "devpts",
        at: "/dev/pts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        options: c"mode=0620,gid=5,ptmxmode=0666",
    },
    Early {
        what: "tmpfs",
        at: "/run",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        options: c"mode=0755",
    },
    Early { what: "cgroup2", at: "/sys/fs/cgroup", flags: NO_RUN, options: c"" },
];

/// Mounts the kernel's file systems and takes the console. What fails is said and is met again by who needs it.
pub fn mount() {
    let mut failed = Vec::new();
    for (i, m) in EARLY.iter().enumerate() {
        // A missing directory shows in the mount's own failure.
        let _ = fs::create_dir_all(m.at);
        match rustix::mount::mount(m.what, m.at, m.what, m.flags, m.options) {
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(e) => failed.push((m.at, e)),
        }
        if i == 0 {
            take_console();
        }
    }
    for (at, e) in failed {
        say!("{at} cannot be mounted: {e}");
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        // There already when a kernel makes them itself.
        let _ = std::os::unix::fs::symlink(target, link);
    }
    // The last that the kernel should kill for want of memory: the box would be gone with it.
    if let Err(e) = fs::write("/proc/self/oom_score_adj", "-1000") {
        say!("oom_score_adj cannot be set: {e}");
    }
}

/// Descriptors 0, 1 and 2: what the kernel gave PID 1 may be nothing when its initramfs has no /dev/console.
fn take_console() {
    let console = || OpenOptions::new().read(true).write(true).open("/dev/console");
    let null = || OpenOptions::new().read(true).write(true).open("/dev/null");
    let put = |file: io::Result<File>, fd: i32| {
        let Ok(file) = file else { return };
        use std::os::fd::AsRawFd;
        if file.as_raw_fd() == fd {
            std::mem::forget(file);
            return;
        }
        // SAFETY: dup2 onto the standard descriptors, which no Rust value owns; `file` is open for the call's time.
        unsafe { libc::dup2(file.as_raw_fd(), fd) };
    };
    put(null(), 0);
    put(console().or_else(|_| null()), 1);
    put(console().or_else(|_| null()), 2);
}

/// Whether the host only wants to know that a kernel runs here.
pub fn probe_asked() -> bool {
    fs::read_to_string("/proc/cmdline").is_ok_and(|line| has_word(&line, "gtvp.probe"))
}

fn has_word(line: &str, word: &str) -> bool {
    line.split_whitespace().any(|w| w == word)
}

/// Limits that the application inherits.
pub fn limits() {
    let (soft, hard) = OPEN_FILES;
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum: Some(hard) }) {
        say!("the limit of open files cannot be set: {e}");
    }
}

/// Inserts the modules of the list `list`. One that is missing or does not fit is said, and no reason to stop: what
/// needs it will say what it lacks, and kernels differ in what they have built in.
pub fn insert_modules(list: &str) {
    let order = match fs::read_to_string(format!("{MODULES}/{list}")) {
        Ok(order) => order,
        Err(e) => return say!("no modules: {MODULES}/{list}: {e}"),
    };
    for name in module_names(&order) {
        if let Err(e) = insert(name) {
            say!("module {name}: {e}");
        }
    }
}

fn insert(name: &str) -> io::Result<()> {
    let file = File::open(format!("{MODULES}/{name}"))?;
    match rustix::system::finit_module(file.as_fd(), c"", 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn module_names(order: &str) -> impl Iterator<Item = &str> {
    order.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#') && !l.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_word_is_a_probe() {
        assert!(has_word("console=ttyS0 gtvp.probe quiet\n", "gtvp.probe"));
        assert!(!has_word("console=ttyS0 gtvp.probed gtvp.probe=1", "gtvp.probe"));
    }

    #[test]
    fn an_order_is_names_in_lines() {
        let names: Vec<_> = module_names("# first\nvirtio_blk.ko\n\n ../x.ko\n overlay.ko \n").collect();
        assert_eq!(names, ["virtio_blk.ko", "overlay.ko"]);
    }
}
