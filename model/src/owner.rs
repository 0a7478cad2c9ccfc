//! Who owns which box of a union, as the record has it: one member at a time, and how often that has changed.
//!
//! Nothing here decides who may change it: that is the record's (`gtvp_protocol::csp::owner`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{BadDigest, Digest};
use crate::ids::BoxName;
use crate::union::{MemberId, SpkiDigest, digest_id};

digest_id!(
    /// A box, wherever it is: 32 random bytes of the member that placed it. Its name is only unique on its member.
    BoxId
);

/// Fences what an old owner might still do: it rises with each change of hands and each attempt that was given up, and never goes back,
/// not even for a box of the same id that is placed anew (it begins with the number of the entry that places it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OwnerEpoch(pub u64);

impl OwnerEpoch {
    /// The next one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for OwnerEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A box of the union.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    /// Its name, for people.
    pub name: BoxName,
    /// Whose it is. If that is no member any more, the box is ownerless, and another member may adopt it.
    pub owner: MemberId,
    /// The owner's identity key when it became the owner: what it has agreed to counts also once it is no member any more.
    pub key: SpkiDigest,
    /// See [`OwnerEpoch`].
    pub epoch: OwnerEpoch,
    /// What made this epoch, if that was a migration.
    pub last: Option<Settled>,
}

/// How a migration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Settled {
    /// The digest of its ticket.
    pub ticket: Digest,
    /// It moved; else it was given up, and the owner stayed.
    pub moved: bool,
}

/// What the record says about a migration, as far as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Nothing yet: it may still become either.
    Open,
    /// The box is the target's.
    Moved,
    /// The box stayed the source's.
    Aborted,
    /// Something else has happened to the box since: this migration has not moved it, and never will, or it did and that is long ago.
    Past,
}

impl Outcome {
    /// Of the migration by this ticket, which was made in this epoch of the box. A box that the record does not have has ended.
    pub fn of(held: Option<&Owned>, epoch: OwnerEpoch, ticket: Digest) -> Self {
        match held {
            // In an epoch before: this member's record is behind.
            Some(held) if held.epoch <= epoch => Self::Open,
            Some(Owned { epoch: now, last: Some(last), .. })
                if *now == epoch.next() && last.ticket == ticket =>
            {
                if last.moved {
                    Self::Moved
                } else {
                    Self::Aborted
                }
            }
            _ => Self::Past,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_is_settled_by_its_own_ticket_and_epoch_alone() {
        let (ticket, other) = (Digest([1; 32]), Digest([2; 32]));
        let held = |epoch, last| Owned {
            name: "web".parse().unwrap(),
            owner: [1; 32].into(),
            key: [1; 32].into(),
            epoch: OwnerEpoch(epoch),
            last,
        };
        let settled = |ticket, moved| Some(Settled { ticket, moved });
        for (epoch, last, outcome) in [
            (7, settled(other, true), Outcome::Open),
            (7, None, Outcome::Open),
            (8, settled(ticket, true), Outcome::Moved),
            (8, settled(ticket, false), Outcome::Aborted),
            (8, settled(other, true), Outcome::Past),
            (8, None, Outcome::Past),
            (9, settled(ticket, true), Outcome::Past),
            (6, settled(ticket, true), Outcome::Open),
        ] {
            assert_eq!(
                Outcome::of(Some(&held(epoch, last)), OwnerEpoch(7), ticket),
                outcome,
                "{epoch} {last:?}"
            );
        }
        assert_eq!(Outcome::of(None, OwnerEpoch(7), ticket), Outcome::Past);
    }
}
