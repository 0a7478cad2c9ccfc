//! Gossip: a seed replays byte for byte, members that keep to the protocol are held to the invariants whoever lies, and each defect
//! that is put in on purpose is found by some seed.

use gtvp_protocol::{Check, without};
use gtvp_sim::Violation;
use gtvp_sim::gossip::{Evil, Setup, Template, busy, rounds_allowed, safety};

const EVIL: [Option<Evil>; 4] = [None, Some(Evil::Forger), Some(Evil::Flooder), Some(Evil::Replayer)];

#[test]
fn a_seed_replays_byte_for_byte() {
    for evil in EVIL {
        let (first, again) = (safety(&Setup::of(3, evil)), safety(&Setup::of(3, evil)));
        assert_eq!(first, again, "{evil:?}");
        assert_ne!(first.trace, safety(&Setup::of(4, evil)).trace, "another seed is another run");
        assert!(first.frames > 500 && first.taken > 100, "{first:?}");
    }
}

#[test]
fn whoever_lies_nobody_is_fooled_and_what_is_said_comes_to_be_everywhere() {
    let seeds = if cfg!(debug_assertions) { 4 } else { 60 };
    for evil in EVIL {
        for seed in 0..seeds {
            let outcome = safety(&Setup::of(seed, evil));
            assert_eq!(outcome.violation, None, "gtvp-sim gossip run {seed} {evil:?}");
        }
    }
}

/// Runs seeds without a check until one finds something.
#[track_caller]
fn found(check: Check, evil: Option<Evil>, invariant: &str) {
    let find = || (0..40).find_map(|seed| safety(&Setup::of(seed, evil)).violation.map(|v| (seed, v)));
    let found: Option<(u64, Violation)> = without(check, find);
    let (seed, violation) = found.unwrap_or_else(|| panic!("{check:?} is not missed"));
    println!("{check:?}: seed {seed}: {}: {}", violation.invariant, violation.what);
    assert_eq!(violation.invariant, invariant, "{check:?}: {violation:?}");
}

#[test]
fn a_version_that_is_not_compared() {
    found(Check::GossipVersion, Some(Evil::Replayer), "nobody goes back to an older version");
}

#[test]
fn a_signature_that_is_not_checked() {
    found(Check::GossipSignature, Some(Evil::Forger), "what is kept and passed on is its author's");
}

#[test]
fn an_entry_that_has_ended_and_is_passed_on() {
    found(Check::GossipEnded, None, "what has ended goes nowhere");
}

#[test]
fn a_member_that_has_left_and_is_heard() {
    found(Check::GossipMember, None, "who is no member is not heard");
}

#[test]
fn an_author_without_a_budget() {
    found(Check::GossipAuthor, Some(Evil::Flooder), "an author has its share and no more");
}

#[test]
fn a_neighbour_without_a_budget() {
    found(Check::GossipNeighbour, Some(Evil::Forger), "a neighbour costs so many checks and no more");
}

#[test]
fn a_link_without_a_budget() {
    found(Check::GossipLink, Some(Evil::Flooder), "a link carries at most 2 KiB a round");
}

#[test]
fn among_a_thousand_a_change_is_everywhere_in_time() {
    let members = if cfg!(debug_assertions) { 200 } else { 1_000 };
    let template = Template::new(members, None);
    for seed in 0..20 {
        let spread = template.spread(seed, 100);
        assert!(spread.everywhere && spread.rounds as f64 <= rounds_allowed(members), "{seed}: {spread:?}");
        assert_eq!(spread, template.spread(seed, 100), "seed {seed} is one run");
    }
    // Where each has few channels, too.
    let sparse = Template::new(members, Some(12));
    let spread = sparse.spread(1, 100);
    assert!(spread.everywhere && spread.rounds as f64 <= rounds_allowed(members), "{spread:?}");
}

#[test]
fn a_busy_union_keeps_to_two_kib_a_link_and_round() {
    let busy = busy(&Template::new(100, None), 1, 12, 100, 100);
    println!("{busy:?}");
    assert!(busy.link_most <= 2_048 && busy.member_mean > 0, "{busy:?}");
    assert!(busy.stale < 100, "{busy:?}");
}
