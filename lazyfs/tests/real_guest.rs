//! The file-system server under a real guest: what the guest sees is what is in the tree, components are linked when it looks
//! for them, and neither the server's death nor a pause of the machine loses a request.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod played;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use played::components::Components;
use played::guest::Guest;
use played::supervisor::Supervisor;
use played::{Scratch, noise, sample_tree, write};

/// A shell command that does `command` with every path below the current folder that is `kind`, without those linked later.
fn each(kind: &str, command: &str) -> String {
    format!("find . {kind} | grep -v -e late -e slow | LC_ALL=C sort | tr '\\n' '\\0' | xargs -0 {command}")
}

/// What a shell says in `root` on this machine.
fn host(root: &Path, command: &str) -> String {
    let out = Command::new("sh").arg("-c").arg(format!("cd $0 && {command}")).arg(root).output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// One boot for all: booting is what takes the time.
#[test]
fn a_guest_sees_its_root_through_deaths_and_pauses() {
    let scratch = Scratch::new("guest");
    let base = scratch.path("base");
    sample_tree(&base);
    let late = scratch.path("late");
    write(&late, "usr/lib/late/library.so", &noise(7, 500_000), 0o644);
    write(&late, "usr/lib/late/data", b"late data", 0o644);
    let slow = scratch.path("slow");
    for i in 0..4 {
        write(&slow, &format!("usr/lib/slow-{i}/file"), b"slow but right", 0o644);
    }

    let components = Arc::new(Components::default());
    components.add_tree(10, &base, true);
    components.add_tree(20, &late, false);
    components.add_trees_apart(30, &slow);
    let socket = scratch.path("components.sock");
    components.clone().serve(&socket);
    let (ours, qemus) = UnixStream::pair().unwrap();
    let mut supervisor = Supervisor::new(&scratch.0, &socket);
    let ours = OwnedFd::from(ours);
    supervisor.start(Some(&ours));
    drop(ours);
    let mut guest = Guest::boot(&scratch.0, qemus.into());

    eprintln!("what nobody has, once");
    assert_ne!(guest.run("cat /mnt/usr/lib/nobody").0, 0);
    guest.ok("echo 3 > /proc/sys/vm/drop_caches");
    assert_ne!(guest.run("cat /mnt/usr/lib/nobody").0, 0);
    assert_eq!(components.calls("missing usr/lib/nobody"), 1);

    eprintln!("a component is linked when a path of it is looked for");
    assert!(guest.ok("echo /mnt/usr/lib/*").contains("late"), "its names are listed before");
    let number = guest.ok("stat -c %i /mnt/usr/lib/late");
    assert_eq!(components.calls("missing usr/lib/late"), 1);
    assert_eq!(
        guest.ok("cat /mnt/usr/lib/late/data; ls -1 /mnt/usr/lib/late"),
        "late datadata\nlibrary.so\n"
    );
    assert_eq!(components.calls("missing usr/lib/late"), 1);

    eprintln!("a slow lookup holds nobody else up");
    components.hold("usr/lib/slow-0");
    guest.ok("cat /mnt/usr/lib/slow-0/file > /tmp/slow-0 2>&1 &");
    components.wait_for_waiter();
    guest.ok("cat /mnt/usr/lib/late/library.so > /dev/null; ls /mnt/usr/share/many > /dev/null");
    components.release();
    assert_eq!(guest.ok("wait; cat /tmp/slow-0"), "slow but right");

    eprintln!(
        "a pause during a slow lookup loses nothing, whether its answer comes during the pause or after it"
    );
    for (path, during) in [("usr/lib/slow-1", true), ("usr/lib/slow-2", false)] {
        components.hold(path);
        guest.tell(&format!("cat /mnt/{path}/file"));
        components.wait_for_waiter();
        guest.qmp(r#"{"execute":"stop"}"#);
        if during {
            components.release();
            components.wait_for_no_waiter();
        }
        guest.qmp(r#"{"execute":"cont"}"#);
        components.release();
        assert_eq!(guest.answer(), (0, "slow but right".into()));
    }

    eprintln!("kill -9 during a slow lookup");
    components.hold("usr/lib/slow-3");
    guest.tell("cat /mnt/usr/lib/slow-3/file");
    components.wait_for_waiter();
    supervisor.kill();
    components.release();
    supervisor.start(None);
    assert_eq!(guest.answer(), (0, "slow but right".into()));
    assert_eq!(guest.ok("stat -c %i /mnt/usr/lib/late"), number, "numbers outlive the process");

    eprintln!("every byte and every attribute");
    for command in [
        each("-type f", "sha256sum"),
        each("! -type d", "stat -c '%n %f %s %h %u %g %Y'"),
        // Directories that later layers add to have other counts.
        each("-mindepth 1 -type d", "stat -c '%n %f %u %g %Y'"),
        "stat -c '%h' var usr/share usr/share/many".into(),
        "readlink etc/tool; readlink etc/dangling; cat etc/tool | sha256sum".into(),
    ] {
        assert_eq!(guest.ok(&format!("(cd /mnt && {command})")), host(&base, &command), "{command}");
    }
    assert_eq!(
        guest.ok("ls -i /mnt/usr/bin | awk '{print $1}' | sort | uniq -d | wc -l"),
        "1\n",
        "hard links share a number"
    );
    let written = guest.run("touch /mnt/new || echo x > /mnt/etc/a.d/x");
    assert!(written.0 != 0 && written.1.contains("Read-only"), "{}", written.1);

    eprintln!("kill -9 again and again under load");
    let want = host(&base, "sha256sum usr/lib/sizes/3000001").replace("usr/", "/mnt/usr/");
    guest.ok("(while [ ! -e /tmp/stop ]; do echo 3 > /proc/sys/vm/drop_caches; sha256sum /mnt/usr/lib/sizes/3000001; find /mnt/usr | wc -l >> /tmp/counts; done) > /tmp/sums 2>&1 &");
    for round in 0..12u64 {
        guest.ok("n=$(wc -l < /tmp/counts); while [ $(wc -l < /tmp/counts) -le $n ]; do usleep 1000; done");
        // Not a wait for anything: the moments of death should differ.
        std::thread::sleep(Duration::from_millis(round * 7));
        supervisor.kill();
        if round == 5 {
            // What a supervisor holds that was itself restarted while the server ran.
            supervisor.start(None);
            supervisor.restart_itself();
            supervisor.wait_until_it_holds();
            supervisor.kill();
        }
        supervisor.start(None);
    }
    eprintln!("kill -9 while it begins");
    for round in 0..20u64 {
        std::thread::sleep(Duration::from_micros(round * 300));
        supervisor.kill();
        supervisor.start(None);
    }
    guest.ok("touch /tmp/stop; wait");
    assert_eq!(guest.ok("sort -u /tmp/sums"), want, "no wrong byte");
    assert_eq!(guest.ok("sort -u /tmp/counts | wc -l"), "1\n", "no name lost");

    eprintln!("a quiet server does not wake, and is small");
    let before = supervisor.switches();
    std::thread::sleep(Duration::from_secs(1));
    let woken = supervisor.switches() - before;
    assert!(woken <= 2, "{woken} context switches in an idle second");
    let pss = supervisor.pss();
    eprintln!("PSS {pss} KiB");
    assert!(pss < 8 * 1024, "{pss} KiB");

    guest.quit();
    supervisor.wait_for_end();
}
