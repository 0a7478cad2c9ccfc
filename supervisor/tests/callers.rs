//! Threats 65 and 67: a caller is who the kernel says, may do what its row says, and garbage stops nobody.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod harness;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixStream;

use gtvp_ipc::supervisor::{Kill, Param, SetPublished, Spawn, Status, Wait};
use gtvp_ipc::{CallError, call};
use gtvp_model::fault::FaultKind;
use gtvp_model::ids::Slot;
use harness::Member;

fn kind<T: std::fmt::Debug>(result: Result<T, CallError>) -> FaultKind {
    match result {
        Err(CallError::Fault(fault)) => fault.kind,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn each_caller_may_do_what_its_row_says_and_no_more() {
    let member = Member::start();
    let slot = Slot::new(0).unwrap();
    // Root has no row. Nor has a domain a way that its row does not give it.
    assert_eq!(kind(call(&member.socket("supervisor"), &Status {})), FaultKind::Denied);
    assert!(member.call("security", &Status {}).is_err());
    // A row gives methods one by one.
    assert!(member.call("management", &Status {}).is_ok());
    assert_eq!(kind(member.call("drivers", &Status {})), FaultKind::Denied);
    assert_eq!(kind(member.call("management", &Wait { process: 1 })), FaultKind::Denied);
    assert_eq!(kind(member.call("components", &SetPublished { slot, ports: vec![] })), FaultKind::Denied);
    // A template has one owner, and a process too.
    let spawn = |template: &str| Spawn {
        template: template.into(),
        slot: Some(slot),
        params: BTreeMap::from([("x".into(), Param::Int(1))]),
        fds: vec![],
    };
    assert_eq!(kind(member.call("drivers", &spawn("lazyfs"))), FaultKind::Denied);
    assert_eq!(kind(member.call("components", &spawn("qemu"))), FaultKind::Denied);
    assert_eq!(kind(member.call("components", &spawn("bash"))), FaultKind::Denied);
    assert_eq!(kind(member.call("components", &spawn("lazyfs"))), FaultKind::Invalid);
    // What belongs to no box is not started once for each of them.
    assert_eq!(kind(member.call("components", &spawn("fetcher"))), FaultKind::Invalid);
    assert_eq!(kind(member.call("drivers", &Kill { template: "lazyfs".into(), slot })), FaultKind::Denied);
    assert_eq!(kind(member.call("drivers", &Wait { process: 7 })), FaultKind::NotFound);
}

#[test]
fn garbage_on_the_socket_stops_nobody() {
    let member = Member::start();
    let gtvpd = member.gtvpd();
    let path = member.socket("supervisor");
    for garbage in [
        &b""[..],
        b"\0",
        b"\xff\xff\xff\xff{}",
        b"\x02\0\0\0{}",
        b"\x04\0\0\0\xff\xfe\xfd\xfc",
        b"\x10\0\0\0{\"method\":\"spa",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut stream = UnixStream::connect(&path).unwrap();
        // Refused before it was read, perhaps.
        let _ = stream.write_all(garbage);
    }
    // Half a message from a caller that has a row, held open.
    let client = member.client("management", "supervisor");
    let mut half = client.stream();
    half.write_all(b"\x40\0\0\0{\"method\":").unwrap();
    assert!(member.call("management", &Status {}).is_ok());
    assert_eq!(member.gtvpd(), gtvpd);
    assert!(harness::alive(gtvpd));
}
