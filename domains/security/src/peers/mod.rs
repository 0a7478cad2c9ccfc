//! Other members and joiners, appraised: what HSP asks of `security` (docs/spec/hsp.md), and what is known of whom.
//!
//! Nothing comes in here as bytes to be signed, and nothing goes out as "trusted" that was not appraised by the union's own reference
//! values.

mod appraise;
pub mod believed;
mod enrol;
mod quote;
mod shown;
pub mod table;
mod vouch;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gtvp_appraisal::ek::Roots;
use gtvp_ipc::security::{Housekeeping, WriteAdmission, WriteEntry, WriteHousekeeping, Written};
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::MemberName;
use gtvp_model::union::{MemberId, TpmClass, UnixTime};
use gtvp_protocol::csp::SignedEntry;

use crate::platform::Platform;
use crate::reference;
use crate::union::{Means, Seen, Union};
use believed::Believed;
use quote::Prefixes;
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
    table: Mutex<Table>,
    prefixes: Mutex<Prefixes>,
    pending: Mutex<vouch::Pending>,
}

impl Peers {
    /// Of this union. `state` is this domain's folder, which may have roots of EK certificates.
    pub fn new(union: Arc<Union>, platform: Arc<Platform>, state: &Path) -> Self {
        Self {
            union,
            platform,
            roots: enrol::roots(state),
            believed: Mutex::default(),
            table: Mutex::default(),
            prefixes: Mutex::default(),
            pending: Mutex::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// `Denied` for one that was not believed here a short time ago; what the record says no to.
    pub fn write_admission(&self, asked: &WriteAdmission, now: Now) -> Result<SignedEntry, Fault> {
        let admission = &asked.admission;
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
    /// Outside of a union; this member's TPM.
    pub fn write_housekeeping(&self, asked: &WriteHousekeeping, now: Now) -> Result<Housekeeping, Fault> {
        self.union.housekeeping(&asked.reachable, now.unix())
    }

    /// What failed in the last evidence of somebody: of this member as it is now, of another by its id, of a joiner by the name that it
    /// wants.
    fn seen(&self, name: &MemberName, now: Now) -> Result<Option<Seen>, Fault> {
        let known = self.union.known()?;
        let member = known.as_ref().and_then(|k| k.state.view.members.values().find(|m| m.name == *name));
        let Some((known, member)) = known.as_ref().zip(member) else { return Ok(self.table().seen(name)) };
        if known.own.as_ref().is_none_or(|own| own.id() != member.id()) {
            return Ok(self.table().last(&member.id()).map(|l| Seen { failed: l.verdict.failed.clone() }));
        }
        let unknown = |why| Fault::new(FaultKind::WrongState, "nothing counts as healthy").because(why);
        let set = known.references.clone().map_err(unknown)?;
        let keys = self.union.own_keys()?;
        let verdict = reference::own_verdict(&self.platform, keys.in_tpm()?, &set, now.seconds())?;
        Ok(Some(Seen { failed: verdict.failed }))
    }

    /// Writes an entry that an administrator asks for. Whether it may ask is for the caller to have seen.
    ///
    /// # Errors
    /// What the record or a rule says no to; this member's TPM.
    pub fn write_entry(&self, asked: &WriteEntry, now: Now) -> Result<Written, Fault> {
        let trusted: Vec<MemberId> = self.table().trusted(now.ms, self.period());
        let means = Means { seen: &|name| self.seen(name, now), reachable: &|id| trusted.contains(id) };
        self.union.wish(&asked.wish, &means, now.unix())
    }
}
