//! How often members quote when each appraises each, and how long such a round is on a link: HSP's engines in the simulator
//! (`gtvp-sim quotes`), and `security` with a software TPM (domains/security/tests/results.rs).
#![allow(clippy::expect_used, clippy::unwrap_used)]

use gtvp_e2e::bench::printed::{cargo, pairs, said};
use gtvp_e2e::bench::{Bench, Figure};

/// Members, in a full count and in a short one.
const MEMBERS: (&[u32], &[u32]) = (&[2, 3, 8, 64, 200], &[2, 8]);
const PERIODS: u64 = 20;
const LINK: u64 = 2_048;
const ROUND: &str = "a_round_on_a_link_is_small_however_many_ask_and_so_is_what_is_told";

fn main() {
    let mut bench = Bench::begin("quotes", "Quotes of members each of whom appraises each");
    let members = if bench.short { MEMBERS.1 } else { MEMBERS.0 };
    let all: Vec<(u32, f64)> = members.iter().map(|n| (*n, quotes(*n))).collect();
    let words: Vec<String> = all.iter().map(|(n, quotes)| format!("{quotes:.1} by {n}")).collect();
    bench.figure(Figure {
        what: "quotes of all members in a period, by N members each of whom appraises each".into(),
        target: "≤ N".into(),
        result: words.join(", "),
        reached: Some(all.iter().all(|(n, quotes)| *quotes <= f64::from(*n))),
        count: all.len() as u64,
        full: MEMBERS.0.len() as u64,
    });
    bench.note(format!(
        "Over {PERIODS} periods of 2 s, from the twentieth on: by then all who challenge a member are in step. A round takes longer than a period by the time of a quote and what chance adds, so there are less than N."
    ));
    let bytes = round();
    bench.figure(Figure {
        what: "bytes of a round on a link: challenge and evidence for one of 200 challengers, nothing new in the logs".into(),
        target: format!("≤ {LINK}"),
        result: bytes.to_string(),
        reached: Some(bytes <= LINK),
        count: 1,
        full: 1,
    });
    bench.end(None);
}

fn quotes(members: u32) -> f64 {
    let (members, periods) = (members.to_string(), PERIODS.to_string());
    let words = ["run", "--quiet", "--release", "-p", "gtvp-sim", "--", "quotes", "--members", &members];
    pairs(&said(cargo(&[&words[..], &["--periods", &periods]].concat())))["quotes"]
}

/// `a round: N B challenge, N B evidence; …`
fn round() -> u64 {
    let text = said(cargo(&["test", "-p", "gtvp-security", "--test", "results", ROUND, "--", "--nocapture"]));
    let line = text.lines().find_map(|l| l.split_once("a round: ")).expect("a round").1;
    let numbers = line.split([';', ',']).take(2).map(|part| part.split_ascii_whitespace().next().unwrap());
    numbers.map(|n| n.parse::<u64>().expect("a number")).sum()
}
