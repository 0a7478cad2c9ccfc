//! An entry: what is done, by whom, when, and after which other entry. Its bytes are its one form, its hash is over them.

use gtvp_model::digest::Digest;
use gtvp_model::union::{MemberId, RosterEntry, SpkiDigest, UnionId, UnixTime};
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::act::{Act, MAX_BLOB};
use crate::frame::wire::{self, BodyFault, Bytes, id};

/// Longest act, bytes: reference values in base 64. An admission has less than 2 KiB.
pub const MAX_ACT: usize = MAX_BLOB / 3 * 4 + 1024;
/// Longest entry: the act, four digests and three numbers.
pub const MAX_ENTRY: usize = MAX_ACT + 256;
/// Longest SubjectPublicKeyInfo: P-256 has 91 bytes, RSA 4096 550.
pub const MAX_SPKI: usize = 600;
/// Longest signature: RSA 4096 has 512 bytes.
pub const MAX_SIGNATURE: usize = 512;
/// Version of the form.
const VERSION: u8 = 1;
/// Stands in front of whatever is hashed or signed for an entry: nothing else that the key signs begins so.
const LABEL: &[u8] = b"gtvp-record/1\0";

/// An entry of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The union; zeroes in entry 0, whose hash the union's id is.
    pub union: UnionId,
    /// Its place.
    pub number: u64,
    /// Hash of the entry before; zeroes in entry 0.
    pub previous: Digest,
    /// Who wrote it.
    pub author: MemberId,
    /// When, by the author's clock. Orders nothing.
    pub time: UnixTime,
    /// What it does.
    pub act: Act,
}

#[derive(Encode, Decode)]
struct Form {
    #[n(0)]
    version: u8,
    #[cbor(n(1), with = "id")]
    union: UnionId,
    #[n(2)]
    number: u64,
    #[cbor(n(3), with = "id")]
    previous: [u8; 32],
    #[cbor(n(4), with = "id")]
    author: MemberId,
    #[n(5)]
    time: u64,
    #[n(6)]
    act: Bytes<MAX_ACT>,
}

/// Why bytes are not an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// Not of the form.
    #[error("it is not an entry: {0}")]
    Form(#[from] BodyFault),
    /// Another version.
    #[error("it is of version {0}, this member reads version {VERSION}")]
    Version(u8),
    /// An act that this member does not know, or not in its one form.
    #[error("what it does cannot be read: {0}")]
    Act(String),
}

impl Entry {
    /// Its one form. Empty if the act is too large to be an entry: no member takes that.
    pub fn encode(&self) -> Vec<u8> {
        let Some(act) = serde_json::to_vec(&self.act).ok().and_then(|a| Bytes::try_from(a).ok()) else {
            return Vec::new();
        };
        wire::encode(&Form {
            version: VERSION,
            union: self.union,
            number: self.number,
            previous: self.previous.0,
            author: self.author,
            time: self.time.0,
            act,
        })
    }

    /// The entry that these bytes are.
    ///
    /// # Errors
    /// [`BadEntry`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BadEntry> {
        let form: Form = wire::decode(bytes)?;
        if form.version != VERSION {
            return Err(BadEntry::Version(form.version));
        }
        let act: Act =
            serde_json::from_slice(form.act.as_slice()).map_err(|e| BadEntry::Act(e.to_string()))?;
        if serde_json::to_vec(&act).ok().as_deref() != Some(form.act.as_slice()) {
            return Err(BadEntry::Act("it is not in its one form".into()));
        }
        Ok(Self {
            union: form.union,
            number: form.number,
            previous: Digest(form.previous),
            author: form.author,
            time: UnixTime(form.time),
            act,
        })
    }
}

/// What is hashed, and what its author signs: a label and the entry's bytes.
pub fn signed_content(entry: &[u8]) -> Vec<u8> {
    [LABEL, entry].concat()
}

/// A signature by a member's identity key, with the key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Signature {
    /// The key, SubjectPublicKeyInfo, DER. The roster has its digest.
    #[n(0)]
    pub spki: Bytes<MAX_SPKI>,
    /// The signature, as the key's algorithm has it.
    #[n(1)]
    pub value: Bytes<MAX_SIGNATURE>,
}

/// Checks signatures: by the member's crypto library, or a cheap one in the simulator.
pub trait Signatures {
    /// Whether `signature` is one over `content` by the key `spki`.
    fn holds(&self, spki: &[u8], content: &[u8], signature: &[u8]) -> bool;
}

impl Signature {
    /// Whether this member made it over `content`.
    pub fn is_by(&self, member: &RosterEntry, content: &[u8], signatures: &dyn Signatures) -> bool {
        SpkiDigest::new(Digest::of(self.spki.as_slice())) == member.identity.spki()
            && signatures.holds(self.spki.as_slice(), content, self.value.as_slice())
    }
}

/// An entry as it is kept and sent.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct SignedEntry {
    /// [`Entry::encode`].
    #[n(0)]
    pub entry: Bytes<MAX_ENTRY>,
    /// Its author's, over [`signed_content`].
    #[n(1)]
    pub signature: Signature,
}

impl SignedEntry {
    /// The entry's hash. The signature is not in it: one entry signed twice is one entry.
    pub fn hash(&self) -> Digest {
        Digest::of(&signed_content(self.entry.as_slice()))
    }
}
