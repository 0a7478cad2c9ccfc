//! Servers whose disk, or whose software TPM with it, was put back to an older copy (threat 21).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

#[allow(dead_code, reason = "what other tests need of it")]
mod played;

use std::fs;
use std::path::{Path, PathBuf};

use gtvp_ipc::security::{Recover, Wish};
use gtvp_model::fault::FaultKind;
use gtvp_protocol::csp::SignedEntry;
use gtvp_security::tpm::client::Client;
use gtvp_security::tpm::codes::handle;
use gtvp_security::tpm::commands::NvPublic;
use gtvp_security::tpm::promises::{self, Promised};
use gtvp_security::tpm::wire::{Auth, Command, Writer};
use played::server::{Server, at, co_signed};
use played::union::{catch_up, union};
use played::{SoftwareTpm, copy_folder};

fn token(server: &Server) -> SignedEntry {
    server.wish(Wish::Token { expires_s: 60, ek: None, platform_identity: None }).unwrap().entry
}

/// A copy of a folder, beside it.
fn backup(folder: &Path) -> PathBuf {
    let to = folder.with_extension("backup");
    copy_folder(folder, &to);
    to
}

/// The folder is as it was when the copy was made.
fn restore(folder: &Path) {
    fs::remove_dir_all(folder).unwrap();
    copy_folder(&folder.with_extension("backup"), folder);
}

#[test]
fn threat_21_a_voter_restored_from_a_backup_signs_no_second_entry_and_catches_up() {
    let mut all = union(&["m1", "m2"]);
    let (m2, m1) = (all.pop().unwrap(), all.pop().unwrap());
    let before = m1.head();
    backup(&m1.tpm.state());
    let (one, other) = (token(&m1), token(&m1));
    let decided = co_signed(&one, &[&m1]).unwrap();
    m2.take(m1.id(), &decided).unwrap();

    let m1 = m1.restart_after(|tpm| restore(&tpm.state()));
    assert_eq!(m1.head(), before);
    let refused = m1.union.vote_for(&other, at(0).unix()).unwrap_err();
    assert_eq!(refused.kind, FaultKind::InUse);
    assert!(refused.causes[0].contains("its disk is older than its TPM"), "{refused:?}");
    assert!(m1.union.vote_again(at(0).unix()).is_err(), "nor is what it has the last entry");
    let told = m1.union.show().unwrap().withheld.unwrap();
    assert!(told.starts_with("restored from an older copy: "), "{told}");
    let own = m1.peers.show(&"m1".parse().unwrap(), at(0)).unwrap();
    assert!(own.checks.iter().any(|c| c.detail.contains("restored from an older copy")), "{own:?}");

    // It learns from the other what it has signed, and votes for what comes next.
    catch_up(&m1, &m2);
    assert_eq!(m1.union.show().unwrap().withheld, None);
    m1.union.vote_again(at(0).unix()).unwrap();
    Server::decide(&token(&m1), &[&m1], &[&m1, &m2]).unwrap();
    assert_eq!(m1.head(), m2.head());

    // Control: a TPM that has forgotten as well, and both are signed. The other member has proof of it.
    let (union, number) = (m1.view().union, before.number);
    let m1 = m1.restart_after(|tpm| {
        restore(&tpm.state());
        promises::set(&mut Client::open(&tpm.address()).unwrap(), Promised { union, number }).unwrap();
    });
    let fork = co_signed(&other, &[&m1]).unwrap();
    assert_eq!(fork.head.head.at.number, decided.head.head.at.number);
    let proof = gtvp_protocol::csp::Offer { entries: Vec::new(), head: fork.head };
    let why = m2.take(m1.id(), &proof).unwrap_err();
    assert!(why.causes[0].contains("two records") || why.causes[0].contains("ends at"), "{why:?}");
}

#[test]
fn a_voter_is_never_ahead_of_its_tpm_and_a_crash_between_the_two_costs_nothing() {
    let m1 = union(&["m1"]).pop().unwrap();
    let number = m1.head().number + 1;
    let entry = token(&m1);
    backup(&m1.tpm.state());
    m1.union.vote_for(&entry, at(0).unix()).unwrap();
    assert_eq!(m1.actor.promised().unwrap().unwrap().number, number);
    // As after a crash when the promise was on the disk and not yet in the TPM: nobody has a signature.
    let union = m1.view().union;
    let m1 = m1.restart_after(|tpm| {
        let lower = Promised { union, number: number - 1 };
        promises::set(&mut Client::open(&tpm.address()).unwrap(), lower).unwrap();
    });
    Server::decide(&entry, &[&m1], &[&m1]).unwrap();
    assert_eq!(m1.actor.promised().unwrap().unwrap().number, number);
    // The same number again writes nothing lower.
    m1.actor.count_promise(Promised { union, number: 1 }).unwrap();
    assert_eq!(m1.actor.promised().unwrap().unwrap().number, number);
    // Over a reset of the TPM it stays.
    let mut m1 = m1;
    m1.tpm.reset();
    assert_eq!(m1.actor.promised().unwrap().unwrap().number, number);
}

fn undefine(client: &mut Client) {
    const NV_UNDEFINE_SPACE: u32 = 0x122;
    let command = Command::plain(NV_UNDEFINE_SPACE).on_with(handle::OWNER, Auth::Empty).on(handle::PROMISES);
    client.run("NV_UndefineSpace", &command).unwrap();
}

#[test]
fn a_voter_whose_count_is_gone_or_of_another_union_signs_nothing_until_it_is_recovered() {
    let m1 = union(&["m1"]).pop().unwrap();
    let id = m1.view().union;
    let other = Promised { union: [9; 32].into(), number: 1 };
    let foreign = |client: &mut Client| promises::set(client, other).unwrap();
    type Spoil<'a> = &'a dyn Fn(&mut Client);
    let ways: [(Spoil<'_>, &str); 2] =
        [(&undefine, "has no count of them"), (&foreign, "promises of another union")];
    let mut m1 = m1;
    for (spoil, why) in ways {
        m1 = m1.restart_after(|tpm| spoil(&mut Client::open(&tpm.address()).unwrap()));
        let refused = m1.union.vote_for(&token(&m1), at(0).unix()).unwrap_err();
        assert!(refused.causes[0].contains(why), "{refused:?}");
        assert!(m1.union.vote_again(at(0).unix()).is_err());
        assert!(m1.union.show().unwrap().withheld.unwrap().contains(why));
        let ask = Recover {
            operator_uid: 0,
            stands_still: false,
            lost: Vec::new(),
            reason: "restored".into(),
            reachable: Vec::new(),
            confirmed: true,
        };
        m1.union.recover(&ask, at(0).unix()).unwrap();
        assert_eq!(m1.union.show().unwrap().withheld, None);
        assert_eq!(m1.actor.promised().unwrap(), Some(Promised { union: id, number: m1.head().number }));
        Server::decide(&token(&m1), &[&m1], &[&m1]).unwrap();
        // A union that has its voter is not recovered.
        assert_eq!(m1.union.recover(&ask, at(0).unix()).unwrap_err().kind, FaultKind::WrongState);
    }
}

#[test]
fn a_tpm_that_cannot_count_promises_is_told_before_there_is_a_union() {
    let spoiled = |spoil: &dyn Fn(&mut Client), why: &str| {
        let tpm = SoftwareTpm::start();
        spoil(&mut Client::open(&tpm.address()).unwrap());
        let m1 = Server::over(tpm, "m1");
        m1.boot();
        let refused = m1.begin().unwrap_err();
        assert_eq!(refused.kind, FaultKind::Unavailable);
        assert!(refused.message.contains("cannot count what it promises"), "{refused:?}");
        assert!(refused.causes[0].contains(why), "{refused:?}");
        assert_eq!(m1.union.show().unwrap_err().kind, FaultKind::NotFound, "nothing is left behind");
    };
    let plain = 1 << 2 | 1 << 18;
    let full = |client: &mut Client| {
        for size in [2048, 512, 64, 16, 1] {
            for n in 0.. {
                let index = 0x0180_0000 + size * 0x100 + n;
                let public = NvPublic { attributes: plain, size: size as usize };
                if client.nv_define(index, public).is_err() {
                    break;
                }
            }
        }
    };
    spoiled(&full, "no room in its lasting memory");
    let owned = |client: &mut Client| {
        const HIERARCHY_CHANGE_AUTH: u32 = 0x129;
        let command = Command::plain(HIERARCHY_CHANGE_AUTH).on_with(handle::OWNER, Auth::Empty);
        client.run("HierarchyChangeAuth", &command.with(Writer::new().sized(b"secret"))).unwrap();
    };
    spoiled(&owned, "a password is set");
    let taken = |client: &mut Client| {
        client.nv_define(handle::PROMISES, NvPublic { attributes: plain, size: 8 }).unwrap();
    };
    spoiled(&taken, "0x01804754");
}

#[test]
fn threat_21_a_voter_restored_with_its_software_tpm_is_refused_by_those_who_have_seen_it_since() {
    let mut all = union(&["m1", "m2"]);
    let (m2, m1) = (all.pop().unwrap(), all.pop().unwrap());
    let both = |tpm: &SoftwareTpm| [tpm.state(), tpm.tpm_state()];
    // A server that is off, and copied.
    let mut m1 = m1;
    m1.tpm.kill();
    both(&m1.tpm).iter().for_each(|folder| drop(backup(folder)));
    m1.tpm.run();
    m1.boot();
    m1.evidence(&m2, 0).appraised_by(&m2, 0).unwrap();
    let number = m1.head().number + 1;
    let (one, other) = (token(&m1), token(&m1));
    m2.take(m1.id(), &co_signed(&one, &[&m1]).unwrap()).unwrap();
    m1.tpm.reset();
    m1.boot();
    m1.evidence(&m2, 0).appraised_by(&m2, 0).unwrap();

    m1.tpm.kill();
    let mut m1 = m1.restart_after(|tpm| both(tpm).iter().for_each(|folder| restore(folder)));
    m1.tpm.run();
    m1.boot();
    // It knows nothing of its promise, and would sign the other entry: that is why nobody speaks with it.
    assert!(m1.actor.promised().unwrap().unwrap().number < number);
    co_signed(&other, &[&m1]).unwrap();
    // Nor does it help that the other one was started again.
    let m2 = m2.restart();
    let refused = m1.evidence(&m2, 0).appraised_by(&m2, 0).unwrap_err();
    assert!(refused.why.starts_with("earlier-life: "), "{refused:?}");
    // Control: without its memory it takes it for what it was.
    let m2 = m2.restart_after(|tpm| fs::remove_file(tpm.state().join("clocks.json")).unwrap());
    m1.evidence(&m2, 0).appraised_by(&m2, 0).unwrap();
}

#[test]
fn a_recovery_that_a_crash_has_cut_is_done_again() {
    let [m1, m2] = <[Server; 2]>::try_from(union(&["m1", "m2"])).ok().unwrap();
    let (before, id) = (m1.head(), m1.view().union);
    let ask = |confirmed| Recover {
        operator_uid: 0,
        stands_still: false,
        lost: Vec::new(),
        reason: "restored".into(),
        reachable: vec![m2.id()],
        confirmed,
    };
    // It is restored from an older copy, and what it has signed since is nowhere.
    let forgotten = before.number + 5;
    let m1 = m1.restart_after(|tpm| {
        let mut client = Client::open(&tpm.address()).unwrap();
        promises::set(&mut client, Promised { union: id, number: forgotten }).unwrap();
    });
    m1.union.recover(&ask(true), at(0).unix()).unwrap();
    let number = m1.head().number;
    // The power goes when the promise is on the disk and in the TPM, and the entry is not in the record yet.
    let m1 = m1.restart_after(|tpm| {
        fs::remove_file(tpm.state().join("record").join(number.to_string())).unwrap();
    });
    assert_eq!(m1.head(), before);
    let told = m1.union.show().unwrap().withheld.unwrap();
    assert!(told.starts_with("a recovery by this member was cut short"), "{told}");
    assert!(m1.union.vote_for(&token(&m1), at(0).unix()).is_err());
    m1.union.recover(&ask(true), at(0).unix()).unwrap();
    assert_eq!(m1.union.show().unwrap().withheld, None);
    let m1 = m1.restart();
    Server::decide(&token(&m1), &[&m1], &[&m1]).unwrap();
    // Control: a promise of any other entry may be in others' hands, and no recovery forgets it.
    let one = token(&m1);
    m1.union.vote_for(&one, at(0).unix()).unwrap();
    let m1 = m1.restart();
    assert_eq!(m1.union.show().unwrap().withheld, None);
    assert_eq!(m1.union.recover(&ask(true), at(0).unix()).unwrap_err().kind, FaultKind::WrongState);
}
