//! Verdicts as news: what each member is now and why, for whoever is told of changes; and what a member holds of its union.

use std::collections::BTreeMap;
use std::time::Duration;

use gtvp_appraisal::appraise::State;
use gtvp_ipc::security::{HeldBy, VerdictNow};
use gtvp_model::fault::Fault;
use gtvp_model::union::{MemberId, RosterEntry};
use gtvp_model::unionview::MemberHeld;

use super::table::lasts;
use super::{Now, Peers};
use crate::union::Known;

/// Most characters of a reason: a failure has an entry of a log in it.
const MAX_REASON: usize = 400;

impl Peers {
    /// What is different from `told`, which is brought up to date. Outside of a union nothing is, and nothing stays told.
    ///
    /// # Errors
    /// A damaged record.
    pub fn verdicts(
        &self,
        told: &mut BTreeMap<MemberId, String>,
        now: Now,
    ) -> Result<Vec<VerdictNow>, Fault> {
        let Some(known) = self.union.known()?.filter(|k| k.has_us()) else {
            told.clear();
            return Ok(Vec::new());
        };
        self.only(&known);
        let begins = told.is_empty();
        told.retain(|id, _| known.member(id).is_some());
        let rows: Vec<_> = known
            .state
            .view
            .members
            .values()
            .map(|m| VerdictNow {
                begins,
                first: !told.contains_key(&m.id()),
                ..self.verdict(&known, m, now)
            })
            .collect();
        let new = |row: &VerdictNow| told.insert(row.id, row.verdict.clone()).as_ref() != Some(&row.verdict);
        Ok(rows.into_iter().filter(new).collect::<Vec<_>>())
    }

    fn verdict(&self, known: &Known, member: &RosterEntry, now: Now) -> VerdictNow {
        let row = self.row(known, member, now);
        let table = self.table();
        let silent = table.current(&member.id(), now, self.period()).is_some_and(|c| c.silent);
        let failed = table.last(&member.id()).and_then(|last| {
            let first = last.verdict.failed.first()?;
            let more = last.verdict.failed.len().saturating_sub(1);
            let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
            Some(format!("{}: {first}{more}", first.name()))
        });
        let trusted = row.verdict == State::Trusted.to_string();
        let reason = match (trusted, failed) {
            (true, _) => format!("attested by {}", row.attested_by.as_deref().unwrap_or("nobody")),
            (false, Some(failed)) if !silent => failed,
            (false, _) if row.own => "too few others whom this member trusts say anything of it".into(),
            (false, _) if silent => "it has not proven itself for two and a half periods".into(),
            (false, _) => "this member has not seen any evidence of it since it was started".into(),
        };
        VerdictNow {
            id: member.id(),
            name: member.name.clone(),
            own: row.own,
            verdict: row.verdict,
            reason: reason.chars().take(MAX_REASON).collect(),
            begins: false,
            first: false,
        }
    }

    /// The record has new entries: whoever waits for verdicts looks again, as somebody may have gone, and may come again soon.
    pub fn entries_taken(&self) {
        self.turns.bump();
    }

    /// Waits until a verdict may have changed since there were `seen` changes: by an appraisal, a result, or the time; no longer than
    /// `longest`. Says how many changes there were.
    pub fn wait_verdicts(&self, seen: u64, now: Now, longest: Duration) -> u64 {
        let next = self.ends(now).map_or(longest, |ms| Duration::from_millis(ms.saturating_add(1)));
        self.turns.wait(seen, next.min(longest))
    }

    /// In how many milliseconds a verdict ends if nothing is heard.
    fn ends(&self, now: Now) -> Option<u64> {
        let known = self.union.known().ok().flatten().filter(|k| k.has_us())?;
        let period = self.period();
        let (table, mut heard) = (self.table(), Vec::new());
        for id in known.state.view.members.keys() {
            heard.extend(
                self.heard()
                    .of(id, now, period)
                    .into_iter()
                    .map(|(_, said)| said.at.ms.saturating_add(lasts(period))),
            );
        }
        let ends = table.ends(period).chain(heard);
        ends.map(|at| at.saturating_sub(now.ms)).filter(|left| *left > 0).min()
    }

    /// What a member holds, or held, of the union: by what its record says.
    ///
    /// # Errors
    /// Outside of a union.
    pub fn held_by(&self, asked: &HeldBy, now: Now) -> Result<MemberHeld, Fault> {
        self.union.held_by(&asked.member, now.unix())
    }
}
