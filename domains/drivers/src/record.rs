//! What is kept on disk of a box: enough to find its machine again after this domain's death, and its machine id.
//!
//! `boxes/<slot>/` holds `run.json`, `machine-id`, `upper.img` and the logs. Other processes of a box reach these only
//! by descriptors handed to them.

use gtvp_model::hex::hex;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use gtvp_model::boxspec::Publish;
use gtvp_model::digest::Digest;
use gtvp_model::ids::Slot;
use serde::{Deserialize, Serialize};

use crate::engine::Phase;

/// A box's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Format of this file: [`FORMAT`].
    pub format: u32,
    /// Its name.
    pub name: String,
    /// What it runs on, in words.
    pub accelerator: String,
    /// Memory it was started with, bytes.
    pub memory: u64,
    /// Whether the machine is kept when the application has ended.
    pub hold: bool,
    /// Published ports.
    pub publish: Vec<Publish>,
    /// Where it is.
    pub state: Phase,
    /// Whether its processors are halted.
    pub paused: bool,
    /// The template that it was started from.
    #[serde(default)]
    pub template: Option<Digest>,
}

/// Version of the record's format.
pub const FORMAT: u32 = 1;

/// The folders of this domain.
#[derive(Debug, Clone)]
pub struct Folders {
    /// `/state`.
    pub state: PathBuf,
    /// `/run`.
    pub run: PathBuf,
}

impl Folders {
    /// A box's folder that is kept.
    pub fn of_box(&self, slot: Slot) -> PathBuf {
        self.state.join("boxes").join(slot.get().to_string())
    }

    /// A box's sockets.
    pub fn sockets(&self, slot: Slot) -> PathBuf {
        self.run.join(slot.get().to_string())
    }

    /// Every slot that has a folder.
    pub fn slots(&self) -> io::Result<Vec<Slot>> {
        let entries = match std::fs::read_dir(self.state.join("boxes")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut slots = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            slots.extend(name.to_str().and_then(|n| n.parse().ok()).and_then(Slot::new));
        }
        Ok(slots)
    }
}

/// Makes a folder that only this domain can enter.
pub fn private_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Replaces a small file as a whole. Not made to last over a crash of the host: that ends the machines that these files
/// speak of, and a start does not wait for the disk.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    std::fs::rename(&new, path)
}

/// Removes a file or folder; one that is not there is no error.
pub fn remove(path: &Path) -> io::Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(e) => Err(e),
    };
    removed.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

impl Record {
    /// Writes it.
    pub fn save(&self, folder: &Path) -> io::Result<()> {
        replace(&folder.join("run.json"), &serde_json::to_vec_pretty(self)?)
    }

    /// Reads it; `None` when there is none, or none that this version understands.
    pub fn load(folder: &Path) -> Option<Self> {
        let bytes = std::fs::read(folder.join("run.json")).ok()?;
        serde_json::from_slice::<Self>(&bytes).ok().filter(|r| r.format == FORMAT)
    }
}

/// `bytes` random bytes in hexadecimal.
pub fn random_hex(bytes: usize) -> io::Result<String> {
    let mut random = vec![0u8; bytes];
    let n = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    if n != bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(hex(&random))
}

/// The box's machine id, drawn at its first start.
pub fn machine_id(folder: &Path) -> io::Result<String> {
    let path = folder.join("machine-id");
    if let Ok(id) = std::fs::read_to_string(&path) {
        if id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(id);
        }
    }
    let id = random_hex(16)?;
    replace(&path, id.as_bytes())?;
    Ok(id)
}
