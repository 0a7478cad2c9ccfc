//! What `security` appraises, and what `gtvp verify` is handed.

use gtvp_appraisal::alg::HashAlg;
use gtvp_appraisal::bootlog::BootLog;
use gtvp_appraisal::ek::{self, Roots};
use gtvp_appraisal::evidence::Evidence;
use gtvp_appraisal::file::EvidenceFile;
use gtvp_appraisal::ima::{ImaLog, Way};
use gtvp_appraisal::ownlog::OwnLog;
use gtvp_appraisal::reference::SignedManifest;
use gtvp_appraisal::result::SignedResult;
use gtvp_appraisal::tpm::{Attest, Public, Signature, VerifyingKey};

use crate::seeds::{files, vectors};
use crate::{Row, same};

/// Some time at which the vectors' certificates are good.
const NOW: i64 = 1_700_000_000;

pub const TARGETS: &[Row] = &[
    ("tpm-public", || [vectors("quote", "gce_ak"), files("seeds/appraisal", "tpm")].concat(), public),
    (
        "tpm-attest",
        || vectors("quote", "gce_q"),
        |bytes| {
            let _ = Attest::parse(bytes);
            Ok(())
        },
    ),
    (
        "tpm-signature",
        || vectors("quote", "gce_q"),
        |bytes| {
            let _ = Signature::parse(bytes);
            Ok(())
        },
    ),
    ("boot-log", || vectors("logs", "g").into_iter().filter(|l| l.len() < 20_000).collect(), boot_log),
    ("ima-log", || files("seeds/appraisal", "IMA"), ima_log),
    ("own-log", || files("seeds/appraisal", "own-log"), own_log),
    ("ek-certificate", || vectors("ek", ""), certificate),
    ("evidence", || files("seeds/appraisal", "evidence"), evidence),
    ("evidence-file", || files("../cli/tests/vectors", ""), evidence_file),
    (
        "manifest",
        || files("seeds/appraisal", "manifest"),
        |bytes| {
            let _ = SignedManifest::parse(bytes);
            Ok(())
        },
    ),
    (
        "result",
        || [files("seeds/appraisal", "manifest"), files("../cli/tests/vectors", "")].concat(),
        |bytes| {
            let _ = SignedResult::parse(bytes);
            Ok(())
        },
    ),
];

fn public(bytes: &[u8]) -> Result<(), String> {
    if let Ok(public) = Public::parse(bytes) {
        let _ = VerifyingKey::of(&public);
    }
    Ok(())
}

fn boot_log(bytes: &[u8]) -> Result<(), String> {
    let Ok(log) = BootLog::parse(bytes) else { return Ok(()) };
    for bank in log.format().banks() {
        let _ = log.replay(bank);
        log.events().iter().for_each(|e| {
            let _ = (e.covers(bank), e.kind().subject().map(str::len));
        });
    }
    Ok(())
}

fn ima_log(bytes: &[u8]) -> Result<(), String> {
    let Ok(log) = ImaLog::parse(bytes) else { return Ok(()) };
    let each = |e: &gtvp_appraisal::ima::ImaEntry<'_>| {
        drop((e.extended(HashAlg::Sha256, Way::Recomputed), e.file.to_string()));
    };
    log.entries().iter().for_each(each);
    Ok(())
}

fn own_log(bytes: &[u8]) -> Result<(), String> {
    let Ok(log) = OwnLog::parse(bytes) else { return Ok(()) };
    let written: Vec<u8> = log.entries().iter().flat_map(|e| e.entry.encode()).collect();
    same("GTVP's own log", bytes, &written)
}

fn certificate(bytes: &[u8]) -> Result<(), String> {
    let mut roots = Roots::new();
    let _ = roots.add(bytes);
    let _ = ek::verify(bytes, &[bytes.to_vec()], &roots, NOW);
    Ok(())
}

fn evidence(bytes: &[u8]) -> Result<(), String> {
    let Ok(evidence) = Evidence::decode(bytes) else { return Ok(()) };
    let again = evidence.encode();
    match Evidence::decode(&again) {
        Ok(second) if second.encode() == again => Ok(()),
        _ => Err("evidence is not what it was once it is written".into()),
    }
}

fn evidence_file(bytes: &[u8]) -> Result<(), String> {
    let Ok(file) = EvidenceFile::decode(bytes) else { return Ok(()) };
    let again = file.encode();
    match EvidenceFile::decode(&again) {
        Ok(second) if second.encode() == again => Ok(()),
        _ => Err("an evidence file is not what it was once it is written".into()),
    }
}
