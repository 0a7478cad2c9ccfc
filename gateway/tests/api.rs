//! The gateway before a management that is played: each row relays, faults keep their status, whoever hangs up ends both
//! sides, garbage ends nothing.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use gtvp_gateway::table::ROUTES;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::stream::{self, StreamKind};
use support::{EVIDENCE, EVIDENCE_NONCE, Member, SOON, gateway};

const SPEC: &str = r#"{"name":"web","needs":["nginx"],"command":["serve"]}"#;

struct Response {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Response {
    fn fault(&self) -> Fault {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// One request; the connection is closed after it.
fn ask(socket: &Path, method: &str, path: &str, body: &str) -> Response {
    let mut stream = connect(socket);
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    // A refusal may come before all of the body is taken.
    let _ = stream.write_all(request.as_bytes());
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Response {
    let at = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| panic!("no head: {bytes:?}"));
    let head = String::from_utf8(bytes[..at].to_vec()).unwrap().to_lowercase();
    let mut body = bytes[at + 4..].to_vec();
    if head.contains("transfer-encoding: chunked") {
        body = unchunk(&body);
    }
    Response { status: head[9..12].parse().unwrap(), head, body }
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(at) = bytes.windows(2).position(|w| w == b"\r\n") {
        let n = usize::from_str_radix(std::str::from_utf8(&bytes[..at]).unwrap(), 16).unwrap();
        if n == 0 {
            break;
        }
        out.extend_from_slice(&bytes[at + 2..at + 2 + n]);
        bytes = &bytes[at + 4 + n..];
    }
    out
}

#[test]
fn each_row_of_the_table_reaches_management_with_the_persons_own_connection() {
    let member = Member::start();
    let socket = member.socket();
    assert_eq!(ask(&socket, "POST", "/v1/boxes", SPEC).status, 202);
    let mut relayed = 0;
    for route in ROUTES {
        let before = member.played.state().calls.len();
        let path =
            route.path.replace("{name}", "web").replace("{id}", "op-1").replace("{reference}", "deb:nginx");
        let path = path.replace("{token}", &"0a".repeat(32));
        let body = route.body.as_ref().map_or("", |b| b.example);
        let answer = ask(&socket, route.method.as_str(), &path, body);
        assert_ne!((answer.status, answer.head.contains("allow:")), (405, true), "{}", route.id);
        let calls = member.played.state().calls[before..].to_vec();
        let local = matches!(route.id, "openapi" | "boxspecSchema" | "healthz");
        // Without an upgrade there is nothing to relay.
        assert_eq!(calls.len(), usize::from(!local && route.id != "execBox"), "{}", route.id);
        for (_, pid) in calls {
            assert_eq!(pid, i32::try_from(std::process::id()).unwrap());
            relayed += 1;
        }
        // The box is removed on the way.
        if route.id == "removeBox" {
            assert_eq!(ask(&socket, "DELETE", "/v1/boxes/web?force=true", "").status, 202);
            assert_eq!(ask(&socket, "POST", "/v1/boxes", SPEC).status, 202);
        }
    }
    let all: std::collections::BTreeSet<String> =
        member.played.state().calls.iter().map(|c| c.0.clone()).collect();
    let missing: Vec<_> =
        gtvp_ipc::management::METHODS.iter().filter(|m| !all.contains(**m) && **m != "exec_box").collect();
    assert!(missing.is_empty(), "no row relays {missing:?} ({relayed} relayed)");
}

#[test]
fn a_long_operation_is_accepted_with_its_address() {
    let member = Member::start();
    let answer = ask(&member.socket(), "POST", "/v1/boxes", SPEC);
    assert_eq!(answer.status, 202);
    assert!(answer.head.contains("location: /v1/operations/op-1"), "{}", answer.head);
}

#[test]
fn a_fault_has_its_status_and_a_program_can_read_it() {
    let member = Member::start();
    let socket = member.socket();
    let answer = ask(&socket, "GET", "/v1/boxes/nobody", "");
    assert_eq!((answer.status, answer.fault().kind), (404, FaultKind::NotFound));
    assert!(answer.fault().hint.is_some());
    ask(&socket, "POST", "/v1/boxes", SPEC);
    assert_eq!(ask(&socket, "POST", "/v1/boxes", SPEC).status, 409);
}

#[test]
fn what_is_wrong_with_a_request_is_said() {
    let member = Member::start();
    let socket = member.socket();
    for (method, path, body, status, says) in [
        ("GET", "/nowhere", "", 404, "no /nowhere"),
        ("PUT", "/v1/boxes", "", 405, "PUT"),
        ("GET", "/v1/boxes?colour=red", "", 400, "colour"),
        ("GET", "/v1/boxes/web/logs?follow=perhaps", "", 400, "perhaps"),
        ("GET", "/v1/boxes/web/logs?tail=-1", "", 400, "-1"),
        ("GET", "/v1/boxes/web/logs?source=secret", "", 400, "secret"),
        ("GET", "/v1/events?after=1&after=2", "", 400, "twice"),
        ("GET", "/v1/boxes/%ff", "", 400, "UTF-8"),
        ("POST", "/v1/boxes", "{", 400, "cannot be read"),
        ("POST", "/v1/boxes", r#"{"name":"../x","needs":[],"command":[]}"#, 400, "cannot be read"),
        ("PATCH", "/v1/boxes/web", r#"{"memroy":"1G"}"#, 400, "cannot be read"),
        ("POST", "/v1/boxes/web/exec", r#"{"argv":["id"]}"#, 426, "both ways"),
    ] {
        let answer = ask(&socket, method, path, body);
        assert_eq!(answer.status, status, "{method} {path}");
        let fault = answer.fault();
        assert!(fault.to_string().contains(says), "{method} {path}: {fault}");
    }
    assert_eq!(member.played.state().calls.len(), 0, "none of these concerns management");
}

#[test]
fn a_body_without_end_is_refused() {
    let member = Member::start();
    let answer = ask(&member.socket(), "POST", "/v1/boxes", &"x".repeat(1_100_000));
    assert_eq!(answer.status, 413);
    let mut stream = connect(&member.socket());
    stream.write_all(b"POST /v1/boxes HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    for _ in 0..64 {
        if stream.write_all(chunk.as_bytes()).is_err() {
            break;
        }
    }
    let mut bytes = [0; 12];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes[9..], b"413");
}

#[test]
fn management_away_is_a_retryable_503() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("api.sock");
    gateway(&socket, dir.path().join("nobody.sock"));
    let answer = ask(&socket, "GET", "/v1/boxes", "");
    assert_eq!(answer.status, 503);
    assert!(answer.fault().retryable && answer.head.contains("retry-after: 1"));
    assert_eq!(ask(&socket, "GET", "/healthz", "").body, b"ok\n");
}

#[test]
fn lines_come_as_they_happen_and_whoever_hangs_up_ends_the_call() {
    let member = Member::start();
    let mut stream = connect(&member.socket());
    stream.write_all(b"GET /v1/events?follow=true&after=1 HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut seen = String::new();
    while !seen.contains("\"seq\":3") {
        let mut chunk = [0; 4096];
        let n = stream.read(&mut chunk).unwrap();
        assert_ne!(n, 0, "it ended: {seen}");
        seen += std::str::from_utf8(&chunk[..n]).unwrap();
    }
    assert!(seen.contains("application/x-ndjson") && !seen.contains("\"seq\":1,"), "{seen}");
    assert!(member.played.state().hung_up.is_empty());
    drop(stream);
    member.played.wait("management sees the hang-up", |s| s.hung_up == ["events"]);
}

#[test]
fn an_answer_that_breaks_off_says_why_in_its_last_line() {
    let member = Member::start();
    // An operation that nobody ends, watched while management is taken to be restarting at the next look.
    ask(&member.socket(), "POST", "/v1/boxes", r#"{"name":"web","needs":["nginx"],"command":["slow"]}"#);
    let mut stream = connect(&member.socket());
    stream
        .write_all(b"GET /v1/operations/op-1/watch HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first[9..], b"200");
    member.played.wait("the watch began", |s| s.calls.iter().any(|c| c.0 == "watch_operation"));
    member.played.state().operations.clear();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    let rest = String::from_utf8(rest).unwrap();
    assert!(rest.contains("{\"fault\":{\"kind\":\"not_found\""), "{rest}");
}

#[test]
fn evidence_comes_whole_and_with_its_length() {
    let member = Member::start();
    let answer = ask(&member.socket(), "GET", &format!("/v1/member/evidence?nonce={EVIDENCE_NONCE}"), "");
    assert_eq!((answer.status, answer.body.as_slice()), (200, EVIDENCE));
    assert!(answer.head.contains(&format!("content-length: {}", EVIDENCE.len())), "{}", answer.head);
    assert!(answer.head.contains("content-type: application/vnd.gtvp.evidence+cbor"), "{}", answer.head);
}

#[test]
fn a_log_is_piped_as_frames_and_hanging_up_closes_it() {
    let member = Member::start();
    ask(&member.socket(), "POST", "/v1/boxes", SPEC);
    let answer = ask(&member.socket(), "GET", "/v1/boxes/web/logs", "");
    let mut frames = answer.body.as_slice();
    assert_eq!(stream::read(&mut frames).unwrap(), Some((StreamKind::Stdout, b"out\n".to_vec())));
    assert_eq!(stream::read(&mut frames).unwrap(), Some((StreamKind::Stderr, b"err\n".to_vec())));
    let mut following = connect(&member.socket());
    following.write_all(b"GET /v1/boxes/web/logs?follow=true HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut head = [0; 12];
    following.read_exact(&mut head).unwrap();
    drop(following);
    member.played.wait("the log's other end is closed", |s| s.hung_up == ["box_logs"]);
}

fn upgraded(member: &Member, body: &str) -> UnixStream {
    let mut stream = connect(&member.socket());
    let request = format!(
        "POST /v1/boxes/web/exec HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: gtvp-stream/1\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}

#[test]
fn exec_carries_frames_both_ways_and_hanging_up_ends_the_command() {
    let member = Member::start();
    ask(&member.socket(), "POST", "/v1/boxes", SPEC);
    let mut stream = upgraded(&member, r#"{"argv":["cat"],"env":{"A":"1"}}"#);
    // More than any buffer on the way, so that both directions must move.
    let big = vec![b'x'; 200 * 1024];
    let mut writer = stream.try_clone().unwrap();
    let sent = big.clone();
    let writing = std::thread::spawn(move || {
        for _ in 0..5 {
            stream::write(&mut writer, StreamKind::Stdin, &sent).unwrap();
        }
        stream::write(&mut writer, StreamKind::Stdin, b"").unwrap();
    });
    for _ in 0..5 {
        assert_eq!(stream::read(&mut stream).unwrap(), Some((StreamKind::Stdout, big.clone())));
    }
    assert_eq!(stream::read(&mut stream).unwrap(), Some((StreamKind::Exit, br#"{"code":0}"#.to_vec())));
    assert_eq!(stream::read(&mut stream).unwrap(), None);
    writing.join().unwrap();
    assert_eq!(member.played.state().program.as_ref().unwrap().env["A"], "1");

    let mut stream = upgraded(&member, r#"{"argv":["wait"]}"#);
    // From here the command is silent: nothing but the hang-up itself can end it.
    assert_eq!(stream::read(&mut stream).unwrap(), Some((StreamKind::Stdout, b"waiting\n".to_vec())));
    drop(stream);
    member.played.wait("the command's other end is closed", |s| s.hung_up == ["exec_box"]);
}

#[test]
fn a_command_that_takes_no_input_still_has_its_last_words() {
    let member = Member::start();
    ask(&member.socket(), "POST", "/v1/boxes", SPEC);
    for round in 0..40 {
        let mut stream = upgraded(&member, r#"{"argv":["exit","3"]}"#);
        let mut writer = stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            let input = vec![b'x'; 100 * 1024];
            while stream::write(&mut writer, StreamKind::Stdin, &input).is_ok() {}
        });
        let mut kinds = Vec::new();
        while let Ok(Some((kind, _))) = stream::read(&mut stream) {
            kinds.push(kind);
        }
        assert_eq!(kinds, [StreamKind::Stdout, StreamKind::Stderr, StreamKind::Exit], "round {round}");
        writing.join().unwrap();
    }
}

#[test]
fn garbage_ends_nothing() {
    let member = Member::start();
    let socket = member.socket();
    let mut random = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let seeds: [&[u8]; 6] = [
        b"",
        b"GET /v1/boxes HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /v1/boxes HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{\"name\":",
        b"POST /v1/boxes HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        b"POST /v1/boxes/x/exec HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: gtvp-stream/1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    for round in 0..600 {
        let mut bytes = seeds[round % seeds.len()].to_vec();
        for _ in 0..next() % 8 {
            match next() % 3 {
                0 if !bytes.is_empty() => {
                    let at = next() as usize % bytes.len();
                    bytes[at] = next() as u8;
                }
                1 => bytes.extend((0..next() % 200).map(|_| next() as u8)),
                _ => bytes.truncate(next() as usize % (bytes.len() + 1)),
            }
        }
        let mut stream = UnixStream::connect(&socket).unwrap();
        let _ = stream.write_all(&bytes);
        if round % 2 == 0 {
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
    }
    let mut long = connect(&socket);
    let _ = long.write_all(format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(100_000)).as_bytes());
    let mut many = connect(&socket);
    let _ = many.write_all(format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(5000)).as_bytes());
    // Each of them has gone, so all of the room must come back: as many connections as there may be, every one answered.
    drop((long, many));
    let deadline = std::time::Instant::now() + SOON;
    loop {
        let mut held: Vec<UnixStream> = (0..192).map(|_| connect(&socket)).collect();
        let answered = held.iter_mut().filter_map(|c| {
            c.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").ok()?;
            let mut status = [0; 12];
            c.read_exact(&mut status).ok()?;
            (&status[9..] == b"200").then_some(())
        });
        let count = answered.count();
        if count == held.len() {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "only {count} connections are answered");
    }
    drop(ask_until_room(&socket, "/v1/boxes"));
}

/// The gateway sees that connections have gone in its own time.
fn ask_until_room(socket: &Path, path: &str) -> Response {
    let deadline = std::time::Instant::now() + SOON;
    loop {
        let answer = ask(socket, "GET", path, "");
        if answer.status == 200 {
            return answer;
        }
        assert!(answer.fault().message == "too many connections at once", "{}", answer.fault());
        assert!(std::time::Instant::now() < deadline, "no room comes back");
    }
}

#[test]
fn connections_are_bounded_and_the_next_one_is_told() {
    let member = Member::start();
    let held: Vec<UnixStream> = (0..192).map(|_| connect(&member.socket())).collect();
    let mut next = connect(&member.socket());
    let mut bytes = Vec::new();
    next.read_to_end(&mut bytes).unwrap();
    let answer = parse(&bytes);
    assert_eq!(answer.status, 503);
    assert!(answer.fault().retryable);
    drop(held);
    // The room comes back as soon as the gateway sees them go.
    ask_until_room(&member.socket(), "/healthz");
}

#[test]
fn the_documents_are_served() {
    let member = Member::start();
    let openapi: serde_json::Value =
        serde_json::from_slice(&ask(&member.socket(), "GET", "/openapi.json", "").body).unwrap();
    assert_eq!(openapi["openapi"], "3.1.0");
    let schema: serde_json::Value =
        serde_json::from_slice(&ask(&member.socket(), "GET", "/schema/boxspec.json", "").body).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(ask(&member.socket(), "GET", "/metrics", "").body, b"gtvp_boxes 1\n");
}
