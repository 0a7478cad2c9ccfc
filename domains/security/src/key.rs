//! Keys in files: that of this member's manifests, and, without a TPM, its identity. Made once, in files that only this domain can read.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use p256::ecdsa::SigningKey;

use crate::tpm::saved::replace;

const MANIFESTS: &str = "manifest.key";
const IDENTITY: &str = "identity.key";
/// A P-256 scalar.
const LENGTH: usize = 32;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("a key in /state cannot be read or made")]
    Io(#[from] io::Error),
    /// The file is not a key. It is left as it is: components signed by it would lose their signature with it.
    #[error(
        "/state/manifest.key is damaged: put its backup back, or remove it and import every component again"
    )]
    Damaged,
    /// The same of this member's identity: with another key it is another member.
    #[error("/state/identity.key is damaged: put its backup back, or remove it and join the union again")]
    DamagedIdentity,
}

/// The key of manifests in `dir`, made if there is none.
pub fn load_or_make(dir: &Path) -> Result<SigningKey, KeyError> {
    read_or_make(dir, MANIFESTS, KeyError::Damaged)
}

/// The identity of a member without a TPM in `dir`, made if there is none.
pub fn load_or_make_identity(dir: &Path) -> Result<SigningKey, KeyError> {
    read_or_make(dir, IDENTITY, KeyError::DamagedIdentity)
}

fn read_or_make(dir: &Path, name: &str, damaged: KeyError) -> Result<SigningKey, KeyError> {
    match File::open(dir.join(name)) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(LENGTH as u64 + 1).read_to_end(&mut bytes)?;
            SigningKey::from_slice(&bytes).map_err(|_| damaged)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => make(dir, name),
        Err(e) => Err(e.into()),
    }
}

fn make(dir: &Path, name: &str) -> Result<SigningKey, KeyError> {
    let key = loop {
        let mut seed = [0; LENGTH];
        let mut have = 0;
        while have < LENGTH {
            have += rustix::rand::getrandom(&mut seed[have..], rustix::rand::GetRandomFlags::empty())
                .map_err(io::Error::from)?;
        }
        // Zero and numbers past the group's order are no keys: draw again.
        if let Ok(key) = SigningKey::from_slice(&seed) {
            break key;
        }
    };
    replace(dir, name, &key.to_bytes())?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_a_damaged_one_is_not_replaced() {
        let dir = std::env::temp_dir().join(format!("gtvp-key-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let first = load_or_make(&dir).unwrap();
        assert_eq!(load_or_make(&dir).unwrap().to_bytes(), first.to_bytes());
        std::fs::write(dir.join(MANIFESTS), b"short").unwrap();
        assert!(matches!(load_or_make(&dir), Err(KeyError::Damaged)));
        assert_eq!(std::fs::read(dir.join(MANIFESTS)).unwrap(), b"short");
        let identity = load_or_make_identity(&dir).unwrap();
        assert_ne!(identity.to_bytes(), first.to_bytes());
        assert_eq!(load_or_make_identity(&dir).unwrap().to_bytes(), identity.to_bytes());
        std::fs::write(dir.join(IDENTITY), b"short").unwrap();
        assert!(matches!(load_or_make_identity(&dir), Err(KeyError::DamagedIdentity)));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
