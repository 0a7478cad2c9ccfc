//! Exactly one owner (GTVP-SMP): in every order of everything that can happen, by the tables that the engine uses. That each guard is
//! needed, that the writes are, and that no row is left without a crash in the middle of it. Any failure prints the shortest way there.

use std::collections::BTreeSet;

use gtvp_protocol::smp::{Do, If, On, Row, Say, Source, Target};
use gtvp_protocol::{Check, without};
use gtvp_sim::smp::{RUNS, Tables, Taken};

/// What a run finds wrong, and whose way there is how long.
fn wrong(tables: &Tables) -> Option<(String, usize)> {
    let violation = RUNS.iter().find_map(|run| run.explore(tables).violation);
    violation.map(|(what, way)| (what.split(": World").next().unwrap_or_default().to_owned(), way.len()))
}

#[track_caller]
fn found(name: &str, tables: &Tables) {
    let (what, steps) = wrong(tables).unwrap_or_else(|| panic!("{name}: nothing is found"));
    println!("{name}: {what}, in {steps} steps");
}

/// Rows that nothing leads to: they are there so that what cannot be is survived, too.
const NEVER: [(&str, On, &str); 8] = [
    ("source Committing", On::Aborted, "it has proposed no such thing, and its journal would know"),
    ("source Blind", On::Restart, "it has no process"),
    ("source Gone", On::Restart, "it has no process"),
    ("source Wiping", On::Restart, "it has no process"),
    (
        "target Idle",
        On::Heard(Say::Still),
        "it has taken no ticket, so its source is not there yet; a lost journal",
    ),
    ("target Reserving", On::Restart, "its process is built later"),
    ("target Bare", On::Restart, "it has no process"),
    ("target AdoptingBare", On::Restart, "it has no process"),
];

/// What of a table was not taken, whole and cut after each of its commands.
fn missed<S: std::fmt::Debug>(end: &str, rows: &[Row<S>], taken: &BTreeSet<Taken>) -> BTreeSet<(String, On)> {
    let mut missed = BTreeSet::new();
    for (at, row) in rows.iter().enumerate() {
        let commands = row.does.len() + usize::from(row.write);
        for (state, on) in row.from.iter().flat_map(|s| row.on.iter().map(move |o| (s, *o))) {
            let was =
                |cut: Option<usize>| taken.contains(&(end == "source", at, format!("{state:?}"), on, cut));
            if !(was(None) && (0..commands).all(|c| was(Some(c)))) {
                missed.insert((format!("{end} {state:?}"), on));
            }
        }
    }
    missed
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn a_box_has_one_owner_whatever_happens_and_every_row_is_cut_everywhere() {
    let mut taken = BTreeSet::new();
    let mut worlds = 0;
    for run in RUNS {
        let found = run.told();
        assert!(found.violation.is_none());
        worlds += found.worlds;
        taken.extend(found.taken);
    }
    println!("{worlds} worlds");
    let tables = Tables::default();
    let mut missing = missed("source", &tables.source, &taken);
    missing.extend(missed("target", &tables.target, &taken));
    assert_eq!(missing, NEVER.iter().map(|(state, on, _)| ((*state).to_owned(), *on)).collect());
}

/// What stands for a guard that the exploration has no adversary for: signatures.
const ELSEWHERE: [(If, &str); 3] = [
    (If::Countersigned, "smp/tests: a_ticket_that_the_target_has_not_signed_begins_nothing"),
    (If::Agreed, "smp/tests: nothing_is_switched_by_a_consent_that_the_other_end_has_not_signed"),
    (
        If::Same,
        "at the source: the target looks first; smp/tests: a_target_that_has_another_state_moves_nothing",
    ),
];

fn less<S: Copy>(rows: &[Row<S>], at: usize, guard: If) -> Vec<Row<S>> {
    let mut rows = rows.to_vec();
    let only: Vec<If> = rows[at].only.iter().copied().filter(|g| *g != guard).collect();
    rows[at].only = only.leak();
    rows
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn each_guard_is_needed() {
    let good = Tables::default();
    let elsewhere = |guard: &If| ELSEWHERE.iter().any(|(g, _)| g == guard);
    for (at, row) in good.source.iter().enumerate() {
        for guard in row.only.iter().filter(|g| !elsewhere(g)) {
            let tables = Tables { source: less(&good.source, at, *guard), ..good.clone() };
            found(&format!("{:?} × {:?} without {guard:?}", row.from, row.on), &tables);
        }
    }
    for (at, row) in good.target.iter().enumerate() {
        for guard in row.only.iter().filter(|g| !elsewhere(g) || **g == If::Same) {
            let tables = Tables { target: less(&good.target, at, *guard), ..good.clone() };
            found(&format!("{:?} × {:?} without {guard:?}", row.from, row.on), &tables);
        }
    }
}

/// Without the write of these the box is doubled, lost, thrown back or stuck. Without that of any other row a machine does what it did once
/// more, from the state before, and ends as well: writing it saves the work.
const NEEDED: [(&str, &str); 9] = [
    ("Idle", "Offered"),
    ("Sending", "Pausing"),
    ("Stopped", "Committing"),
    ("Committing", "Aborting"),
    ("Returning", "Stayed"),
    ("Wiping", "Left"),
    ("Checking", "Promised"),
    ("Promised", "Adopting"),
    ("Dropping", "Dropped"),
];

fn is_needed<S: std::fmt::Debug>(row: &Row<S>) -> bool {
    let named = |(from, to): &&(&str, &str)| {
        row.from.iter().any(|s| format!("{s:?}") == **from)
            && row.to.as_ref().is_some_and(|s| format!("{s:?}") == **to)
    };
    row.write && NEEDED.iter().any(|n| named(&n))
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn what_is_written_first_is_needed() {
    let good = Tables::default();
    let mut seen = 0;
    for at in (0..good.source.len()).filter(|at| is_needed(&good.source[*at])) {
        let mut tables = good.clone();
        tables.source[at].write = false;
        seen += 1;
        found(&format!("{:?} → {:?} unwritten", good.source[at].from, good.source[at].to), &tables);
    }
    for at in (0..good.target.len()).filter(|at| is_needed(&good.target[*at])) {
        let mut tables = good.clone();
        tables.target[at].write = false;
        seen += 1;
        found(&format!("{:?} → {:?} unwritten", good.target[at].from, good.target[at].to), &tables);
    }
    assert_eq!(seen, NEEDED.len());
}

/// A row that comes before all others.
fn first<S: 'static>(from: S, on: On, does: &'static [Do], to: S) -> Row<S> {
    Row { from: vec![from].leak(), on: vec![on].leak(), only: &[], write: true, does, to: Some(to) }
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn what_is_not_fenced_has_two_owners_or_none() {
    let good = Tables::default();
    let with_source = |row: Row<Source>| {
        let mut tables = good.clone();
        tables.source.insert(0, row);
        tables
    };
    let with_target = |row: Row<Target>| {
        let mut tables = good.clone();
        tables.target.insert(0, row);
        tables
    };
    let back = &[Do::Send(Say::Abort), Do::Resume];
    let run = &[Do::Appraise, Do::ReleaseKey, Do::Resume];
    for (name, tables) in [
        (
            "a source that goes on after a while",
            with_source(first(Source::Committing, On::Tick, back, Source::Returning)),
        ),
        (
            "a source that goes on when it is cancelled",
            with_source(first(Source::Committing, On::Cancel, back, Source::Returning)),
        ),
        (
            "a source that goes on after a restart",
            with_source(first(Source::Committing, On::Restart, back, Source::Returning)),
        ),
        (
            "a source that proposes to stay and goes on",
            with_source(first(Source::Aborting, On::Tick, back, Source::Returning)),
        ),
        (
            "a source that goes on by the target's word",
            with_source(first(Source::Committing, On::Heard(Say::Lost), back, Source::Returning)),
        ),
        (
            "a source that kills nothing once it has moved",
            with_source(first(Source::Committing, On::Moved, &[Do::Send(Say::Killed)], Source::Gone)),
        ),
        (
            "a source without a process that has the box stay",
            with_source(first(Source::Blind, On::Tick, &[Do::ProposeAborted], Source::Blind)),
        ),
        (
            "a source that wipes before the record says so",
            with_source(first(Source::Committing, On::Tick, &[Do::Wipe], Source::Wiping)),
        ),
        (
            "a target that runs what is switched, unrecorded",
            with_target(first(Target::Promised, On::Heard(Say::Switch), run, Target::Resuming)),
        ),
        (
            "a target that runs before the source's process is gone",
            with_target(first(Target::Promised, On::Moved, run, Target::Resuming)),
        ),
        (
            "a target that drops what it has promised",
            with_target(first(Target::Promised, On::Tick, &[Do::Wipe], Target::Dropping)),
        ),
        (
            "a target that drops when it is cancelled",
            with_target(first(Target::Committing, On::Cancel, &[Do::Wipe], Target::Dropping)),
        ),
        (
            "a target that starts before the source's process is gone",
            with_target(first(Target::Bare, On::Moved, &[], Target::Cold)),
        ),
    ] {
        found(name, &tables);
    }
    without(Check::OwnerEpoch, || found("a record that does not look at the epoch", &good));
}
