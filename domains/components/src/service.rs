//! Answers: to `management` about components and compositions, to a box's file-system server about its root.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Instant;

use gtvp_ipc::components::{
    Attached, Composed, Derive, Derived, Found, Layer, LinkedReply, Missing, NamesReply, OpenRoot, Request,
    RootEvent, ShowReply, View,
};
use gtvp_ipc::security::{AppraiseComponent, LinkTo};
use gtvp_ipc::supervisor::{Kill, Spawn};
use gtvp_ipc::{Answer, Caller, Service, Session};
use gtvp_model::boxview::{ClosureUse, LinkedComponent};
use gtvp_model::component::{ComponentView, RootPath};
use gtvp_model::digest::Digest;
use gtvp_model::event::Severity;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::Slot;
use gtvp_model::operation::Progress;

use crate::closure::{Closure, Package};
use crate::compose::{Composer, progress, shown};
use crate::import::{Imported, Importer};
use crate::roots::{Linked, Root, Roots};
use crate::store::Record;
use crate::{boot, configure};

/// Places in a root's order: derived and dpkg's records hide packages, what the base's scripts left lies below what the others
/// left, the skeleton hides nothing.
const DERIVED: u32 = 0;
const BUILDER: u32 = 1;
const DPKG: u32 = 2;
const BENEATH: u32 = 3;
const FIRST_PACKAGE: u32 = 16;
const BASE: u32 = u32::MAX;
/// Events that wait for a watcher; one that is further behind is let go of, and watches again.
const MOST_AHEAD: usize = 4096;
/// Most paths that `show` lists.
const SHOWN_PATHS: usize = 200;

/// The domain.
pub struct Components {
    /// Compositions.
    pub composer: Composer,
    /// The store's way in.
    pub importer: Arc<Importer>,
    /// Running boxes' roots.
    pub roots: Roots,
    /// gtvpd's socket.
    pub supervisor: PathBuf,
    /// Where gtvpd puts guest-init.
    pub guest_init: PathBuf,
    /// Who hears of events.
    pub watchers: Mutex<Vec<mpsc::SyncSender<RootEvent>>>,
}

impl Service for Components {
    type Request = Request;

    fn handle(
        &self,
        caller: &Caller,
        request: Request,
        fds: Vec<OwnedFd>,
        session: &mut Session,
    ) -> Result<Answer, Fault> {
        let large = matches!(
            request,
            Request::Compose(_)
                | Request::OpenRoot(_)
                | Request::Derive(_)
                | Request::Import(_)
                | Request::Missing(_)
        );
        let answer = self.answer(caller, request, fds, session);
        if large {
            gtvp_ipc::memory::settle();
        }
        answer
    }
}

impl Components {
    fn answer(
        &self,
        caller: &Caller,
        request: Request,
        fds: Vec<OwnedFd>,
        session: &mut Session,
    ) -> Result<Answer, Fault> {
        match request {
            Request::Compose(p) => {
                let composed: Composed =
                    self.composer.compose(&p.needs, &mut said(session), &|w| self.warn(w))?;
                Ok(Answer::of(&composed))
            }
            Request::OpenRoot(p) => self.open_root(&p, session),
            Request::CloseRoot(p) => self.close_root(p.slot),
            Request::ShowComposition(p) => {
                Ok(Answer::of(&self.composer.closure(&p.composition)?.composition()))
            }
            Request::Derive(p) => self.derive(&p, fds),
            Request::Linked(p) => self.linked(p.slot),
            Request::Import(p) => {
                let on = &mut said(session);
                let package = self.composer.find(&p.need, on, &|w| self.warn(w))?;
                let sources = self.composer.sources.session()?;
                self.composer.import_all(std::slice::from_ref(&package), &sources, on)?;
                let record = self.importer.store.record(&package.source);
                let record =
                    record.ok_or_else(|| Fault::new(FaultKind::Internal, "an import left nothing"))?;
                Ok(Answer::of(&self.view(&record)))
            }
            Request::List(_) => {
                let mut all: Vec<ComponentView> =
                    self.importer.store.records().iter().map(|(_, r)| self.view(r)).collect();
                all.sort_by(|a, b| a.reference.cmp(&b.reference));
                Ok(Answer::of(&all))
            }
            Request::Show(p) => self.show(&p.reference),
            Request::Watch(_) => self.watch(session),
            Request::Attach(_) => {
                let (slot, root) = self.root_of(caller)?;
                let layers = root.record().linked.iter().map(|l| l.layer.clone()).collect();
                if root.may_tell() {
                    self.tell(
                        Some(slot),
                        Severity::Info,
                        "root.attached",
                        "its file-system server is attached",
                    );
                }
                Ok(Answer::of(&Attached { layers }))
            }
            Request::ReadManifest(p) => {
                let (_, root) = self.root_of(caller)?;
                if !root.has_manifest(&p.manifest) {
                    return Err(Fault::new(FaultKind::Denied, "that component is not linked to this box"));
                }
                Ok(Answer::nothing().with_fds(vec![self.importer.store.open_manifest(&p.manifest)?.into()]))
            }
            Request::Missing(p) => {
                let (slot, root) = self.root_of(caller)?;
                Ok(Answer::of(&self.missing(slot, &root, &p, session)?))
            }
            Request::Names(p) => {
                let (_, root) = self.root_of(caller)?;
                self.names(&root, &p.dir)
            }
            Request::ReadObject(p) => {
                let (_, root) = self.root_of(caller)?;
                self.linked_object(&root, &p.digest)?;
                Ok(Answer::nothing().with_fds(vec![self.importer.store.open_object(&p.digest)?.into()]))
            }
            Request::Damaged(p) => {
                let (slot, root) = self.root_of(caller)?;
                self.linked_object(&root, &p.digest)?;
                self.repair(slot, &root, &p.digest)
            }
        }
    }
}

/// What of a component ought to be each box's own and is not, in words.
fn shared(record: &Record) -> Option<String> {
    let (first, more) = (record.shared.first()?, record.shared.len() - 1);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!("secrets of one's own: every box of this composition has the same {first}{more}"))
}

/// Passes progress on; a caller that has gone ends the work.
fn said(session: &mut Session) -> impl FnMut(Progress) -> ControlFlow<()> + '_ {
    |p| {
        let gone = session.progress(&p).is_err() || session.cancelled();
        if gone { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Components {
    fn tell(&self, slot: Option<Slot>, severity: Severity, kind: &str, message: impl Into<String>) {
        let event = RootEvent { slot, severity, kind: kind.to_owned(), message: message.into() };
        self.watchers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|w| w.try_send(event.clone()).is_ok());
    }

    fn warn(&self, warning: String) {
        self.tell(None, Severity::Warning, "source.unreachable", warning);
    }

    fn watch(&self, session: &mut Session) -> Result<Answer, Fault> {
        let (tell, hear) = mpsc::sync_channel(MOST_AHEAD);
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner).push(tell);
        for event in hear {
            if session.progress(&event).is_err() {
                break;
            }
        }
        Ok(Answer::nothing())
    }

    fn root_of(&self, caller: &Caller) -> Result<(Slot, Arc<Root>), Fault> {
        let slot =
            caller.slot.ok_or_else(|| Fault::new(FaultKind::Denied, "the caller belongs to no box"))?;
        let root = self.roots.get(slot);
        Ok((slot, root.ok_or_else(|| Fault::new(FaultKind::NotFound, "this box has no root"))?))
    }

    fn linked_object(&self, root: &Root, digest: &Digest) -> Result<(), Fault> {
        if root.has_object(digest, &self.importer.store)? {
            return Ok(());
        }
        Err(Fault::new(FaultKind::Denied, "no component that is linked to this box has those contents"))
    }

    fn view(&self, record: &Record) -> ComponentView {
        ComponentView {
            reference: record.reference.clone(),
            digest: record.manifest.to_string(),
            origin: record.origin.clone(),
            source_bytes: record.source_bytes,
            content_bytes: record.content_bytes,
            entries: record.entries,
            imported_ms: record.imported_ms,
            appraisal: self.appraise(record, None).unwrap_or_default(),
        }
    }

    fn show(&self, reference: &str) -> Result<Answer, Fault> {
        let full = if reference.starts_with("gtvp:") || reference.starts_with("deb:") {
            reference.to_owned()
        } else {
            format!("deb:{reference}")
        };
        let matches = |r: &Record| {
            r.reference == full
                || r.reference.split('=').next() == Some(&full)
                || r.reference.rsplit_once(':').map(|(f, _)| f) == Some(&full)
                || (reference.len() >= 4 && r.manifest.to_string().starts_with(reference))
        };
        let mut found: Vec<Arc<Record>> =
            self.importer.store.records().into_iter().map(|(_, r)| r).filter(|r| matches(r)).collect();
        found.sort_by_key(|r| std::cmp::Reverse(r.imported_ms));
        let record = found.first().ok_or_else(|| {
            Fault::new(FaultKind::NotFound, format!("there is no component {reference} in the store"))
                .hint("gtvp component ls lists them; gtvp component import deb:NAME imports one")
        })?;
        let manifest = self.importer.store.manifest(&record.manifest)?;
        Ok(Answer::of(&ShowReply {
            view: self.view(record),
            needs: manifest.needs,
            provides: manifest.provides,
            paths: manifest.entries.iter().take(SHOWN_PATHS).map(|e| shown(&e.path)).collect(),
        }))
    }

    /// Before it is linked, where it is going to be.
    fn appraise(
        &self,
        record: &Record,
        link: Option<LinkTo>,
    ) -> Result<gtvp_model::boxview::Appraisal, Fault> {
        let store = &self.importer.store;
        let made_here = record.reference.starts_with("gtvp:");
        let checked = if made_here { "made by this member" } else { "apt signature chain" };
        let component = AppraiseComponent {
            reference: record.reference.clone(),
            // From the bytes on the disk, which are what will be served.
            manifest: store.manifest(&record.manifest)?.digest(),
            signature: store.signature(&record.manifest)?,
            checked_before: vec![checked.to_owned(), "manifest digest".to_owned()],
            link,
        };
        let mut appraisal = self.importer.security.appraise(component)?;
        if let Some(shared) = shared(record) {
            appraisal.not_checked.push(shared);
        }
        Ok(appraisal)
    }

    fn derive(&self, asked: &Derive, fds: Vec<OwnedFd>) -> Result<Answer, Fault> {
        let closure = self.composer.closure(&asked.composition)?;
        let inputs = closure.inputs.ok_or_else(|| {
            Fault::new(FaultKind::WrongState, "the composition has no maintainer scripts to run")
        })?;
        let fd = fds
            .into_iter()
            .next()
            .ok_or_else(|| Fault::new(FaultKind::Invalid, "the writable layer is missing"))?;
        let record = configure::derive(&self.importer, &inputs, std::fs::File::from(fd))?;
        if let Some(shared) = shared(&record) {
            self.tell(None, Severity::Warning, "component.shared_secret", shared);
        }
        Ok(Answer::of(&Derived { component: record.manifest }))
    }

    fn linked(&self, slot: Slot) -> Result<Answer, Fault> {
        let root =
            self.roots.get(slot).ok_or_else(|| Fault::new(FaultKind::NotFound, "this box has no root"))?;
        let record = root.record();
        let closure = self.composer.closure(&record.composition)?;
        let sources = root.sources();
        let in_use = closure.packages.iter().filter(|p| sources.contains_key(&p.source));
        let (linked, linked_bytes) = in_use.fold((0, 0), |(n, b), p| (n + 1, b + p.size));
        Ok(Answer::of(&LinkedReply {
            linked: record.linked.into_iter().map(|l| l.view).collect(),
            closure: ClosureUse {
                components: closure.packages.len() as u64,
                linked,
                bytes: closure.packages.iter().map(|p| p.size).sum(),
                linked_bytes,
            },
        }))
    }

    // ── Opening and closing ────────────────────────────────────────────────────────────────────────────────────────

    fn open_root(&self, asked: &OpenRoot, session: &mut Session) -> Result<Answer, Fault> {
        let closure = self.composer.closure(&asked.composition)?;
        let on = &mut said(session);
        let unprepared = || {
            Fault::new(FaultKind::WrongState, "the composition is not prepared")
                .hint("compose its needs again")
        };
        let (base, dpkg) = (closure.base.ok_or_else(unprepared)?, closure.dpkg.ok_or_else(unprepared)?);
        let mut first = vec![(BASE, base), (DPKG, dpkg)];
        first.extend(closure.beneath.map(|source| (BENEATH, source)));
        match asked.view {
            View::Builder => first.push((BUILDER, closure.builder.ok_or_else(unprepared)?)),
            View::Application => first.extend(closure.inputs.map(|source| (DERIVED, source))),
        }
        let configured = first.iter().filter(|(place, _)| matches!(*place, DERIVED | BENEATH));
        if configured.into_iter().any(|(_, source)| self.importer.store.record(source).is_none()) {
            return Err(Fault::new(FaultKind::WrongState, "its packages' maintainer scripts have not run")
                .hint("compose its needs again: none starts half-configured"));
        }
        let _ = on(progress("link", "kernel and initramfs", 0, 0));
        let sources = || self.composer.sources.session();
        let kernel =
            self.importer.package(&closure.kernel, &sources, &mut |_| ControlFlow::Continue(()))?.record;
        self.appraise(&kernel, None)?;
        let (kernel, initramfs, parts) = boot::open(&self.importer, &kernel, &self.guest_init)?;
        self.kill(asked.slot)?;
        let root = crate::roots::Record {
            box_name: asked.box_name.clone(),
            composition: asked.composition,
            view: asked.view,
            linked: Vec::new(),
        };
        let cannot = |e: std::io::Error| Fault::internal("the box's root cannot be recorded", &e);
        let root = self.roots.insert(asked.slot, root).map_err(cannot)?;
        let linked_all = first.into_iter().try_for_each(|(precedence, source)| {
            let record = self.importer.store.record(&source).ok_or_else(unprepared)?;
            let imported = Imported { record, fetched: 0 };
            self.link(asked.slot, &root, precedence, source, &imported, None, Instant::now()).map(drop)
        });
        match linked_all.and_then(|()| self.spawn(asked.slot)) {
            Ok(socket) => {
                Ok(Answer::of(&parts).with_fds(vec![socket.into(), kernel.into(), initramfs.into()]))
            }
            Err(fault) => {
                let _ = self.roots.remove(asked.slot);
                Err(fault)
            }
        }
    }

    /// Starts the box's file-system server; the other end of its vhost-user socket.
    fn spawn(&self, slot: Slot) -> Result<UnixStream, Fault> {
        let (ours, theirs) = UnixStream::pair().map_err(|e| Fault::internal("no socket can be made", &e))?;
        let spawn = Spawn {
            template: "lazyfs".into(),
            slot: Some(slot),
            params: Default::default(),
            fds: vec!["vhost".into()],
        };
        gtvp_ipc::call_with(&self.supervisor, &spawn, &[theirs.as_fd()], |_| ControlFlow::Continue(()))?;
        Ok(ours)
    }

    fn kill(&self, slot: Slot) -> Result<(), Fault> {
        gtvp_ipc::call(&self.supervisor, &Kill { template: "lazyfs".into(), slot })?;
        Ok(())
    }

    fn close_root(&self, slot: Slot) -> Result<Answer, Fault> {
        self.kill(slot)?;
        self.roots.remove(slot).map_err(|e| Fault::internal("the box's root cannot be forgotten", &e))?;
        Ok(Answer::nothing())
    }

    // ── Dependency-missing faults ──────────────────────────────────────────────────────────────────────────────────

    /// A LOOKUP that no linked component answers: fetches, appraises and links every component of the closure that has
    /// the path. The answer names all of them, those too that were linked before, so that it can be asked again.
    fn missing(
        &self,
        slot: Slot,
        root: &Arc<Root>,
        asked: &Missing,
        session: &Session,
    ) -> Result<Found, Fault> {
        let begun = Instant::now();
        let composition = root.composition();
        let providers = self.composer.catalogue(&composition)?.providers(&asked.path);
        if providers.is_empty() {
            return Ok(Found { layers: Vec::new() });
        }
        let closure = self.composer.closure(&composition)?;
        let linked = root.sources();
        let mut layers = Vec::new();
        let mut failure = None;
        for number in providers {
            let Some(package) = closure.packages.get(number as usize) else { continue };
            if let Some(layer) = linked.get(&package.source) {
                layers.push(layer.clone());
                continue;
            }
            match self.fault_in(slot, root, &closure, number, &asked.path, begun, session) {
                Ok(layer) => layers.push(layer),
                Err(fault) => {
                    let kind = match fault.kind {
                        FaultKind::SourceUnreachable => "source.unreachable",
                        FaultKind::Cancelled => "component.cancelled",
                        _ => "component.refused",
                    };
                    let message =
                        format!("{} was not linked for {}: {fault}", package.reference(), shown(&asked.path));
                    if root.may_tell() {
                        self.tell(Some(slot), Severity::Error, kind, message);
                    }
                    failure = Some(fault);
                }
            }
        }
        // A path of which only a part can be shown is not shown: the caller asks again.
        failure.map_or(Ok(Found { layers }), Err)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one place calls it; a struct for that would say nothing more"
    )]
    fn fault_in(
        &self,
        slot: Slot,
        root: &Arc<Root>,
        closure: &Closure,
        number: u32,
        path: &RootPath,
        begun: Instant,
        session: &Session,
    ) -> Result<Layer, Fault> {
        let package: &Package = &closure.packages[number as usize];
        let sources = || self.composer.sources.session();
        let mut on_bytes =
            |_| if session.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let imported = self.importer.package(package, &sources, &mut on_bytes)?;
        if imported.record.has_scripts() && !closure.scripts.get(number as usize).copied().unwrap_or(false) {
            return Err(Fault::new(
                FaultKind::Integrity,
                "it has maintainer scripts that were denied when the box was composed",
            )
            .because("the beginning of the package, which is not signed, said otherwise")
            .hint("stop the box and start it again: its needs are composed anew"));
        }
        self.composer.learn(&root.composition(), number, &imported.record)?;
        self.link(slot, root, FIRST_PACKAGE + number, package.source, &imported, Some(path), begun)
    }

    #[expect(clippy::too_many_arguments, reason = "what a link is")]
    fn link(
        &self,
        slot: Slot,
        root: &Arc<Root>,
        precedence: u32,
        source: Digest,
        imported: &Imported,
        because: Option<&RootPath>,
        begun: Instant,
    ) -> Result<Layer, Fault> {
        let record = &imported.record;
        let appraisal = self.appraise(record, Some(LinkTo { slot, source }))?;
        let layer = Layer { precedence, manifest: record.manifest };
        let reference = &record.reference;
        let component = if reference.starts_with("deb:") {
            reference.rsplit_once(':').map_or(reference.as_str(), |(r, _)| r)
        } else {
            reference
        };
        let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let view = LinkedComponent {
            component: component.to_owned(),
            digest: record.manifest.to_string(),
            linked_ms: crate::now_ms(),
            because_of: because.map(shown),
            took_ms,
            fetched_bytes: imported.fetched,
            appraisal,
        };
        let linked = Linked { layer: layer.clone(), source, view };
        let cannot = |e| Fault::internal("the box's root cannot be recorded", &e);
        self.roots.link(slot, root, linked, &self.importer.store).map_err(cannot)?;
        if let Some(path) = because {
            self.tell(
                Some(slot),
                Severity::Info,
                "component.linked",
                format!("{component} because of {} ({took_ms} ms)", shown(path)),
            );
        }
        Ok(layer)
    }

    fn names(&self, root: &Root, dir: &RootPath) -> Result<Answer, Fault> {
        let composition = root.composition();
        let names = self.composer.catalogue(&composition)?.names(dir);
        let closure = self.composer.closure(&composition)?;
        let linked = root.sources();
        let is_open =
            |n: &u32| closure.packages.get(*n as usize).is_some_and(|p| !linked.contains_key(&p.source));
        let names = names
            .into_iter()
            .filter(|(_, who)| who.iter().any(is_open))
            .filter_map(|(n, _)| RootPath::try_from(n).ok());
        Ok(Answer::of(&NamesReply { names: names.collect() }))
    }

    /// Sets contents aside that are not what their digest says, and imports what they came from once more.
    fn repair(&self, slot: Slot, root: &Root, digest: &Digest) -> Result<Answer, Fault> {
        let store = &self.importer.store;
        if store.has_object(digest) && store.open_checked(digest).is_ok() {
            return Ok(Answer::nothing());
        }
        store.set_aside(digest)?;
        let closure = self.composer.closure(&root.composition())?;
        let linked = root.sources();
        let has_it = |p: &&Package| {
            let layer = linked.get(&p.source)?;
            let manifest = store.manifest(&layer.manifest).ok()?;
            manifest.entries.iter().any(|e| matches!(&e.kind, gtvp_model::component::EntryKind::File { digest: d, .. } if d == digest)).then_some(())
        };
        let Some(package) = closure.packages.iter().find(|p| has_it(p).is_some()) else {
            if root.may_tell() {
                let message = format!("contents {} are damaged, and were made here", digest.short());
                self.tell(Some(slot), Severity::Error, "component.damaged", message);
            }
            return Err(Fault::new(
                FaultKind::Integrity,
                "damaged contents were made on this member and cannot be fetched again",
            )
            .hint("remove the box and run it again"));
        };
        self.tell(
            Some(slot),
            Severity::Warning,
            "component.damaged",
            format!("{} has damaged contents; it is fetched again", package.reference()),
        );
        store.forget(&package.source)?;
        let sources = || self.composer.sources.session();
        self.importer.package(package, &sources, &mut |_| ControlFlow::Continue(()))?;
        if store.open_checked(digest).is_err() {
            return Err(Fault::new(
                FaultKind::Integrity,
                format!("{} could not be repaired", package.reference()),
            ));
        }
        self.tell(
            Some(slot),
            Severity::Info,
            "component.repaired",
            format!("{} is whole again", package.reference()),
        );
        Ok(Answer::nothing())
    }
}
