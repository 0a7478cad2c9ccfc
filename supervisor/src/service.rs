//! gtvpd's interface, answered: turns calls into questions to its loop and waits for the answers.

use std::os::fd::OwnedFd;

use gtvp_ipc::supervisor::{KernelLogs, Measurement, ProcessEvent, Request, StatusReply};
use gtvp_ipc::{Answer, Caller, Service, Session};
use gtvp_model::fault::{Fault, FaultKind};

use crate::boxes;
use crate::host;
use crate::kernel_logs;
use crate::mail::{Post, mailbox};
use crate::member::Member;
use crate::supervise::Ask;

/// Answers the domains.
pub struct Supervision {
    /// The loop.
    pub asker: Post<Ask>,
    /// The member.
    pub member: Member,
    /// How its cgroups are, for the host checks.
    pub cgroups: Option<&'static str>,
}

impl Supervision {
    fn ask<T>(&self, question: impl FnOnce(Post<T>) -> Ask, session: &Session) -> Result<T, Fault> {
        let (post, mailbox) = mailbox().map_err(|e| Fault::internal("gtvpd is out of descriptors", &e))?;
        if !self.asker.send(question(post)) {
            return Err(ending());
        }
        mailbox.next_or_hangup(session.stream()).ok_or_else(ending)
    }
}

fn ending() -> Fault {
    Fault::new(FaultKind::Unavailable, "gtvpd is ending, or the caller is")
}

impl Service for Supervision {
    type Request = Request;

    fn handle(
        &self,
        caller: &Caller,
        request: Request,
        fds: Vec<OwnedFd>,
        session: &mut Session,
    ) -> Result<Answer, Fault> {
        let owner = caller.name.clone();
        match request {
            Request::Spawn(spawn) => {
                let stream = session.stream().try_clone().ok();
                let request = boxes::Request { owner, spawn, fds, stream };
                // Whether or not the caller is still there: the loop carries it out, and its answer says what came of it.
                let (post, mailbox) =
                    mailbox().map_err(|e| Fault::internal("gtvpd is out of descriptors", &e))?;
                if !self.asker.send(Ask::Spawn { request: Box::new(request), reply: post }) {
                    return Err(ending());
                }
                mailbox.next().ok_or_else(ending)?.map(|spawned| Answer::of(&spawned))
            }
            Request::Wait(wait) => self
                .ask(|reply| Ask::Wait { owner, process: wait.process, reply }, session)?
                .map(|ended| Answer::of(&ended)),
            Request::Kill(kill) => self
                .ask(|reply| Ask::Kill { owner, template: kill.template, slot: kill.slot, reply }, session)?
                .map(|_| Answer::nothing()),
            Request::Watch(_) => {
                let (post, mailbox) = mailbox::<ProcessEvent>()
                    .map_err(|e| Fault::internal("gtvpd is out of descriptors", &e))?;
                self.asker.send(Ask::Watch { owner, watcher: post });
                while let Some(event) = mailbox.next_or_hangup(session.stream()) {
                    if session.progress(&event).is_err() {
                        break;
                    }
                }
                Err(ending())
            }
            Request::Measurements(_) => {
                let (post, mailbox) = mailbox::<Measurement>()
                    .map_err(|e| Fault::internal("gtvpd is out of descriptors", &e))?;
                self.asker.send(Ask::Measurements { watcher: post });
                while let Some(measurement) = mailbox.next_or_hangup(session.stream()) {
                    if session.progress(&measurement).is_err() {
                        break;
                    }
                }
                Err(ending())
            }
            Request::OpenKernelLogs(_) => {
                let (logs, fds) = kernel_logs::open(kernel_logs::FOLDER.as_ref())
                    .map_err(|e| Fault::internal("the kernel's logs cannot be opened", &e))?;
                Ok(Answer::of(&KernelLogs { logs }).with_fds(fds))
            }
            Request::SetPublished(set) => self
                .ask(|reply| Ask::SetPublished { slot: set.slot, ports: set.ports, reply }, session)?
                .map(|()| Answer::nothing()),
            Request::Status(_) => {
                let domains = self.ask(|reply| Ask::Status { reply }, session)?;
                let (memory_bytes, memory_available_bytes) = host::memory();
                Ok(Answer::of(&StatusReply {
                    domains,
                    host: host::checks(&self.member.config, self.cgroups),
                    addresses: host::addresses(&self.member),
                    nameservers: host::nameservers(),
                    cpus: host::cpus(),
                    memory_bytes,
                    memory_available_bytes,
                    load: host::load(),
                }))
            }
        }
    }
}
