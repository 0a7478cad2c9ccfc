//! What the other domains of this member ask.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use gtvp_ipc::communication::{Join, JoinStep, OwnEndpointReply, Propose, Request};
use gtvp_ipc::{Answer, Caller, Service, Session};
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_protocol::csp::node::Proposal;

use crate::admit::DECISION;
use crate::join::join;
use crate::runtime::Runtime;

/// See the module.
pub struct Communication {
    /// What answers.
    pub runtime: Arc<Runtime>,
}

impl Service for Communication {
    type Request = Request;

    fn handle(
        &self,
        _caller: &Caller,
        request: Request,
        _fds: Vec<OwnedFd>,
        session: &mut Session,
    ) -> Result<Answer, Fault> {
        match request {
            Request::Channels(_) => Ok(Answer::of(&self.runtime.channels())),
            Request::OwnEndpoint(_) => {
                let endpoint = self.runtime.own_endpoint()?;
                Ok(Answer::of(&OwnEndpointReply { endpoint }))
            }
            Request::Propose(p) => propose(&self.runtime, p).map(|()| Answer::nothing()),
            Request::Join(j) => self.join(&j, session),
        }
    }
}

impl Communication {
    fn join(&self, what: &Join, session: &mut Session) -> Result<Answer, Fault> {
        let joined = join(&self.runtime, what, &mut |step| match step {
            Some(step) => session.progress(&JoinStep { step: step.to_owned() }).is_ok(),
            None => !session.cancelled(),
        })?;
        Ok(Answer::of(&joined))
    }
}

/// Has the voters put an entry into the record.
///
/// # Errors
/// `Conflict`: another entry has its number. `Denied`: the voters refuse it. `Unavailable`: not known.
pub fn propose(runtime: &Runtime, what: Propose) -> Result<(), Fault> {
    if runtime.newest.own().is_none() {
        return Err(Fault::new(FaultKind::WrongState, "this server is in no union"));
    }
    match runtime.node.propose(what.entry, DECISION) {
        Proposal::Taken => Ok(()),
        Proposal::Overtaken => {
            Err(Fault::new(FaultKind::Conflict, "another entry was first").hint("have it written anew"))
        }
        Proposal::Refused(why) => {
            Err(Fault::new(FaultKind::Denied, "the voters refuse the entry").because(why))
        }
        Proposal::Unknown(why) => {
            Err(Fault::new(FaultKind::Unavailable, "no majority of the voters has answered")
                .because(why)
                .hint("it may still be taken: look at gtvp member history before it is tried again"))
        }
    }
}
