//! What is refused, and that nothing of it stays.

use std::os::unix::process::CommandExt;
use std::process::Stdio;

use gtvp_e2e::{Ended, Lab, SOON, START_WITHIN, signal, until};
use rustix::process::Signal;

use crate::running::nginx;

fn machines(lab: &Lab) -> usize {
    lab.processes(&["qemu-system-x86_64"]).len()
}

pub fn bad_input_is_refused_and_leaves_nothing(lab: &Lab) {
    let web = ["--", "nginx", "-g", "daemon off;"];
    let run = |arguments: &[&str]| lab.refused(&[&["run", "--detach"], arguments].concat());

    let said = run(&[&["--name", "typo", "--needs", "ngnix"][..], &web].concat());
    assert!(said.contains("ngnix") && said.contains("nginx"), "no near name: {said}");

    let said = run(&[&["--name", "big", "--needs", "nginx", "--memory", "64T"][..], &web].concat());
    assert!(said.contains("64T") && said.contains("memory"), "{said}");

    let said = run(&["--name", "Bad_Name", "--needs", "nginx", "--", "nginx"]);
    assert!(said.contains("a-z"), "{said}");

    let before = machines(lab);
    let said = run(&["--name", "nocmd", "--needs", "nginx", "--", "no-such-command"]);
    assert!(said.contains("no-such-command") && said.contains("does not exist in the box"), "{said}");
    assert_eq!(machines(lab), before, "a machine was left behind");

    nginx(lab, "web", 8080);
    let said = run(&[&["--name", "web", "--needs", "nginx"][..], &web].concat());
    assert!(said.contains("web") && said.contains("exists"), "{said}");
    let said = run(&[&["--name", "web2", "--needs", "nginx", "--publish", "8080:80"][..], &web].concat());
    assert!(said.contains("8080") && said.contains("in use") && said.contains("web"), "{said}");

    // A port that something else on the member has.
    let mut holder = std::process::Command::new("ip");
    holder.args(["netns", "exec", &lab.namespace(), "perl", "-MIO::Socket::INET", "-e"]);
    holder.arg(
        "my $s=IO::Socket::INET->new(LocalPort=>8099,Listen=>1) or die; print \"up\\n\"; $|=1; sleep 600",
    );
    let mut holder =
        Ended(holder.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("ip and perl run"));
    until("the port is held", SOON, || {
        let out = holder.0.stdout.as_ref()?;
        let _ = out;
        std::fs::read_to_string(format!("/proc/{}/net/tcp", holder.0.id()))
            .ok()?
            .contains(":1FA3")
            .then_some(())
    });
    let said = run(&[&["--name", "web3", "--needs", "nginx", "--publish", "8099:80"][..], &web].concat());
    assert!(said.contains("8099") && said.contains("in use"), "{said}");
    let _ = holder.0.kill();

    let left: Vec<_> = lab.boxes().iter().map(|b| b["name"].clone()).collect();
    assert_eq!(left, ["web"]);
    lab.remove("web");
    until("every machine is gone", SOON, || (machines(lab) == 0).then_some(()));
}

pub fn ctrl_c_leaves_nothing(lab: &Lab) {
    // At three moments: while it is being put together, while it boots, while its application runs.
    for phase in ["resolve", "boot", "running"] {
        let mut command = lab.command(&[
            "run",
            "--name",
            "broken-off",
            "--needs",
            "python3",
            "--",
            "python3",
            "-c",
            "import time; time.sleep(600)",
        ]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().unwrap();
        let mut child = Ended(child);
        until(&format!("it comes to {phase}"), START_WITHIN, || {
            if phase == "running" {
                return (lab.state_of("broken-off") == "running").then_some(());
            }
            let operations = lab.json(&["operation", "ls"]);
            let mine = operations
                .as_array()?
                .iter()
                .rfind(|o| o["target"] == "broken-off" && o["state"] == "running")?
                .clone();
            let now = mine["progress"]["phase"].as_str()?.to_owned();
            let passed = mine["phases"].as_array()?.iter().any(|p| p["phase"] == phase);
            (now == phase || passed).then_some(())
        });
        signal(i32::try_from(child.0.id()).unwrap(), Signal::INT);
        let status = until("gtvp ends", SOON, || child.0.try_wait().unwrap());
        assert!(!status.success(), "gtvp run ended well although it was broken off");
        assert!(lab.find("broken-off").is_none(), "a box was left behind at {phase}");
        until("the machine is gone", SOON, || (machines(lab) == 0).then_some(()));
    }
}
