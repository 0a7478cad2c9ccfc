//! What `communication` answers.

use serde::{Deserialize, Serialize};

/// The union as this member sees it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Union {}

/// The answer to [`Union`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnionReply {
    /// Names of the members, this one first.
    pub members: Vec<String>,
}

crate::interface!("communication" {
    /// See [`Union`].
    Union = "union" -> UnionReply;
});
