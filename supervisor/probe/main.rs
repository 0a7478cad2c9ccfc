//! gtvp-probe: tries to do one thing and says whether it could. `gtvpd probe` runs it inside a domain's jail, once for
//! each attempt, in place of the domain's program; tests compare what it could do with topology.toml.
//!
//! Exit status 0: it could. 1: it was refused. Ended by a signal: the system-call filter. What it does is harmless where
//! it is allowed.

use std::fs::OpenOptions;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, exit};

use libc::{c_long, c_ulong};

/// Every attempt that needs no path of the member.
const ATTEMPTS: &[&str] = &[
    "open /etc/shadow",
    "open /etc/passwd",
    "open /root",
    "open /proc/self/status",
    "open /sys/kernel",
    "open /usr/bin/env",
    "open /state",
    "open /run",
    "open /gtvp/member.json",
    "write /dev/kvm",
    "write /dev/net/tun",
    "write /dev/tpmrm0",
    "write /dev/mem",
    "write /dev/userfaultfd",
    "write /dev/fuse",
    "write /dev/vhost-vsock",
    "open /dev/kmsg",
    "write own-binary",
    "create /x",
    "create /bin/x",
    "create /dev/x",
    "create /gtvp/x",
    "create /gtvp/ipc/x",
    "create /state/.probe",
    "create /run/.probe",
    "exec /bin/sh",
    "exec /usr/bin/env",
    "socket unix",
    "socket inet",
    "socket inet6",
    "socket netlink",
    "socket packet",
    "socket vsock",
    "reach 127.0.0.1:9",
    "fork",
    "clone newuser",
    "clone newnet",
    "clone3",
    "unshare user",
    "unshare mount",
    "unshare net",
    "setns",
    "mount",
    "remount",
    "umount",
    "pivot_root",
    "chroot",
    "open_tree",
    "fsopen",
    "ptrace",
    "process_vm_readv",
    "pidfd_getfd",
    "kill 1",
    "setuid 0",
    "setgid 0",
    "setgroups",
    "capset",
    "init_module",
    "finit_module",
    "delete_module",
    "kexec_load",
    "reboot",
    "swapoff",
    "acct",
    "iopl",
    "keyctl",
    "add_key",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "io_uring_setup",
    "fanotify_init",
    "open_by_handle_at",
    "mknod",
    "sethostname",
    "settimeofday",
    "syslog",
    "quotactl",
    "personality",
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    if words == ["list"] {
        ATTEMPTS.iter().for_each(|a| println!("{a}"));
        return;
    }
    match attempt(&words) {
        Ok(()) => {
            println!("done");
            exit(0)
        }
        Err(e) => {
            println!("{e}");
            exit(1)
        }
    }
}

fn checked(result: c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A system call with numbers (pointers are null or to constants). What it returns is left as it is.
fn call(number: c_long, args: [c_ulong; 6]) -> io::Result<()> {
    // SAFETY: every attempt below passes plain numbers, null pointers, or pointers to constants that live for ever.
    checked(unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]) })
}

fn text(c: &'static std::ffi::CStr) -> c_ulong {
    c.as_ptr() as c_ulong
}

fn attempt(words: &[&str]) -> io::Result<()> {
    const INVALID: c_ulong = c_ulong::MAX;
    match words {
        ["open", path] => OpenOptions::new().read(true).open(path).map(drop),
        ["write", "own-binary"] => {
            match OpenOptions::new().write(true).open(std::env::args().next().unwrap_or_default()) {
                // It runs, which is all that stands in the way.
                Err(e) if e.raw_os_error() == Some(libc::ETXTBSY) => Ok(()),
                other => other.map(drop),
            }
        }
        ["write", path] => {
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path).map(drop)
        }
        ["create", path] => OpenOptions::new().write(true).create(true).truncate(false).open(path).map(drop),
        ["exec", path] => Err(Command::new(path).arg("-c").arg("exit 0").exec()),
        ["socket", family] => socket(family),
        ["reach", address] => {
            let address: SocketAddr = address.parse().map_err(io::Error::other)?;
            match TcpStream::connect(address) {
                // Someone answered.
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
                other => other.map(drop),
            }
        }
        ["connect", path] => UnixStream::connect(path).map(drop),
        ["fork"] => clone(0),
        ["clone", "newuser"] => clone(libc::CLONE_NEWUSER),
        ["clone", "newnet"] => clone(libc::CLONE_NEWNET),
        ["clone3"] => clone3(),
        ["unshare", kind] => {
            let flag = match *kind {
                "user" => libc::CLONE_NEWUSER,
                "net" => libc::CLONE_NEWNET,
                _ => libc::CLONE_NEWNS,
            };
            call(libc::SYS_unshare, [flag as c_ulong, 0, 0, 0, 0, 0])
        }
        ["setns"] => {
            let own = OpenOptions::new().read(true).open("/proc/self/ns/net");
            let fd = own.as_ref().map_or(INVALID, |f| std::os::fd::AsRawFd::as_raw_fd(f) as c_ulong);
            call(libc::SYS_setns, [fd, 0, 0, 0, 0, 0])
        }
        ["mount"] => call(libc::SYS_mount, [text(c"none"), text(c"/dev"), text(c"tmpfs"), 0, 0, 0]),
        ["remount"] => call(libc::SYS_mount, [0, text(c"/"), 0, libc::MS_REMOUNT | libc::MS_BIND, 0, 0]),
        ["umount"] => {
            call(libc::SYS_umount2, [text(c"/gtvp/member.json"), libc::MNT_DETACH as c_ulong, 0, 0, 0, 0])
        }
        ["pivot_root"] => call(libc::SYS_pivot_root, [text(c"/"), text(c"/"), 0, 0, 0, 0]),
        ["chroot"] => call(libc::SYS_chroot, [text(c"/"), 0, 0, 0, 0, 0]),
        ["open_tree"] => call(libc::SYS_open_tree, [libc::AT_FDCWD as c_ulong, text(c"/"), 1, 0, 0, 0]),
        ["fsopen"] => call(libc::SYS_fsopen, [text(c"tmpfs"), 0, 0, 0, 0, 0]),
        ["ptrace"] => call(libc::SYS_ptrace, [libc::PTRACE_TRACEME as c_ulong, 0, 0, 0, 0, 0]),
        ["process_vm_readv"] => call(libc::SYS_process_vm_readv, [std::process::id().into(), 0, 0, 0, 0, 0]),
        ["pidfd_getfd"] => call(libc::SYS_pidfd_getfd, [INVALID, 0, 0, 0, 0, 0]),
        ["kill", pid] => call(libc::SYS_kill, [pid.parse().map_err(io::Error::other)?, 0, 0, 0, 0, 0]),
        ["setuid", id] => call(libc::SYS_setuid, [id.parse().map_err(io::Error::other)?, 0, 0, 0, 0, 0]),
        ["setgid", id] => call(libc::SYS_setgid, [id.parse().map_err(io::Error::other)?, 0, 0, 0, 0, 0]),
        ["setgroups"] => call(libc::SYS_setgroups, [0, 0, 0, 0, 0, 0]),
        ["capset"] => call(libc::SYS_capset, [0, 0, 0, 0, 0, 0]),
        ["init_module"] => call(libc::SYS_init_module, [0, 0, text(c""), 0, 0, 0]),
        ["finit_module"] => call(libc::SYS_finit_module, [0, text(c""), 0, 0, 0, 0]),
        ["delete_module"] => call(libc::SYS_delete_module, [text(c"no_such_module"), 0, 0, 0, 0, 0]),
        ["kexec_load"] => call(libc::SYS_kexec_load, [0, 0, 0, 0, 0, 0]),
        // Turning Ctrl-Alt-Del off, which it is on servers.
        ["reboot"] => call(libc::SYS_reboot, [0xfee1_dead, 672_274_793, 0, 0, 0, 0]),
        ["swapoff"] => call(libc::SYS_swapoff, [text(c"/no/such/file"), 0, 0, 0, 0, 0]),
        ["acct"] => call(libc::SYS_acct, [text(c"/no/such/file"), 0, 0, 0, 0, 0]),
        ["iopl"] => call(libc::SYS_iopl, [3, 0, 0, 0, 0, 0]),
        ["keyctl"] => call(libc::SYS_keyctl, [0, -3i64 as c_ulong, 1, 0, 0, 0]),
        ["add_key"] => {
            call(libc::SYS_add_key, [text(c"user"), text(c"gtvp-probe"), text(c"x"), 1, -1i64 as c_ulong, 0])
        }
        ["bpf"] => call(libc::SYS_bpf, [0, 0, 0, 0, 0, 0]),
        ["perf_event_open"] => perf_event_open(),
        ["userfaultfd"] => call(libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0]),
        ["io_uring_setup"] => call(libc::SYS_io_uring_setup, [1, 0, 0, 0, 0, 0]),
        ["fanotify_init"] => call(libc::SYS_fanotify_init, [0, 0, 0, 0, 0, 0]),
        ["open_by_handle_at"] => call(libc::SYS_open_by_handle_at, [INVALID, 0, 0, 0, 0, 0]),
        ["mknod"] => call(
            libc::SYS_mknodat,
            [
                libc::AT_FDCWD as c_ulong,
                text(c"/state/.probe-device"),
                (libc::S_IFCHR | 0o600).into(),
                libc::makedev(1, 1),
                0,
                0,
            ],
        ),
        ["sethostname"] => call(libc::SYS_sethostname, [text(c"probe"), 5, 0, 0, 0, 0]),
        ["settimeofday"] => call(libc::SYS_settimeofday, [0, 0, 0, 0, 0, 0]),
        ["syslog"] => call(libc::SYS_syslog, [10, 0, 0, 0, 0, 0]),
        ["quotactl"] => call(libc::SYS_quotactl, [0x8000_0700, 0, 0, 0, 0, 0]),
        ["personality"] => call(libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0, 0]),
        _ => Err(io::Error::other(format!("there is no attempt {words:?}"))),
    }
}

fn socket(family: &str) -> io::Result<()> {
    let (family, kind) = match family {
        "inet" => (libc::AF_INET, libc::SOCK_STREAM),
        "inet6" => (libc::AF_INET6, libc::SOCK_STREAM),
        "netlink" => (libc::AF_NETLINK, libc::SOCK_RAW),
        "packet" => (libc::AF_PACKET, libc::SOCK_RAW),
        "vsock" => (libc::AF_VSOCK, libc::SOCK_STREAM),
        _ => (libc::AF_UNIX, libc::SOCK_STREAM),
    };
    call(libc::SYS_socket, [family as c_ulong, kind as c_ulong, 0, 0, 0, 0])
}

/// A child that ends at once.
fn clone(flags: i32) -> io::Result<()> {
    // SAFETY: without CLONE_VM the child has its own memory, and does nothing but end.
    unsafe {
        let child = libc::syscall(libc::SYS_clone, (flags | libc::SIGCHLD) as c_ulong, 0, 0, 0, 0);
        if child == 0 {
            libc::_exit(0);
        }
        checked(child)
    }
}

fn clone3() -> io::Result<()> {
    // SAFETY: as in `clone`; the structure lives through the call and has the kernel's layout.
    unsafe {
        let mut args: libc::clone_args = std::mem::zeroed();
        args.exit_signal = libc::SIGCHLD as u64;
        let child = libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>());
        if child == 0 {
            libc::_exit(0);
        }
        checked(child)
    }
}

fn perf_event_open() -> io::Result<()> {
    /// The first two words of `struct perf_event_attr` (version 0 has 64 bytes): a software clock.
    static ATTR: [u64; 8] = [1 | (64 << 32), 0, 0, 0, 0, 0, 0, 0];
    call(libc::SYS_perf_event_open, [ATTR.as_ptr() as c_ulong, 0, c_ulong::MAX, c_ulong::MAX, 0, 0])
}
