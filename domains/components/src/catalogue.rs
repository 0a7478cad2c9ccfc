//! The catalogue of a closure: which of its packages has which path, without importing them. From the archive's Contents
//! indices for packages that are not imported, from their manifests for those that are.
//!
//! One sorted text file a closure, read when a LOOKUP finds nothing; nothing of it stays in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, BufRead};

use gtvp_model::component::{EntryKind, Manifest, RootPath, escape};

use crate::archive::canonical;

/// Most bytes of a line of a Contents index: a path and the packages that have it.
const MAX_LINE: u64 = 1024 * 1024;

/// Paths of a closure while they are collected.
#[derive(Default)]
pub struct Builder {
    /// Paths of files and links by escaped path, with the packages that have them.
    paths: BTreeMap<String, BTreeSet<u32>>,
    /// Folders that an imported package has, empty ones too.
    folders: BTreeMap<String, (BTreeSet<u32>, Folder)>,
}

/// What is known of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Folder {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A folder of which nothing is known.
pub const PLAIN_FOLDER: Folder = Folder { mode: 0o755, uid: 0, gid: 0 };

impl Builder {
    /// Adds an imported package's paths.
    pub fn manifest(&mut self, package: u32, manifest: &Manifest) {
        for entry in &manifest.entries {
            let path = entry.path.to_string();
            if let EntryKind::Dir { .. } = entry.kind {
                let known = Folder { mode: entry.mode, uid: entry.uid, gid: entry.gid };
                let (who, folder) = self.folders.entry(path).or_insert((BTreeSet::new(), known));
                who.insert(package);
                // Of several opinions the unusual one is right: most packages just write 0755.
                if *folder == PLAIN_FOLDER {
                    *folder = known;
                }
            } else {
                self.paths.entry(path).or_default().insert(package);
            }
        }
    }

    /// Adds the lines of a Contents index that are about these packages.
    pub fn contents(&mut self, mut index: impl BufRead, packages: &HashMap<&[u8], u32>) -> io::Result<()> {
        let mut line = Vec::new();
        loop {
            line.clear();
            if io::Read::take(&mut index, MAX_LINE).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            let text = line.trim_ascii_end();
            let Some(space) = text.iter().rposition(|c| matches!(c, b' ' | b'\t')) else { continue };
            for place in text[space + 1..].split(|c| *c == b',') {
                let name = place.rsplit(|c| *c == b'/').next().unwrap_or_default();
                let Some(package) = packages.get(name) else { continue };
                if let Ok(path) = RootPath::new(text[..space].trim_ascii_end()) {
                    self.paths.entry(canonical(path).to_string()).or_default().insert(*package);
                }
            }
        }
    }

    /// Folders that more than one package has: with them in the skeleton, a LOOKUP on the way to a file links nothing.
    pub fn shared_folders(&self) -> BTreeMap<String, Folder> {
        let mut who: BTreeMap<&str, Option<u32>> = BTreeMap::new();
        let above = |path: &str| path.match_indices('/').map(|(i, _)| i).collect::<Vec<_>>();
        let mut note =
            |path: &'_ str, packages: &BTreeSet<u32>, whole: bool, all: &mut BTreeMap<String, ()>| {
                let mut ends = above(path);
                if whole {
                    ends.push(path.len());
                }
                let one = packages.first().copied().filter(|_| packages.len() == 1);
                for end in ends {
                    // Safe to slice: `/` and the end are boundaries of characters.
                    let folder = &path[..end];
                    match (who_get(&who, folder), one) {
                        (None, _) => {}
                        (Some(before), now) if before == now => continue,
                        (Some(_), _) => {
                            all.insert(folder.to_owned(), ());
                            continue;
                        }
                    }
                    if one.is_none() {
                        all.insert(folder.to_owned(), ());
                    }
                    who.insert(self.key(path, end), one);
                }
            };
        let mut shared = BTreeMap::new();
        for (path, packages) in &self.paths {
            note(path, packages, false, &mut shared);
        }
        for (path, (packages, _)) in &self.folders {
            note(path, packages, true, &mut shared);
        }
        shared
            .into_keys()
            .map(|p| {
                let f = self.folders.get(&p).map_or(PLAIN_FOLDER, |(_, f)| *f);
                (p, f)
            })
            .collect()
    }

    fn key<'a>(&'a self, path: &str, end: usize) -> &'a str {
        // The path is a key of one of the two maps: borrow from there.
        let own = self
            .paths
            .get_key_value(path)
            .map(|(k, _)| k)
            .or_else(|| self.folders.get_key_value(path).map(|(k, _)| k));
        own.map_or("", |k| &k[..end])
    }

    /// The packages that have `path`, or a file or a link below it.
    pub fn packages_at(&self, path: &RootPath) -> BTreeSet<u32> {
        let at = path.to_string();
        let below = format!("{at}/");
        let inside = self.paths.range(below.clone()..).take_while(|(p, _)| p.starts_with(&below));
        self.paths.get(&at).into_iter().chain(inside.map(|(_, who)| who)).flatten().copied().collect()
    }

    /// Paths of one package that is not imported, for dpkg's list of its files.
    pub fn paths_of(&self, package: u32) -> impl Iterator<Item = &str> {
        self.paths.iter().filter(move |(_, who)| who.contains(&package)).map(|(p, _)| p.as_str())
    }

    /// All paths that satisfy `wanted`.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.paths.keys().map(String::as_str)
    }

    /// The catalogue's file: a line for each path, sorted, with the packages' numbers behind a tab.
    pub fn finish(&self) -> Vec<u8> {
        let mut lines: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
        for (path, who) in &self.paths {
            lines.entry(path).or_default().extend(who);
        }
        for (path, (who, _)) in &self.folders {
            lines.entry(path).or_default().extend(who);
        }
        written(lines.iter().map(|(path, who)| (*path, who)))
    }
}

fn written<'a>(lines: impl Iterator<Item = (&'a str, &'a BTreeSet<u32>)>) -> Vec<u8> {
    let mut out = Vec::new();
    for (path, who) in lines {
        out.extend_from_slice(path.as_bytes());
        let mut mark = '\t';
        for n in who {
            out.extend_from_slice(format!("{mark}{n}").as_bytes());
            mark = ',';
        }
        out.push(b'\n');
    }
    out
}

fn who_get(who: &BTreeMap<&str, Option<u32>>, folder: &str) -> Option<Option<u32>> {
    who.get(folder).copied()
}

/// A catalogue file's bytes.
pub struct Catalogue(Vec<u8>);

impl Catalogue {
    /// Over these bytes; a line that is not understood counts for nothing.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Packages that have `path`, as a file, a link, or a folder that something lies in.
    pub fn providers(&self, path: &RootPath) -> BTreeSet<u32> {
        let wanted = escape(path.as_bytes());
        let mut found = BTreeSet::new();
        if let Some((line, who)) = self.from(wanted.as_bytes()).next() {
            if line == wanted.as_bytes() {
                found.extend(who);
            }
        }
        let below = format!("{wanted}/");
        for (line, who) in self.from(below.as_bytes()) {
            if !line.starts_with(below.as_bytes()) {
                break;
            }
            found.extend(who);
        }
        found
    }

    /// Names in `dir`, each with the packages that have something there.
    pub fn names(&self, dir: &RootPath) -> BTreeMap<String, BTreeSet<u32>> {
        let below = if dir.is_root() { String::new() } else { format!("{}/", escape(dir.as_bytes())) };
        let mut names: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
        for (line, who) in self.from(below.as_bytes()) {
            let Some(rest) = line.strip_prefix(below.as_bytes()) else { break };
            let name = rest.split(|c| *c == b'/').next().unwrap_or_default();
            names.entry(String::from_utf8_lossy(name).into_owned()).or_default().extend(who);
        }
        names
    }

    /// With the folders of an imported package that nothing lies in; none when they are all known.
    pub fn with_empty_folders(&self, package: u32, manifest: &Manifest) -> Option<Vec<u8>> {
        let all: BTreeSet<String> = manifest.entries.iter().map(|e| e.path.to_string()).collect();
        let is_empty = |path: &String| {
            let below = format!("{path}/");
            all.range(below.clone()..).next().is_none_or(|p| !p.starts_with(&below))
        };
        let folders = manifest.entries.iter().filter(|e| matches!(e.kind, EntryKind::Dir { .. }));
        let folders = folders.filter(|e| is_empty(&e.path.to_string()));
        let lacking: Vec<String> = folders
            .filter(|e| !self.providers(&e.path).contains(&package))
            .map(|e| e.path.to_string())
            .collect();
        if lacking.is_empty() {
            return None;
        }
        let mut lines: BTreeMap<String, BTreeSet<u32>> = self
            .from(b"")
            .map(|(path, who)| (String::from_utf8_lossy(path).into_owned(), who.into_iter().collect()))
            .collect();
        for path in lacking {
            lines.entry(path).or_default().insert(package);
        }
        Some(written(lines.iter().map(|(path, who)| (path.as_str(), who))))
    }

    /// Lines from the first whose path is not below `at` in order.
    fn from<'a>(&'a self, at: &[u8]) -> impl Iterator<Item = (&'a [u8], Vec<u32>)> + use<'a> {
        let bytes = &self.0;
        let start_of = |i: usize| bytes[..i].iter().rposition(|c| *c == b'\n').map_or(0, |p| p + 1);
        let path_at = |start: usize| {
            let line = bytes[start..].split(|c| *c == b'\n').next().unwrap_or_default();
            line.split(|c| *c == b'\t').next().unwrap_or_default()
        };
        let (mut low, mut high) = (0, bytes.len());
        while low < high {
            let start = start_of(low + (high - low) / 2);
            if path_at(start) < at {
                let end =
                    bytes[start..].iter().position(|c| *c == b'\n').map_or(bytes.len(), |p| start + p + 1);
                low = end;
            } else {
                high = start;
            }
        }
        bytes[low..].split(|c| *c == b'\n').filter(|l| !l.is_empty()).map(|line| {
            let mut parts = line.splitn(2, |c| *c == b'\t');
            let path = parts.next().unwrap_or_default();
            let numbers = parts.next().unwrap_or_default();
            let numbers =
                String::from_utf8_lossy(numbers).split(',').filter_map(|n| n.parse().ok()).collect();
            (path, numbers)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gtvp_model::component::Entry;
    use gtvp_model::digest::Digest;

    fn path(p: &str) -> RootPath {
        RootPath::new(p.as_bytes()).unwrap()
    }

    fn built() -> Builder {
        let mut b = Builder::default();
        let index = b"bin/sh   shells/dash\nusr/bin/perl perl/perl,perl/perl-base\nusr/share/x y/file  misc/dash\nusr/share/nginx/html/index.html httpd/nginx\nusr/share/nginx/html/a.png httpd/nginx,other/none\nnot/wanted some/other\n";
        let names: HashMap<&[u8], u32> =
            [(&b"dash"[..], 0), (&b"perl"[..], 1), (&b"perl-base"[..], 2), (&b"nginx"[..], 3)].into();
        b.contents(&index[..], &names).unwrap();
        let dir = |p: &str, mode| Entry {
            path: path(p),
            kind: EntryKind::Dir { opaque: false },
            mode,
            uid: 0,
            gid: 4,
            mtime: 0,
            xattrs: BTreeMap::new(),
        };
        let manifest = Manifest {
            format: 1,
            reference: "deb:x=1:all".into(),
            origin: String::new(),
            source: Digest::of(b""),
            source_size: 0,
            level: 0,
            provides: vec![],
            needs: vec![],
            entries: vec![
                dir("usr", 0o755),
                dir("usr/share", 0o755),
                dir("var", 0o755),
                dir("var/log", 0o755),
                dir("var/log/x", 0o2750),
            ],
        };
        b.manifest(4, &manifest);
        b
    }

    #[test]
    fn a_path_leads_to_the_packages_that_have_it() {
        let c = Catalogue::new(built().finish());
        let who = |p: &str| c.providers(&path(p)).into_iter().collect::<Vec<_>>();
        assert_eq!(who("usr/bin/sh"), [0]);
        assert_eq!(who("usr/bin/perl"), [1, 2]);
        assert_eq!(who("usr/share/x y/file"), [0]);
        assert_eq!(who("usr/share/nginx"), [3]);
        assert_eq!(who("usr/share/nginx/html/index.html"), [3]);
        assert_eq!(who("var/log/x"), [4], "an empty folder of an imported package is known");
        for nothing in ["usr/bin/per", "usr/bin/perl5", "not/wanted", "usr/share/nginx/htm", "zzz", "a"] {
            assert!(who(nothing).is_empty(), "{nothing}");
        }
    }

    #[test]
    fn an_empty_folder_is_learnt_when_its_package_is_imported() {
        let c = Catalogue::new(built().finish());
        let entry = |p: &str, kind| Entry {
            path: path(p),
            kind,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: BTreeMap::new(),
        };
        let dir = || EntryKind::Dir { opaque: false };
        let link = EntryKind::Symlink { target: "x".into() };
        let entries = vec![
            entry("usr/share/nginx", dir()),
            entry("usr/share/nginx/conf.d", dir()),
            entry("usr/share/nginx/html", dir()),
            entry("usr/share/nginx/html/index.html", link),
        ];
        let manifest = Manifest {
            format: 1,
            reference: "r".into(),
            origin: String::new(),
            source: Digest::of(b""),
            source_size: 0,
            level: 0,
            provides: vec![],
            needs: vec![],
            entries,
        };
        assert!(c.providers(&path("usr/share/nginx/conf.d")).is_empty());
        let more = Catalogue::new(c.with_empty_folders(3, &manifest).unwrap());
        assert_eq!(more.providers(&path("usr/share/nginx/conf.d")), [3].into());
        assert_eq!(more.providers(&path("usr/share/nginx/html/index.html")), [3].into());
        assert_eq!(more.providers(&path("usr/bin/perl")), [1, 2].into());
        assert_eq!(more.with_empty_folders(3, &manifest), None);
    }

    #[test]
    fn names_in_a_folder_are_listed() {
        let c = Catalogue::new(built().finish());
        let names = |d: &str| c.names(&path(d)).into_keys().collect::<Vec<_>>();
        assert_eq!(names("usr/bin"), ["perl", "sh"]);
        assert_eq!(c.names(&RootPath::root()).into_keys().collect::<Vec<_>>(), ["usr", "var"]);
        assert_eq!(names("usr/share/nginx/html"), ["a.png", "index.html"]);
    }

    #[test]
    fn folders_of_several_packages_are_shared_and_keep_their_mode() {
        let shared = built().shared_folders();
        assert_eq!(shared.keys().map(String::as_str).collect::<Vec<_>>(), ["usr", "usr/bin", "usr/share"]);
        let mut b = built();
        let dir = Entry {
            path: path("var/log/x"),
            kind: EntryKind::Dir { opaque: false },
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: BTreeMap::new(),
        };
        let m = Manifest {
            format: 1,
            reference: "r".into(),
            origin: String::new(),
            source: Digest::of(b""),
            source_size: 0,
            level: 0,
            provides: vec![],
            needs: vec![],
            entries: vec![dir],
        };
        b.manifest(5, &m);
        assert_eq!(b.shared_folders()["var/log/x"], Folder { mode: 0o2750, uid: 0, gid: 4 });
    }
}
