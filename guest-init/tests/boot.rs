//! Real boots under emulation: guest-init in Debian's kernel, a virtio-fs root, a host that comes and goes.
// In a test's own machinery a failure is the test's.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod machine;

use std::process::{Command, Stdio};
use std::time::Duration;

use gtvp_model::boxview::ExitStatus;
use gtvp_model::guest::{Channel, Frame, GuestConfig, GuestState, TerminalSize, ToGuest, ToHost, stream_id};
use machine::{Event, Machine, Options, config, program};

#[test]
fn a_box_runs_its_application_and_outlives_its_host() {
    let mut machine = Machine::boot("runs", Options { disk: true, ..Options::default() });
    let mut host = machine.host();
    assert_eq!(host.hello(1), GuestState::Waiting);
    let script = "echo to stdout; echo to stderr >&2; trap 'echo asked; exit 7' TERM; httpd -p 8080 -h /var/www; \
                  id; pwd; while :; do sleep 1 & wait $!; done";
    let mut box1 = config(&["sh", "-c", script]);
    box1.program.user = Some("www".into());
    box1.program.workdir = Some("/var".into());
    box1.ready_ports = vec![8080];
    host.send(&ToGuest::Configure(box1));
    host.state(|s| *s == GuestState::Running { ready: false });
    host.state(|s| *s == GuestState::Running { ready: true });
    host.wait_text(1, "/var\n");
    assert!(
        host.text(1).starts_with("to stdout\nuid=33(www) gid=33(www) groups=4(adm),33(www)\n/var\n"),
        "{:?}",
        host.output
    );
    assert_eq!(host.text(2), "to stderr\n");

    // What the box is.
    assert_eq!(
        host.sh("hostname; cat /etc/hostname /etc/machine-id"),
        "box1\nbox1\n0123456789abcdef0123456789abcdef\n"
    );
    assert_eq!(host.sh("date +%Y"), "2033\n");
    assert_eq!(host.sh("cat /etc/resolv.conf"), "nameserver 10.0.2.3\n");
    assert_eq!(host.sh("ping -c 1 -W 60 10.0.2.2 | grep -c ' 0% packet loss'"), "1\n");
    assert_eq!(host.sh("wget -q -O - http://127.0.0.1:8080/none 2>&1 | grep -c 404"), "1\n");
    let mounts = host.sh("cat /proc/mounts");
    assert!(mounts.contains("overlay / overlay rw"), "{mounts}");
    assert_eq!(
        host.sh("stat -c %a /tmp /dev/shm /run; cat /proc/1/oom_score_adj /proc/self/oom_score_adj"),
        "1777\n1777\n755\n-1000\n0\n"
    );
    let (_, out, _) = host.exec(&["df", "-T", "/"], b"");
    assert!(out.contains("overlay"), "{out}");

    commands_beside_it(&mut host);

    // The host goes in the middle of a frame, a command runs, output is not acknowledged; another host comes.
    let session = host.session();
    host.send(&ToGuest::Exec {
        session,
        program: program(&["sh", "-c", "echo up; sleep 4321"]),
        terminal: None,
    });
    host.until(|e| matches!(e, Event::Data(s, _, d) if *s == session && d == b"up\n").then_some(()));
    let sleepers = "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -c '^432[1]$' || true";
    assert_eq!(host.sh(sleepers), "1\n");
    host.acknowledges = false;
    let torn = Frame::data(stream_id(session, Channel::Stdin), vec![0; 5000]).encode();
    host.send_bytes(&torn[..2500]);
    drop(host);
    let mut host = machine.host();
    assert_eq!(host.hello(2), GuestState::Running { ready: true });
    host.state(|s| *s == GuestState::Running { ready: true });
    machine::wait_until("the command of the host that went is gone", || host.sh(sleepers) == "0\n");

    // Nothing is burnt while nobody is there.
    let count = "cat /proc/1/stat | cut -d' ' -f14,15; grep ctxt /proc/1/status";
    let before = numbers(&host.sh(count));
    drop(host);
    std::thread::sleep(Duration::from_secs(5));
    let mut host = machine.host();
    host.hello(3);
    let after = numbers(&host.sh(count));
    println!(
        "user and system ticks, voluntary and other switches in 5 s without a host: {before:?} to {after:?}"
    );
    assert!(
        after[0] + after[1] - before[0] - before[1] < 50,
        "half a second of processor: {before:?} {after:?}"
    );
    assert!(after[2] - before[2] < 100, "switches: {before:?} {after:?}");

    host.send(&ToGuest::Shutdown { grace_ms: 60_000 });
    let end = host.state(|s| matches!(s, GuestState::Exited { .. }));
    assert_eq!(end, GuestState::Exited { status: ExitStatus::Code(7) });
    assert!(host.text(1).ends_with("asked\n"), "{:?}", host.output);
    host.send(&ToGuest::AckExited);
    machine.wait_off();
    assert!(!machine.console().contains("cannot be made read-only"), "{}", machine.console());
}

fn numbers(text: &str) -> Vec<u64> {
    text.split_whitespace().filter_map(|w| w.parse().ok()).collect()
}

fn commands_beside_it(host: &mut machine::Host) {
    let big: Vec<u8> = (0..60_000u32).map(|i| b'a' + (i % 26) as u8).collect();
    let (status, out, err) = host.exec(&["sh", "-c", "cat; echo done >&2; exit 3"], &big);
    assert_eq!((status, err.as_str()), (Ok(ExitStatus::Code(3)), "done\n"));
    assert_eq!(out.into_bytes(), big);
    // More than the window, as credit comes back.
    assert_eq!(host.sh("head -c 1000000 /dev/zero | tr '\\0' x").len(), 1_000_000);

    let (missing, ..) = host.exec(&["ngnix"], b"");
    let want = "command \"ngnix\" does not exist in the box: no such file in PATH /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/gtvp";
    assert_eq!(missing, Err(want.into()));
    let (script, ..) = host.exec(&["scripted"], b"");
    assert!(script.unwrap_err().contains("needs the interpreter \"/usr/bin/perl5\""));

    let session = host.session();
    let terminal = Some(TerminalSize { rows: 33, cols: 101 });
    let line = "stty size; read x; stty size; echo $TERM; tty; echo got $x";
    host.send(&ToGuest::Exec { session, program: program(&["sh", "-c", line]), terminal });
    host.until(|e| {
        matches!(e, Event::Data(s, _, d) if *s == session && d.starts_with(b"33 101")).then_some(())
    });
    host.send(&ToGuest::Resize { session, size: TerminalSize { rows: 44, cols: 202 } });
    host.send_frame(&Frame::data(stream_id(session, Channel::Stdin), b"word\n".to_vec()));
    let (status, out, _) = host.finish(session);
    let out = String::from_utf8_lossy(&out).replace('\r', "");
    assert_eq!(status, Ok(ExitStatus::Code(0)));
    assert!(out.ends_with("44 202\nxterm\n/dev/pts/0\ngot word\n"), "{out}");

    let session = host.session();
    host.send(&ToGuest::Exec {
        session,
        program: program(&["sh", "-c", "echo up; sleep 1000"]),
        terminal: None,
    });
    host.until(|e| matches!(e, Event::Data(s, ..) if *s == session).then_some(()));
    host.send(&ToGuest::Signal { session, signal: 15 });
    assert_eq!(host.finish(session).0, Ok(ExitStatus::Signal(15)));
}

#[test]
fn output_waits_for_a_host_that_keeps_it_and_the_end_comes_last() {
    let mut machine = Machine::boot("output", Options::default());
    let mut host = machine.host();
    host.hello(1);
    host.acknowledges = false;
    let script = "i=0; while [ $i -lt 6000 ]; do echo \"line $i ........................................................\"; \
                  i=$((i+1)); done; sleep 0.1 & echo end >&2; exit 300";
    host.send(&ToGuest::Configure(config(&["sh", "-c", script])));
    host.state(|s| *s == GuestState::Running { ready: true });
    let window = gtvp_model::guest::OUTPUT_WINDOW;
    machine::wait_until("the window is full", || {
        host.until(|e| matches!(e, Event::Message(ToHost::Output { .. })).then_some(()));
        host.text(1).len() == window
    });
    // Nothing was kept by this host. The next one hears all of it, once.
    drop(host);
    let mut host = machine.host();
    host.hello(2);
    let end = host.state(|s| matches!(s, GuestState::Exited { .. }));
    assert_eq!(end, GuestState::Exited { status: ExitStatus::Code(300 & 255) });
    let lines: String = (0..6000)
        .map(|i| format!("line {i} ........................................................\n"))
        .collect();
    assert!(lines.len() > window);
    assert_eq!(host.text(1), lines);
    assert_eq!(host.text(2), "end\n");
    let numbers: Vec<u64> = host.output.keys().copied().collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    host.send(&ToGuest::AckExited);
    machine.wait_off();
}

#[test]
fn a_builder_is_held_and_its_layer_is_exported() {
    let mut machine = Machine::boot("builder", Options { disk: true, ..Options::default() });
    let mut host = machine.host();
    host.hello(1);
    let script = "rm /opt/old/a; rm -r /usr/bin; mkdir /usr/bin; echo new > /usr/bin/new; chmod 4755 /usr/bin/new; \
                  ln /usr/bin/new /usr/bin/also; echo later >> /etc/hosts; ln -s x /opt/l; mkfifo /opt/p; \
                  echo tmp > /tmp/x; echo run > /run/x; chown 33:4 /opt/old/b; exit 3";
    let mut builder = config(&["sh", "-c", script]);
    builder.network = None;
    host.send(&ToGuest::Configure(builder));
    let end = host.state(|s| matches!(s, GuestState::Exited { .. } | GuestState::Failed { .. }));
    assert_eq!(end, GuestState::Exited { status: ExitStatus::Code(3) });
    assert_eq!(host.sh("cat /usr/bin/also"), "new\n");

    let session = host.session();
    host.send(&ToGuest::ExportUpper { session });
    let (status, tar, err) = host.finish(session);
    assert_eq!(status, Ok(ExitStatus::Code(0)), "{}", String::from_utf8_lossy(&err));
    let listing = list(&tar);
    let has = |what: &str| assert!(listing.lines().any(|l| l == what), "no {what:?} in\n{listing}");
    has("c--------- 0/0 0,0 opt/old/a");
    has("-rw-r--r-- 33/4 2 opt/old/b");
    has("lrwxrwxrwx 0/0 0 opt/l -> x");
    has("prw-r--r-- 0/0 0 opt/p");
    has("-rwsr-xr-x 0/0 4 usr/bin/also");
    has("hrwsr-xr-x 0/0 0 usr/bin/new link to usr/bin/also");
    has("drwxr-xr-x* 0/0 0 usr/bin/");
    has("x: 1 trusted.overlay.opaque");
    assert!(listing.contains(" etc/hosts") && !listing.contains("etc/hostname"), "{listing}");
    assert!(!listing.contains("tmp/x") && !listing.contains("run/x"), "{listing}");
    assert!(!listing.contains("overlay.origin"), "{listing}");

    assert!(machine.is_on());
    host.send(&ToGuest::Shutdown { grace_ms: 0 });
    machine.wait_off();
}

/// Mode, owner, size and name of each entry, as tar reads them.
fn list(archive: &[u8]) -> String {
    let mut tar = Command::new("tar")
        .args(["-tvvv", "--numeric-owner", "--xattrs", "--xattrs-include=*"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = tar.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, archive).unwrap();
    drop(stdin);
    let out = tar.wait_with_output().unwrap();
    assert!(out.status.success());
    let line = |l: &str| {
        let words: Vec<&str> = l.split_whitespace().collect();
        // Without date and time.
        let date = words.iter().position(|w| w.len() == 10 && w.starts_with("20"));
        let cut = date.map_or(words.clone(), |d| [&words[..d], &words[d + 2..]].concat());
        cut.join(" ") + "\n"
    };
    String::from_utf8_lossy(&out.stdout).lines().map(line).collect()
}

#[test]
fn what_cannot_start_says_why() {
    let mut machine = Machine::boot("noroot", Options { root: false, ..Options::default() });
    let mut host = machine.host();
    host.hello(1);
    host.send(&ToGuest::Configure(config(&["true"])));
    let failed = host.state(|s| matches!(s, GuestState::Failed { .. }));
    assert!(
        matches!(&failed, GuestState::Failed { step, reason } if step == "root" && reason.contains("gtvp-root")),
        "{failed:?}"
    );
    host.send(&ToGuest::AckExited);
    machine.wait_off();

    let mut machine = Machine::boot("nocommand", Options::default());
    let mut host = machine.host();
    host.hello(1);
    host.send(&ToGuest::Configure(config(&["ngnix", "-g", "daemon off;"])));
    let failed = host.state(|s| matches!(s, GuestState::Failed { .. }));
    let GuestState::Failed { step, reason } = failed else { panic!() };
    assert_eq!(step, "exec");
    assert!(
        reason.starts_with("command \"ngnix\" does not exist in the box: no such file in PATH "),
        "{reason}"
    );
    host.send(&ToGuest::Shutdown { grace_ms: 1000 });
    machine.wait_off();
}

/// Another box may have begun with the same memory.
#[test]
fn nothing_starts_without_entropy_of_the_hosts() {
    let mut machine = Machine::boot("noentropy", Options { root: false, ..Options::default() });
    let mut host = machine.host();
    host.hello(1);
    // Half of what it takes.
    host.send(&ToGuest::Configure(GuestConfig { entropy: "5a".repeat(16), ..config(&["true"]) }));
    let failed = host.state(|s| matches!(s, GuestState::Failed { .. }));
    assert!(matches!(&failed, GuestState::Failed { step, .. } if step == "entropy"), "{failed:?}");
    host.send(&ToGuest::AckExited);
    machine.wait_off();
}

#[test]
fn a_probe_says_one_word_and_powers_off() {
    let mut machine =
        Machine::boot("probe", Options { root: false, append: "gtvp.probe", ..Options::default() });
    machine.wait_off();
    assert!(machine.console().lines().any(|l| l.trim_end() == "GTVP-PROBE-OK"), "{}", machine.console());
}
