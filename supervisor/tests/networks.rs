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

#[test]
fn no_box_is_taken_for_another_or_for_the_gateway() {
    let mut member = Member::start();
    let (first, second) = (member.pretend_box(0), member.pretend_box(1));
    let config = member.config();
    server(&second, "10.211.0.3:80", "second");
    server(&first, "10.211.0.2:80", "first");
    assert_eq!(ask(&first, "10.211.0.3:80").unwrap(), "second", "boxes reach each other");
    let netns = |path: &str| path.rsplit('/').next().unwrap().to_owned();
    let (one, two) = (netns(&first), netns(&second));
    let change = |words: &[&str]| harness::run("ip", &[&["-n", &one], words].concat());
    let knows = |address: &str| {
        let output = std::process::Command::new("ip")
            .args(["-n", &two, "-json", "neigh", "show", address])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let own = config.box_mac(Slot::new(0).unwrap());

    // With another's address: neither its packets nor what it says of itself on the wire arrive.
    for address in ["10.211.0.1", "10.211.0.77"] {
        // Forgotten, so that it has to be asked for.
        harness::run("ip", &["-n", &one, "neigh", "flush", "dev", "eth0"]);
        change(&["addr", "add", &format!("{address}/32"), "dev", "eth0"]);
        let from: std::net::Ipv4Addr = address.parse().unwrap();
        in_netns(&first, move || {
            // Asks on the wire for the other's address in this one's name, which whoever hears it remembers.
            let _ = std::net::UdpSocket::bind((from, 0)).unwrap().send_to(b"x", "10.211.0.3:9");
        });
        // What was sent before has come by now, if it comes at all.
        assert_eq!(ask(&first, "10.211.0.3:80").unwrap(), "second");
        assert!(
            !knows(address).contains(&own),
            "{address} was taken for the first box's: {}",
            knows(address)
        );
        change(&["addr", "del", &format!("{address}/32"), "dev", "eth0"]);
    }
    // With another's hardware address.
    change(&["link", "set", "eth0", "down"]);
    change(&["link", "set", "eth0", "address", &config.box_mac(Slot::new(1).unwrap()), "up"]);
    assert!(ask(&first, "10.211.0.3:80").is_err());
    change(&["link", "set", "eth0", "down"]);
    change(&["link", "set", "eth0", "address", &own, "up"]);
    assert_eq!(ask(&first, "10.211.0.3:80").unwrap(), "second", "with its own it is heard again");
}

#[test]
fn a_box_does_not_reach_what_is_link_local() {
    let mut member = Member::start();
    let (inside, outside) = (member.pretend_box(0), own(&member));
    // Where clouds answer who asks with the host's credentials.
    harness::run(
        "ip",
        &["-n", &member.netns, "link", "add", "meta", "type", "veth", "peer", "name", "cloud"],
    );
    let cloud = format!("{}-b99", member.netns);
    harness::run("ip", &["netns", "add", &cloud]);
    harness::run("ip", &["-n", &member.netns, "link", "set", "cloud", "netns", &cloud]);
    for (netns, link, address) in
        [(&member.netns, "meta", "169.254.169.1/24"), (&cloud, "cloud", "169.254.169.254/24")]
    {
        harness::run("ip", &["-n", netns, "addr", "add", address, "dev", link]);
        harness::run("ip", &["-n", netns, "link", "set", link, "up"]);
    }
    let path = format!("/run/netns/{cloud}");
    server(&path, "169.254.169.254:80", "credentials");
    server(&path, "169.254.169.254:53", "names");
    assert_eq!(ask(&outside, "169.254.169.254:80").unwrap(), "credentials");
    let (credentials, names) = (ask(&inside, "169.254.169.254:80"), ask(&inside, "169.254.169.254:53"));
    harness::run("ip", &["netns", "del", &cloud]);
    assert!(credentials.is_err(), "a box reached {credentials:?}");
    assert_eq!(names.unwrap(), "names", "name servers can be there");
}
