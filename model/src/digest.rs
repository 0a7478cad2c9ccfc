//! Digests: SHA-256 of bytes, and the fs-verity SHA-256 digest that names a file's contents.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// 32 bytes, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

/// Text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a SHA-256 digest (64 hexadecimal digits)")]
pub struct BadDigest(String);

impl Digest {
    /// SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The first 12 hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Digest {
    type Err = BadDigest;
    fn from_str(s: &str) -> Result<Self, BadDigest> {
        let bad = || BadDigest(s.chars().take(80).collect());
        if s.len() != 64 || !s.is_ascii() {
            return Err(bad());
        }
        let mut out = [0; 32];
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&s[2 * i..2 * i + 2], 16).map_err(|_| bad())?;
        }
        if s.bytes().any(|b| b.is_ascii_uppercase() || b == b'+') {
            return Err(bad());
        }
        Ok(Self(out))
    }
}

impl TryFrom<String> for Digest {
    type Error = BadDigest;
    fn try_from(s: String) -> Result<Self, BadDigest> {
        s.parse()
    }
}

impl From<Digest> for String {
    fn from(d: Digest) -> String {
        d.to_string()
    }
}

/// Block size of the fs-verity Merkle tree.
const BLOCK: usize = 4096;
const PER_BLOCK: usize = BLOCK / 32;

/// Computes the fs-verity digest of a file's contents as they are written to it (Linux
/// `Documentation/filesystems/fsverity.rst`: SHA-256, 4096-byte blocks, no salt): what `FS_IOC_MEASURE_VERITY` and
/// `fsverity digest` give.
#[derive(Default)]
pub struct FsVerity {
    partial: Vec<u8>,
    size: u64,
    /// Hashes not yet folded into the level above, one list a level, lowest first.
    levels: Vec<Vec<u8>>,
}

impl FsVerity {
    /// A digest of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The fs-verity digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut v = Self::new();
        v.update(bytes);
        v.finish()
    }

    /// Adds `bytes` to the file's end.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.size += bytes.len() as u64;
        if !self.partial.is_empty() {
            let take = bytes.len().min(BLOCK - self.partial.len());
            self.partial.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if self.partial.len() < BLOCK {
                return;
            }
            let block = std::mem::take(&mut self.partial);
            self.push(0, hash_block(&block));
        }
        let mut blocks = bytes.chunks_exact(BLOCK);
        for block in &mut blocks {
            self.push(0, Sha256::digest(block).into());
        }
        self.partial.extend_from_slice(blocks.remainder());
    }

    fn push(&mut self, level: usize, hash: [u8; 32]) {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        self.levels[level].extend_from_slice(&hash);
        if self.levels[level].len() == BLOCK {
            let full = std::mem::take(&mut self.levels[level]);
            self.push(level + 1, hash_block(&full));
        }
    }

    /// Ends the file and gives its digest.
    pub fn finish(mut self) -> Digest {
        if !self.partial.is_empty() {
            let block = std::mem::take(&mut self.partial);
            self.push(0, hash_block(&block));
        }
        let root = self.root();
        let mut descriptor = [0u8; 256];
        descriptor[0] = 1; // version
        descriptor[1] = 1; // FS_VERITY_HASH_ALG_SHA256
        descriptor[2] = 12; // log2 of the block size
        descriptor[8..16].copy_from_slice(&self.size.to_le_bytes());
        descriptor[16..48].copy_from_slice(&root);
        Digest::of(&descriptor)
    }

    /// The Merkle tree's root: the single hash that remains when each level is padded and hashed into the next.
    fn root(&mut self) -> [u8; 32] {
        if self.size == 0 {
            return [0; 32];
        }
        let mut level = 0;
        loop {
            let hashes = std::mem::take(&mut self.levels[level]);
            let is_top = level + 1 == self.levels.len();
            if is_top && hashes.len() == 32 {
                let mut root = [0; 32];
                root.copy_from_slice(&hashes);
                return root;
            }
            if !hashes.is_empty() {
                debug_assert!(hashes.len() < PER_BLOCK * 32);
                self.push(level + 1, hash_block(&hashes));
            }
            level += 1;
        }
    }
}

/// SHA-256 of a block padded with zeros to 4096 bytes.
fn hash_block(bytes: &[u8]) -> [u8; 32] {
    let mut h = Sha256::new();
    h.update(bytes);
    h.update(&[0u8; BLOCK][bytes.len()..]);
    h.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Debian's `fsverity digest --compact` (fsverity-utils 1.5) over files of bytes `i % 251`.
    const KNOWN: &[(usize, &str)] = &[
        (0, "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95"),
        (1, "b803429503d95915829b29fdbc8bbad142f3abfd11b1cadf5526582e685c0551"),
        (4096, "13e9b8848ae484a36acb3f3cac0ceb2f7601e96633d15c92f9bd3dd44e492157"),
        (4097, "b0d074abef4d544404facfab6ba242f6a8ccbde90f1325cd286f3c8aa8d0f8aa"),
        (524288, "d82861203d50ae9b60948504a704f35f5118bd229aeb1a22d6dae47b1767c4c4"),
        (524289, "4dc6905041c9c4ee73e13b53f63f5d289c46da359b664a965ead7f8cc4d799d4"),
        (1228805, "b7efa9a17e514dcb7944d1db117793997741990ddd1f203740ba9a60f0826f41"),
    ];

    fn sample(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn agrees_with_fsverity_utils() {
        for (size, digest) in KNOWN {
            assert_eq!(FsVerity::of(&sample(*size)).to_string(), *digest, "{size} bytes");
        }
    }

    #[test]
    fn pieces_and_whole_agree() {
        for size in [0, 1, 4095, 4096, 4097, 128 * 4096, 128 * 4096 + 1, 300 * 4096 + 5] {
            let data = sample(size);
            let mut v = FsVerity::new();
            data.chunks(1000).for_each(|c| v.update(c));
            assert_eq!(v.finish(), FsVerity::of(&data), "{size} bytes");
        }
    }
}
