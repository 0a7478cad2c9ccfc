//! What gtvpd measures before it starts it, and the software TPM that it starts: reached by `security` alone, outliving everyone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod harness;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use gtvp_ipc::CallError;
use gtvp_ipc::supervisor::{MeasuredKind, Measurement, Measurements, ProcessEvent, Spawn, Watch};
use gtvp_model::digest::Digest;
use gtvp_model::fault::FaultKind;
use harness::{Member, alive, kill, until};

const LONG: Duration = Duration::from_secs(30);

fn tpm() -> Spawn {
    Spawn { template: "tpm".into(), slot: None, params: BTreeMap::new(), fds: Vec::new() }
}

fn refused<T: std::fmt::Debug>(result: Result<T, CallError>) -> FaultKind {
    match result {
        Err(CallError::Fault(fault)) => fault.kind,
        other => panic!("not a refusal: {other:?}"),
    }
}

fn socket(member: &Member) -> PathBuf {
    member.folder.join("run/sockets/tpm/tpm.sock")
}

/// resetCount of the TPM behind the socket, started if it has not been.
fn reset_count(member: &Member) -> u32 {
    let mut stream = until("the software TPM listens", || UnixStream::connect(socket(member)).ok());
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut exchange = |command: &[u8]| {
        stream.write_all(command).unwrap();
        let mut header = [0; 10];
        stream.read_exact(&mut header).unwrap();
        let size = u32::from_be_bytes(header[2..6].try_into().unwrap());
        let mut rest = vec![0; usize::try_from(size).unwrap() - 10];
        stream.read_exact(&mut rest).unwrap();
        rest
    };
    // TPM2_Startup(CLEAR): an error when it was started. TPM2_ReadClock.
    exchange(&[0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44, 0, 0]);
    let clock = exchange(&[0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0x81]);
    u32::from_be_bytes(clock[16..20].try_into().unwrap())
}

#[test]
fn the_software_tpm_is_one_is_securitys_and_outlives_everyone() {
    assert!(
        std::path::Path::new("/usr/bin/swtpm").exists(),
        "/usr/bin/swtpm is not here: this test needs the Debian package swtpm (scripts/setup installs it)"
    );
    let mut member = Member::start();
    assert_eq!(refused(member.call("components", &tpm())), FaultKind::Denied);
    let spawned = member.call("security", &tpm()).unwrap();
    assert_eq!(refused(member.call("security", &tpm())), FaultKind::WrongState, "a second one was started");
    let count = reset_count(&member);
    // Under its own uid, without a network.
    let status = std::fs::read_to_string(format!("/proc/{}/status", spawned.pid)).unwrap();
    let uid = member.config().uid(12).to_string();
    let uids = status.lines().find(|l| l.starts_with("Uid:")).unwrap();
    assert_eq!(uids.split_ascii_whitespace().nth(1), Some(uid.as_str()));
    let net = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_ne!(net(&spawned.pid.to_string()), net(&member.gtvpd().to_string()));
    // No user of the server gets to its socket; root (the control) does.
    let path = socket(&member);
    let sees =
        |uid: u32| Command::new("/usr/bin/test").arg("-S").arg(&path).uid(uid).status().unwrap().success();
    assert!(sees(0));
    assert!(!sees(65534) && !sees(member.config().uid(3)));
    // Neither security nor gtvpd takes it along.
    let security = member.pid("security");
    kill(security, rustix::process::Signal::KILL);
    until("security is back", || {
        member.tell("security", &["pid"]).ok().filter(|p| *p != security.to_string())
    });
    member.kill_gtvpd();
    assert!(alive(spawned.pid));
    member.serve();
    let mut first = None;
    let _ = member.client("security", "supervisor").call(&Watch {}, &[], |event| {
        if let ProcessEvent::Running { template, pid, .. } = event {
            first = Some((template, pid));
            return ControlFlow::Continue(());
        }
        ControlFlow::Break(())
    });
    assert_eq!(first, Some(("tpm".into(), spawned.pid)), "the new gtvpd knows it");
    assert_eq!(reset_count(&member), count, "it was reset");
}

fn listen(member: &Member) -> Receiver<Measurement> {
    let mut client = member.client("security", "supervisor");
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let _ = client.call(&Measurements {}, &[], |m| {
            if sender.send(m).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
    });
    receiver
}

#[test]
fn every_domain_is_measured_before_it_starts_and_a_replaced_one_shows() {
    let member = Member::start();
    assert_eq!(refused(member.call("management", &Measurements {})), FaultKind::Denied);
    let heard = listen(&member);
    let lib = member.folder.join("lib");
    let digest = |path: PathBuf| Digest::of(&std::fs::read(path).unwrap());
    let mut expected = vec![
        (MeasuredKind::Start, env!("CARGO_PKG_VERSION").to_owned(), digest(lib.join("gtvpd"))),
        (MeasuredKind::Topology, "topology.toml".into(), digest(lib.join("topology.toml"))),
        (MeasuredKind::Configuration, "member.toml".into(), digest(member.folder.join("member.toml"))),
    ];
    let topology = member.topology();
    let (first, others): (Vec<_>, Vec<_>) = topology.domain.iter().partition(|(name, _)| *name == "security");
    for (name, row) in first.into_iter().chain(others) {
        expected.push((MeasuredKind::Binary, name.clone(), digest(lib.join(&row.binary))));
    }
    // What can be started is known before it is; what is not installed cannot.
    for (name, row) in &topology.template {
        let program = lib.join(&row.program);
        if program.exists() {
            expected.push((MeasuredKind::Template, name.clone(), digest(program)));
        }
    }
    let next = || heard.recv_timeout(LONG).map(|m| (m.kind, m.subject, m.value)).unwrap();
    let said: Vec<_> = expected.iter().map(|_| next()).collect();
    assert_eq!(said, expected);
    // The control: started again, nothing new is said (what is said next is the replaced one).
    let restart = || {
        let pid = member.pid("components");
        kill(pid, rustix::process::Signal::KILL);
        until("it is back", || member.tell("components", &["pid"]).ok().filter(|p| *p != pid.to_string()));
    };
    restart();
    let binary = lib.join("gtvp-components");
    let mut changed = std::fs::read(&binary).unwrap();
    changed.push(0);
    let new = lib.join("new");
    std::fs::write(&new, &changed).unwrap();
    std::fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::rename(&new, &binary).unwrap();
    restart();
    assert_eq!(next(), (MeasuredKind::Binary, "components".into(), Digest::of(&changed)));
}
