//! A machine: one end of one migration. It looks its event up in the end's table and turns the row into commands, its journal first.
//!
//! Whoever runs it carries the commands out in their order, and what stands behind a [`Command::Journal`] only once that is durable; and
//! tells it each change of the record, a tick each second or so, and after a restart whether the box's process is there.

use gtvp_model::digest::Digest;
use gtvp_model::owner::{BoxId, Outcome};
use gtvp_model::union::{MemberId, UnionView, UnixTime};
use minicbor::{Decode, Encode};

use super::message::{Abort, Accept, Built, Killed, Lost, Message, Offer, Ready, Still, Switch, Taken, Why};
use super::source::Source;
use super::table::{Do, End, If, On, Row, Say, Told, find};
use super::target::Target;
use super::ticket::{Known, SignedTicket};
use crate::csp::owner::{Owning, Terms};
use crate::csp::{Signature, Signatures};
use crate::fields;
use crate::frame::wire::{self, BodyFault, Bytes};
use crate::planted::{Check, check};

/// Longest journal of a machine: a ticket, four signatures, two digests.
pub const MAX_JOURNAL: usize = 8 * 1024;
const VERSION: u8 = 1;

/// What an end knows of its migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// By which it is. Of a target that has not taken it: as it was offered.
    pub ticket: SignedTicket,
    /// Digest of the state in which the box was stopped.
    pub state: Option<Digest>,
    /// This end's signature over the terms.
    pub mine: Option<Signature>,
    /// The other end's.
    pub theirs: Option<Signature>,
}

impl Facts {
    /// Of a migration that begins.
    pub fn new(ticket: SignedTicket) -> Self {
        Self { ticket, state: None, mine: None, theirs: None }
    }

    /// What both ends sign, once there is a state.
    pub fn terms(&self) -> Option<Terms> {
        let t = &self.ticket.ticket;
        let ticket = t.digest();
        let of = |state| Terms {
            union: t.union,
            id: t.id,
            epoch: t.epoch,
            from: t.source,
            to: t.target,
            ticket,
            state,
        };
        self.state.map(of)
    }
}

/// What a machine is read from after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal<S> {
    /// In which state it is.
    pub state: S,
    /// What it knows.
    pub facts: Facts,
}

#[derive(Encode, Decode)]
struct Form(
    #[n(0)] u8,
    #[n(1)] u8,
    #[n(2)] SignedTicket,
    #[cbor(n(3), with = "optional")] Option<Digest>,
    #[n(4)] Option<Signature>,
    #[n(5)] Option<Signature>,
);

mod optional {
    use super::*;
    use minicbor::decode::Error as DecodeError;
    use minicbor::encode::{Error as EncodeError, Write};
    use minicbor::{Decoder, Encoder};

    pub fn encode<C, W: Write>(
        d: &Option<Digest>,
        e: &mut Encoder<W>,
        c: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        match d {
            Some(d) => fields::digest::encode(d, e, c),
            None => e.null()?.ok(),
        }
    }

    pub fn decode<C>(d: &mut Decoder<'_>, c: &mut C) -> Result<Option<Digest>, DecodeError> {
        if d.datatype()? == minicbor::data::Type::Null {
            return d.null().map(|()| None);
        }
        fields::digest::decode(d, c).map(Some)
    }
}

impl<S: Side> Journal<S> {
    /// As it is kept.
    pub fn encode(&self) -> Vec<u8> {
        let state = S::ALL.iter().position(|s| *s == self.state).and_then(|n| u8::try_from(n).ok());
        let Facts { ticket, state: digest, mine, theirs } = self.facts.clone();
        wire::encode(&Form(VERSION, state.unwrap_or(u8::MAX), ticket, digest, mine, theirs))
    }

    /// What was kept.
    ///
    /// # Errors
    /// Bytes that are no journal of this end. Nothing is known of the box's owner then but what the record says.
    pub fn decode(bytes: &[u8]) -> Result<Self, BodyFault> {
        if bytes.len() > MAX_JOURNAL {
            return Err(BodyFault::Shape(format!("{} bytes are no journal", bytes.len())));
        }
        let Form(version, state, ticket, digest, mine, theirs) = wire::decode(bytes)?;
        if version != VERSION {
            return Err(BodyFault::Shape(format!("a journal of version {version}")));
        }
        let state = S::ALL.get(usize::from(state)).copied();
        let state =
            state.ok_or_else(|| BodyFault::Shape("a state that this version does not have".into()))?;
        Ok(Self { state, facts: Facts { ticket, state: digest, mine, theirs } })
    }
}

/// Which of the two ends.
pub trait Side: End {
    /// Before anything.
    const IDLE: Self;
    /// Who is at this end, and who at the other one.
    fn ends(ticket: &SignedTicket) -> (MemberId, MemberId);
}

impl Side for Source {
    const IDLE: Self = Self::Idle;
    fn ends(ticket: &SignedTicket) -> (MemberId, MemberId) {
        (ticket.ticket.source, ticket.ticket.target)
    }
}

impl Side for Target {
    const IDLE: Self = Self::Idle;
    fn ends(ticket: &SignedTicket) -> (MemberId, MemberId) {
        (ticket.ticket.target, ticket.ticket.source)
    }
}

/// Names what was begun: outcomes of anything older are not for the state that the machine is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Request(pub u64);

/// What was begun is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Product {
    /// Nothing more is to be said.
    Plain,
    /// Of [`Command::Reserve`]: the target's signature over the ticket.
    Reserved(Signature),
    /// Of [`Command::Pause`]: the box's state.
    Stopped(Digest),
    /// Of [`Command::Digest`]: the state that is here, and, if it is the same, the target's signature over the terms.
    Checked(Digest, Option<Signature>),
    /// Of [`Command::Agree`]: the source's signature over the terms.
    Agreed(Signature),
}

/// What can be wanted: see the same names of [`On`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "On has the same names")]
pub enum Wish {
    Begin,
    Cancel,
    Retry,
    Without,
    Adopt,
    Forget,
}

impl From<Wish> for On {
    fn from(wish: Wish) -> Self {
        match wish {
            Wish::Begin => Self::Begin,
            Wish::Cancel => Self::Cancel,
            Wish::Retry => Self::Retry,
            Wish::Without => Self::Without,
            Wish::Adopt => Self::Adopt,
            Wish::Forget => Self::Forget,
        }
    }
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An administrator, or what speaks for one, wants something.
    Wish(Wish),
    /// The other end says something.
    Message(Message),
    /// Something that was begun is done, or why it failed.
    Finished(Request, Result<Product, String>),
    /// The record has changed.
    ViewChanged,
    /// Time goes on.
    Tick,
    /// The machine was just read from its journal.
    Restarted {
        /// The box's process is here.
        process: bool,
    },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<S> {
    /// Make it durable before what stands behind it.
    Journal(Box<Journal<S>>),
    /// Say it to the other end.
    Send(Message),
    /// See [`Do::Reserve`].
    Reserve(Request),
    /// See [`Do::Build`].
    Build(Request),
    /// See [`Do::Receive`].
    Receive(Request),
    /// See [`Do::SendState`].
    SendState(Request),
    /// See [`Do::Pause`].
    Pause(Request),
    /// See [`Do::Digest`]. The terms have the source's state: they are signed only if it is this one.
    Digest(Request, Terms),
    /// See [`Do::Agree`].
    Agree(Request, Terms),
    /// Have this written into the record.
    Propose(BoxId, Owning),
    /// See [`Do::Kill`].
    Kill(Request),
    /// See [`Do::Wipe`].
    Wipe(Request),
    /// See [`Do::Appraise`].
    Appraise,
    /// See [`Do::ReleaseKey`].
    ReleaseKey,
    /// See [`Do::Resume`]. Not while what stands before it in the same list has failed.
    Resume(Request),
    /// People are told: what, and in whose words why.
    Tell(Told, Option<String>),
}

/// What a machine needs to know beside its events.
pub struct Context<'a> {
    /// The record as this member has it.
    pub view: &'a UnionView,
    /// The time.
    pub now: UnixTime,
    /// The channel to the other end: its exporter's digest.
    pub channel: Digest,
    /// Who is at the other end of it.
    pub peer: MemberId,
    /// This member.
    pub own: MemberId,
    /// No other migration of this box is under way on this member, and a target has no box of this name.
    pub alone: bool,
    /// `security` permits it now: resources, levels, fresh verdicts of both members.
    pub permitted: bool,
    /// Checks signatures.
    pub signatures: &'a dyn Signatures,
}

/// What follows from an event.
pub type Step<S> = Vec<Command<S>>;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine<S> {
    state: S,
    facts: Facts,
    request: Request,
    told: Option<Told>,
    why: Option<String>,
}

impl<S: Side> Machine<S> {
    /// Before anything: of a source, by the ticket that its `security` has signed; of a target, by the one that came.
    pub fn new(ticket: SignedTicket) -> Self {
        Self::read(Journal { state: S::IDLE, facts: Facts::new(ticket) })
    }

    /// As it was written down. [`Event::Restarted`] is the first thing that it is told.
    pub fn read(journal: Journal<S>) -> Self {
        let Journal { state, facts } = journal;
        Self { state, facts, request: Request(0), told: None, why: None }
    }

    /// Its state.
    pub fn state(&self) -> S {
        self.state
    }

    /// What it knows.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Why it was given up, as far as anybody has said.
    pub fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// What is to be done about `event`. What the table has no row for changes nothing.
    pub fn on(&mut self, event: Event, ctx: &Context<'_>) -> Step<S> {
        match event {
            Event::Wish(wish) => self.take(wish.into(), None, ctx),
            Event::Message(message) => {
                let ours = message.ticket() == self.facts.ticket.ticket.digest();
                if check(Check::MigrationTicket, ours && ctx.peer == S::ends(&self.facts.ticket).1, || ())
                    .is_err()
                {
                    return Vec::new();
                }
                let on = On::Heard(message.says());
                self.take(on, Some(News::Message(&message)), ctx)
            }
            Event::Finished(request, _) if request != self.request => Vec::new(),
            Event::Finished(_, Ok(product)) => self.take(On::Done, Some(News::Product(&product)), ctx),
            Event::Finished(_, Err(why)) => {
                self.why = Some(why);
                self.take(On::Failed, None, ctx)
            }
            Event::ViewChanged => self.read_record(ctx),
            Event::Tick => {
                let mut step = self.read_record(ctx);
                if step.is_empty() && ctx.now >= self.facts.ticket.ticket.expires {
                    step = self.take(On::Expired, None, ctx);
                }
                if step.is_empty() { self.take(On::Tick, None, ctx) } else { step }
            }
            Event::Restarted { process } => {
                let on = if process { On::Restart } else { On::RestartBare };
                let mut step = self.take(on, None, ctx);
                step.extend(self.read_record(ctx));
                step
            }
        }
    }

    /// What the record says of this migration; and whether it may still be.
    fn read_record(&mut self, ctx: &Context<'_>) -> Step<S> {
        let ticket = &self.facts.ticket.ticket;
        let on = match Outcome::of(ctx.view.boxes.get(&ticket.id), ticket.epoch, ticket.digest()) {
            Outcome::Moved => On::Moved,
            Outcome::Aborted => On::Aborted,
            Outcome::Past => On::Past,
            Outcome::Open if self.permitted(ctx) => return Vec::new(),
            Outcome::Open => On::Cancel,
        };
        self.take(on, None, ctx)
    }

    /// The union is as when the ticket was made, and the other end is a member.
    fn permitted(&self, ctx: &Context<'_>) -> bool {
        let peer = S::ends(&self.facts.ticket).1;
        let same = ctx.view.epoch == self.facts.ticket.ticket.policy;
        check(Check::TicketPolicy, same, || ()).is_ok()
            && ctx.permitted
            && ctx.view.members.contains_key(&peer)
    }

    fn take(&mut self, on: On, news: Option<News<'_>>, ctx: &Context<'_>) -> Step<S> {
        let Some((_, row)) = find(S::table(), self.state, on, |guard| self.holds(guard, news, ctx)) else {
            return Vec::new();
        };
        let row: &Row<S> = row;
        if let Some(news) = news {
            self.learn(news);
        }
        let mut step = Vec::new();
        if let Some(to) = row.to {
            if to != self.state {
                self.told = None;
            }
            self.state = to;
            if row.write {
                step.push(Command::Journal(Box::new(Journal { state: to, facts: self.facts.clone() })));
            }
        }
        for what in row.does {
            step.extend(self.command(*what, on, news, ctx));
        }
        step
    }

    /// Whether a guard holds, at this news.
    fn holds(&self, guard: If, news: Option<News<'_>>, ctx: &Context<'_>) -> bool {
        let signed = &self.facts.ticket;
        let ticket = &signed.ticket;
        let (own, peer) = S::ends(signed);
        let state = match news {
            Some(News::Message(Message::Ready(m))) => Some(m.state),
            Some(News::Product(Product::Checked(state, Some(_)))) => Some(*state),
            _ => None,
        };
        match guard {
            If::Alone => ctx.alone,
            If::Owns => {
                ctx.view.boxes.get(&ticket.id).is_some_and(|b| b.owner == own && b.epoch == ticket.epoch)
            }
            If::Ticket => self.refusal(ctx).is_none(),
            If::Live => ctx.now < ticket.expires,
            If::Permitted => self.permitted(ctx),
            If::PeerRemoved => !ctx.view.members.contains_key(&peer),
            If::Same => state.is_some() && state == self.facts.state,
            If::Countersigned => match news {
                Some(News::Message(Message::Accept(m))) => {
                    ticket.signed(&m.signature, peer, "target", ctx.view, ctx.signatures).is_ok()
                }
                _ => false,
            },
            If::Agreed => {
                let consent = match news {
                    Some(News::Message(Message::Ready(m))) => &m.consent,
                    Some(News::Message(Message::Switch(m))) => &m.consent,
                    _ => return false,
                };
                let (Some(terms), Some(peer)) = (self.facts.terms(), ctx.view.members.get(&peer)) else {
                    return false;
                };
                consent.is_by(peer, &terms.signed_content(), ctx.signatures)
            }
        }
    }

    fn refusal(&self, ctx: &Context<'_>) -> Option<super::TicketRefusal> {
        let SignedTicket { ticket, source, .. } = &self.facts.ticket;
        let Context { view, now, channel, peer, own, signatures, .. } = *ctx;
        ticket.check(source, &Known { own, peer, channel, view, now, signatures }).err()
    }

    /// What the news has that later rows need.
    fn learn(&mut self, news: News<'_>) {
        let facts = &mut self.facts;
        match news {
            News::Message(Message::Accept(m)) => facts.ticket.target = Some(m.signature.clone()),
            News::Product(Product::Reserved(signature)) => facts.ticket.target = Some(signature.clone()),
            News::Message(Message::Still(m)) => facts.state = Some(m.state),
            News::Product(Product::Stopped(state)) => facts.state = Some(*state),
            News::Product(Product::Checked(_, consent)) => facts.mine = consent.clone(),
            News::Product(Product::Agreed(consent)) => facts.mine = Some(consent.clone()),
            News::Message(Message::Ready(m)) => facts.theirs = Some(m.consent.clone()),
            News::Message(Message::Switch(m)) => facts.theirs = Some(m.consent.clone()),
            News::Message(Message::Abort(m)) => {
                self.why = Some(String::from_utf8_lossy(m.why.as_slice()).into_owned());
            }
            _ => {}
        }
    }

    fn next(&mut self) -> Request {
        self.request = Request(self.request.0.saturating_add(1));
        self.request
    }

    fn command(&mut self, what: Do, on: On, news: Option<News<'_>>, ctx: &Context<'_>) -> Option<Command<S>> {
        let ticket = &self.facts.ticket.ticket;
        let (id, epoch, digest) = (ticket.id, ticket.epoch, ticket.digest());
        Some(match what {
            Do::Send(say) => Command::Send(self.message(say, on, news, ctx)?),
            Do::Reserve => Command::Reserve(self.next()),
            Do::Build => Command::Build(self.next()),
            Do::Receive => Command::Receive(self.next()),
            Do::SendState => Command::SendState(self.next()),
            Do::Pause => Command::Pause(self.next()),
            Do::Digest => Command::Digest(self.next(), self.facts.terms()?),
            Do::Agree => Command::Agree(self.next(), self.facts.terms()?),
            Do::ProposeMoved => {
                let Terms { from, to, ticket, state, .. } = self.facts.terms()?;
                let consent = self.facts.theirs.clone()?;
                Command::Propose(id, Owning::Moved { from, to, epoch, ticket, state, consent })
            }
            Do::ProposeAborted => Command::Propose(id, Owning::MoveAborted { epoch, ticket: digest }),
            Do::ProposeAdopted => Command::Propose(id, Owning::Adopted { epoch, ticket: Some(digest) }),
            Do::Kill => Command::Kill(self.next()),
            Do::Wipe => Command::Wipe(self.next()),
            Do::Appraise => Command::Appraise,
            Do::ReleaseKey => Command::ReleaseKey,
            Do::Resume => Command::Resume(self.next()),
            // Once in a state: ticks go on.
            Do::Tell(told) if self.told == Some(told) => return None,
            Do::Tell(told) => {
                self.told = Some(told);
                Command::Tell(told, self.why.clone())
            }
        })
    }

    fn message(&self, say: Say, on: On, news: Option<News<'_>>, ctx: &Context<'_>) -> Option<Message> {
        let SignedTicket { ticket: offered, source, target } = self.facts.ticket.clone();
        let ticket = offered.digest();
        let Facts { state, mine, .. } = self.facts.clone();
        Some(match say {
            Say::Offer => Offer { offered: Box::new(offered), signature: source }.into(),
            Say::Accept => Accept { ticket, signature: target? }.into(),
            Say::Built => Built { ticket }.into(),
            Say::Still => Still { ticket, state: state? }.into(),
            Say::Ready => Ready { ticket, state: state?, consent: mine? }.into(),
            Say::Switch => Switch { ticket, consent: mine? }.into(),
            Say::Killed => Killed { ticket }.into(),
            Say::Taken => Taken { ticket }.into(),
            Say::Lost => Lost { ticket }.into(),
            Say::Abort => {
                let (code, why) = self.reason(on, news, ctx);
                let why = why.chars().take(super::message::MAX_WHY / 4).collect::<String>().into_bytes();
                Abort { ticket, code, why: Bytes::try_from(why).unwrap_or_default() }.into()
            }
        })
    }

    /// Why this ticket moves nothing, as the other end is told.
    fn reason(&self, on: On, news: Option<News<'_>>, ctx: &Context<'_>) -> (Why, String) {
        match (on, news) {
            (On::Heard(Say::Offer), _) if self.state == S::IDLE => {
                let busy = "another migration of this box, or a box of its name, is here; or it is not permitted here";
                (Why::Refused, self.refusal(ctx).map_or_else(|| busy.to_owned(), |r| r.to_string()))
            }
            (On::Cancel, _) => (Why::Cancelled, "it was cancelled, or is not permitted any more".to_owned()),
            (On::Failed, _) => (Why::Failed, self.why.clone().unwrap_or_default()),
            (On::Expired, _) => (Why::Expired, "the ticket has expired".to_owned()),
            (On::Done | On::Heard(Say::Ready), _) if self.facts.state.is_some() => (
                Why::Unlike,
                "the two ends do not have the same state, or it may not be moved any more".to_owned(),
            ),
            (On::Restart | On::RestartBare, _) => (Why::Restarted, "a member was restarted".to_owned()),
            _ => (Why::Over, "it is over".to_owned()),
        }
    }
}

/// What an event brings.
#[derive(Clone, Copy)]
enum News<'a> {
    Message(&'a Message),
    Product(&'a Product),
}
