//! A box from start to removal.

use gtvp_e2e::{Lab, SOON, START_WITHIN, until};

use crate::running::nginx;

pub fn a_box_lives_through_stop_start_pause_and_change(lab: &Lab) {
    let web = nginx(lab, "web", 8080);
    let address = web["address"].clone();
    lab.ok(&["exec", "web", "--", "sh", "-c", "echo kept > /var/lib/kept"]);

    lab.ok(&["box", "pause", "web"]);
    assert_eq!(lab.state_of("web"), "paused");
    lab.ok(&["box", "resume", "web"]);
    assert_eq!(lab.state_of("web"), "running");
    until("it answers again", SOON, || lab.get(8080, "/").ok());

    let less = lab.ok(&["box", "set", "web", "--memory", "400M"]);
    assert!(less.contains("400M"), "{less}");
    assert_eq!(lab.find("web").unwrap()["memory_bytes"], 400 << 20);
    let more = lab.gtvp(&["box", "set", "web", "--memory", "600M", "--cpus", "2"]);
    assert_eq!(more.code, 0, "{}", more.err);
    assert!(format!("{}{}", more.out, more.err).contains("next start"), "{more:?}");
    assert_eq!(lab.find("web").unwrap()["pending"].as_array().unwrap().len(), 2);

    lab.ok(&["box", "stop", "web"]);
    assert_eq!(lab.state_of("web"), "stopped");
    assert!(lab.get(8080, "/").is_err(), "a stopped box's port answers");
    lab.ok(&["box", "start", "web"]);
    until("it answers after its start", START_WITHIN, || lab.get(8080, "/").ok());
    let again = lab.find("web").unwrap();
    assert_eq!(again["address"], address);
    assert_eq!(again["cpus"], 2);
    assert_eq!(again["memory_bytes"], 600 << 20);
    assert_eq!(lab.ok(&["exec", "web", "--", "nproc"]).trim(), "2");
    assert_eq!(
        lab.ok(&["exec", "web", "--", "cat", "/var/lib/kept"]),
        "kept\n",
        "the writable layer was lost"
    );
    let said = lab.refused(&["box", "rm", "web"]);
    assert!(said.contains("--force"), "{said}");
    lab.remove("web");
    assert_eq!(lab.state_of("web"), "none");
}

pub fn commands_run_beside_the_application(lab: &Lab) {
    nginx(lab, "web", 8080);
    assert_eq!(lab.ok(&["exec", "web", "--", "cat", "/etc/hostname"]), "web\n");
    assert_eq!(lab.gtvp(&["exec", "web", "--", "sh", "-c", "exit 9"]).code, 9);
    assert_eq!(lab.gtvp(&["exec", "web", "--", "sh", "-c", "kill -TERM $$"]).code, 128 + 15);
    let said = lab.gtvp(&["exec", "web", "--", "no-such-command"]);
    assert_ne!(said.code, 0);
    assert!(said.err.contains("no-such-command") && said.err.contains("does not exist"), "{}", said.err);

    let mut cat = lab.command(&["exec", "web", "--", "sha256sum"]);
    let mut child =
        cat.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes: Vec<u8> = (0..1_000_000u32).map(|i| (i * 7 % 251) as u8).collect();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &bytes).unwrap());
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(out.status.success());
    assert_eq!(String::from_utf8_lossy(&out.stdout).len(), 64 + 4, "stdin did not reach the command whole");

    let errors = lab.ok(&[
        "exec",
        "web",
        "--",
        "sh",
        "-c",
        "ls -la /proc/1/exe >/dev/null; id -u; ls /lower 2>&1 || true",
    ]);
    assert!(errors.starts_with("0\n"), "{errors}");
    lab.remove("web");
}
