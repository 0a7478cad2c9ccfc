//! How much one author may write. Each entry wears the memory of every voter's TPM, which counts it, and makes the record longer for good: so
//! no member, whatever has become of it, has entries written without end. It is a rule of the record: all members come to the same.
//!
//! An author has so many entries at once, and one more each two minutes. Time is what the entries say, and does not go back: an author whose
//! clock is behind gains nothing by it, and one ahead is held up by the voters (`keeper`, and the leader before it has anything decided).
//! What takes somebody out of the union, or a voter out of its voters, is free. It decides nothing about who may write what.

use std::collections::{BTreeMap, BTreeSet};

use gtvp_model::union::{MemberId, UnixTime};

use super::act::Act;
use super::entry::Entry;

/// Entries at once, after a quiet time, and of whoever begins a union: a hundred servers that join by one administrator's tokens.
pub const BURST: u64 = 256;
/// Entries at once of who has just joined: so a member gains little by having others of its own admitted.
pub const FIRST: u64 = 64;
/// One more each so many seconds: 720 a day, by which one author wears a TPM out (100,000 writes) in five months, in everybody's sight.
pub const EVERY: u64 = 120;
/// Entries that are kept for what keeps a union going: new voters, the end of a token or of reference values.
pub const RESERVE: u64 = 16;
/// So many bytes count as another entry: the longest one, reference values of 1 MiB, as 22.
pub const UNIT: usize = 64 * 1024;

/// What authors have left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budgets {
    /// The latest that a counted entry has said.
    time: UnixTime,
    of: BTreeMap<MemberId, Left>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Left {
    entries: u64,
    /// When they were as many.
    at: u64,
}

/// An author has written enough for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its author {author} has written too many entries lately: the next one in {wait} s")]
pub struct OverBudget {
    /// Whose entry it is.
    pub author: MemberId,
    /// Seconds until it would be taken.
    pub wait: u64,
}

/// What an entry leaves of its author's budget.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent(Option<(MemberId, Left, UnixTime)>);

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
        Self { time, of: [(founder, Left { entries: BURST, at: time.0 })].into() }
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
        let before = self.of.get(&entry.author).copied().unwrap_or_else(|| self.first());
        let gone = now.0.saturating_sub(before.at);
        let entries = before.entries.saturating_add(gone / EVERY).min(BURST);
        let at = if entries == BURST { now.0 } else { now.0.saturating_sub(gone % EVERY) };
        let cost = 1u64.saturating_add((bytes / UNIT) as u64);
        let kept = match entry.act {
            Act::Voters(_) | Act::TokenEnded(_) | Act::ReferenceRetired { .. } => 0,
            _ => RESERVE,
        };
        let need = cost.saturating_add(kept);
        if entries < need {
            let wait = need.saturating_sub(entries).saturating_mul(EVERY).saturating_sub(gone % EVERY);
            return Err(OverBudget { author: entry.author, wait });
        }
        Ok(Spent(Some((entry.author, Left { entries: entries.saturating_sub(cost), at }, now))))
    }

    /// The entry was taken.
    pub fn take(&mut self, spent: Spent) {
        if let Spent(Some((author, left, time))) = spent {
            self.of.insert(author, left);
            self.time = time;
        }
    }

    /// Somebody is a member from now on.
    pub fn joined(&mut self, member: MemberId) {
        self.of.insert(member, self.first());
    }

    /// Forgets who is no member any more.
    pub fn keep(&mut self, is_member: impl Fn(&MemberId) -> bool) {
        self.of.retain(|member, _| is_member(member));
    }

    fn first(&self) -> Left {
        Left { entries: FIRST, at: self.time.0 }
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
    fn an_author_writes_so_many_entries_and_then_one_each_two_minutes() {
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
    fn a_long_entry_counts_as_several() {
        let mut w = world();
        let long = |n: u64| Act::ReferenceAccepted {
            name: n.to_string(),
            manifest: Blob::new(vec![1; super::super::act::MAX_BLOB]).unwrap(),
        };
        let taken = (0..).take_while(|n| w.write_at("b", UnixTime(BEGUN), long(*n)).is_ok()).count();
        assert_eq!(taken, 2, "of a megabyte each");
        assert!(exhaust(&mut w, "b", BEGUN).0 > 0);
    }
}
