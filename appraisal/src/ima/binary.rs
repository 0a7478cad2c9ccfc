//! The binary form, little-endian: PCR, template digest, template name, template data (ima_fs.c,
//! ima_measurements_show).

use std::borrow::Cow;

use super::template::Raw;
use super::{ImaEntry, ImaError, ImaFault, MAX_ENTRIES, MAX_TEMPLATE, MAX_TEMPLATE_NAME};
use crate::alg::{HashAlg, LogDigest};
use crate::reader::Reader;

pub(super) fn parse(bytes: &[u8]) -> Result<Vec<ImaEntry<'_>>, ImaError> {
    let mut r = Reader::new(bytes);
    let mut entries = Vec::new();
    // Newer kernels have one list a bank (binary_runtime_measurements_sha256); the digests' length tells which this is.
    let alg = HashAlg::ALL.into_iter().find(|alg| names_template(bytes, *alg)).unwrap_or(HashAlg::Sha1);
    while !r.is_empty() {
        let (entry, offset) = (entries.len(), r.at());
        let fault = |reason| ImaError { entry, offset, reason };
        if entry == MAX_ENTRIES {
            return Err(fault(ImaFault::TooManyEntries));
        }
        let raw = read(&mut r, alg, entry).map_err(fault)?;
        entries.push(raw.check().map_err(fault)?);
    }
    Ok(entries)
}

/// Whether the first entry has a plausible template name after a digest of `alg`.
fn names_template(bytes: &[u8], alg: HashAlg) -> bool {
    let mut r = Reader::new(bytes);
    let mut name = || {
        r.take(4 + alg.size(), "digest").ok()?;
        let len = r.u32_le("name length").ok()?;
        r.take(usize::try_from(len).ok().filter(|l| (1..=MAX_TEMPLATE_NAME).contains(l))?, "name").ok()
    };
    name().is_some_and(|n| n.iter().all(|b| b.is_ascii_alphanumeric() || b"-|".contains(b)))
}

fn read<'a>(r: &mut Reader<'a>, alg: HashAlg, number: usize) -> Result<Raw<'a>, ImaFault> {
    let offset = r.at();
    let pcr = r.u32_le("PCR index")?;
    let listed = LogDigest::computed(alg, r.take(alg.size(), "template digest")?);
    let name = r.u32_le("template name length")? as usize;
    if name > MAX_TEMPLATE_NAME {
        return Err(ImaFault::Length { what: "the template name", len: name });
    }
    let name = r.take(name, "template name")?;
    let template = std::str::from_utf8(name).map_err(|_| ImaFault::Unreadable("the template name"))?;
    let data = if template == "ima" {
        // Before fields had lengths: a digest, then a name with one.
        let digest = r.take(20, "file digest")?;
        let mut data = digest.to_vec();
        data.extend_from_slice(bounded(r, "file name")?);
        Cow::Owned(data)
    } else {
        Cow::Borrowed(bounded(r, "template data")?)
    };
    Ok(Raw { number, offset, pcr, listed, template: Cow::Borrowed(template), data })
}

fn bounded<'a>(r: &mut Reader<'a>, what: &'static str) -> Result<&'a [u8], ImaFault> {
    let len = r.u32_le(what)? as usize;
    if len > MAX_TEMPLATE {
        return Err(ImaFault::Length { what, len });
    }
    Ok(r.take(len, what)?)
}
