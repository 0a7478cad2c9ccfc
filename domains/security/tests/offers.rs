//! What is offered as the record's next entries, to `security` on software TPMs: what is old, far ahead or the word of too few changes
//! nothing, and what a majority stands behind is taken (threats 16, 19, 20).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

#[allow(dead_code, reason = "what other tests need of it")]
mod played;

use gtvp_ipc::bulk;
use gtvp_ipc::security::Wish;
use gtvp_model::fault::FaultKind;
use gtvp_protocol::csp::{Offer, SignedEntry, page};
use played::server::{Server, co_signed};
use played::union::{catch_up, union};

fn a_token(server: &Server) -> SignedEntry {
    server.wish(Wish::Token { expires_s: 60, ek: None, platform_identity: None }).unwrap().entry
}

fn record(server: &Server) -> Vec<u8> {
    bulk::take(server.union.page(0, 1 << 20).unwrap(), 2 << 20).unwrap()
}

/// The last entry, as it was offered.
fn latest(server: &Server) -> Offer {
    let bytes = bulk::take(server.union.page(server.head().number, 1 << 20).unwrap(), 2 << 20).unwrap();
    let committed = page::split(&bytes).unwrap().remove(0);
    Offer { entries: vec![committed.entry], head: committed.head.unwrap() }
}

/// Refused with these words, with nothing changed: not in what it holds, not on its disk.
#[track_caller]
fn refused(server: &Server, from: &Server, offer: &Offer, words: &str) {
    let (record_before, view) = (record(server), server.view());
    let fault = server.take(from.id(), offer).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Denied);
    assert!(fault.causes.concat().contains(words), "{fault:?}");
    assert_eq!((record(server), server.view()), (record_before, view));
}

#[test]
fn what_is_old_far_ahead_or_a_minoritys_word_changes_nothing() {
    let [m1, m2, m3] = <[Server; 3]>::try_from(union(&["m1", "m2", "m3"])).ok().unwrap();
    // Before the only voter leaves, another one votes with it.
    let both = m1.wish(Wish::Leave).unwrap();
    Server::decide(&both.entry, &[&m1], &[&m1, &m2, &m3]).unwrap();
    let voters = m1.union.now().0.union.unwrap().state.voters;
    assert_eq!(voters.len(), 2);
    let (m2, m3) = if voters.contains(&m2.id()) { (m2, m3) } else { (m3, m2) };
    let old = latest(&m1);

    // 20: one of two, once and twice.
    let entry = a_token(&m1);
    let mut alone = co_signed(&entry, &[&m1]).unwrap();
    let one = alone.head.votes.as_slice()[0].clone();
    for votes in [vec![one.clone()], vec![one.clone(), one]] {
        alone.head.votes = votes.try_into().unwrap();
        [&m1, &m2, &m3].iter().for_each(|m| refused(m, &m1, &alone, "voters"));
    }
    Server::decide(&entry, &[&m1, &m2], &[&m1, &m2]).unwrap();

    // 16: what was the last entry before.
    refused(&m1, &m2, &old, "it ends at entry");
    refused(&m2, &m1, &old, "it ends at entry");

    // 19: m3 was away, and hears of the last entry alone; and of a number that nobody has.
    Server::decide(&a_token(&m2), &[&m1, &m2], &[&m1, &m2]).unwrap();
    let mut ahead = latest(&m1);
    refused(&m3, &m1, &ahead, "entry");
    ahead.entries = Vec::new();
    refused(&m3, &m1, &ahead, "its entries end at");
    ahead.head.head.at.number = 1 << 40;
    refused(&m3, &m1, &ahead, "voters");

    // The control: each entry up to it, with a majority behind it.
    catch_up(&m3, &m1);
}
