//! A member asks another for the evidence of one of its boxes: an application here wants to know who it talks to there (GTVP §3.3,
//! docs/design/peers.md); or for its own, which a person wants as a file. What comes back is bytes that whoever asked appraises itself; who answered is the channel's to know.

use gtvp_model::ids::BoxName;
use minicbor::{Decode, Encode};

use crate::frame::Frame;
use crate::frame::wire::{self, BodyFault, Bytes, text};

/// Kind of a question's frame.
pub const ASK: u8 = 67;
/// Kind of an answer's frames.
pub const ANSWER: u8 = 68;
/// Kind of a question's frame about the member itself.
pub const ASK_OWN: u8 = 69;
/// Bytes of the nonce of such a question: what a person may choose for a file.
pub const OWN_NONCE: std::ops::RangeInclusive<usize> = 16..=MAX_OWN_NONCE;
const MAX_OWN_NONCE: usize = 64;
/// Bytes of a nonce.
pub const NONCE: usize = 32;
/// Most bytes of one answer's frame: the channel's own messages come between two of them.
pub const MAX_PIECE: usize = 64 * 1024;
/// Most bytes of an answer: whole logs of firmware, kernel and GTVP, and a large composition. A server whose IMA log is longer gives no
/// evidence of boxes this way.
pub const MAX_EVIDENCE: usize = 8 * 1024 * 1024;
/// Most bytes of a refusal.
pub const MAX_WHY: usize = 512;
/// Longest body of a question: a number, a name of 63 characters, a nonce, CBOR's own bytes.
const MAX_ASK: usize = 128;
/// Longest body of an answer.
const MAX_ANSWER: usize = MAX_PIECE + MAX_WHY + 64;

/// The question.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Ask {
    /// Chosen by whoever asks; comes back with the answer.
    #[n(0)]
    pub number: u64,
    /// Which box.
    #[cbor(n(1), with = "text")]
    pub name: BoxName,
    /// What the evidence must be bound to: [`NONCE`] bytes.
    #[n(2)]
    pub nonce: Bytes<NONCE>,
}

/// The question about the member itself. It is answered as the other one is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct AskOwn {
    /// Chosen by whoever asks; comes back with the answer.
    #[n(0)]
    pub number: u64,
    /// What the evidence must be bound to: as many bytes as [`OWN_NONCE`] says.
    #[n(1)]
    pub nonce: Bytes<MAX_OWN_NONCE>,
}

impl AskOwn {
    /// As it is sent.
    pub fn frame(&self) -> Frame {
        Frame { kind: ASK_OWN, body: wire::encode(self) }
    }

    /// What a frame says.
    ///
    /// # Errors
    /// [`BodyFault`]; also a nonce that is too short.
    pub fn decode(frame: &Frame) -> Result<Self, BodyFault> {
        let ask: Self = wire::decode(&frame.body)?;
        let bytes = ask.nonce.as_slice().len();
        if OWN_NONCE.contains(&bytes) {
            Ok(ask)
        } else {
            Err(BodyFault::Shape(format!("a nonce of {bytes} bytes")))
        }
    }
}

/// A part of the answer, in order.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Answer {
    /// The question's.
    #[n(0)]
    pub number: u64,
    /// What it is.
    #[n(1)]
    pub part: Part,
}

/// See [`Answer`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Part {
    /// More comes.
    #[n(0)]
    Piece(#[n(0)] Bytes<MAX_PIECE>),
    /// The last.
    #[n(1)]
    Last(#[n(0)] Bytes<MAX_PIECE>),
    /// There is no evidence: why, in UTF-8.
    #[n(2)]
    Refused(#[n(0)] Bytes<MAX_WHY>),
    /// There is none now: why, and when to ask again, in UTF-8.
    #[n(3)]
    Busy(#[n(0)] Bytes<MAX_WHY>),
}

impl Ask {
    /// As it is sent.
    pub fn frame(&self) -> Frame {
        Frame { kind: ASK, body: wire::encode(self) }
    }

    /// What a frame says.
    ///
    /// # Errors
    /// [`BodyFault`]; also a nonce that is too short.
    pub fn decode(frame: &Frame) -> Result<Self, BodyFault> {
        let ask: Self = wire::decode(&frame.body)?;
        match ask.nonce.as_slice().len() {
            NONCE => Ok(ask),
            short => Err(BodyFault::Shape(format!("a nonce of {short} bytes"))),
        }
    }
}

impl Answer {
    /// The frames of evidence. What is longer than [`MAX_EVIDENCE`] is a refusal.
    pub fn frames(number: u64, evidence: &[u8]) -> Vec<Frame> {
        if evidence.len() > MAX_EVIDENCE {
            return vec![Self::refusal(number, "the evidence is longer than is sent to other members")];
        }
        let pieces = evidence.chunks(MAX_PIECE);
        let last = pieces.len().saturating_sub(1);
        let one = |(i, piece): (usize, &[u8])| {
            // No piece is longer than it may be.
            let bytes = piece.to_vec().try_into().unwrap_or_default();
            Self { number, part: if i == last { Part::Last(bytes) } else { Part::Piece(bytes) } }.frame()
        };
        pieces.enumerate().map(one).collect()
    }

    /// The frame of a refusal.
    pub fn refusal(number: u64, why: &str) -> Frame {
        Self { number, part: Part::Refused(Self::words(why)) }.frame()
    }

    /// The frame of a refusal that is not for ever: `why` says when to ask again.
    pub fn busy(number: u64, why: &str) -> Frame {
        Self { number, part: Part::Busy(Self::words(why)) }.frame()
    }

    fn words(why: &str) -> Bytes<MAX_WHY> {
        let mut end = why.len().min(MAX_WHY);
        while !why.is_char_boundary(end) {
            end -= 1;
        }
        why.get(..end).unwrap_or_default().as_bytes().to_vec().try_into().unwrap_or_default()
    }

    fn frame(&self) -> Frame {
        Frame { kind: ANSWER, body: wire::encode(self) }
    }

    /// What a frame says.
    ///
    /// # Errors
    /// [`BodyFault`].
    pub fn decode(frame: &Frame) -> Result<Self, BodyFault> {
        wire::decode(&frame.body)
    }
}

/// The longest body of a kind; `None` for one that is none of these.
pub fn limits(kind: u8) -> Option<usize> {
    match kind {
        ASK | ASK_OWN => Some(MAX_ASK),
        ANSWER => Some(MAX_ANSWER),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(nonce: usize) -> Ask {
        let nonce = vec![7; nonce].try_into().unwrap();
        Ask { number: u64::MAX, name: "b".repeat(63).parse().unwrap(), nonce }
    }

    #[test]
    fn the_longest_question_fits_and_comes_back() {
        let frame = ask(NONCE).frame();
        assert!(frame.body.len() <= MAX_ASK, "{}", frame.body.len());
        assert_eq!(Ask::decode(&frame), Ok(ask(NONCE)));
        assert!(Ask::decode(&ask(NONCE - 1).frame()).is_err(), "a short nonce can be guessed");
        assert!(Ask::decode(&Frame { kind: ASK, body: [frame.body, vec![0]].concat() }).is_err());
    }

    #[test]
    fn a_question_about_the_member_itself_is_bounded_too() {
        let ask = |bytes: usize| AskOwn { number: u64::MAX, nonce: vec![7; bytes].try_into().unwrap() };
        for bytes in [16, 64] {
            let frame = ask(bytes).frame();
            assert!(frame.body.len() <= limits(ASK_OWN).unwrap());
            assert_eq!(AskOwn::decode(&frame), Ok(ask(bytes)));
        }
        assert!(AskOwn::decode(&ask(15).frame()).is_err(), "a short nonce can be guessed");
        let long = Frame {
            kind: ASK_OWN,
            body: wire::encode(&(u64::MAX, Bytes::<65>::try_from(vec![7; 65]).unwrap())),
        };
        assert!(AskOwn::decode(&long).is_err());
    }

    #[test]
    fn evidence_comes_in_pieces_that_fit() {
        let evidence: Vec<u8> = (0..2 * MAX_PIECE + 1).map(|n| (n % 251) as u8).collect();
        let frames = Answer::frames(u64::MAX, &evidence);
        assert!(frames.iter().all(|f| f.body.len() <= limits(f.kind).unwrap()));
        let parts: Vec<Part> = frames.iter().map(|f| Answer::decode(f).unwrap().part).collect();
        let [Part::Piece(a), Part::Piece(b), Part::Last(c)] = &parts[..] else { panic!("{parts:?}") };
        assert_eq!([a.as_slice(), b.as_slice(), c.as_slice()].concat(), evidence);
        let long = Answer::frames(1, &vec![0; MAX_EVIDENCE + 1]);
        assert!(matches!(Answer::decode(&long[0]).unwrap().part, Part::Refused(_)) && long.len() == 1);
    }

    #[test]
    fn a_refusal_is_cut_between_characters() {
        let frame = Answer::refusal(1, &"é".repeat(MAX_WHY));
        let Part::Refused(why) = Answer::decode(&frame).unwrap().part else { panic!("a refusal") };
        assert_eq!(std::str::from_utf8(why.as_slice()).unwrap(), "é".repeat(MAX_WHY / 2));
    }
}
