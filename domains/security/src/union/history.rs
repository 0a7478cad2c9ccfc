//! The record, told to people.

use std::collections::{BTreeMap, VecDeque};

use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::MemberName;
use gtvp_model::union::MemberId;
use gtvp_model::unionview::HistoryRow;
use gtvp_protocol::csp::{Act, Entry, Owning};

use super::{Union, damaged};
use crate::platform::chain as causes;

/// Rows of one answer, the newest: some 2 MiB.
const MAX_ROWS: usize = 5_000;

impl Union {
    /// The entries, or those that are about or by one member.
    ///
    /// # Errors
    /// `NotFound` outside of a union, or for a name that no member ever had; a damaged record.
    pub fn history(&self, about: Option<&MemberName>) -> Result<Vec<HistoryRow>, Fault> {
        let end = self.read(|kept| Ok(kept.record().view().head.number))?;
        let mut names: BTreeMap<MemberId, MemberName> = BTreeMap::new();
        let mut rows = VecDeque::new();
        let mut known = about.is_none();
        for number in 0..=end {
            let item = self.disk.entry(number).map_err(|e| damaged(&causes(&e)))?;
            let entry = Entry::decode(item.entry.entry.as_slice()).map_err(|e| damaged(&e.to_string()))?;
            if let Act::Genesis { founder: member, .. } = &entry.act {
                names.insert(member.id(), member.name.clone());
            }
            if let Act::Admitted(admission) = &entry.act {
                names.insert(admission.member.id(), admission.member.name.clone());
            }
            let name = |id: &MemberId| names.get(id).map_or_else(|| id.short(), ToString::to_string);
            let (act, text, whom) = told(&entry.act, &name);
            let concerns = |n: &MemberName| {
                names.get(&entry.author) == Some(n) || whom.iter().any(|id| names.get(id) == Some(n))
            };
            if !about.is_none_or(concerns) {
                continue;
            }
            known = true;
            if rows.len() == MAX_ROWS {
                rows.pop_front();
            }
            rows.push_back(HistoryRow {
                number,
                time: entry.time.0,
                author: name(&entry.author),
                act: act.to_owned(),
                about: text,
                hash: item.entry.hash().to_string(),
            });
        }
        match about {
            Some(name) if !known => {
                Err(Fault::new(FaultKind::NotFound, format!("the record has never had a member {name}")))
            }
            _ => Ok(rows.into()),
        }
    }
}

fn told(act: &Act, name: &dyn Fn(&MemberId) -> String) -> (&'static str, String, Vec<MemberId>) {
    match act {
        Act::Genesis { name: union, founder, .. } => {
            ("genesis", format!("union {union} begins with {}", founder.name), vec![founder.id()])
        }
        Act::TokenMade(token) => {
            let whom = token.ek.map_or_else(String::new, |ek| format!(" for the TPM {}", ek.short()));
            (
                "token_made",
                format!("join token {}{whom}, until {}", token.key.id().short(), token.expires),
                Vec::new(),
            )
        }
        Act::TokenEnded(id) => ("token_ended", format!("join token {} ends", id.short()), Vec::new()),
        Act::Admitted(admission) => {
            let member = &admission.member;
            let (class, level) = (member.identity.class(), member.platform_identity.get());
            let token = admission.token.short();
            let text = format!("{} is a member: TPM {class}, level {level}, by token {token}", member.name);
            ("admitted", text, vec![member.id()])
        }
        Act::Left => ("left", "it leaves the union".to_owned(), Vec::new()),
        Act::Evicted { member, reason } => {
            let why = if reason.is_empty() { "no reason was given" } else { reason };
            ("evicted", format!("{} is removed: {why}", name(member)), vec![*member])
        }
        Act::Voters(voters) => {
            let names: Vec<String> = voters.iter().map(name).collect();
            ("voters", format!("those who vote: {}", names.join(", ")), Vec::new())
        }
        Act::Recovered { lost, reason } => {
            let names: Vec<String> = lost.iter().map(name).collect();
            let why = if reason.is_empty() { "no reason was given" } else { reason };
            let text = format!("it votes alone; given up: {}: {why}", names.join(", "));
            ("recovered", text, lost.iter().copied().collect())
        }
        Act::ReferenceAccepted { name, manifest } => {
            let bytes = manifest.as_slice().len();
            ("reference_accepted", format!("reference values {name} count ({bytes} bytes)"), Vec::new())
        }
        Act::ReferenceRetired { name } => {
            ("reference_retired", format!("reference values {name} count no more"), Vec::new())
        }
        Act::Box { id, does } => of_box(&id.short(), does, name),
    }
}

fn of_box(
    id: &str,
    does: &Owning,
    name: &dyn Fn(&MemberId) -> String,
) -> (&'static str, String, Vec<MemberId>) {
    match does {
        Owning::Placed { name } => ("box_placed", format!("box {name} ({id}) begins"), Vec::new()),
        Owning::Moved { from, to, epoch, ticket, .. } => {
            let (source, target, ticket) = (name(from), name(to), ticket.short());
            let text = format!("box {id} moves from {source} to {target}, epoch {epoch}, ticket {ticket}");
            ("box_moved", text, vec![*from, *to])
        }
        Owning::MoveAborted { epoch, ticket } => {
            let ticket = ticket.short();
            let text = format!("box {id} stays: its move is given up, epoch {epoch}, ticket {ticket}");
            ("box_move_aborted", text, Vec::new())
        }
        Owning::Ended { epoch } => ("box_ended", format!("box {id} ends in epoch {epoch}"), Vec::new()),
        Owning::Adopted { epoch, .. } => (
            "box_adopted",
            format!("box {id}, whose owner was removed, is adopted, epoch {epoch}"),
            Vec::new(),
        ),
    }
}
