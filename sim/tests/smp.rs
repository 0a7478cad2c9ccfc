//! Exactly one owner: every order of everything that can happen, by the tables that the engine uses; and that each guard and each write in
//! them is needed.

use std::collections::BTreeSet;

use gtvp_protocol::smp::{If, Row};
use gtvp_sim::smp::{Budget, Model, Tables, explore};

const NONE: Budget = Budget {
    kills: 0, power: 0, losses: 0, cancels: 0, failures: 0, damage: 0, denials: 0, expiries: 0, strays: 0, mistakes: 0, evictions: 0,
};

fn small() -> Vec<(&'static [(usize, usize)], Budget)> {
    vec![
        (&[(0, 1)], Budget { kills: 1, cancels: 1, ..NONE }),
        (&[(0, 1)], Budget { strays: 1, failures: 1, ..NONE }),
        (&[(0, 1)], Budget { damage: 1, denials: 1, expiries: 1, ..NONE }),
        (&[(0, 1)], Budget { power: 1, failures: 1, ..NONE }),
        (&[(0, 1)], Budget { mistakes: 1, kills: 1, ..NONE }),
        (&[(0, 1), (0, 2)], NONE),
        (&[(0, 1), (1, 0)], NONE),
        (&[(0, 1), (1, 2)], NONE),
        (&[(0, 1)], Budget { losses: 1, kills: 1, ..NONE }),
        (&[(0, 1)], Budget { evictions: 1, kills: 1, ..NONE }),
        (&[(0, 1)], Budget { kills: 2, power: 1, cancels: 1, ..NONE }),
        (&[(0, 1)], Budget { losses: 1, kills: 1, cancels: 1, ..NONE }),
        (&[(0, 1), (0, 1)], Budget { cancels: 1, ..NONE }),
        (&[(0, 1), (0, 2)], Budget { cancels: 1, ..NONE }),
        (&[(0, 1), (1, 0)], Budget { power: 1, ..NONE }),
        (&[(0, 1), (0, 1)], Budget { cancels: 1, kills: 1, ..NONE }),
    ]
}

#[test]
fn sizes() {
    for (ways, budget) in small() {
        let t = std::time::Instant::now();
        let found = explore(&Model::new(ways), &Tables::default(), budget);
        println!("{ways:?} {budget:?}: {} worlds {} steps {:?}", found.worlds, found.steps, t.elapsed());
        if let Some((what, way)) = found.violation {
            println!("{what}\n{}", way.join("\n"));
        }
    }
}

fn violated(tables: &Tables) -> Option<(String, usize)> {
    small().into_iter().take(13).find_map(|(ways, budget)| {
        let v = explore(&Model::new(ways), tables, budget).violation;
        v.map(|(what, way)| (what.chars().take(70).collect(), way.len()))
    })
}

fn less<S: Copy>(rows: &[Row<S>], at: usize, guard: If) -> Vec<Row<S>> {
    let mut rows = rows.to_vec();
    let only: Vec<If> = rows[at].only.iter().copied().filter(|g| *g != guard).collect();
    rows[at].only = only.leak();
    rows
}

#[test]
fn guards() {
    let good = Tables::default();
    for (at, row) in good.source.iter().enumerate() {
        for guard in row.only {
            let t = Tables { source: less(&good.source, at, *guard), ..good.clone() };
            println!("source {at} {:?} {:?} without {guard:?}: {:?}", row.from, row.on, violated(&t));
        }
        if row.write {
            let mut t = good.clone();
            t.source[at].write = false;
            println!("source {at} {:?} {:?} unwritten: {:?}", row.from, row.on, violated(&t));
        }
    }
    for (at, row) in good.target.iter().enumerate() {
        for guard in row.only {
            let t = Tables { target: less(&good.target, at, *guard), ..good.clone() };
            println!("target {at} {:?} {:?} without {guard:?}: {:?}", row.from, row.on, violated(&t));
        }
        if row.write {
            let mut t = good.clone();
            t.target[at].write = false;
            println!("target {at} {:?} {:?} unwritten: {:?}", row.from, row.on, violated(&t));
        }
    }
}

#[test]
fn taken() {
    let mut taken = BTreeSet::new();
    let t0 = std::time::Instant::now();
    for (ways, budget) in small() {
        taken.extend(explore(&Model::new(ways), &Tables::default(), budget).taken);
    }
    let all = Budget { kills: 1, power: 1, losses: 1, cancels: 1, failures: 1, damage: 1, denials: 1, ..NONE };
    taken.extend(explore(&Model::new(&[(0, 1)]), &Tables::default(), all).taken);
    println!("{:?}", t0.elapsed());
    let good = Tables::default();
    for (at, row) in good.source.iter().enumerate() {
        for s in row.from { for on in row.on {
            let n = row.does.len() + usize::from(row.write);
            for cut in (0..n).map(Some).chain([None]) {
                if !taken.contains(&(true, at, format!("{s:?}"), *on, cut)) { println!("source {at} {s:?} {on:?} {cut:?}"); }
            }
        }}
    }
    for (at, row) in good.target.iter().enumerate() {
        for s in row.from { for on in row.on {
            let n = row.does.len() + usize::from(row.write);
            for cut in (0..n).map(Some).chain([None]) {
                if !taken.contains(&(false, at, format!("{s:?}"), *on, cut)) { println!("target {at} {s:?} {on:?} {cut:?}"); }
            }
        }}
    }
}
