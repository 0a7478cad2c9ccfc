//! `components`, played from directory trees: each tree is a component, some linked from the start, others when a path of
//! theirs is missed.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use gtvp_ipc::components::{Attached, Found, Layer, NamesReply, Request};
use gtvp_ipc::{Nothing, wire};
use gtvp_model::component::{Entry, EntryKind, Manifest, RootPath, escape};
use gtvp_model::digest::{Digest, FsVerity};

/// The manifest of a directory tree, and where its contents are.
pub fn manifest(root: &Path) -> (Manifest, HashMap<Digest, PathBuf>) {
    let mut entries = Vec::new();
    let mut objects = HashMap::new();
    let mut groups: HashMap<u64, RootPath> = HashMap::new();
    let mut pending = vec![PathBuf::new()];
    let mut found = Vec::new();
    while let Some(dir) = pending.pop() {
        for e in fs::read_dir(root.join(&dir)).unwrap() {
            let path = dir.join(e.unwrap().file_name());
            if fs::symlink_metadata(root.join(&path)).unwrap().is_dir() {
                pending.push(path.clone());
            }
            found.push(RootPath::new(path.as_os_str().as_bytes()).unwrap());
        }
    }
    found.sort();
    for path in found {
        let full = root.join(OsStr::from_bytes(path.as_bytes()));
        let m = fs::symlink_metadata(&full).unwrap();
        let kind = if m.is_dir() {
            EntryKind::Dir { opaque: false }
        } else if m.file_type().is_symlink() {
            EntryKind::Symlink { target: escape(fs::read_link(&full).unwrap().as_os_str().as_bytes()) }
        } else if m.file_type().is_fifo() {
            EntryKind::Fifo
        } else {
            let digest = FsVerity::of(&fs::read(&full).unwrap());
            objects.insert(digest, full);
            let hardlink_of = if m.nlink() > 1 {
                let first = groups.entry(m.ino()).or_insert_with(|| path.clone());
                Some(first.clone()).filter(|f| *f != path)
            } else {
                None
            };
            EntryKind::File { size: m.len(), digest, hardlink_of }
        };
        let mode = m.mode() & 0o7777;
        let (uid, gid, mtime) = (m.uid(), m.gid(), m.mtime());
        entries.push(Entry { path, kind, mode, uid, gid, mtime, xattrs: BTreeMap::new() });
    }
    (of(entries), objects)
}

/// A manifest of these entries.
pub fn of(entries: Vec<Entry>) -> Manifest {
    Manifest {
        format: 1,
        reference: "tar:test".into(),
        origin: "test".into(),
        source: Digest::of(b"test"),
        source_size: 0,
        level: 0,
        provides: vec![],
        needs: vec![],
        entries,
    }
}

struct Component {
    layer: Layer,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    linked: bool,
}

#[derive(Default)]
struct State {
    components: Vec<Component>,
    objects: HashMap<Digest, PathBuf>,
    /// Calls so far, as `method argument`.
    calls: Vec<String>,
    /// A missing path whose answer waits, and how many wait.
    held: Option<RootPath>,
    waiting: usize,
    damaged: Vec<Digest>,
    /// What stands in for damaged contents when they are asked for again.
    repaired: HashMap<Digest, PathBuf>,
}

/// The part.
#[derive(Default)]
pub struct Components {
    state: Mutex<State>,
    changed: Condvar,
}

impl Components {
    /// Adds the tree at `root` as a component.
    pub fn add_tree(&self, precedence: u32, root: &Path, linked: bool) {
        let (manifest, objects) = manifest(root);
        self.add(precedence, manifest, linked);
        self.state.lock().unwrap().objects.extend(objects);
    }

    /// Adds a component.
    pub fn add(&self, precedence: u32, manifest: Manifest, linked: bool) {
        let layer = Layer { precedence, manifest: manifest.digest() };
        let bytes = manifest.to_bytes();
        self.state.lock().unwrap().components.push(Component {
            layer,
            bytes,
            entries: manifest.entries,
            linked,
        });
    }

    /// Adds each directory of `root`/usr/lib as a component of its own that is not linked.
    pub fn add_trees_apart(&self, precedence: u32, root: &Path) {
        let (all, objects) = manifest(root);
        self.state.lock().unwrap().objects.extend(objects);
        let tops: Vec<_> =
            all.entries.iter().filter(|e| e.path.parent().as_bytes() == b"usr/lib").cloned().collect();
        for (i, top) in (0..).zip(tops) {
            let mine = |e: &&Entry| e.path.as_bytes().starts_with(top.path.as_bytes());
            self.add(precedence + i, of(all.entries.iter().filter(mine).cloned().collect()), false);
        }
    }

    /// Has the file at `path` stand for the contents `digest`.
    pub fn set_object(&self, digest: Digest, path: PathBuf) {
        self.state.lock().unwrap().objects.insert(digest, path);
    }

    /// Has `path` stand for `digest` after it was reported damaged.
    pub fn set_repaired(&self, digest: Digest, path: PathBuf) {
        self.state.lock().unwrap().repaired.insert(digest, path);
    }

    /// What was reported damaged.
    pub fn damaged(&self) -> Vec<Digest> {
        self.state.lock().unwrap().damaged.clone()
    }

    /// How many calls began with `what`.
    pub fn calls(&self, what: &str) -> usize {
        self.state.lock().unwrap().calls.iter().filter(|c| c.starts_with(what)).count()
    }

    /// Lets the answer to a missing `path` wait until [`Components::release`].
    pub fn hold(&self, path: &str) {
        self.state.lock().unwrap().held = Some(RootPath::new(path.as_bytes()).unwrap());
    }

    /// Waits until somebody waits for what is held.
    pub fn wait_for_waiter(&self) {
        let state = self.state.lock().unwrap();
        let (_state, timeout) =
            self.changed.wait_timeout_while(state, Duration::from_secs(60), |s| s.waiting == 0).unwrap();
        assert!(!timeout.timed_out(), "nobody asked for the path that is held");
    }

    /// Waits until nobody does.
    pub fn wait_for_no_waiter(&self) {
        let state = self.state.lock().unwrap();
        let (_state, timeout) =
            self.changed.wait_timeout_while(state, Duration::from_secs(60), |s| s.waiting > 0).unwrap();
        assert!(!timeout.timed_out());
    }

    /// Answers who waits.
    pub fn release(&self) {
        self.state.lock().unwrap().held = None;
        self.changed.notify_all();
    }

    pub fn attach(&self) -> Vec<Layer> {
        let state = self.state.lock().unwrap();
        state.components.iter().filter(|c| c.linked).map(|c| c.layer.clone()).collect()
    }

    pub fn read_manifest(&self, digest: Digest) -> Option<OwnedFd> {
        let state = self.state.lock().unwrap();
        let bytes = &state.components.iter().find(|c| c.layer.manifest == digest && c.linked)?.bytes;
        let fd = rustix::fs::memfd_create("manifest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = File::from(fd);
        file.write_all(bytes).unwrap();
        Some(file.into())
    }

    pub fn missing(&self, path: &RootPath) -> Vec<Layer> {
        let mut state = self.state.lock().unwrap();
        if state.held.as_ref() == Some(path) {
            state.waiting += 1;
            self.changed.notify_all();
            state = self.changed.wait_while(state, |s| s.held.as_ref() == Some(path)).unwrap();
            state.waiting -= 1;
            self.changed.notify_all();
        }
        let inside =
            |e: &Entry| e.path == *path || e.path.as_bytes().starts_with(&[path.as_bytes(), b"/"].concat());
        let mut layers = Vec::new();
        for c in state.components.iter_mut().filter(|c| !c.linked && c.entries.iter().any(inside)) {
            c.linked = true;
            layers.push(c.layer.clone());
        }
        layers
    }

    pub fn names(&self, dir: &RootPath) -> Vec<RootPath> {
        let state = self.state.lock().unwrap();
        let unlinked = state.components.iter().filter(|c| !c.linked).flat_map(|c| &c.entries);
        unlinked
            .filter(|e| e.path.parent() == *dir && !e.path.is_root())
            .map(|e| RootPath::new(e.path.name()).unwrap())
            .collect()
    }

    pub fn read_object(&self, digest: Digest) -> Option<OwnedFd> {
        let state = self.state.lock().unwrap();
        Some(File::open(state.objects.get(&digest)?).unwrap().into())
    }

    pub fn report(&self, digest: Digest) {
        let mut state = self.state.lock().unwrap();
        state.damaged.push(digest);
        if let Some(path) = state.repaired.remove(&digest) {
            state.objects.insert(digest, path);
        }
    }

    /// Answers calls at `socket` until the process ends.
    pub fn serve(self: Arc<Self>, socket: &Path) {
        let listener = UnixListener::bind(socket).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let this = self.clone();
                std::thread::spawn(move || this.connection(&stream.unwrap()));
            }
        });
    }

    fn connection(&self, stream: &UnixStream) {
        while let Ok(Some((json, _))) = wire::recv(stream) {
            let request: Request = serde_json::from_slice(&json).unwrap();
            let (call, fd_needed) = match &request {
                Request::Missing(m) => (format!("missing {}", m.path), false),
                Request::ReadObject(o) => (format!("read_object {}", o.digest), true),
                other => (format!("{other:?}"), false),
            };
            self.state.lock().unwrap().calls.push(call);
            let done = |v: serde_json::Value| serde_json::json!({ "done": v }).to_string();
            let value = |v| done(serde_json::to_value(v).unwrap());
            let nothing = || done(serde_json::to_value(Nothing {}).unwrap());
            let (answer, fd) = match request {
                Request::Attach(_) => {
                    (done(serde_json::to_value(Attached { layers: self.attach() }).unwrap()), None)
                }
                Request::ReadManifest(m) => (nothing(), self.read_manifest(m.manifest)),
                Request::Missing(m) => (value(Found { layers: self.missing(&m.path) }), None),
                Request::Names(n) => {
                    (done(serde_json::to_value(NamesReply { names: self.names(&n.dir) }).unwrap()), None)
                }
                Request::ReadObject(o) => (nothing(), self.read_object(o.digest)),
                Request::Damaged(d) => {
                    self.report(d.digest);
                    (nothing(), None)
                }
                other => panic!("the file-system server called {other:?}"),
            };
            let _ = fd_needed;
            let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
            if wire::send(stream, answer.as_bytes(), &fds).is_err() {
                return;
            }
        }
    }
}
