//! Gossip among a thousand simulated members: the product's engines and rules on a seeded network (sim/src/gossip,
//! domains/security/tests/belief.rs). What they print is `name value` in pairs.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::collections::BTreeMap;

use gtvp_e2e::bench::printed::{cargo, pairs, said};
use gtvp_e2e::bench::{Bench, Figure, bytes};

/// Seeds of a full count, and of a short one.
const SEEDS: (u64, u64) = (10_000, 20);
/// Seeds where each member has few channels.
const SPARSE: (u64, u64) = (200, 2);
const MEMBER_PERIODS: u64 = 1_000_000;
const LINK: u64 = 2_048;

fn main() {
    let mut bench = Bench::begin("gossip", "Gossip among a thousand simulated members");
    let pick = |counts: (u64, u64)| if bench.short { counts.1 } else { counts.0 };
    let (seeds, sparse) = (pick(SEEDS), pick(SPARSE));
    for (channels, seeds, full) in [(None, seeds, SEEDS.0), (Some("12"), sparse, SPARSE.0)] {
        let count = seeds.to_string();
        let mut words = vec!["spread", "--seeds", &count];
        words.extend(channels.into_iter().flat_map(|c| ["--channels", c]));
        let said = sim(&words);
        let (worst, allowed) = (said["worst"], said["allowed"]);
        let few = channels.map_or(String::new(), |c| format!(", each with {c} channels"));
        bench.figure(Figure {
            what: format!("rounds until a change is everywhere among 1,000, a tenth of all frames lost{few}: worst, mean"),
            target: if channels.is_none() { format!("≤ {allowed:.2}") } else { String::new() },
            result: format!("{worst:.0}, {:.2}", said["mean"]),
            reached: channels.is_none().then_some(worst <= allowed && said["everywhere"] == said["seeds"]),
            count: seeds,
            full,
        });
        if channels.is_none() {
            bench.note(format!(
                "Until then a member sends {} on average, in {:.2} rounds.",
                bytes(said["bytes"] as u64),
                said["mean"]
            ));
        }
    }
    if !bench.short {
        busy(&mut bench);
    }
    belief(&mut bench);
    bench.note(
        "A round is half a period. Members are in no step; frames take 1 to 50 ms, a twentieth come twice.",
    );
    bench.end(None);
}

fn busy(bench: &mut Bench) {
    let said = sim(&["busy"]);
    bench.figure(Figure {
        what: "bytes of gossip on a link one way in a round, 1,000 members, a tenth with something new to say each period: most, mean".into(),
        target: format!("≤ {LINK}"),
        result: format!("{:.0}, {:.0}", said["link_most"], said["link_mean"]),
        reached: Some(said["link_most"] <= LINK as f64),
        count: 1,
        full: 1,
    });
    bench.note(format!(
        "There a member sends {} in a round to all others together, and has {:.1} % of what they have said last not yet.",
        bytes(said["member_mean"] as u64),
        said["stale"] / 10.0
    ));
}

fn belief(bench: &mut Bench) {
    let mut command =
        cargo(&["test", "--release", "-p", "gtvp-security", "--test", "belief", "--", "--nocapture"]);
    if !bench.short {
        command.arg("--ignored");
    }
    let said = pairs(&said(command));
    let part = |name: &str, of: &str| 100.0 * said[name] / said[of].max(1.0);
    bench.figure(Figure {
        what: "honest members found untrusted, with a tenth of all frames lost and a tenth of all members standing still".into(),
        target: "0".into(),
        result: format!("{:.0}", said["untrusted"]),
        reached: Some(said["untrusted"] == 0.0),
        count: said["member_periods"] as u64,
        full: MEMBER_PERIODS,
    });
    bench.note(format!(
        "The count is of member-periods, each as {:.0} observers saw it. There what is lost does not come again: {:.1} % of the verdicts about members that had not stood still for three periods were *unknown*, and observers asked for evidence themselves in {:.0} % of their looks, since that many results were missing.",
        said["observers"],
        part("lapsed", "awake"),
        part("asked", "looks"),
    ));
}

fn sim(words: &[&str]) -> BTreeMap<String, f64> {
    let mut command = cargo(&["run", "--quiet", "--release", "-p", "gtvp-sim", "--", "gossip"]);
    command.args(words);
    pairs(&said(command))
}
