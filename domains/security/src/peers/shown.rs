//! What is known of whom, told to people.

use gtvp_appraisal::appraise::{State, Verdict};
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::MemberName;
use gtvp_model::union::{MemberId, RosterEntry};
use gtvp_model::unionview::{CheckRow, MemberRow, PeerView};

use super::heard::Said;
use super::{Now, Peers};
use crate::union::Known;

/// Why there is no verdict about this member itself.
const OWN: &str = "a member's word for its own health is worth nothing, and too few others whom it trusts have said anything of it";

impl Peers {
    /// The members; outside of a union this one alone.
    ///
    /// # Errors
    /// A damaged record.
    pub fn members(&self, now: Now) -> Result<Vec<MemberRow>, Fault> {
        let Some(known) = self.union.known()?.filter(|k| k.has_us()) else {
            return Ok(vec![MemberRow {
                name: self.union.name().to_string(),
                id: None,
                verdict: State::Unknown.to_string(),
                tpm: self.platform.class(),
                tpm_by: None,
                platform_identity: None,
                own: true,
                since_ms: None,
                attested_by: None,
                next_attestation_ms: None,
                voter: false,
                only_voter: false,
                status: None,
            }]);
        };
        self.only(&known);
        let mut rows: Vec<MemberRow> =
            known.state.view.members.values().map(|m| self.row(&known, m, now)).collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(rows)
    }

    pub(super) fn row(&self, known: &Known, member: &RosterEntry, now: Now) -> MemberRow {
        let id = member.id();
        let own = known.own.as_ref().is_some_and(|o| o.id() == id);
        let period = self.period();
        let voter = known.state.voters.contains(&id);
        let current = self.table().current(&id, now, period).filter(|_| !own);
        let by_others = self.by_others(known, &id, now);
        let mut row = MemberRow {
            name: member.name.to_string(),
            id: Some(id.to_string()),
            verdict: current.map_or(State::Unknown, |c| c.state).to_string(),
            tpm: member.identity.class(),
            tpm_by: Some(member.identity.rests_on()),
            platform_identity: Some(member.platform_identity.get()),
            own,
            since_ms: current.map(|c| c.since_ms),
            attested_by: known.own.as_ref().filter(|_| current.is_some()).map(|o| o.name.to_string()),
            next_attestation_ms: current.map(|c| c.next_ms),
            voter,
            only_voter: voter && known.state.voters.len() == 1 && known.state.view.members.len() > 1,
            status: self.status_of(known, &id, now),
        };
        if let Some(on) = self.table().rests_on(&id, now.ms, period).filter(|_| !own) {
            row.attested_by = Some(names(known, &on.by));
        } else if let Some(others) = by_others.filter(|_| current.is_none_or(|c| c.silent)) {
            row.verdict = State::Trusted.to_string();
            row.since_ms = others.iter().map(|(_, s)| s.since_ms).min();
            row.attested_by = Some(names(known, others.iter().map(|(by, _)| by)));
            let last = others.iter().map(|(_, s)| s.at.wall_ms).max();
            row.next_attestation_ms = last.map(|ms| ms.saturating_add(period));
        }
        row
    }

    /// What others say of somebody, if they are enough.
    fn by_others(&self, known: &Known, id: &MemberId, now: Now) -> Option<Vec<(MemberId, Said)>> {
        let said = self.standing(id, now, self.period());
        (said.len() >= Self::needed(known, id)).then_some(said)
    }

    /// One member, and why its verdict is what it is.
    ///
    /// # Errors
    /// `NotFound`; outside of a union.
    pub fn show(&self, name: &MemberName, now: Now) -> Result<PeerView, Fault> {
        let no_such = || {
            Fault::new(FaultKind::NotFound, format!("the union has no member {name}")).hint("gtvp member ls")
        };
        let known = self.union.known()?.filter(|k| k.has_us()).ok_or_else(no_such)?;
        let member = known.state.view.members.values().find(|m| m.name == *name).ok_or_else(no_such)?;
        self.only(&known);
        let row = self.row(&known, member, now);
        let held = Some(self.union.held_by(&member.id(), now.unix())?);
        let not_checked = |detail: &str| CheckRow {
            check: "evidence".into(),
            outcome: "not_checked".into(),
            detail: detail.to_owned(),
        };
        let others = self.by_others(&known, &member.id(), now);
        let said = others.filter(|_| row.verdict == State::Trusted.to_string()).map(|said| CheckRow {
            check: "results".into(),
            outcome: "passed".into(),
            detail: format!(
                "{} of those whom this member trusts have appraised it and found it trusted: {}; their results end within {} s",
                said.len(),
                names(&known, said.iter().map(|(by, _)| by)),
                said.iter().map(|(_, s)| s.expires.saturating_sub(now.seconds())).max().unwrap_or(0),
            ),
        });
        if row.own {
            let withheld = self.union.withheld().map(|why| CheckRow {
                check: "vote".into(),
                outcome: "failed".into(),
                detail: format!("withheld: {why}"),
            });
            let checks = withheld.into_iter().chain([said.unwrap_or_else(|| not_checked(OWN))]).collect();
            return Ok(PeerView { row, checks, result: None, held });
        }
        let silent = self.table().current(&member.id(), now, self.period()).is_some_and(|c| c.silent);
        let last = self.table().last(&member.id()).cloned();
        let Some(last) = last else {
            let none = not_checked("this member has not seen any evidence of it since it was started");
            return Ok(PeerView {
                row,
                checks: said.into_iter().chain([none]).collect(),
                result: None,
                held,
            });
        };
        let mut checks: Vec<_> = said.into_iter().collect();
        if silent {
            checks.push(not_checked(
                "it was trusted, and has not proven itself since: what follows is from then",
            ));
        }
        checks.extend(rows(&last.verdict));
        Ok(PeerView { row, checks, result: last.result.map(|(digest, _)| digest.to_string()), held })
    }
}

/// For people.
fn names<'a>(known: &Known, ids: impl IntoIterator<Item = &'a MemberId>) -> String {
    let name = |id: &MemberId| known.name_of(id);
    let mut names: Vec<String> = ids.into_iter().map(name).collect();
    names.sort();
    names.join(", ")
}

fn rows(verdict: &Verdict) -> Vec<CheckRow> {
    let passed = verdict.passed.iter().map(|check| CheckRow {
        check: check.word().into(),
        outcome: "passed".into(),
        detail: check.sentence().to_owned(),
    });
    let failed = verdict.failed.iter().map(|failure| CheckRow {
        check: failure.check().word().into(),
        outcome: "failed".into(),
        detail: format!("{}: {failure}", failure.name()),
    });
    let not_made = verdict.not_made.iter().map(|what| CheckRow {
        check: "not made".into(),
        outcome: "not_checked".into(),
        detail: what.to_string(),
    });
    passed.chain(failed).chain(not_made).collect()
}
