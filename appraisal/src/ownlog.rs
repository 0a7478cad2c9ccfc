//! GTVP's own log: which programs and configuration a member's domains run on, and which compositions it starts
//! (docs/spec/evidence.md, "GTVP's own log").
//!
//! Each entry is extended into [`PCR`] when it is written, so a log that was cut, reordered or rewritten does not replay.
//! This file encodes, parses and replays; who appends (`security`) decides nothing here.

use std::fmt;

use gtvp_model::digest::Digest;
use serde::{Deserialize, Serialize};

use crate::alg::{HashAlg, LogDigest};
use crate::reader::{Reader, Short};
use crate::tpm::PcrIndex;

/// The PCR that GTVP extends: 14. No locality 0 software can reset it (unlike 16 and 23), and on Linux only shim writes
/// to it, before the operating system starts, into the boot log: so the order of all its extends is known. 8 and 9 are
/// GRUB's, 10 is IMA's, 11 to 13 and 15 are systemd's, at any time.
pub const PCR: PcrIndex = PcrIndex::known(14);

/// What every extended value begins with, so that no other writer's digest is taken for an entry.
pub const LABEL: &[u8] = b"gtvp-log/1\0";

/// Longest log taken: an entry a started box and a restarted domain, some 60 bytes each.
pub const MAX_LOG: usize = 4 * 1024 * 1024;

/// Most entries taken: [`MAX_LOG`] holds about this many of usual length.
pub const MAX_ENTRIES: usize = 65_536;

/// Longest subject, in bytes: a DNS label, a path in a jail, a version.
pub const MAX_SUBJECT: usize = 255;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $word:literal;)*) => {
        /// What an entry says. The number stands in the log.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum EntryKind { $($(#[$doc])* $name,)* }

        impl EntryKind {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its number in the log.
            pub fn number(self) -> u8 {
                match self { $(Self::$name => $number,)* }
            }

            /// The kind with this number.
            pub fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// Its word, as people see it.
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

kinds! {
    /// `gtvpd` started. Subject: its version. Value: SHA-256 of its binary.
    Start = 1, "start";
    /// A domain or other kept process is about to be executed. Subject: its name. Value: SHA-256 of its binary.
    Binary = 2, "binary";
    /// `topology.toml` was read. Subject: its name. Value: SHA-256 of its bytes.
    Topology = 3, "topology";
    /// Another configuration file was read. Subject: its name. Value: SHA-256 of its bytes.
    Configuration = 4, "configuration";
    /// A box is about to be started. Subject: its name. Value: its composition's digest.
    Composition = 5, "composition";
    /// The member became part of a union. Subject: the union's name. Value: the record's genesis hash.
    Union = 6, "union";
    /// A box's process (QEMU, lazyfs, swtpm) is about to be executed from a template. Subject: the template. Value:
    /// SHA-256 of its binary.
    Template = 7, "template";
    /// A box's vTPM is about to be used. Subject: the box. Value: SHA-256 of its AK's TPMT_PUBLIC.
    Vtpm = 8, "vtpm";
    /// A component is about to be linked to a box. In the box's vTPM only. Subject: its reference. Value: SHA-256 of its
    /// package, from the signed index.
    Component = 9, "component";
    /// The box is about to be started from a template that its member booted, and does not boot itself. In the box's vTPM only.
    /// Subject: `template`. Value: the template's digest.
    Booted = 10, "booted";
}

impl fmt::Display for EntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnEntry<'a> {
    /// What it says.
    pub kind: EntryKind,
    /// About what.
    pub subject: &'a str,
    /// The measured value.
    pub value: Digest,
}

/// A subject that does not fit an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the subject of a log entry has {0} bytes, more than {MAX_SUBJECT}")]
pub struct SubjectTooLong(pub usize);

impl<'a> OwnEntry<'a> {
    /// An entry that fits the log.
    pub fn new(kind: EntryKind, subject: &'a str, value: Digest) -> Result<Self, SubjectTooLong> {
        if subject.len() > MAX_SUBJECT {
            return Err(SubjectTooLong(subject.len()));
        }
        Ok(Self { kind, subject, value })
    }

    /// As it stands in the log: kind, length of the subject, subject, value.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.kind.number(), u8::try_from(self.subject.len()).unwrap_or(u8::MAX)];
        out.extend_from_slice(self.subject.as_bytes());
        out.extend_from_slice(&self.value.0);
        out
    }

    /// What is extended into `bank`: H(label ‖ entry).
    pub fn digest(&self, bank: HashAlg) -> LogDigest {
        digest(bank, &self.encode())
    }
}

fn digest(bank: HashAlg, encoded: &[u8]) -> LogDigest {
    let mut labelled = [0u8; LABEL.len() + 2 + MAX_SUBJECT + 32];
    let len = LABEL.len() + encoded.len();
    let parts = LABEL.iter().chain(encoded);
    labelled.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
    bank.hash(labelled.get(..len).unwrap_or(&labelled))
}

/// A malformed log: where, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("GTVP log entry {entry} at byte {offset}: {reason}")]
pub struct OwnLogError {
    /// Number of the entry, from 0.
    pub entry: usize,
    /// Its offset in the log.
    pub offset: usize,
    /// What is wrong.
    pub reason: OwnLogFault,
}

/// Why a log is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OwnLogFault {
    /// Longer than [`MAX_LOG`].
    #[error("the log has {0} bytes, more than {MAX_LOG}")]
    TooLong(usize),
    /// More than [`MAX_ENTRIES`].
    #[error("the log has more than {MAX_ENTRIES} entries")]
    TooManyEntries,
    /// The log ends inside the entry.
    #[error("cut: {what} at byte {at} needs {need} bytes, {have} are there")]
    Cut {
        /// The field.
        what: &'static str,
        /// Its offset.
        at: usize,
        /// Its length.
        need: usize,
        /// What is there.
        have: usize,
    },
    /// A kind that this version does not know: the member is newer, or the log is forged.
    #[error("kind {0} is not known")]
    UnknownKind(u8),
    /// The subject is not UTF-8 or has control characters.
    #[error("the subject is not text")]
    Subject,
}

impl From<Short> for OwnLogFault {
    fn from(s: Short) -> Self {
        Self::Cut { what: s.what, at: s.at, need: s.need, have: s.have }
    }
}

/// An entry and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed<'a> {
    /// Its number, from 0.
    pub number: usize,
    /// Its offset in the log.
    pub offset: usize,
    /// The entry.
    pub entry: OwnEntry<'a>,
    encoded: &'a [u8],
}

impl Placed<'_> {
    /// What was extended into `bank`.
    pub fn digest(&self, bank: HashAlg) -> LogDigest {
        digest(bank, self.encoded)
    }
}

/// A well-formed log. An empty one is well-formed: nothing was measured yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnLog<'a> {
    entries: Vec<Placed<'a>>,
}

impl<'a> OwnLog<'a> {
    /// A log, or the part of one after an entry: numbers and offsets then count from there.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, OwnLogError> {
        if bytes.len() > MAX_LOG {
            let reason = OwnLogFault::TooLong(bytes.len());
            return Err(OwnLogError { entry: 0, offset: 0, reason });
        }
        let mut r = Reader::new(bytes);
        let mut entries = Vec::with_capacity((bytes.len() / 48).min(MAX_ENTRIES));
        while !r.is_empty() {
            let (number, offset) = (entries.len(), r.at());
            let fault = |reason| OwnLogError { entry: number, offset, reason };
            if number == MAX_ENTRIES {
                return Err(fault(OwnLogFault::TooManyEntries));
            }
            let entry = read(&mut r).map_err(fault)?;
            let encoded = bytes.get(offset..r.at()).unwrap_or_default();
            entries.push(Placed { number, offset, entry, encoded });
        }
        Ok(Self { entries })
    }

    /// The entries, in order.
    pub fn entries(&self) -> &[Placed<'a>] {
        &self.entries
    }

    /// The value of [`PCR`] in `bank` after these entries, from `start` on (what the boot log leaves there, or what was
    /// held).
    pub fn replay(&self, start: LogDigest) -> LogDigest {
        let bank = start.alg();
        self.entries.iter().fold(start, |value, e| value.extended(&e.digest(bank)).unwrap_or(value))
    }
}

fn read<'a>(r: &mut Reader<'a>) -> Result<OwnEntry<'a>, OwnLogFault> {
    let kind = r.u8("kind")?;
    let kind = EntryKind::from_number(kind).ok_or(OwnLogFault::UnknownKind(kind))?;
    let len = r.u8("length of the subject")?;
    let subject = r.take(len.into(), "subject")?;
    let subject = std::str::from_utf8(subject).map_err(|_| OwnLogFault::Subject)?;
    if subject.chars().any(char::is_control) {
        return Err(OwnLogFault::Subject);
    }
    let short = Short { what: "value", at: r.at(), need: 32, have: r.rest().len() };
    let value = r.take(32, "value")?.try_into().map_err(|_| short)?;
    Ok(OwnEntry { kind, subject, value: Digest(value) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> Vec<u8> {
        let entry = |kind, subject, n: u8| OwnEntry::new(kind, subject, Digest([n; 32])).unwrap().encode();
        [
            entry(EntryKind::Start, "0.1.0", 1),
            entry(EntryKind::Topology, "topology.toml", 2),
            entry(EntryKind::Binary, "security", 3),
            entry(EntryKind::Composition, "web", 4),
        ]
        .concat()
    }

    #[test]
    fn an_entry_has_one_encoding_and_one_digest() {
        let entry = OwnEntry::new(EntryKind::Binary, "security", Digest([3; 32])).unwrap();
        let mut by_hand = b"gtvp-log/1\0\x02\x08security".to_vec();
        by_hand.extend([3; 32]);
        assert_eq!(entry.digest(HashAlg::Sha256), HashAlg::Sha256.hash(&by_hand));
        assert_eq!(entry.digest(HashAlg::Sha384), HashAlg::Sha384.hash(&by_hand));
        assert!(OwnEntry::new(EntryKind::Binary, &"x".repeat(256), Digest([3; 32])).is_err());
        for kind in EntryKind::ALL {
            assert_eq!(EntryKind::from_number(kind.number()), Some(*kind));
        }
    }

    #[test]
    fn a_log_is_read_as_it_was_written_and_replays() {
        let bytes = log();
        let parsed = OwnLog::parse(&bytes).unwrap();
        let subjects: Vec<_> = parsed.entries().iter().map(|e| e.entry.subject).collect();
        assert_eq!(subjects, ["0.1.0", "topology.toml", "security", "web"]);
        let again: Vec<u8> = parsed.entries().iter().flat_map(|e| e.entry.encode()).collect();
        assert_eq!(again, bytes);
        let zero = LogDigest::filled(HashAlg::Sha256, 0);
        let by_hand =
            parsed.entries().iter().fold(zero, |v, e| v.extended(&e.entry.digest(HashAlg::Sha256)).unwrap());
        assert_eq!(parsed.replay(zero), by_hand);
        // In two parts.
        let half = parsed.entries()[2].offset;
        let middle = OwnLog::parse(&bytes[..half]).unwrap().replay(zero);
        assert_eq!(OwnLog::parse(&bytes[half..]).unwrap().replay(middle), by_hand);
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_refused_or_changes_the_value() {
        let bytes = log();
        let zero = LogDigest::filled(HashAlg::Sha256, 0);
        let whole = OwnLog::parse(&bytes).unwrap();
        let starts: Vec<usize> = whole.entries().iter().map(|e| e.offset).collect();
        for i in 0..bytes.len() {
            match OwnLog::parse(&bytes[..i]) {
                Ok(cut) => {
                    assert!(starts.contains(&i));
                    assert_ne!(cut.replay(zero), whole.replay(zero));
                }
                Err(e) => assert!(matches!(e.reason, OwnLogFault::Cut { .. }), "{e}"),
            }
            let mut changed = bytes.clone();
            changed[i] ^= 1;
            if let Ok(parsed) = OwnLog::parse(&changed) {
                assert_ne!(parsed.replay(zero), whole.replay(zero), "byte {i}");
            }
        }
        assert!(matches!(OwnLog::parse(&[99]).unwrap_err().reason, OwnLogFault::UnknownKind(99)));
        assert!(matches!(OwnLog::parse(b"\x02\x01\x07").unwrap_err().reason, OwnLogFault::Subject));
        assert!(matches!(OwnLog::parse(&vec![1; MAX_LOG + 1]).unwrap_err().reason, OwnLogFault::TooLong(_)));
    }
}
