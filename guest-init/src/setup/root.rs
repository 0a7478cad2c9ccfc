//! The box's root: its components by virtio-fs, read-only, under an overlay whose upper layer is the box's disk, or memory
//! when it has none. Then the initramfs is emptied and the overlay becomes this process's root.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gtvp_model::guest::{DISK_SERIAL, ROOT_TAG};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount, mount_move};

use super::SetupFailed;
use crate::console::say;

const LOWER: &str = "/lower";
const LAYER: &str = "/layer";
const NEW: &str = "/newroot";
/// Upper and work directory on the layer.
const UPPER: &str = "/layer/upper";
const WORK: &str = "/layer/work";
/// index, metacopy, redirect_dir off: the layer then holds whole files under their own names, so that it can be exported
/// and mounted on another lower; xino=auto: inode numbers that stay.
const OVERLAY_OPTIONS: &str = "lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work,\
                               index=off,metacopy=off,redirect_dir=off,xino=auto";
/// How long the disk's driver may take to show it.
const DISK_WAIT: Duration = Duration::from_secs(2);

/// The layers of the box's root, as descriptors: their paths are out of sight.
pub struct Root {
    upper: OwnedFd,
    layer: OwnedFd,
}

impl Root {
    /// The directory of what the box has changed.
    pub fn upper(&self) -> &OwnedFd {
        &self.upper
    }

    /// The mount of the writable layer.
    pub fn layer(&self) -> BorrowedFd<'_> {
        self.layer.as_fd()
    }
}

/// Builds the root and makes it this process's.
pub fn enter() -> Result<Root, SetupFailed> {
    let root = |what: &'static str| move |e: std::io::Error| SetupFailed::new("root", what, e);
    for dir in [LOWER, LAYER, NEW] {
        fs::create_dir_all(dir).map_err(root("the initramfs cannot be written"))?;
    }
    let read_only = MountFlags::RDONLY | MountFlags::NOATIME;
    mount(ROOT_TAG, LOWER, "virtiofs", read_only, c"").map_err(|e| {
        SetupFailed::new("root", "the components' file system gtvp-root cannot be mounted", e)
    })?;
    mount_layer()?;
    for dir in [UPPER, WORK] {
        fs::create_dir_all(dir)
            .map_err(|e| SetupFailed::new("layer", "the writable layer cannot be written", e))?;
    }
    // The upper directory's attributes are those of the box's `/`.
    let like = fs::metadata(LOWER).map_err(root("the components' root cannot be read"))?;
    fs::set_permissions(UPPER, fs::Permissions::from_mode(like.mode() & 0o7777))
        .and_then(|()| std::os::unix::fs::chown(UPPER, Some(like.uid()), Some(like.gid())))
        .map_err(|e| SetupFailed::new("layer", "the writable layer cannot be written", e))?;
    let options = std::ffi::CString::new(OVERLAY_OPTIONS).unwrap_or_default();
    mount("overlay", NEW, "overlay", MountFlags::empty(), options.as_c_str())
        .map_err(|e| SetupFailed::new("root", "the overlay cannot be mounted", e))?;
    let open = |path| {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| SetupFailed::new("layer", path, e))
    };
    let layers = Root { upper: open(UPPER)?, layer: open(LAYER)? };
    move_kernel_mounts()?;
    empty_initramfs();
    switch()?;
    Ok(layers)
}

/// The disk with our serial number, or memory.
fn mount_layer() -> Result<(), SetupFailed> {
    let Some(disk) = find_disk()? else {
        let options = c"mode=0755";
        return mount("gtvp-layer", LAYER, "tmpfs", MountFlags::NOATIME, options)
            .map_err(|e| SetupFailed::new("layer", "no memory for the writable layer", e));
    };
    // Blocks that are freed go back to the member.
    mount(&disk, LAYER, "ext4", MountFlags::NOATIME, c"discard").map_err(|e| {
        SetupFailed::new("layer", &format!("the writable layer on {} cannot be mounted", disk.display()), e)
    })
}

/// `/dev/vdX` whose serial number is ours; none when the machine has no disk. A disk that no driver takes is not none.
fn find_disk() -> Result<Option<PathBuf>, SetupFailed> {
    let end = Instant::now() + DISK_WAIT;
    loop {
        let ours = |dir: &fs::DirEntry| {
            fs::read_to_string(dir.path().join("serial")).is_ok_and(|s| s.trim() == DISK_SERIAL)
        };
        let found = fs::read_dir("/sys/block").into_iter().flatten().flatten().find(ours);
        match found.map(|dir| Path::new("/dev").join(dir.file_name())) {
            Some(device) if device.exists() => return Ok(Some(device)),
            None if !unclaimed_disk() => return Ok(None),
            _ if Instant::now() >= end => {
                return Err(SetupFailed::new(
                    "layer",
                    "the disk of the writable layer",
                    "no driver has taken it",
                ));
            }
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Whether a virtio device of type 2, a disk, has no block device below it.
fn unclaimed_disk() -> bool {
    let Ok(devices) = fs::read_dir("/sys/bus/virtio/devices") else { return false };
    devices.flatten().any(|d| {
        fs::read_to_string(d.path().join("device")).is_ok_and(|id| id.trim() == "0x0002")
            && !d.path().join("block").exists()
    })
}

/// Takes /dev, /proc, /sys and /run along, and adds what else programs expect.
fn move_kernel_mounts() -> Result<(), SetupFailed> {
    for name in ["dev", "proc", "sys", "run"] {
        let to = format!("{NEW}/{name}");
        fs::create_dir_all(&to).map_err(|e| SetupFailed::new("root", &to, e))?;
        mount_move(format!("/{name}"), &to).map_err(|e| SetupFailed::new("root", &format!("/{name}"), e))?;
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    for (what, name, options) in
        [("tmpfs", "tmp", c"mode=1777"), ("tmpfs", "dev/shm", c"mode=1777"), ("mqueue", "dev/mqueue", c"")]
    {
        let at = format!("{NEW}/{name}");
        let done = fs::create_dir_all(&at).and_then(|()| Ok(mount(what, &at, what, flags, options)?));
        if let Err(e) = done {
            say!("/{name}: {e}");
        }
    }
    // /run/lock is every user's (FHS 3.0, 5.9).
    let lock = format!("{NEW}/run/lock");
    let _ = fs::create_dir_all(&lock);
    let _ = fs::set_permissions(&lock, fs::Permissions::from_mode(0o1777));
    Ok(())
}

/// Removes the initramfs's files, whose memory is the box's, and nothing that is mounted over it.
fn empty_initramfs() {
    let Ok(device) = fs::symlink_metadata("/").map(|m| m.dev()) else { return };
    fn remove(dir: &Path, device: u64) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            match fs::symlink_metadata(&path) {
                Ok(m) if m.dev() != device => {}
                Ok(m) if m.is_dir() => {
                    remove(&path, device);
                    // One that holds a mount stays.
                    let _ = fs::remove_dir(&path);
                }
                Ok(_) => {
                    if let Err(e) = fs::remove_file(&path) {
                        say!("{}: {e}", path.display());
                    }
                }
                Err(_) => {}
            }
        }
    }
    remove(Path::new("/"), device);
}

/// The initramfs cannot be pivoted away from (pivot_root(2)): the overlay is moved over it.
fn switch() -> Result<(), SetupFailed> {
    let failed = |e: rustix::io::Errno| SetupFailed::new("root", "the root cannot be entered", e);
    rustix::process::chdir(NEW).map_err(failed)?;
    rustix::mount::mount_move(".", "/").map_err(failed)?;
    rustix::process::chroot(".").map_err(failed)?;
    rustix::process::chdir("/").map_err(failed)
}
