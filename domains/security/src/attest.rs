//! This member's evidence, and a box's with it, as a file that anybody can check offline (docs/spec/evidence.md, "Files"). It judges nothing: this member's word
//! for its own health is worth nothing.

use gtvp_model::hex::unhex;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use gtvp_appraisal::appraise;
use gtvp_appraisal::file::{Blob, Claims, EvidenceFile, MAX_MANIFESTS, NONCE};
use gtvp_ipc::security::AttestBox;
use gtvp_model::fault::{Fault, FaultKind};

use crate::evidence;
use crate::kernel_logs::KernelLogs;
use crate::platform::{Platform, fault};
use crate::reference;
use crate::tpm::actor::Tpm;
use crate::vtpm::Vtpms;

/// The file, in `/state`, for the moment in which it is written. Not in memory: IMA's log can have more than half of what this process may
/// use, and whoever reads slowly must not hold it here.
const NAME: &str = "evidence.new";

/// Signed manifests of reference values, each with the public area of the key that signed it: what counts in this member's union.
pub type Manifests = Vec<(Vec<u8>, Vec<u8>)>;

/// A descriptor from which this member's evidence can be read. `nonce` is in hexadecimal, `state` this domain's folder.
pub fn answer(
    platform: &Platform,
    manifests: Manifests,
    state: &Path,
    nonce: &str,
) -> Result<OwnedFd, Fault> {
    answer_with(platform, state, nonce, |_, file| Ok(with_references(file, manifests)))
}

/// The same file with what its reader can compare its entries with. Whether it trusts who signed that is for the reader to say.
pub fn with_references(file: EvidenceFile, manifests: Manifests) -> EvidenceFile {
    let mut authorities: Vec<Blob> = Vec::new();
    let mut references = Vec::new();
    for (key, manifest) in manifests.into_iter().take(MAX_MANIFESTS) {
        let key = Blob(key);
        if !authorities.contains(&key) {
            authorities.push(key);
        }
        references.push(Blob(manifest));
    }
    EvidenceFile { references, authorities, ..file }
}

/// A descriptor from which a box's evidence can be read, with this member's.
pub fn answer_box(
    platform: &Platform,
    vtpms: &Vtpms,
    manifests: Manifests,
    state: &Path,
    asked: &AttestBox,
) -> Result<OwnedFd, Fault> {
    platform.tpm()?;
    // Before the member's evidence is made: that must name its key.
    let vtpm = vtpms.of(asked.slot, &asked.name)?;
    answer_with(platform, state, &asked.nonce, |nonce, file| {
        Vtpms::attest(&vtpm, asked, nonce, with_references(file, manifests))
    })
}

fn answer_with(
    platform: &Platform,
    state: &Path,
    nonce: &str,
    complete: impl FnOnce(&[u8], EvidenceFile) -> Result<EvidenceFile, Fault>,
) -> Result<OwnedFd, Fault> {
    let nonce = parse_nonce(nonce)?;
    let tpm = platform.tpm()?;
    let no_tpm = || Fault::new(FaultKind::WrongState, "this member has no TPM");
    let class = reference::class(platform.class()).ok_or_else(no_tpm)?;
    let made = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let made = i64::try_from(made).unwrap_or(i64::MAX);
    let _turn = evidence::turn();
    let file = make(tpm, platform.kernel_logs(), class, nonce.clone(), made)?;
    let file = complete(&nonce, file)?;
    write(&state.join(NAME), &file).map_err(|e| Fault::internal("the evidence cannot be written", &e))
}

fn parse_nonce(text: &str) -> Result<Vec<u8>, Fault> {
    // What is too long is refused before it is decoded.
    let fits = Some(text).filter(|t| t.len() <= 2 * NONCE.end());
    let nonce = fits.and_then(unhex).filter(|n| text.len() == 2 * n.len() && NONCE.contains(&n.len()));
    nonce.ok_or_else(|| {
        let (min, max) = (NONCE.start(), NONCE.end());
        Fault::new(FaultKind::Invalid, format!("a nonce is {min} to {max} bytes in hexadecimal"))
    })
}

/// The evidence of the member that has this TPM and these logs, made at `made` (seconds since 1970) for `nonce`.
pub fn make(
    tpm: &Tpm,
    logs: Option<&KernelLogs>,
    class: appraise::TpmClass,
    nonce: Vec<u8>,
    made: i64,
) -> Result<EvidenceFile, Fault> {
    let identity = tpm.state().map_err(|e| fault(&e))?.identity;
    let claims = Claims {
        made,
        class,
        nonce,
        ek: identity.ek_public,
        ek_certificate: identity.ek_certificate.unwrap_or_default(),
        intermediates: Vec::new(),
    };
    let bound = claims.qualifying_data(&identity.ak_public).0.to_vec();
    let evidence = evidence::make(tpm, logs, identity.ak_public, bound)?;
    Ok(EvidenceFile {
        format: EvidenceFile::format(),
        claims,
        evidence,
        references: Vec::new(),
        authorities: Vec::new(),
        about: None,
    })
}

/// Written, opened again to be read only, and no longer in the folder.
fn write(path: &Path, file: &EvidenceFile) -> io::Result<OwnedFd> {
    let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut to = BufWriter::new(made);
    file.write(&mut to)?;
    to.flush()?;
    let read = File::open(path)?;
    fs::remove_file(path)?;
    Ok(read.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_bounded_and_nothing_but_hexadecimal() {
        assert_eq!(parse_nonce(&"0a".repeat(16)).unwrap(), [10; 16]);
        assert_eq!(parse_nonce(&"Ff".repeat(64)).unwrap(), [255; 64]);
        let odd = format!("{}0", "0a".repeat(16));
        for bad in ["", "0a", &"0a".repeat(15), &odd, &"0a".repeat(65), &"zz".repeat(16), &"é".repeat(16)] {
            assert_eq!(parse_nonce(bad).unwrap_err().kind, FaultKind::Invalid, "{bad}");
        }
    }
}
