//! The record as `security` keeps it, on a voter and on everybody else: what is taken, and which heads this voter puts its name to.
//!
//! ```text
//!   Raft orders an entry ─▶ vote: it fits, and no other entry of this number was promised ─▶ promised (durable) ─▶ signed
//!   a majority of voters has signed ─▶ take: every member, the voters too, comes to have the entry this way and no other
//! ```
//!
//! Raft decides which entry comes next, so that voters do not divide; that no two are ever taken rests on this file alone: a voter
//! signs one head a number, whoever runs its Raft.

use std::collections::BTreeSet;

use gtvp_model::union::{MemberId, RecordHead, UnixTime};

use super::budget;
use super::entry::{Entry, Signatures, SignedEntry};
use super::follow::{Follower, Fork, Offer, OfferRefusal, Recoveries};
use super::head::Head;
use super::record::{Record, Refusal};
use crate::planted::{Check, check};

/// A voter takes no entry whose author's clock is so many seconds ahead. A leader has none decided that is [`MAX_LEAD`] ahead of its own: so
/// voters, whose clocks are less apart, do not divide over one that it has decided.
///
/// [`MAX_LEAD`]: super::follow::MAX_LEAD
pub const MAX_AHEAD: u64 = 2 * super::follow::MAX_LEAD;

/// How many seconds an entry is ahead of a clock, if it is and counts for its author's budget.
pub(super) fn ahead(signed: &SignedEntry, voters: &BTreeSet<MemberId>, now: UnixTime) -> Option<u64> {
    let entry = Entry::decode(signed.entry.as_slice()).ok()?;
    let ahead = entry.time.0.checked_sub(now.0).filter(|ahead| *ahead > 0)?;
    (!budget::is_free(&entry.act, voters)).then_some(ahead)
}

/// Why a voter does not put its name to a head.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VoteRefusal {
    /// It has no vote.
    #[error("this member does not vote")]
    NoVoter,
    /// The record has gone two ways.
    #[error("the record is forked")]
    Forked,
    /// The entry does not follow, or breaks a rule.
    #[error(transparent)]
    Entry(#[from] Refusal),
    /// Its author's clock, or its word for it, is ahead: what is counted by time would count for nothing.
    #[error("its author's clock is {0} s ahead of this voter's")]
    Ahead(u64),
    /// This voter has given its word for another one.
    #[error("this voter has signed another entry {0}")]
    Promised(u64),
    /// This voter's TPM remembers a promise that its disk does not.
    #[error("this voter has signed an entry {0} and does not know which: its disk is older than its TPM")]
    Forgotten(u64),
    /// What does not go back with the disk has not said yet which numbers this voter has promised.
    #[error("this voter does not know what it has promised: its TPM's count of it was not read")]
    Uncounted,
    /// This voter has given its word for the entry that comes next: the head that it has may not be the last any more.
    #[error("this voter has signed entry {0}, which others may have taken by now")]
    GoesOn(u64),
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Keeper {
    own: MemberId,
    follower: Follower,
    promised: Option<RecordHead>,
    /// The highest number that was ever promised; none: it is not known.
    floor: Option<u64>,
}

impl Keeper {
    /// With what is on the disk: the record, checked, and the last promise.
    pub fn new(own: MemberId, record: Record, promised: Option<RecordHead>) -> Self {
        Self { own, follower: Follower::new(record), promised, floor: Some(0) }
    }

    /// With the highest number that was ever promised, by something that does not go back with the disk: the TPM. What was promised
    /// under it and is not on the disk any more is not promised otherwise.
    #[must_use]
    pub fn with_floor(self, floor: u64) -> Self {
        Self { floor: Some(floor), ..self }
    }

    /// The same while that number is not known: it promises nothing before [`Self::count_from`].
    #[must_use]
    pub fn uncounted(self) -> Self {
        Self { floor: None, ..self }
    }

    /// The number of [`Self::with_floor`] is known now.
    pub fn count_from(&mut self, floor: u64) {
        self.floor = Some(floor);
    }

    /// Whether it is.
    pub fn is_counted(&self) -> bool {
        self.floor.is_some()
    }

    /// The highest number that was promised, if neither the record nor the promise on the disk comes to it: this disk is an older one. It ends
    /// when the record has come there.
    pub fn forgotten(&self) -> Option<u64> {
        let known = self.record().view().head.number.max(self.promised.map_or(0, |p| p.number));
        self.floor.filter(|floor| *floor > known)
    }

    /// The same with proof of a fork that is on the disk too: it votes for nothing and takes nothing.
    #[must_use]
    pub fn forked_by(self, fork: Fork) -> Self {
        Self { follower: self.follower.forked_by(fork), ..self }
    }

    /// The record.
    pub fn record(&self) -> &Record {
        self.follower.record()
    }

    /// Proof of a fork, and whether the record is current.
    pub fn follower(&self) -> &Follower {
        &self.follower
    }

    /// The last promise.
    pub fn promised(&self) -> Option<RecordHead> {
        self.promised
    }

    fn may_vote(&self) -> Result<(), VoteRefusal> {
        if self.follower.fork().is_some() {
            return Err(VoteRefusal::Forked);
        }
        if self.record().voters().contains(&self.own) { Ok(()) } else { Err(VoteRefusal::NoVoter) }
    }

    /// Promises this entry to be the next one. The promise is to be durable ([`Self::promised`]) before the head is signed.
    ///
    /// # Errors
    /// [`VoteRefusal`]; nothing is promised.
    pub fn promise(
        &mut self,
        entry: &SignedEntry,
        now: UnixTime,
        signatures: &dyn Signatures,
    ) -> Result<Head, VoteRefusal> {
        self.may_vote()?;
        let mut record = self.record().clone();
        record.apply(entry, signatures)?;
        let ahead = ahead(entry, self.record().voters(), now).filter(|ahead| *ahead > MAX_AHEAD);
        check(Check::EntryTime, ahead.is_none(), || VoteRefusal::Ahead(ahead.unwrap_or(0)))?;
        let at = record.view().head;
        let free = self.promised.is_none_or(|p| p.number < at.number || p == at);
        check(Check::OnePromise, free, || VoteRefusal::Promised(at.number))?;
        let floor = self.floor.ok_or(VoteRefusal::Uncounted)?;
        let known = at.number > floor || self.promised == Some(at);
        check(Check::PromiseFloor, known, || VoteRefusal::Forgotten(at.number))?;
        self.promised = Some(at);
        Ok(Head { union: record.view().union, at, time: now })
    }

    /// The head after an entry that makes this member the only voter, whatever was promised before: what was promised then is given up by
    /// this member's administrator, with the other voters. To be durable before the head is signed, like a promise.
    ///
    /// # Errors
    /// [`VoteRefusal`]; nothing is promised.
    pub fn recover(
        &mut self,
        entry: &SignedEntry,
        now: UnixTime,
        signatures: &dyn Signatures,
    ) -> Result<Head, VoteRefusal> {
        let mut record = self.record().clone();
        record.recover(entry, signatures)?;
        let at = record.view().head;
        self.promised = Some(at);
        self.floor = Some(at.number);
        Ok(Head { union: record.view().union, at, time: now })
    }

    /// Which entries that replace the voters are taken from now on.
    pub fn allow(&mut self, recoveries: Recoveries) {
        self.follower.allow(recoveries);
    }

    /// The head as it is, with a new time: nothing is promised that was not. As a majority has promised an entry before anybody takes
    /// it, no majority puts a new time on the head before it from then on: what is current is what was last.
    ///
    /// # Errors
    /// [`VoteRefusal`].
    pub fn refresh(&self, now: UnixTime) -> Result<Head, VoteRefusal> {
        self.may_vote()?;
        let view = self.record().view();
        let floor = self.floor.ok_or(VoteRefusal::Uncounted)?;
        let last = self.promised.map_or(0, |p| p.number).max(floor);
        check(Check::LastPromise, last <= view.head.number, || VoteRefusal::GoesOn(last))?;
        Ok(Head { union: view.union, at: view.head, time: now })
    }

    /// Takes an offer: see [`Follower::take`].
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
        self.follower.take(offer, from, now, signatures)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Act;
    use super::super::testing::{Cheap, World};
    use super::*;
    use crate::planted::without;

    const NOW: UnixTime = UnixTime(1_000);

    fn keeper(world: &World, name: &str) -> Keeper {
        Keeper::new(world.id(name), world.record().clone(), None)
    }

    #[test]
    fn a_voter_signs_one_entry_a_number_even_if_it_is_asked_for_two() {
        let world = World::begin(&["a", "b"]);
        let mut voter = keeper(&world, "a");
        let [one, other] = ["p", "q"].map(|t| {
            let mut world = world.clone();
            world.token(t);
            world.offer(world.record().view().head.number - 1, NOW).entries.remove(0)
        });
        let head = voter.promise(&one, NOW, &Cheap).unwrap();
        // The same again, later, after a crash: the same head.
        let mut again = Keeper::new(world.id("a"), world.record().clone(), voter.promised());
        assert_eq!(again.promise(&one, UnixTime(2_000), &Cheap).unwrap().at, head.at);
        let refused = again.promise(&other, NOW, &Cheap).unwrap_err();
        assert_eq!(refused, VoteRefusal::Promised(head.at.number));
        let control = without(Check::OnePromise, || again.clone().promise(&other, NOW, &Cheap));
        assert!(control.is_ok(), "{control:?}");
    }

    #[test]
    fn a_voter_whose_disk_has_gone_back_does_not_promise_again_what_it_forgot() {
        let world = World::begin(&["a", "b"]);
        let [one, other] = ["p", "q"].map(|t| {
            let mut world = world.clone();
            world.token(t);
            world.offer(world.record().view().head.number - 1, NOW).entries.remove(0)
        });
        let number = keeper(&world, "a").promise(&one, NOW, &Cheap).unwrap().at.number;
        let mut back = keeper(&world, "a").with_floor(number);
        assert_eq!(back.promise(&other, NOW, &Cheap), Err(VoteRefusal::Forgotten(number)));
        let control = without(Check::PromiseFloor, || back.clone().promise(&other, NOW, &Cheap));
        assert!(control.is_ok(), "without the TPM's word it promises another: {control:?}");
        assert_eq!(
            back.refresh(NOW),
            Err(VoteRefusal::GoesOn(number)),
            "nor does it say that what it has is the last"
        );
        assert!(keeper(&world, "a").with_floor(number - 1).promise(&other, NOW, &Cheap).is_ok());
        assert_eq!(back.forgotten(), Some(number));
        assert_eq!(keeper(&world, "a").with_floor(number - 1).forgotten(), None);
    }

    #[test]
    fn a_voter_promises_nothing_before_it_knows_what_it_has_promised() {
        let mut world = World::begin(&["a", "b"]);
        let before = world.record().view().head.number;
        let mut voter = keeper(&world, "a").uncounted();
        world.token("p");
        let offer = world.offer(before, NOW);
        assert_eq!(voter.promise(&offer.entries[0], NOW, &Cheap), Err(VoteRefusal::Uncounted));
        assert_eq!(voter.refresh(NOW), Err(VoteRefusal::Uncounted));
        // It takes what others have: so an older disk comes to be a newer one.
        voter.count_from(before + 1);
        assert_eq!(voter.promise(&offer.entries[0], NOW, &Cheap), Err(VoteRefusal::Forgotten(before + 1)));
        voter.take(&offer, world.id("b"), NOW, &Cheap).unwrap();
        assert_eq!(voter.forgotten(), None);
        let after = voter.record().view().head.number;
        world.token("q");
        let next = world.offer(after, NOW);
        assert!(
            voter.promise(&next.entries[0], NOW, &Cheap).is_ok(),
            "it votes again from the next number on"
        );
    }

    #[test]
    fn who_has_signed_the_next_entry_does_not_say_that_this_one_is_the_last() {
        let mut world = World::begin(&["a", "b"]);
        let mut voter = keeper(&world, "a");
        let before = world.record().view().head.number;
        world.token("p");
        let offer = world.offer(before, NOW);
        let number = voter.promise(&offer.entries[0], NOW, &Cheap).unwrap().at.number;
        assert_eq!(voter.refresh(NOW), Err(VoteRefusal::GoesOn(number)));
        assert!(without(Check::LastPromise, || voter.refresh(NOW)).is_ok());
        voter.take(&offer, world.id("a"), NOW, &Cheap).unwrap();
        assert_eq!(voter.refresh(NOW).unwrap().at.number, number);
    }

    #[test]
    fn an_author_whose_clock_is_ahead_has_no_time_to_spend_and_may_still_go() {
        let world = World::begin(&["a", "b"]);
        let token = || Act::TokenMade(World::token_for("z"));
        let at = |ahead: u64, act| world.next_at("a", UnixTime(NOW.0 + ahead), act);
        let mut voter = keeper(&world, "a");
        let far = at(MAX_AHEAD + 1, token());
        assert_eq!(voter.promise(&far, NOW, &Cheap), Err(VoteRefusal::Ahead(MAX_AHEAD + 1)));
        assert!(
            without(Check::EntryTime, || voter.clone().promise(&far, NOW, &Cheap)).is_ok(),
            "the control"
        );
        let evict = Act::Evicted { member: world.id("b"), reason: String::new() };
        assert!(voter.clone().promise(&at(1 << 40, evict), NOW, &Cheap).is_ok());
        assert!(voter.promise(&at(MAX_AHEAD, token()), NOW, &Cheap).is_ok());
    }

    #[test]
    fn who_does_not_vote_signs_nothing() {
        let mut world = World::begin(&["a", "b"]);
        let mut voter = keeper(&world, "b");
        let before = world.record().view().head.number;
        world.token("p");
        let entry = world.offer(before, NOW).entries.remove(0);
        assert_eq!(voter.promise(&entry, NOW, &Cheap), Err(VoteRefusal::NoVoter));
        assert_eq!(voter.refresh(NOW), Err(VoteRefusal::NoVoter));
        assert!(keeper(&world, "a").refresh(NOW).is_ok());
    }
}
