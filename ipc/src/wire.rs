//! Messages with descriptors over a unix stream socket: a little-endian u32 length, then JSON; descriptors travel with
//! the length.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// Most bytes of one message: listings of a full member (251 boxes, thousands of components) stay below it.
pub const MAX_MESSAGE: usize = 8 * 1024 * 1024;
/// Most descriptors with one message; Linux allows 253.
pub const MAX_FDS: usize = 64;

/// Sends `json` and `fds`.
pub fn send(stream: &UnixStream, json: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if json.len() > MAX_MESSAGE || fds.len() > MAX_FDS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "message is too large"));
    }
    let length = u32::try_from(json.len()).map_err(|_| io::ErrorKind::InvalidInput)?.to_le_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    let sent = loop {
        match rustix::net::sendmsg(stream, &[IoSlice::new(&length)], &mut ancillary, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut writer = stream;
    writer.write_all(&length[sent..])?;
    writer.write_all(json)
}

/// Receives one message; `None` when the other side has closed cleanly.
pub fn recv(stream: &UnixStream) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    recv_at_most(stream, MAX_MESSAGE)
}

/// Receives one message of at most `most` bytes.
pub fn recv_at_most(stream: &UnixStream, most: usize) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut length = [0; 4];
    let mut fds = Vec::new();
    let mut have = 0;
    while have < length.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            stream.as_fd(),
            &mut [IoSliceMut::new(&mut length[have..])],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        );
        let n = match received {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?.bytes,
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        // A length that comes in pieces could bring as many with each of them.
        if fds.len() > MAX_FDS {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too many descriptors"));
        }
        match n {
            0 if have == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => have += n,
        }
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message is too long"));
    }
    // Read as it comes: a length alone does not make us allocate.
    let mut json = Vec::new();
    let mut reader: &UnixStream = stream;
    Read::take(&mut reader, length as u64).read_to_end(&mut json)?;
    if json.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some((json, fds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_comes_byte_by_byte_brings_no_more_descriptors() {
        let (one, two) = UnixStream::pair().unwrap();
        let null: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        let fds = [null.as_fd(); MAX_FDS];
        for byte in 2u32.to_le_bytes() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
            rustix::net::sendmsg(&one, &[IoSlice::new(&[byte])], &mut ancillary, SendFlags::empty()).unwrap();
        }
        (&one).write_all(b"{}").unwrap();
        assert_eq!(recv(&two).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_message_past_its_bound_is_not_read() {
        let (one, two) = UnixStream::pair().unwrap();
        send(&one, &[b' '; 100], &[]).unwrap();
        assert_eq!(recv_at_most(&two, 99).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (one, two) = UnixStream::pair().unwrap();
        send(&one, &[b' '; 100], &[]).unwrap();
        assert_eq!(recv_at_most(&two, 100).unwrap().unwrap().0.len(), 100);
    }
}
