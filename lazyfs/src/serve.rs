//! What each request is answered, from what is known now. When something has to be fetched first, the answer is what that is
//! ([`Need`]), and the same request is asked again afterwards. Nothing here waits, reads files or touches the guest.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, RwLock};

use gtvp_model::component::RootPath;
use gtvp_model::digest::Digest;

use crate::content::Objects;
use crate::fuse::{self, Listing, Operation, errno};
use crate::log::say;
use crate::tree::{self, Id, Named, Tree};
use crate::{locked, reading, writing};

/// Names that nobody provides, remembered so that a guest which forgot them does not make us ask again. When there are more,
/// all are forgotten.
const MAX_ABSENT: usize = 16384;
/// Directories whose unlinked names are remembered; when there are more, all are forgotten.
const MAX_NAMED_DIRS: usize = 256;
/// Most bytes of one listing: the guest asks for a page, or a few.
const MAX_LISTING: usize = 128 << 10;

/// What has to be fetched before a request can be answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Need {
    /// The layers: the process has just begun.
    Layers,
    /// Whoever provides this path, which has this number.
    Provider(u64, RootPath),
    /// The names that components provide in this directory which are not linked.
    Names(u64, RootPath),
    /// A file's contents.
    Object(Digest),
}

/// An answer.
pub enum Reply {
    /// None; the request is over.
    Nothing,
    /// An error.
    Error(i32),
    /// These bytes.
    Bytes(Vec<u8>),
    /// This part of this file, which holds it.
    File {
        /// The contents.
        object: Arc<OwnedFd>,
        /// From.
        offset: u64,
        /// How much.
        len: usize,
    },
}

/// An answer, or what it takes.
pub enum Step {
    /// The answer.
    Done(Reply),
    /// Fetch this, then ask again.
    Blocked(Need),
}

/// What is known of one box's root.
#[derive(Default)]
pub struct Root {
    /// The union; none until the layers have been heard of.
    pub tree: RwLock<Option<Tree>>,
    /// Open and verified contents.
    pub objects: Objects,
    absent: Mutex<HashSet<u64>>,
    names: Mutex<HashMap<u64, Arc<Vec<Vec<u8>>>>>,
}

impl Root {
    /// Answers `operation`, whose answer may have `room` bytes.
    pub fn step(&self, operation: &Operation, room: usize) -> Step {
        match self.answer(operation, room) {
            Ok(reply) => Step::Done(reply),
            Err(Stop::Errno(e)) => Step::Done(Reply::Error(e)),
            Err(Stop::Need(need)) => Step::Blocked(need),
        }
    }

    fn answer(&self, operation: &Operation, room: usize) -> Result<Reply, Stop> {
        match operation {
            Operation::Silent => return Ok(Reply::Nothing),
            Operation::Nod => return Ok(Reply::Bytes(Vec::new())),
            Operation::Refused(e) => return Err(Stop::Errno(*e)),
            Operation::Init { major, minor, readahead, flags } => {
                return Ok(Reply::Bytes(fuse::init(*major, *minor, *readahead, *flags)?));
            }
            _ => {}
        }
        let tree = reading(&self.tree);
        let tree = tree.as_ref().ok_or(Stop::Need(Need::Layers))?;
        let node = |n: &u64| tree.by_number(*n).ok_or(Stop::Errno(errno::ESTALE));
        let bytes = match operation {
            Operation::Lookup { parent, name } => return self.lookup(tree, node(parent)?, name),
            Operation::Read { node: n, offset, size } => {
                return self.read(tree, node(n)?, *offset, (*size as usize).min(room));
            }
            Operation::Readdir { node: n, offset, size } => {
                return self.list(tree, node(n)?, *offset, (*size as usize).min(room));
            }
            Operation::Getattr { node: n } => fuse::attributes(&tree.attributes(node(n)?)),
            Operation::Readlink { node: n } => tree.target(node(n)?).ok_or(errno::EINVAL)?.to_vec(),
            Operation::Opendir { node: n } if tree.is_directory(node(n)?) => fuse::opened(),
            Operation::Opendir { .. } => return Err(Stop::Errno(errno::ENOTDIR)),
            Operation::Getxattr { node: n, name, size } => {
                let mut all = tree.xattrs(node(n)?).iter();
                let (_, value) = all.find(|(k, _)| **k == **name).ok_or(errno::ENODATA)?;
                sized(value.to_vec(), *size)?
            }
            Operation::Listxattr { node: n, size } => {
                let names = tree.xattrs(node(n)?).iter().flat_map(|(k, _)| k.iter().copied().chain([0]));
                sized(names.collect(), *size)?
            }
            Operation::Statfs => {
                let (bytes, files) = tree.totals();
                fuse::statfs(bytes, files)
            }
            // Answered above.
            Operation::Init { .. } | Operation::Nod | Operation::Silent | Operation::Refused(_) => Vec::new(),
        };
        Ok(Reply::Bytes(bytes))
    }

    fn lookup(&self, tree: &Tree, dir: Id, name: &[u8]) -> Result<Reply, Stop> {
        if !tree.is_directory(dir) {
            return Err(Stop::Errno(errno::ENOTDIR));
        }
        let found = match name {
            b"." => Named::Node(dir),
            b".." => Named::Node(tree.parent(dir)),
            name => tree.lookup(dir, name),
        };
        match found {
            Named::Node(id) => Ok(Reply::Bytes(fuse::entry(Some(&tree.attributes(id))))),
            Named::Hidden => Ok(Reply::Bytes(fuse::entry(None))),
            Named::Unknown => {
                let n = tree::number(tree.attributes(dir).number, name);
                if locked(&self.absent).contains(&n) {
                    return Ok(Reply::Bytes(fuse::entry(None)));
                }
                let path = tree.path(dir).join(name).map_err(|_| errno::ENAMETOOLONG)?;
                Err(Stop::Need(Need::Provider(n, path)))
            }
        }
    }

    fn read(&self, tree: &Tree, id: Id, offset: u64, size: usize) -> Result<Reply, Stop> {
        let not_a_file = if tree.is_directory(id) { errno::EISDIR } else { errno::EINVAL };
        let content = tree.content(id).ok_or(not_a_file)?;
        let len = usize::try_from(content.size.saturating_sub(offset)).unwrap_or(usize::MAX).min(size);
        if len == 0 {
            return Ok(Reply::Bytes(Vec::new()));
        }
        match self.objects.get(&content.digest) {
            // The digest covers the size: a manifest that says another one lies.
            Some((_, held)) if held != content.size => Err(Stop::Errno(errno::EIO)),
            Some((object, _)) => Ok(Reply::File { object, offset, len }),
            None => Err(Stop::Need(Need::Object(content.digest))),
        }
    }

    fn list(&self, tree: &Tree, dir: Id, offset: u64, size: usize) -> Result<Reply, Stop> {
        if !tree.is_directory(dir) {
            return Err(Stop::Errno(errno::ENOTDIR));
        }
        let here = tree.attributes(dir).number;
        let unlinked = if tree.closed(dir) {
            Arc::default()
        } else {
            let known = locked(&self.names).get(&here).cloned();
            known.ok_or_else(|| Stop::Need(Need::Names(here, tree.path(dir))))?
        };
        let unlinked = unlinked.iter().filter(|name| tree.lookup(dir, name) == Named::Unknown).map(|name| {
            let number = tree::number(here, name);
            tree::Listed { cookie: tree::cookie(number), number, kind: 0, name }
        });
        let up = tree.attributes(tree.parent(dir)).number;
        let dots = [
            tree::Listed { cookie: 1, number: here, kind: 4, name: b"." },
            tree::Listed { cookie: 2, number: up, kind: 4, name: b".." },
        ];
        let mut all: Vec<_> = dots
            .into_iter()
            .chain(tree.children(dir))
            .chain(unlinked)
            .filter(|l| l.cookie > offset)
            .collect();
        all.sort_unstable_by_key(|l| l.cookie);
        let mut listing = Listing::new(size.min(MAX_LISTING));
        for l in all {
            if !listing.add(l.number, l.cookie, l.kind, l.name) {
                break;
            }
        }
        Ok(Reply::Bytes(listing.finish()))
    }

    /// The names that are not linked in the directory numbered `dir`. Those that are no names are left out.
    pub fn learn_names(&self, dir: u64, names: Vec<RootPath>) {
        let names =
            names.into_iter().map(|n| n.as_bytes().to_vec()).filter(|n| !n.is_empty() && !n.contains(&b'/'));
        let names: std::collections::BTreeSet<_> = names.collect();
        let mut known = locked(&self.names);
        if known.len() >= MAX_NAMED_DIRS {
            known.clear();
        }
        known.insert(dir, Arc::new(names.into_iter().collect()));
    }

    /// The name numbered `n` was looked for everywhere and is nowhere.
    pub fn learn_absent(&self, n: u64) {
        let mut absent = locked(&self.absent);
        if absent.len() >= MAX_ABSENT {
            absent.clear();
        }
        absent.insert(n);
    }

    /// Links a batch of layers.
    pub fn link(&self, batch: Vec<(u32, Vec<gtvp_model::component::Entry>)>) {
        let mut tree = writing(&self.tree);
        let tree = tree.get_or_insert_default();
        let before = tree.left_out;
        tree.link(batch);
        if tree.left_out > before {
            say!(
                "{} paths were left out: the root is full, or their numbers are taken",
                tree.left_out - before
            );
        }
    }
}

/// An extended attribute's answer: its size when none is asked for, an error when it does not fit.
fn sized(value: Vec<u8>, size: u32) -> Result<Vec<u8>, i32> {
    match size as usize {
        0 => Ok(fuse::xattr_size(value.len())),
        room if room < value.len() => Err(errno::ERANGE),
        _ => Ok(value),
    }
}

/// Why there is no answer.
enum Stop {
    Errno(i32),
    Need(Need),
}

impl From<i32> for Stop {
    fn from(e: i32) -> Self {
        Self::Errno(e)
    }
}
