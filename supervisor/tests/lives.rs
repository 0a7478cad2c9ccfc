//! Threat 66, and what outlives what: domains, gtvpd and box processes are killed, and nobody else notices for long.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod harness;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use gtvp_ipc::supervisor::{Kill, ProcessEvent, Spawn, Status, Wait, Watch};
use gtvp_model::ids::Slot;
use harness::{Member, alive, kill, line, until};
use rustix::process::Signal;

fn spawn_lazyfs(slot: u16) -> Spawn {
    let slot = Slot::new(slot);
    Spawn { template: "lazyfs".into(), slot, params: BTreeMap::new(), fds: vec!["vhost".into()] }
}

/// What a watcher is told first.
fn running(member: &Member, owner: &str) -> Vec<(u64, i32)> {
    let mut list = Vec::new();
    let _ = member.client(owner, "supervisor").call(&Watch {}, &[], |event| match event {
        ProcessEvent::Running { process, pid, .. } => {
            list.push((process, pid));
            ControlFlow::Continue(())
        }
        _ => ControlFlow::Break(()),
    });
    list
}

#[test]
fn a_killed_domain_is_back_within_a_second_and_loses_no_caller() {
    let member = Member::start();
    for domain in member.topology().domain.keys() {
        let before = member.pid(domain);
        kill(before, Signal::KILL);
        let killed = Instant::now();
        // Connects at once: the socket is gtvpd's and never goes away.
        let after = until("the domain answers", || {
            member
                .tell(domain, &["pid"])
                .ok()
                .and_then(|pid| pid.parse::<i32>().ok())
                .filter(|pid| *pid != before)
        });
        assert!(killed.elapsed() < Duration::from_secs(1), "{domain} was away for {:?}", killed.elapsed());
        assert!(alive(after));
    }
    let status = member.call("management", &Status {}).unwrap();
    assert_eq!(status.domains.len(), 6);
    for domain in &status.domains {
        assert_eq!(domain.restarts, 1, "{domain:?}");
        assert_eq!(domain.last_exit.as_deref(), Some("signal 9"));
        assert!(domain.pid.is_some());
    }
    assert_eq!(status.addresses, ["10.213.0.1"]);
}

#[test]
fn domains_die_with_gtvpd_and_come_back_with_the_next() {
    let mut member = Member::start();
    let pids: Vec<i32> = member.topology().domain.keys().map(|d| member.pid(d)).collect();
    member.kill_gtvpd();
    until("the domains are gone", || pids.iter().all(|pid| !alive(*pid)).then_some(()));
    let killed = Instant::now();
    member.serve();
    assert!(killed.elapsed() < Duration::from_secs(3), "the next gtvpd took {:?}", killed.elapsed());
    for domain in member.topology().domain.keys() {
        assert!(alive(member.pid(domain)));
    }
    assert!(member.stop_gtvpd(), "gtvpd did not end in order");
    assert!(!member.folder.join("run/ready").exists());
}

#[test]
fn a_file_system_server_outlives_gtvpd_and_its_own_death() {
    let mut member = Member::start();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let spawned = member.call_with("components", &spawn_lazyfs(3), &[theirs.as_fd()]).unwrap();
    drop(theirs);
    assert_eq!(line(&mut ours), format!("life 1 pid {}", spawned.pid));
    let uid =
        std::fs::metadata(format!("/proc/{}", spawned.pid)).map(|m| std::os::unix::fs::MetadataExt::uid(&m));
    let config =
        gtvp_model::member::parse(&std::fs::read_to_string(member.folder.join("member.toml")).unwrap())
            .unwrap();
    assert_eq!(uid.unwrap(), config.box_uid(Slot::new(3).unwrap(), 1));

    // The same place a second time is refused.
    let (_, other) = UnixStream::pair().unwrap();
    assert!(member.call_with("components", &spawn_lazyfs(3), &[other.as_fd()]).is_err());

    // It dies: the next one gets the connection, which never closes.
    kill(spawned.pid, Signal::KILL);
    let second = line(&mut ours);
    let pid: i32 = second.strip_prefix("life 2 pid ").unwrap_or_else(|| panic!("{second}")).parse().unwrap();
    assert_eq!(
        until("it is known", || running(&member, "components").pop().filter(|r| r.1 == pid)).0,
        spawned.process
    );

    // gtvpd dies: it lives on, and the next gtvpd knows it by the same number.
    member.kill_gtvpd();
    assert!(alive(pid));
    member.serve();
    assert!(alive(pid));
    assert_eq!(running(&member, "components"), [(spawned.process, pid)]);

    // It dies under the new gtvpd, which has only what it stored.
    let known = || member.log().contains("is still running");
    until("it was found", || known().then_some(()));
    kill(pid, Signal::KILL);
    let third = line(&mut ours);
    let pid: i32 = third.strip_prefix("life 3 pid ").unwrap_or_else(|| panic!("{third}")).parse().unwrap();

    member.call("components", &Kill { template: "lazyfs".into(), slot: Slot::new(3).unwrap() }).unwrap();
    assert!(!alive(pid), "the answer came before the end");
    assert!(running(&member, "components").is_empty());
    let ended = member.call("components", &Wait { process: spawned.process }).unwrap();
    assert_eq!(ended.slot, Slot::new(3));
    // No such process is no error.
    member.call("components", &Kill { template: "lazyfs".into(), slot: Slot::new(3).unwrap() }).unwrap();
}

#[test]
fn a_file_system_server_that_stores_without_end_keeps_nobody_waiting() {
    use std::io::Write;
    let member = Member::start();
    let floods: Vec<UnixStream> = (0..4)
        .map(|slot| {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            member.call_with("components", &spawn_lazyfs(slot), &[theirs.as_fd()]).unwrap();
            assert!(line(&mut ours).starts_with("life 1 "));
            ours.write_all(b"!").unwrap();
            ours
        })
        .collect();
    let (gtvpd, stop) = (member.gtvpd(), std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let stopped = stop.clone();
    // What waits for the supervisor while it is busy with a jail.
    let watch = std::thread::spawn(move || {
        let mut most = 0;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            most = most.max(std::fs::read_dir(format!("/proc/{gtvpd}/fd")).map_or(0, Iterator::count));
        }
        most
    });
    let mut slowest = Duration::ZERO;
    for _ in 0..10 {
        // Its own work goes on: it sees ends, starts again, answers.
        let before = member.pid("security");
        kill(before, Signal::KILL);
        let killed = Instant::now();
        until("security answers", || {
            member.tell("security", &["pid"]).ok().filter(|p| *p != before.to_string())
        });
        member.call("management", &Status {}).unwrap();
        slowest = slowest.max(killed.elapsed());
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let most = watch.join().unwrap();
    drop(floods);
    assert!(most < 1500, "gtvpd held {most} descriptors");
    assert!(slowest < Duration::from_secs(5), "an answer took {slowest:?}");
}

#[test]
fn down_leaves_nothing_and_may_be_repeated() {
    let mut member = Member::start();
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let spawned = member.call_with("components", &spawn_lazyfs(0), &[theirs.as_fd()]).unwrap();
    member.stop_gtvpd();
    assert!(alive(spawned.pid), "a box process ended with gtvpd");
    for _ in 0..2 {
        assert!(member.command(&["down"]).status().unwrap().success());
        assert!(!alive(spawned.pid));
        assert!(!member.folder.join("run").exists());
        assert!(member.folder.join("state/components").exists());
        let rules = std::process::Command::new("ip")
            .args(["netns", "exec", &member.netns, "nft", "list", "ruleset"])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&rules.stdout), "");
    }
}

#[test]
fn a_call_outside_the_row_ends_the_domain_and_is_named() {
    let mut member = Member::start();
    let before = member.pid("security");
    assert!(member.tell("security", &["syscall"]).is_err(), "sync is in no row and was allowed");
    let after = until("security is back", || member.tell("security", &["pid"]).ok());
    assert_ne!(after, before.to_string());
    until("gtvpd says so", || member.log().contains("signal 31").then_some(()));

    // trace tells it, with its name, and lets it happen.
    member.stop_gtvpd();
    member.serve_as(&["trace"]);
    assert_eq!(member.tell("security", &["syscall"]).unwrap(), "\"survived\"");
    until("trace names it", || {
        member.log().lines().any(|l| l.contains("trace: security") && l.contains("\"sync\"")).then_some(())
    });
}
