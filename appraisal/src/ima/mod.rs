//! Linux IMA measurement lists: what files were executed, loaded or read since boot, as
//! `/sys/kernel/security/integrity/ima/{ascii,binary}_runtime_measurements` show them
//! (kernel Documentation/security/IMA-templates.rst, security/integrity/ima/ima_fs.c and ima_template_lib.c).
//!
//! Each entry's template digest is recomputed from its fields, so every word of a parsed log is covered by what was
//! extended. Signatures inside entries (ima-sig, evm-sig, modsig) are kept and not verified.

mod ascii;
mod binary;
mod replay;
mod template;

pub use replay::{ImaMatch, ImaMismatch, ImaState, Way};
pub use template::FileDigest;

use std::borrow::Cow;

use crate::alg::LogDigest;
use crate::reader::Short;
use crate::tpm::PcrIndex;

/// Longest IMA log taken: about 200,000 files, a server with the strictest stock policy over some weeks.
pub const MAX_LOG: usize = 32 * 1024 * 1024;

/// Most entries taken.
pub const MAX_ENTRIES: usize = 262_144;

/// Longest template data of one entry: signatures and kexec command lines are a few KiB.
pub const MAX_TEMPLATE: usize = 64 * 1024;

/// Longest template name: names are short, custom templates carry their format, some ten field names.
pub const MAX_TEMPLATE_NAME: usize = 256;

/// A malformed log: where, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("IMA log entry {entry} at byte {offset}: {reason}")]
pub struct ImaError {
    /// Number of the entry, from 0.
    pub entry: usize,
    /// Offset of the entry in the log.
    pub offset: usize,
    /// What is wrong.
    pub reason: ImaFault,
}

/// Why a log is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImaFault {
    /// Nothing there.
    #[error("the log is empty")]
    Empty,
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
        /// Its offset in the log.
        at: usize,
        /// Its length.
        need: usize,
        /// What is there.
        have: usize,
    },
    /// A part of an ASCII line is not what it should be.
    #[error("{0} is not readable")]
    Unreadable(&'static str),
    /// A length inside the entry does not fit it.
    #[error("{what} is {len} bytes long")]
    Length {
        /// The field.
        what: &'static str,
        /// Its length.
        len: usize,
    },
    /// A template whose fields GTVP does not know.
    #[error("template {0:?} is not known")]
    UnknownTemplate(String),
    /// The template's fields give another digest than the entry says.
    #[error("the entry's fields have the digest {computed}, the entry says {listed}: it was changed")]
    TemplateDigest {
        /// What the fields give.
        computed: Box<LogDigest>,
        /// What stands there.
        listed: Box<LogDigest>,
    },
    /// A PCR that does not exist.
    #[error("PCR {0} does not exist")]
    NoSuchPcr(u32),
}

impl ImaFault {
    /// A stable word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLong(_) => "too-long",
            Self::TooManyEntries => "too-many-entries",
            Self::Cut { .. } => "cut",
            Self::Unreadable(_) => "unreadable",
            Self::Length { .. } => "length",
            Self::UnknownTemplate(_) => "unknown-template",
            Self::TemplateDigest { .. } => "template-digest",
            Self::NoSuchPcr(_) => "no-such-pcr",
        }
    }
}

impl From<Short> for ImaFault {
    fn from(s: Short) -> Self {
        Self::Cut { what: s.what, at: s.at, need: s.need, have: s.have }
    }
}

/// One measured file or buffer.
#[derive(Debug, Clone)]
pub struct ImaEntry<'a> {
    /// Its number, from 0.
    pub number: usize,
    /// Offset in the log, in bytes.
    pub offset: usize,
    /// The PCR it was extended into; 10 as a rule.
    pub pcr: PcrIndex,
    /// Name of its template.
    pub template: Cow<'a, str>,
    /// Digest of the file or buffer.
    pub file: FileDigest<'a>,
    /// Path, or what the kernel calls the buffer. Spaces are underscores.
    pub path: Cow<'a, str>,
    /// Signature, buffer or appended signature that the template carries; hexadecimal decoded.
    pub attached: Cow<'a, [u8]>,
    /// A file was open for writing while it was measured: its digest says nothing, and the PCR got all ones.
    pub violation: bool,
    /// What the template digest is over.
    hashed: Cow<'a, [u8]>,
}

/// A well-formed log.
#[derive(Debug, Clone)]
pub struct ImaLog<'a> {
    entries: Vec<ImaEntry<'a>>,
}

impl<'a> ImaLog<'a> {
    /// A log in either form: an ASCII one begins with a digit or a space, a binary one with a PCR number.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ImaError> {
        let fault = |reason| ImaError { entry: 0, offset: 0, reason };
        if bytes.len() > MAX_LOG {
            return Err(fault(ImaFault::TooLong(bytes.len())));
        }
        let entries = match bytes.first() {
            None => return Err(fault(ImaFault::Empty)),
            Some(b' ' | b'0'..=b'9') => ascii::parse(bytes)?,
            Some(_) => binary::parse(bytes)?,
        };
        Ok(Self { entries })
    }

    /// The entries, in order.
    pub fn entries(&self) -> &[ImaEntry<'a>] {
        &self.entries
    }
}
