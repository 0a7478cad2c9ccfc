//! Evidence, decoded for people (`gtvp member attest --explain`): each structure and each log entry in a line.
//!
//! It judges nothing. Words that no digest covers are marked: whoever made the log may have put anything there.

use crate::appraise::TpmClass;
use crate::bootlog::{BootLog, Covers, Event};
use crate::ek::EkKey;
use crate::evidence::{Evidence, LogPart};
use crate::file::EvidenceFile;
use crate::ima::ImaLog;
use crate::ownlog::OwnLog;
use crate::tpm::{Attest, Attested, Public, Signature};
use gtvp_model::hex::hex;

/// Longest text shown of one entry, in characters.
const SHOWN: usize = 160;

/// What follows words that are not covered by a digest.
const UNPROVEN: &str = "(unproven)";

/// A part of evidence, decoded: a heading and its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// What it is.
    pub heading: String,
    /// One for each field or entry; a single one that says why if it is malformed.
    pub lines: Vec<String>,
}

/// Decodes a file: what the member says of itself, and all of its evidence.
pub fn explain_file(file: &EvidenceFile) -> Vec<Section> {
    let claims = &file.claims;
    let ek = match Public::parse(&claims.ek) {
        Ok(public) => EkKey::of_public(&public).fingerprint().0.to_string(),
        Err(e) => e.to_string(),
    };
    let class = match claims.class {
        TpmClass::Hardware => "hardware",
        TpmClass::Software => "software",
    };
    let certificate = match claims.ek_certificate.len() {
        0 => "none".to_owned(),
        n => format!("{n} bytes, with {} intermediate certificates", claims.intermediates.len()),
    };
    let lines = vec![
        format!("made {}, by the member's clock {UNPROVEN}", claims.made),
        format!("nonce {}", hex(&claims.nonce)),
        format!("TPM: {class} {UNPROVEN}"),
        format!("endorsement key {ek} {UNPROVEN}"),
        format!("its certificate: {certificate}"),
        format!("the quote must be bound to {}", hex(&claims.qualifying_data(&file.evidence.ak).0)),
    ];
    let mut sections = vec![Section { heading: "what the member says of itself".to_owned(), lines }];
    sections.extend(explain(&file.evidence));
    sections
}

/// Decodes all of `evidence`.
pub fn explain(evidence: &Evidence) -> Vec<Section> {
    let section = |heading: &str, lines| Section { heading: heading.to_owned(), lines };
    vec![
        section("attestation key", key(&evidence.ak)),
        section("quote", quote(evidence)),
        section(
            &format!("PCRs, {}", evidence.bank()),
            evidence.pcrs.iter().map(|(pcr, value)| format!("{:>2} {value}", pcr.get())).collect(),
        ),
        section(&heading("boot log", &evidence.boot), log(&evidence.boot, |b| boot(b, evidence))),
        section(&heading("IMA log", &evidence.ima), log(&evidence.ima, ima)),
        section(&heading("GTVP log", &evidence.own), log(&evidence.own, own)),
    ]
}

fn heading(name: &str, part: &LogPart) -> String {
    match part {
        LogPart::Absent => format!("{name}: none"),
        LogPart::From { from: 0, bytes } => format!("{name}: {} bytes", bytes.len()),
        LogPart::From { from, bytes } => format!("{name}: {} bytes after byte {from}", bytes.len()),
    }
}

fn log(part: &LogPart, decode: impl FnOnce(&[u8]) -> Result<Vec<String>, String>) -> Vec<String> {
    match part {
        LogPart::From { bytes, .. } if !bytes.is_empty() => decode(bytes).unwrap_or_else(|e| vec![e]),
        _ => Vec::new(),
    }
}

fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect()
}

fn key(bytes: &[u8]) -> Vec<String> {
    match Public::parse(bytes) {
        Ok(public) => vec![
            format!("name {}", public.name()),
            format!("attributes 0x{:08x}", public.attributes.bits()),
            format!("scheme {:?}", public.scheme),
        ],
        Err(e) => vec![e.to_string()],
    }
}

fn quote(evidence: &Evidence) -> Vec<String> {
    let mut lines = Vec::new();
    match Attest::parse(&evidence.quote) {
        Ok(attest) => {
            lines.push(format!("bound to {}", hex(&attest.extra_data)));
            let clock = attest.clock;
            lines.push(format!(
                "clock {} ms, {} resets, {} restarts{}",
                clock.clock,
                clock.reset_count,
                clock.restart_count,
                if clock.safe { "" } else { ", not safe" }
            ));
            lines.push(format!("TPM firmware 0x{:016x}", attest.firmware_version));
            match &attest.attested {
                Attested::Quote { digest, .. } => lines.push(format!("PCR digest {}", hex(digest))),
                other => lines.push(format!("no quote: {}", clean(&format!("{other:?}")))),
            }
        }
        Err(e) => lines.push(e.to_string()),
    }
    match Signature::parse(&evidence.signature) {
        Ok(signature) => lines.push(format!("signature over {}", signature.hash())),
        Err(e) => lines.push(format!("signature: {e}")),
    }
    lines
}

fn boot(bytes: &[u8], evidence: &Evidence) -> Result<Vec<String>, String> {
    let log = BootLog::parse(bytes).map_err(|e| e.to_string())?;
    let bank = evidence.bank();
    let line = |e: &Event<'_>| {
        let digest = e.digest(bank).map_or_else(|| format!("no {bank} digest"), |d| d.to_string());
        if !e.extends() {
            return format!("{:>4} @{:<6} {} (extends nothing)", e.number, e.offset, e.kind_id);
        }
        let about = e.kind().subject().map(clean).unwrap_or_default();
        let unproven = if !about.is_empty() && e.covers(bank) == Covers::Nothing { UNPROVEN } else { "" };
        let text = format!(
            "{:>4} @{:<6} PCR {:>2} {} {digest} {about} {unproven}",
            e.number, e.offset, e.pcr, e.kind_id
        );
        text.trim_end().to_owned()
    };
    Ok(log.events().iter().map(line).collect())
}

fn ima(bytes: &[u8]) -> Result<Vec<String>, String> {
    let log = ImaLog::parse(bytes).map_err(|e| e.to_string())?;
    let line = |e: &crate::ima::ImaEntry<'_>| {
        let digest = if e.violation { "written while measured".to_owned() } else { e.file.to_string() };
        format!("{:>6} @{:<8} PCR {} {} {digest} {}", e.number, e.offset, e.pcr, e.template, clean(&e.path))
    };
    Ok(log.entries().iter().map(line).collect())
}

fn own(bytes: &[u8]) -> Result<Vec<String>, String> {
    let log = OwnLog::parse(bytes).map_err(|e| e.to_string())?;
    let line = |p: &crate::ownlog::Placed<'_>| {
        format!(
            "{:>5} @{:<7} {} {} {}",
            p.number,
            p.offset,
            p.entry.kind,
            clean(p.entry.subject),
            p.entry.value
        )
    };
    Ok(log.entries().iter().map(line).collect())
}
