//! How a connection begins and ends, and what a join says of itself meanwhile.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use gtvp_ipc::security::OwnUnion;
use gtvp_model::token::Endpoint;
use gtvp_model::union::UnionId;
use gtvp_protocol::hsp::{Command, Refusal, Role};

use crate::engine::LinkId;
use crate::link::Link;
use crate::machine::Machine;
use crate::switch::Inbox;

/// What a join says of itself.
#[derive(Debug)]
pub enum Report {
    /// How far it is.
    Step(&'static str),
    /// This server is a member.
    Member(UnionId),
    /// It is over before that.
    Ended(End),
}

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    /// By the engine's word.
    Refused(Refusal),
    /// We ended it.
    Own(&'static str),
    /// The connection broke, or the peer sent what is no frame.
    Broken(String),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(r) => r.fmt(f),
            Self::Own(why) => f.write_str(why),
            Self::Broken(why) => f.write_str(why),
        }
    }
}

/// What a connection begins with.
pub struct Begin {
    /// Its number.
    pub id: LinkId,
    /// TLS is there.
    pub link: Link,
    /// Where the peer is.
    pub remote: SocketAddr,
    /// Which end we are.
    pub role: Role,
    /// The engine, and what it wants done first.
    pub machine: Machine,
    /// See `machine`.
    pub commands: Vec<Command>,
    /// Where we dialled it.
    pub dialled: Option<Endpoint>,
    /// The union that the engine began with.
    pub union: Option<Arc<OwnUnion>>,
    /// Who hears of a join.
    pub reports: Option<Sender<Report>>,
    /// Where notes for this link come.
    pub inbox: Arc<Inbox>,
}
