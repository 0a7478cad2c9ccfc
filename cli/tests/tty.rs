//! `gtvp exec` on a real terminal: its size and the changes of it reach the command, and the terminal is as it was however it ends.

#![allow(clippy::unwrap_used)]

#[path = "../../gateway/tests/support/mod.rs"]
mod support;

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use support::Member;

struct Terminal {
    ours: File,
    theirs: File,
}

impl Terminal {
    fn new(rows: u16, cols: u16) -> Self {
        let ours: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs = OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let terminal = Self { ours: ours.into(), theirs };
        terminal.resize(rows, cols);
        terminal
    }

    fn resize(&self, rows: u16, cols: u16) {
        tcsetwinsize(&self.ours, Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.theirs).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    /// What was printed up to and with `text`.
    fn until(&mut self, text: &str) -> String {
        let end = Instant::now() + Duration::from_secs(60);
        let mut seen = Vec::new();
        loop {
            let printed = String::from_utf8_lossy(&seen);
            if printed.contains(text) {
                return printed.into_owned();
            }
            let left = end.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: 0 };
            let ready = poll(&mut [PollFd::new(&self.ours, PollFlags::IN)], Some(&left)).unwrap();
            assert!(ready > 0, "{text:?} did not come, but: {printed}");
            let mut chunk = [0; 256];
            let n = self.ours.read(&mut chunk).unwrap();
            seen.extend_from_slice(&chunk[..n]);
        }
    }

    fn run(&self, member: &Member, words: &[&str]) -> Child {
        let stdio = || Stdio::from(self.theirs.try_clone().unwrap());
        // A session of its own, with this terminal: as a shell on it would have.
        let mut command = Command::new("setsid");
        command.args(["--ctty", env!("CARGO_BIN_EXE_gtvp")]).args(words);
        command.env("GTVP_SOCKET", member.socket()).env("TERM", "xterm-test").env_remove("GTVP_MEMBER");
        command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap()
    }
}

fn member_with_a_box() -> Member {
    let member = Member::start();
    let run = ["run", "--detach", "--name", "web", "--needs", "nginx", "--", "serve"];
    let out = Command::new(env!("CARGO_BIN_EXE_gtvp"))
        .args(run)
        .env("GTVP_SOCKET", member.socket())
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    member
}

#[test]
fn the_command_has_the_terminals_size_and_hears_of_its_changes() {
    let member = member_with_a_box();
    let mut terminal = Terminal::new(33, 101);
    let mut child = terminal.run(&member, &["exec", "web", "--", "size"]);
    terminal.until("33x101");
    assert!(terminal.is_raw());
    terminal.resize(20, 60);
    terminal.until("20x60");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!terminal.is_raw(), "the terminal is still raw");
    assert_eq!(member.played.state().program.as_ref().unwrap().env["TERM"], "xterm-test");
}

#[test]
fn the_terminal_is_as_it_was_when_exec_is_ended_from_outside() {
    let member = member_with_a_box();
    for signal in [Signal::TERM, Signal::HUP] {
        let mut terminal = Terminal::new(24, 80);
        let mut child = terminal.run(&member, &["exec", "web", "--", "wait"]);
        terminal.until("waiting");
        assert!(terminal.is_raw());
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(143));
        assert!(!terminal.is_raw(), "the terminal is still raw after {signal:?}");
    }
    member.played.wait("the commands were hung up", |s| s.hung_up == ["exec_box", "exec_box"]);
}

#[test]
fn shell_asks_for_bash_where_it_is() {
    let member = member_with_a_box();
    let terminal = Terminal::new(24, 80);
    let mut child = terminal.run(&member, &["shell", "--user", "www-data", "web"]);
    member.played.wait("it asks", |s| s.program.is_some());
    let program = member.played.state().program.clone().unwrap();
    assert!(program.argv[2].contains("exec bash; else exec sh"), "{program:?}");
    assert_eq!(program.user.as_deref(), Some("www-data"));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn without_a_terminal_none_is_asked_for() {
    let member = member_with_a_box();
    let mut terminal = Terminal::new(24, 80);
    let mut child = terminal.run(&member, &["exec", "-T", "web", "--", "size"]);
    terminal.until("none");
    assert!(!terminal.is_raw());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn evidence_is_not_written_to_a_terminal() {
    let member = Member::start();
    let mut terminal = Terminal::new(24, 80);
    let mut child = terminal.run(&member, &["member", "attest"]);
    terminal.until("> evidence.cbor");
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(member.played.state().calls.is_empty(), "it was made in vain");
    let mut child = terminal.run(&member, &["member", "attest", "--explain"]);
    terminal.until("GTVP log");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
