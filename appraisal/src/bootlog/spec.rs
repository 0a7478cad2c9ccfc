//! The two formats of an entry, and the header that announces the newer one (PFP §10.4.5.1, TCG_EfiSpecIDEventStruct).

use super::{BootLogFault, Event, EventType};
use crate::alg::HashAlg;
use crate::reader::Reader;

/// Algorithms in a header: more than any TPM has banks.
const MAX_ALGORITHMS: u32 = 16;

const SIGNATURE: &[u8; 16] = b"Spec ID Event03\0";

/// How entries are laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFormat {
    /// TCG_PCR_EVENT: one SHA-1 digest an entry.
    Sha1,
    /// TCG_PCR_EVENT2: a digest for each algorithm: TPM_ALG_ID and size, as the header lists them.
    CryptoAgile(Vec<(u16, u16)>),
}

impl LogFormat {
    /// The banks that can be replayed.
    pub fn banks(&self) -> Vec<HashAlg> {
        match self {
            Self::Sha1 => vec![HashAlg::Sha1],
            Self::CryptoAgile(algs) => algs.iter().filter_map(|(id, _)| HashAlg::from_id(*id)).collect(),
        }
    }

    /// The format of the entries after `first`.
    pub(super) fn announced(first: &Event<'_>) -> Result<Self, BootLogFault> {
        if first.kind_id != EventType::NO_ACTION || !first.data.starts_with(SIGNATURE) {
            return Ok(Self::Sha1);
        }
        let mut r = Reader::new(first.data);
        // Offsets of a cut header are the log's: its data starts at byte 32.
        let in_log = |mut short: crate::reader::Short| {
            short.at += 32;
            BootLogFault::from(short)
        };
        r.take(16, "header signature").map_err(in_log)?;
        r.take(8, "header versions").map_err(in_log)?;
        let count = r.u32_le("header algorithm count").map_err(in_log)?;
        if !(1..=MAX_ALGORITHMS).contains(&count) {
            return Err(BootLogFault::AlgorithmCount(count));
        }
        let mut algs: Vec<(u16, u16)> = Vec::new();
        for _ in 0..count {
            let alg = r.u16_le("header algorithm").map_err(in_log)?;
            let size = r.u16_le("header digest size").map_err(in_log)?;
            if algs.iter().any(|(a, _)| *a == alg) {
                return Err(BootLogFault::AlgorithmTwice(alg));
            }
            // An unknown one may have what size it likes, as long as it has one.
            let known = HashAlg::from_id(alg).map(HashAlg::size);
            if size == 0 || known.is_some_and(|s| s != usize::from(size)) {
                return Err(BootLogFault::AlgorithmSize { alg, size });
            }
            algs.push((alg, size));
        }
        let vendor = r.u8("header vendorInfoSize").map_err(in_log)?;
        r.take(vendor.into(), "header vendorInfo").map_err(in_log)?;
        Ok(Self::CryptoAgile(algs))
    }

    #[inline]
    pub(super) fn read<'a>(&self, r: &mut Reader<'a>, number: usize) -> Result<Event<'a>, BootLogFault> {
        let offset = r.at();
        let pcr = r.u32_le("PCR index")?;
        let kind_id = r.u32_le("event type")?;
        let digests = match self {
            Self::Sha1 => {
                let mut digests: [&[u8]; 4] = [&[]; 4];
                digests[HashAlg::Sha1 as usize] = r.take(20, "SHA-1 digest")?;
                digests
            }
            Self::CryptoAgile(algs) => digests(r, algs, EventType(kind_id) == EventType::NO_ACTION)?,
        };
        let size = r.u32_le("event size")?;
        let data = r.take(usize::try_from(size).unwrap_or(usize::MAX), "event data")?;
        Ok(Event { number, offset, pcr, kind_id: EventType(kind_id), digests, data })
    }
}

/// TPML_DIGEST_VALUES, little-endian: checked. Those that GTVP does not compute are skipped by the header's size.
fn digests<'a>(
    r: &mut Reader<'a>,
    algs: &[(u16, u16)],
    may_be_none: bool,
) -> Result<[&'a [u8]; 4], BootLogFault> {
    let count = r.u32_le("digest count")?;
    // What extends nothing needs no digest, and some firmware gives it none.
    if (count == 0 && !may_be_none) || count as usize > algs.len() {
        return Err(BootLogFault::DigestCount(count));
    }
    let mut found: [&[u8]; 4] = [&[]; 4];
    let mut seen = 0u32;
    for _ in 0..count {
        let alg = r.u16_le("digest algorithm")?;
        let Some(i) = algs.iter().position(|(a, _)| *a == alg) else {
            return Err(BootLogFault::UnlistedAlgorithm(alg));
        };
        if seen >> i & 1 == 1 {
            return Err(BootLogFault::DigestTwice(alg));
        }
        seen |= 1 << i;
        let size = algs.get(i).map_or(0, |(_, s)| *s);
        let digest = r.take(size.into(), "digest")?;
        if let Some(slot) = HashAlg::from_id(alg).and_then(|a| found.get_mut(a as usize)) {
            *slot = digest;
        }
    }
    Ok(found)
}
