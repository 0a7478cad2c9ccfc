//! The few kernel calls that no safe wrapper offers, each as one small function.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Leaves namespaces of the kinds in `flags` (`CLONE_NEW…`) for new ones.
pub fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: unshare takes flags only. CLONE_FILES and CLONE_VM, which std relies on, are never passed.
    check(unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// Joins the namespace that `fd` stands for.
pub fn join(fd: BorrowedFd<'_>, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: setns takes an open descriptor and a kind.
    check(unsafe { libc::setns(fd.as_raw_fd(), kind) }.into()).map(drop)
}

/// Marks every descriptor from `first` on to be closed at execve.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed now, so nobody's descriptor goes away under them.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })
        .map(drop)
}

/// Duplicates `fd` to `number`, which then survives execve.
pub fn duplicate_to(fd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    // SAFETY: only the jail's stage calls this, after it has moved every descriptor that it still uses above all the
    // numbers handed out; what `number` was before is not used any more.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into()).map(drop)
}

/// Becomes `uid` and `gid` for good, without supplementary groups. Of this thread: the caller has only one.
pub fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: these system calls take numbers only; a null list of length 0 is never read.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()))?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

/// prctl with numbers.
pub fn prctl(option: libc::c_int, a: libc::c_ulong, b: libc::c_ulong) -> io::Result<i32> {
    // SAFETY: only options whose arguments are numbers are passed here (capabilities, pdeathsig, dumpable).
    let result = unsafe { libc::prctl(option, a, b, 0, 0) };
    check(result.into()).map(|_| result)
}

/// Sets this thread's permitted, effective and inheritable capabilities.
pub fn set_capabilities(set: u64) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    /// `_LINUX_CAPABILITY_VERSION_3`: two words of each set.
    const VERSION: u32 = 0x2008_0522;
    let word = |shift: u32| {
        let part = u32::try_from((set >> shift) & 0xffff_ffff).unwrap_or(0);
        Data { effective: part, permitted: part, inheritable: part }
    };
    let header = Header { version: VERSION, pid: 0 };
    let data = [word(0), word(32)];
    // SAFETY: header and data have the kernel's layout for version 3 and live through the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// The user namespace that owns the namespace `fd`.
pub fn owning_user_namespace(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// `NS_GET_USERNS`, `_IO(0xb7, 1)`.
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    // SAFETY: this ioctl takes no argument and returns a new descriptor, which nobody else owns.
    unsafe {
        let new = check(libc::ioctl(fd.as_raw_fd(), NS_GET_USERNS).into())?;
        Ok(OwnedFd::from_raw_fd(i32::try_from(new).map_err(io::Error::other)?))
    }
}

/// Opens the file behind `fd` once more, through the mount that `mount` is on: a descriptor from another mount namespace
/// cannot be mounted from, but its file may be reachable in this one too. For mounting only (`O_PATH`).
pub fn reopen_through(mount: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// The largest handle that Linux makes.
    const MAX_HANDLE: usize = 128;
    #[repr(C)]
    struct Handle {
        size: u32,
        kind: i32,
        bytes: [u8; MAX_HANDLE],
    }
    let mut handle = Handle { size: 128, kind: 0, bytes: [0; MAX_HANDLE] };
    let mut mount_id: libc::c_int = 0;
    // SAFETY: the handle has the kernel's layout with room for the largest one, and both outlive the calls; the new
    // descriptor is owned by nobody else.
    unsafe {
        check(libc::syscall(
            libc::SYS_name_to_handle_at,
            fd.as_raw_fd(),
            c"".as_ptr(),
            &raw mut handle,
            &raw mut mount_id,
            libc::AT_EMPTY_PATH,
        ))?;
        let flags = libc::O_PATH | libc::O_CLOEXEC;
        let new =
            check(libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &raw mut handle, flags))?;
        Ok(OwnedFd::from_raw_fd(i32::try_from(new).map_err(io::Error::other)?))
    }
}

/// Blocks `signals` in this thread (and those it will start) and returns a descriptor on which they are read.
pub fn signal_descriptor(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before it is read; the new descriptor is owned by nobody else.
    unsafe {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        let mut set = set.assume_init();
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        check(libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()).into())?;
        let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC).into())?;
        Ok(OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?))
    }
}

/// The Landlock ABI of this kernel, 0 when it has none.
pub fn landlock_abi() -> i64 {
    /// `LANDLOCK_CREATE_RULESET_VERSION`.
    const VERSION: u32 = 1;
    // SAFETY: with the version flag the kernel reads no attributes.
    let abi = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0usize, VERSION)
    };
    abi.max(0)
}

/// Installs a filter whose mismatches are told on the returned descriptor instead of ending the process.
pub fn install_told_filter(program: &[seccompiler::sock_filter]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Program {
        length: u16,
        filter: *const seccompiler::sock_filter,
    }
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = Program { length, filter: program.as_ptr() };
    // SAFETY: the program outlives the call, which copies it; the new descriptor is owned by nobody else.
    unsafe {
        let fd = check(libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        ))?;
        Ok(OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?))
    }
}

/// A system call that a told filter (see [`install_told_filter`]) does not allow: waits for the next one, lets it
/// happen, and returns its number and the process. An error when the last process of the filter is gone.
pub fn next_told(listener: BorrowedFd<'_>) -> io::Result<(i64, u32)> {
    // SAFETY: both structures are plain numbers, zeroed as the kernel demands, and live through the calls.
    unsafe {
        let mut notice: libc::seccomp_notif = std::mem::zeroed();
        check(libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_RECV, &raw mut notice).into())?;
        let mut answer: libc::seccomp_notif_resp = std::mem::zeroed();
        answer.id = notice.id;
        answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
        // The process may have died meanwhile; that is no error of ours.
        libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer);
        Ok((notice.data.nr.into(), notice.pid))
    }
}

/// `SECCOMP_IOWR(0, struct seccomp_notif)`.
const SECCOMP_IOCTL_NOTIF_RECV: libc::c_ulong = 0xc050_2100;
/// `SECCOMP_IOWR(1, struct seccomp_notif_resp)`.
const SECCOMP_IOCTL_NOTIF_SEND: libc::c_ulong = 0xc018_2101;
/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`.
const SECCOMP_USER_NOTIF_FLAG_CONTINUE: u32 = 1;
