//! What gtvpd writes down about the processes that outlive it: one file each in the run directory, so that the next
//! gtvpd finds them again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use gtvp_model::ids::Slot;
use serde::{Deserialize, Serialize};

/// Largest record that is read: names and arguments of one process.
const MAX_RECORD: u64 = 1024 * 1024;

/// A process of a template, or (with `domain`) a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its number with the supervisor.
    pub process: u64,
    /// Row of topology.toml.
    pub template: String,
    /// Its box.
    pub slot: Option<Slot>,
    /// The domain that asked for it.
    pub owner: String,
    /// A domain: it should have died with its gtvpd.
    #[serde(default)]
    pub domain: bool,
    /// It should have died with its owner's connection.
    pub tied: bool,
    /// Its arguments.
    pub argv: Vec<String>,
    /// Number and name of each descriptor.
    pub numbers: Vec<(String, i32)>,
    /// Its process id.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
}

/// The folder of records.
#[derive(Debug, Clone)]
pub struct Records {
    folder: PathBuf,
}

impl Records {
    /// The records in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Writes one, replacing the one of the same process.
    pub fn write(&self, record: &Record) {
        let result = serde_json::to_vec_pretty(record).map_err(io::Error::other).and_then(|json| {
            let path = self.path(record);
            let new = path.with_extension("new");
            fs::write(&new, json)?;
            fs::rename(&new, &path)
        });
        if let Err(e) = result {
            say!(
                "{} {} cannot be written down, a new gtvpd would not know it: {e}",
                record.template,
                record.process
            );
        }
    }

    /// Forgets one.
    pub fn remove(&self, record: &Record) {
        // Not there is what is wanted.
        let _ = fs::remove_file(self.path(record));
    }

    /// Every readable record; unreadable ones are told and left.
    pub fn read(&self) -> Vec<Record> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let json = entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|x| x == "json"));
        json.filter_map(|path| {
            read_one(&path).map_err(|e| say!("{} is no record of a process: {e}", path.display())).ok()
        })
        .collect()
    }

    fn path(&self, record: &Record) -> PathBuf {
        let kind = if record.domain { "domain" } else { "process" };
        let name = if record.domain { record.template.clone() } else { record.process.to_string() };
        self.folder.join(format!("{kind}-{name}.json"))
    }
}

fn read_one(path: &Path) -> io::Result<Record> {
    if fs::metadata(path)?.len() > MAX_RECORD {
        return Err(io::Error::other("it is too large"));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}
