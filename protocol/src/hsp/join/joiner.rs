//! The side that wants in. It believes nobody before it has checked the record from its token's head on and has
//! appraised the verifier, a member of that record; only then it lets go of the token's secret.
//!
//! ```text
//!  start ─▶ AwaitingChallenge ─JoinChallenge─▶ Learning ─RecordLearned─▶ Activating ─▶ Certifying ─▶ AwaitingSession
//!                                                           └──────── without a TPM ──────────────▶    │ Hello
//!  Member ◀─RecordLearned─ Confirming ◀─Joined─ AwaitingJoined ◀──────channel there────── Attesting ◀──┘
//!
//!  AwaitingChallenge × JoinChallenge  the verifier's proof of the token
//!  Learning          × Record         handed on, bounded
//!  Learning          × RecordLearned  chain, verifier in it, with a TPM; then ActivateCredential
//!  Activating        × Activated      Certify
//!  Certifying        × Certified      JoinProof is sent
//!  AwaitingSession   × Hello          a session begins, as between members
//!  Attesting         × (session's)    established: Persist(Intent), JoinAccept is sent
//!  AwaitingJoined    × Joined         —
//!  Confirming        × Record, RecordLearned   our entry is in it: Persist(Membership), Established
//!  each              × other message  Closed(OutOfTurn);  × Lost, End, deadline, a failed outcome: Closed
//! ```
//!
//! Closed from any state: this server is what it was before. Up to `Persist(Intent)` nothing was written at all.

use gtvp_model::ids::MemberName;
use gtvp_model::token::JoinToken;
use gtvp_model::union::{
    Hardware, Identity, MemberId, PlatformIdentity, RecordHead, RosterEntry, SpkiDigest, TpmClass, UnionView,
    UnixTime,
};

use super::{DEADLINE, JoinBinding, MAX_RECORD, token_proof, transcript, verifier_proof};
use crate::Untrusted;
use crate::hsp::binding::Role;
use crate::hsp::channel::AttestedChannel;
use crate::hsp::command::{Command, Context, Durable, Event, Millis, Request, Step, farewell, next, refused};
use crate::hsp::message::{
    Ask, Credential, JoinAccept, JoinChallenge, JoinHello, JoinKeys, JoinProof, Message, Record, VERSIONS,
};
use crate::hsp::refusal::{Awaited, Refusal};
use crate::hsp::session::{Expect, Session, Setup, Timing};
use crate::planted::{Check, check, demand};

/// What a join begins with.
#[derive(Debug, Clone)]
pub struct JoinSetup {
    /// From the administrator.
    pub token: JoinToken,
    /// The name that this server wants.
    pub name: MemberName,
    /// What it is made of.
    pub hardware: Hardware,
    /// Its keys as they are shown to the verifier; `None` without a TPM.
    pub keys: Option<JoinKeys>,
    /// The same keys as the record will have them. After an [`Durable::Intent`] they are those of the intent.
    pub identity: Identity,
    /// The connection's exporter.
    pub exporter: [u8; 32],
    /// The key that the verifier proved to have in TLS.
    pub peer_spki: SpkiDigest,
    /// What the verifier's evidence must show.
    pub ask: Ask,
    /// How long the session in it may take.
    pub timing: Timing,
    /// For the join. 32 random bytes, once.
    pub nonce: [u8; 32],
    /// For the session in it. 32 other ones.
    pub session_nonce: [u8; 32],
}

/// A join in one of its states.
#[derive(Debug)]
pub enum Joiner {
    /// JoinHello is out.
    AwaitingChallenge(Box<Base>),
    /// The record comes, or is being checked.
    Learning(Box<Base>, Box<Learning>),
    /// Our TPM opens the credential.
    Activating(Box<Base>, Box<Known>, Request),
    /// Our AK certifies our TLS key.
    Certifying(Box<Base>, Box<Known>, Request, [u8; 32]),
    /// JoinProof is out.
    AwaitingSession(Box<Base>, Box<Known>),
    /// Evidence goes both ways.
    Attesting(Box<Base>, Box<Known>, Session),
    /// JoinAccept is out: from here on the record may have us.
    AwaitingJoined(Box<Base>, Box<Known>, Session, AttestedChannel),
    /// The record with our entry comes, or is being checked.
    Confirming(Box<Base>, Box<Confirming>),
    /// We are a member; the session goes on: see [`Self::into_session`].
    Member(Session, Box<UnionView>),
    /// It is over: nothing has changed, or, after [`Self::Member`], the session has ended.
    Closed(Refusal),
}

/// What a join has from its beginning.
#[derive(Debug)]
pub struct Base {
    setup: JoinSetup,
    hello: Vec<u8>,
    requests: u32,
    deadline: Millis,
}

/// See [`Joiner::Learning`].
#[derive(Debug)]
pub struct Learning {
    binding: JoinBinding,
    verifier: MemberId,
    head: RecordHead,
    credential: Option<Credential>,
    request: Request,
    bytes: u64,
    complete: bool,
}

/// The union, as its record says.
#[derive(Debug)]
pub struct Known {
    binding: JoinBinding,
    verifier: MemberId,
    view: UnionView,
}

/// See [`Joiner::Confirming`].
#[derive(Debug)]
pub struct Confirming {
    known: Known,
    session: Session,
    channel: AttestedChannel,
    head: RecordHead,
    request: Request,
    bytes: u64,
    complete: bool,
}

type Outcome = Result<Step<Joiner>, Refusal>;

impl Joiner {
    /// Begins: JoinHello is sent.
    ///
    /// # Errors
    /// [`Refusal::TokenForOtherTpm`] before anything is sent.
    pub fn start(setup: JoinSetup, now: Millis) -> Result<Step<Self>, Refusal> {
        let fits = match (&setup.token.ek, &setup.identity) {
            (None, _) => true,
            (Some(want), Identity::Tpm { ek, .. }) => want == ek,
            (Some(_), Identity::Bare { .. }) => false,
        };
        if !fits {
            return Err(Refusal::TokenForOtherTpm);
        }
        let key = setup.token.secret.key();
        let mut hello = JoinHello {
            versions: VERSIONS.to_vec().try_into().unwrap_or_default(),
            union: setup.token.union,
            token: key.id(),
            name: setup.name.clone(),
            nonce: setup.nonce,
            from: setup.token.head.number,
            keys: setup.keys.clone(),
            hardware: setup.hardware.clone(),
            proof: [0; 32],
        };
        hello.proof = token_proof(&key, &setup.exporter, &hello).bytes();
        let message = Message::from(hello);
        let base = Base { setup, hello: message.frame().body, requests: 0, deadline: now.after(DEADLINE) };
        Ok(Step { next: Self::AwaitingChallenge(Box::new(base)), commands: vec![Command::Send(message)] })
    }

    /// What is to be done about `event`.
    pub fn on(self, event: Event, now: Millis) -> Step<Self> {
        if matches!(self, Self::Closed(_)) {
            return Step::stay(self);
        }
        self.take(event, now)
            .unwrap_or_else(|refusal| Step { commands: farewell(&refusal), next: Self::Closed(refusal) })
    }

    /// When [`Event::Tick`] is needed at the latest.
    pub fn deadline(&self) -> Option<Millis> {
        match self {
            Self::Attesting(base, _, session) => session.deadline().map(|d| d.min(base.deadline)),
            Self::Member(session, _) => session.deadline(),
            Self::Closed(_) => None,
            _ => self.base().map(|b| b.deadline),
        }
    }

    /// The state, in a few words.
    pub fn state(&self) -> &'static str {
        match self {
            Self::AwaitingChallenge(_) => "awaiting the challenge",
            Self::Learning(..) => "learning the record",
            Self::Activating(..) => "opening the credential",
            Self::Certifying(..) => "certifying the TLS key",
            Self::AwaitingSession(..) => "awaiting the session",
            Self::Attesting(..) => "attesting",
            Self::AwaitingJoined(..) => "awaiting the entry",
            Self::Confirming(..) => "confirming the entry",
            Self::Member(..) => "a member",
            Self::Closed(_) => "closed",
        }
    }

    fn base(&self) -> Option<&Base> {
        match self {
            Self::AwaitingChallenge(base)
            | Self::Learning(base, _)
            | Self::Activating(base, ..)
            | Self::Certifying(base, ..)
            | Self::AwaitingSession(base, _)
            | Self::Attesting(base, ..)
            | Self::AwaitingJoined(base, ..)
            | Self::Confirming(base, _) => Some(base),
            Self::Member(..) | Self::Closed(_) => None,
        }
    }

    fn awaited(&self) -> Awaited {
        match self {
            Self::Activating(..) | Self::Certifying(..) => Awaited::Ourselves,
            Self::Learning(_, l) if l.complete => Awaited::Ourselves,
            Self::Confirming(_, c) if c.complete => Awaited::Ourselves,
            _ => Awaited::Join,
        }
    }

    fn take(self, event: Event, now: Millis) -> Outcome {
        let in_time = self.base().is_none_or(|base| now < base.deadline);
        check(Check::Silence, in_time, || Refusal::Silent { awaited: self.awaited() })?;
        // A session inside looks at its frames itself.
        let message = match (&self, &event) {
            (Self::Attesting(..) | Self::Member(..), _) => None,
            (_, Event::Lost) => return Err(Refusal::Lost),
            (_, Event::End) => return Err(Refusal::Ended),
            (_, Event::NotPersisted { why }) => return Err(Refusal::NotPersisted { why: why.clone() }),
            (_, Event::Frame(frame)) => Some(Message::decode(frame)?),
            _ => None,
        };
        if let Some(Message::Refuse(refuse)) = &message {
            return Err(refused(refuse));
        }
        let out = |message: Message, state| Err(Refusal::OutOfTurn { message: message.name(), state });
        let state = self.state();
        match (self, message) {
            (Self::AwaitingChallenge(base), Some(Message::JoinChallenge(m))) => on_challenge(base, m),
            (Self::Learning(base, learning), Some(Message::Record(m))) => on_record(base, learning, m),
            (Self::AwaitingSession(base, known), Some(Message::Hello(_))) => {
                on_session(base, known, event, now)
            }
            (Self::AwaitingJoined(base, known, session, channel), Some(Message::Joined(m))) => {
                Ok(on_joined(base, known, session, channel, m.head))
            }
            (Self::Confirming(base, confirming), Some(Message::Record(m))) => on_entry(base, confirming, m),
            (_, Some(message)) => out(message, state),
            (Self::Learning(base, learning), None) => on_learned(base, learning, event),
            (Self::Activating(base, known, request), None) => on_activated(base, known, request, event),
            (Self::Certifying(base, known, request, proof), None) => {
                on_certified(base, known, request, proof, event)
            }
            (Self::Attesting(base, known, session), None) => attest(base, known, session, event, now),
            (Self::Confirming(base, confirming), None) => on_confirmed(base, confirming, event),
            (Self::Member(session, view), None) => {
                let step = session.on(event, &context(&view, now));
                Ok(step.map(|session| match session {
                    Session::Closed(refusal) => Self::Closed(refusal),
                    session => Self::Member(session, view),
                }))
            }
            (state, None) => Ok(Step::stay(state)),
        }
    }

    /// The open session of a finished join; `None` if it is not finished.
    pub fn into_session(self) -> Option<Session> {
        match self {
            Self::Member(session, _) => Some(session),
            _ => None,
        }
    }
}

fn on_challenge(mut base: Box<Base>, challenge: JoinChallenge) -> Outcome {
    let setup = &base.setup;
    let key = setup.token.secret.key();
    let proof = verifier_proof(&key, &setup.exporter, &base.hello, &challenge);
    check(Check::VerifierProof, proof.is(&challenge.proof), || Refusal::VerifierProofWrong)?;
    // A credential for one who has a TPM, and for no one else.
    if challenge.credential.is_some() != setup.keys.is_some() {
        return Err(Refusal::CredentialNotOpened);
    }
    let body = Message::from(challenge.clone()).frame().body;
    let binding = JoinBinding {
        union: setup.token.union,
        token: key.id(),
        verifier: challenge.member,
        exporter: setup.exporter,
        transcript: transcript(&base.hello, &body),
    };
    let request = next(&mut base.requests);
    let JoinChallenge { member, head, credential, .. } = challenge;
    let learning =
        Learning { binding, verifier: member, head, credential, request, bytes: 0, complete: false };
    Ok(Step::stay(Joiner::Learning(base, Box::new(learning))))
}

/// A piece of the record more. Says whether it was the last.
fn piece(
    bytes: &mut u64,
    complete: &mut bool,
    record: Record,
    state: &'static str,
) -> Result<Untrusted<Vec<u8>>, Refusal> {
    if *complete {
        return Err(Refusal::OutOfTurn { message: "Record", state });
    }
    let piece = record.bytes.into_vec();
    *bytes = bytes.saturating_add(piece.len() as u64);
    if *bytes > MAX_RECORD {
        return Err(Refusal::RecordTooLong { max: MAX_RECORD });
    }
    *complete = record.last;
    Ok(Untrusted::new(piece))
}

fn on_record(base: Box<Base>, mut l: Box<Learning>, record: Record) -> Outcome {
    let last = record.last;
    let piece = piece(&mut l.bytes, &mut l.complete, record, "learning the record")?;
    let token = &base.setup.token;
    let learn = Command::LearnRecord {
        request: l.request,
        union: token.union,
        from: token.head,
        to: l.head,
        piece,
        last,
    };
    Ok(Step { next: Joiner::Learning(base, l), commands: vec![learn] })
}

fn on_learned(mut base: Box<Base>, learning: Box<Learning>, event: Event) -> Outcome {
    let (request, outcome) = match event {
        Event::RecordLearned { request, outcome } if learning.complete => (request, outcome),
        _ => return Ok(Step::stay(Joiner::Learning(base, learning))),
    };
    if request != learning.request {
        return Ok(Step::stay(Joiner::Learning(base, learning)));
    }
    let Learning { binding, verifier, head, credential, .. } = *learning;
    let view = *outcome.map_err(|why| Refusal::RecordBroken { why })?;
    let leads = view.union == base.setup.token.union && view.head == head;
    let why = || Refusal::RecordBroken { why: "it ends elsewhere".into() };
    demand(leads, why)?;
    let entry = view.members.get(&verifier).ok_or(Refusal::VerifierNotInRecord)?;
    let has_tpm = entry.identity.class() != TpmClass::None;
    check(Check::VerifierTpm, has_tpm, || Refusal::VerifierWithoutTpm)?;
    let known = Box::new(Known { binding, verifier, view });
    let Some(credential) = credential else {
        let proof = known.binding.bare_proof(&base.setup.token.secret.key(), base.setup.identity.spki());
        let proof = JoinProof { proof: proof.bytes(), certification: None };
        return Ok(Step {
            next: Joiner::AwaitingSession(base, known),
            commands: vec![Command::Send(proof.into())],
        });
    };
    let request = next(&mut base.requests);
    let credential = Box::new(Untrusted::new(credential));
    Ok(Step {
        next: Joiner::Activating(base, known, request),
        commands: vec![Command::ActivateCredential { request, credential }],
    })
}

fn on_activated(mut base: Box<Base>, known: Box<Known>, want: Request, event: Event) -> Outcome {
    let (Event::Activated { request, outcome }, Identity::Tpm { ak, tls, .. }) =
        (event, &base.setup.identity)
    else {
        return Ok(Step::stay(Joiner::Activating(base, known, want)));
    };
    if request != want {
        return Ok(Step::stay(Joiner::Activating(base, known, want)));
    }
    let secret = outcome.map_err(|why| Refusal::OurTpm { why })?;
    let proof = known.binding.prove(&secret, ak, tls);
    let request = next(&mut base.requests);
    let binding = Box::new(known.binding.clone());
    let commands = vec![Command::Certify { request, binding }];
    Ok(Step { next: Joiner::Certifying(base, known, request, proof), commands })
}

fn on_certified(base: Box<Base>, known: Box<Known>, want: Request, proof: [u8; 32], event: Event) -> Outcome {
    match event {
        Event::Certified { request, outcome } if request == want => {
            let certification = *outcome.map_err(|why| Refusal::OurTpm { why })?;
            let message = JoinProof { proof, certification: Some(certification) };
            Ok(Step {
                next: Joiner::AwaitingSession(base, known),
                commands: vec![Command::Send(message.into())],
            })
        }
        _ => Ok(Step::stay(Joiner::Certifying(base, known, want, proof))),
    }
}

/// The verifier's hello: it has believed our keys.
fn on_session(base: Box<Base>, known: Box<Known>, hello: Event, now: Millis) -> Outcome {
    let s = &base.setup;
    // What the union will make of us is not ours to say; the session needs our keys alone.
    let own =
        RosterEntry::new(s.name.clone(), s.identity.clone(), PlatformIdentity::default(), s.hardware.clone());
    let setup = Setup {
        role: Role::Initiator,
        first: false,
        own,
        admitted: false,
        exporter: s.exporter,
        peer_spki: s.peer_spki,
        ask: s.ask.clone(),
        expect: Expect::Dialled(known.verifier),
        timing: s.timing,
    };
    let ctx = context(&known.view, now);
    let Step { next: session, mut commands } = Session::start(setup, s.session_nonce, &ctx);
    let rest = attest(base, known, session, hello, now)?;
    commands.extend(rest.commands);
    Ok(Step { next: rest.next, commands })
}

fn context(view: &UnionView, now: Millis) -> Context<'_> {
    // A joiner compares no wall clock: whether a token has expired is the union's to say.
    Context { now, wall: UnixTime(0), view }
}

fn attest(base: Box<Base>, known: Box<Known>, session: Session, event: Event, now: Millis) -> Outcome {
    let Step { next: session, commands } = session.on(event, &context(&known.view, now));
    if let Session::Closed(refusal) = session {
        return Ok(Step { next: Joiner::Closed(refusal), commands });
    }
    let mut kept = Vec::new();
    let mut channel = None;
    for command in commands {
        match command {
            Command::Established(open) => channel = Some(open),
            other => kept.push(other),
        }
    }
    let Some(channel) = channel else {
        return Ok(Step { next: Joiner::Attesting(base, known, session), commands: kept });
    };
    let s = &base.setup;
    let entry =
        RosterEntry::new(s.name.clone(), s.identity.clone(), PlatformIdentity::default(), s.hardware.clone());
    let intent = Durable::Intent { union: s.token.union, token: known.binding.token, entry: Box::new(entry) };
    kept.push(Command::Persist(intent));
    kept.push(Command::Send(JoinAccept { secret: s.token.secret.clone() }.into()));
    Ok(Step { next: Joiner::AwaitingJoined(base, known, session, channel), commands: kept })
}

fn on_joined(
    mut base: Box<Base>,
    known: Box<Known>,
    session: Session,
    channel: AttestedChannel,
    head: RecordHead,
) -> Step<Joiner> {
    let request = next(&mut base.requests);
    let confirming = Confirming { known: *known, session, channel, head, request, bytes: 0, complete: false };
    Step::stay(Joiner::Confirming(base, Box::new(confirming)))
}

fn on_entry(base: Box<Base>, mut c: Box<Confirming>, record: Record) -> Outcome {
    let last = record.last;
    let piece = piece(&mut c.bytes, &mut c.complete, record, "confirming the entry")?;
    let (union, from) = (base.setup.token.union, c.known.view.head);
    let learn = Command::LearnRecord { request: c.request, union, from, to: c.head, piece, last };
    Ok(Step { next: Joiner::Confirming(base, c), commands: vec![learn] })
}

fn on_confirmed(base: Box<Base>, confirming: Box<Confirming>, event: Event) -> Outcome {
    let outcome = match event {
        Event::RecordLearned { request, outcome } if confirming.complete && request == confirming.request => {
            outcome
        }
        _ => return Ok(Step::stay(Joiner::Confirming(base, confirming))),
    };
    let Confirming { mut session, channel, head, .. } = *confirming;
    let view = *outcome.map_err(|why| Refusal::RecordBroken { why })?;
    let ours = base.setup.identity.clone();
    let entry = view.members.get(&ours.member_id()).filter(|e| e.identity.same_keys(&ours)).cloned();
    let there = entry.is_some() && view.head == head && view.union == base.setup.token.union;
    check(Check::OwnEntry, there, || Refusal::NotAdmitted)?;
    let s = &base.setup;
    let unconfirmed =
        || RosterEntry::new(s.name.clone(), ours.clone(), PlatformIdentity::default(), s.hardware.clone());
    let entry = entry.unwrap_or_else(unconfirmed);
    session.admitted(&entry);
    let membership = Durable::Membership { union: view.union, entry: Box::new(entry), head };
    let commands = vec![Command::Persist(membership), Command::Established(channel)];
    Ok(Step { next: Joiner::Member(session, Box::new(view)), commands })
}
