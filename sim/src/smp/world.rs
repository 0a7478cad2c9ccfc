//! What can be the case: processes, files, machines, messages, the record.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use gtvp_model::digest::Digest;
use gtvp_model::owner::{BoxId, Outcome, Owned, OwnerEpoch, Settled};
use gtvp_model::union::{MemberId, RosterEntry};
use gtvp_protocol::csp::owner::{Situation, change};
use gtvp_protocol::csp::{Owning, Signatures};
use gtvp_protocol::smp::{Do, Source, Target};

use crate::keys::Keys;

/// Members of the union. The third one votes, and may be another target.
pub const MEMBERS: usize = 3;
/// Migrations of one run.
pub const MOVES: usize = 2;
/// Decisions about the box in one run: each move has one at most, it may be adopted and end.
pub const DECISIONS: usize = MOVES + 3;
/// Nobody.
pub const NOBODY: u8 = u8::MAX;
/// The record's number at which the box was placed.
const FIRST: u64 = 10;

/// The box's process on a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Process {
    /// There is none.
    None,
    /// It stands still.
    Paused,
    /// It runs.
    Running,
}

/// A member, as far as the box goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Member {
    /// The box's process.
    pub process: Process,
    /// The process has the newest state, whole.
    pub newest: bool,
    /// The writable layer is here, durable and the newest.
    pub files: bool,
    /// It will ever act again.
    pub alive: bool,
    /// How many decisions it has read.
    pub seen: u8,
}

/// Something that a machine has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Job {
    /// What.
    pub what: Do,
    /// It has had its effect; the machine has not heard of that.
    pub effected: bool,
    /// It cannot succeed.
    pub lost: bool,
    /// Of a digest: the state was damaged on its way.
    pub damaged: bool,
}

/// One end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct End<S> {
    /// Its machine's state.
    pub now: S,
    /// The state in the journal.
    pub kept: S,
    /// What it has begun.
    pub job: Option<Job>,
    /// It was crashed, and has not begun again.
    pub crashed: bool,
    /// What it has said, a bit each.
    pub said: u16,
}

impl<S: Copy> End<S> {
    fn new(state: S) -> Self {
        Self { now: state, kept: state, job: None, crashed: false, said: 0 }
    }
}

/// A migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Move {
    /// The end that the box leaves.
    pub source: End<Source>,
    /// The end that it comes to.
    pub target: End<Target>,
    /// The epoch of its ticket.
    pub epoch: u8,
    /// What was proposed, a bit each.
    pub proposed: u8,
    /// The state that was sent is the newest.
    pub newest: bool,
    /// It was cancelled at its source before the fence.
    pub cancelled: bool,
    /// Its ticket has expired.
    pub expired: bool,
}

/// What the record says of the box in one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Decision {
    /// Whose it is.
    pub owner: u8,
    /// Which migration made this epoch, and whether it moved.
    pub last: Option<(u8, bool)>,
}

/// How often what may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Budget {
    /// GTVP's processes of a member are killed; the box's process stays.
    pub kills: u8,
    /// A member loses power, and comes back.
    pub power: u8,
    /// A member is lost for good.
    pub losses: u8,
    /// An administrator cancels, at either end.
    pub cancels: u8,
    /// Something that was begun fails.
    pub failures: u8,
    /// The state is damaged on its way.
    pub damage: u8,
    /// Policy changes its mind.
    pub denials: u8,
    /// A ticket expires.
    pub expiries: u8,
    /// Somebody lets the source's process go on by hand.
    pub strays: u8,
    /// An administrator wants a box adopted whose source is there.
    pub mistakes: u8,
    /// A member is removed that is there.
    pub evictions: u8,
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct World {
    /// The members.
    pub members: [Member; MEMBERS],
    /// The migrations.
    pub moves: [Move; MOVES],
    /// What was decided, by epoch.
    pub decisions: [Decision; DECISIONS],
    /// The epoch.
    pub epoch: u8,
    /// Policy permits it no more.
    pub denied: bool,
    /// Who was removed.
    pub evicted: u8,
    /// A server lost power or was removed, or something failed: a running state may be lost.
    pub excused: bool,
    /// What may still go wrong.
    pub budget: Budget,
}

impl World {
    /// The box runs on the first member.
    pub fn new(budget: Budget) -> Self {
        let member = Member { process: Process::None, newest: false, files: false, alive: true, seen: 0 };
        let mut members = [member; MEMBERS];
        members[0] = Member { process: Process::Running, newest: true, files: true, ..member };
        let mv = Move {
            source: End::new(Source::Idle),
            target: End::new(Target::Idle),
            epoch: 0,
            proposed: 0,
            newest: false,
            cancelled: false,
            expired: false,
        };
        Self {
            members,
            moves: [mv; MOVES],
            decisions: [Decision { owner: 0, last: None }; DECISIONS],
            epoch: 0,
            denied: false,
            evicted: NOBODY,
            excused: false,
            budget,
        }
    }

    /// Whose the box is; none: it has ended.
    pub fn owner(&self) -> Option<usize> {
        let owner = self.decisions[usize::from(self.epoch)].owner;
        (owner != NOBODY).then_some(owner.into())
    }

    /// Whose it is as this member has read.
    pub fn owner_seen(&self, member: usize) -> usize {
        usize::from(self.decisions[usize::from(self.members[member].seen)].owner)
    }

    /// It was removed from the union.
    pub fn is_evicted(&self, member: usize) -> bool {
        usize::from(self.evicted) == member
    }

    /// How often it runs.
    pub fn running(&self) -> usize {
        self.members.iter().filter(|m| m.process == Process::Running).count()
    }

    /// It begins to run on a member: all other copies are old from now on.
    pub fn runs(&mut self, member: usize) {
        self.members[member].process = Process::Running;
        self.newest_is_at(member);
        self.moves.iter_mut().for_each(|m| m.newest = false);
    }

    /// All other copies are old.
    pub fn newest_is_at(&mut self, member: usize) {
        for (i, m) in self.members.iter_mut().enumerate() {
            (m.newest, m.files) = (i == member && m.process != Process::None, i == member);
        }
    }
}

/// What is proposed: the bits of [`Move::proposed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proposal {
    /// The source has it moved.
    MovedBySource,
    /// The target has it moved.
    MovedByTarget,
    /// The source has it stay.
    Aborted,
    /// The target adopts it.
    Adopted,
}

impl Proposal {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::MovedBySource, Self::MovedByTarget, Self::Aborted, Self::Adopted];

    /// Its bit.
    pub fn bit(self) -> u8 {
        1 << (self as u8)
    }
}

type Memo = HashMap<(u8, Decision, u8, u8, u8, Proposal), Option<Decision>>;

/// What does not change in a run: who moves where, and the record's rules.
pub struct Model {
    /// From where to where each migration goes.
    pub ways: Vec<(usize, usize)>,
    members: Vec<RosterEntry>,
    keys: Vec<Keys>,
    memo: RefCell<Memo>,
}

struct Anybody;

impl Signatures for Anybody {
    fn holds(&self, _: &[u8], _: &[u8], _: &[u8]) -> bool {
        true
    }
}

fn ticket(mv: u8) -> Digest {
    Digest([mv + 1; 32])
}

fn id() -> BoxId {
    [7; 32].into()
}

impl Model {
    /// Of these migrations, [`MOVES`] at most.
    pub fn new(ways: &[(usize, usize)]) -> Self {
        let keys: Vec<Keys> = (0..MEMBERS).map(Keys::of).collect();
        let members = keys.iter().map(|k| k.entry.clone()).collect();
        Self { ways: ways.iter().copied().take(MOVES).collect(), members, keys, memo: RefCell::default() }
    }

    fn held(&self, epoch: u8, decision: Decision) -> Option<Owned> {
        let owner = self.members.get(usize::from(decision.owner))?;
        Some(Owned {
            name: "web".parse().ok()?,
            owner: owner.id(),
            key: owner.identity.spki(),
            epoch: OwnerEpoch(FIRST + u64::from(epoch)),
            last: decision.last.map(|(mv, moved)| Settled { ticket: ticket(mv), moved }),
        })
    }

    fn id(&self, member: usize) -> MemberId {
        self.keys[member].id()
    }

    /// What the record has said of a migration to this member.
    pub fn outcome(&self, world: &World, mv: usize, member: usize) -> Outcome {
        let seen = world.members[member].seen;
        let held = self.held(seen, world.decisions[usize::from(seen)]);
        let epoch = OwnerEpoch(FIRST + u64::from(world.moves[mv].epoch));
        Outcome::of(held.as_ref(), epoch, ticket(u8::try_from(mv).unwrap_or(NOBODY)))
    }

    /// The decision that a proposal makes now, by the record's own rules.
    pub fn decide(&self, world: &World, mv: usize, proposal: Proposal) -> Option<Decision> {
        let now = world.decisions[usize::from(world.epoch)];
        let at = u8::try_from(mv).ok()?;
        let key = (world.epoch, now, world.moves[mv].epoch, world.evicted, at, proposal);
        if let Some(known) = self.memo.borrow().get(&key) {
            return *known;
        }
        let made = self.by_the_record(world, mv, proposal);
        self.memo.borrow_mut().insert(key, made);
        made
    }

    fn by_the_record(&self, world: &World, mv: usize, proposal: Proposal) -> Option<Decision> {
        let (from, to) = self.ways[mv];
        let (author, other) = match proposal {
            Proposal::MovedBySource | Proposal::Aborted => (from, to),
            Proposal::MovedByTarget | Proposal::Adopted => (to, from),
        };
        if world.evicted == u8::try_from(author).ok()? {
            return None;
        }
        let epoch = OwnerEpoch(FIRST + u64::from(world.moves[mv].epoch));
        let at = u8::try_from(mv).ok()?;
        let does = match proposal {
            Proposal::MovedBySource | Proposal::MovedByTarget => Owning::Moved {
                from: self.id(from),
                to: self.id(to),
                epoch,
                ticket: ticket(at),
                state: ticket(at),
                consent: self.keys[other].sign(&[]),
            },
            Proposal::Aborted => Owning::MoveAborted { epoch, ticket: ticket(at) },
            Proposal::Adopted => Owning::Adopted { epoch, ticket: Some(ticket(at)) },
        };
        let members: BTreeMap<MemberId, RosterEntry> = self
            .members
            .iter()
            .enumerate()
            .filter(|(i, _)| usize::from(world.evicted) != *i)
            .map(|(_, m)| (m.id(), m.clone()))
            .collect();
        let union = [1; 32].into();
        let author = self.id(author);
        let situation = Situation { union, members: &members, author, number: 999, signatures: &Anybody };
        let mut boxes: BTreeMap<BoxId, Owned> =
            [(id(), self.held(world.epoch, world.decisions[usize::from(world.epoch)])?)].into();
        change(&mut boxes, id(), &does, &situation).ok()?;
        let held = boxes.get(&id())?;
        let owner = self.members.iter().position(|m| m.id() == held.owner)?;
        let last = held.last.map(|l| (l.ticket.0[0] - 1, l.moved));
        Some(Decision { owner: u8::try_from(owner).ok()?, last })
    }
}
