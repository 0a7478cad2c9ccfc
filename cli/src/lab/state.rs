//! What labs leave on this machine: `lab.toml` and each member's `member.toml` below the run directory; a lock that a
//! member's keeper holds while it lives.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use gtvp_model::fault::Fault;
use gtvp_model::member::MemberConfig;
use rustix::fs::{FlockOperation, flock};
use rustix::process::Pid;

use super::plan::Lab;
use crate::failure::{invalid, io};

/// Most bytes of one of our files.
const MAX_FILE: u64 = 64 * 1024;
/// The file that a keeper holds locked, with its process id in it.
pub const KEEPER_LOCK: &str = "keeper.lock";
/// What gtvpd wrote on its standard error.
pub const LOG: &str = "gtvpd.log";

/// A lab's member as found on this machine.
#[derive(Debug, Clone)]
pub struct LabMember {
    /// Its lab.
    pub lab: String,
    /// Its run directory.
    pub run_dir: PathBuf,
    /// Its configuration.
    pub config: MemberConfig,
}

impl LabMember {
    /// `LAB/MEMBER`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.lab, self.config.name)
    }

    /// The keeper's process, if it lives.
    pub fn keeper(&self) -> Option<Pid> {
        keeper(&self.run_dir)
    }
}

/// The process that keeps the member of this run directory running.
pub fn keeper(run_dir: &Path) -> Option<Pid> {
    let mut file = File::open(run_dir.join(KEEPER_LOCK)).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(rustix::io::Errno::WOULDBLOCK) => {}
        _ => return None,
    }
    let mut text = String::new();
    Read::take(&mut file, 32).read_to_string(&mut text).ok()?;
    Pid::from_raw(text.trim().parse().ok()?)
}

/// Every member of every lab, by lab and number. What cannot be read is left out.
pub fn members(run_root: &Path) -> Vec<LabMember> {
    let mut found: Vec<LabMember> = labs(run_root).iter().flat_map(|lab| members_of(run_root, lab)).collect();
    found.sort_by_key(|m| (m.lab.clone(), m.config.name.as_str().len(), m.config.name.clone()));
    found
}

/// The members of one lab.
pub fn members_of(run_root: &Path, lab: &str) -> Vec<LabMember> {
    let dir = run_root.join("lab").join(lab);
    let mut found: Vec<LabMember> = folders(&dir)
        .into_iter()
        .filter_map(|name| {
            let run_dir = dir.join(name);
            let config = gtvp_model::member::parse(&read(&run_dir.join("member.toml")).ok()?).ok()?;
            Some(LabMember { lab: lab.to_owned(), run_dir, config })
        })
        .collect();
    found.sort_by_key(|m| (m.config.name.as_str().len(), m.config.name.clone()));
    found
}

/// The names of the labs.
pub fn labs(run_root: &Path) -> Vec<String> {
    folders(&run_root.join("lab"))
}

fn folders(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// The lab that this directory's `lab.toml` describes, if there is one.
pub fn read_lab(dir: &Path) -> Result<Option<Lab>, Fault> {
    let file = dir.join("lab.toml");
    let text = match read(&file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(format!("{} cannot be read", file.display()), &e)),
    };
    let lab: Lab = toml::from_str(&text).map_err(|e| {
        invalid(format!("{} cannot be understood", file.display()))
            .because(e.message())
            .hint("remove it, then gtvp lab down and up")
    })?;
    lab.check()?;
    Ok(Some(lab))
}

/// Writes a file as a whole or not at all, if it does not say so already. Gives whether it was written.
pub fn write(path: &Path, text: &str) -> Result<bool, Fault> {
    if read(path).is_ok_and(|have| have == text) {
        return Ok(false);
    }
    let cannot = |e: std::io::Error| io(format!("{} cannot be written", path.display()), &e);
    let new = path.with_extension("new");
    std::fs::write(&new, text).map_err(cannot)?;
    std::fs::rename(&new, path).map_err(cannot)?;
    Ok(true)
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// Gives what a lab kept under other uids to its uids of now.
pub fn give_to(dir: &Path, before: &std::ops::Range<u32>, now: &std::ops::Range<u32>) -> Result<(), Fault> {
    let moved = |id: u32| before.contains(&id).then(|| id - before.start + now.start);
    let cannot = |path: &Path, e: &std::io::Error| {
        io(format!("{} cannot be given to the lab's new uids", path.display()), e)
    };
    let mut waiting = vec![dir.to_owned()];
    while let Some(path) = waiting.pop() {
        let found = std::fs::symlink_metadata(&path).map_err(|e| cannot(&path, &e))?;
        let (uid, gid) = (moved(found.uid()), moved(found.gid()));
        if uid.is_some() || gid.is_some() {
            std::os::unix::fs::lchown(&path, uid, gid).map_err(|e| cannot(&path, &e))?;
        }
        if found.is_dir() {
            for entry in std::fs::read_dir(&path).map_err(|e| cannot(&path, &e))? {
                waiting.push(entry.map_err(|e| cannot(&path, &e))?.path());
            }
        }
    }
    Ok(())
}

/// Makes a directory and those above it.
pub fn make_dir(dir: &Path) -> Result<(), Fault> {
    std::fs::create_dir_all(dir).map_err(|e| io(format!("{} cannot be made", dir.display()), &e))
}

/// Holds off other `lab up` and `lab down` until it is dropped.
pub fn lock(run_root: &Path) -> Result<File, Fault> {
    let dir = run_root.join("lab");
    make_dir(&dir)?;
    let path = dir.join(".lock");
    let cannot = |e: std::io::Error| io(format!("{} cannot be locked", path.display()), &e);
    let file = File::create(&path).map_err(cannot)?;
    flock(&file, FlockOperation::LockExclusive).map_err(|e| cannot(e.into()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_by_their_files_and_broken_ones_are_left_out() {
        let root = tempfile::tempdir().unwrap();
        let lab = Lab { name: "lab".parse().unwrap(), index: 0, network: 88, dir: "/d".into() };
        for n in [2, 10, 1] {
            let m = lab.member(n, root.path()).unwrap();
            make_dir(&m.config.run_dir).unwrap();
            assert!(
                write(&m.config.run_dir.join("member.toml"), &toml::to_string(&m.config).unwrap()).unwrap()
            );
        }
        make_dir(&root.path().join("lab/lab/m3")).unwrap();
        write(&root.path().join("lab/lab/m3/member.toml"), "garbage").unwrap();
        let names: Vec<String> = members(root.path()).iter().map(LabMember::full_name).collect();
        assert_eq!(names, ["lab/m1", "lab/m2", "lab/m10"]);
    }

    #[test]
    fn what_was_kept_under_other_uids_is_given_over_and_nothing_else_is() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (ours, other, link) =
            (dir.path().join("d/ours"), dir.path().join("other"), dir.path().join("link"));
        make_dir(ours.parent().unwrap()).unwrap();
        std::fs::write(&ours, "").unwrap();
        std::fs::write(&other, "").unwrap();
        std::os::unix::fs::symlink(&other, &link).unwrap();
        std::os::unix::fs::chown(&ours, Some(5_000_007), Some(5_000_008)).unwrap();
        std::os::unix::fs::lchown(&link, Some(5_000_001), None).unwrap();
        give_to(dir.path(), &(5_000_000..5_001_000), &(6_000_000..6_001_000)).unwrap();
        let owner = |p: &Path| std::fs::symlink_metadata(p).map(|m| (m.uid(), m.gid())).unwrap();
        assert_eq!((owner(&ours), owner(&other)), ((6_000_007, 6_000_008), (0, 0)));
        assert_eq!(owner(&link).0, 6_000_001);
    }

    #[test]
    fn a_keeper_is_who_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(keeper(dir.path()), None);
        std::fs::write(dir.path().join(KEEPER_LOCK), "4711\n").unwrap();
        assert_eq!(keeper(dir.path()), None, "nobody holds it");
        let held = File::open(dir.path().join(KEEPER_LOCK)).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        assert_eq!(keeper(dir.path()), Pid::from_raw(4711));
    }
}
