//! Where members are to be found, as members tell each other: hints and nothing more. Whoever answers there still has to prove who
//! it is, so that a wrong hint costs one refused handshake.

use gtvp_model::token::Endpoint;
use gtvp_model::union::MemberId;
use minicbor::{Decode, Encode};

use crate::frame::Frame;
use crate::frame::wire::{self, BodyFault, List, id, text};

/// Kind of the frame.
pub const KIND: u8 = 64;
/// Most hints of one message: a union has at most some hundred members, and what is left out comes from others.
pub const MAX_PLACES: usize = 512;
/// Longest body: each hint an id and the longest endpoint, with CBOR's own bytes.
pub const MAX_BODY: usize = MAX_PLACES * (32 + Endpoint::MAX + 8) + 8;

/// One hint.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Place {
    /// Who.
    #[cbor(n(0), with = "id")]
    pub member: MemberId,
    /// Where.
    #[cbor(n(1), with = "text")]
    pub endpoint: Endpoint,
}

/// What a member has heard, its own place first.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Endpoints {
    /// The hints.
    #[n(0)]
    pub places: List<Place, MAX_PLACES>,
}

impl Endpoints {
    /// As it is sent. What does not fit is left out.
    pub fn frame(mut places: Vec<Place>) -> Frame {
        places.truncate(MAX_PLACES);
        let message = Self { places: places.try_into().unwrap_or_default() };
        Frame { kind: KIND, body: wire::encode(&message) }
    }

    /// What a frame says.
    ///
    /// # Errors
    /// [`BodyFault`].
    pub fn decode(frame: &Frame) -> Result<Self, BodyFault> {
        wire::decode(&frame.body)
    }
}

/// The longest body of a kind; `None` for one that is not this.
pub fn limits(kind: u8) -> Option<usize> {
    (kind == KIND).then_some(MAX_BODY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_list_fits_and_comes_back() {
        let host = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
        let place = |n: usize| Place {
            member: [u8::try_from(n % 256).unwrap(); 32].into(),
            endpoint: format!("{host}:65535").parse().unwrap(),
        };
        let frame = Endpoints::frame((0..MAX_PLACES + 1).map(place).collect());
        assert!(frame.body.len() <= MAX_BODY, "{}", frame.body.len());
        assert_eq!(Endpoints::decode(&frame).unwrap().places.as_slice().len(), MAX_PLACES);
        assert!(
            Endpoints::decode(&Frame { kind: KIND, body: vec![0x81, 0x9B, 255, 255, 255, 255] }).is_err()
        );
    }
}
