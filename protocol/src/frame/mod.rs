//! Frames: `length: u32 BE ‖ kind: u8 ‖ body`, `length` counting the body alone. What the body is, its kind says.
//!
//! A frame's length is refused before a byte of its body is taken, by a bound of its own kind. Nothing here decodes
//! bodies; [`wire`] has the encoding.

pub(crate) mod messages;
pub mod wire;

/// Bytes before the body.
pub const HEADER: usize = 5;

/// One frame, its body not decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the body is.
    pub kind: u8,
    /// CBOR.
    pub body: Vec<u8>,
}

impl Frame {
    /// As it is sent. `None` if the body is longer than any frame's can be.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let length = u32::try_from(self.body.len()).ok()?;
        let mut out = Vec::with_capacity(HEADER + self.body.len());
        out.extend_from_slice(&length.to_be_bytes());
        out.push(self.kind);
        out.extend_from_slice(&self.body);
        Some(out)
    }
}

/// A frame that is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// Nobody here knows this kind.
    #[error("frame kind {0} is not known")]
    UnknownKind(u8),
    /// Longer than its kind may be.
    #[error("a frame of kind {kind} has {length} bytes, at most {max} are taken")]
    TooLong {
        /// Its kind.
        kind: u8,
        /// The length that it claims.
        length: u32,
        /// What its kind may have.
        max: usize,
    },
}

/// The longest body of a kind in bytes, `None` for a kind that is not known.
pub type Limits = fn(u8) -> Option<usize>;

/// Cuts a stream of bytes into frames. Holds at most one frame, and never more than what has come of it.
pub struct FrameReader {
    limits: Limits,
    header: Vec<u8>,
    body: Vec<u8>,
}

impl FrameReader {
    /// A reader at a frame's beginning.
    pub fn new(limits: Limits) -> Self {
        Self { limits, header: Vec::with_capacity(HEADER), body: Vec::new() }
    }

    /// Takes bytes off `input` up to a frame's end, and gives that frame if it came.
    ///
    /// # Errors
    /// [`FrameFault`] as soon as the header is there; the stream is of no use then.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, FrameFault> {
        take(&mut self.header, HEADER, input);
        let [a, b, c, d, kind] = *self.header.as_slice() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]);
        let max = (self.limits)(kind).ok_or(FrameFault::UnknownKind(kind))?;
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        if size > max {
            return Err(FrameFault::TooLong { kind, length, max });
        }
        take(&mut self.body, size, input);
        if self.body.len() < size {
            return Ok(None);
        }
        self.header.clear();
        Ok(Some(Frame { kind, body: std::mem::take(&mut self.body) }))
    }

    /// Whether part of a frame has come: a stream that ends here was cut.
    pub fn is_inside(&self) -> bool {
        !self.header.is_empty()
    }
}

fn take(into: &mut Vec<u8>, size: usize, input: &mut &[u8]) {
    let n = size.saturating_sub(into.len()).min(input.len());
    let (head, rest) = input.split_at(n);
    into.extend_from_slice(head);
    *input = rest;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(kind: u8) -> Option<usize> {
        match kind {
            1 => Some(10),
            2 => Some(0),
            _ => None,
        }
    }

    #[test]
    fn frames_come_out_however_the_stream_is_cut() {
        let frames = [Frame { kind: 1, body: vec![7; 10] }, Frame { kind: 2, body: vec![] }];
        let stream: Vec<u8> = frames.iter().flat_map(|f| f.encode().unwrap()).collect();
        for piece in 1..=stream.len() {
            let mut reader = FrameReader::new(limits);
            let mut got = Vec::new();
            for mut chunk in stream.chunks(piece) {
                while let Some(frame) = reader.read(&mut chunk).unwrap() {
                    got.push(frame);
                }
            }
            assert_eq!(got, frames, "in pieces of {piece}");
            assert!(!reader.is_inside());
        }
    }

    #[test]
    fn a_length_is_refused_before_its_bytes_come() {
        let mut reader = FrameReader::new(limits);
        let mut huge: &[u8] = &[0xFF, 0xFF, 0xFF, 0xFF, 1];
        let fault = reader.read(&mut huge).unwrap_err();
        assert_eq!(fault, FrameFault::TooLong { kind: 1, length: u32::MAX, max: 10 });
        assert_eq!(reader.body.capacity(), 0);
        assert_eq!(FrameReader::new(limits).read(&mut &[0, 0, 0, 0, 9][..]), Err(FrameFault::UnknownKind(9)));
    }
}
