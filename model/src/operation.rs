//! Long work as a resource: progress, cancel, result.

use serde::{Deserialize, Serialize};

use crate::fault::Fault;

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Under way.
    Running,
    /// Ended well.
    Done,
    /// Ended by its fault.
    Failed,
    /// Ended because someone cancelled it; what it had made is gone.
    Cancelled,
}

/// The phase in which the application of a box that is made or started runs already, and is waited for until it serves.
pub const READY: &str = "ready";

/// What an operation is doing now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Progress {
    /// Stable name of the phase, for example `resolve`, `fetch`, `configure`, `boot`.
    pub phase: String,
    /// What is being done, for people.
    pub message: String,
    /// Units done.
    #[serde(default)]
    pub done: u64,
    /// Units in all; 0 when it is not known.
    #[serde(default)]
    pub total: u64,
    /// `bytes`, `packages` or the like.
    #[serde(default)]
    pub unit: String,
}

/// A phase that has ended, and how long it took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PhaseTime {
    /// The phase.
    pub phase: String,
    /// Milliseconds.
    pub ms: u64,
}

/// An operation as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Operation {
    /// Its id, unique on the member.
    pub id: String,
    /// What it does, for example `run` or `import`.
    pub kind: String,
    /// The box or component it is about.
    pub target: String,
    /// How far it is.
    pub state: OperationState,
    /// What it is doing, or did last.
    pub progress: Progress,
    /// Phases that ended, in order.
    pub phases: Vec<PhaseTime>,
    /// When it began: milliseconds since 1970-01-01 UTC.
    pub started_ms: u64,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// What it made, in the form of the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<serde_json::Value>,
}
