//! Single rules, and which of them make no sense.

use gtvp_model::digest::Digest;
use serde::{Deserialize, Serialize};

use super::{Pattern, SignerRule};
use crate::alg::LogDigest;
use crate::bootlog::EventType;
use crate::ownlog::EntryKind;
use crate::tpm::PcrIndex;

/// Longest name of a part and longest explanation, in bytes.
const MAX_WORDS: usize = 256;

/// Whether a rule is for what runs or for what will.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// For what members run now.
    Current,
    /// For an update that is accepted and perhaps not yet made (`gtvp reference accept --next`). Accepted in the same way.
    Next,
}

/// Something that is healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Rule {
    /// An entry of the boot log.
    Boot(BootRule),
    /// A file or buffer of the IMA log.
    File(FileRule),
    /// Files of the IMA log that somebody has signed.
    Signer(SignerRule),
    /// An entry of GTVP's own log.
    Own(OwnRule),
}

/// A boot event that is healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootRule {
    /// PCR that it goes into.
    pub pcr: PcrIndex,
    /// Its type.
    pub kind: EventType,
    /// What of it is compared.
    pub is: BootMatch,
    /// The part that it is a version of ("kernel", "secure-boot"). A manifest may demand that a part is present.
    pub part: Option<String>,
    /// What it is, for people: a version, a path.
    pub about: String,
    /// Now or next.
    pub status: Status,
}

/// What of a boot event is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BootMatch {
    /// Its digest.
    Digest(LogDigest),
    /// The text that its digest covers (EV_IPL: a command, a command line).
    Text(Pattern),
    /// Nothing. Only for types and PCRs without code and commands; the verdict says so.
    Unchecked,
}

/// A measured file that is healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRule {
    /// Its digest.
    pub digest: LogDigest,
    /// The path that it must have; anywhere if none.
    pub path: Option<Pattern>,
    /// Now or next.
    pub status: Status,
}

/// An entry of GTVP's own log that is healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnRule {
    /// What the entry says.
    pub kind: EntryKind,
    /// About what. For [`OwnMatch::Unchecked`] it may be absent: about anything.
    pub subject: Option<Pattern>,
    /// What of it is compared.
    pub is: OwnMatch,
    /// The part that it is a version of.
    pub part: Option<String>,
    /// Now or next.
    pub status: Status,
}

/// What of an own entry is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum OwnMatch {
    /// Its value.
    Value(Digest),
    /// Nothing. Only for what changes with use (compositions, vTPMs, unions) and, each file by its name, for configuration that is
    /// each member's own; never for programs. The verdict says so.
    Unchecked,
}

/// Why a rule is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleRefusal {
    /// A digest in which collisions can be made.
    #[error("its digest is SHA-1")]
    Sha1,
    /// An unchecked event that can hold code or commands.
    #[error("{kind} in PCR {pcr} can hold code or commands, so it cannot be left unchecked")]
    UncheckedCode {
        /// The PCR.
        pcr: PcrIndex,
        /// The type.
        kind: EventType,
    },
    /// A text rule for an event that is no text.
    #[error("{0} is no text")]
    NoText(EventType),
    /// An unchecked entry of programs or configuration.
    #[error("{0} entries cannot be left unchecked")]
    UncheckedOwn(EntryKind),
    /// A value without a subject would be accepted for any program.
    #[error("a value needs the subject that it is of")]
    NoSubject,
    /// A key that nothing can be checked with.
    #[error(
        "a signer's key is RSA of 2048 bits or more, or ECDSA on P-256 or P-384, as SubjectPublicKeyInfo in DER"
    )]
    Key,
    /// A part or an explanation is empty or too long.
    #[error("a part's name or an explanation is empty or longer than {MAX_WORDS} bytes")]
    Words,
}

impl Rule {
    /// Now or next.
    pub fn status(&self) -> Status {
        match self {
            Self::Boot(r) => r.status,
            Self::File(r) => r.status,
            Self::Signer(r) => r.status,
            Self::Own(r) => r.status,
        }
    }

    /// Whether the rule may be in a manifest.
    pub fn check(&self) -> Result<(), RuleRefusal> {
        let words = |s: &str| !s.is_empty() && s.len() <= MAX_WORDS && !s.chars().any(char::is_control);
        let part = match self {
            Self::Boot(r) => {
                if !words(&r.about) {
                    return Err(RuleRefusal::Words);
                }
                r.check()?;
                &r.part
            }
            Self::File(r) => {
                return if r.digest.alg().is_trusted() { Ok(()) } else { Err(RuleRefusal::Sha1) };
            }
            Self::Signer(r) if !words(&r.about) => return Err(RuleRefusal::Words),
            Self::Signer(r) => return if r.key.is_usable() { Ok(()) } else { Err(RuleRefusal::Key) },
            Self::Own(r) => {
                r.check()?;
                &r.part
            }
        };
        if part.as_deref().is_none_or(words) { Ok(()) } else { Err(RuleRefusal::Words) }
    }
}

impl BootRule {
    fn check(&self) -> Result<(), RuleRefusal> {
        match &self.is {
            BootMatch::Digest(d) if !d.alg().is_trusted() => Err(RuleRefusal::Sha1),
            BootMatch::Digest(_) => Ok(()),
            BootMatch::Text(_) if self.kind == EventType::IPL => Ok(()),
            BootMatch::Text(_) => Err(RuleRefusal::NoText(self.kind)),
            BootMatch::Unchecked if may_stay_unchecked(self.pcr, self.kind) => Ok(()),
            BootMatch::Unchecked => Err(RuleRefusal::UncheckedCode { pcr: self.pcr, kind: self.kind }),
        }
    }
}

/// Configuration that machines change by themselves: boot order, device tables, partition tables, asset tags. A list of
/// what may, so that a type that is not known may not.
fn may_stay_unchecked(pcr: PcrIndex, kind: EventType) -> bool {
    let types = [
        EventType::EFI_VARIABLE_BOOT,
        EventType::EFI_VARIABLE_BOOT2,
        EventType::EFI_HANDOFF_TABLES,
        EventType::EFI_HANDOFF_TABLES2,
        EventType::EFI_GPT_EVENT,
        EventType::EFI_GPT_EVENT2,
        EventType::TABLE_OF_DEVICES,
        EventType::PLATFORM_CONFIG_FLAGS,
        EventType::NONHOST_CONFIG,
        EventType::NONHOST_INFO,
        EventType::COMPACT_HASH,
        EventType::OMIT_BOOT_DEVICE_EVENTS,
        EventType::EFI_SPDM_FIRMWARE_CONFIG,
    ];
    [1, 3, 5, 6].contains(&pcr.get()) && types.contains(&kind)
}

impl OwnRule {
    fn check(&self) -> Result<(), RuleRefusal> {
        match (&self.is, self.kind) {
            (OwnMatch::Value(_), _) if self.subject.is_none() => Err(RuleRefusal::NoSubject),
            (OwnMatch::Value(_), _) => Ok(()),
            (OwnMatch::Unchecked, EntryKind::Composition | EntryKind::Union | EntryKind::Vtpm) => Ok(()),
            // Whoever leaves a file unchecked says which: a pattern, or all of them, would hide one that nobody has thought of.
            (OwnMatch::Unchecked, EntryKind::Configuration)
                if self.subject.as_ref().is_some_and(|s| !s.as_str().contains('*')) =>
            {
                Ok(())
            }
            (OwnMatch::Unchecked, kind) => Err(RuleRefusal::UncheckedOwn(kind)),
        }
    }
}
