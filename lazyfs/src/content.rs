//! Files' contents: descriptors by digest, each verified in full before the first byte of it is served. Bounded; the one not
//! used for longest goes first, and is verified again when it is needed again.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use gtvp_model::digest::{Digest, FsVerity};

use crate::locked;

/// Most descriptors held, well below the jail's limit of open files.
const MAX_OBJECTS: usize = 4096;
/// Bytes read at once for verification.
const CHUNK: usize = 128 << 10;

/// Why contents cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BadObject {
    /// They are not what their digest says.
    #[error("the contents are not those of their digest")]
    Damaged,
    /// They cannot be read.
    #[error("the contents cannot be read")]
    Io(#[from] io::Error),
    /// Not a regular file.
    #[error("what was given is not a file")]
    NotAFile,
}

struct Held {
    object: Arc<OwnedFd>,
    size: u64,
    used: u64,
}

#[derive(Default)]
struct Cache {
    held: HashMap<Digest, Held>,
    clock: u64,
}

/// The contents at hand.
#[derive(Default)]
pub struct Objects(Mutex<Cache>);

impl Objects {
    /// Verified contents and their size.
    pub fn get(&self, digest: &Digest) -> Option<(Arc<OwnedFd>, u64)> {
        let mut cache = locked(&self.0);
        cache.clock += 1;
        let now = cache.clock;
        let held = cache.held.get_mut(digest)?;
        held.used = now;
        Some((held.object.clone(), held.size))
    }

    /// Verifies `object` and keeps it.
    pub fn admit(&self, digest: Digest, object: OwnedFd) -> Result<(), BadObject> {
        let file = File::from(object);
        if !file.metadata()?.is_file() {
            return Err(BadObject::NotAFile);
        }
        let size = verify(&file, &digest)?;
        let mut cache = locked(&self.0);
        if cache.held.len() >= MAX_OBJECTS {
            // An eighth at once, so that the search is rare.
            let mut times: Vec<_> = cache.held.values().map(|h| h.used).collect();
            let (_, oldest, _) = times.select_nth_unstable(MAX_OBJECTS / 8);
            let oldest = *oldest;
            cache.held.retain(|_, h| h.used > oldest);
        }
        cache.clock += 1;
        let used = cache.clock;
        cache.held.insert(digest, Held { object: Arc::new(file.into()), size, used });
        Ok(())
    }
}

/// Reads all of `file`. Gives its size when it is what `digest` says.
fn verify(file: &File, digest: &Digest) -> Result<u64, BadObject> {
    let mut hash = FsVerity::new();
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    loop {
        match file.read_at(&mut chunk, at) {
            Ok(0) => break,
            Ok(n) => {
                hash.update(&chunk[..n]);
                at += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    if hash.finish() == *digest { Ok(at) } else { Err(BadObject::Damaged) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn object(bytes: &[u8]) -> OwnedFd {
        let fd = rustix::fs::memfd_create("object", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        File::from(fd.try_clone().unwrap()).write_all(bytes).unwrap();
        fd
    }

    #[test]
    fn a_flipped_byte_is_never_served() {
        let objects = Objects::default();
        let content = vec![7u8; 300_000];
        let digest = FsVerity::of(&content);
        let mut flipped = content.clone();
        flipped[299_999] ^= 1;
        assert!(matches!(objects.admit(digest, object(&flipped)), Err(BadObject::Damaged)));
        assert!(matches!(objects.admit(digest, object(&content[..299_999])), Err(BadObject::Damaged)));
        assert!(objects.get(&digest).is_none());
        objects.admit(digest, object(&content)).unwrap();
        assert_eq!(objects.get(&digest).unwrap().1, 300_000);
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let objects = Objects::default();
        let digest = |i: usize| FsVerity::of(&i.to_le_bytes());
        let shared = Arc::new(object(b""));
        for i in 0..MAX_OBJECTS {
            let mut cache = locked(&objects.0);
            cache.clock += 1;
            let held = Held { object: shared.clone(), size: 0, used: cache.clock };
            cache.held.insert(digest(i), held);
        }
        assert!(objects.get(&digest(0)).is_some());
        objects.admit(FsVerity::of(b"one more"), object(b"one more")).unwrap();
        let held = locked(&objects.0).held.len();
        assert!(held < MAX_OBJECTS, "{held}");
        assert!(objects.get(&digest(0)).is_some(), "used lately");
        assert!(objects.get(&digest(1)).is_none(), "not used lately");
        assert!(objects.get(&FsVerity::of(b"one more")).is_some());
    }
}
