//! How values of the model stand in a message: for `#[cbor(with)]`.

use gtvp_model::digest::Digest;
use gtvp_model::owner::OwnerEpoch;
use gtvp_model::token::TokenSecret;
use gtvp_model::union::{Epoch, Hardware, RecordHead, UnixTime};
use minicbor::decode::Error as DecodeError;
use minicbor::encode::{Error as EncodeError, Write};
use minicbor::{Decoder, Encoder};

use crate::frame::wire;

/// A number of the model's.
macro_rules! number {
    ($name:ident: $of:ident) => {
        pub mod $name {
            use super::*;

            pub fn encode<C, W: Write>(
                v: &$of,
                e: &mut Encoder<W>,
                _: &mut C,
            ) -> Result<(), EncodeError<W::Error>> {
                e.u64(v.0)?.ok()
            }

            pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<$of, DecodeError> {
                d.u64().map($of)
            }
        }
    };
}

number!(epoch: Epoch);
number!(owner_epoch: OwnerEpoch);
number!(time: UnixTime);

pub mod digest {
    use super::*;

    pub fn encode<C, W: Write>(
        d: &Digest,
        e: &mut Encoder<W>,
        c: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        wire::id::encode(&d.0, e, c)
    }

    pub fn decode<C>(d: &mut Decoder<'_>, c: &mut C) -> Result<Digest, DecodeError> {
        wire::id::decode::<[u8; 32], C>(d, c).map(Digest)
    }
}

pub mod head {
    use super::*;

    pub fn encode<C, W: Write>(
        h: &RecordHead,
        e: &mut Encoder<W>,
        c: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        e.array(2)?.u64(h.number)?;
        wire::id::encode(&h.hash.0, e, c)
    }

    pub fn decode<C>(d: &mut Decoder<'_>, c: &mut C) -> Result<RecordHead, DecodeError> {
        if d.array()? != Some(2) {
            return Err(DecodeError::message("a record head is a number and a hash"));
        }
        Ok(RecordHead { number: d.u64()?, hash: Digest(wire::id::decode(d, c)?) })
    }
}

pub mod hardware {
    use super::*;

    pub fn encode<C, W: Write>(
        h: &Hardware,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        e.array(3)?.u16(h.cpus)?.u32(h.memory_mib)?.str(h.model())?.ok()
    }

    pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Hardware, DecodeError> {
        if d.array()? != Some(3) {
            return Err(DecodeError::message("hardware is processors, memory and a model"));
        }
        Hardware::new(d.u16()?, d.u32()?, d.str()?).map_err(|e| DecodeError::message(e.to_string()))
    }
}

pub mod secret {
    use super::*;

    pub fn encode<C, W: Write>(
        s: &TokenSecret,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        e.bytes(s.as_bytes())?.ok()
    }

    pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<TokenSecret, DecodeError> {
        let bytes = d.bytes()?.try_into().map_err(|_| DecodeError::message("a secret of another length"))?;
        Ok(TokenSecret::new(bytes))
    }
}
