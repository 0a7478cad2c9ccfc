//! What is kept of each box: one JSON file a box, replaced as a whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use gtvp_ipc::components::LinkedReply;
use gtvp_model::boxspec::BoxSpec;
use gtvp_model::boxview::{BoxState, ExitStatus};
use gtvp_model::digest::Digest;
use gtvp_model::ids::{BoxName, Slot};
use gtvp_model::operation::PhaseTime;
use gtvp_model::units::Bytes;
use serde::{Deserialize, Serialize};

/// A box as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoxRecord {
    /// What was asked for, with later changes: what the next start uses.
    pub spec: BoxSpec,
    /// Its place.
    pub slot: Slot,
    /// Whether it runs maintainer scripts for a composition rather than an application.
    pub builder: bool,
    /// Where it is in its life.
    pub state: BoxState,
    /// It has never run: if its start fails it is removed.
    pub first_start: bool,
    /// When it was made.
    pub created_ms: u64,
    /// When its application became ready.
    pub ready_ms: Option<u64>,
    /// Its composition.
    pub composition: Option<Digest>,
    /// What it runs on.
    pub accelerator: Option<String>,
    /// The template that it was started from last.
    #[serde(default)]
    pub template: Option<Digest>,
    /// How its application ended last.
    pub exit: Option<ExitStatus>,
    /// Why it failed.
    pub failure: Option<String>,
    /// How long each phase of the last start took.
    pub phases: Vec<PhaseTime>,
    /// What the running machine was started with, and its memory now.
    pub started_memory: Bytes,
    /// Memory now.
    pub memory_now: Bytes,
    /// Processors now.
    pub cpus_now: u16,
    /// What it had linked when it ended last.
    pub linked: LinkedReply,
}

/// The folder of records.
pub struct Records {
    dir: PathBuf,
    /// One writer at a time: two replacements of one file would take each other's temporary file away.
    writing: Mutex<()>,
}

impl Records {
    /// Opens (and makes) the folder.
    pub fn open(state: &Path) -> io::Result<Self> {
        let dir = state.join("boxes");
        fs::create_dir_all(&dir)?;
        Ok(Self { dir, writing: Mutex::new(()) })
    }

    /// Every record. A damaged one is set aside, and named in the second list.
    pub fn load(&self) -> io::Result<(Vec<BoxRecord>, Vec<String>)> {
        let (mut records, mut damaged) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match serde_json::from_slice::<BoxRecord>(&fs::read(&path)?) {
                Ok(record) => records.push(record),
                Err(_) => {
                    fs::rename(&path, path.with_extension("damaged"))?;
                    damaged.push(path.display().to_string());
                }
            }
        }
        Ok((records, damaged))
    }

    /// Keeps the record that `current` gives, if it gives one; the one before is replaced as a whole. It is asked under the
    /// lock, so that what is removed meanwhile is not kept again.
    pub fn save(&self, current: impl FnOnce() -> Option<BoxRecord>) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(record) = current() else { return Ok(()) };
        replace(&self.path(&record.spec.name), &serde_json::to_vec_pretty(&record)?)
    }

    /// Forgets a record. `forget` is called under the lock, when the file is gone: only then is the name free again.
    pub fn remove(&self, name: &BoxName, forget: impl FnOnce()) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let removed = fs::remove_file(self.path(name));
        forget();
        match removed {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn path(&self, name: &BoxName) -> PathBuf {
        self.dir.join(format!("{name}.json"))
    }
}

/// Replaces a file as a whole: after a crash it holds the old bytes or the new.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}
