//! One entry of a boot log.

use super::{EventType, Kind};
use crate::alg::{HashAlg, LogDigest};

/// An entry, pointing into its log.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// Its number, from 0.
    pub number: usize,
    /// Offset in the log, in bytes.
    pub offset: usize,
    /// The PCR it was extended into. For EV_NO_ACTION anything, as a rule 0 or 0xFFFFFFFF.
    pub pcr: u32,
    /// Its type.
    pub kind_id: EventType,
    /// What firmware says about it. Nobody has vouched for this; see [`Event::covers`].
    pub data: &'a [u8],
    /// One for each [`HashAlg`]; empty if there is none.
    pub(super) digests: [&'a [u8]; 4],
}

/// What an entry's digest says about its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Covers<'a> {
    /// It is the digest of all the data.
    All,
    /// It is the digest of this part of the data: a boot loader's string without its prefix, or a variable's contents
    /// without its name. What stands around it is not vouched for.
    Part(&'a [u8]),
    /// It is the digest of something else (a program, a file, a table): the data only describe it, unproven.
    Nothing,
}

impl<'a> Event<'a> {
    /// Its digest in `bank`, if it has one.
    #[inline]
    pub fn digest(&self, bank: HashAlg) -> Option<LogDigest> {
        self.digest_bytes(bank).map(|b| LogDigest::computed(bank, b))
    }

    #[inline]
    pub(crate) fn digest_bytes(&self, bank: HashAlg) -> Option<&'a [u8]> {
        self.digests.get(bank as usize).copied().filter(|d| !d.is_empty())
    }

    /// Whether the TPM was extended for it.
    #[inline]
    pub fn extends(&self) -> bool {
        self.kind_id != EventType::NO_ACTION
    }

    /// What it is, decoded for rules and for people.
    pub fn kind(&self) -> Kind<'a> {
        Kind::of(self)
    }

    /// What its digest in `bank` vouches for. Hashes the data.
    pub fn covers(&self, bank: HashAlg) -> Covers<'a> {
        let Some(digest) = self.digest(bank) else { return Covers::Nothing };
        if bank.hash(self.data) == digest {
            return Covers::All;
        }
        match self.kind().measured_part() {
            Some(part) if bank.hash(part) == digest => Covers::Part(part),
            _ => Covers::Nothing,
        }
    }

    /// The locality of TPM2_Startup, if this entry says it (PFP §10.4.5.3).
    pub(super) fn startup_locality(&self) -> Option<u8> {
        if self.kind_id != EventType::NO_ACTION {
            return None;
        }
        match self.data.strip_prefix(b"StartupLocality\0") {
            Some([locality, ..]) => Some(*locality),
            _ => None,
        }
    }
}
