//! IMA templates: which fields an entry has, what its template digest is over, and the file digest inside.

use std::borrow::Cow;
use std::fmt;

use super::{ImaEntry, ImaFault};
use crate::alg::{HashAlg, LogDigest};
use crate::reader::Reader;
use crate::tpm::PcrIndex;

/// IMA_EVENT_NAME_LEN_MAX + 1: the original template pads names to this.
const OLD_NAME: usize = 256;

/// Fields in one template: the longest built-in one has nine.
const MAX_FIELDS: usize = 16;

/// The digest of a measured file. Points into a binary log.
#[derive(Clone, PartialEq, Eq)]
pub struct FileDigest<'a> {
    /// What was hashed: the file (`ima`) or its fs-verity structure (`verity`). Templates before ngv2 don't say.
    pub of: Option<Cow<'a, str>>,
    /// Linux' name of the hash algorithm.
    pub alg: Cow<'a, str>,
    /// The digest.
    pub bytes: Cow<'a, [u8]>,
}

impl<'a> FileDigest<'a> {
    /// The digest with its algorithm, if GTVP knows that.
    pub fn known(&self) -> Option<LogDigest> {
        let alg = HashAlg::ALL.into_iter().find(|a| a.name() == self.alg)?;
        LogDigest::new(alg, &self.bytes).ok()
    }

    /// Whether it is of a file's contents, and not of its fs-verity structure.
    pub fn is_of_contents(&self) -> bool {
        self.of.as_deref().is_none_or(|of| of == "ima")
    }

    /// `prefix:alg:` and a zero byte, then the digest (d-ng, d-ngv2), or 16 or 20 bytes alone (d).
    fn of_field(field: &'a [u8], kind: Field) -> Option<Self> {
        if kind == Field::Digest {
            let alg = match field.len() {
                20 => "sha1",
                16 => "md5",
                _ => return None,
            };
            return Some(Self { of: None, alg: Cow::Borrowed(alg), bytes: Cow::Borrowed(field) });
        }
        let end = field.iter().position(|b| *b == 0)?;
        let (prefix, rest) = field.split_at_checked(end)?;
        let names = std::str::from_utf8(prefix).ok()?.strip_suffix(':')?;
        let (of, alg) = match names.split_once(':') {
            Some((of, alg)) => (Some(of), alg),
            None => (None, names),
        };
        let plain = |s: &str| s.len() <= 32 && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !plain(alg) || !of.is_none_or(plain) {
            return None;
        }
        Some(Self {
            of: of.map(Cow::Borrowed),
            alg: Cow::Borrowed(alg),
            bytes: Cow::Borrowed(rest.get(1..)?),
        })
    }

    fn into_owned(self) -> FileDigest<'static> {
        FileDigest {
            of: self.of.map(|of| Cow::Owned(of.into_owned())),
            alg: Cow::Owned(self.alg.into_owned()),
            bytes: Cow::Owned(self.bytes.into_owned()),
        }
    }
}

impl fmt::Display for FileDigest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(of) = &self.of {
            write!(f, "{of}:")?;
        }
        write!(f, "{}:", self.alg)?;
        self.bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for FileDigest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A template field, by how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    /// `d`: a bare SHA-1 or MD5.
    Digest,
    /// `d-ng`, `d-ngv2`, `d-modsig`: a digest with its algorithm.
    DigestNg,
    /// `n`, padded when hashed.
    OldName,
    /// `n-ng`, `xattrnames`: a string with its terminating zero.
    Text,
    /// `sig`, `buf`, …: bytes, shown in hexadecimal.
    Hex,
    /// A little-endian number of this many bytes, shown in decimal.
    Number(usize),
}

fn field(name: &str) -> Option<Field> {
    Some(match name {
        "d" => Field::Digest,
        "d-ng" | "d-ngv2" | "d-modsig" => Field::DigestNg,
        "n" => Field::OldName,
        "n-ng" | "xattrnames" => Field::Text,
        "sig" | "buf" | "modsig" | "evmsig" | "xattrlengths" | "xattrvalues" => Field::Hex,
        "iuid" | "igid" => Field::Number(4),
        "imode" => Field::Number(2),
        _ => return None,
    })
}

/// The fields of a template: a built-in name, or a custom template's own format.
pub(super) fn fields(template: &str) -> Result<Vec<Field>, ImaFault> {
    let format = match template {
        "ima" => "d|n",
        "ima-ng" => "d-ng|n-ng",
        "ima-sig" => "d-ng|n-ng|sig",
        "ima-ngv2" => "d-ngv2|n-ng",
        "ima-sigv2" => "d-ngv2|n-ng|sig",
        "ima-buf" => "d-ng|n-ng|buf",
        "ima-modsig" => "d-ng|n-ng|sig|d-modsig|modsig",
        "evm-sig" => "d-ng|n-ng|evmsig|xattrnames|xattrlengths|xattrvalues|iuid|igid|imode",
        custom => custom,
    };
    let unknown = || ImaFault::UnknownTemplate(template.chars().take(80).collect());
    let fields: Option<Vec<Field>> = format.split('|').take(MAX_FIELDS + 1).map(field).collect();
    fields.filter(|f| f.len() <= MAX_FIELDS).ok_or_else(unknown)
}

/// An entry whose fields are there but not yet checked.
pub(super) struct Raw<'a> {
    pub number: usize,
    pub offset: usize,
    pub pcr: u32,
    pub listed: LogDigest,
    pub template: Cow<'a, str>,
    /// The fields, each with a little-endian u32 length before it; for the original template the digest and then the
    /// name, without lengths.
    pub data: Cow<'a, [u8]>,
}

impl<'a> Raw<'a> {
    /// Checks the template digest and takes the fields apart.
    pub fn check(self) -> Result<ImaEntry<'a>, ImaFault> {
        let pcr = u8::try_from(self.pcr).ok().and_then(PcrIndex::new);
        let pcr = pcr.ok_or(ImaFault::NoSuchPcr(self.pcr))?;
        let kinds = fields(&self.template)?;
        let old = self.template == "ima";
        let hashed: Cow<'a, [u8]> = if old { Cow::Owned(padded(&self.data)) } else { self.data.clone() };

        // ima_add_violation: an all-zero digest stands in the list.
        let violation = self.listed.is_filled(0);
        if !violation {
            let computed = self.listed.alg().hash(&hashed);
            if computed != self.listed {
                return Err(ImaFault::TemplateDigest {
                    computed: Box::new(computed),
                    listed: Box::new(self.listed),
                });
            }
        }
        let parts = match &self.data {
            Cow::Borrowed(data) => parts(data, &kinds, old)?,
            Cow::Owned(data) => parts(data, &kinds, old)?.into_owned(),
        };
        let missing = || ImaFault::UnknownTemplate(self.template.chars().take(80).collect());
        Ok(ImaEntry {
            number: self.number,
            offset: self.offset,
            pcr,
            file: parts.file.ok_or_else(missing)?,
            path: parts.path.ok_or_else(missing)?,
            template: self.template,
            attached: parts.attached,
            violation,
            hashed,
        })
    }
}

/// What an entry's fields say.
struct Parts<'a> {
    file: Option<FileDigest<'a>>,
    path: Option<Cow<'a, str>>,
    attached: Cow<'a, [u8]>,
}

impl Parts<'_> {
    fn into_owned(self) -> Parts<'static> {
        Parts {
            file: self.file.map(FileDigest::into_owned),
            path: self.path.map(|p| Cow::Owned(p.into_owned())),
            attached: Cow::Owned(self.attached.into_owned()),
        }
    }
}

fn parts<'a>(data: &'a [u8], kinds: &[Field], old: bool) -> Result<Parts<'a>, ImaFault> {
    let mut r = Reader::new(data);
    let mut out = Parts { file: None, path: None, attached: Cow::Borrowed(&[]) };
    for kind in kinds {
        let len = match kind {
            Field::Digest if old => 20,
            Field::OldName if old => r.rest().len(),
            _ => r.u32_le("template field length")? as usize,
        };
        let bytes = r.take(len, "template field")?;
        match kind {
            Field::Digest | Field::DigestNg if out.file.is_none() => {
                let digest = FileDigest::of_field(bytes, *kind);
                out.file = Some(digest.ok_or(ImaFault::Unreadable("the file digest"))?);
            }
            Field::OldName | Field::Text if out.path.is_none() => {
                let text = bytes.strip_suffix(&[0]).unwrap_or(bytes);
                out.path = Some(String::from_utf8_lossy(text));
            }
            Field::Hex if out.attached.is_empty() => out.attached = Cow::Borrowed(bytes),
            Field::Number(width) if bytes.len() != *width => {
                return Err(ImaFault::Length { what: "a number field", len: bytes.len() });
            }
            _ => {}
        }
    }
    match r.rest().len() {
        0 => Ok(out),
        len => Err(ImaFault::Length { what: "what follows the template's fields", len }),
    }
}

/// What the original template hashes: the digest, and the name padded with zeros.
fn padded(data: &[u8]) -> Vec<u8> {
    let mut out = data.to_vec();
    out.resize(out.len().max(20 + OLD_NAME), 0);
    out
}
