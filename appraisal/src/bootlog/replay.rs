//! A boot log's PCR values: what a TPM holds that was started and extended as the log says.

use super::{BootLog, Event, EventType};
use crate::alg::{HashAlg, LogDigest};
use crate::tpm::{MAX_PCR, PcrIndex};

const PCRS: usize = MAX_PCR as usize + 1;

/// An entry that was extended has no digest for the bank, so the bank cannot be replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("boot log entry {entry} at byte {offset} has no {bank} digest: this bank cannot be replayed")]
pub struct BankMissing {
    /// Number of the entry.
    pub entry: usize,
    /// Its offset.
    pub offset: usize,
    /// The bank.
    pub bank: HashAlg,
}

/// The values of one bank after a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    bank: HashAlg,
    values: [LogDigest; PCRS],
    extended: u32,
}

impl Replayed {
    /// A TPM after TPM2_Startup(CLEAR): nothing extended.
    pub fn fresh(bank: HashAlg) -> Self {
        let mut values = [LogDigest::filled(bank, 0); PCRS];
        for (pcr, value) in PcrIndex::all().zip(values.iter_mut()) {
            *value = pcr.initial(bank);
        }
        Self { bank, values, extended: 0 }
    }

    /// The bank.
    pub fn bank(&self) -> HashAlg {
        self.bank
    }

    /// The value of `pcr`.
    pub fn get(&self, pcr: PcrIndex) -> LogDigest {
        self.values.get(usize::from(pcr.get())).copied().unwrap_or_else(|| pcr.initial(self.bank))
    }

    /// Whether anything was extended into `pcr`.
    pub fn is_extended(&self, pcr: PcrIndex) -> bool {
        self.extended >> pcr.get() & 1 == 1
    }

    /// Extends `pcr`; `false` (and nothing changed) if `digest` is of another bank.
    pub fn extend(&mut self, pcr: PcrIndex, digest: &LogDigest) -> bool {
        digest.alg() == self.bank && self.extend_by(pcr, digest.as_bytes())
    }

    #[inline]
    fn extend_by(&mut self, pcr: PcrIndex, digest: &[u8]) -> bool {
        let Some(value) = self.values.get_mut(usize::from(pcr.get())) else { return false };
        let Some(next) = value.extended_by(digest) else { return false };
        *value = next;
        self.extended |= 1 << pcr.get();
        true
    }
}

impl BootLog<'_> {
    /// The PCR values of `bank` that this log gives.
    pub fn replay(&self, bank: HashAlg) -> Result<Replayed, BankMissing> {
        let mut out = Replayed::fresh(bank);
        // PFP §10.4.5.3: the locality of TPM2_Startup is PCR 0's first value. After an H-CRTM sequence, which comes before it, it is 4
        // wherever TPM2_Startup comes from (TPM 2.0 Part 1, "H-CRTM Event Sequence").
        let h_crtm = |e: &Event<'_>| e.kind_id == EventType::EFI_HCRTM_EVENT && e.pcr == 0;
        let start = if self.events.iter().any(h_crtm) { 4 } else { self.locality.unwrap_or(0) };
        if start != 0 {
            let mut first = [0u8; crate::alg::MAX_DIGEST];
            if let Some(last) = first.get_mut(bank.size() - 1) {
                *last = start;
            }
            out.values[0] = LogDigest::computed(bank, &first);
        }
        for event in &self.events {
            if !event.extends() {
                continue;
            }
            let missing = || BankMissing { entry: event.number, offset: event.offset, bank };
            let digest = event.digest_bytes(bank).ok_or_else(missing)?;
            let pcr = u8::try_from(event.pcr).ok().and_then(PcrIndex::new).ok_or_else(missing)?;
            out.extend_by(pcr, digest);
        }
        Ok(out)
    }
}
