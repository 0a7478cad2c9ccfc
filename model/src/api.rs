//! Bodies of the HTTP API's requests that are not a resource of their own.

use serde::{Deserialize, Serialize};

use crate::boxspec::Need;
use crate::guest::{Program, TerminalSize};
use crate::units::Bytes;

/// Protocol name of the `Upgrade` that `exec` answers with: [`crate::stream`] frames both ways.
pub const STREAM_PROTOCOL: &str = "gtvp-stream/1";
/// Media type of a body of [`crate::stream`] frames.
pub const STREAM_TYPE: &str = "application/vnd.gtvp.stream";
/// Media type of a body with one JSON value a line.
pub const LINES_TYPE: &str = "application/x-ndjson";

/// Media type of an evidence file (docs/spec/evidence.md, "Files").
pub const EVIDENCE_TYPE: &str = "application/vnd.gtvp.evidence+cbor";

/// What to change on a box.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BoxChange {
    /// New memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// New number of virtual processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u16>,
}

/// A signal for a box's application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalBody {
    /// Linux signal number.
    pub signal: i32,
}

/// A component to import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportBody {
    /// For example `deb:nginx` or `deb:nginx=1.22.1-9`.
    pub need: Need,
}

/// A command to run in a box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ExecBody {
    /// The command.
    #[serde(flatten)]
    pub program: Program,
    /// A terminal of this size, or pipes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
}

/// The last line of a body with one JSON value a line whose answer broke off: why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BrokenOff {
    /// Why there is no more.
    pub fault: crate::fault::Fault,
}
