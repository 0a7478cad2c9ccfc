//! The encoding of bodies: CBOR (RFC 8949) in its one deterministic form (§4.2.1), structures as arrays.
//!
//! A body that decodes but is not what its value encodes to is refused, so a message has one form, its hash is its
//! meaning, and nothing can be hidden in fields that a version does not know. Byte strings and lists are bounded by
//! their types, before anything is allocated for them.

use minicbor::decode::{Decode, Decoder, Error as DecodeError};
use minicbor::encode::{Encode, Encoder, Error as EncodeError, Write};

/// Why a body is not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// Not CBOR, or not of this shape, or a field over its bound.
    #[error("{0}")]
    Shape(String),
    /// It decodes, but this is not how it is written.
    #[error("it is not in the deterministic form")]
    Form,
    /// There is something behind it.
    #[error("{0} bytes follow it")]
    Rest(usize),
}

/// A value's one encoding.
pub fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&mut out);
    // Writing to a Vec cannot fail, and no type here refuses to be written; an empty body decodes as nothing.
    if encoder.encode(value).is_err() {
        out.clear();
    }
    out
}

/// The value that `body` is the one encoding of.
///
/// # Errors
/// [`BodyFault`].
pub fn decode<T: Encode<()> + for<'b> Decode<'b, ()>>(body: &[u8]) -> Result<T, BodyFault> {
    let mut decoder = Decoder::new(body);
    let value = decoder.decode::<T>().map_err(|e| BodyFault::Shape(e.to_string()))?;
    let end = decoder.position();
    if end != body.len() {
        return Err(BodyFault::Rest(body.len().saturating_sub(end)));
    }
    if encode(&value) != body {
        return Err(BodyFault::Form);
    }
    Ok(value)
}

fn too_many(what: &str, have: usize, max: usize) -> DecodeError {
    DecodeError::message(format!("{have} {what} where at most {max} are taken"))
}

/// A byte string of at most `MAX` bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bytes<const MAX: usize>(Vec<u8>);

/// Bytes that do not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{have} bytes where at most {max} fit")]
pub struct TooManyBytes {
    have: usize,
    max: usize,
}

impl<const MAX: usize> Bytes<MAX> {
    /// Its bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// Its bytes.
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

impl<const MAX: usize> TryFrom<Vec<u8>> for Bytes<MAX> {
    type Error = TooManyBytes;
    fn try_from(bytes: Vec<u8>) -> Result<Self, TooManyBytes> {
        if bytes.len() > MAX { Err(TooManyBytes { have: bytes.len(), max: MAX }) } else { Ok(Self(bytes)) }
    }
}

impl<C, const MAX: usize> Encode<C> for Bytes<MAX> {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
        e.bytes(&self.0)?.ok()
    }
}

impl<'b, C, const MAX: usize> Decode<'b, C> for Bytes<MAX> {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
        let bytes = d.bytes()?;
        if bytes.len() > MAX {
            return Err(too_many("bytes", bytes.len(), MAX));
        }
        Ok(Self(bytes.to_vec()))
    }
}

/// A list of at most `MAX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const MAX: usize> List<T, MAX> {
    /// What is in it.
    pub fn as_slice(&self) -> &[T] {
        &self.0
    }
}

impl<T, const MAX: usize> TryFrom<Vec<T>> for List<T, MAX> {
    type Error = TooManyBytes;
    fn try_from(items: Vec<T>) -> Result<Self, TooManyBytes> {
        if items.len() > MAX { Err(TooManyBytes { have: items.len(), max: MAX }) } else { Ok(Self(items)) }
    }
}

impl<C, T: Encode<C>, const MAX: usize> Encode<C> for List<T, MAX> {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, ctx: &mut C) -> Result<(), EncodeError<W::Error>> {
        e.array(self.0.len() as u64)?;
        self.0.iter().try_for_each(|item| item.encode(e, ctx))
    }
}

impl<'b, C, T: Decode<'b, C>, const MAX: usize> Decode<'b, C> for List<T, MAX> {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, DecodeError> {
        let Some(n) = d.array()? else {
            return Err(DecodeError::message("a list of unknown length"));
        };
        let n = usize::try_from(n).unwrap_or(usize::MAX);
        if n > MAX {
            return Err(too_many("items", n, MAX));
        }
        (0..n).map(|_| T::decode(d, ctx)).collect::<Result<_, _>>().map(Self)
    }
}

impl<const MAX: usize> serde::Serialize for Bytes<MAX> {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        hex::serialize(&self.0, s)
    }
}

impl<'de, const MAX: usize> serde::Deserialize<'de> for Bytes<MAX> {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let bytes: Vec<u8> = hex::deserialize(d)?;
        Self::try_from(bytes).map_err(serde::de::Error::custom)
    }
}

impl<T: serde::Serialize, const MAX: usize> serde::Serialize for List<T, MAX> {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(s)
    }
}

impl<'de, T: serde::Deserialize<'de>, const MAX: usize> serde::Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::try_from(Vec::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// For `#[serde(with)]`: bytes as lower-case hexadecimal digits. Values that go from one domain to another are JSON.
pub mod hex {
    use data_encoding::HEXLOWER;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the digits.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(bytes: &impl AsRef<[u8]>, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&HEXLOWER.encode(bytes.as_ref()))
    }

    /// Reads the digits.
    ///
    /// # Errors
    /// Text that is none, or of another length than the value has.
    pub fn deserialize<'de, T: TryFrom<Vec<u8>>, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        let have = bytes.len();
        T::try_from(bytes)
            .map_err(|_| serde::de::Error::custom(format!("{have} bytes are too many or too few")))
    }
}

/// For `#[cbor(with)]`: ids and digests, 32 bytes.
pub mod id {
    use super::*;

    /// Writes 32 bytes.
    pub fn encode<T: Copy + Into<[u8; 32]>, C, W: Write>(
        id: &T,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        let bytes: [u8; 32] = (*id).into();
        e.bytes(&bytes)?.ok()
    }

    /// Reads 32 bytes.
    pub fn decode<'b, T: From<[u8; 32]>, C>(d: &mut Decoder<'b>, _: &mut C) -> Result<T, DecodeError> {
        let bytes = d.bytes()?;
        let bytes: [u8; 32] = bytes
            .try_into()
            .map_err(|_| DecodeError::message(format!("{} bytes where 32 are", bytes.len())))?;
        Ok(bytes.into())
    }
}

/// For `#[cbor(with)]`: text that checks itself. `MAX` bounds what is looked at.
pub mod text {
    use std::str::FromStr;

    use super::*;

    /// Longest text: an endpoint's DNS name; all others are shorter.
    const MAX: usize = 260;

    /// Writes the value's text.
    pub fn encode<T: ToString, C, W: Write>(
        value: &T,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        e.str(&value.to_string())?.ok()
    }

    /// Reads a value from its text.
    pub fn decode<'b, T: FromStr<Err: std::fmt::Display>, C>(
        d: &mut Decoder<'b>,
        _: &mut C,
    ) -> Result<T, DecodeError> {
        let text = d.str()?;
        if text.len() > MAX {
            return Err(too_many("characters", text.len(), MAX));
        }
        text.parse().map_err(|e: T::Err| DecodeError::message(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, minicbor::Encode, minicbor::Decode)]
    struct Sample {
        #[n(0)]
        number: u32,
        #[n(1)]
        bytes: Bytes<4>,
        #[n(2)]
        list: List<u8, 2>,
    }

    fn sample() -> Sample {
        Sample { number: 5, bytes: vec![1, 2].try_into().unwrap(), list: vec![9].try_into().unwrap() }
    }

    #[test]
    fn a_value_has_one_form() {
        let body = encode(&sample());
        assert_eq!(body, [0x83, 5, 0x42, 1, 2, 0x81, 9]);
        assert_eq!(decode::<Sample>(&body), Ok(sample()));
        let other: [&[u8]; 4] = [
            &[0x83, 0x18, 5, 0x42, 1, 2, 0x81, 9], // a longer number
            &[0x9F, 5, 0x42, 1, 2, 0x81, 9, 0xFF], // no length
            &[0x84, 5, 0x42, 1, 2, 0x81, 9, 0],    // a field more
            &[0x83, 5, 0x58, 2, 1, 2, 0x81, 9],    // a longer length
        ];
        for form in other {
            assert_eq!(decode::<Sample>(form), Err(BodyFault::Form), "{form:x?}");
        }
        assert_eq!(decode::<Sample>(&[&body[..], &[0]].concat()), Err(BodyFault::Rest(1)));
    }

    #[test]
    fn bounds_hold_before_anything_is_allocated() {
        let long: &[u8] = &[0x83, 5, 0x45, 1, 2, 3, 4, 5, 0x80];
        assert!(matches!(decode::<Sample>(long), Err(BodyFault::Shape(s)) if s.contains("at most 4")));
        let claim: &[u8] = &[0x83, 5, 0x40, 0x9B, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
        assert!(matches!(decode::<Sample>(claim), Err(BodyFault::Shape(s)) if s.contains("at most 2")));
        let endless: &[u8] = &[0x83, 5, 0x5B, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
        assert!(matches!(decode::<Sample>(endless), Err(BodyFault::Shape(_))));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        // Every body of up to three bytes, and every one-byte change of a good one.
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                let _ = decode::<Sample>(&[0x83, a, b]);
                let _ = decode::<Sample>(&[a, b]);
            }
        }
        let good = encode(&sample());
        for at in 0..good.len() {
            for with in 0..=255u8 {
                let mut bad = good.clone();
                bad[at] = with;
                let _ = decode::<Sample>(&bad);
            }
        }
    }
}
