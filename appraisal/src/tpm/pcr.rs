//! PCR selections and values (Part 2 §10.6), and the digest over them that a quote carries.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Malformed, bad};
use crate::alg::{HashAlg, LogDigest};
use crate::reader::Reader;

/// Index of the last PCR of the PC Client profile.
pub const MAX_PCR: u8 = 23;

/// Banks in one selection: PC Client TPMs have at most SHA-1, SHA-256, SHA-384, SHA-512, SM3 and SHA-3 banks.
const MAX_BANKS: u32 = 8;

/// A PCR of the PC Client profile, 0 to [`MAX_PCR`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct PcrIndex(u8);

impl PcrIndex {
    /// The PCR with this index.
    pub fn new(index: u8) -> Option<Self> {
        (index <= MAX_PCR).then_some(Self(index))
    }

    /// A PCR that is written in the source.
    pub(crate) const fn known(index: u8) -> Self {
        assert!(index <= MAX_PCR);
        Self(index)
    }

    /// Its number.
    pub fn get(self) -> u8 {
        self.0
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=MAX_PCR).map(Self)
    }

    /// What the PCR holds after TPM2_Startup(CLEAR) from locality 0 (PC Client Platform TPM Profile §4.6.2): the
    /// dynamic ones are all ones until a dynamic launch resets them.
    pub fn initial(self, bank: HashAlg) -> LogDigest {
        LogDigest::filled(bank, if (17..=22).contains(&self.0) { 0xff } else { 0 })
    }
}

impl TryFrom<u8> for PcrIndex {
    type Error = String;
    fn try_from(n: u8) -> Result<Self, String> {
        Self::new(n).ok_or_else(|| format!("PCR {n} is above {MAX_PCR}"))
    }
}

impl From<PcrIndex> for u8 {
    fn from(p: PcrIndex) -> u8 {
        p.0
    }
}

impl std::fmt::Display for PcrIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// TPML_PCR_SELECTION: which PCRs of which banks, in the order in which the TPM hashed them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrSelection {
    banks: Vec<(u16, u32)>,
}

impl PcrSelection {
    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let count = r.u32_be("pcrSelect.count")?;
        if count > MAX_BANKS {
            return bad("pcrSelect.count", count);
        }
        let mut banks = Vec::new();
        for _ in 0..count {
            let bank = r.u16_be("pcrSelect.hash")?;
            let size = r.u8("pcrSelect.sizeofSelect")?;
            if !(1..=4).contains(&size) {
                return bad("pcrSelect.sizeofSelect", size);
            }
            let bits = r.take(size.into(), "pcrSelect.pcrSelect")?;
            let mask = bits.iter().rev().fold(0u32, |mask, byte| mask << 8 | u32::from(*byte));
            if mask >> (MAX_PCR + 1) != 0 {
                return bad("pcrSelect.pcrSelect", mask);
            }
            if banks.iter().any(|(b, _)| *b == bank) {
                return bad("pcrSelect.hash twice", bank);
            }
            banks.push((bank, mask));
        }
        Ok(Self { banks })
    }

    /// The bank, if exactly one is selected and GTVP computes it; its TPM_ALG_ID otherwise.
    pub fn single_bank(&self) -> Result<HashAlg, Vec<u16>> {
        let used: Vec<u16> = self.banks.iter().filter(|(_, m)| *m != 0).map(|(b, _)| *b).collect();
        match used.as_slice() {
            [one] => HashAlg::from_id(*one).ok_or(used),
            _ => Err(used),
        }
    }

    /// Whether `pcr` of `bank` is selected.
    pub fn contains(&self, bank: HashAlg, pcr: PcrIndex) -> bool {
        self.banks.iter().any(|(b, mask)| *b == bank.id() && mask >> pcr.0 & 1 == 1)
    }

    /// The PCRs of `bank`, ascending.
    pub fn of(&self, bank: HashAlg) -> impl Iterator<Item = PcrIndex> + '_ {
        PcrIndex::all().filter(move |p| self.contains(bank, *p))
    }
}

/// Values of PCRs of one bank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct PcrValues {
    bank: HashAlg,
    values: BTreeMap<PcrIndex, LogDigest>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    bank: HashAlg,
    values: BTreeMap<PcrIndex, LogDigest>,
}

impl From<PcrValues> for Wire {
    fn from(p: PcrValues) -> Self {
        Self { bank: p.bank, values: p.values }
    }
}

impl TryFrom<Wire> for PcrValues {
    type Error = String;
    fn try_from(w: Wire) -> Result<Self, String> {
        match w.values.iter().find(|(_, v)| v.alg() != w.bank) {
            Some((pcr, v)) => Err(format!("PCR {pcr} of bank {} has a {} value", w.bank, v.alg())),
            None => Ok(Self { bank: w.bank, values: w.values }),
        }
    }
}

impl PcrValues {
    /// No values yet.
    pub fn new(bank: HashAlg) -> Self {
        Self { bank, values: BTreeMap::new() }
    }

    /// Sets a value; `false` (and nothing changed) if it is of another bank.
    pub fn set(&mut self, pcr: PcrIndex, value: LogDigest) -> bool {
        let fits = value.alg() == self.bank;
        if fits {
            self.values.insert(pcr, value);
        }
        fits
    }

    /// The value of `pcr`.
    pub fn get(&self, pcr: PcrIndex) -> Option<&LogDigest> {
        self.values.get(&pcr)
    }

    /// The bank.
    pub fn bank(&self) -> HashAlg {
        self.bank
    }

    /// All values, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (PcrIndex, &LogDigest)> {
        self.values.iter().map(|(p, v)| (*p, v))
    }

    /// The digest that TPM2_Quote makes over `selection` with `hash` (Part 3 §18.4). `None` if the selection is not
    /// exactly these values' PCRs of this bank.
    pub fn digest(&self, selection: &PcrSelection, hash: HashAlg) -> Option<LogDigest> {
        if selection.single_bank() != Ok(self.bank) {
            return None;
        }
        let mut all = Vec::with_capacity(self.values.len() * self.bank.size());
        let mut count = 0;
        for pcr in selection.of(self.bank) {
            all.extend_from_slice(self.values.get(&pcr)?.as_bytes());
            count += 1;
        }
        (count == self.values.len()).then(|| hash.hash(&all))
    }
}
