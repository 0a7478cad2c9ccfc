//! The two sides of an enrolment: HSP's own engines, with `security`'s functions for what they ask.

use std::collections::VecDeque;

use gtvp_ipc::bulk;
use gtvp_ipc::security::{
    ActivateCredential, AppraiseCertification, AppraiseKeys, AskOf, Certify, LearnRecord, MakeCredential,
    WriteAdmission,
};
use gtvp_model::token::JoinToken;
use gtvp_model::union::{RecordHead, UnixTime};
use gtvp_protocol::frame::Frame;
use gtvp_protocol::hsp::join::{JoinSetup, Joiner, Verifier, VerifierSetup};
use gtvp_protocol::hsp::message::{MAX_RECORD_PIECE, Record};
use gtvp_protocol::hsp::{Command, Context, Event, Millis, Session, Timing};

use super::server::{Sent, Server, appraise, at, co_signed, hardware};

/// The same on both ends of one TLS connection.
const EXPORTER: [u8; 32] = [5; 32];

pub enum Machine {
    Joiner(Joiner),
    Verifier(Verifier),
    Session(Session),
    Gone,
}

pub struct End<'a> {
    pub server: &'a Server,
    pub machine: Machine,
    pub done: Vec<String>,
    pub frames: VecDeque<Frame>,
    record: Vec<u8>,
    peer: &'a Server,
}

/// A joiner with this token, as its administrator wants it, and the member that it asks.
pub fn enrolment<'a>(joiner: &'a Server, verifier: &'a Server, token: &JoinToken) -> (End<'a>, End<'a>) {
    joiner.union.want(token.union, token.head);
    unwanted(joiner, verifier, token)
}

/// The same without anybody's wish.
pub fn unwanted<'a>(joiner: &'a Server, verifier: &'a Server, token: &JoinToken) -> (End<'a>, End<'a>) {
    let timing = Timing::default();
    let keys = joiner.peers.own_keys().unwrap();
    let asked = joiner.peers.ask_of(&AskOf { member: verifier.id() }, at(0)).unwrap();
    let setup = JoinSetup {
        token: token.clone(),
        name: joiner.name.parse().unwrap(),
        hardware: hardware(),
        keys: keys.keys,
        identity: keys.identity,
        exporter: EXPORTER,
        peer_spki: verifier.identity().spki(),
        ask: asked.ask,
        timing,
        nonce: [11; 32],
        session_nonce: asked.nonce,
    };
    let end = |server, peer| End {
        server,
        machine: Machine::Gone,
        done: Vec::new(),
        frames: VecDeque::new(),
        record: Vec::new(),
        peer,
    };
    let (mut j, mut v) = (end(joiner, verifier), end(verifier, joiner));
    let asked = verifier.peers.ask_of(&AskOf { member: joiner.id() }, at(0)).unwrap();
    let start = VerifierSetup {
        own: verifier.entry(),
        exporter: EXPORTER,
        peer_spki: joiner.identity().spki(),
        ask: asked.ask,
        timing,
        nonce: [13; 32],
        session_nonce: asked.nonce,
    };
    v.machine = Machine::Verifier(Verifier::start(start, Millis(1)).unwrap());
    let step = Joiner::start(setup, Millis(1)).unwrap();
    j.machine = Machine::Joiner(step.next);
    for command in step.commands {
        j.carry_out(command);
    }
    (j, v)
}

/// Frames go to and fro until none is under way.
pub fn run(j: &mut End<'_>, v: &mut End<'_>) {
    loop {
        let (to_v, to_j): (Vec<_>, Vec<_>) = (j.frames.drain(..).collect(), v.frames.drain(..).collect());
        if to_v.is_empty() && to_j.is_empty() {
            return;
        }
        to_v.into_iter().for_each(|f| v.on(Event::Frame(f)));
        to_j.into_iter().for_each(|f| j.on(Event::Frame(f)));
    }
}

impl End<'_> {
    pub fn refusal(&self) -> Option<String> {
        match &self.machine {
            Machine::Joiner(Joiner::Closed(r)) | Machine::Verifier(Verifier::Closed(r)) => {
                Some(r.to_string())
            }
            Machine::Session(Session::Closed(r)) => Some(r.to_string()),
            _ => None,
        }
    }

    /// The join is over; the session goes on.
    pub fn go_on(&mut self) {
        let session = match std::mem::replace(&mut self.machine, Machine::Gone) {
            Machine::Joiner(m) => m.into_session(),
            Machine::Verifier(m) => m.into_session(),
            _ => None,
        };
        self.machine = Machine::Session(session.unwrap());
    }

    pub fn on(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let view = self.server.union.known().unwrap().map(|k| k.state.view.clone());
            let now = Millis(2);
            let commands = match std::mem::replace(&mut self.machine, Machine::Gone) {
                Machine::Joiner(m) => {
                    let step = m.on(event, now);
                    self.machine = Machine::Joiner(step.next);
                    step.commands
                }
                Machine::Verifier(m) => {
                    let ctx =
                        Context { now, wall: UnixTime(at(0).wall_ms / 1000), view: view.as_ref().unwrap() };
                    let step = m.on(event, &ctx);
                    self.machine = Machine::Verifier(step.next);
                    step.commands
                }
                Machine::Session(m) => {
                    let ctx =
                        Context { now, wall: UnixTime(at(0).wall_ms / 1000), view: view.as_ref().unwrap() };
                    let step = m.on(event, &ctx);
                    self.machine = Machine::Session(step.next);
                    step.commands
                }
                Machine::Gone => return,
            };
            for command in commands {
                events.extend(self.carry_out(command));
            }
        }
    }

    fn carry_out(&mut self, command: Command) -> Option<Event> {
        let (s, now) = (self.server, at(0));
        self.done.push(format!("{command:?}").split([' ', '(']).next().unwrap().to_owned());
        Some(match command {
            Command::Send(message) => {
                self.frames.push_back(message.frame());
                return None;
            }
            Command::Quote { request, binding, ask } => {
                let outcome = s.quote(&binding, &ask).map(Box::new).map_err(|e| e.to_string());
                Event::Quoted { request, outcome }
            }
            Command::Appraise { request, what } => {
                let sent = Sent {
                    of: what.of,
                    evidence: what.evidence.unchecked().clone(),
                    logs: what.logs,
                    binding: what.binding,
                    ask: what.ask,
                };
                Event::Appraised { request, outcome: appraise(s, &sent, 0) }
            }
            Command::AppraiseKeys { request, keys, spki } => {
                let keys = keys.unchecked().clone();
                Event::KeysAppraised {
                    request,
                    outcome: s.peers.appraise_keys(&AppraiseKeys { keys, spki }, now),
                }
            }
            Command::MakeCredential { request, ek, ak } => {
                let made = s.peers.make_credential(&MakeCredential { ek, ak }, now);
                let outcome = made.map(|m| Box::new(m.credential)).map_err(|e| e.to_string());
                Event::CredentialMade { request, outcome }
            }
            Command::ActivateCredential { request, credential } => {
                let credential = credential.unchecked().clone();
                let opened = s.peers.activate_credential(&ActivateCredential { credential });
                Event::Activated { request, outcome: opened.map_err(|e| e.to_string()) }
            }
            Command::Certify { request, binding } => {
                let made = s.peers.certify(&Certify { binding: *binding });
                Event::Certified { request, outcome: made.map(Box::new).map_err(|e| e.to_string()) }
            }
            Command::AppraiseCertification { request, proof, certification, binding, keys } => {
                let certification = certification.unchecked().clone();
                let asked = AppraiseCertification { proof, certification, binding: *binding, keys: *keys };
                Event::CertificationAppraised {
                    request,
                    outcome: s.peers.appraise_certification(&asked, now),
                }
            }
            Command::LearnRecord { request, union, from, to, piece, last } => {
                self.record.extend(piece.unchecked());
                if !last {
                    return None;
                }
                let bytes = bulk::give(&std::mem::take(&mut self.record)).unwrap();
                let asked = LearnRecord { union, known: from, end: to, from: self.peer.id() };
                let outcome = s.union.learn(&asked, vec![bytes], now.unix());
                let outcome = outcome.unwrap_or_else(|fault| Err(fault.to_string()));
                Event::RecordLearned { request, outcome }
            }
            Command::SendRecord { to, .. } => {
                let bytes = bulk::take(s.union.page(0, 1 << 20).unwrap(), 2 << 20).unwrap();
                assert_eq!(to, s.head());
                let pieces: Vec<_> = bytes.chunks(MAX_RECORD_PIECE).collect();
                for (i, piece) in pieces.iter().enumerate() {
                    let bytes = piece.to_vec().try_into().unwrap();
                    let record = Record { bytes, last: i + 1 == pieces.len() };
                    self.frames.push_back(gtvp_protocol::hsp::Message::from(record).frame());
                }
                return None;
            }
            Command::Commit { request, admission } => {
                let written = s.peers.write_admission(&WriteAdmission { admission: *admission }, now);
                let outcome = written.and_then(|entry| {
                    let offer = co_signed(&entry, &[s])?;
                    s.take(s.id(), &offer)?;
                    Ok(RecordHead { number: offer.head.head.at.number, hash: entry.hash() })
                });
                Event::Committed { request, outcome: outcome.map_err(|e| e.to_string()) }
            }
            Command::Persist(what) => match s.union.keep(&what, now.unix()) {
                Ok(()) => return None,
                Err(e) => Event::NotPersisted { why: e.to_string() },
            },
            Command::Established(_) | Command::Renewed(_) | Command::Close(_) => return None,
        })
    }
}
