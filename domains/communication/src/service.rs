//! What the other domains of this member ask.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use gtvp_ipc::bulk;
use gtvp_ipc::communication::{AnswerAsk, AskMember, Join, JoinStep, OwnEndpointReply, Propose, Request};
use gtvp_ipc::{Answer, Caller, Service, Session};
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_protocol::csp::node::Proposal;
use gtvp_protocol::vouch::MAX_EVIDENCE;

use crate::admit::DECISION;
use crate::asks::NoEvidence;
use crate::join::join;
use crate::runtime::{Runtime, TOLD};
use crate::union::is_member;

/// How long somebody who watches may have gone before it is noticed.
const LOOK: Duration = Duration::from_secs(5);

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
        fds: Vec<OwnedFd>,
        session: &mut Session,
    ) -> Result<Answer, Fault> {
        match request {
            Request::Channels(_) => Ok(Answer::of(&self.runtime.channels())),
            Request::OwnEndpoint(_) => {
                self.runtime.wait_listens();
                let endpoint = self.runtime.own_endpoint()?;
                Ok(Answer::of(&OwnEndpointReply { endpoint }))
            }
            Request::Propose(p) => propose(&self.runtime, p).map(|()| Answer::nothing()),
            Request::Join(j) => self.join(&j, session),
            Request::AskMember(a) => self.ask_member(&a),
            Request::WatchAsks(_) => {
                self.runtime.asks.watch(LOOK, |ask| match ask {
                    Some(ask) => session.progress(&ask).is_ok(),
                    None => !session.cancelled(),
                });
                Ok(Answer::nothing())
            }
            Request::SpreadStatus(s) => {
                crate::gossip::spread(&self.runtime, s.entry);
                Ok(Answer::nothing())
            }
            Request::AnswerAsk(a) => self.answer_ask(&a, fds).map(|()| Answer::nothing()),
        }
    }
}

impl Communication {
    fn ask_member(&self, what: &AskMember) -> Result<Answer, Fault> {
        let runtime = &self.runtime;
        if runtime.engine().channel(what.member).is_none() {
            return Err(Fault::new(FaultKind::Unavailable, "that member cannot be reached at the moment"));
        }
        let send = |frame| runtime.switch.send(what.member, frame);
        let evidence = runtime.asks.ask(what.member, what.name.as_ref(), &what.nonce, send)?;
        let fd = bulk::give(&evidence).map_err(|e| Fault::internal("no memory for a descriptor", &e))?;
        Ok(Answer::nothing().with_fds(vec![fd]))
    }

    fn answer_ask(&self, what: &AnswerAsk, fds: Vec<OwnedFd>) -> Result<(), Fault> {
        let evidence = match (&what.refused, fds.into_iter().next()) {
            (Some(why), _) => Err(why.clone()),
            (None, None) => Err("there is no evidence".to_owned()),
            (None, Some(fd)) => bulk::take(fd, MAX_EVIDENCE)
                .map_err(|_| "the evidence is longer than is sent to other members".to_owned()),
        };
        let no = |why| if what.busy { NoEvidence::Busy(why) } else { NoEvidence::Refused(why) };
        let outcome = evidence.as_ref().map(Vec::as_slice).map_err(|why| no(why.as_str()));
        if let Some((to, frames)) = self.runtime.asks.answer(what.ask, outcome) {
            frames.into_iter().for_each(|frame| self.runtime.switch.send(to, frame));
        }
        Ok(())
    }

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
    // `security` has written the entry, and may not have told of its union yet.
    if runtime.newest.wait(|u| is_member(u).then_some(()), TOLD).is_none() {
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
