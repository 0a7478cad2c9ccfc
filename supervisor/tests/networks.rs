//! The boxes' network: published ports lead in, nothing else does, and gtvpd's death changes nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod harness;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use gtvp_ipc::CallError;
use gtvp_ipc::supervisor::SetPublished;
use gtvp_model::boxspec::Publish;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::Slot;
use harness::{Member, in_netns};

/// The boxes' network namespace, by the process that lives in it.
fn boxes(member: &Member) -> String {
    format!("/proc/{}/ns/net", member.pid("drivers"))
}

fn own(member: &Member) -> String {
    format!("/run/netns/{}", member.netns)
}

fn publish(member: &Member, slot: u16, ports: &[&str]) -> Result<(), Fault> {
    let ports: Vec<Publish> = ports.iter().map(|p| p.parse().unwrap()).collect();
    let set = SetPublished { slot: Slot::new(slot).unwrap(), ports };
    match member.call("drivers", &set) {
        Ok(_) => Ok(()),
        Err(CallError::Fault(fault)) => Err(fault),
        Err(other) => panic!("{other}"),
    }
}

/// Says `word` to everyone who connects to `address` in the namespace `path`, until the test ends.
fn server(path: &str, address: &str, word: &'static str) {
    let address: SocketAddr = address.parse().unwrap();
    let listener = in_netns(path, move || TcpListener::bind(address).unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(word.as_bytes());
        }
    });
}

/// What `address` says to a client in the namespace `path`.
fn ask(path: &str, address: &str) -> std::io::Result<String> {
    let address: SocketAddr = address.parse().unwrap();
    in_netns(path, move || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

#[test]
fn published_ports_lead_to_their_boxes_and_nothing_else_does() {
    let mut member = Member::start();
    let (inside, second, outside) = (member.pretend_box(0), member.pretend_box(1), own(&member));
    server(&inside, "10.211.0.2:80", "first");
    server(&second, "10.211.0.3:80", "second");
    server(&outside, "10.213.0.1:22", "the member");

    publish(&member, 0, &["8080:80"]).unwrap();
    publish(&member, 1, &["8081:80"]).unwrap();
    for address in ["127.0.0.1:8080", "10.213.0.1:8080"] {
        assert_eq!(ask(&outside, address).unwrap(), "first", "{address}");
    }
    assert_eq!(ask(&outside, "127.0.0.1:8081").unwrap(), "second");
    // IPv6 is refused at once, so that clients fall back.
    let refused = ask(&outside, "[::1]:8080").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

    // From a box: published ports yes, the member itself no.
    assert_eq!(ask(&inside, "10.213.0.1:8081").unwrap(), "second");
    assert!(ask(&inside, "10.213.0.1:22").is_err(), "a box reached the member itself");
    assert!(ask(&inside, "10.212.0.1:22").is_err(), "a box reached the member itself");
    assert_eq!(ask(&inside, "10.213.0.1:8080").unwrap(), "first", "a box reaches its own published port");
    // From elsewhere: not past the published ports.
    assert!(ask(&outside, "10.211.0.2:81").is_err());

    // A port is one box's.
    let fault = publish(&member, 1, &["8082:80", "8080:80"]).unwrap_err();
    assert_eq!(fault.kind, FaultKind::InUse);
    assert!(fault.message.contains("8080") && fault.message.contains("another box"), "{fault}");
    // A refused call changes nothing.
    assert_eq!(ask(&outside, "127.0.0.1:8081").unwrap(), "second");
    assert!(ask(&outside, "127.0.0.1:8082").is_err());
    let fault = publish(&member, 1, &["8081:80", "22:22"]).unwrap_err();
    assert_eq!(fault.kind, FaultKind::InUse);
    assert!(fault.message.contains("22/tcp"), "{fault}");
    assert_eq!(ask(&outside, "127.0.0.1:8081").unwrap(), "second");

    // Without gtvpd packets go on, and the next one holds the same ports.
    member.kill_gtvpd();
    assert_eq!(ask(&outside, "127.0.0.1:8080").unwrap(), "first");
    member.serve();
    assert_eq!(ask(&outside, "127.0.0.1:8080").unwrap(), "first");
    assert_eq!(publish(&member, 2, &["8080:80"]).unwrap_err().kind, FaultKind::InUse);
    let taken = in_netns(&outside, || TcpListener::bind("0.0.0.0:8080").map(drop));
    assert!(taken.is_err(), "another program took a published port");

    // Taken back.
    publish(&member, 0, &[]).unwrap();
    assert!(ask(&outside, "127.0.0.1:8080").is_err());
    publish(&member, 2, &["8080:80"]).unwrap();
}

#[test]
fn the_boxes_network_is_the_same_after_gtvpd_was_killed() {
    let mut member = Member::start();
    let of = |member: &Member| std::fs::read_link(boxes(member)).unwrap();
    let before = of(&member);
    member.kill_gtvpd();
    member.serve();
    assert_eq!(of(&member), before);
}
