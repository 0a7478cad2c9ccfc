use gtvp_sim::smp::{Budget, Model, Tables, explore};

#[test]
fn one() {
    let model = Model::new(&[(0, 1)]);
    let t = std::time::Instant::now();
    let found = explore(&model, &Tables::default(), Budget { kills: 1, power: 1, ..Budget::default() });
    println!("{} worlds {} steps {:?}", found.worlds, found.steps, t.elapsed());
    if let Some((what, way)) = found.violation {
        panic!("{what}\n{}", way.join("\n"));
    }
}
