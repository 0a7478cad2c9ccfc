//! What went wrong, why, and what to try: the one error that crosses a domain's or the API's boundary.
//!
//! Inside a crate errors are that crate's own types; they become a [`Fault`] where they leave it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of failure, stable for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The request itself is wrong.
    Invalid,
    /// What it names does not exist.
    NotFound,
    /// The name or the port is taken.
    InUse,
    /// The thing is in a state that does not allow this.
    WrongState,
    /// Somebody else was faster: the same call, made anew, may succeed.
    Conflict,
    /// The member has not enough memory, slots or disk.
    NoRoom,
    /// The caller may not do this.
    Denied,
    /// Bytes are not what their digest or signature says.
    Integrity,
    /// A source of components cannot be reached.
    SourceUnreachable,
    /// A part of the member is restarting: the same call may succeed in a moment.
    Unavailable,
    /// Someone asked for it to stop.
    Cancelled,
    /// The box itself failed: its kernel, its application or QEMU.
    BoxFailed,
    /// A defect in GTVP, or a host that does not behave.
    Internal,
}

/// A failure as a person or a program sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// What happened, one sentence without a full stop.
    pub message: String,
    /// Why, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What to try next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Whether the same call may succeed if made again.
    #[serde(default)]
    pub retryable: bool,
}

impl Fault {
    /// A fault of `kind`; [`FaultKind::Unavailable`] and [`FaultKind::Conflict`] are retryable, the others are not.
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            causes: Vec::new(),
            hint: None,
            retryable: matches!(kind, FaultKind::Unavailable | FaultKind::Conflict),
        }
    }

    /// An [`FaultKind::Internal`] fault that tells `error` and its sources.
    pub fn internal(message: impl Into<String>, error: &dyn std::error::Error) -> Self {
        Self::new(FaultKind::Internal, message).caused_by(error)
    }

    /// Adds `error` and each of its sources as causes.
    pub fn caused_by(mut self, error: &dyn std::error::Error) -> Self {
        let mut next = Some(error);
        while let Some(e) = next {
            self.causes.push(e.to_string());
            next = e.source();
        }
        self
    }

    /// Adds one cause in words.
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Says what to try.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The HTTP status that the API answers with.
    pub fn http_status(&self) -> u16 {
        match self.kind {
            FaultKind::Invalid => 400,
            FaultKind::Denied => 403,
            FaultKind::NotFound => 404,
            FaultKind::InUse | FaultKind::WrongState | FaultKind::Cancelled | FaultKind::Conflict => 409,
            FaultKind::NoRoom => 507,
            FaultKind::Integrity | FaultKind::BoxFailed => 422,
            FaultKind::SourceUnreachable => 502,
            FaultKind::Unavailable => 503,
            FaultKind::Internal => 500,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.causes.iter().try_for_each(|c| write!(f, ": {c}"))
    }
}

impl std::error::Error for Fault {}
