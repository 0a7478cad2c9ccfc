//! FUSE's messages (linux/fuse.h), as far as a read-only file system needs them. Requests come from the guest and are bounded and
//! checked here; what they name is looked up elsewhere.

/// Most bytes that are read of a request: the longest that is understood has a name of 255 bytes.
pub const MAX_REQUEST: usize = 1024;
/// Bytes of the header of each answer.
pub const OUT_HEADER: usize = 16;
/// The root's number.
pub const ROOT: u64 = 1;
/// How long the guest may keep what it was told, in seconds: nothing that was told changes.
const FOREVER: u64 = 365 * 86400;

const MAJOR: u32 = 7;
const MINOR: u32 = 38;
/// Linux 5.4, the first with virtio-fs.
const OLDEST_MINOR: u32 = 31;

/// FUSE_ASYNC_READ, FUSE_PARALLEL_DIROPS, FUSE_MAX_PAGES, FUSE_CACHE_SYMLINKS.
const WANTED: u32 = 1 | 1 << 18 | 1 << 22 | 1 << 23;
/// 1 MiB reads.
const MAX_PAGES: u16 = 256;

/// Linux's numbers.
pub mod errno {
    #![allow(missing_docs)]
    pub const ENOENT: i32 = 2;
    pub const EIO: i32 = 5;
    pub const ENOTDIR: i32 = 20;
    pub const EISDIR: i32 = 21;
    pub const EINVAL: i32 = 22;
    pub const EROFS: i32 = 30;
    pub const ERANGE: i32 = 34;
    pub const ENAMETOOLONG: i32 = 36;
    pub const ENOSYS: i32 = 38;
    pub const ENODATA: i32 = 61;
    pub const EPROTO: i32 = 71;
    pub const ESTALE: i32 = 116;
}

/// What the guest wants.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operation {
    Init {
        major: u32,
        minor: u32,
        readahead: u32,
        flags: u32,
    },
    Lookup {
        parent: u64,
        name: Vec<u8>,
    },
    Getattr {
        node: u64,
    },
    Readlink {
        node: u64,
    },
    Read {
        node: u64,
        offset: u64,
        size: u32,
    },
    Opendir {
        node: u64,
    },
    Readdir {
        node: u64,
        offset: u64,
        size: u32,
    },
    Getxattr {
        node: u64,
        name: Vec<u8>,
        size: u32,
    },
    Listxattr {
        node: u64,
        size: u32,
    },
    Statfs,
    /// Carried out by saying so.
    Nod,
    /// Has no answer.
    Silent,
    /// Answered with this error, whatever it says.
    Refused(i32),
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Names it in its answer.
    pub unique: u64,
    /// What it is.
    pub operation: Operation,
}

/// Bytes that are no request: there is nothing to answer to.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request is shorter than its header")]
pub struct TooShort;

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(b.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(b: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(b.get(at..at + 8)?.try_into().ok()?))
}

/// A name up to its NUL; an error number for one that no directory has.
fn name(b: &[u8]) -> Result<Vec<u8>, i32> {
    let end = b.iter().position(|c| *c == 0).ok_or(errno::ENAMETOOLONG)?;
    match &b[..end] {
        n if n.len() > 255 => Err(errno::ENAMETOOLONG),
        n if n.is_empty() || n.contains(&b'/') => Err(errno::EINVAL),
        n => Ok(n.to_vec()),
    }
}

impl Request {
    /// Reads what the guest sent: at most [`MAX_REQUEST`] of its bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, TooShort> {
        let header = bytes.get(..40).ok_or(TooShort)?;
        let opcode = u32_at(header, 4).ok_or(TooShort)?;
        let unique = u64_at(header, 8).ok_or(TooShort)?;
        let node = u64_at(header, 16).ok_or(TooShort)?;
        let operation =
            Operation::parse(opcode, node, &bytes[40..]).unwrap_or(Operation::Refused(errno::EINVAL));
        Ok(Self { unique, operation })
    }
}

impl Operation {
    /// `None` when its arguments are missing.
    fn parse(opcode: u32, node: u64, body: &[u8]) -> Option<Self> {
        let named = |b: &[u8], f: &dyn Fn(Vec<u8>) -> Self| name(b).map_or_else(Self::Refused, f);
        Some(match opcode {
            1 => named(body, &|name| Self::Lookup { parent: node, name }),
            // FORGET, BATCH_FORGET: nothing is kept for a node. INTERRUPT: nothing waits for long, and it has no answer.
            2 | 42 | 36 => Self::Silent,
            3 => Self::Getattr { node },
            5 => Self::Readlink { node },
            15 => Self::Read { node, offset: u64_at(body, 8)?, size: u32_at(body, 16)? },
            17 => Self::Statfs,
            22 => {
                let size = u32_at(body, 0)?;
                named(body.get(8..)?, &|name| Self::Getxattr { node, name, size })
            }
            23 => Self::Listxattr { node, size: u32_at(body, 0)? },
            26 => Self::Init {
                major: u32_at(body, 0)?,
                minor: u32_at(body, 4)?,
                readahead: u32_at(body, 8)?,
                flags: u32_at(body, 12)?,
            },
            27 => Self::Opendir { node },
            28 => Self::Readdir { node, offset: u64_at(body, 8)?, size: u32_at(body, 16)? },
            // RELEASE, RELEASEDIR, ACCESS (the guest's kernel checks permissions), DESTROY.
            18 | 29 | 34 | 38 => Self::Nod,
            // SETATTR, SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, WRITE, SETXATTR, REMOVEXATTR, CREATE, FALLOCATE,
            // RENAME2, COPY_FILE_RANGE, TMPFILE.
            4 | 6 | 8..=13 | 16 | 21 | 24 | 35 | 43 | 45 | 47 | 51 => Self::Refused(errno::EROFS),
            // OPEN, FLUSH, FSYNC, FSYNCDIR, LSEEK, SYNCFS, STATX among them: the guest's kernel then does without asking again.
            _ => Self::Refused(errno::ENOSYS),
        })
    }
}

/// What a file is, for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Attributes {
    pub number: u64,
    pub size: u64,
    pub mtime: i64,
    /// With the type.
    pub mode: u32,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
}

impl Attributes {
    fn put(&self, out: &mut Vec<u8>) {
        // Before 1970 is the same 64 bits.
        let time = self.mtime.to_le_bytes();
        out.extend(self.number.to_le_bytes());
        out.extend(self.size.to_le_bytes());
        out.extend(self.size.div_ceil(512).to_le_bytes());
        (0..3).for_each(|_| out.extend(time));
        (0..3).for_each(|_| out.extend(0u32.to_le_bytes()));
        for v in [self.mode, self.links, self.uid, self.gid, 0, 4096, 0] {
            out.extend(v.to_le_bytes());
        }
    }
}

/// The answer to LOOKUP; without attributes it says that there is no such name, and never will be.
pub fn entry(attributes: Option<&Attributes>) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    for v in [attributes.map_or(0, |a| a.number), 0, FOREVER, FOREVER, 0] {
        out.extend(v.to_le_bytes());
    }
    attributes.unwrap_or(&Attributes::default()).put(&mut out);
    out
}

/// The answer to GETATTR.
pub fn attributes(a: &Attributes) -> Vec<u8> {
    let mut out = Vec::with_capacity(104);
    out.extend(FOREVER.to_le_bytes());
    out.extend(0u64.to_le_bytes());
    a.put(&mut out);
    out
}

/// The answer to OPENDIR: no handle, and the listing is not to be kept.
pub fn opened() -> Vec<u8> {
    vec![0; 16]
}

/// The answer to STATFS.
pub fn statfs(bytes: u64, files: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(80);
    for v in [bytes.div_ceil(4096), 0, 0, files, 0] {
        out.extend(v.to_le_bytes());
    }
    for v in [4096u32, 255, 4096, 0, 0, 0, 0, 0, 0, 0] {
        out.extend(v.to_le_bytes());
    }
    out
}

/// The answer to GETXATTR and LISTXATTR when only the size is asked for.
pub fn xattr_size(size: usize) -> Vec<u8> {
    let mut out = u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    out.extend(0u32.to_le_bytes());
    out
}

/// The answer to INIT.
pub fn init(major: u32, minor: u32, readahead: u32, flags: u32) -> Result<Vec<u8>, i32> {
    if major < MAJOR || (major == MAJOR && minor < OLDEST_MINOR) {
        return Err(errno::EPROTO);
    }
    let mut out = Vec::with_capacity(64);
    for v in [MAJOR, minor.min(MINOR), readahead, flags & WANTED] {
        out.extend(v.to_le_bytes());
    }
    // max_background, congestion_threshold: reads ahead are as welcome as the queue is long.
    out.extend(64u16.to_le_bytes());
    out.extend(48u16.to_le_bytes());
    // max_write (the least there is), time_gran.
    out.extend(4096u32.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    out.extend(MAX_PAGES.to_le_bytes());
    out.resize(64, 0);
    Ok(out)
}

/// A directory's listing, filled up to a size.
pub struct Listing {
    out: Vec<u8>,
    size: usize,
}

impl Listing {
    /// An empty one of at most `size` bytes.
    pub fn new(size: usize) -> Self {
        Self { out: Vec::new(), size }
    }

    /// Adds a name; `kind` is one of `DT_*`, `cookie` continues behind it. False when it has no more room.
    pub fn add(&mut self, number: u64, cookie: u64, kind: u8, name: &[u8]) -> bool {
        let end = self.out.len() + (24 + name.len()).next_multiple_of(8);
        if end > self.size {
            return false;
        }
        self.out.extend(number.to_le_bytes());
        self.out.extend(cookie.to_le_bytes());
        self.out.extend(u32::try_from(name.len()).unwrap_or(0).to_le_bytes());
        self.out.extend(u32::from(kind).to_le_bytes());
        self.out.extend(name);
        self.out.resize(end, 0);
        true
    }

    /// Its bytes.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}

/// The header of an answer with `len` bytes behind it.
pub fn out_header(unique: u64, error: i32, len: usize) -> [u8; OUT_HEADER] {
    let mut h = [0; OUT_HEADER];
    h[..4].copy_from_slice(&u32::try_from(OUT_HEADER + len).unwrap_or(u32::MAX).to_le_bytes());
    h[4..8].copy_from_slice(&(-error).to_le_bytes());
    h[8..].copy_from_slice(&unique.to_le_bytes());
    h
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
        let mut b = vec![0; 40];
        b[4..8].copy_from_slice(&opcode.to_le_bytes());
        b[8..16].copy_from_slice(&77u64.to_le_bytes());
        b[16..24].copy_from_slice(&node.to_le_bytes());
        b.extend(body);
        b
    }

    fn operation(opcode: u32, body: &[u8]) -> Operation {
        Request::parse(&request(opcode, 5, body)).unwrap().operation
    }

    #[test]
    fn names_are_one_name() {
        assert_eq!(operation(1, b"etc\0"), Operation::Lookup { parent: 5, name: b"etc".to_vec() });
        for (bad, error) in [
            (&b"a/b\0"[..], errno::EINVAL),
            (b"\0", errno::EINVAL),
            (b"", errno::ENAMETOOLONG),
            (b"endless", errno::ENAMETOOLONG),
            (&[&[b'a'; 256][..], b"\0"].concat(), errno::ENAMETOOLONG),
        ] {
            assert_eq!(operation(1, bad), Operation::Refused(error));
        }
    }

    #[test]
    fn short_requests_are_refused_not_guessed() {
        assert_eq!(Request::parse(&[0; 39]), Err(TooShort));
        for opcode in 0..64 {
            for len in [0, 1, 7, 8, 15, 19] {
                // Must not panic; what it becomes is its own matter.
                let _ = operation(opcode, &vec![0xff; len]);
            }
        }
        assert_eq!(operation(15, &[0; 19]), Operation::Refused(errno::EINVAL));
    }

    #[test]
    fn everything_that_writes_is_refused() {
        for opcode in [4, 6, 8, 9, 10, 11, 12, 13, 16, 21, 24, 35, 43, 45, 47, 51] {
            assert_eq!(operation(opcode, &[0; 64]), Operation::Refused(errno::EROFS), "{opcode}");
        }
    }

    #[test]
    fn answers_have_the_sizes_of_the_header_file() {
        let a = Attributes::default();
        assert_eq!(entry(Some(&a)).len(), 128);
        assert_eq!(entry(None).len(), 128);
        assert_eq!(attributes(&a).len(), 104);
        assert_eq!(statfs(1, 1).len(), 80);
        assert_eq!(init(7, 38, 0, u32::MAX).unwrap().len(), 64);
        assert_eq!(init(7, 30, 0, 0), Err(errno::EPROTO));
        assert!(init(8, 0, 0, 0).is_ok(), "a newer kernel is told what we speak");
    }

    #[test]
    fn a_listing_stops_where_it_is_full() {
        let mut l = Listing::new(64);
        assert!(l.add(1, 1, 4, b".") && l.add(1, 2, 4, b".."));
        assert!(!l.add(2, 3, 8, b"x"));
        assert_eq!(l.finish().len(), 64);
    }
}
