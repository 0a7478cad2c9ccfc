//! The thread of one connection: what comes goes into the engine, what the engine wants done is done, in its order. It waits for
//! nobody but its peer: calls to `security` are made elsewhere, and their outcomes come as notes.
//!
//! While something is being written down, or the record is being read or checked, what stands behind it waits, and so do the peer's
//! frames.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use gtvp_ipc::security::{
    ActivateCredential, AppraiseCertification, AppraiseKeys, Certify, MakeCredential, OwnUnion,
};
use gtvp_model::token::Endpoint;
use gtvp_model::union::{MemberId, TpmClass};
use gtvp_protocol::frame::Frame;
use gtvp_protocol::hsp::message::{self, MAX_RECORD_PIECE, Message, Record};
use gtvp_protocol::hsp::{AttestedChannel, Command, Durable, Event, Grant, Millis, Refusal, Role};
use gtvp_protocol::{csp, gossip, neighbour, results, vouch};

use crate::calls::{Calls, learned};
use crate::ends::{Begin, End, Report};
use crate::engine::LinkId;
use crate::link::{Heard, Link};
use crate::machine::Machine;
use crate::period::Period;
use crate::results::{self as told, Budget};
use crate::runtime::Runtime;
use crate::switch::{Inbox, Note};
use crate::{admit, clock};

/// Bytes that may wait for a peer that reads slowly: the longest record and the longest logs, as a joiner gets them.
const MAX_WAITING: usize = 112 * 1024 * 1024;
/// After how long a channel on which only the record may be spoken of begins anew: by then its younger end has caught up.
const NARROW: u64 = 10_000;

/// Lists of endpoints that are looked at beside one a second.
const LISTS: u64 = 32;

/// The planes of a channel, each with its own kinds.
const PLANES: [fn(u8) -> Option<usize>; 6] =
    [message::limits, csp::node::limits, neighbour::limits, results::limits, gossip::limits, vouch::limits];

/// Frames of a channel.
fn limits(kind: u8) -> Option<usize> {
    PLANES.iter().find_map(|plane| plane(kind))
}

/// See the module.
pub struct Drive {
    runtime: Arc<Runtime>,
    id: LinkId,
    link: Link,
    remote: SocketAddr,
    role: Role,
    machine: Option<Machine>,
    dialled: Option<Endpoint>,
    union: Option<Arc<OwnUnion>>,
    reports: Option<Sender<Report>>,
    inbox: Arc<Inbox>,
    calls: Calls,
    queue: VecDeque<Command>,
    /// A command is being carried out elsewhere.
    stalled: bool,
    /// A record that comes, or is being checked.
    record: Vec<u8>,
    checking: bool,
    verifier: Option<MemberId>,
    channel: Option<AttestedChannel>,
    up: bool,
    period: Period,
    narrow: Option<Millis>,
    ending: Option<&'static str>,
    lists: u64,
    told: Budget,
    /// Fresh evidence is asked for; and it is to be asked for again after that, since the peer was suspected meanwhile.
    asking: (bool, bool),
    since: Millis,
}

impl Drive {
    /// With all that it begins with.
    pub fn new(runtime: Arc<Runtime>, begin: Begin) -> Self {
        let Begin { id, link, remote, role, machine, commands, dialled, union, reports, inbox } = begin;
        let calls = Calls {
            security: runtime.security.clone(),
            pool: runtime.pool.clone(),
            quoter: runtime.quoter.clone(),
            inbox: inbox.clone(),
        };
        Self {
            runtime,
            id,
            link,
            remote,
            role,
            machine: Some(machine),
            dialled,
            union,
            reports,
            inbox,
            calls,
            queue: commands.into(),
            stalled: false,
            record: Vec::new(),
            checking: false,
            verifier: None,
            channel: None,
            up: false,
            period: Period::default(),
            narrow: None,
            ending: None,
            lists: 0,
            told: Budget::default(),
            asking: (false, false),
            since: clock::now(),
        }
    }

    /// Goes on until it is over.
    pub fn run(mut self, first: Option<Frame>) -> End {
        let end = self.go(first);
        self.link.end();
        end
    }

    fn go(&mut self, first: Option<Frame>) -> End {
        if let Some(frame) = first {
            self.frame(frame);
        }
        loop {
            if let Some(end) = self.carry_out() {
                return end;
            }
            // A join's channel is not heard before everybody else knows of it.
            let hold = self.stalled || self.checking || (self.channel.is_some() && !self.up);
            let due = [self.machine.as_ref().and_then(Machine::deadline), self.period.due(), self.narrow];
            let due = due.into_iter().flatten().min();
            match self.link.next(due.map(clock::instant), !hold) {
                Ok(Heard::Frame(frame)) => self.frame(frame),
                Ok(Heard::Woken) => self.inbox.take().into_iter().for_each(|note| self.note(note)),
                Ok(Heard::Time) => self.time(),
                Ok(Heard::Ended) => self.event(Event::Lost),
                Err(e) => return End::Broken(e.to_string()),
            }
            if self.link.waiting() > MAX_WAITING {
                return End::Own("the peer reads too slowly");
            }
        }
    }

    fn event(&mut self, event: Event) {
        let Some(machine) = self.machine.take() else { return };
        let (next, commands) = machine.on(event, self.union.as_deref());
        if let (Some(reports), Machine::Joiner(_)) = (&self.reports, &next) {
            // Whoever waits for the join may have gone.
            let _ = reports.send(Report::Step(next.state()));
        }
        self.machine = Some(next);
        self.queue.extend(commands);
    }

    fn frame(&mut self, frame: Frame) {
        let peer = self.channel.as_ref().map(AttestedChannel::peer);
        match peer.filter(|_| self.up) {
            Some(peer) if csp::node::KINDS.contains(&frame.kind) => self.runtime.node.frame(peer, frame),
            Some(peer) if frame.kind == neighbour::KIND => match neighbour::Endpoints::decode(&frame) {
                Ok(heard) => {
                    // What comes too often is not looked at.
                    self.lists = self.lists.saturating_add(1);
                    let since = clock::now().0.saturating_sub(self.since.0) / 1000;
                    if self.lists <= LISTS.saturating_add(since) {
                        self.runtime.heard(peer, self.remote.ip(), &heard);
                    }
                }
                Err(_) => self.end("the peer's list of endpoints is malformed"),
            },
            Some(peer) if results::limits(frame.kind).is_some() => {
                if self.channel.as_ref().map(AttestedChannel::grant) != Some(Grant::Full) {
                    return;
                }
                let (runtime, calls) = (&self.runtime, &self.calls);
                if let Err(why) = told::frame(runtime, calls, peer, &frame, &mut self.told, self.since) {
                    self.end(why);
                }
            }
            Some(peer) if gossip::limits(frame.kind).is_some() => {
                if self.channel.as_ref().map(AttestedChannel::grant) == Some(Grant::Full) {
                    crate::gossip::frame(&self.runtime, peer, frame);
                }
            }
            Some(peer) if vouch::limits(frame.kind).is_some() => self.about_box(peer, &frame),
            _ => {
                if let Some(Machine::Joiner(_)) = &self.machine
                    && let Ok(Message::JoinChallenge(m)) = Message::decode(&frame)
                {
                    self.verifier = Some(m.member);
                    self.runtime.is(self.id, m.member);
                }
                self.event(Event::Frame(frame));
            }
        }
    }

    /// A question about a box, or an answer. With a member that has not caught up only the record is spoken of.
    fn about_box(&mut self, peer: MemberId, frame: &Frame) {
        if self.channel.as_ref().map(AttestedChannel::grant) != Some(Grant::Full) {
            return;
        }
        let asks = &self.runtime.asks;
        let heard = match frame.kind {
            vouch::ASK | vouch::ASK_OWN => asks.asked(peer, frame),
            _ => asks.answered(peer, frame).map(|()| None),
        };
        match heard {
            Ok(Some(answer)) => self.note(Note::Send(answer)),
            Ok(None) => {}
            Err(_) => self.end("what the peer says about a box is malformed"),
        }
    }

    fn end(&mut self, why: &'static str) {
        self.ending.get_or_insert(why);
        self.event(Event::End);
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Outcome(event) => {
                self.asking.0 |= matches!(event, Event::Renew { .. });
                self.checking &= !matches!(event, Event::RecordLearned { .. });
                self.event(event);
            }
            Note::Persisted(Ok(())) => self.stalled = false,
            Note::Persisted(Err(why)) => {
                self.stalled = false;
                // What stood after it is not carried out.
                self.queue.clear();
                self.channel = None;
                self.event(Event::NotPersisted { why });
            }
            Note::Record(Ok(bytes)) => {
                self.stalled = false;
                self.send_record(&bytes);
            }
            Note::Record(Err(why)) => {
                eprintln!("gtvp-communication: the record cannot be sent to a joiner: {why}");
                (self.stalled, self.queue) = (false, VecDeque::new());
                self.end("the record cannot be read");
            }
            Note::NoAsk(_) => self.period.again(),
            Note::Rest(ms) => self.period.rests(ms, &self.runtime.period()),
            Note::Suspected => self.suspected(),
            Note::Send(frame) => {
                if self.link.send(&frame).is_err() {
                    self.end("a frame is too long");
                }
            }
            Note::View => {
                if let Some(union) = self.runtime.newest.told() {
                    self.union = Some(union);
                }
                self.event(Event::ViewChanged);
                let joins = matches!(self.machine, Some(Machine::Joiner(_)));
                if !joins && self.runtime.newest.own().is_none() {
                    self.end("this server is in no union");
                }
                self.settle();
            }
            Note::End(why) => self.end(why),
            Note::Cancel => {
                if !self.machine.as_ref().is_some_and(Machine::may_be_member) {
                    self.end("whoever asked for it has hung up");
                }
            }
        }
    }

    /// Somebody has not believed the peer.
    fn suspected(&mut self) {
        if self.told.suspected(clock::now()) {
            match self.asking.0 {
                // What comes of that may be from before.
                true => self.asking.1 = true,
                false => self.ask_now(),
            }
        }
    }

    fn ask_now(&self) {
        let channel = self.channel.as_ref().filter(|c| c.class() != TpmClass::None);
        if let Some(channel) = channel {
            self.calls.renew_now(channel.peer());
        }
    }

    fn time(&mut self) {
        let now = clock::now();
        if self.machine.as_ref().and_then(Machine::deadline).is_some_and(|at| at <= now) {
            self.event(Event::Tick);
        }
        if self.narrow.is_some_and(|at| at <= now) {
            self.narrow = None;
            self.end("its ends had not the same epoch: it begins anew");
        }
        match self.period.look(now) {
            Some(crate::period::Due::Renew) => {
                if let Some(channel) = &self.channel {
                    self.calls.renew(channel.peer());
                }
            }
            Some(crate::period::Due::Over) => self.end("this member could not appraise its evidence anew"),
            None => {}
        }
    }

    /// Carries out what waits, as far as it can be now.
    fn carry_out(&mut self) -> Option<End> {
        while !self.stalled {
            let command = self.queue.pop_front()?;
            match self.one(command) {
                Ok(()) => {}
                Err(end) => return Some(end),
            }
        }
        // Whoever refuses has nothing to wait for, and says why.
        if let Some(close) = self.queue.iter().position(|c| matches!(c, Command::Close(_))) {
            self.stalled = false;
            let word = matches!(self.queue.get(close.wrapping_sub(1)), Some(Command::Send(_)));
            self.queue.drain(..close - usize::from(word));
            return self.carry_out();
        }
        None
    }

    fn one(&mut self, command: Command) -> Result<(), End> {
        match command {
            Command::Send(message) => {
                if let Message::JoinChallenge(_) = message {
                    self.runtime.engine().proved_token(self.id);
                }
                self.link.send(&message.frame()).map_err(|e| End::Broken(e.to_string()))?;
            }
            Command::Quote { request, binding, ask } => {
                // In a handshake somebody waits.
                let waits = self.up.then(|| self.runtime.period());
                self.calls.quote(request, binding, ask, waits);
            }
            Command::Appraise { request, what } => self.calls.appraise(request, *what),
            Command::Established(channel) => {
                self.link.bound_by(limits);
                if let (Some(reports), Some(Machine::Joiner(_))) = (&self.reports, &self.machine) {
                    let _ = reports.send(Report::Member(channel.union()));
                }
                self.channel = Some(channel);
                self.settle();
            }
            Command::Renewed(_) => {
                self.period.renewed(&self.runtime.period());
                if std::mem::take(&mut self.asking).1 {
                    self.ask_now();
                }
            }
            Command::AppraiseKeys { request, keys, spki } => {
                let keys = keys.unchecked().clone();
                self.calls.appraise_keys(request, AppraiseKeys { keys, spki });
            }
            Command::MakeCredential { request, ek, ak } => {
                self.calls.make_credential(request, MakeCredential { ek, ak });
            }
            Command::ActivateCredential { request, credential } => {
                let credential = credential.unchecked().clone();
                self.calls.activate(request, ActivateCredential { credential });
            }
            Command::Certify { request, binding } => {
                self.calls.certify(request, Certify { binding: *binding })
            }
            Command::AppraiseCertification { request, proof, certification, binding, keys } => {
                let certification = certification.unchecked().clone();
                let what = AppraiseCertification { proof, certification, binding: *binding, keys: *keys };
                self.calls.appraise_certification(request, what);
            }
            Command::LearnRecord { request, union, from, to, piece, last } => {
                self.record.extend_from_slice(piece.unchecked());
                if let (true, Some(verifier)) = (last, self.verifier) {
                    self.checking = true;
                    let record = std::mem::take(&mut self.record);
                    self.calls.learn(request, learned(union, from, to, verifier), record);
                }
            }
            Command::SendRecord { to, .. } => {
                self.stalled = true;
                self.calls.read_record(to);
            }
            Command::Commit { request, admission } => {
                admit::start(self.runtime.clone(), self.inbox.clone(), request, *admission);
            }
            Command::Persist(what) => {
                self.stalled = true;
                if let (Durable::Membership { .. }, Some(reports)) = (&what, &self.reports) {
                    let _ = reports.send(Report::Step("writing it down"));
                }
                self.calls.persist(what);
            }
            Command::Close(refusal) => {
                return Err(match (self.ending, refusal) {
                    (Some(why), Refusal::Ended) => End::Own(why),
                    (_, refusal) => End::Refused(refusal),
                });
            }
        }
        Ok(())
    }

    fn send_record(&mut self, bytes: &[u8]) {
        let pieces = bytes.chunks(MAX_RECORD_PIECE);
        let last = pieces.len().saturating_sub(1);
        for (i, piece) in pieces.enumerate() {
            // No piece is longer than a message takes.
            let Ok(bytes) = piece.to_vec().try_into() else { return };
            let record = Message::from(Record { bytes, last: i == last });
            if self.link.send(&record.frame()).is_err() {
                return self.end("the record cannot be sent");
            }
        }
    }

    /// The channel is there: everybody hears of it, once this member's union has both its ends.
    fn settle(&mut self) {
        let (Some(channel), false) = (&self.channel, self.up) else { return };
        let (peer, grant) = (channel.peer(), channel.grant());
        let Some(union) = self.runtime.newest.own() else { return };
        if union.state.view.union != channel.union() || !union.state.view.members.contains_key(&peer) {
            return;
        }
        self.machine = self.machine.take().map(Machine::settled);
        self.union = Some(union);
        self.up = true;
        self.verifier = None;
        if channel.class() != TpmClass::None {
            self.period.renewed(&self.runtime.period());
        }
        if grant == Grant::RecordOnly && self.role == Role::Initiator {
            self.narrow = Some(clock::now().after(NARROW));
        }
        if let Some(endpoint) = self.dialled.take() {
            self.runtime.reached(peer, endpoint);
        }
        let local = self.link.local().ok().map(|a| a.ip().to_canonical());
        self.runtime.up(self.id, peer, grant, local, self.link.took());
    }
}

#[cfg(test)]
mod tests {
    use super::PLANES;

    #[test]
    fn no_two_planes_share_a_kind() {
        for kind in 0..=u8::MAX {
            assert!(PLANES.iter().filter(|plane| plane(kind).is_some()).count() <= 1, "{kind}");
        }
    }
}
