//! The member's TPM keys as they lie in `/state` between starts: wrapped by the TPM, of no use to any other. One file, replaced
//! as a whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use gtvp_model::hex::{hex, unhex};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::templates::EkKind;

const NAME: &str = "tpm-keys.json";
/// Six areas of at most 1 KiB and a certificate of 4 KiB, in hexadecimal.
const MAX_FILE: u64 = 64 * 1024;

/// Why saved keys are of no use. They are left as they are: other members know this one by them.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// The file cannot be read or written.
    #[error("{NAME} cannot be read or written")]
    Io(#[from] io::Error),
    /// The file is not what was written.
    #[error("{NAME} is damaged: put its backup back, or remove it and let this member join again")]
    Damaged,
    /// This TPM did not make them.
    #[error(
        "the keys in {NAME} were made by another TPM, or its owner was cleared: this member is another one now. \
         Remove the file and let it join again"
    )]
    OtherTpm,
}

/// Bytes that are hexadecimal in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hex(pub Vec<u8>);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        unhex(text).map(Self).ok_or_else(|| serde::de::Error::custom("not hexadecimal"))
    }
}

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedKeys {
    /// 1.
    pub version: u32,
    /// Which endorsement key this member is known by.
    pub ek_kind: EkKind,
    /// Its public area.
    pub ek_public: Hex,
    /// Its certificate, as it lies in the TPM.
    pub ek_certificate: Option<Hex>,
    /// The attestation key.
    pub ak_public: Hex,
    /// Wrapped.
    pub ak_private: Hex,
    /// The TLS identity key.
    pub tls_public: Hex,
    /// Wrapped.
    pub tls_private: Hex,
}

/// The keys in `folder`, if any were saved.
pub fn read(folder: &Path) -> Result<Option<SavedKeys>, SavedError> {
    let file = match File::open(folder.join(NAME)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(SavedError::Damaged);
    }
    let keys: SavedKeys = serde_json::from_slice(&bytes).map_err(|_| SavedError::Damaged)?;
    if keys.version != 1 {
        return Err(SavedError::Damaged);
    }
    Ok(Some(keys))
}

/// Saves them, durably.
pub fn write(folder: &Path, keys: &SavedKeys) -> Result<(), SavedError> {
    let text = serde_json::to_vec_pretty(keys).map_err(io::Error::from)?;
    Ok(replace(folder, NAME, &text)?)
}

/// Replaces the file `name` in `folder` by one with these contents: after a crash it is one or the other.
pub fn replace(folder: &Path, name: &str, contents: &[u8]) -> io::Result<()> {
    let new = folder.join(format!("{name}.new"));
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&new, folder.join(name))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_keys_are_not_replaced() {
        let dir = std::env::temp_dir().join(format!("gtvp-saved-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        assert!(read(&dir).unwrap().is_none());
        let hex = || Hex(vec![1, 2]);
        let keys = SavedKeys {
            version: 1,
            ek_kind: EkKind::EccP256,
            ek_public: hex(),
            ek_certificate: None,
            ak_public: hex(),
            ak_private: hex(),
            tls_public: hex(),
            tls_private: hex(),
        };
        write(&dir, &keys).unwrap();
        assert_eq!(read(&dir).unwrap(), Some(keys));
        for bad in [b"{".to_vec(), vec![b' '; 70_000], b"{}".to_vec()] {
            fs::write(dir.join(NAME), &bad).unwrap();
            assert!(matches!(read(&dir), Err(SavedError::Damaged)));
            assert_eq!(fs::read(dir.join(NAME)).unwrap(), bad);
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
