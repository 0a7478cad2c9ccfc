//! What an entry does to the union. Adding an act is adding a variant here and a rule in `record.rs`.

use std::collections::BTreeSet;

use data_encoding::BASE64;
use gtvp_model::ids::UnionName;
use gtvp_model::owner::BoxId;
use gtvp_model::token::TokenId;
use gtvp_model::union::{Admission, MemberId, RosterEntry, TokenRecord, UnionSettings};
use serde::{Deserialize, Serialize};

use super::owner::Owning;
use crate::frame::wire::hex;

/// Most voters: more make every decision slower and no union safer (Raft needs a majority of them for each entry).
pub const MAX_VOTERS: usize = 7;
/// Longest manifest of reference values, bytes: some 10,000 files. Longer lists are several manifests.
pub const MAX_BLOB: usize = 1024 * 1024;
/// Longest name of reference values, bytes.
pub const MAX_NAME: usize = 64;
/// Longest reason that an administrator gives, bytes: a sentence.
pub const MAX_REASON: usize = 400;

/// Bytes of randomness in what a union's id is of: as many as the id has.
pub const RANDOM: usize = 32;

/// What an entry does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    /// The union begins. Only entry 0 does this, and its hash is the union's id.
    Genesis {
        /// The union's name, for people.
        name: UnionName,
        /// Its first member, and its only voter.
        founder: RosterEntry,
        /// What it lets in.
        settings: UnionSettings,
        /// Random, in hexadecimal: no two unions are one, whoever begins them, when, and under which name.
        #[serde(with = "hex")]
        random: [u8; RANDOM],
    },
    /// A join token is made.
    TokenMade(TokenRecord),
    /// A join token that nobody has used ends.
    TokenEnded(TokenId),
    /// A member is admitted, and its token used up.
    Admitted(Admission),
    /// The author leaves.
    Left,
    /// A member is removed: its sessions end. The epoch is raised, so that who has not heard of it is given no new channel but one for the
    /// record; sessions between others go on.
    Evicted {
        /// Who.
        member: MemberId,
        /// Why, as the administrator said it.
        reason: String,
    },
    /// Who votes from the next entry on.
    Voters(BTreeSet<MemberId>),
    /// The voters are lost: the author is the only one from here on. No majority stands behind this entry; a member takes it only if its
    /// own administrator says so, by its hash.
    Recovered {
        /// Members that are given up: they are members no more. Raises the epoch.
        lost: BTreeSet<MemberId>,
        /// Why, as the administrator said it.
        reason: String,
    },
    /// Reference values come to count, instead of those of the same name that counted before.
    ReferenceAccepted {
        /// Their name: `gtvp_appraisal::reference` has more to say about it.
        name: String,
        /// The signed manifest; `security` reads it.
        manifest: Blob,
    },
    /// Reference values count no more.
    ReferenceRetired {
        /// Their name.
        name: String,
    },
    /// A box begins, ends or changes hands.
    Box {
        /// Which.
        id: BoxId,
        /// What happens to it: `owner.rs` has the rules.
        does: Owning,
    },
}

/// Bytes that the record carries and does not read; base 64 in JSON.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Blob(Vec<u8>);

/// Bytes that are too many, or text that is not base 64.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not base 64, or more than {MAX_BLOB} bytes")]
pub struct BadBlob;

impl Blob {
    /// # Errors
    /// More than [`MAX_BLOB`].
    pub fn new(bytes: Vec<u8>) -> Result<Self, BadBlob> {
        if bytes.len() > MAX_BLOB { Err(BadBlob) } else { Ok(Self(bytes)) }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl TryFrom<String> for Blob {
    type Error = BadBlob;
    fn try_from(text: String) -> Result<Self, BadBlob> {
        BASE64.decode(text.as_bytes()).map_err(|_| BadBlob).and_then(Self::new)
    }
}

impl From<Blob> for String {
    fn from(blob: Blob) -> Self {
        BASE64.encode(&blob.0)
    }
}
