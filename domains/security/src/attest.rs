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
use gtvp_appraisal::file::{Blob, Claims, EvidenceFile, MAX_FILE, MAX_MANIFESTS, NONCE};
use gtvp_ipc::security::AttestBox;
use gtvp_ipc::supervisor::KernelLog;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_protocol::vouch::MAX_EVIDENCE as MAX_SENT;

use crate::evidence;
use crate::kernel_logs::KernelLogs;
use crate::others::{About, Others};
use crate::platform::{Platform, fault};
use crate::reference;
use crate::tpm::actor::Tpm;
use crate::vtpm::Vtpms;

/// The file, in `/state`, for the moment in which it is written. Not in memory: IMA's log can have more than half of what this process may
/// use, and whoever reads slowly must not hold it here.
const NAME: &str = "evidence.new";
/// The same for another member: the two are made at once.
const NAME_FOR_MEMBER: &str = "evidence-for-member.new";
/// Bytes of a file beside its logs and reference values: quote, keys, certificates, the form's own.
const REST: usize = 64 * 1024;

/// Signed manifests of reference values, each with the public area of the key that signed it: what counts in this member's union.
pub type Manifests = Vec<(Vec<u8>, Vec<u8>)>;

/// What a file is made of, and for whom.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The TPM, and the kernel's logs.
    pub platform: &'a Platform,
    /// What counts in this member's union.
    pub manifests: &'a dyn Fn() -> Manifests,
    /// This domain's folder.
    pub state: &'a Path,
    /// In hexadecimal.
    pub nonce: &'a str,
    /// `None`: a person of this member asks.
    pub others: Option<&'a Others>,
}

/// A descriptor from which this member's evidence can be read.
///
/// # Errors
/// A nonce of another length; no TPM; of another member's question also that it is too long, or comes too soon.
pub fn answer(asked: &Asked<'_>) -> Result<OwnedFd, Fault> {
    answer_with(asked, About::Itself, |_, file| Ok(file))
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
///
/// # Errors
/// As [`answer`]; a box that has no vTPM.
pub fn answer_box(asked: &Asked<'_>, vtpms: &Vtpms, about: &AttestBox) -> Result<OwnedFd, Fault> {
    asked.platform.tpm()?;
    // Before the member's evidence is made: that must name its key.
    let vtpm = vtpms.of(about.slot, &about.name)?;
    answer_with(asked, About::Box, |nonce, file| Vtpms::attest(&vtpm, about, nonce, file))
}

fn answer_with(
    asked: &Asked<'_>,
    about: About,
    complete: impl FnOnce(&[u8], EvidenceFile) -> Result<EvidenceFile, Fault>,
) -> Result<OwnedFd, Fault> {
    let (platform, nonce) = (asked.platform, parse_nonce(asked.nonce)?);
    let tpm = platform.tpm()?;
    let no_tpm = || Fault::new(FaultKind::WrongState, "this member has no TPM");
    let class = reference::class(platform.class()).ok_or_else(no_tpm)?;
    let made = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let made = i64::try_from(made).unwrap_or(i64::MAX);
    let file = |tpm: &Tpm, manifests| {
        let file = make(tpm, platform.kernel_logs(), class, nonce.clone(), made)?;
        complete(&nonce, with_references(file, manifests))
    };
    let written = match asked.others {
        None => {
            let _turn = evidence::turn();
            write(&asked.state.join(NAME), &file(tpm, (asked.manifests)())?, MAX_FILE)
        }
        // The turn to have long logs in memory is for what may be long: quotes do not wait for this.
        Some(others) => {
            let _turn = others.begin(about)?;
            let (tpm, manifests) = (tpm.for_member(), (asked.manifests)());
            sendable(&tpm, platform.kernel_logs(), &manifests)?;
            write(&asked.state.join(NAME_FOR_MEMBER), &file(&tpm, manifests)?, MAX_SENT)
        }
    };
    written.map_err(|e| match e.kind() {
        io::ErrorKind::FileTooLarge => too_long(),
        _ => Fault::internal("the evidence cannot be written", &e),
    })
}

fn too_long() -> Fault {
    Fault::new(FaultKind::NoRoom, "this member's evidence is longer than is sent to other members")
        .because(format!("with its logs and reference values it has more than {MAX_SENT} bytes"))
        .hint("ask the member itself: gtvp --member NAME member attest")
}

/// Whether a file would be short enough to be sent, before anything of it is made.
fn sendable(tpm: &Tpm, logs: Option<&KernelLogs>, manifests: &Manifests) -> Result<(), Fault> {
    let fixed: usize = manifests.iter().map(|(key, manifest)| key.len() + manifest.len()).sum();
    let fixed = fixed.saturating_add(REST).saturating_add(tpm.log_size().map_err(|e| fault(&e))?);
    let mut room = MAX_SENT.checked_sub(fixed).ok_or_else(too_long)? as u64;
    for log in [KernelLog::Boot, KernelLog::Ima] {
        let length = logs.map_or(Ok(0), |l| l.length(log, room));
        let length = length.map_err(|e| {
            Fault::new(FaultKind::Unavailable, "a log of the kernel cannot be read").caused_by(&e)
        })?;
        room = room.checked_sub(length).ok_or_else(too_long)?;
    }
    Ok(())
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

/// Written, opened again to be read only, and no longer in the folder. `FileTooLarge`: it has more than `most` bytes.
fn write(path: &Path, file: &EvidenceFile, most: usize) -> io::Result<OwnedFd> {
    let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut to = Bounded { to: BufWriter::new(made), left: most };
    let written = file.write(&mut to).and_then(|()| to.to.flush());
    let read = File::open(path);
    fs::remove_file(path)?;
    written?;
    Ok(read?.into())
}

struct Bounded<W> {
    to: W,
    left: usize,
}

impl<W: Write> Write for Bounded<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        self.to.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
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
