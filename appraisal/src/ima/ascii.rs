//! The ASCII form: one line an entry, fields separated by single spaces (names have none: the kernel writes underscores).

use std::borrow::Cow;

use super::template::{Field, Raw, fields};
use super::{ImaEntry, ImaError, ImaFault, MAX_ENTRIES, MAX_TEMPLATE, MAX_TEMPLATE_NAME};
use gtvp_model::hex::unhex;

use crate::alg::{HashAlg, LogDigest};

pub(super) fn parse(bytes: &[u8]) -> Result<Vec<ImaEntry<'_>>, ImaError> {
    let mut entries: Vec<ImaEntry<'_>> = Vec::new();
    let mut offset = 0;
    let mut alg = None;
    while let Some(rest) = bytes.get(offset..).filter(|r| !r.is_empty()) {
        let fault = |reason| ImaError { entry: entries.len(), offset, reason };
        if entries.len() == MAX_ENTRIES {
            return Err(fault(ImaFault::TooManyEntries));
        }
        // A last line without its end is whole if its template digest says so.
        let end = rest.iter().position(|b| *b == b'\n');
        let line = rest.get(..end.unwrap_or(rest.len())).unwrap_or(rest);
        let raw = read(line, entries.len(), offset).map_err(|reason| match end {
            Some(_) => fault(reason),
            None => fault(cut(line, offset)),
        })?;
        if *alg.get_or_insert(raw.listed.alg()) != raw.listed.alg() {
            return Err(fault(ImaFault::Unreadable("a template digest of another length than the first")));
        }
        let entry = raw.check().map_err(|reason| match (end, reason) {
            (None, ImaFault::TemplateDigest { .. } | ImaFault::Cut { .. }) => fault(cut(line, offset)),
            (_, reason) => fault(reason),
        })?;
        if end.is_none() && entry.violation {
            return Err(fault(cut(line, offset)));
        }
        entries.push(entry);
        offset += line.len() + 1;
    }
    Ok(entries)
}

fn cut(line: &[u8], offset: usize) -> ImaFault {
    ImaFault::Cut { what: "the line's end", at: offset + line.len(), need: 1, have: 0 }
}

fn read(line: &[u8], number: usize, offset: usize) -> Result<Raw<'_>, ImaFault> {
    // "%2d": a PCR below 10 has a space before it. Paths are bytes, so words are.
    let mut words = line.strip_prefix(b" ").unwrap_or(line).split(|b| *b == b' ');
    let mut word = |what| words.next().ok_or(ImaFault::Unreadable(what));
    let pcr = text(word("the PCR index")?, "the PCR index")?;
    let digits = (1..=2).contains(&pcr.len()) && pcr.bytes().all(|b| b.is_ascii_digit());
    let pcr = pcr.parse().ok().filter(|_| digits).ok_or(ImaFault::Unreadable("the PCR index"))?;
    let listed = digest(word("the template digest")?)?;
    let template = text(word("the template name")?, "the template name")?;
    if template.len() > MAX_TEMPLATE_NAME {
        return Err(ImaFault::Length { what: "the template name", len: template.len() });
    }
    let old = template == "ima";
    let mut data = Vec::new();
    for kind in fields(template)? {
        let bytes = encode(kind, word("a template field")?)?;
        if !old {
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            data.extend_from_slice(&len.to_le_bytes());
        }
        data.extend_from_slice(&bytes);
        if data.len() > MAX_TEMPLATE {
            return Err(ImaFault::Length { what: "the template data", len: data.len() });
        }
    }
    if word("").is_ok() {
        return Err(ImaFault::Unreadable("what follows the template's fields"));
    }
    Ok(Raw { number, offset, pcr, listed, template: Cow::Borrowed(template), data: Cow::Owned(data) })
}

fn text<'a>(word: &'a [u8], what: &'static str) -> Result<&'a str, ImaFault> {
    std::str::from_utf8(word).map_err(|_| ImaFault::Unreadable(what))
}

fn digest(word: &[u8]) -> Result<LogDigest, ImaFault> {
    let bytes = unhex(word).ok_or(ImaFault::Unreadable("the template digest"))?;
    let alg = HashAlg::ALL.into_iter().find(|a| a.size() == bytes.len());
    let alg = alg.ok_or(ImaFault::Length { what: "the template digest", len: bytes.len() })?;
    Ok(LogDigest::computed(alg, &bytes))
}

/// A field as the kernel hashed it, from how it was shown (ima_show_template_data_ascii).
fn encode(kind: Field, word: &[u8]) -> Result<Vec<u8>, ImaFault> {
    let hex = |s: &[u8]| unhex(s).ok_or(ImaFault::Unreadable("a hexadecimal field"));
    match kind {
        Field::Digest | Field::Hex => hex(word),
        // An entry without this digest (no appended signature) shows nothing.
        Field::DigestNg if word.is_empty() => Ok(Vec::new()),
        Field::DigestNg => {
            let colon = word.iter().rposition(|b| *b == b':');
            let split = colon.and_then(|at| word.split_at_checked(at));
            let (names, digest) = split.ok_or(ImaFault::Unreadable("the file digest"))?;
            let mut out = names.to_vec();
            out.extend_from_slice(b":\0");
            out.extend(hex(digest.get(1..).unwrap_or_default())?);
            Ok(out)
        }
        Field::OldName => Ok(word.to_vec()),
        Field::Text => {
            let mut out = word.to_vec();
            out.push(0);
            Ok(out)
        }
        Field::Number(width) => {
            let number: u64 =
                text(word, "a number field")?.parse().map_err(|_| ImaFault::Unreadable("a number field"))?;
            let bytes = number.to_le_bytes();
            let (low, high) = bytes.split_at(width.min(bytes.len()));
            match high.iter().all(|b| *b == 0) {
                true => Ok(low.to_vec()),
                false => Err(ImaFault::Unreadable("a number field")),
            }
        }
    }
}
