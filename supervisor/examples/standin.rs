//! A stand-in for GTVP's programs in gtvpd's tests: a puppet inside a real jail. As a domain it passes the test's calls
//! on to other domains, so that they come from the domain's uid; as `gtvp-lazyfs` it stores its descriptor with its
//! keeper and says over it which life this is. It does nothing that a domain is for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::io::{Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use gtvp_ipc::keeper::Held;
use gtvp_ipc::wire;

fn main() {
    let program = std::env::args().next().unwrap_or_default();
    if program.ends_with("gtvp-lazyfs") {
        lazyfs();
    } else {
        puppet();
    }
}

fn puppet() {
    let listener = gtvp_ipc::place::take_listener(gtvp_ipc::place::LISTEN_FD).unwrap();
    loop {
        let (stream, _) = listener.accept().unwrap();
        std::thread::spawn(move || answer(&stream));
    }
}

/// Commands: `pid`; `call NAME`, after which the connection is one to NAME; `syscall` makes a call outside every row.
fn answer(stream: &UnixStream) {
    while let Ok(Some((json, _))) = wire::recv(stream) {
        let words: Vec<String> = serde_json::from_slice(&json).unwrap();
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["pid"] => wire::send(stream, std::process::id().to_string().as_bytes(), &[]).unwrap(),
            ["syscall"] => {
                // SAFETY: sync takes nothing and changes nothing of this process.
                unsafe { libc::sync() };
                wire::send(stream, b"\"survived\"", &[]).unwrap();
            }
            ["call", callee] => {
                let path = format!("/gtvp/ipc/{callee}.sock");
                let other = UnixStream::connect(path).unwrap();
                let (back, forth) = (other.try_clone().unwrap(), stream.try_clone().unwrap());
                std::thread::spawn(move || pass(&back, &forth));
                pass(stream, &other);
                let _ = other.shutdown(std::net::Shutdown::Both);
                return;
            }
            _ => panic!("what is {words:?}?"),
        }
    }
}

fn pass(from: &UnixStream, to: &UnixStream) {
    while let Ok(Some((json, fds))) = wire::recv(from) {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        if wire::send(to, &json, &fds).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

fn lazyfs() {
    // SAFETY: gtvpd passes the keeper's listener as descriptor 3 for this use.
    let keeper = UnixListener::from(unsafe { OwnedFd::from_raw_fd(3) });
    let (mut stream, _) = keeper.accept().unwrap();
    let held = Held::recv(&stream).unwrap().unwrap();
    let life = held.state.parse::<u32>().unwrap_or(0) + 1;
    let vhost = match held.fds.into_iter().next() {
        Some(fd) => fd,
        // SAFETY: gtvpd passes what its owner handed over as descriptor 4 for this use.
        None => unsafe { OwnedFd::from_raw_fd(4) },
    };
    let mut side = UnixStream::from(vhost);
    let stored = Held { state: life.to_string(), fds: vec![side.try_clone().unwrap().into()] };
    stored.send(&stream).unwrap();
    writeln!(side, "life {life} pid {}", std::process::id()).unwrap();
    let (flooding, mut commands) = (stream.try_clone().unwrap(), side.try_clone().unwrap());
    std::thread::spawn(move || flood(&flooding, &mut commands));
    // A new gtvpd connects with nothing and is told what there is.
    loop {
        let mut byte = [0];
        let _ = stream.read(&mut byte);
        stream = keeper.accept().unwrap().0;
        Held::recv(&stream).unwrap();
        stored.send(&stream).unwrap();
    }
}

/// Told to, stores without end, as much at once as it can.
fn flood(stream: &UnixStream, commands: &mut UnixStream) {
    let mut byte = [0];
    if !matches!(commands.read(&mut byte), Ok(1)) {
        return;
    }
    let null: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let fds = (0..wire::MAX_FDS).map(|_| null.try_clone().unwrap()).collect();
    let stored = Held { state: "7".into(), fds };
    while stored.send(stream).is_ok() {}
}
