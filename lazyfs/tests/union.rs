//! The union and what it fetches, driven without a guest: what a guest's requests are answered while components come, break and
//! restart.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod played;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use gtvp_lazyfs::fetch::{Batches, Fetch};
use gtvp_lazyfs::fuse::{Operation, errno};
use gtvp_lazyfs::serve::{Reply, Root, Step};
use gtvp_lazyfs::upstream;
use gtvp_model::component::{Entry, EntryKind, RootPath};
use gtvp_model::digest::FsVerity;
use played::components::{Components, manifest, of};
use played::{Scratch, noise, write};

/// A server without queues: answers one request after the other.
struct Server {
    root: Arc<Root>,
    fetch: Fetch,
    linked: Arc<Mutex<Batches>>,
}

impl Server {
    fn new(socket: &Path, before: Batches) -> Self {
        let root = Arc::new(Root::default());
        let linked = Arc::new(Mutex::new(Vec::new()));
        let told = linked.clone();
        let on_link = Box::new(move |b: &Batches| *told.lock().unwrap() = b.clone());
        let source = Box::new(upstream::Components::at(socket.into()));
        Self { fetch: Fetch::new(root.clone(), source, before, on_link), root, linked }
    }

    fn ask(&self, operation: &Operation) -> Result<Vec<u8>, i32> {
        for _ in 0..10 {
            match self.root.step(operation, 1 << 20) {
                Step::Blocked(need) => self.fetch.fetch(&need)?,
                Step::Done(Reply::Error(e)) => return Err(e),
                Step::Done(Reply::Bytes(b)) => return Ok(b),
                Step::Done(Reply::Nothing) => return Ok(vec![]),
                Step::Done(Reply::File { object, offset, len }) => {
                    let mut bytes = vec![0; len];
                    let file = std::fs::File::from(object.try_clone().unwrap());
                    file.read_exact_at(&mut bytes, offset).unwrap();
                    return Ok(bytes);
                }
            }
        }
        panic!("{operation:?} is blocked for ever");
    }

    /// Node number of a path; 0 when there is none.
    fn find(&self, path: &str) -> Result<u64, i32> {
        let mut node = 1;
        for name in path.split('/').filter(|n| !n.is_empty()) {
            let entry = self.ask(&Operation::Lookup { parent: node, name: name.as_bytes().to_vec() })?;
            node = u64::from_le_bytes(entry[..8].try_into().unwrap());
            if node == 0 {
                break;
            }
        }
        Ok(node)
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, i32> {
        let node = self.find(path)?;
        let mut all = Vec::new();
        loop {
            let more = self.ask(&Operation::Read { node, offset: all.len() as u64, size: 100_000 })?;
            if more.is_empty() {
                return Ok(all);
            }
            all.extend(more);
        }
    }

    /// One listing's worth: names and where each continues.
    fn list(&self, node: u64, offset: u64, size: u32) -> Vec<(String, u64)> {
        let mut b = &self.ask(&Operation::Readdir { node, offset, size }).unwrap()[..];
        let mut names = Vec::new();
        while !b.is_empty() {
            let word = |i: usize| u64::from_le_bytes(b[i..i + 8].try_into().unwrap());
            let len = (word(16) & 0xffff_ffff) as usize;
            names.push((String::from_utf8(b[24..24 + len].to_vec()).unwrap(), word(8)));
            b = &b[(24 + len).next_multiple_of(8)..];
        }
        names
    }
}

fn served(scratch: &Scratch, components: &Arc<Components>) -> Server {
    let socket = scratch.path("components.sock");
    components.clone().serve(&socket);
    Server::new(&socket, Vec::new())
}

#[test]
fn a_flipped_byte_is_reported_and_fetched_again() {
    let scratch = Scratch::new("flipped");
    let tree = scratch.path("tree");
    let content = noise(1, 200_000);
    write(&tree, "file", &content, 0o644);
    let digest = FsVerity::of(&content);
    let components = Arc::new(Components::default());
    components.add_tree(1, &tree, true);
    let mut flipped = content.clone();
    flipped[123_456] ^= 4;
    write(&scratch.0, "flipped", &flipped, 0o644);
    components.set_object(digest, scratch.path("flipped"));
    let server = served(&scratch, &components);

    assert_eq!(server.read("file"), Err(errno::EIO), "damaged twice");
    assert_eq!(components.damaged().len(), 2);
    components.set_repaired(digest, tree.join("file"));
    assert_eq!(server.read("file"), Ok(content), "damaged once, then fetched anew");
    assert_eq!(components.damaged().len(), 3);
}

#[test]
fn a_manifest_that_lies_about_a_size_gets_no_bytes() {
    let scratch = Scratch::new("size");
    let tree = scratch.path("tree");
    write(&tree, "file", b"0123456789", 0o644);
    let (mut m, objects) = manifest(&tree);
    let EntryKind::File { size, digest, .. } = &mut m.entries[0].kind else { panic!() };
    *size = 11;
    let components = Arc::new(Components::default());
    components.set_object(*digest, objects[digest].clone());
    components.add(1, m, true);
    let server = served(&scratch, &components);
    assert_eq!(server.read("file"), Err(errno::EIO));
}

#[test]
fn absence_is_not_said_while_components_is_away() {
    let scratch = Scratch::new("away");
    let tree = scratch.path("tree");
    write(&tree, "here", b"x", 0o644);
    let late = scratch.path("late");
    write(&late, "late", b"late", 0o644);
    let components = Arc::new(Components::default());
    components.add_tree(1, &tree, true);
    components.add_tree(2, &late, false);
    let socket = scratch.path("components.sock");
    let server = Server::new(&socket, Vec::new());
    std::thread::scope(|s| {
        let asking = s.spawn(|| server.read("late"));
        // It has been trying without success for a while when components comes back.
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert!(!asking.is_finished());
        components.clone().serve(&socket);
        assert_eq!(asking.join().unwrap(), Ok(b"late".to_vec()));
    });
    assert_eq!(server.find("nobody"), Ok(0));
}

#[test]
fn a_listing_continues_in_its_place_while_components_are_linked() {
    let scratch = Scratch::new("listing");
    let (base, late) = (scratch.path("base"), scratch.path("late"));
    (0..200).for_each(|i| write(&base, &format!("d/base-{i}"), b"", 0o644));
    (0..200).for_each(|i| write(&late, &format!("d/late-{i}"), b"", 0o644));
    let components = Arc::new(Components::default());
    components.add_tree(1, &base, true);
    components.add_tree(2, &late, false);
    let server = served(&scratch, &components);
    let dir = server.find("d").unwrap();
    let mut names = Vec::new();
    let mut offset = 0;
    loop {
        let more = server.list(dir, offset, 1000);
        let Some((_, last)) = more.last() else { break };
        offset = *last;
        names.extend(more.into_iter().map(|(n, _)| n));
        if names.len() > 100 {
            server.find("d/late-7").unwrap();
        }
    }
    assert_eq!(components.calls("missing"), 1);
    let mut want: Vec<_> = (0..200).flat_map(|i| [format!("base-{i}"), format!("late-{i}")]).collect();
    want.extend([".".into(), "..".into()]);
    names.sort();
    want.sort();
    assert_eq!(names, want, "each name exactly once");
}

#[test]
fn what_a_higher_layer_removed_stays_removed() {
    let scratch = Scratch::new("removed");
    let late = scratch.path("late");
    write(&late, "etc/gone", b"x", 0o644);
    write(&late, "etc/kept", b"kept", 0o644);
    let entry = |path: &str, kind| {
        let path = RootPath::new(path.as_bytes()).unwrap();
        Entry { path, kind, mode: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: BTreeMap::new() }
    };
    let derived =
        of(vec![entry("etc", EntryKind::Dir { opaque: false }), entry("etc/gone", EntryKind::Whiteout)]);
    let components = Arc::new(Components::default());
    components.add(1, derived, true);
    components.add_tree(2, &late, false);
    let server = served(&scratch, &components);
    assert_eq!(server.find("etc/gone"), Ok(0));
    assert_eq!(components.calls("missing"), 0, "nobody was asked");
    let etc = server.find("etc").unwrap();
    let names = |s: &Server| s.list(etc, 2, 4096).into_iter().map(|(n, _)| n).collect::<Vec<_>>();
    assert_eq!(names(&server), ["kept"]);
    assert_eq!(server.read("etc/kept"), Ok(b"kept".to_vec()));
    assert_eq!(names(&server), ["kept"]);
    assert_eq!(server.find("etc/gone"), Ok(0));
}

#[test]
fn the_next_process_serves_the_same_tree() {
    let scratch = Scratch::new("next");
    let (low, high) = (scratch.path("low"), scratch.path("high"));
    write(&low, "d/both", b"served first", 0o644);
    write(&high, "d/both", b"comes later, from above", 0o644);
    write(&high, "d/more", b"more", 0o644);
    let components = Arc::new(Components::default());
    components.add_tree(9, &low, true);
    components.add_tree(1, &high, false);
    let server = served(&scratch, &components);
    assert_eq!(server.read("d/both"), Ok(b"served first".to_vec()));
    assert_eq!(server.read("d/more"), Ok(b"more".to_vec()));
    assert_eq!(server.read("d/both"), Ok(b"served first".to_vec()));
    let number = server.find("d/both");

    let held = server.linked.lock().unwrap().clone();
    let next = Server::new(&scratch.path("components.sock"), held);
    assert_eq!(next.read("d/both"), Ok(b"served first".to_vec()));
    assert_eq!(next.find("d/both"), number);
    let forgetful = Server::new(&scratch.path("components.sock"), Vec::new());
    assert_eq!(
        forgetful.read("d/both"),
        Ok(b"comes later, from above".to_vec()),
        "the order is what makes the difference"
    );
}
