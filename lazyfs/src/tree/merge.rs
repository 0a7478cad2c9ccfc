//! Layers on their way into the tree: overlayfs' rules for what hides what, applied to the highest layer first.

use std::collections::HashMap;

use gtvp_model::component::{Entry, EntryKind, RootPath, unescape};

use super::{Content, Id, Kind, NONE, Node, ROOT_ID, Tree, number};

/// Most nodes: closures of whole desktops have about a million paths.
const MAX_NODES: usize = 8 << 20;

/// One layer on its way into the tree.
struct Merge {
    layer: u32,
    precedence: u32,
    /// The directory of the entry before: entries are sorted, so the next is often in it too.
    dir: (RootPath, Option<Id>),
    /// Files whose first name is not visible: the node that stands for it.
    groups: HashMap<RootPath, u32>,
}

impl Tree {
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
        let mut merge =
            Merge { layer, precedence, dir: (RootPath::root(), Some(ROOT_ID)), groups: HashMap::new() };
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
                Some(id)
                    if self.nodes[id as usize].kind == Kind::Whiteout
                        && m.precedence < self.precedence(id) =>
                {
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
                let (Ok(at), Ok(len)) = (u32::try_from(self.names.len()), u16::try_from(target.len())) else {
                    return;
                };
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
                        node.kind == Kind::File
                            && node.layer == m.layer
                            && self.files[node.payload as usize] == content
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
            let bytes = |v: &str| {
                (0..v.len() / 2)
                    .filter_map(|i| u8::from_str_radix(v.get(2 * i..2 * i + 2)?, 16).ok())
                    .collect()
            };
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
}
