//! Whose word counts, and when a member's evidence need not be asked for: the rules of docs/spec/results.md, over what is known. Pure:
//! the product's `results` and the simulation of a thousand members (tests/belief.rs) go by the same.

use std::collections::BTreeSet;

use gtvp_appraisal::appraise::State;
use gtvp_model::union::MemberId;
use gtvp_protocol::rota::{Shift, VERIFIERS};

use super::Now;
use super::heard::Said;
use super::table::{GoesOn, Table, lasts};

/// Whether somebody is trusted here by evidence that this member has appraised itself, or going on from there.
pub fn trusts(table: &Table, id: &MemberId, now: Now, period: u64) -> bool {
    table.current(id, now, period).is_some_and(|c| c.state == State::Trusted)
}

/// Of what is said about somebody what counts now: by members whom this one trusts, of no earlier life of its TPM than was seen.
pub fn standing(
    table: &Table,
    said: impl IntoIterator<Item = (MemberId, Said)>,
    subject: &MemberId,
    now: Now,
    period: u64,
) -> Vec<(MemberId, Said)> {
    let seen = table.last(subject).and_then(|last| last.verdict.clock);
    let in_time = |s: &Said| seen.is_none_or(|seen| s.clock.epoch() >= seen.epoch());
    said.into_iter().filter(|(by, s)| in_time(s) && trusts(table, by, now, period)).collect()
}

/// Whose turn it is; looked at only where it matters.
pub struct Turn<'a> {
    /// The shift of the subject's.
    pub shift: Shift,
    /// Whether this member is its verifier.
    pub ours: &'a dyn Fn() -> bool,
    /// Who was, is or will be about this shift.
    pub lately: &'a dyn Fn() -> BTreeSet<MemberId>,
}

/// For how long nothing is to be asked of a member, milliseconds; what was found of it then goes on by what is said. `None`: its
/// evidence is to be asked for now.
pub fn rest(
    table: &mut Table,
    said: impl IntoIterator<Item = (MemberId, Said)>,
    subject: &MemberId,
    turn: &Turn<'_>,
    now: Now,
    period: u64,
) -> Option<u64> {
    let shift = turn.shift;
    // At least a moment, so that nobody asks on and on; at most a period, whatever the wall's clock says.
    let rest = shift.ends_ms.saturating_sub(now.wall_ms).clamp(1, period.max(1));
    let last = table.last(subject).filter(|l| l.verdict.state == State::Trusted)?;
    let (at, life) = (last.at, last.verdict.clock.map(|c| c.epoch()));
    let age = now.ms.saturating_sub(at.ms);
    if at.wall_ms >= shift.begins_ms && age < period {
        return Some(rest);
    }
    if (turn.ours)() {
        return None;
    }
    // Two who were its verifiers lately, and have said so not long ago, of the same life of its TPM.
    let lately = (turn.lately)();
    let new = |s: &Said| now.ms.saturating_sub(s.at.ms) <= period.saturating_mul(3) / 2;
    let said: Vec<_> = standing(table, said, subject, now, period)
        .into_iter()
        .filter(|(by, s)| lately.contains(by) && new(s) && Some(s.clock.epoch()) == life)
        .collect();
    if said.len() < VERIFIERS {
        return None;
    }
    let until = said.iter().map(|(_, s)| s.at.ms.saturating_add(lasts(period))).min()?;
    let by = said.iter().map(|(by, _)| *by).collect();
    table.goes_on(subject, GoesOn { until, by, next_ms: shift.ends_ms });
    Some(rest)
}
