//! From a socket to the thread that drives its engine: whoever comes, and whom we dial.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gtvp_ipc::security::{Asking, OwnUnion};
use gtvp_model::digest::Digest;
use gtvp_model::fault::Fault;
use gtvp_model::token::Endpoint;
use gtvp_model::union::{MemberId, SpkiDigest};
use gtvp_protocol::frame::Frame;
use gtvp_protocol::hsp::join::{Verifier, VerifierSetup};
use gtvp_protocol::hsp::message::LIMITS;
use gtvp_protocol::hsp::{Context, Expect, Refusal, Role, Session, Setup, Step};
use rustls::AlertDescription;

use crate::clock;
use crate::drive::Drive;
use crate::ends::{Begin, End};
use crate::engine::LinkId;
use crate::link::{Heard, Link};
use crate::machine::Machine;
use crate::runtime::Runtime;
use crate::standing;
use crate::switch::{Inbox, Note};

/// Stack of a link's thread: the handshake's post-quantum part needs the most of it.
pub const STACK: usize = 512 * 1024;
/// How long one address may take to answer.
const CONNECT: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried.
const ADDRESSES: usize = 4;
/// How long a stranger may think before its first message.
const FIRST: Duration = Duration::from_secs(10);
/// HSP's first messages: of a session, and of a join.
const HELLO: u8 = 1;
const JOIN_HELLO: u8 = 16;

/// Nobody's id: of whom nothing is known, everything is asked.
pub fn stranger() -> MemberId {
    [0; 32].into()
}

fn broken(e: &io::Error) -> End {
    End::Broken(e.to_string())
}

fn failed(fault: &Fault) -> End {
    End::Broken(fault.to_string())
}

/// Why there is no TLS with somebody whom we dialled. By TLS's alert "internal error" they serve nobody by now: too many are there, of all or of
/// this address, or their TPM does not sign.
pub fn not_begun(e: &io::Error) -> End {
    let tls = e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::AlertReceived(AlertDescription::InternalError)) => {
            let reason = "it takes no more connections now, of all or of this server's address: try again in some seconds".into();
            End::Refused(Refusal::PeerRefused { code: Refusal::Busy.code(), reason })
        }
        _ => broken(e),
    }
}

/// Connects.
///
/// # Errors
/// The last address's.
pub fn connect(endpoint: &Endpoint) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{endpoint} has no address"));
    for address in (endpoint.host(), endpoint.port()).to_socket_addrs()?.take(ADDRESSES) {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(socket) => return Ok(socket),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// Dials a member, on a thread of its own.
pub fn dial(runtime: &Arc<Runtime>, link: LinkId, whom: MemberId, at: Endpoint) {
    let dials = runtime.clone();
    let begun = std::thread::Builder::new().name("link".into()).stack_size(STACK).spawn(move || {
        let end = dialled(&dials, link, whom, &at).unwrap_or_else(|end| end);
        dials.over(link, Some(whom), &end);
    });
    if let Err(e) = begun {
        runtime.over(link, Some(whom), &broken(&e));
    }
}

/// Serves whoever came, on a thread of its own.
pub fn accepted(runtime: &Arc<Runtime>, link: LinkId, socket: TcpStream, from: SocketAddr) {
    let serves = runtime.clone();
    let begun = std::thread::Builder::new().name("link".into()).stack_size(STACK).spawn(move || {
        let mut whom = None;
        let end = called(&serves, link, socket, from, &mut whom).unwrap_or_else(|end| end);
        serves.over(link, whom, &end);
    });
    if let Err(e) = begun {
        runtime.over(link, None, &broken(&e));
    }
}

fn own(runtime: &Runtime) -> Result<Arc<OwnUnion>, End> {
    runtime.newest.own().ok_or(End::Own("this server is in no union"))
}

/// What a link's thread begins with, beside its engine.
pub fn begin(
    runtime: &Runtime,
    id: LinkId,
    link: Link,
    remote: SocketAddr,
    role: Role,
    machine: Machine,
) -> Begin {
    let inbox = Arc::new(Inbox::new(link.waker()));
    runtime.switch.add(id, inbox.clone());
    // Before it was there it was not told of changes.
    inbox.put(Note::View);
    let (commands, dialled, union, reports) = (Vec::new(), None, None, None);
    Begin { id, link, remote, role, machine, commands, dialled, union, reports, inbox }
}

fn session(
    runtime: &Runtime,
    union: &OwnUnion,
    role: Role,
    facts: &crate::tls::Facts,
    peer: Option<MemberId>,
) -> Result<Step<Session>, End> {
    let Asking { nonce, ask } =
        runtime.security.ask_of(peer.unwrap_or_else(stranger)).map_err(|f| failed(&f))?;
    let setup = Setup {
        role,
        first: role == Role::Initiator,
        own: union.own.clone(),
        admitted: true,
        exporter: facts.exporter,
        peer_spki: SpkiDigest::new(Digest::of(&facts.peer)),
        ask,
        expect: match (role, peer) {
            (Role::Initiator, Some(peer)) => Expect::Dialled(peer),
            _ => Expect::Member,
        },
        timing: runtime.period().timing(),
    };
    let ctx = Context { now: clock::now(), wall: clock::wall(), view: &union.state.view };
    Ok(Session::start(setup, nonce, &ctx))
}

fn dialled(runtime: &Arc<Runtime>, id: LinkId, whom: MemberId, at: &Endpoint) -> Result<End, End> {
    let union = own(runtime)?;
    let tls = runtime.ends(&union).map_err(|f| failed(&f))?.calling();
    let tls = tls.map_err(|e| End::Broken(e.to_string()))?;
    let begun = Instant::now();
    let socket = connect(at).map_err(|e| End::Broken(format!("{at} does not answer: {e}")))?;
    let remote = socket.peer_addr().map_err(|e| broken(&e))?;
    let (link, facts) = Link::begin(socket, begun, tls, LIMITS).map_err(|e| not_begun(&e))?;
    let key = SpkiDigest::new(Digest::of(&facts.peer));
    let is_member = union.state.view.members.get(&whom).is_some_and(|m| m.identity.spki() == key);
    let step = session(runtime, &union, Role::Initiator, &facts, Some(whom))?;
    let begin = Begin {
        commands: step.commands,
        dialled: Some(at.clone()),
        union: Some(union),
        ..begin(runtime, id, link, remote, Role::Initiator, Machine::Session(step.next))
    };
    Ok(standing::of_member(Drive::new(runtime.clone(), begin).run(None), is_member))
}

fn called(
    runtime: &Arc<Runtime>,
    id: LinkId,
    socket: TcpStream,
    from: SocketAddr,
    whom: &mut Option<MemberId>,
) -> Result<End, End> {
    let begun = Instant::now();
    let union = own(runtime)?;
    let tls = runtime.ends(&union).map_err(|f| failed(&f))?.called();
    let tls = tls.map_err(|e| End::Broken(e.to_string()))?;
    let (mut link, facts) = Link::begin(socket, begun, tls, LIMITS).map_err(|e| broken(&e))?;
    let key = SpkiDigest::new(Digest::of(&facts.peer));
    let member = union.state.view.members.values().find(|m| m.identity.spki() == key);
    if let Some(member) = member {
        *whom = Some(member.id());
        if !runtime.engine().shows(id, member.id()) {
            return Err(End::Own("this member has too many connections that are no channels"));
        }
    }
    let first = match link.next(Some(Instant::now() + FIRST), true) {
        Ok(Heard::Frame(frame)) => frame,
        Ok(Heard::Ended) => return Err(End::Broken("the connection ended before the first message".into())),
        Ok(_) => return Err(End::Own("the first message did not come in time")),
        Err(e) => return Err(broken(&e)),
    };
    // What was true before the handshake may have changed meanwhile.
    let union = own(runtime)?;
    let machine = match engine(runtime, id, &union, &facts, *whom, &first) {
        Ok(machine) => machine,
        Err(end) => {
            if let End::Refused(refusal) = &end
                && let Some(told) = refusal.told()
            {
                link.send(&told.frame()).map_err(|e| broken(&e))?;
                link.end();
            }
            return Err(end);
        }
    };
    let begin = Begin { union: Some(union), ..begin(runtime, id, link, from, Role::Responder, machine) };
    Ok(Drive::new(runtime.clone(), begin).run(Some(first)))
}

/// The engine that a stranger's first message asks for.
fn engine(
    runtime: &Runtime,
    id: LinkId,
    union: &OwnUnion,
    facts: &crate::tls::Facts,
    member: Option<MemberId>,
    first: &Frame,
) -> Result<Machine, End> {
    match first.kind {
        HELLO => session(runtime, union, Role::Responder, facts, member).map(|s| Machine::Session(s.next)),
        JOIN_HELLO => {
            if !runtime.engine().joins(id, clock::now()) {
                return Err(End::Refused(Refusal::Busy));
            }
            let asked = runtime.security.ask_of(stranger()).map_err(|f| failed(&f))?;
            let setup = VerifierSetup {
                own: union.own.clone(),
                exporter: facts.exporter,
                peer_spki: SpkiDigest::new(Digest::of(&facts.peer)),
                ask: asked.ask,
                timing: runtime.period().timing(),
                nonce: clock::random().map_err(|e| broken(&e))?,
                session_nonce: asked.nonce,
            };
            Verifier::start(setup, clock::now()).map(Machine::Verifier).map_err(End::Refused)
        }
        _ => Err(End::Own("the first message begins neither a session nor a join")),
    }
}
