//! A box's writable layer: a sparse file, formatted at the first start by a jailed mke2fs.

use std::fs::{File, OpenOptions, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::Slot;
use gtvp_model::units::Bytes;

use crate::link::{Link, TiedEnd};
use crate::{record, words};

/// Writing a few megabytes: far less than this even on a slow disk.
const LIMIT: Duration = Duration::from_secs(60);

/// Opens the layer; makes it first when there is none. `true` when it was made.
pub fn open(
    link: &Link,
    slot: Slot,
    folder: &Path,
    size: Bytes,
    wanted: impl FnMut() -> bool,
) -> Result<(File, bool), Fault> {
    let path = folder.join("upper.img");
    let failed = |e: std::io::Error| Fault::internal("the box's writable layer cannot be opened", &e);
    match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => return Ok((file, false)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
    }
    let new = folder.join("upper.new");
    let made = make(link, slot, folder, &new, size, wanted);
    let file = match made {
        Ok(file) => file,
        Err(fault) => {
            let _ = record::remove(&new);
            return Err(fault);
        }
    };
    std::fs::rename(&new, &path).map_err(failed)?;
    Ok((file, true))
}

fn make(
    link: &Link,
    slot: Slot,
    folder: &Path,
    new: &Path,
    size: Bytes,
    wanted: impl FnMut() -> bool,
) -> Result<File, Fault> {
    let failed = |e: std::io::Error| {
        let kind =
            if e.raw_os_error() == Some(libc::ENOSPC) { FaultKind::NoRoom } else { FaultKind::Internal };
        Fault::new(kind, "the box's writable layer cannot be made").caused_by(&e)
    };
    record::remove(new).map_err(failed)?;
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(new).map_err(failed)?;
    file.set_len(size.0).map_err(failed)?;
    // mke2fs opens it by name with a uid of its own; the folder above keeps everyone else out.
    file.set_permissions(Permissions::from_mode(0o666)).map_err(failed)?;
    let said_path = folder.join("mkfs.log");
    let said = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&said_path);
    let said = said.map_err(failed)?;
    let fds = [("disk", file.as_fd()), ("stderr", said.as_fd())];
    let ended = link.run("mkfs", Some(slot), &fds, LIMIT, wanted)?;
    let line = words::last_line(&words::tail(&said_path));
    record::remove(&said_path).map_err(failed)?;
    match ended {
        TiedEnd::Ended(end) if end.code == Some(0) => {}
        TiedEnd::Ended(end) => {
            let fault = Fault::new(FaultKind::Internal, "the box's writable layer cannot be formatted");
            return Err(fault.because(line.unwrap_or(format!("mke2fs ended ({})", end.how))));
        }
        TiedEnd::GivenUp => return Err(Fault::new(FaultKind::Cancelled, "the start was cancelled")),
    }
    file.set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(file)
}
