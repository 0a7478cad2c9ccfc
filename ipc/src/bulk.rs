//! Bytes that are too many for a message: they go by a descriptor of memory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, MemfdFlags, SealFlags, fcntl_add_seals, fstat, memfd_create};

/// Memory with these bytes, which nobody changes any more.
///
/// # Errors
/// The kernel's.
pub fn give(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("gtvp", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.write_all(bytes)?;
    file.seek(SeekFrom::Start(0))?;
    fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(file.into())
}

/// The bytes of a descriptor that came with a message, at most `most`.
///
/// # Errors
/// The kernel's; one that is no memory or file, from which reading might not end; more bytes.
pub fn take(fd: OwnedFd, most: usize) -> io::Result<Vec<u8>> {
    let about = fstat(&fd)?;
    if FileType::from_raw_mode(about.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a descriptor of memory"));
    }
    let mut file = File::from(fd);
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.take(most as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "more bytes than are taken"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_is_what_is_taken_and_no_more_than_wanted() {
        let fd = give(b"a log").unwrap();
        assert_eq!(take(fd.try_clone().unwrap(), 5).unwrap(), b"a log");
        assert!(take(fd, 4).is_err());
        let (one, _two) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(take(one.into(), 5).is_err(), "reading from a socket might never end");
    }
}
