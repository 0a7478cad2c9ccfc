//! What an entry does to the union. Adding an act is adding a variant here and a rule in `record.rs`.

use std::collections::BTreeSet;

use gtvp_model::digest::Digest;
use gtvp_model::ids::UnionName;
use gtvp_model::token::TokenId;
use gtvp_model::union::{Admission, MemberId, RosterEntry, TokenRecord, UnionSettings};
use serde::{Deserialize, Serialize};

/// Most voters: more make every decision slower and no union safer (Raft needs a majority of them for each entry).
pub const MAX_VOTERS: usize = 7;
/// Longest reason that an administrator gives, bytes: a sentence.
pub const MAX_REASON: usize = 400;

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
    },
    /// A join token is made.
    TokenMade(TokenRecord),
    /// A join token that nobody has used ends.
    TokenEnded(TokenId),
    /// A member is admitted, and its token used up.
    Admitted(Admission),
    /// The author leaves.
    Left,
    /// A member is removed, and the epoch raised: every session of the epoch before ends.
    Evicted {
        /// Who.
        member: MemberId,
        /// Why, as the administrator said it.
        reason: String,
    },
    /// Who votes from the next entry on.
    Voters(BTreeSet<MemberId>),
    /// Reference values come to count (the bytes are elsewhere, by their digest).
    ReferenceAccepted {
        /// Digest of the signed set.
        set: Digest,
    },
    /// Reference values count no more.
    ReferenceRetired {
        /// Digest of the signed set.
        set: Digest,
    },
}
