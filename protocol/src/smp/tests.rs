//! Two machines, a record between them, and whatever may be wrong with a ticket, a message or a journal. What orders of events do is
//! the exploration's (`sim/tests/smp.rs`).

mod models;
mod spec;
mod wire;

use std::collections::VecDeque;

use gtvp_model::digest::Digest;
use gtvp_model::owner::{BoxId, OwnerEpoch};
use gtvp_model::union::UnixTime;

use super::engine::Machine;
use super::table::End as _;
use super::ticket::{Hash, Known, MAX_LIFE, SKEW};
use super::*;
use crate::csp::testing::{Cheap, World};
use crate::csp::{Act, Owning};
use crate::planted::{Check, without};

const STATE: Digest = Digest([9; 32]);
const CHANNEL: Digest = Digest([4; 32]);
const NOW: UnixTime = UnixTime(1_000);

fn id() -> BoxId {
    [7; 32].into()
}

/// A union of a, b, c, in which `a` owns the box, and a ticket from `a` to `b`.
fn world() -> (World, Ticket) {
    let mut world = World::begin(&["a", "b", "c"]);
    let does = Owning::Placed { name: "web".parse().unwrap() };
    world.write("a", Act::Box { id: id(), does }).unwrap();
    let view = world.record().view();
    let ticket = Ticket {
        version: 1,
        union: view.union,
        id: id(),
        epoch: view.boxes[&id()].epoch,
        source: world.id("a"),
        target: world.id("b"),
        composition: Digest([1; 32]),
        policy: view.epoch,
        channel: CHANNEL,
        expires: UnixTime(NOW.0 + 600),
        template: Some(Hash([2; 32])),
        target_result: Digest([5; 32]),
        source_result: Digest([6; 32]),
        nonce: Hash([8; 32]),
    };
    (world, ticket)
}

fn signed(world: &World, ticket: Ticket) -> SignedTicket {
    let source = world.sign("a", &ticket.signed_content());
    SignedTicket { ticket, source, target: None }
}

/// One end, its journal, and what it was told to do.
struct End<S: Side> {
    name: &'static str,
    machine: Machine<S>,
    journal: Option<Vec<u8>>,
    did: Vec<String>,
    /// The state that its digest finds.
    state: Digest,
    permitted: bool,
}

impl<S: Side> End<S> {
    fn new(name: &'static str, ticket: SignedTicket) -> Self {
        let machine = Machine::new(ticket);
        Self { name, machine, journal: None, did: Vec::new(), state: STATE, permitted: true }
    }

    /// Carries an event and all that follows at this end out; gives what it says.
    fn on(&mut self, world: &mut World, event: Event) -> Vec<Message> {
        let (mut events, mut said) = (VecDeque::from([event]), Vec::new());
        while let Some(event) = events.pop_front() {
            let view = world.record().view().clone();
            let (own, peer) = (world.id(self.name), world.id(if self.name == "a" { "b" } else { "a" }));
            let ctx = Context {
                view: &view,
                now: NOW,
                channel: CHANNEL,
                peer,
                own,
                alone: true,
                permitted: self.permitted,
                signatures: &Cheap,
            };
            let before = self.machine.state();
            let restarted = matches!(event, Event::Restarted { .. });
            let step = self.machine.on(event, &ctx);
            let first = matches!(step.first(), Some(Command::Journal(_)));
            let changed = before != self.machine.state();
            assert!(restarted || changed == first, "a change of state is written before all else");
            for command in step {
                self.did.push(format!("{command:?}").split(['(', ' ']).next().unwrap().to_owned());
                let done = |request, product| Event::Finished(request, Ok(product));
                match command {
                    Command::Journal(journal) => self.journal = Some(journal.encode()),
                    Command::Send(message) => said.push(message),
                    Command::Reserve(r) => {
                        let content = self.machine.facts().ticket.ticket.signed_content();
                        events.push_back(done(r, Product::Reserved(world.sign(self.name, &content))));
                    }
                    Command::Pause(r) => events.push_back(done(r, Product::Stopped(self.state))),
                    Command::Digest(r, terms) => {
                        let consent = world.sign(self.name, &terms.signed_content());
                        let consent = (terms.state == self.state).then_some(consent);
                        events.push_back(done(r, Product::Checked(self.state, consent)));
                    }
                    Command::Agree(r, terms) => {
                        let consent = world.sign(self.name, &terms.signed_content());
                        events.push_back(done(r, Product::Agreed(consent)));
                    }
                    Command::Build(r)
                    | Command::SendState(r)
                    | Command::Kill(r)
                    | Command::Wipe(r)
                    | Command::Resume(r) => events.push_back(done(r, Product::Plain)),
                    Command::Propose(id, does) => {
                        // Who was first has decided.
                        let _ = world.write(self.name, Act::Box { id, does });
                    }
                    _ => {}
                }
            }
        }
        said
    }
}

/// Both ends, each message to the other.
fn carry(
    world: &mut World,
    a: &mut End<Source>,
    b: &mut End<Target>,
    from_a: Vec<Message>,
    mut change: impl FnMut(Message) -> Message,
) {
    let (mut to_b, mut to_a) = (VecDeque::from(from_a), VecDeque::new());
    for _ in 0..100 {
        if let Some(message) = to_b.pop_front() {
            to_a.extend(b.on(world, Event::Message(change(message))));
        } else if let Some(message) = to_a.pop_front() {
            to_b.extend(a.on(world, Event::Message(change(message))));
        } else {
            let over = a.machine.state().is_over() && b.machine.state().is_over();
            let (said_a, said_b) = (a.on(world, Event::Tick), b.on(world, Event::Tick));
            if over {
                return;
            }
            to_b.extend(said_a);
            to_a.extend(said_b);
        }
    }
}

fn ends(world: &World, ticket: &Ticket) -> (End<Source>, End<Target>) {
    let ticket = signed(world, ticket.clone());
    (End::new("a", ticket.clone()), End::new("b", ticket))
}

fn moved(change: impl FnMut(Message) -> Message) -> (World, End<Source>, End<Target>) {
    let (mut world, ticket) = world();
    let (mut a, mut b) = ends(&world, &ticket);
    let offer = a.on(&mut world, Event::Wish(Wish::Begin));
    carry(&mut world, &mut a, &mut b, offer, change);
    (world, a, b)
}

#[test]
fn a_box_moves_and_each_step_is_in_its_order() {
    let (world, a, b) = moved(|m| m);
    assert_eq!((a.machine.state(), b.machine.state()), (Source::Left, Target::Running));
    assert_eq!(world.record().view().boxes[&id()].owner, world.id("b"));
    let at = |did: &[String], what: &str| did.iter().position(|d| d == what).unwrap();
    assert!(at(&a.did, "Pause") < at(&a.did, "Propose") && at(&a.did, "Propose") < at(&a.did, "Kill"));
    assert!(at(&a.did, "Kill") < at(&a.did, "Wipe"));
    assert!(at(&b.did, "Digest") < at(&b.did, "Appraise") && at(&b.did, "ReleaseKey") < at(&b.did, "Resume"));
}

#[test]
fn a_cancel_before_the_fence_leaves_the_box_where_it_is_and_nothing_at_the_target() {
    let (mut world, ticket) = world();
    let (mut a, mut b) = ends(&world, &ticket);
    let offer = a.on(&mut world, Event::Wish(Wish::Begin));
    b.on(&mut world, Event::Message(offer[0].clone()));
    let said = a.on(&mut world, Event::Wish(Wish::Cancel));
    carry(&mut world, &mut a, &mut b, said, |m| m);
    assert_eq!((a.machine.state(), b.machine.state()), (Source::Stayed, Target::Dropped));
    assert_eq!(world.record().view().boxes[&id()].owner, world.id("a"));
    assert!(b.machine.why().unwrap().contains("cancelled"));
}

#[test]
fn threat_47_a_policy_that_changes_in_mid_flight_ends_the_move() {
    let (mut world, ticket) = world();
    let (mut a, mut b) = ends(&world, &ticket);
    let offer = a.on(&mut world, Event::Wish(Wish::Begin));
    b.on(&mut world, Event::Message(offer[0].clone()));
    world.evict("c");
    let mut control = End::<Source>::new("a", signed(&world, ticket.clone()));
    control.machine = a.machine.clone();
    let said = a.on(&mut world, Event::ViewChanged);
    carry(&mut world, &mut a, &mut b, said, |m| m);
    assert_eq!((a.machine.state(), b.machine.state()), (Source::Stayed, Target::Dropped));
    without(Check::TicketPolicy, || control.on(&mut world, Event::ViewChanged));
    assert_eq!(control.machine.state(), Source::Offered);
}

/// Changes a ticket, and signs it again as its source would.
#[track_caller]
fn stopped(check: Check, change: impl FnOnce(&mut Ticket), refusal: impl Fn(&TicketRefusal) -> bool) {
    let (mut world, mut ticket) = world();
    change(&mut ticket);
    let by = world.sign("a", &ticket.signed_content());
    let view = world.record().view().clone();
    let known = Known {
        own: world.id("b"),
        peer: world.id("a"),
        channel: CHANNEL,
        view: &view,
        now: NOW,
        signatures: &Cheap,
    };
    let refused = ticket.check(&by, &known).unwrap_err();
    assert!(refusal(&refused), "{refused}");
    assert_eq!(without(check, || ticket.check(&by, &known)), Ok(()), "the control: {check:?}");
    // And a target that is offered it begins nothing, and says why.
    let mut b = End::<Target>::new("b", signed(&world, ticket.clone()));
    let offer = Message::from(super::message::Offer { offered: Box::new(ticket), signature: by });
    let said = b.on(&mut world, Event::Message(offer));
    let [Message::Abort(abort)] = said.as_slice() else {
        // It is not between this member and this peer at all: not answered.
        assert!(said.is_empty() && b.journal.is_none());
        return;
    };
    assert_eq!((abort.code, b.machine.state()), (super::message::Why::Refused, Target::Idle));
    assert!(b.journal.is_none());
}

#[test]
fn threat_32_33_a_ticket_counts_between_its_ends_on_its_channel_in_its_epoch_and_time() {
    stopped(Check::TicketUnion, |t| t.union = [1; 32].into(), |r| *r == TicketRefusal::OtherUnion);
    stopped(Check::TicketChannel, |t| t.channel = Digest([3; 32]), |r| *r == TicketRefusal::Channel);
    stopped(Check::TicketOwner, |t| t.epoch = t.epoch.next(), |r| matches!(r, TicketRefusal::NotOwner(_)));
    stopped(Check::TicketOwner, |t| t.id = [3; 32].into(), |r| matches!(r, TicketRefusal::NotOwner(_)));
    stopped(
        Check::TicketPolicy,
        |t| t.policy = gtvp_model::union::Epoch(9),
        |r| matches!(r, TicketRefusal::Policy { .. }),
    );
    stopped(Check::TicketExpiry, |t| t.expires = NOW, |r| *r == TicketRefusal::Expired(NOW));
    let long = UnixTime(NOW.0 + MAX_LIFE + SKEW + 1);
    stopped(Check::TicketExpiry, |t| t.expires = long, |r| *r == TicketRefusal::Life(long));
    let c = World::begin(&["a", "b", "c"]).id("c");
    stopped(Check::TicketTarget, |t| t.target = c, |r| *r == TicketRefusal::Target(c));
}

#[test]
fn threat_34_a_ticket_counts_only_from_its_source_and_signed_by_it() {
    let (world, ticket) = world();
    let view = world.record().view().clone();
    let known = |peer: &str| Known {
        own: world.id("b"),
        peer: world.id(peer),
        channel: CHANNEL,
        view: &view,
        now: NOW,
        signatures: &Cheap,
    };
    let good = world.sign("a", &ticket.signed_content());
    assert_eq!(ticket.check(&good, &known("a")), Ok(()));
    let passed_on = ticket.check(&good, &known("c"));
    assert_eq!(passed_on, Err(TicketRefusal::Source(world.id("a"))));
    assert_eq!(without(Check::TicketSource, || ticket.check(&good, &known("c"))), Ok(()));
    for forged in [world.sign("c", &ticket.signed_content()), world.sign("a", b"something else")] {
        assert_eq!(ticket.check(&forged, &known("a")), Err(TicketRefusal::Signature("source")));
        assert_eq!(without(Check::TicketSignature, || ticket.check(&forged, &known("a"))), Ok(()));
    }
    let other = Ticket { version: 2, ..ticket };
    assert_eq!(other.check(&good, &known("a")), Err(TicketRefusal::Version(2)));
}

#[test]
fn a_ticket_that_the_target_has_not_signed_begins_nothing() {
    let (world, ..) = world();
    let forge = |m: Message| match m {
        Message::Accept(mut accept) => {
            accept.signature = world.sign("c", b"whatever");
            accept.into()
        }
        other => other,
    };
    let (_, a, _) = moved(forge);
    assert_eq!(a.machine.state(), Source::Offered);
    let (_, a, _) = without(Check::TicketSignature, || moved(forge));
    assert_eq!(a.machine.state(), Source::Left, "the control");
}

#[test]
fn nothing_is_switched_by_a_consent_that_the_other_end_has_not_signed() {
    let (world, ..) = world();
    let forge = |m: Message| match m {
        Message::Ready(mut ready) => {
            ready.consent = world.sign("c", b"whatever");
            ready.into()
        }
        other => other,
    };
    let (after, a, b) = moved(forge);
    assert_eq!((a.machine.state(), b.machine.state()), (Source::Stayed, Target::Dropped));
    assert_eq!(after.record().view().boxes[&id()].owner, after.id("a"));
    // Of the source: the target goes on only by the record then.
    let (mut world, ticket) = super::tests::world();
    let (mut a, mut b) = ends(&world, &ticket);
    let offer = a.on(&mut world, Event::Wish(Wish::Begin));
    let mut held = Vec::new();
    carry(&mut world.clone(), &mut a, &mut b, offer, |m| {
        held.push(m.clone());
        m
    });
    let ready = held.iter().position(|m| m.says() == Say::Ready).unwrap();
    let (mut c, mut d) = ends(&world, &ticket);
    for message in &held[..ready] {
        let mine = matches!(message.says(), Say::Offer | Say::Still);
        if mine {
            d.on(&mut world, Event::Message(message.clone()));
        } else {
            c.on(&mut world, Event::Message(message.clone()));
        }
    }
    assert_eq!(d.machine.state(), Target::Promised);
    let ticket = ticket.digest();
    let forged = super::message::Switch { ticket, consent: world.sign("b", b"whatever") };
    d.on(&mut world, Event::Message(forged.into()));
    assert_eq!(d.machine.state(), Target::Promised);
    let good = held.iter().find(|m| m.says() == Say::Switch).unwrap();
    d.on(&mut world, Event::Message(good.clone()));
    d.on(&mut world, Event::ViewChanged);
    assert_eq!(d.machine.state(), Target::Owner, "it has the move written down itself");
    assert_eq!(world.record().view().boxes[&id()].owner, world.id("b"));
}

#[test]
fn threat_29_30_31_a_target_that_has_another_state_moves_nothing() {
    let (mut world, ticket) = world();
    let (mut a, mut b) = ends(&world, &ticket);
    b.state = Digest([10; 32]);
    let offer = a.on(&mut world, Event::Wish(Wish::Begin));
    carry(&mut world, &mut a, &mut b, offer, |m| m);
    assert_eq!((a.machine.state(), b.machine.state()), (Source::Stayed, Target::Dropped));
    assert!(a.did.contains(&"Resume".to_owned()) && !a.did.contains(&"Propose".to_owned()));
    // Nor one that says another state than it has signed.
    let (_, a, b) = moved(|m| match m {
        Message::Ready(mut ready) => {
            ready.state = Digest([10; 32]);
            ready.into()
        }
        other => other,
    });
    assert_eq!((a.machine.state(), b.machine.state()), (Source::Stayed, Target::Dropped));
}

#[test]
fn threat_33_a_message_of_another_migration_does_nothing() {
    let (mut world, ticket) = world();
    let (mut a, mut b) = ends(&world, &ticket);
    let offer = a.on(&mut world, Event::Wish(Wish::Begin));
    b.on(&mut world, Event::Message(offer[0].clone()));
    let other = Ticket { nonce: Hash([1; 32]), ..ticket };
    let why = super::message::Why::Cancelled;
    let abort = super::message::Abort { ticket: other.digest(), code: why, why: Default::default() };
    let mut control = End::<Target>::new("b", signed(&world, other));
    control.machine = b.machine.clone();
    b.on(&mut world, Event::Message(abort.clone().into()));
    assert_eq!(b.machine.state(), Target::Receiving);
    without(Check::MigrationTicket, || control.on(&mut world, Event::Message(abort.into())));
    assert_eq!(control.machine.state(), Target::Dropped);
}

#[test]
fn threat_35_36_a_machine_goes_on_from_its_journal() {
    // At each message, the end that gets it is killed and read again, its process still there.
    for at in 0..12 {
        let (mut world, ticket) = world();
        let (mut a, mut b) = ends(&world, &ticket);
        let mut to_b: VecDeque<Message> = a.on(&mut world, Event::Wish(Wish::Begin)).into();
        let mut to_a = VecDeque::new();
        for n in 0..60 {
            if n == at {
                if let Some(bytes) = a.journal.clone() {
                    a.machine = Machine::read(Journal::decode(&bytes).unwrap());
                    to_b.extend(a.on(&mut world, Event::Restarted { process: true }));
                }
                if let Some(bytes) = b.journal.clone() {
                    b.machine = Machine::read(Journal::decode(&bytes).unwrap());
                    to_a.extend(b.on(&mut world, Event::Restarted { process: true }));
                }
            }
            if let Some(m) = to_b.pop_front() {
                to_a.extend(b.on(&mut world, Event::Message(m)));
            } else if let Some(m) = to_a.pop_front() {
                to_b.extend(a.on(&mut world, Event::Message(m)));
            } else {
                to_b.extend(a.on(&mut world, Event::Tick));
                to_a.extend(b.on(&mut world, Event::Tick));
            }
        }
        let ends = (a.machine.state(), b.machine.state());
        let owner = world.record().view().boxes[&id()].owner;
        match ends {
            (Source::Left, Target::Running) => assert_eq!(owner, world.id("b"), "{at}"),
            (Source::Stayed, Target::Dropped | Target::Idle) => assert_eq!(owner, world.id("a"), "{at}"),
            other => panic!("{at}: {other:?}"),
        }
    }
}

#[test]
fn a_source_whose_target_has_lost_its_journal_goes_on_and_nobody_else_is_answered() {
    let (mut world, ticket) = world();
    let (mut a, mut b) = ends(&world, &ticket);
    let offer = a.on(&mut world, Event::Wish(Wish::Begin));
    let mut all = Vec::new();
    let mut lost = None;
    carry(&mut world, &mut a, &mut b, offer, |m| {
        all.push(m.clone());
        // The target forgets all before it hears that the box stands still.
        match to_unknown(&m) {
            Some(answer) => {
                lost = Some(answer);
                super::message::Built { ticket: m.ticket() }.into()
            }
            None => m,
        }
    });
    assert_eq!(a.machine.state(), Source::Stopped);
    a.on(&mut world, Event::Message(lost.unwrap()));
    assert_eq!(a.machine.state(), Source::Stayed);
    assert_eq!(all.iter().filter(|m| to_unknown(m).is_some() && m.says() != Say::Still).count(), 0);
}

#[test]
fn every_field_of_a_ticket_is_in_what_is_signed() {
    let (_, base) = world();
    let (digest, hash) = (Digest([77; 32]), Hash([77; 32]));
    for other in [
        Ticket { version: 2, ..base.clone() },
        Ticket { union: [77; 32].into(), ..base.clone() },
        Ticket { id: [77; 32].into(), ..base.clone() },
        Ticket { epoch: OwnerEpoch(77), ..base.clone() },
        Ticket { source: [77; 32].into(), ..base.clone() },
        Ticket { target: [77; 32].into(), ..base.clone() },
        Ticket { composition: digest, ..base.clone() },
        Ticket { policy: gtvp_model::union::Epoch(77), ..base.clone() },
        Ticket { channel: digest, ..base.clone() },
        Ticket { expires: UnixTime(77), ..base.clone() },
        Ticket { template: None, ..base.clone() },
        Ticket { target_result: digest, ..base.clone() },
        Ticket { source_result: digest, ..base.clone() },
        Ticket { nonce: hash, ..base.clone() },
    ] {
        assert_ne!(other.digest(), base.digest(), "{other:?}");
    }
}
