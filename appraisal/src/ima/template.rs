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

/// The digest of a measured file.
#[derive(Clone, PartialEq, Eq)]
pub struct FileDigest {
    /// What was hashed: the file (`ima`) or its fs-verity structure (`verity`). Templates before ngv2 don't say.
    pub of: Option<String>,
    /// Linux' name of the hash algorithm.
    pub alg: String,
    /// The digest.
    pub bytes: Vec<u8>,
}

impl FileDigest {
    /// The digest with its algorithm, if GTVP knows that.
    pub fn known(&self) -> Option<LogDigest> {
        let alg = HashAlg::ALL.into_iter().find(|a| a.name() == self.alg)?;
        LogDigest::new(alg, &self.bytes).ok()
    }

    /// `prefix:alg:` and a zero byte, then the digest (d-ng, d-ngv2), or 16 or 20 bytes alone (d).
    fn of_field(field: &[u8], kind: Field) -> Option<Self> {
        if kind == Field::Digest {
            let alg = match field.len() {
                20 => "sha1",
                16 => "md5",
                _ => return None,
            };
            return Some(Self { of: None, alg: alg.to_owned(), bytes: field.to_vec() });
        }
        let end = field.iter().position(|b| *b == 0)?;
        let (prefix, rest) = field.split_at_checked(end)?;
        let names = std::str::from_utf8(prefix).ok()?.strip_suffix(':')?;
        let (of, alg) = match names.split_once(':') {
            Some((of, alg)) => (Some(of.to_owned()), alg),
            None => (None, names),
        };
        let plain = |s: &str| s.len() <= 32 && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !plain(alg) || !of.as_deref().is_none_or(plain) {
            return None;
        }
        Some(Self { of, alg: alg.to_owned(), bytes: rest.get(1..)?.to_vec() })
    }
}

impl fmt::Display for FileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(of) = &self.of {
            write!(f, "{of}:")?;
        }
        write!(f, "{}:", self.alg)?;
        self.bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for FileDigest {
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
        let mut r = Reader::new(&self.data);
        let (mut file, mut path, mut attached) = (None, None, Vec::new());
        for kind in kinds {
            let len = match kind {
                Field::Digest if old => 20,
                Field::OldName if old => r.rest().len(),
                _ => r.u32_le("template field length")? as usize,
            };
            let bytes = r.take(len, "template field")?;
            match kind {
                Field::Digest | Field::DigestNg if file.is_none() => {
                    let digest = FileDigest::of_field(bytes, kind);
                    file = Some(digest.ok_or(ImaFault::Unreadable("the file digest"))?);
                }
                Field::OldName | Field::Text if path.is_none() => {
                    let text = bytes.strip_suffix(&[0]).unwrap_or(bytes);
                    path = Some(String::from_utf8_lossy(text).into_owned());
                }
                Field::Hex if attached.is_empty() => attached = bytes.to_vec(),
                Field::Number(width) if bytes.len() != width => {
                    return Err(ImaFault::Length { what: "a number field", len: bytes.len() });
                }
                _ => {}
            }
        }
        if !r.is_empty() {
            return Err(ImaFault::Length { what: "what follows the template's fields", len: r.rest().len() });
        }
        let missing = || ImaFault::UnknownTemplate(self.template.chars().take(80).collect());
        Ok(ImaEntry {
            number: self.number,
            offset: self.offset,
            pcr,
            file: file.ok_or_else(missing)?,
            path: Cow::Owned(path.ok_or_else(missing)?),
            template: self.template,
            attached,
            violation,
            hashed,
        })
    }
}

/// What the original template hashes: the digest, and the name padded with zeros.
fn padded(data: &[u8]) -> Vec<u8> {
    let mut out = data.to_vec();
    out.resize(out.len().max(20 + OLD_NAME), 0);
    out
}
