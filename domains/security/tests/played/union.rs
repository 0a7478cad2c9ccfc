//! Unions of a test: who let whom in, who appraises whom, and who is told of it.

use std::sync::Arc;
use std::time::Duration;

use gtvp_ipc::bulk;
use gtvp_ipc::security::{HearResult, OwnResult, Wish};
use gtvp_model::token::JoinToken;
use gtvp_model::union::UnixTime;
use gtvp_protocol::csp::{Offer, page};

use super::enrolment::{enrolment, run};
use super::server::{NOW, Server, at};

/// The period of a test's union, milliseconds.
pub const PERIOD: u64 = 2_000;

/// A token that the first of `union` makes, and that is in the record of all.
pub fn token(union: &[&Server]) -> JoinToken {
    let wish = Wish::Token { expires_s: 3600, ek: None, platform_identity: None };
    let written = union[0].wish(wish).unwrap();
    Server::decide(&written.entry, &union[..1], union).unwrap();
    let view = union[0].view();
    JoinToken {
        union: view.union,
        head: view.head,
        endpoint: "192.0.2.1:7600".parse().unwrap(),
        expires: UnixTime(NOW + 3600),
        ek: None,
        secret: written.token.unwrap().secret,
    }
}

/// `joiner` is let in by `verifier`.
#[track_caller]
pub fn joins(joiner: &Server, verifier: &Server, token: &JoinToken) {
    let (mut j, mut v) = enrolment(joiner, verifier, token);
    run(&mut j, &mut v);
    assert_eq!((j.refusal(), v.refusal()), (None, None));
}

/// Has `server` what `from` has of the record.
pub fn catch_up(server: &Server, from: &Server) {
    let bytes = from.union.page(server.head().number + 1, 1 << 20).unwrap();
    let mut entries = Vec::new();
    for committed in page::split(&bulk::take(bytes, 2 << 20).unwrap()).unwrap() {
        entries.push(committed.entry);
        if let Some(head) = committed.head {
            let offer = Offer { entries: std::mem::take(&mut entries), head };
            server.take(from.id(), &offer).unwrap();
        }
    }
    assert_eq!(server.head(), from.head());
}

/// A union whose first member has let the others in.
pub fn union(names: &[&'static str]) -> Vec<Server> {
    let first = Server::start(names[0]);
    first.begin().unwrap();
    let mut all = vec![first];
    for name in &names[1..] {
        let joiner = Server::start(name);
        joins(&joiner, &all[0], &token(&all.iter().collect::<Vec<_>>()));
        all[1..].iter().for_each(|m| catch_up(m, &all[0]));
        all.push(joiner);
    }
    all
}

pub fn appraises(verifier: &Server, subject: &Server, ms: u64) {
    subject.evidence(verifier, 1).appraised_by(verifier, ms).unwrap();
}

pub fn row(server: &Server, of: &str, ms: u64) -> (String, String) {
    let row = server.peers.members(at(ms)).unwrap().into_iter().find(|r| r.name == of).unwrap();
    (row.verdict, row.attested_by.unwrap_or_default())
}

pub fn is(verdict: &str, by: &str) -> (String, String) {
    (verdict.into(), by.into())
}

/// What a member has found of another one, last.
pub fn result(verifier: &Server, of: &Server) -> Arc<OwnResult> {
    let (all, _) = verifier.peers.results_after(0, Duration::ZERO);
    all.into_iter().find(|r| r.of == of.id()).unwrap()
}

pub fn tell(server: &Server, from: &Server, result: &OwnResult, ms: u64) -> Result<(), String> {
    let told = HearResult { from: from.id(), ak: result.ak.clone(), result: result.result.clone() };
    server.peers.hear(&told, at(ms)).map(drop)
}
