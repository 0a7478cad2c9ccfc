//! One connection between members, either end of it. TLS 1.3 is there already (mutual, X25519MLKEM768, no tickets, no
//! resumption, no 0-RTT: the runtime's to see to); the engine decides whether evidence makes it a channel.
//!
//! ```text
//!                 Hello                    quote sent ∧ evidence believed ∧ Accept came
//!  start ─▶ AwaitingHello ──▶ Exchanging ───────────────────────────────────────────▶ Open ─┐ Challenge, Evidence,
//!                │                │                                                    │ ▲──┘ Renew
//!                └────────────────┴───────────── any refusal, Lost, End, deadline ─────┴──▶ Closed
//!
//!  start                              our Hello is sent, if we dialled
//!  AwaitingHello × Hello              our Hello is sent, if we were called; both are hashed, our quote is asked for (a member without a TPM: NoEvidence)
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

mod exchanging;
mod link;
mod open;

use gtvp_model::union::{Identity, MemberId, RosterEntry, SpkiDigest};

use self::exchanging::{Exchanging, Mine, Theirs};
use self::link::{Link, check_ask};
use self::open::{Asked, Open};
use super::binding::{self, Role};
use super::command::{Command, Context, Event, Millis, Step, farewell, next, refused};
use super::logs::Collected;
use super::message::{Ask, Hello, Message, NoEvidence, VERSIONS};
use super::refusal::{Awaited, Refusal};
use crate::planted::{Check, check};

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
    /// Whether our hello is sent at once, or only when the peer's was checked: who is called says nothing to strangers.
    pub first: bool,
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
    /// The peer's hello is awaited.
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

type Outcome = Result<Step<Session>, Refusal>;

impl Session {
    /// Begins: the hello is sent, if ours is the first.
    pub fn start(setup: Setup, nonce: [u8; 32], ctx: &Context<'_>) -> Step<Self> {
        let hello = Hello {
            versions: VERSIONS.to_vec().try_into().unwrap_or_default(),
            union: ctx.view.union,
            member: setup.own.id(),
            epoch: ctx.view.epoch,
            nonce,
            ask: setup.ask.clone(),
        };
        let commands = if setup.first { vec![Command::Send(hello.clone().into())] } else { Vec::new() };
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
        if !link.setup.first {
            commands.push(Command::Send(ours.clone().into()));
        }
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
