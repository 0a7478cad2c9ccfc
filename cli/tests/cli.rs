//! The command line against the real gateway and a management that is played: what it prints, how it ends, what it leaves.
#![allow(clippy::unwrap_used)]

#[path = "../../gateway/tests/support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};

use gtvp_model::boxview::{BoxState, ExitStatus};
use support::{EVIDENCE, EVIDENCE_NONCE, Member};

const GTVP: &str = env!("CARGO_BIN_EXE_gtvp");

fn gtvp(member: &Member, words: &[&str]) -> Command {
    let mut command = Command::new(GTVP);
    command.args(words).env("GTVP_SOCKET", member.socket()).env_remove("GTVP_MEMBER").stdin(Stdio::null());
    command.env("GTVP_RUN", member.dir.path());
    command
}

fn run(member: &Member, words: &[&str]) -> Output {
    gtvp(member, words).output().unwrap()
}

fn piped(member: &Member, words: &[&str]) -> Child {
    gtvp(member, words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const INT: rustix::process::Signal = rustix::process::Signal::INT;
const TERM: rustix::process::Signal = rustix::process::Signal::TERM;

#[test]
fn run_has_the_applications_output_and_exit_status() {
    let member = Member::start();
    let mut child = piped(&member, &["run", "--name", "calc", "--needs", "python3", "--", "exit", "7"]);
    drop(child.stdin.take());
    let pid = i32::try_from(child.id()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(7), "{}", text(&out.stderr));
    assert_eq!(text(&out.stdout), "out\n");
    assert!(text(&out.stderr).contains("err\n"));
    let state = member.played.state();
    assert_eq!(state.boxes["calc"].state, BoxState::Stopped, "a box that ended by itself stays");
    assert!(state.calls.iter().all(|(_, who)| *who == pid), "management sees the person, not the gateway");
}

#[test]
fn run_removes_a_box_that_ended_if_it_is_told_to() {
    let member = Member::start();
    let out = run(&member, &["run", "--name", "calc", "--rm", "--needs", "python3", "--", "exit", "0"]);
    assert_eq!(out.status.code(), Some(0));
    assert!(member.played.state().boxes.is_empty());
}

#[test]
fn detach_prints_name_address_and_where_it_is_published() {
    let member = Member::start();
    let out = run(
        &member,
        &["run", "--detach", "--name", "web", "--needs", "nginx", "--publish", "8080:80", "--", "serve"],
    );
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert_eq!(
        text(&out.stdout),
        "name       web\naddress    10.90.1.2\npublished  http://10.88.0.11:8080/\n"
    );
    assert_eq!(member.played.state().boxes["web"].state, BoxState::Running);
}

#[test]
fn ctrl_c_while_it_starts_cancels_and_leaves_nothing() {
    for (word, interrupt, code) in [("slow", INT, 130), ("slow", TERM, 143), ("late", INT, 130)] {
        let member = Member::start();
        let child = piped(&member, &["run", "--name", "web", "--needs", "nginx", "--", word]);
        member.played.wait("it is followed", |s| s.calls.iter().any(|c| c.0 == "watch_operation"));
        signal(&child, interrupt);
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(code), "{word}: {}", text(&out.stderr));
        assert!(text(&out.stderr).contains("box web is gone"), "{}", text(&out.stderr));
        assert!(member.played.state().boxes.is_empty(), "{word}");
    }
}

#[test]
fn ctrl_c_before_the_member_has_answered_leaves_nothing_either() {
    for word in ["serve", "slow", "exit"] {
        let member = Member::start();
        member.played.hesitates.store(true, std::sync::atomic::Ordering::SeqCst);
        let child = piped(&member, &["run", "--name", "web", "--needs", "nginx", "--", word, "0"]);
        member.played.wait("it is asked for", |s| s.calls.iter().any(|c| c.0 == "create_box"));
        signal(&child, INT);
        member.played.hesitates.store(false, std::sync::atomic::Ordering::SeqCst);
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(130), "{word}: {}", text(&out.stderr));
        assert!(member.played.state().boxes.is_empty(), "{word}");
    }
}

#[test]
fn ctrl_c_while_it_runs_reaches_the_application_and_the_box_is_removed() {
    let member = Member::start();
    let child = piped(&member, &["run", "--name", "web", "--needs", "nginx", "--", "serve"]);
    member.played.wait("its log is followed", |s| s.calls.iter().any(|c| c.0 == "box_logs"));
    signal(&child, INT);
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(130), "{}", text(&out.stderr));
    let state = member.played.state();
    assert_eq!(state.signals, [2]);
    assert!(state.boxes.is_empty());
}

#[test]
fn a_second_ctrl_c_does_not_wait_for_the_application() {
    let member = Member::start();
    let child = piped(&member, &["run", "--name", "web", "--needs", "nginx", "--", "stubborn"]);
    member.played.wait("its log is followed", |s| s.calls.iter().any(|c| c.0 == "box_logs"));
    signal(&child, INT);
    member.played.wait("the application got it", |s| s.signals == [2]);
    signal(&child, INT);
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(130), "{}", text(&out.stderr));
    assert!(member.played.state().boxes.is_empty());
}

#[test]
fn a_failure_is_told_once_with_what_to_try_and_125() {
    let member = Member::start();
    run(&member, &["run", "--detach", "--name", "web", "--needs", "nginx", "--", "serve"]);
    let out = run(&member, &["run", "--name", "web", "--needs", "nginx", "--", "serve"]);
    assert_eq!(out.status.code(), Some(125));
    assert_eq!(text(&out.stderr), "error: a box called web exists already\n  try: choose another name\n");
    let out = run(&member, &["box", "show", "nobody"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).starts_with("error: there is no box nobody\n"));
}

#[test]
fn reading_outlives_a_restart_and_changing_does_not_guess() {
    let member = Member::start();
    member.played.away.store(3, std::sync::atomic::Ordering::SeqCst);
    let out = run(&member, &["box", "ls", "-o", "json"]);
    assert_eq!((out.status.code(), text(&out.stdout).as_str()), (Some(0), "[]\n"), "{}", text(&out.stderr));
    member.played.away.store(1, std::sync::atomic::Ordering::SeqCst);
    let out = run(&member, &["run", "--name", "web", "--needs", "nginx", "--", "serve"]);
    assert_eq!(out.status.code(), Some(125));
    assert_eq!(text(&out.stderr), "error: management is restarting\n  try: the same again in a moment\n");
    assert!(member.played.state().boxes.is_empty());
}

#[test]
fn a_log_that_breaks_off_goes_on_where_it_was() {
    let member = Member::start();
    let out = run(&member, &["run", "--name", "web", "--needs", "nginx", "--", "breaks"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert_eq!(text(&out.stdout), "out\nmore\n");
}

#[test]
fn listings_are_tables_for_people_and_arrays_for_programs() {
    let member = Member::start();
    run(
        &member,
        &["run", "--detach", "--name", "web", "--needs", "nginx", "--publish", "8080:80", "--", "serve"],
    );
    let out = run(&member, &["box", "ls"]);
    let table = text(&out.stdout);
    assert!(table.starts_with("NAME  STATE    MEMBER  KIND  ADDRESS    PUBLISHED"), "{table}");
    let json: serde_json::Value =
        serde_json::from_slice(&run(&member, &["box", "ls", "-o", "json"]).stdout).unwrap();
    for (key, value) in
        [("name", "web"), ("state", "running"), ("member", "m1"), ("kind", "lazy"), ("address", "10.90.1.2")]
    {
        assert_eq!(json[0][key], value);
    }
    assert_eq!(json[0]["published"][0], "8080:80/tcp");
    assert!(text(&run(&member, &["box", "ls", "-o", "yaml"]).stdout).starts_with("- name: web\n"));
    for listing in [
        vec!["component", "ls"],
        vec!["template", "ls"],
        vec!["operation", "ls"],
        vec!["events"],
        vec!["doctor"],
        vec!["lab", "ls"],
    ] {
        for format in ["table", "wide", "json", "yaml"] {
            let out = run(&member, &[&listing[..], &["-o", format]].concat());
            assert_eq!(out.status.code(), Some(0), "{listing:?} {format}: {}", text(&out.stderr));
            if format == "json" {
                assert!(
                    serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap().is_array(),
                    "{listing:?}"
                );
            }
        }
    }
}

#[test]
fn show_tells_which_component_was_linked_when_and_because_of_which_path() {
    let member = Member::start();
    run(&member, &["run", "--detach", "--name", "web", "--needs", "nginx", "--", "serve"]);
    let shown = text(&run(&member, &["box", "show", "web"]).stdout);
    let row = shown.lines().find(|l| l.contains("libpcre2")).unwrap();
    for part in ["2026-11-24T06:30:01.007Z", "/usr/lib/x86_64-linux-gnu/libpcre2-8.so.0", "87", "254.9 KiB"] {
        assert!(row.contains(part), "{part} in {row}");
    }
    assert!(shown.contains("7 of 40 components linked"), "{shown}");
    let shown = text(&run(&member, &["member", "show"]).stdout);
    for part in ["unknown", "TPM evidence", "tcg (no kernel runs on /dev/kvm)", "management  42"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(text(&run(&member, &["component", "show", "deb:nginx"]).stdout).contains("usr/sbin/nginx"));
}

#[test]
fn templates_are_listed_booted_and_removed_and_a_box_says_which() {
    let member = Member::start();
    let digest = "ef".repeat(32);
    assert!(text(&run(&member, &["template", "ls"]).stdout).contains("efefefefefef"));
    let listed: serde_json::Value =
        serde_json::from_slice(&run(&member, &["template", "ls", "-o", "json"]).stdout).unwrap();
    assert_eq!((&listed[0]["digest"], &listed[0]["starts"]), (&digest.clone().into(), &3.into()));
    let built =
        run(&member, &["template", "build", "--quiet", "--memory", "1G", "--cpus", "2", "-o", "json"]);
    assert!(text(&built.stdout).contains(&digest), "{built:?}");
    assert_eq!(text(&run(&member, &["template", "rm", "efef"]).stdout), "efefefefefef removed\n");
    assert!(!run(&member, &["template", "rm", "0123"]).status.success());
    run(&member, &["run", "--detach", "--cold", "--name", "web", "--needs", "nginx", "--", "serve"]);
    let shown = text(&run(&member, &["box", "show", "web"]).stdout);
    assert!(shown.contains("template efefefefefef, booted by this member"), "{shown}");
    let shown = text(&run(&member, &["box", "show", "web", "-o", "json"]).stdout);
    assert!(shown.contains("\"cold\": true"), "{shown}");
}

#[test]
fn boxes_are_stopped_paused_set_and_removed() {
    let member = Member::start();
    run(&member, &["run", "--detach", "--name", "web", "--needs", "nginx", "--", "serve"]);
    for (words, says) in [
        (vec!["box", "pause", "web"], "web paused\n"),
        (vec!["box", "resume", "web"], "web resumed\n"),
        (vec!["box", "set", "web", "--memory", "256M", "--cpus", "2"], "applied: memory\nnot now: cpus\n"),
        (vec!["box", "stop", "web"], "web stopped\n"),
        (vec!["box", "start", "web"], "web started\n"),
        (vec!["box", "rm", "web"], "web removed\n"),
    ] {
        let out = run(&member, &words);
        assert_eq!((out.status.code(), text(&out.stdout).as_str()), (Some(0), says), "{}", text(&out.stderr));
    }
    run(&member, &["run", "--detach", "--name", "a", "--needs", "nginx", "--", "serve"]);
    let out = run(&member, &["box", "rm", "--force", "nobody", "a"]);
    assert_eq!((out.status.code(), text(&out.stdout).as_str()), (Some(1), "a removed\n"));
}

#[test]
fn exec_passes_input_output_signals_and_the_exit_status_on() {
    let member = Member::start();
    run(&member, &["run", "--detach", "--name", "web", "--needs", "nginx", "--", "serve"]);
    let out = run(&member, &["exec", "--env", "A=1", "--user", "www-data", "web", "--", "exit", "3"]);
    assert_eq!(
        (out.status.code(), text(&out.stdout).as_str(), text(&out.stderr).as_str()),
        (Some(3), "out\n", "err\n")
    );
    assert_eq!(member.played.state().program.as_ref().unwrap().user.as_deref(), Some("www-data"));

    let mut child = piped(&member, &["exec", "web", "--", "cat"]);
    let big = "0123456789abcdef".repeat(20_000);
    let mut input = child.stdin.take().unwrap();
    let sent = big.clone();
    let writing = std::thread::spawn(move || input.write_all(sent.as_bytes()));
    let mut echoed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut echoed).unwrap();
    writing.join().unwrap().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(echoed == big, "{} bytes came back", echoed.len());

    let mut child = piped(&member, &["exec", "web", "--", "wait"]);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    signal(&child, TERM);
    assert_eq!(child.wait().unwrap().code(), Some(143));

    let out = run(&member, &["exec", "nobody", "--", "true"]);
    assert_eq!(out.status.code(), Some(125));
}

#[test]
fn exec_ends_when_nobody_reads_its_output() {
    let member = Member::start();
    run(&member, &["run", "--detach", "--name", "web", "--needs", "nginx", "--", "serve"]);
    let mut child = piped(&member, &["exec", "web", "--", "cat"]);
    drop(child.stdout.take());
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"more\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(141));
    member.played.wait("its command is hung up on", |s| s.hung_up.contains(&"exec_box"));
}

#[test]
fn logs_are_printed_and_followed_to_the_end() {
    let member = Member::start();
    run(&member, &["run", "--detach", "--name", "web", "--needs", "nginx", "--", "serve"]);
    assert_eq!(text(&run(&member, &["box", "logs", "web"]).stdout), "out\n");
    let child = piped(&member, &["box", "logs", "-f", "web"]);
    member.played.wait("it is followed", |s| s.calls.iter().filter(|c| c.0 == "box_logs").count() == 2);
    {
        let mut state = member.played.state();
        let b = state.boxes.get_mut("web").unwrap();
        (b.state, b.exit) = (BoxState::Stopped, Some(ExitStatus::Code(4)));
    }
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), text(&out.stdout).as_str()), (Some(0), "out\n"));
    assert!(text(&out.stderr).contains("the application ended with 4"));
}

#[test]
fn the_command_line_is_understood_or_refused_with_2() {
    let member = Member::start();
    for words in [
        vec!["run", "--memory", "much", "--needs", "nginx", "--", "x"],
        vec!["run", "--needs", "Not A Package", "--", "x"],
        vec!["run", "--publish", "80", "--needs", "nginx", "--", "x"],
        vec!["run", "--env", "NOVALUE", "--needs", "nginx", "--", "x"],
        vec!["run", "--name", "../x", "--needs", "nginx", "--", "x"],
        vec!["run", "--rm", "--detach", "--needs", "nginx", "--", "x"],
        vec!["box", "set", "web"],
        vec!["box", "stop", "web", "--grace", "-1"],
        vec!["exec", "web"],
        vec!["lab", "up", "--members", "0"],
        vec!["lab", "up", "--members", "99"],
        vec!["frobnicate"],
    ] {
        let out = run(&member, &words);
        assert_eq!(out.status.code(), Some(2), "{words:?}");
        assert!(text(&out.stderr).starts_with("error: "), "{words:?}: {}", text(&out.stderr));
    }
    assert!(member.played.state().calls.is_empty());
}

#[test]
fn a_file_is_run_and_what_is_wrong_with_one_is_said() {
    let member = Member::start();
    let file = member.dir.path().join("web.toml");
    std::fs::write(
        &file,
        "name = 'web'\nneeds = ['nginx']\ncommand = ['exit', '0']\npublish = ['8080:80']\n",
    )
    .unwrap();
    assert_eq!(run(&member, &["run", "-f", file.to_str().unwrap()]).status.code(), Some(0));
    assert_eq!(member.played.state().boxes["web"].spec.publish[0].host, 8080);
    std::fs::write(&file, "name = 'web'\nnedes = ['nginx']\n").unwrap();
    let out = run(&member, &["run", "-f", file.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(125));
    let told = text(&out.stderr);
    assert!(told.contains("line 2: unknown key \"nedes\"\n  try: did you mean \"needs\"?\n"), "{told}");
}

#[test]
fn every_help_has_examples() {
    fn visit(words: &[String]) -> usize {
        let out = Command::new(GTVP).args(words).arg("--help").output().unwrap();
        let help = text(&out.stdout);
        assert!(
            out.status.success() && help.contains("Examples:"),
            "gtvp {words:?} --help has no examples:\n{help}"
        );
        let commands =
            help.split("\nCommands:\n").nth(1).unwrap_or("").split("\n\n").next().unwrap_or("").to_owned();
        let names = commands.lines().filter(|l| l.starts_with("  ") && !l.starts_with("   "));
        let names = names.filter_map(|l| l.split_whitespace().next()).filter(|n| *n != "help");
        1 + names.map(|n| visit(&[words, &[n.to_owned()]].concat())).sum::<usize>()
    }
    let seen = visit(&[]);
    assert!(seen >= 33, "only {seen} commands were seen");
}

#[test]
fn completions_and_man_pages_are_made() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let out = Command::new(GTVP).args(["completions", shell]).output().unwrap();
        assert!(text(&out.stdout).contains("gtvp"), "{shell}");
    }
    let out = Command::new(GTVP).arg("man").arg(dir.path()).output().unwrap();
    assert!(out.status.success());
    let page = std::fs::read_to_string(dir.path().join("gtvp-box-show.1")).unwrap();
    assert!(page.contains(".SH EXAMPLES\n  gtvp box show"), "{page}");
    assert!(!dir.path().join("gtvp-lab-keep.1").exists(), "what is hidden stays so");
    let page = std::fs::read_to_string(dir.path().join("gtvp.1")).unwrap();
    assert!(page.contains("125"), "exit statuses are documented");
}

#[test]
fn evidence_is_written_as_it_came_or_explained() {
    let member = Member::start();
    let out = run(&member, &["member", "attest", "--nonce", EVIDENCE_NONCE]);
    assert_eq!((out.status.code(), out.stdout.as_slice()), (Some(0), EVIDENCE), "{}", text(&out.stderr));
    let explained = text(&run(&member, &["member", "attest", "--explain"]).stdout);
    for line in
        [&format!("nonce {EVIDENCE_NONCE}"), "GTVP log: ", "binary security", "boot log: none", "(unproven)"]
    {
        assert!(explained.contains(line), "{line} is missing: {explained}");
    }
    for bad in ["5e", "xy", &"5e".repeat(65)] {
        assert_eq!(run(&member, &["member", "attest", "--nonce", bad]).status.code(), Some(2), "{bad}");
    }
}

/// `gtvp verify` on a machine without a member.
fn verify(bytes: &[u8], words: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("evidence.cbor");
    std::fs::write(&path, bytes).unwrap();
    let mut command = Command::new(GTVP);
    command.arg("verify").arg(&path).args(words).env("GTVP_SOCKET", "/nonexistent");
    command.output().unwrap()
}

#[test]
fn evidence_is_verified_offline() {
    let out = verify(EVIDENCE, &[]);
    let said = text(&out.stdout);
    assert_eq!(out.status.code(), Some(0), "{said}{}", text(&out.stderr));
    for words in [
        "consistent",
        "verdict          unknown",
        "SOFTWARE",
        "\nPassed\n",
        "the key signed the quote",
        "\nNot checked\n",
        "files executed after boot: not measured",
        "that the quote is new",
    ] {
        assert!(said.contains(words), "{words:?} is missing: {said}");
    }
    assert!(!said.contains("Failed"), "{said}");
    let out = verify(EVIDENCE, &["--nonce", EVIDENCE_NONCE, "-o", "json"]);
    let found: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&found["conclusion"], &found["verdict"]), (&"consistent".into(), &"unknown".into()));
    assert_eq!(found["claims"]["nonce"], EVIDENCE_NONCE);
    assert!(!found["not_made"].to_string().contains("quote is new"), "{found}");
    assert!(found["authority"].as_str().unwrap().starts_with("nobody's"), "{found}");
}

#[test]
fn evidence_that_does_not_hold_is_refused_by_name() {
    let refused = |bytes: &[u8], words: &[&str]| {
        let out = verify(bytes, words);
        assert_eq!(out.status.code(), Some(1), "{}", text(&out.stdout));
        text(&out.stdout) + &text(&out.stderr)
    };
    let said = refused(EVIDENCE, &["--nonce", &"5e".repeat(32)]);
    assert!(said.contains("REFUSED") && said.contains("bound-elsewhere"), "{said}");
    // The last log entry that goes into the PCR is named.
    let mut changed = EVIDENCE.to_vec();
    let at = changed.windows(10).rposition(|w| w == b"management").unwrap();
    changed[at] = b'M';
    let said = refused(&changed, &[]);
    assert!(said.contains("pcr-mismatch: PCR 14") && said.contains("GTVP log entry"), "{said}");
    assert!(refused(&EVIDENCE[..EVIDENCE.len() - 1], &[]).contains("it ends too early"));
    assert!(refused(&[EVIDENCE, &[0]].concat(), &[]).contains("1 bytes follow"));
    assert!(refused(b"{}", &[]).contains("not an evidence file"));
    assert!(refused(b"", &[]).contains("it ends too early"));
    let huge = vec![0; gtvp_appraisal::file::MAX_FILE + 1];
    assert!(refused(&huge, &[]).contains("more than an evidence file may have"));
    // Roots that are none are a refusal, not an empty list.
    let empty = tempfile::tempdir().unwrap();
    let roots = empty.path().to_str().unwrap();
    assert!(refused(EVIDENCE, &["--roots", roots]).contains("has no certificate"));
    std::fs::write(empty.path().join("root.pem"), "no certificate").unwrap();
    assert!(refused(EVIDENCE, &["--roots", roots]).contains("root.pem is no file of roots"));
}

#[test]
fn a_vendors_certificate_counts_by_the_roots_that_the_reader_gives() {
    // Made by `the_vendors_file_of_the_cli_is_written` of appraisal: ST's certificate, with the one between it and the root.
    let file = include_bytes!("vectors/vendor.cbor");
    let roots = tempfile::tempdir().unwrap();
    let given = |name: &str| {
        let from = format!("{}/../appraisal/tests/vectors/ek/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::copy(from, roots.path().join(name)).unwrap();
    };
    let words = ["--roots", roots.path().to_str().unwrap()];
    let found = |bytes: &[u8], words: &[&str]| -> (Option<i32>, serde_json::Value) {
        let out = verify(bytes, &[words, &["-o", "json"]].concat());
        (out.status.code(), serde_json::from_slice(&out.stdout).unwrap())
    };
    // Nobody's word counts that the reader does not know.
    let (code, said) = found(file, &[]);
    assert_eq!((code, &said["conclusion"]), (Some(0), &"consistent".into()), "{said}");
    assert!(said["authority"].as_str().unwrap().starts_with("nobody's"), "{said}");
    assert!(
        said["not_made"].to_string().contains("without --roots its certificate is not checked"),
        "{said}"
    );
    // Another vendor's root: the certificate leads nowhere, and that is no small matter.
    given("NUVO_2110.pem");
    let (code, said) = found(file, &words);
    assert_eq!((code, &said["conclusion"]), (Some(1), &"refused".into()), "{said}");
    let failed = said["failed"].to_string();
    assert!(failed.contains("ek-certificate") && failed.contains("is no root here"), "{said}");
    let text_form = text(&verify(file, &words).stdout);
    assert!(
        text_form.contains("REFUSED") && text_form.contains("STM TPM EK Intermediate CA 05"),
        "{text_form}"
    );
    // Its own.
    given("STM_RSA_RT.pem");
    let (code, said) = found(file, &words);
    assert_eq!((code, &said["conclusion"]), (Some(0), &"consistent".into()), "{said}");
    assert_eq!(said["verdict"], "unknown", "that EK and AK are in one TPM no file proves");
    let authority = said["authority"].as_str().unwrap();
    assert!(authority.starts_with("certified by ") && authority.contains("STM TPM EK Root CA"), "{said}");
    assert!(said["passed"].to_string().contains("\"ek_certificate\""), "{said}");
    assert!(said["not_made"].to_string().contains("was revoked: the roots have no list"), "{said}");
    // One bit of the certificate: neither the vendor nor the quote stands behind it.
    let mut changed = file.to_vec();
    let at = changed.windows(11).position(|w| w == b"ST33HTPHAHB").unwrap();
    changed[at] ^= 1;
    let (code, said) = found(&changed, &words);
    let failed = said["failed"].to_string();
    assert_eq!(code, Some(1));
    assert!(failed.contains("bound-elsewhere") && failed.contains("its key did not sign"), "{said}");
}

#[test]
fn without_a_member_the_way_to_one_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let command = |words: &[&str]| {
        let mut c = Command::new(GTVP);
        c.args(words).env("GTVP_RUN", dir.path()).env_remove("GTVP_SOCKET").env_remove("GTVP_MEMBER");
        c.output().unwrap()
    };
    let out = command(&["box", "ls"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).contains("no member runs on this machine")
            && text(&out.stderr).contains("gtvp lab up")
    );
    let out = command(&["doctor", "-o", "json"]);
    assert_eq!(out.status.code(), Some(1));
    let checks: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(
        checks.as_array().unwrap().iter().any(|c| c["name"] == "socket" && c["status"] == "failed"),
        "{checks}"
    );
    let out = command(&["--member", "m7", "box", "ls"]);
    assert!(text(&out.stderr).contains("\"m7\""), "{}", text(&out.stderr));
}

#[test]
fn the_member_is_chosen_by_its_name() {
    let member = Member::start();
    let root = tempfile::tempdir().unwrap();
    for (lab, name, socket) in
        [("lab", "m1", "/nonexistent"), ("lab", "m2", member.socket().to_str().unwrap())]
    {
        let dir = root.path().join("lab").join(lab).join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let config = format!(
            "name='{name}'\nstate_dir='/s'\nrun_dir='/r'\napi_socket='{socket}'\nuid_base=200000\nbox_network='10.90.1.0'\ntransit_network='10.91.1.0'\n"
        );
        std::fs::write(dir.join("member.toml"), config).unwrap();
    }
    let ask = |words: &[&str]| {
        let mut c = Command::new(GTVP);
        c.args(words).env("GTVP_RUN", root.path()).env_remove("GTVP_SOCKET").env_remove("GTVP_MEMBER");
        c.output().unwrap()
    };
    assert_eq!(ask(&["--member", "m2", "member", "show"]).status.code(), Some(0));
    assert_eq!(ask(&["--member", "lab/m2", "member", "show"]).status.code(), Some(0));
    // What is named on the command line wins over the environment, before and after the command.
    for words in [["--member", "m2", "member", "show"], ["member", "show", "--member", "m2"]] {
        let mut c = Command::new(GTVP);
        let out =
            c.args(words).env("GTVP_RUN", root.path()).env("GTVP_SOCKET", "/nonexistent/x").output().unwrap();
        assert_eq!(out.status.code(), Some(0), "{words:?}: {}", text(&out.stderr));
    }
    let out = ask(&["member", "show"]);
    assert!(text(&out.stderr).contains("2 members: lab/m1, lab/m2"), "{}", text(&out.stderr));
}
