//! The store: file contents by fs-verity digest, manifests by digest with their signatures, and an index of what was
//! imported from where.
//!
//! A component exists when its index record does, and that is written last: an import that is interrupted at any step leaves
//! contents that nobody names, which the next import of the same package finds and the next start of the domain tidies.
//! Nothing is replaced in place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gtvp_ipc::security::Signature;
use gtvp_model::boxview::Appraisal;
use gtvp_model::component::{BadManifest, EntryKind, MAX_MANIFEST_BYTES, Manifest};
use gtvp_model::digest::{Digest, FsVerity};
use serde::{Deserialize, Serialize};

use crate::archive::Sink;

/// What the index says of one component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Reference, for example `deb:nginx=1.22.1-9:amd64`.
    pub reference: String,
    /// Manifest digest.
    pub manifest: Digest,
    /// Where it came from.
    pub origin: String,
    /// Bytes of what was imported.
    pub source_bytes: u64,
    /// Bytes of its files.
    pub content_bytes: u64,
    /// Paths.
    pub entries: u64,
    /// When: milliseconds since 1970-01-01 UTC.
    pub imported_ms: u64,
    /// What the last appraisal found.
    pub appraisal: Appraisal,
    /// Files of its control part that run when it is installed: names and contents by digest, in the store like any other.
    pub control: BTreeMap<String, Digest>,
    /// Paths in it that ought to be each box's own, such as private keys that a maintainer script made.
    #[serde(default)]
    pub shared: Vec<String>,
}

impl Record {
    /// Whether maintainer scripts run when it is installed.
    pub fn has_scripts(&self) -> bool {
        self.control.keys().any(|n| crate::deb::is_install_script(n))
    }
}

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk.
    #[error("the store cannot be used at {0}")]
    Io(PathBuf, #[source] io::Error),
    /// A manifest on disk is not what its digest or its format says.
    #[error("the manifest {0} in the store is damaged")]
    Manifest(Digest, #[source] Option<BadManifest>),
    /// Contents are not what their digest says.
    #[error("the contents {0} in the store are damaged")]
    Object(Digest),
}

/// The store. Cheap to share.
pub struct Store {
    root: PathBuf,
    next: AtomicU64,
    /// Whether the file system has fs-verity, until it said otherwise.
    verity: AtomicBool,
    index: Mutex<BTreeMap<Digest, Arc<Record>>>,
}

const DIRS: [&str; 7] = ["objects", "manifests", "index", "tmp", "damaged", "hints", "boot"];

impl Store {
    /// Opens the store in `root`, making it where there is none and tidying what an interrupted import left.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |e| StoreError::Io(path, e)
        };
        for dir in DIRS {
            let path = root.join(dir);
            fs::create_dir_all(&path).map_err(at(&path))?;
        }
        let tmp = root.join("tmp");
        for entry in fs::read_dir(&tmp).map_err(at(&tmp))?.flatten() {
            let path = entry.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(at(&path))?;
        }
        let store = Self {
            root: root.to_owned(),
            next: AtomicU64::new(0),
            verity: AtomicBool::new(true),
            index: Mutex::default(),
        };
        let dir = root.join("index");
        for entry in fs::read_dir(&dir).map_err(at(&dir))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let record = fs::read(entry.path()).ok().and_then(|b| serde_json::from_slice::<Record>(&b).ok());
            match (name.parse::<Digest>(), record) {
                (Ok(source), Some(record)) => {
                    store
                        .index
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(source, Arc::new(record));
                }
                // Written by a version that knew less, or damaged: imported again when needed.
                _ => drop(fs::remove_file(entry.path())),
            }
        }
        Ok(store)
    }

    fn io<T>(path: &Path, result: io::Result<T>) -> Result<T, StoreError> {
        result.map_err(|e| StoreError::Io(path.to_owned(), e))
    }

    /// A name in `tmp` that nobody else has.
    pub fn scratch(&self) -> PathBuf {
        self.root.join("tmp").join(format!("t{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// Where contents are.
    fn object(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_string();
        self.root.join("objects").join(&hex[..2]).join(&hex[2..])
    }

    /// Opens contents for reading, unchecked: who reads them checks them, or the file system does.
    pub fn open_object(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.object(digest);
        Self::io(&path, File::open(&path))
    }

    /// Reads contents of at most `most` bytes and checks them.
    pub fn read_object(&self, digest: &Digest, most: u64) -> Result<Vec<u8>, StoreError> {
        let path = self.object(digest);
        let mut bytes = Vec::new();
        Self::io(&path, File::open(&path).and_then(|f| f.take(most).read_to_end(&mut bytes)))?;
        if FsVerity::of(&bytes) != *digest {
            return Err(StoreError::Object(*digest));
        }
        Ok(bytes)
    }

    /// Opens contents after checking all of them.
    pub fn open_checked(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.object(digest);
        let file = Self::io(&path, File::open(&path))?;
        let mut verity = FsVerity::new();
        let mut buffer = vec![0; 256 * 1024];
        let mut reader = &file;
        loop {
            match Self::io(&path, reader.read(&mut buffer))? {
                0 => break,
                n => verity.update(&buffer[..n]),
            }
        }
        if verity.finish() != *digest {
            return Err(StoreError::Object(*digest));
        }
        Self::io(&path, io::Seek::rewind(&mut reader))?;
        Ok(file)
    }

    /// Whether contents are here.
    pub fn has_object(&self, digest: &Digest) -> bool {
        self.object(digest).exists()
    }

    /// Takes contents that are not what their digest says out of the way.
    pub fn set_aside(&self, digest: &Digest) -> Result<(), StoreError> {
        let from = self.object(digest);
        let to = self.root.join("damaged").join(format!("{digest}-{}", crate::now_ms()));
        match fs::rename(&from, &to) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => Self::io(&from, other),
        }
    }

    /// Begins an import: contents are staged, and become the store's when it is committed.
    pub fn stage(&self) -> Result<Staged<'_>, StoreError> {
        let dir = self.scratch();
        Self::io(&dir, fs::create_dir(&dir))?;
        Ok(Staged { store: self, dir, new: BTreeSet::new(), number: 0, bytes: 0 })
    }

    /// What was imported from this source.
    pub fn record(&self, source: &Digest) -> Option<Arc<Record>> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner).get(source).cloned()
    }

    /// Everything that was imported, by source.
    pub fn records(&self) -> Vec<(Digest, Arc<Record>)> {
        self.index
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(k, v)| (*k, v.clone()))
            .collect()
    }

    /// Forgets an import, so that the next one does it again.
    pub fn forget(&self, source: &Digest) -> Result<(), StoreError> {
        let path = self.root.join("index").join(source.to_string());
        self.index.lock().unwrap_or_else(PoisonError::into_inner).remove(source);
        match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => Self::io(&path, other),
        }
    }

    fn manifest_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("manifests").join(digest.to_string())
    }

    /// Opens a manifest's canonical bytes.
    pub fn open_manifest(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.manifest_path(digest);
        Self::io(&path, File::open(&path))
    }

    /// Reads and checks a manifest.
    pub fn manifest(&self, digest: &Digest) -> Result<Manifest, StoreError> {
        let path = self.manifest_path(digest);
        let mut bytes = Vec::new();
        Self::io(&path, File::open(&path).and_then(|f| f.take(MAX_MANIFEST_BYTES).read_to_end(&mut bytes)))?;
        if Digest::of(&bytes) != *digest {
            return Err(StoreError::Manifest(*digest, None));
        }
        Manifest::from_bytes(&bytes).map_err(|e| StoreError::Manifest(*digest, Some(e)))
    }

    /// The signature beside a manifest.
    pub fn signature(&self, digest: &Digest) -> Result<Signature, StoreError> {
        let path = self.root.join("manifests").join(format!("{digest}.sig"));
        let bytes = Self::io(&path, fs::read(&path))?;
        serde_json::from_slice(&bytes).map_err(|_| StoreError::Manifest(*digest, None))
    }

    /// Writes a small file of this store whole or not at all.
    pub fn write_whole(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let tmp = self.scratch();
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o440).open(&tmp)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&tmp, path)?;
            path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
        };
        let done = write();
        if done.is_err() {
            let _ = fs::remove_file(&tmp);
        }
        Self::io(path, done)
    }

    /// Remembers under `name` in `folder` (`hints`, `boot`).
    pub fn note<T: Serialize>(&self, folder: &str, name: &Digest, value: &T) -> Result<(), StoreError> {
        let path = self.root.join(folder).join(name.to_string());
        let bytes = serde_json::to_vec(value).map_err(|e| StoreError::Io(path.clone(), e.into()))?;
        self.write_whole(&path, &bytes)
    }

    /// What was remembered with [`Self::note`].
    pub fn noted<T: serde::de::DeserializeOwned>(&self, folder: &str, name: &Digest) -> Option<T> {
        let bytes = fs::read(self.root.join(folder).join(name.to_string())).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Asks the file system to refuse any other contents from now on, where it can.
    fn enable_verity(&self, path: &Path) {
        if !self.verity.load(Ordering::Relaxed) {
            return;
        }
        let Ok(file) = File::open(path) else { return };
        if !crate::verity::enable(&file) {
            self.verity.store(false, Ordering::Relaxed);
        }
    }
}

/// An import under way. Dropped without a commit it leaves nothing.
pub struct Staged<'a> {
    store: &'a Store,
    dir: PathBuf,
    new: BTreeSet<Digest>,
    number: u64,
    bytes: u64,
}

impl Staged<'_> {
    /// Stores bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let dir = self.dir.clone();
        Store::io(&dir, self.file(bytes.len() as u64, &mut &bytes[..]))
    }

    /// Makes the contents, the manifest with its signature, and last the record the store's.
    pub fn commit(
        self,
        source: &Digest,
        manifest: &Manifest,
        signature: &Signature,
        record: Record,
    ) -> Result<Arc<Record>, StoreError> {
        self.commit_objects()?;
        let store = self.store;
        let digest = record.manifest;
        let sig = serde_json::to_vec(signature).map_err(|e| StoreError::Io(self.dir.clone(), e.into()))?;
        store.write_whole(&store.root.join("manifests").join(format!("{digest}.sig")), &sig)?;
        store.write_whole(&store.manifest_path(&digest), &manifest.to_bytes())?;
        let json = serde_json::to_vec(&record).map_err(|e| StoreError::Io(self.dir.clone(), e.into()))?;
        store.write_whole(&store.root.join("index").join(source.to_string()), &json)?;
        let record = Arc::new(record);
        store.index.lock().unwrap_or_else(PoisonError::into_inner).insert(*source, record.clone());
        Ok(record)
    }

    /// Makes the contents the store's, without a component that names them.
    pub fn commit_objects(&self) -> Result<(), StoreError> {
        // One sync for all: every byte is on the disk before any gets its name.
        let folder = Store::io(&self.dir, File::open(&self.dir))?;
        Store::io(&self.dir, rustix::fs::syncfs(&folder).map_err(io::Error::from))?;
        for digest in &self.new {
            let (from, to) = (self.dir.join(digest.to_string()), self.store.object(digest));
            if let Some(dir) = to.parent() {
                Store::io(dir, fs::create_dir_all(dir))?;
            }
            Store::io(&to, fs::rename(&from, &to))?;
            self.store.enable_verity(&to);
        }
        Store::io(&self.dir, rustix::fs::syncfs(&folder).map_err(io::Error::from))
    }
}

impl Sink for Staged<'_> {
    fn file(&mut self, size: u64, contents: &mut dyn Read) -> io::Result<Digest> {
        self.number += 1;
        let tmp = self.dir.join(format!("f{}", self.number));
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o440).open(&tmp)?;
        let mut verity = FsVerity::new();
        let mut buffer = vec![0; usize::try_from(size).unwrap_or(usize::MAX).clamp(1, 256 * 1024)];
        let mut copied = 0;
        loop {
            let n = contents.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            verity.update(&buffer[..n]);
            out.write_all(&buffer[..n])?;
            copied += n as u64;
        }
        if copied != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.bytes += copied;
        let digest = verity.finish();
        let there = fs::metadata(self.store.object(&digest)).is_ok_and(|m| m.len() == size);
        if there || self.new.contains(&digest) {
            fs::remove_file(&tmp)?;
        } else {
            fs::rename(&tmp, self.dir.join(digest.to_string()))?;
            self.new.insert(digest);
        }
        Ok(digest)
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Bytes of a manifest's files.
pub fn content_bytes(manifest: &Manifest) -> u64 {
    manifest
        .entries
        .iter()
        .map(|e| match &e.kind {
            EntryKind::File { size, hardlink_of: None, .. } => *size,
            _ => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::{Importer, own_entry, own_path};
    use crate::tests::{Folder, Trusting};

    fn one_file(importer: &Importer, name: &str, bytes: &[u8]) -> (Digest, Arc<Record>) {
        let store = importer.store.clone();
        let mut staged = store.stage().unwrap();
        let digest = staged.bytes(bytes).unwrap();
        let kind = EntryKind::File { size: bytes.len() as u64, digest, hardlink_of: None };
        importer.made(name, staged, vec![own_entry(own_path("etc/x").unwrap(), kind, 0o644)]).unwrap()
    }

    fn open(folder: &Folder) -> Importer {
        Importer::new(Arc::new(Store::open(&folder.0).unwrap()), Box::new(Trusting))
    }

    #[test]
    fn an_import_cut_off_at_any_step_leaves_no_component_and_can_be_done_again() {
        // The files that a whole import writes, in the order in which they get their names.
        let steps = ["objects", "sig", "manifest", "index"];
        for reached in 0..steps.len() {
            let folder = Folder::new();
            let (source, record) = one_file(&open(&folder), "x", b"contents");
            let manifest = folder.0.join("manifests").join(record.manifest.to_string());
            let gone = [
                manifest.with_extension("sig"),
                manifest.clone(),
                folder.0.join("index").join(source.to_string()),
            ];
            gone[reached.min(2)..].iter().for_each(|p| fs::remove_file(p).unwrap());
            fs::write(folder.0.join("tmp").join("t9"), b"half").unwrap();
            fs::create_dir(folder.0.join("tmp").join("t10")).unwrap();
            let again = open(&folder);
            assert!(again.store.record(&source).is_none(), "cut after {}", steps[reached]);
            assert_eq!(fs::read_dir(folder.0.join("tmp")).unwrap().count(), 0);
            let (_, whole) = one_file(&again, "x", b"contents");
            assert_eq!(whole.manifest, record.manifest);
            assert!(
                again.store.manifest(&whole.manifest).is_ok()
                    && again.store.signature(&whole.manifest).is_ok()
            );
        }
    }

    #[test]
    fn a_flipped_byte_is_found_and_the_next_import_heals_it() {
        let folder = Folder::new();
        let importer = open(&folder);
        let (source, record) = one_file(&importer, "x", b"contents");
        let store = &importer.store;
        let EntryKind::File { digest, .. } =
            store.manifest(&record.manifest).unwrap().entries[0].kind.clone()
        else {
            panic!()
        };
        fs::remove_file(store.object(&digest)).unwrap();
        fs::write(store.object(&digest), b"c0ntents").unwrap();
        assert!(matches!(store.open_checked(&digest), Err(StoreError::Object(_))));
        assert!(matches!(store.read_object(&digest, 100), Err(StoreError::Object(_))));
        store.set_aside(&digest).unwrap();
        store.forget(&source).unwrap();
        one_file(&importer, "x", b"contents");
        assert!(store.open_checked(&digest).is_ok());
        // A manifest is checked as well.
        let path = store.manifest_path(&record.manifest);
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"{}").unwrap();
        assert!(matches!(store.manifest(&record.manifest), Err(StoreError::Manifest(..))));
    }

    #[test]
    fn an_import_that_fails_leaves_nothing() {
        let folder = Folder::new();
        let importer = open(&folder);
        let mut staged = importer.store.stage().unwrap();
        staged.bytes(b"some").unwrap();
        assert!(staged.file(10, &mut &b"short"[..]).is_err(), "contents shorter than their header says");
        drop(staged);
        assert_eq!(fs::read_dir(folder.0.join("tmp")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(folder.0.join("objects")).unwrap().count(), 0);
    }
}
