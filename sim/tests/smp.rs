//! x
use gtvp_sim::smp::{RUNS, Tables};

fn violated(tables: &Tables) -> Option<(String, usize)> {
    RUNS.iter().take(16).find_map(|run| {
        run.explore(tables).violation.map(|(w, way)| (w.chars().take(70).collect(), way.len()))
    })
}

#[test]
fn writes() {
    let good = Tables::default();
    for (at, row) in good.source.iter().enumerate() {
        if row.write {
            let mut t = good.clone();
            t.source[at].write = false;
            println!("source {at} {:?} {:?} unwritten: {:?}", row.from, row.on, violated(&t));
        }
    }
    for (at, row) in good.target.iter().enumerate() {
        if row.write {
            let mut t = good.clone();
            t.target[at].write = false;
            println!("target {at} {:?} {:?} unwritten: {:?}", row.from, row.on, violated(&t));
        }
    }
}
