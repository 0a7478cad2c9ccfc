//! What members that lie come to.

use super::super::message::{
    Announce, Does, Lost, Offered, Propose, Pull, Raft, RaftKind, Refresh, Refused, Snapshot, Voted,
};
use super::super::order::raft_id;
use super::story::three;
use super::*;
use crate::csp::Head;
use crate::frame::wire::List;
use gtvp_model::union::RecordHead;

/// Runs; each takes 30 ms.
const SEEDS: u64 = 60;

fn from(union: &mut Union, liar: &'static str, to: &'static str, message: impl Into<Message>) {
    let frame = message.into().frame();
    let id = union.world.id(liar);
    union.event(to, Event::Frame(id, frame));
}

/// Numbers that are near to something.
fn number(rng: &mut Rng) -> u64 {
    let near = rng.below(4);
    match rng.below(8) {
        0 => 0,
        1 => u64::MAX - near,
        2 => (1 << 62) - 1 + near,
        3 => 1 << rng.below(63),
        _ => rng.below(24),
    }
}

fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[usize::try_from(rng.below(of.len() as u64)).unwrap()]
}

/// Any message of Raft, most of them with terms that are taken.
fn any_raft(rng: &mut Rng, term: u64, ids: &[u64], entry: &SignedEntry) -> Raft {
    use RaftKind::*;
    let kinds =
        [Append, Append, Appended, Heartbeat, Heard, RequestVote, Vote, RequestPreVote, PreVote, TimeoutNow];
    let kind = if rng.below(8) == 0 { RaftKind::Snapshot } else { pick(rng, &kinds) };
    let term = if rng.below(4) == 0 { number(rng) } else { (term + rng.below(3)).saturating_sub(1) };
    let any = rng.below(4);
    let entries = (0..if kind == Append { any } else { any / 3 }).map(|_| {
        let does = pick(rng, &[Does::Nothing, Does::Entry, Does::Add, Does::Remove]);
        let has = (does == Does::Entry) != (rng.below(8) == 0);
        let term = if rng.below(4) == 0 { number(rng) } else { term };
        super::super::message::Logged { term, does, node: pick(rng, ids), entry: has.then(|| entry.clone()) }
    });
    let entries: Vec<_> = entries.collect();
    let snapshot = (kind == RaftKind::Snapshot) != (rng.below(16) == 0);
    Raft {
        kind,
        term,
        index: number(rng),
        log_term: if rng.below(2) == 0 { number(rng) } else { term },
        commit: number(rng),
        commit_term: number(rng),
        reject: rng.below(2) == 0,
        reject_hint: number(rng),
        transfer: rng.below(4) == 0,
        entries: entries.try_into().unwrap(),
        snapshot: snapshot.then(|| self::Snapshot {
            index: number(rng),
            term: if rng.below(2) == 0 { number(rng) } else { term },
            voters: (0..rng.below(5)).map(|_| pick(rng, ids)).collect::<Vec<_>>().try_into().unwrap(),
        }),
    }
}

#[test]
fn whatever_a_voter_says_of_raft_the_others_live_and_go_on_without_it() {
    let mut frozen = 0;
    for seed in 0..SEEDS {
        let mut rng = Rng(seed);
        let mut union = three();
        union.run(1_000);
        let liar = pick(&mut rng, &["a", "b", "c"]);
        let honest: Vec<&'static str> = ["a", "b", "c"].into_iter().filter(|n| *n != liar).collect();
        let ids: Vec<u64> = ["a", "b", "c", "d", "x"].iter().map(|n| raft_id(&union.world.id(n))).collect();
        let entry = union.world.next_of(
            union.members["d"].keeper.record(),
            "d",
            Act::TokenMade(World::token_for("l")),
        );
        for _ in 0..150 {
            let to = pick(&mut rng, &honest);
            let term = union.members[to].node.order.as_ref().unwrap().term();
            let message = any_raft(&mut rng, term, &ids, &entry);
            from(&mut union, liar, to, message);
            let pause = rng.below(3) * 150;
            union.run(pause);
        }
        union.stop(liar);
        union.run(10_000);
        let ticket = union.token("d", "after");
        union.run(9_000);
        // A leader that has two entries decided, each by another voter, has them give their words for both: there is no majority for
        // either as long as it is silent. No voter may take its word back: two majorities could come of it.
        let promised: BTreeSet<_> = honest
            .iter()
            .filter_map(|n| union.members[n].keeper.promised())
            .map(|p| (p.number, p.hash.0))
            .collect();
        let head = union.members["d"].keeper.record().view().head.number;
        let split = promised.iter().filter(|(n, _)| *n > head).count() == 2;
        let nodes: Vec<_> = union
            .members
            .values()
            .map(|m| format!("{} {:?} {:?}", m.name, m.node.order, m.node.decided.len()))
            .collect();
        let taken = union.outcome("d", ticket) == Some(&Proposal::Taken);
        assert!(taken || split, "seed {seed}, {liar} lied: {nodes:#?}");
        frozen += u64::from(!taken);
        union.agree();
    }
    assert!(frozen <= SEEDS / 10, "{frozen} of {SEEDS}");
}

#[test]
fn frames_that_are_none_are_counted_and_change_nothing() {
    let mut union = three();
    let before = union.members["a"].keeper.record().clone();
    let id = union.world.id("b");
    for kind in KINDS {
        for body in
            [vec![], vec![0x80], vec![0xFF; 64], vec![0x9B; 9], vec![0; limits(kind).unwrap_or(0) + 1]]
        {
            union.event("a", Event::Frame(id, Frame { kind, body }));
        }
    }
    assert!(union.members["a"].told("message.refused"));
    assert!(union.members["a"].told.len() < 10, "a peer does not fill the log");
    assert_eq!(*union.members["a"].keeper.record(), before);
    let ticket = union.token("d", "p");
    union.run(3_000);
    assert_eq!(union.outcome("d", ticket), Some(&Proposal::Taken));
}

#[test]
fn messages_have_a_kind_a_bound_and_one_form() {
    let union = three();
    let head = union.members["a"].head.clone();
    let offer = page::offer(&union.members["a"].journal[1..]).unwrap();
    let entry = offer.entries[0].clone();
    let vote = head.votes.as_slice()[0].clone();
    let raft = any_raft(&mut Rng(3), 5, &[1, 2], &entry);
    let all: [Message; 9] = [
        Announce { head: head.clone() }.into(),
        Pull { from: u64::MAX }.into(),
        Offered { offer: Some(offer) }.into(),
        Propose { passed: true, entry: entry.clone() }.into(),
        Refused { entry: entry.hash(), reason: "x".repeat(256) }.into(),
        raft.into(),
        Voted { head: head.head, vote }.into(),
        Refresh {}.into(),
        Lost {}.into(),
    ];
    let mut kinds: Vec<u8> = Vec::new();
    for message in all {
        let frame = message.frame();
        assert!(frame.body.len() <= limits(frame.kind).unwrap(), "{message:?}");
        assert_eq!(Message::decode(&frame).as_ref(), Ok(&message));
        kinds.push(frame.kind);
    }
    assert_eq!(kinds, Message::TABLE.iter().map(|(_, k, _)| *k).collect::<Vec<_>>());
    assert!(kinds.iter().all(|k| KINDS.contains(k)));
    assert_eq!(limits(41), None);
}

#[test]
fn who_announces_what_it_has_not_is_not_asked_and_holds_nobody_up() {
    let mut union = three();
    let mut far = union.members["a"].head.clone();
    far.head.at = RecordHead { number: 1 << 40, hash: Digest([7; 32]) };
    union.part(&["b"], &["a", "c"]);
    let ticket = union.token("a", "p");
    union.run(4_000);
    assert_eq!(union.outcome("a", ticket), Some(&Proposal::Taken));
    let behind = union.members["b"].keeper.record().view().head;
    for _ in 0..20 {
        from(&mut union, "d", "b", Announce { head: far.clone() });
        union.settle();
        from(&mut union, "d", "b", Offered { offer: None });
    }
    assert!(union.members["b"].told("peer.blamed"));
    assert!(union.members["b"].told.len() < 10, "{:?}", union.members["b"].told);
    assert_eq!(union.members["b"].keeper.record().view().head, behind);
    union.heal();
    union.run(3_000);
    union.agree();
}

#[test]
fn two_co_signed_records_are_told_and_neither_is_resolved() {
    let mut union = three();
    let mut other = union.members["a"].head.clone();
    other.head.at.hash = Digest([7; 32]);
    let head = Head { time: union.ctx().wall, ..other.head };
    let votes: Vec<_> = ["a", "b"].iter().map(|n| union.world.vote(n, &head)).collect();
    let fork = CoSigned { head, votes: votes.try_into().unwrap() };
    from(&mut union, "b", "d", Announce { head: other });
    assert!(
        !union.members["d"].keeper.follower().is_current(UnixTime(0))
            || !union.members["d"].told("record.forked")
    );
    union.run(6_000);
    from(&mut union, "a", "d", Announce { head: fork });
    union.run(100);
    assert!(union.members["d"].told("record.forked"));
    assert!(union.members["d"].keeper.follower().fork().is_some());
    assert!(!union.members["d"].keeper.follower().is_current(union.ctx().wall));
}

#[test]
fn a_channel_for_the_record_carries_nothing_else() {
    for (grant, counts) in [(Grant::RecordOnly, false), (Grant::Full, true)] {
        let mut union = three();
        let leader = union.leader().unwrap();
        let id = union.world.id("d");
        union.event(leader, Event::Up(id, grant));
        let entry = union.world.next_of(
            union.members["d"].keeper.record(),
            "d",
            Act::TokenMade(World::token_for("p")),
        );
        let before = union.numbers();
        from(&mut union, "d", leader, Propose { passed: false, entry });
        union.run(1_000);
        assert_eq!(union.numbers() != before, counts, "{grant:?}");
        // It is told of the record and may pull, all the same.
        from(&mut union, "d", leader, Pull { from: 1 });
        let answers =
            union.wire.iter().filter(|(f, t, frame)| (*f, *t, frame.kind) == (leader, "d", 34)).count();
        assert_eq!(answers, 1);
    }
}

#[test]
fn a_member_that_does_not_vote_has_no_say_in_raft() {
    let mut union = three();
    let leader = union.leader().unwrap();
    let term = union.members[leader].node.order.as_ref().unwrap().term();
    let take_over = |term| Raft {
        kind: RaftKind::Heartbeat,
        term,
        index: 0,
        log_term: 0,
        commit: 0,
        commit_term: 0,
        reject: false,
        reject_hint: 0,
        transfer: false,
        entries: List::default(),
        snapshot: None,
    };
    from(&mut union, "d", leader, take_over(term + 1));
    assert!(union.members[leader].node.leads());
    let voter = ["a", "b", "c"].into_iter().find(|n| *n != leader).unwrap();
    from(&mut union, voter, leader, take_over(term + 1));
    assert!(!union.members[leader].node.leads(), "the same of a voter has an effect");
}
