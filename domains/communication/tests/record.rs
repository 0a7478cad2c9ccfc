//! Members with a record each, and the real node between them: a union grows from one member, decides among three voters, and goes on
//! when one of them is gone.

#![allow(clippy::unwrap_used, reason = "a test")]

mod world;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use gtvp_communication::engine::EASY;
use gtvp_communication::join::join;
use gtvp_communication::service::propose;
use gtvp_ipc::communication::{Join, Propose};
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::token::{JoinToken, TokenSecret};
use gtvp_model::union::{PlatformIdentity, RecordHead, TokenRecord, UnixTime};
use gtvp_protocol::csp::Act;
use world::{Keys, Member, Player, World, connected, hardware, until};

fn head(m: &Member) -> RecordHead {
    m.player.world.ledger().follower.record().view().head
}

fn voters(m: &Member) -> usize {
    m.player.world.ledger().follower.record().voters().len()
}

/// Has the voters take what `by` writes, as often anew as it is overtaken.
fn write(by: &Member, act: &Act) -> Result<(), Fault> {
    loop {
        let entry = by.player.world.next(&by.player.keys, act.clone());
        match propose(&by.runtime, Propose { entry }) {
            Err(fault) if fault.kind == FaultKind::Conflict => {}
            other => return other,
        }
    }
}

fn token(by: &Member) -> Result<JoinToken, Fault> {
    let secret = TokenSecret::new(gtvp_communication::clock::random().unwrap());
    let (expires, platform_identity) = (UnixTime(u64::MAX), PlatformIdentity::default());
    let record = TokenRecord { key: secret.key(), expires, ek: None, platform_identity, used_by: None };
    write(by, &Act::TokenMade(record))?;
    let union = by.player.world.ledger().follower.record().view().union;
    Ok(JoinToken { union, head: head(by), endpoint: by.endpoint(), expires, ek: None, secret })
}

/// A new server, that joins by this member.
fn joins(founders: &Arc<World>, by: &Member, name: &str) -> Member {
    let keys = Keys::new(name);
    let joiner = Member::start(Player::new(&founders.own_copy(&keys), &keys, false));
    let token = until("it listens, and its union decides", || token(by).ok()).to_string();
    join(&joiner.runtime, &Join { token, hardware: hardware() }, &mut |_| true).unwrap();
    connected(by, &joiner);
    joiner
}

fn same(members: &[&Member]) {
    until("all have the same record", || {
        let heads: Vec<RecordHead> = members.iter().map(|m| head(m)).collect();
        heads.iter().all(|h| *h == heads[0]).then_some(())
    });
}

#[test]
fn a_union_grows_decides_among_three_and_goes_on_without_one_of_them() {
    let (world, founder) = World::begin(1_000);
    let a = Member::start(Player::new(&world.own_copy(&founder), &founder, true));
    let b = joins(&world, &a, "b");
    let c = joins(&world, &a, "c");
    until("three vote", || (voters(&a) == 3 && voters(&b) == 3 && voters(&c) == 3).then_some(()));
    // Whoever has no vote joins by one who has, and writes through others.
    let d = joins(&world, &b, "d");
    connected(&c, &d);
    token(&d).unwrap();
    same(&[&a, &b, &c, &d]);

    // Two of three decide.
    c.player.leaves();
    until("its port is closed", || c.runtime.listens().is_none().then_some(()));
    token(&d).unwrap();
    token(&a).unwrap();
    same(&[&a, &b, &d]);
    // One of three does not.
    b.player.leaves();
    until("a is alone", || a.channel(b.id()).err());
    let before = head(&a);
    let unknown = token(&a).unwrap_err();
    assert_eq!(unknown.kind, FaultKind::Unavailable, "{unknown}");
    assert_eq!(head(&a), before);
    // It comes back, and what was asked for goes on.
    b.player.member.store(true, Ordering::SeqCst);
    b.player.changes();
    until("decided", || token(&a).ok());
    same(&[&a, &b, &d]);
}

#[test]
fn as_many_servers_as_want_to_join_at_once_by_one_member_do() {
    let (world, founder) = World::begin(1_000);
    let a = Member::start(Player::new(&world.own_copy(&founder), &founder, true));
    // More than strangers are let in from one address at once: who is not is told so, and comes again.
    let names = ["b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "n"];
    assert!(names.len() > EASY);
    let joiners: Vec<(Member, Join)> = names
        .iter()
        .map(|name| {
            let keys = Keys::new(name);
            let joiner = Member::start(Player::new(&world.own_copy(&keys), &keys, false));
            let token = until("it listens, and its union decides", || token(&a).ok()).to_string();
            (joiner, Join { token, hardware: hardware() })
        })
        .collect();
    let joined = |(joiner, what): &(Member, Join)| {
        let mut steps = Vec::new();
        let done = join(&joiner.runtime, what, &mut |step| {
            steps.extend(step.map(str::to_owned));
            true
        });
        done.map(|_| steps)
    };
    let steps: Vec<String> = std::thread::scope(|scope| {
        let begun: Vec<_> = joiners.iter().map(|joiner| scope.spawn(move || joined(joiner))).collect();
        begun.into_iter().flat_map(|thread| thread.join().unwrap().unwrap()).collect()
    });
    assert_eq!(a.player.world.ledger().follower.record().view().members.len(), 1 + names.len());
    assert!(steps.iter().any(|s| s.contains("serves others")), "{steps:?}");
}
