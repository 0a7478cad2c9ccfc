//! What is passed on: who says what of whom, how new it is and when it ends, with a signature over all of that.

use gtvp_model::digest::Digest;
use gtvp_model::union::{MemberId, UnionId};
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::frame::wire::{self, Bytes, id};

/// Longest body, bytes: a result by an RSA key of 2048 bits has 1,100, a status less than 100.
pub const MAX_BODY: usize = 1_500;
/// Longest public key: TPMT_PUBLIC of an RSA key of 2048 bits has about 300 bytes.
const MAX_KEY: usize = 360;
/// Longest signature: by an RSA key of 2048 bits.
const MAX_SIGNATURE: usize = 256;
/// Longest entry: one fits into a message. What is longer is not passed on.
pub const MAX_ENTRY: usize = 1_900;
/// Stands in front of what is signed: nothing else that the key signs begins so.
const LABEL: &[u8] = b"gtvp-gossip/1\0";

/// What an entry is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize,
)]
#[cbor(index_only)]
pub enum Kind {
    /// An attestation result: author and subject are two members. It is signed in itself, by the author's attestation key.
    #[n(1)]
    Result,
    /// How a member is, by itself, signed by its identity key.
    #[n(2)]
    Status,
}

/// Which entry: of each the newest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Who says it.
    pub author: MemberId,
    /// What it is.
    pub kind: Kind,
    /// Of whom.
    pub subject: MemberId,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Entry {
    /// Who says it.
    #[cbor(n(0), with = "id")]
    pub author: MemberId,
    /// What it is.
    #[n(1)]
    pub kind: Kind,
    /// Of whom.
    #[cbor(n(2), with = "id")]
    pub subject: MemberId,
    /// When it was said, by the author's clock: milliseconds since 1970. The newest counts.
    #[n(3)]
    pub version: u64,
    /// When it ends, in the same.
    #[n(4)]
    pub expires: u64,
    /// What is said.
    #[n(5)]
    pub body: Bytes<MAX_BODY>,
    /// The public key: TPMT_PUBLIC of the attestation key, or the identity key's SubjectPublicKeyInfo. The roster names it.
    #[n(6)]
    pub public: Bytes<MAX_KEY>,
    /// Over [`content`]; empty for a result, which has its own.
    #[n(7)]
    pub signature: Bytes<MAX_SIGNATURE>,
}

#[derive(Encode)]
struct Content<'a> {
    #[cbor(n(0), encode_with = "id::encode")]
    union: UnionId,
    #[cbor(n(1), encode_with = "id::encode")]
    author: MemberId,
    #[n(2)]
    kind: Kind,
    #[cbor(n(3), encode_with = "id::encode")]
    subject: MemberId,
    #[n(4)]
    version: u64,
    #[n(5)]
    expires: u64,
    #[n(6)]
    body: &'a Bytes<MAX_BODY>,
}

/// What the author of a status signs: the union and all but key and signature.
pub fn content(union: UnionId, entry: &Entry) -> Vec<u8> {
    let Entry { author, kind, subject, version, expires, body, .. } = entry;
    let content = Content {
        union,
        author: *author,
        kind: *kind,
        subject: *subject,
        version: *version,
        expires: *expires,
        body,
    };
    [LABEL, &wire::encode(&content)].concat()
}

impl Entry {
    /// Which one.
    pub fn key(&self) -> Key {
        Key { author: self.author, kind: self.kind, subject: self.subject }
    }

    /// Stands for this version of it in a filter.
    pub(super) fn mark(&self) -> u64 {
        let version = self.version.to_be_bytes();
        let kind = [self.kind as u8];
        let digest = Digest::of(
            &[self.author.as_bytes().as_slice(), &kind, self.subject.as_bytes(), &version].concat(),
        );
        digest.0.first_chunk::<8>().map_or(0, |b| u64::from_be_bytes(*b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            author: [1; 32].into(),
            kind: Kind::Status,
            subject: [1; 32].into(),
            version: 5,
            expires: 6,
            body: vec![1].try_into().unwrap(),
            public: vec![2].try_into().unwrap(),
            signature: vec![3].try_into().unwrap(),
        }
    }

    #[test]
    fn every_field_but_key_and_signature_is_in_what_is_signed() {
        let (union, base) = ([9; 32].into(), entry());
        let signed = content(union, &base);
        let same = Entry { public: vec![7].try_into().unwrap(), signature: Bytes::default(), ..base.clone() };
        assert_eq!(content(union, &same), signed);
        for other in [
            Entry { author: [2; 32].into(), ..base.clone() },
            Entry { kind: Kind::Result, ..base.clone() },
            Entry { subject: [2; 32].into(), ..base.clone() },
            Entry { version: 6, ..base.clone() },
            Entry { expires: 7, ..base.clone() },
            Entry { body: vec![2].try_into().unwrap(), ..base.clone() },
        ] {
            assert_ne!(content(union, &other), signed, "{other:?}");
        }
        assert_ne!(content([8; 32].into(), &base), signed, "of another union");
        assert_ne!(Entry { version: 6, ..base.clone() }.mark(), base.mark());
    }
}
