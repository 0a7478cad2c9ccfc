//! What gtvpd measures before it starts it: SHA-256 of each program, of topology.toml and of member.toml. `security` hears of it and
//! takes it into the log and the TPM; gtvpd itself has no TPM.
//!
//! A file that is changed between its measurement and its start is seen by its inode and times, and what was started is ended.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use gtvp_ipc::supervisor::{MeasuredKind, Measurement};
use gtvp_model::digest::Digest;
use sha2::{Digest as _, Sha256};

use crate::mail::Post;

const CHUNK: usize = 256 * 1024;

/// Which file it is, and as of when: the kernel changes `ctime` with every change of contents or owner, and nobody can set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &std::fs::Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Whether the file at `path` is still that.
    pub fn holds(self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|meta| Self::of(&meta) == self)
    }
}

/// Everything that was measured since gtvpd began.
#[derive(Debug, Default)]
pub struct Measurements {
    all: Vec<Measurement>,
    watchers: Vec<Post<Measurement>>,
    /// Digests of files that have not changed since.
    known: BTreeMap<Stamp, Digest>,
}

impl Measurements {
    /// Measures a program that is about to be started.
    pub fn program(&mut self, kind: MeasuredKind, subject: &str, path: &Path) -> io::Result<Stamp> {
        let mut file = File::open(path)?;
        let stamp = Stamp::of(&file.metadata()?);
        let value = match self.known.get(&stamp) {
            Some(known) => *known,
            None => {
                let value = hash(&mut file)?;
                if Stamp::of(&file.metadata()?) != stamp {
                    return Err(io::Error::other(format!("{} changes while it is read", path.display())));
                }
                // An earlier state of the same file is of no use any more.
                self.known.retain(|s, _| (s.device, s.inode) != (stamp.device, stamp.inode));
                self.known.insert(stamp, value);
                value
            }
        };
        self.add(Measurement { kind, subject: subject.to_owned(), value });
        Ok(stamp)
    }

    /// Takes what was measured when it was read. What the newest measurement of this says already is not said again.
    pub fn add(&mut self, new: Measurement) {
        let newest = self.all.iter().rev().find(|m| m.kind == new.kind && m.subject == new.subject);
        if newest.is_some_and(|m| m.value == new.value) {
            return;
        }
        self.watchers.retain(|w| w.send(new.clone()));
        self.all.push(new);
    }

    /// A watcher: hears everything that there is, then what comes.
    pub fn watch(&mut self, watcher: Post<Measurement>) {
        if self.all.iter().all(|m| watcher.send(m.clone())) {
            self.watchers.push(watcher);
        }
    }
}

fn hash(file: &mut File) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(Digest(hasher.finalize().into())),
            Ok(n) => hasher.update(chunk.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_change_is_measured_and_the_same_is_said_once() {
        let path = std::env::temp_dir().join(format!("gtvp-measure-{}", std::process::id()));
        let mut m = Measurements::default();
        let (watcher, heard) = crate::mail::mailbox().unwrap();
        let measure = |m: &mut Measurements, text: &str| {
            fs::write(&path, text).unwrap();
            m.program(MeasuredKind::Binary, "x", &path).unwrap()
        };
        let first = measure(&mut m, "one");
        m.watch(watcher);
        assert!(first.holds(&path));
        m.program(MeasuredKind::Binary, "x", &path).unwrap();
        measure(&mut m, "two");
        assert!(!first.holds(&path), "a change is not seen");
        // Back again: that is said too.
        measure(&mut m, "one");
        let values: Vec<Digest> = std::iter::from_fn(|| heard.try_next().ok()).map(|m| m.value).collect();
        assert_eq!(values, [b"one", b"two", b"one"].map(|t| Digest::of(t)));
        fs::remove_file(&path).unwrap();
        assert!(m.program(MeasuredKind::Binary, "x", &path).is_err(), "what is not there was measured");
    }
}
