//! TCG boot event logs, as Linux shows them in `/sys/kernel/security/tpm0/binary_bios_measurements`: the SHA-1 format of
//! TPM 1.2 ("TCG EFI Platform Specification" §7) and the crypto-agile one ("TCG PC Client Platform Firmware Profile",
//! PFP, 1.06 §10).
//!
//! Parsing borrows: an [`Event`] points into the log. The log's words are only believed after [`BootLog::replay`] gave
//! the quoted PCRs, and even then only what a digest covers ([`Event::covers`]).
//!
//! A log that ends inside an entry is refused. One that was cut between two entries looks whole by itself: only its
//! replay tells, and [`BootLog::unseparated`] names the PCRs whose firmware phase never ended.

mod event;
mod kind;
mod replay;
mod spec;

pub use event::{Covers, Event};
pub use kind::{EventType, Kind};
pub use replay::{BankMissing, Replayed};
pub use spec::LogFormat;

use crate::reader::{Reader, Short};
use crate::tpm::MAX_PCR;

/// Longest boot log taken, in bytes. Firmware reserves 64 KiB as a rule; logs with all Secure Boot variables, shim's and
/// GRUB's entries stay below 200 KiB.
pub const MAX_LOG: usize = 1024 * 1024;

/// Most entries taken: GRUB measures each command that it runs, some hundreds.
pub const MAX_ENTRIES: usize = 8192;

/// Shortest run of padding bytes that counts as padding: a cut entry's first fields may be zero, a whole entry's are
/// longer than this.
const MIN_PADDING: usize = 12;

/// A malformed log: where, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("boot log entry {entry} at byte {offset}: {reason}")]
pub struct BootLogError {
    /// Number of the entry, from 0.
    pub entry: usize,
    /// Offset of the entry in the log.
    pub offset: usize,
    /// What is wrong with it.
    pub reason: BootLogFault,
}

/// Why a log is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootLogFault {
    /// Nothing there.
    #[error("the log is empty")]
    Empty,
    /// Longer than [`MAX_LOG`].
    #[error("the log has {0} bytes, more than {MAX_LOG}")]
    TooLong(usize),
    /// More entries than [`MAX_ENTRIES`].
    #[error("the log has more than {MAX_ENTRIES} entries")]
    TooManyEntries,
    /// The log ends inside the entry.
    #[error("cut: {what} at byte {at} needs {need} bytes, {have} are there")]
    Cut {
        /// The field.
        what: &'static str,
        /// Its offset in the log.
        at: usize,
        /// Its length.
        need: usize,
        /// What is there.
        have: usize,
    },
    /// A measurement into a PCR that the platform does not have.
    #[error("PCR {0} does not exist")]
    NoSuchPcr(u32),
    /// The header lists no algorithm, or more than a TPM has.
    #[error("the header lists {0} algorithms")]
    AlgorithmCount(u32),
    /// The header lists an algorithm twice.
    #[error("the header lists algorithm 0x{0:04x} twice")]
    AlgorithmTwice(u16),
    /// The header gives a known algorithm another digest size.
    #[error("the header gives algorithm 0x{alg:04x} {size} bytes")]
    AlgorithmSize {
        /// TPM_ALG_ID.
        alg: u16,
        /// The size it gives.
        size: u16,
    },
    /// The entry has more digests than the header lists algorithms, or none.
    #[error("the entry has {0} digests")]
    DigestCount(u32),
    /// A digest of an algorithm that the header does not list: its size is unknown.
    #[error("the entry has a digest of algorithm 0x{0:04x}, which the header does not list")]
    UnlistedAlgorithm(u16),
    /// Two digests of one algorithm.
    #[error("the entry has two digests of algorithm 0x{0:04x}")]
    DigestTwice(u16),
    /// A startup locality that cannot start a TPM.
    #[error("startup locality {0} cannot start a TPM")]
    Locality(u8),
    /// Two startup localities that differ.
    #[error("the log has two startup localities")]
    LocalityTwice,
}

impl BootLogFault {
    /// A stable word for it, for counting and for tests of whole programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLong(_) => "too-long",
            Self::TooManyEntries => "too-many-entries",
            Self::Cut { .. } => "cut",
            Self::NoSuchPcr(_) => "no-such-pcr",
            Self::AlgorithmCount(_) => "algorithm-count",
            Self::AlgorithmTwice(_) => "algorithm-twice",
            Self::AlgorithmSize { .. } => "algorithm-size",
            Self::DigestCount(_) => "digest-count",
            Self::UnlistedAlgorithm(_) => "unlisted-algorithm",
            Self::DigestTwice(_) => "digest-twice",
            Self::Locality(_) => "locality",
            Self::LocalityTwice => "locality-twice",
        }
    }
}

impl From<Short> for BootLogFault {
    fn from(s: Short) -> Self {
        Self::Cut { what: s.what, at: s.at, need: s.need, have: s.have }
    }
}

/// A well-formed log.
#[derive(Debug, Clone)]
pub struct BootLog<'a> {
    format: LogFormat,
    events: Vec<Event<'a>>,
    locality: Option<u8>,
    padding: usize,
}

impl<'a> BootLog<'a> {
    /// A log from its bytes, which it must fill to the end, except for padding.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BootLogError> {
        let at = |entry, offset, reason| BootLogError { entry, offset, reason };
        if bytes.is_empty() {
            return Err(at(0, 0, BootLogFault::Empty));
        }
        if bytes.len() > MAX_LOG {
            return Err(at(0, 0, BootLogFault::TooLong(bytes.len())));
        }
        let mut r = Reader::new(bytes);
        // A crypto-agile entry of one bank is at least 50 bytes; most logs average above 200.
        let mut events: Vec<Event<'a>> = Vec::with_capacity((bytes.len() / 128).min(MAX_ENTRIES));
        let mut format = LogFormat::Sha1;
        let mut locality = None;
        let mut padding = 0;
        while !r.is_empty() {
            let (entry, offset) = (events.len(), r.at());
            padding = padded(r.rest());
            if padding != 0 && entry > 0 {
                break;
            }
            if entry == MAX_ENTRIES {
                return Err(at(entry, offset, BootLogFault::TooManyEntries));
            }
            let event = format.read(&mut r, entry).map_err(|reason| at(entry, offset, reason))?;
            if entry == 0 {
                format = LogFormat::announced(&event).map_err(|reason| at(entry, offset, reason))?;
            }
            match event.startup_locality() {
                None => {}
                Some(l) if l > 4 || l == 1 || l == 2 => {
                    return Err(at(entry, offset, BootLogFault::Locality(l)));
                }
                Some(l) if locality.is_some_and(|before| before != l) => {
                    return Err(at(entry, offset, BootLogFault::LocalityTwice));
                }
                found => locality = found,
            }
            if event.extends() && event.pcr > u32::from(MAX_PCR) {
                return Err(at(entry, offset, BootLogFault::NoSuchPcr(event.pcr)));
            }
            events.push(event);
        }
        Ok(Self { format, events, locality, padding })
    }

    /// The entries, in order.
    pub fn events(&self) -> &[Event<'a>] {
        &self.events
    }

    /// Its format, with the algorithms of its header.
    pub fn format(&self) -> &LogFormat {
        &self.format
    }

    /// Bytes of 0x00 or 0xFF after the last entry: firmware that hands over its whole log area.
    pub fn padding(&self) -> usize {
        self.padding
    }

    /// PCRs 0–7 without an EV_SEPARATOR: before the operating system starts, firmware ends each of them with one (PFP
    /// §8.2.3), so a log without is cut or is no whole boot's.
    pub fn unseparated(&self) -> impl Iterator<Item = u8> + '_ {
        (0..8u8).filter(|pcr| {
            !self.events.iter().any(|e| e.kind_id == EventType::SEPARATOR && e.pcr == u32::from(*pcr))
        })
    }
}

/// How many bytes to the end are padding: all zero or all 0xFF.
fn padded(rest: &[u8]) -> usize {
    // Real entries begin with a PCR number and a type, so this ends at the second word of almost every one.
    let first = rest.first().copied().unwrap_or(1);
    let all = (first == 0 || first == 0xff) && rest.iter().all(|b| *b == first);
    if all && rest.len() >= MIN_PADDING { rest.len() } else { 0 }
}
