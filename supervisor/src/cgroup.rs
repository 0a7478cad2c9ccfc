//! Memory limits by cgroup, where the host lets gtvpd have one: version 2, or version 1's memory controller.
//! A host without either loses the limit, and `gtvp doctor` says so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The cgroups of one member.
#[derive(Debug, Clone)]
pub struct Cgroups {
    base: Option<Base>,
}

#[derive(Debug, Clone)]
enum Base {
    V2(PathBuf),
    V1(PathBuf),
}

/// Where cgroup file systems are mounted.
const ROOTS_V2: &[&str] = &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
const ROOT_V1: &str = "/sys/fs/cgroup/memory";

impl Cgroups {
    /// No cgroup at all.
    pub fn none() -> Self {
        Self { base: None }
    }

    /// Makes the member's group, called `name`.
    pub fn open(name: &str) -> Self {
        for root in ROOTS_V2.iter().map(Path::new) {
            let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
            if controllers.split_ascii_whitespace().any(|c| c == "memory") {
                let made = enable(root)
                    .and_then(|()| make(&root.join(name)))
                    .and_then(|()| enable(&root.join(name)));
                return Self { base: told(made).map(|()| Base::V2(root.join(name))) };
            }
        }
        let v1 = Path::new(ROOT_V1);
        if v1.join("memory.limit_in_bytes").exists() || v1.join("cgroup.procs").exists() {
            return Self { base: told(make(&v1.join(name))).map(|()| Base::V1(v1.join(name))) };
        }
        Self { base: None }
    }

    /// Puts a process into a group of its own with this limit.
    pub fn place(&self, name: &str, pid: i32, memory_max: Option<u64>) {
        let Some(base) = &self.base else { return };
        let (group, file) = match base {
            Base::V2(path) => (path.join(name), "memory.max"),
            Base::V1(path) => (path.join(name), "memory.limit_in_bytes"),
        };
        let limit = memory_max.map_or_else(
            || if matches!(base, Base::V1(_)) { "-1".to_owned() } else { "max".to_owned() },
            |m| m.to_string(),
        );
        let placed = make(&group)
            .and_then(|()| fs::write(group.join(file), limit))
            .and_then(|()| fs::write(group.join("cgroup.procs"), pid.to_string()));
        if let Err(e) = placed {
            say!("{name} has no memory limit: {}: {e}", group.display());
        }
    }

    /// Removes an empty group.
    pub fn remove(&self, name: &str) {
        if let Some(Base::V2(path) | Base::V1(path)) = &self.base {
            // Still busy or gone: both are left as they are.
            let _ = fs::remove_dir(path.join(name));
        }
    }

    /// Removes the member's group and what is empty in it.
    pub fn remove_all(&self) {
        let Some(Base::V2(path) | Base::V1(path)) = &self.base else { return };
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                let _ = fs::remove_dir(entry.path());
            }
        }
        let _ = fs::remove_dir(path);
    }

    /// In words, for the host checks: `None` when there is none.
    pub fn kind(&self) -> Option<&'static str> {
        self.base.as_ref().map(|base| if matches!(base, Base::V2(_)) { "version 2" } else { "version 1" })
    }
}

fn make(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Gives the memory controller to the groups below.
fn enable(path: &Path) -> io::Result<()> {
    let file = path.join("cgroup.subtree_control");
    if fs::read_to_string(&file)?.split_ascii_whitespace().any(|c| c == "memory") {
        return Ok(());
    }
    fs::write(file, "+memory")
}

fn told(result: io::Result<()>) -> Option<()> {
    result.map_err(|e| say!("there is no memory cgroup for this member: {e}")).ok()
}
