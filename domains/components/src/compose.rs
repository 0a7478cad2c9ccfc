//! From needs to a composition that can be served: resolved, its catalogue made, imported as far as that takes.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fs;
use std::io::BufReader;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use gtvp_ipc::components::{Composed, Configure};
use gtvp_model::boxspec::Need;
use gtvp_model::component::escape;
use gtvp_model::digest::Digest;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::operation::Progress;
use serde::{Deserialize, Serialize};

use crate::catalogue;
use crate::closure::{Closure, Package};
use crate::import::{Importer, own_path};
use crate::sources::{Session, Sources};
use crate::stage::{self, Stage};
use crate::store::Record;
use crate::{apt, configure, deb, layers, tmpfiles};

/// Indices older than this are brought up to date when somebody composes.
const FRESH: Duration = Duration::from_secs(6 * 3600);
/// A package that is not found may be newer than indices of this age: milliseconds.
const NOT_FOUND_AFTER: u64 = 10 * 60 * 1000;
/// A source that could not be reached is not asked again for this long: milliseconds.
const UNREACHABLE_AFTER: u64 = 30 * 1000;
/// Transfers at once: sources are polite servers, and the bytes are unpacked as they come.
const TRANSFERS: usize = 4;
/// Hints asked for at once: they wait for round trips, not for bytes.
const HINTS: usize = 8;
/// A package that is smaller is fetched whole: asking for its beginning first would take as long.
const SMALL: u64 = 32 * 1024;
/// Bytes that are asked for first: most packages have their whole control part in them.
const BEGINNING: u64 = 12 * 1024;
/// A Contents index of `all` packages is this large; it is fetched when what it saves is more.
const CONTENTS_ALL_BYTES: u64 = 34_000_000;
/// Memory of a builder box, MiB: Debian's scripts run in it, whatever the size of the closure.
const BUILDER_MEMORY: u64 = 512;

/// What is remembered of the sources.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct SourcesState {
    /// When the indices were brought up to date last: milliseconds since 1970-01-01 UTC.
    pub updated_ms: u64,
    /// Architectures whose Contents indices are fetched.
    pub contents: Vec<String>,
    /// What could not be had then, as apt said it.
    #[serde(default)]
    pub unreachable: Vec<String>,
}

impl SourcesState {
    /// Whether a package that is not found is worth another look at the sources.
    fn may_lack(&self) -> bool {
        let age = crate::now_ms().saturating_sub(self.updated_ms);
        age > if self.unreachable.is_empty() { NOT_FOUND_AFTER } else { UNREACHABLE_AFTER }
    }

    /// A fault about something that was not found says that not every source was asked.
    fn told(&self, mut fault: Fault) -> Fault {
        if fault.kind == FaultKind::NotFound {
            for what in self.unreachable.iter().take(4) {
                fault = fault.because(format!("not all sources could be asked: {what}"));
            }
        }
        fault
    }
}

/// A composition that was found for some needs, while the indices stay as they are.
#[derive(Debug, Serialize, Deserialize)]
struct Resolved {
    updated_ms: u64,
    composition: Digest,
}

/// Hears how far it is; `Break` when nobody waits any more.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress) -> ControlFlow<()>;

/// Composes.
pub struct Composer {
    state: PathBuf,
    /// Where components go.
    pub importer: Arc<Importer>,
    /// Where they come from.
    pub sources: Arc<Sources>,
    /// One resolution at a time: apt locks its lists.
    resolving: Mutex<SourcesState>,
    /// One change of a catalogue at a time.
    learning: Mutex<()>,
}

pub(crate) fn progress(phase: &str, message: impl Into<String>, done: u64, total: u64) -> Progress {
    let unit = if total > 0 { "bytes".to_owned() } else { String::new() };
    Progress { phase: phase.to_owned(), message: message.into(), done, total, unit }
}

fn cancelled() -> Fault {
    Fault::new(FaultKind::Cancelled, "cancelled")
}

fn tell(on: OnProgress<'_>, p: Progress) -> Result<(), Fault> {
    if on(p).is_break() { Err(cancelled()) } else { Ok(()) }
}

impl Composer {
    /// With its records in `state`.
    pub fn new(
        state: PathBuf,
        importer: Arc<Importer>,
        sources: Arc<Sources>,
        remembered: SourcesState,
    ) -> Self {
        Self { state, importer, sources, resolving: Mutex::new(remembered), learning: Mutex::default() }
    }

    /// What is remembered of the sources in `state`.
    pub fn remembered(state: &Path) -> SourcesState {
        let read = fs::read(state.join("sources.json")).ok().and_then(|b| serde_json::from_slice(&b).ok());
        read.unwrap_or(SourcesState {
            updated_ms: 0,
            contents: vec!["amd64".into()],
            unreachable: Vec::new(),
        })
    }

    fn file(&self, folder: &str, name: impl std::fmt::Display) -> PathBuf {
        self.state.join(folder).join(name.to_string())
    }

    fn save(&self, path: &Path, bytes: &[u8]) -> Result<(), Fault> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(|e| Fault::internal("a record cannot be written", &e))?;
        }
        Ok(self.importer.store.write_whole(path, bytes)?)
    }

    /// The closure of a composition.
    pub fn closure(&self, composition: &Digest) -> Result<Closure, Fault> {
        let unknown =
            || Fault::new(FaultKind::NotFound, format!("composition {} is not known", composition.short()));
        let bytes = fs::read(self.file("closures", composition)).map_err(|_| unknown())?;
        let closure: Closure = serde_json::from_slice(&bytes).map_err(|_| unknown())?;
        // A record that was changed on disk is no record of this composition.
        if closure.composition().digest() == *composition { Ok(closure) } else { Err(unknown()) }
    }

    /// The catalogue of a composition.
    pub fn catalogue(&self, composition: &Digest) -> Result<catalogue::Catalogue, Fault> {
        let bytes = fs::read(self.file("catalogues", composition));
        Ok(catalogue::Catalogue::new(bytes.map_err(|e| Fault::internal("a catalogue cannot be read", &e))?))
    }

    /// Composes needs. Warnings about sources go to `warn`.
    pub fn compose(
        &self,
        needs: &[Need],
        on: OnProgress<'_>,
        warn: &dyn Fn(String),
    ) -> Result<Composed, Fault> {
        let mut needs = needs.to_vec();
        needs.sort();
        needs.dedup();
        let mut closure = self.resolve(&needs, on, warn)?;
        let base = self.base(&closure, on, warn)?;
        let mut fetched = 0;
        if let Some((base, bytes)) = &base {
            if let Some(configure) = self.to_run(base, &BTreeSet::new()) {
                // First what every composition on this base shares; the caller asks again when that has run.
                return Ok(composed(base, Some(configure), *bytes));
            }
            fetched += bytes;
        }
        let base = base.map(|(base, _)| base);
        fetched += self.prepared(&mut closure, base.as_ref(), &needs, on)?;
        let configure = self.to_run(&closure, &stage::done(base.as_ref()));
        Ok(composed(&closure, configure, fetched))
    }

    /// The base that a closure stands on, prepared, and the bytes fetched for that: what no needs lead to, which is the
    /// essential system. None for a closure that has other packages instead of some of it.
    fn base(
        &self,
        closure: &Closure,
        on: OnProgress<'_>,
        warn: &dyn Fn(String),
    ) -> Result<Option<(Closure, u64)>, Fault> {
        let base = match self.resolve(&[], on, warn) {
            Ok(base) => base,
            Err(fault) if fault.kind == FaultKind::Cancelled => return Err(fault),
            // Nothing but a second run of the same scripts is lost without it.
            Err(_) => return Ok(None),
        };
        if !stage::stands_on(closure, &base) {
            return Ok(None);
        }
        let mut base = base;
        let fetched = self.prepared(&mut base, None, &[], on)?;
        Ok(base.inputs.is_some().then_some((base, fetched)))
    }

    /// What a builder box must run for a closure, if that has not been done.
    fn to_run(&self, closure: &Closure, done: &BTreeSet<String>) -> Option<Configure> {
        let inputs = closure.inputs?;
        self.importer.store.record(&inputs).is_none().then(|| Configure {
            command: vec!["/bin/sh".into(), format!("/{}", configure::SCRIPT)],
            memory_mib: BUILDER_MEMORY,
            packages: closure
                .with_scripts()
                .filter(|p| !done.contains(&p.name))
                .map(Package::reference)
                .collect(),
        })
    }

    /// Prepares a closure if it is not; the bytes that were fetched.
    fn prepared(
        &self,
        closure: &mut Closure,
        base: Option<&Closure>,
        needs: &[Need],
        on: OnProgress<'_>,
    ) -> Result<u64, Fault> {
        if self.is_prepared(closure, base, needs) {
            return Ok(0);
        }
        let fetched = self.prepare(closure, base, needs, on)?;
        let bytes =
            serde_json::to_vec(&*closure).map_err(|e| Fault::internal("a closure cannot be written", &e))?;
        self.save(&self.file("closures", closure.composition().digest()), &bytes)?;
        Ok(fetched)
    }

    /// Whether everything that serving it takes is there.
    fn is_prepared(&self, closure: &Closure, base: Option<&Closure>, needs: &[Need]) -> bool {
        let store = &self.importer.store;
        let layers = [closure.base, closure.dpkg, closure.builder, Some(closure.kernel.source)];
        layers.iter().all(|l| l.is_some_and(|source| store.record(&source).is_some()))
            && closure.made_with == Some(layers::made_with(closure, &stage::done(base)))
            && closure.beneath == base.and_then(Closure::configured)
            && self.file("catalogues", closure.composition().digest()).exists()
            && closure.packages.iter().zip(&closure.scripts).all(|(p, scripts)| {
                match store.record(&p.source) {
                    // A package of which a hint said otherwise has been imported meanwhile.
                    Some(record) => record.has_scripts() == *scripts,
                    None => !scripts && !is_whole(p, needs),
                }
            })
    }

    /// The closure of needs: as it was found before, while the indices are fresh, or by apt.
    fn resolve(&self, needs: &[Need], on: OnProgress<'_>, warn: &dyn Fn(String)) -> Result<Closure, Fault> {
        tell(on, progress("resolve", "resolving", 0, 0))?;
        let text: Vec<String> = needs.iter().map(ToString::to_string).collect();
        let key = Digest::of(text.join("\n").as_bytes());
        let mut state = self.resolving.lock().unwrap_or_else(PoisonError::into_inner);
        let known: Option<Resolved> =
            fs::read(self.file("resolved", key)).ok().and_then(|b| serde_json::from_slice(&b).ok());
        let fresh = crate::now_ms().saturating_sub(state.updated_ms)
            < u64::try_from(FRESH.as_millis()).unwrap_or(u64::MAX);
        if let Some(known) = known.as_ref().filter(|k| fresh && k.updated_ms == state.updated_ms) {
            if let Ok(closure) = self.closure(&known.composition) {
                return Ok(closure);
            }
        }
        let before = known.and_then(|k| self.closure(&k.composition).ok());
        let session = match self
            .sources
            .session()
            .and_then(|s| if fresh { Ok(s) } else { self.update(&s, &mut state, on, warn).map(|()| s) })
        {
            Ok(session) => session,
            Err(fault) => {
                // The sources are out of reach: what was found before is still true enough to start a box from.
                let Some(closure) = before.filter(|_| fault.kind == FaultKind::SourceUnreachable) else {
                    return Err(fault);
                };
                warn(format!("{fault}; the composition found before is used"));
                return Ok(closure);
            }
        };
        tell(on, progress("resolve", "resolving the closure", 0, 0))?;
        let mut found = apt::resolve(&session, needs);
        // A package that is not found may be newer than the indices.
        if state.may_lack() && found.as_ref().is_err_and(|f| f.kind == FaultKind::NotFound) {
            self.update(&session, &mut state, on, warn)?;
            found = apt::resolve(&session, needs);
        }
        let mut closure = found.map_err(|f| state.told(f))?;
        if self.wants_contents_of_all(&closure) {
            state.contents = self.sources.want_contents(&session, "all")?;
            self.update(&session, &mut state, on, warn)?;
            closure = apt::resolve(&session, needs)?;
        }
        let digest = closure.composition().digest();
        // The same composition as before keeps what was prepared for it.
        if let Ok(prepared) = self.closure(&digest) {
            closure = prepared;
        } else {
            let bytes = serde_json::to_vec(&closure)
                .map_err(|e| Fault::internal("a closure cannot be written", &e))?;
            self.save(&self.file("closures", digest), &bytes)?;
        }
        let resolved = Resolved { updated_ms: state.updated_ms, composition: digest };
        self.save(&self.file("resolved", key), &serde_json::to_vec(&resolved).unwrap_or_default())?;
        Ok(closure)
    }

    fn update(
        &self,
        session: &Session,
        state: &mut SourcesState,
        on: OnProgress<'_>,
        warn: &dyn Fn(String),
    ) -> Result<(), Fault> {
        tell(on, progress("resolve", "fetching the sources' indices", 0, 0))?;
        let mut complaints = apt::update(session);
        let spoilt = |c: &String| c.contains("/Contents-");
        let because_of_contents = match &complaints {
            Ok(said) => said.iter().any(spoilt),
            Err(fault) => fault.causes.iter().any(spoilt),
        };
        if because_of_contents {
            // apt takes all of an archive's indices or none. Without the one that tells paths, packages are imported whole.
            self.sources.use_contents(session, false)?;
            let without = apt::update(session);
            self.sources.use_contents(session, true)?;
            let said = complaints.unwrap_or_else(|fault| fault.causes);
            complaints = without.map(|more| said.into_iter().filter(spoilt).chain(more).collect());
        }
        state.unreachable = complaints?;
        for warning in &state.unreachable {
            warn(warning.clone());
        }
        state.updated_ms = crate::now_ms();
        let bytes = serde_json::to_vec(&*state).unwrap_or_default();
        self.save(&self.state.join("sources.json"), &bytes)
    }

    /// One package, at a version or at the newest, for an import by name.
    pub fn find(&self, need: &Need, on: OnProgress<'_>, warn: &dyn Fn(String)) -> Result<Package, Fault> {
        let mut state = self.resolving.lock().unwrap_or_else(PoisonError::into_inner);
        let session = self.sources.session()?;
        let age = crate::now_ms().saturating_sub(state.updated_ms);
        if age >= u64::try_from(FRESH.as_millis()).unwrap_or(u64::MAX) {
            self.update(&session, &mut state, on, warn)?;
        }
        tell(on, progress("resolve", format!("looking for {need}"), 0, 0))?;
        let mut found = apt::find(&session, need);
        if state.may_lack() && found.as_ref().is_err_and(|f| f.kind == FaultKind::NotFound) {
            self.update(&session, &mut state, on, warn)?;
            found = apt::find(&session, need);
        }
        found.map_err(|f| state.told(f))
    }

    fn wants_contents_of_all(&self, closure: &Closure) -> bool {
        let store = &self.importer.store;
        let lacking =
            closure.packages.iter().filter(|p| p.arch == "all" && store.record(&p.source).is_none());
        !self.sources.has_contents("all") && lacking.map(|p| p.size).sum::<u64>() > CONTENTS_ALL_BYTES
    }

    /// Makes the catalogue and the layers, and imports what has scripts, what no index tells the paths of, and the kernel.
    fn prepare(
        &self,
        closure: &mut Closure,
        base: Option<&Closure>,
        needs: &[Need],
        on: OnProgress<'_>,
    ) -> Result<u64, Fault> {
        let store = self.importer.store.clone();
        let session = self.sources.session()?;
        let indices = apt::indices(&session)?;
        let is_covered = |p: &Package| {
            indices.iter().any(|i| i.kind == "Contents" && i.arch == p.arch && p.origins.contains(&i.origin))
        };
        let is_known = |p: &Package| !is_whole(p, needs) && p.size >= SMALL && is_covered(p);
        let hints = self.hints(closure, &session, &is_known, on)?;
        let wanted: Vec<Package> = closure
            .packages
            .iter()
            .filter(|p| store.record(&p.source).is_none() && hints.get(&p.source) != Some(&false))
            .chain(std::iter::once(&closure.kernel))
            .cloned()
            .collect();
        let mut fetched = self.import_all(&wanted, &session, on)?;
        closure.scripts = closure
            .packages
            .iter()
            .map(|p| store.record(&p.source).is_some_and(|r| r.has_scripts()))
            .collect();
        tell(on, progress("import", "making the catalogue", 0, 0))?;
        let mut builder = self.list(closure, &session, &indices)?;
        // What is made at start for a package must be known; nearly all that say so have scripts too.
        let say: BTreeSet<u32> = tmpfiles::FOLDERS
            .iter()
            .flat_map(|f| own_path(f))
            .flat_map(|f| builder.packages_at(&f))
            .collect();
        let say = (0u32..).zip(&closure.packages).filter(|(n, _)| say.contains(n)).map(|(_, p)| p);
        let say: Vec<Package> = say.filter(|p| store.record(&p.source).is_none()).cloned().collect();
        if !say.is_empty() {
            fetched += self.import_all(&say, &session, on)?;
            builder = self.list(closure, &session, &indices)?;
        }
        let stage = Stage::new(closure, base, &store, &builder)?;
        closure.base = Some(layers::base(&self.importer, &builder)?);
        closure.dpkg = Some(layers::dpkg(&self.importer, closure, &builder)?);
        closure.builder = Some(layers::builder(&self.importer, closure, &stage)?);
        closure.inputs = stage.inputs(closure);
        closure.beneath = stage.beneath;
        closure.made_with = Some(layers::made_with(closure, &stage.done));
        self.save(&self.file("catalogues", closure.composition().digest()), &builder.finish())?;
        Ok(fetched)
    }

    /// Every path of a closure: by the manifests of what is imported, by the Contents indices for the rest.
    fn list(
        &self,
        closure: &Closure,
        session: &Session,
        indices: &[apt::Index],
    ) -> Result<catalogue::Builder, Fault> {
        let store = &self.importer.store;
        let mut builder = catalogue::Builder::default();
        let mut lacking: Vec<(u32, &Package)> = Vec::new();
        for (number, package) in (0u32..).zip(&closure.packages) {
            match store.record(&package.source) {
                Some(record) => builder.manifest(number, &store.manifest(&record.manifest)?),
                None => lacking.push((number, package)),
            }
        }
        for index in indices.iter().filter(|i| i.kind == "Contents") {
            let here: HashMap<&[u8], u32> = lacking
                .iter()
                .filter(|(_, p)| p.arch == index.arch && p.origins.contains(&index.origin))
                .map(|(n, p)| (p.name.as_bytes(), *n))
                .collect();
            if here.is_empty() {
                continue;
            }
            let file = session.index(&index.path)?;
            let text = BufReader::with_capacity(256 * 1024, flate2::read::MultiGzDecoder::new(file));
            builder
                .contents(text, &here)
                .map_err(|e| Fault::internal("a Contents index cannot be read", &e))?;
        }
        Ok(builder)
    }

    /// Notes empty folders of a package that was imported after its composition's catalogue was made: no index lists them.
    pub fn learn(&self, composition: &Digest, number: u32, record: &Record) -> Result<(), Fault> {
        let manifest = self.importer.store.manifest(&record.manifest)?;
        let _one = self.learning.lock().unwrap_or_else(PoisonError::into_inner);
        match self.catalogue(composition)?.with_empty_folders(number, &manifest) {
            Some(more) => self.save(&self.file("catalogues", composition), &more),
            None => Ok(()),
        }
    }

    /// For packages that are not imported and whose paths an index tells: whether they have maintainer scripts, by what their
    /// first bytes say. Unchecked: a package that turns out otherwise is refused when it is linked.
    fn hints(
        &self,
        closure: &Closure,
        session: &Arc<Session>,
        is_known: &dyn Fn(&Package) -> bool,
        on: OnProgress<'_>,
    ) -> Result<BTreeMap<Digest, bool>, Fault> {
        let store = &self.importer.store;
        let mut hints = BTreeMap::new();
        let mut queue = VecDeque::new();
        for package in &closure.packages {
            if store.record(&package.source).is_some() || !is_known(package) {
                continue;
            }
            match store.noted::<bool>("hints", &package.source) {
                Some(known) => drop(hints.insert(package.source, known)),
                None => queue.push_back(package),
            }
        }
        let total = queue.len();
        if total == 0 {
            return Ok(hints);
        }
        tell(on, progress("resolve", format!("looking for maintainer scripts in {total} packages"), 0, 0))?;
        let (queue, found) = (Mutex::new(queue), Mutex::new(&mut hints));
        std::thread::scope(|scope| {
            for _ in 0..HINTS.min(total) {
                scope.spawn(|| {
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                        let Some(package) = next else { return };
                        if let Some(scripts) = hint(session, package) {
                            let _ = store.note("hints", &package.source, &scripts);
                            found
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .insert(package.source, scripts);
                        }
                    }
                });
            }
        });
        Ok(hints)
    }

    /// Imports packages, several at once; the bytes that were fetched.
    pub fn import_all(
        &self,
        packages: &[Package],
        session: &Arc<Session>,
        on: OnProgress<'_>,
    ) -> Result<u64, Fault> {
        let store = &self.importer.store;
        let queue: VecDeque<&Package> =
            packages.iter().filter(|p| store.record(&p.source).is_none()).collect();
        let total: u64 = queue.iter().map(|p| p.size).sum();
        let count = queue.len();
        if count == 0 {
            return Ok(0);
        }
        tell(on, progress("fetch", format!("fetching {count} packages"), 0, total))?;
        let (done, stop, queue) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::new(queue));
        let (told, hear) = mpsc::channel::<Result<String, Fault>>();
        std::thread::scope(|scope| {
            for _ in 0..TRANSFERS.min(count) {
                let told = told.clone();
                let (done, stop, queue) = (&done, &stop, &queue);
                scope.spawn(move || {
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                        let Some(package) = next.filter(|_| !stop.load(Ordering::Relaxed)) else { return };
                        let mut counted = 0;
                        let mut on_bytes = |n: u64| {
                            done.fetch_add(n.saturating_sub(counted), Ordering::Relaxed);
                            counted = counted.max(n);
                            let _ = told.send(Ok(String::new()));
                            if stop.load(Ordering::Relaxed) {
                                ControlFlow::Break(())
                            } else {
                                ControlFlow::Continue(())
                            }
                        };
                        let imported = self.importer.package(package, &|| Ok(session.clone()), &mut on_bytes);
                        done.fetch_add(package.size.saturating_sub(counted), Ordering::Relaxed);
                        if told.send(imported.map(|_| package.name.clone())).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(told);
            let mut failure = None;
            for message in hear {
                let failed = match message {
                    Ok(name) => {
                        let what = if name.is_empty() {
                            format!("fetching {count} packages")
                        } else {
                            format!("imported {name}")
                        };
                        tell(on, progress("fetch", what, done.load(Ordering::Relaxed), total)).err()
                    }
                    Err(fault) => Some(fault),
                };
                if let Some(fault) = failed {
                    stop.store(true, Ordering::Relaxed);
                    failure.get_or_insert(fault);
                }
            }
            failure.map_or(Ok(total), Err)
        })
    }
}

/// Whether a package is imported whatever the indices say of it: what was asked for by name, and what no system is without.
/// An index lists no empty folders; those of such packages are known.
fn is_whole(package: &Package, needs: &[Need]) -> bool {
    needs.iter().any(|n| n.package == package.name) || package.paragraph().get("Essential") == Some("yes")
}

fn composed(closure: &Closure, configure: Option<Configure>, fetched_bytes: u64) -> Composed {
    let composition = closure.composition();
    Composed {
        digest: composition.digest(),
        composition,
        scripts: closure.with_scripts().count() as u64,
        configure,
        fetched_bytes,
    }
}

/// Whether a package has maintainer scripts, by its first bytes.
fn hint(session: &Session, package: &Package) -> Option<bool> {
    let mut bytes = session.peek(&package.uri, 0, BEGINNING.min(package.size))?;
    let (from, length) = deb::control_extent(&bytes)?;
    let end =
        from.checked_add(length).filter(|e| *e <= package.size && *e <= gtvp_ipc::fetcher::MAX_RANGE)?;
    let have = bytes.len() as u64;
    if end > have {
        bytes.extend(session.peek(&package.uri, have, end - have)?);
    }
    Some(deb::control_names(&bytes)?.iter().any(|n| deb::is_install_script(n)))
}

/// For people: how a path is written.
pub fn shown(path: &gtvp_model::component::RootPath) -> String {
    format!("/{}", escape(path.as_bytes()))
}
