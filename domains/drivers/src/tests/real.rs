//! The same stories with a real QEMU, guest-init and mke2fs, unjailed: `GTVP_TEST_MACHINE` names a folder with `kernel`,
//! `initrd`, `root` (a tree with a static busybox as bin/sh, bin/cat, bin/nc) and `virtiofsd`. Slow under TCG, so asked for by name.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};

use gtvp_ipc::drivers::{BoxHappening, Pause, Resume, SetMemory, Signal, Stop};
use gtvp_ipc::supervisor::{Param, Spawn};
use gtvp_model::boxview::ExitStatus;
use gtvp_model::stream::{self, StreamKind};
use gtvp_model::topology::Topology;
use gtvp_model::units::Bytes;

use super::in_own_network;
use super::supervisor::{Process, Spawner};
use super::world::{World, a_box, at, frames, program};

fn folder() -> Option<PathBuf> {
    std::env::var_os("GTVP_TEST_MACHINE").map(PathBuf::from)
}

struct Real(rustix::process::Pid, Option<Child>);

impl Process for Real {
    fn kill(&mut self) {
        let _ = rustix::process::kill_process(self.0, rustix::process::Signal::KILL);
        if let Some(mut server) = self.1.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Starts what topology.toml says, with descriptors as they are, and a file-system server for a machine.
fn real(parts: PathBuf) -> Box<Spawner> {
    let topology = Topology::parse(include_str!("../../../../topology.toml")).unwrap();
    Box::new(move |spawn, mut fds, ended| {
        let row = &topology.template[&spawn.template];
        let file = |name: &str| OwnedFd::from(std::fs::File::open(parts.join(name)).unwrap());
        let mut server = None;
        if row.files.contains_key("kernel") {
            fds.insert("kernel".into(), file("kernel"));
            fds.insert("initrd".into(), file("initrd"));
        }
        if row.fds.iter().any(|f| f == "root") {
            let path = std::env::temp_dir().join(format!("gtvp-{}", crate::record::random_hex(8).unwrap()));
            let listener = UnixListener::bind(&path).unwrap();
            let theirs = UnixStream::connect(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            let mut command = Command::new(parts.join("virtiofsd"));
            let fd = listener.as_raw_fd();
            command.args([format!("--fd={fd}"), "-o".into(), format!("source={}", parts.join("root").display())]);
            command.args(["-o", "sandbox=chroot,xattr,log_level=err"]);
            inherit(&mut command, vec![fd]);
            server = Some(command.spawn().unwrap());
            fds.insert("root".into(), theirs.into());
        }
        let argv = arguments(row, spawn, &fds);
        let mut command = Command::new(&row.program);
        command.args(argv);
        if let Some(stderr) = fds.remove("stderr") {
            command.stderr(std::fs::File::from(stderr));
        }
        inherit(&mut command, fds.values().map(AsRawFd::as_raw_fd).collect());
        let mut child = command.spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        std::thread::spawn(move || {
            let status = child.wait().unwrap();
            ended(status.code(), status.to_string());
        });
        Box::new(Real(pid, server))
    })
}

fn inherit(command: &mut Command, fds: Vec<i32>) {
    let keep = move || {
        for fd in &fds {
            // SAFETY: fcntl on a descriptor of this process changes a flag of it, nothing else.
            if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } == -1 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec only fcntl is called, which is async-signal-safe.
    unsafe { command.pre_exec(keep) };
}

fn arguments(row: &gtvp_model::topology::TemplateRow, spawn: &Spawn, fds: &BTreeMap<String, OwnedFd>) -> Vec<String> {
    let wanted = |when: &str| match when.split_once(':') {
        Some(("fd", name)) => fds.contains_key(name),
        Some((_, pair)) => {
            let (name, value) = pair.split_once('=').unwrap();
            spawn.params.get(name) == Some(&Param::Word(value.into()))
        }
        None => false,
    };
    let groups = row.group.iter().filter(|g| wanted(&g.when)).flat_map(|g| &g.argv);
    let fill = |argument: &String| {
        let mut argument = argument.clone();
        for (name, param) in &spawn.params {
            let value = match param {
                Param::Int(n) => n.to_string(),
                Param::Word(w) => w.clone(),
                Param::Words(_) => unreachable!(),
            };
            argument = argument.replace(&format!("{{{name}}}"), &value);
        }
        for (name, fd) in fds {
            argument = argument.replace(&format!("{{fd:{name}}}"), &fd.as_raw_fd().to_string());
        }
        let at = row.files.iter().find(|(_, path)| **path == argument);
        at.map_or(argument.clone(), |(name, _)| format!("/proc/self/fd/{}", fds[name].as_raw_fd()))
    };
    row.argv.iter().chain(groups).map(fill).collect()
}

#[test]
#[ignore = "needs GTVP_TEST_MACHINE"]
fn a_real_box_starts_runs_commands_and_stops() {
    let Some(parts) = folder() else { return };
    in_own_network(move || {
        let mut world = World::new(real(parts));
        let watcher = world.watch();
        let mut start = a_box(1);
        let script = "echo out; echo err >&2; exec nc -l -p 80";
        start.program = program(&["/bin/sh", "-c", script]);
        let began = std::time::Instant::now();
        let (accelerator, phases) = world.start(&start);
        println!("{accelerator:?} {phases:?} started after {:?}", began.elapsed());
        let console = || std::fs::read_to_string(world.file(1, "console.log")).unwrap();
        accelerator.unwrap_or_else(|f| panic!("{f}\n{}", console()));
        watcher.until(|w| w.last() == Some(&BoxHappening::Running { ready: true }));
        println!("ready after {:?}; {:?}", began.elapsed(), watcher.notices());

        let mut exec = world.exec(1, &["cat"]).unwrap();
        let sent: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
        let (mut writing, bytes) = (exec.try_clone().unwrap(), sent.clone());
        let writer = std::thread::spawn(move || {
            bytes.chunks(100_000).for_each(|p| stream::write(&mut writing, StreamKind::Stdin, p).unwrap());
            stream::write(&mut writing, StreamKind::Stdin, b"").unwrap();
        });
        let mut got = frames(&mut exec);
        writer.join().unwrap();
        assert_eq!(got.pop().unwrap(), (StreamKind::Exit, b"{\"code\":0}".to_vec()));
        assert!(got.into_iter().flat_map(|(_, b)| b).eq(sent), "cat gives back what it gets");
        let mut exec = world.exec(1, &["nosuch"]).unwrap();
        println!("{:?}", String::from_utf8_lossy(&frames(&mut exec)[0].1));

        world.call(&SetMemory { slot: at(1), memory: Bytes::mib(256) }).unwrap();
        world.call(&Pause { slot: at(1) }).unwrap();
        world.kill_domain();
        world.call(&Resume { slot: at(1) }).unwrap();
        let watcher = world.watch();
        let mut exec = world.exec(1, &["sh", "-c", "hostname; ip -o addr show eth0; df -k / | tail -1"]).unwrap();
        frames(&mut exec).iter().for_each(|(k, b)| println!("{k:?} {}", String::from_utf8_lossy(b).trim()));
        let log: Vec<_> = frames(&mut world.logs(1, false));
        assert_eq!(log, [(StreamKind::Stdout, b"out\n".to_vec()), (StreamKind::Stderr, b"err\n".to_vec())]);
        let stopping = std::time::Instant::now();
        world.call(&Stop { slot: at(1), grace_ms: 3000 }).unwrap();
        println!("stopped after {:?}", stopping.elapsed());
        println!("{:?}", watcher.heard());
        watcher.until(|w| w.ends_with(&[BoxHappening::Exited { status: ExitStatus::Signal(15) }, BoxHappening::Gone]));
        assert_eq!(world.left_behind(), Vec::<String>::new());
    });
}

#[test]
#[ignore = "needs GTVP_TEST_MACHINE"]
fn real_boxes_that_fail_say_why() {
    let Some(parts) = folder() else { return };
    in_own_network(move || {
        let world = World::new(real(parts));
        let mut start = a_box(1);
        start.program = program(&["nosuch"]);
        println!("{}", world.start(&start).0.unwrap_err());
        assert_eq!(world.left_behind(), Vec::<String>::new());
        start.program = program(&["/bin/sh", "-c", "echo 42; exit 7"]);
        let watcher = world.watch();
        world.start(&start).0.unwrap();
        let got = frames(&mut world.logs(1, true));
        assert_eq!(got, [(StreamKind::Stdout, b"42\n".to_vec()), (StreamKind::Exit, b"{\"code\":7}".to_vec())]);
        watcher.until(|w| w.last() == Some(&BoxHappening::Gone));
        start.program = program(&["/bin/sh", "-c", "sleep 1000"]);
        world.start(&start).0.unwrap();
        // A command of the box brings its kernel down.
        let mut exec = world.exec(1, &["sh", "-c", "echo c > /proc/sysrq-trigger"]).unwrap();
        println!("{:?}", frames(&mut exec));
        watcher.until(|w| w.iter().any(|w| matches!(w, BoxHappening::Died { .. })));
        println!("{:?}", watcher.heard().iter().find(|w| matches!(w, BoxHappening::Died { .. })));
        watcher.until(|w| w.last() == Some(&BoxHappening::Gone));
        start.program = program(&["/bin/sh", "-c", "trap 'echo caught; exit 3' USR1; echo up; while :; do sleep 0.1; done"]);
        world.start(&start).0.unwrap();
        super::until("it is up", || frames(&mut world.logs(1, false)).ends_with(&[(StreamKind::Stdout, b"up\n".to_vec())]));
        world.call(&Signal { slot: at(1), signal: 10 }).unwrap();
        watcher.until(|w| w.contains(&BoxHappening::Exited { status: ExitStatus::Code(3) }));
        watcher.until(|w| w.last() == Some(&BoxHappening::Gone));
    });
}

#[test]
#[ignore = "needs GTVP_TEST_MACHINE"]
fn a_real_builder_box_exports_its_layer() {
    let Some(parts) = folder() else { return };
    in_own_network(move || {
        let world = World::new(real(parts));
        let watcher = world.watch();
        let mut start = a_box(1);
        (start.hold, start.network, start.publish) = (true, false, vec![]);
        start.program = program(&["/bin/sh", "-c", "mkdir /made; echo hello > /made/file; rm /bin/nc"]);
        world.start(&start).0.unwrap();
        watcher.until(|w| w.contains(&BoxHappening::Exited { status: ExitStatus::Code(0) }));
        let archive = world.export(1);
        println!("{} bytes", archive.len());
        assert!(archive.ends_with(&[0; 1024]) && archive.windows(9).any(|w| w == b"made/file"));
        world.call(&Stop { slot: at(1), grace_ms: 0 }).unwrap();
    });
}
