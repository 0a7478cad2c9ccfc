//! One appraisal of full evidence (AK, signature, binding, epoch, a boot log of 150 events, GTVP's own log, reference
//! values) against the least that it could be: the bare P-256 verification and the hashing that the logs need.
//!
//! `cargo bench -p gtvp-appraisal` prints appraisals a second on one core and the ratio of times, in turn.
//! `… -- instructions appraise|bare N` does N of one and prints nothing: for callgrind. e2e/benches/appraisal.rs publishes both.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on ends")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use gtvp_appraisal::appraise::{Attester, State, TpmClass, appraise};
use gtvp_appraisal::bootlog::BootLog;
use gtvp_appraisal::evidence::Evidence;
use gtvp_appraisal::reference::{ReferenceSet, Status};
use support::*;

const EVENTS: usize = 150;
const PAIRS: usize = 15;
const SLICE: Duration = Duration::from_millis(200);

/// A member whose boot log has exactly [`EVENTS`] entries: a real log, and more commands of the same boot loader.
fn machine() -> Machine {
    let mut machine = Machine::booted("kl_bbm_sb");
    let entries = BootLog::parse(&machine.boot).unwrap().events().len();
    for n in entries..EVENTS {
        let text = format!("grub_cmd: insmod module-{n}\0");
        let hash = BANK.hash(text.trim_start_matches("grub_cmd: ").trim_end_matches('\0').as_bytes());
        machine.boot.extend(8u32.to_le_bytes());
        machine.boot.extend(0x0du32.to_le_bytes());
        machine.boot.extend(1u32.to_le_bytes());
        machine.boot.extend(0x0bu16.to_le_bytes());
        machine.boot.extend(hash.as_bytes());
        machine.boot.extend((text.len() as u32).to_le_bytes());
        machine.boot.extend(text.as_bytes());
        machine.extend(8, &hash);
    }
    machine.start();
    machine
}

struct Full {
    evidence: Evidence,
    attester: Attester,
    references: ReferenceSet,
}

impl Full {
    fn appraise(&self) {
        let found = appraise(&self.evidence, &question(&self.attester, None), &self.references, NOW);
        assert_eq!(found.verdict.state, State::Trusted, "{:?}", found.verdict.told());
        black_box(found);
    }
}

/// What no appraisal can do without.
struct Bare {
    key: ParsedPublicKey,
    quote: Vec<u8>,
    signature: Vec<u8>,
    extends: Vec<[u8; 64]>,
    values: Vec<u8>,
    entries: Vec<Vec<u8>>,
}

impl Bare {
    fn of(machine: &Machine, full: &Full) -> Self {
        let public = &machine.ak.public;
        let point = [&[4u8], &public[22..54], &public[56..88]].concat();
        let log = BootLog::parse(&machine.boot).unwrap();
        let extends = log.events().iter().filter(|e| e.extends()).map(|e| {
            let mut both = [0; 64];
            both[32..].copy_from_slice(e.digest(BANK).unwrap().as_bytes());
            both
        });
        let own = PROGRAMS.len();
        let signature = &full.evidence.signature;
        Self {
            key: ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).unwrap(),
            quote: full.evidence.quote.clone(),
            signature: [&signature[6..38], &signature[40..72]].concat(),
            extends: extends.chain((0..own).map(|_| [1; 64])).collect(),
            values: vec![7; machine.quoted.len() * 32],
            entries: vec![vec![3; 55]; own],
        }
    }

    fn run(&self) {
        self.key.verify_sig(&self.quote, &self.signature).unwrap();
        black_box(digest(&SHA256, &self.values));
        let hash = |bytes: &[u8]| {
            black_box(digest(&SHA256, bytes));
        };
        self.extends.iter().for_each(|e| hash(e));
        self.entries.iter().for_each(|e| hash(e));
    }
}

/// How often `work` is done in [`SLICE`], a second.
fn rate(work: &dyn Fn()) -> f64 {
    let begin = Instant::now();
    let mut times = 0u32;
    while begin.elapsed() < SLICE {
        (0..16).for_each(|_| work());
        times += 16;
    }
    f64::from(times) / begin.elapsed().as_secs_f64()
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

fn main() {
    let machine = machine();
    let boot = manifest("host", 1, machine.boot_rules(Status::Current));
    let references = references(&[boot, programs()]);
    let full = Full {
        evidence: machine.evidence(NONCE),
        attester: machine.ak.attester(TpmClass::Hardware),
        references,
    };
    let bare = Bare::of(&machine, &full);

    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let ["instructions", what, times] = arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        let times: usize = times.parse().unwrap();
        for _ in 0..times {
            if what == "bare" { bare.run() } else { full.appraise() }
        }
        return;
    }
    let (mut ours, mut least, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let (a, b) = (rate(&|| full.appraise()), rate(&|| bare.run()));
        ours.push(a);
        least.push(b);
        ratios.push(b / a);
    }
    println!("appraisals a second and core, {EVENTS}-event log: {:.0} (median of {PAIRS})", median(ours));
    println!("bare P-256 verification and hashing: {:.0} a second", median(least));
    println!("time of an appraisal / of the bare: {:.3}", median(ratios));
}
