//! Entries that come and go: what this member votes for, what it takes, what it gives. Each is on the disk before it is told.

use std::os::fd::OwnedFd;

use gtvp_ipc::bulk;
use gtvp_ipc::security::{Taken, Voted};
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::union::{MemberId, UnixTime};
use gtvp_protocol::csp::act::MAX_VOTERS;
use gtvp_protocol::csp::follow::{MAX_ENTRIES, MAX_OFFER, OfferRefusal};
use gtvp_protocol::csp::keeper::VoteRefusal;
use gtvp_protocol::csp::page::{self, Committed};
use gtvp_protocol::csp::{Act, Entry, Head, Offer, SignedEntry, Vote};
use gtvp_protocol::frame::wire;

use super::{Ecdsa, Held, Kept, Known, Union, damaged, no_union};
use crate::platform::chain as causes;

/// Longest offer, encoded: its entries, a signature for each, the head.
const MAX_OFFERED: usize = MAX_OFFER + MAX_ENTRIES * 1200 + MAX_VOTERS * 1200 + 64 * 1024;
/// Most bytes of one page: they are here twice for a moment. Who wants more asks again.
const MAX_PAGE: u64 = 16 * 1024 * 1024;

impl Union {
    pub(super) fn kept<T>(&self, f: impl FnOnce(&mut Kept) -> Result<T, Fault>) -> Result<T, Fault> {
        match &mut *self.held() {
            Held::Nothing => Err(no_union()),
            Held::Damaged(why) => Err(damaged(why)),
            Held::Record(kept) => f(kept),
        }
    }

    pub(super) fn read<T>(&self, f: impl FnOnce(&Kept) -> Result<T, Fault>) -> Result<T, Fault> {
        self.kept(|kept| f(kept))
    }

    /// Promises an entry and signs the head with it.
    ///
    /// # Errors
    /// `Invalid`, with the rule, for an entry that no voter takes; `Denied` for one that only this voter refuses; the disk's and the TPM's.
    pub fn vote_for(&self, signed: &SignedEntry, now: UnixTime) -> Result<Voted, Fault> {
        self.count()?;
        let head = self.kept(|kept| {
            // `Invalid`: a rule of the record, which every voter sees in the same way.
            let refused =
                |why: String| Fault::new(FaultKind::Invalid, "no voter takes this entry").because(why);
            let not_now =
                |why: String| Fault::new(FaultKind::Denied, "this member does not vote for it").because(why);
            let entry = Entry::decode(signed.entry.as_slice()).map_err(|e| refused(e.to_string()))?;
            // Whoever asks may not have heard yet how far the record has come, perhaps by this very entry.
            let head = kept.record().view().head;
            if entry.number != head.number.saturating_add(1) || entry.previous != head.hash {
                return Err(not_now(format!("it does not follow entry {}, which is the last", head.number)));
            }
            // What every voter sees in the same way: or one would have promised what another never takes.
            if let Act::ReferenceAccepted { name, manifest } = &entry.act {
                let takes = kept.book.would_take(name, manifest, entry.author);
                takes.map_err(|e| refused(causes(&e)))?;
            }
            let head = kept.keeper.promise(signed, now, &Ecdsa).map_err(|e| match e {
                VoteRefusal::Entry(e) => refused(causes(&e)),
                e @ (VoteRefusal::Promised(_) | VoteRefusal::Forgotten(_) | VoteRefusal::Ahead(_)) => {
                    Fault::new(FaultKind::InUse, "this member leaves it to others").because(causes(&e))
                }
                e => not_now(causes(&e)),
            })?;
            self.disk
                .promise(head.at)
                .map_err(|e| Fault::internal("the promise cannot be written down", &e))?;
            Ok(head)
        })?;
        // What is promised stays so, and nobody waits for the record while the TPM writes and signs.
        self.counted(head.union, head.at.number)?;
        self.voted(head)
    }

    /// Signs the present head with a new time.
    ///
    /// # Errors
    /// `Denied` without a vote; the TPM's.
    pub fn vote_again(&self, now: UnixTime) -> Result<Voted, Fault> {
        self.count()?;
        let head = self.kept(|kept| {
            kept.keeper
                .refresh(now)
                .map_err(|e| Fault::new(FaultKind::Denied, "this member does not vote").because(causes(&e)))
        })?;
        // The time is of before any promise that comes while it is signed.
        self.voted(head)
    }

    fn voted(&self, head: Head) -> Result<Voted, Fault> {
        let signature = self.sign_head(&head)?;
        let voter = self.own_keys()?.identity.member_id();
        Ok(Voted { head, vote: Vote { voter, time: head.time, signature } })
    }

    /// Takes what a member offers.
    ///
    /// # Errors
    /// `Invalid` for what is no offer, `Denied` with the reason for one that is refused, `Integrity` for one that proves a fork; the disk's.
    pub fn take(&self, from: MemberId, fds: Vec<OwnedFd>, now: UnixTime) -> Result<Taken, Fault> {
        let no_offer = |why: String| Fault::new(FaultKind::Invalid, "that is no offer").because(why);
        let fd = fds.into_iter().next().ok_or_else(|| no_offer("no descriptor came with it".into()))?;
        let bytes = bulk::take(fd, MAX_OFFERED).map_err(|e| no_offer(e.to_string()))?;
        let offer: Offer = wire::decode(&bytes).map_err(|e| no_offer(e.to_string()))?;
        drop(bytes);
        let taken = self.kept(|kept| {
            let before = kept.record().view().head.number;
            // What is written down first is tried on a copy; a newer head of the same record needs neither.
            let mut copy = (!offer.entries.is_empty()).then(|| kept.keeper.clone());
            let taken = copy.as_mut().unwrap_or(&mut kept.keeper).take(&offer, from, now, &Ecdsa);
            let new = match taken {
                Ok(new) => new,
                Err(refusal @ OfferRefusal::Forked(_)) => {
                    if let Some(keeper) = copy {
                        kept.keeper = keeper;
                    }
                    self.forked(kept);
                    return Err(
                        Fault::new(FaultKind::Integrity, "the offer is refused").because(causes(&refusal))
                    );
                }
                Err(refusal) => {
                    return Err(
                        Fault::new(FaultKind::Denied, "the offer is refused").because(causes(&refusal))
                    );
                }
            };
            if let Some(keeper) = copy {
                self.disk
                    .append(before.saturating_add(1), &Committed::of(&offer))
                    .map_err(|e| Fault::internal("the record cannot be written", &e))?;
                kept.keeper = keeper;
            }
            if new > 0 || offer.head.head.time > kept.head.head.time {
                self.taken(kept, &offer);
                self.turns.bump();
            }
            Ok(new)
        })?;
        Ok(Taken { new: taken as u64 })
    }

    /// What follows from an offer that was taken and is on the disk.
    pub(super) fn taken(&self, kept: &mut Kept, offer: &Offer) {
        for signed in &offer.entries {
            // It was decoded when it was taken.
            if let Ok(entry) = Entry::decode(signed.entry.as_slice()) {
                kept.book.note(&entry);
            }
        }
        kept.head = offer.head.clone();
        kept.known = Known::of(kept.keeper.follower(), &kept.head, &kept.book);
    }

    /// A majority has said two things: that is written down and told, once.
    fn forked(&self, kept: &mut Kept) {
        let Some(fork) = kept.keeper.follower().fork().filter(|_| !kept.known.forked) else { return };
        if let Err(e) = self.disk.forked(fork) {
            eprintln!("gtvp-security: that the record is forked cannot be written down: {e}");
        }
        kept.known = Known::of(kept.keeper.follower(), &kept.head, &kept.book);
        self.turns.bump();
    }

    /// Entries from `from` on, in a descriptor: up to some head, and no more bytes than `most` if there is a head within these.
    ///
    /// # Errors
    /// `NotFound` outside of a union; the disk's.
    pub fn page(&self, from: u64, most: u64) -> Result<OwnedFd, Fault> {
        let most = most.min(MAX_PAGE);
        let (end, head) = self.read(|kept| Ok((kept.record().view().head, kept.head.clone())))?;
        let mut items: Vec<Committed> = Vec::new();
        let (mut bytes, mut good) = (0u64, 0);
        // Not under the lock: entries that are there do not change any more.
        for number in from..=end.number {
            let mut item = self.disk.entry(number).map_err(|e| damaged(&causes(&e)))?;
            if number == end.number && item.head.is_some() && !changes_voters(&item.entry) {
                item.head = Some(head.clone());
            }
            bytes = bytes.saturating_add(item.entry.entry.as_slice().len() as u64 + 2048);
            if bytes > most && good > 0 {
                break;
            }
            items.push(item);
            if items.last().is_some_and(|i| i.head.is_some()) {
                good = items.len();
                if bytes > most {
                    break;
                }
            }
        }
        items.truncate(good);
        bulk::give(&page::join(&items)).map_err(|e| Fault::internal("the record cannot be given", &e))
    }
}

/// The head after such an entry is signed by the voters before it; a newer one by those whom it made voters.
fn changes_voters(signed: &SignedEntry) -> bool {
    Entry::decode(signed.entry.as_slice()).is_ok_and(|e| matches!(e.act, Act::Voters(_)))
}
