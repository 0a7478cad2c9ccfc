//! Runs find what is wrong: each defect that is put in on purpose is found by some seed, and the same seeds find nothing without it.

use gtvp_protocol::{Check, without};
use gtvp_sim::{Bug, Config, Story, Violation, run};

/// Runs seeds until one finds something.
fn find(seeds: u64, story: Story, change: impl Fn(&mut Config)) -> Option<(u64, Violation)> {
    (0..seeds).find_map(|seed| {
        let mut config = Config::of(seed, story);
        change(&mut config);
        run(&config).violation.map(|v| (seed, v))
    })
}

#[track_caller]
fn found(what: &str, invariants: &[&str], violation: Option<(u64, Violation)>) {
    let (seed, violation) = violation.unwrap_or_else(|| panic!("{what} is not found"));
    println!("{what}: seed {seed}: {}: {}", violation.invariant, violation.what);
    assert!(invariants.contains(&violation.invariant), "{what}: {violation:?}");
}

const FORK: &str = "the record has one history";
const TWICE: &str = "a voter gives its word once";
const BACK: &str = "a record never goes back";
const ACKNOWLEDGED: &str = "what was acknowledged is in the record";
const CURRENT: &str = "a head was the last one at its time";
const AGREED: &str = "voters promise the same entry";
const GOES_ON: &str = "the union goes on";

/// Crashes more often than runs have them.
fn crashing(config: &mut Config) {
    config.faults.crashes = true;
    config.faults.partitions = true;
    config.faults.pace = 1500;
    config.faulty_ms = 90_000;
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn a_record_that_is_not_synchronized() {
    let bug = |c: &mut Config| {
        crashing(c);
        c.bug = Some(Bug::RecordNotSynced);
    };
    found("record not synchronized", &[BACK], find(20, Story::Honest, bug));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn a_promise_that_is_not_synchronized() {
    let bug = |c: &mut Config| {
        crashing(c);
        c.bug = Some(Bug::PromiseNotSynced);
    };
    found("promise not synchronized", &[TWICE], find(20, Story::Honest, bug));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn a_raft_that_is_not_synchronized() {
    let bug = |c: &mut Config| {
        crashing(c);
        (c.voters, c.members) = (3, 4);
        c.bug = Some(Bug::RaftNotSynced);
    };
    found("raft not synchronized", &[AGREED, GOES_ON, ACKNOWLEDGED], find(200, Story::Honest, bug));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn two_promises_for_a_number() {
    let violation = without(Check::OnePromise, || find(60, Story::Liar, |_| {}));
    found("two promises", &[TWICE, FORK], violation);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn a_counter_that_is_not_looked_at() {
    let violation = without(Check::PromiseFloor, || find(200, Story::Rollback, crashing));
    found("disk gone back, counter not looked at", &[FORK, ACKNOWLEDGED, CURRENT], violation);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn a_majority_that_is_not_counted() {
    let violation = without(Check::HeadMajority, || find(20, Story::Liar, |_| {}));
    found("majority not counted", &[FORK, CURRENT, ACKNOWLEDGED], violation);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn entries_that_are_not_the_heads() {
    let violation = without(Check::HeadEntries, || find(40, Story::Liar, |_| {}));
    found("entries not compared with the head", &[FORK], violation);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn a_time_that_nobody_signed() {
    let violation = without(Check::HeadSigned, || find(20, Story::Liar, |_| {}));
    found("time not compared with the votes", &[CURRENT], violation);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn a_voter_that_signs_the_last_head_after_the_next_one() {
    let violation = without(Check::LastPromise, || find(300, Story::Rollback, crashing));
    found("last promise not looked at", &[CURRENT], violation);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn the_same_runs_find_nothing_where_nothing_is_wrong() {
    for story in [Story::Honest, Story::Liar, Story::Rollback] {
        assert_eq!(find(10, story, crashing), None, "{story:?}");
    }
}

/// What docs/spec/csp.md says of unions with three voters: two of them make a majority, so who has one's keys can have the other two
/// take different entries. With four, three make one.
#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn a_traitor_among_three_voters_forks_the_record_and_among_four_it_does_not() {
    let three = |c: &mut Config| c.voters = 3;
    found("a traitor of three", &[FORK], find(60, Story::Traitor, three));
    assert_eq!(find(10, Story::Traitor, |_| {}), None);
}

/// Of two voters both must sign, so one that has forgotten what it promised signs nothing else with the other. It may hold both up.
#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn a_disk_that_goes_back_forks_no_record_of_two_voters_even_without_the_counter() {
    let two = |c: &mut Config| {
        crashing(c);
        c.voters = 2;
    };
    let violation = without(Check::PromiseFloor, || find(20, Story::Rollback, two));
    assert!(violation.as_ref().is_none_or(|(_, v)| v.invariant == ACKNOWLEDGED), "{violation:?}");
}
