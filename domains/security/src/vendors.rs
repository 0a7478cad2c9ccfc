//! Whose word a TPM is: a vendor's, by a certificate that leads to one of the roots that an administrator has put here; an administrator's, who
//! has named its endorsement key; or nobody's. A device file says nothing.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use gtvp_appraisal::ek::{self, EkKey, EkRefusal, Oddity, Revocation, Roots};
use gtvp_appraisal::tpm::Public;
use gtvp_model::union::{TpmKind, TpmMaker};

use crate::platform::chain;

/// Where an administrator puts roots of EK certificates and revocation lists, in the state folder.
const ROOTS: &str = "ek-roots";
/// Files there, and the longest: all vendors together have about a hundred certificates; a revocation list may be long.
const MAX_FILES: usize = 1024;
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Why a TPM has no class.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoClass {
    /// Something speaks against it.
    #[error("its endorsement key's certificate: {0}")]
    Certificate(#[source] EkRefusal),
    /// Nobody speaks for it.
    #[error("nobody vouches for its endorsement key {ek}: {why}")]
    Nobody {
        /// Its fingerprint.
        ek: String,
        /// What became of the certificate.
        why: String,
    },
}

/// The roots and revocation lists that there are. A file that has none is told, and left out: it makes nobody more trusted.
pub fn roots(state: &Path) -> Roots {
    let mut roots = Roots::new();
    for file in fs::read_dir(state.join(ROOTS)).into_iter().flatten().flatten().take(MAX_FILES) {
        let path = file.path();
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|f| f.take(MAX_FILE).read_to_end(&mut bytes));
        let added = read.map_err(|e| e.to_string()).and_then(|_| roots.add(&bytes).map_err(|e| chain(&e)));
        if let Err(why) = added {
            eprintln!("gtvp-security: {} has no roots of EK certificates: {why}", path.display());
        }
    }
    roots
}

/// Whose word the TPM with this endorsement key is. `pinned`: an administrator has named this very key. `software`: whether the union takes
/// TPMs that are nobody's word.
///
/// # Errors
/// [`NoClass`].
pub fn kind(
    roots: &Roots,
    certificate: &[u8],
    ek: &Public,
    pinned: bool,
    software: bool,
    now: i64,
) -> Result<TpmKind, NoClass> {
    let why = if certificate.is_empty() {
        "it has no certificate".to_owned()
    } else {
        let verified =
            ek::verify(certificate, &[], roots, now).and_then(|found| found.check(ek).map(|()| found));
        match verified {
            Ok(found) => {
                tell(&found.oddities, found.revocation);
                return Ok(TpmKind::Hardware(TpmMaker::of_certificate(found.manufacturer.as_deref())));
            }
            Err(e) if e.proves_nothing() => chain(&e),
            Err(e) => return Err(NoClass::Certificate(e)),
        }
    };
    match (software, pinned) {
        // A TPM of a union that takes software ones may be one, whatever key was named.
        (true, _) => Ok(TpmKind::Software),
        (false, true) => Ok(TpmKind::Pinned),
        (false, false) => Err(NoClass::Nobody { ek: EkKey::of_public(ek).fingerprint().0.to_string(), why }),
    }
}

/// What is believed and worth knowing.
fn tell(oddities: &[Oddity], revocation: Revocation) {
    for oddity in oddities {
        if let Oddity::Ended(at) | Oddity::IssuerEnded(at) = oddity {
            eprintln!(
                "gtvp-security: an EK certificate, or one above it, has ended ({at} seconds since 1970); it vouches for its key as before"
            );
        }
    }
    match revocation {
        Revocation::Checked(_) => {}
        Revocation::NotChecked => {
            eprintln!(
                "gtvp-security: whether an EK certificate was revoked is not checked: ek-roots has no list of its issuer"
            );
        }
        Revocation::OldList(until) => {
            eprintln!(
                "gtvp-security: the list by which an EK certificate was not revoked is no whole one, or ended at {until} seconds since 1970"
            );
        }
    }
}
