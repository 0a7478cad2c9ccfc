//! Fetching what a request needs: layers at the start, whoever provides a missing path, names, contents. Waits as long as it
//! takes; callers run it on threads that may.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use gtvp_ipc::components::Layer;
use gtvp_model::component::RootPath;
use gtvp_model::digest::Digest;

use crate::content::BadObject;
use crate::fuse::errno;
use crate::log::say;
use crate::serve::{Need, Root};
use crate::tree::Tree;
use crate::upstream::{Source, Unavailable};
use crate::{locked, memory, reading, writing};

/// What was linked together, in the order in which it was.
pub type Batches = Vec<Vec<Layer>>;

/// Called with every change of what is linked.
pub type OnLink = Box<dyn Fn(&Batches) + Send + Sync>;

/// Fetches for one root.
pub struct Fetch {
    root: Arc<Root>,
    source: Box<dyn Source>,
    linked: Mutex<Batches>,
    on_link: OnLink,
    /// Missing calls begun, and those under way.
    begun: AtomicUsize,
    active: AtomicUsize,
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error("object {0:?} is not usable")]
    Object(Digest, #[source] BadObject),
}

impl Fetch {
    /// `before` is what a process before this one had linked.
    pub fn new(root: Arc<Root>, source: Box<dyn Source>, before: Batches, on_link: OnLink) -> Self {
        Self {
            root,
            source,
            linked: Mutex::new(before),
            on_link,
            begun: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
        }
    }

    /// Fetches `need`. When it cannot be had, says why in the log and gives the error for the guest: never that something does
    /// not exist, since that is not known.
    pub fn fetch(&self, need: &Need) -> Result<(), i32> {
        let result = match need {
            Need::Layers => self.layers(),
            Need::Provider(number, path) => self.provider(*number, path),
            Need::Names(number, dir) => self
                .source
                .names(dir.clone())
                .map(|names| self.root.learn_names(*number, names))
                .map_err(Failed::from),
            Need::Object(digest) => self.object(*digest),
        };
        result.map_err(|e| {
            complain(need, &e);
            errno::EIO
        })
    }

    /// All layers: those that were linked before in their old order, then the rest.
    fn layers(&self) -> Result<(), Failed> {
        let mut linked = locked(&self.linked);
        if reading(&self.root.tree).is_some() {
            return Ok(());
        }
        let attached = self.source.attach()?;
        let current: HashSet<_> = attached.iter().map(|l| l.manifest).collect();
        let mut batches: Batches = linked
            .iter()
            .map(|batch| batch.iter().filter(|l| current.contains(&l.manifest)).cloned().collect())
            .collect();
        batches.push(unknown(&batches, attached));
        batches.retain(|b| !b.is_empty());
        let mut tree = Tree::new();
        for batch in &batches {
            tree.link(self.manifests(batch)?);
        }
        if tree.left_out > 0 {
            say!("{} paths were left out: the root is full, or their numbers are taken", tree.left_out);
        }
        *writing(&self.root.tree) = Some(tree);
        *linked = batches;
        (self.on_link)(&linked);
        memory::trim_heap();
        Ok(())
    }

    fn manifests(&self, batch: &[Layer]) -> Result<Vec<(u32, Vec<gtvp_model::component::Entry>)>, Failed> {
        batch.iter().map(|l| Ok((l.precedence, self.source.manifest(l.manifest)?))).collect()
    }

    fn provider(&self, number: u64, path: &RootPath) -> Result<(), Failed> {
        let others = self.active.fetch_add(1, Ordering::SeqCst);
        let mine = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let found = self.source.missing(path.clone());
        let alone = others == 0 && self.begun.load(Ordering::SeqCst) == mine;
        let linked = found.map_err(Failed::from).and_then(|layers| self.link(layers));
        self.active.fetch_sub(1, Ordering::SeqCst);
        linked?;
        let absent = || reading(&self.root.tree).as_ref().is_none_or(|t| !t.has(path));
        if absent() && !alone {
            // A call at the same time may have had the component linked for another path of it and not told us yet.
            self.link(self.source.attach()?)?;
        }
        if absent() {
            self.root.learn_absent(number);
        }
        Ok(())
    }

    fn link(&self, layers: Vec<Layer>) -> Result<(), Failed> {
        let mut linked = locked(&self.linked);
        let batch = unknown(&linked, layers);
        if batch.is_empty() {
            return Ok(());
        }
        let manifests = self.manifests(&batch)?;
        let many = manifests.iter().map(|(_, entries)| entries.len()).sum::<usize>() > 1000;
        self.root.link(manifests);
        linked.push(batch);
        (self.on_link)(&linked);
        if many {
            memory::trim_heap();
        }
        Ok(())
    }

    /// Asks for contents, once more when the first were damaged.
    fn object(&self, digest: Digest) -> Result<(), Failed> {
        if self.root.objects.get(&digest).is_some() {
            return Ok(());
        }
        for last in [false, true] {
            match self.root.objects.admit(digest, self.source.object(digest)?) {
                Ok(()) => return Ok(()),
                Err(BadObject::Damaged) => {
                    say!("object {digest} is damaged");
                    self.source.damaged(digest)?;
                    if last {
                        return Err(Failed::Object(digest, BadObject::Damaged));
                    }
                }
                Err(e) => return Err(Failed::Object(digest, e)),
            }
        }
        Ok(())
    }
}

fn complain(need: &Need, e: &Failed) {
    let causes = std::iter::successors(std::error::Error::source(e), |e| e.source());
    let causes: String = causes.map(|c| format!(": {c}")).collect();
    match need {
        Need::Layers => say!("the layers: {e}{causes}"),
        Need::Provider(_, path) => say!("{path:?}: {e}{causes}"),
        Need::Names(_, dir) => say!("the names in {dir:?}: {e}{causes}"),
        Need::Object(digest) => say!("contents {digest}: {e}{causes}"),
    }
}

/// Those of `layers` that are in none of `batches`, each once.
fn unknown(batches: &Batches, layers: Vec<Layer>) -> Vec<Layer> {
    let mut seen: HashSet<_> = batches.iter().flatten().map(|l| l.manifest).collect();
    layers.into_iter().filter(|l| seen.insert(l.manifest)).collect()
}
