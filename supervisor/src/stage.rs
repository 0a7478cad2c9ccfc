//! The stage: gtvpd executed again, with one thread, which turns itself into a jailed program. Reads a
//! [`JailSpec`] from the socket that is its standard input, builds the jail around itself and executes the program.
//!
//! It decides nothing: what belongs into the jail stands in the specification.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use gtvp_ipc::wire;
use rustix::fs::Mode;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount, unmount,
};

use crate::confine;
use crate::spec::{Access, Bind, FileFrom, JailSpec, NetPlan, StageSays, UserPlan};
use crate::sys;

/// Descriptors that the stage still uses live above every number that a program is given.
const ABOVE_ALL: i32 = 256;

/// Why a jail could not be built.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// One step failed.
    #[error("{0}: {1}")]
    Step(String, #[source] io::Error),
    /// gtvpd went away, or said something else than expected.
    #[error("the supervisor's side of the socket is gone")]
    Supervisor,
    /// The specification names a descriptor that did not come.
    #[error("descriptor {0} did not come with the specification")]
    NoDescriptor(usize),
    /// Filter or Landlock.
    #[error(transparent)]
    Confine(#[from] confine::ConfineError),
}

/// Names the step that failed.
pub trait During<T> {
    /// See the trait.
    fn during(self, step: impl FnOnce() -> String) -> Result<T, StageError>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, step: impl FnOnce() -> String) -> Result<T, StageError> {
        self.map_err(|e| StageError::Step(step(), e.into()))
    }
}

/// Runs the stage. Returns only when it failed.
pub fn run() -> i32 {
    let moved = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), ABOVE_ALL);
    let socket = match moved {
        Ok(fd) => UnixStream::from(fd),
        Err(_) => return 2,
    };
    let Err(error) = build(&socket);
    let message = serde_json::to_vec(&StageSays::Failed(error.to_string())).unwrap_or_default();
    // gtvpd may be gone; then there is nobody to tell.
    let _ = wire::send(&socket, &message, &[]);
    1
}

fn build(socket: &UnixStream) -> Result<std::convert::Infallible, StageError> {
    let (json, fds) = wire::recv(socket).ok().flatten().ok_or(StageError::Supervisor)?;
    let spec: JailSpec = serde_json::from_slice(&json).map_err(|_| StageError::Supervisor)?;
    sys::close_on_exec_from(3).during(|| "closing descriptors".into())?;
    let fds = fds
        .iter()
        .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, ABOVE_ALL))
        .collect::<Result<Vec<OwnedFd>, _>>()
        .during(|| "moving descriptors".into())?;
    let fd = |n: usize| fds.get(n).map(AsFd::as_fd).ok_or(StageError::NoDescriptor(n));

    rustix::process::umask(Mode::from_raw_mode(0o022));
    rustix::process::setsid().during(|| "making a session".into())?;
    sys::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS)
        .during(|| "making namespaces".into())?;
    // Kernels without cgroup namespaces lose only that.
    let _ = sys::unshare(libc::CLONE_NEWCGROUP);
    match &spec.network {
        NetPlan::Keep => {}
        NetPlan::Empty => sys::unshare(libc::CLONE_NEWNET).during(|| "making a network namespace".into())?,
        NetPlan::Join(n) => sys::join(fd(*n)?, libc::CLONE_NEWNET).during(|| "joining a network".into())?,
    }
    build_root(&spec, &fd)?;
    match &spec.user {
        UserPlan::Host => {}
        UserPlan::New => {
            sys::unshare(libc::CLONE_NEWUSER).during(|| "making a user namespace".into())?;
            say(socket, &StageSays::WriteMaps, &[])?;
            wire::recv(socket).ok().flatten().ok_or(StageError::Supervisor)?;
        }
        UserPlan::Join(n) => {
            sys::join(fd(*n)?, libc::CLONE_NEWUSER).during(|| "joining a user namespace".into())?
        }
    }
    rustix::process::umask(Mode::from_raw_mode(0o077));
    confine::drop_privileges(&spec)?;
    if let Some(parent) = spec.dies_with {
        let kill = rustix::process::Signal::KILL;
        rustix::process::set_parent_process_death_signal(Some(kill)).during(|| "tying to gtvpd".into())?;
        let now = rustix::process::getppid().map_or(0, |p| p.as_raw_nonzero().get());
        if !spec.pid_namespace && now != parent {
            return Err(StageError::Supervisor);
        }
    }
    confine::landlock(&spec)?;
    let program = confine::filters(&spec)?;
    for d in &spec.descriptors {
        sys::duplicate_to(fd(d.from)?, d.number).during(|| format!("placing descriptor {}", d.number))?;
    }
    // The filter is last: it allows what the program needs, not what building a jail needs.
    if let Some(listener) = confine::install(&program, spec.tell_filter)? {
        say(socket, &StageSays::Listener, &[listener.as_fd()])?;
        drop(listener);
    }
    let envs = spec.env.iter().map(|(k, v)| (k, v));
    let error = Command::new(&spec.program).args(&spec.argv).env_clear().envs(envs).exec();
    Err(StageError::Step(format!("executing {}", spec.program), error))
}

fn say(socket: &UnixStream, what: &StageSays, fds: &[BorrowedFd<'_>]) -> Result<(), StageError> {
    let message = serde_json::to_vec(what).map_err(|_| StageError::Supervisor)?;
    wire::send(socket, &message, fds).map_err(|_| StageError::Supervisor)
}

/// Where the jail's path `at` is while the root is put together.
fn inside(root: &Path, at: &str) -> PathBuf {
    root.join(at.trim_start_matches('/'))
}

fn build_root<'a>(
    spec: &JailSpec,
    fd: &impl Fn(usize) -> Result<BorrowedFd<'a>, StageError>,
) -> Result<(), StageError> {
    let root = spec.root_point.as_path();
    let bare = MountFlags::NOSUID | MountFlags::NODEV;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .during(|| "cutting the mounts off".into())?;
    mount("gtvp", root, "tmpfs", bare, c"mode=0755,size=256M").during(|| "mounting the root".into())?;

    for folder in &spec.folders {
        fs::create_dir_all(inside(root, folder)).during(|| format!("making {folder}"))?;
    }
    for (at, text) in &spec.texts {
        let path = inside(root, at);
        make_parent(&path)?;
        fs::write(&path, text).during(|| format!("writing {at}"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).during(|| format!("writing {at}"))?;
    }
    // Devices are nodes of the jail's own, so that they are the row's uid's whoever they are the host's.
    let dev = inside(root, "/dev");
    let device_flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("gtvp", &dev, "tmpfs", device_flags, c"mode=0755,size=64k").during(|| "mounting /dev".into())?;
    for file in &spec.files {
        place_file(root, fd(file.from)?, file, &spec.file_systems)?;
    }
    for bind in &spec.binds {
        if !(bind.device && make_device(root, bind, spec.uid)?) {
            bind_path(root, bind)?;
        }
    }
    if spec.pid_namespace {
        symlink("/proc/self/fd", inside(root, "/dev/fd")).during(|| "making /dev/fd".into())?;
    }
    mount_remount(&dev, device_flags | MountFlags::RDONLY | MountFlags::BIND, c"")
        .during(|| "closing /dev".into())?;
    if let Some(size) = spec.tmp {
        let at = inside(root, "/tmp");
        fs::create_dir_all(&at).during(|| "making /tmp".into())?;
        let options = format!("mode=0700,uid={},gid={},size={size}\0", spec.uid, spec.uid);
        let options =
            std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).map_err(|_| StageError::Supervisor)?;
        mount("gtvp", &at, "tmpfs", bare, options).during(|| "mounting /tmp".into())?;
    }
    if spec.pid_namespace {
        let at = inside(root, "/proc");
        fs::create_dir_all(&at).during(|| "making /proc".into())?;
        mount("proc", &at, "proc", bare | MountFlags::NOEXEC, c"hidepid=2,subset=pid")
            .or_else(|_| mount("proc", &at, "proc", bare | MountFlags::NOEXEC, c"hidepid=2"))
            .during(|| "mounting /proc".into())?;
    }
    std::env::set_current_dir(root).during(|| "entering the root".into())?;
    rustix::process::pivot_root(".", ".").during(|| "changing the root".into())?;
    unmount(".", UnmountFlags::DETACH).during(|| "letting the host's root go".into())?;
    std::env::set_current_dir("/").during(|| "entering the root".into())?;
    mount_remount("/", bare | MountFlags::RDONLY | MountFlags::BIND, c"").during(|| "closing the root".into())
}

fn make_parent(path: &Path) -> Result<(), StageError> {
    path.parent().map_or(Ok(()), |p| fs::create_dir_all(p).during(|| format!("making {}", p.display())))
}

fn bind_path(root: &Path, bind: &Bind) -> Result<(), StageError> {
    let said = || format!("binding {}", bind.from.display());
    let from = match fs::metadata(&bind.from) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound && bind.optional => return Ok(()),
        Err(e) => return Err(e).during(said),
    };
    let at = inside(root, &bind.at);
    if from.is_dir() {
        fs::create_dir_all(&at).during(said)?;
    } else {
        make_parent(&at)?;
        OpenOptions::new().create(true).append(true).mode(0o444).open(&at).during(said)?;
    }
    mount_bind(&bind.from, &at).during(said)?;
    let mut flags = MountFlags::BIND | MountFlags::NOSUID;
    if !bind.device {
        flags |= MountFlags::NODEV;
    }
    if bind.access != Access::Rx {
        flags |= MountFlags::NOEXEC;
    }
    if bind.access != Access::Rw {
        flags |= MountFlags::RDONLY;
    }
    mount_remount(&at, flags, c"").during(said)
}

/// Makes a device node for the row's uid; `false` where the host does not let gtvpd make nodes.
fn make_device(root: &Path, bind: &Bind, uid: u32) -> Result<bool, StageError> {
    let said = || format!("making {}", bind.at);
    let host = match fs::metadata(&bind.from) {
        Ok(meta) if meta.file_type().is_char_device() => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound && bind.optional => return Ok(true),
        Ok(_) => return Ok(false),
        Err(e) => return Err(e).during(said),
    };
    let at = inside(root, &bind.at);
    make_parent(&at)?;
    let kind = rustix::fs::FileType::CharacterDevice;
    let mode = if bind.access == Access::Rw { 0o600 } else { 0o400 };
    match rustix::fs::mknodat(rustix::fs::CWD, &at, kind, Mode::from_raw_mode(mode), host.rdev()) {
        Err(rustix::io::Errno::PERM) => return Ok(false),
        other => other.during(said)?,
    }
    chown(&at, Some(uid), Some(uid)).during(said)?;
    Ok(true)
}

/// Makes a descriptor's file appear. Mounts the file itself where it can be reached from here and the program may read it;
/// else (memory, a private file) copies it, and a copy is only to be read.
fn place_file(
    root: &Path,
    fd: BorrowedFd<'_>,
    file: &FileFrom,
    file_systems: &[PathBuf],
) -> Result<(), StageError> {
    let said = || format!("placing {}", file.at);
    let at = inside(root, &file.at);
    let stat = rustix::fs::fstat(fd).during(said)?;
    if stat.st_mode & 0o004 == 0 || mount_file(fd, &stat, &at, file_systems).is_err() {
        // An attempt to mount may have left an empty file.
        let _ = fs::remove_file(&at);
        return copy_file(fd, &at).during(said);
    }
    let mut flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    if !file.writable {
        flags |= MountFlags::RDONLY;
    }
    mount_remount(&at, flags, c"").during(said)
}

fn mount_file(
    fd: BorrowedFd<'_>,
    stat: &rustix::fs::Stat,
    at: &Path,
    file_systems: &[PathBuf],
) -> io::Result<()> {
    let same = |path: &&PathBuf| fs::metadata(path).is_ok_and(|m| m.dev() == stat.st_dev);
    let mount = File::open(file_systems.iter().find(same).ok_or(io::ErrorKind::CrossesDevices)?)?;
    let reachable = sys::reopen_through(mount.as_fd(), fd)?;
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o444).open(at)?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&reachable);
    Ok(mount_bind(format!("/proc/self/fd/{number}"), at)?)
}

/// Copies all of the file behind `from`, whatever its position is.
fn copy_file(from: BorrowedFd<'_>, at: &Path) -> io::Result<()> {
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent)?;
    }
    let to: File = OpenOptions::new().write(true).create_new(true).mode(0o444).open(at)?;
    let mut offset = 0u64;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let n = match rustix::io::pread(from, &mut buffer, offset) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        if n == 0 {
            return Ok(());
        }
        let mut written = 0;
        while written < n {
            written += rustix::io::pwrite(&to, &buffer[written..n], offset + written as u64)?;
        }
        offset += n as u64;
    }
}
