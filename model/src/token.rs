//! Join tokens: what an administrator carries from a union to a server that shall join it.
//!
//! A token names the union by its genesis hash, so that a joiner cannot be led into another one. Whether it is still
//! good is the union's to say, not the token's.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use data_encoding::{DecodeKind, Encoding, Specification};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::digest::{BadDigest, Digest};
use crate::fault::{Fault, FaultKind};
use crate::union::{EkDigest, RecordHead, UnionId, UnixTime, digest_id};

digest_id!(
    /// Names a token in the record: SHA-256("gtvp-token-id/1" ‖ key).
    TokenId
);

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; $len]);

        impl $name {
            /// From its bytes.
            pub fn new(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(not shown)"))
            }
        }
        impl From<$name> for String {
            fn from(s: $name) -> String {
                data_encoding::HEXLOWER.encode(&s.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = BadSecret;
            fn try_from(s: String) -> Result<Self, BadSecret> {
                let bytes = data_encoding::HEXLOWER.decode(s.as_bytes()).map_err(|_| BadSecret)?;
                bytes.try_into().map(Self).map_err(|_| BadSecret)
            }
        }
    };
}

/// Text that is not a secret of this kind. What it was is not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a secret of the right length, in lower-case hexadecimal digits")]
pub struct BadSecret;

secret!(
    /// What the holder of a token alone has: 128 random bits. It is revealed once, in the entry that uses it up.
    TokenSecret, 16
);
secret!(
    /// SHA-256("gtvp-token-key/1" ‖ secret): every member has it, proofs of a token are made with it, and no token can
    /// be used with it alone.
    TokenKey, 32
);

impl TokenSecret {
    /// The key that the record gets.
    pub fn key(&self) -> TokenKey {
        let mut h = Sha256::new();
        h.update(b"gtvp-token-key/1");
        h.update(self.0);
        TokenKey(h.finalize().into())
    }
}

impl TokenKey {
    /// The token's name in the record.
    pub fn id(&self) -> TokenId {
        let mut h = Sha256::new();
        h.update(b"gtvp-token-id/1");
        h.update(self.0);
        TokenId::new(Digest(h.finalize().into()))
    }
}

/// Where a member listens: a DNS name or address, and a TCP port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    host: String,
    port: u16,
}

/// Text that is not an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an endpoint (name:port, 192.0.2.1:port or [2001:db8::1]:port)")]
pub struct BadEndpoint(String);

impl Endpoint {
    /// Longest text: a DNS name (RFC 1035 §2.3.4) and a port.
    pub const MAX: usize = 253 + 6;

    /// Name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;
    fn from_str(s: &str) -> Result<Self, BadEndpoint> {
        let bad = || BadEndpoint(s.chars().take(80).collect());
        if s.len() > Self::MAX {
            return Err(bad());
        }
        let (host, port) = s.rsplit_once(':').ok_or_else(bad)?;
        if !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        let port = port.parse().ok().filter(|p| *p != 0).ok_or_else(bad)?;
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?.to_string(),
            None if host.parse::<std::net::Ipv4Addr>().is_ok() || is_dns_name(host) => host.to_owned(),
            None => return Err(bad()),
        };
        Ok(Self { host, port })
    }
}

fn is_dns_name(name: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    // A last label of digits would be half an address.
    name.split('.').all(label)
        && !name.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(v6)) => write!(f, "[{v6}]:{}", self.port),
            _ => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = BadEndpoint;
    fn try_from(s: String) -> Result<Self, BadEndpoint> {
        s.parse()
    }
}

impl From<Endpoint> for String {
    fn from(e: Endpoint) -> String {
        e.to_string()
    }
}

/// What lets one server join one union, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The union.
    pub union: UnionId,
    /// A place in its record: the joiner checks the chain from there, so that other joins do not spoil the token.
    pub head: RecordHead,
    /// A member to ask.
    pub endpoint: Endpoint,
    /// Not taken from then on.
    pub expires: UnixTime,
    /// Only the TPM with this endorsement key may use it.
    pub ek: Option<EkDigest>,
    /// Shows that this token was given, not guessed.
    pub secret: TokenSecret,
}

/// Why a text is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// Something else was pasted.
    #[error("this is not a join token: those begin with \"{PREFIX}\"")]
    Prefix,
    /// A character that tokens do not have.
    #[error("character {at} of the token, {found:?}, is none that tokens have: it was mistyped or cut badly")]
    Character {
        /// Which, from 1.
        at: usize,
        /// What stands there.
        found: char,
    },
    /// The end is missing.
    #[error("the token is cut: {have} characters, it had {need}")]
    Cut {
        /// What is there.
        have: usize,
        /// What was there.
        need: usize,
    },
    /// There is more than one token.
    #[error("the token has {0} characters too many: is something else pasted behind it?")]
    Rest(usize),
    /// A character was exchanged for another.
    #[error("the token was mistyped: its checksum does not fit")]
    Checksum,
    /// Made by a newer GTVP.
    #[error("the token is of version {0}, this GTVP reads version {VERSION}: use the version of its union")]
    Version(u8),
    /// Intact, and still not what a token is: it was made by something else.
    #[error("the token is intact, but its {0} is not one")]
    Field(&'static str),
}

impl From<BadToken> for Fault {
    fn from(e: BadToken) -> Self {
        Self::new(FaultKind::Invalid, "this is no token that can be used").because(e.to_string())
    }
}

/// What a printed token begins with.
const PREFIX: &str = "gtvp-join-";
/// The only layout so far.
const VERSION: u8 = 1;
/// Longest text read: prefix, and 1.6 characters for each of at most 130 + 259 bytes.
const MAX_TEXT: usize = 1024;
/// Bytes of SHA-256 at the end: one typing error in four thousand million passes, and then no proof fits.
const CHECKSUM: usize = 4;

/// Crockford's base 32: no letters that look like digits, case does not matter.
fn base32() -> Result<Encoding, BadToken> {
    let mut spec = Specification::new();
    spec.symbols.push_str("0123456789abcdefghjkmnpqrstvwxyz");
    spec.translate.from.push_str("ABCDEFGHJKMNPQRSTVWXYZoOiIlL");
    spec.translate.to.push_str("abcdefghjkmnpqrstvwxyz001111");
    spec.ignore.push_str(" \n\r\t");
    spec.encoding().map_err(|_| BadToken::Field("alphabet"))
}

impl JoinToken {
    fn encode(&self) -> Vec<u8> {
        let endpoint = self.endpoint.to_string();
        let mut out = vec![VERSION];
        // The length comes first, so that a cut token is called cut.
        out.extend_from_slice(&u16::try_from(endpoint.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.push(u8::from(self.ek.is_some()));
        out.extend_from_slice(self.union.as_bytes());
        out.extend_from_slice(&self.head.number.to_be_bytes());
        out.extend_from_slice(&self.head.hash.0);
        out.extend_from_slice(&self.expires.0.to_be_bytes());
        out.extend_from_slice(self.secret.as_bytes());
        if let Some(ek) = &self.ek {
            out.extend_from_slice(ek.as_bytes());
        }
        out.extend_from_slice(endpoint.as_bytes());
        let sum = checksum(&out);
        out.extend_from_slice(&sum);
        out
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let [a, b, c, d, ..] = Digest::of(&[b"gtvp-join/1".as_slice(), bytes].concat()).0;
    [a, b, c, d]
}

/// Characters that `bytes` bytes have, with the prefix.
fn characters(bytes: usize) -> usize {
    PREFIX.len() + (bytes * 8).div_ceil(5)
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], BadToken> {
        let (head, rest) = self.0.split_first_chunk().ok_or(BadToken::Field(what))?;
        self.0 = rest;
        Ok(*head)
    }
}

impl FromStr for JoinToken {
    type Err = BadToken;
    fn from_str(s: &str) -> Result<Self, BadToken> {
        let s = s.trim();
        let head = s.get(..PREFIX.len()).ok_or(BadToken::Prefix)?;
        if !head.eq_ignore_ascii_case(PREFIX) {
            return Err(BadToken::Prefix);
        }
        if s.len() > MAX_TEXT {
            return Err(BadToken::Rest(s.len() - MAX_TEXT));
        }
        let text = s.get(PREFIX.len()..).unwrap_or_default();
        let encoding = base32()?;
        let clean: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let have = PREFIX.len() + clean.len();
        for (i, found) in clean.chars().enumerate() {
            if !found.is_ascii_alphanumeric() || matches!(found, 'u' | 'U') {
                return Err(BadToken::Character { at: PREFIX.len() + i + 1, found });
            }
        }
        // The first four bytes say how long it is: read them from the first seven characters, whatever follows.
        let lead: String = clean.chars().take(8).collect();
        let lead =
            encoding.decode(lead.as_bytes()).map_err(|_| BadToken::Cut { have, need: characters(120) })?;
        let [version, hi, lo, flags, ..] = *lead.as_slice() else {
            return Err(BadToken::Cut { have, need: characters(120) });
        };
        if version != VERSION {
            return Err(if version < 16 { BadToken::Version(version) } else { BadToken::Checksum });
        }
        let endpoint_len = usize::from(u16::from_be_bytes([hi, lo]));
        if flags > 1 || endpoint_len > Endpoint::MAX {
            return Err(BadToken::Checksum);
        }
        let size = 4 + 32 + 40 + 8 + 16 + 32 * usize::from(flags) + endpoint_len + CHECKSUM;
        let need = characters(size);
        if have < need {
            return Err(BadToken::Cut { have, need });
        }
        if have > need {
            return Err(BadToken::Rest(have - need));
        }
        let bytes = encoding.decode(clean.as_bytes()).map_err(|e| match e.kind {
            DecodeKind::Symbol => BadToken::Character {
                at: PREFIX.len() + e.position + 1,
                found: clean.chars().nth(e.position).unwrap_or('?'),
            },
            _ => BadToken::Checksum,
        })?;
        let (body, sum) = bytes.split_at_checked(bytes.len() - CHECKSUM).ok_or(BadToken::Checksum)?;
        if sum != checksum(body) {
            return Err(BadToken::Checksum);
        }
        let mut fields = Fields(body);
        fields.take::<4>("head")?;
        let union = fields.take::<32>("union")?.into();
        let number = u64::from_be_bytes(fields.take("record head")?);
        let hash = Digest(fields.take("record head")?);
        let expires = UnixTime(u64::from_be_bytes(fields.take("expiry")?));
        let secret = TokenSecret::new(fields.take("secret")?);
        let ek = if flags == 1 { Some(fields.take::<32>("endorsement key")?.into()) } else { None };
        let endpoint = std::str::from_utf8(fields.0).ok().and_then(|e| e.parse().ok());
        let endpoint = endpoint.ok_or(BadToken::Field("endpoint"))?;
        Ok(Self { union, head: RecordHead { number, hash }, endpoint, expires, ek, secret })
    }
}

/// The whole token, secret and all: for the administrator's terminal.
impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoding = base32().map_err(|_| fmt::Error)?;
        write!(f, "{PREFIX}{}", encoding.encode(&self.encode()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(ek: bool) -> JoinToken {
        JoinToken {
            union: [1; 32].into(),
            head: RecordHead { number: 42, hash: Digest([2; 32]) },
            endpoint: "[2001:db8::1]:7600".parse().unwrap(),
            expires: UnixTime(1_800_000_000),
            ek: ek.then(|| [3; 32].into()),
            secret: TokenSecret::new([4; 16]),
        }
    }

    #[test]
    fn a_token_survives_print_and_a_wrapped_upper_case_paste() {
        for t in [token(false), token(true)] {
            let text = t.to_string();
            assert_eq!(text.parse(), Ok(t.clone()));
            let wrapped = format!("  {}\n{}\n", &text[..40].to_uppercase(), &text[40..]);
            assert_eq!(wrapped.parse(), Ok(t.clone()));
            assert_eq!(text.replace('0', "o").replace('1', "l").parse(), {
                // The prefix has no digits, so only the body is changed.
                assert!(!PREFIX.contains(['0', '1']));
                Ok(t)
            });
        }
    }

    #[test]
    fn every_single_mistyped_character_is_noticed() {
        let text = token(true).to_string();
        for at in PREFIX.len()..text.len() {
            for with in ['0', 'z', 'u', '-'] {
                let mut typed = text.clone().into_bytes();
                if typed[at] == with as u8 {
                    continue;
                }
                typed[at] = with as u8;
                let typed = String::from_utf8(typed).unwrap();
                assert!(typed.parse::<JoinToken>().is_err(), "{with} at {at} was accepted");
            }
        }
    }

    #[test]
    fn a_refusal_says_what_happened() {
        let text = token(false).to_string();
        let read = |s: &str| s.parse::<JoinToken>().unwrap_err();
        assert_eq!(read("nginx"), BadToken::Prefix);
        assert_eq!(read(""), BadToken::Prefix);
        assert_eq!(read("gtvp-join-é"), BadToken::Character { at: 11, found: 'é' });
        assert_eq!(read(&text[..text.len() - 3]), BadToken::Cut { have: text.len() - 3, need: text.len() });
        assert!(matches!(read(&text[..14]), BadToken::Cut { .. }));
        assert_eq!(read(&format!("{text}00")), BadToken::Rest(2));
        let swapped =
            format!("{}{}{}", &text[..60], if &text[60..61] == "a" { "b" } else { "a" }, &text[61..]);
        assert_eq!(read(&swapped), BadToken::Checksum);
        assert!(matches!(
            read(&format!("{}u{}", &text[..60], &text[61..])),
            BadToken::Character { at: 61, found: 'u' }
        ));
        // Version 2: the first character changes.
        let newer = format!("{}08{}", PREFIX, &text[PREFIX.len() + 2..]);
        assert_eq!(read(&newer), BadToken::Version(2));
    }

    #[test]
    fn an_endpoint_is_a_name_or_an_address_and_a_port() {
        for good in ["a.example:1", "192.0.2.1:65535", "[::1]:7600", "host:7600"] {
            assert_eq!(good.parse::<Endpoint>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "a",
            "a:",
            "a:0",
            "a:+1",
            ":1",
            "a b:1",
            "::1:1",
            "192.0.2.300:1",
            "-a:1",
            "a:65536",
            "[::1:1",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let shown = format!("{:?}", token(true));
        assert!(!shown.contains("0404") && !shown.contains("[4, 4"), "{shown}");
    }
}
