//! What `communication` answers.

use gtvp_model::token::Endpoint;
use gtvp_model::unionview::ChannelRow;
use gtvp_protocol::csp::SignedEntry;
use serde::{Deserialize, Serialize};

/// Which members there is a channel with.
#[derive(Debug, Serialize, Deserialize)]
pub struct Channels {}

/// Where other members reach this one.
#[derive(Debug, Serialize, Deserialize)]
pub struct OwnEndpoint {}

/// The answer to [`OwnEndpoint`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnEndpointReply {
    /// For a token.
    pub endpoint: Endpoint,
}

/// Have the voters put an entry into the record. Answers when it is there; `Conflict` when another one has its number: have it
/// written anew; `Unavailable` when no majority of voters answers: it may be taken later.
#[derive(Debug, Serialize, Deserialize)]
pub struct Propose {
    /// From `security`.
    pub entry: SignedEntry,
}

/// Join the union of a token.
#[derive(Debug, Serialize, Deserialize)]
pub struct Join {
    /// As it was printed.
    pub token: String,
    /// This server's processors.
    pub hardware: gtvp_model::union::Hardware,
}

/// How far a join is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinStep {
    /// In words.
    pub step: String,
}

/// The answer to [`Join`]: this server is a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinedReply {
    /// The union's name is the record's to say; this is its id.
    pub union: gtvp_model::union::UnionId,
}

crate::interface!("communication" {
    /// See [`Channels`].
    Channels = "channels" -> Vec<ChannelRow>;
    /// See [`OwnEndpoint`].
    OwnEndpoint = "own_endpoint" -> OwnEndpointReply;
    /// See [`Propose`].
    Propose = "propose" -> crate::Nothing;
    /// See [`Join`]. Hanging up ends it, unless the record has this server by then.
    Join = "join" -> JoinedReply, progress JoinStep;
});
