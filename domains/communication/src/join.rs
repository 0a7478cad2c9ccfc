//! Joining a union by a token: this server dials the member that the token names. What goes wrong is told with what to try.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use gtvp_ipc::communication::{Join, JoinedReply};
use gtvp_ipc::security::OwnKeysReply;
use gtvp_model::digest::Digest;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::token::JoinToken;
use gtvp_model::union::SpkiDigest;
use gtvp_protocol::hsp::join::{JoinSetup, Joiner};
use gtvp_protocol::hsp::message::LIMITS;
use gtvp_protocol::hsp::{Refusal, Role};

use crate::connect::{STACK, begin, connect, not_begun, stranger};
use crate::drive::Drive;
use crate::ends::{Begin, End, Report};
use crate::engine::LinkId;
use crate::link::Link;
use crate::machine::Machine;
use crate::runtime::Runtime;
use crate::switch::Note;
use crate::{clock, identity};

/// How often it is looked whether whoever asked is still there.
const LOOK: Duration = Duration::from_millis(250);
/// How long a member may have others to admit first, and how long it is left alone meanwhile.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(500);

/// Joins. `step` is told how far it is, and says whether whoever asked is still there.
///
/// # Errors
/// What the other side refuses, or what failed here. This server is what it was before, unless the union has it by then: then the
/// next try is told so.
pub fn join(
    runtime: &Arc<Runtime>,
    what: &Join,
    step: &mut dyn FnMut(Option<&str>) -> bool,
) -> Result<JoinedReply, Fault> {
    let token: JoinToken = what.token.parse()?;
    if let Some(union) = runtime.newest.own() {
        let same = union.state.view.union == token.union;
        let which = if same { "the token's" } else { "another" };
        return Err(Fault::new(FaultKind::WrongState, "this server is a member already")
            .because(format!("of {which} union"))
            .hint("gtvp union show; to join another one, leave this one first: gtvp member leave"));
    }
    if runtime.joining.swap(true, Ordering::SeqCst) {
        return Err(Fault::new(FaultKind::WrongState, "a join is under way already"));
    }
    let until = Instant::now() + PATIENCE;
    let outcome = loop {
        match attempt(runtime, what, token.clone(), until, step) {
            Ok(Some(joined)) => break Ok(joined),
            Ok(None) => {}
            Err(fault) => break Err(fault),
        }
        if !step(Some("waiting, as that member serves others just now")) {
            break Err(Fault::new(FaultKind::Cancelled, "the join was ended"));
        }
        std::thread::sleep(PAUSE);
    };
    runtime.joining.store(false, Ordering::SeqCst);
    outcome
}

/// One try. None: the member is busy, and it is not `until` yet.
fn attempt(
    runtime: &Arc<Runtime>,
    what: &Join,
    token: JoinToken,
    until: Instant,
    step: &mut dyn FnMut(Option<&str>) -> bool,
) -> Result<Option<JoinedReply>, Fault> {
    let keys = runtime.security.own_keys()?;
    let id = runtime.engine().dials(None);
    let (reports, heard) = channel();
    let (dials, hardware, endpoint) = (runtime.clone(), what.hardware.clone(), token.endpoint.clone());
    step(Some(&format!("reaching {endpoint}")));
    let begun = std::thread::Builder::new().name("link".into()).stack_size(STACK).spawn(move || {
        let end = dial(&dials, id, token, keys, hardware, &reports).unwrap_or_else(|end| end);
        dials.over(id, None, &end);
        // Whoever waits for it may have gone.
        let _ = reports.send(Report::Ended(end));
    });
    if let Err(e) = begun {
        let end = End::Broken(e.to_string());
        runtime.over(id, None, &end);
        return Err(Fault::internal("a thread cannot be started", &e));
    }
    let mut last = "";
    loop {
        match heard.recv_timeout(LOOK) {
            Ok(Report::Step(now)) if now == last || now == "closed" => {}
            Ok(Report::Step(now)) => {
                last = now;
                step(Some(now));
            }
            Ok(Report::Member(union)) => return Ok(Some(JoinedReply { union })),
            Ok(Report::Ended(End::Refused(Refusal::PeerRefused { code, .. })))
                if code == Refusal::Busy.code() && Instant::now() < until =>
            {
                return Ok(None);
            }
            Ok(Report::Ended(end)) => return Err(fault(&end, last, &endpoint.to_string())),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Fault::new(FaultKind::Internal, "the join ended without a word"));
            }
            Err(RecvTimeoutError::Timeout) => {
                if !step(None) {
                    runtime.switch.note(id, Note::Cancel);
                }
            }
        }
    }
}

fn dial(
    runtime: &Arc<Runtime>,
    id: LinkId,
    token: JoinToken,
    keys: OwnKeysReply,
    hardware: gtvp_model::union::Hardware,
    reports: &Sender<Report>,
) -> Result<End, End> {
    let failed = |why: String| End::Broken(why);
    let security = &runtime.security;
    let ends = identity::ends(security).map_err(|f| failed(f.to_string()))?;
    let tls = ends.calling().map_err(|e| failed(e.to_string()))?;
    let at = token.endpoint.clone();
    let begun = Instant::now();
    let socket = connect(&at).map_err(|e| failed(format!("{at} does not answer: {e}")))?;
    let remote = socket.peer_addr().map_err(|e| failed(e.to_string()))?;
    let (link, facts) = Link::begin(socket, begun, tls, LIMITS).map_err(|e| not_begun(&e))?;
    let asked = security.ask_of(stranger()).map_err(|f| failed(f.to_string()))?;
    let setup = JoinSetup {
        token,
        name: runtime.config.name.clone(),
        hardware,
        keys: keys.keys,
        identity: keys.identity,
        exporter: facts.exporter,
        peer_spki: SpkiDigest::new(Digest::of(&facts.peer)),
        ask: asked.ask,
        timing: runtime.period().timing(),
        nonce: clock::random().map_err(|e| failed(e.to_string()))?,
        session_nonce: asked.nonce,
    };
    let step = Joiner::start(setup, clock::now()).map_err(End::Refused)?;
    let begin = Begin {
        commands: step.commands,
        dialled: Some(at),
        reports: Some(reports.clone()),
        ..begin(runtime, id, link, remote, Role::Initiator, Machine::Joiner(step.next))
    };
    Ok(Drive::new(runtime.clone(), begin).run(None))
}

/// What to try, by the code of the refusal. The other side's words are in its causes.
fn hint(code: u16) -> Option<&'static str> {
    let named = |name: &str| Refusal::name_of(code) == Some(name);
    Some(match () {
        () if named("TokenUnknown") => {
            "is the token of this union, and was it not ended? make a new one there: gtvp token create"
        }
        () if named("TokenExpired") => {
            "make a new one there: gtvp token create; if it is not that old, look at both servers' clocks"
        }
        () if named("TokenSpent") => {
            "a token is good for one server: make a new one there: gtvp token create"
        }
        () if named("TokenForOtherTpm") => {
            "the token names another TPM: make one for this server's (gtvp member show has its ek)"
        }
        () if named("ClassNotAdmitted") => {
            "what a union takes is said once, when it begins: use a hardware TPM, or a union that takes this kind"
        }
        () if named("NameTaken") => "say another name in member.toml",
        () if named("AlreadyMember") => {
            "it is still listed there, by these keys or others of its TPM: there, gtvp member evict NAME; then join again"
        }
        () if named("KeysRejected") => {
            "the endorsement key's certificate does not lead to a known vendor, or a key is not what it must be"
        }
        () if named("EvidenceRejected") => {
            "if what is named is as it should be: on a member, gtvp reference accept NAME, with this server's name"
        }
        () if named("NotAppraised") => {
            "the member that was asked could not look at the evidence: try again in a moment"
        }
        () if named("RecordBehind") => "the member that was asked is behind: try again in a moment",
        () if named("NotCommitted") => "a majority of the voters must be reachable: try again in a moment",
        () if named("Busy") => "try again in some minutes, or with a token of another member",
        () if named("Silent") => "try again in a moment",
        () if named("OtherUnion") || named("VerifierProofWrong") => {
            "whoever answers there is no member of the token's union: is its endpoint right?"
        }
        _ => return None,
    })
}

/// A join that ended, for people.
fn fault(end: &End, state: &str, endpoint: &str) -> Fault {
    match end {
        End::Refused(Refusal::PeerRefused { code, reason }) => {
            let fault =
                Fault::new(FaultKind::Denied, format!("the member at {endpoint} refuses this server"));
            let fault = fault.because(reason.clone());
            match hint(*code) {
                Some(try_this) => fault.hint(try_this),
                None => fault,
            }
        }
        End::Refused(refusal @ (Refusal::Lost | Refusal::Silent { .. })) => {
            let fault = Fault::new(FaultKind::Unavailable, "the join was cut off");
            fault.because(format!("{refusal}, while {state}")).hint("try again in a moment")
        }
        End::Refused(refusal) => {
            let fault = Fault::new(FaultKind::Denied, format!("this server does not join by {endpoint}"));
            let fault = fault.because(refusal.to_string());
            match refusal {
                Refusal::EvidenceRejected { .. } => fault.hint(
                    "the member that was asked is not as reference values say: use a token of another one",
                ),
                other => match hint(other.code()) {
                    Some(try_this) => fault.hint(try_this),
                    None => fault,
                },
            }
        }
        End::Own(why) => Fault::new(FaultKind::Cancelled, "the join was ended").because(*why),
        End::Broken(why) => {
            Fault::new(FaultKind::Unavailable, format!("the member at {endpoint} cannot be joined by now"))
                .because(why.clone())
                .hint("is it running, is it reachable from here, and is the token's endpoint right?")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hint_is_of_a_refusal_that_there_is() {
        let hinted = Refusal::TABLE.iter().filter(|(_, code)| hint(*code).is_some()).count();
        let source = include_str!("join.rs");
        let named = source.split("fn hint").nth(1).and_then(|s| s.split("\n}").next()).unwrap();
        assert_eq!(hinted, named.matches("named(\"").count());
    }
}
