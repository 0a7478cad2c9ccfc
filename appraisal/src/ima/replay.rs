//! Replaying an IMA log against quoted PCRs.
//!
//! Since Linux 5.8 the kernel extends each bank with that bank's hash of the template data; before, every bank got the
//! SHA-1 digest padded with zeros. Both are tried, and the result says which it was.
//!
//! The kernel measures between the quote and the reading of the log, so a log may be longer than what was quoted. Entries
//! after the quoted value are reported as not covered; the next quote covers them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ImaEntry, ImaLog};
use crate::alg::{HashAlg, LogDigest};
use crate::tpm::PcrIndex;

/// PCRs that one log may write to: one as a rule, policies can name others.
const MAX_PCRS: usize = 8;

/// How the kernel extends banks other than SHA-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// With the bank's own hash of the template data (Linux 5.8 and later).
    Recomputed,
    /// With the SHA-1 template digest and zeros (before).
    PaddedSha1,
}

/// Where a log stands: the values of its PCRs, to go on from when more entries come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImaState {
    /// Bank of the values.
    pub bank: HashAlg,
    /// How the kernel extends it; `None` until an entry has told.
    pub way: Option<Way>,
    /// The values so far.
    pub pcrs: BTreeMap<PcrIndex, LogDigest>,
}

impl ImaState {
    /// Before the first entry. PCRs that firmware also wrote to start with what `boot` says.
    pub fn new(bank: HashAlg) -> Self {
        Self { bank, way: None, pcrs: BTreeMap::new() }
    }
}

/// A log that gives the quoted values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImaMatch {
    /// The state after the entries that the quote covers.
    pub state: ImaState,
    /// How many of the log's entries the quote covers, from the first on. Only these were attested.
    pub covered: usize,
}

/// A log that does not give the quoted value of a PCR, at no length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImaMismatch {
    /// The quoted value is not reached.
    #[error("the IMA log gives PCR {pcr} the value {replayed}; quoted is {quoted}")]
    Value {
        /// The PCR.
        pcr: PcrIndex,
        /// After the last entry.
        replayed: Box<LogDigest>,
        /// The quoted value.
        quoted: Box<LogDigest>,
    },
    /// Entries go into a PCR that was not quoted.
    #[error("IMA log entry {entry} at byte {offset} goes into PCR {pcr}, which was not quoted")]
    NotQuoted {
        /// Number of the entry.
        entry: usize,
        /// Its offset.
        offset: usize,
        /// The PCR.
        pcr: PcrIndex,
    },
    /// More PCRs than any policy names.
    #[error("the IMA log writes to more than {MAX_PCRS} PCRs")]
    TooManyPcrs,
    /// The PCRs' quoted values are reached at lengths that contradict each other.
    #[error(
        "the IMA log's PCRs were not quoted at one moment: entry {entry} is covered, an earlier one is not"
    )]
    NotOneMoment {
        /// Number of the covered entry.
        entry: usize,
    },
}

impl ImaEntry<'_> {
    /// What the kernel extended into `bank` for this entry.
    pub fn extended(&self, bank: HashAlg, way: Way) -> LogDigest {
        match (self.violation, way) {
            (true, Way::Recomputed) => LogDigest::filled(bank, 0xff),
            (true, Way::PaddedSha1) => LogDigest::computed(bank, &[0xff; 20]),
            (false, Way::Recomputed) => bank.hash(&self.hashed),
            (false, Way::PaddedSha1) => {
                LogDigest::computed(bank, HashAlg::Sha1.hash(&self.hashed).as_bytes())
            }
        }
    }
}

impl ImaLog<'_> {
    /// Finds the entries after which the PCRs had the `quoted` values, going on from `from`. `boot` gives the value that
    /// a PCR had before IMA's first entry.
    pub fn matching(
        &self,
        from: &ImaState,
        boot: impl Fn(PcrIndex) -> LogDigest,
        quoted: impl Fn(PcrIndex) -> Option<LogDigest>,
    ) -> Result<ImaMatch, ImaMismatch> {
        let ways: &[Way] = match from.way {
            Some(Way::Recomputed) => &[Way::Recomputed],
            Some(Way::PaddedSha1) => &[Way::PaddedSha1],
            None if from.bank == HashAlg::Sha1 => &[Way::Recomputed],
            None => &[Way::Recomputed, Way::PaddedSha1],
        };
        let mut first = None;
        for way in ways {
            match self.matching_way(from, *way, &boot, &quoted) {
                Ok(found) => return Ok(found),
                // The newer way's reason is told: almost every kernel is newer.
                Err(e) => first = first.or(Some(e)),
            }
        }
        Err(first.unwrap_or(ImaMismatch::TooManyPcrs))
    }

    fn matching_way(
        &self,
        from: &ImaState,
        way: Way,
        boot: &impl Fn(PcrIndex) -> LogDigest,
        quoted: &impl Fn(PcrIndex) -> Option<LogDigest>,
    ) -> Result<ImaMatch, ImaMismatch> {
        // Of each PCR: running value, wanted value, entries so far and the first count of entries at which it was reached.
        struct Pcr {
            value: LogDigest,
            want: LogDigest,
            reached: Option<usize>,
        }
        let mut pcrs: BTreeMap<PcrIndex, Pcr> = BTreeMap::new();
        for pcr in self.entries().iter().map(|e| e.pcr).chain(from.pcrs.keys().copied()) {
            if pcrs.contains_key(&pcr) {
                continue;
            }
            if pcrs.len() == MAX_PCRS {
                return Err(ImaMismatch::TooManyPcrs);
            }
            let value = from.pcrs.get(&pcr).copied().unwrap_or_else(|| boot(pcr));
            let Some(want) = quoted(pcr) else {
                let at = self.entries().iter().find(|e| e.pcr == pcr);
                let (entry, offset) = at.map_or((0, 0), |e| (e.number, e.offset));
                return Err(ImaMismatch::NotQuoted { entry, offset, pcr });
            };
            pcrs.insert(pcr, Pcr { value, want, reached: (value == want).then_some(0) });
        }
        let mut left = pcrs.values().filter(|p| p.reached.is_none()).count();
        let mut covered = 0;
        for (i, entry) in self.entries().iter().enumerate() {
            if left == 0 {
                break;
            }
            let Some(pcr) = pcrs.get_mut(&entry.pcr) else { continue };
            if pcr.reached.is_some() {
                // Its value was reached before; another PCR's was not yet.
                continue;
            }
            let Some(next) = pcr.value.extended(&entry.extended(from.bank, way)) else { continue };
            pcr.value = next;
            if next == pcr.want {
                pcr.reached = Some(i + 1);
                left -= 1;
                covered = i + 1;
            }
        }
        if let Some((pcr, state)) = pcrs.iter().find(|(_, p)| p.reached.is_none()) {
            return Err(ImaMismatch::Value {
                pcr: *pcr,
                replayed: Box::new(state.value),
                quoted: Box::new(state.want),
            });
        }
        // Every entry before the last covered one must be covered in its own PCR.
        for (i, entry) in self.entries().iter().take(covered).enumerate() {
            if pcrs.get(&entry.pcr).and_then(|p| p.reached).is_none_or(|reached| i >= reached) {
                return Err(ImaMismatch::NotOneMoment { entry: covered - 1 });
            }
        }
        let way = (covered > 0 && from.bank != HashAlg::Sha1).then_some(way).or(from.way);
        let pcrs = pcrs.into_iter().map(|(pcr, p)| (pcr, p.value)).collect();
        Ok(ImaMatch { state: ImaState { bank: from.bank, way, pcrs }, covered })
    }
}
