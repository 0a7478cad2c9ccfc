//! Evidence as a file: everything that somebody far away needs to check it again, and nothing that must be asked for
//! (`gtvp member attest > evidence.cbor`, `gtvp verify evidence.cbor`; docs/spec/evidence.md, "Files").
//!
//! A file can prove that it is consistent, never that its key is somebody's: so its conclusion is not "trusted". Whoever
//! chose its nonce knows that it is new. With the public keys of authorities that the reader knows, it says whose
//! reference values these are.

use std::io;

use gtvp_model::digest::Digest;
use serde::{Deserialize, Serialize};

use crate::appraise::{
    Attester, AttesterRefusal, Binding, Check, KnownFrom, NotMade, Question, TpmClass, Verdict, appraise,
};
use crate::boxes::{self, BoxEvidence, BoxFinding, BoxRefusal};
use crate::cose::{from_cbor, to_cbor};
use crate::ek::{self, EkKey, EkRefusal, Pin, Roots, VerifiedEk};
use crate::evidence::{BadEvidence, Evidence, LogPart, MAX_EVIDENCE};
use crate::reference::{
    ComposeRefusal, MAX_MANIFEST, ManifestRefusal, ReferenceSet, SignedManifest, TrustedManifest,
};
use crate::tpm::{KeyRefusal, Malformed, Name, Public, SignatureRefusal, VerifyingKey};

/// Longest file: evidence with the longest logs, and reference values of several distributions.
pub const MAX_FILE: usize = MAX_EVIDENCE + 2 * MAX_MANIFEST;

/// Most manifests and authorities in a file.
pub const MAX_MANIFESTS: usize = 64;

/// Bytes of a nonce: enough that nobody guesses it or meets it twice, and as many as any digest has.
pub use gtvp_model::peer::NONCE;

const MAGIC: &str = "gtvp-evidence/1";

/// What makes a quote for a file different from every other that the same key signs.
const LABEL: &[u8] = b"gtvp-file/1\0";

/// The contents of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceFile {
    /// `gtvp-evidence/1`.
    pub format: String,
    /// What the member says of itself: the quote is bound to it.
    pub claims: Claims,
    /// The member's evidence, with whole logs.
    pub evidence: Evidence,
    /// Signed reference manifests.
    pub references: Vec<Blob>,
    /// Public areas of the keys that signed them.
    pub authorities: Vec<Blob>,
    /// The box that it is about.
    pub about: Option<AboutBox>,
}

/// What no log and no quote says by itself. The quote's qualifyingData is made of it, so that the key vouches for it as for
/// the quote, and nobody has a file's quote made for another purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// When it was made, in seconds since 1970, by the member's clock.
    pub made: i64,
    /// What the member's TPM is.
    pub class: TpmClass,
    /// What the one who asked for the file chose: [`NONCE`] bytes.
    #[serde(with = "crate::bytes")]
    pub nonce: Vec<u8>,
    /// EK: contents of its TPM2B_PUBLIC.
    #[serde(with = "crate::bytes")]
    pub ek: Vec<u8>,
    /// EK certificate in DER; empty if there is none.
    #[serde(with = "crate::bytes")]
    pub ek_certificate: Vec<u8>,
    /// Certificates between it and a root.
    pub intermediates: Vec<Blob>,
}

impl Claims {
    /// What the quote's qualifyingData must be: SHA-256(label ‖ SHA-256(CBOR of the claims) ‖ SHA-256(AK)). The AK's public area has
    /// more in it than the signature covers; `ak` is the contents of its TPM2B_PUBLIC.
    pub fn qualifying_data(&self, ak: &[u8]) -> Digest {
        Digest::of(&[LABEL, &Digest::of(&to_cbor(self)).0, &Digest::of(ak).0].concat())
    }
}

/// A byte string.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Blob(#[serde(with = "crate::bytes")] pub Vec<u8>);

/// The box that a file is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AboutBox {
    /// Its evidence.
    pub evidence: BoxEvidence,
    /// The nonce that its quote answers, with the member's quote.
    #[serde(with = "crate::bytes")]
    pub nonce: Vec<u8>,
}

/// Why a file is no evidence at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileRefusal {
    /// Longer than [`MAX_FILE`].
    #[error("{0} bytes are more than an evidence file may have ({MAX_FILE})")]
    TooLong(usize),
    /// Not CBOR of an evidence file.
    #[error("not an evidence file: {0}")]
    NotAFile(String),
    /// CBOR of an evidence file, but not in the one encoding that it has.
    #[error("not an evidence file: it is not in deterministic CBOR")]
    NotDeterministic,
    /// The nonce is shorter or longer than one may be.
    #[error("its nonce has {0} bytes; {min} to {max} are taken", min = NONCE.start(), max = NONCE.end())]
    Nonce(usize),
    /// Its evidence is of another version, or a part of it too long.
    #[error(transparent)]
    Evidence(#[from] BadEvidence),
    /// Its EK is malformed.
    #[error("its endorsement key is malformed")]
    Ek(#[source] Malformed),
    /// Another format.
    #[error("its format is {0:?}; this is for {MAGIC:?}")]
    Format(String),
    /// More manifests, authorities or intermediates than a file may have.
    #[error("it has too many {0}")]
    TooMany(&'static str),
    /// Its logs are not whole.
    #[error("its logs begin in the middle")]
    NotWhole,
    /// Its key is no attestation key.
    #[error("its key is not usable")]
    Attester(#[from] AttesterRefusal),
    /// An authority's key is not usable.
    #[error("authority {number} is not usable: {reason}")]
    Authority {
        /// Its number.
        number: usize,
        /// Why.
        reason: String,
    },
    /// A manifest is not usable.
    #[error("reference manifest {number} is not usable")]
    Manifest {
        /// Its number.
        number: usize,
        /// Why.
        #[source]
        source: Box<ManifestRefusal>,
    },
    /// A manifest's signer is not among the authorities.
    #[error("reference manifest {0} is signed by a key that is not in the file")]
    UnknownSigner(usize),
    /// The manifests make no set.
    #[error("its reference values do not compose")]
    Compose(#[from] ComposeRefusal),
}

/// What is known of the member's EK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EkFinding {
    /// There is no certificate.
    NoCertificate,
    /// No roots were given to check it with.
    NoRoots,
    /// It leads to a root.
    Verified(Box<VerifiedEk>),
    /// It does not.
    Refused(EkRefusal),
}

/// Who signed a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedBy {
    /// The manifest.
    pub manifest: String,
    /// Its version.
    pub version: u64,
    /// Name of the key.
    pub signer: Name,
    /// Whether the reader knows that key. If not, only the file says that these values are anybody's.
    pub known: bool,
}

/// What the reader may conclude.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conclusion {
    /// All that a file can prove holds, by reference values of authorities that the reader knows.
    ConsistentWithKnownValues,
    /// All that a file can prove holds, by reference values that only the file vouches for, or by none.
    Consistent,
    /// Something does not hold.
    Refused,
}

/// What the reader brings.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    /// Roots for EK certificates. None: certificates are not checked, and that is told.
    pub roots: &'a Roots,
    /// Names of authorities that the reader trusts to say what is healthy.
    pub known: &'a [Name],
    /// The nonce that the reader chose. Without, the file may be old, and that is told.
    pub nonce: Option<&'a [u8]>,
}

/// What checking a file found.
#[derive(Debug, Clone)]
pub struct FileVerdict {
    /// The member, by the file's reference values. Unknown at best: a file proves neither whose key it is nor its age.
    pub member: Verdict,
    /// Fingerprint of the EK that the file names.
    pub ek_fingerprint: Pin,
    /// What is known of that EK.
    pub ek: EkFinding,
    /// Whose reference values.
    pub references: Vec<SignedBy>,
    /// The box, if the file is about one.
    pub about: Option<Result<BoxFinding, BoxRefusal>>,
}

impl FileVerdict {
    /// What the reader may conclude.
    pub fn conclusion(&self) -> Conclusion {
        let box_refused = matches!(self.about, Some(Err(_)));
        if !self.member.failed.is_empty() || box_refused || matches!(self.ek, EkFinding::Refused(_)) {
            return Conclusion::Refused;
        }
        match !self.references.is_empty() && self.references.iter().all(|r| r.known) {
            true => Conclusion::ConsistentWithKnownValues,
            false => Conclusion::Consistent,
        }
    }
}

impl EvidenceFile {
    /// A file from its bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FileRefusal> {
        if bytes.len() > MAX_FILE {
            return Err(FileRefusal::TooLong(bytes.len()));
        }
        let file: Self = from_cbor(bytes).map_err(FileRefusal::NotAFile)?;
        if file.format != MAGIC {
            return Err(FileRefusal::Format(file.format.chars().take(80).collect()));
        }
        file.evidence.check()?;
        for (what, len, max) in [
            ("reference manifests", file.references.len(), MAX_MANIFESTS),
            ("authorities", file.authorities.len(), MAX_MANIFESTS),
            ("intermediate certificates", file.claims.intermediates.len(), ek::MAX_INTERMEDIATES),
        ] {
            if len > max {
                return Err(FileRefusal::TooMany(what));
            }
        }
        if !NONCE.contains(&file.claims.nonce.len()) {
            return Err(FileRefusal::Nonce(file.claims.nonce.len()));
        }
        // What says the same in other bytes was not written by a member.
        if file.encode() != bytes {
            return Err(FileRefusal::NotDeterministic);
        }
        Ok(file)
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        to_cbor(self)
    }

    /// Writes its bytes.
    pub fn write(&self, to: impl io::Write) -> io::Result<()> {
        ciborium::into_writer(self, to).map_err(|e| match e {
            ciborium::ser::Error::Io(e) => e,
            ciborium::ser::Error::Value(why) => io::Error::other(why),
        })
    }

    /// The format that [`EvidenceFile::format`] must be.
    pub fn format() -> String {
        MAGIC.to_owned()
    }

    /// Checks all that a file can prove. `now` is in seconds since 1970.
    pub fn verify(&self, reader: &Reader<'_>, now: i64) -> Result<FileVerdict, FileRefusal> {
        let whole = |part: &LogPart| matches!(part, LogPart::Absent | LogPart::From { from: 0, .. });
        if ![&self.evidence.boot, &self.evidence.ima, &self.evidence.own].into_iter().all(whole) {
            return Err(FileRefusal::NotWhole);
        }
        let attester = Attester::new(&self.evidence.ak, self.claims.class)?;
        let ek = Public::parse(&self.claims.ek).map_err(FileRefusal::Ek)?;
        let trusted = self.trusted_manifests()?;
        let set = match trusted.is_empty() {
            true => ReferenceSet::none(),
            false => ReferenceSet::compose(&trusted)?,
        };
        let mut claims = self.claims.clone();
        if let Some(nonce) = reader.nonce {
            claims.nonce = nonce.to_vec();
        }
        let binding = Binding::Qualifying(&claims.qualifying_data(&self.evidence.ak).0);
        let question =
            Question { attester: &attester, known_from: KnownFrom::Claim, binding, held: None, newest: None };
        let mut member = appraise(&self.evidence, &question, &set, now).verdict;
        // Nothing is held of this TPM, so nothing was compared.
        if member.passed.contains(&Check::Epoch) {
            member.passed.retain(|check| *check != Check::Epoch);
            member.not_made.push(NotMade::Epoch);
        }
        if reader.nonce.is_none() {
            member.not_made.push(NotMade::Freshness);
        }
        let own = match &self.evidence.own {
            LogPart::From { bytes, .. } => bytes.as_slice(),
            LogPart::Absent => &[],
        };
        let about =
            self.about.as_ref().map(|b| boxes::check(&b.evidence, own, &self.evidence.quote, &b.nonce));
        let references = trusted.iter().map(|t| SignedBy {
            manifest: t.manifest().name.clone(),
            version: t.manifest().version,
            signer: *t.signer(),
            known: reader.known.contains(t.signer()),
        });
        Ok(FileVerdict {
            member,
            ek_fingerprint: EkKey::of_public(&ek).fingerprint(),
            ek: self.ek(&ek, reader.roots, now),
            references: references.collect(),
            about,
        })
    }

    fn ek(&self, ek: &Public, roots: &Roots, now: i64) -> EkFinding {
        let claims = &self.claims;
        if claims.ek_certificate.is_empty() {
            return EkFinding::NoCertificate;
        }
        if roots.is_empty() {
            return EkFinding::NoRoots;
        }
        let between: Vec<Vec<u8>> = claims.intermediates.iter().map(|b| b.0.clone()).collect();
        let verified = ek::verify(&claims.ek_certificate, &between, roots, now);
        match verified.and_then(|found| found.check(ek).map(|()| found)) {
            Ok(found) => EkFinding::Verified(Box::new(found)),
            Err(refusal) => EkFinding::Refused(refusal),
        }
    }

    fn trusted_manifests(&self) -> Result<Vec<TrustedManifest>, FileRefusal> {
        let authority = |(number, blob): (usize, &Blob)| {
            authority(&blob.0).map_err(|reason| FileRefusal::Authority { number, reason })
        };
        let authorities: Vec<(Name, VerifyingKey)> =
            self.authorities.iter().enumerate().map(authority).collect::<Result<_, _>>()?;
        let mut trusted = Vec::with_capacity(self.references.len());
        for (number, blob) in self.references.iter().enumerate() {
            let refused = |source| FileRefusal::Manifest { number, source: Box::new(source) };
            let signed = SignedManifest::parse(&blob.0).map_err(refused)?;
            let signer = authorities.iter().find(|(name, _)| name.to_bytes() == signed.signer());
            let (name, key) = signer.ok_or(FileRefusal::UnknownSigner(number))?;
            trusted.push(signed.verify(key, name).map_err(refused)?);
        }
        Ok(trusted)
    }
}

fn authority(public: &[u8]) -> Result<(Name, VerifyingKey), String> {
    let public = Public::parse(public).map_err(|e: Malformed| e.to_string())?;
    if !public.name_alg.is_trusted() {
        return Err(KeyRefusal::Sha1Name("authority's key").to_string());
    }
    let key = VerifyingKey::of(&public).map_err(|e: SignatureRefusal| e.to_string())?;
    Ok((*public.name(), key))
}
