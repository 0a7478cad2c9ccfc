//! Members' own words on how they are: signed by the identity key of who says it, and shown as that, whoever passed them on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

#[allow(dead_code, reason = "what other tests need of it")]
mod played;

use gtvp_ipc::security::{SignStatus, Status, StatusHeard};
use gtvp_model::unionview::MemberRow;
use gtvp_protocol::gossip::Entry;
use played::server::Server;
use played::server::at;
use played::union::union;

fn row(server: &Server, of: &str, ms: u64) -> MemberRow {
    server.peers.members(at(ms)).unwrap().into_iter().find(|r| r.name == of).unwrap()
}

fn status(boxes: u32) -> SignStatus {
    let version = "0.1.0".into();
    let (cpus, memory_mib) = (4, 8_000);
    let status = Status {
        load: 120,
        cpus,
        memory_free_mib: 5_000,
        memory_mib,
        boxes,
        version,
        record: 999,
        components_mib: 70,
    };
    SignStatus { status }
}

#[test]
fn a_status_is_its_members_own_word_or_nothing() {
    let all = union(&["m1", "m2", "m3"]);
    let entry = *all[1].peers.sign_status(status(2), at(0)).unwrap().entry.unwrap();
    assert!(all[1].peers.sign_status(status(2), at(1_000)).unwrap().entry.is_none(), "nothing new");
    for altered in [
        Entry { author: all[2].id(), subject: all[2].id(), ..entry.clone() },
        Entry { version: entry.version + 1, ..entry.clone() },
        Entry { expires: entry.expires + 1, ..entry.clone() },
        Entry { body: vec![0].try_into().unwrap(), ..entry.clone() },
    ] {
        assert_eq!(all[0].peers.hear_status(&altered, at(0)), StatusHeard::Forged, "{altered:?}");
    }
    let stranger = Entry { author: [9; 32].into(), subject: [9; 32].into(), ..entry.clone() };
    assert_eq!(all[0].peers.hear_status(&stranger, at(0)), StatusHeard::Unknown);
    assert_eq!(row(&all[0], "m2", 0).status, None);
    // The control, whoever passed it on.
    assert_eq!(all[0].peers.hear_status(&entry, at(0)), StatusHeard::Good);
    let shown = row(&all[0], "m2", 0);
    let said = shown.status.unwrap();
    assert_eq!((said.boxes, said.said_ms, said.cpus), (2, at(0).wall_ms, 4));
    // How many entries of the record it has is for its own security to say.
    assert_ne!(said.record, 999);
    assert_eq!(row(&all[0], "m2", 59_000).status.map(|s| s.boxes), Some(2));
    assert_eq!(row(&all[0], "m2", 61_000).status, None, "it has ended");
}

#[test]
fn a_status_changes_no_verdict() {
    let all = union(&["m1", "m2"]);
    let before = row(&all[0], "m2", 0).verdict;
    let entry = *all[1].peers.sign_status(status(7), at(0)).unwrap().entry.unwrap();
    assert_eq!(all[0].peers.hear_status(&entry, at(0)), StatusHeard::Good);
    assert_eq!(row(&all[0], "m2", 0).verdict, before);
}
