//! Reads tar archives as streams: headers become manifest entries, contents go to a sink that names them by their digest.
//! Nothing is ever unpacked to a path that an archive chose.

use gtvp_model::hex::hex;
use std::collections::BTreeMap;
use std::io::{self, Read};

use gtvp_model::component::{BadPath, Entry, EntryKind, MAX_ENTRIES, MAX_MANIFEST_BYTES, RootPath, escape};
use gtvp_model::digest::Digest;

/// Most bytes of paths, link targets and attributes of all entries together, as the manifest would hold them: all of it is in
/// memory at once.
const MAX_WORDS: u64 = MAX_MANIFEST_BYTES;
/// Most bytes of an extended header (long names, attributes). Linux's xattrs are at most 64 KiB each.
const MAX_EXTENDED: u64 = 1024 * 1024;

/// Takes file contents and names them.
pub trait Sink {
    /// Stores what `contents` gives, `size` bytes, and tells its fs-verity digest.
    fn file(&mut self, size: u64, contents: &mut dyn Read) -> io::Result<Digest>;
}

/// What an archive may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A package's files.
    Package,
    /// An overlay's upper directory: character devices 0:0 are whiteouts, `trusted.overlay.opaque` marks directories.
    Upper,
}

/// Why an archive was refused.
#[derive(Debug, thiserror::Error)]
pub enum BadArchive {
    /// Its bytes could not be read, or are not a tar archive.
    #[error("the archive cannot be read")]
    Io(#[from] io::Error),
    /// A path that leaves the root or is not in its normal form.
    #[error(transparent)]
    Path(#[from] BadPath),
    /// Too many entries.
    #[error("it has more than {MAX_ENTRIES} entries")]
    TooMany,
    /// Paths, targets and attributes past their bound.
    #[error("its paths, link targets and attributes are longer than {MAX_WORDS} bytes")]
    Words,
    /// An extended header past its bound.
    #[error("an extended header is longer than {MAX_EXTENDED} bytes")]
    Extended,
    /// A device node, or a type that no package holds.
    #[error("{0} is of a type ({1}) that is not accepted")]
    Type(RootPath, char),
    /// A hard link to something that is not a file of the same archive.
    #[error("{0} is a hard link to {1}, which is no file of this archive")]
    HardLink(RootPath, RootPath),
    /// The same path twice, as two different things.
    #[error("{0} stands in it twice")]
    Twice(RootPath),
    /// A link target that Linux would not have.
    #[error("{0} has a link target that is not usable")]
    Target(RootPath),
}

/// Top-level names that are links into /usr on every system this serves.
const ALIASES: [&[u8]; 6] = [b"bin", b"sbin", b"lib", b"lib32", b"lib64", b"libx32"];

/// A path with `/bin`, `/lib` and the like where they really are: below `/usr`.
pub fn canonical(path: RootPath) -> RootPath {
    let bytes = path.as_bytes();
    let first = bytes.split(|c| *c == b'/').next().unwrap_or_default();
    if ALIASES.contains(&first) {
        let moved = [b"usr/", bytes].concat();
        return RootPath::new(&moved).unwrap_or(path);
    }
    path
}

#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    xattrs: BTreeMap<String, String>,
    opaque: bool,
}

/// Reads the archive's entries, sorted by path, each once.
pub fn read(input: impl Read, kind: Kind, sink: &mut dyn Sink) -> Result<Vec<Entry>, BadArchive> {
    let mut archive = tar::Archive::new(input);
    let mut entries: BTreeMap<RootPath, Entry> = BTreeMap::new();
    let mut links: Vec<(RootPath, RootPath)> = Vec::new();
    let mut extended = Extended::default();
    let mut seen = 0;
    let mut words = 0u64;
    for raw in archive.entries()?.raw(true) {
        let mut raw = raw?;
        seen += 1;
        if seen > 3 * MAX_ENTRIES {
            return Err(BadArchive::TooMany);
        }
        let header = raw.header().clone();
        match header.entry_type().as_byte() {
            b'L' => {
                extended.path = Some(long(&mut raw)?);
                continue;
            }
            b'K' => {
                let link = long(&mut raw)?;
                count(&mut words, link.len() as u64)?;
                extended.link = Some(link);
                continue;
            }
            b'x' => {
                let header = bounded(&mut raw)?;
                pax(&header, &mut extended);
                count(&mut words, 2 * header.len() as u64)?;
                continue;
            }
            b'g' => {
                bounded(&mut raw)?;
                continue;
            }
            _ => {}
        }
        let ext = std::mem::take(&mut extended);
        let stated = RootPath::new(&ext.path.unwrap_or_else(|| raw.path_bytes().into_owned()))?;
        let is_link = header.entry_type().as_byte() == b'2';
        let path = if is_link && ALIASES.contains(&stated.as_bytes()) { stated } else { canonical(stated) };
        if path.is_root() {
            continue;
        }
        count(&mut words, path.as_bytes().len() as u64)?;
        let target =
            || ext.link.clone().or_else(|| raw.link_name_bytes().map(|l| l.into_owned())).unwrap_or_default();
        let size = header.size()?;
        let what = match header.entry_type().as_byte() {
            b'0' | 0 | b'7' => {
                let digest = sink.file(size, &mut raw)?;
                EntryKind::File { size, digest, hardlink_of: None }
            }
            b'1' => {
                links.push((path, canonical(RootPath::new(&target())?)));
                continue;
            }
            b'2' => {
                let target = target();
                if target.is_empty() || target.contains(&0) || target.len() > 4095 {
                    return Err(BadArchive::Target(path));
                }
                EntryKind::Symlink { target: escape(&target) }
            }
            b'3' if kind == Kind::Upper && is_zero_device(&header) => EntryKind::Whiteout,
            b'5' => EntryKind::Dir { opaque: kind == Kind::Upper && ext.opaque },
            b'6' => EntryKind::Fifo,
            other => return Err(BadArchive::Type(path, char::from(other))),
        };
        let entry = Entry {
            path: path.clone(),
            kind: what,
            mode: header.mode()? & 0o7777,
            uid: u32::try_from(header.uid()?).unwrap_or(u32::MAX),
            gid: u32::try_from(header.gid()?).unwrap_or(u32::MAX),
            mtime: i64::try_from(header.mtime()?).unwrap_or(0),
            xattrs: ext.xattrs,
        };
        match entries.get(&path).map(|e| &e.kind) {
            None => drop(entries.insert(path, entry)),
            // `lib/` and `usr/lib/` are one directory.
            Some(EntryKind::Dir { .. }) if matches!(entry.kind, EntryKind::Dir { .. }) => {}
            Some(_) => return Err(BadArchive::Twice(path)),
        }
        if entries.len() > MAX_ENTRIES {
            return Err(BadArchive::TooMany);
        }
    }
    join_links(&mut entries, links)?;
    Ok(entries.into_values().collect())
}

/// Hard links become files that name the first path of their contents.
fn join_links(
    entries: &mut BTreeMap<RootPath, Entry>,
    links: Vec<(RootPath, RootPath)>,
) -> Result<(), BadArchive> {
    let mut groups: BTreeMap<RootPath, Vec<RootPath>> = BTreeMap::new();
    // A link to a link leads to the same file.
    let mut leads: BTreeMap<RootPath, RootPath> = BTreeMap::new();
    for (path, target) in links {
        let target = leads.get(&target).cloned().unwrap_or(target);
        if entries.contains_key(&path) || leads.contains_key(&path) {
            return Err(BadArchive::Twice(path));
        }
        if !matches!(entries.get(&target).map(|e| &e.kind), Some(EntryKind::File { .. })) {
            return Err(BadArchive::HardLink(path, target));
        }
        leads.insert(path.clone(), target.clone());
        groups.entry(target).or_default().push(path);
    }
    for (target, mut names) in groups {
        let Some(original) = entries.get(&target).cloned() else { continue };
        names.push(target);
        names.sort();
        let first = names[0].clone();
        for name in names {
            let mut entry = original.clone();
            entry.path = name.clone();
            if let EntryKind::File { hardlink_of, .. } = &mut entry.kind {
                *hardlink_of = (name != first).then(|| first.clone());
            }
            entries.insert(name, entry);
        }
    }
    if entries.len() > MAX_ENTRIES { Err(BadArchive::TooMany) } else { Ok(()) }
}

/// Counts what stays in memory.
fn count(words: &mut u64, more: u64) -> Result<(), BadArchive> {
    *words = words.saturating_add(more);
    if *words > MAX_WORDS { Err(BadArchive::Words) } else { Ok(()) }
}

fn is_zero_device(header: &tar::Header) -> bool {
    let number = |r: io::Result<Option<u32>>| r.ok().flatten().unwrap_or(0);
    number(header.device_major()) == 0 && number(header.device_minor()) == 0
}

fn bounded(raw: &mut impl Read) -> Result<Vec<u8>, BadArchive> {
    let mut bytes = Vec::new();
    raw.take(MAX_EXTENDED + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_EXTENDED {
        return Err(BadArchive::Extended);
    }
    Ok(bytes)
}

fn long(raw: &mut impl Read) -> Result<Vec<u8>, BadArchive> {
    let mut bytes = bounded(raw)?;
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

/// Records of a pax header (POSIX.1-2001): `LENGTH KEY=VALUE\n`.
fn pax(mut bytes: &[u8], into: &mut Extended) {
    while let Some(space) = bytes.iter().position(|c| *c == b' ') {
        let length: usize =
            std::str::from_utf8(&bytes[..space]).ok().and_then(|n| n.parse().ok()).unwrap_or(0);
        if length <= space + 1 || length > bytes.len() {
            return;
        }
        let record = &bytes[space + 1..length - 1];
        bytes = &bytes[length..];
        let Some(equals) = record.iter().position(|c| *c == b'=') else { continue };
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => into.path = Some(value.to_vec()),
            b"linkpath" => into.link = Some(value.to_vec()),
            _ => {
                let Some(name) = key.strip_prefix(b"SCHILY.xattr.").and_then(|n| std::str::from_utf8(n).ok())
                else {
                    continue;
                };
                if name == "trusted.overlay.opaque" && matches!(value, b"y" | b"x") {
                    into.opaque = true;
                } else if (name == "security.capability" || name.starts_with("user."))
                    && name.len() <= 255
                    && value.len() <= 65536
                {
                    into.xattrs.insert(name.to_owned(), hex(value));
                }
                // Others say something about the machine that wrote the archive.
            }
        }
    }
}

/// A reader that fails once more than `left` bytes were read: what decompresses to more than it may is refused.
pub struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R> Bounded<R> {
    /// At most `left` bytes.
    pub fn new(inner: R, left: u64) -> Self {
        Self { inner, left }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "it unpacks to more bytes than a package may")
        })?;
        Ok(n)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use gtvp_model::digest::FsVerity;

    /// Remembers nothing, names everything.
    pub(crate) struct Forget;
    impl Sink for Forget {
        fn file(&mut self, _: u64, contents: &mut dyn Read) -> io::Result<Digest> {
            let mut all = Vec::new();
            contents.read_to_end(&mut all)?;
            Ok(FsVerity::of(&all))
        }
    }

    /// Appends one entry with a name that the tar crate itself would refuse to write.
    pub(crate) fn add(tar: &mut Vec<u8>, kind: u8, name: &[u8], link: &[u8], data: &[u8]) {
        let mut h = tar::Header::new_gnu();
        h.as_mut_bytes()[..name.len()].copy_from_slice(name);
        h.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
        h.set_entry_type(tar::EntryType::new(kind));
        h.set_mode(0o644);
        h.set_uid(0);
        h.set_gid(0);
        h.set_mtime(7);
        h.set_size(data.len() as u64);
        h.set_cksum();
        tar.extend_from_slice(h.as_bytes());
        tar.extend_from_slice(data);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }

    fn parse(build: impl Fn(&mut Vec<u8>), kind: Kind) -> Result<Vec<Entry>, BadArchive> {
        let mut bytes = Vec::new();
        build(&mut bytes);
        bytes.resize(bytes.len() + 1024, 0);
        read(bytes.as_slice(), kind, &mut Forget)
    }

    #[test]
    fn paths_that_leave_the_root_are_refused() {
        for bad in [&b"../etc/passwd"[..], b"/etc/passwd", b"a/../../b", b"a//b"] {
            let refused = parse(|t| add(t, b'0', bad, b"", b"x"), Kind::Package);
            assert!(matches!(refused, Err(BadArchive::Path(_))), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn a_hard_link_stays_in_its_archive() {
        let outside = parse(|t| add(t, b'1', b"a", b"etc/shadow", b""), Kind::Package);
        assert!(matches!(outside, Err(BadArchive::HardLink(..))));
        let through = parse(
            |t| {
                add(t, b'2', b"s", b"/etc", b"");
                add(t, b'1', b"a", b"s", b"");
            },
            Kind::Package,
        );
        assert!(matches!(through, Err(BadArchive::HardLink(..))));
        let fine = parse(
            |t| {
                add(t, b'0', b"z", b"", b"data");
                add(t, b'1', b"a", b"./z", b"");
            },
            Kind::Package,
        )
        .unwrap();
        let of: Vec<_> = fine
            .iter()
            .map(|e| match &e.kind {
                EntryKind::File { hardlink_of, .. } => hardlink_of.clone().map(String::from),
                _ => panic!(),
            })
            .collect();
        assert_eq!(of, [None, Some("a".to_owned())]);
    }

    #[test]
    fn devices_are_refused_and_whiteouts_are_read() {
        let device = |t: &mut Vec<u8>| add(t, b'3', b"dev/x", b"", b"");
        assert!(matches!(parse(device, Kind::Package), Err(BadArchive::Type(..))));
        assert_eq!(parse(device, Kind::Upper).unwrap()[0].kind, EntryKind::Whiteout);
        let block = |t: &mut Vec<u8>| add(t, b'4', b"dev/x", b"", b"");
        assert!(parse(block, Kind::Upper).is_err());
    }

    #[test]
    fn lib_and_usr_lib_are_one_place() {
        let entries = parse(
            |t| {
                add(t, b'5', b"./lib/", b"", b"");
                add(t, b'0', b"./lib/a", b"", b"1");
                add(t, b'5', b"./usr/lib/", b"", b"");
                add(t, b'2', b"./bin", b"usr/bin", b"");
            },
            Kind::Package,
        )
        .unwrap();
        let paths: Vec<_> = entries.iter().map(|e| e.path.to_string()).collect();
        assert_eq!(paths, ["bin", "usr/lib", "usr/lib/a"]);
        let twice = |t: &mut Vec<u8>| {
            add(t, b'0', b"lib/a", b"", b"1");
            add(t, b'0', b"usr/lib/a", b"", b"2");
        };
        assert!(matches!(parse(twice, Kind::Package), Err(BadArchive::Twice(_))));
    }

    #[test]
    fn an_extended_header_is_bounded() {
        let huge = vec![b'a'; 2 * 1024 * 1024];
        for kind in [b'L', b'K', b'x', b'g'] {
            assert!(matches!(
                parse(|t| add(t, kind, b"x", b"", &huge), Kind::Package),
                Err(BadArchive::Extended)
            ));
        }
    }

    #[test]
    fn what_stays_in_memory_is_bounded() {
        // A hundred bytes of a compressed archive can be a mebibyte of attributes.
        struct Endless {
            block: Vec<u8>,
            at: usize,
            left: usize,
        }
        impl Read for Endless {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                if self.at == self.block.len() {
                    if self.left == 0 {
                        return Ok(0);
                    }
                    self.left -= 1;
                    self.at = 0;
                }
                let n = buf.len().min(self.block.len() - self.at);
                buf[..n].copy_from_slice(&self.block[self.at..self.at + n]);
                self.at += n;
                Ok(n)
            }
        }
        let mut attributes = Vec::new();
        for n in 0..15 {
            let body = [format!(" SCHILY.xattr.user.a{n:02}=").as_bytes(), &[b'x'; 65_000], b"\n"].concat();
            attributes.extend_from_slice((body.len() + 5).to_string().as_bytes());
            attributes.extend_from_slice(&body);
        }
        let mut block = Vec::new();
        add(&mut block, b'x', b"x", b"", &attributes);
        let endless = Endless { block, at: 0, left: 500 };
        assert!(matches!(read(endless, Kind::Package, &mut Forget), Err(BadArchive::Words)));
    }

    #[test]
    fn attributes_are_read() {
        let text = b"30 SCHILY.xattr.user.a=hello\x00\xff\n37 SCHILY.xattr.trusted.overlay.opaque=y\n";
        let mut e = Extended::default();
        let mut record = format!("{} ", 32).into_bytes();
        record.truncate(0);
        for (key, value) in
            [("user.a", &b"h\xff"[..]), ("trusted.overlay.opaque", b"y"), ("security.selinux", b"x")]
        {
            let body = [b" SCHILY.xattr.", key.as_bytes(), b"=", value, b"\n"].concat();
            let n = body.len() + 2;
            record.extend_from_slice(n.to_string().as_bytes());
            record.extend_from_slice(&body);
        }
        pax(&record, &mut e);
        assert!(e.opaque);
        assert_eq!(e.xattrs.get("user.a").map(String::as_str), Some("68ff"));
        assert_eq!(e.xattrs.len(), 1);
        // Records that lie about their length end the reading.
        pax(text, &mut Extended::default());
        pax(b"99999 a=b\n", &mut Extended::default());
    }
}
