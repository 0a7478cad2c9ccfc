//! Imports: from a package's URI, or from files made here, to a signed component in the store. One import of a package at
//! a time; who asks for it meanwhile gets its result.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use gtvp_model::boxview::Appraisal;
use gtvp_model::component::{Entry, EntryKind, Manifest, RootPath};
use gtvp_model::digest::Digest;
use gtvp_model::fault::{Fault, FaultKind};
use sha2::Digest as _;

use crate::closure::Package;
use crate::deb;
use crate::security::Security;
use crate::sources::Session;
use crate::store::{Record, Staged, Store, StoreError, content_bytes};

/// A time for what is made here, so that the same inputs make the same component: 2001-09-09.
pub const MADE_MTIME: i64 = 1_000_000_000;

/// Makes components.
pub struct Importer {
    /// Where they go.
    pub store: Arc<Store>,
    /// Who signs them.
    pub security: Box<dyn Security>,
    flights: Mutex<HashMap<Digest, Arc<Flight>>>,
}

/// An import under way.
#[derive(Default)]
struct Flight {
    result: Mutex<Option<Result<Arc<Record>, Fault>>>,
    done: Condvar,
}

/// An import's result.
#[derive(Debug, Clone)]
pub struct Imported {
    /// Its record.
    pub record: Arc<Record>,
    /// Bytes that were fetched for this call.
    pub fetched: u64,
}

impl From<StoreError> for Fault {
    fn from(e: StoreError) -> Self {
        let full = matches!(&e, StoreError::Io(_, io) if io.kind() == std::io::ErrorKind::StorageFull);
        let kind = match e {
            StoreError::Manifest(..) | StoreError::Object(_) => FaultKind::Integrity,
            StoreError::Io(..) if full => FaultKind::NoRoom,
            StoreError::Io(..) => FaultKind::Internal,
        };
        let message =
            if full { "the disk with the component store is full" } else { "the component store failed" };
        let fault = Fault::new(kind, message).caused_by(&e);
        if full { fault.hint("make room on the file system that holds the member's state") } else { fault }
    }
}

impl Importer {
    /// Into this store.
    pub fn new(store: Arc<Store>, security: Box<dyn Security>) -> Self {
        Self { store, security, flights: Mutex::default() }
    }

    /// A package as a component: as it is in the store, or fetched, checked against its index and imported. `on_bytes`
    /// hears how much of it has come, and may end it.
    pub fn package(
        &self,
        package: &Package,
        session: &dyn Fn() -> Result<Arc<Session>, Fault>,
        on_bytes: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Imported, Fault> {
        loop {
            if let Some(record) = self.store.record(&package.source) {
                return Ok(Imported { record, fetched: 0 });
            }
            let (flight, leader) = {
                let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
                match flights.get(&package.source) {
                    Some(flight) => (flight.clone(), false),
                    None => {
                        let flight = Arc::new(Flight::default());
                        flights.insert(package.source, flight.clone());
                        (flight, true)
                    }
                }
            };
            if leader {
                let result = session().and_then(|s| self.fetch(package, &s, on_bytes));
                self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&package.source);
                *flight.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result.clone());
                flight.done.notify_all();
                return result.map(|record| Imported { record, fetched: package.size });
            }
            let mut result = flight.result.lock().unwrap_or_else(PoisonError::into_inner);
            while result.is_none() {
                result = flight.done.wait(result).unwrap_or_else(PoisonError::into_inner);
            }
            match result.as_ref() {
                // Who did it for us gave up: it is ours now.
                Some(Err(fault)) if fault.kind == FaultKind::Cancelled => {}
                Some(other) => return other.clone().map(|record| Imported { record, fetched: 0 }),
                None => {}
            }
        }
    }

    fn fetch(
        &self,
        package: &Package,
        session: &Session,
        on_bytes: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Arc<Record>, Fault> {
        let reference = package.reference();
        let fetched = session.fetch(&package.uri, package.size, &mut *on_bytes)?;
        let deb = self.checked_copy(package, fetched)?;
        let refused = |e: deb::BadDeb| {
            Fault::new(FaultKind::Integrity, format!("{reference} is not acceptable")).caused_by(&e)
        };
        let mut staged = self.store.stage()?;
        let unpacked = deb::read(&deb, package.size, &mut staged).map_err(refused)?;
        if unpacked.control.get("Package") != Some(package.name.as_str())
            || unpacked.control.get("Version") != Some(package.version.as_str())
        {
            return Err(Fault::new(
                FaultKind::Integrity,
                format!("{reference} says of itself that it is another package"),
            ));
        }
        let mut control = BTreeMap::new();
        for (name, bytes) in unpacked.members.iter().filter(|(n, _)| *n != "control") {
            control.insert(name.clone(), staged.bytes(bytes)?);
        }
        let relations = |name: &str| -> Vec<String> {
            let text = unpacked.control.get(name).unwrap_or_default().replace('\n', " ");
            text.split(',').map(|r| r.trim().to_owned()).filter(|r| !r.is_empty()).collect()
        };
        let mut provides = vec![format!("{} (= {})", package.name, package.version)];
        provides.extend(relations("Provides"));
        let mut needs = relations("Pre-Depends");
        needs.extend(relations("Depends"));
        let manifest = Manifest {
            format: 1,
            reference,
            origin: package.origins.join(", "),
            source: package.source,
            source_size: package.size,
            level: 0,
            provides,
            needs,
            entries: unpacked.entries,
        };
        self.commit(staged, &package.source, manifest, control, Vec::new())
    }

    /// The fetched bytes in a file of our own, checked against the signed index before anything reads them: what the
    /// fetcher does to its own file afterwards changes nothing.
    fn checked_copy(&self, package: &Package, fetched: File) -> Result<File, Fault> {
        let path = self.store.scratch();
        let failed = |e: std::io::Error| Fault::from(StoreError::Io(path.clone(), e));
        // Anything else could keep its reader waiting, and the boxes that wait for this package with it.
        if !fetched.metadata().map_err(failed)?.is_file() {
            return Err(Fault::new(FaultKind::Integrity, "the fetcher brought something that is no file"));
        }
        let own = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        std::fs::remove_file(&path).map_err(failed)?;
        let mut hash = sha2::Sha256::new();
        let mut input = fetched.take(package.size + 1);
        let mut buffer = vec![0; 256 * 1024];
        let mut size = 0;
        loop {
            let n = input.read(&mut buffer).map_err(failed)?;
            if n == 0 {
                break;
            }
            size += n as u64;
            hash.update(&buffer[..n]);
            (&own).write_all(&buffer[..n]).map_err(failed)?;
        }
        if size != package.size || <[u8; 32]>::from(hash.finalize()) != package.source.0 {
            return Err(Fault::new(FaultKind::Integrity, format!("{} is not what its signed index says", package.reference()))
                .because(format!("{} was fetched, {size} bytes", package.uri))
                .hint("the source lies or is being updated: try again later, or take it out of the member's apt sources"));
        }
        std::io::Seek::rewind(&mut &own).map_err(failed)?;
        Ok(own)
    }

    /// A component that is made here. The same entries under the same name are the same component.
    pub fn made(
        &self,
        name: &str,
        staged: Staged<'_>,
        mut entries: Vec<Entry>,
    ) -> Result<(Digest, Arc<Record>), Fault> {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        entries.dedup_by(|a, b| a.path == b.path);
        let listed = serde_json::to_vec(&entries).unwrap_or_default();
        let source = Digest::of(&[name.as_bytes(), b"\n", &listed].concat());
        let record = self.made_from(name, &source, listed.len() as u64, staged, entries, Vec::new())?;
        Ok((source, record))
    }

    /// A component that is made here from inputs with this digest. `shared` are paths in it that ought to be each box's own.
    pub fn made_from(
        &self,
        name: &str,
        source: &Digest,
        size: u64,
        staged: Staged<'_>,
        entries: Vec<Entry>,
        shared: Vec<String>,
    ) -> Result<Arc<Record>, Fault> {
        if let Some(record) = self.store.record(source) {
            return Ok(record);
        }
        let manifest = Manifest {
            format: 1,
            reference: format!("gtvp:{name}={}", source.short()),
            origin: "made by this member".into(),
            source: *source,
            source_size: size,
            level: 0,
            provides: Vec::new(),
            needs: Vec::new(),
            entries,
        };
        self.commit(staged, source, manifest, BTreeMap::new(), shared)
    }

    fn commit(
        &self,
        staged: Staged<'_>,
        source: &Digest,
        manifest: Manifest,
        control: BTreeMap<String, Digest>,
        shared: Vec<String>,
    ) -> Result<Arc<Record>, Fault> {
        manifest.check().map_err(|e| {
            Fault::new(FaultKind::Integrity, format!("{} makes no manifest", manifest.reference))
                .caused_by(&e)
        })?;
        let digest = manifest.digest();
        let signature = self.security.sign(digest)?;
        let record = Record {
            reference: manifest.reference.clone(),
            manifest: digest,
            origin: manifest.origin.clone(),
            source_bytes: manifest.source_size,
            content_bytes: content_bytes(&manifest),
            entries: manifest.entries.len() as u64,
            imported_ms: crate::now_ms(),
            appraisal: Appraisal::default(),
            control,
            shared,
        };
        Ok(staged.commit(source, &manifest, &signature, record)?)
    }
}

/// A path of what is made here. The text is our own or was checked before.
pub fn own_path(text: &str) -> Result<RootPath, Fault> {
    RootPath::new(text.as_bytes()).map_err(|e| Fault::internal("a path of our own is not usable", &e))
}

/// An entry of what is made here.
pub fn own_entry(path: RootPath, kind: EntryKind, mode: u32) -> Entry {
    Entry { path, kind, mode, uid: 0, gid: 0, mtime: MADE_MTIME, xattrs: BTreeMap::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Folder, Trusting};
    use std::io::Seek;

    #[test]
    fn what_the_fetcher_brings_is_a_file_with_the_bytes_of_the_index_or_nothing() {
        let folder = Folder::new();
        let importer = Importer::new(Arc::new(Store::open(&folder.0).unwrap()), Box::new(Trusting));
        let mut package = crate::closure::tests::package("x", "");
        package.source = Digest(sha2::Sha256::digest(b"bytes").into());
        package.size = 5;
        let brought = |bytes: &[u8]| {
            let mut file =
                File::from(rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
            file.write_all(bytes).unwrap();
            file.rewind().unwrap();
            file
        };
        assert!(importer.checked_copy(&package, brought(b"bytes")).is_ok());
        for lie in [&b"bytez"[..], b"byte", b"bytes and more", b""] {
            let refused = importer.checked_copy(&package, brought(lie)).unwrap_err();
            assert_eq!(refused.kind, FaultKind::Integrity);
        }
        // A pipe that nobody writes into, and one that never ends.
        let (silent, _kept) = rustix::pipe::pipe().unwrap();
        assert_eq!(importer.checked_copy(&package, silent.into()).unwrap_err().kind, FaultKind::Integrity);
        let endless = File::open("/dev/zero").unwrap();
        assert_eq!(importer.checked_copy(&package, endless).unwrap_err().kind, FaultKind::Integrity);
        assert_eq!(std::fs::read_dir(folder.0.join("tmp")).unwrap().count(), 0, "nothing is left");
    }
}
