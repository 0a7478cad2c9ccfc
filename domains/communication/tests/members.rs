//! Members that talk: real TLS over real sockets, HSP's real engines, a `security` that is played.

#![allow(clippy::unwrap_used, reason = "a test")]

mod world;

use std::sync::atomic::Ordering;

use gtvp_communication::connect;
use gtvp_communication::join::join;
use gtvp_ipc::communication::Join;
use gtvp_ipc::security::{OwnUnion, Standing};
use gtvp_model::fault::FaultKind;
use gtvp_model::union::UnixTime;
use gtvp_protocol::csp::Act;
use gtvp_protocol::csp::node::{KINDS, limits};
use gtvp_protocol::frame::Frame;
use world::{HEARD, Keys, Member, Player, connected, hardware, refused, union, until};

fn pair(period: u32) -> (std::sync::Arc<world::World>, Member, Member) {
    let (world, mut members) = union(period, &["b"]);
    let (b, a) = (members.pop().unwrap(), members.pop().unwrap());
    a.hears_of(&b);
    b.hears_of(&a);
    (world, a, b)
}

#[test]
fn two_members_open_one_channel_and_prove_themselves_again_and_again() {
    let (_world, a, b) = pair(300);
    connected(&a, &b);
    let seen = |m: &Member| m.player.appraised.load(Ordering::SeqCst);
    let before = (seen(&a), seen(&b));
    until("five rounds", || (seen(&a) >= before.0 + 5 && seen(&b) >= before.1 + 5).then_some(()));
    connected(&a, &b);
    // What one of the record's nodes says comes to the other's, by its name, and the other way.
    let longest = |kind: u8| limits(kind).map(|most| (most, kind));
    let (most, kind) = KINDS.filter_map(longest).max().unwrap();
    assert!(most > 3_000_000, "several of TLS' records, and more than waits to become a frame");
    a.runtime.switch.send(b.id(), Frame { kind, body: vec![7; 3_000_000] });
    let heard = |what| HEARD.lock().unwrap().contains(&what).then_some(());
    until("it is heard", || heard((b.id(), a.id(), 3_000_000)));
    until("it is answered", || heard((a.id(), b.id(), 1)));
    connected(&a, &b);
}

#[test]
fn of_two_channels_with_one_member_the_one_that_the_smaller_id_dialled_stays() {
    let (_world, mut members) = union(30_000, &["b"]);
    members.sort_by_key(Member::id);
    let (large, small) = (members.pop().unwrap(), members.pop().unwrap());
    let (at_large, at_small) = (large.endpoint(), small.endpoint());
    until("both know", || {
        (small.runtime.newest.own().is_some() && large.runtime.newest.own().is_some()).then_some(())
    });
    let ours = small.runtime.engine().dials(Some(large.id()));
    let theirs = large.runtime.engine().dials(Some(small.id()));
    connect::dial(&large.runtime, theirs, small.id(), at_small);
    connect::dial(&small.runtime, ours, large.id(), at_large);
    until("the right one stays", || (small.runtime.engine().channel(large.id()) == Some(ours)).then_some(()));
    connected(&small, &large);
    until("the other one is gone", || {
        (small.runtime.switch.count() == 1 && large.runtime.switch.count() == 1).then_some(())
    });
    connected(&small, &large);
}

/// A token of which this member has heard.
fn token(world: &world::World, by: &Member, expires: UnixTime) -> String {
    let token = world.token(by.endpoint(), expires);
    let knows = |u: &OwnUnion| u.state.view.tokens.contains_key(&token.secret.key().id());
    until("it has heard of the token", || by.runtime.newest.own().filter(|u| knows(u)));
    token.to_string()
}

fn joins(joiner: &Member, token: &str) -> Result<Vec<String>, gtvp_model::fault::Fault> {
    let mut steps = Vec::new();
    let what = Join { token: token.to_owned(), hardware: hardware() };
    join(&joiner.runtime, &what, &mut |step| {
        steps.extend(step.map(str::to_owned));
        true
    })
    .map(|_| steps)
}

#[test]
fn a_server_joins_and_a_third_member_is_found_by_what_the_others_say() {
    let (world, a, b) = pair(30_000);
    connected(&a, &b);
    let c = Member::start(Player::new(&world, &Keys::new("c"), false));
    assert_eq!(c.runtime.listens(), None, "outside of a union nobody listens");
    let token = token(&world, &a, UnixTime(u64::MAX));
    let steps = joins(&c, &token).unwrap();
    assert!(steps.iter().any(|s| s == "attesting"), "{steps:?}");
    connected(&a, &c);
    connected(&b, &c);
    let view = world.ledger().follower.record().view().clone();
    assert_eq!(view.members.len(), 3);
    // The token is used up, and c is a member.
    let again = joins(&c, &token).unwrap_err();
    assert_eq!(again.kind, FaultKind::WrongState);
    let d = Member::start(Player::new(&world, &Keys::new("d"), false));
    let spent = joins(&d, &token).unwrap_err();
    assert!(
        spent.kind == FaultKind::Denied && spent.to_string().contains("the token was used by"),
        "{spent}"
    );
}

#[test]
fn a_join_that_is_refused_says_why_and_what_to_try_and_changes_nothing() {
    let (world, members) = union(30_000, &[]);
    let a = &members[0];
    let good = || token(&world, a, UnixTime(u64::MAX));
    let joiner = || Member::start(Player::new(&world, &Keys::new("c"), false));
    let told = |f: &gtvp_model::fault::Fault| format!("{f}; {}", f.hint.clone().unwrap_or_default());

    let old = token(&world, a, UnixTime(1));
    let expired = joins(&joiner(), &old).unwrap_err();
    assert!(told(&expired).contains("the token expired") && told(&expired).contains("clocks"), "{expired}");

    let bad = joiner();
    bad.player.measure("rootkit");
    let evidence = joins(&bad, &good()).unwrap_err();
    assert!(told(&evidence).contains("rootkit"), "{evidence}");
    assert!(told(&evidence).contains("gtvp reference accept"), "{evidence:?}");

    let forgets = joiner();
    forgets.player.forgets.store(true, Ordering::SeqCst);
    let kept = joins(&forgets, &good()).unwrap_err();
    assert!(told(&kept).contains("the disk is full"), "{kept}");

    let nowhere =
        joins(&joiner(), &world.token("127.0.0.1:1".parse().unwrap(), UnixTime(u64::MAX)).to_string());
    let nowhere = nowhere.unwrap_err();
    assert_eq!(nowhere.kind, FaultKind::Unavailable, "{nowhere}");
    assert!(joins(&joiner(), "gtvp-join-x").is_err());

    // What the voters' disk does not take is not voted for.
    std::fs::remove_dir_all(&a.folder).unwrap();
    let unwritten = joins(&joiner(), &good()).unwrap_err();
    assert!(told(&unwritten).contains("the union did not take the entry"), "{unwritten}");
    std::fs::create_dir_all(&a.folder).unwrap();

    assert_eq!(world.ledger().follower.record().view().members.len(), 1, "nobody came in");
    joins(&joiner(), &good()).unwrap();
    assert_eq!(world.ledger().follower.record().view().members.len(), 2, "the control");
}

#[test]
fn whoever_has_another_key_is_evicted_is_silent_or_was_tampered_with_loses_its_channel_by_name() {
    // By another key: nobody is let in by a member's id alone.
    let (world, founder) = world::World::begin(300);
    let (b, other) = (Keys::new("b"), Keys::new("b"));
    world.admit(&b);
    let a = Member::start(Player::new(&world, &founder, true));
    let x = Member::start(Player::as_another(&world, &other, b.entry(), true));
    x.runtime.reached(a.id(), a.endpoint());
    let link = x.runtime.engine().dials(Some(a.id()));
    connect::dial(&x.runtime, link, a.id(), a.endpoint());
    refused(&x, a.id(), "the key that TLS showed is not that of");
    assert!(a.channel(b.id()).is_err());

    // The control, and then what happens to it.
    let b = Member::start(Player::new(&world, &b, true));
    a.hears_of(&b);
    b.hears_of(&a);
    connected(&a, &b);
    let standing = |of: &Member, by: &Member| of.player.standing.lock().unwrap().get(&by.id()).copied();
    until("its security hears that it is a member", || {
        (standing(&b, &a) == Some(Standing::Member)).then_some(())
    });
    b.player.extend("a rootkit that is not logged");
    refused(&a, b.id(), "the log does not replay");
    until("and that it is not believed", || (standing(&b, &a) == Some(Standing::NotBelieved)).then_some(()));

    let (_world, a, b) = pair(300);
    connected(&a, &b);
    b.player.hangs.store(true, Ordering::SeqCst);
    refused(&a, b.id(), "the peer's evidence did not come in time");
    b.player.hangs.store(false, Ordering::SeqCst);
    connected(&a, &b);

    let (world, a, b) = pair(300);
    connected(&a, &b);
    world.write(&a.player.keys, Act::Evicted { member: b.id(), reason: "test".into() });
    refused(&a, b.id(), "no member");
    until("it listens no more", || b.runtime.listens().is_none().then_some(()));
    until("its links are gone", || (b.runtime.switch.count() == 0).then_some(()));
    assert!(b.runtime.channels().is_empty());
}

#[test]
fn one_quote_answers_all_who_ask_in_a_period() {
    let (_world, members) = union(600, &["b", "c", "d", "e"]);
    for m in &members {
        members.iter().filter(|o| o.id() != m.id()).for_each(|o| m.hears_of(o));
    }
    for m in &members {
        members.iter().filter(|o| o.id() != m.id()).for_each(|o| connected(m, o));
    }
    let all = |of: fn(&Player) -> usize| members.iter().map(|m| of(&m.player)).sum::<usize>();
    let quotes = || all(|p| p.quotes.load(Ordering::SeqCst));
    let appraised = || all(|p| p.appraised.load(Ordering::SeqCst));
    // Each has four challengers, whose first rounds fall where their channels opened.
    let begun = appraised();
    until("they have met", || (appraised() >= begun + 5 * 4 * 3).then_some(()));
    let (q, n) = (quotes(), appraised());
    until("more rounds", || (appraised() >= n + 5 * 4 * 5).then_some(()));
    let (q, n) = (quotes() - q, appraised() - n);
    assert!(q * 2 <= n, "{q} quotes for {n} appraisals: four challengers should share one");
}

#[test]
fn a_wrong_hint_costs_a_handshake_and_the_right_one_is_taken() {
    let (_world, mut members) = union(30_000, &["b", "c"]);
    members.sort_by_key(Member::id);
    let [small, middle, large] = &members[..] else { panic!("three members") };
    until("they know their union", || small.runtime.newest.own());
    small.runtime.reached(large.id(), middle.endpoint());
    refused(small, large.id(), "answered where");
    assert!(middle.channel(small.id()).is_err() && large.channel(small.id()).is_err());
    small.runtime.reached(large.id(), large.endpoint());
    connected(small, large);
}

#[test]
fn a_member_that_starts_anew_finds_the_others_by_what_it_had_written_down() {
    let (world, mut members) = union(30_000, &["b"]);
    members.sort_by_key(Member::id);
    let (large, small) = (members.pop().unwrap(), members.pop().unwrap());
    small.hears_of(&large);
    connected(&small, &large);
    // Larger ids dial only after a while: what follows is the small one's doing.
    let player = Player::new(&world, &small.player.keys, true);
    let anew = Member::start_in(player, small.folder.clone());
    connected(&anew, &large);
    assert!(large.channel(anew.id()).is_ok());
}

#[test]
fn whoever_hangs_up_ends_the_join_and_nobody_came_in() {
    let (world, members) = union(30_000, &[]);
    let a = &members[0];
    let token = token(&world, a, UnixTime(u64::MAX));
    let joiner = Member::start(Player::new(&world, &Keys::new("c"), false));
    joiner.player.hangs.store(true, Ordering::SeqCst);
    let what = Join { token, hardware: hardware() };
    let mut attests = false;
    let ended = join(&joiner.runtime, &what, &mut |step| {
        attests |= step == Some("attesting");
        // There until the evidence is waited for.
        step.is_some() || !attests
    });
    let ended = ended.unwrap_err();
    assert_eq!(ended.kind, FaultKind::Cancelled, "{ended}");
    joiner.player.hangs.store(false, Ordering::SeqCst);
    assert_eq!(world.ledger().follower.record().view().members.len(), 1);
    join(&joiner.runtime, &what, &mut |_| true).unwrap();
    connected(a, &joiner);
}
