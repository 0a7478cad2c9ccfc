//! Who appraises whom in which period, so that a member proves itself to two others and not to all (docs/spec/results.md). Pure: the same
//! for everybody who has the same record and nearly the same time.
//!
//! Time is cut into shifts of a period's length, for each member from another moment on, so that not all prove themselves at once. In
//! each shift two verifiers look at a member. Each of them does so for two shifts, and they change in turn:
//!
//! ```text
//!   shift        0   1   2   3   4   5
//!   the one      a   a   d   d   e   e
//!   the other    b   c   c   f   f   g
//! ```
//! Whoever's clock is one shift off agrees with everybody else about one of the two.

use std::collections::BTreeSet;

use gtvp_model::digest::Digest;
use gtvp_model::union::MemberId;

/// Verifiers of a member in a shift.
pub const VERIFIERS: usize = 2;
/// Up to so many members with a TPM all appraise all.
pub const ALL: usize = 3;

const LABEL: &[u8] = b"gtvp-rota/1\0";

/// A part of time, of one member's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shift {
    /// Which.
    pub number: u64,
    /// When it begins, milliseconds since 1970.
    pub begins_ms: u64,
    /// When the next one does.
    pub ends_ms: u64,
}

impl Shift {
    /// The one of `subject` in which this moment is, with this period in milliseconds.
    pub fn at(subject: &MemberId, wall_ms: u64, period: u64) -> Self {
        let length = period.max(1);
        let phase = subject.as_bytes().first_chunk::<8>().map_or(0, |b| u64::from_be_bytes(*b)) % length;
        let number = wall_ms.saturating_add(phase) / length;
        let begins_ms = number.saturating_mul(length).saturating_sub(phase);
        Self { number, begins_ms, ends_ms: begins_ms.saturating_add(length) }
    }
}

/// Who appraises `subject` in the shift with this number: two of `members` (those with a TPM), or all but itself where they are few.
pub fn verifiers(subject: &MemberId, number: u64, members: &BTreeSet<MemberId>) -> BTreeSet<MemberId> {
    let others = || members.iter().filter(|m| *m != subject);
    if members.len() <= ALL || others().count() <= VERIFIERS {
        return others().copied().collect();
    }
    let one = |turn: u64| pick(subject, 0, turn, others());
    let turn = number.saturating_add(1) / 2;
    // It goes on while the first one changes, and is neither of these.
    let first = [turn.checked_sub(1).and_then(one), one(turn)];
    let other = pick(subject, 1, turn, others().filter(|m| !first.contains(&Some(**m))));
    [one(number / 2), other].into_iter().flatten().collect()
}

/// Who was or will be one about this shift: for a clock that is off by one.
pub fn about(subject: &MemberId, number: u64, members: &BTreeSet<MemberId>) -> BTreeSet<MemberId> {
    (number.saturating_sub(2)..=number.saturating_add(1))
        .flat_map(|n| verifiers(subject, n, members))
        .collect()
}

/// Rendezvous: each has a number, and the greatest has it.
fn pick<'a>(
    subject: &MemberId,
    which: u8,
    turn: u64,
    of: impl Iterator<Item = &'a MemberId>,
) -> Option<MemberId> {
    let mut text = [LABEL, subject.as_bytes(), &[which], &turn.to_be_bytes(), &[0; 32]].concat();
    let at = text.len().saturating_sub(32);
    of.max_by_key(|m| {
        text.truncate(at);
        text.extend_from_slice(m.as_bytes());
        Digest::of(&text).0
    })
    .copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn members(n: u16) -> BTreeSet<MemberId> {
        (0..n).map(|i| MemberId::new(Digest::of(&i.to_be_bytes()))).collect()
    }

    #[test]
    fn every_member_has_two_verifiers_none_of_them_itself() {
        for n in 0..=ALL as u16 {
            let all = members(n);
            all.iter().for_each(|m| assert_eq!(verifiers(m, 7, &all).len(), usize::from(n) - 1));
        }
        for n in [4, 5, 20, 200] {
            let all = members(n);
            for number in [0, 1, 2, 3, 1_000_000, u64::MAX] {
                for m in all.iter().take(20) {
                    let two = verifiers(m, number, &all);
                    assert_eq!(two.len(), VERIFIERS, "{n} members, shift {number}");
                    assert!(!two.contains(m) && two.is_subset(&all));
                }
            }
        }
        // A member without a TPM is appraised by nobody, and appraises nobody for others.
        let all = members(8);
        let bare = MemberId::new(Digest([1; 32]));
        assert_eq!(verifiers(&bare, 1, &all).len(), VERIFIERS);
        assert!(all.iter().all(|m| !verifiers(m, 1, &all).contains(&bare)));
    }

    #[test]
    fn neighbours_in_time_share_one_and_everybody_has_a_turn() {
        for n in [4, 12] {
            let all = members(n);
            for m in &all {
                let mut seen = BTreeSet::new();
                for number in 0..100 {
                    let (now, next) = (verifiers(m, number, &all), verifiers(m, number + 1, &all));
                    assert!(!now.is_disjoint(&next), "{n} members, shift {number}");
                    assert!(now.union(&next).all(|v| about(m, number, &all).contains(v)));
                    seen.extend(now);
                }
                assert_eq!(seen.len(), usize::from(n) - 1, "all but itself");
            }
        }
    }

    #[test]
    fn the_work_is_spread_evenly() {
        let all = members(20);
        let mut load: BTreeMap<MemberId, u32> = BTreeMap::new();
        let shifts = 200;
        for number in 0..shifts {
            for m in &all {
                verifiers(m, number, &all).into_iter().for_each(|v| *load.entry(v).or_default() += 1);
            }
        }
        // Two a shift each, 400 in all: with chance's spread, a fifth more or less.
        assert!(load.len() == 20 && load.values().all(|n| (320..=480).contains(n)), "{load:?}");
    }

    #[test]
    fn whoever_goes_changes_nothing_for_those_whom_it_did_not_look_at() {
        let all = members(50);
        let gone = *all.iter().next().unwrap();
        let left: BTreeSet<_> = all.iter().copied().filter(|m| *m != gone).collect();
        for m in &left {
            let before = verifiers(m, 9, &all);
            let near = about(m, 9, &all).contains(&gone);
            assert!(near || before == verifiers(m, 9, &left));
        }
    }

    /// Quotes and appraisals a member and period, with so many members whose clocks differ by some milliseconds.
    fn measured(n: u16, all_ask: bool) -> (f64, f64) {
        use crate::hsp::message::Bank;
        use crate::hsp::{Batcher, Binding, Lengths, Millis, Role};
        const PERIOD: u64 = 2_000;
        let (all, shifts) = (members(n), 10);
        let selection = vec![Bank { algorithm: 11, pcrs: 1 }].try_into().unwrap();
        let (mut quotes, mut appraisals) = (0u32, 0u32);
        for subject in &all {
            let first = Shift::at(subject, 1_795_000_000_000, PERIOD);
            let mut batcher = Batcher::new(Lengths::of(PERIOD as u32));
            let mut asked: Vec<(u64, MemberId)> = Vec::new();
            for turn in 0..shifts {
                let others = all.iter().copied().filter(|m| m != subject);
                let who =
                    if all_ask { others.collect() } else { verifiers(subject, first.number + turn, &all) };
                let late = |v: &MemberId| u64::from(v.as_bytes()[0]) / 2;
                asked.extend(who.into_iter().map(|v| (turn * PERIOD + late(&v), v)));
            }
            asked.sort_unstable();
            let mut asked = asked.into_iter().peekable();
            for ms in (0..(shifts + 1) * PERIOD).step_by(10) {
                while let Some((_, challenger)) = asked.next_if(|(at, _)| *at <= ms) {
                    let binding = Binding {
                        union: [1; 32].into(),
                        epoch: gtvp_model::union::Epoch(0),
                        role: Role::Responder,
                        attester: *subject,
                        challenger,
                        exporter: [2; 32],
                        nonce: [3; 32],
                        attester_tls: vec![],
                        challenger_tls: vec![],
                        transcript: Digest([4; 32]),
                    };
                    batcher.add(challenger, &binding, &selection, false, Millis(ms)).unwrap();
                }
                if let Some(sealed) = batcher.poll(Millis(ms)) {
                    batcher.done();
                    quotes += 1;
                    appraisals += u32::try_from(sealed.answers.len()).unwrap();
                }
            }
        }
        let each = f64::from(n) * shifts as f64;
        (f64::from(quotes) / each, f64::from(appraisals) / each)
    }

    #[test]
    fn a_member_quotes_once_a_period_however_many_members_there_are() {
        for n in [2, 3, 4, 16, 200] {
            let (quotes, appraisals) = measured(n, false);
            println!("{n} members: {quotes} quotes, {appraisals} appraisals a member and period");
            assert!((quotes - 1.0).abs() < 1e-9, "{quotes} quotes of {n}");
            assert!((appraisals - f64::from(n.saturating_sub(1).min(2))).abs() < 1e-9);
        }
        // Even if all ask.
        let (quotes, appraisals) = measured(200, true);
        assert!((quotes - 1.0).abs() < 1e-9 && (appraisals - 199.0).abs() < 1e-9);
    }

    #[test]
    fn shifts_follow_each_other_and_begin_at_each_members_own_moment() {
        let all = members(100);
        let mut begins = BTreeSet::new();
        for m in &all {
            let shift = Shift::at(m, 1_795_000_000_000, 2_000);
            assert!(shift.begins_ms <= 1_795_000_000_000 && 1_795_000_000_000 < shift.ends_ms);
            let next = Shift::at(m, shift.ends_ms, 2_000);
            assert_eq!((next.number, next.begins_ms), (shift.number + 1, shift.ends_ms));
            assert_eq!(Shift::at(m, shift.ends_ms - 1, 2_000), shift);
            begins.insert(shift.begins_ms);
        }
        assert!(begins.len() > 50);
        Shift::at(&members(1).into_iter().next().unwrap(), u64::MAX, 0);
    }
}
