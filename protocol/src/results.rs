//! The results plane of CSP: what verifiers tell the others (docs/spec/results.md). Both messages are told on open channels, by whom they
//! are of, and never passed on.

use gtvp_model::union::MemberId;
use minicbor::{Decode, Encode};

use crate::frame::Frame;
use crate::frame::wire::{self, BodyFault, Bytes, id};
use crate::hsp::message::MAX_PUBLIC;

/// Kind of [`Told`].
pub const RESULT: u8 = 65;
/// Kind of [`Suspect`].
pub const SUSPECT: u8 = 66;
/// Longest body of a [`Told`]: a result of a member that is trusted has no failures, and about 1 KiB.
pub const MAX_BODY: usize = 4 * 1024;
/// Longest attestation result that is told: what is left of a body.
pub const MAX_RESULT: usize = MAX_BODY - MAX_PUBLIC - 16;

/// An attestation result of the sender's.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Told {
    /// TPMT_PUBLIC of the sender's attestation key; the roster has its Name.
    #[n(0)]
    pub ak: Bytes<MAX_PUBLIC>,
    /// COSE_Sign1 by it.
    #[n(1)]
    pub result: Bytes<MAX_RESULT>,
}

/// The sender has not believed a member's evidence. Nobody believes that: whoever hears it has that member prove itself at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Suspect {
    /// Whose.
    #[cbor(n(0), with = "id")]
    pub member: MemberId,
}

impl Told {
    /// As it is sent. `None`: longer than is told.
    pub fn frame(ak: Vec<u8>, result: Vec<u8>) -> Option<Frame> {
        let told = Self { ak: ak.try_into().ok()?, result: result.try_into().ok()? };
        Some(Frame { kind: RESULT, body: wire::encode(&told) })
    }

    /// What a frame says.
    ///
    /// # Errors
    /// [`BodyFault`].
    pub fn decode(frame: &Frame) -> Result<Self, BodyFault> {
        wire::decode(&frame.body)
    }
}

impl Suspect {
    /// As it is sent.
    pub fn frame(self) -> Frame {
        Frame { kind: SUSPECT, body: wire::encode(&self) }
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
        RESULT => Some(MAX_BODY),
        SUSPECT => Some(40),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_fit_and_come_back_and_longer_ones_are_not_told() {
        let frame = Told::frame(vec![1; MAX_PUBLIC], vec![2; MAX_RESULT]).unwrap();
        assert!(frame.body.len() <= MAX_BODY);
        assert_eq!(Told::decode(&frame).unwrap().result.as_slice(), vec![2; MAX_RESULT]);
        assert_eq!(Told::frame(vec![1; MAX_PUBLIC + 1], vec![]), None);
        assert_eq!(Told::frame(vec![], vec![2; MAX_RESULT + 1]), None);
        let suspect = Suspect { member: [7; 32].into() };
        assert!(suspect.frame().body.len() <= limits(SUSPECT).unwrap());
        assert_eq!(Suspect::decode(&suspect.frame()), Ok(suspect));
        let mut longer = suspect.frame();
        longer.body.push(0);
        assert!(Suspect::decode(&longer).is_err());
        assert!(Told::decode(&suspect.frame()).is_err());
        assert_eq!((limits(RESULT), limits(64), limits(67)), (Some(MAX_BODY), None, None));
    }
}
