//! Who owns which box: compare-and-swap on (owner, epoch). Whatever ends a migration takes one epoch with it, so of two entries about
//! one epoch the record has the first, and each migration is moved or given up and never both.
//!
//! ```text
//!                 Placed                      Moved: owner ← to                              Ended
//!   (no box) ────────────────▶ owner, epoch ───────────────────▶ owner, epoch + 1 ───────────────────▶ (no box)
//!              epoch ← number        │          MoveAborted: owner stays        ▲
//!              of the entry          └──────────────────────────────────────────┘
//!                                                Adopted: owner ← author, of a box whose owner is no member
//! ```
//!
//! Nothing here says whether a box runs: that is its owner's, and the migration's (`smp`).

use std::collections::BTreeMap;

use gtvp_model::digest::Digest;
use gtvp_model::ids::{BoxName, Slot};
use gtvp_model::owner::{BoxId, Owned, OwnerEpoch, Settled};
use gtvp_model::union::{MemberId, RosterEntry, SpkiDigest, UnionId};
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::entry::{Signature, Signatures};
use crate::fields;
use crate::frame::wire::{self, id};
use crate::planted::{Check, check};

/// Most boxes of a union: four on each member of the largest one. With all members and tokens they are one message between domains.
pub const MAX_BOXES: usize = 4_000;
/// Most boxes of one member: its slots. So nobody fills the union alone.
pub const MAX_BOXES_OF_A_MEMBER: usize = Slot::MAX as usize + 1;
/// Stands in front of what both ends of a migration sign: nothing else that their keys sign begins so.
const LABEL: &[u8] = b"gtvp-switch/1\0";

/// What happens to a box. Each but the first is about one epoch of it, and about nothing if that has passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Owning {
    /// It begins. The author owns it; its epoch is this entry's number.
    Placed {
        /// Its name.
        name: BoxName,
    },
    /// It moves: by one of the two ends, with the other one's word that it agrees.
    Moved {
        /// Whose it was.
        from: MemberId,
        /// Whose it becomes.
        to: MemberId,
        /// In which epoch.
        epoch: OwnerEpoch,
        /// Digest of the ticket that both have signed.
        ticket: Digest,
        /// Digest of the box's state, which both hold.
        state: Digest,
        /// By the end that is not the author, over [`Terms::signed_content`].
        consent: Signature,
    },
    /// A migration is given up, by the owner, which keeps the box.
    MoveAborted {
        /// In which epoch.
        epoch: OwnerEpoch,
        /// Digest of its ticket.
        ticket: Digest,
    },
    /// It is no more; by its owner, or by anybody if that is no member.
    Ended {
        /// In which epoch.
        epoch: OwnerEpoch,
    },
    /// The author takes a box whose owner is no member any more.
    Adopted {
        /// In which epoch.
        epoch: OwnerEpoch,
        /// The author holds its state by this ticket, of a migration that its owner did not see the end of.
        ticket: Option<Digest>,
    },
}

/// Why an entry about a box is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BoxRefusal {
    /// There is none.
    #[error("the union has no box {0}: it has ended, or was never placed")]
    NoBox(BoxId),
    /// There is one.
    #[error("the union has a box {0} already: a new box has an id of its own")]
    There(BoxId),
    /// Somebody was first.
    #[error(
        "box {name} is in epoch {now} and the entry is about {then}: it has moved, or a move was given up; read the record and decide again"
    )]
    Epoch {
        /// Its name.
        name: BoxName,
        /// Its epoch.
        now: OwnerEpoch,
        /// The entry's.
        then: OwnerEpoch,
    },
    /// Not the author's.
    #[error("box {name} is {owner}'s, and only its owner may do this with it")]
    NotOwner {
        /// Its name.
        name: BoxName,
        /// Whose it is.
        owner: MemberId,
    },
    /// Nobody moves a box between others.
    #[error("the author is neither source nor target of the move")]
    NotAnEnd,
    /// It stays where it is.
    #[error("source and target are one member")]
    Nowhere,
    /// The target is not a member.
    #[error("its target {0} is not a member")]
    Target(MemberId),
    /// The other end has not agreed to just this.
    #[error("the other end's signature does not stand behind this move")]
    Consent,
    /// It has an owner.
    #[error(
        "box {name} has an owner, {owner}, that is a member: it is not to be adopted; remove that member first, if it is gone"
    )]
    Owner {
        /// Its name.
        name: BoxName,
        /// Whose it is.
        owner: MemberId,
    },
    /// No more fit.
    #[error("there are {0} boxes {1} already, no more fit: end some first")]
    Full(usize, &'static str),
}

/// What both ends of a migration put their names to before it can be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Terms {
    /// The union.
    #[cbor(n(0), with = "id")]
    pub union: UnionId,
    /// The box.
    #[cbor(n(1), with = "id")]
    pub id: BoxId,
    /// Its epoch.
    #[cbor(n(2), with = "fields::owner_epoch")]
    pub epoch: OwnerEpoch,
    /// The source.
    #[cbor(n(3), with = "id")]
    pub from: MemberId,
    /// The target.
    #[cbor(n(4), with = "id")]
    pub to: MemberId,
    /// Digest of the ticket.
    #[cbor(n(5), with = "fields::digest")]
    pub ticket: Digest,
    /// Digest of the state: the source has stopped the box in it, the target holds all of it.
    #[cbor(n(6), with = "fields::digest")]
    pub state: Digest,
}

impl Terms {
    /// What both sign.
    pub fn signed_content(&self) -> Vec<u8> {
        [LABEL, &wire::encode(self)].concat()
    }
}

/// What an entry about a box is judged by.
pub struct Situation<'a> {
    /// The union.
    pub union: UnionId,
    /// Its members.
    pub members: &'a BTreeMap<MemberId, RosterEntry>,
    /// The entry's author, a member.
    pub author: MemberId,
    /// The entry's number.
    pub number: u64,
    /// Checks consents.
    pub signatures: &'a dyn Signatures,
}

impl Situation<'_> {
    fn key(&self, member: MemberId) -> Result<SpkiDigest, BoxRefusal> {
        self.members.get(&member).map(|m| m.identity.spki()).ok_or(BoxRefusal::Target(member))
    }

    /// Whether the end that is not the author has signed this.
    fn agreed(&self, held: &Owned, terms: &Terms, consent: &Signature) -> bool {
        let other = if self.author == terms.to { terms.from } else { terms.to };
        let key = self.members.get(&other).map(|m| m.identity.spki());
        // A source that was removed since has agreed with the key that it had.
        let key = key.or((other == held.owner).then_some(held.key));
        let spki = consent.spki.as_slice();
        key == Some(SpkiDigest::new(Digest::of(spki)))
            && self.signatures.holds(spki, &terms.signed_content(), consent.value.as_slice())
    }
}

/// The boxes with one change more. What is refused leaves them as they were.
///
/// # Errors
/// [`BoxRefusal`].
pub fn change(
    boxes: &mut BTreeMap<BoxId, Owned>,
    id: BoxId,
    does: &Owning,
    at: &Situation<'_>,
) -> Result<(), BoxRefusal> {
    let held = boxes.get(&id);
    let after = match (held, does) {
        (Some(_), Owning::Placed { .. }) => return Err(BoxRefusal::There(id)),
        (None, Owning::Placed { name }) => {
            room(boxes, at.author)?;
            if boxes.len() >= MAX_BOXES {
                return Err(BoxRefusal::Full(MAX_BOXES, "in the union"));
            }
            let (owner, epoch) = (at.author, OwnerEpoch(at.number));
            Some(Owned { name: name.clone(), owner, key: at.key(owner)?, epoch, last: None })
        }
        (None, _) => return Err(BoxRefusal::NoBox(id)),
        (Some(held), _) => of_one(boxes, id, held, does, at)?,
    };
    match after {
        Some(after) => boxes.insert(id, after),
        None => boxes.remove(&id),
    };
    Ok(())
}

fn of_one(
    boxes: &BTreeMap<BoxId, Owned>,
    id: BoxId,
    held: &Owned,
    does: &Owning,
    at: &Situation<'_>,
) -> Result<Option<Owned>, BoxRefusal> {
    let name = || held.name.clone();
    let epoch = |then: OwnerEpoch| {
        let refusal = || BoxRefusal::Epoch { name: name(), now: held.epoch, then };
        check(Check::OwnerEpoch, then == held.epoch, refusal)
    };
    let owners = |who: MemberId| {
        let refusal = || BoxRefusal::NotOwner { name: name(), owner: held.owner };
        check(Check::OwnerOnly, who == held.owner, refusal)
    };
    let ownerless = !at.members.contains_key(&held.owner);
    let becomes = |owner: MemberId, last: Option<Settled>| -> Result<Option<Owned>, BoxRefusal> {
        let key = if owner == held.owner { held.key } else { at.key(owner)? };
        Ok(Some(Owned { name: name(), owner, key, epoch: held.epoch.next(), last }))
    };
    match does {
        Owning::Placed { .. } => Err(BoxRefusal::There(id)),
        Owning::Moved { from, to, epoch: then, ticket, state, consent } => {
            epoch(*then)?;
            owners(*from)?;
            if from == to {
                return Err(BoxRefusal::Nowhere);
            }
            let an_end = at.author == *from || at.author == *to;
            check(Check::MoveEnds, an_end, || BoxRefusal::NotAnEnd)?;
            at.key(*to)?;
            let terms = Terms {
                union: at.union,
                id,
                epoch: *then,
                from: *from,
                to: *to,
                ticket: *ticket,
                state: *state,
            };
            check(Check::MoveConsent, at.agreed(held, &terms, consent), || BoxRefusal::Consent)?;
            room(boxes, *to)?;
            becomes(*to, Some(Settled { ticket: *ticket, moved: true }))
        }
        Owning::MoveAborted { epoch: then, ticket } => {
            epoch(*then)?;
            owners(at.author)?;
            becomes(held.owner, Some(Settled { ticket: *ticket, moved: false }))
        }
        Owning::Ended { epoch: then } => {
            epoch(*then)?;
            if !ownerless {
                owners(at.author)?;
            }
            Ok(None)
        }
        Owning::Adopted { epoch: then, ticket } => {
            epoch(*then)?;
            let refusal = || BoxRefusal::Owner { name: name(), owner: held.owner };
            check(Check::Ownerless, ownerless, refusal)?;
            room(boxes, at.author)?;
            becomes(at.author, ticket.map(|ticket| Settled { ticket, moved: true }))
        }
    }
}

/// Whether a member may own one more.
fn room(boxes: &BTreeMap<BoxId, Owned>, member: MemberId) -> Result<(), BoxRefusal> {
    let has = boxes.values().filter(|b| b.owner == member).count();
    if has >= MAX_BOXES_OF_A_MEMBER {
        return Err(BoxRefusal::Full(MAX_BOXES_OF_A_MEMBER, "of this member"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
