//! The member's folders and sockets on the host. Everything here may be repeated.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use gtvp_model::ids::Slot;
use gtvp_model::topology::TemplateRow;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::member::Member;
use crate::plan;

/// Why a folder or socket is not there.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// One of them cannot be made.
    #[error("{0}: {1}")]
    Path(PathBuf, #[source] io::Error),
    /// Another gtvpd serves this member.
    #[error("another gtvpd (pid {0}) serves this member")]
    Taken(String),
    /// member.toml's `api_group`.
    #[error("there is no group {0:?} (api_group in member.toml)")]
    NoGroup(String),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> PlaceError {
    let path = path.to_owned();
    move |e| PlaceError::Path(path, e)
}

/// Held while gtvpd runs: one for each member.
pub fn lock(member: &Member) -> Result<OwnedFd, PlaceError> {
    folder(&member.config.run_dir, 0o755, None)?;
    let path = member.run("gtvpd.lock");
    let file =
        OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(&path).map_err(at(&path))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let pid = fs::read_to_string(&path).unwrap_or_default();
        return Err(PlaceError::Taken(pid.trim().chars().take(16).collect()));
    }
    file.set_len(0)
        .and_then(|()| io::Write::write_all(&mut &file, std::process::id().to_string().as_bytes()))
        .map_err(at(&path))?;
    Ok(file.into())
}

/// The process that holds the lock, if one does.
pub fn lock_holder(member: &Member) -> Option<i32> {
    let path = member.run("gtvpd.lock");
    let file = File::open(&path).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => None,
        Err(_) => fs::read_to_string(&path).ok()?.trim().parse().ok(),
    }
}

/// Makes every folder, and the files that all jails see.
pub fn folders(member: &Member) -> Result<(), PlaceError> {
    let config = &member.config;
    folder(&config.state_dir, 0o711, None)?;
    for name in ["ipc", "ways", "keeper", "procs", "root", "log", "sockets"] {
        folder(&member.run(name), 0o700, None)?;
    }
    folder(&member.run("gtvp"), 0o755, None)?;
    for (name, row) in &member.topology.domain {
        let uid = config.uid(row.uid);
        folder(&member.state_of(name), 0o700, Some(uid))?;
        folder(&member.run_of(name), 0o700, Some(uid))?;
    }
    for (name, row) in &member.topology.template {
        // A template with a uid of its own (not a box's) may have folders like a domain.
        if let Ok(offset) = row.uid.parse() {
            folder(&member.state_of(name), 0o700, Some(config.uid(offset)))?;
            folder(&member.run_of(name), 0o700, Some(config.uid(offset)))?;
            // Whoever sees it in its jail may connect; the folder above lets nobody else in.
            folder(&member.sockets_of(name, None), 0o711, Some(config.uid(offset)))?;
        } else if has_sockets(row) {
            // One in it for each box: see [`box_sockets`].
            folder(&member.sockets_of(name, None), 0o711, None)?;
        }
    }
    json(&member.run("gtvp/member.json"), config)?;
    json(&member.run("gtvp/callers.json"), &member.topology.callers())?;
    let _ = fs::remove_file(member.run("ready"));
    Ok(())
}

fn has_sockets(row: &TemplateRow) -> bool {
    row.jail.paths.iter().any(|p| p.path == plan::SOCKETS)
}

/// The folder for the socket of a box's process, empty: what listened in it before has ended. Nothing if its row has none.
pub fn box_sockets(
    member: &Member,
    template: &str,
    row: &TemplateRow,
    slot: Slot,
    uid: u32,
) -> Result<(), PlaceError> {
    if !has_sockets(row) {
        return Ok(());
    }
    let path = member.sockets_of(template, Some(slot));
    match fs::remove_dir_all(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(&path)(e)),
        _ => {}
    }
    folder(&path, 0o711, Some(uid))
}

fn folder(path: &Path, mode: u32, owner: Option<u32>) -> Result<(), PlaceError> {
    match fs::DirBuilder::new().recursive(true).mode(mode).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => other.map_err(at(path))?,
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(at(path))?;
    let owner = owner.unwrap_or(0);
    chown(path, Some(owner), Some(owner)).map_err(at(path))
}

fn json<T: serde::Serialize>(path: &Path, value: &T) -> Result<(), PlaceError> {
    let new = path.with_extension("new");
    let text = serde_json::to_vec(value).map_err(|e| at(path)(e.into()))?;
    fs::write(&new, text)
        .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(0o444)))
        .and_then(|()| fs::rename(&new, path))
        .map_err(at(path))
}

/// The listening socket of a domain or of `supervisor`.
pub fn socket(member: &Member, name: &str) -> Result<UnixListener, PlaceError> {
    // Who may call is decided by peer credentials; who can reach it, by the folders it is linked into.
    listener(&member.socket_of(name), 0o666, None)
}

/// The socket of the API for the local CLI.
pub fn people_socket(member: &Member) -> Result<UnixListener, PlaceError> {
    let path = &member.config.api_socket;
    if let Some(parent) = path.parent().filter(|p| !p.exists()) {
        folder(parent, 0o755, None)?;
    }
    let group = member.config.api_group.as_deref().map(group).transpose()?;
    listener(path, if group.is_some() { 0o660 } else { 0o600 }, group)
}

fn listener(path: &Path, mode: u32, group: Option<u32>) -> Result<UnixListener, PlaceError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(path)(e)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(at(path))?;
    // std's own backlog is 128; callers wait here while a domain restarts.
    rustix::net::listen(&listener, BACKLOG).map_err(|e| at(path)(e.into()))?;
    chown(path, Some(0), Some(group.unwrap_or(0))).map_err(at(path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(at(path))?;
    Ok(listener)
}

/// Callers that may wait while a domain restarts: a few for each of 252 boxes.
const BACKLOG: i32 = 1024;

fn group(name: &str) -> Result<u32, PlaceError> {
    let missing = || PlaceError::NoGroup(name.to_owned());
    let text = fs::read_to_string("/etc/group").map_err(at(Path::new("/etc/group")))?;
    let fields = text.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| f.first() == Some(&name));
    fields.and_then(|f| f.get(2)?.parse().ok()).ok_or_else(missing)
}

/// Gives each caller a folder with the sockets that its row lets it reach: hard links, so that processes which outlive
/// gtvpd find the new sockets in the folder that they see already.
pub fn ways(member: &Member) -> Result<(), PlaceError> {
    for caller in member.callers() {
        let way = member.ways_of(caller);
        folder(&way, 0o755, None)?;
        let callees = member.callees_of(caller);
        for entry in fs::read_dir(&way).map_err(at(&way))?.flatten() {
            let name = entry.file_name();
            if !callees.iter().any(|c| name.to_str() == Some(&format!("{c}.sock"))) {
                fs::remove_file(entry.path()).map_err(at(&entry.path()))?;
            }
        }
        for callee in callees {
            let link = way.join(format!("{callee}.sock"));
            let new = way.join(format!(".{callee}.new"));
            let _ = fs::remove_file(&new);
            fs::hard_link(member.socket_of(&callee), &new)
                .and_then(|()| fs::rename(&new, &link))
                .map_err(at(&link))?;
        }
    }
    Ok(())
}

/// The folders of [`ways`] alone: a jail can be built while nobody listens.
pub fn ways_folders(member: &Member) -> Result<(), PlaceError> {
    member.callers().try_for_each(|caller| folder(&member.ways_of(caller), 0o755, None))
}

/// What goes when gtvpd ends in order: it is not ready any more, and people's socket answers nobody.
pub fn close(member: &Member) {
    let _ = fs::remove_file(member.run("ready"));
    let _ = fs::remove_file(&member.config.api_socket);
}

/// gtvpd itself holds what many boxes have stored.
pub fn raise_file_limit() {
    let most = getrlimit(Resource::Nofile).maximum;
    // Staying where it was limits the number of boxes, nothing else.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
}
