use std::collections::BTreeMap;

use gtvp_model::component::{Entry, EntryKind};

use super::*;

fn entry(path: &str, kind: EntryKind) -> Entry {
    let path = RootPath::new(path.as_bytes()).unwrap();
    Entry { path, kind, mode: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: BTreeMap::new() }
}

fn dir(path: &str) -> Entry {
    entry(path, EntryKind::Dir { opaque: false })
}

fn opaque(path: &str) -> Entry {
    entry(path, EntryKind::Dir { opaque: true })
}

fn whiteout(path: &str) -> Entry {
    entry(path, EntryKind::Whiteout)
}

/// A file whose size says which one it is.
fn file(path: &str, size: u64) -> Entry {
    entry(path, EntryKind::File { size, digest: Digest::of(&size.to_le_bytes()), hardlink_of: None })
}

fn link(path: &str, size: u64, first: &str) -> Entry {
    let hardlink_of = Some(RootPath::new(first.as_bytes()).unwrap());
    entry(path, EntryKind::File { size, digest: Digest::of(&size.to_le_bytes()), hardlink_of })
}

fn tree(batches: Vec<Vec<(u32, Vec<Entry>)>>) -> Tree {
    let mut tree = Tree::new();
    for mut batch in batches {
        batch.iter_mut().for_each(|(_, entries)| entries.sort_by(|a, b| a.path.cmp(&b.path)));
        tree.link(batch);
    }
    tree
}

/// `dir`, a file's size, `other`, `hidden`, or `?` for a path that nothing linked decides.
fn at(tree: &Tree, path: &str) -> String {
    let mut here = ROOT_ID;
    for name in path.split('/') {
        here = match tree.lookup(here, name.as_bytes()) {
            Named::Node(id) => id,
            Named::Hidden => return "hidden".into(),
            Named::Unknown => return "?".into(),
        };
    }
    match tree.content(here) {
        Some(c) => c.size.to_string(),
        None if tree.is_directory(here) => "dir".into(),
        None => "other".into(),
    }
}

fn names(tree: &Tree, path: &str) -> Vec<String> {
    let id = Id(tree.walk(&RootPath::new(path.as_bytes()).unwrap()).unwrap());
    let mut names: Vec<_> = tree.children(id).map(|l| String::from_utf8(l.name.to_vec()).unwrap()).collect();
    names.sort();
    names
}

fn links(tree: &Tree, path: &str) -> u32 {
    let id = tree.resolved(tree.walk(&RootPath::new(path.as_bytes()).unwrap()).unwrap());
    tree.attributes(Id(id)).links
}

#[test]
fn a_lower_number_hides_a_higher_one() {
    let t = tree(vec![vec![
        (2, vec![dir("etc"), file("etc/a", 2), file("etc/b", 2)]),
        (1, vec![file("etc/a", 1)]),
    ]]);
    assert_eq!(at(&t, "etc/a"), "1");
    assert_eq!(at(&t, "etc/b"), "2");
    assert_eq!(names(&t, "etc"), ["a", "b"]);
    assert_eq!(at(&t, "etc/c"), "?");
}

#[test]
fn whiteouts_hide_what_is_below_them_only() {
    let t = tree(vec![vec![
        (1, vec![file("a", 1)]),
        (2, vec![whiteout("a"), whiteout("b"), whiteout("d")]),
        (3, vec![file("a", 3), file("b", 3), dir("d"), file("d/x", 3)]),
    ]]);
    assert_eq!(at(&t, "a"), "1");
    assert_eq!(at(&t, "b"), "hidden");
    assert_eq!(at(&t, "d"), "hidden");
    assert_eq!(names(&t, ""), ["a"]);
}

#[test]
fn a_whiteout_hides_what_is_linked_later_too() {
    let t = tree(vec![
        vec![(1, vec![dir("etc"), whiteout("etc/a")])],
        vec![(5, vec![file("etc/a", 5), file("etc/b", 5)])],
    ]);
    assert_eq!(at(&t, "etc/a"), "hidden");
    assert_eq!(at(&t, "etc/b"), "5");
}

#[test]
fn an_opaque_directory_is_final_for_everything_in_it() {
    let t = tree(vec![
        vec![
            (1, vec![dir("v"), file("v/top", 1)]),
            (2, vec![opaque("v"), dir("v/sub")]),
            (3, vec![file("v/low", 3)]),
        ],
        vec![(9, vec![dir("v/sub"), file("v/sub/low", 9)])],
    ]);
    assert_eq!(names(&t, "v"), ["sub", "top"]);
    assert_eq!(at(&t, "v/low"), "hidden");
    assert_eq!(at(&t, "v/sub/low"), "hidden");
    assert_eq!(at(&t, "w"), "?");
}

#[test]
fn a_directory_over_a_file_over_a_directory_shows_the_first_only() {
    let layers = vec![(1, vec![file("x/a", 1)]), (2, vec![file("x", 2)]), (3, vec![file("x/b", 3)])];
    let t = tree(vec![layers]);
    assert_eq!(names(&t, "x"), ["a"]);
    assert_eq!(at(&t, "x/b"), "hidden");
}

#[test]
fn a_file_hides_a_directory_and_all_in_it() {
    let t = tree(vec![vec![(1, vec![file("x", 1)]), (2, vec![dir("x"), dir("x/y"), file("x/y/z", 2)])]]);
    assert_eq!(at(&t, "x"), "1");
    assert_eq!(t.nodes.len(), 2);
}

#[test]
fn what_was_served_stays_when_something_higher_is_linked_later() {
    let first = vec![(5, vec![dir("etc"), file("etc/a", 5)])];
    let later = vec![(1, vec![file("etc/a", 1), file("etc/b", 1)])];
    let t = tree(vec![first.clone(), later.clone()]);
    assert_eq!(at(&t, "etc/a"), "5");
    assert_eq!(at(&t, "etc/b"), "1");
    let at_once = tree(vec![first.into_iter().chain(later).collect()]);
    assert_eq!(at(&at_once, "etc/a"), "1", "in one batch precedence decides");
}

#[test]
fn directories_that_nobody_lists_exist() {
    let t = tree(vec![vec![(1, vec![file("a/b/c", 1)])], vec![(2, vec![dir("a"), dir("a/d")])]]);
    assert_eq!(at(&t, "a/b/c"), "1");
    assert_eq!(names(&t, "a"), ["b", "d"]);
    assert_eq!(links(&t, "a"), 4);
    assert_eq!(links(&t, ""), 3);
}

#[test]
fn hard_links_are_one_file() {
    let t = tree(vec![vec![(1, vec![file("a", 7), link("b", 7, "a"), link("c/d", 7, "a")])]]);
    let numbers = |p: &str| t.attributes(Id(t.walk(&RootPath::new(p.as_bytes()).unwrap()).unwrap())).number;
    assert_eq!(numbers("a"), numbers("b"));
    assert_eq!(numbers("a"), numbers("c/d"));
    assert_eq!(links(&t, "b"), 3);
    let listed: Vec<_> = t.children(ROOT_ID).filter(|l| l.number == numbers("a")).collect();
    assert_eq!(listed.len(), 2);
    assert_eq!(t.totals().0, 7, "counted once");
}

#[test]
fn a_hard_link_whose_first_name_is_hidden_stands_for_itself() {
    let group = vec![file("a", 7), link("b", 7, "a"), link("c", 7, "a")];
    let t = tree(vec![vec![(1, vec![file("a", 1)]), (2, group)]]);
    assert_eq!(at(&t, "a"), "1");
    assert_eq!((at(&t, "b"), at(&t, "c")), ("7".into(), "7".into()));
    assert_eq!((links(&t, "a"), links(&t, "b"), links(&t, "c")), (1, 2, 2));
    // A manifest that lies about its group gets files, not a panic.
    let t =
        tree(vec![vec![(1, vec![dir("d"), link("e", 3, "d"), link("f", 3, "nowhere"), link("g", 4, "f")])]]);
    assert_eq!((at(&t, "e"), at(&t, "f"), at(&t, "g")), ("3".into(), "3".into(), "4".into()));
}

#[test]
fn numbers_are_the_same_in_every_process() {
    let layers = || {
        vec![(1, vec![dir("usr"), dir("usr/bin"), file("usr/bin/env", 1)]), (2, vec![file("usr/bin/sh", 2)])]
    };
    let (a, b) = (tree(vec![layers()]), tree(vec![layers()]));
    let dump = |t: &Tree| t.nodes.iter().map(|n| n.hash).collect::<Vec<_>>();
    assert_eq!(dump(&a), dump(&b));
    let sh = number(number(number(ROOT, b"usr"), b"bin"), b"sh");
    let id = a.by_number(sh).unwrap();
    assert_eq!(a.content(id).unwrap().size, 2);
    assert_eq!(a.path(a.parent(id)), RootPath::new(b"usr/bin").unwrap());
    assert!(a.by_number(12345).is_none() && a.by_number(0).is_none() && a.by_number(NONE.into()).is_none());
}

#[test]
fn many_paths_are_found_again() {
    let entries: Vec<_> = (0..20_000).map(|i| file(&format!("d{}/f{i:05}", i % 100), i)).collect();
    let t = tree(vec![vec![(1, entries)]]);
    for i in (0..20_000).step_by(37) {
        assert_eq!(at(&t, &format!("d{}/f{i:05}", i % 100)), i.to_string());
    }
    assert_eq!(t.children(ROOT_ID).count(), 100);
    assert_eq!(t.left_out, 0);
}

#[test]
fn symlinks_pipes_and_attributes_are_told() {
    let mut l = entry("l", EntryKind::Symlink { target: "../a%25b".into() });
    l.xattrs.insert("user.x".into(), "00ff".into());
    let t = tree(vec![vec![(1, vec![l, entry("p", EntryKind::Fifo)])]]);
    let id = |p: &[u8]| match t.lookup(ROOT_ID, p) {
        Named::Node(id) => id,
        other => panic!("{other:?}"),
    };
    assert_eq!(t.target(id(b"l")), Some(&b"../a%b"[..]));
    assert_eq!(t.attributes(id(b"l")).mode, 0o120_755);
    assert_eq!(t.attributes(id(b"l")).size, 6);
    assert_eq!(t.xattrs(id(b"l")), [(b"user.x"[..].into(), [0u8, 255][..].into())]);
    assert_eq!(t.attributes(id(b"p")).mode, 0o010_755);
    assert_eq!(t.xattrs(id(b"p")), []);
}
