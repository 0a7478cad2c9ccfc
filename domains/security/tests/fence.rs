//! What a member may still grant that its union does not stand behind any more: nothing new, and it says why.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

#[allow(dead_code, reason = "what other tests need of it")]
mod played;

use gtvp_ipc::bulk;
use gtvp_ipc::security::{ChallengePeer, HearStanding, Standing, Wish, WriteAdmission, WriteEntry};
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::peer::PeerQuestion;
use gtvp_model::union::{Admission, Identity, PlatformIdentity, RosterEntry, UnixTime};
use gtvp_protocol::csp::follow::CURRENT;
use gtvp_protocol::csp::{CoSigned, Offer};
use gtvp_protocol::frame::wire;
use gtvp_security::peers::Now;
use played::server::{NOW, Server, at, hardware};
use played::union::{PERIOD, joins, token, union};

const LATER: u64 = (CURRENT + 1) * 1000;

/// Everything that a member grants.
fn grants(server: &Server, ms: u64) -> Vec<Result<(), Fault>> {
    let box_ = server.peers.may_grant("starting box web", at(ms));
    let peer = PeerQuestion { peer: "web".into(), nonce: "5e".repeat(32) };
    let vouch = server.peers.challenge_peer(&ChallengePeer { asker: "shop".parse().unwrap(), peer }, at(ms));
    let wish = Wish::Token { expires_s: 60, ek: None, platform_identity: None };
    let token = server.peers.write_entry(&WriteEntry { wish, operator_uid: 0 }, at(ms));
    vec![box_, vouch.map(drop), token.map(drop), admits(server, ms)]
}

/// Lets a server in that has nothing to show; the record is asked last.
fn admits(server: &Server, ms: u64) -> Result<(), Fault> {
    let identity = Identity::Bare { spki: [7; 32].into() };
    let member = RosterEntry::new("m9".parse().unwrap(), identity, PlatformIdentity::default(), hardware());
    let secret = gtvp_model::token::TokenSecret::new([1; 16]);
    let admission = Admission { member, token: secret.key().id(), secret };
    let admitted = server.peers.write_admission(&WriteAdmission { admission }, at(ms)).map(drop);
    // Without such a token nobody is let in; what is looked at here comes before that.
    admitted.or_else(|f| if f.kind == FaultKind::WrongState { Ok(()) } else { Err(f) })
}

#[track_caller]
fn all(granted: Vec<Result<(), Fault>>) {
    granted.into_iter().for_each(|g| g.unwrap());
}

#[track_caller]
fn none(granted: Vec<Result<(), Fault>>, kind: FaultKind, rule: &str) -> Vec<Fault> {
    let faults: Vec<Fault> = granted.into_iter().map(|g| g.unwrap_err()).collect();
    for fault in &faults {
        assert_eq!(fault.kind, kind, "{fault}");
        assert!(fault.to_string().contains(rule) && fault.hint.is_some(), "{fault}");
        assert!(fault.to_string().contains("what runs goes on"), "{fault}");
    }
    faults
}

/// The voters put a new time on the head.
fn signed_again(voters: &[&Server], all: &[&Server], ms: u64) {
    let time = UnixTime(NOW + ms / 1000);
    let votes: Vec<_> = voters.iter().map(|v| v.union.vote_again(time).unwrap()).collect();
    let head = votes[0].head;
    let votes: Vec<_> = votes.into_iter().map(|v| v.vote).collect();
    let offer = Offer { entries: Vec::new(), head: CoSigned { head, votes: votes.try_into().unwrap() } };
    for server in all {
        let fd = bulk::give(&wire::encode(&offer)).unwrap();
        server.union.take(voters[0].id(), vec![fd], time).unwrap();
    }
}

fn says(of: &Server, by: &Server, standing: Standing, ms: u64) {
    says_on((1, ms), of, by, standing, ms);
}

fn says_on(link: (u64, u64), of: &Server, by: &Server, standing: Standing, ms: u64) {
    let told = HearStanding { from: by.id(), link, standing, why: "the log\u{7} does not replay".into() };
    of.peers.hear_standing(&told, at(ms));
}

#[test]
fn threat_17_a_member_whose_record_is_not_current_grants_nothing_new() {
    let members = union(&["m1", "m2"]);
    let [m1, m2] = &members[..] else { panic!("two") };
    all(grants(m2, 0));
    all(grants(m2, CURRENT * 1000));
    let faults = none(grants(m2, LATER), FaultKind::Unavailable, "rule \"current\"");
    assert!(
        faults[0].retryable && faults[0].to_string().contains("(m1) has signed the record since"),
        "{}",
        faults[0]
    );
    let shown = m2.peers.show_union(at(LATER)).unwrap();
    assert!(shown.grants_nothing.unwrap().contains("rule \"current\""));
    // The only voter signs for itself; whoever hears of it is current too.
    signed_again(&[m1], &[m1], LATER);
    all(grants(m1, LATER));
    none(grants(m2, LATER), FaultKind::Unavailable, "rule \"current\"");
    signed_again(&[m1], &[m2], LATER);
    all(grants(m2, LATER));
    assert_eq!(m2.peers.show_union(at(LATER)).unwrap().grants_nothing, None);
    // In no union there is nothing to be current with.
    let alone = Server::start("m3");
    alone.peers.may_grant("starting box web", at(LATER)).unwrap();
}

#[test]
fn who_is_refused_by_those_who_could_trust_it_grants_nothing_new() {
    let members = union(&["m1", "m2", "m3"]);
    let [m1, m2, m3] = &members[..] else { panic!("three") };
    all(grants(m3, 0));
    says(m3, m1, Standing::NotBelieved, 0);
    all(grants(m3, 0));
    says(m3, m2, Standing::NoMember, 0);
    let faults = none(grants(m3, 0), FaultKind::Denied, "rule \"standing\"");
    let told = faults[0].to_string();
    assert!(told.contains("m2 says that this server is no member"), "{told}");
    assert!(told.contains("m1 does not believe this server's evidence: the log does not replay"), "{told}");
    // A channel with one of them ends it, and so does time.
    says(m3, m1, Standing::Member, 1_000);
    all(grants(m3, 1_000));
    says(m3, m1, Standing::NotBelieved, 2_000);
    none(grants(m3, 3_000), FaultKind::Denied, "rule \"standing\"");
    signed_again(&[m1], &[m1, m2, m3], 130_000);
    all(grants(m3, 130_000));
}

#[test]
fn the_word_of_who_is_untrusted_here_fences_nobody() {
    let members = union(&["m1", "m2"]);
    let [m1, m2] = <[Server; 2]>::try_from(members).ok().unwrap();
    // Of two, the other one's word is enough.
    says(&m1, &m2, Standing::NotBelieved, 0);
    none(grants(&m1, 0), FaultKind::Denied, "rule \"standing\"");
    // But not if that one is found to be unhealthy.
    let m2 = m2.restart_after(|tpm| {
        let log = tpm.state().join("measured.log");
        let bytes = std::fs::read(&log).unwrap();
        std::fs::write(&log, &bytes[..bytes.len() - 40]).unwrap();
    });
    assert!(m2.evidence(&m1, 0).appraised_by(&m1, 0).is_err());
    all(grants(&m1, 0));
    // Of a stranger, and of itself, nothing is kept.
    let stranger = Server::start("m3");
    says(&m1, &stranger, Standing::NoMember, 0);
    says(&m1, &m1, Standing::NoMember, 0);
    all(grants(&m1, PERIOD));
}

#[test]
fn a_member_without_a_tpm_fences_nobody() {
    let m1 = Server::start("m1");
    m1.begin_with(true).unwrap();
    let m2 = Server::start("m2");
    joins(&m2, &m1, &token(&[&m1]));
    let bare = Server::without_tpm("m3");
    joins(&bare, &m1, &token(&[&m1, &m2]));
    says(&m1, &bare, Standing::NotBelieved, 0);
    all(grants(&m1, 0));
    // Nor does it add to another one's word; that one's alone counts here.
    says(&m1, &m2, Standing::NoMember, 0);
    let faults = none(grants(&m1, 0), FaultKind::Denied, "rule \"standing\"");
    assert!(!faults[0].to_string().contains("m3"), "{}", faults[0]);
}

#[test]
fn a_refusal_that_a_later_connection_has_overtaken_fences_nobody() {
    let members = union(&["m1", "m2"]);
    let [m1, m2] = &members[..] else { panic!("two") };
    says_on((5, 2), m1, m2, Standing::Member, 0);
    says_on((5, 1), m1, m2, Standing::NotBelieved, 0);
    all(grants(m1, 0));
    // The same connection ends with a refusal; another begins, after `communication` was started again, too.
    says_on((5, 2), m1, m2, Standing::NotBelieved, 0);
    none(grants(m1, 0), FaultKind::Denied, "rule \"standing\"");
    says_on((6, 1), m1, m2, Standing::Member, 0);
    all(grants(m1, 0));
}

#[test]
fn threat_17_a_clock_that_is_put_back_makes_no_record_current() {
    let members = union(&["m1", "m2"]);
    let [m1, m2] = <[Server; 2]>::try_from(members).ok().unwrap();
    let asks = |server: &Server, now: Now| server.peers.may_grant("starting box web", now);
    asks(&m2, at(0)).unwrap();
    // 50 minutes without a head, and the wall's clock an hour back.
    let back = Now { wall_ms: (NOW - 3600) * 1000, ms: at(3_000_000).ms };
    assert!(asks(&m2, back).unwrap_err().to_string().contains("rule \"current\""));
    let still = Now { wall_ms: NOW * 1000, ms: at(LATER).ms };
    let told = asks(&m2, still).unwrap_err().to_string();
    assert!(told.contains("no majority of those who vote (m1)"), "{told}");
    // Heads come, and this server's clock is wrong: that is what it says.
    signed_again(&[&m1], &[&m2], LATER);
    let fast = Now { wall_ms: (NOW + 3600) * 1000, ms: at(LATER).ms };
    let slow = Now { wall_ms: (NOW - 3600) * 1000, ms: at(LATER).ms };
    for wrong in [fast, slow] {
        let told = asks(&m2, wrong).unwrap_err().to_string();
        assert!(told.contains("this server's clock or theirs is wrong"), "{told}");
    }
    asks(&m2, at(LATER)).unwrap();
    // Started again, what is on the disk is as old as it may be: the next head comes within seconds.
    let m2 = m2.restart();
    asks(&m2, at(LATER)).unwrap_err();
    signed_again(&[&m1], &[&m1, &m2], LATER + 5_000);
    asks(&m2, at(LATER + 5_000)).unwrap();
    // The only voter is made current by its own signature.
    let m1 = m1.restart();
    asks(&m1, at(LATER + 5_000)).unwrap_err();
    signed_again(&[&m1], &[&m1], LATER + 10_000);
    asks(&m1, at(LATER + 10_000)).unwrap();
}
