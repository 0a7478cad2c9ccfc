//! What is known of whom, told to people.

use gtvp_appraisal::appraise::{Check, State, Verdict};
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::MemberName;
use gtvp_model::union::RosterEntry;
use gtvp_model::unionview::{CheckRow, MemberRow, PeerView};

use super::{Now, Peers};
use crate::union::Known;

/// Why nobody here says anything about this member itself.
const OWN: &str =
    "a member's word for its own health is worth nothing: what others say of it is not known here yet";

impl Peers {
    /// The members; outside of a union this one alone.
    ///
    /// # Errors
    /// A damaged record.
    pub fn members(&self, now: Now) -> Result<Vec<MemberRow>, Fault> {
        let Some(known) = self.union.known()? else {
            return Ok(vec![MemberRow {
                name: self.union.name().to_string(),
                id: None,
                verdict: State::Unknown.to_string(),
                tpm: self.platform.class(),
                platform_identity: None,
                own: true,
                since_ms: None,
                attested_by: None,
                next_attestation_ms: None,
                voter: false,
            }]);
        };
        let mut rows: Vec<MemberRow> =
            known.state.view.members.values().map(|m| self.row(&known, m, now)).collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(rows)
    }

    fn row(&self, known: &Known, member: &RosterEntry, now: Now) -> MemberRow {
        let id = member.id();
        let own = known.own.as_ref().is_some_and(|o| o.id() == id);
        let current = self.table().current(&id, now, self.period()).filter(|_| !own);
        let attested_by = known.own.as_ref().map(|o| o.name.to_string());
        MemberRow {
            name: member.name.to_string(),
            id: Some(id.to_string()),
            verdict: current.map_or(State::Unknown, |c| c.state).to_string(),
            tpm: member.identity.class(),
            platform_identity: Some(member.platform_identity.get()),
            own,
            since_ms: current.map(|c| c.since_ms),
            attested_by: attested_by.filter(|_| current.is_some()),
            next_attestation_ms: current.map(|c| c.next_ms),
            voter: known.state.voters.contains(&id),
        }
    }

    /// One member, and why its verdict is what it is.
    ///
    /// # Errors
    /// `NotFound`; outside of a union.
    pub fn show(&self, name: &MemberName, now: Now) -> Result<PeerView, Fault> {
        let no_such = || {
            Fault::new(FaultKind::NotFound, format!("the union has no member {name}")).hint("gtvp member ls")
        };
        let known = self.union.known()?.ok_or_else(no_such)?;
        let member = known.state.view.members.values().find(|m| m.name == *name).ok_or_else(no_such)?;
        let row = self.row(&known, member, now);
        let not_checked = |detail: &str| CheckRow {
            check: "evidence".into(),
            outcome: "not_checked".into(),
            detail: detail.to_owned(),
        };
        if row.own {
            return Ok(PeerView { row, checks: vec![not_checked(OWN)], result: None });
        }
        let silent = self.table().current(&member.id(), now, self.period()).is_some_and(|c| c.silent);
        let last = self.table().last(&member.id()).cloned();
        let Some(last) = last else {
            let none = not_checked("this member has not seen any evidence of it since it was started");
            return Ok(PeerView { row, checks: vec![none], result: None });
        };
        let mut checks = Vec::new();
        if silent {
            checks.push(not_checked(
                "it was trusted, and has not proven itself since: what follows is from then",
            ));
        }
        checks.extend(rows(&last.verdict));
        Ok(PeerView { row, checks, result: last.result.map(|(digest, _)| digest.to_string()) })
    }
}

fn word(check: Check) -> String {
    match serde_json::to_value(check) {
        Ok(serde_json::Value::String(word)) => word,
        _ => format!("{check:?}"),
    }
}

fn rows(verdict: &Verdict) -> Vec<CheckRow> {
    let passed = verdict.passed.iter().map(|check| CheckRow {
        check: word(*check),
        outcome: "passed".into(),
        detail: check.sentence().to_owned(),
    });
    let failed = verdict.failed.iter().map(|failure| CheckRow {
        check: word(failure.check()),
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
