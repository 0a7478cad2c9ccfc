//! Whether this member may grant anything new: a box that starts, a word for another member's box, a token, an admission. Two rules:
//!
//! * *current*: a majority of the voters has put a time on this member's record within a minute, by the wall's clock and by the one
//!   that goes on whoever sets that. This member sees that itself, by signatures; nobody can make it seem so.
//! * *standing*: not so many others, of those with a TPM, as could make it trusted refuse it, as no member or as not believed. That is `communication`'s
//!   word. It can keep it back, and then the other rule is left; to invent it only makes this member do less.
//!
//! What runs goes on. Outside of a union neither rule says anything.

use std::collections::BTreeMap;

use gtvp_appraisal::appraise::State;
use gtvp_ipc::security::{HearStanding, RULE_CURRENT, Standing};
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::union::{MemberId, RosterEntry, UnionId, UnixTime};
use gtvp_model::unionview::UnionSummary;
use gtvp_protocol::csp::follow::{CURRENT, MAX_LEAD};

use super::results::with_tpm;
use super::{Now, Peers};
use crate::union::{Known, Union, forked};

/// For how long a refusal counts that is not repeated, milliseconds: members dial each other again every 30 s at the latest.
const LASTS_MS: u64 = 120_000;
/// Most characters of a refusal that are kept: HSP sends no more.
const MAX_WHY: usize = 256;

/// The head of the record, and when this process saw it go on: by the clock that nobody sets. What was there when it began is not new.
#[derive(Debug, Default)]
pub struct Advance {
    seen: Option<(UnionId, UnixTime)>,
    at: Option<u64>,
}

impl Advance {
    /// Of the record as it was when this process began.
    pub fn from(union: &Union) -> Self {
        let known = union.known().ok().flatten();
        Self { seen: known.map(|k| (k.state.view.union, k.state.head.head.time)), at: None }
    }

    fn see(&mut self, union: UnionId, time: UnixTime, ms: u64) -> Option<u64> {
        if self.seen.is_none_or(|(of, before)| of != union || time > before) {
            *self = Self { seen: Some((union, time)), at: Some(ms) };
        }
        self.at
    }
}

/// How other members see this one, the last word of each.
#[derive(Debug, Default)]
pub struct Refusals(BTreeMap<MemberId, Refused>);

#[derive(Debug, Clone)]
struct Refused {
    at: u64,
    link: (u64, u64),
    standing: Standing,
    why: String,
}

impl Refusals {
    fn hear(&mut self, told: &HearStanding, ms: u64) {
        let why = told.why.chars().filter(|c| !c.is_control()).take(MAX_WHY).collect();
        // Words of two connections may overtake each other. Nobody's number counts for longer than a refusal does.
        self.0.retain(|_, r| ms.saturating_sub(r.at) < LASTS_MS);
        if self.0.get(&told.from).is_none_or(|before| before.link <= told.link) {
            self.0.insert(told.from, Refused { at: ms, link: told.link, standing: told.standing, why });
        }
    }

    fn now(&mut self, ms: u64, counts: impl Fn(&MemberId) -> bool) -> Vec<(MemberId, Refused)> {
        self.0.retain(|id, r| ms.saturating_sub(r.at) < LASTS_MS && counts(id));
        let refused = self.0.iter().filter(|(_, r)| r.standing != Standing::Member);
        refused.map(|(id, r)| (*id, r.clone())).collect()
    }
}

impl Peers {
    /// Hears how another member sees this one. Of whoever could not make it trusted either nothing is kept: of no other member, or one
    /// without a TPM.
    pub fn hear_standing(&self, told: &HearStanding, now: Now) {
        let Some(known) = self.union.known().ok().flatten().filter(|k| k.has_us()) else { return };
        let own = known.own.as_ref().map(RosterEntry::id);
        if with_tpm(&known).contains(&told.from) && Some(told.from) != own {
            self.refusals().hear(told, now.ms);
        }
    }

    /// Whether this member may do `what`, which grants something new.
    ///
    /// # Errors
    /// `Unavailable` while its record is not current, `Denied` while others refuse it, with the rule; a record that is damaged or forked.
    pub fn may_grant(&self, what: &str, now: Now) -> Result<(), Fault> {
        let Some(known) = self.union.known()?.filter(|k| k.has_us()) else { return Ok(()) };
        if known.forked {
            return Err(forked());
        }
        self.has_current(&known, what, now)?;
        self.has_standing(&known, what, now)
    }

    /// Rule *current*.
    fn has_current(&self, known: &Known, what: &str, now: Now) -> Result<(), Fault> {
        let (time, wall) = (known.state.head.head.time, now.unix());
        let came = self.advance().see(known.state.view.union, time, now.ms);
        let comes = came.is_some_and(|at| now.ms.saturating_sub(at) <= CURRENT * 1000);
        let (behind, ahead) = (wall.0.saturating_sub(time.0), time.0.saturating_sub(wall.0));
        if comes && behind <= CURRENT && ahead <= MAX_LEAD {
            return Ok(());
        }
        let fault = Fault::new(FaultKind::Unavailable, format!("{what}: not while this member's record is not current"))
            .because(format!("{RULE_CURRENT}: whoever does not know what its union decides grants nothing new; what runs goes on"));
        if comes {
            return Err(fault
                .because(format!("this server's clock or theirs is wrong: by it it is {wall}, what a majority signed a moment ago says {time}"))
                .hint("see that all members' clocks are right: timedatectl"));
        }
        let voters: Vec<String> = known.state.voters.iter().map(|id| known.name_of(id)).collect();
        let since = if behind > CURRENT {
            format!("since {time}")
        } else {
            "within a minute, or since this member was started".into()
        };
        Err(fault
            .because(format!("no majority of those who vote ({}) has signed the record {since}", voters.join(", ")))
            .hint("see that they run and are reached: gtvp union show. For good: gtvp union recover, or gtvp union leave --force"))
    }

    /// Rule *standing*.
    fn has_standing(&self, known: &Known, what: &str, now: Now) -> Result<(), Fault> {
        let by = self.refused_by(known, now);
        let own = known.own.as_ref().map(RosterEntry::id);
        if by.is_empty() || by.len() < own.map_or(1, |own| Self::needed(known, &own)) {
            return Ok(());
        }
        let fault = Fault::new(FaultKind::Denied, format!("{what}: not while other members refuse this one"))
            .because("rule \"standing\": whoever is no member or not believed elsewhere grants nothing new; what runs goes on");
        let said = by.iter().map(|(id, r)| match r.standing {
            Standing::NoMember => {
                format!("{} says that this server is no member: {}", known.name_of(id), r.why)
            }
            _ => format!("{} does not believe this server's evidence: {}", known.name_of(id), r.why),
        });
        Err(said.fold(fault, Fault::because).hint(
            "gtvp member show NAME on that member says what failed. A member that was given up or removed: gtvp union leave --force",
        ))
    }

    /// Sees whether the head has gone on. For whoever has taken one: what nobody looks at has no time.
    pub fn head_taken(&self, now: Now) {
        if let Some(known) = self.union.known().ok().flatten() {
            self.advance().see(known.state.view.union, known.state.head.head.time, now.ms);
        }
    }

    /// Whoever refuses this member now; the word of who is untrusted here does not count.
    fn refused_by(&self, known: &Known, now: Now) -> Vec<(MemberId, Refused)> {
        let (period, judges) = (self.period(), with_tpm(known));
        let bad = |id: &MemberId| {
            self.table().current(id, now, period).is_some_and(|c| c.state == State::Untrusted)
        };
        self.refusals().now(now.ms, |id| judges.contains(id) && !bad(id))
    }

    /// The union, in short, and whether this member grants anything there now.
    ///
    /// # Errors
    /// `NotFound` outside of one.
    pub fn show_union(&self, now: Now) -> Result<UnionSummary, Fault> {
        let summary = self.union.show()?;
        let grants_nothing =
            self.may_grant("starting boxes, vouching, tokens", now).err().map(|f| f.to_string());
        Ok(UnionSummary { grants_nothing, ..summary })
    }
}
