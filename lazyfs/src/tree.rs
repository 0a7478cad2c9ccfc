//! The union of a box's components: layers by precedence with overlayfs' rules for whiteouts and opaque directories, in compact
//! arrays, since a box's root has tens of thousands of paths.
//!
//! A node's number is a hash of its path (of the first visible name, for a file with several), so that a new process gives
//! the same numbers without having been told. Layers that come later add to what is there: a path that was served keeps
//! its node even when a later layer of higher precedence has it too, because the guest may hold it open. Within one batch
//! precedence decides. Whoever rebuilds the tree gives the batches in their old order and gets the same tree.

use std::collections::HashMap;

use gtvp_model::component::{Entry, EntryKind, RootPath, unescape};
use gtvp_model::digest::Digest;
use sha2::{Digest as _, Sha256};

use crate::fuse::{Attributes, ROOT};

/// Most nodes: closures of whole desktops have about a million paths.
const MAX_NODES: usize = 8 << 20;
const NONE: u32 = u32::MAX;
const ROOT_ID: Id = Id(0);

/// A node of one tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id(u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Dir,
    /// A directory that no layer lists itself, only something in it.
    ImpliedDir,
    File,
    /// Another name of a file: `payload` is the first visible one.
    HardLink,
    Symlink,
    Fifo,
    Whiteout,
}

#[derive(Debug, Clone)]
struct Node {
    hash: u64,
    mtime: i64,
    parent: u32,
    first_child: u32,
    next_sibling: u32,
    /// Where in `names`.
    name: u32,
    name_len: u8,
    kind: Kind,
    mode: u16,
    uid: u32,
    gid: u32,
    layer: u32,
    /// File: in `files`. HardLink: a node. Symlink: in `names`, with its length before it. Dir: the highest precedence number that
    /// is not hidden in it.
    payload: u32,
    links: u32,
    xattrs: u32,
}

/// Name and value of each extended attribute.
pub type Xattrs = Vec<(Box<[u8]>, Box<[u8]>)>;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Bytes.
    pub size: u64,
    /// fs-verity digest.
    pub digest: Digest,
}

/// What a name in a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// Something.
    Node(Id),
    /// Nothing, whatever else is linked below.
    Hidden,
    /// Nothing that is linked.
    Unknown,
}

/// A name in a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed<'a> {
    /// Order and continuation.
    pub cookie: u64,
    /// Inode number.
    pub number: u64,
    /// `DT_*`.
    pub kind: u8,
    /// The name.
    pub name: &'a [u8],
}

/// The number of `name` in the directory numbered `parent`.
pub fn number(parent: u64, name: &[u8]) -> u64 {
    let digest = Sha256::new().chain_update(parent.to_le_bytes()).chain_update(name).finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    match u64::from_le_bytes(first) {
        // 0 is no node, 1 is the root.
        n @ 0..=1 => n + 2,
        n => n,
    }
}

/// The place in its directory's listing of the name numbered `n`; `.` and `..` come before all.
pub fn cookie(n: u64) -> u64 {
    (n >> 2) + 3
}

/// Nodes by number, by open addressing: the numbers are hashes already.
#[derive(Default)]
struct Index {
    slots: Vec<u32>,
    len: usize,
}

/// The union.
pub struct Tree {
    nodes: Vec<Node>,
    index: Index,
    names: Vec<u8>,
    files: Vec<Content>,
    xattrs: Vec<Xattrs>,
    precedences: Vec<u32>,
    bytes: u64,
    /// Paths left out because their number was taken, or the tree was full.
    pub left_out: u64,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// An empty root.
    pub fn new() -> Self {
        let root = Node {
            hash: ROOT,
            mtime: 0,
            parent: 0,
            first_child: NONE,
            next_sibling: NONE,
            name: 0,
            name_len: 0,
            kind: Kind::ImpliedDir,
            mode: 0o755,
            uid: 0,
            gid: 0,
            layer: 0,
            payload: u32::MAX,
            links: 2,
            xattrs: NONE,
        };
        let mut tree = Self {
            nodes: vec![root],
            index: Index::default(),
            names: Vec::new(),
            files: Vec::new(),
            xattrs: Vec::new(),
            precedences: vec![u32::MAX],
            bytes: 0,
            left_out: 0,
        };
        tree.index.insert(&tree.nodes, 0);
        tree
    }

    /// Adds a batch of layers: precedence and checked entries.
    pub fn link(&mut self, mut batch: Vec<(u32, Vec<Entry>)>) {
        batch.sort_by_key(|(precedence, _)| *precedence);
        for (precedence, entries) in batch {
            self.merge(precedence, entries);
        }
        self.nodes.shrink_to_fit();
        self.names.shrink_to_fit();
        self.files.shrink_to_fit();
    }

    fn merge(&mut self, precedence: u32, entries: Vec<Entry>) {
        let Ok(layer) = u32::try_from(self.precedences.len()) else { return };
        self.precedences.push(precedence);
        let mut merge = Merge { layer, precedence, dir: (RootPath::root(), Some(ROOT_ID)), groups: HashMap::new() };
        for e in entries {
            self.add(&mut merge, &e);
        }
    }

    fn add(&mut self, m: &mut Merge, e: &Entry) {
        if e.path.is_root() {
            if self.nodes[0].kind == Kind::ImpliedDir && matches!(e.kind, EntryKind::Dir { .. }) {
                self.adopt(0, m.layer, Kind::Dir, e);
            }
            return self.opaque(ROOT_ID, e, m.precedence);
        }
        let parent = e.path.parent();
        if m.dir.0 != parent {
            m.dir = (parent.clone(), self.directory(m, &parent));
        }
        let Some(dir) = m.dir.1 else { return };
        let n = number(self.node(dir).hash, e.path.name());
        let Some(existing) = self.index.get(&self.nodes, n) else {
            if let Some(id) = self.insert(dir, n, e.path.name(), m.layer) {
                self.fill(m, id, e);
                self.opaque(Id(id), e, m.precedence);
            }
            return;
        };
        if !self.is(existing, dir, e.path.name()) {
            self.left_out += 1;
            return;
        }
        let below = m.precedence > self.precedence(existing);
        match (self.nodes[existing as usize].kind, &e.kind) {
            (Kind::ImpliedDir, EntryKind::Dir { .. }) => {
                self.adopt(existing, m.layer, Kind::Dir, e);
                self.opaque(Id(existing), e, m.precedence);
            }
            (Kind::Dir, EntryKind::Dir { .. }) => self.opaque(Id(existing), e, m.precedence),
            // Hides what lower layers have in it.
            (Kind::Dir | Kind::ImpliedDir, _) if below => self.cut(existing, m.precedence),
            (Kind::Whiteout, EntryKind::Whiteout) if !below => self.nodes[existing as usize].layer = m.layer,
            (Kind::Whiteout, _) if !below => {
                let hidden_below = self.precedence(existing);
                self.fill(m, existing, e);
                if self.is_dir(existing) {
                    self.cut(existing, hidden_below);
                    self.opaque(Id(existing), e, m.precedence);
                }
            }
            // What is there hides this, or was served and stays.
            _ => {}
        }
    }

    /// The directory at `path` as this layer sees it, made where the layer only implies it; none where it is hidden.
    fn directory(&mut self, m: &Merge, path: &RootPath) -> Option<Id> {
        let mut at = ROOT_ID;
        if m.precedence > self.node(at).payload {
            return None;
        }
        for name in path.as_bytes().split(|c| *c == b'/').filter(|n| !n.is_empty()) {
            let n = number(self.node(at).hash, name);
            let id = match self.index.get(&self.nodes, n) {
                Some(id) if !self.is(id, at, name) => return None,
                Some(id) if self.is_dir(id) => id,
                Some(id) if self.nodes[id as usize].kind == Kind::Whiteout && m.precedence < self.precedence(id) => {
                    let hidden_below = self.precedence(id);
                    self.become_implied(id, m.layer);
                    self.cut(id, hidden_below);
                    id
                }
                Some(_) => return None,
                None => {
                    let id = self.insert(at, n, name, m.layer)?;
                    self.become_implied(id, m.layer);
                    id
                }
            };
            if m.precedence > self.nodes[id as usize].payload {
                return None;
            }
            at = Id(id);
        }
        Some(at)
    }

    /// A new node, a whiteout until it is filled.
    fn insert(&mut self, dir: Id, hash: u64, name: &[u8], layer: u32) -> Option<u32> {
        let (Ok(id), Ok(name_len), Ok(at)) =
            (u32::try_from(self.nodes.len()), u8::try_from(name.len()), u32::try_from(self.names.len()))
        else {
            self.left_out += 1;
            return None;
        };
        if self.nodes.len() >= MAX_NODES {
            self.left_out += 1;
            return None;
        }
        self.names.extend_from_slice(name);
        let parent = &mut self.nodes[dir.0 as usize];
        let next_sibling = std::mem::replace(&mut parent.first_child, id);
        self.nodes.push(Node {
            hash,
            mtime: 0,
            parent: dir.0,
            first_child: NONE,
            next_sibling,
            name: at,
            name_len,
            kind: Kind::Whiteout,
            mode: 0,
            uid: 0,
            gid: 0,
            layer,
            payload: u32::MAX,
            links: 1,
            xattrs: NONE,
        });
        self.index.insert(&self.nodes, id);
        Some(id)
    }

    /// Makes a whiteout into what `e` says.
    fn fill(&mut self, m: &mut Merge, id: u32, e: &Entry) {
        match &e.kind {
            EntryKind::Dir { .. } => {
                self.become_implied(id, m.layer);
                self.adopt(id, m.layer, Kind::Dir, e);
            }
            EntryKind::Whiteout => self.nodes[id as usize].layer = m.layer,
            EntryKind::Fifo => self.adopt(id, m.layer, Kind::Fifo, e),
            EntryKind::Symlink { target } => {
                // The manifest was checked: the target is at most PATH_MAX long.
                let target = unescape(target).unwrap_or_default();
                let (Ok(at), Ok(len)) = (u32::try_from(self.names.len()), u16::try_from(target.len())) else { return };
                self.names.extend(len.to_le_bytes());
                self.names.extend(target);
                self.nodes[id as usize].payload = at;
                self.adopt(id, m.layer, Kind::Symlink, e);
            }
            EntryKind::File { size, digest, hardlink_of } => {
                let content = Content { size: *size, digest: *digest };
                if let Some(first) = hardlink_of {
                    let known = m.groups.get(first).copied().or_else(|| self.walk(first));
                    let same = |n: &u32| {
                        let node = &self.nodes[*n as usize];
                        node.kind == Kind::File && node.layer == m.layer && self.files[node.payload as usize] == content
                    };
                    if let Some(first) = known.filter(same) {
                        self.nodes[first as usize].links += 1;
                        self.nodes[id as usize].payload = first;
                        return self.adopt(id, m.layer, Kind::HardLink, e);
                    }
                    // The first name is not visible; this one takes its place.
                    m.groups.insert(first.clone(), id);
                }
                let Ok(at) = u32::try_from(self.files.len()) else { return };
                self.files.push(content);
                self.bytes = self.bytes.saturating_add(*size);
                self.nodes[id as usize].payload = at;
                self.adopt(id, m.layer, Kind::File, e);
            }
        }
    }

    /// Takes over what `e` says of owner, mode and time.
    fn adopt(&mut self, id: u32, layer: u32, kind: Kind, e: &Entry) {
        let mut xattrs = NONE;
        if !e.xattrs.is_empty() {
            xattrs = u32::try_from(self.xattrs.len()).unwrap_or(NONE);
            // The manifest was checked: values are hexadecimal.
            let bytes = |v: &str| (0..v.len() / 2).filter_map(|i| u8::from_str_radix(v.get(2 * i..2 * i + 2)?, 16).ok()).collect();
            self.xattrs.push(e.xattrs.iter().map(|(k, v)| (k.as_bytes().into(), bytes(v))).collect());
        }
        let node = &mut self.nodes[id as usize];
        node.kind = kind;
        node.layer = layer;
        node.mode = u16::try_from(e.mode & 0o7777).unwrap_or(0);
        node.uid = e.uid;
        node.gid = e.gid;
        node.mtime = e.mtime;
        node.xattrs = xattrs;
    }

    fn become_implied(&mut self, id: u32, layer: u32) {
        let node = &mut self.nodes[id as usize];
        node.kind = Kind::ImpliedDir;
        node.layer = layer;
        node.mode = 0o755;
        node.links = 2;
        node.payload = u32::MAX;
        let parent = node.parent;
        self.nodes[parent as usize].links += 1;
    }

    fn opaque(&mut self, id: Id, e: &Entry, precedence: u32) {
        if matches!(e.kind, EntryKind::Dir { opaque: true }) {
            self.cut(id.0, precedence);
        }
    }

    /// Layers with higher numbers than `precedence` are hidden in this directory from now on.
    fn cut(&mut self, id: u32, precedence: u32) {
        let node = &mut self.nodes[id as usize];
        node.payload = node.payload.min(precedence);
    }

    fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize]
    }

    fn precedence(&self, id: u32) -> u32 {
        self.precedences[self.nodes[id as usize].layer as usize]
    }

    fn is_dir(&self, id: u32) -> bool {
        matches!(self.nodes[id as usize].kind, Kind::Dir | Kind::ImpliedDir)
    }

    fn is(&self, id: u32, dir: Id, name: &[u8]) -> bool {
        let node = &self.nodes[id as usize];
        id != 0 && node.parent == dir.0 && self.name_of(node) == name
    }

    fn name_of(&self, node: &Node) -> &[u8] {
        &self.names[node.name as usize..node.name as usize + usize::from(node.name_len)]
    }

    fn walk(&self, path: &RootPath) -> Option<u32> {
        let mut at = ROOT_ID;
        for name in path.as_bytes().split(|c| *c == b'/').filter(|n| !n.is_empty()) {
            match self.lookup(at, name) {
                Named::Node(id) => at = id,
                _ => return None,
            }
        }
        Some(at.0)
    }

    /// Whether there is something at `path`.
    pub fn has(&self, path: &RootPath) -> bool {
        self.walk(path).is_some()
    }

    /// The node numbered `n`.
    pub fn by_number(&self, n: u64) -> Option<Id> {
        let id = self.index.get(&self.nodes, n)?;
        (self.nodes[id as usize].kind != Kind::Whiteout).then_some(Id(self.resolved(id)))
    }

    fn resolved(&self, id: u32) -> u32 {
        let node = &self.nodes[id as usize];
        if node.kind == Kind::HardLink { node.payload } else { id }
    }

    /// What `name` is in `dir`.
    pub fn lookup(&self, dir: Id, name: &[u8]) -> Named {
        let found = self.index.get(&self.nodes, number(self.node(dir).hash, name));
        match found.filter(|id| self.is(*id, dir, name)) {
            Some(id) if self.nodes[id as usize].kind == Kind::Whiteout => Named::Hidden,
            Some(id) => Named::Node(Id(self.resolved(id))),
            None if self.closed(dir) => Named::Hidden,
            None => Named::Unknown,
        }
    }

    /// Whether nothing that is linked later from below can appear in this directory.
    pub fn closed(&self, dir: Id) -> bool {
        let mut at = dir.0;
        loop {
            let node = &self.nodes[at as usize];
            if node.payload != u32::MAX {
                return true;
            }
            if at == 0 {
                return false;
            }
            at = node.parent;
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self, id: Id) -> bool {
        self.is_dir(id.0)
    }

    /// The directory that holds it.
    pub fn parent(&self, id: Id) -> Id {
        Id(self.node(id).parent)
    }

    /// Where a directory is.
    pub fn path(&self, id: Id) -> RootPath {
        let mut names = Vec::new();
        let mut at = id.0;
        while at != 0 {
            let node = &self.nodes[at as usize];
            names.push(self.name_of(node));
            at = node.parent;
        }
        names.reverse();
        // Made of checked names; too long only when a guest nests what no manifest holds, and it cannot.
        RootPath::new(&names.join(&b'/')).unwrap_or_else(|_| RootPath::root())
    }

    /// What it is, for the guest.
    pub fn attributes(&self, id: Id) -> Attributes {
        let node = self.node(id);
        let (kind, size) = match node.kind {
            Kind::Dir | Kind::ImpliedDir => (0o040_000, 4096),
            Kind::Symlink => (0o120_000, self.target(id).map_or(0, |t| t.len() as u64)),
            Kind::Fifo => (0o010_000, 0),
            _ => (0o100_000, self.content(id).map_or(0, |c| c.size)),
        };
        Attributes {
            number: node.hash,
            size,
            mtime: node.mtime,
            mode: kind | u32::from(node.mode),
            links: node.links,
            uid: node.uid,
            gid: node.gid,
        }
    }

    /// A file's contents.
    pub fn content(&self, id: Id) -> Option<Content> {
        let node = self.node(id);
        (node.kind == Kind::File).then(|| self.files[node.payload as usize])
    }

    /// Where a symbolic link points.
    pub fn target(&self, id: Id) -> Option<&[u8]> {
        let node = self.node(id);
        if node.kind != Kind::Symlink {
            return None;
        }
        let at = node.payload as usize;
        let len = usize::from(u16::from_le_bytes([self.names[at], self.names[at + 1]]));
        Some(&self.names[at + 2..at + 2 + len])
    }

    /// Its extended attributes.
    pub fn xattrs(&self, id: Id) -> &[(Box<[u8]>, Box<[u8]>)] {
        self.xattrs.get(self.node(id).xattrs as usize).map_or(&[], |x| x)
    }

    /// What is in a directory, without `.` and `..`, in no order.
    pub fn children(&self, dir: Id) -> impl Iterator<Item = Listed<'_>> {
        let mut next = if self.is_dir(dir.0) { self.node(dir).first_child } else { NONE };
        std::iter::from_fn(move || {
            let node = self.nodes.get(next as usize)?;
            next = node.next_sibling;
            Some(node)
        })
        .filter(|node| node.kind != Kind::Whiteout)
        .map(|node| Listed {
            cookie: cookie(node.hash),
            number: if node.kind == Kind::HardLink { self.nodes[node.payload as usize].hash } else { node.hash },
            kind: match node.kind {
                Kind::Dir | Kind::ImpliedDir => 4,
                Kind::Symlink => 10,
                Kind::Fifo => 1,
                _ => 8,
            },
            name: self.name_of(node),
        })
    }

    /// Bytes and number of files.
    pub fn totals(&self) -> (u64, u64) {
        (self.bytes, self.nodes.len() as u64)
    }
}

/// One layer on its way into the tree.
struct Merge {
    layer: u32,
    precedence: u32,
    /// The directory of the entry before: entries are sorted, so the next is often in it too.
    dir: (RootPath, Option<Id>),
    /// Files whose first name is not visible: the node that stands for it.
    groups: HashMap<RootPath, u32>,
}

impl Index {
    fn get(&self, nodes: &[Node], n: u64) -> Option<u32> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = usize::try_from(n).unwrap_or(0) & mask;
        loop {
            match self.slots[at] {
                NONE => return None,
                id if nodes[id as usize].hash == n => return Some(id),
                _ => at = (at + 1) & mask,
            }
        }
    }

    fn insert(&mut self, nodes: &[Node], id: u32) {
        if self.slots.len() * 3 <= (self.len + 1) * 4 {
            let old = std::mem::take(&mut self.slots);
            self.slots = vec![NONE; (old.len() * 2).max(64)];
            old.into_iter().filter(|id| *id != NONE).for_each(|id| self.place(nodes, id));
        }
        self.place(nodes, id);
        self.len += 1;
    }

    fn place(&mut self, nodes: &[Node], id: u32) {
        let mask = self.slots.len() - 1;
        let mut at = usize::try_from(nodes[id as usize].hash).unwrap_or(0) & mask;
        while self.slots[at] != NONE {
            at = (at + 1) & mask;
        }
        self.slots[at] = id;
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
