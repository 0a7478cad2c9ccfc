//! Frames of a box's output, of `exec` and of `shell`, between `drivers` and the CLI: one byte kind, three zero bytes, a
//! big-endian u32 length, the payload.

use std::io::{self, Read, Write};

/// Most bytes in one frame.
pub const MAX_FRAME: usize = 256 * 1024;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum StreamKind {
    /// To the command's standard input; empty is end of file.
    Stdin = 0,
    /// From standard output, or from the terminal.
    Stdout = 1,
    /// From standard error.
    Stderr = 2,
    /// A [`crate::guest::TerminalSize`] in JSON, to the command.
    Resize = 3,
    /// A [`crate::boxview::ExitStatus`] in JSON: how the command ended; last frame.
    Exit = 4,
    /// A [`crate::fault::Fault`] in JSON: why the stream ended; last frame.
    Fault = 5,
    /// A Linux signal number in decimal, to the command.
    Signal = 6,
}

impl StreamKind {
    fn from_byte(b: u8) -> Option<Self> {
        Some(match b {
            0 => Self::Stdin,
            1 => Self::Stdout,
            2 => Self::Stderr,
            3 => Self::Resize,
            4 => Self::Exit,
            5 => Self::Fault,
            6 => Self::Signal,
            _ => return None,
        })
    }
}

/// Bytes of one frame.
pub fn encode(kind: StreamKind, payload: &[u8]) -> Vec<u8> {
    debug_assert!(payload.len() <= MAX_FRAME);
    let mut out = Vec::with_capacity(8 + payload.len());
    out.extend_from_slice(&[kind as u8, 0, 0, 0]);
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// Writes one frame.
pub fn write(out: &mut impl Write, kind: StreamKind, payload: &[u8]) -> io::Result<()> {
    out.write_all(&encode(kind, payload))
}

/// Reads one frame; `None` at a clean end.
///
/// # Errors
/// `InvalidData` for a kind or a length that this format does not have, `UnexpectedEof` inside a frame.
pub fn read(input: &mut impl Read) -> io::Result<Option<(StreamKind, Vec<u8>)>> {
    let mut header = [0; 8];
    let mut have = 0;
    while have < header.len() {
        match input.read(&mut header[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let (kind, length) = header_of(header)?;
    let mut payload = vec![0; length];
    input.read_exact(&mut payload)?;
    Ok(Some((kind, payload)))
}

/// Kind and payload length of a frame's first eight bytes.
pub fn header_of(header: [u8; 8]) -> io::Result<(StreamKind, usize)> {
    let kind = StreamKind::from_byte(header[0]).ok_or(io::ErrorKind::InvalidData)?;
    let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
    if length > MAX_FRAME {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((kind, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_and_bad_ones_are_refused() {
        let mut wire = encode(StreamKind::Stdout, b"hi");
        wire.extend(encode(StreamKind::Exit, b"{\"code\":0}"));
        let mut r = wire.as_slice();
        assert_eq!(read(&mut r).unwrap(), Some((StreamKind::Stdout, b"hi".to_vec())));
        assert_eq!(read(&mut r).unwrap().unwrap().0, StreamKind::Exit);
        assert_eq!(read(&mut r).unwrap(), None);
        assert!(read(&mut [9u8, 0, 0, 0, 0, 0, 0, 0].as_slice()).is_err());
        assert!(read(&mut [1u8, 0, 0, 0, 255, 0, 0, 0].as_slice()).is_err());
        assert!(read(&mut &wire[..9]).is_err());
    }
}
