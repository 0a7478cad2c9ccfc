//! What is explored: who moves where, and what may go wrong.

use std::time::Instant;

use super::explore::{Explored, explore};
use super::step::Tables;
use super::world::{Budget, Model};

/// An exploration.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// From where to where each migration goes.
    pub ways: &'static [(usize, usize)],
    /// What may go wrong, all of it at any time.
    pub budget: Budget,
}

/// Nothing goes wrong but what messages, proposals and readers do anyway.
pub const CALM: Budget = Budget {
    kills: 0,
    power: 0,
    losses: 0,
    cancels: 0,
    failures: 0,
    damage: 0,
    denials: 0,
    expiries: 0,
    strays: 0,
    mistakes: 0,
    evictions: 0,
};

const ONE: &[(usize, usize)] = &[(0, 1)];
const AGAIN: &[(usize, usize)] = &[(0, 1), (0, 1)];
const BACK: &[(usize, usize)] = &[(0, 1), (1, 0)];
const ON: &[(usize, usize)] = &[(0, 1), (1, 2)];
const BOTH: &[(usize, usize)] = &[(0, 1), (0, 2)];

const fn run(ways: &'static [(usize, usize)], budget: Budget) -> Run {
    Run { ways, budget }
}

/// Small ones first: they find what is wrong soonest.
pub const RUNS: &[Run] = &[
    run(ONE, Budget { kills: 1, cancels: 1, ..CALM }),
    run(ONE, Budget { strays: 1, failures: 1, ..CALM }),
    run(ONE, Budget { damage: 1, denials: 1, expiries: 1, ..CALM }),
    run(ONE, Budget { power: 1, failures: 1, ..CALM }),
    run(ONE, Budget { mistakes: 1, kills: 1, ..CALM }),
    run(ONE, Budget { mistakes: 1, power: 1, ..CALM }),
    run(ONE, Budget { strays: 1, power: 1, ..CALM }),
    run(BOTH, CALM),
    run(BACK, CALM),
    run(ON, CALM),
    run(ONE, Budget { kills: 1, power: 1, expiries: 1, ..CALM }),
    run(ONE, Budget { losses: 1, kills: 1, ..CALM }),
    run(ONE, Budget { evictions: 1, kills: 1, ..CALM }),
    run(ONE, Budget { evictions: 1, power: 2, ..CALM }),
    run(AGAIN, Budget { cancels: 1, ..CALM }),
    run(ONE, Budget { losses: 1, kills: 1, cancels: 1, ..CALM }),
    run(BOTH, Budget { cancels: 1, ..CALM }),
    run(BACK, Budget { power: 1, ..CALM }),
    run(ONE, Budget { kills: 2, power: 1, cancels: 1, ..CALM }),
    run(ONE, Budget { kills: 1, power: 2, losses: 1, ..CALM }),
    run(AGAIN, Budget { cancels: 1, kills: 1, ..CALM }),
    run(ON, Budget { kills: 1, cancels: 1, ..CALM }),
    run(
        ONE,
        Budget { kills: 1, power: 1, losses: 1, cancels: 1, failures: 1, damage: 1, denials: 1, ..CALM },
    ),
];

/// What takes minutes and some GiB.
pub const DEEP: &[Run] = &[
    run(
        ONE,
        Budget {
            kills: 2,
            power: 1,
            losses: 1,
            cancels: 1,
            failures: 1,
            damage: 1,
            denials: 1,
            expiries: 1,
            strays: 1,
            ..CALM
        },
    ),
    run(ONE, Budget { kills: 2, power: 1, evictions: 1, cancels: 1, mistakes: 1, ..CALM }),
    run(AGAIN, Budget { kills: 2, cancels: 1, failures: 1, ..CALM }),
    run(BACK, Budget { kills: 1, power: 1, cancels: 1, ..CALM }),
    run(ON, Budget { kills: 1, power: 1, ..CALM }),
    run(BOTH, Budget { kills: 1, cancels: 1, ..CALM }),
    run(BOTH, Budget { kills: 1, losses: 1, cancels: 1, ..CALM }),
];

impl Run {
    /// Explores it.
    pub fn explore(&self, tables: &Tables) -> Explored {
        explore(&Model::new(self.ways), tables, self.budget)
    }

    /// Explores it by the product's tables and tells what was found; false: something is wrong.
    pub fn tell(&self) -> bool {
        self.told().violation.is_none()
    }

    /// The same, with all that was found.
    pub fn told(&self) -> Explored {
        let start = Instant::now();
        let found = self.explore(&Tables::default());
        let (worlds, steps, seconds) = (found.worlds, found.steps, start.elapsed().as_secs_f64());
        println!("{:?}, {}: {worlds} worlds, {steps} steps, {seconds:.1} s", self.ways, self.faults());
        if let Some((what, way)) = &found.violation {
            println!("{what}\n  {}", way.join("\n  "));
        }
        found
    }

    fn faults(&self) -> String {
        let b = &self.budget;
        let all = [
            ("kill", b.kills),
            ("power", b.power),
            ("loss", b.losses),
            ("cancel", b.cancels),
            ("failure", b.failures),
            ("damage", b.damage),
            ("denial", b.denials),
            ("expiry", b.expiries),
            ("stray", b.strays),
            ("mistake", b.mistakes),
            ("eviction", b.evictions),
        ];
        let some: Vec<String> =
            all.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{n} {name}")).collect();
        if some.is_empty() { "calm".to_owned() } else { some.join(" ") }
    }
}
