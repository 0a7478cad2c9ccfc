//! Entries as they lie on a disk and go to whoever has none yet: each with the head that made it count, where it was the last of an
//! offer.

use gtvp_model::union::{MemberId, RecordHead, UnionId, UnixTime};
use minicbor::{Decode, Encode};

use super::entry::{Signatures, SignedEntry};
use super::follow::{self, Follower, MAX_ENTRIES, MAX_OFFER, Offer, OfferRefusal};
use super::head::CoSigned;
use crate::frame::wire::{self, BodyFault};

/// An entry that counts.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Committed {
    /// The entry.
    #[n(0)]
    pub entry: SignedEntry,
    /// The head after it, if a majority has signed this very one.
    #[n(1)]
    pub head: Option<CoSigned>,
}

impl Committed {
    /// What an offer that was taken leaves behind.
    pub fn of(offer: &Offer) -> Vec<Self> {
        let last = offer.entries.len().saturating_sub(1);
        let head = |i| (i == last).then(|| offer.head.clone());
        offer.entries.iter().enumerate().map(|(i, e)| Self { entry: e.clone(), head: head(i) }).collect()
    }
}

/// As many of these as one offer takes, up to a head; `None` if none of them ends in one.
pub fn offer(page: &[Committed]) -> Option<Offer> {
    let mut bytes = 0usize;
    let mut best = None;
    for (i, item) in page.iter().enumerate().take(MAX_ENTRIES) {
        bytes = bytes.saturating_add(item.entry.entry.as_slice().len());
        if bytes > MAX_OFFER && best.is_some() {
            break;
        }
        if let Some(head) = &item.head {
            best = Some((i, head));
            // Voters may have changed: who signs from here on is to be looked at anew.
            if super::Entry::decode(item.entry.entry.as_slice())
                .is_ok_and(|e| matches!(e.act, super::Act::Voters(_) | super::Act::Recovered { .. }))
            {
                break;
            }
        }
    }
    let (last, head) = best?;
    let entries = page.iter().take(last.saturating_add(1)).map(|c| c.entry.clone()).collect();
    Some(Offer { entries, head: head.clone() })
}

/// Why bytes are no record, or not the one that was named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPage {
    /// They are no entries.
    #[error("entry {0} cannot be read: {1}")]
    Form(u64, BodyFault),
    /// There is nothing.
    #[error("it is empty")]
    Empty,
    /// No majority stands behind its end.
    #[error("no majority of voters has signed its end")]
    Unsigned,
    /// An entry or a head is refused.
    #[error(transparent)]
    Refused(#[from] OfferRefusal),
    /// It does not have the entry that is known to be in it.
    #[error("it does not have entry {0} as it is known: this is another record")]
    Elsewhere(u64),
    /// It does not end where it was said to.
    #[error("it does not end where its member said")]
    End,
}

/// Takes bytes apart into entries: one behind the other, each with its length, 4 bytes, big-endian, before it.
///
/// # Errors
/// [`BadPage::Form`].
pub fn split(mut bytes: &[u8]) -> Result<Vec<Committed>, BadPage> {
    let mut page = Vec::new();
    while !bytes.is_empty() {
        let number = page.len() as u64;
        let cut = || BadPage::Form(number, BodyFault::Shape("it is cut".into()));
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(cut)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| cut())?;
        let (item, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
        page.push(wire::decode(item).map_err(|e| BadPage::Form(number, e))?);
        bytes = rest;
    }
    Ok(page)
}

/// The bytes that [`split`] takes apart.
pub fn join(page: &[Committed]) -> Vec<u8> {
    let mut out = Vec::new();
    for item in page {
        let bytes = wire::encode(item);
        out.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend(bytes);
    }
    out
}

/// The record that a whole page, from entry 0 on, is of; for whoever knows nothing but the union's id, an entry of its record and
/// where it ends.
///
/// # Errors
/// [`BadPage`].
pub fn learn(
    union: UnionId,
    page: &[Committed],
    known: RecordHead,
    end: RecordHead,
    from: MemberId,
    now: UnixTime,
    signatures: &dyn Signatures,
) -> Result<Follower, BadPage> {
    let (genesis, mut rest) = page.split_first().ok_or(BadPage::Empty)?;
    let mut follower = follow::from_genesis(union, &genesis.entry, signatures)?;
    if let Some(head) = &genesis.head {
        follower.take(&Offer { entries: Vec::new(), head: head.clone() }, from, now, signatures)?;
    }
    let at = usize::try_from(known.number).ok().and_then(|n| page.get(n));
    if at.map(|c| c.entry.hash()) != Some(known.hash) {
        return Err(BadPage::Elsewhere(known.number));
    }
    while !rest.is_empty() {
        let offer = offer(rest).ok_or(BadPage::Unsigned)?;
        follower.take(&offer, from, now, signatures)?;
        rest = rest.get(offer.entries.len()..).unwrap_or_default();
    }
    if follower.record().view().head != end { Err(BadPage::End) } else { Ok(follower) }
}
