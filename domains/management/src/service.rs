//! Answers people's requests, which the gateway relays. Who asks is the kernel's word about the person's own connection.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use gtvp_ipc::management::{Request, SetBox, SetReply};
use gtvp_ipc::security::Wish;
use gtvp_ipc::{Answer, Caller, Service, Session, communication, components, drivers, security};
use gtvp_model::boxview::BoxState;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::Slot;
use gtvp_model::member::HostCheck;
use gtvp_model::operation::OperationState;
use gtvp_model::unionview::Change;
use gtvp_model::units::Bytes;

use crate::runtime::Runtime;
use crate::{engine, peers, person, union, views};

/// How long a follower sleeps before it looks whether its caller is still there.
const LOOK_AFTER: Duration = Duration::from_secs(5);

/// The interface of `management`.
pub struct Management {
    /// What it works on.
    pub runtime: Arc<Runtime>,
}

impl Service for Management {
    type Request = Request;

    fn handle(
        &self,
        _caller: &Caller,
        request: Request,
        fds: Vec<OwnedFd>,
        session: &mut Session,
    ) -> Result<Answer, Fault> {
        let operator = self.operator(fds)?;
        let runtime = &self.runtime;
        match request {
            Request::CreateBox(r) => runtime.create(r.spec, operator).map(|o| Answer::of(&o)),
            Request::StartBox(r) => runtime.start_existing(&r.name, operator).map(|o| Answer::of(&o)),
            Request::StopBox(r) => runtime.stop(&r.name, r.grace_ms).map(|o| Answer::of(&o)),
            Request::RemoveBox(r) => runtime.remove(&r.name, r.force).map(|o| Answer::of(&o)),
            Request::PauseBox(r) => {
                let slot = self.slot(&r.name, "be paused", &[BoxState::Running])?;
                peers::ask(&drivers::Pause { slot })?;
                runtime.observed(slot, &drivers::BoxHappening::Paused);
                self.view(&r.name)
            }
            Request::ResumeBox(r) => {
                let slot = self.slot(&r.name, "be resumed", &[BoxState::Paused])?;
                peers::ask(&drivers::Resume { slot })?;
                runtime.observed(slot, &drivers::BoxHappening::Running { ready: false });
                self.view(&r.name)
            }
            Request::SetBox(r) => self.set(&r),
            Request::ListBoxes(_) => {
                let engine = runtime.engine();
                let boxes = engine.boxes().filter(|r| !r.builder);
                Ok(Answer::of(&boxes.map(|r| views::summary(&runtime.config, r)).collect::<Vec<_>>()))
            }
            Request::ShowBox(r) => self.show(&r.name),
            Request::BoxLogs(r) => {
                let slot = runtime.engine().get(&r.name)?.slot;
                peers::ask_fds(&drivers::Logs { slot, source: r.source, follow: r.follow, tail: r.tail })
                    .map(|fds| Answer::nothing().with_fds(fds))
            }
            Request::ExecBox(r) => {
                let slot = self.slot(&r.name, "run a command", &[BoxState::Running])?;
                peers::ask_fds(&drivers::Exec { slot, program: r.program, terminal: r.terminal })
                    .map(|fds| Answer::nothing().with_fds(fds))
            }
            Request::SignalBox(r) => {
                let slot = self.slot(&r.name, "take a signal", &[BoxState::Running])?;
                peers::tell(&drivers::Signal { slot, signal: r.signal }).map(|n| Answer::of(&n))
            }
            Request::ListOperations(_) => Ok(Answer::of(&runtime.operations.list())),
            Request::ShowOperation(r) => Ok(Answer::of(&runtime.operations.get(&r.id)?.snapshot())),
            Request::WatchOperation(r) => self.watch_operation(&r.id, session),
            Request::CancelOperation(r) => {
                let operation = runtime.operations.get(&r.id)?;
                operation.cancel();
                Ok(Answer::of(&operation.snapshot()))
            }
            Request::Events(r) => self.events(r.after, r.tail, r.follow, session),
            Request::ListComponents(_) => peers::ask(&components::List {}).map(|l| Answer::of(&l)),
            Request::ShowComponent(r) => {
                peers::ask(&components::Show { reference: r.reference }).map(|c| Answer::of(&c))
            }
            Request::ImportComponent(r) => Ok(Answer::of(&runtime.import(r.need))),
            Request::ListTemplates(_) => peers::ask(&drivers::ListTemplates {}).map(|t| Answer::of(&t)),
            Request::BuildTemplate(r) => runtime.build_template(&r.wish).map(|o| Answer::of(&o)),
            Request::RemoveTemplate(r) => {
                peers::ask(&drivers::RemoveTemplate { digest: r.digest }).map(|t| Answer::of(&t))
            }
            Request::ShowMember(_) => {
                let (status, accelerator) = (runtime.status()?, self.accelerator());
                let verdict = peers::ask(&security::Verdict {})?;
                let tpm = peers::ask(&security::Tpm {})?;
                Ok(Answer::of(&views::member(
                    &runtime.config,
                    &runtime.engine(),
                    status,
                    verdict,
                    tpm,
                    accelerator,
                )))
            }
            Request::BeginUnion(r) => runtime.begin_union(r.union).map(|u| Answer::of(&u)),
            Request::ShowUnion(_) => peers::ask(&security::ShowUnion {}).map(|u| Answer::of(&u)),
            Request::ListMembers(_) => peers::ask(&security::ListMembers {}).map(|m| Answer::of(&m)),
            Request::AttestBox(r) => {
                self.slot(&r.name, "be attested", &[BoxState::Running, BoxState::Paused])?;
                runtime.attest_box(&r.name, r.nonce, false).map(|fds| Answer::nothing().with_fds(fds))
            }
            Request::CreateToken(r) => runtime.create_token(&r.wish, operator).map(|t| Answer::of(&t)),
            Request::EndToken(r) => change(&Wish::EndToken(r.id), operator),
            Request::JoinUnion(r) => runtime.join_union(r.join, operator).map(|o| Answer::of(&o)),
            Request::LeaveUnion(_) => union::leave(operator).map(|c| Answer::of(&c)),
            Request::LeaveByForce(r) => {
                runtime.leave_by_force(r.wish.confirmed, operator).map(|d| Answer::of(&d))
            }
            Request::EvictMember(r) => {
                change(&Wish::Evict { member: r.name, reason: r.eviction.reason }, operator)
            }
            Request::ShowPeer(r) => runtime.show_peer(r.name).map(|p| Answer::of(&p)),
            Request::ListTokens(_) => peers::ask(&security::ListTokens {}).map(|t| Answer::of(&t)),
            Request::History(r) => {
                peers::ask(&security::History { member: r.member }).map(|h| Answer::of(&h))
            }
            Request::RecoverUnion(r) => runtime.recover_union(r.wish, operator).map(|r| Answer::of(&r)),
            Request::FollowRecovery(r) => {
                runtime.follow_recovery(&r.follow, operator).map(|c| Answer::of(&c))
            }
            Request::ListReferences(_) => peers::ask(&security::ListReferences {}).map(|l| Answer::of(&l)),
            Request::ShowReference(r) => {
                peers::ask(&security::ShowReference { name: r.name }).map(|m| Answer::of(&m))
            }
            Request::AcceptReference(r) => runtime.accept_reference(r.wish, operator).map(|c| Answer::of(&c)),
            Request::RetireReference(r) => change(&Wish::RetireReference { name: r.name }, operator),
            Request::AttestMember(r) => {
                runtime.attest_member(r.name.as_ref(), r.nonce).map(|fds| Answer::nothing().with_fds(fds))
            }
            Request::Doctor(_) => self.doctor(),
            Request::Metrics(_) => {
                let status = runtime.status()?;
                // The rest is told although communication does not answer.
                let channels = peers::ask(&communication::Channels {}).unwrap_or_default();
                let (events, operations) = (runtime.events.last(), runtime.operations.list().len());
                Ok(Answer::of(&views::metrics(&runtime.engine(), &status, &channels, events, operations)))
            }
        }
    }
}

impl Management {
    /// Uid of the person.
    fn operator(&self, fds: Vec<OwnedFd>) -> Result<u32, Fault> {
        let connection = fds.into_iter().next();
        let connection =
            connection.ok_or_else(|| person::nobody("it came without the person's connection"))?;
        person::behind(&connection, &self.runtime.config)
    }

    fn slot(&self, name: &str, verb: &str, states: &[BoxState]) -> Result<Slot, Fault> {
        let mut engine = self.runtime.engine();
        let record = engine.begin(name, verb, states)?;
        engine.release(&record.spec.name);
        Ok(record.slot)
    }

    fn view(&self, name: &str) -> Result<Answer, Fault> {
        let engine = self.runtime.engine();
        Ok(Answer::of(&views::summary(&self.runtime.config, engine.get(name)?)))
    }

    fn show(&self, name: &str) -> Result<Answer, Fault> {
        let record = self.runtime.engine().get(name)?.clone();
        let linked = match engine::has_machine(record.state) {
            true => peers::ask(&components::Linked { slot: record.slot })
                .unwrap_or_else(|_| record.linked.clone()),
            false => record.linked.clone(),
        };
        Ok(Answer::of(&views::detail(&self.runtime.config, &record, linked)))
    }

    fn set(&self, request: &SetBox) -> Result<Answer, Fault> {
        if request.memory.is_none() && request.cpus.is_none() {
            return Err(Fault::new(FaultKind::Invalid, "nothing to change").hint("give --memory or --cpus"));
        }
        let status = self.runtime.status()?;
        let (memory, cpus) = (request.memory.unwrap_or(Bytes(0)), request.cpus.unwrap_or(0));
        engine::check_size(memory, cpus, Bytes(status.memory_bytes), status.cpus)?;
        let change = self.runtime.engine().set(&request.name, request.memory, request.cpus)?;
        let mut applied = Vec::new();
        if let Some(memory) = change.live_memory {
            peers::ask(&drivers::SetMemory { slot: change.slot, memory })?;
            self.runtime.memory_applied(&change.name, memory);
            applied.push(format!("memory is {memory} now"));
        }
        self.runtime.keep(&change.name);
        let pending = engine::pending(self.runtime.engine().get(&request.name)?);
        if !change.running {
            applied.push("the next start uses it".into());
        }
        Ok(Answer::of(&SetReply { applied, pending }))
    }

    fn watch_operation(&self, id: &str, session: &mut Session) -> Result<Answer, Fault> {
        let handle = self.runtime.operations.get(id)?;
        let mut version = 0;
        loop {
            let (newer, operation) = handle.wait_newer(version, LOOK_AFTER);
            if newer != version && session.progress(&operation).is_err() {
                return Ok(Answer::of(&operation));
            }
            version = newer;
            if operation.state != OperationState::Running || session.cancelled() {
                return Ok(Answer::of(&operation));
            }
        }
    }

    fn events(
        &self,
        after: u64,
        tail: Option<u64>,
        follow: bool,
        session: &mut Session,
    ) -> Result<Answer, Fault> {
        let events = &self.runtime.events;
        let (mut after, mut tail) = (after, tail);
        loop {
            for event in events.after(after, tail) {
                after = event.seq;
                if session.progress(&event).is_err() {
                    return Ok(Answer::nothing());
                }
            }
            if !follow || session.cancelled() {
                return Ok(Answer::nothing());
            }
            // What `tail` left out is not shown later.
            after = after.max(if tail.take().is_some() { events.last() } else { 0 });
            events.wait_after(after, LOOK_AFTER);
        }
    }

    fn accelerator(&self) -> String {
        peers::ask(&drivers::Accelerator {}).map_or_else(|f| format!("unknown ({f})"), |a| a.accelerator)
    }

    fn doctor(&self) -> Result<Answer, Fault> {
        let mut checks = self.runtime.status()?.host;
        checks.push(accelerator_check(self.accelerator()));
        if let Some(problem) = peers::ask(&security::Tpm {}).ok().and_then(|tpm| tpm.problem) {
            checks.push(HostCheck {
                name: "tpm_use".into(),
                status: "failed".into(),
                detail: problem,
                hint: Some("gtvp member show; the log of gtvpd".into()),
            });
        }
        let answers = [
            ("security", peers::ask(&security::Verdict {}).err()),
            ("components", peers::ask(&components::List {}).err()),
            ("drivers", peers::ask(&drivers::Accelerator {}).err()),
            ("communication", peers::ask(&gtvp_ipc::communication::Channels {}).err()),
        ];
        for (domain, fault) in answers {
            checks.push(HostCheck {
                name: format!("domain_{domain}"),
                status: if fault.is_none() { "ok" } else { "failed" }.into(),
                detail: fault.map_or("answers".into(), |f| f.to_string()),
                hint: None,
            });
        }
        Ok(Answer::of(&checks))
    }
}

fn change(wish: &Wish, operator: u32) -> Result<Answer, Fault> {
    union::put(wish, operator).map(|w| Answer::of(&Change { about: w.about }))
}

fn accelerator_check(found: String) -> HostCheck {
    let (status, hint) = if found.starts_with("tcg") {
        ("missing", Some("boxes run, but slowly: use a host whose /dev/kvm runs guests"))
    } else if found.starts_with("unknown") {
        ("unknown", Some("the first box that starts finds out whether a guest really runs on /dev/kvm"))
    } else {
        ("ok", None)
    };
    HostCheck { name: "accelerator".into(), status: status.into(), detail: found, hint: hint.map(Into::into) }
}
