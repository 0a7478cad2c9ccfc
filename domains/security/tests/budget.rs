//! An author that writes without end, on real software TPMs: it has others' TPMs count only so much, and is still removed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

#[allow(dead_code, reason = "what other tests need of it")]
mod played;

use gtvp_ipc::security::Wish;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::token::TokenSecret;
use gtvp_model::union::{PlatformIdentity, TokenRecord, UnixTime};
use gtvp_protocol::csp::budget::{BURST, EVERY, FIRST, RESERVE};
use gtvp_protocol::csp::keeper::MAX_AHEAD;
use gtvp_protocol::csp::{Act, Entry, Signature, SignedEntry};
use played::server::{NOW, Server};
use played::union::union;

/// An entry of a member whose `security` was replaced: it signs whatever comes next.
fn forced(author: &Server, time: u64, n: u64) -> SignedEntry {
    let (view, keys) = (author.view(), author.union.own_keys().unwrap());
    let mut secret = [0; 16];
    secret[..8].copy_from_slice(&n.to_be_bytes());
    let token = TokenRecord {
        key: TokenSecret::new(secret).key(),
        expires: UnixTime(NOW + 60),
        ek: None,
        platform_identity: PlatformIdentity::try_from(3).unwrap(),
        used_by: None,
    };
    let entry = Entry {
        union: view.union,
        number: view.head.number + 1,
        previous: view.head.hash,
        author: author.id(),
        time: UnixTime(time),
        act: Act::TokenMade(token),
    };
    let value = author.actor.sign_entry(&entry).unwrap().concat();
    let signature = Signature { spki: keys.spki.try_into().unwrap(), value: value.try_into().unwrap() };
    SignedEntry { entry: entry.encode().try_into().unwrap(), signature }
}

fn token(server: &Server) -> Result<SignedEntry, Fault> {
    server.wish(Wish::Token { expires_s: 60, ek: None, platform_identity: None }).map(|w| w.entry)
}

#[test]
fn an_author_has_only_so_much_written_by_its_own_security_and_by_every_voters() {
    let all = union(&["m1", "m2"]);
    let (m1, m2) = (&all[0], &all[1]);
    // m1 votes. An administrator of m2 in a loop.
    let mut taken = 0;
    let refused = loop {
        match token(m2) {
            Ok(entry) => Server::decide(&entry, &[m1], &[m1, m2]).unwrap(),
            Err(refused) => break refused,
        }
        taken += 1;
    };
    assert!(taken > 0 && taken <= FIRST - RESERVE, "{taken}");
    assert_eq!(refused.kind, FaultKind::Unavailable);
    assert!(refused.causes[0].contains("too many entries lately: the next one in"), "{refused:?}");
    // Its `security` was replaced, and writes on: no voter takes it, whatever time it says.
    let promised = |m: &Server| m.actor.promised().unwrap();
    let before = promised(m1);
    for time in [NOW, 0, NOW - 100 * EVERY] {
        let refused = m1.union.vote_for(&forced(m2, time, 1), UnixTime(NOW)).unwrap_err();
        assert_eq!(refused.kind, FaultKind::Invalid, "as every voter will say: {refused:?}");
        assert!(refused.causes[0].contains("too many entries lately"), "{refused:?}");
    }
    let ahead = forced(m2, NOW + MAX_AHEAD + 1, 1);
    let refused = m1.union.vote_for(&ahead, UnixTime(NOW)).unwrap_err();
    assert_eq!(refused.kind, FaultKind::InUse, "another one may be next: {refused:?}");
    assert!(refused.causes[0].contains("ahead of this voter's"), "{refused:?}");
    assert_eq!(promised(m1), before, "its TPM has counted nothing of it");
    // Control: somebody else goes on, it goes on later, and it is removed although nothing of it is taken now.
    Server::decide(&token(m1).unwrap(), &[m1], &[m1, m2]).unwrap();
    assert_ne!(promised(m1), before);
    let later = UnixTime(NOW + 2 * EVERY);
    assert!(m1.union.vote_for(&forced(m2, later.0, 2), later).is_ok());
}

#[test]
fn who_has_written_enough_still_removes_others_and_leaves() {
    let all = union(&["m1", "m2"]);
    let (m1, m2) = (&all[0], &all[1]);
    let taken = (0..BURST).take_while(|n| {
        let entry = forced(m1, NOW, *n);
        Server::decide(&entry, &[m1], &[m1, m2]).is_ok()
    });
    assert!(taken.count() > 0);
    assert_eq!(token(m1).unwrap_err().kind, FaultKind::Unavailable);
    let evict = m1.wish(Wish::Evict { member: "m2".parse().unwrap(), reason: "it floods".into() }).unwrap();
    Server::decide(&evict.entry, &[m1], &[m1]).unwrap();
    assert!(m1.view().members.values().all(|m| m.name.as_str() != "m2"));
}
