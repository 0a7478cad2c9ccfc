//! A union of a lab's members, and what root of one of them can do to its software TPM.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Instant;

use rustix::process::Signal;

use crate::{Lab, Member, SOON, signal, until};

/// Period of the lab's attestations.
pub const PERIOD: &str = "2s";

/// The verdict that `of` has at `at`.
pub fn verdict(at: &Member, of: &str) -> String {
    let rows = at.json(&["member", "ls"]);
    let row = rows.as_array().expect("an array").iter().find(|m| m["name"] == of).cloned();
    row.map_or("no member".into(), |r| r["verdict"].as_str().expect("a verdict").to_owned())
}

/// Waits until each of these members holds every other one for trusted.
pub fn all_trust(members: &[&Member]) {
    for at in members {
        for of in members.iter().filter(|m| m.name() != at.name()) {
            until(&format!("{} trusts {}", at.name(), of.name()), SOON, || {
                (verdict(at, of.name()) == "trusted").then_some(())
            });
        }
    }
}

/// Has a union of all members, whatever was before.
pub fn made(lab: &Lab) {
    let (m1, m2, m3) = (lab.member(1), lab.member(2), lab.member(3));
    if m1.gtvp(&["union", "show"]).code != 0 {
        m1.ok(&["union", "init", "--name", "lab", "--allow-software-tpm", "--attest-every", PERIOD]);
    }
    for m in [m2, m3] {
        if m.gtvp(&["union", "show"]).code != 0 {
            let token = m1.ok(&["token", "create"]);
            m.ok(&["join", "--quiet", token.trim()]);
        }
    }
    all_trust(&[m1, m2, m3]);
}

/// Pulls out a member's network cable, or puts it in again.
pub fn cable(of: &Member, there: bool) {
    let (namespace, state) = (of.namespace(), if there { "up" } else { "down" });
    let ip = |words: &[&str]| {
        let ran = Command::new("ip").args(["-n", &namespace]).args(words).output().expect("ip");
        assert!(ran.status.success(), "ip {words:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).into_owned()
    };
    ip(&["link", "set", "eth0", state]);
    if there {
        // The way out went with the link: the lab's gateway is the first address of its network.
        let address = of.address();
        let (network, _) = address.rsplit_once('.').expect("an IPv4 address");
        ip(&["route", "replace", "default", "via", &format!("{network}.1")]);
    }
}

/// Resets a member's software TPM: what a restart of a server is.
pub fn reset(of: &Member) {
    let tpm = of.processes(&["swtpm", "socket", "tpm.sock"]);
    signal(*tpm.first().expect("it has a software TPM"), Signal::KILL);
}

/// Extends a member's PCR 14 by something that no log has; gives when.
pub fn extend(of: &Member) -> Instant {
    // swtpm has one client: ours waits until security's has ended, and comes before its next one.
    let mut tpm = UnixStream::connect(of.tpm_socket()).expect("the software TPM");
    tpm.write_all(&pcr_extend(14, &[7; 32])).expect("a command");
    let begun = Instant::now();
    signal(of.domain_pid("security").expect("it runs"), Signal::KILL);
    let mut response = [0; 10];
    tpm.set_read_timeout(Some(SOON)).expect("a time");
    tpm.read_exact(&mut response).expect("a response");
    assert_eq!(response[6..10], [0; 4], "TPM_RC_SUCCESS");
    begun
}

/// TPM2_PCR_Extend (TCG TPM 2.0 Part 3 §22.2) of the SHA-256 bank, with an empty password.
fn pcr_extend(pcr: u32, value: &[u8; 32]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(pcr.to_be_bytes());
    // One authorization of 9 bytes: TPM_RS_PW, no nonce, no attributes, no password.
    body.extend(9u32.to_be_bytes());
    body.extend(0x4000_0009u32.to_be_bytes());
    body.extend([0, 0, 0, 0, 0]);
    body.extend(1u32.to_be_bytes());
    body.extend(0x000Bu16.to_be_bytes());
    body.extend(value);
    let mut command = Vec::new();
    command.extend(0x8002u16.to_be_bytes());
    command.extend(u32::try_from(10 + body.len()).expect("short").to_be_bytes());
    command.extend(0x0000_0182u32.to_be_bytes());
    command.extend(body);
    command
}
