//! Writes tar archives: POSIX ustar (IEEE Std 1003.1, `pax`), with extended records for what ustar's fields do not hold,
//! and `SCHILY.xattr.*` records for extended attributes, as GNU tar and libarchive read them.

use std::io::{self, Read, Write};

const BLOCK: usize = 512;
/// Largest number in ustar's octal fields of 8 and 12 bytes.
const MAX_OCTAL_8: u64 = 0o7_777_777;
const MAX_OCTAL_12: u64 = 0o77_777_777_777;
const NAME: usize = 100;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// Another name of an entry before it.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device; 0:0 is an overlay's whiteout.
    CharDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// One entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Path without a leading `/`.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970-01-01 UTC.
    pub mtime: i64,
    /// Nanoseconds beside them.
    pub mtime_ns: u32,
    /// Bytes of a file.
    pub size: u64,
    /// A link's target.
    pub target: Vec<u8>,
    /// Extended attributes: name and value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Writes an archive to `W`.
pub struct Archive<W: Write> {
    out: W,
}

impl<W: Write> Archive<W> {
    /// An empty archive.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// Adds an entry; a file's `content` must have its size: what is missing becomes zeros, what is more is left out, for
    /// a file that changes while it is read.
    pub fn add(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        let records = extended(entry);
        if !records.is_empty() {
            let head = Header {
                name: b"pax",
                flag: b'x',
                mode: 0o644,
                size: records.len() as u64,
                ..Header::of(entry)
            };
            self.out.write_all(&head.bytes())?;
            self.out.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        let size = if entry.kind == Kind::File { entry.size } else { 0 };
        self.out.write_all(&Header { size, ..Header::of(entry) }.bytes())?;
        let copied = io::copy(&mut content.take(size), &mut self.out)?;
        io::copy(&mut io::repeat(0).take(size - copied), &mut self.out)?;
        self.pad(size)
    }

    /// Writes the archive's end.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()
    }

    fn pad(&mut self, written: u64) -> io::Result<()> {
        let over = (written % BLOCK as u64) as usize;
        if over > 0 { self.out.write_all(&[0; BLOCK][over..]) } else { Ok(()) }
    }
}

/// The fields of one header block.
struct Header<'a> {
    name: &'a [u8],
    target: &'a [u8],
    flag: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: i64,
    device: (u32, u32),
}

impl<'a> Header<'a> {
    fn of(entry: &'a Entry) -> Self {
        let (flag, device) = match entry.kind {
            Kind::File => (b'0', (0, 0)),
            Kind::HardLink => (b'1', (0, 0)),
            Kind::Symlink => (b'2', (0, 0)),
            Kind::CharDevice(major, minor) => (b'3', (major, minor)),
            Kind::BlockDevice(major, minor) => (b'4', (major, minor)),
            Kind::Directory => (b'5', (0, 0)),
            Kind::Fifo => (b'6', (0, 0)),
        };
        Self {
            name: &entry.path,
            target: &entry.target,
            flag,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            size: 0,
            mtime: entry.mtime,
            device,
        }
    }

    fn bytes(&self) -> [u8; BLOCK] {
        let mut b = [0; BLOCK];
        put(&mut b[..NAME], self.name);
        // What does not fit is cut here and whole in the extended record.
        octal(&mut b[100..108], u64::from(self.mode & 0o7777));
        octal(&mut b[108..116], u64::from(self.uid).min(MAX_OCTAL_8));
        octal(&mut b[116..124], u64::from(self.gid).min(MAX_OCTAL_8));
        octal(&mut b[124..136], self.size.min(MAX_OCTAL_12));
        octal(&mut b[136..148], u64::try_from(self.mtime).unwrap_or(0).min(MAX_OCTAL_12));
        b[156] = self.flag;
        put(&mut b[157..257], self.target);
        b[257..265].copy_from_slice(b"ustar\x0000");
        octal(&mut b[329..337], u64::from(self.device.0).min(MAX_OCTAL_8));
        octal(&mut b[337..345], u64::from(self.device.1).min(MAX_OCTAL_8));
        // The checksum counts its own field as spaces.
        b[148..156].fill(b' ');
        let sum: u64 = b.iter().map(|b| u64::from(*b)).sum();
        octal(&mut b[148..155], sum);
        b
    }
}

fn put(field: &mut [u8], value: &[u8]) {
    let n = value.len().min(field.len());
    field[..n].copy_from_slice(&value[..n]);
}

/// Octal digits with zeros in front and a NUL behind.
fn octal(field: &mut [u8], mut value: u64) {
    let digits = field.len() - 1;
    for d in field[..digits].iter_mut().rev() {
        *d = b'0' + (value & 7) as u8;
        value >>= 3;
    }
    field[digits] = 0;
}

/// The extended records that an entry needs.
fn extended(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::new();
    let mut number = |key: &[u8], value: u64, most: u64| {
        if value > most {
            record(&mut out, key, value.to_string().as_bytes());
        }
    };
    number(b"size", if entry.kind == Kind::File { entry.size } else { 0 }, MAX_OCTAL_12);
    number(b"uid", entry.uid.into(), MAX_OCTAL_8);
    number(b"gid", entry.gid.into(), MAX_OCTAL_8);
    if entry.mtime_ns > 0 || entry.mtime < 0 {
        record(&mut out, b"mtime", mtime(entry.mtime, entry.mtime_ns).as_bytes());
    }
    if entry.path.len() > NAME {
        record(&mut out, b"path", &entry.path);
    }
    if entry.target.len() > NAME {
        record(&mut out, b"linkpath", &entry.target);
    }
    for (name, value) in &entry.xattrs {
        record(&mut out, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    out
}

/// Decimal seconds. Before 1970 the nanoseconds still count forwards.
fn mtime(seconds: i64, ns: u32) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(ns);
    let (sign, total) = if total < 0 { ("-", -total) } else { ("", total) };
    format!("{sign}{}.{:09}", total / 1_000_000_000, total % 1_000_000_000)
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if rest + length.to_string().len() > length {
        length += 1;
    }
    out.extend_from_slice(format!("{length} ").as_bytes());
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn entry(path: &[u8], kind: Kind) -> Entry {
        Entry {
            path: path.to_vec(),
            kind,
            mode: 0o644,
            uid: 33,
            gid: 33,
            mtime: 1_700_000_000,
            mtime_ns: 0,
            size: 0,
            target: Vec::new(),
            xattrs: Vec::new(),
        }
    }

    fn listing(archive: &[u8], arguments: &[&str]) -> String {
        let mut tar = Command::new("tar")
            .args(["--numeric-owner", "--full-time", "--quoting-style=literal"])
            .args(arguments)
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        tar.stdin.take().unwrap().write_all(archive).unwrap();
        let out = tar.wait_with_output().unwrap();
        assert!(out.status.success());
        // Columns are as wide as tar likes.
        let text = String::from_utf8_lossy(&out.stdout);
        text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
    }

    #[test]
    fn record_lengths_count_themselves() {
        for n in [1, 90, 91, 92, 93, 985, 986, 987, 988] {
            let mut out = Vec::new();
            record(&mut out, b"key", &vec![b'v'; n]);
            let said: usize = String::from_utf8_lossy(&out).split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, out.len(), "value of {n}");
        }
        assert_eq!(mtime(-1, 500_000_000), "-0.500000000");
    }

    #[test]
    fn tar_reads_back_what_was_written() {
        let mut bytes = Vec::new();
        let mut a = Archive::new(&mut bytes);
        let mut dir = entry(b"etc/", Kind::Directory);
        dir.xattrs.push((b"trusted.overlay.opaque".to_vec(), b"y".to_vec()));
        a.add(&dir, &mut io::empty()).unwrap();
        let long = [b"etc/".as_slice(), &[b'n'; 200]].concat();
        let mut file = entry(&long, Kind::File);
        (file.size, file.mtime_ns, file.uid, file.mode) = (5, 250_000_000, 3_000_000, 0o4755);
        file.xattrs.push((b"user.x".to_vec(), vec![0, b'\n', b'=', 255]));
        a.add(&file, &mut b"hello and more".as_slice()).unwrap();
        let mut link = entry(b"etc/hard", Kind::HardLink);
        link.target = long.clone();
        a.add(&link, &mut io::empty()).unwrap();
        a.add(&entry(b"etc/gone", Kind::CharDevice(0, 0)), &mut io::empty()).unwrap();
        let mut sym = entry(b"etc/sym", Kind::Symlink);
        sym.target = [b't'; 150].to_vec();
        a.add(&sym, &mut io::empty()).unwrap();
        let mut short = entry(b"short", Kind::File);
        short.size = 600;
        a.add(&short, &mut b"x".as_slice()).unwrap();
        a.finish().unwrap();

        let text = listing(&bytes, &["-tvvv", "--xattrs", "--xattrs-include=*"]);
        let lines: Vec<&str> = text.lines().collect();
        let n = "n".repeat(200);
        assert!(
            lines[0].starts_with("drw-r--r--* 33/33 0 ") && lines[0].ends_with("2023-11-14 22:13:20 etc/"),
            "{text}"
        );
        assert!(text.contains("trusted.overlay.opaque") && text.contains("user.x"), "{text}");
        assert!(text.contains(&format!("3000000/33 5 2023-11-14 22:13:20.25 etc/{n}")), "{text}");
        assert!(text.contains(&format!("etc/hard link to etc/{n}")), "{text}");
        assert!(text.contains("crw-r--r-- 33/33 0,0 2023-11-14 22:13:20 etc/gone"), "{text}");
        assert!(text.contains(&format!("etc/sym -> {}", "t".repeat(150))), "{text}");
        assert_eq!(listing(&bytes, &["-xO", &format!("etc/{n}")]), "hello\n");
        assert_eq!(listing(&bytes, &["-xO", "short"]), format!("x{}\n", "\0".repeat(599)));
    }
}
