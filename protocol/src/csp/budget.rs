//! How much one author may write. Each entry wears the memory of every voter's TPM, which counts it, and makes the record longer for good: so
//! no member, whatever has become of it, has entries written without end. It is a rule of the record: all members come to the same.
//!
//! An author has so many entries at once, and one more each minute. Time is what the entries say, and does not go back: an author whose
//! clock is behind gains nothing by it, and one ahead is held up by the voters (`keeper`, and the leader before it has anything decided).
//! What takes somebody out of the union, or a voter out of its voters, is free. It decides nothing about who may write what.
//!
//! A member could let in others of its own making, who have a budget each. So new members have one together, beside each its own: those whom one
//! member has let in, and whom these let in. Its own is apart from it, so they hold up nobody but each other.

use std::collections::{BTreeMap, BTreeSet};

use gtvp_model::union::{MemberId, UnixTime};

use super::act::Act;
use super::entry::Entry;

/// Entries at once, after a quiet time, and of whoever begins a union: two hundred servers that join by one administrator's tokens.
pub const BURST: u64 = 512;
/// Entries at once of who has just joined.
pub const FIRST: u64 = 128;
/// Entries at once of all new members together that one member has let in, itself or by them.
pub const FAMILY: u64 = 1024;
/// For so long somebody is a new member, seconds: 30 days, in which people see whom nobody wanted.
pub const NEW: u64 = 30 * 24 * 3600;
/// One more each so many seconds: 1,440 a day, and as many of an author's new members. By both one author wears a TPM out (100,000 writes) in
/// five weeks, in everybody's sight.
pub const EVERY: u64 = 60;
/// Entries that are kept for what keeps a union going: new voters, the end of a token or of reference values.
pub const RESERVE: u64 = 16;
/// So many bytes count as another entry: the longest one, reference values of 1 MiB, as 22.
pub const UNIT: usize = 64 * 1024;

/// What authors have left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budgets {
    /// The latest that a counted entry has said.
    time: UnixTime,
    of: BTreeMap<MemberId, Author>,
    /// Of new members, by who has let them in. One that is full needs no place, also if there is nobody of it any more.
    families: BTreeMap<MemberId, Left>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Author {
    left: Left,
    /// Whose new member it is, and until when.
    new: Option<(MemberId, UnixTime)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Left {
    entries: u64,
    /// When they were as many.
    at: u64,
}

impl Left {
    fn by(self, now: UnixTime, most: u64) -> Self {
        let gone = now.0.saturating_sub(self.at);
        let entries = self.entries.saturating_add(gone / EVERY).min(most);
        let at = if entries == most { now.0 } else { now.0.saturating_sub(gone % EVERY) };
        Self { entries, at }
    }

    /// What is left of so many when this is spent; or how many seconds are missing until there are `kept` more.
    fn spend(self, now: UnixTime, cost: u64, kept: u64) -> Result<Self, u64> {
        let need = cost.saturating_add(kept);
        match need.checked_sub(self.entries).filter(|missing| *missing > 0) {
            Some(missing) => Err(missing.saturating_mul(EVERY).saturating_sub(now.0.saturating_sub(self.at))),
            None => Ok(Self { entries: self.entries.saturating_sub(cost), ..self }),
        }
    }
}

/// An author has written enough for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its author {author}{} written too many entries lately: the next one in {wait} s", if *family { " and others that are as new have" } else { " has" })]
pub struct OverBudget {
    /// Whose entry it is.
    pub author: MemberId,
    /// Whether new members have, together.
    pub family: bool,
    /// Seconds until it would be taken.
    pub wait: u64,
}

/// What an entry leaves of its author's budget.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent(Option<Taken>);

#[derive(Debug, Clone, Copy)]
struct Taken {
    author: (MemberId, Author),
    family: Option<(MemberId, Left)>,
    time: UnixTime,
}

/// Whether an act counts for nothing: it takes somebody away, of whom there are only so many.
pub fn is_free(act: &Act, voters: &BTreeSet<MemberId>) -> bool {
    match act {
        Act::Left | Act::Evicted { .. } | Act::Recovered { .. } => true,
        Act::Voters(new) => new.is_subset(voters),
        _ => false,
    }
}

impl Budgets {
    /// Of a union that begins.
    pub fn begin(founder: MemberId, time: UnixTime) -> Self {
        let founder = (founder, Author { left: Left { entries: BURST, at: time.0 }, new: None });
        Self { time, of: [founder].into(), families: BTreeMap::new() }
    }

    /// What is left when this entry, of so many bytes, has been taken.
    ///
    /// # Errors
    /// [`OverBudget`].
    pub fn spend(
        &self,
        entry: &Entry,
        bytes: usize,
        voters: &BTreeSet<MemberId>,
    ) -> Result<Spent, OverBudget> {
        if is_free(&entry.act, voters) {
            return Ok(Spent(None));
        }
        let now = self.time.max(entry.time);
        let author = self.of.get(&entry.author).copied().unwrap_or_else(|| self.first(None));
        let cost = 1u64.saturating_add((bytes / UNIT) as u64);
        let kept = match entry.act {
            Act::Voters(_) | Act::TokenEnded(_) | Act::ReferenceRetired { .. } => 0,
            _ => RESERVE,
        };
        let over = |family| move |wait| OverBudget { author: entry.author, family, wait };
        let left = author.left.by(now, BURST).spend(now, cost, kept).map_err(over(false))?;
        let family = match author.new.filter(|(_, until)| now < *until) {
            Some((of, _)) => {
                let all = self.family(&of, now).spend(now, cost, kept).map_err(over(true))?;
                Some((of, all))
            }
            None => None,
        };
        Ok(Spent(Some(Taken { author: (entry.author, Author { left, ..author }), family, time: now })))
    }

    /// The entry was taken.
    pub fn take(&mut self, spent: Spent) {
        if let Spent(Some(Taken { author: (id, author), family, time })) = spent {
            self.of.insert(id, author);
            self.families.extend(family);
            self.time = time;
        }
    }

    /// Somebody is a member from now on, by this author's entry.
    pub fn joined(&mut self, member: MemberId, by: &MemberId) {
        let new = self.of.get(by).and_then(|by| by.new).filter(|(_, until)| self.time < *until);
        let family = new.map_or(*by, |(of, _)| of);
        let until = UnixTime(self.time.0.saturating_add(NEW));
        self.of.insert(member, self.first(Some((family, until))));
    }

    /// Forgets who is no member any more. What their families have spent is not forgotten: others may come in their place.
    pub fn keep(&mut self, is_member: impl Fn(&MemberId) -> bool) {
        let time = self.time;
        self.of.retain(|member, _| is_member(member));
        self.families.retain(|_, left| left.by(time, FAMILY).entries < FAMILY);
    }

    fn family(&self, of: &MemberId, now: UnixTime) -> Left {
        let full = Left { entries: FAMILY, at: now.0 };
        self.families.get(of).map_or(full, |left| left.by(now, FAMILY))
    }

    /// What an author has left of its own, as it was counted last.
    #[cfg(test)]
    fn left(&self, author: &MemberId) -> u64 {
        self.of.get(author).map_or(FIRST, |a| a.left.entries)
    }

    /// Whose new member it is.
    #[cfg(test)]
    fn family_of(&self, member: &MemberId, now: UnixTime) -> Option<MemberId> {
        self.of.get(member)?.new.filter(|(_, until)| now < *until).map(|(of, _)| of)
    }

    fn first(&self, new: Option<(MemberId, UnixTime)>) -> Author {
        Author { left: Left { entries: FIRST, at: self.time.0 }, new }
    }
}

#[cfg(test)]
mod tests {
    use super::super::act::Blob;
    use super::super::record::Refusal;
    use super::super::testing::World;
    use super::*;
    use crate::planted::{Check, without};

    /// When the world begins.
    const BEGUN: u64 = 10;

    fn world() -> World {
        World::begin(&["a", "b"])
    }

    fn token(name: &str, n: u64) -> Act {
        Act::TokenMade(World::token_for(&format!("{name}{n}")))
    }

    fn wait(refused: Result<(), Refusal>) -> u64 {
        match refused {
            Err(Refusal::Budget(over)) => over.wait,
            other => panic!("{other:?}"),
        }
    }

    /// Writes tokens at this time until no more are taken: how many, and how long to wait.
    fn exhaust(world: &mut World, author: &str, time: u64) -> (u64, u64) {
        let before = world.record().view().head.number;
        loop {
            let n = world.record().view().head.number;
            let refused = world.write_at(author, UnixTime(time), token(author, n));
            if refused.is_err() {
                return (n - before, wait(refused));
            }
        }
    }

    #[test]
    fn an_author_writes_so_many_entries_and_then_one_each_minute() {
        let mut w = world();
        let (taken, waits) = exhaust(&mut w, "b", BEGUN);
        assert!(taken <= FIRST - RESERVE && taken > 0, "{taken} by who has just joined");
        assert_eq!(waits, EVERY);
        let act = token("b", 999);
        assert!(without(Check::EntryBudget, || w.clone().write("b", act)).is_ok(), "the control");
        assert_eq!(exhaust(&mut w, "b", BEGUN + EVERY - 1), (0, 1));
        assert_eq!(exhaust(&mut w, "b", BEGUN + 3 * EVERY), (3, EVERY));
        // A clock that is put back gains nothing, and another author has its own.
        assert_eq!(exhaust(&mut w, "b", 5).0, 0);
        let (taken, _) = exhaust(&mut w, "a", BEGUN);
        assert!(taken > FIRST && taken <= BURST - RESERVE, "{taken} by who began the union");
        // After a quiet time no more than at once.
        assert_eq!(exhaust(&mut w, "b", BEGUN + 10_000 * EVERY).0, BURST - RESERVE);
    }

    #[test]
    fn what_takes_somebody_away_is_never_refused_and_what_keeps_a_union_going_last() {
        let mut w = world();
        for n in 0..3u8 {
            w.admit(&format!("m{n}"));
        }
        exhaust(&mut w, "a", BEGUN);
        let (a, b) = (w.id("a"), w.id("b"));
        for n in 0..RESERVE {
            let voters = if n % 2 == 0 { vec![a, b] } else { vec![a] };
            assert_eq!(w.write_at("a", UnixTime(BEGUN), Act::Voters(voters.into_iter().collect())), Ok(()));
        }
        // Only half of these cost anything.
        for _ in 0..RESERVE / 2 {
            assert_eq!(w.write_at("a", UnixTime(BEGUN), Act::Voters([a, b].into())), Ok(()));
            assert_eq!(w.write_at("a", UnixTime(BEGUN), Act::Voters([a].into())), Ok(()));
        }
        let more = w.clone().write_at("a", UnixTime(BEGUN), Act::Voters([a, b].into()));
        assert_eq!(wait(more), EVERY, "they are not without end either");
        for n in 0..3u8 {
            let member = w.id(&format!("m{n}"));
            let evict = Act::Evicted { member, reason: String::new() };
            assert_eq!(w.write_at("a", UnixTime(BEGUN), evict), Ok(()));
        }
        assert_eq!(w.write_at("b", UnixTime(BEGUN), Act::Left), Ok(()));
    }

    #[test]
    fn members_of_ones_own_making_bring_little_more_and_hold_up_nobody_else() {
        let mut w = world();
        // Each lets the next one in, writes what it may, and goes.
        let (mut by, mut taken) = ("b".to_owned(), 0);
        let refused = (0..100).find_map(|n| {
            let name = format!("s{n}");
            w.knows(&name);
            let lets_in = [Act::TokenMade(World::token_for(&name)), Act::Admitted(World::admission(&name))];
            for act in lets_in {
                if let Err(refused) = w.write_at(&by, UnixTime(BEGUN), act) {
                    return Some(refused);
                }
                taken += 1;
            }
            loop {
                let n = w.record().view().head.number;
                let left = w.record().budgets().left(&w.id(&name));
                if left <= RESERVE + 2 {
                    break;
                }
                if let Err(refused) = w.write_at(&name, UnixTime(BEGUN), token(&name, n)) {
                    return Some(refused);
                }
                taken += 1;
            }
            w.write_at(&by, UnixTime(BEGUN), Act::Left).unwrap();
            by = name;
            None
        });
        assert!(taken <= FAMILY - RESERVE && taken > FAMILY / 2, "{taken}");
        assert!(matches!(refused, Some(Refusal::Budget(OverBudget { family: true, .. }))), "{refused:?}");
        let told = refused.unwrap().to_string();
        assert!(told.contains("and others that are as new have written too many entries lately"), "{told}");
        let last = w.record().view().members.values().find(|m| m.name.as_str().starts_with('s')).cloned();
        let last = last.unwrap();
        // The control: without the rule it goes on; and who let the first of them in is held up by none of it.
        let more = || w.clone().write_at(last.name.as_str(), UnixTime(BEGUN), token("x", 1));
        assert!(more().is_err() && without(Check::EntryBudget, more).is_ok());
        assert!(w.write_at("a", UnixTime(BEGUN), token("a", 1)).is_ok());
        assert!(
            w.write_at("a", UnixTime(BEGUN), Act::Evicted { member: last.id(), reason: String::new() })
                .is_ok()
        );
        // Who is new no more has its own budget.
        let later = UnixTime(BEGUN + NEW);
        assert!(w.record().clone().budgets().family_of(&w.id("x"), later).is_none());
        assert!(w.record().clone().budgets().family_of(&w.id("x"), UnixTime(BEGUN)).is_some());
    }

    #[test]
    fn a_long_entry_counts_as_several() {
        let mut w = world();
        let long = |n: u64| Act::ReferenceAccepted {
            name: n.to_string(),
            manifest: Blob::new(vec![1; super::super::act::MAX_BLOB]).unwrap(),
        };
        let taken = (0..).take_while(|n| w.write_at("b", UnixTime(BEGUN), long(*n)).is_ok()).count();
        assert!((4..=6).contains(&taken), "{taken} of a megabyte each");
        assert!(exhaust(&mut w, "b", BEGUN).0 > 0);
    }
}
