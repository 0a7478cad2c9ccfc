//! A union's record on a real software TPM: how it begins, what is voted for and taken, and that nothing is told that is not on the disk.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

#[allow(dead_code, reason = "what other tests need of it")]
mod played;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gtvp_ipc::bulk;
use gtvp_ipc::security::{BeginUnion, LearnRecord, Wish};
use gtvp_model::fault::FaultKind;
use gtvp_model::ids::MemberName;
use gtvp_model::union::{Hardware, RecordHead, TpmClass, UnixTime};
use gtvp_model::unionview::UnionBegin;
use gtvp_protocol::csp::act::Blob;
use gtvp_protocol::csp::{Act, CoSigned, Entry, Offer, SignedEntry};
use gtvp_protocol::frame::wire;
use gtvp_security::platform::Platform;
use gtvp_security::tpm::actor::Tpm;
use gtvp_security::tpm::client::Client;
use gtvp_security::tpm::promises::{self, Promised};
use gtvp_security::union::Union;
use played::SoftwareTpm;
use played::copy_folder;
use played::server::{Server, at, co_signed};

const NOW: UnixTime = UnixTime(1_795_000_000);

fn platform(tpm: &SoftwareTpm) -> Arc<Platform> {
    let actor = Tpm::start(tpm.address(), tpm.state()).unwrap();
    Arc::new(Platform::of(TpmClass::Software, Some(actor)))
}

fn open(state: &Path, platform: &Arc<Platform>) -> Union {
    Union::open(state, "m1".parse().unwrap(), platform.clone())
}

fn lab(software_tpms: bool) -> BeginUnion {
    BeginUnion {
        union: UnionBegin {
            name: "lab".parse().unwrap(),
            software_tpms,
            without_tpm: false,
            attest_every_ms: None,
            ek: None,
        },
        hardware: Hardware::new(2, 4096, "").unwrap(),
    }
}

/// A founder, and tokens that are written and not decided yet.
fn founder() -> Server {
    let m1 = Server::start("m1");
    m1.begin().unwrap();
    m1
}

fn token(server: &Server) -> SignedEntry {
    server.wish(Wish::Token { expires_s: 60, ek: None, platform_identity: None }).unwrap().entry
}

#[test]
fn a_union_begins_once_and_is_the_same_after_a_restart() {
    let mut m1 = Server::start("m1");
    assert_eq!(m1.union.show().unwrap_err().kind, FaultKind::NotFound);
    assert_eq!(m1.peers.members(at(0)).unwrap()[0].id, None);
    assert!(m1.union.now().0.union.is_none());
    let (_, seen) = m1.union.now();
    m1.begin().unwrap();
    assert!(m1.union.wait(seen, Duration::ZERO), "who watches is told");
    let begun = m1.union.show().unwrap();
    assert_eq!(
        (begun.name.as_str(), begun.entries, begun.voters.as_slice()),
        ("lab", 2, &["m1".to_owned()][..])
    );
    let now = m1.union.now().0.union.unwrap();
    assert_eq!(now.own.name.as_str(), "m1");
    assert_eq!(now.state.head.head.at, now.state.view.head);
    assert_eq!(now.state.view.settings.attest_every_ms, 2000);
    assert_eq!(m1.begin().unwrap_err().kind, FaultKind::WrongState);
    m1.tpm.reset();
    let m1 = m1.restart();
    assert_eq!(m1.union.show().unwrap(), begun);
    assert_eq!(m1.union.now().0.union.unwrap(), now);
    let members = m1.peers.members(at(0)).unwrap();
    assert_eq!((members.len(), members[0].tpm, members[0].own), (1, TpmClass::Software, true));
    assert_eq!(members[0].verdict, "unknown", "the record says who is a member, not who is trusted");
    assert!(members[0].voter);
}

#[test]
fn a_union_that_begins_in_the_same_second_under_the_same_name_is_another_one() {
    let m1 = founder();
    let (first, settings) = (m1.view(), m1.view().settings);
    assert!(m1.union.end().unwrap().is_some());
    // The same server, keys, name, settings and time.
    m1.begin().unwrap();
    let second = m1.view();
    assert_eq!((second.settings, &second.members), (settings, &first.members));
    assert_ne!(second.union, first.union);
    assert_eq!(m1.restart().view().union, second.union);
}

#[test]
fn a_software_tpm_is_let_in_only_where_somebody_said_so() {
    let tpm = SoftwareTpm::start();
    let (platform, folder) = (platform(&tpm), tpm.state());
    let union = open(&folder, &platform);
    let refused = union.begin(&lab(false), NOW).unwrap_err();
    assert_eq!(refused.kind, FaultKind::Denied);
    assert!(refused.hint.unwrap().contains("--allow-software-tpm"));
    assert_eq!(union.show().unwrap_err().kind, FaultKind::NotFound, "nothing is left behind");
    // A server that measures nothing has nothing that could be healthy.
    let refused = union.begin(&lab(true), NOW).unwrap_err();
    assert_eq!(refused.kind, FaultKind::WrongState);
    assert!(refused.causes[0].contains("there is no GTVP log"), "{refused:?}");
    assert!(!folder.join("record").exists());
    let none = Arc::new(Platform::of(TpmClass::None, None));
    let mut begin = lab(false);
    assert_eq!(open(Path::new("/nowhere"), &none).begin(&begin, NOW).unwrap_err().kind, FaultKind::Denied);
    begin.union.without_tpm = true;
    assert_eq!(
        open(Path::new("/nowhere"), &none).begin(&begin, NOW).unwrap_err().kind,
        FaultKind::WrongState
    );
    begin.union.attest_every_ms = Some(1);
    assert_eq!(open(Path::new("/nowhere"), &none).begin(&begin, NOW).unwrap_err().kind, FaultKind::Invalid);
}

#[test]
fn threat_22_a_record_that_was_changed_or_cut_is_no_record_and_is_not_written_over() {
    let m1 = founder();
    let begun = m1.union.show().unwrap();
    let folder = m1.tpm.state();
    let state = m1.tpm.state();
    let fresh = || Union::open(&state, "m1".parse().unwrap(), m1.platform.clone());
    for file in ["record/0", "record/1"] {
        let path = folder.join(file);
        let good = fs::read(&path).unwrap();
        let step = (good.len() / 40).max(1);
        let flipped = (0..good.len()).step_by(step).map(|at| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        });
        let cut = (0..good.len()).step_by(step).map(|at| good[..at].to_vec());
        for bad in flipped.chain(cut) {
            fs::write(&path, &bad).unwrap();
            let union = fresh();
            // One bit of the name, say, is another union of the same founder: its signature does not hold.
            assert_eq!(union.show().unwrap_err().kind, FaultKind::Integrity);
            assert_eq!(union.begin(&lab(true), NOW).unwrap_err().kind, FaultKind::Integrity);
            assert_eq!(fs::read(&path).unwrap(), bad);
        }
        fs::write(&path, &good).unwrap();
    }
    // A write that a crash cut off leaves a file beside it.
    let first = fs::read(folder.join("record/0")).unwrap();
    fs::write(folder.join("record/2.new"), &first[..5]).unwrap();
    assert_eq!(fresh().show().unwrap(), begun);
    fs::write(folder.join("record/2"), &first).unwrap();
    assert_eq!(fresh().show().unwrap(), begun, "without a head it was never taken");
    fs::rename(folder.join("record/2"), folder.join("record/3")).unwrap();
    assert_eq!(fresh().show().unwrap_err().kind, FaultKind::Integrity, "an entry is missing");
    fs::remove_file(folder.join("record/3")).unwrap();
    fs::remove_file(folder.join("record/0")).unwrap();
    assert_eq!(fresh().show().unwrap_err().kind, FaultKind::Integrity);
}

#[test]
fn a_voter_promises_one_entry_a_number_also_after_it_was_killed() {
    let m1 = founder();
    let (one, other) = (token(&m1), token(&m1));
    assert_ne!(one.hash(), other.hash());
    let head = m1.head();
    m1.union.vote_for(&one, at(0).unix()).unwrap();
    let promise = fs::read_to_string(m1.tpm.state().join("record/promise")).unwrap();
    assert!(promise.contains(&one.hash().to_string()), "it was written down before it was signed: {promise}");
    assert_eq!(m1.head(), head, "a promise is not yet the record");
    let m1 = m1.restart();
    let refused = m1.union.vote_for(&other, at(0).unix()).unwrap_err();
    assert!(refused.causes[0].contains("has signed another entry 2"), "{refused:?}");
    // Control: the same again, and then the record goes on.
    Server::decide(&one, &[&m1], &[&m1]).unwrap();
    assert_eq!(m1.head().hash, one.hash());
    let late = m1.union.vote_for(&one, at(0).unix()).unwrap_err();
    assert_eq!(late.kind, FaultKind::Denied, "it is in the record: nobody says that it never will be");
    Server::decide(&token(&m1), &[&m1], &[&m1]).unwrap();
    assert_eq!(m1.head().number, 3);

    // A promise that could not be written down is not signed.
    let next = token(&m1);
    let place = m1.tpm.state().join("record");
    let away = m1.tpm.state().join("away");
    fs::rename(&place, &away).unwrap();
    assert_eq!(m1.union.vote_for(&next, at(0).unix()).unwrap_err().kind, FaultKind::Internal);
    fs::rename(&away, &place).unwrap();
    m1.union.vote_for(&next, at(0).unix()).unwrap();
}

#[test]
fn an_entry_is_on_the_disk_before_it_counts() {
    let m1 = founder();
    let offer = co_signed(&token(&m1), &[&m1]).unwrap();
    let (place, away) = (m1.tpm.state().join("record"), m1.tpm.state().join("away"));
    let before = m1.view();
    fs::rename(&place, &away).unwrap();
    assert_eq!(m1.take(m1.id(), &offer).unwrap_err().kind, FaultKind::Internal);
    assert_eq!(m1.view(), before);
    fs::rename(&away, &place).unwrap();
    m1.take(m1.id(), &offer).unwrap();
    let after = m1.view();
    assert_eq!(after.head.number, 2);
    // A newer head of the same record needs no disk: it is told, and counts until the next start.
    let again = m1.union.vote_again(NOW_LATER).unwrap();
    let head = CoSigned { head: again.head, votes: vec![again.vote].try_into().unwrap() };
    let seen = m1.union.now().1;
    let fd = bulk::give(&wire::encode(&Offer { entries: Vec::new(), head: head.clone() })).unwrap();
    assert_eq!(m1.union.take(m1.id(), vec![fd], NOW_LATER).unwrap().new, 0);
    assert!(m1.union.now().1 > seen);
    assert_eq!(m1.union.now().0.union.unwrap().state.head, head);
    // Whoever reads the record gets that head with it.
    let bytes = bulk::take(m1.union.page(0, 1 << 20).unwrap(), 1 << 20).unwrap();
    let items = gtvp_protocol::csp::page::split(&bytes).unwrap();
    assert_eq!((items.len(), items[2].head.as_ref()), (3, Some(&head)));
    let m1 = m1.restart();
    assert_eq!(m1.view().head, after.head);
    assert_eq!(m1.view().head_time, after.head_time);
}

const NOW_LATER: UnixTime = UnixTime(NOW.0 + 30);

#[test]
fn a_page_ends_in_a_head_and_what_is_no_offer_changes_nothing() {
    let m1 = founder();
    for _ in 0..3 {
        Server::decide(&token(&m1), &[&m1], &[&m1]).unwrap();
    }
    let page = |from, most| {
        let bytes = bulk::take(m1.union.page(from, most).unwrap(), 1 << 20).unwrap();
        gtvp_protocol::csp::page::split(&bytes).unwrap()
    };
    assert_eq!(page(0, 1 << 20).len(), 5);
    assert_eq!(page(0, 1).len(), 2, "entry 0 has no head of its own");
    assert_eq!(page(3, 1).len(), 1);
    assert_eq!(page(9, 1 << 20).len(), 0);
    let before = m1.view();
    for bytes in [vec![], vec![0; 100], vec![0xff; 100]] {
        let fd = bulk::give(&bytes).unwrap();
        assert_eq!(m1.union.take(m1.id(), vec![fd], NOW).unwrap_err().kind, FaultKind::Invalid);
    }
    assert_eq!(m1.union.take(m1.id(), vec![], NOW).unwrap_err().kind, FaultKind::Invalid);
    let old = co_signed_again(&m1);
    Server::decide(&token(&m1), &[&m1], &[&m1]).unwrap();
    let refused = m1.take(m1.id(), &old).unwrap_err();
    assert_eq!(refused.kind, FaultKind::Denied);
    assert!(refused.causes[0].contains("it ends at entry 4"), "{refused:?}");
    assert_eq!(m1.view().head.number, before.head.number + 1);
}

fn co_signed_again(server: &Server) -> Offer {
    let again = server.union.vote_again(at(0).unix()).unwrap();
    Offer {
        entries: Vec::new(),
        head: CoSigned { head: again.head, votes: vec![again.vote].try_into().unwrap() },
    }
}

#[test]
fn threat_18_a_fork_is_remembered_and_ends_all_votes() {
    let m1 = founder();
    let entry = token(&m1);
    // The voter's disk is put back to before its promise, and what its TPM counts too: a clone of it signs the other entry.
    let copy = m1.tpm.state().join("copy");
    copy_folder(&m1.tpm.state().join("record"), &copy);
    let (union, number) = (m1.view().union, m1.head().number);
    Server::decide(&entry, &[&m1], &[&m1]).unwrap();
    let m1 = m1.restart_after(|tpm| {
        fs::rename(tpm.state().join("record"), tpm.state().join("kept")).unwrap();
        fs::rename(&copy, tpm.state().join("record")).unwrap();
        promises::set(&mut Client::open(&tpm.address()).unwrap(), Promised { union, number }).unwrap();
    });
    let other = co_signed(&token(&m1), &[&m1]).unwrap();
    let m1 = m1.restart_after(|tpm| {
        fs::remove_dir_all(tpm.state().join("record")).unwrap();
        fs::rename(tpm.state().join("kept"), tpm.state().join("record")).unwrap();
    });
    let contradiction = Offer { entries: Vec::new(), head: other.head };
    let before = m1.view();
    let refused = m1.take([3; 32].into(), &contradiction).unwrap_err();
    assert!(refused.causes[0].contains("two records"), "{refused:?}");
    assert_eq!(m1.view(), before);
    assert!(m1.union.vote_again(NOW).is_err());
    let m1 = m1.restart();
    assert!(m1.union.vote_again(NOW).unwrap_err().causes[0].contains("forked"));
    let wish = m1.wish(Wish::Token { expires_s: 60, ek: None, platform_identity: None });
    assert_eq!(wish.unwrap_err().kind, FaultKind::Integrity);
}

#[test]
fn no_voter_takes_reference_values_that_nobody_could_read() {
    let m1 = founder();
    let signed = |change: &dyn Fn(Entry) -> Entry| {
        let view = m1.view();
        let entry = change(Entry {
            union: view.union,
            number: view.head.number + 1,
            previous: view.head.hash,
            author: m1.id(),
            time: NOW,
            act: Act::ReferenceAccepted { name: "x".into(), manifest: Blob::new(vec![0; 10]).unwrap() },
        });
        let value = m1.actor.sign_entry(&entry).unwrap().concat().try_into().unwrap();
        let spki = m1.union.own_keys().unwrap().spki.try_into().unwrap();
        let signature = gtvp_protocol::csp::Signature { spki, value };
        SignedEntry { entry: entry.encode().try_into().unwrap(), signature }
    };
    let refused = m1.union.vote_for(&signed(&|e| e), NOW).unwrap_err();
    assert!(refused.causes[0].contains("not a signed manifest"), "{refused:?}");
    // Those of the founder, under another name; and once more, which is not newer.
    let item: gtvp_protocol::csp::Committed =
        wire::decode(&fs::read(m1.tpm.state().join("record/1")).unwrap()).unwrap();
    let Act::ReferenceAccepted { name, manifest } = Entry::decode(item.entry.entry.as_slice()).unwrap().act
    else {
        panic!("entry 1 is the founder's reference values")
    };
    let again = |name: &str| {
        let act = Act::ReferenceAccepted { name: name.into(), manifest: manifest.clone() };
        m1.union.vote_for(&signed(&move |e| Entry { act: act.clone(), ..e }), NOW).unwrap_err().causes[0]
            .clone()
    };
    assert!(again("other").contains("it calls itself"));
    assert!(again(&name).contains("not newer"));
    // What an administrator gives is signed, and taken.
    let rule = |value: &str| {
        serde_json::json!({
            "name": "update", "version": 1, "issued": 0, "demands": { "boot": null, "files": null, "own": null },
            "required_parts": [],
            "rules": [{ "own": { "kind": "binary", "subject": "gateway", "is": { "value": value }, "part": null, "status": "next" } }],
        })
        .to_string()
    };
    let digest = "11".repeat(32);
    let written = m1.wish(Wish::Reference { manifest: rule(&digest) }).unwrap();
    Server::decide(&written.entry, &[&m1], &[&m1]).unwrap();
    let rows = m1.union.references().unwrap();
    assert_eq!(rows.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["founder", "update"]);
    assert_eq!(m1.union.reference("update").unwrap()["rules"][0]["own"]["subject"], "gateway");
    assert_eq!(m1.wish(Wish::Reference { manifest: "{".into() }).unwrap_err().kind, FaultKind::Invalid);
    assert_eq!(m1.union.reference("nothing").unwrap_err().kind, FaultKind::NotFound);
    let acts: Vec<_> = m1.union.history(None).unwrap().into_iter().map(|r| r.act).collect();
    assert_eq!(acts, ["genesis", "reference_accepted", "reference_accepted"]);
}

#[test]
fn a_record_that_another_member_sends_is_believed_only_whole_and_to_its_end() {
    let m1 = founder();
    Server::decide(&token(&m1), &[&m1], &[&m1]).unwrap();
    let bytes = bulk::take(m1.union.page(0, 1 << 20).unwrap(), 1 << 20).unwrap();
    let m2 = Server::start("m2");
    let view = m1.view();
    let asked = |change: &dyn Fn(&mut LearnRecord)| {
        let mut asked = LearnRecord { union: view.union, known: view.head, end: view.head, from: m1.id() };
        change(&mut asked);
        asked
    };
    let learn = |bytes: &[u8], change: &dyn Fn(&mut LearnRecord)| {
        let asked = asked(change);
        m2.union.want(asked.union, view.head);
        m2.union.learn(&asked, vec![bulk::give(bytes).unwrap()], NOW).unwrap()
    };
    assert!(learn(&bytes, &|a| a.union = [1; 32].into()).unwrap_err().contains("another union"));
    assert!(learn(&bytes, &|a| a.known.hash.0 = [1; 32]).unwrap_err().contains("another record"));
    assert!(learn(&bytes, &|a| a.end.number = 1).is_err());
    assert!(learn(&bytes, &|a| a.end.number = 3).is_err());
    assert!(learn(&[], &|_| ()).is_err());
    let step = (bytes.len() / 60).max(1);
    for at in (0..bytes.len()).step_by(step) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        assert!(learn(&flipped, &|_| ()).is_err(), "byte {at}");
        assert!(learn(&bytes[..at], &|_| ()).is_err(), "cut at {at}");
    }
    assert!(!m2.union.joins(view.union));
    assert_eq!(*learn(&bytes, &|_| ()).unwrap(), view, "control");
    assert!(m2.union.joins(view.union));
    // It has what the administrator's token names, or it is not the union that they mean.
    m2.union.want(view.union, RecordHead { number: 1, ..view.head });
    let other = m2.union.learn(&asked(&|_| ()), vec![bulk::give(&bytes).unwrap()], NOW).unwrap();
    assert!(other.unwrap_err().contains("another record"));
    learn(&bytes, &|_| ()).unwrap();
    // A record without this server makes it no member.
    let entry = Box::new(m1.entry());
    let keep = gtvp_protocol::hsp::Durable::Membership { union: view.union, entry, head: view.head };
    assert_eq!(m2.union.keep(&keep, NOW).unwrap_err().kind, FaultKind::WrongState);
    assert!(m2.union.known().unwrap().is_none());
}

#[test]
fn the_only_voter_does_not_leave_a_union_that_nobody_else_could_keep() {
    let m1 = founder();
    let refused = m1.wish(Wish::Leave).unwrap_err();
    assert_eq!(refused.kind, FaultKind::WrongState);
    let evict = |name: &str| m1.wish(Wish::Evict { member: name.parse().unwrap(), reason: String::new() });
    assert_eq!(evict("m1").unwrap_err().kind, FaultKind::Invalid);
    assert_eq!(evict("nobody").unwrap_err().kind, FaultKind::NotFound);
    let nobody: MemberName = "nobody".parse().unwrap();
    assert_eq!(m1.union.history(Some(&nobody)).unwrap_err().kind, FaultKind::NotFound);
    let made = m1.wish(Wish::Token { expires_s: 60, ek: None, platform_identity: None }).unwrap();
    Server::decide(&made.entry, &[&m1], &[&m1]).unwrap();
    let id = made.token.unwrap().id;
    assert_eq!(m1.view().tokens[&id].platform_identity, m1.entry().platform_identity, "the founder's level");
    let ended = m1.wish(Wish::EndToken(id)).unwrap();
    Server::decide(&ended.entry, &[&m1], &[&m1]).unwrap();
    assert_eq!(m1.view().tokens[&id].expires, UnixTime(0));
    assert_eq!(
        m1.wish(Wish::Token { expires_s: 0, ek: None, platform_identity: None }).unwrap_err().kind,
        FaultKind::Invalid
    );
}

#[test]
fn a_union_of_nobody_else_ends_and_its_record_is_kept_aside() {
    let m1 = founder();
    let (id, watched) = (m1.view().union, m1.union.now().1);
    let about = m1.union.end().unwrap().unwrap();
    let aside = format!("record.{}", id.short());
    assert!(about.contains("union lab") && about.contains(&aside), "{about}");
    assert!(m1.union.wait(watched, Duration::ZERO) && m1.union.now().0.union.is_none());
    assert!(m1.tpm.state().join(&aside).join("1").exists());
    let m1 = m1.restart();
    assert_eq!(m1.union.show().unwrap_err().kind, FaultKind::NotFound);
    assert_eq!(m1.union.end().unwrap_err().kind, FaultKind::NotFound);
    // It begins another one, and that has nothing of the first.
    m1.begin().unwrap();
    assert_eq!(m1.union.show().unwrap().entries, 2);
    assert!(m1.union.end().unwrap().is_some());
}

#[test]
fn nobody_waits_for_the_record_while_the_tpm_signs() {
    let m1 = Arc::new(founder());
    let entry = token(&m1);
    type Call = Box<dyn Fn(&Server) + Send>;
    let calls: [(&str, Call); 3] = [
        ("vote_again", Box::new(|s| drop(s.union.vote_again(NOW).unwrap()))),
        ("wish", Box::new(|s| drop(token(s)))),
        ("vote_for", Box::new(move |s| drop(s.union.vote_for(&entry, NOW).unwrap()))),
    ];
    for (name, call) in calls {
        m1.tpm.sleeps(true);
        let (begun, heard) = std::sync::mpsc::channel();
        let server = m1.clone();
        let signs = std::thread::spawn(move || {
            begun.send(()).unwrap();
            call(&server);
        });
        heard.recv().unwrap();
        // Time to come to the TPM: with less of it this would see nothing, and blame nobody.
        std::thread::sleep(Duration::from_millis(200));
        let (asks, server) = (std::sync::mpsc::channel(), m1.clone());
        let reads = std::thread::spawn(move || asks.0.send(server.union.known().is_ok()).unwrap());
        let known = asks.1.recv_timeout(Duration::from_secs(5));
        let waits = !signs.is_finished();
        m1.tpm.sleeps(false);
        signs.join().unwrap();
        reads.join().unwrap();
        assert_eq!((known, waits), (Ok(true), true), "{name}");
    }
}

#[test]
fn an_offer_that_a_crash_has_cut_is_taken_again_whole() {
    let m1 = founder();
    let before = m1.view();
    let state = m1.tpm.state();
    let copy = |to: &str| {
        fs::create_dir(state.join(to)).unwrap();
        for file in fs::read_dir(state.join("record")).unwrap().flatten() {
            fs::copy(file.path(), state.join(to).join(file.file_name())).unwrap();
        }
    };
    copy("behind");
    let mut entries = Vec::new();
    for _ in 0..3 {
        let offer = co_signed(&token(&m1), &[&m1]).unwrap();
        m1.take(m1.id(), &offer).unwrap();
        entries.extend(offer.entries);
    }
    let head = m1.union.now().0.union.unwrap().state.head;
    let after = m1.view();
    // A member that is three entries behind, and whose disk takes only the first of them.
    let behind = m1.restart_after(|tpm| {
        fs::rename(tpm.state().join("record"), tpm.state().join("ahead")).unwrap();
        fs::rename(tpm.state().join("behind"), tpm.state().join("record")).unwrap();
        fs::create_dir(tpm.state().join("record/3.new")).unwrap();
    });
    let offer = Offer { entries, head };
    assert_eq!(behind.take(behind.id(), &offer).unwrap_err().kind, FaultKind::Internal);
    assert!(behind.tpm.state().join("record/2").exists(), "the first was written");
    assert_eq!(behind.view().head, before.head);
    let behind = behind.restart_after(|tpm| fs::remove_dir(tpm.state().join("record/3.new")).unwrap());
    assert_eq!(behind.view().head, before.head, "none of it was taken");
    behind.take(behind.id(), &offer).unwrap();
    assert_eq!(behind.view().head, after.head);
    assert_eq!(behind.restart().view().tokens, after.tokens);
}

#[test]
fn nobody_shuts_out_the_server_that_they_stand_at() {
    let m1 = founder();
    let retire = |name: &str| m1.wish(Wish::RetireReference { name: name.into() });
    let refused = retire("founder").unwrap_err();
    assert_eq!(refused.kind, FaultKind::WrongState);
    assert!(refused.causes[0].contains("are the last"), "{refused:?}");
    let manifest = |name: &str, files: &str| {
        let demands = serde_json::json!({ "boot": null, "files": files, "own": null });
        let rules: [u8; 0] = [];
        serde_json::json!({
            "name": name, "version": 1, "issued": 0, "demands": demands, "required_parts": [], "rules": rules,
        })
        .to_string()
    };
    let refused = m1.wish(Wish::Reference { manifest: manifest("ima", "required") }).unwrap_err();
    assert!(refused.causes[0].contains("IMA log"), "{refused:?}");
    // Control: what keeps it healthy may come and go.
    let written = m1.wish(Wish::Reference { manifest: manifest("ima", "may_be_absent") }).unwrap();
    Server::decide(&written.entry, &[&m1], &[&m1]).unwrap();
    let written = retire("ima").unwrap();
    Server::decide(&written.entry, &[&m1], &[&m1]).unwrap();
    assert_eq!(m1.union.references().unwrap().len(), 1);
    assert_eq!(retire("ima").unwrap_err().kind, FaultKind::WrongState, "it is gone");
}
