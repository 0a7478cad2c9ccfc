//! One connection between members, either end of it. TLS 1.3 is there already (mutual, X25519MLKEM768, no tickets, no
//! resumption, no 0-RTT: the runtime's to see to); the engine decides whether evidence makes it a channel.
//!
//! ```text
//!                 Hello                    quote sent ∧ evidence believed ∧ Accept came
//!  start ─▶ AwaitingHello ──▶ Exchanging ───────────────────────────────────────────▶ Open ─┐ Challenge, Evidence,
//!                │                │                                                    │ ▲──┘ Renew
//!                └────────────────┴───────────── any refusal, Lost, End, deadline ─────┴──▶ Closed
//!
//!  AwaitingHello × Hello              both hellos are hashed, our quote is asked for (a member without a TPM: NoEvidence)
//!  Exchanging    × Quoted             logs and Evidence are sent
//!  Exchanging    × LogPiece           kept, in order, within bounds
//!  Exchanging    × Evidence           shape, round, PCRs, log ends; then appraisal
//!  Exchanging    × NoEvidence         only from a member without a TPM where the union takes such
//!  Exchanging    × Appraised          believed: Accept is sent; else Closed
//!  Exchanging    × Accept             once, after our evidence
//!  Open          × Renew              Challenge is sent, unless one is out
//!  Open          × Challenge          our quote is asked for, unless one is under way: Closed
//!  Open          × LogPiece, Evidence as above, for the challenge that is out
//!  Open          × Appraised          believed: Renewed; else Closed
//!  each          × each event         first: deadline, and that both ends are still in the roster
//!  each          × other message      Closed(OutOfTurn);  × outcome of an old request: nothing
//! ```

use gtvp_model::digest::Digest;
use gtvp_model::union::{Epoch, Identity, MemberId, RosterEntry, SpkiDigest, TpmClass, UnionId};

use super::binding::{self, Binding, Role};
use super::channel::{AttestedChannel, Facts, Grant};
use super::command::{
    Appraisable, Appraisal, Command, Context, Event, Millis, OwnEvidence, Request, Step, farewell, next,
    refused,
};
use super::logs::Collected;
use super::message::{
    Accept, Ask, BELIEVED, Challenge, Evidence, Hello, LogKind, LogPiece, Message, NoEvidence, PCRS, VERSIONS,
};
use super::refusal::{Awaited, Refusal};
use crate::Untrusted;
use crate::planted::{Check, check, demand};

/// How far a peer's epoch may be ahead: a million evictions that we have not heard of.
pub const MAX_EPOCH_LEAD: u64 = 1 << 20;

/// How long is waited, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From the first hello to the open channel: a discrete TPM quotes in 100 to 500 ms, and many may be waiting.
    pub handshake: u64,
    /// From a challenge to its appraisal. With a period of 2 s, silence ends a session within 4.
    pub round: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { handshake: 10_000, round: 2_000 }
    }
}

/// Who may be at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Any member: we were called.
    Member,
    /// This member: we dialled it.
    Dialled(MemberId),
    /// One that is not in the roster yet: it is joining, and its keys were checked.
    Candidate(Box<RosterEntry>),
}

/// What a session begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// Our end.
    pub role: Role,
    /// Ourselves.
    pub own: RosterEntry,
    /// Whether the roster has us: not yet while we join.
    pub admitted: bool,
    /// The connection's exporter, 32 bytes (RFC 9266; RFC 8446 §7.5).
    pub exporter: [u8; 32],
    /// The key that the peer proved to have in TLS.
    pub peer_spki: SpkiDigest,
    /// What we want to see.
    pub ask: Ask,
    /// Whom we want to see.
    pub expect: Expect,
    /// How long we wait.
    pub timing: Timing,
}

/// A session in one of its states.
#[derive(Debug)]
pub enum Session {
    /// Our hello is out.
    AwaitingHello(Box<AwaitingHello>),
    /// Evidence goes both ways.
    Exchanging(Box<Exchanging>),
    /// The channel is open.
    Open(Box<Open>),
    /// It is over.
    Closed(Refusal),
}

/// See [`Session::AwaitingHello`].
#[derive(Debug)]
pub struct AwaitingHello {
    setup: Setup,
    hello: Hello,
    deadline: Millis,
}

/// What is known once both hellos are there.
#[derive(Debug)]
struct Link {
    setup: Setup,
    union: UnionId,
    peer: RosterEntry,
    epoch: Epoch,
    peer_epoch: Epoch,
    nonce: [u8; 32],
    hellos: Digest,
    requests: u32,
}

/// Our evidence.
#[derive(Debug, PartialEq, Eq)]
enum Mine {
    Quoting(Request),
    Sent,
}

/// The peer's.
#[derive(Debug)]
enum Theirs {
    Collecting(Collected),
    Appraising(Request),
    Trusted(Option<Appraisal>),
}

/// See [`Session::Exchanging`].
#[derive(Debug)]
pub struct Exchanging {
    link: Link,
    ask: Ask,
    binding: Binding,
    mine: Mine,
    theirs: Theirs,
    accepted: bool,
    deadline: Millis,
}

/// The round that we asked for.
#[derive(Debug)]
enum Asked {
    Nothing,
    Out { ask: Ask, binding: Box<Binding>, logs: Collected, deadline: Millis },
    Appraising { request: Request, deadline: Millis },
}

/// See [`Session::Open`].
#[derive(Debug)]
pub struct Open {
    link: Link,
    quoting: Option<Request>,
    asked: Asked,
    our_round: u32,
    their_round: u32,
}

type Outcome = Result<Step<Session>, Refusal>;

impl Session {
    /// Begins: the hello is sent.
    pub fn start(setup: Setup, nonce: [u8; 32], ctx: &Context<'_>) -> Step<Self> {
        let hello = Hello {
            versions: VERSIONS.to_vec().try_into().unwrap_or_default(),
            union: ctx.view.union,
            member: setup.own.id(),
            epoch: ctx.view.epoch,
            nonce,
            ask: setup.ask.clone(),
        };
        let commands = vec![Command::Send(hello.clone().into())];
        let deadline = ctx.now.after(setup.timing.handshake);
        Step { next: Self::AwaitingHello(Box::new(AwaitingHello { setup, hello, deadline })), commands }
    }

    /// What is to be done about `event`.
    pub fn on(self, event: Event, ctx: &Context<'_>) -> Step<Self> {
        if matches!(self, Self::Closed(_)) {
            return Step::stay(self);
        }
        self.take(event, ctx)
            .unwrap_or_else(|refusal| Step { commands: farewell(&refusal), next: Self::Closed(refusal) })
    }

    /// The end of a join: whoever joined is now a member as `entry` says, and stays one or loses the session.
    pub(super) fn admitted(&mut self, entry: &RosterEntry) {
        let Self::Open(open) = self else { return };
        let setup = &mut open.link.setup;
        match &setup.expect {
            Expect::Candidate(_) => {
                open.link.peer = entry.clone();
                setup.expect = Expect::Member;
            }
            _ => {
                setup.own = entry.clone();
                setup.admitted = true;
            }
        }
    }

    /// When [`Event::Tick`] is needed at the latest.
    pub fn deadline(&self) -> Option<Millis> {
        match self {
            Self::AwaitingHello(s) => Some(s.deadline),
            Self::Exchanging(s) => Some(s.deadline),
            Self::Open(s) => match s.asked {
                Asked::Out { deadline, .. } | Asked::Appraising { deadline, .. } => Some(deadline),
                Asked::Nothing => None,
            },
            Self::Closed(_) => None,
        }
    }

    /// The state, in a word or two.
    pub fn state(&self) -> &'static str {
        match self {
            Self::AwaitingHello(_) => "awaiting the hello",
            Self::Exchanging(_) => "exchanging evidence",
            Self::Open(_) => "open",
            Self::Closed(_) => "closed",
        }
    }

    fn awaited(&self) -> Awaited {
        match self {
            Self::AwaitingHello(_) => Awaited::Hello,
            Self::Exchanging(s) => match (&s.theirs, &s.mine) {
                (Theirs::Collecting(_), _) => Awaited::Evidence,
                (Theirs::Appraising(_), _) | (_, Mine::Quoting(_)) => Awaited::Ourselves,
                (Theirs::Trusted(_), Mine::Sent) => Awaited::Accept,
            },
            Self::Open(s) => match s.asked {
                Asked::Appraising { .. } => Awaited::Ourselves,
                _ => Awaited::Evidence,
            },
            Self::Closed(_) => Awaited::Ourselves,
        }
    }

    fn take(self, event: Event, ctx: &Context<'_>) -> Outcome {
        let in_time = self.deadline().is_none_or(|deadline| ctx.now < deadline);
        check(Check::Silence, in_time, || Refusal::Silent { awaited: self.awaited() })?;
        match &self {
            Self::Exchanging(s) => s.link.still_members(ctx)?,
            Self::Open(s) => s.link.still_members(ctx)?,
            _ => {}
        }
        let message = match &event {
            Event::Lost => return Err(Refusal::Lost),
            Event::End => return Err(Refusal::Ended),
            Event::NotPersisted { why } => return Err(Refusal::NotPersisted { why: why.clone() }),
            Event::Frame(frame) => Some(Message::decode(frame)?),
            _ => None,
        };
        if let Some(Message::Refuse(refuse)) = &message {
            return Err(refused(refuse));
        }
        let state = self.state();
        match self {
            Self::AwaitingHello(s) => match message {
                Some(Message::Hello(hello)) => s.on_hello(hello, ctx),
                Some(other) => Err(Refusal::OutOfTurn { message: other.name(), state }),
                None => Ok(Step::stay(Self::AwaitingHello(s))),
            },
            Self::Exchanging(s) => match message {
                Some(Message::LogPiece(piece)) => s.on_log(piece),
                Some(Message::Evidence(evidence)) => s.on_evidence(evidence),
                Some(Message::NoEvidence(_)) => s.on_no_evidence(ctx),
                Some(Message::Accept(_)) => s.on_accept(),
                Some(other) => Err(Refusal::OutOfTurn { message: other.name(), state }),
                None => s.on_outcome(event),
            },
            Self::Open(s) => match message {
                Some(Message::Challenge(challenge)) => s.on_challenge(challenge),
                Some(Message::LogPiece(piece)) => s.on_log(piece),
                Some(Message::Evidence(evidence)) => s.on_evidence(evidence),
                Some(other) => Err(Refusal::OutOfTurn { message: other.name(), state }),
                None => s.on_outcome(event, ctx),
            },
            closed @ Self::Closed(_) => Ok(Step::stay(closed)),
        }
    }
}

fn check_ask(ask: &Ask) -> Result<(), Refusal> {
    let banks = ask.selection.as_slice();
    let weak = banks.iter().find(|b| !BELIEVED.contains(&b.algorithm) || b.pcrs == 0 || b.pcrs & !PCRS != 0);
    let algorithm = weak.map_or(0, |b| b.algorithm);
    check(Check::AskedBank, weak.is_none() && !banks.is_empty(), || Refusal::WeakBank { algorithm })
}

/// Exactly the PCRs that were asked, each once.
fn check_pcrs(evidence: &Evidence, ask: &Ask) -> Result<(), Refusal> {
    let mut asked: Vec<(u16, u8)> = Vec::new();
    for bank in ask.selection.as_slice() {
        asked.extend((0u8..24).filter(|n| bank.pcrs >> n & 1 == 1).map(|n| (bank.algorithm, n)));
    }
    let got: Vec<_> = evidence.pcrs.as_slice().iter().map(|p| (p.algorithm, p.index)).collect();
    check(Check::PcrSelection, got == asked, || Refusal::OtherPcrs)
}

impl AwaitingHello {
    fn on_hello(self: Box<Self>, theirs: Hello, ctx: &Context<'_>) -> Outcome {
        let Self { setup, hello: ours, deadline } = *self;
        check(Check::Union, theirs.union == ours.union, || Refusal::OtherUnion { theirs: theirs.union })?;
        check(Check::NotOurselves, theirs.member != ours.member, || Refusal::Ourselves)?;
        check(Check::NonceEchoed, theirs.nonce != ours.nonce, || Refusal::NonceEchoed)?;
        let (got, member) = (theirs.member, theirs.member);
        let peer = match &setup.expect {
            Expect::Candidate(entry) => {
                check(Check::Dialled, got == entry.id(), || Refusal::NotWhoWasDialled {
                    got,
                    want: entry.id(),
                })?;
                entry.as_ref().clone()
            }
            Expect::Dialled(want) => {
                check(Check::Dialled, got == *want, || Refusal::NotWhoWasDialled { got, want: *want })?;
                in_roster(member, ctx)?
            }
            Expect::Member => in_roster(member, ctx)?,
        };
        let shown = peer.identity.spki() == setup.peer_spki;
        check(Check::TlsKey, shown, || Refusal::TlsKeyOfAnother { member })?;
        let (ours_at, theirs_at) = (ours.epoch, theirs.epoch);
        let near = theirs_at.0 <= ours_at.0.saturating_add(MAX_EPOCH_LEAD);
        check(Check::EpochLead, near, || Refusal::EpochFarAhead { theirs: theirs_at, ours: ours_at })?;
        check_ask(&theirs.ask)?;

        let (our_body, their_body) =
            (Message::from(ours.clone()).frame().body, Message::from(theirs.clone()).frame().body);
        let hellos = match setup.role {
            Role::Initiator => binding::hellos(&our_body, &their_body),
            Role::Responder => binding::hellos(&their_body, &our_body),
        };
        let mut link = Link {
            setup,
            union: ours.union,
            peer,
            epoch: ours_at,
            peer_epoch: theirs_at,
            nonce: ours.nonce,
            hellos,
            requests: 0,
        };
        let mut commands = Vec::new();
        let mine = match &link.setup.own.identity {
            Identity::Tpm { .. } => {
                let request = next(&mut link.requests);
                let binding = Box::new(link.ours(theirs.nonce, hellos));
                commands.push(Command::Quote { request, binding, ask: theirs.ask });
                Mine::Quoting(request)
            }
            Identity::Bare { .. } => {
                commands.push(Command::Send(NoEvidence {}.into()));
                Mine::Sent
            }
        };
        let binding = link.theirs(ours.nonce, hellos);
        let theirs = Theirs::Collecting(Collected::default());
        let next = Exchanging { link, ask: ours.ask, binding, mine, theirs, accepted: false, deadline };
        Ok(Step { next: Session::Exchanging(Box::new(next)), commands })
    }
}

fn in_roster(member: MemberId, ctx: &Context<'_>) -> Result<RosterEntry, Refusal> {
    ctx.view.members.get(&member).cloned().ok_or(Refusal::NotInRoster { member })
}

impl Link {
    fn ours(&self, nonce: [u8; 32], transcript: Digest) -> Binding {
        Binding {
            union: self.union,
            epoch: self.epoch,
            role: self.setup.role,
            attester: self.setup.own.id(),
            challenger: self.peer.id(),
            exporter: self.setup.exporter,
            nonce,
            attester_tls: self.setup.own.identity.tls_name(),
            challenger_tls: self.peer.identity.tls_name(),
            transcript,
        }
    }

    fn theirs(&self, nonce: [u8; 32], transcript: Digest) -> Binding {
        Binding {
            union: self.union,
            epoch: self.peer_epoch,
            role: self.setup.role.other(),
            attester: self.peer.id(),
            challenger: self.setup.own.id(),
            exporter: self.setup.exporter,
            nonce,
            attester_tls: self.peer.identity.tls_name(),
            challenger_tls: self.setup.own.identity.tls_name(),
            transcript,
        }
    }

    /// Both ends are members with the keys that this session began with.
    fn still_members(&self, ctx: &Context<'_>) -> Result<(), Refusal> {
        let is = |entry: &RosterEntry| {
            ctx.view.members.get(&entry.id()).is_some_and(|now| now.identity == entry.identity)
        };
        if !matches!(self.setup.expect, Expect::Candidate(_)) {
            let member = self.peer.id();
            check(Check::Evicted, is(&self.peer), || Refusal::Evicted { member })?;
        }
        if self.setup.admitted {
            check(Check::Evicted, is(&self.setup.own), || Refusal::WeAreOut)?;
        }
        Ok(())
    }

    fn grant(&self) -> Grant {
        let same = check(Check::EpochGrant, self.epoch == self.peer_epoch, || ());
        if same.is_ok() { Grant::Full } else { Grant::RecordOnly }
    }

    fn channel(&self, result: Option<Appraisal>) -> AttestedChannel {
        AttestedChannel::new(Facts {
            union: self.union,
            peer: self.peer.id(),
            class: self.peer.identity.class(),
            spki: self.peer.identity.spki(),
            exporter: self.setup.exporter,
            grant: self.grant(),
            result: result.map(|r| r.result),
        })
    }
}

/// Logs, then the quote.
fn send_evidence(evidence: &OwnEvidence, round: u32) -> Result<Vec<Command>, Refusal> {
    let too_long = |what: &str| Refusal::NoQuote { why: format!("{what} is longer than HSP carries") };
    let mut ends = Vec::new();
    let mut commands = Vec::new();
    for log in LogKind::ALL {
        let delta = evidence.logs.iter().find(|d| d.log == log);
        ends.push(delta.map_or(0, |d| d.from.saturating_add(d.bytes.len() as u64)));
        let pieces = delta.into_iter().flat_map(|d| d.pieces());
        commands.extend(pieces.map(|piece| Command::Send(piece.into())));
    }
    let message = Evidence {
        round,
        attest: evidence.attest.clone().try_into().map_err(|_| too_long("the quote"))?,
        signature: evidence.signature.clone().try_into().map_err(|_| too_long("its signature"))?,
        pcrs: evidence.pcrs.clone().try_into().map_err(|_| too_long("the list of PCRs"))?,
        path: evidence.path.clone(),
        ends: ends.try_into().map_err(|_| too_long("the list of logs"))?,
        ak: evidence.ak.clone().try_into().map_err(|_| too_long("the attestation key"))?,
    };
    commands.push(Command::Send(message.into()));
    Ok(commands)
}

fn out_of_turn(message: &'static str, state: &'static str) -> Refusal {
    Refusal::OutOfTurn { message, state }
}

const EXCHANGING: &str = "exchanging evidence";
const OPEN: &str = "open";

impl Exchanging {
    fn on_log(mut self: Box<Self>, piece: LogPiece) -> Outcome {
        let Theirs::Collecting(logs) = &mut self.theirs else {
            return Err(out_of_turn("LogPiece", EXCHANGING));
        };
        logs.add(piece, &self.ask)?;
        Ok(Step::stay(Session::Exchanging(self)))
    }

    fn on_evidence(mut self: Box<Self>, evidence: Evidence) -> Outcome {
        let (Theirs::Collecting(logs), Identity::Tpm { .. }) = (&mut self.theirs, &self.link.peer.identity)
        else {
            return Err(out_of_turn("Evidence", EXCHANGING));
        };
        let logs = std::mem::take(logs);
        let request = next(&mut self.link.requests);
        let what = appraisable(&self.link.peer, evidence, logs, 0, &self.binding, &self.ask)?;
        self.theirs = Theirs::Appraising(request);
        let commands = vec![Command::Appraise { request, what: Box::new(what) }];
        Ok(Step { next: Session::Exchanging(self), commands })
    }

    fn on_no_evidence(mut self: Box<Self>, ctx: &Context<'_>) -> Outcome {
        if !matches!(self.theirs, Theirs::Collecting(_)) {
            return Err(out_of_turn("NoEvidence", EXCHANGING));
        }
        let bare = self.link.peer.identity.class() == TpmClass::None;
        let taken = bare && ctx.view.settings.admits(TpmClass::None);
        check(Check::NoEvidence, taken, || Refusal::EvidenceMissing)?;
        self.theirs = Theirs::Trusted(None);
        Ok(self.proceed(vec![Command::Send(Accept {}.into())]))
    }

    fn on_accept(mut self: Box<Self>) -> Outcome {
        let in_turn = self.mine == Mine::Sent && !self.accepted;
        demand(in_turn, || out_of_turn("Accept", EXCHANGING))?;
        self.accepted = true;
        Ok(self.proceed(Vec::new()))
    }

    fn on_outcome(mut self: Box<Self>, event: Event) -> Outcome {
        match (event, &self.mine, &self.theirs) {
            (Event::Quoted { request, outcome }, Mine::Quoting(want), _) if request == *want => {
                let evidence = outcome.map_err(|why| Refusal::NoQuote { why })?;
                self.mine = Mine::Sent;
                let commands = send_evidence(&evidence, 0)?;
                Ok(self.proceed(commands))
            }
            (Event::Appraised { request, outcome }, _, Theirs::Appraising(want))
                if check(Check::Request, request == *want, || ()).is_ok() =>
            {
                let appraisal = outcome.map_err(|why| Refusal::EvidenceRejected { why })?;
                self.theirs = Theirs::Trusted(Some(appraisal));
                Ok(self.proceed(vec![Command::Send(Accept {}.into())]))
            }
            _ => Ok(Step::stay(Session::Exchanging(self))),
        }
    }

    /// Opens the channel if everything is there.
    fn proceed(self: Box<Self>, mut commands: Vec<Command>) -> Step<Session> {
        let next = match (&self.mine, &self.theirs, self.accepted) {
            (Mine::Sent, Theirs::Trusted(result), true) => {
                commands.push(Command::Established(self.link.channel(*result)));
                let asked = Asked::Nothing;
                let link = self.link;
                Session::Open(Box::new(Open { link, quoting: None, asked, our_round: 0, their_round: 0 }))
            }
            _ => Session::Exchanging(self),
        };
        Step { next, commands }
    }
}

fn appraisable(
    peer: &RosterEntry,
    evidence: Evidence,
    logs: Collected,
    round: u32,
    binding: &Binding,
    ask: &Ask,
) -> Result<Appraisable, Refusal> {
    let got = evidence.round;
    demand(got == round, || Refusal::OtherRound { got, want: round })?;
    check_pcrs(&evidence, ask)?;
    let logs = logs.finish(evidence.ends.as_slice(), ask)?;
    let (of, binding, ask) = (peer.clone(), binding.clone(), ask.clone());
    Ok(Appraisable { of, evidence: Untrusted::new(evidence), logs, binding, ask })
}

impl Open {
    fn on_challenge(mut self: Box<Self>, challenge: Challenge) -> Outcome {
        if self.quoting.is_some() || matches!(self.link.setup.own.identity, Identity::Bare { .. }) {
            return Err(out_of_turn("Challenge", OPEN));
        }
        let want = self.their_round.checked_add(1).ok_or(Refusal::RoundsUsedUp)?;
        let got = challenge.round;
        demand(got == want, || Refusal::OtherRound { got, want })?;
        check_ask(&challenge.ask)?;
        self.their_round = want;
        let request = next(&mut self.link.requests);
        self.quoting = Some(request);
        let transcript = binding::round(self.link.hellos, &Message::from(challenge.clone()).frame().body);
        let binding = Box::new(self.link.ours(challenge.nonce, transcript));
        let commands = vec![Command::Quote { request, binding, ask: challenge.ask }];
        Ok(Step { next: Session::Open(self), commands })
    }

    fn on_log(mut self: Box<Self>, piece: LogPiece) -> Outcome {
        let Asked::Out { ask, logs, .. } = &mut self.asked else {
            return Err(out_of_turn("LogPiece", OPEN));
        };
        logs.add(piece, ask)?;
        Ok(Step::stay(Session::Open(self)))
    }

    fn on_evidence(mut self: Box<Self>, evidence: Evidence) -> Outcome {
        let Asked::Out { ask, binding, logs, deadline } = &mut self.asked else {
            return Err(out_of_turn("Evidence", OPEN));
        };
        let (logs, deadline) = (std::mem::take(logs), *deadline);
        let what = appraisable(&self.link.peer, evidence, logs, self.our_round, binding, ask)?;
        let request = next(&mut self.link.requests);
        self.asked = Asked::Appraising { request, deadline };
        let commands = vec![Command::Appraise { request, what: Box::new(what) }];
        Ok(Step { next: Session::Open(self), commands })
    }

    fn on_outcome(mut self: Box<Self>, event: Event, ctx: &Context<'_>) -> Outcome {
        let mut commands = Vec::new();
        match (event, &self.asked) {
            (Event::Quoted { request, outcome }, _) if self.quoting == Some(request) => {
                let evidence = outcome.map_err(|why| Refusal::NoQuote { why })?;
                self.quoting = None;
                commands = send_evidence(&evidence, self.their_round)?;
            }
            (Event::Appraised { request, outcome }, Asked::Appraising { request: want, .. })
                if check(Check::Request, request == *want, || ()).is_ok() =>
            {
                let appraisal = outcome.map_err(|why| Refusal::EvidenceRejected { why })?;
                self.asked = Asked::Nothing;
                commands.push(Command::Renewed(appraisal));
            }
            (Event::Renew { nonce, ask }, Asked::Nothing)
                if self.link.peer.identity.class() != TpmClass::None =>
            {
                commands.push(self.renew(nonce, ask, ctx)?);
            }
            _ => {}
        }
        Ok(Step { next: Session::Open(self), commands })
    }

    fn renew(&mut self, nonce: [u8; 32], ask: Ask, ctx: &Context<'_>) -> Result<Command, Refusal> {
        check(Check::NonceFresh, nonce != self.link.nonce, || Refusal::NonceUsed)?;
        self.our_round = self.our_round.checked_add(1).ok_or(Refusal::RoundsUsedUp)?;
        self.link.nonce = nonce;
        let challenge = Challenge { round: self.our_round, nonce, ask: ask.clone() };
        let transcript = binding::round(self.link.hellos, &Message::from(challenge.clone()).frame().body);
        let binding = Box::new(self.link.theirs(nonce, transcript));
        let deadline = ctx.now.after(self.link.setup.timing.round);
        self.asked = Asked::Out { ask, binding, logs: Collected::default(), deadline };
        Ok(Command::Send(challenge.into()))
    }
}
