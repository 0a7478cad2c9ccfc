//! Other members and joiners, appraised: what HSP asks of `security` (docs/spec/hsp.md), and what is known of whom.
//!
//! Nothing comes in here as bytes to be signed, and nothing goes out as "trusted" that was not appraised by the union's own reference
//! values.

mod appraise;
pub mod asks;
pub mod believed;
pub mod clocks;
mod enrol;
mod fence;
pub mod heard;
mod quote;
mod results;
pub mod rules;
mod shown;
mod statuses;
pub mod table;
mod verdicts;
mod vouch;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gtvp_appraisal::ek::Roots;
use gtvp_ipc::security::{Housekeeping, Wish, WriteAdmission, WriteEntry, WriteHousekeeping, Written};
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::union::{EkDigest, Identity, MemberId, RosterEntry, TpmClass, UnixTime, Whom};
use gtvp_protocol::csp::SignedEntry;

use crate::platform::Platform;
use crate::reference;
use crate::turns::Turns;
use crate::union::{Means, Seen, Union};
use crate::vendors;
use asks::Asks;
use believed::Believed;
use clocks::Clocks;
use fence::{Advance, Refusals};
use heard::Heard;
use quote::Prefixes;
use results::Outbox;
use table::Table;

pub use appraise::kind_of;

/// What time it is: the wall's for what is told, the machine's for what must not go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since 1970-01-01 UTC.
    pub wall_ms: u64,
    /// Milliseconds of a clock that never goes back.
    pub ms: u64,
}

impl Now {
    /// Seconds since 1970-01-01 UTC.
    pub fn unix(self) -> UnixTime {
        UnixTime(self.wall_ms / 1000)
    }

    fn seconds(self) -> i64 {
        i64::try_from(self.wall_ms / 1000).unwrap_or(i64::MAX)
    }
}

/// See the module.
pub struct Peers {
    union: Arc<Union>,
    platform: Arc<Platform>,
    roots: Roots,
    believed: Mutex<Believed>,
    asks: Mutex<Asks>,
    table: Mutex<Table>,
    clocks: Mutex<Clocks>,
    prefixes: Mutex<Prefixes>,
    heard: Mutex<Heard>,
    outbox: Outbox,
    statuses: Mutex<statuses::Statuses>,
    pending: Mutex<vouch::Pending>,
    refusals: Mutex<Refusals>,
    advance: Mutex<Advance>,
    /// How often something was learned of anybody.
    turns: Turns,
}

impl Peers {
    /// Of this union. `state` is this domain's folder, which may have roots of EK certificates.
    pub fn new(union: Arc<Union>, platform: Arc<Platform>, state: &Path) -> Self {
        let advance = Advance::from(&union);
        Self {
            union,
            platform,
            roots: vendors::roots(state),
            believed: Mutex::default(),
            asks: Mutex::default(),
            table: Mutex::default(),
            clocks: Mutex::new(Clocks::open(state)),
            prefixes: Mutex::default(),
            heard: Mutex::default(),
            outbox: Outbox::default(),
            statuses: Mutex::default(),
            pending: Mutex::default(),
            refusals: Mutex::default(),
            advance: Mutex::new(advance),
            turns: Turns::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clocks(&self) -> MutexGuard<'_, Clocks> {
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asks(&self) -> MutexGuard<'_, Asks> {
        self.asks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(&self) -> MutexGuard<'_, Advance> {
        self.advance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn believed(&self) -> MutexGuard<'_, Believed> {
        self.believed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often members prove themselves, milliseconds: as the union has it.
    fn period(&self) -> u64 {
        let known = self.union.known().ok().flatten();
        let settings = known.map(|k| k.state.view.settings).unwrap_or_default();
        settings.attest_every_ms.into()
    }

    /// Writes the entry that admits a joiner.
    ///
    /// # Errors
    /// `Denied` for one that was not believed here a short time ago; [`Self::may_grant`]; what the record says no to.
    pub fn write_admission(&self, asked: &WriteAdmission, now: Now) -> Result<SignedEntry, Fault> {
        let admission = &asked.admission;
        self.may_grant("letting a server in", now)?;
        let identity = &admission.member.identity;
        // Without a TPM there is nothing to believe: the record says whether the union takes such a member.
        if identity.class() != TpmClass::None {
            self.believed().admits(identity, now.ms).map_err(|missing| {
                Fault::new(FaultKind::Denied, format!("{} is not admitted", admission.member.name))
                    .because(missing)
            })?;
        }
        self.union.admission(admission, now.unix())
    }

    /// Writes the entry that the union needs next by its own rules.
    ///
    /// # Errors
    /// Outside of a union; `Denied` for a member that does not vote; this member's TPM.
    pub fn write_housekeeping(&self, asked: &WriteHousekeeping, now: Now) -> Result<Housekeeping, Fault> {
        let trusted = self.table().trusted(now.ms, self.period());
        self.union.housekeeping(&asked.reachable, &trusted, now.unix())
    }

    /// What failed in the last evidence of somebody: of this member as it is now, of another by its id, of a joiner by the name that it
    /// wants. Whoever has any token can want any name: one that several have is refused.
    fn seen(&self, whom: &Whom, now: Now) -> Result<Option<Seen>, Fault> {
        let known = self.union.known()?;
        let is = |m: &&RosterEntry| match (whom, &m.identity) {
            (Whom::Name(name), _) => m.name == *name,
            (Whom::Ek(want), Identity::Tpm { ek, .. }) => ek == want,
            (Whom::Ek(_), Identity::Bare { .. }) => false,
        };
        let member = known.as_ref().and_then(|k| k.state.view.members.values().find(is));
        let mut seen = self.table().seen(whom);
        // A member may have had another name when it was seen.
        seen.retain(|(id, ..)| member.is_none_or(|m| m.id() != *id));
        if seen.len() + usize::from(member.is_some()) > 1 {
            return Err(several(whom, member, &seen));
        }
        let Some((known, member)) = known.as_ref().zip(member) else {
            return Ok(seen.pop().map(|(.., seen)| seen));
        };
        let name = member.name.clone();
        if known.own.as_ref().is_none_or(|own| own.id() != member.id()) {
            return Ok(self
                .table()
                .last(&member.id())
                .map(|l| Seen { name, failed: l.verdict.failed.clone() }));
        }
        let unknown = |why| Fault::new(FaultKind::WrongState, "nothing counts as healthy").because(why);
        let set = known.references.clone().map_err(unknown)?;
        let keys = self.union.own_keys()?;
        let verdict = reference::own_verdict(&self.platform, keys.in_tpm()?, &set, now.seconds())?;
        Ok(Some(Seen { name, failed: verdict.failed }))
    }

    /// Writes an entry that an administrator asks for. Whether it may ask is for the caller to have seen.
    ///
    /// # Errors
    /// What the record or a rule says no to; this member's TPM.
    pub fn write_entry(&self, asked: &WriteEntry, now: Now) -> Result<Written, Fault> {
        if let Wish::Token { .. } = asked.wish {
            self.may_grant("making a join token", now)?;
        }
        let trusted: Vec<MemberId> = self.table().trusted(now.ms, self.period());
        let means = Means { seen: &|whom| self.seen(whom, now), trusted: &|id| trusted.contains(id) };
        self.union.wish(&asked.wish, &means, now.unix())
    }
}

/// Most of those who have one name that are told.
const TOLD: usize = 8;

fn several(whom: &Whom, member: Option<&RosterEntry>, seen: &[(MemberId, EkDigest, Seen)]) -> Fault {
    let ek = |m: &RosterEntry| match &m.identity {
        Identity::Tpm { ek, .. } => format!("endorsement key {ek}: a member"),
        Identity::Bare { .. } => "a member without a TPM".to_owned(),
    };
    let stranger = |(_, ek, seen): &(MemberId, EkDigest, Seen)| {
        let failed = seen.failed.first().map_or_else(|| "healthy".to_owned(), ToString::to_string);
        format!("endorsement key {ek}: {}", failed.chars().take(200).collect::<String>())
    };
    let fault =
        Fault::new(FaultKind::WrongState, format!("more than one server has shown evidence as {whom}"))
            .hint("gtvp member show, on the one that is meant, has its ek: gtvp reference accept EK");
    let all = member.map(ek).into_iter().chain(seen.iter().map(stranger));
    all.take(TOLD).fold(fault, Fault::because)
}
