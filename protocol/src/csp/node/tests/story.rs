//! What members that keep to the protocol come to.

use super::*;
use crate::csp::follow::MAX_LEAD;

/// `a`, `b` and `c` vote, `d` does not.
pub fn three() -> Union {
    let mut union = Union::of(&["a", "b", "c", "d"]);
    union.voters("a", &["a", "b"]);
    union.voters("a", &["a", "b", "c"]);
    union
}

#[test]
fn a_union_of_one_voter_decides_at_once_and_everybody_has_it() {
    let mut union = Union::of(&["a", "b", "c"]);
    let ticket = union.token("c", "p");
    union.run(200);
    assert_eq!(union.outcome("c", ticket), Some(&Proposal::Taken));
    union.agree();
}

#[test]
fn any_member_proposes_and_voters_decide() {
    let mut union = three();
    for (i, by) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let ticket = union.token(by, &format!("p{i}"));
        union.run(1_500);
        assert_eq!(union.outcome(by, ticket), Some(&Proposal::Taken), "{by}");
    }
    union.agree();
}

#[test]
fn of_two_entries_for_one_place_one_is_taken_and_the_other_overtaken() {
    let mut union = three();
    let tickets = [("b", union.token("b", "p")), ("d", union.token("d", "q"))];
    union.run(3_000);
    let mut outcomes: Vec<_> = tickets.iter().map(|(n, t)| union.outcome(n, *t).cloned()).collect();
    outcomes.sort_by_key(|o| o != &Some(Proposal::Taken));
    assert_eq!(outcomes, [Some(Proposal::Taken), Some(Proposal::Overtaken)]);
    union.agree();
}

#[test]
fn without_its_leader_the_union_goes_on_and_the_leader_learns() {
    let mut union = three();
    let leader = union.leader().unwrap();
    let gone = union.stop(leader);
    let other = union.members.keys().copied().next().unwrap();
    union.run(4_000);
    let ticket = union.token(other, "p");
    union.run(3_000);
    assert_eq!(union.outcome(other, ticket), Some(&Proposal::Taken));
    union.back(gone);
    union.run(3_000);
    union.agree();
}

#[test]
fn a_minority_decides_nothing_says_so_and_comes_back() {
    let mut union = three();
    let leader = union.leader().unwrap();
    let rest: Vec<_> = union.members.keys().copied().filter(|n| *n != leader).collect();
    union.part(&[leader], &rest);
    let ticket = union.token(leader, "p");
    union.run(15_000);
    assert!(matches!(union.outcome(leader, ticket), Some(Proposal::Unknown(_))));
    assert!(union.members[leader].told("quorum.lost"), "{:?}", union.members[leader].told);
    let other = union.token(rest[0], "q");
    union.run(3_000);
    assert_eq!(union.outcome(rest[0], other), Some(&Proposal::Taken));
    union.heal();
    union.run(5_000);
    union.agree();
    assert!(union.members[leader].told("quorum.regained"));
}

#[test]
fn a_security_that_begins_anew_has_a_new_head_at_once() {
    let mut union = three();
    union.run(4_000);
    let leader = union.leader().unwrap();
    let time = |union: &Union| union.members[leader].state().head.head.time;
    // A moment after the last head: the next one is 5 s off.
    let before = time(&union);
    while time(&union) == before {
        union.run(100);
    }
    union.run(1_500);
    let (before, state) = (time(&union), union.members[leader].state());
    union.run(100);
    assert_eq!(time(&union), before, "control: nothing is due");
    union.event(leader, Event::Union(state));
    union.run(100);
    assert!(time(&union) > before);
}

#[test]
fn all_voters_may_stop_at_once() {
    let mut union = three();
    union.token("b", "p");
    for _ in 0..8 {
        if let Some((from, to, frame)) = union.wire.pop_front() {
            let id = union.world.id(from);
            union.event(to, Event::Frame(id, frame));
        }
    }
    let gone: Vec<Member> = ["a", "b", "c"].into_iter().map(|n| union.stop(n)).collect();
    union.run(1_000);
    gone.into_iter().for_each(|m| union.back(m));
    union.run(10_000);
    union.agree();
    let ticket = union.token("d", "q");
    union.run(3_000);
    assert_eq!(union.outcome("d", ticket), Some(&Proposal::Taken));
}

#[test]
fn voters_go_the_leader_too_and_whoever_is_left_decides() {
    let mut union = three();
    let leader = union.leader().unwrap();
    let left: Vec<&str> = ["a", "b", "c"].into_iter().filter(|n| *n != leader).collect();
    let by = "d";
    union.voters(by, &left);
    union.run(5_000);
    let last = left[1];
    union.voters(by, &[last]);
    union.run(5_000);
    let others: Vec<&'static str> =
        union.members.keys().copied().filter(|n| *n != last && *n != by).collect();
    for other in others {
        union.stop(other);
    }
    let ticket = union.token(by, "p");
    union.run(3_000);
    assert_eq!(union.outcome(by, ticket), Some(&Proposal::Taken), "{:?}", union.members[last].node);
    union.agree();
}

/// Raft has removed them, and told them nothing of what came after: each holds another one to lead, which does not any more.
#[test]
fn who_votes_no_more_still_has_its_entries_go_in() {
    let mut union = three();
    let leader = union.leader().unwrap();
    let others: Vec<&'static str> = ["a", "b", "c"].into_iter().filter(|n| *n != leader).collect();
    let (gone, last) = (others[0], others[1]);
    union.voters("d", &[leader, last]);
    union.run(5_000);
    union.voters("d", &[last]);
    union.run(5_000);
    assert_eq!(union.leader(), Some(last), "the control: it led before");
    for by in [gone, leader, "d", last] {
        let ticket = union.token(by, &format!("of {by}"));
        union.run(5_000);
        assert_eq!(
            union.outcome(by, ticket),
            Some(&Proposal::Taken),
            "{by}: {}",
            union.members[by].node.raft()
        );
    }
    union.agree();
}

#[test]
fn a_head_stays_fresh_everywhere() {
    let mut union = three();
    union.run(120_000);
    for member in union.members.values() {
        assert!(member.keeper.follower().is_current(union.ctx().wall), "{}", member.name);
        assert!(!member.told("record.not_current"), "{}", member.name);
    }
}

#[test]
fn who_was_away_long_pulls_and_votes_again() {
    let mut union = three();
    let gone = union.stop("c");
    union.run(5_000);
    for i in 0..60 {
        // In turns: no author has so many at once.
        let by = if i % 2 == 0 { "a" } else { "d" };
        let ticket = union.token(by, &format!("p{i}"));
        union.run(1_500);
        assert_eq!(union.outcome(by, ticket), Some(&Proposal::Taken), "{i} {:?}", union.numbers());
    }
    union.back(gone);
    union.run(10_000);
    union.agree();
    let leader = union.leader().unwrap();
    let needed = ["a", "b"].into_iter().find(|n| *n != leader).unwrap();
    union.stop(needed);
    union.run(5_000);
    let ticket = union.token("d", "last");
    union.run(5_000);
    assert_eq!(
        union.outcome("d", ticket),
        Some(&Proposal::Taken),
        "c's vote counts: {:?}",
        union.members["c"].node
    );
}

#[test]
fn a_rule_refuses_for_everybody_and_the_next_entry_goes_in() {
    let mut union = three();
    let ticket = union.propose("d", Act::Admitted(World::admission("nobody")));
    union.run(5_000);
    assert!(
        matches!(union.outcome("d", ticket), Some(Proposal::Refused(_))),
        "{:?}",
        union.outcome("d", ticket)
    );
    let ticket = union.token("d", "p");
    union.run(3_000);
    assert_eq!(union.outcome("d", ticket), Some(&Proposal::Taken));
}

#[test]
fn who_came_while_another_left_is_known_to_raft_by_who_learns_both_at_once() {
    let mut world = World::begin(&["a", "b", "c"]);
    let ctx = Context { now: Millis(0), wall: UnixTime(WALL) };
    let mut node = Node::new(world.id("a"), None, 1, ctx).unwrap();
    let told = |world: &World| {
        let record = world.record();
        Event::Union(Arc::new(UnionState::of(record, world.co_sign_at(record.view().head, UnixTime(WALL)))))
    };
    node.on(told(&world), ctx);
    world.admit("e");
    world.write("c", Act::Left).unwrap();
    node.on(told(&world), ctx);
    let known: BTreeSet<_> = node.ids.values().copied().collect();
    assert_eq!(known, world.record().view().members.keys().copied().collect());
}

#[test]
fn an_entry_ahead_of_the_leaders_clock_is_never_decided_so_that_voters_do_not_divide_over_it() {
    let mut union = three();
    let leader = union.leader().unwrap();
    let by = ["a", "b", "c"].into_iter().find(|n| *n != leader).unwrap();
    let wall = union.ctx().wall.0;
    for (ahead, taken) in [(MAX_LEAD + 60, false), (MAX_LEAD - 60, true)] {
        let act = Act::TokenMade(World::token_for(&format!("t{ahead}")));
        let record = union.members[by].keeper.record().clone();
        let entry = union.world.next_of_at(&record, by, UnixTime(wall + ahead), act);
        let hash = entry.hash();
        let ticket = union.propose_entry(by, entry);
        union.run(3_000);
        let Some(outcome) = union.outcome(by, ticket) else { panic!("{ahead}: no outcome") };
        if taken {
            assert_eq!(*outcome, Proposal::Taken, "the control");
        } else {
            let Proposal::Refused(why) = outcome else { panic!("{outcome:?}") };
            assert!(
                why.starts_with("its author's clock is 3") && why.ends_with("ahead of this voter's"),
                "{why}"
            );
            let promised = union.members.values().filter_map(|m| m.keeper.promised());
            assert!(promised.into_iter().all(|p| p.hash != hash));
        }
    }
    union.agree();
}
