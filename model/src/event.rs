//! Things that happened, as `gtvp events` shows them.

use serde::{Deserialize, Serialize};

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Part of ordinary work.
    Info,
    /// Something to know about.
    Warning,
    /// Something failed.
    Error,
}

/// One thing that happened on a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Event {
    /// Number on this member, without gaps, from 1.
    pub seq: u64,
    /// When: milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// The member.
    pub member: String,
    /// How much it matters.
    pub severity: Severity,
    /// What kind, `area.what`, for example `box.started` or `domain.restarted`.
    pub kind: String,
    /// The box it is about, if one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub box_name: Option<String>,
    /// What happened, one sentence.
    pub message: String,
}
