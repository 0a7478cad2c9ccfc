//! What other members say of whom, as attestation results that were checked: of each verifier the newest about each member, and how
//! much each of them may say. Pure: it is told the time. Whether a verifier is trusted, now, is for `results` to see.

use std::collections::BTreeMap;

use gtvp_appraisal::tpm::ClockInfo;
use gtvp_model::digest::Digest;
use gtvp_model::union::MemberId;

use super::Now;
use super::table::lasts;

/// Results that a sender may tell at once, beside one about each member: channels open, and all of them begin again.
const BURST: u64 = 16;

/// For how long a result says that it holds, in whole seconds: as long as a verdict does.
pub fn seconds(period: u64) -> i64 {
    i64::try_from(lasts(period).div_ceil(1000)).unwrap_or(i64::MAX)
}

/// A result that was believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// When it came.
    pub at: Now,
    /// Since when its verifier has said so without a gap, milliseconds since 1970-01-01 UTC.
    pub since_ms: u64,
    /// When it was issued, by its verifier's clock; seconds since 1970.
    pub issued: i64,
    /// When it ends, in the same.
    pub expires: i64,
    /// The subject's TPM, as it was quoted.
    pub clock: ClockInfo,
    /// Of the signed result.
    pub digest: Digest,
}

impl Said {
    fn stands(&self, now: Now, period: u64) -> bool {
        now.ms.saturating_sub(self.at.ms) <= lasts(period) && self.expires > now.seconds()
    }
}

/// Why a result is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Old {
    /// A newer one is here.
    #[error("it is older than what this verifier has said before")]
    Replayed,
    /// The member's TPM cannot have gone there.
    #[error("the member's TPM would have gone back")]
    ClockBack,
}

/// What a sender may still say.
#[derive(Debug, Clone, Copy)]
struct Budget {
    left: u64,
    at: u64,
}

/// All keys of a subject.
fn about(subject: &MemberId) -> std::ops::RangeInclusive<(MemberId, MemberId)> {
    (*subject, MemberId::new(Digest([0; 32])))..=(*subject, MemberId::new(Digest([255; 32])))
}

/// See the module.
#[derive(Debug, Default)]
pub struct Heard {
    said: BTreeMap<(MemberId, MemberId), Said>,
    budgets: BTreeMap<MemberId, Budget>,
}

impl Heard {
    /// Whether a sender may say one more. It may say something about each of `members` in half a period, on and on: an honest one says
    /// less than one about each in a period.
    pub fn may(&mut self, sender: MemberId, members: u64, ms: u64, period: u64) -> bool {
        let most = members.saturating_add(BURST);
        let budget = self.budgets.entry(sender).or_insert(Budget { left: most, at: ms });
        let more = ms.saturating_sub(budget.at).saturating_mul(members.saturating_mul(2)) / period.max(1);
        if more > 0 {
            *budget = Budget { left: budget.left.saturating_add(more).min(most), at: ms };
        }
        let may = budget.left > 0;
        budget.left = budget.left.saturating_sub(1);
        may
    }

    /// Takes what `verifier` says of `subject`.
    ///
    /// # Errors
    /// [`Old`]. What is here stays.
    pub fn take(
        &mut self,
        subject: MemberId,
        verifier: MemberId,
        mut new: Said,
        period: u64,
    ) -> Result<(), Old> {
        // Nobody is remembered longer than anybody counts.
        let of = self.said.range(about(&subject));
        let gone: Vec<_> = of.filter(|(_, s)| !s.stands(new.at, period)).map(|(key, _)| *key).collect();
        for key in gone {
            self.said.remove(&key);
        }
        if let Some(before) = self.said.get(&(subject, verifier)) {
            let back = new.clock.epoch() < before.clock.epoch();
            let same = new.clock.epoch() == before.clock.epoch();
            if new.issued < before.issued || same && new.clock.clock <= before.clock.clock {
                return Err(Old::Replayed);
            }
            if back {
                return Err(Old::ClockBack);
            }
            if same {
                new.since_ms = before.since_ms;
            }
        }
        self.said.insert((subject, verifier), new);
        Ok(())
    }

    /// What is said of `subject` now, and by whom.
    pub fn of(&self, subject: &MemberId, now: Now, period: u64) -> Vec<(MemberId, Said)> {
        let all = self.said.range(about(subject)).filter(|(_, said)| said.stands(now, period));
        all.map(|((_, verifier), said)| (*verifier, *said)).collect()
    }

    /// What was said of `subject` is over: this member has seen otherwise.
    pub fn end(&mut self, subject: &MemberId) {
        self.said.retain(|(of, _), _| of != subject);
    }

    /// Nothing by, and about, who is no member.
    pub fn only(&mut self, member: impl Fn(&MemberId) -> bool) {
        self.said.retain(|(of, by), _| member(of) && member(by));
        self.budgets.retain(|sender, _| member(sender));
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.said.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.said.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: u64 = 2_000;

    fn id(n: u8) -> MemberId {
        [n; 32].into()
    }

    fn at(ms: u64) -> Now {
        Now { wall_ms: 1_795_000_000_000 + ms, ms: 5_000_000 + ms }
    }

    fn said(ms: u64, epoch: u32, clock: u64) -> Said {
        let clock = ClockInfo { clock, reset_count: epoch, restart_count: 0, safe: true };
        let issued = at(ms).seconds();
        let now = at(ms);
        Said { at: now, since_ms: now.wall_ms, issued, expires: issued + 5, clock, digest: Digest([0; 32]) }
    }

    #[test]
    fn the_newest_counts_and_none_that_is_older_or_was_heard() {
        let mut heard = Heard::default();
        heard.take(id(1), id(2), said(0, 5, 100), PERIOD).unwrap();
        assert_eq!(heard.take(id(1), id(2), said(0, 5, 100), PERIOD), Err(Old::Replayed), "again");
        heard.take(id(1), id(2), said(2_000, 5, 200), PERIOD).unwrap();
        assert_eq!(heard.take(id(1), id(2), said(1_000, 5, 300), PERIOD), Err(Old::Replayed));
        assert_eq!(heard.take(id(1), id(2), said(2_000, 5, 150), PERIOD), Err(Old::Replayed));
        assert_eq!(heard.take(id(1), id(2), said(3_000, 4, 300), PERIOD), Err(Old::ClockBack));
        // Another verifier says what it has seen.
        heard.take(id(1), id(3), said(0, 5, 120), PERIOD).unwrap();
        let now: Vec<_> =
            heard.of(&id(1), at(2_000), PERIOD).into_iter().map(|(by, s)| (by, s.clock.clock)).collect();
        assert_eq!(now, [(id(2), 200), (id(3), 120)]);
        // It goes on since it began, but not into another life of the TPM.
        assert_eq!(heard.of(&id(1), at(2_000), PERIOD)[0].1.since_ms, at(0).wall_ms);
        heard.take(id(1), id(2), said(4_000, 6, 1), PERIOD).unwrap();
        assert_eq!(heard.of(&id(1), at(4_000), PERIOD)[0].1.since_ms, at(4_000).wall_ms);
        assert_eq!(heard.len(), 2, "one a subject and verifier");
    }

    #[test]
    fn a_result_ends_by_both_clocks_and_with_those_whom_it_is_by_and_about() {
        let mut heard = Heard::default();
        heard.take(id(1), id(2), said(0, 5, 100), PERIOD).unwrap();
        let count = |heard: &Heard, now| heard.of(&id(1), now, PERIOD).len();
        assert_eq!(count(&heard, at(4_900)), 1);
        assert_eq!(count(&heard, at(5_001)), 0);
        assert_eq!(count(&heard, Now { ms: at(5_001).ms, ..at(0) }), 0, "though the wall's clock stands");
        assert_eq!(count(&heard, Now { ms: at(0).ms, ..at(5_001) }), 0);
        heard.take(id(3), id(2), said(0, 5, 100), PERIOD).unwrap();
        heard.take(id(3), id(4), said(0, 5, 100), PERIOD).unwrap();
        heard.only(|m| *m != id(2));
        assert_eq!(heard.len(), 1);
        heard.end(&id(3));
        assert!(heard.is_empty());
    }

    #[test]
    fn a_flood_is_cut_off_and_others_are_heard_meanwhile() {
        let mut heard = Heard::default();
        let (members, now) = (10, at(0).ms);
        let taken = (0..10_000).filter(|_| heard.may(id(1), members, now, PERIOD)).count() as u64;
        assert_eq!(taken, members + BURST);
        assert!(heard.may(id(2), members, now, PERIOD), "the control");
        let later = (0..100).filter(|_| heard.may(id(1), members, now + 1_000, PERIOD)).count() as u64;
        assert_eq!(later, members, "in half a period one about each");
        // Whoever says what an honest one does is never cut off.
        for turn in 1..100u64 {
            for _ in 0..members {
                assert!(heard.may(id(3), members, now + turn * PERIOD, PERIOD));
            }
        }
    }
}
