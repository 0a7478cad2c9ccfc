//! What can happen next, and what becomes of it.

use gtvp_model::owner::Outcome;
use gtvp_protocol::smp::table::{End as Side, find};
use gtvp_protocol::smp::{Do, If, On, Row, Say, Source, Target};

use super::world::{Budget, DECISIONS, Decision, End, Job, Model, NOBODY, Process, Proposal, World};

/// The two tables that are explored: the product's, or some with something taken out.
#[derive(Debug, Clone)]
pub struct Tables {
    /// The source's.
    pub source: Vec<Row<Source>>,
    /// The target's.
    pub target: Vec<Row<Target>>,
}

impl Default for Tables {
    fn default() -> Self {
        Self { source: Source::table().to_vec(), target: Target::table().to_vec() }
    }
}

/// What crashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Crash {
    /// GTVP's processes.
    Processes,
    /// The server.
    Power,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// A row of the source's table, by its place; it was cut after so many of its commands.
    Source(usize, usize, On, Option<(usize, Crash)>),
    /// A row of the target's.
    Target(usize, usize, On, Option<(usize, Crash)>),
    /// A crash after which a machine has nothing to do.
    Nothing(usize),
    /// What a source has begun has its effect.
    SourceDoes(usize, Do),
    /// What a target has begun has its effect; the state was damaged before.
    TargetDoes(usize, Do, bool),
    /// The record decides.
    Decided(usize, Proposal),
    /// A member reads on.
    Reads(usize),
    /// A member crashes.
    Crashed(usize, Crash),
    /// A member is lost.
    LostForGood(usize),
    /// It is removed.
    Evicted(usize),
    /// Policy changes.
    Denied,
    /// A ticket expires.
    Expires(usize),
    /// Somebody lets a source's process go on.
    Stray(usize),
    /// Somebody ends a box whose owner was removed.
    Ended,
    /// An administrator starts the box where it is and has no process.
    Starts(usize),
}

/// What follows: the next world, or what is wrong with it.
pub type Next = (Label, Result<World, &'static str>);

/// An end of a migration, whichever.
trait Ends: Side {
    fn rows(tables: &Tables) -> &[Row<Self>];
    fn end(world: &mut World, mv: usize) -> &mut End<Self>;
    fn label(row: usize, mv: usize, on: On, cut: Option<(usize, Crash)>) -> Label;
    fn member(model: &Model, mv: usize) -> usize;
    fn peer(model: &Model, mv: usize) -> usize;
    const IDLE: Self;
    const SOURCE: bool;
}

impl Ends for Source {
    fn rows(tables: &Tables) -> &[Row<Self>] {
        &tables.source
    }
    fn end(world: &mut World, mv: usize) -> &mut End<Self> {
        &mut world.moves[mv].source
    }
    fn label(row: usize, mv: usize, on: On, cut: Option<(usize, Crash)>) -> Label {
        Label::Source(row, mv, on, cut)
    }
    fn member(model: &Model, mv: usize) -> usize {
        model.ways[mv].0
    }
    fn peer(model: &Model, mv: usize) -> usize {
        model.ways[mv].1
    }
    const IDLE: Self = Self::Idle;
    const SOURCE: bool = true;
}

impl Ends for Target {
    fn rows(tables: &Tables) -> &[Row<Self>] {
        &tables.target
    }
    fn end(world: &mut World, mv: usize) -> &mut End<Self> {
        &mut world.moves[mv].target
    }
    fn label(row: usize, mv: usize, on: On, cut: Option<(usize, Crash)>) -> Label {
        Label::Target(row, mv, on, cut)
    }
    fn member(model: &Model, mv: usize) -> usize {
        model.ways[mv].1
    }
    fn peer(model: &Model, mv: usize) -> usize {
        model.ways[mv].0
    }
    const IDLE: Self = Self::Idle;
    const SOURCE: bool = false;
}

const SAYS: [Say; 10] = [
    Say::Offer,
    Say::Accept,
    Say::Built,
    Say::Still,
    Say::Ready,
    Say::Switch,
    Say::Killed,
    Say::Taken,
    Say::Lost,
    Say::Abort,
];

fn bit(say: Say) -> u16 {
    1 << (say as u16)
}

/// Whether somebody on this member is in the middle of a migration, other than this end.
fn busy(model: &Model, world: &World, member: usize, but: (usize, bool)) -> bool {
    model.ways.iter().enumerate().any(|(i, (from, to))| {
        let mv = &world.moves[i];
        let leaves = *from == member && mv.source.now != Source::Idle && !mv.source.now.is_over();
        let comes = *to == member && mv.target.now != Target::Idle && !mv.target.now.is_over();
        (leaves && but != (i, true)) || (comes && but != (i, false))
    })
}

/// Everything that can happen.
pub fn steps(model: &Model, tables: &Tables, world: &World) -> Vec<Next> {
    let mut next = Vec::new();
    for mv in 0..model.ways.len() {
        of_end::<Source>(model, tables, world, mv, &mut next);
        of_end::<Target>(model, tables, world, mv, &mut next);
        for proposal in Proposal::ALL {
            if world.moves[mv].proposed & proposal.bit() != 0 {
                decided(model, world, mv, proposal, &mut next);
            }
        }
    }
    for member in 0..world.members.len() {
        of_member(model, world, member, &mut next);
    }
    ended(world, &mut next);
    if let Some(denials) = world.budget.denials.checked_sub(1).filter(|_| !world.denied) {
        let mut w = *world;
        (w.denied, w.budget.denials) = (true, denials);
        next.push((Label::Denied, Ok(w)));
    }
    next
}

/// A box that is nobody's is ended, in the record.
fn ended(world: &World, next: &mut Vec<Next>) {
    let ownerless = world.owner().is_some_and(|o| world.is_evicted(o));
    if ownerless && usize::from(world.epoch) + 1 < DECISIONS {
        let mut w = *world;
        w.epoch += 1;
        w.decisions[usize::from(w.epoch)] = Decision { owner: NOBODY, last: None };
        next.push((Label::Ended, Ok(w)));
    }
}

fn decided(model: &Model, world: &World, mv: usize, proposal: Proposal, next: &mut Vec<Next>) {
    if usize::from(world.epoch) + 1 >= DECISIONS {
        return;
    }
    let Some(decision) = model.decide(world, mv, proposal) else { return };
    let mut w = *world;
    w.epoch += 1;
    w.decisions[usize::from(w.epoch)] = decision;
    let moved = decision.last.is_some_and(|(_, moved)| moved);
    if proposal == Proposal::Adopted {
        // What the lost owner had since is lost with it: this is the newest that there is.
        w.newest_is_at(model.ways[mv].1);
    }
    let wrong = moved && proposal != Proposal::Adopted && world.moves[mv].cancelled;
    let after = if wrong { Err("a box moved after its move was cancelled before the fence") } else { Ok(w) };
    next.push((Label::Decided(mv, proposal), after));
}

fn crash(model: &Model, world: &mut World, member: usize, what: Crash) {
    for (i, (from, to)) in model.ways.iter().enumerate() {
        let mv = &mut world.moves[i];
        if *from == member {
            let end = &mut mv.source;
            (end.now, end.job) = (end.kept, None);
            end.crashed = end.now != Source::Idle;
        }
        if *to == member {
            let end = &mut mv.target;
            (end.now, end.job) = (end.kept, None);
            end.crashed = end.now != Target::Idle;
        }
    }
    if what == Crash::Power {
        (world.members[member].process, world.members[member].newest) = (Process::None, false);
        world.excused = true;
    }
}

/// The budget less this crash.
fn pay(world: &mut World, what: Crash) -> bool {
    let left = match what {
        Crash::Processes => &mut world.budget.kills,
        Crash::Power => &mut world.budget.power,
    };
    let Some(less) = left.checked_sub(1) else { return false };
    *left = less;
    true
}

fn evict(model: &Model, world: &World, member: usize, budget: Budget, next: &mut Vec<Next>) {
    let concerned = model.ways.iter().any(|(from, to)| *from == member || *to == member);
    if concerned && world.evicted == NOBODY {
        let mut w = *world;
        w.evicted = u8::try_from(member).unwrap_or(NOBODY);
        // What it has is given up.
        (w.budget, w.excused) = (budget, true);
        next.push((Label::Evicted(member), Ok(w)));
    }
}

fn of_member(model: &Model, world: &World, member: usize, next: &mut Vec<Next>) {
    let at = world.members[member];
    if !at.alive {
        evict(model, world, member, world.budget, next);
        return;
    }
    if let Some(evictions) = world.budget.evictions.checked_sub(1) {
        evict(model, world, member, Budget { evictions, ..world.budget }, next);
    }
    if at.seen < world.epoch {
        let mut w = *world;
        w.members[member].seen += 1;
        next.push((Label::Reads(member), Ok(w)));
    }
    let concerned = at.process != Process::None || busy(model, world, member, (usize::MAX, true));
    for what in [Crash::Processes, Crash::Power] {
        let mut w = *world;
        if concerned && pay(&mut w, what) {
            crash(model, &mut w, member, what);
            next.push((Label::Crashed(member, what), Ok(w)));
        }
    }
    if let Some(losses) = world.budget.losses.checked_sub(1).filter(|_| concerned) {
        let mut w = *world;
        crash(model, &mut w, member, Crash::Power);
        (w.members[member].alive, w.budget.losses) = (false, losses);
        next.push((Label::LostForGood(member), Ok(w)));
    }
    if at.process == Process::None && may_start(model, world, member) {
        let mut w = *world;
        w.runs(member);
        let good = at.files;
        next.push((Label::Starts(member), if good { Ok(w) } else { Err("old files are started") }));
    }
}

/// `gtvp box start`: the box is this member's as it has read the record, and no migration is under way.
pub fn may_start(model: &Model, world: &World, member: usize) -> bool {
    world.members[member].alive
        && !world.is_evicted(member)
        && world.owner_seen(member) == member
        && !busy(model, world, member, (usize::MAX, true))
        && !model.ways.iter().enumerate().any(|(i, (from, to))| {
            let mv = &world.moves[i];
            (*from == member && mv.source.crashed) || (*to == member && mv.target.crashed)
        })
        && world.members[member].process == Process::None
}

fn of_end<S: Ends>(model: &Model, tables: &Tables, world: &World, mv: usize, next: &mut Vec<Next>) {
    let mut copy = *world;
    let end = *S::end(&mut copy, mv);
    let member = S::member(model, mv);
    if !world.members[member].alive {
        return;
    }
    let bare = world.members[member].process == Process::None;
    if end.crashed {
        let on = if bare { On::RestartBare } else { On::Restart };
        let mut begun = *world;
        S::end(&mut begun, mv).crashed = false;
        let before = next.len();
        fire::<S>(model, tables, &begun, mv, on, next);
        if next.len() == before {
            next.push((Label::Nothing(mv), Ok(begun)));
        }
        return;
    }
    let peer = S::peer(model, mv);
    let peer_evicted = world.is_evicted(peer);
    let the_move = &world.moves[mv];
    if end.now == S::IDLE && S::SOURCE && !the_move.expired {
        let mut begun = *world;
        begun.moves[mv].epoch = world.members[member].seen;
        if world.members[member].process == Process::Running {
            fire::<S>(model, tables, &begun, mv, On::Begin, next);
        }
    }
    let said = if S::SOURCE { the_move.target.said } else { the_move.source.said };
    for say in SAYS.into_iter().filter(|s| said & bit(*s) != 0) {
        fire::<S>(model, tables, world, mv, On::Heard(say), next);
    }
    if end.now == S::IDLE {
        return;
    }
    if let Some(job) = end.job {
        of_job::<S>(model, tables, world, mv, job, next);
    }
    match model.outcome(world, mv, member) {
        Outcome::Moved => fire::<S>(model, tables, world, mv, On::Moved, next),
        Outcome::Aborted => fire::<S>(model, tables, world, mv, On::Aborted, next),
        Outcome::Past => fire::<S>(model, tables, world, mv, On::Past, next),
        Outcome::Open if world.denied || peer_evicted => {
            fire::<S>(model, tables, world, mv, On::Cancel, next);
        }
        Outcome::Open => {}
    }
    if let Some(cancels) = world.budget.cancels.checked_sub(1) {
        let mut w = *world;
        w.budget.cancels = cancels;
        fire::<S>(model, tables, &w, mv, On::Cancel, next);
    }
    fire::<S>(model, tables, world, mv, On::Tick, next);
    fire::<S>(model, tables, world, mv, On::Retry, next);
    if the_move.expired {
        fire::<S>(model, tables, world, mv, On::Expired, next);
    } else if let Some(expiries) = world.budget.expiries.checked_sub(1) {
        let mut w = *world;
        (w.moves[mv].expired, w.budget.expiries) = (true, expiries);
        next.push((Label::Expires(mv), Ok(w)));
    }
    // What administrators say is so.
    if !world.members[peer].alive {
        fire::<S>(model, tables, world, mv, On::Without, next);
    }
    if !world.members[peer].alive {
        fire::<S>(model, tables, world, mv, On::Adopt, next);
    } else if let Some(mistakes) = world.budget.mistakes.checked_sub(1).filter(|_| !S::SOURCE) {
        let mut w = *world;
        w.budget.mistakes = mistakes;
        // Who adopts a box says that its owner is off; if that is not so, it is two boxes. The record asks that it was removed.
        if !peer_evicted {
            fire::<S>(model, tables, &w, mv, On::Adopt, next);
        }
    }
    if S::SOURCE && the_move.target.now == Target::Running {
        fire::<S>(model, tables, world, mv, On::Forget, next);
    }
    let paused = world.members[member].process == Process::Paused;
    if let Some(strays) = world.budget.strays.checked_sub(1).filter(|_| S::SOURCE && paused) {
        let mut w = *world;
        (w.members[member].process, w.budget.strays) = (Process::Running, strays);
        next.push((Label::Stray(member), Ok(w)));
    }
}

/// Whether what a machine begins changes anything but the machine.
fn has_effect(what: Do) -> bool {
    !matches!(what, Do::Reserve | Do::SendState | Do::Agree)
}

fn of_job<S: Ends>(model: &Model, tables: &Tables, world: &World, mv: usize, job: Job, next: &mut Vec<Next>) {
    let over = |w: &mut World| S::end(w, mv).job = None;
    if job.what == Do::Receive {
        // Only a break of the stream is told.
    } else if job.effected || !has_effect(job.what) {
        let mut w = *world;
        let runs = world.members[S::member(model, mv)].process == Process::Running;
        over(&mut w);
        let lost = job.lost || (job.what == Do::SendState && !runs);
        with_job::<S>(model, tables, &w, mv, if lost { On::Failed } else { On::Done }, Some(job), next);
    } else {
        for damaged in [false, true] {
            let mut w = *world;
            if damaged {
                let Some(damage) = w.budget.damage.checked_sub(1).filter(|_| job.what == Do::Digest) else {
                    continue;
                };
                w.budget.damage = damage;
            }
            let job = Job { effected: true, damaged, ..job };
            let wrong = effect(&mut w, S::member(model, mv), mv, job).map(|lost| {
                S::end(&mut w, mv).job = Some(Job { lost, ..job });
                w
            });
            let label = if S::SOURCE {
                Label::SourceDoes(mv, job.what)
            } else {
                Label::TargetDoes(mv, job.what, damaged)
            };
            next.push((label, wrong));
        }
    }
    if let Some(failures) = world.budget.failures.checked_sub(1).filter(|_| !job.effected) {
        let mut w = *world;
        (w.budget.failures, w.excused) = (failures, true);
        over(&mut w);
        with_job::<S>(model, tables, &w, mv, On::Failed, None, next);
    }
}

/// What comes of what a machine has begun; true: it cannot succeed.
fn effect(world: &mut World, member: usize, mv: usize, job: Job) -> Result<bool, &'static str> {
    let there = world.members[member];
    match job.what {
        Do::Build => {
            if there.process != Process::None {
                return Err("a box is built where it is");
            }
            (world.members[member].process, world.members[member].newest) = (Process::Paused, false);
        }
        Do::Pause => {
            if there.process != Process::Running {
                return Ok(true);
            }
            world.members[member].process = Process::Paused;
            world.moves[mv].newest = there.newest;
        }
        Do::Digest => {
            if there.process != Process::Paused {
                return Ok(true);
            }
            let newest = world.moves[mv].newest && !job.damaged;
            (world.members[member].newest, world.members[member].files) = (newest, newest);
        }
        Do::Kill => (world.members[member].process, world.members[member].newest) = (Process::None, false),
        Do::Wipe => {
            let gone = &mut world.members[member];
            (gone.process, gone.newest, gone.files) = (Process::None, false, false);
        }
        Do::Resume => match there.process {
            Process::None => return Ok(true),
            Process::Running => {}
            Process::Paused if !there.newest => return Err("an old or damaged copy runs"),
            Process::Paused => world.runs(member),
        },
        _ => {}
    }
    Ok(false)
}

fn fire<S: Ends>(model: &Model, tables: &Tables, world: &World, mv: usize, on: On, next: &mut Vec<Next>) {
    with_job::<S>(model, tables, world, mv, on, None, next);
}

fn with_job<S: Ends>(
    model: &Model,
    tables: &Tables,
    world: &World,
    mv: usize,
    on: On,
    job: Option<Job>,
    next: &mut Vec<Next>,
) {
    let mut before = *world;
    let state = S::end(&mut before, mv).now;
    let member = S::member(model, mv);
    let the_move = &world.moves[mv];
    let holds = |guard: If| match guard {
        If::Alone => !busy(model, world, member, (mv, S::SOURCE)),
        If::Owns => world.owner_seen(member) == member,
        // Of what a ticket says the record's part; the rest is signatures.
        If::Ticket => {
            world.members[member].seen == the_move.epoch && world.owner_seen(member) == model.ways[mv].0
        }
        If::Live => !the_move.expired,
        If::Permitted => !world.denied,
        If::Same => job.is_none_or(|j| !j.damaged),
        If::PeerRemoved => world.is_evicted(S::peer(model, mv)),
        If::Countersigned | If::Agreed => true,
    };
    let Some((place, row)) = find(S::rows(tables), state, on, holds) else { return };
    let run = |upto: usize| -> World {
        let mut w = *world;
        let mut left = upto;
        if let Some(to) = row.to {
            S::end(&mut w, mv).now = to;
            if to != state {
                S::end(&mut w, mv).job = None;
            }
            if row.write && left > 0 {
                left -= 1;
                S::end(&mut w, mv).kept = to;
            }
        }
        for what in row.does.iter().take(left) {
            command::<S>(&mut w, mv, *what);
        }
        w
    };
    let all = usize::from(row.write) + row.does.len();
    for what in [Crash::Processes, Crash::Power] {
        for upto in 0..all {
            let mut w = run(upto);
            if !pay(&mut w, what) {
                break;
            }
            crash(model, &mut w, member, what);
            next.push((S::label(place, mv, on, Some((upto, what))), Ok(w)));
        }
    }
    let mut whole = run(all);
    let wrong = misdeed(model, world, &mut whole, mv, on, S::SOURCE);
    next.push((S::label(place, mv, on, None), wrong.map_or(Ok(whole), Err)));
}

/// What no member may do, whatever comes of it.
fn misdeed(
    model: &Model,
    before: &World,
    after: &mut World,
    mv: usize,
    on: On,
    source: bool,
) -> Option<&'static str> {
    let (then, now) = (before.moves[mv], &mut after.moves[mv]);
    let becomes = |state: Source| source && then.source.now != state && now.source.now == state;
    let comes = |state: Target| !source && then.target.now != state && now.target.now == state;
    let early = matches!(
        then.source.now,
        Source::Offered | Source::Preparing | Source::Sending | Source::Pausing | Source::Stopped
    );
    let (from, _) = model.ways[mv];
    let begins = becomes(Source::Offered) || comes(Target::Reserving);
    let binds = becomes(Source::Committing) || comes(Target::Promised);
    let wrong = match () {
        () if (begins || binds) && before.denied => Some("a box is moved that may not be moved any more"),
        () if (begins || becomes(Source::Committing)) && then.expired => {
            Some("a ticket is used that has expired")
        }
        () if becomes(Source::Offered) && before.owner_seen(from) != from => {
            Some("a member offers what it does not own")
        }
        () => None,
    };
    now.cancelled |= source && on == On::Cancel && early;
    wrong
}

fn command<S: Ends>(world: &mut World, mv: usize, what: Do) {
    let propose = |world: &mut World, proposal: Proposal| world.moves[mv].proposed |= proposal.bit();
    match what {
        Do::Send(say) => S::end(world, mv).said |= bit(say),
        Do::ProposeMoved if S::SOURCE => propose(world, Proposal::MovedBySource),
        Do::ProposeMoved => propose(world, Proposal::MovedByTarget),
        Do::ProposeAborted => propose(world, Proposal::Aborted),
        Do::ProposeAdopted => propose(world, Proposal::Adopted),
        Do::Appraise | Do::ReleaseKey | Do::Tell(_) => {}
        Do::Reserve
        | Do::Build
        | Do::Receive
        | Do::SendState
        | Do::Pause
        | Do::Digest
        | Do::Agree
        | Do::Kill
        | Do::Wipe
        | Do::Resume => {
            let job = Job { what, effected: false, lost: false, damaged: false };
            S::end(world, mv).job = Some(job);
        }
    }
}
