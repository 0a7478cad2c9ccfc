//! A box as the API shows it.

use serde::{Deserialize, Serialize};

use crate::boxspec::BoxSpec;

/// Where a box is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BoxState {
    /// Being put together and booted.
    Starting,
    /// Its application runs.
    Running,
    /// Its processors are halted.
    Paused,
    /// Being shut down.
    Stopping,
    /// Not running; its writable layer is kept.
    Stopped,
    /// Ended without being asked: its kernel panicked, QEMU died, or it never became ready.
    Failed,
}

/// How the application ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It returned this status, 0 to 255.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
}

impl ExitStatus {
    /// As a shell would report it: signals are 128 + n.
    pub fn shell_code(&self) -> i32 {
        match self {
            Self::Code(c) => *c,
            Self::Signal(s) => 128 + s,
        }
    }
}

/// A component of a box, and how it came to be linked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LinkedComponent {
    /// For people, for example `deb:nginx=1.22.1-9`.
    pub component: String,
    /// Manifest digest.
    pub digest: String,
    /// When: milliseconds since 1970-01-01 UTC.
    pub linked_ms: u64,
    /// The path whose LOOKUP no linked component answered; none for what is linked at start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because_of: Option<String>,
    /// Milliseconds from the fault to the answer.
    pub took_ms: u64,
    /// Bytes fetched for it: 0 when the store had it.
    pub fetched_bytes: u64,
    /// What appraisal checked, and what it did not.
    pub appraisal: Appraisal,
}

/// What an appraisal found. A verdict says what was not checked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Appraisal {
    /// What was checked and holds, for example `apt signature chain`.
    pub checked: Vec<String>,
    /// What was not checked, for example `TPM evidence`.
    pub not_checked: Vec<String>,
}

/// How much of a box's closure is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ClosureUse {
    /// Components that the needs could reach.
    pub components: u64,
    /// Components linked.
    pub linked: u64,
    /// Package bytes of the whole closure.
    pub bytes: u64,
    /// Package bytes of what is linked.
    pub linked_bytes: u64,
}

/// A box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct BoxView {
    /// Name.
    pub name: String,
    /// State.
    pub state: BoxState,
    /// The member that owns it.
    pub member: String,
    /// `lazy`, `open` or `closed` (GTVP §2.3).
    pub kind: String,
    /// Address on the box network.
    pub address: String,
    /// Published ports, each `HOST:BOX/protocol`.
    pub published: Vec<String>,
    /// Composition digest, once resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub composition: Option<String>,
    /// When its application became ready: milliseconds since 1970-01-01 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_ms: Option<u64>,
    /// How the application ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitStatus>,
    /// Why it failed, with its last words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Memory the box may use now, bytes.
    pub memory_bytes: u64,
    /// Virtual processors now.
    pub cpus: u16,
    /// Changes that wait for the next start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<String>,
    /// When it was made: milliseconds since 1970-01-01 UTC.
    pub created_ms: u64,
}

/// A box in full: `gtvp box show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct BoxDetail {
    /// The listing's fields.
    #[serde(flatten)]
    pub summary: BoxView,
    /// What was asked for.
    pub spec: BoxSpec,
    /// `kvm` or `tcg` with the reason, once started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<String>,
    /// Digest of the template that it was started from last; none when it was booted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Linked components, first linked first.
    pub linked: Vec<LinkedComponent>,
    /// Linked against closure.
    pub closure: ClosureUse,
    /// Milliseconds each phase of the last start took.
    pub phases: Vec<crate::operation::PhaseTime>,
}
