//! Components: what a box is put together from, and the manifest that says what one holds.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Most entries in one manifest. Debian's largest packages have about 100,000.
pub const MAX_ENTRIES: usize = 400_000;
/// Most bytes of one manifest.
pub const MAX_MANIFEST_BYTES: u64 = 128 * 1024 * 1024;
/// Linux's PATH_MAX without its NUL.
const MAX_PATH: usize = 4095;
/// Linux's NAME_MAX.
const MAX_NAME: usize = 255;

/// A path below a root: bytes as Linux has them, without a leading `/`, without `.`, `..` or empty names. The root itself
/// is the empty path. Written as text with `%XX` for `%`, control characters and what is not UTF-8.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RootPath(Vec<u8>);

/// Why a path was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path {path:?} is not usable: {reason}")]
pub struct BadPath {
    path: String,
    reason: &'static str,
}

impl RootPath {
    /// The root.
    pub fn root() -> Self {
        Self(Vec::new())
    }

    /// From bytes such as `usr/bin/env`. `./` in front and `/` behind are dropped, since archives write them; anything
    /// else that is not in the normal form is refused.
    pub fn new(bytes: &[u8]) -> Result<Self, BadPath> {
        let bad =
            |reason| BadPath { path: String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into(), reason };
        let mut b = bytes;
        if b == b"." || b == b"./" {
            return Ok(Self::root());
        }
        b = b.strip_prefix(b"./").unwrap_or(b);
        b = b.strip_suffix(b"/").unwrap_or(b);
        if b.starts_with(b"/") {
            return Err(bad("it is absolute"));
        }
        if b.len() > MAX_PATH {
            return Err(bad("it is longer than 4095 bytes"));
        }
        if b.contains(&0) {
            return Err(bad("it contains a NUL byte"));
        }
        for name in b.split(|c| *c == b'/').filter(|_| !b.is_empty()) {
            match name {
                b"" => return Err(bad("it has an empty name")),
                b"." | b".." => return Err(bad("it has '.' or '..' in it")),
                n if n.len() > MAX_NAME => return Err(bad("a name in it is longer than 255 bytes")),
                _ => {}
            }
        }
        Ok(Self(b.to_vec()))
    }

    /// The bytes, without a leading `/`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory that holds it; the root's is the root.
    pub fn parent(&self) -> Self {
        match self.0.iter().rposition(|c| *c == b'/') {
            Some(i) => Self(self.0[..i].to_vec()),
            None => Self::root(),
        }
    }

    /// The last name; empty for the root.
    pub fn name(&self) -> &[u8] {
        match self.0.iter().rposition(|c| *c == b'/') {
            Some(i) => &self.0[i + 1..],
            None => &self.0,
        }
    }

    /// The path of `name` in this directory. The name comes from a guest or an archive and is checked.
    pub fn join(&self, name: &[u8]) -> Result<Self, BadPath> {
        if name.is_empty() || name.contains(&b'/') || name == b"." || name == b".." {
            return Err(BadPath { path: String::from_utf8_lossy(name).into(), reason: "it is not one name" });
        }
        let mut joined = self.0.clone();
        if !joined.is_empty() {
            joined.push(b'/');
        }
        joined.extend_from_slice(name);
        Self::new(&joined)
    }
}

impl fmt::Display for RootPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '%' => f.write_str("%25")?,
                    c if c.is_control() => {
                        let mut b = [0; 4];
                        c.encode_utf8(&mut b).bytes().try_for_each(|b| write!(f, "%{b:02X}"))?;
                    }
                    c => write!(f, "{c}")?,
                }
            }
            chunk.invalid().iter().try_for_each(|b| write!(f, "%{b:02X}"))?;
        }
        Ok(())
    }
}

impl fmt::Debug for RootPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{self}")
    }
}

impl TryFrom<String> for RootPath {
    type Error = BadPath;
    fn try_from(text: String) -> Result<Self, BadPath> {
        let bad = || BadPath { path: text.chars().take(120).collect(), reason: "it has a broken %XX" };
        Self::new(&unescape(&text).ok_or_else(bad)?)
    }
}

impl From<RootPath> for String {
    fn from(p: RootPath) -> String {
        p.to_string()
    }
}

/// What a path is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// fs-verity SHA-256 digest of its contents.
        digest: Digest,
        /// The first path (in sorted order) of the file that this is another name of.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hardlink_of: Option<RootPath>,
    },
    /// A directory.
    Dir {
        /// Hides what components below have in it (overlayfs' opaque directory).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        opaque: bool,
    },
    /// A symbolic link.
    Symlink {
        /// Its target, as text with the escapes of [`RootPath`]; it may point anywhere, the guest resolves it.
        target: String,
    },
    /// A named pipe.
    Fifo,
    /// Hides this path in the components below.
    Whiteout,
}

/// One path of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where.
    pub path: RootPath,
    /// What.
    #[serde(flatten)]
    pub kind: EntryKind,
    /// Permission bits with set-uid, set-gid and sticky: at most 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since 1970-01-01 UTC.
    pub mtime: i64,
    /// Extended attributes: name to value in hexadecimal.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
}

/// What a component holds, and where it comes from. Canonical form: [`Manifest::to_bytes`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format version: 1.
    pub format: u32,
    /// Its reference, for example `deb:nginx=1.22.1-9:amd64` or `derived:…`.
    pub reference: String,
    /// Where it came from, for example the archive's own words: `Debian bookworm main`.
    pub origin: String,
    /// SHA-256 of what was imported (the .deb), or of the derivation's inputs.
    pub source: Digest,
    /// Bytes of what was imported.
    pub source_size: u64,
    /// Security level that it was labelled with; 0 is the lowest.
    pub level: u8,
    /// Capabilities that it offers, as its source writes them.
    pub provides: Vec<String>,
    /// What it needs, as its source writes them.
    pub needs: Vec<String>,
    /// Its paths, sorted by path, each once.
    pub entries: Vec<Entry>,
}

/// Why a manifest was refused.
#[derive(Debug, thiserror::Error)]
pub enum BadManifest {
    /// Not JSON of the right shape.
    #[error("it cannot be read")]
    Syntax(#[from] serde_json::Error),
    /// A format that this version does not know.
    #[error("its format is {0}, this version knows 1")]
    Format(u32),
    /// Too many paths.
    #[error("it has more than {MAX_ENTRIES} paths")]
    TooLong,
    /// Paths out of order, or twice.
    #[error("its path {0:?} is out of order or stands twice")]
    Order(RootPath),
    /// A field outside its range.
    #[error("its path {0:?} has a {1} that is not usable")]
    Field(RootPath, &'static str),
    /// The bytes are not the canonical form of what they say.
    #[error("it is not in canonical form")]
    NotCanonical,
}

impl Manifest {
    /// Canonical bytes: JSON without white space, fields in the order of this type, entries sorted by path.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Strings, numbers and vectors of them always serialize.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The manifest's digest: SHA-256 of its canonical bytes.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    /// Reads and checks canonical bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadManifest> {
        let m: Self = serde_json::from_slice(bytes)?;
        m.check()?;
        if m.to_bytes() != bytes {
            return Err(BadManifest::NotCanonical);
        }
        Ok(m)
    }

    /// Checks order and ranges.
    pub fn check(&self) -> Result<(), BadManifest> {
        if self.format != 1 {
            return Err(BadManifest::Format(self.format));
        }
        if self.entries.len() > MAX_ENTRIES {
            return Err(BadManifest::TooLong);
        }
        for pair in self.entries.windows(2) {
            if pair[0].path >= pair[1].path {
                return Err(BadManifest::Order(pair[1].path.clone()));
            }
        }
        for e in &self.entries {
            if e.mode > 0o7777 {
                return Err(BadManifest::Field(e.path.clone(), "mode"));
            }
            if e.xattrs.iter().any(|(k, v)| k.is_empty() || k.len() > 255 || !is_hex(v)) {
                return Err(BadManifest::Field(e.path.clone(), "extended attribute"));
            }
            if let EntryKind::Symlink { target } = &e.kind {
                if target.is_empty() || unescape(target).is_none_or(|t| t.len() > MAX_PATH || t.contains(&0))
                {
                    return Err(BadManifest::Field(e.path.clone(), "link target"));
                }
            }
        }
        Ok(())
    }
}

fn is_hex(v: &str) -> bool {
    v.len() % 2 == 0 && v.len() <= 2 * 65536 && v.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Bytes of text with `%XX` escapes; `None` where an escape is broken.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&c, after)) = rest.split_first() {
        if c == b'%' {
            let hex = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(c);
            rest = after;
        }
    }
    Some(bytes)
}

/// Text of bytes, with `%XX` for `%`, control characters and what is not UTF-8.
pub fn escape(bytes: &[u8]) -> String {
    RootPath(bytes.to_vec()).to_string()
}

/// A component as the API lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ComponentView {
    /// Reference, for example `deb:nginx=1.22.1-9:amd64`.
    pub reference: String,
    /// Manifest digest.
    pub digest: String,
    /// Where it came from.
    pub origin: String,
    /// Bytes of what was imported.
    pub source_bytes: u64,
    /// Bytes of its files.
    pub content_bytes: u64,
    /// Paths.
    pub entries: u64,
    /// When it was imported: milliseconds since 1970-01-01 UTC.
    pub imported_ms: u64,
    /// What appraisal checked, and what it did not.
    pub appraisal: crate::boxview::Appraisal,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_root_are_refused() {
        for ok in ["usr/bin/env", "./usr/", "a"] {
            assert!(RootPath::new(ok.as_bytes()).is_ok(), "{ok}");
        }
        assert!(RootPath::new(b"./").unwrap().is_root());
        for bad in ["/etc/passwd", "../x", "a/../b", "a//b", "a/./b", "a\0b", "//"] {
            assert!(RootPath::new(bad.as_bytes()).is_err(), "{bad:?} was accepted");
        }
        assert!(RootPath::new(&[b'a'; 256]).is_err());
        assert!(serde_json::from_str::<RootPath>("\"%2e%2e/x\"").is_err());
    }

    #[test]
    fn names_that_are_not_utf8_survive() {
        let p = RootPath::new(b"a%\xff\n/b").unwrap();
        let text = String::from(p.clone());
        assert_eq!(text, "a%25%FF%0A/b");
        assert_eq!(RootPath::try_from(text).unwrap(), p);
    }

    #[test]
    fn a_manifest_is_canonical_or_refused() {
        let dir = |p: &str| Entry {
            path: RootPath::new(p.as_bytes()).unwrap(),
            kind: EntryKind::Dir { opaque: false },
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: BTreeMap::new(),
        };
        let mut m = Manifest {
            format: 1,
            reference: "deb:x=1:amd64".into(),
            origin: "Debian".into(),
            source: Digest::of(b""),
            source_size: 0,
            level: 0,
            provides: vec![],
            needs: vec![],
            entries: vec![dir("a"), dir("b")],
        };
        let bytes = m.to_bytes();
        assert_eq!(Manifest::from_bytes(&bytes).unwrap(), m);
        let mut spaced = bytes.clone();
        spaced.push(b' ');
        assert!(matches!(Manifest::from_bytes(&spaced), Err(BadManifest::NotCanonical)));
        m.entries.reverse();
        assert!(matches!(m.check(), Err(BadManifest::Order(_))));
    }
}
