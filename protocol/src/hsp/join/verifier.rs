//! The side that lets in. It tells a stranger nothing before that has proved its token, believes no key before the TPM
//! has proved it, and proposes one entry only after evidence was believed both ways and the token's secret was shown.
//!
//! ```text
//!  start ─▶ AwaitingHello ─JoinHello─▶ CheckingKeys ─▶ MakingCredential ─▶ AwaitingProof ─JoinProof─▶ CheckingCertification
//!                              └──── without a TPM, where the union takes such ──▶  └── without ──┐        │
//!  Member ◀─Committed─ Committing ◀─JoinAccept─ AwaitingAccept ◀──channel there── Attesting ◀─────┴────────┘
//!                         ▲ (the record has this member with these keys already: nothing is committed)
//!
//!  AwaitingHello         × JoinHello               token: known, proved, in time, unused; name free; TLS key
//!  CheckingKeys          × KeysAppraised           class, EK of the token, member id free; MakeCredential
//!  MakingCredential      × CredentialMade          JoinChallenge and the record are sent
//!  AwaitingProof         × JoinProof               what it proves is appraised: the credential's secret, and the certification
//!  CheckingCertification × CertificationAppraised  a session begins, as between members
//!  Attesting             × (session's)             established: —
//!  AwaitingAccept        × JoinAccept              the secret is the token's, the token is still good: Commit
//!  Committing            × Committed               Joined and the record are sent, Established
//!  each                  × other message           Closed(OutOfTurn);  × Lost, End, deadline, a failed outcome: Closed
//! ```
//!
//! Closed from any state but `Member`: the union is what it was before, unless the entry that was proposed is taken after
//! all; then the joiner is a member, and its next try is answered so.

use gtvp_model::token::TokenId;
use gtvp_model::union::{
    Admission, Identity, PlatformIdentity, RecordHead, RosterEntry, SpkiDigest, TokenRecord, TpmClass,
    UnionView, UnixTime,
};

use super::{CheckedKeys, DEADLINE, JoinBinding, token_proof, transcript, verifier_proof};
use crate::Untrusted;
use crate::hsp::binding::Role;
use crate::hsp::channel::AttestedChannel;
use crate::hsp::command::{Command, Context, Event, Millis, Request, Step, farewell, next, refused};
use crate::hsp::message::{
    Ask, Credential, JoinAccept, JoinChallenge, JoinHello, JoinProof, Joined, Message,
};
use crate::hsp::refusal::{Awaited, Refusal, Rejection, RejectionKind};
use crate::hsp::session::{Expect, Session, Setup, Timing};
use crate::planted::{Check, check, demand};

/// What a verifier begins with.
#[derive(Debug, Clone)]
pub struct VerifierSetup {
    /// Ourselves.
    pub own: RosterEntry,
    /// The connection's exporter.
    pub exporter: [u8; 32],
    /// The key that the joiner proved to have in TLS.
    pub peer_spki: SpkiDigest,
    /// What the joiner's evidence must show.
    pub ask: Ask,
    /// How long the session in it may take.
    pub timing: Timing,
    /// For the join. 32 random bytes, once.
    pub nonce: [u8; 32],
    /// For the session in it. 32 other ones.
    pub session_nonce: [u8; 32],
}

/// An enrolment in one of its states.
#[derive(Debug)]
pub enum Verifier {
    /// Somebody is connected.
    AwaitingHello(Box<Base>),
    /// The keys are being appraised.
    CheckingKeys(Box<Base>, Box<JoinHello>, Request),
    /// The credential is being made.
    MakingCredential(Box<Base>, Box<Asking>, Box<CheckedKeys>, Request),
    /// JoinChallenge is out.
    AwaitingProof(Box<Base>, Box<Candidate>, Prove),
    /// The certification is being appraised.
    CheckingCertification(Box<Base>, Box<Candidate>, Request),
    /// Evidence goes both ways.
    Attesting(Box<Base>, Box<Candidate>, Session),
    /// The channel is there; the joiner has the word.
    AwaitingAccept(Box<Base>, Box<Candidate>, Session, AttestedChannel),
    /// The entry is proposed.
    Committing(Box<Base>, Box<Committing>),
    /// The joiner is a member; the session goes on: see [`Self::into_session`].
    Member(Session),
    /// It is over: nothing has changed, or, after [`Self::Member`], the session has ended.
    Closed(Refusal),
}

/// What an enrolment has from its beginning.
#[derive(Debug)]
pub struct Base {
    setup: VerifierSetup,
    requests: u32,
    deadline: Millis,
}

/// Who asks, by a token that is good.
#[derive(Debug)]
pub struct Asking {
    hello: JoinHello,
    entry: RosterEntry,
}

/// Who asks, challenged.
#[derive(Debug)]
pub struct Candidate {
    entry: RosterEntry,
    token: TokenId,
    binding: JoinBinding,
    head: RecordHead,
}

/// What a joiner has to prove.
#[derive(Debug)]
pub enum Prove {
    /// That its keys are in that TPM.
    Tpm(Box<CheckedKeys>),
    /// That it has the token and the TLS key.
    Bare,
}

/// See [`Verifier::Committing`].
#[derive(Debug)]
pub struct Committing {
    candidate: Candidate,
    session: Session,
    channel: AttestedChannel,
    request: Request,
}

type Outcome = Result<Step<Verifier>, Refusal>;

impl Verifier {
    /// Begins: the joiner has the word.
    ///
    /// # Errors
    /// [`Refusal::VerifierWithoutTpm`].
    pub fn start(setup: VerifierSetup, now: Millis) -> Result<Self, Refusal> {
        let has_tpm = setup.own.identity.class() != TpmClass::None;
        check(Check::VerifierTpm, has_tpm, || Refusal::VerifierWithoutTpm)?;
        let deadline = now.after(DEADLINE);
        Ok(Self::AwaitingHello(Box::new(Base { setup, requests: 0, deadline })))
    }

    /// What is to be done about `event`.
    pub fn on(self, event: Event, ctx: &Context<'_>) -> Step<Self> {
        if matches!(self, Self::Closed(_)) {
            return Step::stay(self);
        }
        self.take(event, ctx)
            .unwrap_or_else(|refusal| Step { commands: farewell(&refusal), next: Self::Closed(refusal) })
    }

    /// When [`Event::Tick`] is needed at the latest.
    pub fn deadline(&self) -> Option<Millis> {
        match self {
            Self::Attesting(base, _, session) => session.deadline().map(|d| d.min(base.deadline)),
            Self::Member(session) => session.deadline(),
            Self::Closed(_) => None,
            _ => self.base().map(|b| b.deadline),
        }
    }

    /// The state, in a few words.
    pub fn state(&self) -> &'static str {
        match self {
            Self::AwaitingHello(_) => "awaiting the joiner",
            Self::CheckingKeys(..) => "checking keys",
            Self::MakingCredential(..) => "making a credential",
            Self::AwaitingProof(..) => "awaiting the proof",
            Self::CheckingCertification(..) => "checking the certification",
            Self::Attesting(..) => "attesting",
            Self::AwaitingAccept(..) => "awaiting the acceptance",
            Self::Committing(..) => "committing",
            Self::Member(_) => "a member",
            Self::Closed(_) => "closed",
        }
    }

    /// The open session of a finished enrolment; `None` if it is not finished.
    pub fn into_session(self) -> Option<Session> {
        match self {
            Self::Member(session) => Some(session),
            _ => None,
        }
    }

    fn base(&self) -> Option<&Base> {
        match self {
            Self::AwaitingHello(base)
            | Self::CheckingKeys(base, ..)
            | Self::MakingCredential(base, ..)
            | Self::AwaitingProof(base, ..)
            | Self::CheckingCertification(base, ..)
            | Self::Attesting(base, ..)
            | Self::AwaitingAccept(base, ..)
            | Self::Committing(base, _) => Some(base),
            Self::Member(_) | Self::Closed(_) => None,
        }
    }

    fn awaited(&self) -> Awaited {
        match self {
            Self::AwaitingHello(_)
            | Self::AwaitingProof(..)
            | Self::AwaitingAccept(..)
            | Self::Attesting(..) => Awaited::Join,
            _ => Awaited::Ourselves,
        }
    }

    fn take(self, event: Event, ctx: &Context<'_>) -> Outcome {
        let in_time = self.base().is_none_or(|base| ctx.now < base.deadline);
        check(Check::Silence, in_time, || Refusal::Silent { awaited: self.awaited() })?;
        let message = match (&self, &event) {
            (Self::Attesting(..) | Self::Member(_), _) => None,
            (_, Event::Lost) => return Err(Refusal::Lost),
            (_, Event::End) => return Err(Refusal::Ended),
            (_, Event::NotPersisted { why }) => return Err(Refusal::NotPersisted { why: why.clone() }),
            (_, Event::Frame(frame)) => Some(Message::decode(frame)?),
            _ => None,
        };
        if let Some(Message::Refuse(refuse)) = &message {
            return Err(refused(refuse));
        }
        let state = self.state();
        match (self, message) {
            (Self::AwaitingHello(base), Some(Message::JoinHello(m))) => on_hello(base, m, ctx),
            (Self::AwaitingProof(base, candidate, prove), Some(Message::JoinProof(m))) => {
                on_proof(base, candidate, prove, m, ctx)
            }
            (Self::AwaitingAccept(base, candidate, session, channel), Some(Message::JoinAccept(m))) => {
                on_accept(base, *candidate, session, channel, m, ctx)
            }
            (_, Some(message)) => Err(Refusal::OutOfTurn { message: message.name(), state }),
            (Self::CheckingKeys(base, hello, request), None) => on_keys(base, hello, request, event, ctx),
            (Self::MakingCredential(base, asking, keys, request), None) => {
                on_credential(base, asking, keys, request, event, ctx)
            }
            (Self::CheckingCertification(base, candidate, request), None) => {
                on_certification(base, candidate, request, event, ctx)
            }
            (Self::Attesting(base, candidate, session), None) => {
                Ok(attest(base, candidate, session, event, ctx))
            }
            (Self::Committing(base, committing), None) => on_committed(base, committing, event),
            (Self::Member(session), None) => Ok(session.on(event, ctx).map(|session| match session {
                Session::Closed(refusal) => Self::Closed(refusal),
                session => Self::Member(session),
            })),
            (state, None) => Ok(Step::stay(state)),
        }
    }
}

/// Whether the record has this member, with these very keys, by this very token.
fn is_admitted(view: &UnionView, token: TokenId, identity: &Identity) -> bool {
    let id = identity.member_id();
    let by_it = view.tokens.get(&token).is_some_and(|t| t.used_by == Some(id));
    by_it && view.members.get(&id).is_some_and(|m| m.identity.same_keys(identity))
}

/// The token, if this joiner may use it now; also the one that this very joiner has used.
fn check_token<'v>(
    ctx: &Context<'v>,
    token: TokenId,
    identity: &Identity,
) -> Result<Option<&'v TokenRecord>, Refusal> {
    let Some(record) = ctx.view.tokens.get(&token) else {
        check(Check::TokenKnown, false, || Refusal::TokenUnknown)?;
        return Ok(None);
    };
    if is_admitted(ctx.view, token, identity) {
        return Ok(Some(record));
    }
    if let Some(by) = record.used_by {
        check(Check::TokenUnused, false, || Refusal::TokenSpent { by })?;
    }
    check_expiry(ctx, record)?;
    let ek = match identity {
        Identity::Tpm { ek, .. } => Some(*ek),
        Identity::Bare { .. } => None,
    };
    let for_it = record.ek.is_none() || record.ek == ek;
    check(Check::TokenEk, for_it, || Refusal::TokenForOtherTpm)?;
    let id = identity.member_id();
    check(Check::MemberFree, !ctx.view.members.contains_key(&id), || Refusal::AlreadyMember { id })?;
    Ok(Some(record))
}

/// Our clock may be slow, but it is never before the record's head, which a majority has put a time on.
fn check_expiry(ctx: &Context<'_>, record: &TokenRecord) -> Result<(), Refusal> {
    let now = UnixTime(ctx.wall.0.max(ctx.view.head_time.0));
    check(Check::TokenExpiry, now < record.expires, || Refusal::TokenExpired { at: record.expires, now })
}

fn on_hello(mut base: Box<Base>, hello: JoinHello, ctx: &Context<'_>) -> Outcome {
    let theirs = hello.union;
    check(Check::Union, theirs == ctx.view.union, || Refusal::OtherUnion { theirs })?;
    // A stranger learns here that there is no such token, and nothing else.
    match ctx.view.tokens.get(&hello.token) {
        Some(record) => {
            let proof = token_proof(&record.key, &base.setup.exporter, &hello);
            check(Check::TokenProof, proof.is(&hello.proof), || Refusal::TokenProofWrong)?;
            if record.used_by.is_none() {
                check_expiry(ctx, record)?;
            }
        }
        None => check(Check::TokenKnown, false, || Refusal::TokenUnknown)?,
    }
    let (head, from) = (ctx.view.head.number, hello.from);
    demand(from <= head, || Refusal::RecordBehind { head, from })?;
    let Some(keys) = hello.keys.clone() else {
        let class = TpmClass::None;
        check(Check::Class, ctx.view.settings.admits(class), || Refusal::ClassNotAdmitted { class })?;
        let identity = Identity::Bare { spki: base.setup.peer_spki };
        let asking = candidate(hello, identity, ctx)?;
        return Ok(challenge(base, asking, None, Prove::Bare, ctx));
    };
    let request = next(&mut base.requests);
    let keys = Box::new(Untrusted::new(keys));
    let commands = vec![Command::AppraiseKeys { request, keys, spki: base.setup.peer_spki }];
    Ok(Step { next: Verifier::CheckingKeys(base, Box::new(hello), request), commands })
}

/// The entry that this joiner would have, if nothing speaks against it.
fn candidate(hello: JoinHello, identity: Identity, ctx: &Context<'_>) -> Result<Asking, Refusal> {
    let record = check_token(ctx, hello.token, &identity)?;
    let id = identity.member_id();
    let platform_identity = record.map_or(PlatformIdentity::default(), |r| r.platform_identity);
    if let Some(other) = ctx.view.named(&hello.name, id) {
        check(Check::NameFree, false, || Refusal::NameTaken { by: other.id() })?;
    }
    let entry = match ctx.view.members.get(&id) {
        Some(there) if is_admitted(ctx.view, hello.token, &identity) => there.clone(),
        _ => RosterEntry::new(hello.name.clone(), identity, platform_identity, hello.hardware.clone()),
    };
    Ok(Asking { hello, entry })
}

fn on_keys(
    mut base: Box<Base>,
    hello: Box<JoinHello>,
    want: Request,
    event: Event,
    ctx: &Context<'_>,
) -> Outcome {
    let keys = match event {
        Event::KeysAppraised { request, outcome } if request == want => {
            outcome.map_err(|why| Refusal::KeysRejected { why })?
        }
        _ => return Ok(Step::stay(Verifier::CheckingKeys(base, hello, want))),
    };
    demand(keys.spki == base.setup.peer_spki, || Refusal::JoinTlsKeyDiffers)?;
    let identity = keys.identity();
    let class = identity.class();
    check(Check::Class, ctx.view.settings.admits(class), || Refusal::ClassNotAdmitted { class })?;
    let asking = candidate(*hello, identity, ctx)?;
    let request = next(&mut base.requests);
    let commands = vec![Command::MakeCredential { request, ek: keys.ek_public.clone(), ak: keys.ak.clone() }];
    Ok(Step { next: Verifier::MakingCredential(base, Box::new(asking), keys, request), commands })
}

fn on_credential(
    base: Box<Base>,
    asking: Box<Asking>,
    keys: Box<CheckedKeys>,
    want: Request,
    event: Event,
    ctx: &Context<'_>,
) -> Outcome {
    match event {
        Event::CredentialMade { request, outcome } if request == want => {
            let credential = outcome.map_err(|why| Refusal::OurTpm { why })?;
            Ok(challenge(base, *asking, Some(*credential), Prove::Tpm(keys), ctx))
        }
        _ => Ok(Step::stay(Verifier::MakingCredential(base, asking, keys, want))),
    }
}

fn challenge(
    base: Box<Base>,
    asking: Asking,
    credential: Option<Credential>,
    prove: Prove,
    ctx: &Context<'_>,
) -> Step<Verifier> {
    let Asking { hello, entry } = asking;
    let s = &base.setup;
    let head = ctx.view.head;
    let hello_body = Message::from(hello.clone()).frame().body;
    let mut message = JoinChallenge { nonce: s.nonce, member: s.own.id(), head, credential, proof: [0; 32] };
    if let Some(record) = ctx.view.tokens.get(&hello.token) {
        message.proof = verifier_proof(&record.key, &s.exporter, &hello_body, &message).bytes();
    }
    let message = Message::from(message);
    let binding = JoinBinding {
        union: ctx.view.union,
        token: hello.token,
        verifier: s.own.id(),
        exporter: s.exporter,
        transcript: transcript(&hello_body, &message.frame().body),
    };
    let candidate = Box::new(Candidate { entry, token: hello.token, binding, head });
    let commands = vec![Command::Send(message), Command::SendRecord { from: hello.from, to: head }];
    Step { next: Verifier::AwaitingProof(base, candidate, prove), commands }
}

fn on_proof(
    mut base: Box<Base>,
    candidate: Box<Candidate>,
    prove: Prove,
    proof: JoinProof,
    ctx: &Context<'_>,
) -> Outcome {
    let (keys, certification) = match (prove, proof.certification) {
        (Prove::Bare, _) => {
            let key = ctx.view.tokens.get(&candidate.token).ok_or(Refusal::TokenUnknown)?.key.clone();
            let want = candidate.binding.bare_proof(&key, base.setup.peer_spki);
            check(Check::Credential, want.is(&proof.proof), || Refusal::TokenProofWrong)?;
            return Ok(begin(base, candidate, ctx));
        }
        (Prove::Tpm(_), None) => return Err(Refusal::CredentialNotOpened),
        (Prove::Tpm(keys), Some(certification)) => (keys, certification),
    };
    let request = next(&mut base.requests);
    let commands = vec![Command::AppraiseCertification {
        request,
        proof: proof.proof,
        certification: Box::new(Untrusted::new(certification)),
        binding: Box::new(candidate.binding.clone()),
        keys,
    }];
    Ok(Step { next: Verifier::CheckingCertification(base, candidate, request), commands })
}

fn on_certification(
    base: Box<Base>,
    candidate: Box<Candidate>,
    want: Request,
    event: Event,
    ctx: &Context<'_>,
) -> Outcome {
    match event {
        Event::CertificationAppraised { request, outcome } if request == want => {
            match outcome {
                Err(Rejection { kind: RejectionKind::Credential, .. }) => {
                    return Err(Refusal::CredentialNotOpened);
                }
                Err(why) => check(Check::Certified, false, || Refusal::NotCertified { why })?,
                Ok(()) => {}
            }
            Ok(begin(base, candidate, ctx))
        }
        _ => Ok(Step::stay(Verifier::CheckingCertification(base, candidate, want))),
    }
}

fn begin(base: Box<Base>, candidate: Box<Candidate>, ctx: &Context<'_>) -> Step<Verifier> {
    let s = &base.setup;
    let setup = Setup {
        role: Role::Responder,
        first: true,
        own: s.own.clone(),
        admitted: true,
        exporter: s.exporter,
        peer_spki: s.peer_spki,
        ask: s.ask.clone(),
        expect: Expect::Candidate(Box::new(candidate.entry.clone())),
        timing: s.timing,
    };
    let step = Session::start(setup, s.session_nonce, ctx);
    step.map(|session| Verifier::Attesting(base, candidate, session))
}

fn attest(
    base: Box<Base>,
    candidate: Box<Candidate>,
    session: Session,
    event: Event,
    ctx: &Context<'_>,
) -> Step<Verifier> {
    let Step { next: session, commands } = session.on(event, ctx);
    if let Session::Closed(refusal) = session {
        return Step { next: Verifier::Closed(refusal), commands };
    }
    let mut kept = Vec::new();
    let mut channel = None;
    for command in commands {
        match command {
            Command::Established(open) => channel = Some(open),
            other => kept.push(other),
        }
    }
    let next = match channel {
        Some(channel) => Verifier::AwaitingAccept(base, candidate, session, channel),
        None => Verifier::Attesting(base, candidate, session),
    };
    Step { next, commands: kept }
}

fn on_accept(
    mut base: Box<Base>,
    candidate: Candidate,
    session: Session,
    channel: AttestedChannel,
    accept: JoinAccept,
    ctx: &Context<'_>,
) -> Outcome {
    let shown = accept.secret.key().id() == candidate.token;
    check(Check::TokenSecret, shown, || Refusal::TokenSecretWrong)?;
    // Time has passed, and another may have come by the same token meanwhile.
    check_token(ctx, candidate.token, &candidate.entry.identity)?;
    let request = next(&mut base.requests);
    if is_admitted(ctx.view, candidate.token, &candidate.entry.identity) {
        let committing = Committing { candidate, session, channel, request };
        return Ok(admit(committing, ctx.view.head));
    }
    let admission =
        Admission { member: candidate.entry.clone(), token: candidate.token, secret: accept.secret };
    let commands = vec![Command::Commit { request, admission: Box::new(admission) }];
    let committing = Committing { candidate, session, channel, request };
    Ok(Step { next: Verifier::Committing(base, Box::new(committing)), commands })
}

fn on_committed(base: Box<Base>, committing: Box<Committing>, event: Event) -> Outcome {
    match event {
        Event::Committed { request, outcome } if request == committing.request => {
            let head = outcome.map_err(|why| Refusal::NotCommitted { why })?;
            Ok(admit(*committing, head))
        }
        _ => Ok(Step::stay(Verifier::Committing(base, committing))),
    }
}

fn admit(committing: Committing, head: RecordHead) -> Step<Verifier> {
    let Committing { candidate, mut session, channel, .. } = committing;
    session.admitted(&candidate.entry);
    let commands = vec![
        Command::Send(Joined { head }.into()),
        Command::SendRecord { from: candidate.head.number, to: head },
        Command::Established(channel),
    ];
    Step { next: Verifier::Member(session), commands }
}
