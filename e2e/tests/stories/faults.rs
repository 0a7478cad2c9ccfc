//! What happens when something dies.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gtvp_e2e::{Lab, SOON, http_get, signal, until};
use rustix::process::Signal;

use crate::running::nginx;

pub fn a_kernel_that_panics_is_told_with_its_last_words(lab: &Lab) {
    nginx(lab, "web", 8080);
    lab.gtvp(&["exec", "web", "--", "sh", "-c", "echo c > /proc/sysrq-trigger"]);
    until("the box has failed", SOON, || (lab.state_of("web") == "failed").then_some(()));
    let failure = lab.find("web").unwrap()["failure"].as_str().unwrap_or_default().to_owned();
    assert!(failure.contains("kernel panicked"), "{failure}");
    assert!(
        lab.ok(&["box", "logs", "--console", "web"]).contains("Kernel panic"),
        "the console's end is lost"
    );
    lab.ok(&["box", "start", "web"]);
    assert_eq!(lab.state_of("web"), "running");
    lab.remove("web");
}

/// Asks for the page over and over until it is told to end; notes what failed.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn on(address: String, port: u16) -> Self {
        let (stop, asked, failed) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::default());
        let failures: Arc<Mutex<Vec<String>>> = failed;
        let threads = (0..2)
            .map(|_| {
                let (stop, asked, failures, address) =
                    (stop.clone(), asked.clone(), failures.clone(), address.clone());
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        match http_get(&address, port, "/") {
                            Ok((status, body)) if status.contains("200") && body.contains("nginx") => {}
                            Ok((status, _)) => failures.lock().unwrap().push(status),
                            Err(e) => failures.lock().unwrap().push(e),
                        }
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        Self { stop, asked, failed: failures, threads }
    }

    fn goes_on(&self) {
        let before = self.asked.load(Ordering::Relaxed);
        until("the box goes on serving", SOON, || {
            (self.asked.load(Ordering::Relaxed) > before + 10).then_some(())
        });
        let failed = self.failed.lock().unwrap();
        assert!(failed.is_empty(), "requests failed: {failed:?}");
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|t| t.join().unwrap());
        assert!(self.failed.lock().unwrap().is_empty());
    }
}

pub fn a_box_serves_while_each_process_is_killed(lab: &Lab) {
    nginx(lab, "web", 8080);
    lab.settled();
    let load = Load::on(lab.address(), 8080);
    for domain in ["management", "security", "components", "communication", "drivers", "gateway"] {
        let pid = lab.domain_pid(domain).expect("the domain runs");
        let killed = Instant::now();
        signal(pid, Signal::KILL);
        until(&format!("{domain} is back"), SOON, || lab.domain_pid(domain).filter(|p| *p != pid));
        // Asking takes its own time on a loaded machine; a second of it is the domain's.
        assert!(killed.elapsed() < Duration::from_secs(4), "{domain} took {:?}", killed.elapsed());
        load.goes_on();
        assert_eq!(lab.state_of("web"), "running", "after {domain} was killed");
        assert_eq!(lab.ok(&["exec", "web", "--", "echo", "alive"]), "alive\n", "after {domain} was killed");
    }

    let lazyfs = lab.processes(&["gtvp-lazyfs"]);
    assert_eq!(lazyfs.len(), 1, "one box, {lazyfs:?}");
    signal(lazyfs[0], Signal::KILL);
    until("the file-system server is back", SOON, || {
        lab.processes(&["gtvp-lazyfs"]).into_iter().find(|p| *p != lazyfs[0])
    });
    // A command whose files were never read needs the new server.
    assert!(
        lab.ok(&["exec", "web", "--", "sh", "-c", "find /usr/share/nginx -type f | xargs cat | wc -c"])
            .trim()
            .parse::<u64>()
            .unwrap()
            > 0
    );
    load.goes_on();

    let supervisor = lab.gtvpd().expect("gtvpd runs");
    signal(supervisor, Signal::KILL);
    until("gtvpd is back and answers", SOON, || {
        let new = lab.gtvpd().filter(|p| *p != supervisor)?;
        (lab.gtvp(&["member", "show"]).code == 0).then_some(new)
    });
    load.goes_on();
    assert_eq!(lab.state_of("web"), "running", "after gtvpd was killed");
    assert_eq!(lab.ok(&["exec", "web", "--", "echo", "alive"]), "alive\n", "after gtvpd was killed");
    // The new gtvpd is the file-system server's keeper now.
    let lazyfs = lab.processes(&["gtvp-lazyfs"]);
    signal(lazyfs[0], Signal::KILL);
    until("the file-system server is back again", SOON, || {
        lab.processes(&["gtvp-lazyfs"]).into_iter().find(|p| *p != lazyfs[0])
    });
    assert!(
        lab.ok(&["exec", "web", "--", "sh", "-c", "cat /usr/sbin/nginx | wc -c"])
            .trim()
            .parse::<u64>()
            .unwrap()
            > 1000
    );
    load.goes_on();
    load.end();
    lab.remove("web");
}

pub fn a_source_that_cannot_be_reached_is_named(lab: &Lab) {
    // The member's way out is taken away, and a package that it has never seen is asked for.
    let route = |verb: &str, rest: &[&str]| {
        let out = Command::new("ip")
            .args(["-n", &lab.namespace(), "route", verb])
            .args(rest)
            .output()
            .expect("ip runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let way = route("show", &["default"]);
    let way: Vec<&str> = way.split_whitespace().collect();
    route("del", &["default"]);
    let said = lab.gtvp(&["run", "--rm", "--name", "cut-off", "--needs", "bc", "--", "bc", "--version"]);
    route("add", &way);
    assert_ne!(said.code, 0, "{}", said.out);
    assert!(said.err.contains("reached") && said.err.contains("try:"), "{}", said.err);
    assert!(lab.find("cut-off").is_none());
    // The way is back, and so is the member.
    let bc = lab.gtvp(&["run", "--rm", "--name", "back", "--needs", "bc", "--", "sh", "-c", "echo 6*7 | bc"]);
    assert_eq!((bc.code, bc.out.as_str()), (0, "42\n"), "{}", bc.err);
}
