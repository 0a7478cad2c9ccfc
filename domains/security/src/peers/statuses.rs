//! How members are, in their own words (docs/spec/gossip.md): this member's is signed when it is time to tell it, others' are looked at
//! and kept for people. No verdict, permit or signature ever looks at one.

use std::collections::BTreeMap;

use gtvp_ipc::security::{SignStatus, SignedStatus, StatusHeard};
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::union::{MemberId, RosterEntry};
use gtvp_model::unionview::StatusView;
use gtvp_protocol::gossip::{Entry, Kind, Status, Times, content};

use super::{Now, Peers};
use crate::union::Known;

/// Of each member the newest, and of this one what it has told last.
#[derive(Debug, Default)]
pub struct Statuses(BTreeMap<MemberId, (Status, u64, u64)>);

impl Statuses {
    /// The newest of somebody, until it ends: with when it was said, milliseconds since 1970.
    fn of(&self, id: &MemberId, now: Now) -> Option<(&Status, u64)> {
        let (status, said, _) = self.0.get(id).filter(|(.., ends)| *ends > now.wall_ms)?;
        Some((status, *said))
    }

    /// Whether others should hear of this: it differs, or what they know has nearly ended. At most once a period, however it changes.
    fn tells(&self, own: &MemberId, status: &Status, now: Now, times: Times) -> bool {
        let Some((before, said)) = self.of(own, now) else { return true };
        let age = now.wall_ms.saturating_sub(said);
        age >= times.period && status.differs(before) || age >= times.status() / 10 * 8
    }

    fn put(&mut self, id: MemberId, status: Status, said: u64, ends: u64) {
        if self.0.get(&id).is_none_or(|(_, before, _)| *before < said) {
            self.0.insert(id, (status, said, ends));
        }
    }
}

impl Peers {
    fn statuses(&self) -> std::sync::MutexGuard<'_, Statuses> {
        self.statuses.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Signs how this member is, if it is time to tell that: at most one signature a period.
    ///
    /// # Errors
    /// Outside of a union; this member's TPM.
    pub fn sign_status(&self, asked: SignStatus, now: Now) -> Result<SignedStatus, Fault> {
        let no_union = || Fault::new(FaultKind::WrongState, "this server is in no union");
        let known = self.union.known()?.filter(|k| k.has_us()).ok_or_else(no_union)?;
        let own = known.own.as_ref().map(RosterEntry::id).ok_or_else(no_union)?;
        let times = Times::of(self.period());
        let status = Status { record: known.state.view.head.number, ..asked.status };
        if !self.statuses().tells(&own, &status, now, times) {
            return Ok(SignedStatus { entry: None });
        }
        let unsigned = Entry {
            author: own,
            kind: Kind::Status,
            subject: own,
            version: now.wall_ms,
            expires: now.wall_ms.saturating_add(times.status()),
            body: status.encode(),
            public: Default::default(),
            signature: Default::default(),
        };
        let entry = self.union.sign_gossip(known.state.view.union, unsigned)?;
        self.statuses().put(own, status, entry.version, entry.expires);
        Ok(SignedStatus { entry: Some(Box::new(entry)) })
    }

    /// Looks at another member's status, and keeps it if that member has signed it.
    pub fn hear_status(&self, entry: &Entry, now: Now) -> StatusHeard {
        let Some(known) = self.union.known().ok().flatten().filter(|k| k.has_us()) else {
            return StatusHeard::Unknown;
        };
        let Some(author) = known.member(&entry.author) else { return StatusHeard::Unknown };
        let content = content(known.state.view.union, entry);
        let (public, signature) = (entry.public.as_slice(), entry.signature.as_slice());
        let own_word = entry.kind == Kind::Status && entry.subject == entry.author;
        if !own_word || !crate::union::is_by(author, public, &content, signature) {
            return StatusHeard::Forged;
        }
        // Signed, and not what this version of GTVP reads: nobody's fault, and nothing to show.
        let Ok(status) = Status::decode(entry.body.as_slice()) else { return StatusHeard::Unknown };
        let most = now.wall_ms.saturating_add(Times::of(self.period()).status());
        let mut statuses = self.statuses();
        statuses.0.retain(|id, _| known.member(id).is_some());
        statuses.put(entry.author, status, entry.version, entry.expires.min(most));
        StatusHeard::Good
    }

    /// For people.
    pub(super) fn status_of(&self, known: &Known, id: &MemberId, now: Now) -> Option<StatusView> {
        let statuses = self.statuses();
        let (status, said_ms) = statuses.of(id, now).filter(|_| known.member(id).is_some())?;
        let Status { load, cpus, memory_free_mib, memory_mib, boxes, record, components_mib, .. } = *status;
        let version = status.version.clone();
        Some(StatusView {
            said_ms,
            load,
            cpus,
            memory_free_mib,
            memory_mib,
            boxes,
            version,
            record,
            components_mib,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now { wall_ms: 1_795_000_000_000 + ms, ms }
    }

    fn status(boxes: u32) -> Status {
        Status {
            load: 0,
            cpus: 2,
            memory_free_mib: 1_000,
            memory_mib: 2_000,
            boxes,
            version: "0.1.0".into(),
            record: 3,
            components_mib: 10,
        }
    }

    #[test]
    fn it_is_told_when_it_changes_once_a_period_and_before_it_ends() {
        let (own, times) = ([1; 32].into(), Times::of(30_000));
        let mut statuses = Statuses::default();
        assert!(statuses.tells(&own, &status(0), at(0), times), "the first");
        statuses.put(own, status(0), at(0).wall_ms, at(times.status()).wall_ms);
        assert!(!statuses.tells(&own, &status(0), at(30_000), times), "nothing has changed");
        assert!(!statuses.tells(&own, &status(1), at(29_999), times), "less than a period ago");
        assert!(statuses.tells(&own, &status(1), at(30_000), times));
        assert!(statuses.tells(&own, &status(0), at(240_000), times), "it would end soon");
        // Nothing older takes its place, and it ends.
        statuses.put(own, status(9), at(0).wall_ms - 1, u64::MAX);
        assert_eq!(statuses.of(&own, at(1)).map(|(s, _)| s.boxes), Some(0));
        assert!(statuses.of(&own, at(times.status())).is_none());
    }
}
