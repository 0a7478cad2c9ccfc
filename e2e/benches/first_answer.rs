//! What nginx's first answer takes from a member that has nothing yet: bytes imported and components linked, against the whole
//! closure; and, beside it, everything else that came over the wire for it.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use gtvp_e2e::Lab;
use gtvp_e2e::bench::{Bench, Figure, bytes};

const PORT: u16 = 18081;
const RUN: &[&str] = &[
    "run",
    "--detach",
    "--name",
    "first",
    "--needs",
    "nginx",
    "--publish",
    "18081:80",
    "--",
    "nginx",
    "-g",
    "daemon off;",
];

fn main() {
    let mut bench = Bench::begin("first_answer", "Bytes and components to the first answer, from nothing");
    // The short form takes a member that may have been before.
    let lab = if bench.short { Lab::up("bench") } else { Lab::fresh("bench-first", 1) };
    let before = lab.bytes_from_sources();
    lab.ok(RUN);
    let (status, _) = lab.get(PORT, "/").expect("nginx answers");
    assert!(status.contains(" 200 "), "{status}");
    let wire = lab.bytes_from_sources() - before;
    let shown = lab.json(&["box", "show", "first"]);
    let of = |key: &str| shown["closure"][key].as_u64().expect("a count");
    let (components, closure, linked, linked_bytes) =
        (of("components"), of("bytes"), of("linked"), of("linked_bytes"));
    assert!(linked < components, "the whole closure was linked");

    let percent = |part: u64| format!("{:.1} %", part as f64 / closure as f64 * 100.0);
    let count = u64::from(!bench.short);
    bench.figure(Figure {
        what: "linked by nginx's box to its first answer, of its closure".into(),
        target: "less than the closure".into(),
        result: format!(
            "{linked} of {components} components, {} of {} ({})",
            bytes(linked_bytes),
            bytes(closure),
            percent(linked_bytes)
        ),
        reached: Some(linked_bytes < closure),
        count,
        full: 1,
    });
    if !bench.short {
        let store = Store::of(&lab);
        bench.figure(Figure {
            what: "imported to nginx's first answer, for the builder box too, against its closure".into(),
            target: "less than the closure".into(),
            result: format!(
                "{} packages, {} of {} ({})",
                store.packages,
                bytes(store.bytes),
                bytes(closure),
                percent(store.bytes)
            ),
            reached: Some(store.bytes < closure),
            count,
            full: 1,
        });
        let row = |what: &str, n: u64| vec![what.to_owned(), bytes(n)];
        bench.table(
            &["What came over the wire", "bytes"],
            vec![
                row("packages that nginx's box linked", linked_bytes),
                row("packages that the builder box alone needed: maintainer scripts, once for a composition", store.bytes.saturating_sub(linked_bytes)),
                row("the kernel's package, which is not in the closure", store.kernel),
                row(
                    "the catalogue: signed package indices, Contents indices, beginnings of packages; headers of HTTP and of packets",
                    wire.saturating_sub(store.bytes + store.kernel),
                ),
                row("all, by the kernel's count in the fetcher's network namespace", wire),
            ],
        );
        bench.note("From an empty state directory. Sizes of packages are those of their .deb files.");
        bench.note(
            "The catalogue is fetched once a member, not once a box. It is told so that nobody takes the bytes imported for all that came over the wire.",
        );
    }
    lab.remove("first");
    bench.end(Some(&lab));
}

/// What is in the store.
#[derive(Default)]
struct Store {
    packages: u64,
    bytes: u64,
    kernel: u64,
}

impl Store {
    fn of(lab: &Lab) -> Self {
        let mut store = Self::default();
        for component in lab.json(&["component", "ls"]).as_array().expect("components") {
            let size = component["source_bytes"].as_u64().expect("a size");
            match component["reference"].as_str().expect("a reference") {
                r if r.starts_with("deb:linux-image") => store.kernel += size,
                r if r.starts_with("deb:") => {
                    (store.packages, store.bytes) = (store.packages + 1, store.bytes + size)
                }
                // Made here: nothing was fetched for it.
                _ => {}
            }
        }
        store
    }
}
