//! Names of boxes, members, domains and operations.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} name {name:?} is not usable: {reason}")]
pub struct BadName {
    kind: &'static str,
    name: String,
    reason: &'static str,
}

/// A DNS label (RFC 1123): a box's name becomes its host name.
fn check_label(kind: &'static str, name: &str) -> Result<(), BadName> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > 63 {
        "it is longer than 63 characters"
    } else if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        "only a-z, 0-9 and '-' are allowed"
    } else if name.starts_with('-') || name.ends_with('-') {
        "it starts or ends with '-'"
    } else {
        return Ok(());
    };
    Err(BadName { kind, name: name.chars().take(80).collect(), reason })
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schemars(with = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = BadName;
            fn from_str(s: &str) -> Result<Self, BadName> {
                check_label($kind, s)?;
                Ok(Self(s.to_owned()))
            }
        }
        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(s: String) -> Result<Self, BadName> {
                s.parse()
            }
        }
        impl From<$name> for String {
            fn from(n: $name) -> String {
                n.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

label!(
    /// A box's name, unique on its member.
    BoxName, "box"
);
label!(
    /// A member's name.
    MemberName, "member"
);
label!(
    /// A union's name, for people: its id says which union it is.
    UnionName, "union"
);

/// The processes that `gtvpd` keeps running: the five domains of the paper (GTVP §2.2) and the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Domain {
    /// The root process. Not a domain: it only answers the domains' requests to spawn.
    Supervisor,
    /// MD: box lifecycle, inventory, the admin interface's other end.
    Management,
    /// SSD: keys, measurements, appraisal, policy verdicts.
    Security,
    /// OSCD: component store, composition, the boxes' file-system servers.
    Components,
    /// CD: the only sockets to other members.
    Communication,
    /// DDD: QEMU, disks, taps, the box switch.
    Drivers,
    /// Relays people's requests. Outside the TCB.
    Gateway,
    /// A box's file-system server. One process a box.
    Lazyfs,
    /// Fetches from the administrator's sources. One process an import.
    Fetcher,
}

impl Domain {
    /// Lower-case name, as in topology.toml.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Supervisor => "supervisor",
            Self::Management => "management",
            Self::Security => "security",
            Self::Components => "components",
            Self::Communication => "communication",
            Self::Drivers => "drivers",
            Self::Gateway => "gateway",
            Self::Lazyfs => "lazyfs",
            Self::Fetcher => "fetcher",
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A place for a box on its member, 0 to [`Slot::MAX`]: its uids and its address follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Slot(u16);

impl Slot {
    /// The last slot: a /24 box network has 254 addresses, .1 is the gateway, the rest minus broadcast are boxes.
    pub const MAX: u16 = 251;

    /// A slot by its number, `None` past [`Self::MAX`].
    pub fn new(n: u16) -> Option<Self> {
        (n <= Self::MAX).then_some(Self(n))
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for Slot {
    type Error = String;
    fn try_from(n: u16) -> Result<Self, String> {
        Self::new(n).ok_or_else(|| format!("slot {n} is above {}", Self::MAX))
    }
}

impl From<Slot> for u16 {
    fn from(s: Slot) -> u16 {
        s.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_name_is_a_dns_label() {
        assert!("web-2".parse::<BoxName>().is_ok());
        for bad in ["", "-a", "a-", "A", "a.b", "../x", "a b", &"x".repeat(64)] {
            assert!(bad.parse::<BoxName>().is_err(), "{bad:?} was accepted");
        }
        assert!(serde_json::from_str::<BoxName>("\"../x\"").is_err());
    }
}
