//! The roots of running boxes: which layers each has, and how they came. Kept on disk, so that a box outlives this domain.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gtvp_ipc::components::{Layer, View};
use gtvp_model::boxview::LinkedComponent;
use gtvp_model::component::EntryKind;
use gtvp_model::digest::Digest;
use gtvp_model::ids::{BoxName, Slot};
use serde::{Deserialize, Serialize};

use crate::store::{Store, StoreError};

/// A linked component.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Linked {
    /// Its layer.
    pub layer: Layer,
    /// Its source, by which the store finds it.
    pub source: Digest,
    /// As people see it.
    pub view: LinkedComponent,
}

/// One box's root.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The box.
    pub box_name: BoxName,
    /// Its composition.
    pub composition: Digest,
    /// Which root.
    pub view: View,
    /// First linked first.
    pub linked: Vec<Linked>,
}

/// A root while it is served.
pub struct Root {
    record: Mutex<Record>,
    /// The files that its linked components have; made when first asked for.
    objects: Mutex<Option<HashSet<Digest>>>,
    /// Since when, and how often, it was told of what its box can cause at will.
    told: Mutex<Option<(Instant, u32)>>,
}

/// Most events a minute that a box can cause at will: they share the member's log with everything else.
const MOST_TOLD: u32 = 20;

/// Every root.
pub struct Roots {
    dir: PathBuf,
    all: Mutex<BTreeMap<u16, Arc<Root>>>,
}

impl Roots {
    /// Those that are recorded in `dir`.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(dir)?.flatten() {
            let slot = entry.file_name().to_str().and_then(|n| n.parse::<u16>().ok());
            let record = fs::read(entry.path()).ok().and_then(|b| serde_json::from_slice::<Record>(&b).ok());
            match (slot, record) {
                (Some(slot), Some(record)) => drop(all.insert(slot, Arc::new(Root::new(record)))),
                _ => fs::remove_file(entry.path())?,
            }
        }
        Ok(Self { dir: dir.to_owned(), all: Mutex::new(all) })
    }

    /// A box's root.
    pub fn get(&self, slot: Slot) -> Option<Arc<Root>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).get(&slot.get()).cloned()
    }

    /// Begins a root.
    pub fn insert(&self, slot: Slot, record: Record) -> io::Result<Arc<Root>> {
        self.write(slot, &record)?;
        let root = Arc::new(Root::new(record));
        self.all.lock().unwrap_or_else(PoisonError::into_inner).insert(slot.get(), root.clone());
        Ok(root)
    }

    /// Ends a root.
    pub fn remove(&self, slot: Slot) -> io::Result<()> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot.get());
        match fs::remove_file(self.dir.join(slot.get().to_string())) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Links components to a root: on disk before anyone hears of it.
    pub fn link(&self, slot: Slot, root: &Root, linked: Linked, store: &Store) -> Result<(), BadRoot> {
        let mut record = root.lock();
        if record.linked.iter().any(|l| l.layer.manifest == linked.layer.manifest) {
            return Ok(());
        }
        let mut next = record.clone();
        next.linked.push(linked.clone());
        self.write(slot, &next)?;
        let mut objects = root.objects.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = objects.as_mut() {
            collect(store, &linked.layer.manifest, known)?;
        }
        *record = next;
        Ok(())
    }

    fn write(&self, slot: Slot, record: &Record) -> io::Result<()> {
        let (path, tmp) =
            (self.dir.join(slot.get().to_string()), self.dir.join(format!("{}.new", slot.get())));
        fs::write(&tmp, serde_json::to_vec(record)?)?;
        fs::rename(&tmp, &path)
    }
}

/// Why a root could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum BadRoot {
    /// The disk.
    #[error("the records of boxes' roots cannot be written")]
    Io(#[from] io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Root {
    fn new(record: Record) -> Self {
        Self { record: Mutex::new(record), objects: Mutex::new(None), told: Mutex::new(None) }
    }

    /// Whether one more event may be told of what its box can cause at will.
    pub fn may_tell(&self) -> bool {
        self.may_tell_at(Instant::now())
    }

    fn may_tell_at(&self, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, times) = told
            .filter(|(since, _)| now.duration_since(*since) < Duration::from_secs(60))
            .unwrap_or((now, 0));
        *told = Some((since, times.saturating_add(1)));
        times < MOST_TOLD
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As it is now.
    pub fn record(&self) -> Record {
        self.lock().clone()
    }

    /// Its composition.
    pub fn composition(&self) -> Digest {
        self.lock().composition
    }

    /// Whether a manifest is linked.
    pub fn has_manifest(&self, manifest: &Digest) -> bool {
        self.lock().linked.iter().any(|l| l.layer.manifest == *manifest)
    }

    /// Sources of linked components with their layers.
    pub fn sources(&self) -> BTreeMap<Digest, Layer> {
        self.lock().linked.iter().map(|l| (l.source, l.layer.clone())).collect()
    }

    /// Whether a linked component has a file with these contents.
    pub fn has_object(&self, digest: &Digest, store: &Store) -> Result<bool, StoreError> {
        let record = self.lock();
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        if objects.is_none() {
            let mut known = HashSet::new();
            for linked in &record.linked {
                collect(store, &linked.layer.manifest, &mut known)?;
            }
            *objects = Some(known);
        }
        Ok(objects.as_ref().is_some_and(|o| o.contains(digest)))
    }
}

fn collect(store: &Store, manifest: &Digest, into: &mut HashSet<Digest>) -> Result<(), StoreError> {
    for entry in store.manifest(manifest)?.entries {
        if let EntryKind::File { digest, .. } = entry.kind {
            into.insert(digest);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_that_asks_without_end_does_not_fill_the_log() {
        let record = Record {
            box_name: "x".parse().unwrap(),
            composition: Digest::of(b""),
            view: View::Application,
            linked: Vec::new(),
        };
        let root = Root::new(record);
        let now = Instant::now();
        assert_eq!((0..10_000).filter(|_| root.may_tell_at(now)).count(), MOST_TOLD as usize);
        assert!(root.may_tell_at(now + Duration::from_secs(61)));
    }
}
