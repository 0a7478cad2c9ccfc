//! A union whose voters are lost goes on with one member, and who was given up goes its own way: out by force, and in again by a new
//! token. What a voter has taken and promised before stays true meanwhile (threat 21).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

#[allow(dead_code, reason = "what other tests need of it")]
mod played;

use gtvp_ipc::bulk;
use gtvp_ipc::security::{FollowRecovery, LearnRecord, LeaveByForce, Recover, Wish, Written};
use gtvp_model::fault::FaultKind;
use gtvp_model::union::RecordHead;
use gtvp_model::unionview::{Departure, Recovery};
use gtvp_protocol::csp::Offer;
use gtvp_protocol::hsp::Durable;
use gtvp_security::tpm::client::Client;
use gtvp_security::tpm::promises::{self, Promised};
use played::server::{Server, at, co_signed};
use played::union::{joins, token, union};
use played::{SoftwareTpm, copy_folder};

fn a_token(server: &Server) -> Written {
    server.wish(Wish::Token { expires_s: 60, ek: None, platform_identity: None }).unwrap()
}

/// The only voter goes on by itself.
fn goes_on(server: &Server) {
    Server::decide(&a_token(server).entry, &[server], &[server]).unwrap();
}

fn recover(server: &Server, confirmed: bool, reachable: &[&Server]) -> Result<Recovery, FaultKind> {
    let asked = Recover { confirmed, ..asked(&[], reachable) };
    server.union.recover(&asked, at(0).unix()).map_err(|f| f.kind)
}

fn asked(lost: &[&str], reachable: &[&Server]) -> Recover {
    Recover {
        lost: lost.iter().map(|n| n.parse().unwrap()).collect(),
        reason: "burnt".into(),
        confirmed: true,
        reachable: reachable.iter().map(|s| s.id()).collect(),
        operator_uid: 0,
        stands_still: false,
    }
}

fn leaves(server: &Server, confirmed: bool) -> Departure {
    let asked = LeaveByForce { confirmed, operator_uid: 0 };
    server.union.leave_by_force(&asked, at(0).unix()).unwrap()
}

/// Root of a server has its software TPM say that this was its last promise.
fn has_promised(tpm: &SoftwareTpm, promised: Promised) {
    promises::set(&mut Client::open(&tpm.address()).unwrap(), promised).unwrap();
}

fn record(server: &Server) -> Vec<u8> {
    bulk::take(server.union.page(0, 1 << 20).unwrap(), 2 << 20).unwrap()
}

/// Whether this server takes these bytes as the record of a union that it wants to join; else why not.
fn learns(
    server: &Server,
    bytes: &[u8],
    known: RecordHead,
    end: RecordHead,
    from: &Server,
) -> Result<(), String> {
    let union = from.view().union;
    server.union.want(union, known);
    let asked = LearnRecord { union, known, end, from: from.id() };
    let learned = server.union.learn(&asked, vec![bulk::give(bytes).unwrap()], at(0).unix());
    learned.unwrap_or_else(|fault| Err(fault.to_string())).map(drop)
}

/// The last entry, as it is offered.
fn latest(server: &Server) -> Offer {
    let bytes = bulk::take(server.union.page(server.head().number, 1 << 20).unwrap(), 2 << 20).unwrap();
    let committed = gtvp_protocol::csp::page::split(&bytes).unwrap().remove(0);
    Offer { entries: vec![committed.entry], head: committed.head.unwrap() }
}

#[test]
fn a_union_goes_on_with_whom_its_administrators_say_and_not_by_itself() {
    let all = union(&["m1", "m2", "m3"]);
    let [m1, m2, m3] = &all[..] else { panic!("three") };
    // m1, the only voter, is lost.
    assert_eq!(recover(m2, true, &[m1, m3]), Err(FaultKind::WrongState), "it can be reached");
    let before = m2.head();
    let plan = recover(m2, false, &[m3]).unwrap();
    assert_eq!((plan.lost, plan.follow, plan.hash), (vec!["m1".into()], vec!["m3".into()], None));
    assert_eq!(m2.head(), before, "nothing was done");
    let hash = recover(m2, true, &[m3]).unwrap().hash.unwrap();
    let now = m2.union.show().unwrap();
    assert_eq!((now.voters.as_slice(), now.members, now.epoch), (&["m2".to_owned()][..], 2, 1));
    let history = m2.union.history(None).unwrap();
    let last = history.last().unwrap();
    assert_eq!((last.act.as_str(), &last.hash), ("recovered", &hash));
    assert!(last.about.contains("m1") && last.about.contains("burnt"), "{}", last.about);

    // m3 takes it by its administrator's word alone, and m1 by nobody's.
    let offer = latest(m2);
    for other in [m1, m3] {
        let refused = other.take(m2.id(), &offer).unwrap_err();
        assert_eq!((refused.kind, other.head()), (FaultKind::Denied, before));
        assert!(refused.causes.concat().contains(&hash), "the refusal names it: {refused}");
    }
    m3.union.follow(&FollowRecovery { hash: hash.parse().unwrap(), operator_uid: 0 }).unwrap();
    m3.take(m2.id(), &offer).unwrap();
    assert_eq!(m3.head(), m2.head());
    // The union goes on, also after a restart.
    Server::decide(&a_token(m3).entry, &[m2], &[m2, m3]).unwrap();
    let [_, m2, m3] = <[Server; 3]>::try_from(all).map(|a| a.map(Server::restart)).ok().unwrap();
    Server::decide(&a_token(&m2).entry, &[&m2], &[&m2, &m3]).unwrap();
    assert_eq!(m3.head(), m2.head());
}

#[test]
fn who_was_given_up_leaves_by_force_and_joins_anew_and_its_promises_stay() {
    let all = union(&["m1", "m2"]);
    let [m1, m2] = <[Server; 2]>::try_from(all).ok().unwrap();
    // They lose each other. m1, the only voter, goes on; m2's administrator gives it up.
    (0..9).for_each(|_| goes_on(&m1));
    recover(&m2, true, &[]).unwrap();
    let (mut joiner, mut verifier) = played::enrolment::enrolment(&m1, &m2, &token(&[&m2]));
    played::enrolment::run(&mut joiner, &mut verifier);
    assert!(joiner.refusal().is_some(), "while it holds the old record it joins nothing");

    let told = leaves(&m1, false);
    let words = told.gives_up.join("\n");
    for said in ["membership of union lab", "0 of 1 voters are left", "m2 who have it", "go on running"] {
        assert!(words.contains(said), "{said}: {words}");
    }
    assert_eq!((told.aside, m1.union.show().is_ok()), (None, true), "nothing was done");
    let seen = m1.union.now().1;
    let promise = |folder: &str| std::fs::read(m1.tpm.state().join(folder).join("promise")).unwrap();
    let promised = promise("record");
    let aside = leaves(&m1, true).aside.unwrap();
    assert!(m1.union.wait(seen, std::time::Duration::ZERO), "who watches is told");
    let again = LeaveByForce { confirmed: true, operator_uid: 0 };
    assert_eq!(m1.union.leave_by_force(&again, at(0).unix()).unwrap_err().kind, FaultKind::NotFound);
    assert_eq!(promise(&aside), promised);

    let m1 = m1.restart();
    assert_eq!(m1.union.show().unwrap_err().kind, FaultKind::NotFound);
    joins(&m1, &m2, &token(&[&m2]));
    assert_eq!(m1.view(), m2.view());
    let kept = std::fs::read(m1.tpm.state().join("record/promise")).unwrap();
    assert_eq!(kept, promised, "its word still counts");

    // As a voter it says nothing before the record has come past what it gave its word for.
    let votes = m2.wish(Wish::Leave).unwrap();
    assert!(votes.about.contains("m1 votes first"), "{}", votes.about);
    Server::decide(&votes.entry, &[&m2], &[&m1, &m2]).unwrap();
    let told = m1.union.show().unwrap().withheld.unwrap();
    assert!(told.contains("which the record has not come to"), "{told}");
    let next = a_token(&m2).entry;
    assert_eq!(m1.union.vote_for(&next, at(0).unix()).unwrap_err().kind, FaultKind::InUse);
    // Control: one that had forgotten it would.
    let (union, number) = (m1.view().union, m1.head().number);
    let m1 = m1.restart_after(|tpm| {
        std::fs::remove_file(tpm.state().join("record/promise")).unwrap();
        has_promised(tpm, Promised { union, number });
    });
    m1.union.vote_for(&next, at(0).unix()).unwrap();
}

#[test]
fn threat_21_a_voter_that_has_left_by_force_is_given_neither_less_nor_another_record() {
    let all = union(&["m1", "m2"]);
    let [m1, m2] = <[Server; 2]>::try_from(all).ok().unwrap();
    let begun = m1.head();
    let older = record(&m1);
    // Root of its server keeps a copy of its disk, and has it decide otherwise from there on: a second record with one number.
    copy_folder(&m1.tpm.state().join("record"), &m1.tpm.folder.join("copy"));
    // It is the longer one, so that its length alone does not give it away.
    (0..3).for_each(|_| goes_on(&m1));
    let (other, other_end) = (record(&m1), m1.head());
    let promised = Promised { union: m1.view().union, number: begun.number };
    let m1 = m1.restart_after(|tpm| {
        has_promised(tpm, promised);
        std::fs::remove_dir_all(tpm.state().join("record")).unwrap();
        copy_folder(&tpm.folder.join("copy"), &tpm.state().join("record"));
    });
    goes_on(&m1);
    goes_on(&m1);
    let (whole, end) = (record(&m1), m1.head());
    assert!(other_end.number > end.number);
    let aside = leaves(&m1, true).aside.unwrap();

    let missing = format!("does not have entry {}", end.number);
    let why = learns(&m1, &older, begun, begun, &m2).unwrap_err();
    assert!(why.contains(&missing), "{why}");
    let keep = Durable::Membership { union: m2.view().union, entry: Box::new(m2.entry()), head: begun };
    assert!(m1.union.keep(&keep, at(0).unix()).is_err());
    let why = learns(&m1, &other, begun, other_end, &m2).unwrap_err();
    assert!(why.contains(&missing), "{why}");
    // Control: what it had itself is taken; and on a server that has forgotten all of it, the others would be.
    learns(&m1, &whole, begun, end, &m2).unwrap();
    std::fs::remove_dir_all(m1.tpm.state().join(&aside)).unwrap();
    learns(&m1, &older, begun, begun, &m2).unwrap();
    learns(&m1, &other, begun, other_end, &m2).unwrap();
}

#[test]
fn what_was_put_aside_and_cannot_be_read_is_not_passed_over() {
    let all = union(&["m1", "m2"]);
    let [m1, m2] = <[Server; 2]>::try_from(all).ok().unwrap();
    let (whole, end) = (record(&m1), m1.head());
    let aside = leaves(&m1, true).aside.unwrap();
    learns(&m1, &whole, end, end, &m2).unwrap();
    std::fs::write(m1.tpm.state().join(&aside).join("1"), b"nonsense").unwrap();
    let why = learns(&m1, &whole, end, end, &m2).unwrap_err();
    assert!(why.contains("what this server had of that union before cannot be read"), "{why}");
}

#[test]
fn threat_21_a_voter_that_was_in_another_union_since_is_not_given_less_of_its_own_record() {
    let [m1, m2] = <[Server; 2]>::try_from(union(&["m1", "m2"])).ok().unwrap();
    let (older, begun, entry) = (record(&m1), m1.head(), Box::new(m1.entry()));
    let lab = m1.view().union;
    // It has signed more, and left as is due.
    for by in [&[&m1][..], &[&m1, &m2], &[&m2]] {
        let written = m1.wish(Wish::Leave).unwrap();
        Server::decide(&written.entry, by, &[&m1, &m2]).unwrap();
    }
    let end = m1.head();
    m1.begin_with(true).unwrap();
    assert_ne!(m1.view().union, lab);
    m1.union.end().unwrap().unwrap();
    // Who makes a token has it that the record is what it was when this server was the only voter.
    let missing = format!("does not have entry {}", end.number);
    let why = learns(&m1, &older, begun, begun, &m2).unwrap_err();
    assert!(why.contains(&missing), "{why}");
    let keep = Durable::Membership { union: lab, entry: entry.clone(), head: begun };
    assert!(m1.union.keep(&keep, at(0).unix()).is_err());
    let m1 = m1.restart();
    let why = learns(&m1, &older, begun, begun, &m2).unwrap_err();
    assert!(why.contains(&missing), "{why}");
    // Control: where nothing of that union is left, it would vote again.
    let aside = m1.tpm.state().join(format!("record.{}", lab.short()));
    std::fs::remove_dir_all(aside).unwrap();
    learns(&m1, &older, begun, begun, &m2).unwrap();
    m1.union.keep(&keep, at(0).unix()).unwrap();
    m1.union.vote_for(&a_token(&m1).entry, at(0).unix()).unwrap();
}

#[test]
fn a_damaged_record_is_left_by_force_and_binds_until_it_is_mended_or_removed() {
    let mut m1 = Server::start("m1");
    m1.begin().unwrap();
    let [m2, m3] = ["m2", "m3"].map(Server::start);
    joins(&m2, &m1, &token(&[&m1]));
    m3.begin().unwrap();
    let (lab, other) = ((record(&m2), m2.head()), (record(&m3), m3.head()));
    // The union that the record was of is known by its first entry, or not.
    for (spoilt, takes_others) in [("1", true), ("0", false)] {
        let place = m1.tpm.state().join("record").join(spoilt);
        let whole = std::fs::read(&place).unwrap();
        m1 = m1.restart_after(|_| std::fs::write(&place, b"nonsense").unwrap());
        let refused = m1.union.show().unwrap_err();
        assert!(refused.hint.as_ref().is_some_and(|h| h.contains("gtvp union leave --force")), "{refused:?}");
        let told = leaves(&m1, false);
        assert!(told.gives_up.concat().contains("is damaged"), "{told:?}");
        assert_eq!((told.entries, told.aside), (0, None));
        assert!(m1.union.show().is_err_and(|f| f.kind == FaultKind::Integrity), "nothing was done");
        let aside = leaves(&m1, true).aside.unwrap();
        m1 = m1.restart();
        assert_eq!(m1.union.show().unwrap_err().kind, FaultKind::NotFound);
        let why = learns(&m1, &lab.0, lab.1, lab.1, &m2).unwrap_err();
        assert!(why.contains("cannot be read"), "{why}");
        let learned = learns(&m1, &other.0, other.1, other.1, &m3);
        assert_eq!(learned.is_ok(), takes_others, "{spoilt}: {learned:?}");
        // Mended, it binds as any other; and this server is where it was.
        std::fs::write(m1.tpm.state().join(&aside).join(spoilt), whole).unwrap();
        learns(&m1, &lab.0, lab.1, lab.1, &m2).unwrap();
        learns(&m1, &other.0, other.1, other.1, &m3).unwrap();
        m1 = m1.restart_after(|tpm| {
            std::fs::rename(tpm.state().join(&aside), tpm.state().join("record")).unwrap();
        });
    }
    assert_eq!(m1.union.show().unwrap().name, "lab");
}

#[test]
fn a_union_whose_voter_has_said_two_things_goes_on_with_whom_its_administrators_say() {
    let [m1, m2, m3] = <[Server; 3]>::try_from(union(&["m1", "m2", "m3"])).ok().unwrap();
    let before = m1.head();
    let (one, other) = (a_token(&m1).entry, a_token(&m1).entry);
    Server::decide(&one, &[&m1], &[&m1, &m2, &m3]).unwrap();
    // m1, the only voter, has its disk and its TPM say otherwise.
    let promised = Promised { union: m1.view().union, number: before.number };
    let m1 = m1.restart_after(|tpm| {
        let record = tpm.state().join("record");
        std::fs::remove_file(record.join((before.number + 1).to_string())).unwrap();
        std::fs::remove_file(record.join("promise")).unwrap();
        has_promised(tpm, promised);
    });
    let proof = Offer { entries: Vec::new(), head: co_signed(&other, &[&m1]).unwrap().head };
    for m in [&m2, &m3] {
        assert_eq!(m.take(m1.id(), &proof).unwrap_err().kind, FaultKind::Integrity);
        assert!(m.wish(Wish::Leave).unwrap_err().hint.unwrap().contains("gtvp union recover"));
    }
    let m2 = m2.restart();
    assert!(m2.union.known().unwrap().unwrap().forked);

    // That m1 can be reached does not matter any more; it is given up by name.
    let ask = asked(&["m1"], &[&m1, &m3]);
    let done = m2.union.recover(&ask, at(0).unix()).unwrap();
    assert_eq!(
        (done.lost.as_slice(), done.follow.as_slice()),
        (&["m1".to_owned()][..], &["m3".to_owned()][..])
    );
    let offer = latest(&m2);
    let refused = m3.take(m2.id(), &offer).unwrap_err();
    assert!(refused.causes.concat().contains(done.hash.as_ref().unwrap()), "{refused:?}");
    assert!(m3.union.known().unwrap().unwrap().forked, "nobody has said so to m3");
    m3.union.follow(&FollowRecovery { hash: done.hash.unwrap().parse().unwrap(), operator_uid: 0 }).unwrap();
    m3.take(m2.id(), &offer).unwrap();
    let [m2, m3] = [m2, m3].map(Server::restart);
    for m in [&m2, &m3] {
        assert_eq!(
            m.take(m1.id(), &proof).unwrap_err().kind,
            FaultKind::Denied,
            "it proves nothing any more"
        );
        assert!(!m.union.known().unwrap().unwrap().forked);
    }
    Server::decide(&a_token(&m3).entry, &[&m2], &[&m2, &m3]).unwrap();
    assert_eq!(m2.head(), m3.head());
}

#[test]
fn a_record_that_stands_still_is_recovered_where_somebody_says_so_and_the_voters_show_it() {
    let [m1, m2] = <[Server; 2]>::try_from(union(&["m1", "m2"])).ok().unwrap();
    // Both are voters, and a lying leader has each promise another entry.
    let both = m1.wish(Wish::Leave).unwrap();
    Server::decide(&both.entry, &[&m1], &[&m1, &m2]).unwrap();
    let (one, other) = (a_token(&m1).entry, a_token(&m2).entry);
    m1.union.vote_for(&one, at(0).unix()).unwrap();
    m2.union.vote_for(&other, at(0).unix()).unwrap();
    assert_eq!(m1.union.vote_for(&other, at(0).unix()).unwrap_err().kind, FaultKind::InUse);
    assert!(m1.union.vote_again(at(0).unix()).is_err());

    let said = Recover { stands_still: true, ..asked(&[], &[&m2]) };
    let before = std::fs::read(m1.tpm.state().join("record/promise")).unwrap();
    let refused = m1.union.recover(&said, at(0).unix()).unwrap_err();
    assert_eq!(refused.kind, FaultKind::WrongState, "the last entry is current");
    let later = at(61_000).unix();
    let refused = m1.union.recover(&asked(&[], &[&m2]), later).unwrap_err();
    assert!(refused.hint.unwrap().contains("--stands-still"), "nobody has said so");
    assert_eq!(std::fs::read(m1.tpm.state().join("record/promise")).unwrap(), before, "nothing was written");
    let done = m1.union.recover(&said, later).unwrap();
    assert_eq!((done.lost.len(), done.follow), (0, vec!["m2".to_owned()]));
    m2.union.follow(&FollowRecovery { hash: done.hash.unwrap().parse().unwrap(), operator_uid: 0 }).unwrap();
    m2.take(m1.id(), &latest(&m1)).unwrap();
    Server::decide(&a_token(&m2).entry, &[&m1], &[&m1, &m2]).unwrap();
}
