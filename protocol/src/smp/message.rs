//! What source and target say to each other, on the channel that their ticket names. Each message names its ticket; said twice it means
//! the same. The state itself does not go through here.

use gtvp_model::digest::Digest;
use minicbor::{Decode, Encode};

use super::table::Say;
use super::ticket::Ticket;
use crate::csp::Signature;
use crate::fields;
use crate::frame::messages::messages;
use crate::frame::wire::Bytes;

/// Longest words to a refusal.
pub const MAX_WHY: usize = 256;
/// A ticket's digest, and CBOR around it.
const NAMED: usize = 40;
/// A key and a signature, and CBOR around them.
const SIGNED: usize = 1136;

/// See [`Say::Offer`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Offer {
    /// What is offered.
    #[n(0)]
    pub offered: Box<Ticket>,
    /// The source's, over it.
    #[n(1)]
    pub signature: Signature,
}

/// See [`Say::Accept`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Accept {
    /// Digest of the ticket.
    #[cbor(n(0), with = "fields::digest")]
    pub ticket: Digest,
    /// The target's, over it.
    #[n(1)]
    pub signature: Signature,
}

/// See [`Say::Still`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Still {
    /// Digest of the ticket.
    #[cbor(n(0), with = "fields::digest")]
    pub ticket: Digest,
    /// Digest of the box's state.
    #[cbor(n(1), with = "fields::digest")]
    pub state: Digest,
}

/// See [`Say::Ready`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Ready {
    /// Digest of the ticket.
    #[cbor(n(0), with = "fields::digest")]
    pub ticket: Digest,
    /// Digest of the state that is there.
    #[cbor(n(1), with = "fields::digest")]
    pub state: Digest,
    /// The target's, over the terms.
    #[n(2)]
    pub consent: Signature,
}

/// See [`Say::Switch`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Switch {
    /// Digest of the ticket.
    #[cbor(n(0), with = "fields::digest")]
    pub ticket: Digest,
    /// The source's, over the terms.
    #[n(1)]
    pub consent: Signature,
}

/// See [`Say::Abort`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Abort {
    /// Digest of the ticket.
    #[cbor(n(0), with = "fields::digest")]
    pub ticket: Digest,
    /// Why.
    #[n(1)]
    pub code: Why,
    /// In words, UTF-8. They are the other end's, and shown as such.
    #[n(2)]
    pub why: Bytes<MAX_WHY>,
}

/// Why a ticket moves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Why {
    /// The target does not take it.
    #[n(1)]
    Refused,
    /// An administrator, or policy, wants it no more.
    #[n(2)]
    Cancelled,
    /// Something did not work.
    #[n(3)]
    Failed,
    /// It took too long.
    #[n(4)]
    Expired,
    /// The target had another state than the source.
    #[n(5)]
    Unlike,
    /// It was over before.
    #[n(6)]
    Over,
    /// A member was restarted.
    #[n(7)]
    Restarted,
}

macro_rules! named {
    ($($name:ident)*) => {
        $(
            #[doc = concat!("See [`Say::", stringify!($name), "`].")]
            #[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
            pub struct $name {
                /// Digest of the ticket.
                #[cbor(n(0), with = "fields::digest")]
                pub ticket: Digest,
            }
        )*
    };
}

named! { Built Killed Taken Lost }

messages! {
    #[derive(Debug, Clone, PartialEq, Eq)]
    "SMP":
    Offer = 80, 1024 + SIGNED;
    Accept = 81, NAMED + SIGNED;
    Built = 82, NAMED;
    Still = 83, NAMED + 40;
    Ready = 84, NAMED + 40 + SIGNED;
    Switch = 85, NAMED + SIGNED;
    Killed = 86, NAMED;
    Taken = 87, NAMED;
    Lost = 88, NAMED;
    Abort = 89, NAMED + MAX_WHY + 8;
}

impl Message {
    /// What it says.
    pub fn says(&self) -> Say {
        match self {
            Self::Offer(_) => Say::Offer,
            Self::Accept(_) => Say::Accept,
            Self::Built(_) => Say::Built,
            Self::Still(_) => Say::Still,
            Self::Ready(_) => Say::Ready,
            Self::Switch(_) => Say::Switch,
            Self::Killed(_) => Say::Killed,
            Self::Taken(_) => Say::Taken,
            Self::Lost(_) => Say::Lost,
            Self::Abort(_) => Say::Abort,
        }
    }

    /// Digest of the ticket that it is about.
    pub fn ticket(&self) -> Digest {
        match self {
            Self::Offer(m) => m.offered.digest(),
            Self::Accept(m) => m.ticket,
            Self::Built(m) => m.ticket,
            Self::Still(m) => m.ticket,
            Self::Ready(m) => m.ticket,
            Self::Switch(m) => m.ticket,
            Self::Killed(m) => m.ticket,
            Self::Taken(m) => m.ticket,
            Self::Lost(m) => m.ticket,
            Self::Abort(m) => m.ticket,
        }
    }
}

/// What is answered to a message of a ticket that nobody here has a machine for: a target without one has promised nothing, and the
/// source may go on. Everything else is the record's to answer, or nobody's. (An Offer begins a machine.)
pub fn to_unknown(message: &Message) -> Option<Message> {
    let Message::Still(Still { ticket, .. }) = message else { return None };
    let why = b"this member has no such migration".to_vec();
    Some(Abort { ticket: *ticket, code: Why::Over, why: why.try_into().ok()? }.into())
}
