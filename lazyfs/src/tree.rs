//! The union of a box's components: layers by precedence with overlayfs' rules for whiteouts and opaque directories, in compact
//! arrays, since a box's root has tens of thousands of paths.
//!
//! A node's number is a hash of its path (of the first visible name, for a file with several), so that a new process gives
//! the same numbers without having been told. Layers that come later add to what is there: a path that was served keeps
//! its node even when a later layer of higher precedence has it too, because the guest may hold it open. Within one batch
//! precedence decides. Whoever rebuilds the tree gives the batches in their old order and gets the same tree.

use gtvp_model::component::RootPath;
use gtvp_model::digest::Digest;
use sha2::{Digest as _, Sha256};

use crate::fuse::{Attributes, ROOT};

mod index;
mod merge;

use index::Index;

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

/// Name and value of an extended attribute.
pub type Xattr = (Box<[u8]>, Box<[u8]>);

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

/// The union.
pub struct Tree {
    nodes: Vec<Node>,
    index: Index,
    names: Vec<u8>,
    files: Vec<Content>,
    xattrs: Vec<Vec<Xattr>>,
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
    pub fn xattrs(&self, id: Id) -> &[Xattr] {
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
            number: if node.kind == Kind::HardLink {
                self.nodes[node.payload as usize].hash
            } else {
                node.hash
            },
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

#[cfg(test)]
mod tests;
