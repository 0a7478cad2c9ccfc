//! Maintainer scripts: what runs them in a builder box, and what of the box's writable layer is kept.
//!
//! They run once for the same inputs; the result is a component like any other. A box starts with it or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use gtvp_model::component::{Entry, EntryKind};
use gtvp_model::digest::Digest;
use gtvp_model::fault::{Fault, FaultKind};

use crate::archive::{self, Bounded, Kind, Sink};
use crate::closure::{Closure, Package};
use crate::import::{Importer, MADE_MTIME};
use crate::layers::info_name;
use crate::store::{Record, Staged};

/// The command of the builder box.
pub const SCRIPT: &str = "usr/lib/gtvp/configure";
/// Most bytes of a writable layer that is taken over.
const MAX_UPPER: u64 = 4 * 1024 * 1024 * 1024;

/// The script that configures every package of the closure that is not `done`, or names the one that failed.
pub fn script(closure: &Closure, done: &BTreeSet<String>) -> String {
    let mut text = String::from(
        r#"#!/bin/sh
# Runs the maintainer scripts of packages that are unpacked already, as an installer would on an empty system.
umask 022
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 TERM=dumb
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true DEBCONF_NOWARNINGS=yes
fail() { echo "gtvp: $1" >&2; exit 1; }
preinst() {
    DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_PACKAGE=$1 DPKG_MAINTSCRIPT_ARCH=$3 DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 \
    DPKG_ADMINDIR=/var/lib/dpkg DPKG_ROOT= DPKG_FORCE= DPKG_RUNNING_VERSION=1.21.0 \
        "/var/lib/dpkg/info/$2.preinst" install || fail "the preinst script of package $1 failed"
}
run_dpkg() { dpkg --force-confold --configure "$@" || fail "a package could not be configured (dpkg names it above)"; }
# Those of the packages that are not configured yet: two preinst scripts may want the same ones, and dpkg takes none twice.
configure() {
    left=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" | grep -v '^installed ' | cut -d' ' -f2)
    [ -z "$left" ] || run_dpkg $left
}
[ -e /usr/bin/awk ] || { [ -e /usr/bin/mawk ] && ln -s mawk /usr/bin/awk; }
"#,
    );
    let essential = closure.packages.iter().filter(|p| p.paragraph().get("Essential") == Some("yes"));
    let base = if done.is_empty() {
        reach(closure, essential.map(|p| p.name.as_str()).collect())
    } else {
        done.iter().map(String::as_str).collect()
    };
    let line =
        |package: &Package| format!("preinst {} {} {}\n", package.name, info_name(package), package.arch);
    let scripted: BTreeSet<&str> = closure.with_scripts().map(|p| p.name.as_str()).collect();
    // The accounts come first: every other script may own files to them.
    let mut first: Vec<&Package> = closure
        .packages
        .iter()
        .filter(|p| base.contains(p.name.as_str()) && !done.contains(&p.name))
        .collect();
    first.sort_by_key(|p| (p.name != "base-passwd", p.name != "base-files", p.name.clone()));
    for package in first.iter().filter(|p| scripted.contains(p.name.as_str())) {
        text.push_str(&format!(
            "[ -e /var/lib/dpkg/info/{}.preinst ] && {}",
            info_name(package),
            line(package)
        ));
    }
    let names: Vec<&str> = first.iter().map(|p| p.name.as_str()).collect();
    if !names.is_empty() {
        text.push_str(&format!("configure {}\n", names.join(" ")));
    }
    let by_name: BTreeMap<&str, &Package> = closure.packages.iter().map(|p| (p.name.as_str(), p)).collect();
    for package in closure
        .packages
        .iter()
        .filter(|p| !base.contains(p.name.as_str()) && scripted.contains(p.name.as_str()))
    {
        // Whatever it depends on before it is unpacked must be configured by then, with all that that depends on.
        let wanted = package.paragraph().relations("Pre-Depends");
        let wanted =
            wanted.iter().flatten().filter_map(|r| by_name.get(r.name.as_str()).map(|p| p.name.as_str()));
        let before: Vec<&str> =
            reach(closure, wanted.collect()).into_iter().filter(|n| !base.contains(n)).collect();
        let configure =
            if before.is_empty() { String::new() } else { format!("configure {}; ", before.join(" ")) };
        text.push_str(&format!(
            "[ -e /var/lib/dpkg/info/{}.preinst ] && {{ {configure}{}}}\n",
            info_name(package),
            line(package).replace('\n', "; ")
        ));
    }
    text.push_str(
        r#"run_dpkg --pending
left=$(dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' | grep -v '^ii ' | cut -c4- | tr '\n' ' ')
[ -z "$left" ] || fail "not configured: $left"
sync
exit 0
"#,
    );
    text
}

/// These packages and everything that they depend on.
fn reach<'a>(closure: &'a Closure, from: Vec<&'a str>) -> BTreeSet<&'a str> {
    let mut provides: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for package in &closure.packages {
        provides.entry(package.name.clone()).or_default().push(&package.name);
        for relation in package.paragraph().relations("Provides").into_iter().flatten() {
            provides.entry(relation.name).or_default().push(&package.name);
        }
    }
    let by_name: BTreeMap<&str, &Package> = closure.packages.iter().map(|p| (p.name.as_str(), p)).collect();
    let mut found = BTreeSet::new();
    let mut open = from;
    while let Some(name) = open.pop() {
        if !found.insert(name) {
            continue;
        }
        let Some(package) = by_name.get(name) else { continue };
        let paragraph = package.paragraph();
        for relation in ["Pre-Depends", "Depends"].iter().flat_map(|f| paragraph.relations(f)).flatten() {
            open.extend(provides.get(&relation.name).into_iter().flatten());
        }
    }
    found
}

/// Makes the derived component from a builder box's writable layer.
pub fn derive(
    importer: &Importer,
    inputs: &Digest,
    upper: impl Read,
) -> Result<std::sync::Arc<Record>, Fault> {
    let mut sink = KeyFinder { inner: importer.store.stage()?, keys: BTreeSet::new() };
    let entries = archive::read(Bounded::new(upper, MAX_UPPER), Kind::Upper, &mut sink).map_err(|e| {
        Fault::new(FaultKind::Internal, "the builder box's writable layer cannot be taken over").caused_by(&e)
    })?;
    if entries.is_empty() {
        return Err(Fault::new(FaultKind::Internal, "the builder box wrote nothing"));
    }
    let entries = kept(entries);
    let shared = shared(&entries, &sink.keys);
    importer.made_from("configured", inputs, 0, sink.inner, entries, shared)
}

/// Looks at small files on their way into the store for private keys.
struct KeyFinder<'a> {
    inner: Staged<'a>,
    keys: BTreeSet<Digest>,
}

impl Sink for KeyFinder<'_> {
    fn file(&mut self, size: u64, contents: &mut dyn Read) -> io::Result<Digest> {
        if size > MAX_KEY {
            return self.inner.file(size, contents);
        }
        let mut bytes = Vec::new();
        contents.take(size).read_to_end(&mut bytes)?;
        let digest = self.inner.file(size, &mut bytes.as_slice())?;
        if is_private_key(&bytes) {
            self.keys.insert(digest);
        }
        Ok(digest)
    }
}

/// Whether a line begins a private key (RFC 7468, and OpenSSH's and OpenPGP's own).
fn is_private_key(bytes: &[u8]) -> bool {
    bytes.split(|c| *c == b'\n').any(|line| {
        line.trim_ascii_end()
            .strip_prefix(b"-----BEGIN ")
            .and_then(|rest| rest.strip_suffix(b"-----"))
            .is_some_and(|label| label.ends_with(b"PRIVATE KEY") || label.ends_with(b"PRIVATE KEY BLOCK"))
    })
}

/// What scripts made that ought to be one machine's own, and that every box which starts from it will have.
fn shared(entries: &[Entry], keys: &BTreeSet<Digest>) -> Vec<String> {
    let named = |path: &str| {
        IDENTITIES.iter().any(|pattern| {
            let (names, parts): (Vec<&str>, Vec<&str>) =
                (path.split('/').collect(), pattern.split('/').collect());
            let fits = |(name, part): (&&str, &&str)| match part.strip_prefix('*') {
                Some(end) => name.ends_with(end),
                None => name == part,
            };
            names.len() == parts.len() && names.iter().zip(&parts).all(fits)
        })
    };
    let is_one = |e: &&Entry| {
        matches!(&e.kind, EntryKind::File { digest, size, .. }
            if *size > 0 && (keys.contains(digest) || named(&e.path.to_string())))
    };
    entries.iter().filter(is_one).map(|e| format!("/{}", e.path)).collect()
}

/// Where everything below is left out.
const DROPPED: &[&str] = &[
    "tmp",
    "run",
    "var/tmp",
    "var/run",
    "dev",
    "proc",
    "sys",
    "var/lib/apt",
    "usr/lib/gtvp",
    "lost+found",
    "var/lib/dpkg/info",
    "var/lib/dpkg/triggers",
    "var/lib/dpkg/updates",
    "var/lib/dpkg/parts",
];
/// Where folders and empty files are kept for their owners and modes, and contents are left out: they say something about
/// the configuring itself, or are made again when somebody misses them.
const HOLLOW: &[&str] = &["var/log", "var/cache"];
/// What is kept below one of them.
const KEPT: &[&str] = &["var/cache/debconf"];
/// What would make every box the same machine is made anew by each; what cannot be, is told ([`shared`]).
const IDENTITIES: &[&str] = &["var/lib/postgresql/*/*/global/pg_control", "etc/ssl/private/*.key"];
/// A private key is no larger.
const MAX_KEY: u64 = 64 * 1024;
/// Files that say something about the builder box, or that another layer has.
const DROPPED_FILES: &[&str] = &[
    "etc/machine-id",
    "etc/hostname",
    "etc/hosts",
    "etc/resolv.conf",
    "etc/mtab",
    "etc/ld.so.cache",
    "usr/sbin/policy-rc.d",
    "usr/sbin/ldconfig",
    "var/lib/dpkg/status",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/available",
    "var/lib/dpkg/available-old",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/lock-frontend",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/dbus/machine-id",
    "etc/.pwd.lock",
];

/// What of a writable layer belongs to the component.
fn kept(entries: Vec<Entry>) -> Vec<Entry> {
    let below = |path: &str, dir: &str| path.strip_prefix(dir).is_some_and(|r| r.starts_with('/'));
    entries
        .into_iter()
        .filter(|e| {
            let path = e.path.to_string();
            let is_link = matches!(e.kind, EntryKind::Symlink { .. });
            // /var/run as a link to /run is part of the system; what lies in it is not.
            let dropped = DROPPED.iter().any(|d| (path == *d && !is_link) || below(&path, d));
            let saved = KEPT.iter().any(|k| path == *k || below(&path, k));
            let has_contents = matches!(e.kind, EntryKind::File { size, .. } if size > 0);
            let noise = !saved && has_contents && HOLLOW.iter().any(|h| below(&path, h));
            let backup = path.ends_with("-old") && path.starts_with("var/cache/debconf");
            !dropped && !noise && !backup && !DROPPED_FILES.contains(&path.as_str())
        })
        .map(|mut e| {
            e.mtime = MADE_MTIME;
            e
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::closure::tests::package;
    use crate::import::{own_entry, own_path};

    fn closure() -> Closure {
        let mut c = Closure::new(
            package("linux", ""),
            vec![
                package("base-passwd", "Essential: yes\nDepends: libc6\n"),
                package("bash", "Essential: yes\nPre-Depends: libc6\n"),
                package("libc6", "Multi-Arch: same\n"),
                package("nginx", "Depends: libc6\nPre-Depends: init\n"),
                package("init", "Depends: init-data | other\n"),
                package("init-data", ""),
            ],
        );
        c.scripts = c.packages.iter().map(|p| p.name != "bash").collect();
        c
    }

    #[test]
    fn accounts_come_first_and_what_a_preinst_needs_is_configured_before_it() {
        let text = script(&closure(), &BTreeSet::new());
        let at = |needle: &str| text.find(needle).unwrap_or_else(|| panic!("{needle} is missing in {text}"));
        assert!(at("preinst base-passwd base-passwd amd64") < at("preinst libc6 libc6:amd64 amd64"));
        assert!(at("configure base-passwd bash libc6") < at("configure init init-data; preinst nginx"));
        assert!(at("preinst nginx") < at("run_dpkg --pending"));
        let shell = std::process::Command::new("sh").args(["-n", "-c", &text]).status().unwrap();
        assert!(shell.success());
    }

    #[test]
    fn what_is_configured_already_is_left_alone() {
        let done = ["base-passwd", "bash", "libc6"].map(String::from).into();
        let text = script(&closure(), &done);
        assert!(!text.contains("preinst base-passwd") && !text.contains("preinst libc6"), "{text}");
        assert!(!text.contains("configure base-passwd"), "{text}");
        assert!(text.contains("{ configure init init-data; preinst nginx"), "{text}");
    }

    #[test]
    fn two_preinst_scripts_may_want_the_same_packages() {
        let text = script(&closure(), &BTreeSet::new());
        let from = text.find("fail() {").unwrap();
        let functions = &text[from..text.find("[ -e /usr/bin/awk").unwrap()];
        let folder = crate::tests::Folder::new();
        let program = |name: &str, text: &str| {
            let path = folder.0.join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        };
        program(
            "dpkg-query",
            "shift 3; for p; do [ $p = cron ] && echo unpacked $p || echo installed $p; done",
        );
        program("dpkg", "echo dpkg \"$@\"");
        let test = format!(
            "{functions}PATH={}:$PATH\nconfigure adduser cron\nconfigure adduser",
            folder.0.display()
        );
        let ran = std::process::Command::new("sh").args(["-c", &test]).output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&ran.stdout),
            "dpkg --force-confold --configure cron\n",
            "{ran:?}"
        );
        assert!(ran.status.success());
    }

    #[test]
    fn noise_is_left_out() {
        let file = |p: &str, size| {
            own_entry(
                own_path(p).unwrap(),
                EntryKind::File { size, digest: Digest::of(b""), hardlink_of: None },
                0o644,
            )
        };
        let all = vec![
            file("etc/passwd", 9),
            file("etc/machine-id", 9),
            file("tmp/x", 1),
            file("var/log/dpkg.log", 9),
            file("var/log/btmp", 0),
            file("var/cache/debconf/config.dat", 5),
            file("var/cache/ldconfig/aux-cache", 5),
            file("var/lib/dpkg/status", 3),
            file("var/lib/dpkg/alternatives/awk", 3),
        ];
        let left: Vec<String> = kept(all).iter().map(|e| e.path.to_string()).collect();
        assert_eq!(
            left,
            ["etc/passwd", "var/log/btmp", "var/cache/debconf/config.dat", "var/lib/dpkg/alternatives/awk"]
        );
    }

    #[test]
    fn private_keys_and_identities_that_boxes_share_are_named() {
        assert!(is_private_key(b"x\n-----BEGIN OPENSSH PRIVATE KEY-----\r\nabc\n"));
        assert!(
            is_private_key(b"-----BEGIN PRIVATE KEY-----\n")
                && is_private_key(b"-----BEGIN RSA PRIVATE KEY-----")
        );
        for not in [&b"-----BEGIN PUBLIC KEY-----\n"[..], b"-----BEGIN CERTIFICATE-----", b"PRIVATE KEY", b""]
        {
            assert!(!is_private_key(not));
        }
        let file = |p: &str, size| {
            let digest = Digest::of(p.as_bytes());
            own_entry(own_path(p).unwrap(), EntryKind::File { size, digest, hardlink_of: None }, 0o600)
        };
        let entries = [
            file("etc/ssh/ssh_host_ed25519_key", 400),
            file("etc/ssh/ssh_host_ed25519_key.pub", 90),
            file("etc/ssl/private/ssl-cert-snakeoil.key", 1700),
            file("etc/ssl/private/empty.key", 0),
            file("var/lib/postgresql/15/main/global/pg_control", 8192),
        ];
        let keys = [Digest::of(b"etc/ssh/ssh_host_ed25519_key")].into();
        assert_eq!(
            shared(&entries, &keys),
            [
                "/etc/ssh/ssh_host_ed25519_key",
                "/etc/ssl/private/ssl-cert-snakeoil.key",
                "/var/lib/postgresql/15/main/global/pg_control"
            ]
        );
    }
}
