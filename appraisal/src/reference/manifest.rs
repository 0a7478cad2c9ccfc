//! Named, versioned, signed lists of rules.

use gtvp_model::digest::Digest;
use serde::{Deserialize, Serialize};

use super::{Rule, RuleRefusal};
use crate::cose::{CoseRefusal, Sealed, Unsigned, from_cbor, to_cbor};
use crate::tpm::{Name, Scheme, Signature, VerifyingKey};

/// Longest signed manifest: the files of a distribution (100,000 of them) are a manifest of some 8 MB.
pub const MAX_MANIFEST: usize = 16 * 1024 * 1024;

/// Most rules in one manifest.
pub const MAX_RULES: usize = 200_000;

const CONTENT: &str = "application/vnd.gtvp.reference+cbor";
const MAX_NAME: usize = 64;
const MAX_PARTS: usize = 64;

/// What a manifest demands of a kind of measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Demand {
    /// It may be absent: the verdict says that it was not measured.
    MayBeAbsent,
    /// Without it nobody is trusted.
    Required,
}

/// What must be measured. `None`: this manifest does not say. The strictest of all manifests counts; where none says
/// anything, boot and GTVP's own log are required and files are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Demands {
    /// The boot log. `MayBeAbsent` is for unions of software TPMs, whose machines measure no boot.
    pub boot: Option<Demand>,
    /// The IMA log.
    pub files: Option<Demand>,
    /// GTVP's own log.
    pub own: Option<Demand>,
}

/// A list of rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What it is about ("debian-13", "gtvp-0.1.0"). Versions of one name replace each other.
    pub name: String,
    /// Counts up.
    pub version: u64,
    /// When it was made, in seconds since 1970. For people.
    pub issued: i64,
    /// What must be measured.
    pub demands: Demands,
    /// Parts of which at least one rule must have matched an entry.
    pub required_parts: Vec<String>,
    /// What is healthy.
    pub rules: Vec<Rule>,
}

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestRefusal {
    /// The signed object is not usable.
    #[error("the signed manifest is not usable")]
    Cose(#[from] CoseRefusal),
    /// The payload is no manifest.
    #[error("not a manifest: {0}")]
    NotAManifest(String),
    /// Its name is empty, too long, or not printable ASCII without spaces.
    #[error("a manifest's name has 1 to {MAX_NAME} printable characters without spaces")]
    Name,
    /// No rule and no demand: a failed load must not become an empty list.
    #[error("the manifest says nothing")]
    Empty,
    /// Too many rules or parts.
    #[error("more than {MAX_RULES} rules or {MAX_PARTS} required parts")]
    TooMany,
    /// A rule that may not be in a manifest.
    #[error("rule {number} is refused")]
    Rule {
        /// Its number, from 0.
        number: usize,
        /// Why.
        #[source]
        source: RuleRefusal,
    },
    /// A part is required that no rule is of: nothing could ever be trusted.
    #[error("part {0:?} is required, and no rule is of it")]
    PartWithoutRule(String),
    /// Not newer than the one that is held.
    #[error("version {got} of {name:?} is not newer than {held}, which is held")]
    NotNewer {
        /// Name of the manifest.
        name: String,
        /// Its version.
        got: u64,
        /// The held version.
        held: u64,
    },
}

impl Manifest {
    /// Whether it may be signed and used.
    pub fn check(&self) -> Result<(), ManifestRefusal> {
        let name = &self.name;
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ManifestRefusal::Name);
        }
        if self.rules.is_empty() && self.demands == Demands::default() {
            return Err(ManifestRefusal::Empty);
        }
        if self.rules.len() > MAX_RULES || self.required_parts.len() > MAX_PARTS {
            return Err(ManifestRefusal::TooMany);
        }
        for (number, rule) in self.rules.iter().enumerate() {
            rule.check().map_err(|source| ManifestRefusal::Rule { number, source })?;
        }
        for part in &self.required_parts {
            let of_part = |rule: &Rule| match rule {
                Rule::Boot(r) => r.part.as_ref() == Some(part),
                Rule::Own(r) => r.part.as_ref() == Some(part),
                Rule::File(_) | Rule::Signer(_) => false,
            };
            if !self.rules.iter().any(of_part) {
                return Err(ManifestRefusal::PartWithoutRule(part.clone()));
            }
        }
        Ok(())
    }

    /// The manifest, to be signed by the key `signer` with its `scheme`.
    pub fn unsigned(&self, scheme: Scheme, signer: &Name) -> Result<Unsigned, ManifestRefusal> {
        self.check()?;
        Ok(Unsigned::new(CONTENT, to_cbor(self), scheme, &signer.to_bytes())?)
    }

    /// The manifest, signed.
    pub fn signed(&self, unsigned: Unsigned, signature: &Signature) -> Result<Vec<u8>, ManifestRefusal> {
        Ok(unsigned.signed(signature)?)
    }
}

/// A manifest that was read and not yet believed.
#[derive(Debug)]
pub struct SignedManifest {
    sealed: Sealed,
}

impl SignedManifest {
    /// Reads one.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestRefusal> {
        Ok(Self { sealed: Sealed::parse(bytes, CONTENT, MAX_MANIFEST)? })
    }

    /// Name of the key that it says signed it.
    pub fn signer(&self) -> &[u8] {
        self.sealed.signer()
    }

    /// Believes it if `key`, whose Name is `name`, signed it. Whether that key may say what is healthy is for the caller
    /// (the union's record) to know.
    pub fn verify(&self, key: &VerifyingKey, name: &Name) -> Result<TrustedManifest, ManifestRefusal> {
        let payload = self.sealed.open(key, &name.to_bytes())?;
        let manifest: Manifest = from_cbor(payload).map_err(ManifestRefusal::NotAManifest)?;
        manifest.check()?;
        // Of what is signed, not of how it is wrapped: signatures and envelopes can be written in several ways.
        Ok(TrustedManifest { digest: Digest::of(payload), manifest, signer: *name })
    }
}

/// A manifest whose signature was verified. There is no other way to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedManifest {
    manifest: Manifest,
    digest: Digest,
    signer: Name,
}

impl TrustedManifest {
    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of the manifest as it was signed.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Who signed it.
    pub fn signer(&self) -> &Name {
        &self.signer
    }

    /// Whether it may take the place of `held`: of the same name, newer.
    pub fn replaces(&self, held: &TrustedManifest) -> Result<(), ManifestRefusal> {
        let (got, held) = (&self.manifest, &held.manifest);
        if got.name == held.name && got.version <= held.version {
            return Err(ManifestRefusal::NotNewer {
                name: got.name.clone(),
                got: got.version,
                held: held.version,
            });
        }
        Ok(())
    }
}
