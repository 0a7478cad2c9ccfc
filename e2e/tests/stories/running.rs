//! Applications in lazy boxes.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use gtvp_e2e::{Ended, Lab, START_WITHIN, until};

fn number(v: &serde_json::Value) -> u64 {
    v.as_u64().unwrap_or_else(|| panic!("{v} is no number"))
}

/// Starts nginx in a box and gives it in full.
pub fn nginx(lab: &Lab, name: &str, port: u16) -> serde_json::Value {
    let publish = format!("{port}:80");
    lab.ok(&[
        "run",
        "--detach",
        "--name",
        name,
        "--needs",
        "nginx",
        "--publish",
        &publish,
        "--",
        "nginx",
        "-g",
        "daemon off;",
    ]);
    until("nginx answers", START_WITHIN, || lab.get(port, "/").ok());
    lab.find(name).expect("the box is listed")
}

pub fn nginx_starts_with_a_fraction_of_its_closure(lab: &Lab) {
    let web = nginx(lab, "web", 8080);
    let (status, body) = lab.get(8080, "/").expect("nginx answers");
    assert!(status.contains("200"), "{status}");
    assert!(body.contains("Welcome to nginx"), "{body}");

    let listed = &lab.boxes()[0];
    assert_eq!(listed["name"], "web");
    assert_eq!(listed["state"], "running");
    assert_eq!(listed["kind"], "lazy");
    assert_eq!(listed["member"], "m1");
    assert_eq!(listed["published"][0], "8080:80/tcp");
    assert!(listed["address"].as_str().unwrap().starts_with("10."), "{listed}");

    let closure = &web["closure"];
    let (linked, all) = (number(&closure["linked"]), number(&closure["components"]));
    assert!(linked > 2 && linked * 2 < all, "{linked} of {all} components are linked");
    assert!(number(&closure["linked_bytes"]) < number(&closure["bytes"]));
    let because = web["linked"].as_array().unwrap().iter().filter(|l| l["because_of"].is_string());
    assert!(because.count() > 0, "no component was linked by a fault: {}", web["linked"]);
    for component in web["linked"].as_array().unwrap() {
        let not_checked = component["appraisal"]["not_checked"].to_string();
        assert!(not_checked.contains("TPM evidence"), "{component}");
    }
    let nginx = web["linked"]
        .as_array()
        .unwrap()
        .iter()
        .find(|l| l["component"].as_str().unwrap().contains("nginx="));
    let checked = nginx.expect("nginx itself is linked")["appraisal"]["checked"].to_string();
    assert!(checked.contains("apt signature chain") && checked.contains("manifest signature"), "{checked}");
    lab.remove("web");
}

pub fn an_application_ends_with_its_own_status(lab: &Lab) {
    let run = |name: &str, code: &str| {
        lab.gtvp(&[
            "run", "--rm", "--name", name, "--needs", "python3", "--memory", "384M", "--", "python3", "-c",
            code,
        ])
    };
    let calc = run("calc", "print(6*7)");
    assert_eq!((calc.code, calc.out.as_str()), (0, "42\n"), "{}", calc.err);
    let seven = run("seven", "import sys; print('to stderr', file=sys.stderr); sys.exit(7)");
    assert_eq!((seven.code, seven.out.as_str()), (7, ""), "{}", seven.err);
    assert!(seven.err.contains("to stderr"), "{}", seven.err);
    assert!(lab.boxes().is_empty(), "a box that ended with --rm is still there");
}

pub fn output_is_passed_on_at_once_and_its_reader_ends_it(lab: &Lab) {
    let mut command = lab.command(&[
        "run",
        "--name",
        "talker",
        "--needs",
        "python3",
        "--publish",
        "8090:80",
        "--",
        "python3",
        "-c",
        "import time\nwhile True: print('said', flush=True); time.sleep(.2)",
    ]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut child = Ended(child);
    let mut out = BufReader::new(child.0.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "said\n");
    let shown = lab.find("talker").unwrap();
    assert_eq!((&shown["state"], &shown["ready_ms"]), (&"running".into(), &serde_json::Value::Null));
    // What is only waited for can be looked into, and is asked to end before it is ended.
    assert_eq!(lab.ok(&["exec", "talker", "--", "echo", "inside"]), "inside\n");
    drop(out);
    let status = until("gtvp ends", START_WITHIN, || child.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(141));
    assert!(lab.find("talker").is_none(), "a box whose output nobody reads is left behind");
    let events = lab.json(&["events", "--tail", "20"]);
    let exited = events.as_array().unwrap().iter().rfind(|e| e["kind"] == "box.exited").unwrap();
    assert!(exited["message"].as_str().unwrap().contains("signal 15"), "it was not asked to end: {exited}");
}

pub fn a_detached_box_that_ends_at_once_is_told(lab: &Lab) {
    // With a port that never listens the start is not over before the application is.
    let ran = lab.gtvp(&[
        "run",
        "--detach",
        "--name",
        "brief",
        "--needs",
        "python3",
        "--publish",
        "8091:80",
        "--",
        "false",
    ]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("ended"), "{ran:?}");
    assert_eq!(lab.state_of("brief"), "stopped");
    lab.remove("brief");
}

pub fn redis_answers_on_its_published_port(lab: &Lab) {
    lab.ok(&[
        "run",
        "--detach",
        "--name",
        "db",
        "--needs",
        "redis-server",
        "--publish",
        "6379:6379",
        "--",
        "redis-server",
        "--protected-mode",
        "no",
    ]);
    let address = lab.address();
    let pong = until("redis answers", START_WITHIN, || gtvp_e2e::tcp(&address, 6379, b"PING\r\n").ok());
    assert_eq!(pong, "+PONG\r\n");
    lab.remove("db");
}

pub fn a_box_can_be_a_file(lab: &Lab) {
    let file = std::env::temp_dir().join(format!("gtvp-e2e-{}.toml", std::process::id()));
    let path = file.to_str().unwrap();
    let good = "name = 'filed'\nneeds = ['python3']\nmemory = '384M'\ncommand = ['python3', '-c', 'print(\"from a file\")']\n";
    std::fs::write(&file, good.replace("memory", "memroy")).unwrap();
    let said = lab.refused(&["run", "-f", path]);
    assert!(said.contains("memroy") && said.contains("memory"), "no hint at the right key: {said}");
    assert!(lab.find("filed").is_none());
    std::fs::write(&file, good).unwrap();
    assert_eq!(lab.ok(&["run", "-f", path]), "from a file\n");
    let ended = lab.find("filed").expect("a box that ended is kept");
    assert_eq!(ended["state"], "stopped");
    assert_eq!(ended["exit"]["code"], 0);
    assert_eq!(lab.ok(&["box", "logs", "filed"]), "from a file\n");
    lab.remove("filed");
    std::fs::remove_file(&file).unwrap();
}

pub fn a_second_box_shares_what_the_first_has(lab: &Lab) {
    nginx(lab, "first", 8081);
    let second = nginx(lab, "second", 8082);
    let fetched: u64 = second["linked"].as_array().unwrap().iter().map(|l| number(&l["fetched_bytes"])).sum();
    assert_eq!(fetched, 0, "a box whose components are all there fetched {fetched} bytes");
    let same = |name: &str| lab.find(name).unwrap()["composition"].clone();
    assert_eq!(same("first"), same("second"), "the same needs gave two compositions");
    lab.remove("first");
    lab.remove("second");
}
