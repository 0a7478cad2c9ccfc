//! Why evidence is not believed, or shows something that is not healthy.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{AttesterRefusal, Check, State};
use crate::alg::LogDigest;
use crate::bootlog::{BankMissing, BootLogError, EventType};
use crate::ima::{ImaError, ImaMismatch};
use crate::ownlog::{EntryKind, OwnLogError};
use crate::tpm::{Epoch, Malformed, Name, PcrIndex, SignatureRefusal};

/// A log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogName {
    /// TCG boot log.
    Boot,
    /// IMA log.
    Ima,
    /// GTVP's own log.
    Own,
}

impl fmt::Display for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boot => "boot log",
            Self::Ima => "IMA log",
            Self::Own => "GTVP log",
        })
    }
}

/// An entry of a log: where to look.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogEntryRef {
    /// Which log.
    pub log: LogName,
    /// Number of the entry in the whole log, from 0.
    pub entry: u64,
    /// Its offset in the whole log, in bytes.
    pub offset: u64,
}

impl fmt::Display for LogEntryRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entry {} at byte {}", self.log, self.entry, self.offset)
    }
}

/// Why a verdict is not "trusted".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Evidence of another key.
    #[error("the evidence is from AK {got}, not from the member's {want}")]
    OtherAk {
        /// Name of the key in the evidence.
        got: Box<Name>,
        /// The member's.
        want: Box<Name>,
    },
    /// The evidence's key is none.
    #[error("the evidence's key: {0}")]
    BadAk(AttesterRefusal),
    /// The quote or its signature is malformed.
    #[error("the quote: {0}")]
    Malformed(Malformed),
    /// The signature does not count.
    #[error("the quote's signature: {0}")]
    Signature(SignatureRefusal),
    /// Signed by the AK, and no quote.
    #[error("the AK signed something that is no quote")]
    NotAQuote,
    /// It answers another question: replayed, diverted, relayed or reflected.
    #[error("the quote is bound to something else")]
    BoundElsewhere,
    /// The TPM was reset or restarted since.
    #[error(
        "the TPM was reset or restarted: {} resets and {} restarts, before {} and {}",
        now.reset_count, now.restart_count, was.reset_count, was.restart_count
    )]
    TpmReset {
        /// Held epoch.
        was: Epoch,
        /// The quote's.
        now: Epoch,
    },
    /// The TPM is one of an earlier life: its state was put back.
    #[error(
        "the TPM went back to an earlier life: {} resets and {} restarts, before {} and {} (a server restored from a backup? docs/design/tpm.md \
         has the way back)",
        now.reset_count, now.restart_count, was.reset_count, was.restart_count
    )]
    EarlierLife {
        /// The newest that it has shown.
        was: Epoch,
        /// The quote's.
        now: Epoch,
    },
    /// The TPM's clock went back: an older quote, or a cloned TPM.
    #[error("the TPM's clock is {now} ms, before it was {was} ms")]
    ClockBack {
        /// Held clock.
        was: u64,
        /// The quote's.
        now: u64,
    },
    /// The quote is over SHA-1 PCRs.
    #[error("the quote is over the SHA-1 bank")]
    Sha1Bank,
    /// Several banks, or one that GTVP does not compute.
    #[error("the quote is not over exactly one bank that GTVP knows, but over {0:x?}")]
    Bank(Vec<u16>),
    /// A PCR that must be quoted is not.
    #[error("PCR {0} is not quoted")]
    PcrNotQuoted(PcrIndex),
    /// The values are not those that were quoted.
    #[error("the PCR values are not the quoted ones")]
    PcrValues,
    /// A log that is required is not there.
    #[error("there is no {0}, and reference values require one")]
    LogAbsent(LogName),
    /// Part of a log that does not go on from what is held: send it whole.
    #[error("the {log} begins after byte {from}; held are {held}")]
    LogFrom {
        /// Which log.
        log: LogName,
        /// Where it begins.
        from: u64,
        /// Where it should.
        held: u64,
    },
    /// The boot log is malformed.
    #[error(transparent)]
    BootLog(#[from] BootLogError),
    /// The boot log has no digests of the quoted bank.
    #[error(transparent)]
    BankMissing(#[from] BankMissing),
    /// Logs do not give a quoted value.
    #[error("PCR {pcr} is {quoted}; the logs give {replayed}, last by {}", last.as_ref().map_or("nothing".to_owned(), ToString::to_string))]
    PcrMismatch {
        /// The PCR.
        pcr: PcrIndex,
        /// Its quoted value.
        quoted: Box<LogDigest>,
        /// What the logs give.
        replayed: Box<LogDigest>,
        /// The last entry that goes into this PCR.
        last: Option<LogEntryRef>,
    },
    /// A PCR was extended and no log says by what.
    #[error("PCR {pcr} was extended, and no {log} says by what")]
    PcrUnexplained {
        /// The PCR.
        pcr: PcrIndex,
        /// The log that should.
        log: LogName,
    },
    /// Firmware did not end its phase of a PCR: the log is no whole boot's.
    #[error("firmware never ended its use of PCR {0}: the boot log is no whole boot's")]
    Unseparated(PcrIndex),
    /// The IMA log is malformed.
    #[error(transparent)]
    Ima(#[from] ImaError),
    /// The IMA log does not give the quoted values.
    #[error(transparent)]
    ImaMismatch(#[from] ImaMismatch),
    /// IMA saw another boot than the one quoted.
    #[error("{at}: IMA's boot aggregate is not of the quoted boot PCRs")]
    BootAggregate {
        /// The entry.
        at: LogEntryRef,
    },
    /// GTVP's own log is malformed.
    #[error(transparent)]
    Own(#[from] OwnLogError),
    /// A boot event that no reference value knows.
    #[error("{at}: {kind} in PCR {pcr}{} is not among the reference values", subject_of(about))]
    BootEntry {
        /// The entry.
        at: LogEntryRef,
        /// Its PCR.
        pcr: u32,
        /// Its type.
        kind: EventType,
        /// Its digest.
        digest: Box<LogDigest>,
        /// What firmware says it is. Not proven.
        about: String,
    },
    /// Firmware says that it failed.
    #[error("{at}: firmware measured an error into PCR {pcr}")]
    FirmwareError {
        /// The entry.
        at: LogEntryRef,
        /// The PCR.
        pcr: u32,
    },
    /// A file that no reference value knows.
    #[error("{at}: {path} ({digest}) is not among the reference values")]
    File {
        /// The entry.
        at: LogEntryRef,
        /// Its path.
        path: String,
        /// Its digest, as IMA shows it.
        digest: String,
    },
    /// An entry of GTVP's own log that no reference value knows.
    #[error("{at}: {kind} {subject:?} with {value} is not among the reference values")]
    OwnEntry {
        /// The entry.
        at: LogEntryRef,
        /// Its kind.
        kind: EntryKind,
        /// Its subject.
        subject: String,
        /// Its value.
        value: gtvp_model::digest::Digest,
    },
    /// A part that must have been measured was not.
    #[error("no {0:?} was measured")]
    PartMissing(String),
    /// More failures of the same kind than are listed.
    #[error("{0} more entries are not among the reference values")]
    More(u64),
}

fn subject_of(about: &str) -> String {
    if about.is_empty() { String::new() } else { format!(" ({about:?})") }
}

impl Failure {
    /// What a member is after this failure. Evidence that cannot be believed says nothing about it: unknown. Evidence
    /// that can, and shows what is not healthy: untrusted.
    pub fn state(&self) -> State {
        match self {
            Self::OtherAk { .. }
            | Self::BadAk(_)
            | Self::Malformed(_)
            | Self::Signature(_)
            | Self::NotAQuote
            | Self::BoundElsewhere
            | Self::Sha1Bank
            | Self::Bank(_)
            | Self::PcrNotQuoted(_)
            | Self::PcrValues
            | Self::LogAbsent(_)
            | Self::LogFrom { .. } => State::Unknown,
            _ => State::Untrusted,
        }
    }

    /// The check that it is a failure of.
    pub fn check(&self) -> Check {
        match self {
            Self::OtherAk { .. } | Self::BadAk(_) => Check::Key,
            Self::Malformed(_) | Self::Signature(_) | Self::NotAQuote => Check::Signature,
            Self::BoundElsewhere => Check::Binding,
            Self::TpmReset { .. } | Self::EarlierLife { .. } | Self::ClockBack { .. } => Check::Epoch,
            Self::Sha1Bank | Self::Bank(_) | Self::PcrNotQuoted(_) | Self::PcrValues => Check::Pcrs,
            Self::LogAbsent(LogName::Boot) | Self::LogFrom { log: LogName::Boot, .. } => Check::BootReplay,
            Self::LogAbsent(LogName::Ima) | Self::LogFrom { log: LogName::Ima, .. } => Check::ImaReplay,
            Self::LogAbsent(LogName::Own) | Self::LogFrom { log: LogName::Own, .. } => Check::OwnReplay,
            Self::BootLog(_) | Self::BankMissing(_) => Check::BootReplay,
            Self::PcrMismatch { pcr, .. } if *pcr == crate::ownlog::PCR => Check::OwnReplay,
            Self::PcrMismatch { .. } => Check::BootReplay,
            Self::PcrUnexplained { log: LogName::Boot, .. } => Check::BootReplay,
            Self::PcrUnexplained { log: LogName::Ima, .. } => Check::ImaReplay,
            Self::PcrUnexplained { log: LogName::Own, .. } => Check::OwnReplay,
            Self::Ima(_) | Self::ImaMismatch(_) => Check::ImaReplay,
            Self::Own(_) => Check::OwnReplay,
            Self::BootEntry { .. } | Self::FirmwareError { .. } | Self::Unseparated(_) => Check::BootEntries,
            Self::BootAggregate { .. } | Self::File { .. } => Check::Files,
            Self::OwnEntry { .. } => Check::OwnEntries,
            Self::PartMissing(_) | Self::More(_) => Check::Parts,
        }
    }

    /// A stable word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::OtherAk { .. } => "other-ak",
            Self::BadAk(_) => "bad-ak",
            Self::Malformed(_) => "malformed-quote",
            Self::Signature(_) => "signature",
            Self::NotAQuote => "not-a-quote",
            Self::BoundElsewhere => "bound-elsewhere",
            Self::TpmReset { .. } => "tpm-reset",
            Self::EarlierLife { .. } => "earlier-life",
            Self::ClockBack { .. } => "clock-back",
            Self::Sha1Bank => "sha1-bank",
            Self::Bank(_) => "bank",
            Self::PcrNotQuoted(_) => "pcr-not-quoted",
            Self::PcrValues => "pcr-values",
            Self::LogAbsent(_) => "log-absent",
            Self::LogFrom { .. } => "log-from",
            Self::BootLog(_) => "boot-log",
            Self::BankMissing(_) => "bank-missing",
            Self::PcrMismatch { .. } => "pcr-mismatch",
            Self::PcrUnexplained { .. } => "pcr-unexplained",
            Self::Unseparated(_) => "unseparated",
            Self::Ima(_) => "ima-log",
            Self::ImaMismatch(_) => "ima-mismatch",
            Self::BootAggregate { .. } => "boot-aggregate",
            Self::Own(_) => "own-log",
            Self::BootEntry { .. } => "boot-entry",
            Self::FirmwareError { .. } => "firmware-error",
            Self::File { .. } => "file",
            Self::OwnEntry { .. } => "own-entry",
            Self::PartMissing(_) => "part-missing",
            Self::More(_) => "more",
        }
    }

    /// The entry that it is about.
    pub fn entry(&self) -> Option<LogEntryRef> {
        let at = |log, entry: usize, offset: usize| LogEntryRef {
            log,
            entry: entry as u64,
            offset: offset as u64,
        };
        match self {
            Self::BootLog(e) => Some(at(LogName::Boot, e.entry, e.offset)),
            Self::BankMissing(e) => Some(at(LogName::Boot, e.entry, e.offset)),
            Self::Ima(e) => Some(at(LogName::Ima, e.entry, e.offset)),
            Self::Own(e) => Some(at(LogName::Own, e.entry, e.offset)),
            Self::ImaMismatch(ImaMismatch::NotQuoted { entry, offset, .. }) => {
                Some(at(LogName::Ima, *entry, *offset))
            }
            Self::PcrMismatch { last, .. } => last.clone(),
            Self::BootEntry { at, .. }
            | Self::FirmwareError { at, .. }
            | Self::File { at, .. }
            | Self::OwnEntry { at, .. }
            | Self::BootAggregate { at } => Some(at.clone()),
            _ => None,
        }
    }
}
