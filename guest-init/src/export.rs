//! The writable layer as an archive: every path in it, in sorted order, as overlayfs left it. Runs in a child, whose
//! standard output goes to the host.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use crate::archive::{Archive, Entry, Kind};

/// Deepest directory: each level holds a descriptor, and Debian's packages stay below 30.
const MAX_DEPTH: usize = 400;
/// Linux's own bounds for one value and for a list of names.
const MAX_XATTR: usize = 64 * 1024;
/// The one attribute of overlayfs that says something about the content; the others are its private notes about this
/// mount.
const OPAQUE: &[u8] = b"trusted.overlay.opaque";
const OVERLAY: &[u8] = b"trusted.overlay.";

/// Files that guest-init itself has written into the layer, by path; they are left out while they hold just that.
pub type Own = Vec<(String, Vec<u8>)>;

/// Writes the archive of `upper` to `out`.
pub fn write(upper: BorrowedFd<'_>, own: &Own, out: impl Write) -> io::Result<()> {
    let top = open(upper, c".", OFlags::DIRECTORY)?;
    let mut walk =
        Walk { archive: Archive::new(BufWriter::with_capacity(64 * 1024, out)), links: HashMap::new(), own };
    walk.directory(&top, b"", 0)?;
    walk.archive.finish()
}

struct Walk<'a, W: Write> {
    archive: Archive<W>,
    /// First path of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    own: &'a Own,
}

impl<W: Write> Walk<'_, W> {
    fn directory(&mut self, dir: &OwnedFd, path: &[u8], depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::other(format!("directories are nested deeper than {MAX_DEPTH}")));
        }
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(dir)? {
            let name = entry?.file_name().to_owned();
            if name.as_bytes() != b"." && name.as_bytes() != b".." {
                names.push(name);
            }
        }
        names.sort();
        for name in names {
            let at = if path.is_empty() {
                name.as_bytes().to_vec()
            } else {
                [path, b"/", name.as_bytes()].concat()
            };
            let stat = rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            self.entry(dir, &name, at, &stat, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        dir: &OwnedFd,
        name: &std::ffi::CStr,
        path: Vec<u8>,
        stat: &Stat,
        depth: usize,
    ) -> io::Result<()> {
        let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::CharDevice(device.0, device.1),
            FileType::BlockDevice => Kind::BlockDevice(device.0, device.1),
            FileType::Fifo => Kind::Fifo,
            // A socket is nothing without the process that made it.
            _ => return Ok(()),
        };
        let mut entry = Entry {
            path,
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: stat.st_mtime,
            mtime_ns: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            size: 0,
            target: Vec::new(),
            xattrs: xattrs(dir, name)?,
        };
        let one_of_several =
            kind != Kind::Directory && stat.st_nlink > 1 && entry.kind != Kind::CharDevice(0, 0);
        if one_of_several {
            let id = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&id) {
                (entry.kind, entry.target, entry.xattrs) = (Kind::HardLink, first.clone(), Vec::new());
                return self.archive.add(&entry, &mut io::empty());
            }
            self.links.insert(id, entry.path.clone());
        }
        match kind {
            Kind::File => {
                let mut file = File::from(open(dir.as_fd(), name, OFlags::empty())?);
                if self.is_own(&entry.path, &mut file)? {
                    return Ok(());
                }
                entry.size = u64::try_from(stat.st_size).unwrap_or(0);
                self.archive.add(&entry, &mut file)
            }
            Kind::Directory => {
                let inner = open(dir.as_fd(), name, OFlags::DIRECTORY)?;
                let path = entry.path.clone();
                entry.path.push(b'/');
                self.archive.add(&entry, &mut io::empty())?;
                self.directory(&inner, &path, depth + 1)
            }
            Kind::Symlink => {
                entry.target = rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes();
                self.archive.add(&entry, &mut io::empty())
            }
            _ => self.archive.add(&entry, &mut io::empty()),
        }
    }

    fn is_own(&self, path: &[u8], file: &mut File) -> io::Result<bool> {
        use std::io::{Read, Seek};
        let Some((_, text)) = self.own.iter().find(|(p, _)| p.as_bytes() == path) else { return Ok(false) };
        let mut found = Vec::new();
        file.take(text.len() as u64 + 1).read_to_end(&mut found)?;
        file.rewind()?;
        Ok(found == *text)
    }
}

fn open(dir: BorrowedFd<'_>, name: &std::ffi::CStr, more: OFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOATIME;
    match rustix::fs::openat(dir, name, flags | more, Mode::empty()) {
        // Only the owner may ask for that.
        Err(rustix::io::Errno::PERM) => {
            Ok(rustix::fs::openat(dir, name, (flags - OFlags::NOATIME) | more, Mode::empty())?)
        }
        other => Ok(other?),
    }
}

/// The attributes of a name, sorted. It goes through /proc, since only a path can name a link itself.
fn xattrs(dir: &OwnedFd, name: &std::ffi::CStr) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    let path = std::ffi::OsStr::from_bytes(&path);
    let mut buffer = vec![0u8; MAX_XATTR];
    let length = match rustix::fs::llistxattr(path, buffer.as_mut_slice()) {
        Ok(n) => n,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(e) => return Err(e.into()),
    };
    let mut names: Vec<Vec<u8>> =
        buffer[..length].split(|b| *b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect();
    names.retain(|n| n == OPAQUE || !n.starts_with(OVERLAY));
    names.sort();
    let value = |name: Vec<u8>| {
        let mut buffer = vec![0u8; MAX_XATTR];
        let n = rustix::fs::lgetxattr(path, name.as_slice(), buffer.as_mut_slice())?;
        buffer.truncate(n);
        Ok((name, buffer))
    };
    names.into_iter().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    #[test]
    fn a_layer_comes_out_as_it_is_but_for_what_guest_init_wrote() {
        let dir = std::env::temp_dir().join(format!("gtvp-export-{}", std::process::id()));
        fs::create_dir_all(dir.join("etc/empty")).unwrap();
        fs::write(dir.join("etc/hostname"), "box\n").unwrap();
        fs::write(dir.join("etc/hosts"), "changed by a package\n").unwrap();
        fs::write(dir.join("etc/b"), "bee").unwrap();
        fs::set_permissions(dir.join("etc/b"), fs::Permissions::from_mode(0o4711)).unwrap();
        fs::hard_link(dir.join("etc/b"), dir.join("etc/a")).unwrap();
        symlink("nowhere", dir.join("etc/l")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.join("s")).unwrap();
        let upper = OwnedFd::from(File::open(&dir).unwrap());
        let own: Own = vec![
            ("etc/hostname".into(), b"box\n".to_vec()),
            ("etc/hosts".into(), b"127.0.0.1 localhost\n".to_vec()),
        ];
        let file = dir.with_extension("tar");
        write(upper.as_fd(), &own, File::create(&file).unwrap()).unwrap();
        let out = Command::new("tar").arg("-tvf").arg(&file).output().unwrap();
        fs::remove_file(&file).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        let short: Vec<String> = text
            .lines()
            .map(|l| {
                let (mode, rest) = l.split_once(' ').unwrap();
                format!("{mode} {}", rest.split_once(':').unwrap().1.get(3..).unwrap())
            })
            .collect();
        let want = [
            "drwxr-xr-x etc/",
            "-rws--x--x etc/a",
            "hrws--x--x etc/b link to etc/a",
            "drwxr-xr-x etc/empty/",
            "-rw-r--r-- etc/hosts",
            "lrwxrwxrwx etc/l -> nowhere",
        ];
        assert_eq!(short, want, "{text}");
    }
}
