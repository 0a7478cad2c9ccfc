//! HSP, the Handshake Protocol: joining a union, and every connection between members (docs/spec/hsp.md).
//!
//! [`Session`] is one connection, either end. [`join::Joiner`] and [`join::Verifier`] are the two sides of an
//! enrolment, which ends in a session. A [`Batcher`] answers many challengers with one quote, and [`signable`] says
//! what the TLS key may sign.
//!
//! No byte of another protocol is sent before a [`AttestedChannel`] is there, and only a finished handshake makes one.
//! What a quote or a log means is appraisal's; who is a member is the record's.

mod batch;
mod binding;
mod channel;
mod command;
pub mod join;
mod lengths;
mod logs;
pub mod message;
mod refusal;
mod session;
pub mod signable;

#[cfg(test)]
mod tests;

pub use batch::{Batcher, Sealed};
pub use binding::MAX_LEAVES;
pub use binding::{Binding, Role, Tree, qualifying_data, tree};
pub use channel::{AttestedChannel, Grant};
pub use command::{
    Appraisable, Appraisal, Command, Context, Durable, Event, Millis, OwnEvidence, Request, Step,
};
pub use lengths::{Lengths, WORK};
pub use logs::LogDelta;
pub use message::Message;
pub use refusal::{Awaited, Refusal, Rejection, RejectionKind};
pub use session::{Expect, Session, Setup, Timing};
