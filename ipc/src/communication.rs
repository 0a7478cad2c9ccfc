//! What `communication` answers.

use gtvp_model::ids::BoxName;
use gtvp_model::token::Endpoint;
use gtvp_model::union::MemberId;
use gtvp_model::unionview::ChannelRow;
use gtvp_protocol::csp::SignedEntry;
use gtvp_protocol::frame::wire::hex;
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

/// Ask another member for a box's evidence, or its own. Answers with a descriptor that the evidence file can be read from; nobody here has looked at
/// it. `Unavailable`: there is no channel with that member, or no answer in time; `Denied`: it gives none.
#[derive(Debug, Serialize, Deserialize)]
pub struct AskMember {
    /// Whom.
    pub member: MemberId,
    /// Which of its boxes; none: itself.
    pub name: Option<BoxName>,
    /// What the evidence must be bound to: [`NONCE`](gtvp_protocol::vouch::NONCE) bytes, of itself
    /// [`OWN_NONCE`](gtvp_protocol::vouch::OWN_NONCE).
    #[serde(with = "hex")]
    pub nonce: Vec<u8>,
}

/// Hear of what other members ask about this one and its boxes. Goes on until the caller hangs up; only the newest of these calls hears.
#[derive(Debug, Serialize, Deserialize)]
pub struct WatchAsks {}

/// What another member asks. To be answered with [`AnswerAsk`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberAsks {
    /// Its number here.
    pub ask: u64,
    /// Which box; none: this member itself.
    pub name: Option<BoxName>,
    /// What the evidence must be bound to, within its bounds.
    #[serde(with = "hex")]
    pub nonce: Vec<u8>,
}

/// Answer another member. With a descriptor of the evidence, or without: why not.
#[derive(Debug, Serialize, Deserialize)]
pub struct AnswerAsk {
    /// See [`MemberAsks`].
    pub ask: u64,
    /// Why there is none.
    pub refused: Option<String>,
    /// Why there is none now: the same question may be answered later.
    pub busy: bool,
}

/// Pass this member's status on, as `security` has signed it.
#[derive(Debug, Serialize, Deserialize)]
pub struct SpreadStatus {
    /// It.
    pub entry: Box<gtvp_protocol::gossip::Entry>,
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
    /// See [`AskMember`].
    AskMember = "ask_member" -> crate::Nothing;
    /// See [`WatchAsks`].
    WatchAsks = "watch_asks" -> crate::Nothing, progress MemberAsks;
    /// See [`AnswerAsk`]. Nobody may wait for it any more.
    AnswerAsk = "answer_ask" -> crate::Nothing;
    /// See [`SpreadStatus`].
    SpreadStatus = "spread_status" -> crate::Nothing;
});
