//! What this member has promised as a voter, by its TPM's word (`tpm/promises.rs`): a disk that is an older copy forgets promises, the TPM
//! does not. Written after the promise is on the disk and before it is signed: whatever was signed is in both.
//!
//! A software TPM whose state is put back together with the disk says the older number, too: then the others refuse this member, whose
//! TPM has gone back to an earlier life (`peers/clocks.rs`).

use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::union::{TpmClass, UnionId};

use super::{Held, Kept, Union};
use crate::platform::{chain as causes, fault};
use crate::tpm::promises::Promised;

/// What to do where there is no count. Not by force: a record that has taken its vote from it has also passed whatever it had promised.
const HINT: &str = "have this server leave the union with the others' word (gtvp union leave) and join it again; if they are no majority \
    without it, recover the union: gtvp union recover";

impl Union {
    /// Makes sure, before this server is anything in a union, that its TPM can count promises. Without a TPM it never votes.
    ///
    /// # Errors
    /// `Unavailable`, with the TPM's reason.
    pub(super) fn can_count(&self) -> Result<(), Fault> {
        if self.platform.class() == TpmClass::None {
            return Ok(());
        }
        self.platform.tpm()?.prepare_promises().map_err(|e| {
            Fault::new(FaultKind::Unavailable, "this server's TPM cannot count what it promises as a voter")
                .because(causes(&e))
                .hint("it needs 48 bytes of the TPM's lasting memory and an owner without a password: tpm2_getcap properties-variable, tpm2_getcap handles-nv-index")
        })
    }

    /// Reads what this voter has promised, once.
    ///
    /// # Errors
    /// `Unavailable` without the TPM; `Integrity` where it has no count of this union: then nothing is promised.
    pub(super) fn count(&self) -> Result<(), Fault> {
        let own = self.own_keys()?.identity.member_id();
        let open = self.read(|kept| {
            let open = !kept.keeper.is_counted() && kept.record().voters().contains(&own);
            Ok(open.then_some(kept.record().view().union))
        })?;
        let Some(union) = open else { return Ok(()) };
        let promised = self.platform.tpm()?.promised().map_err(|e| fault(&e))?;
        let number = number(promised, union)?;
        self.kept(|kept| {
            if kept.record().view().union == union && !kept.keeper.is_counted() {
                kept.keeper.count_from(number);
                if let Some(forgotten) = kept.keeper.forgotten() {
                    eprintln!("gtvp-security: {}", older(forgotten, kept.record().view().head.number));
                }
            }
            Ok(())
        })
    }

    /// Counts a promise: it is in the TPM when this returns.
    pub(super) fn counted(&self, union: UnionId, number: u64) -> Result<(), Fault> {
        if self.platform.class() == TpmClass::None {
            return Ok(());
        }
        self.platform.tpm()?.count_promise(Promised { union, number }).map_err(|e| {
            Fault::new(FaultKind::Unavailable, "the promise cannot be counted in the TPM").because(causes(&e))
        })
    }

    /// Why this voter signs nothing now, if there is a reason.
    pub fn withheld(&self) -> Option<String> {
        match self.count() {
            Err(e) if matches!(&*self.held(), Held::Record(_)) => {
                return Some(
                    std::iter::once(&e.message).chain(&e.causes).cloned().collect::<Vec<_>>().join(": "),
                );
            }
            _ => {}
        }
        self.read(|kept| Ok(why(kept))).ok().flatten()
    }
}

fn why(kept: &Kept) -> Option<String> {
    let has = kept.record().view().head.number;
    if let Some(forgotten) = kept.keeper.forgotten() {
        return Some(older(forgotten, has));
    }
    if let Some(number) = kept.unfinished.filter(|number| *number > has) {
        return Some(format!(
            "a recovery by this member was cut short: its entry {number} is nowhere, and this member signs no other one. Do it again: \
             gtvp union recover"
        ));
    }
    let own = kept.known.own.as_ref()?.id();
    if !kept.record().voters().contains(&own) {
        return None;
    }
    // The entry after the last one may be on its way.
    let promised = kept.keeper.promised().filter(|p| p.number > has.saturating_add(1))?.number;
    Some(format!(
        "this voter has promised entry {promised}, which the record has not come to: it votes again from entry {} on",
        promised.saturating_add(1)
    ))
}

fn older(forgotten: u64, has: u64) -> String {
    format!(
        "restored from an older copy: this voter has signed entry {forgotten} and has the record to entry {has} only; it votes again from \
         entry {} on, once the others have shown it entry {forgotten}",
        forgotten.saturating_add(1)
    )
}

fn number(promised: Option<Promised>, union: UnionId) -> Result<u64, Fault> {
    let none = |why: String| {
        Err(Fault::new(FaultKind::Integrity, "this voter does not know what it has promised")
            .because(why)
            .hint(HINT))
    };
    match promised {
        Some(p) if p.union == union => Ok(p.number),
        Some(p) => none(format!("its TPM counts promises of another union, {}", p.union.short())),
        None => none("its TPM has no count of them: index 0x01804754 was removed, or never written".into()),
    }
}
