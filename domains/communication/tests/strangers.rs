//! Whoever has proved nothing: what it can send, how many it can be, and that members go on meanwhile.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod world;

use std::fmt;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use gtvp_communication::connect::not_begun;
use gtvp_communication::ends::End;
use gtvp_communication::engine::{EASY, STRANGERS};
use gtvp_communication::link::{Heard, Link};
use gtvp_communication::tls::{Ends, IdentityKey};
use gtvp_model::token::Endpoint;
use gtvp_model::union::P256_SPKI_HEAD;
use gtvp_protocol::frame::Frame;
use gtvp_protocol::hsp::message::{Accept, Refuse};
use gtvp_protocol::hsp::{Message, Refusal};
use gtvp_protocol::neighbour;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use world::{connected, union, until};

/// A key in memory.
struct Own(EcdsaKeyPair);

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Own")
    }
}

impl IdentityKey for Own {
    fn spki(&self) -> Vec<u8> {
        [&P256_SPKI_HEAD, self.0.public_key().as_ref()].concat()
    }

    fn sign(&self, content: &[u8]) -> Result<[u8; 64], String> {
        let signature = self.0.sign(&SystemRandom::new(), content).unwrap();
        Ok(signature.as_ref().try_into().unwrap())
    }
}

/// From this address of this host.
fn from(address: [u8; 4], to: &Endpoint) -> TcpStream {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::from(address), 0)).unwrap();
    let to = SocketAddrV4::new(to.host().parse().unwrap(), to.port());
    connect(&socket, &to).unwrap();
    TcpStream::from(socket)
}

/// A stranger that shakes hands.
fn shakes_hands(address: [u8; 4], to: &Endpoint) -> std::io::Result<Link> {
    let key = Own(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap());
    let ends = Ends::new(Arc::new(key)).unwrap();
    let socket = from(address, to);
    Link::begin(socket, Instant::now(), ends.calling().unwrap(), |_| Some(1 << 20)).map(|(link, _)| link)
}

fn stranger(to: &Endpoint) -> Link {
    shakes_hands([127, 0, 0, 1], to).unwrap()
}

/// What it hears until the end.
fn says(mut link: Link, frame: &Frame) -> Vec<Frame> {
    link.send(frame).unwrap();
    let mut heard = Vec::new();
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match link.next(Some(end), true) {
            Ok(Heard::Frame(frame)) => heard.push(frame),
            Ok(Heard::Time) => panic!("the stranger is still in"),
            Ok(Heard::Woken) => {}
            Ok(Heard::Ended) | Err(_) => return heard,
        }
    }
}

#[test]
fn before_a_channel_is_there_nothing_but_hsp_is_heard() {
    let (_world, members) = union(30_000, &["b"]);
    let (a, b) = (&members[0], &members[1]);
    // CSP, a list of endpoints, what nobody knows, what is no first message, and a message longer than its kind is.
    for (kind, size) in [(32, 10), (neighbour::KIND, 10), (255, 0), (3, 10), (1, 513)] {
        let heard = says(stranger(&a.endpoint()), &Frame { kind, body: vec![0; size] });
        assert!(heard.is_empty(), "kind {kind}: {heard:?}");
    }
    // A first message that is malformed is told so.
    let heard = says(stranger(&a.endpoint()), &Frame { kind: 1, body: vec![0x80] });
    let told: Vec<_> = heard.iter().map(|f| Message::decode(f).unwrap()).collect();
    assert!(matches!(&told[..], [Message::Refuse(Refuse { code: 3, .. })]), "{told:?}");
    // Accept, out of turn, opens nothing.
    let heard = says(stranger(&a.endpoint()), &Message::from(Accept {}).frame());
    assert!(heard.is_empty());
    // The control: a member is heard.
    a.hears_of(b);
    b.hears_of(a);
    connected(a, b);
}

#[test]
fn a_flood_of_strangers_is_bounded_and_members_go_on() {
    let (_world, members) = union(500, &["b"]);
    let (a, b) = (&members[0], &members[1]);
    let to = a.endpoint();
    let is_in = |socket: &TcpStream| {
        socket.set_nonblocking(true).unwrap();
        let read = (&*socket).read(&mut [0; 16]);
        socket.set_nonblocking(false).unwrap();
        matches!(read, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
    };
    let flood: Vec<TcpStream> = (0..100).map(|_| from([127, 0, 0, 66], &to)).collect();
    let inside = || flood.iter().filter(|s| is_in(s)).count();
    until("the others are let go", || (inside() <= EASY).then_some(()));
    // Whoever comes from there now hears that it is not about them, each time; from another address (the control) they are served.
    for _ in 0..50 {
        let ended = shakes_hands([127, 0, 0, 66], &to).err().expect("nobody else is let in");
        let End::Refused(Refusal::PeerRefused { code, reason }) = not_begun(&ended) else {
            panic!("{ended}")
        };
        assert_eq!(code, Refusal::Busy.code());
        assert!(reason.contains("try again"), "{reason}");
    }
    assert!(shakes_hands([127, 0, 0, 67], &to).is_ok());
    // A member comes from another address, and goes on while they sit there.
    a.hears_of(b);
    b.hears_of(a);
    connected(a, b);
    let more: Vec<TcpStream> = (0..200).map(|n| from([127, 0, 1, n], &to)).collect();
    until("all together are bounded", || {
        let inside = flood.iter().chain(&more).filter(|s| is_in(s)).count();
        (inside <= STRANGERS).then_some(())
    });
    connected(a, b);
    // Whoever says nothing is let go, and its place is free again.
    until("they are let go", || flood.iter().chain(&more).all(|s| !is_in(s)).then_some(()));
    connected(a, b);
    drop(stranger(&to));
}
