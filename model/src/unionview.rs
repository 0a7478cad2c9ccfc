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
    /// How often each member proves itself anew, milliseconds: 30,000 if nothing is said.
    #[serde(default)]
    pub attest_every_ms: Option<u32>,
    /// The endorsement key of this server's TPM, where no vendor's certificate vouches for it: whoever begins the union does. SHA-256 in
    /// hexadecimal, as `gtvp member show` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek: Option<String>,
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
    /// What the class of this member's TPM rests on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub own_tpm: String,
    /// Why this member, a voter, signs no entry now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
    /// Why the member that answers starts no box and grants nothing new now; what runs goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grants_nothing: Option<String>,
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
    /// Whose word that is: "certified by" a vendor, or an administrator's; none before it is in a union.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm_by: Option<String>,
    /// Its reference security level, as the union set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform_identity: Option<u8>,
    /// Whether it is the one that answers.
    pub own: bool,
    /// Since when the verdict is this one: milliseconds since 1970-01-01 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Who attested it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attested_by: Option<String>,
    /// When it will be attested again: milliseconds since 1970-01-01 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attestation_ms: Option<u64>,
    /// Whether it votes.
    #[serde(default)]
    pub voter: bool,
    /// Whether nobody else of several does: without it the others grant nothing new after a minute.
    #[serde(default)]
    pub only_voter: bool,
    /// How it is by its own word, if that was heard lately. Nothing that is about safety rests on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<StatusView>,
}

/// How a member is, in its own signed words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct StatusView {
    /// When it said so, by its clock: milliseconds since 1970-01-01 UTC.
    pub said_ms: u64,
    /// Load of its processors in hundredths of one, the mean of a minute.
    pub load: u32,
    /// Its processors.
    pub cpus: u16,
    /// Memory that could be used, MiB.
    pub memory_free_mib: u32,
    /// All its memory, MiB.
    pub memory_mib: u32,
    /// Boxes that run on it.
    pub boxes: u32,
    /// Its GTVP's version.
    pub version: String,
    /// Number of the last entry of the record that it has.
    pub record: u64,
    /// Components that it has, MiB.
    pub components_mib: u64,
}

/// A member, and why its verdict is what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PeerView {
    /// As in the listing.
    #[serde(flatten)]
    pub row: MemberRow,
    /// What the verdict rests on: `passed`, `failed`, `not_checked`, each with the entry or the reason.
    pub checks: Vec<CheckRow>,
    /// Digest of the attestation result, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// What it holds of the union.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<MemberHeld>,
}

/// What a member holds of its union, as the member that answers knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct MemberHeld {
    /// Whether it votes.
    pub voter: bool,
    /// Reference values that it signed and that count.
    pub references: Vec<String>,
    /// Ids of join tokens that it made and that can still be used.
    pub tokens: Vec<String>,
    /// The channel with it, and what may be said there; none with itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Its boxes; none: not known to the member that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boxes: Option<Vec<String>>,
}

/// A join token that can still be used. Its secret is nowhere but in what was printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TokenRow {
    /// Its name in the record, in hexadecimal.
    pub id: String,
    /// Not taken from then on: seconds since 1970-01-01 UTC.
    pub expires: u64,
    /// Who made it.
    pub by: String,
    /// The only TPM that may use it: its endorsement key, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek: Option<String>,
    /// What its user becomes.
    pub platform_identity: u8,
}

/// One check of an appraisal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CheckRow {
    /// Its name.
    pub check: String,
    /// `passed`, `failed` or `not_checked`.
    pub outcome: String,
    /// With the entry, where there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// A channel with another member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ChannelRow {
    /// Its name.
    pub member: String,
    /// Its id, in hexadecimal.
    pub id: String,
    /// `open`, `connecting` or `unreachable`.
    pub state: String,
    /// Of one that is open: whether all may be said on it, or nothing but the record.
    #[serde(default)]
    pub full: bool,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Why there is no channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// How long it took to open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took: Option<ChannelTook>,
}

/// How long a connection took to become a channel, from its first packet on, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ChannelTook {
    /// Until TLS was done.
    pub tls_us: u64,
    /// Until both members had proved themselves.
    pub all_us: u64,
}

/// A manifest of reference values in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ReferenceRow {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u64,
    /// When it was made: seconds since 1970-01-01 UTC.
    pub issued: i64,
    /// What of it counts now.
    pub rules: u64,
    /// What of it counts from the next start on.
    pub next: u64,
    /// SHA-256 of the signed manifest, in hexadecimal.
    pub digest: String,
}

/// An entry of the record, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct HistoryRow {
    /// Its number.
    pub number: u64,
    /// When, by its author's clock: seconds since 1970-01-01 UTC.
    pub time: u64,
    /// Who wrote it.
    pub author: String,
    /// What it does, in a word (`admitted`, `evicted`, …).
    pub act: String,
    /// In a sentence.
    pub about: String,
    /// Its hash, in hexadecimal.
    pub hash: String,
}

/// A token that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenWish {
    /// For how long, seconds: an hour if nothing is said.
    #[serde(default)]
    pub expires_s: Option<u64>,
    /// Only the TPM with this endorsement key may use it: SHA-256 of its SubjectPublicKeyInfo, in hexadecimal.
    #[serde(default)]
    pub ek: Option<String>,
    /// What its user becomes.
    #[serde(default)]
    pub platform_identity: Option<u8>,
}

/// A token that was made. It is shown once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TokenMade {
    /// For `gtvp join`.
    pub token: String,
    /// Its name in the record, in hexadecimal.
    pub id: String,
    /// Seconds since 1970-01-01 UTC.
    pub expires: u64,
    /// Where it leads.
    pub endpoint: String,
}

/// A token of a union that is to be joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnionJoin {
    /// As it was printed.
    pub token: String,
}

/// Why a member is removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Eviction {
    /// In a sentence, for the record.
    #[serde(default)]
    pub reason: String,
}

/// What is to count as healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReferenceWish {
    /// What the evidence of this member, or of who asked to join by this name, has that nothing knows. Where several have shown
    /// evidence by one name: the endorsement key of the one that is meant.
    #[serde(default)]
    pub member: Option<String>,
    /// From the next start on.
    #[serde(default)]
    pub next: bool,
    /// A manifest.
    #[serde(default)]
    pub manifest: Option<serde_json::Value>,
}

/// What a change of the union did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Change {
    /// In a sentence.
    pub about: String,
}

/// A recovery of a union whose voters are lost: what it gives up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Recovery {
    /// Entries that are kept. What a majority of the voters has decided after them is lost.
    pub entries: u64,
    /// Hash of the last one, in hexadecimal.
    pub head: String,
    /// When a majority was last heard of: seconds since 1970-01-01 UTC.
    pub head_time: u64,
    /// Members that are members no more.
    pub lost: Vec<String>,
    /// Members that stay, once their own administrators say that they follow.
    pub follow: Vec<String>,
    /// Hash of the entry that replaces the voters, in hexadecimal; none before it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

/// A recovery that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecoveryWish {
    /// Members that are given up beside the voters that cannot be reached.
    #[serde(default)]
    pub lost: Vec<String>,
    /// Why, for the record.
    #[serde(default)]
    pub reason: String,
    /// Whether it is to be done; else only what it would do is told.
    #[serde(default)]
    pub confirmed: bool,
    /// Also where a majority of the voters can be reached: the record has not gone on for a minute, as they have promised different entries.
    #[serde(default)]
    pub stands_still: bool,
}

/// That this server leaves its union by force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForcedLeave {
    /// Whether it is to be done; else only what it would do is told.
    #[serde(default)]
    pub confirmed: bool,
}

/// A server that leaves its union without the others' word: what that gives up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Departure {
    /// The union's name.
    pub union: String,
    /// Entries of the record that is put aside; 0: it cannot be read.
    pub entries: u64,
    /// When a majority of its voters was last heard of: seconds since 1970-01-01 UTC.
    pub head_time: u64,
    /// What other members say of this one, as far as they were heard.
    #[serde(default)]
    pub heard: Vec<String>,
    /// What there is to do that gives up less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<String>,
    /// What is given up, in sentences.
    pub gives_up: Vec<String>,
    /// Where the record is now, in the state directory of `security`; none before it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aside: Option<String>,
}

/// A recovery that is followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecoveryFollow {
    /// Hash of the entry that replaces the voters, in hexadecimal.
    pub hash: String,
}
