//! Amounts of memory as people write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes, written `384M`, `2G`, `512MiB` or as plain bytes. Suffixes are powers of 1024.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Bytes(pub u64);

/// Why a size was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size: write a number with K, M, G or T, for example 512M")]
pub struct BadSize(String);

impl Bytes {
    /// `n` mebibytes.
    pub const fn mib(n: u64) -> Self {
        Self(n * 1024 * 1024)
    }

    /// Whole mebibytes, rounded up.
    pub fn as_mib(self) -> u64 {
        self.0.div_ceil(1024 * 1024)
    }
}

impl FromStr for Bytes {
    type Err = BadSize;
    fn from_str(s: &str) -> Result<Self, BadSize> {
        let bad = || BadSize(s.chars().take(40).collect());
        let t = s.trim();
        let digits = t.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = t.split_at(digits);
        let n: u64 = number.parse().map_err(|_| bad())?;
        let shift = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kib" | "kb" => 10,
            "m" | "mib" | "mb" => 20,
            "g" | "gib" | "gb" => 30,
            "t" | "tib" | "tb" => 40,
            _ => return Err(bad()),
        };
        n.checked_mul(1u64 << shift).map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
            if self.0 != 0 && self.0 % (1u64 << shift) == 0 {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl TryFrom<String> for Bytes {
    type Error = BadSize;
    fn try_from(s: String) -> Result<Self, BadSize> {
        s.parse()
    }
}

impl From<Bytes> for String {
    fn from(b: Bytes) -> String {
        b.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_print() {
        for (text, n) in
            [("512M", 512 << 20), ("2G", 2 << 30), ("384MiB", 384 << 20), ("7", 7), ("1024", 1024)]
        {
            assert_eq!(text.parse::<Bytes>(), Ok(Bytes(n)), "{text}");
        }
        assert_eq!(Bytes::mib(512).to_string(), "512M");
        for bad in ["", "M", "-1M", "1.5G", "12Q", "99999999999T"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad:?} was accepted");
        }
    }
}
