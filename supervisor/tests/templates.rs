//! Processes from templates: files from descriptors, foreign programs in their jails, ends with and without an owner.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod harness;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};

use gtvp_ipc::Client;
use gtvp_ipc::supervisor::{Ended, Kill, Spawn, Spawned, Wait};
use gtvp_model::ids::Slot;
use harness::{Member, alive, until};

/// Templates of this test, beside the repository's.
const TEMPLATES: &str = r#"
[template.reader]
purpose = "prints two files"
owner = "drivers"
program = "/usr/bin/cat"
uid = "box:2"
tied = true
files = { first = "/first", second = "/second" }
argv = ["/first", "/second"]
[template.reader.jail]
seccomp = "deny"
user_namespace = true
pid_namespace = true
paths = [
    { path = "/usr", access = "rx", why = "test" },
    { path = "/lib", access = "rx", why = "test" },
    { path = "/lib64", access = "rx", why = "test" },
]

[template.sleeper]
purpose = "does not end"
owner = "drivers"
program = "/usr/bin/sleep"
uid = "900"
tied = true
argv = ["600"]
[template.sleeper.jail]
seccomp = "deny"
paths = [
    { path = "/usr", access = "rx", why = "test" },
    { path = "/lib", access = "rx", why = "test" },
    { path = "/lib64", access = "rx", why = "test" },
]

[template.talker]
purpose = "says the same without end"
owner = "drivers"
program = "/usr/bin/yes"
uid = "901"
tied = true
[template.talker.jail]
seccomp = "deny"
paths = [
    { path = "/usr", access = "rx", why = "test" },
    { path = "/lib", access = "rx", why = "test" },
    { path = "/lib64", access = "rx", why = "test" },
]

[template.machine]
purpose = "a virtual machine that is never started"
owner = "drivers"
program = "/usr/bin/qemu-system-x86_64"
uid = "box:0"
fds = ["qmp"]
argv = [
    "-nodefaults", "-no-user-config", "-display", "none", "-S", "-machine", "q35,memory-backend=ram", "-m", "64M",
    "-object", "memory-backend-memfd,id=ram,size=64M,share=on",
    "-chardev", "socket,id=qmp,fd={fd:qmp},server=on,wait=off", "-mon", "chardev=qmp,mode=control",
    "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
]
[template.machine.jail]
user_namespace = true
seccomp = "own"
paths = [
    { path = "/usr", access = "rx", why = "test" },
    { path = "/lib", access = "rx", why = "test" },
    { path = "/lib64", access = "rx", why = "test" },
    { path = "/etc/ld.so.cache", access = "r", optional = true, why = "test" },
]
"#;

fn spawn(client: &mut Client, template: &str, slot: Option<u16>, fds: &[(&str, BorrowedFd<'_>)]) -> Spawned {
    let spawn = Spawn {
        template: template.into(),
        slot: slot.and_then(Slot::new),
        params: BTreeMap::new(),
        fds: fds.iter().map(|(name, _)| (*name).to_owned()).collect(),
    };
    let fds: Vec<_> = fds.iter().map(|(_, fd)| *fd).collect();
    client.call(&spawn, &fds, |_| ControlFlow::Continue(())).unwrap().0
}

/// The processor time that a process has used.
fn ticks_of(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(11).unwrap().parse().unwrap()
}

fn wait(client: &mut Client, process: u64) -> Ended {
    client.call(&Wait { process }, &[], |_| ControlFlow::Continue(())).unwrap().0
}

#[test]
fn a_descriptor_appears_as_a_file_whatever_it_is() {
    let member = Member::start_with(|topology| topology + TEMPLATES);
    // One on a file system that the jail's builder reaches, one that is in no file system at all.
    let path = member.folder.join("state/components/object");
    std::fs::write(&path, "from the store, ").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444)).unwrap();
    let first = File::open(&path).unwrap();
    let memory = rustix::fs::memfd_create("object", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut second = File::from(memory);
    second.write_all(b"from memory").unwrap();
    second.rewind().unwrap();
    let (out, stdout) = rustix::pipe::pipe().unwrap();
    let mut client = member.client("drivers", "supervisor");
    let fds = [("stdout", stdout.as_fd()), ("first", first.as_fd()), ("second", second.as_fd())];
    let spawned = spawn(&mut client, "reader", Some(0), &fds);
    drop(stdout);
    let mut text = String::new();
    File::from(out).read_to_string(&mut text).unwrap();
    assert_eq!(text, "from the store, from memory");
    let ended = wait(&mut client, spawned.process);
    assert_eq!((ended.code, ended.how.as_str()), (Some(0), "exit status 0"));
}

#[test]
fn a_file_open_for_writing_is_the_file_itself() {
    let member = Member::start_with(|topology| topology + TEMPLATES);
    let path = member.folder.join("state/drivers/disk");
    let disk = File::options().read(true).write(true).create_new(true).mode(0o666).open(&path).unwrap();
    disk.set_permissions(std::fs::Permissions::from_mode(0o666)).unwrap();
    disk.set_len(64 * 1024 * 1024).unwrap();
    let mut client = member.client("drivers", "supervisor");
    let spawned = spawn(&mut client, "mkfs", Some(0), &[("disk", disk.as_fd())]);
    let ended = wait(&mut client, spawned.process);
    assert_eq!(ended.code, Some(0), "{}", ended.how);
    let mut magic = [0; 2];
    disk.read_exact_at(&mut magic, 1024 + 56).unwrap();
    assert_eq!(u16::from_le_bytes(magic), 0xef53, "there is no ext4 on the disk");
}

#[test]
fn a_tied_process_ends_with_its_owners_connection() {
    let member = Member::start_with(|topology| topology + TEMPLATES);
    let mut client = member.client("drivers", "supervisor");
    let spawned = spawn(&mut client, "sleeper", None, &[]);
    assert!(alive(spawned.pid));
    drop(client);
    until("it ends", || (!alive(spawned.pid)).then_some(()));
    // And with its owner.
    let mut client = member.client("drivers", "supervisor");
    let spawned = spawn(&mut client, "sleeper", None, &[]);
    harness::kill(member.pid("drivers"), rustix::process::Signal::KILL);
    until("it ends", || (!alive(spawned.pid)).then_some(()));
}

#[test]
fn what_a_process_says_without_end_does_not_fill_the_run_directory() {
    const MOST: u64 = 1024 * 1024;
    let member = Member::start_with(|topology| topology + TEMPLATES);
    let log = |name: &str| std::fs::metadata(member.folder.join("run/log").join(name)).map_or(0, |m| m.len());
    let mut client = member.client("drivers", "supervisor");
    let spawned = spawn(&mut client, "talker", None, &[]);
    until("its log is full", || (log("talker.log") >= MOST).then_some(()));
    // It goes on talking, and nobody writes it down.
    let ticks = || ticks_of(spawned.pid);
    let first = ticks();
    until("it went on", || (ticks() > first + 5).then_some(()));
    assert!(log("talker.log") <= MOST);
    drop(client);
    until("it ends", || (!alive(spawned.pid)).then_some(()));

    // One that outlives gtvpd writes by itself, and no further than its row says.
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let mut client = member.client("components", "supervisor");
    let spawned = spawn(&mut client, "lazyfs", Some(1), &[("vhost", theirs.as_fd())]);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", spawned.pid)).unwrap();
    let line = limits.lines().find(|l| l.starts_with("Max file size")).unwrap();
    assert!(line.contains("16777216"), "{line}");
    // QEMU's words go to drivers alone.
    let (mut stderr, said) = rustix::pipe::pipe().map(|(r, w)| (File::from(r), w)).unwrap();
    let mut client = member.client("drivers", "supervisor");
    let spawned = spawn(&mut client, "talker", None, &[("stderr", said.as_fd())]);
    drop(said);
    until("it says things", || (ticks_of(spawned.pid) > 5).then_some(()));
    assert!(log("talker.log") <= MOST);
    drop(client);
    let mut text = String::new();
    stderr.read_to_string(&mut text).unwrap();
    assert_eq!(text, "");
}

#[test]
fn a_virtual_machine_outlives_gtvpd() {
    let mut member = Member::start_with(|topology| topology + TEMPLATES);
    let path = member.folder.join("qmp.sock");
    let listener: OwnedFd = UnixListener::bind(&path).unwrap().into();
    let mut client = member.client("drivers", "supervisor");
    let spawned = spawn(&mut client, "machine", Some(7), &[("qmp", listener.as_fd())]);
    let greets = || {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
        harness::line(&mut stream)
    };
    assert!(greets().contains("QMP"));
    let status = std::fs::read_to_string(format!("/proc/{}/status", spawned.pid)).unwrap();
    let field =
        |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2", "QEMU's own sandbox is off");
    // In order, then not in order.
    member.stop_gtvpd();
    assert!(greets().contains("QMP"));
    member.serve();
    member.kill_gtvpd();
    assert!(greets().contains("QMP"));
    member.serve();
    member.call("drivers", &Kill { template: "machine".into(), slot: Slot::new(7).unwrap() }).unwrap();
    assert!(!alive(spawned.pid));
}
