//! Text with `*` in it, for what changes between boots and updates: kernel versions, UUIDs, partition numbers.
//!
//! A `*` stands for any run of characters without white space. A command line `linux /vmlinuz-* ro` therefore does not
//! cover `linux /vmlinuz-6.1 init=/bin/sh ro`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest pattern, in bytes: a kernel command line is at most 2 KiB on x86.
pub const MAX_PATTERN: usize = 2048;

/// Longest text that a pattern is tried on: nothing longer is a command.
const MAX_TEXT: usize = 2 * MAX_PATTERN;

/// A pattern that is usable.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

/// Why text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// Empty, or longer than [`MAX_PATTERN`].
    #[error("a pattern has 1 to {MAX_PATTERN} bytes")]
    Length,
    /// A word is nothing but `*`: it would accept any word there.
    #[error("a word of a pattern is only \"*\", which accepts anything")]
    AcceptsAnything,
    /// A control character.
    #[error("a pattern has no control characters")]
    Control,
}

impl Pattern {
    /// A pattern. Each word needs at least one character that is not `*`.
    pub fn new(text: &str) -> Result<Self, BadPattern> {
        if text.is_empty() || text.len() > MAX_PATTERN {
            return Err(BadPattern::Length);
        }
        if text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
            return Err(BadPattern::Control);
        }
        if text.split_whitespace().any(|word| word.bytes().all(|b| b == b'*')) {
            return Err(BadPattern::AcceptsAnything);
        }
        Ok(Self(text.to_owned()))
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it covers all of `text`. Linear in both, apart from the retries of the last `*`.
    pub fn matches(&self, text: &str) -> bool {
        if text.len() > MAX_TEXT {
            return false;
        }
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut p, mut t) = (0, 0);
        // Where to go on if what follows the last star does not fit: after the star, and one character further.
        let mut star: Option<(usize, usize)> = None;
        while let Some(c) = text.get(t) {
            match pattern.get(p) {
                Some(b'*') => {
                    star = Some((p + 1, t));
                    p += 1;
                }
                Some(b) if b == c => {
                    p += 1;
                    t += 1;
                }
                _ => match star {
                    Some((after, from)) if text.get(from).is_some_and(|c| !c.is_ascii_whitespace()) => {
                        star = Some((after, from + 1));
                        p = after;
                        t = from + 1;
                    }
                    _ => return false,
                },
            }
        }
        pattern.get(p..).unwrap_or_default().iter().all(|b| *b == b'*')
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl TryFrom<String> for Pattern {
    type Error = BadPattern;
    fn try_from(s: String) -> Result<Self, BadPattern> {
        Self::new(&s)
    }
}

impl From<Pattern> for String {
    fn from(p: Pattern) -> String {
        p.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_part_of_a_word() {
        let p = Pattern::new("linux /vmlinuz-* root=UUID=* ro").unwrap();
        assert!(p.matches("linux /vmlinuz-6.1.0-13-amd64 root=UUID=1234-5678 ro"));
        for bad in [
            "linux /vmlinuz-6.1 init=/bin/sh root=UUID=1 ro",
            "linux /vmlinuz-6.1 root=UUID=1 ro init=/bin/sh",
            "linux /vmlinuz-6.1\troot=UUID=1 ro",
            "linux /vmlinuz-6.1 root=UUID=1",
            "",
        ] {
            assert!(!p.matches(bad), "{bad:?}");
        }
        assert!(Pattern::new("/boot/*.img").unwrap().matches("/boot/a.img.img"));
        assert!(Pattern::new("a*b*c").unwrap().matches("abbcbc"));
        assert!(!Pattern::new("a*b*c").unwrap().matches("abbcb"));
        assert!(Pattern::new("same").unwrap().matches("same"));
        let long = format!("{}b", "a".repeat(2000));
        assert!(!Pattern::new("a*a*a*a*a*c").unwrap().matches(&long));
    }

    #[test]
    fn nothing_accepts_everything() {
        for bad in ["", "*", "linux *", "** x", "a\u{0}b"] {
            assert!(Pattern::new(bad).is_err(), "{bad:?}");
        }
    }
}
