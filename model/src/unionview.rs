//! The union as people see it: `gtvp union show`, `gtvp member ls`.

use serde::{Deserialize, Serialize};

use crate::ids::UnionName;
use crate::union::TpmClass;

/// What a union begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnionBegin {
    /// Its name.
    pub name: UnionName,
    /// Whether members whose TPM is software are let in.
    #[serde(default)]
    pub software_tpms: bool,
    /// Whether members without a TPM are let in.
    #[serde(default)]
    pub without_tpm: bool,
}

/// A union in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct UnionSummary {
    /// Its name.
    pub name: String,
    /// Its id: the hash of its record's first entry, in hexadecimal.
    pub id: String,
    /// How often a member was removed by force.
    pub epoch: u64,
    /// Entries of its record.
    pub entries: u64,
    /// Hash of the last one, in hexadecimal: members that have the same have the same record.
    pub head: String,
    /// Names of the members that vote.
    pub voters: Vec<String>,
    /// How many members it has.
    pub members: u64,
    /// Whether it lets members in whose TPM is software.
    pub software_tpms: bool,
    /// Whether it lets members in that have no TPM.
    pub without_tpm: bool,
}

/// A member in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct MemberRow {
    /// Its name.
    pub name: String,
    /// Its id, in hexadecimal; none before it is in a union.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `trusted`, `untrusted` or `unknown`.
    pub verdict: String,
    /// What stands behind its keys.
    pub tpm: TpmClass,
    /// Its reference security level, as the union set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform_identity: Option<u8>,
    /// Whether it is the one that answers.
    pub own: bool,
}
