//! Boxes from start to end, as `management` sees them.

use std::io::Write;
use std::ops::ControlFlow;

use gtvp_ipc::drivers::{BoxHappening, Pause, Remove, Resume, SetMemory, Signal, Stop};
use gtvp_model::boxview::ExitStatus;
use gtvp_model::fault::FaultKind;
use gtvp_model::stream::{self, StreamKind};
use gtvp_model::units::Bytes;

use super::machine::Character;
use super::supervisor::played;
use super::world::{World, a_box, at, frames};
use super::{in_own_network, until};

fn exit(code: i32) -> (StreamKind, Vec<u8>) {
    (StreamKind::Exit, format!("{{\"code\":{code}}}").into_bytes())
}

#[test]
fn a_box_starts_runs_commands_and_stops() {
    in_own_network(|| {
        let world = World::new(played(Character::default()));
        let watcher = world.watch();
        let (accelerator, phases) = world.start(&a_box(1));
        assert!(accelerator.unwrap().starts_with("tcg ("));
        assert_eq!(phases.last().unwrap(), "start");
        assert!(["disk", "boot", "configure"].iter().all(|p| phases.iter().any(|q| q == p)), "{phases:?}");
        assert_eq!(world.supervisor.published()[&at(1)].len(), 1);
        watcher.until(|w| w.last() == Some(&BoxHappening::Running { ready: true }));
        assert!(watcher.notices()[0].contains("TCG"), "{:?}", watcher.notices());

        let mut exec = world.exec(1, &["cat"]).unwrap();
        let sent = vec![b'x'; 300_000];
        let mut writing = exec.try_clone().unwrap();
        let bytes = sent.clone();
        let writer = std::thread::spawn(move || {
            for piece in bytes.chunks(100_000) {
                stream::write(&mut writing, StreamKind::Stdin, piece).unwrap();
            }
            stream::write(&mut writing, StreamKind::Stdin, b"").unwrap();
        });
        let mut got = frames(&mut exec);
        writer.join().unwrap();
        assert_eq!(got.pop().unwrap(), exit(3));
        assert_eq!(got.into_iter().flat_map(|(_, bytes)| bytes).collect::<Vec<_>>(), sent);

        world.call(&Stop { slot: at(1), grace_ms: 5000 }).unwrap();
        watcher.until(|w| {
            w.ends_with(&[BoxHappening::Exited { status: ExitStatus::Signal(15) }, BoxHappening::Gone])
        });
        assert_eq!(world.left_behind(), Vec::<String>::new());
        assert!(world.supervisor.published().is_empty() && world.supervisor.running().is_empty());
        world.call(&Stop { slot: at(1), grace_ms: 0 }).unwrap();

        // The second start of the same box finds its layer.
        world.start(&a_box(1)).0.unwrap();
        assert_eq!(world.supervisor.spawned().iter().filter(|t| *t == "mkfs").count(), 1);
        assert_eq!(world.call(&Remove { slot: at(1) }).unwrap_err().kind, FaultKind::WrongState);
        world.call(&Stop { slot: at(1), grace_ms: 0 }).unwrap();
        world.call(&Remove { slot: at(1) }).unwrap();
        assert!(!world.file(1, "upper.img").exists());
    });
}

#[test]
fn an_application_that_ends_by_itself_tells_its_followers() {
    in_own_network(|| {
        let world = World::new(played(Character { prints: Some(("42\n", 7)), ..Character::default() }));
        let watcher = world.watch();
        world.start(&a_box(1)).0.unwrap();
        watcher.until(|w| {
            w.ends_with(&[BoxHappening::Exited { status: ExitStatus::Code(7) }, BoxHappening::Gone])
        });
        let expected = [(StreamKind::Stdout, b"42\n".to_vec()), exit(7)];
        assert_eq!(frames(&mut world.logs(1, true)), expected);
        assert_eq!(frames(&mut world.logs(1, false)), expected[..1]);
        let late = world.watch();
        let told =
            [BoxHappening::Exited { status: ExitStatus::Code(7) }, BoxHappening::Gone, BoxHappening::Current];
        assert_eq!(late.heard(), told, "who comes later hears it too");
    });
}

#[test]
fn a_builder_box_is_held_until_its_layer_is_taken() {
    in_own_network(|| {
        let world = World::new(played(Character { prints: Some(("done", 0)), ..Character::default() }));
        let watcher = world.watch();
        let mut start = a_box(1);
        (start.hold, start.network, start.publish) = (true, false, vec![]);
        world.start(&start).0.unwrap();
        watcher.until(|w| w.contains(&BoxHappening::Exited { status: ExitStatus::Code(0) }));
        assert_eq!(world.supervisor.running(), ["qemu"]);
        assert_eq!(world.export(1), b"an archive");
        world.call(&Stop { slot: at(1), grace_ms: 0 }).unwrap();
        let ends = watcher.heard().iter().filter(|w| matches!(w, BoxHappening::Exited { .. })).count();
        assert_eq!(ends, 1, "its end is told once");
    });
}

#[test]
fn a_guest_that_writes_without_end_and_reads_nothing_is_not_heard() {
    in_own_network(|| {
        let world = World::new(played(Character { floods: true, ..Character::default() }));
        world.start(&a_box(1)).0.unwrap();
        let console = || std::fs::read_to_string(world.file(1, "console.log")).unwrap_or_default();
        until("the flood ends", || console().contains("not heard after"));
        let text = console();
        let heard: usize =
            text.split("after ").nth(1).and_then(|t| t.split(' ').next()).unwrap().parse().unwrap();
        assert!(heard < 128 * 1024 * 1024, "{heard} bytes were taken, each of which had to be answered");
        // Whoever else asks is answered, and the box can be ended.
        world.call(&Stop { slot: at(1), grace_ms: 0 }).unwrap();
    });
}

#[test]
fn a_start_that_fails_says_why_and_leaves_nothing() {
    let cases: [(Character, FaultKind, &str); 2] = [
        (
            Character { panics: true, ..Character::default() },
            FaultKind::BoxFailed,
            "its kernel panicked: VFS: Unable to mount root fs",
        ),
        (
            Character { no_such_command: true, ..Character::default() },
            FaultKind::BoxFailed,
            "nosuch: no such command in the box",
        ),
    ];
    for (character, kind, words) in cases {
        in_own_network(move || {
            let world = World::new(played(character));
            let fault = world.start(&a_box(1)).0.unwrap_err();
            assert_eq!(fault.kind, kind);
            assert!(fault.to_string().contains(words), "{fault}");
            assert_eq!(world.left_behind(), Vec::<String>::new());
            assert!(world.supervisor.published().is_empty() && world.supervisor.running().is_empty());
            assert!(!world.file(1, "upper.img").exists());
        });
    }
}

#[test]
fn a_port_in_use_is_refused_before_anything_is_started() {
    in_own_network(|| {
        let world = World::new(played(Character::default()));
        world.start(&a_box(1)).0.unwrap();
        let before = world.supervisor.spawned().len();
        let fault = world.start(&a_box(2)).0.unwrap_err();
        assert_eq!((fault.kind, fault.message.as_str()), (FaultKind::InUse, "port 8080 is in use"));
        assert_eq!(world.supervisor.spawned().len(), before);
        assert_eq!(world.supervisor.published()[&at(1)].len(), 1, "who has it keeps it");
    });
}

#[test]
fn a_start_that_nobody_awaits_any_more_is_taken_back() {
    in_own_network(|| {
        let world = World::new(played(Character { silent: true, ..Character::default() }));
        for phase in ["disk", "boot"] {
            let cancelled = world.start_until(&a_box(1), |p| {
                if p == phase { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert!(cancelled.is_err());
            until("everything is given back", || {
                world.supervisor.running().is_empty()
                    && world.supervisor.published().is_empty()
                    && world.left_behind().is_empty()
            });
        }
    });
}

#[test]
fn boxes_and_what_they_wrote_outlive_the_domain() {
    in_own_network(|| {
        let mut world = World::new(played(Character::default()));
        world.start(&a_box(1)).0.unwrap();
        let mut exec = world.exec(1, &["cat"]).unwrap();
        world.kill_domain();
        assert_eq!(frames(&mut exec), [], "a stream that ends without Exit or Fault was lost");
        let watcher = world.watch();
        assert!(watcher.heard().contains(&BoxHappening::Running { ready: true }), "{:?}", watcher.heard());
        assert_eq!(world.supervisor.running(), ["qemu"]);
        let mut exec = world.exec(1, &["cat"]).unwrap();
        stream::write(&mut exec, StreamKind::Stdin, b"").unwrap();
        assert_eq!(frames(&mut exec), [exit(3)]);
        world.call(&Pause { slot: at(1) }).unwrap();
        world.kill_domain();
        let watcher = world.watch();
        assert!(watcher.heard().contains(&BoxHappening::Paused));
        world.call(&Resume { slot: at(1) }).unwrap();
        world.call(&Stop { slot: at(1), grace_ms: 1000 }).unwrap();
    });
}

#[test]
fn a_machine_that_dies_while_the_domain_is_away_is_found_dead() {
    in_own_network(|| {
        let mut world = World::new(played(Character::default()));
        world.start(&a_box(1)).0.unwrap();
        world.end_domain();
        world.supervisor.kill(|t, _| t == "qemu");
        world.begin_domain();
        let heard = world.watch().heard();
        assert!(
            matches!(&heard[..], [BoxHappening::Died { .. }, BoxHappening::Gone, BoxHappening::Current]),
            "{heard:?}"
        );
        assert!(world.supervisor.published().is_empty());
        assert_eq!(world.left_behind(), Vec::<String>::new());
    });
}

#[test]
fn a_start_that_was_under_way_when_the_domain_died_is_cleared_away() {
    in_own_network(|| {
        let mut world = World::new(played(Character { silent: true, ..Character::default() }));
        let died = std::cell::Cell::new(false);
        let pid = world.domain_pid();
        let lost = world.start_until(&a_box(1), |phase| {
            if phase == "boot" && !died.replace(true) {
                until("the machine runs", || world.supervisor.running().contains(&"qemu".to_owned()));
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            }
            ControlFlow::Continue(())
        });
        assert!(gtvp_model::fault::Fault::from(lost.unwrap_err()).retryable);
        world.kill_domain();
        assert!(world.supervisor.running().is_empty() && world.supervisor.published().is_empty());
        assert_eq!(world.left_behind(), Vec::<String>::new());
    });
}

#[test]
fn a_machine_that_dies_has_last_words() {
    in_own_network(|| {
        let world = World::new(played(Character::default()));
        let watcher = world.watch();
        world.start(&a_box(1)).0.unwrap();
        let mut log = world.logs(1, true);
        world.supervisor.kill(|t, _| t == "qemu");
        watcher.until(|w| w.last() == Some(&BoxHappening::Gone));
        let heard = watcher.heard();
        let died = heard
            .iter()
            .find_map(|w| if let BoxHappening::Died { why } = w { Some(why.clone()) } else { None });
        assert_eq!(died.unwrap(), "QEMU ended (signal 9)");
        assert_eq!(frames(&mut log).pop().unwrap().0, StreamKind::Fault);
    });
}

#[test]
fn an_application_that_ignores_its_shutdown_is_killed_and_what_is_asked_of_a_box_is_checked() {
    in_own_network(|| {
        let world = World::new(played(Character { stubborn: true, ..Character::default() }));
        world.start(&a_box(1)).0.unwrap();
        let more = world.call(&SetMemory { slot: at(1), memory: Bytes::mib(1024) }).unwrap_err();
        assert_eq!(more.kind, FaultKind::WrongState);
        world.call(&SetMemory { slot: at(1), memory: Bytes::mib(256) }).unwrap();
        world.call(&Pause { slot: at(1) }).unwrap();
        assert_eq!(world.exec(1, &["cat"]).unwrap_err().kind, FaultKind::WrongState);
        world.call(&Resume { slot: at(1) }).unwrap();
        assert_eq!(world.call(&Signal { slot: at(1), signal: 99 }).unwrap_err().kind, FaultKind::Invalid);
        assert_eq!(world.exec(2, &["cat"]).unwrap_err().kind, FaultKind::WrongState);
        let watcher = world.watch();
        // Its grace, and ten seconds for a guest that only needs long: then it goes.
        world.call(&Stop { slot: at(1), grace_ms: 1 }).unwrap();
        watcher.until(|w| w.contains(&BoxHappening::Exited { status: ExitStatus::Signal(9) }));
    });
}

#[test]
fn a_caller_that_hangs_up_ends_its_command_only() {
    in_own_network(|| {
        let world = World::new(played(Character::default()));
        world.start(&a_box(1)).0.unwrap();
        let mut exec = world.exec(1, &["cat"]).unwrap();
        exec.write_all(&stream::encode(StreamKind::Stdin, b"x")).unwrap();
        drop(exec);
        let mut next = world.exec(1, &["cat"]).unwrap();
        stream::write(&mut next, StreamKind::Signal, b"15").unwrap();
        assert_eq!(frames(&mut next), [(StreamKind::Exit, b"{\"signal\":15}".to_vec())]);
    });
}

#[test]
fn an_idle_domain_does_not_wake() {
    in_own_network(|| {
        let world = World::new(played(Character::default()));
        world.start(&a_box(1)).0.unwrap();
        let _watcher = world.watch();
        let _log = world.logs(1, true);
        until("it has come to rest", || {
            let before = world.context_switches();
            std::thread::sleep(std::time::Duration::from_millis(300));
            world.context_switches() == before
        });
    });
}
