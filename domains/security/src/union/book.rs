//! What `security` keeps of entries beside the record itself: whose attestation key signs for whom, and which reference values count.
//!
//! The record carries manifests and does not read them. Here they are read: the same entries give every member the same set, so that
//! voters agree which manifest may be next.

use std::collections::BTreeMap;
use std::sync::Arc;

use gtvp_appraisal::reference::{ComposeRefusal, Manifest, ReferenceSet, SignedManifest, TrustedManifest};
use gtvp_appraisal::tpm::{Public, VerifyingKey, check_ak};
use gtvp_model::token::TokenId;
use gtvp_model::union::{Identity, KeyName, MemberId, PlatformIdentity, RosterEntry};
use gtvp_protocol::csp::act::{BadBlob, Blob};
use gtvp_protocol::csp::{Act, Entry};

/// Most bytes of all manifests that count at once: read, they take some five times that, for as long as they count.
pub const MAX_MANIFESTS_BYTES: usize = 4 * 1024 * 1024;

/// Why a manifest in an entry does not count.
#[derive(Debug, thiserror::Error)]
pub enum BadManifest {
    /// It is not a key and a signed manifest.
    #[error("it is not a signed manifest with its key: {0}")]
    Form(String),
    /// Its key is not that of the entry's author.
    #[error("it is not signed by the attestation key of the member that wrote its entry")]
    OtherKey,
    /// It calls itself something else.
    #[error("it calls itself {0:?}")]
    Name(String),
    /// It is refused.
    #[error(transparent)]
    Refused(#[from] gtvp_appraisal::reference::ManifestRefusal),
    /// It does not go together with the others.
    #[error(transparent)]
    Compose(#[from] ComposeRefusal),
    /// There would be too much.
    #[error("all manifests together would have {0} bytes, more than {MAX_MANIFESTS_BYTES}")]
    TooMuch(usize),
}

/// A manifest that counts.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// What it says; or why it cannot be read, and then nobody is trusted.
    pub manifest: Result<TrustedManifest, String>,
    /// The blob that the record has.
    pub blob: Blob,
    /// Who signed it.
    pub author: MemberId,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Book {
    own_id: MemberId,
    own: Option<RosterEntry>,
    founder_level: PlatformIdentity,
    aks: BTreeMap<MemberId, KeyName>,
    accepted: BTreeMap<String, Accepted>,
    /// Who made the tokens that nobody has used and nobody has ended.
    tokens: BTreeMap<TokenId, MemberId>,
    set: Result<Arc<ReferenceSet>, String>,
}

/// A manifest for the record: the signing key's TPMT_PUBLIC, with its length, 2 bytes, big-endian, before it, then the COSE object.
///
/// # Errors
/// Too many bytes.
pub fn blob(ak_public: &[u8], signed: &[u8]) -> Result<Blob, BadBlob> {
    let length = u16::try_from(ak_public.len()).map_err(|_| BadBlob)?.to_be_bytes();
    Blob::new([&length, ak_public, signed].concat())
}

/// Key and COSE object of a blob.
pub fn parts(blob: &Blob) -> Option<(&[u8], &[u8])> {
    let (length, rest) = blob.as_slice().split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

impl Book {
    /// Of no entries.
    pub fn new(own_id: MemberId) -> Self {
        Self {
            own_id,
            own: None,
            founder_level: PlatformIdentity::default(),
            aks: BTreeMap::new(),
            accepted: BTreeMap::new(),
            tokens: BTreeMap::new(),
            set: Err(ComposeRefusal::None.to_string()),
        }
    }

    /// This member as the record had it last.
    pub fn own(&self) -> Option<&RosterEntry> {
        self.own.as_ref()
    }

    /// The founder's reference security level.
    pub fn founder_level(&self) -> PlatformIdentity {
        self.founder_level
    }

    /// What counts as healthy, or why nothing does.
    pub fn set(&self) -> Result<Arc<ReferenceSet>, String> {
        self.set.clone()
    }

    /// Manifests that count, by name.
    pub fn accepted(&self) -> &BTreeMap<String, Accepted> {
        &self.accepted
    }

    /// Tokens that nobody has used and nobody has ended, and who made them.
    pub fn tokens(&self) -> &BTreeMap<TokenId, MemberId> {
        &self.tokens
    }

    /// Takes up an entry that the record has taken.
    pub fn note(&mut self, entry: &Entry) {
        match &entry.act {
            Act::Genesis { founder, .. } => {
                self.founder_level = founder.platform_identity;
                self.member(founder);
            }
            Act::Admitted(admission) => {
                self.tokens.remove(&admission.token);
                self.member(&admission.member);
            }
            Act::TokenMade(token) => {
                self.tokens.insert(token.key.id(), entry.author);
            }
            Act::TokenEnded(id) => {
                self.tokens.remove(id);
            }
            Act::ReferenceAccepted { name, manifest } => {
                let read = self.read(name, manifest, entry.author).map_err(|e| e.to_string());
                self.accepted.insert(
                    name.clone(),
                    Accepted { manifest: read, blob: manifest.clone(), author: entry.author },
                );
                self.compose();
            }
            Act::ReferenceRetired { name } => {
                self.accepted.remove(name);
                self.compose();
            }
            _ => {}
        }
    }

    fn member(&mut self, member: &RosterEntry) {
        if let Identity::Tpm { ak, .. } = &member.identity {
            self.aks.insert(member.id(), ak.clone());
        }
        if member.id() == self.own_id {
            self.own = Some(member.clone());
        }
    }

    /// Whether the manifest of an entry would count, together with those that do.
    ///
    /// # Errors
    /// [`BadManifest`]: no voter takes the entry.
    pub fn would_take(&self, name: &str, manifest: &Blob, author: MemberId) -> Result<(), BadManifest> {
        let new = self.read(name, manifest, author)?;
        let others = || self.accepted.iter().filter(|(n, _)| *n != name).map(|(_, a)| a);
        let bytes = manifest.as_slice().len() + others().map(|a| a.blob.as_slice().len()).sum::<usize>();
        if bytes > MAX_MANIFESTS_BYTES {
            return Err(BadManifest::TooMuch(bytes));
        }
        if let Some(Ok(held)) = self.accepted.get(name).map(|a| &a.manifest) {
            new.replaces(held)?;
        }
        let mut all: Vec<TrustedManifest> = others().filter_map(|a| a.manifest.clone().ok()).collect();
        all.push(new);
        ReferenceSet::compose(&all)?;
        Ok(())
    }

    fn read(&self, name: &str, blob: &Blob, author: MemberId) -> Result<TrustedManifest, BadManifest> {
        let form = |e: &dyn std::error::Error| BadManifest::Form(e.to_string());
        let (public, signed) = parts(blob).ok_or_else(|| BadManifest::Form("it is cut".into()))?;
        let public = Public::parse(public).map_err(|e| form(&e))?;
        check_ak(&public).map_err(|e| form(&e))?;
        if self.aks.get(&author).map(KeyName::as_bytes) != Some(public.name().to_bytes().as_slice()) {
            return Err(BadManifest::OtherKey);
        }
        let key = VerifyingKey::of(&public).map_err(|e| form(&e))?;
        let trusted = SignedManifest::parse(signed)?.verify(&key, public.name())?;
        let Manifest { name: own, .. } = trusted.manifest();
        if own != name { Err(BadManifest::Name(own.clone())) } else { Ok(trusted) }
    }

    /// One that cannot be read spoils all: what a majority has put its name to is not left out in silence.
    fn compose(&mut self) {
        let all = self.accepted.iter().map(|(name, a)| match &a.manifest {
            Ok(manifest) => Ok(manifest.clone()),
            Err(why) => Err(format!("reference values {name:?}: {why}")),
        });
        self.set = all
            .collect::<Result<Vec<_>, _>>()
            .and_then(|all| ReferenceSet::compose(&all).map_err(|e| e.to_string()))
            .map(Arc::new);
    }
}
