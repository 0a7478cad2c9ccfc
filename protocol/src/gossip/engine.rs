//! Decides what is sent to whom and what is taken; opens nothing. It is told the time and given chance.
//!
//! * A new entry goes at once to [`FANOUT`] neighbours, and each who takes it does the same, once.
//! * Each round one neighbour is told what is here, and both give each other what the other one lacks. If there was more than fits,
//!   the next round has more neighbours, up to [`MAX_LINKS`].
//! * On a link no more than [`LINK_ROUND`] bytes go in a round, and little more is listened to. An author has a budget of versions,
//!   whoever passes them on; what is no entry of its author's costs whoever passed it on a time in which nothing of it is heard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gtvp_model::digest::Digest;
use gtvp_model::union::MemberId;

use super::budget::Bucket;
use super::entry::{Entry, Key, Kind, MAX_ENTRY};
use super::filter::Filter;
use super::message::{HAVE, Have, MAX_MESSAGE, Pack, SPREAD, Spread};
use super::store::{Kept, Store};
use crate::frame::wire;
use crate::frame::{Frame, HEADER};
use crate::planted::{Check, check};

/// Neighbours to whom a new entry is pushed.
pub const FANOUT: usize = 2;
/// Most neighbours that are asked in a round.
pub const MAX_LINKS: usize = 8;
/// Most bytes that go to one neighbour in a round.
pub const LINK_ROUND: usize = MAX_MESSAGE;
/// Bytes of a neighbour that are looked at in a round, and at once: its rounds are not as long as ours to the millisecond.
const HEARD: (u64, u64) = (LINK_ROUND as u64 * 3 / 2, LINK_ROUND as u64 * 4);
/// Rounds in which nothing is heard of a neighbour that passed on what its author has not signed.
const DEAF: u64 = 60;
/// Entries that wait for their check at once.
const MAX_CHECKS: usize = 256;
/// How far a clock may be ahead, milliseconds.
const SKEW: u64 = 60_000;
/// Versions of an author at once, beside one about each member.
const BURST: u64 = 16;
/// A round, milliseconds: shortest and longest.
const ROUND: (u64, u64) = (500, 10_000);
/// Periods that a status lasts, and how long at least, milliseconds.
const STATUS: (u64, u64) = (10, 60_000);

/// How long things take, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// The union's period.
    pub period: u64,
    /// From one digest to the next.
    pub round: u64,
}

impl Times {
    /// Two rounds in a period, within bounds.
    pub fn of(period: u64) -> Self {
        Self { period, round: (period / 2).clamp(ROUND.0, ROUND.1) }
    }

    /// How long a status lasts.
    pub fn status(&self) -> u64 {
        self.period.saturating_mul(STATUS.0).max(STATUS.1)
    }

    /// The longest that an entry of this kind may last: results end in whole seconds.
    fn longest(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Result => (self.period.saturating_mul(5) / 2).saturating_add(1_000),
            Kind::Status => self.status(),
        }
    }
}

/// What time it is, and chance.
pub struct Context<'a> {
    /// Milliseconds since 1970-01-01 UTC.
    pub wall: u64,
    /// Milliseconds of a clock that never goes back.
    pub ms: u64,
    /// A new number each time.
    pub chance: &'a mut dyn FnMut() -> u64,
}

impl Context<'_> {
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from((self.chance)() % (bound.max(1) as u64)).unwrap_or(0)
    }
}

/// What a check of an entry found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// Its author has signed exactly this.
    Good,
    /// Its author has not: who passed it on did not look, or made it.
    Forged,
    /// It cannot be told here, now.
    Unknown,
}

/// What has happened.
#[derive(Debug)]
pub enum Event {
    /// Who this member is, who is in the union, and its times.
    Union(MemberId, Arc<BTreeSet<MemberId>>, Times),
    /// This server is in no union any more.
    Out,
    /// There is a channel with this member.
    Up(MemberId),
    /// And there is none.
    Down(MemberId),
    /// An entry of this member's own, or one that its author told this member directly, checked. It is pushed, or only had for whoever
    /// lacks it.
    Put(Box<Entry>, bool),
    /// A frame of a neighbour's.
    Frame(MemberId, Frame),
    /// What a [`Command::Check`] found.
    Checked(u64, Checked),
    /// [`Gossip::deadline`] has come.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// To be sent to this neighbour.
    Send(MemberId, Frame),
    /// To be checked: number, who passed it on, the entry. To be answered with [`Event::Checked`].
    Check(u64, MemberId, Box<Entry>),
    /// What this neighbour sent is no message: the link is of no use.
    Malformed(MemberId),
}

#[derive(Debug, Clone, Copy)]
struct Link {
    sent: usize,
    heard: Bucket,
    deaf_until: u64,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Gossip {
    own: Option<MemberId>,
    members: Arc<BTreeSet<MemberId>>,
    times: Option<Times>,
    /// Sorted.
    neighbours: Arc<Vec<MemberId>>,
    links: BTreeMap<MemberId, Link>,
    authors: BTreeMap<MemberId, Bucket>,
    store: Store,
    checks: BTreeMap<u64, (MemberId, Entry)>,
    tickets: u64,
    next: Option<u64>,
    asks: usize,
    more: bool,
}

impl Gossip {
    /// Takes an event.
    pub fn on(&mut self, event: Event, ctx: &mut Context<'_>) -> Vec<Command> {
        match event {
            Event::Union(own, members, times) => self.union(own, members, times, ctx),
            Event::Out => *self = Self { tickets: self.tickets, ..Self::default() },
            Event::Up(with) => self.up(with, ctx),
            Event::Down(with) => self.down(with),
            Event::Put(entry, push) => return self.put(*entry, push, ctx),
            Event::Frame(from, frame) => return self.frame(from, &frame, ctx),
            Event::Checked(ticket, what) => return self.checked(ticket, what, ctx),
            Event::Tick => return self.tick(ctx),
        }
        Vec::new()
    }

    /// When [`Event::Tick`] is due, in [`Context::ms`]; `None`: there is nobody to gossip with.
    pub fn deadline(&self) -> Option<u64> {
        self.next
    }

    /// The newest that is here with this key.
    pub fn newest(&self, key: &Key) -> Option<&Entry> {
        self.store.get(key).map(|kept| &*kept.entry)
    }

    /// All that is here.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.store.iter().map(|kept| &*kept.entry)
    }

    fn union(
        &mut self,
        own: MemberId,
        members: Arc<BTreeSet<MemberId>>,
        times: Times,
        ctx: &mut Context<'_>,
    ) {
        let gone = |id: &MemberId| check(Check::GossipMember, members.contains(id), || ()).is_err();
        self.store.retain(|k| !gone(&k.entry.author) && !gone(&k.entry.subject));
        self.authors.retain(|id, _| !gone(id));
        (self.own, self.members, self.times) = (Some(own), members.clone(), Some(times));
        self.schedule(ctx);
    }

    fn up(&mut self, with: MemberId, ctx: &mut Context<'_>) {
        if let Err(at) = self.neighbours.binary_search(&with) {
            Arc::make_mut(&mut self.neighbours).insert(at, with);
        }
        // Whoever has just come may lack all.
        self.more = true;
        self.schedule(ctx);
    }

    fn down(&mut self, with: MemberId) {
        if let Ok(at) = self.neighbours.binary_search(&with) {
            Arc::make_mut(&mut self.neighbours).remove(at);
        }
        if self.neighbours.is_empty() {
            self.next = None;
        }
    }

    fn schedule(&mut self, ctx: &mut Context<'_>) {
        let Some(times) = self.times.filter(|_| !self.neighbours.is_empty()) else { return };
        if self.next.is_none() {
            self.next = Some(ctx.ms.saturating_add((ctx.chance)() % times.round.max(1)));
        }
    }

    fn tick(&mut self, ctx: &mut Context<'_>) -> Vec<Command> {
        let Some(times) = self.times.filter(|_| self.next.is_some_and(|at| at <= ctx.ms)) else {
            return Vec::new();
        };
        // Members are not in step, and come to be less so.
        let early = (ctx.chance)() % (times.round / 8).max(1);
        self.next = Some(ctx.ms.saturating_add(times.round.saturating_sub(early)));
        self.store.retain(|kept| lives(kept, ctx.wall, ctx.ms));
        for link in self.links.values_mut() {
            link.sent = 0;
        }
        self.links.retain(|id, link| link.deaf_until > ctx.ms || self.neighbours.binary_search(id).is_ok());
        self.asks = if self.more { (self.asks * 2).clamp(2, MAX_LINKS) } else { 1 };
        self.more = false;
        let whom = self.some(self.asks, &[], ctx);
        let filter = |ctx: &mut Context<'_>, store: &Store| {
            Filter::over(store.iter().map(|k| k.mark), store.len(), (ctx.chance)())
        };
        let mut commands = Vec::new();
        for to in whom {
            let frame = Have::frame(true, filter(ctx, &self.store));
            self.send(to, frame, ctx, &mut commands);
        }
        commands
    }

    /// So many neighbours by chance, none of these.
    fn some(&self, count: usize, but: &[MemberId], ctx: &mut Context<'_>) -> Vec<MemberId> {
        let all = &self.neighbours;
        let mut some: Vec<MemberId> = Vec::new();
        // Where there are few of them some are drawn twice.
        for _ in 0..count.saturating_mul(4) {
            let at = ctx.below(all.len());
            let Some(one) = all.get(at) else { break };
            if some.len() < count && !but.contains(one) && !some.contains(one) {
                some.push(*one);
            }
        }
        some
    }

    fn link(&mut self, with: MemberId, ms: u64) -> &mut Link {
        let new = || Link { sent: 0, heard: Bucket::full(HEARD.1, ms), deaf_until: 0 };
        self.links.entry(with).or_insert_with(new)
    }

    /// What may still go to this neighbour in this round, bytes.
    fn room(&mut self, to: MemberId, ms: u64) -> usize {
        LINK_ROUND.saturating_sub(self.link(to, ms).sent)
    }

    fn send(&mut self, to: MemberId, frame: Frame, ctx: &Context<'_>, commands: &mut Vec<Command>) -> bool {
        let size = frame.body.len().saturating_add(HEADER);
        let fits = check(Check::GossipLink, size <= self.room(to, ctx.ms), || ()).is_ok();
        if fits {
            let link = self.link(to, ctx.ms);
            link.sent = link.sent.saturating_add(size);
            commands.push(Command::Send(to, frame));
        }
        fits
    }

    fn frame(&mut self, from: MemberId, frame: &Frame, ctx: &mut Context<'_>) -> Vec<Command> {
        let Some(times) = self.times.filter(|_| self.neighbours.binary_search(&from).is_ok()) else {
            return Vec::new();
        };
        let size = frame.body.len().saturating_add(HEADER) as u64;
        let link = self.link(from, ctx.ms);
        let may = link.deaf_until <= ctx.ms && link.heard.take(size, (HEARD.1, HEARD.0, times.round), ctx.ms);
        if check(Check::GossipNeighbour, may, || ()).is_err() {
            return Vec::new();
        }
        match frame.kind {
            HAVE => match Have::decode(frame) {
                Ok(have) => self.have(from, have, ctx),
                Err(_) => vec![Command::Malformed(from)],
            },
            SPREAD => match Spread::decode(frame) {
                Ok(spread) => self.spread(from, &spread, ctx),
                Err(_) => vec![Command::Malformed(from)],
            },
            _ => Vec::new(),
        }
    }

    fn have(&mut self, from: MemberId, have: Have, ctx: &mut Context<'_>) -> Vec<Command> {
        let mut commands = Vec::new();
        if have.ask {
            let filter = Filter::over(self.store.iter().map(|k| k.mark), self.store.len(), (ctx.chance)());
            self.send(from, Have::frame(false, filter), ctx, &mut commands);
        }
        let theirs = Filter::of(have.salt, have.probes, have.bits.into_vec());
        // From somewhere else each time: several whom somebody asks in a round give different ones.
        let start: Vec<u8> = (0..4).flat_map(|_| (ctx.chance)().to_be_bytes()).collect();
        let author = start.first_chunk::<32>().map_or_else(|| [0; 32].into(), |b| MemberId::new(Digest(*b)));
        let start = Key { author, kind: Kind::Result, subject: [0; 32].into() };
        let (room, wall, ms) = (self.room(from, ctx.ms), ctx.wall, ctx.ms);
        let mut pack = Pack::of(room);
        for kept in self.store.from(start) {
            let lacks = kept.entry.author != from && !theirs.has(kept.mark);
            if lacks && lives(kept, wall, ms) {
                pack.put(&kept.bytes);
            }
            if pack.is_full() {
                break;
            }
        }
        if let Some(frame) = pack.frame() {
            self.send(from, frame, ctx, &mut commands);
        }
        commands
    }

    fn spread(&mut self, from: MemberId, spread: &Spread, ctx: &mut Context<'_>) -> Vec<Command> {
        self.more |= spread.more;
        let mut commands = Vec::new();
        for entry in spread.entries.as_slice() {
            let waits = self.checks.values().any(|(_, e)| e == entry);
            if self.wants(entry, ctx) && !waits && self.checks.len() < MAX_CHECKS {
                self.tickets = self.tickets.wrapping_add(1);
                self.checks.insert(self.tickets, (from, entry.clone()));
                commands.push(Command::Check(self.tickets, from, Box::new(entry.clone())));
            }
        }
        commands
    }

    /// Whether an entry is one that could be taken, were it its author's.
    fn wants(&self, entry: &Entry, ctx: &Context<'_>) -> bool {
        let Some(times) = self.times else { return false };
        let key = entry.key();
        let about = match entry.kind {
            Kind::Status => entry.subject == entry.author,
            Kind::Result => entry.subject != entry.author,
        };
        let members = [entry.author, entry.subject].iter().all(|id| self.members.contains(id));
        let members = check(Check::GossipMember, members, || ()).is_ok();
        let ends = ctx.wall < entry.expires
            && entry.expires <= ctx.wall.saturating_add(times.longest(entry.kind)).saturating_add(SKEW)
            && entry.version <= ctx.wall.saturating_add(SKEW);
        let ends = check(Check::GossipEnded, ends, || ()).is_ok();
        let newer = self.store.get(&key).is_none_or(|kept| entry.version > kept.entry.version);
        let newer = check(Check::GossipVersion, newer, || ()).is_ok();
        // This member knows best what it has said itself.
        about && members && ends && newer && Some(entry.author) != self.own
    }

    fn checked(&mut self, ticket: u64, what: Checked, ctx: &mut Context<'_>) -> Vec<Command> {
        let Some((from, entry)) = self.checks.remove(&ticket) else { return Vec::new() };
        if what == Checked::Forged {
            let round = self.times.map_or(0, |t| t.round);
            self.link(from, ctx.ms).deaf_until = ctx.ms.saturating_add(round.saturating_mul(DEAF));
        }
        if check(Check::GossipSignature, what == Checked::Good, || ()).is_err() || !self.wants(&entry, ctx) {
            return Vec::new();
        }
        // Only what an author has signed counts against it.
        let (members, period) = (self.members.len() as u64, self.times.map_or(1, |t| t.period));
        let most = members.saturating_add(BURST);
        let author = self.authors.entry(entry.author).or_insert_with(|| Bucket::full(most, ctx.ms));
        let may = author.take(1, (most, members.saturating_mul(2), period), ctx.ms);
        if check(Check::GossipAuthor, may, || ()).is_err() {
            return Vec::new();
        }
        self.keep(entry, Some(from), true, ctx)
    }

    fn put(&mut self, entry: Entry, push: bool, ctx: &mut Context<'_>) -> Vec<Command> {
        let newer = self.store.get(&entry.key()).is_none_or(|kept| entry.version > kept.entry.version);
        if self.times.is_none() || !newer || entry.expires <= ctx.wall {
            return Vec::new();
        }
        self.keep(entry, None, push, ctx)
    }

    fn keep(
        &mut self,
        entry: Entry,
        from: Option<MemberId>,
        push: bool,
        ctx: &mut Context<'_>,
    ) -> Vec<Command> {
        let Some(times) = self.times else { return Vec::new() };
        let until = ctx.ms.saturating_add(times.longest(entry.kind));
        let but: Vec<MemberId> = from.into_iter().chain([entry.author]).collect();
        let bytes = wire::encode(&entry);
        if bytes.len() > MAX_ENTRY || !self.store.put(entry, until) || !push {
            return Vec::new();
        }
        let mut commands = Vec::new();
        for to in self.some(FANOUT, &but, ctx) {
            let mut pack = Pack::of(self.room(to, ctx.ms));
            pack.put(&bytes);
            if let Some(frame) = pack.frame() {
                self.send(to, frame, ctx, &mut commands);
            }
        }
        commands
    }
}

/// Whether one that is here has not ended, by either clock.
fn lives(kept: &Kept, wall: u64, ms: u64) -> bool {
    let lives = wall < kept.entry.expires && ms <= kept.until;
    check(Check::GossipEnded, lives, || ()).is_ok()
}
