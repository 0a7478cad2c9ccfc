//! The two messages, framed as HSP's are.

use minicbor::{Decode, Encode, Encoder};

use super::entry::{Entry, MAX_ENTRY};
use super::filter::{Filter, MAX_BITS};
use crate::frame::wire::{self, BodyFault, Bytes, List};
use crate::frame::{Frame, HEADER};

/// Kind of [`Have`].
pub const HAVE: u8 = 70;
/// Kind of [`Spread`].
pub const SPREAD: u8 = 71;
/// Longest message with its header: what a link may carry in a round.
pub const MAX_MESSAGE: usize = 2_048;
/// Most entries of one message: statuses have 300 bytes and more.
const MAX_ENTRIES: usize = 8;

/// What the sender has, in a filter: whoever gets it sends what is not in it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Have {
    /// Whether the sender wants the same of the other one.
    #[n(0)]
    pub ask: bool,
    /// Of the filter.
    #[n(1)]
    pub salt: u64,
    /// Of the filter.
    #[n(2)]
    pub probes: u8,
    /// The filter.
    #[n(3)]
    pub bits: Bytes<MAX_BITS>,
}

/// Entries that the sender thinks are new to whoever gets them.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Spread {
    /// Whether there was more than fits.
    #[n(0)]
    pub more: bool,
    /// They.
    #[n(1)]
    pub entries: List<Entry, MAX_ENTRIES>,
}

impl Have {
    pub(super) fn frame(ask: bool, filter: Filter) -> Frame {
        let (salt, probes, bits) = filter.parts();
        let have = Self { ask, salt, probes, bits: bits.try_into().unwrap_or_default() };
        Frame { kind: HAVE, body: wire::encode(&have) }
    }

    /// What a frame says.
    ///
    /// # Errors
    /// [`BodyFault`].
    pub fn decode(frame: &Frame) -> Result<Self, BodyFault> {
        wire::decode(&frame.body)
    }
}

impl Spread {
    /// What a frame says.
    ///
    /// # Errors
    /// [`BodyFault`].
    pub fn decode(frame: &Frame) -> Result<Self, BodyFault> {
        wire::decode(&frame.body)
    }
}

/// Entries, as they are encoded, up to so many bytes.
pub(super) struct Pack<'a> {
    entries: Vec<&'a [u8]>,
    room: usize,
    more: bool,
}

impl<'a> Pack<'a> {
    /// For a frame of at most so many bytes, its header too.
    pub fn of(most: usize) -> Self {
        // An array of two, a boolean and an array of at most 23.
        let room = most.min(MAX_MESSAGE).saturating_sub(HEADER + 3);
        Self { entries: Vec::new(), room, more: false }
    }

    /// Whether this one has found room.
    pub fn put(&mut self, entry: &'a [u8]) -> bool {
        let fits = entry.len() <= self.room && self.entries.len() < MAX_ENTRIES;
        if fits {
            self.room -= entry.len();
            self.entries.push(entry);
        } else {
            self.more = true;
        }
        fits
    }

    /// Whether anything found none.
    pub fn is_full(&self) -> bool {
        self.more
    }

    /// As it is sent; `None`: there is nothing in it.
    pub fn frame(self) -> Option<Frame> {
        if self.entries.is_empty() {
            return None;
        }
        let mut body = Vec::with_capacity(MAX_MESSAGE);
        let mut encoder = Encoder::new(&mut body);
        // Writing to a Vec cannot fail.
        let head = encoder.array(2).and_then(|e| e.bool(self.more));
        let _ = head.and_then(|e| e.array(self.entries.len() as u64));
        self.entries.iter().for_each(|e| body.extend_from_slice(e));
        Some(Frame { kind: SPREAD, body })
    }
}

/// The longest body of a kind; `None` for one that is none of these.
pub fn limits(kind: u8) -> Option<usize> {
    match kind {
        HAVE => Some(MAX_BITS + 32),
        SPREAD => Some(MAX_MESSAGE - HEADER),
        _ => None,
    }
}

const _: () = assert!(MAX_ENTRY + HEADER + 3 <= MAX_MESSAGE, "an entry fits into a message");

#[cfg(test)]
mod tests {
    use super::super::entry::{Kind, MAX_BODY};
    use super::*;

    fn entry(body: usize) -> Entry {
        Entry {
            author: [1; 32].into(),
            kind: Kind::Status,
            subject: [1; 32].into(),
            version: u64::MAX,
            expires: u64::MAX,
            body: vec![1; body].try_into().unwrap(),
            public: vec![2; 91].try_into().unwrap(),
            signature: vec![3; 64].try_into().unwrap(),
        }
    }

    #[test]
    fn a_message_is_no_longer_than_a_link_may_carry_and_comes_back() {
        let long = wire::encode(&entry(MAX_BODY));
        assert!(long.len() <= MAX_ENTRY, "{}", long.len());
        let mut pack = Pack::of(MAX_MESSAGE);
        assert!(pack.put(&long));
        assert!(!pack.put(&long), "two of the longest do not fit");
        let frame = pack.frame().unwrap();
        assert!(frame.encode().unwrap().len() <= MAX_MESSAGE && frame.body.len() <= limits(SPREAD).unwrap());
        let spread = Spread::decode(&frame).unwrap();
        assert_eq!((spread.more, spread.entries.as_slice()), (true, &[entry(MAX_BODY)][..]));
        let small = wire::encode(&entry(80));
        let mut pack = Pack::of(MAX_MESSAGE);
        let fit = (0..20).filter(|_| pack.put(&small)).count();
        assert_eq!(fit, MAX_MESSAGE / small.len());
        assert_eq!(Spread::decode(&pack.frame().unwrap()).unwrap().entries.as_slice().len(), fit);
        assert!(Pack::of(MAX_MESSAGE).frame().is_none());
    }

    #[test]
    fn the_longest_filter_fits_and_comes_back() {
        let frame = Have::frame(true, Filter::over(0..100_000, 100_000, u64::MAX));
        assert!(frame.body.len() <= limits(HAVE).unwrap());
        assert_eq!(Have::decode(&frame).unwrap().bits.as_slice().len(), MAX_BITS);
        assert!(Have::decode(&Frame { kind: HAVE, body: vec![0x84, 0xF5] }).is_err());
        assert_eq!((limits(66), limits(69)), (None, None));
    }
}
