//! What a start fetches when the member has run something before: the same again (nothing), and another application that shares
//! its OS (only what is its own).
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use gtvp_e2e::bench::{Bench, Figure, bytes};
use gtvp_e2e::{Lab, SOON, tcp, until};

/// A second box may fetch this part of what the first did.
const SHARE: f64 = 3.0;
const PORT: u16 = 18082;
const NGINX: &[&str] = &["--needs", "nginx", "--publish", "18082:80", "--", "nginx", "-g", "daemon off;"];
const REDIS: &[&str] =
    &["--needs", "redis-server", "--publish", "18082:6379", "--", "redis-server", "--protected-mode", "no"];

fn main() {
    let mut bench = Bench::begin("sharing", "Bytes fetched when the OS is there already");
    let lab = if bench.short { Lab::up("bench") } else { Lab::fresh("bench-sharing", 1) };
    let page = |lab: &Lab| assert!(lab.get(PORT, "/").expect("nginx answers").0.contains(" 200 "));
    let pong =
        |lab: &Lab| assert_eq!(tcp(&lab.address(), PORT, b"PING\r\n").expect("redis answers"), "+PONG\r\n");

    let first = fetched(&lab, NGINX, page);
    let warm = fetched(&lab, NGINX, page);
    bench.figure(Figure {
        what: "fetched by a warm start of nginx".into(),
        target: "0 bytes".into(),
        result: format!("{} bytes", warm.wire),
        reached: Some(warm.wire == 0),
        count: 1,
        full: 1,
    });
    assert_eq!(warm.wire, 0, "a warm start fetched something");
    if !bench.short {
        let second = fetched(&lab, REDIS, pong);
        let os = closure(&lab, NGINX);
        tell(&mut bench, &first, &second, &os);
    }
    bench.end(Some(&lab));
}

fn tell(bench: &mut Bench, first: &Fetched, second: &Fetched, os: &BTreeSet<String>) {
    let shared: u64 = second.packages.iter().filter(|(n, _)| os.contains(name(n))).map(|(_, b)| b).sum();
    let packages: u64 = second.packages.values().sum();
    let percent = |part: u64, whole: u64| part as f64 / whole as f64 * 100.0;
    for (what, n) in [
        (
            "fetched of the OS that they share by a second box (redis-server after nginx) ÷ all by the first",
            shared,
        ),
        ("fetched in all by that second box, its own packages too ÷ all by the first", second.wire),
    ] {
        let part = percent(n, first.wire);
        bench.figure(Figure {
            what: what.into(),
            target: format!("≤ {SHARE} %"),
            result: format!("{part:.2} % ({} of {})", bytes(n), bytes(first.wire)),
            reached: Some(part <= SHARE),
            count: 1,
            full: 1,
        });
    }
    let row =
        |what: &str, n: u64| vec![what.to_owned(), bytes(n), format!("{:.2} %", percent(n, first.wire))];
    bench.table(
        &["The second box", "bytes", "of the first's"],
        vec![
            row("packages that only it needs", packages - shared),
            row("packages of the OS that they share, which the first had not imported", shared),
            row(
                "catalogue: beginnings of packages; headers of HTTP and of packets",
                second.wire.saturating_sub(packages),
            ),
            row("all, by the kernel's count in the fetcher's network namespace", second.wire),
        ],
    );
    bench.note(
        "Both on one member that began with an empty state directory; for both a builder box ran the maintainer scripts. All bytes \
         over the wire are counted, on both sides: the first box's have the catalogue and the kernel in them.",
    );
    let firsts: u64 = first.packages.values().sum();
    bench.note(format!(
        "Packages alone, without the catalogue on either side: {} of {} ({:.2} %), of which the OS that they share {:.2} %.",
        bytes(packages),
        bytes(firsts),
        percent(packages, firsts),
        percent(shared, firsts),
    ));
    let names: Vec<String> =
        second.packages.iter().map(|(n, b)| format!("{} {}", name(n), bytes(*b))).collect();
    bench.note(format!("The second box's packages: {}.", names.join(", ")));
}

/// What one start brought in.
struct Fetched {
    wire: u64,
    /// Packages that are new in the store (`nginx=1.22.1-9:amd64`), and their bytes.
    packages: BTreeMap<String, u64>,
}

/// `nginx` of `nginx=1.22.1-9:amd64`.
fn name(package: &str) -> &str {
    package.split('=').next().unwrap_or(package)
}

fn in_store(lab: &Lab) -> BTreeMap<String, u64> {
    let store = lab.json(&["component", "ls"]);
    let package = |c: &serde_json::Value| {
        Some((c["reference"].as_str()?.strip_prefix("deb:")?.to_owned(), c["source_bytes"].as_u64()?))
    };
    store.as_array().expect("components").iter().filter_map(package).collect()
}

fn run(lab: &Lab, words: &[&str]) {
    lab.ok(&[&["run", "--detach", "--name", "sharing"], words].concat());
}

fn fetched(lab: &Lab, words: &[&str], answers: impl Fn(&Lab)) -> Fetched {
    // The connections of an earlier start are kept for a while, and their end takes packets too.
    until("apt and fetcher have ended", SOON * 2, || {
        lab.processes(&["gtvp-fetcher"]).is_empty().then_some(())
    });
    let (wire, before) = (lab.bytes_from_sources(), in_store(lab));
    run(lab, words);
    answers(lab);
    let wire = lab.bytes_from_sources() - wire;
    let mut packages = in_store(lab);
    packages.retain(|name, _| !before.contains_key(name));
    lab.remove("sharing");
    Fetched { wire, packages }
}

/// Names of all packages of a closure, linked or not. Asked last: the asking may link some.
fn closure(lab: &Lab, words: &[&str]) -> BTreeSet<String> {
    run(lab, words);
    let list = lab.ok(&["exec", "sharing", "--", "sed", "-n", "s/^Package: //p", "/var/lib/dpkg/status"]);
    lab.remove("sharing");
    list.lines().map(str::to_owned).collect()
}
