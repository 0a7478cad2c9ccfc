//! Manifests, composed: what evidence is compared with, laid out so that an entry is one look-up.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use gtvp_model::digest::Digest;

use super::{
    BootMatch, Demand, FileRule, OwnMatch, OwnRule, Pattern, Rule, SignerRule, Status, TrustedManifest,
};
use crate::alg::{HashAlg, LogDigest};
use crate::bootlog::{Covers, Event, EventType, Kind};
use crate::ownlog::{EntryKind, OwnEntry};

/// Manifests in one set.
const MAX_MANIFESTS: usize = 64;

/// Required parts in one set: presence is counted in one word.
const MAX_PARTS: usize = 64;

/// Why manifests do not compose.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ComposeRefusal {
    /// No manifest: nothing is healthy, and nobody meant that.
    #[error("there are no reference values")]
    None,
    /// More than [`MAX_MANIFESTS`].
    #[error("more than {MAX_MANIFESTS} manifests")]
    TooMany,
    /// Two versions of one manifest.
    #[error("manifest {0:?} is there twice")]
    Twice(String),
    /// More required parts than fit.
    #[error("more than {MAX_PARTS} required parts")]
    TooManyParts,
}

/// Keys are the first bytes of digests in signed manifests, so they spread by themselves and no attacker chooses which
/// ones share a place.
#[derive(Default)]
struct Prefix(u64);

impl Hasher for Prefix {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = prefix(bytes);
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

fn prefix(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b))
}

type ByDigest<T> = HashMap<u64, Vec<T>, BuildHasherDefault<Prefix>>;

#[derive(Debug, Clone)]
struct Found {
    status: Status,
    part: Option<u8>,
}

#[derive(Debug, Clone)]
struct BootDigest {
    digest: LogDigest,
    pcr: u8,
    kind: EventType,
    found: Found,
}

#[derive(Debug, Clone)]
struct BootText {
    pcr: u8,
    pattern: Pattern,
    found: Found,
}

#[derive(Debug, Clone)]
struct Own {
    rule: OwnRule,
    found: Found,
}

/// What counts as healthy.
#[derive(Debug, Clone)]
pub struct ReferenceSet {
    names: Vec<(String, u64)>,
    digest: Digest,
    boot: ByDigest<BootDigest>,
    texts: Vec<BootText>,
    unchecked: Vec<(u8, EventType, Found)>,
    files: ByDigest<FileRule>,
    signers: Vec<SignerRule>,
    own: HashMap<EntryKind, Vec<Own>>,
    parts: Vec<String>,
    boot_demand: Demand,
    files_demand: Demand,
    own_demand: Demand,
    separators: Separators,
}

/// How a boot event compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BootVerdict {
    /// A rule is for it.
    Healthy { next: bool, part: Option<u8> },
    /// A rule leaves it unchecked.
    Unchecked,
    /// No rule is for it.
    Unknown,
}

/// How a file compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileVerdict {
    Healthy { next: bool },
    Unknown,
}

/// How an own entry compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnVerdict {
    Healthy { next: bool, part: Option<u8> },
    Unchecked,
    Unknown,
}

impl ReferenceSet {
    /// One set of all `manifests`: an entry is healthy if one of them says so.
    pub fn compose(manifests: &[TrustedManifest]) -> Result<Self, ComposeRefusal> {
        if manifests.is_empty() {
            return Err(ComposeRefusal::None);
        }
        if manifests.len() > MAX_MANIFESTS {
            return Err(ComposeRefusal::TooMany);
        }
        let mut sorted: Vec<&TrustedManifest> = manifests.iter().collect();
        sorted.sort_by(|a, b| a.manifest().name.cmp(&b.manifest().name));
        let twice = sorted.windows(2).find_map(|pair| match pair {
            [a, b] if a.manifest().name == b.manifest().name => Some(a.manifest().name.clone()),
            _ => None,
        });
        if let Some(name) = twice {
            return Err(ComposeRefusal::Twice(name));
        }
        let mut parts: Vec<String> =
            sorted.iter().flat_map(|m| m.manifest().required_parts.iter().cloned()).collect();
        parts.sort();
        parts.dedup();
        if parts.len() > MAX_PARTS {
            return Err(ComposeRefusal::TooManyParts);
        }
        let demand = |of: fn(&TrustedManifest) -> Option<Demand>, otherwise| {
            sorted.iter().filter_map(|m| of(m)).max().unwrap_or(otherwise)
        };
        let digests: Vec<u8> = sorted.iter().flat_map(|m| m.digest().0).collect();
        let mut set = Self {
            names: sorted.iter().map(|m| (m.manifest().name.clone(), m.manifest().version)).collect(),
            digest: Digest::of(&digests),
            boot: ByDigest::default(),
            texts: Vec::new(),
            unchecked: Vec::new(),
            files: ByDigest::default(),
            signers: Vec::new(),
            own: HashMap::new(),
            parts,
            boot_demand: demand(|m| m.manifest().demands.boot, Demand::Required),
            files_demand: demand(|m| m.manifest().demands.files, Demand::MayBeAbsent),
            own_demand: demand(|m| m.manifest().demands.own, Demand::Required),
            separators: Separators::new(),
        };
        sorted.iter().flat_map(|m| &m.manifest().rules).for_each(|rule| set.add(rule));
        Ok(set)
    }

    /// Nothing to compare with, for the file of a member that has no reference values yet. A verdict by it compares no entry,
    /// says so, and is unknown at best.
    pub(crate) fn none() -> Self {
        Self {
            names: Vec::new(),
            digest: Digest::of(&[]),
            boot: ByDigest::default(),
            texts: Vec::new(),
            unchecked: Vec::new(),
            files: ByDigest::default(),
            signers: Vec::new(),
            own: HashMap::new(),
            parts: Vec::new(),
            boot_demand: Demand::MayBeAbsent,
            files_demand: Demand::MayBeAbsent,
            own_demand: Demand::MayBeAbsent,
            separators: Separators::new(),
        }
    }

    /// Whether it is [`Self::none`].
    pub(crate) fn is_none(&self) -> bool {
        self.names.is_empty()
    }

    fn add(&mut self, rule: &Rule) {
        let part = |name: &Option<String>| {
            let name = name.as_ref()?;
            self.parts.iter().position(|p| p == name).and_then(|i| u8::try_from(i).ok())
        };
        match rule {
            Rule::Boot(r) => {
                let found = Found { status: r.status, part: part(&r.part) };
                let pcr = r.pcr.get();
                match &r.is {
                    BootMatch::Digest(digest) => self
                        .boot
                        .entry(prefix(digest.as_bytes()))
                        .or_default()
                        .push(BootDigest { digest: *digest, pcr, kind: r.kind, found }),
                    BootMatch::Text(pattern) => {
                        self.texts.push(BootText { pcr, pattern: pattern.clone(), found });
                    }
                    BootMatch::Unchecked => self.unchecked.push((pcr, r.kind, found)),
                }
            }
            Rule::File(r) => {
                self.files.entry(prefix(r.digest.as_bytes())).or_default().push(r.clone());
            }
            Rule::Signer(r) => self.signers.push(r.clone()),
            Rule::Own(r) => {
                let found = Found { status: r.status, part: part(&r.part) };
                self.own.entry(r.kind).or_default().push(Own { rule: r.clone(), found });
            }
        }
    }

    /// Names and versions of its manifests.
    pub fn names(&self) -> &[(String, u64)] {
        &self.names
    }

    /// SHA-256 over the digests of its manifests, by name: says which reference values a verdict is by.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Whether a boot log is required.
    pub fn boot_demand(&self) -> Demand {
        self.boot_demand
    }

    /// Whether an IMA log is required.
    pub fn files_demand(&self) -> Demand {
        self.files_demand
    }

    /// Whether GTVP's own log is required.
    pub fn own_demand(&self) -> Demand {
        self.own_demand
    }

    /// Whether any file is known: without, files are measured and not compared.
    pub fn knows_files(&self) -> bool {
        !self.files.is_empty() || !self.signers.is_empty()
    }

    /// Parts of which an entry must be there.
    pub fn required_parts(&self) -> &[String] {
        &self.parts
    }

    #[inline]
    pub(crate) fn boot(&self, event: &Event<'_>, bank: HashAlg) -> BootVerdict {
        let Some(digest) = event.digest_bytes(bank) else { return BootVerdict::Unknown };
        let same = |r: &&BootDigest| {
            u32::from(r.pcr) == event.pcr
                && r.kind == event.kind_id
                && r.digest.alg() == bank
                && r.digest.as_bytes() == digest
        };
        if let Some(r) = self.boot.get(&prefix(digest)).and_then(|list| list.iter().find(same)) {
            return r.found.healthy();
        }
        self.boot_otherwise(event, bank)
    }

    /// The rare ways: text that the digest covers, and what is left unchecked.
    fn boot_otherwise(&self, event: &Event<'_>, bank: HashAlg) -> BootVerdict {
        if self.is_none() {
            return BootVerdict::Unchecked;
        }
        let at = |pcr: u8| u32::from(pcr) == event.pcr;
        if event.kind_id == EventType::IPL && self.texts.iter().any(|t| at(t.pcr)) {
            let text = match (event.covers(bank), event.kind()) {
                (Covers::Part(part), Kind::Text { .. }) => std::str::from_utf8(part).ok(),
                // A whole text without a prefix of its own.
                (Covers::All, Kind::Text { prefix: "", measured, .. }) => std::str::from_utf8(measured).ok(),
                _ => None,
            };
            let fits = |t: &&BootText| at(t.pcr) && text.is_some_and(|text| t.pattern.matches(text));
            if let Some(t) = self.texts.iter().find(fits) {
                return t.found.healthy();
            }
        }
        match self.unchecked.iter().any(|(pcr, kind, _)| at(*pcr) && *kind == event.kind_id) {
            true => BootVerdict::Unchecked,
            false => BootVerdict::Unknown,
        }
    }

    /// What a separator says.
    pub(crate) fn separator(&self, event: &Event<'_>, bank: HashAlg) -> Separated {
        self.separators.says(event, bank)
    }

    pub(crate) fn file(&self, digest: &LogDigest, path: &str) -> FileVerdict {
        let same = |r: &&FileRule| r.digest == *digest && r.path.as_ref().is_none_or(|p| p.matches(path));
        match self.files.get(&prefix(digest.as_bytes())).and_then(|list| list.iter().find(same)) {
            Some(r) => FileVerdict::Healthy { next: r.status == Status::Next },
            None => FileVerdict::Unknown,
        }
    }

    /// The same by who has signed the file. Each signature that is checked costs one of `left`.
    pub(crate) fn signed(
        &self,
        digest: &LogDigest,
        path: &str,
        signature: &[u8],
        left: &mut u32,
    ) -> FileVerdict {
        for rule in self.signers.iter().filter(|r| r.path.as_ref().is_none_or(|p| p.matches(path))) {
            let Some(less) = left.checked_sub(1) else { return FileVerdict::Unknown };
            *left = less;
            if rule.has_signed(digest, signature) {
                return FileVerdict::Healthy { next: rule.status == Status::Next };
            }
        }
        FileVerdict::Unknown
    }

    pub(crate) fn own(&self, entry: &OwnEntry<'_>) -> OwnVerdict {
        let mut verdict = if self.is_none() { OwnVerdict::Unchecked } else { OwnVerdict::Unknown };
        for own in self.own.get(&entry.kind).into_iter().flatten() {
            if !own.rule.subject.as_ref().is_none_or(|p| p.matches(entry.subject)) {
                continue;
            }
            match &own.rule.is {
                OwnMatch::Value(value) if *value == entry.value => {
                    let next = own.found.status == Status::Next;
                    return OwnVerdict::Healthy { next, part: own.found.part };
                }
                OwnMatch::Value(_) => {}
                OwnMatch::Unchecked => verdict = OwnVerdict::Unchecked,
            }
        }
        verdict
    }

    /// A bit for each required part.
    pub(crate) fn all_parts(&self) -> u64 {
        u64::MAX.checked_shr(u32::try_from(MAX_PARTS - self.parts.len()).unwrap_or(0)).unwrap_or(0)
    }
}

impl Found {
    fn healthy(&self) -> BootVerdict {
        BootVerdict::Healthy { next: self.status == Status::Next, part: self.part }
    }
}

/// What a separator says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Separated {
    /// Firmware has ended its use of the PCR.
    Well,
    /// Firmware has failed.
    Failed,
    /// Neither: some firmware measures nothing, or a word of its own.
    Otherwise,
}

/// EV_SEPARATOR's two values that say that firmware succeeded, and the one that says that it failed, in either order of bytes (PFP
/// §10.4.1), hashed in each bank. It is the digest that counts: what stands in the log beside it nobody vouches for.
#[derive(Debug, Clone)]
pub(crate) struct Separators([[LogDigest; 4]; HashAlg::ALL.len()]);

impl Separators {
    pub(crate) fn new() -> Self {
        Self(
            HashAlg::ALL
                .map(|bank| [[0; 4], [0xff; 4], [1, 0, 0, 0], [0, 0, 0, 1]].map(|value| bank.hash(&value))),
        )
    }

    #[inline]
    pub(crate) fn says(&self, event: &Event<'_>, bank: HashAlg) -> Separated {
        let known = self.0.get(bank as usize).into_iter().flatten();
        let is = |digest: &[u8]| known.clone().position(|d| d.as_bytes() == digest);
        match event.digest_bytes(bank).and_then(is) {
            Some(0 | 1) => Separated::Well,
            Some(_) => Separated::Failed,
            None => Separated::Otherwise,
        }
    }
}
