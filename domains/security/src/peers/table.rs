//! What is known of whom, by this member's own appraisal. Pure: it is told the time.
//!
//! ```text
//!   unknown ──trusted evidence──▶ trusted ──2.5 periods without──▶ unknown
//!      ▲                          │ ▲──┘ goes on, while its verifiers' results stand
//!      │                            │ evidence that cannot be believed ─▶ unknown
//!      └── (of nobody else's word)  │ evidence of something unhealthy ──▶ untrusted ──trusted evidence──▶ trusted
//! ```
//! Silence makes nobody untrusted, and what was shown to be unhealthy does not become unknown by silence. Nobody else's word makes
//! anybody trusted here; what was found here goes on by the word of those who are trusted, and ends with the trust in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::digest::Context;
use gtvp_appraisal::appraise::{Held, State, Verdict};
use gtvp_appraisal::reference::ReferenceSet;
use gtvp_model::digest::Digest;
use gtvp_model::ids::MemberName;
use gtvp_model::union::{EkDigest, MemberId, Whom};

use super::Now;
use crate::union::Seen;

/// Of whom something is remembered: every member that a union can have, and some joiners.
const MOST: usize = 1_064;

/// Logs that were appraised, for the next evidence to go on from.
#[derive(Clone)]
pub struct Logs {
    /// Appraisal's.
    pub held: Held,
    /// SHA-256 of the part of each log that was appraised, in the order of `LogKind::ALL`.
    pub digests: [Option<Context>; 3],
    /// By which reference values.
    pub set: Arc<ReferenceSet>,
}

/// The last appraisal.
#[derive(Debug, Clone)]
pub struct Last {
    /// When.
    pub at: Now,
    /// What it found.
    pub verdict: Verdict,
    /// The attestation result, signed, and its digest.
    pub result: Option<(Digest, Arc<[u8]>)>,
}

/// Somebody.
pub struct Row {
    name: MemberName,
    ek: EkDigest,
    since_ms: u64,
    last: Last,
    logs: Option<Arc<Logs>>,
    goes_on: Option<GoesOn>,
}

/// A verdict that needs no evidence of its own for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoesOn {
    /// Until then, in the time of [`Now::ms`].
    pub until: u64,
    /// By whose results.
    pub by: Vec<MemberId>,
    /// When others appraise it next, milliseconds since 1970-01-01 UTC.
    pub next_ms: u64,
}

/// A verdict, with its age looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Current {
    /// What somebody is.
    pub state: State,
    /// Since when, milliseconds since 1970-01-01 UTC.
    pub since_ms: u64,
    /// When it is appraised next, in the same.
    pub next_ms: u64,
    /// Whether it was trusted and nothing was heard since.
    pub silent: bool,
}

/// See the module.
#[derive(Default)]
pub struct Table(BTreeMap<MemberId, Row>);

/// Two and a half periods: one may be lost, and the next be late.
pub fn lasts(period: u64) -> u64 {
    period.saturating_mul(5) / 2
}

impl Table {
    /// An appraisal was made. With `logs` the next goes on from there; without, the next one is whole.
    pub fn appraised(
        &mut self,
        id: MemberId,
        (name, ek): (&MemberName, EkDigest),
        last: Last,
        logs: Option<Arc<Logs>>,
        period: u64,
    ) {
        let before = self.current(&id, last.at, period);
        // Another life of the TPM is another verdict, whatever it says.
        let life = |verdict: &Verdict| verdict.clock.map(|c| c.epoch());
        let reborn = self.0.get(&id).is_some_and(|row| life(&row.last.verdict) != life(&last.verdict));
        let same = before.filter(|b| b.state == last.verdict.state && !reborn);
        let since_ms = same.map_or(last.at.wall_ms, |b| b.since_ms);
        if self.0.len() >= MOST && !self.0.contains_key(&id) {
            let oldest = self.0.iter().min_by_key(|(_, row)| row.last.at.ms).map(|(id, _)| *id);
            oldest.map(|id| self.0.remove(&id));
        }
        self.0.insert(id, Row { name: name.clone(), ek, since_ms, last, logs, goes_on: None });
    }

    /// What was found of somebody goes on by others' results.
    pub fn goes_on(&mut self, id: &MemberId, how: GoesOn) {
        if let Some(row) = self.0.get_mut(id) {
            row.goes_on = Some(how);
        }
    }

    /// Nobody's verdict rests any more on those who are no members.
    pub fn only(&mut self, member: impl Fn(&MemberId) -> bool) {
        let gone = |g: &mut GoesOn| !g.by.iter().all(&member);
        self.0.values_mut().for_each(|row| drop(row.goes_on.take_if(gone)));
    }

    /// Whose results count by which somebody's verdict goes on now; `None`: it rests on evidence of its own, or does not go on.
    pub fn rests_on(&self, id: &MemberId, ms: u64, period: u64) -> Option<&GoesOn> {
        let row = self.0.get(id)?;
        if ms.saturating_sub(row.last.at.ms) <= lasts(period) {
            return None;
        }
        let by_trusted = |g: &&GoesOn| g.by.iter().all(|v| self.not_lapsed(v, ms, period));
        row.goes_on.as_ref().filter(|g| g.until >= ms).filter(by_trusted)
    }

    /// Trusted by evidence of its own, or going on from there. Whether those by whom it does are still trusted is not looked at.
    fn not_lapsed(&self, id: &MemberId, ms: u64, period: u64) -> bool {
        let fresh = |row: &&Row| ms.saturating_sub(row.last.at.ms) <= lasts(period);
        let goes_on = |row: &&Row| row.goes_on.as_ref().is_some_and(|g| g.until >= ms);
        let trusted = self.0.get(id).filter(|row| row.last.verdict.state == State::Trusted);
        trusted.is_some_and(|row| fresh(&row) || goes_on(&row))
    }

    /// When verdicts end that nothing is heard of, in the time of [`Now::ms`].
    pub fn ends(&self, period: u64) -> impl Iterator<Item = u64> {
        let trusted = self.0.values().filter(|row| row.last.verdict.state == State::Trusted);
        trusted.map(move |row| {
            let own = row.last.at.ms.saturating_add(lasts(period));
            row.goes_on.as_ref().map_or(own, |g| g.until.max(own))
        })
    }

    /// What somebody is now.
    pub fn current(&self, id: &MemberId, now: Now, period: u64) -> Option<Current> {
        let row = self.0.get(id)?;
        let next_ms = row.last.at.wall_ms.saturating_add(period);
        let state = row.last.verdict.state;
        let age = now.ms.saturating_sub(row.last.at.ms);
        if state == State::Trusted && age > lasts(period) {
            if let Some(on) = self.rests_on(id, now.ms, period) {
                let next_ms = on.next_ms;
                return Some(Current { state, since_ms: row.since_ms, next_ms, silent: false });
            }
            let since_ms = row.last.at.wall_ms.saturating_add(lasts(period));
            return Some(Current { state: State::Unknown, since_ms, next_ms, silent: true });
        }
        Some(Current { state, since_ms: row.since_ms, next_ms, silent: false })
    }

    /// Who is trusted now.
    pub fn trusted(&self, ms: u64, period: u64) -> Vec<MemberId> {
        let now = Now { wall_ms: 0, ms };
        let is = |id: &&MemberId| self.current(id, now, period).is_some_and(|c| c.state == State::Trusted);
        self.0.keys().filter(is).copied().collect()
    }

    /// The last appraisal of somebody.
    pub fn last(&self, id: &MemberId) -> Option<&Last> {
        self.0.get(id).map(|row| &row.last)
    }

    /// The logs that are held of somebody.
    pub fn logs(&self, id: &MemberId) -> Option<Arc<Logs>> {
        self.0.get(id)?.logs.clone()
    }

    /// Everybody whose evidence was seen under this name, or by this endorsement key, and what failed in the last of each.
    pub fn seen(&self, whom: &Whom) -> Vec<(MemberId, EkDigest, Seen)> {
        let is = |row: &Row| match whom {
            Whom::Name(name) => row.name == *name,
            Whom::Ek(ek) => row.ek == *ek,
        };
        let seen = |row: &Row| Seen { name: row.name.clone(), failed: row.last.verdict.failed.clone() };
        self.0.iter().filter(|(_, row)| is(row)).map(|(id, row)| (*id, row.ek, seen(row))).collect()
    }
}
