//! Layers that are made here for a closure: the skeleton that packages expect to find, and dpkg's records of what is
//! installed, so that maintainer scripts, `dpkg -l` and the like work as on any Debian system.

use std::collections::{BTreeMap, BTreeSet};

use gtvp_model::component::{Entry, EntryKind};
use gtvp_model::digest::Digest;
use gtvp_model::fault::Fault;

use crate::catalogue::{Builder, PLAIN_FOLDER};
use crate::closure::{Closure, Package};
use crate::configure;
use crate::import::{Importer, own_entry, own_path};
use crate::stage::Stage;
use crate::store::Staged;
use crate::tmpfiles;

/// Version of how layers are made; another one makes them anew.
const FORMAT: u32 = 3;
/// Links of a merged-/usr system.
const LINKS: &[(&str, &str)] =
    &[("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")];
/// Folders that exist before any package does, with their modes.
const FOLDERS: &[(&str, u32)] = &[
    ("boot", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("usr/lib", 0o755),
    ("usr/lib64", 0o755),
    ("usr/local", 0o755),
    ("usr/local/bin", 0o755),
    ("usr/local/lib", 0o755),
    ("usr/local/sbin", 0o755),
    ("usr/sbin", 0o755),
    ("usr/share", 0o755),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/tmp", 0o1777),
];
/// Fields of an index that dpkg's status does not have.
const INDEX_FIELDS: &[&str] =
    &["Filename", "Size", "MD5sum", "SHA1", "SHA256", "SHA512", "Description-md5", "Tag"];
/// Where dpkg keeps its records.
const ADMIN: &str = "var/lib/dpkg";

/// The skeleton: links, folders of every system, and folders that several packages of the closure have, so that a LOOKUP
/// on the way to a file links nothing.
pub fn base(importer: &Importer, catalogue: &Builder) -> Result<Digest, Fault> {
    let folder =
        |path: &str, mode| Ok::<_, Fault>(own_entry(own_path(path)?, EntryKind::Dir { opaque: false }, mode));
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    for (path, known) in catalogue.shared_folders() {
        let escaped = gtvp_model::component::RootPath::try_from(path.clone());
        let escaped = escaped.map_err(|e| Fault::internal("a path of the catalogue is not usable", &e))?;
        let mut entry = own_entry(escaped, EntryKind::Dir { opaque: false }, known.mode);
        (entry.uid, entry.gid) = (known.uid, known.gid);
        entries.insert(path, entry);
    }
    for (path, mode) in FOLDERS {
        let known = entries.get(*path).is_some_and(|e| e.mode != PLAIN_FOLDER.mode);
        if !known {
            entries.insert((*path).to_owned(), folder(path, *mode)?);
        }
    }
    for (path, target) in LINKS {
        let link = EntryKind::Symlink { target: (*target).to_owned() };
        entries.insert((*path).to_owned(), own_entry(own_path(path)?, link, 0o777));
    }
    let staged = importer.store.stage()?;
    Ok(importer.made("base", staged, entries.into_values().collect())?.0)
}

/// Files of a layer while it is made.
struct Layer<'a> {
    staged: Staged<'a>,
    entries: Vec<Entry>,
}

impl Layer<'_> {
    fn file(&mut self, path: &str, bytes: &[u8], mode: u32) -> Result<(), Fault> {
        let digest = self.staged.bytes(bytes)?;
        self.known(path, bytes.len() as u64, digest, mode)
    }

    fn known(&mut self, path: &str, size: u64, digest: Digest, mode: u32) -> Result<(), Fault> {
        let kind = EntryKind::File { size, digest, hardlink_of: None };
        self.entries.push(own_entry(own_path(path)?, kind, mode));
        Ok(())
    }

    fn folder(&mut self, path: &str) -> Result<(), Fault> {
        self.entries.push(own_entry(own_path(path)?, EntryKind::Dir { opaque: false }, 0o755));
        Ok(())
    }
}

/// dpkg's records with every package installed.
pub fn dpkg(importer: &Importer, closure: &Closure, catalogue: &Builder) -> Result<Digest, Fault> {
    let store = importer.store.clone();
    let mut layer = Layer { staged: store.stage()?, entries: Vec::new() };
    for dir in ["", "/alternatives", "/info", "/parts", "/triggers", "/updates"] {
        layer.folder(&format!("{ADMIN}{dir}"))?;
    }
    layer.file(&format!("{ADMIN}/status"), status(closure, |_| "install ok installed").as_bytes(), 0o644)?;
    layer.file(&format!("{ADMIN}/available"), b"", 0o644)?;
    layer.file(&format!("{ADMIN}/info/format"), b"1\n", 0o644)?;
    let mut interests = String::new();
    let mut named: BTreeMap<String, String> = BTreeMap::new();
    let mut at_start = AtStart::new();
    for (number, package) in (0u32..).zip(&closure.packages) {
        let info = format!("{ADMIN}/info/{}", info_name(package));
        let list = match store.record(&package.source) {
            Some(record) => {
                for (name, digest) in &record.control {
                    let bytes = store.read_object(digest, 64 * 1024 * 1024)?;
                    let runs =
                        matches!(name.as_str(), "preinst" | "postinst" | "prerm" | "postrm" | "config");
                    layer.known(
                        &format!("{info}.{name}"),
                        bytes.len() as u64,
                        *digest,
                        if runs { 0o755 } else { 0o644 },
                    )?;
                    if name == "triggers" {
                        triggers(&String::from_utf8_lossy(&bytes), package, &mut interests, &mut named);
                    }
                }
                let entries = store.manifest(&record.manifest)?.entries;
                for entry in &entries {
                    collect_at_start(importer, entry, &mut at_start)?;
                }
                list(entries.iter().map(|e| e.path.to_string()))
            }
            None => list(catalogue.paths_of(number).map(str::to_owned)),
        };
        layer.file(&format!("{info}.list"), list.as_bytes(), 0o644)?;
    }
    layer.file(&format!("{ADMIN}/triggers/File"), interests.as_bytes(), 0o644)?;
    layer.file(&format!("{ADMIN}/triggers/Unincorp"), b"", 0o644)?;
    for (trigger, who) in named {
        layer.file(&format!("{ADMIN}/triggers/{trigger}"), who.as_bytes(), 0o644)?;
    }
    let at_start = tmpfiles::list(at_start.values().map(|(_, text)| text.as_str()));
    layer.file(tmpfiles::LIST, at_start.as_bytes(), 0o644)?;
    if let Some(cache) = crate::ldcache::build(catalogue.paths()) {
        layer.file("etc/ld.so.cache", &cache, 0o644)?;
    }
    Ok(importer.made("dpkg", layer.staged, layer.entries)?.0)
}

/// Texts that say what is made at start, services' last, with their ranks.
type AtStart = BTreeMap<(bool, String), (usize, String)>;

/// Takes a file that says what is made at start; of two with one name the more important counts.
fn collect_at_start(importer: &Importer, entry: &Entry, files: &mut AtStart) -> Result<(), Fault> {
    let EntryKind::File { digest, size, .. } = &entry.kind else { return Ok(()) };
    let path = entry.path.to_string();
    let Some((rank, name)) = tmpfiles::ranked(&path).filter(|_| *size <= tmpfiles::MAX_FILE) else {
        return Ok(());
    };
    let bytes = importer.store.read_object(digest, tmpfiles::MAX_FILE)?;
    let text = String::from_utf8_lossy(&bytes);
    let text = if rank == 0 { tmpfiles::of_service(&text) } else { text.into_owned() };
    let name = (rank == 0, name.to_owned());
    if files.get(&name).is_none_or(|(before, _)| *before < rank) {
        files.insert(name, (rank, text));
    }
    Ok(())
}

/// What lies over [`dpkg`]'s records while scripts run: the packages of the stage unpacked and not configured, and the
/// command that configures them.
pub fn builder(importer: &Importer, closure: &Closure, stage: &Stage) -> Result<Digest, Fault> {
    let store = importer.store.clone();
    let mut layer = Layer { staged: store.stage()?, entries: Vec::new() };
    let state = |p: &Package| {
        if stage.done.contains(&p.name) { "install ok installed" } else { "install ok unpacked" }
    };
    layer.file(&format!("{ADMIN}/status"), status(closure, state).as_bytes(), 0o644)?;
    let script = configure::script(closure, &stage.done);
    layer.file(configure::SCRIPT, script.as_bytes(), 0o755)?;
    // Set off, and nobody waits for them.
    let pending: String = stage.pending.iter().map(|t| format!("{t} -\n")).collect();
    layer.file(&format!("{ADMIN}/triggers/Unincorp"), pending.as_bytes(), 0o644)?;
    // No service starts while packages are configured (invoke-rc.d asks this).
    layer.file("usr/sbin/policy-rc.d", b"#!/bin/sh\nexit 101\n", 0o755)?;
    // The real one would read every library of the closure; the cache is made from the catalogue instead.
    layer.file("usr/sbin/ldconfig", b"#!/bin/sh\nexit 0\n", 0o755)?;
    Ok(importer.made("builder", layer.staged, layer.entries)?.0)
}

/// What the layers depend on beside the packages: this version's ways.
pub fn made_with(closure: &Closure, done: &BTreeSet<String>) -> Digest {
    Digest::of(format!("{FORMAT}\n{}", configure::script(closure, done)).as_bytes())
}

/// The name under which dpkg keeps a package's files.
pub fn info_name(package: &Package) -> String {
    let same = package.paragraph().get("Multi-Arch") == Some("same");
    if same { format!("{}:{}", package.name, package.arch) } else { package.name.clone() }
}

fn status<'a>(closure: &Closure, state: impl Fn(&Package) -> &'a str) -> String {
    let mut packages: Vec<&Package> = closure.packages.iter().collect();
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    let mut text = String::new();
    for package in packages {
        text.push_str(&format!("Package: {}\nStatus: {}\n", package.name, state(package)));
        for (name, value) in &package.paragraph().fields {
            if name != "Package" && !INDEX_FIELDS.iter().any(|f| f.eq_ignore_ascii_case(name)) {
                text.push_str(&format!("{name}: {value}\n"));
            }
        }
        text.push('\n');
    }
    text
}

/// dpkg's list of a package's paths: every folder above a path stands before it.
fn list(paths: impl Iterator<Item = String>) -> String {
    let mut all: BTreeSet<String> = BTreeSet::new();
    // Scripts ask whether a package owns /lib64 and the like by that name (usr-is-merged takes away what nobody owns).
    let alias = |p: &String| {
        p.strip_prefix("usr/")
            .filter(|r| r.starts_with("lib64/") || r.starts_with("lib32/") || r.starts_with("libx32/"))
            .map(str::to_owned)
    };
    let paths = paths.flat_map(|p| alias(&p).into_iter().chain(std::iter::once(p)).collect::<Vec<_>>());
    for path in paths {
        for (i, _) in path.match_indices('/') {
            all.insert(path[..i].to_owned());
        }
        all.insert(path);
    }
    let mut text = String::from("/.\n");
    for path in all {
        text.push_str(&format!("/{path}\n"));
    }
    text
}

/// What a package waits for (deb-triggers(5)).
fn triggers(text: &str, package: &Package, files: &mut String, named: &mut BTreeMap<String, String>) {
    let who = info_name(package);
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [directive, trigger] = words[..] else { continue };
        let options = match directive {
            "interest" | "interest-await" => "",
            "interest-noawait" => "/noawait",
            _ => continue,
        };
        if trigger.starts_with('/') {
            files.push_str(&format!("{trigger} {who}{options}\n"));
        } else if trigger.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_+.".contains(&c)) {
            named.entry(trigger.to_owned()).or_default().push_str(&format!("{who}{options}\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::closure::tests::package;

    #[test]
    fn dpkgs_records_say_what_a_real_system_says() {
        let multi =
            package("libx", "Multi-Arch: same\nArchitecture: amd64\nSHA256: 00\nDescription: x\n y\n");
        assert_eq!(info_name(&multi), "libx:amd64");
        let closure = Closure::new(package("linux", ""), vec![multi.clone(), package("a", "")]);
        let text = status(&closure, |_| "install ok unpacked");
        assert!(text.starts_with("Package: a\nStatus: install ok unpacked\n"), "{text}");
        assert!(!text.contains("SHA256") && text.contains("Description: x\n y\n"), "{text}");
        assert!(list(["usr/lib64/ld.so".to_owned()].into_iter()).contains("\n/lib64\n/lib64/ld.so\n"));
        assert_eq!(list(["usr/bin/a".to_owned()].into_iter()), "/.\n/usr\n/usr/bin\n/usr/bin/a\n");
        let (mut files, mut named) = (String::new(), BTreeMap::new());
        triggers(
            "interest-noawait ldconfig\ninterest /usr/share/x\nactivate y\n",
            &multi,
            &mut files,
            &mut named,
        );
        assert_eq!(files, "/usr/share/x libx:amd64\n");
        assert_eq!(named["ldconfig"], "libx:amd64/noawait\n");
    }
}
