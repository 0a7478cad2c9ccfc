//! Whom to dial, which channel stays, how many strangers there may be.

use super::*;

fn id(n: u8) -> MemberId {
    [n; 32].into()
}

fn place(_: MemberId) -> Vec<Endpoint> {
    ["192.0.2.1:1", "192.0.2.2:2"].map(|e| e.parse().unwrap()).to_vec()
}

/// Member 5 of three.
fn engine() -> Engine {
    let mut engine = Engine::default();
    engine.union(id(5), &[id(1), id(5), id(9)].into(), Millis(0));
    engine
}

fn dialled(what: &[Do]) -> Vec<(LinkId, MemberId)> {
    let dial = |d: &Do| if let Do::Dial(link, who, _) = d { Some((*link, *who)) } else { None };
    what.iter().filter_map(dial).collect()
}

#[test]
fn the_smaller_id_dials_and_the_other_one_only_after_a_while() {
    let mut e = engine();
    let first = dialled(&e.tick(Millis(0), place, 0));
    assert_eq!(first.iter().map(|d| d.1).collect::<Vec<_>>(), [id(9)]);
    assert_eq!(e.deadline(), Some(Millis(PATIENCE)), "one is being dialled, the other may come");
    assert!(e.tick(Millis(PATIENCE - 1), place, 0).is_empty());
    assert_eq!(dialled(&e.tick(Millis(PATIENCE), place, 0))[0].1, id(1));
    // With a channel there is nothing to do.
    e.up(first[0].0, id(9));
    assert_eq!(e.deadline(), None);
}

#[test]
fn whoever_does_not_answer_is_dialled_less_and_less_often_and_by_its_other_ways() {
    let mut e = engine();
    let (mut now, mut waits, mut ways) = (Millis(0), Vec::new(), Vec::new());
    for _ in 0..12 {
        let dials = e.tick(now, place, 0);
        let [Do::Dial(link, _, way)] = &dials[..] else { panic!("{dials:?}") };
        ways.push(way.port());
        assert_eq!(e.down(*link, "no answer", now, u64::MAX), None);
        // The other member is left out of it.
        let next = e.peers()[&id(9)].next;
        waits.push(next.0 - now.0);
        now = next;
        e.peers.get_mut(&id(1)).unwrap().next = Millis(u64::MAX);
    }
    assert_eq!(ways[..4], [1, 2, 1, 2]);
    assert!(waits[0] <= BACK_OFF.0 && waits.iter().all(|w| *w <= BACK_OFF.1), "{waits:?}");
    assert!(waits[11] >= BACK_OFF.1 / 2 && waits[11] > waits[2], "{waits:?}");
    assert_eq!(e.peers()[&id(9)].problem.as_deref(), Some("no answer"));
    // A new way is tried at once.
    e.heard(id(9), now);
    assert_eq!(e.deadline(), Some(now));
}

#[test]
fn both_ends_keep_the_same_one_of_two_channels() {
    // Seen from 5: what 1 dialled stays against ours, ours against what 9 dialled.
    for (other, ours_stays) in [(1, false), (9, true)] {
        for ours_first in [true, false] {
            let mut e = engine();
            let ours = e.dials(Some(id(other)));
            let theirs = e.came([127, 0, 0, 1].into()).unwrap();
            let (first, second) = if ours_first { (ours, theirs) } else { (theirs, ours) };
            assert!(e.up(first, id(other)).is_empty());
            let (stays, goes) = if ours_stays { (ours, theirs) } else { (theirs, ours) };
            assert_eq!(e.up(second, id(other)), [Do::End(goes, ANOTHER)]);
            assert_eq!(e.channel(id(other)), Some(stays));
            assert_eq!(e.down(goes, "ended", Millis(0), 0), None, "the channel goes on");
            assert_eq!(e.down(stays, "ended", Millis(0), 0), Some(id(other)));
        }
    }
    // Of two by the same one the newer: the older may be dead without our knowing.
    let mut e = engine();
    let (old, new) = (e.came([127, 0, 0, 1].into()).unwrap(), e.came([127, 0, 0, 1].into()).unwrap());
    e.up(old, id(1));
    assert_eq!(e.up(new, id(1)), [Do::End(old, ANOTHER)]);
}

#[test]
fn strangers_are_bounded_all_together_and_each_address_when_many_are_there() {
    let mut e = engine();
    let from = |a, b| IpAddr::from([10, 0, a, b]);
    let flood: Vec<LinkId> = std::iter::from_fn(|| e.came(from(0, 1))).take(1000).collect();
    assert_eq!(flood.len(), EASY, "one address");
    let mut all = flood.len();
    for a in 1..=255 {
        all += usize::from(e.came(from(1, a)).is_some());
    }
    assert_eq!(all, STRANGERS);
    assert_eq!(e.came(from(2, 1)), None);
    // A member that has proved itself is no stranger.
    e.up(flood[0], id(9));
    assert!(e.came(from(2, 1)).is_some());
    e.down(flood[1], "gone", Millis(0), 0);
    assert!(e.came(from(0, 1)).is_none(), "that one has others still");
    assert!(e.came(from(2, 2)).is_some());
    // The addresses of one host count as one.
    let v6 = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, n]);
    e.down(flood[2], "gone", Millis(0), 0);
    e.down(flood[3], "gone", Millis(0), 0);
    assert!(e.came(v6(1)).is_some());
    assert!(e.came(v6(2)).is_none());
}

#[test]
fn joins_are_bounded_at_once_and_over_time() {
    let mut e = engine();
    let come = |e: &mut Engine| e.came([10, 0, 0, 1].into()).unwrap();
    let now = Millis(1_000_000);
    let links: Vec<LinkId> = (0..=JOINS).map(|_| come(&mut e)).collect();
    let taken = links.iter().filter(|l| e.joins(**l, now)).count();
    assert_eq!(taken, JOINS);
    for link in &links {
        e.down(*link, "over", now, 0);
    }
    let mut taken = taken as u64;
    for _ in 0..100 {
        let link = come(&mut e);
        taken += u64::from(e.joins(link, now));
        e.down(link, "over", now, 0);
    }
    assert_eq!(taken, JOIN_BURST);
    let link = come(&mut e);
    assert!(!e.joins(link, now));
    assert!(e.joins(link, now.after(JOIN_EVERY)));
    // Who has proved a token leaves the next one its turn.
    e.proved_token(link);
    e.down(link, "over", now, 0);
    let link = come(&mut e);
    assert!(e.joins(link, now.after(JOIN_EVERY)));
}

#[test]
fn a_member_has_few_links_that_are_no_channels() {
    let mut e = engine();
    let mut link = || e.came([10, 0, 0, 1].into()).unwrap();
    let links: Vec<LinkId> = (0..=UNPROVED).map(|_| link()).collect();
    let shown = links.iter().filter(|l| e.shows(**l, id(9))).count();
    assert_eq!(shown, UNPROVED);
    e.up(links[0], id(9));
    assert!(e.shows(links[UNPROVED], id(9)));
}

#[test]
fn whoever_leaves_ends_everything_but_a_join() {
    let mut e = engine();
    let (channel, join) = (e.came([127, 0, 0, 1].into()).unwrap(), e.dials(None));
    e.up(channel, id(1));
    assert_eq!(e.left(), [Do::End(channel, "this server is in no union")]);
    assert!(e.peers().is_empty() && e.deadline().is_none());
    assert_eq!(e.down(channel, "over", Millis(0), 0), Some(id(1)), "everybody hears of it");
    // Joined, its verifier is not dialled a second time.
    e.is(join, id(9));
    e.union(id(5), &[id(5), id(9)].into(), Millis(7));
    assert!(e.tick(Millis(7), place, 0).is_empty());
    assert!(e.up(join, id(9)).is_empty());
    assert_eq!(e.channel(id(9)), Some(join));
    assert_eq!(e.up(join, id(1)), [Do::End(join, "it is no member any more")]);
}
