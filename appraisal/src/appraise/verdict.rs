//! What an appraisal found: what holds, what does not, and what was not looked at.

use std::fmt;

use gtvp_model::digest::Digest;
use serde::{Deserialize, Serialize};

use super::{Failure, LogEntryRef};
use crate::tpm::{ClockInfo, Name, PcrIndex};

/// Failures listed in one verdict: all events of a machine's boot that nobody knows yet, so that they can be accepted at once; the rest is
/// counted.
pub(super) const MAX_LISTED: usize = 256;

/// What a member is. Unknown is never trusted, and unreachable is for others to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Every check that was made passed, and those that reference values require were made.
    Trusted,
    /// It cannot be told.
    Unknown,
    /// Believable evidence shows something that is not healthy.
    Untrusted,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trusted => "trusted",
            Self::Unknown => "unknown",
            Self::Untrusted => "untrusted",
        })
    }
}

/// A check, in the order in which they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The evidence is from the member's AK.
    Key,
    /// The AK signed the quote.
    Signature,
    /// The quote answers the question.
    Binding,
    /// The TPM was neither reset nor restarted, and its clock went on.
    Epoch,
    /// The PCR values are the quoted ones, of a bank that counts, and all that must be there.
    Pcrs,
    /// The boot log gives the quoted values.
    BootReplay,
    /// The IMA log gives the quoted values.
    ImaReplay,
    /// GTVP's own log gives the quoted value.
    OwnReplay,
    /// Each boot event is healthy.
    BootEntries,
    /// Each measured file is healthy.
    Files,
    /// Each entry of GTVP's own log is healthy.
    OwnEntries,
    /// Each part that must be there is.
    Parts,
}

impl Check {
    /// All, in order.
    pub const ALL: [Self; 12] = [
        Self::Key,
        Self::Signature,
        Self::Binding,
        Self::Epoch,
        Self::Pcrs,
        Self::BootReplay,
        Self::ImaReplay,
        Self::OwnReplay,
        Self::BootEntries,
        Self::Files,
        Self::OwnEntries,
        Self::Parts,
    ];

    /// Its word, which programs read: as `Serialize` writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Signature => "signature",
            Self::Binding => "binding",
            Self::Epoch => "epoch",
            Self::Pcrs => "pcrs",
            Self::BootReplay => "boot_replay",
            Self::ImaReplay => "ima_replay",
            Self::OwnReplay => "own_replay",
            Self::BootEntries => "boot_entries",
            Self::Files => "files",
            Self::OwnEntries => "own_entries",
            Self::Parts => "parts",
        }
    }

    /// What it says when it passed.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Key => "the evidence is from the member's attestation key",
            Self::Signature => "the key signed the quote",
            Self::Binding => "the quote answers this question",
            Self::Epoch => "the TPM was neither reset nor restarted",
            Self::Pcrs => "the PCR values are the quoted ones",
            Self::BootReplay => "the boot log gives the quoted PCRs",
            Self::ImaReplay => "the IMA log gives the quoted PCRs",
            Self::OwnReplay => "GTVP's log gives the quoted PCR",
            Self::BootEntries => "each boot event is among the reference values",
            Self::Files => "each measured file is among the reference values",
            Self::OwnEntries => "each entry of GTVP's log is among the reference values",
            Self::Parts => "each part that must be measured was",
        }
    }
}

/// Something that was not checked. A trusted verdict can have some; whoever relies on it reads them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotMade {
    /// A software TPM: its quotes are worth what its host's root is.
    SoftwareTpm,
    /// Nobody vouches for the AK (offline).
    KeyClaimed,
    /// The quote may be old (offline).
    Freshness,
    /// Nothing is held of the TPM's earlier life (offline).
    Epoch,
    /// There are no reference values (offline): nothing that was measured was compared.
    NotCompared,
    /// The TPM cannot rule out that its clock was set back (`safe` is not set).
    ClockUnsafe,
    /// No boot log: not measured.
    BootNotMeasured,
    /// No IMA log.
    FilesNotMeasured,
    /// No log of GTVP's own.
    OwnNotMeasured,
    /// IMA measured files, and reference values know none.
    FilesNotCompared {
        /// How many.
        files: u64,
    },
    /// Files were written while they were measured.
    FilesInFlux {
        /// How many times.
        times: u64,
    },
    /// Files measured after the quote; the next one covers them.
    FilesAfterQuote {
        /// How many.
        files: u64,
    },
    /// The kernel is older than Linux 5.8: it extends SHA-1 digests of IMA's entries, so that collisions could hide some.
    FilesBySha1,
    /// Boot events that reference values leave unchecked.
    BootUnchecked {
        /// How many.
        events: u64,
    },
    /// Boot events in PCRs that were not quoted.
    BootNotQuoted {
        /// How many.
        events: u64,
    },
    /// Entries of GTVP's own log that reference values leave unchecked (compositions).
    OwnUnchecked {
        /// How many.
        entries: u64,
    },
    /// A configuration file that reference values leave unchecked.
    ConfigurationUnchecked {
        /// Its name.
        file: String,
    },
    /// A quoted PCR that no log explains and reference values do not ask for.
    PcrUnexplained {
        /// The PCR.
        pcr: PcrIndex,
    },
    /// IMA's boot aggregate is of a bank that was not quoted.
    BootAggregate,
    /// A check that was not reached, because an earlier one failed.
    NotReached {
        /// The check.
        check: Check,
    },
}

impl NotMade {
    pub(super) fn is_of_boot(&self) -> bool {
        matches!(self, Self::BootUnchecked { .. } | Self::BootNotQuoted { .. })
    }

    pub(super) fn is_of_files(&self) -> bool {
        matches!(self, Self::FilesNotCompared { .. } | Self::FilesInFlux { .. } | Self::BootAggregate)
    }

    pub(super) fn is_of_own(&self) -> bool {
        matches!(self, Self::OwnUnchecked { .. } | Self::ConfigurationUnchecked { .. })
    }

    fn count(&mut self) -> Option<&mut u64> {
        match self {
            Self::FilesNotCompared { files: n }
            | Self::FilesInFlux { times: n }
            | Self::FilesAfterQuote { files: n }
            | Self::BootUnchecked { events: n }
            | Self::BootNotQuoted { events: n }
            | Self::OwnUnchecked { entries: n } => Some(n),
            _ => None,
        }
    }

    /// Counts of one kind added up: of what is held and of what is new.
    pub(super) fn merged(all: Vec<Self>) -> Vec<Self> {
        let mut out: Vec<Self> = Vec::with_capacity(all.len());
        for mut one in all {
            let kind = std::mem::discriminant(&one);
            if out.contains(&one) && one.count().is_none() {
                continue;
            }
            match (out.iter_mut().find(|o| std::mem::discriminant(*o) == kind), one.count().map(|n| *n)) {
                (Some(same), Some(more)) => {
                    if let Some(n) = same.count() {
                        *n = n.saturating_add(more);
                    }
                }
                _ => out.push(one),
            }
        }
        out
    }
}

impl fmt::Display for NotMade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SoftwareTpm => {
                write!(f, "a software TPM: whoever is root on its host can make it say anything")
            }
            Self::KeyClaimed => {
                write!(f, "that the attestation key is a member's: only the evidence says so")
            }
            Self::Freshness => write!(f, "that the quote is new"),
            Self::Epoch => write!(f, "that the TPM was not reset since somebody last saw it"),
            Self::NotCompared => {
                write!(
                    f,
                    "that what was measured is healthy: there are no reference values to compare it with"
                )
            }
            Self::ClockUnsafe => write!(f, "that the TPM's clock was never set back"),
            Self::BootNotMeasured => write!(f, "firmware, boot loader and kernel: not measured"),
            Self::FilesNotMeasured => write!(f, "files executed after boot: not measured"),
            Self::OwnNotMeasured => write!(f, "GTVP's programs and configuration: not measured"),
            Self::FilesNotCompared { files } => {
                write!(f, "files executed after boot: {files} measured, none compared with reference values")
            }
            Self::FilesInFlux { times } => {
                write!(f, "contents of files that were written while they were measured, {times} times")
            }
            Self::FilesAfterQuote { files } => write!(f, "{files} files measured after the quote"),
            Self::FilesBySha1 => {
                write!(
                    f,
                    "that no measured file hides behind another: this kernel (before 5.8) measures by SHA-1"
                )
            }
            Self::BootUnchecked { events } => {
                write!(f, "{events} boot events of configuration that reference values leave out")
            }
            Self::BootNotQuoted { events } => write!(f, "{events} boot events in PCRs that were not quoted"),
            Self::OwnUnchecked { entries } => {
                write!(f, "values of {entries} entries of GTVP's log that reference values leave out")
            }
            Self::ConfigurationUnchecked { file } => {
                write!(f, "{file}: not checked, it is each member's own")
            }
            Self::PcrUnexplained { pcr } => write!(f, "what extended PCR {pcr}"),
            Self::BootAggregate => {
                write!(f, "that IMA saw the quoted boot: its aggregate is of another bank")
            }
            Self::NotReached { check } => write!(f, "whether {}", check.sentence()),
        }
    }
}

/// A failure, told: what travels and what people read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// Its stable word ([`Failure::name`]).
    pub name: String,
    /// Its sentence.
    pub text: String,
    /// The entry that it is about.
    pub entry: Option<LogEntryRef>,
}

impl From<&Failure> for Told {
    fn from(f: &Failure) -> Self {
        Self { name: f.name().to_owned(), text: f.to_string().chars().take(1024).collect(), entry: f.entry() }
    }
}

/// What an appraisal found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The conclusion.
    pub state: State,
    /// Whose AK.
    pub ak: Name,
    /// By which reference values ([`crate::reference::ReferenceSet::digest`]).
    pub references: Digest,
    /// When, in seconds since 1970.
    pub at: i64,
    /// The TPM's clock, once the quote was believed.
    pub clock: Option<ClockInfo>,
    /// Checks that passed.
    pub passed: Vec<Check>,
    /// What failed. Empty if trusted; offline it can be empty and the state unknown.
    pub failed: Vec<Failure>,
    /// What was not checked.
    pub not_made: Vec<NotMade>,
    /// Entries that are healthy by a rule for the next update: it was made.
    pub next_seen: u64,
    /// How far each log was appraised: its length in bytes.
    pub heads: Heads,
}

/// How far logs were appraised: lengths in bytes, 0 if absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heads {
    /// Boot log.
    pub boot: u64,
    /// IMA log, up to the last entry that the quote covers.
    pub ima: u64,
    /// GTVP's own log.
    pub own: u64,
}

impl Verdict {
    pub(super) fn new(ak: Name, references: Digest, at: i64) -> Self {
        Self {
            // Until every step is done.
            state: State::Unknown,
            ak,
            references,
            at,
            clock: None,
            passed: Vec::with_capacity(Check::ALL.len()),
            failed: Vec::new(),
            not_made: Vec::with_capacity(4),
            next_seen: 0,
            heads: Heads::default(),
        }
    }

    /// The worst failure decides. Checks after the last failure that did not pass were not reached.
    pub(super) fn conclude(&mut self) {
        self.state = self.failed.iter().map(Failure::state).max().unwrap_or(State::Trusted);
        // Nobody vouches for a key that only claims itself, for evidence that may be old, or for what was not compared.
        let unvouched =
            |n: &NotMade| matches!(n, NotMade::KeyClaimed | NotMade::Freshness | NotMade::NotCompared);
        if self.not_made.iter().any(unvouched) {
            self.state = self.state.max(State::Unknown);
        }
        if self.state == State::Trusted {
            return;
        }
        let Some(last) = self.failed.iter().map(Failure::check).max() else { return };
        for check in Check::ALL.into_iter().filter(|c| *c > last && !self.passed.contains(c)) {
            self.not_made.push(NotMade::NotReached { check });
        }
    }

    /// Failures as they travel.
    pub fn told(&self) -> Vec<Told> {
        self.failed.iter().map(Told::from).collect()
    }
}
