//! One connection's engine, whichever of HSP's three it is at the time.

use gtvp_ipc::security::OwnUnion;
use gtvp_protocol::hsp::join::{Joiner, Verifier};
use gtvp_protocol::hsp::{Command, Context, Event, Millis, Refusal, Session};

use crate::clock;

/// See the module.
#[derive(Debug)]
pub enum Machine {
    /// Between members.
    Session(Session),
    /// This server wants in.
    Joiner(Joiner),
    /// Somebody wants in.
    Verifier(Verifier),
}

impl Machine {
    /// What is to be done about an event. A session and a verifier rest on `union`.
    pub fn on(self, event: Event, union: Option<&OwnUnion>) -> (Self, Vec<Command>) {
        let now = clock::now();
        let ctx = union.map(|u| Context { now, wall: clock::wall(), view: &u.state.view });
        match (self, ctx) {
            (Self::Joiner(j), _) => {
                let step = j.on(event, now);
                (Self::Joiner(step.next), step.commands)
            }
            (Self::Session(s), Some(ctx)) => {
                let step = s.on(event, &ctx);
                (Self::Session(step.next), step.commands)
            }
            (Self::Verifier(v), Some(ctx)) => {
                let step = v.on(event, &ctx);
                let next = match step.next {
                    Verifier::Member(session) => Self::Session(session),
                    other => Self::Verifier(other),
                };
                (next, step.commands)
            }
            // Nobody begins one of these outside of a union.
            (Self::Session(_) | Self::Verifier(_), None) => {
                let refusal = Refusal::WeAreOut;
                (Self::Session(Session::Closed(refusal.clone())), vec![Command::Close(refusal)])
            }
        }
    }

    /// A join that is over becomes an ordinary session.
    pub fn settled(self) -> Self {
        match self {
            Self::Joiner(Joiner::Member(session, _)) => Self::Session(session),
            other => other,
        }
    }

    /// When a tick is needed at the latest.
    pub fn deadline(&self) -> Option<Millis> {
        match self {
            Self::Session(s) => s.deadline(),
            Self::Joiner(j) => j.deadline(),
            Self::Verifier(v) => v.deadline(),
        }
    }

    /// The state, in a few words.
    pub fn state(&self) -> &'static str {
        match self {
            Self::Session(s) => s.state(),
            Self::Joiner(j) => j.state(),
            Self::Verifier(v) => v.state(),
        }
    }

    /// A join that nobody can undo alone any more: the union may have this server.
    pub fn may_be_member(&self) -> bool {
        matches!(self, Self::Joiner(Joiner::AwaitingJoined(..) | Joiner::Confirming(..) | Joiner::Member(..)))
    }
}
