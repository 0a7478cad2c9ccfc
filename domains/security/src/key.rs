//! The key of this member's manifests: made once, kept in a file that only this domain can read.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use p256::ecdsa::SigningKey;

const NAME: &str = "manifest.key";
/// A P-256 scalar.
const LENGTH: usize = 32;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("the manifest key in /state cannot be read or made")]
    Io(#[from] io::Error),
    /// The file is not a key. It is left as it is: components signed by it would lose their signature with it.
    #[error(
        "/state/manifest.key is damaged: put its backup back, or remove it and import every component again"
    )]
    Damaged,
}

/// The key in `dir`, made if there is none.
pub fn load_or_make(dir: &Path) -> Result<SigningKey, KeyError> {
    match File::open(dir.join(NAME)) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(LENGTH as u64 + 1).read_to_end(&mut bytes)?;
            SigningKey::from_slice(&bytes).map_err(|_| KeyError::Damaged)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => make(dir),
        Err(e) => Err(e.into()),
    }
}

fn make(dir: &Path) -> Result<SigningKey, KeyError> {
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
    let temporary = dir.join(format!("{NAME}.new"));
    match std::fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(&key.to_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, dir.join(NAME))?;
    File::open(dir)?.sync_all()?;
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
        std::fs::write(dir.join(NAME), b"short").unwrap();
        assert!(matches!(load_or_make(&dir), Err(KeyError::Damaged)));
        assert_eq!(std::fs::read(dir.join(NAME)).unwrap(), b"short");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
