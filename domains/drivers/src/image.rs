//! The file in which QEMU saves a machine: its identity by content. It is sparse, as large as the machine's memory, and only what is
//! in it is read.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use gtvp_model::digest::Digest;
use rustix::fs::SeekFrom;

/// What is hashed in one piece.
const PIECE: u64 = 1024 * 1024;
const LABEL: &[u8] = b"gtvp-template/1\0";

/// SHA-256 of the label, the length (u64, little endian), and of each piece of 1 MiB that is not all zero its number (u64, little
/// endian) and its SHA-256: what is not written and what is zero are the same, as they are for whoever reads.
pub fn digest(image: &File) -> io::Result<Digest> {
    let len = image.metadata()?.len();
    let mut list = LABEL.to_vec();
    list.extend(len.to_le_bytes());
    let mut piece = vec![0; usize::try_from(PIECE).map_err(io::Error::other)?];
    let mut at = 0;
    while at < len {
        at = match rustix::fs::seek(image, SeekFrom::Data(at)) {
            Ok(data) => data - data % PIECE,
            // Nothing more is written.
            Err(rustix::io::Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let bytes = usize::try_from((len - at).min(PIECE)).map_err(io::Error::other)?;
        let bytes = piece.get_mut(..bytes).unwrap_or_default();
        image.read_exact_at(bytes, at)?;
        if bytes.iter().any(|b| *b != 0) {
            list.extend((at / PIECE).to_le_bytes());
            list.extend(Digest::of(bytes).0);
        }
        at += PIECE;
    }
    Ok(Digest::of(&list))
}

/// What changes when a file is written: it stands for the contents once they were hashed.
pub fn identity(image: &File) -> io::Result<[i64; 6]> {
    let m = image.metadata()?;
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    Ok([number(m.dev()), number(m.ino()), number(m.size()), m.mtime(), m.ctime(), m.ctime_nsec()])
}

/// Bytes that it takes on disk.
pub fn taken(image: &File) -> io::Result<u64> {
    Ok(image.metadata()?.blocks() * 512)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Folder;

    #[test]
    fn holes_are_zeros_and_every_byte_and_the_length_count() {
        let folder = Folder::new();
        let open = |name: &str| {
            let path = folder.path().join(name);
            File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap()
        };
        let (sparse, full) = (open("sparse"), open("full"));
        let len = 5 * PIECE + 77;
        full.write_all_at(&vec![0; usize::try_from(len).unwrap()], 0).unwrap();
        sparse.set_len(len).unwrap();
        for image in [&sparse, &full] {
            image.write_all_at(b"kernel", 3 * PIECE - 2).unwrap();
            image.write_all_at(b"x", len - 1).unwrap();
        }
        let first = digest(&sparse).unwrap();
        assert_eq!(first, digest(&full).unwrap());
        for at in [0, 3 * PIECE, len - 1] {
            let mut byte = [0];
            sparse.read_exact_at(&mut byte, at).unwrap();
            sparse.write_all_at(&[byte[0] ^ 1], at).unwrap();
            assert_ne!(digest(&sparse).unwrap(), first, "byte {at}");
            sparse.write_all_at(&byte, at).unwrap();
            assert_eq!(digest(&sparse).unwrap(), first);
        }
        sparse.set_len(len + 1).unwrap();
        assert_ne!(digest(&sparse).unwrap(), first);
        assert_ne!(digest(&open("empty")).unwrap(), first);
    }
}
