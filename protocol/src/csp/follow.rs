//! A member that takes the record from others: whoever offers it may be old, cut off, frozen, or lying.
//!
//! ```text
//!              offer: entries + co-signed head
//!   Following ───────────────────────────────▶ Following     all good: the record goes on
//!       │                                 └──▶ Following     refused: the record is as it was, and who offered is told why
//!       │ a co-signed head that contradicts ours
//!       └────────────────────────────────────▶ Forked        a majority of voters has said two things: nothing more is taken, until
//!                                                            an administrator has said which recovery replaces these voters
//! ```
//!
//! The record is *current* while a majority has put a time on its head that is not long ago. What is not current serves nothing.

use std::collections::BTreeSet;

use gtvp_model::digest::Digest;
use gtvp_model::union::{MemberId, RecordHead, UnionId, UnixTime};
use minicbor::{Decode, Encode};

use super::act::Act;
use super::entry::{Entry, Signatures, SignedEntry};
use super::head::{BadHead, CoSigned};
use super::record::{Record, Refusal};
use crate::planted::{Check, check};

/// Most entries of one offer: with the longest acts 4 MiB; whoever is further behind asks again.
pub const MAX_ENTRIES: usize = 256;
/// How far a head may be ahead of its reader's clock, seconds: clocks of servers differ by less, or somebody is told.
pub const MAX_LEAD: u64 = 300;
/// Within these seconds a majority must have put a time on the head: voters do so every few seconds.
pub const CURRENT: u64 = 60;

/// Most bytes of the entries of one offer.
pub const MAX_OFFER: usize = 4 * 1024 * 1024;

/// What another member offers.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Offer {
    /// Entries from the one after ours on. One that changes who votes is the last of its offer.
    #[n(0)]
    pub entries: Vec<SignedEntry>,
    /// The head after the last of them.
    #[n(1)]
    pub head: CoSigned,
}

/// Why an offer is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferRefusal {
    /// More than is looked at.
    #[error("{0} entries at once, at most {MAX_ENTRIES} are looked at")]
    TooMany(usize),
    /// It is behind ours.
    #[error("it ends at entry {theirs}, this member has entry {ours}")]
    Old {
        /// Number of its head.
        theirs: u64,
        /// Number of ours.
        ours: u64,
    },
    /// It replaces the voters.
    #[error(
        "entry {number} replaces the voters, and this member's administrator has not said that it may: gtvp union recover --follow {hash}"
    )]
    Recovered {
        /// Its number.
        number: u64,
        /// Its hash.
        hash: Digest,
    },
    /// Its head is not the end of its entries.
    #[error("its head is entry {head}, its entries end at {end}")]
    HeadElsewhere {
        /// Number of its head.
        head: u64,
        /// Where its entries end.
        end: u64,
    },
    /// Its entries are not those of its head.
    #[error("its entries are not what its head is of")]
    OtherEntries,
    /// An entry is not taken.
    #[error("entry {number}: {refusal}")]
    Entry {
        /// Its number, as far as the reader counts.
        number: u64,
        /// Why.
        refusal: Refusal,
    },
    /// Something comes after an entry that changes who votes.
    #[error("entry {0} changes who votes and is not the last of its offer")]
    VotersInside(u64),
    /// Not co-signed.
    #[error(transparent)]
    Head(#[from] BadHead),
    /// Its time is not yet.
    #[error("its head is of {theirs}, this member's clock says {now}")]
    Ahead {
        /// Time of the head.
        theirs: UnixTime,
        /// Time here.
        now: UnixTime,
    },
    /// A majority of voters has said two things.
    #[error("a majority of voters has signed two records that differ at entry {0}")]
    Forked(u64),
}

/// Which entries that replace the voters ([`Act::Recovered`]) are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Recoveries {
    /// None: the union's voters decide, and nobody else.
    #[default]
    None,
    /// The one with this hash: this member's administrator has said so.
    This(Digest),
    /// Those up to the entry with this number: whoever made a token has vouched for the record so far, and what this member has on its
    /// disk it has taken before.
    UpTo(u64),
}

impl Recoveries {
    fn allow(self, number: u64, hash: Digest) -> bool {
        match self {
            Self::None => false,
            Self::This(wanted) => hash == wanted,
            Self::UpTo(last) => number <= last,
        }
    }
}

/// Two heads that a majority has signed, and that cannot both be: kept, shown, never resolved by a program.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Fork {
    /// Ours.
    pub ours: RecordHead,
    /// The other one.
    pub theirs: CoSigned,
    /// Who gave it to us.
    pub from: MemberId,
}

/// A member's own copy of the record.
#[derive(Debug, Clone)]
pub struct Follower {
    record: Record,
    fork: Option<Fork>,
    recoveries: Recoveries,
}

impl Follower {
    /// With a record that this member has checked before.
    pub fn new(record: Record) -> Self {
        Self { record, fork: None, recoveries: Recoveries::None }
    }

    /// The same with proof of a fork, which was seen before: it takes nothing more.
    #[must_use]
    pub fn forked_by(self, fork: Fork) -> Self {
        Self { fork: Some(fork), ..self }
    }

    /// The same, which takes these entries that replace the voters.
    #[must_use]
    pub fn allowing(self, recoveries: Recoveries) -> Self {
        Self { recoveries, ..self }
    }

    /// Takes these entries that replace the voters from now on.
    pub fn allow(&mut self, recoveries: Recoveries) {
        self.recoveries = recoveries;
    }

    /// The record.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Proof that a majority of voters has said two things.
    pub fn fork(&self) -> Option<&Fork> {
        self.fork.as_ref()
    }

    /// Whether a majority has lately put a time on this head, and nothing contradicts it.
    pub fn is_current(&self, now: UnixTime) -> bool {
        self.fork.is_none() && now.0.saturating_sub(self.record.view().head_time.0) <= CURRENT
    }

    /// Takes an offer, whole or not at all. Gives how many entries were new.
    ///
    /// # Errors
    /// [`OfferRefusal`]; the record is as it was.
    pub fn take(
        &mut self,
        offer: &Offer,
        from: MemberId,
        now: UnixTime,
        signatures: &dyn Signatures,
    ) -> Result<usize, OfferRefusal> {
        let taken = self.admissible(offer, now, signatures).and_then(|recovers| {
            if offer.entries.is_empty() {
                // A head and nothing else: it changes the record last, or not at all.
                return advance(&mut self.record, offer, recovers, signatures);
            }
            let mut record = self.record.clone();
            advance(&mut record, offer, recovers, signatures)?;
            self.record = record;
            if recovers {
                // Who has said two things speaks for this record no more.
                self.fork = None;
            }
            Ok(())
        });
        match taken {
            Ok(()) => Ok(offer.entries.len()),
            Err(Stop::Refused(refusal)) => Err(refusal),
            Err(Stop::Contradicts) => Err(self.forked(offer, from)),
        }
    }

    /// The same for whoever has no use for a record that an offer was refused for: from a disk, or from somebody who is joined. Its record
    /// is not copied.
    ///
    /// # Errors
    /// [`OfferRefusal`].
    pub fn grown(
        mut self,
        offer: &Offer,
        now: UnixTime,
        signatures: &dyn Signatures,
    ) -> Result<Self, OfferRefusal> {
        let taken = self.admissible(offer, now, signatures);
        match taken.and_then(|recovers| advance(&mut self.record, offer, recovers, signatures)) {
            Ok(()) => Ok(self),
            Err(Stop::Refused(refusal)) => Err(refusal),
            Err(Stop::Contradicts) => Err(OfferRefusal::Forked(offer.head.head.at.number)),
        }
    }

    /// What is looked at before any of its entries. Gives whether the last one replaces the voters.
    fn admissible(&self, offer: &Offer, now: UnixTime, signatures: &dyn Signatures) -> Result<bool, Stop> {
        if offer.entries.len() > MAX_ENTRIES {
            return Err(OfferRefusal::TooMany(offer.entries.len()).into());
        }
        let alone = self.recovered(offer)?;
        if let Some(fork) = self.fork.as_ref().filter(|_| alone.is_none()) {
            return Err(OfferRefusal::Forked(fork.theirs.head.at.number).into());
        }
        let ours = self.record.view().head;
        let theirs = offer.head.head;
        if theirs.at.number < ours.number {
            // What the member has is at least as new; a record does not go back.
            return Err(OfferRefusal::Old { theirs: theirs.at.number, ours: ours.number }.into());
        }
        let in_time = theirs.time.0 <= now.0.saturating_add(MAX_LEAD);
        check(Check::HeadTime, in_time, || OfferRefusal::Ahead { theirs: theirs.time, now })?;
        // The voters before any of this: those whom it makes voters do not speak for it.
        let view = self.record.view();
        let voters = alone.as_ref().unwrap_or_else(|| self.record.voters());
        let co_signed = offer.head.check(view.union, voters, &view.members, signatures);
        if let Err(bad) = co_signed {
            check(Check::HeadMajority, false, || OfferRefusal::Head(bad))?;
        }
        let contradicts = theirs.at.number == ours.number && theirs.at.hash != ours.hash;
        if contradicts && offer.entries.is_empty() { Err(Stop::Contradicts) } else { Ok(alone.is_some()) }
    }

    /// The one voter of an offer whose last entry replaces the voters, if that may be.
    fn recovered(&self, offer: &Offer) -> Result<Option<BTreeSet<MemberId>>, Stop> {
        let Some(signed) = offer.entries.last() else { return Ok(None) };
        let Ok(Entry { number, author, act: Act::Recovered { .. }, .. }) =
            Entry::decode(signed.entry.as_slice())
        else {
            return Ok(None);
        };
        let hash = signed.hash();
        check(Check::Recovery, self.recoveries.allow(number, hash), || OfferRefusal::Recovered {
            number,
            hash,
        })?;
        Ok(Some([author].into()))
    }

    fn forked(&mut self, offer: &Offer, from: MemberId) -> OfferRefusal {
        self.fork = Some(Fork { ours: self.record.view().head, theirs: offer.head.clone(), from });
        OfferRefusal::Forked(offer.head.head.at.number)
    }
}

/// Why an offer is not taken, before it is told.
enum Stop {
    Refused(OfferRefusal),
    Contradicts,
}

impl From<OfferRefusal> for Stop {
    fn from(refusal: OfferRefusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Adds an offer's entries, of which the last `recovers` or not, and notes its time. If it is refused, the record may have some of them.
fn advance(
    record: &mut Record,
    offer: &Offer,
    recovers: bool,
    signatures: &dyn Signatures,
) -> Result<(), Stop> {
    let theirs = offer.head.head;
    for (i, signed) in offer.entries.iter().enumerate() {
        let number = record.view().head.number.saturating_add(1);
        let voters = record.voters().clone();
        let last = i + 1 == offer.entries.len();
        // Whether it may is looked at before: only the last can.
        let taken = if last && recovers {
            record.recover(signed, signatures)
        } else {
            record.apply(signed, signatures)
        };
        match taken {
            Ok(()) => {}
            // Only a chain that leads to what a majority has signed proves anything.
            // One that replaces the voters has no majority behind it.
            Err(Refusal::Fork(_)) if i == 0 && !recovers && is_chain(offer) => return Err(Stop::Contradicts),
            Err(refusal) => return Err(OfferRefusal::Entry { number, refusal }.into()),
        }
        check(Check::VotersLast, last || voters == *record.voters(), || OfferRefusal::VotersInside(number))?;
    }
    let end = record.view().head;
    if end.number != theirs.at.number {
        return Err(OfferRefusal::HeadElsewhere { head: theirs.at.number, end: end.number }.into());
    }
    check(Check::HeadEntries, end.hash == theirs.at.hash, || OfferRefusal::OtherEntries)?;
    record.timed(theirs.time);
    Ok(())
}

/// Whether the entries lead, each to the next, to the head.
fn is_chain(offer: &Offer) -> bool {
    let previous = |e: &SignedEntry| Entry::decode(e.entry.as_slice()).ok().map(|e| e.previous);
    let linked = offer.entries.windows(2).all(|w| match w {
        [a, b] => previous(b) == Some(a.hash()),
        _ => false,
    });
    linked && offer.entries.last().map(SignedEntry::hash) == Some(offer.head.head.at.hash)
}

/// The union that a chain of entries from entry 0 on is of, and its record, for whoever has nothing yet but the union's id:
/// a joiner by its token, a member whose disk was lost.
///
/// # Errors
/// [`OfferRefusal`], of the entry that is refused.
pub fn from_genesis(
    union: UnionId,
    genesis: &SignedEntry,
    signatures: &dyn Signatures,
) -> Result<Follower, OfferRefusal> {
    let at = |refusal| OfferRefusal::Entry { number: 0, refusal };
    let record = Record::begin(genesis, signatures).map_err(at)?;
    if record.view().union != union {
        return Err(at(Refusal::OtherUnion));
    }
    Ok(Follower::new(record))
}

#[cfg(test)]
mod tests {
    use super::super::head::Head;
    use super::super::testing::{Cheap, World};
    use super::*;
    use crate::planted::without;

    const NOW: UnixTime = UnixTime(1_000);

    /// Three members, of which one votes; a follower that has the record so far.
    fn union() -> (World, Follower) {
        let mut world = World::begin(&["a", "b", "c"]);
        let follower = world.follower();
        world.token("d");
        (world, follower)
    }

    #[test]
    fn an_offer_that_is_good_is_taken() {
        let (world, mut follower) = union();
        let offer = world.offer(follower.record().view().head.number, NOW);
        assert_eq!(follower.take(&offer, world.id("a"), NOW, &Cheap), Ok(1));
        assert_eq!(*follower.record(), world.record_at(NOW));
        assert!(follower.is_current(UnixTime(NOW.0 + CURRENT)));
        assert!(!follower.is_current(UnixTime(NOW.0 + CURRENT + 1)), "17: frozen updates are not current");
    }

    #[test]
    fn a_record_that_is_not_copied_is_the_same_or_none() {
        let (mut world, mut follower) = union();
        let from = follower.record().view().head.number;
        world.token("e");
        let offer = world.offer(from, NOW);
        let grown = follower.clone().grown(&offer, NOW, &Cheap).unwrap();
        follower.take(&offer, world.id("a"), NOW, &Cheap).unwrap();
        assert_eq!(grown.record(), follower.record());
        let mut cut = offer.clone();
        cut.entries.pop();
        let (_, fresh) = union();
        assert!(matches!(fresh.grown(&cut, NOW, &Cheap), Err(OfferRefusal::HeadElsewhere { .. })));
        let mut world = world.clone();
        world.undo();
        world.evict("c");
        let other = Offer { entries: Vec::new(), ..world.offer(from, NOW) };
        assert!(matches!(grown.grown(&other, NOW, &Cheap), Err(OfferRefusal::Forked(_))));
    }

    #[test]
    fn threat_16_an_old_roster_is_refused_and_changes_nothing() {
        let (mut world, mut follower) = union();
        let from = follower.record().view().head.number;
        let old = world.offer(from, NOW);
        world.evict("c");
        follower.take(&world.offer(from, NOW), world.id("a"), NOW, &Cheap).unwrap();
        let before = follower.record().clone();
        let refused = follower.take(&old, world.id("b"), NOW, &Cheap).unwrap_err();
        assert!(matches!(refused, OfferRefusal::Old { .. }), "{refused}");
        assert_eq!(*follower.record(), before);
        assert!(follower.record().member(&world.id("c")).is_none());
    }

    #[test]
    fn threat_18_two_records_with_one_number_are_proof_and_end_it() {
        let (world, mut follower) = union();
        let mut other = world.clone();
        let from = follower.record().view().head.number;
        follower.take(&world.offer(from, NOW), world.id("a"), NOW, &Cheap).unwrap();
        other.undo();
        other.evict("c");
        let mut liar = other.offer(from, NOW);
        liar.entries.clear();
        let before = follower.record().clone();
        assert!(matches!(follower.take(&liar, world.id("b"), NOW, &Cheap), Err(OfferRefusal::Forked(_))));
        assert_eq!(follower.fork().unwrap().from, world.id("b"));
        assert_eq!(*follower.record(), before);
        assert!(!follower.is_current(NOW));
        // The same by entries that go on from another past.
        let (mut world, mut follower) = union();
        let mut other = world.clone();
        follower.take(&world.offer(from, NOW), world.id("a"), NOW, &Cheap).unwrap();
        other.undo();
        other.evict("c");
        other.token("e");
        world.token("f");
        let mut liar = other.offer(from, NOW);
        liar.entries.remove(0);
        assert!(matches!(follower.take(&liar, world.id("b"), NOW, &Cheap), Err(OfferRefusal::Forked(_))));
    }

    #[test]
    fn who_lies_alone_proves_no_fork() {
        let (mut world, mut follower) = union();
        let mut other = world.clone();
        let from = follower.record().view().head.number;
        follower.take(&world.offer(from, NOW), world.id("a"), NOW, &Cheap).unwrap();
        other.undo();
        other.evict("c");
        other.token("e");
        world.token("f");
        // Entries of another past under the head that the voters signed.
        let from = follower.record().view().head.number;
        let mut liar = world.offer(from, NOW);
        liar.entries = vec![other.offer(from, NOW).entries.remove(0)];
        let refused = follower.take(&liar, world.id("b"), NOW, &Cheap).unwrap_err();
        assert!(matches!(refused, OfferRefusal::Entry { refusal: Refusal::Fork(_), .. }), "{refused}");
        // An entry that a member signed and the voters did not take.
        let mut other = world.clone();
        other.undo();
        other.token("g");
        liar.entries = other.offer(from, NOW).entries;
        assert_eq!(follower.take(&liar, world.id("b"), NOW, &Cheap), Err(OfferRefusal::OtherEntries));
        let control =
            without(Check::HeadEntries, || follower.clone().take(&liar, world.id("b"), NOW, &Cheap));
        assert!(control.is_ok(), "{control:?}");
        assert_eq!(follower.fork(), None);
        assert!(follower.take(&world.offer(from, NOW), world.id("a"), NOW, &Cheap).is_ok());
    }

    #[test]
    fn threat_19_a_number_far_ahead_is_no_record() {
        let (world, mut follower) = union();
        let from = follower.record().view().head.number;
        let mut far = world.offer(from, NOW);
        far.head = world.co_sign_at(RecordHead { number: u64::MAX, hash: far.head.head.at.hash }, NOW);
        let refused = follower.take(&far, world.id("a"), NOW, &Cheap).unwrap_err();
        assert!(matches!(refused, OfferRefusal::HeadElsewhere { head: u64::MAX, .. }), "{refused}");
        let mut later = world.offer(from, UnixTime(NOW.0 + MAX_LEAD + 1));
        later.entries.clear();
        let refused = follower.take(&later, world.id("a"), NOW, &Cheap).unwrap_err();
        assert!(matches!(refused, OfferRefusal::Ahead { .. }), "70: {refused}");
    }

    #[test]
    fn threat_20_a_minority_decides_nothing() {
        let mut world = World::begin(&["a", "b", "c"]);
        world.voters(&["a", "b"]);
        world.voters(&["a", "b", "c"]);
        let mut follower = world.follower();
        let from = follower.record().view().head.number;
        world.evict("x");
        let mut offer = world.offer(from, NOW);
        offer.head = world.co_sign_by(&["a"], offer.head.head);
        let refused = follower.take(&offer, world.id("a"), NOW, &Cheap).unwrap_err();
        assert_eq!(refused, OfferRefusal::Head(BadHead::NoMajority { have: 1, of: 3, need: 2 }));
        // One voter twice is one voter.
        offer.head = world.co_sign_by(&["a", "a"], offer.head.head);
        assert!(matches!(follower.take(&offer, world.id("a"), NOW, &Cheap), Err(OfferRefusal::Head(_))));
        offer.head = world.co_sign_by(&["a", "c"], offer.head.head);
        let control = without(Check::HeadMajority, || {
            let mut bad = offer.clone();
            bad.head = world.co_sign_by(&["a"], bad.head.head);
            follower.clone().take(&bad, world.id("a"), NOW, &Cheap)
        });
        assert!(control.is_ok(), "without the check the minority would have decided: {control:?}");
        assert!(follower.take(&offer, world.id("a"), NOW, &Cheap).is_ok());
    }

    #[test]
    fn a_head_is_as_new_as_a_majority_says_and_not_as_who_passes_it_on() {
        let mut world = World::begin(&["a", "b", "c"]);
        world.voters(&["a", "b"]);
        world.voters(&["a", "b", "c"]);
        let mut follower = world.follower();
        let at = world.record().view().head;
        let head = |time| Head { union: world.union(), at, time };
        let times = [("a", NOW), ("b", UnixTime(NOW.0 + 5)), ("c", UnixTime(NOW.0 + 9))];
        let votes: Vec<_> = times.iter().map(|(n, t)| world.vote(n, &head(*t))).collect();
        let offer = |time: u64| Offer {
            entries: Vec::new(),
            head: CoSigned { head: head(UnixTime(time)), votes: votes.clone().try_into().unwrap() },
        };
        let from = world.id("b");
        let late = offer(NOW.0 + 6);
        let refused = follower.take(&late, from, NOW, &Cheap).unwrap_err();
        assert_eq!(refused, OfferRefusal::Head(BadHead::NoMajority { have: 1, of: 3, need: 2 }));
        let control = without(Check::HeadSigned, || follower.clone().take(&late, from, NOW, &Cheap));
        assert!(control.is_ok(), "{control:?}");
        assert_eq!(follower.take(&offer(NOW.0 + 5), from, NOW, &Cheap), Ok(0));
        assert_eq!(follower.record().view().head_time, UnixTime(NOW.0 + 5));
    }

    #[test]
    fn new_voters_do_not_speak_for_the_entry_that_makes_them_voters() {
        let mut world = World::begin(&["a", "b", "c"]);
        world.voters(&["a", "b"]);
        let mut follower = world.follower();
        let from = follower.record().view().head.number;
        // `a` alone makes `c` a voter and both sign; of a and b, one has.
        world.voters(&["a", "b", "c"]);
        let mut offer = world.offer(from, NOW);
        offer.head = world.co_sign_by(&["a", "c"], offer.head.head);
        assert!(matches!(follower.take(&offer, world.id("a"), NOW, &Cheap), Err(OfferRefusal::Head(_))));
        offer.head = world.co_sign_by(&["a", "b"], offer.head.head);
        world.token("z");
        let mut inside = world.offer(from, NOW);
        inside.head = world.co_sign_by(&["a", "b"], inside.head.head);
        assert!(matches!(
            follower.take(&inside, world.id("a"), NOW, &Cheap),
            Err(OfferRefusal::VotersInside(_))
        ));
        assert!(follower.take(&offer, world.id("a"), NOW, &Cheap).is_ok());
    }

    #[test]
    fn a_compromised_author_forges_no_other_members_entry() {
        let (world, mut follower) = union();
        let from = follower.record().view().head.number;
        let mut offer = world.offer(from, NOW);
        let forged = world.resigned(&offer.entries[0], "b");
        offer.entries[0] = forged.clone();
        let refused = follower.take(&offer, world.id("b"), NOW, &Cheap).unwrap_err();
        assert!(matches!(refused, OfferRefusal::Entry { refusal: Refusal::Signature, .. }), "{refused}");
        let control =
            without(Check::EntrySignature, || follower.clone().take(&offer, world.id("b"), NOW, &Cheap));
        assert!(control.is_ok(), "{control:?}");
    }

    #[test]
    fn voters_are_replaced_only_where_an_administrator_has_said_so() {
        let mut world = World::begin(&["a", "b", "c", "d"]);
        world.voters(&["a", "b"]);
        world.voters(&["a", "b", "c"]);
        let follower = world.follower();
        let epoch = follower.record().view().epoch;
        let offer = world.recover("c", &["a", "b"]);
        let hash = offer.entries[0].hash();
        let take = |follower: &Follower, offer: &Offer| {
            let mut follower = follower.clone();
            follower.take(offer, world.id("c"), NOW, &Cheap).map(|_| follower)
        };
        let number = follower.record().view().head.number + 1;
        assert_eq!(take(&follower, &offer).unwrap_err(), OfferRefusal::Recovered { number, hash });
        let control = without(Check::Recovery, || take(&follower, &offer).map(|_| ()));
        assert_eq!(control, Ok(()), "without the check a member alone would decide");
        // Another one's recovery is not the one that was said.
        let mut other = world.clone();
        other.undo();
        let others = other.recover("d", &["a", "b", "c"]);
        let told = follower.clone().allowing(Recoveries::This(hash));
        assert!(matches!(take(&told, &others).unwrap_err(), OfferRefusal::Recovered { .. }));
        // The author alone signs its head: nobody else can in its name.
        let mut forged = offer.clone();
        forged.head = world.co_sign_by(&["d"], forged.head.head);
        assert!(matches!(take(&told, &forged).unwrap_err(), OfferRefusal::Head(_)));
        let followed = take(&told, &offer).unwrap();
        let view = followed.record().view();
        assert_eq!(view.epoch.0, epoch.0 + 1, "sessions of before end");
        assert!(!view.members.contains_key(&world.id("a")) && view.members.contains_key(&world.id("d")));
        assert_eq!(*followed.record().voters(), [world.id("c")].into());
        // What the lost ones decide without it is another record, and no fork for whoever follows.
        let mut old = world.clone();
        old.undo();
        old.token("z");
        let mut offer = old.offer(number - 1, NOW);
        offer.head = world.co_sign_by(&["a", "b"], offer.head.head);
        assert!(matches!(take(&followed, &offer).unwrap_err(), OfferRefusal::Head(_)));
        assert_eq!(followed.fork(), None);
    }

    #[test]
    fn a_fork_ends_by_a_recovery_that_an_administrator_has_said_and_by_nothing_else() {
        let mut world = World::begin(&["a", "b", "c"]);
        let mut follower = world.follower();
        // The only voter signs two entries of one number.
        let before = follower.record().view().head.number;
        let mut other = world.clone();
        other.token("y");
        world.token("w");
        follower.take(&world.offer(before, NOW), world.id("a"), NOW, &Cheap).unwrap();
        let fork = Offer { entries: Vec::new(), head: other.offer(before, NOW).head };
        let refused = follower.take(&fork, world.id("a"), NOW, &Cheap).unwrap_err();
        assert!(matches!(refused, OfferRefusal::Forked(_)), "{refused}");
        let mut more = world.clone();
        more.token("z");
        let next = more.offer(before + 1, NOW);
        let refused = follower.take(&next, world.id("a"), NOW, &Cheap).unwrap_err();
        assert!(matches!(refused, OfferRefusal::Forked(_)), "{refused}");
        let offer = world.recover("c", &["a"]);
        let hash = offer.entries[0].hash();
        let refused = follower.take(&offer, world.id("c"), NOW, &Cheap).unwrap_err();
        assert!(matches!(refused, OfferRefusal::Recovered { .. }), "{refused}");
        assert!(follower.fork().is_some());
        follower.allow(Recoveries::This(hash));
        follower.take(&offer, world.id("c"), NOW, &Cheap).unwrap();
        assert_eq!(follower.fork(), None);
        // Whoever has signed two things proves nothing any more.
        for old in [fork, next] {
            let refused = follower.take(&old, world.id("a"), NOW, &Cheap).unwrap_err();
            assert!(!matches!(refused, OfferRefusal::Forked(_)), "{refused}");
        }
        assert_eq!(follower.fork(), None);
    }

    #[test]
    fn a_torn_or_flipped_entry_is_refused_whole() {
        let (world, mut follower) = union();
        let from = follower.record().view().head.number;
        let offer = world.offer(from, NOW);
        let before = follower.record().clone();
        let bytes = offer.entries[0].entry.as_slice().to_vec();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            for bad in [flipped, bytes[..at].to_vec()] {
                let mut offer = offer.clone();
                offer.entries[0].entry = bad.try_into().unwrap();
                assert!(follower.clone().take(&offer, world.id("a"), NOW, &Cheap).is_err(), "byte {at}");
            }
        }
        assert_eq!(*follower.record(), before);
        assert!(follower.take(&offer, world.id("a"), NOW, &Cheap).is_ok());
    }

    #[test]
    fn another_unions_record_is_not_ours() {
        let (world, mut follower) = union();
        let mut other = World::begin(&["a", "b", "c", "d"]);
        other.token("q");
        let offer = other.offer(follower.record().view().head.number, NOW);
        assert_eq!(
            follower.take(&offer, world.id("a"), NOW, &Cheap),
            Err(OfferRefusal::Head(BadHead::OtherUnion))
        );
        assert!(from_genesis(world.union(), &other.genesis(), &Cheap).is_err());
        assert!(from_genesis(world.union(), &world.genesis(), &Cheap).is_ok());
    }
}
