//! `gtvp verify`: evidence from a file, checked here. It asks no member and no network; what a file cannot prove it says.

use gtvp_model::hex::hex;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use gtvp_appraisal::appraise::{Check, State, Told, TpmClass};
use gtvp_appraisal::boxes;
use gtvp_appraisal::ek::{Oddity, Revocation, Roots};
use gtvp_appraisal::file::{Conclusion, EkFinding, EvidenceFile, FileVerdict, MAX_FILE, Reader};
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::union::TpmMaker;
use serde::Serialize;

use crate::args::{Format, Verify};
use crate::failure::{FAILED, clean, invalid, io};
use crate::output::{facts, print, time, value};

/// Most bytes of a file of roots: all vendors' roots together are below this, and so is a revocation list of 100,000 certificates.
const MAX_ROOTS_FILE: u64 = 4 * 1024 * 1024;
/// Most files in the folder of roots.
const MAX_ROOTS_FILES: usize = 1024;

/// What was found, for programs.
#[derive(Debug, Serialize)]
struct Found {
    conclusion: &'static str,
    /// Unknown at best.
    verdict: State,
    claims: Claimed,
    attestation_key: String,
    /// Whose word it is that the TPM is one.
    authority: String,
    clock: Option<Clock>,
    passed: Vec<Passed>,
    failed: Vec<Told>,
    not_made: Vec<String>,
    references: Vec<Reference>,
    #[serde(rename = "box")]
    about: Option<AboutBox>,
}

/// What the member says of itself.
#[derive(Debug, Serialize)]
struct Claimed {
    made: String,
    tpm: TpmClass,
    nonce: String,
    endorsement_key: String,
}

#[derive(Debug, Serialize)]
struct Clock {
    reset_count: u32,
    restart_count: u32,
    clock_ms: u64,
    safe: bool,
}

#[derive(Debug, Serialize)]
struct Passed {
    check: &'static str,
    text: String,
}

#[derive(Debug, Serialize)]
struct Reference {
    manifest: String,
    version: u64,
    signer: String,
}

#[derive(Debug, Serialize)]
struct AboutBox {
    name: String,
    /// Digest of what its root is made of, as its member measured it.
    composition: String,
    /// Components of the composition that were linked.
    linked: Vec<String>,
    /// Components that were linked and are not in it: what its member made itself, or found missing later.
    beside: Vec<String>,
    /// The template that it was started from, if it did not boot: a memory image that its member booted, and nobody can appraise.
    #[serde(skip_serializing_if = "Option::is_none")]
    template: Option<String>,
}

/// Checks; gives the exit status.
pub fn verify(words: &Verify) -> Result<u8, Fault> {
    let name = words.file.display().to_string();
    let bytes = read(&words.file)?;
    let refused = |e: &dyn std::error::Error| {
        Fault::new(FaultKind::Integrity, format!("{name} is refused")).caused_by(e)
    };
    let file = EvidenceFile::decode(&bytes).map_err(|e| refused(&e))?;
    let roots = words.roots.as_deref().map_or_else(|| Ok(Roots::new()), roots)?;
    let nonce = words.nonce.as_ref().map(|n| n.0.as_slice());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let reader = Reader { roots: &roots, known: &[], nonce };
    let verdict = file.verify(&reader, i64::try_from(now).unwrap_or(i64::MAX)).map_err(|e| refused(&e))?;
    let found = found(&file, &verdict, nonce.is_some());
    match words.output.output {
        format @ (Format::Json | Format::Yaml) => value(format, &found)?,
        _ => print(&text(&name, &found)),
    }
    Ok(if verdict.conclusion() == Conclusion::Refused { FAILED } else { 0 })
}

fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    let from = path.display();
    let most = MAX_FILE as u64 + 1;
    let mut bytes = Vec::new();
    let done = match path.as_os_str() == "-" {
        true => std::io::stdin().lock().take(most).read_to_end(&mut bytes),
        false => File::open(path).and_then(|f| f.take(most).read_to_end(&mut bytes)),
    };
    done.map_err(|e| io(format!("{from} cannot be read"), &e))?;
    Ok(bytes)
}

fn roots(dir: &Path) -> Result<Roots, Fault> {
    let at = dir.display();
    let unreadable = |e: std::io::Error| io(format!("{at} cannot be read"), &e);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_file() {
            paths.push(path);
        }
        if paths.len() > MAX_ROOTS_FILES {
            return Err(invalid(format!("{at} has more than {MAX_ROOTS_FILES} files")));
        }
    }
    paths.sort();
    let mut roots = Roots::new();
    for path in paths {
        let at = path.display();
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|f| f.take(MAX_ROOTS_FILE + 1).read_to_end(&mut bytes))
            .map_err(|e| io(format!("{at} cannot be read"), &e))?;
        if bytes.len() as u64 > MAX_ROOTS_FILE {
            return Err(invalid(format!("{at} is longer than {MAX_ROOTS_FILE} bytes")));
        }
        roots.add(&bytes).map_err(|e| invalid(format!("{at} is no file of roots")).caused_by(&e))?;
    }
    if roots.is_empty() {
        return Err(invalid(format!("{at} has no certificate")));
    }
    Ok(roots)
}

fn found(file: &EvidenceFile, verdict: &FileVerdict, nonce_chosen: bool) -> Found {
    let member = &verdict.member;
    let mut passed: Vec<Passed> = member
        .passed
        .iter()
        .map(|c| Passed { check: c.word(), text: sentence(*c, nonce_chosen).into() })
        .collect();
    let mut failed = member.told();
    let mut not_made: Vec<String> = member.not_made.iter().map(ToString::to_string).collect();
    let mut authority = "nobody's: the TPM is what the file says".to_owned();
    match &verdict.ek {
        EkFinding::NoCertificate => not_made.push("who made the TPM: it has no certificate".into()),
        EkFinding::NoRoots => {
            not_made.push("who made the TPM: without --roots its certificate is not checked".into())
        }
        EkFinding::Verified(ek) => {
            let maker = TpmMaker::of_certificate(ek.manufacturer.as_deref());
            authority = format!("certified by {maker}, whose root {} is one of yours", ek.root);
            let text =
                format!("the endorsement key's certificate, by {maker}, leads to the root {}", ek.root);
            passed.push(Passed { check: "ek_certificate", text });
            let ended = ek.oddities.iter().filter_map(|o| match o {
                Oddity::Ended(at) => Some((at, "the endorsement key's certificate")),
                Oddity::IssuerEnded(at) => Some((at, "a certificate above the endorsement key's")),
                _ => None,
            });
            not_made.extend(ended.map(|(at, what)| {
                format!("what the vendor says of that key since {}: {what} has ended then", seconds(*at))
            }));
            match ek.revocation {
                Revocation::Checked(until) => {
                    let until = seconds(until);
                    let text = format!("its issuer's revocation list, current until {until}, does not have it");
                    passed.push(Passed { check: "ek_revocation", text });
                }
                Revocation::OldList(until) => not_made.push(format!(
                    "whether the endorsement key's certificate was revoked: its issuer's list is no whole one, or ended at {}",
                    seconds(until)
                )),
                Revocation::NotChecked => not_made.push(
                    "whether the endorsement key's certificate was revoked: the roots have no list of its issuer".into(),
                ),
            }
        }
        EkFinding::Refused(e) => {
            failed.push(told("ek-certificate", format!("the endorsement key's certificate: {e}")))
        }
    }
    let about = match &verdict.about {
        None => None,
        Some(Err(e)) => {
            failed.push(told("box", format!("the box: {e}")));
            None
        }
        Some(Ok(found)) => {
            passed.push(Passed {
                check: "box",
                text: "the box's vTPM and components lead to this member".into(),
            });
            if found.template.is_some() {
                not_made.push(boxes::TEMPLATE_NOT_MADE.into());
            }
            Some(AboutBox {
                name: file.about.as_ref().map(|b| b.evidence.name.to_string()).unwrap_or_default(),
                composition: found.composition.to_string(),
                linked: found.linked.clone(),
                beside: found.later.iter().map(|(reference, _)| reference.clone()).collect(),
                template: found.template.map(|t| t.to_string()),
            })
        }
    };
    let claims = &file.claims;
    Found {
        conclusion: match verdict.conclusion() {
            Conclusion::Refused => "refused",
            Conclusion::Consistent => "consistent",
            Conclusion::ConsistentWithKnownValues => "consistent_with_known_values",
        },
        verdict: member.state,
        claims: Claimed {
            made: seconds(claims.made),
            tpm: claims.class,
            nonce: hex(&claims.nonce),
            endorsement_key: verdict.ek_fingerprint.0.to_string(),
        },
        attestation_key: member.ak.to_string(),
        authority,
        clock: member.clock.map(|c| Clock {
            reset_count: c.reset_count,
            restart_count: c.restart_count,
            clock_ms: c.clock,
            safe: c.safe,
        }),
        passed,
        failed,
        not_made,
        references: verdict
            .references
            .iter()
            .map(|r| Reference {
                manifest: r.manifest.clone(),
                version: r.version,
                signer: r.signer.to_string(),
            })
            .collect(),
        about,
    }
}

/// Seconds since 1970, for people.
fn seconds(at: i64) -> String {
    time(u64::try_from(at).unwrap_or(0).saturating_mul(1000))
}

fn started_from(about: &AboutBox) -> String {
    match &about.template {
        Some(digest) => format!("template {digest}, which its member booted, it says"),
        None => "its own boot".into(),
    }
}

fn told(name: &str, text: String) -> Told {
    Told { name: name.into(), text, entry: None }
}

fn sentence(check: Check, nonce_chosen: bool) -> &'static str {
    match check {
        Check::Binding if nonce_chosen => "the quote answers this nonce, so it is no older than that",
        Check::Binding => "the quote covers what the member says of itself here: time, TPM, nonce",
        other => other.sentence(),
    }
}

fn text(name: &str, found: &Found) -> String {
    let conclusion = match found.conclusion {
        "refused" => "REFUSED: it does not hold together",
        "consistent_with_known_values" => "consistent, by reference values of authorities that you know",
        _ => "consistent: everything that a file can prove holds",
    };
    let tpm = match found.claims.tpm {
        TpmClass::Hardware => "hardware, it says",
        TpmClass::Software => "SOFTWARE: root of that server can make it say anything",
    };
    let clock = found.clock.as_ref().map(|c| {
        let safe = if c.safe { "" } else { ", after a power loss" };
        format!("epoch {}.{}, powered {} s{safe}", c.reset_count, c.restart_count, c.clock_ms / 1000)
    });
    let mut out = format!("{}: {conclusion}\n\n", clean(name));
    out += &facts(&[
        ("verdict", found.verdict.to_string()),
        ("made", format!("{}, by the member's clock", found.claims.made)),
        ("nonce", found.claims.nonce.clone()),
        ("tpm", [Some(tpm.to_owned()), clock].into_iter().flatten().collect::<Vec<_>>().join("\n")),
        ("authority", found.authority.clone()),
        ("attestation key", found.attestation_key.clone()),
        ("endorsement key", format!("{}, it says", found.claims.endorsement_key)),
        (
            "references",
            found
                .references
                .iter()
                .map(|r| format!("{} version {}, signed by {}", r.manifest, r.version, r.signer))
                .collect::<Vec<_>>()
                .join("\n"),
        ),
    ]);
    if let Some(b) = &found.about {
        out += &facts(&[
            ("box", b.name.clone()),
            ("composition", b.composition.clone()),
            ("linked", format!("{} components of it, {} beside it", b.linked.len(), b.beside.len())),
            ("started from", started_from(b)),
        ]);
        out += &list("Linked of the composition", b.linked.iter().map(String::as_str));
        out += &list("Linked, and not in the composition", b.beside.iter().map(String::as_str));
    }
    let failed: Vec<String> = found.failed.iter().map(located).collect();
    out += &list("Failed", failed.iter().map(String::as_str));
    out += &list("Passed", found.passed.iter().map(|p| p.text.as_str()));
    out += &list("Not checked", found.not_made.iter().map(String::as_str));
    out
}

/// What failed, and in which log entry.
fn located(failed: &Told) -> String {
    match failed.entry.as_ref().map(ToString::to_string) {
        Some(entry) if !failed.text.contains(&entry) => format!("{}: {} ({entry})", failed.name, failed.text),
        _ => format!("{}: {}", failed.name, failed.text),
    }
}

fn list<'a>(heading: &str, lines: impl Iterator<Item = &'a str>) -> String {
    let lines: String = lines.map(|l| format!("  {}\n", clean(l).replace('\n', " "))).collect();
    if lines.is_empty() { lines } else { format!("\n{heading}\n{lines}") }
}
