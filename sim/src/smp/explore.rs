//! Every world that can come to be, each once; what must hold in all of them; and that each ends well once nothing more goes wrong.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use gtvp_protocol::smp::table::End as Side;
use gtvp_protocol::smp::{Do, On, Source, Target};

use super::step::{Label, Tables, may_start, steps};
use super::world::{Budget, Model, NOBODY, Process, World};

/// What an exploration found.
#[derive(Debug, Default)]
pub struct Explored {
    /// Worlds.
    pub worlds: usize,
    /// Steps between them.
    pub steps: usize,
    /// Rows that were taken: which table, its row, in which state, at which event, cut where.
    pub taken: BTreeSet<Taken>,
    /// What is wrong, and how it came to be.
    pub violation: Option<(String, Vec<String>)>,
}

/// A row that was taken: the source's table or not, the row, the state, the event, and after how many of its commands it was cut.
pub type Taken = (bool, usize, String, On, Option<usize>);

/// A fast hash (FxHash's multiply and rotate): nobody here chooses keys to collide.
#[derive(Default)]
pub struct Fast(u64);

impl Hasher for Fast {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.chunks(8).for_each(|c| self.write_u64(c.iter().fold(0, |n, b| n << 8 | u64::from(*b))));
    }
    fn write_u8(&mut self, n: u8) {
        self.write_u64(n.into());
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x517C_C1B7_2722_0A95);
    }
    fn write_isize(&mut self, n: isize) {
        self.write_u64(n as u64);
    }
}

type Known = HashMap<World, usize, BuildHasherDefault<Fast>>;

/// Explores everything that can come of a box on the first member.
pub fn explore(model: &Model, tables: &Tables, budget: Budget) -> Explored {
    let mut found = Explored::default();
    let first = World::new(budget);
    let mut known = Known::default();
    let mut how: Vec<(usize, Option<Label>)> = vec![(0, None)];
    known.insert(first, 0);
    let mut open = VecDeque::from([(first, 0)]);
    while let Some((world, at)) = open.pop_front() {
        for (label, next) in steps(model, tables, &world) {
            found.steps += 1;
            note(&mut found.taken, &world, label);
            let next = next.map_err(ToOwned::to_owned).and_then(|w| holds(&w).map(|()| w));
            match next {
                Ok(next) => {
                    let number = how.len();
                    let entry = known.entry(next);
                    if let std::collections::hash_map::Entry::Vacant(new) = entry {
                        new.insert(number);
                        how.push((at, Some(label)));
                        open.push_back((next, number));
                    }
                }
                Err(what) => {
                    found.worlds = known.len();
                    let mut way = trace(&how, at);
                    way.push(told(label));
                    found.violation = Some((what, way));
                    return found;
                }
            }
        }
    }
    found.worlds = known.len();
    found.violation = ends_well(model, tables, &known, &how);
    found
}

fn told(label: Label) -> String {
    match label {
        Label::Source(row, ..) | Label::Target(row, ..) => format!("{label:?} (row {row})"),
        other => format!("{other:?}"),
    }
}

fn trace(how: &[(usize, Option<Label>)], mut at: usize) -> Vec<String> {
    let mut way = Vec::new();
    while let Some((before, Some(label))) = how.get(at) {
        way.push(told(*label));
        at = *before;
    }
    way.reverse();
    way
}

fn note(taken: &mut BTreeSet<Taken>, world: &World, label: Label) {
    match label {
        Label::Source(row, mv, on, cut) => {
            taken.insert((true, row, format!("{:?}", world.moves[mv].source.now), on, cut.map(|c| c.0)));
        }
        Label::Target(row, mv, on, cut) => {
            taken.insert((false, row, format!("{:?}", world.moves[mv].target.now), on, cut.map(|c| c.0)));
        }
        _ => {}
    }
}

/// What must hold in every world.
fn holds(world: &World) -> Result<(), String> {
    if world.running() > 1 {
        return Err("two copies run".to_owned());
    }
    if world.owner().is_none_or(|o| world.is_evicted(o)) {
        return Ok(());
    }
    let kept = world.members.iter().any(|m| m.files || (m.process != Process::None && m.newest));
    if !kept {
        return Err("the box is lost: no member has its newest state".to_owned());
    }
    Ok(())
}

/// From each world, with nothing more going wrong: it comes to rest, with one copy that runs, or one that a named command lets run.
fn ends_well(
    model: &Model,
    tables: &Tables,
    known: &Known,
    how: &[(usize, Option<Label>)],
) -> Option<(String, Vec<String>)> {
    let mut good: HashSet<World, BuildHasherDefault<Fast>> = HashSet::default();
    for (world, at) in known {
        let mut path: Vec<World> = Vec::new();
        let mut way = Vec::new();
        let mut now = *world;
        let wrong = loop {
            if good.contains(&now) {
                break None;
            }
            if path.len() > 200 {
                break Some("it does not come to rest".to_owned());
            }
            path.push(now);
            match on_its_own(model, tables, &now) {
                Some((label, next)) => {
                    way.push(format!("then {}", told(label)));
                    now = next;
                }
                None => break rests(model, &now).err(),
            }
        };
        if let Some(what) = wrong {
            let mut all = trace(how, *at);
            all.extend(way);
            return Some((format!("{what}: {now:?}"), all));
        }
        good.extend(path);
    }
    None
}

/// The next step that nobody has to make go wrong, and that changes anything.
fn on_its_own(model: &Model, tables: &Tables, world: &World) -> Option<(Label, World)> {
    let steps = steps(model, tables, world);
    let good = steps.into_iter().filter_map(|(label, next)| Some((rank(world, label)?, label, next.ok()?)));
    good.filter(|(rank, label, next)| *next != *world && (*rank < 5 || advances(world, next, *label)))
        .min_by_key(|(rank, ..)| *rank)
        .map(|(_, label, next)| (label, next))
}

/// A tick that does nothing but sign again what was signed goes on for ever.
fn advances(world: &World, next: &World, label: Label) -> bool {
    let (Label::Source(_, mv, ..) | Label::Target(_, mv, ..)) = label else { return true };
    let (then, now) = (&world.moves[mv], &next.moves[mv]);
    let said = (then.source.said, then.target.said, then.proposed)
        != (now.source.said, now.target.said, now.proposed);
    let states = (then.source.now, then.target.now) != (now.source.now, now.target.now);
    let idle = then.source.job.is_none() && now.source.job.is_some_and(|j| j.what != Do::Agree)
        || then.target.job.is_none() && now.target.job.is_some();
    let unsigned = now.source.job.is_some_and(|j| j.what == Do::Agree)
        && then.source.job.is_none()
        && then.source.said & (1 << (gtvp_protocol::smp::Say::Switch as u16)) == 0;
    said || states || idle || unsigned
}

/// How soon a step is taken where nothing goes wrong any more; none: it never is.
fn rank(world: &World, label: Label) -> Option<u8> {
    let dead = world.members.iter().any(|m| !m.alive);
    match label {
        Label::Source(_, _, on, None) | Label::Target(_, _, on, None) => match on {
            On::Restart | On::RestartBare => Some(0),
            On::Heard(_) | On::Done | On::Failed | On::Moved | On::Aborted | On::Past => Some(1),
            On::Cancel if world.denied || world.evicted != NOBODY => Some(3),
            On::Tick => Some(5),
            // Where a member is lost, an administrator does what the state's way out says.
            On::Expired if dead || world.denied => Some(6),
            On::Without if dead => Some(7),
            On::Cancel if dead => Some(8),
            On::Adopt if dead => Some(8),
            _ => None,
        },
        Label::Nothing(_) => Some(0),
        Label::SourceDoes(..) | Label::TargetDoes(_, _, false) => Some(1),
        Label::Decided(..) => Some(2),
        Label::Reads(_) => Some(2),
        Label::Evicted(m) if !world.members[m].alive => Some(7),
        _ => None,
    }
}

/// A world in which nothing happens by itself.
fn rests(model: &Model, world: &World) -> Result<(), String> {
    let Some(owner) = world.owner() else {
        let left = model.ways.iter().enumerate().any(|(i, (from, to))| {
            let mv = &world.moves[i];
            let busy = |state: bool, member: usize| !state && world.members[member].alive;
            busy(mv.source.now == Source::Idle || mv.source.now.is_over(), *from)
                || busy(mv.target.now == Target::Idle || mv.target.now.is_over(), *to)
        });
        return if left {
            Err("an end of a box that has ended is left in the middle".to_owned())
        } else {
            Ok(())
        };
    };
    if world.is_evicted(owner) {
        // It is no member's: it may be adopted, or ended.
        return Ok(());
    }
    if !world.members[owner].alive {
        // A box goes down with its member, migration or not.
        return if world.running() == 0 { Ok(()) } else { Err("it runs, and its owner is lost".to_owned()) };
    }
    for (i, (from, to)) in model.ways.iter().enumerate() {
        let mv = &world.moves[i];
        let both = world.members[*from].alive && world.members[*to].alive;
        let source =
            mv.source.now == Source::Idle || mv.source.now.is_over() || mv.source.now == Source::Held;
        let target =
            mv.target.now == Target::Idle || mv.target.now.is_over() || mv.target.now == Target::Held;
        if both && !(source && target) {
            return Err("an end is left in the middle".to_owned());
        }
    }
    let copies = world.members.iter().filter(|m| m.alive && m.process != Process::None).count();
    if copies > 1 {
        return Err("a process is left of a box that is elsewhere".to_owned());
    }
    let m = world.members[owner];
    let held = model.ways.iter().enumerate().any(|(i, (from, to))| {
        (*from == owner && world.moves[i].source.now == Source::Held)
            || (*to == owner && world.moves[i].target.now == Target::Held)
    });
    match m.process {
        Process::Running => Ok(()),
        Process::Paused if held && m.newest => Ok(()),
        Process::None if m.files && !world.excused => Err("a running state was thrown away".to_owned()),
        Process::None if m.files && may_start(model, world, owner) => Ok(()),
        _ => Err("it neither runs nor can a named command let it run".to_owned()),
    }
}
