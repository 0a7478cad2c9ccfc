//! A corpus of 10,000 appraisals of different members, one in a hundred corrupted in one of many ways: every corrupted one
//! is refused by its right name, every other one is trusted. The corpus follows from a seed, which a failure prints.
//! `GTVP_CORPUS=N` makes it smaller or larger.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::collections::BTreeMap;

use gtvp_appraisal::appraise::{Attester, Held, State, TpmClass, appraise};
use gtvp_appraisal::bootlog::BootLog;
use gtvp_appraisal::evidence::{Evidence, LogPart};
use gtvp_appraisal::ownlog::EntryKind;
use gtvp_appraisal::reference::{FileRule, ReferenceSet, Rule, Status};
use gtvp_model::digest::Digest;
use support::*;

const SEED: u64 = 0x6774_7670;

/// xorshift64*: a corpus needs no better.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }
}

const LOGS: [&str; 4] = ["kl_bbm_sb", "ga_crypto_agile_eventlog", "gtt_rhel8-uefi.bin", "gce9009_eventlog"];

/// Ways to corrupt, each with the name by which it must be refused.
const WAYS: [(&str, &str); 24] = [
    ("replayed: another nonce", "bound-elsewhere"),
    ("a bit of the signature", "signature"),
    ("a bit of the quote", "signature"),
    ("another member's signature", "signature"),
    ("another member's evidence", "other-ak"),
    ("a cut quote, signed", "malformed-quote"),
    ("SHA-1 bank", "sha1-bank"),
    ("a PCR left out", "pcr-not-quoted"),
    ("a PCR value changed", "pcr-values"),
    ("boot log withheld", "log-absent"),
    ("boot log cut inside an entry", "boot-log"),
    ("boot log cut between entries", "pcr-mismatch"),
    ("a digest of the boot log changed", "pcr-mismatch"),
    ("boot log of another machine", "pcr-mismatch"),
    ("an unlogged extend of PCR 4", "pcr-mismatch"),
    ("an unknown boot program", "boot-entry"),
    ("own log cut", "pcr-mismatch"),
    ("own log rewritten", "pcr-mismatch"),
    ("a replaced domain", "own-entry"),
    ("an IMA entry changed", "ima-log"),
    ("an IMA entry removed", "ima-mismatch"),
    ("IMA log withheld", "pcr-unexplained"),
    ("an unknown file", "file"),
    ("TPM reset", "tpm-reset"),
];

struct Member {
    machine: Machine,
    attester: Attester,
    held: Held,
}

fn member(n: usize, references: &ReferenceSet) -> Member {
    let mut machine = Machine::booted(LOGS[n % LOGS.len()]);
    machine.start();
    machine.start_ima();
    for file in 0..20u8 {
        machine.execute(&format!("/usr/bin/{file}"), &BANK.hash(&[file]));
    }
    let attester = machine.ak.attester(TpmClass::Hardware);
    let found = appraise(&machine.evidence(NONCE), &question(&attester, None), references, NOW);
    let held = found.held.unwrap_or_else(|| panic!("{:?}", found.verdict.told()));
    Member { machine, attester, held }
}

fn flip(bytes: &mut [u8], from: usize, random: &mut Random) {
    let at = from + random.below(bytes.len() - from);
    bytes[at] ^= 1 << random.below(8);
}

/// Copies a machine with the same key, to let something happen to it.
fn twin(member: &mut Member) -> Machine {
    let machine = &member.machine;
    Machine {
        ak: Key::ak(),
        boot: machine.boot.clone(),
        ima: machine.ima.clone(),
        own: machine.own.clone(),
        pcrs: machine.pcrs.clone(),
        quoted: machine.quoted.clone(),
        ..*machine
    }
}

/// Evidence of a member to which `happen` happened, signed by its own key.
fn after(member: &mut Member, happen: impl FnOnce(&mut Machine)) -> Evidence {
    let mut changed = twin(member);
    happen(&mut changed);
    std::mem::swap(&mut changed.ak, &mut member.machine.ak);
    let evidence = changed.evidence(NONCE);
    std::mem::swap(&mut changed.ak, &mut member.machine.ak);
    evidence
}

fn bytes(part: &mut LogPart) -> &mut Vec<u8> {
    match part {
        LogPart::From { bytes, .. } => bytes,
        LogPart::Absent => panic!("no log"),
    }
}

fn resign(evidence: &mut Evidence, member: &Member, quote: Vec<u8>) {
    evidence.signature = member.machine.ak.sign(&quote);
    evidence.quote = quote;
}

fn corrupt(way: usize, member: &mut Member, other: &Machine, random: &mut Random) -> Evidence {
    let mut e = member.machine.evidence(NONCE);
    let boot = member.machine.boot.clone();
    let log = BootLog::parse(&boot).unwrap();
    // Entries that extend, apart from the first (a format's header).
    let entry = log.events()[1 + random.below(log.events().len() - 1)];
    match way {
        0 => return member.machine.evidence(b"yesterday's question"),
        // Its last byte, so that the structure stays.
        1 => *e.signature.last_mut().unwrap() ^= 1,
        2 => flip(&mut e.quote, 0, random),
        3 => e.signature = other.ak.sign(&e.quote),
        4 => return other.evidence(NONCE),
        5 => {
            let cut = e.quote[..random.below(e.quote.len())].to_vec();
            resign(&mut e, member, cut);
        }
        6 => {
            let quote = member.machine.attest(NONCE, 4);
            resign(&mut e, member, quote);
        }
        7 => {
            let n = random.below(member.machine.quoted.len());
            return after(member, |m| {
                m.quoted.remove(n);
            });
        }
        8 => assert!(e.pcrs.set(pcr(4), BANK.hash(b"other"))),
        9 => e.boot = LogPart::Absent,
        10 => bytes(&mut e.boot).truncate(entry.offset + 1 + random.below(40)),
        11 => bytes(&mut e.boot).truncate(entry.offset),
        12 => {
            let digest = entry.digest(BANK).unwrap();
            let raw = bytes(&mut e.boot);
            let at = raw.windows(32).position(|w| w == digest.as_bytes()).unwrap();
            flip(&mut raw[at..at + 32], 0, random);
        }
        13 => *bytes(&mut e.boot) = other.boot.clone(),
        14 => return after(member, |m| m.extend(4, &BANK.hash(b"unlogged"))),
        15 => {
            return after(member, |m| {
                let agile = BootLog::parse(&boot).unwrap().format().banks().len();
                let digests: Vec<_> =
                    [gtvp_appraisal::alg::HashAlg::Sha1, BANK, gtvp_appraisal::alg::HashAlg::Sha384]
                        .into_iter()
                        .filter(|b| agile > 1 || *b == BANK)
                        .map(|b| b.hash(b"evil.efi"))
                        .collect();
                m.boot.extend(4u32.to_le_bytes());
                m.boot.extend(0x8000_0003u32.to_le_bytes());
                m.boot.extend((digests.len() as u32).to_le_bytes());
                for d in &digests {
                    m.boot.extend(d.alg().id().to_le_bytes());
                    m.boot.extend(d.as_bytes());
                }
                m.boot.extend(0u32.to_le_bytes());
                m.extend(4, &BANK.hash(b"evil.efi"));
            });
        }
        16 => {
            let raw = bytes(&mut e.own);
            raw.truncate(raw.len() - (2 + "drivers".len() + 32));
        }
        17 => {
            let raw = bytes(&mut e.own);
            *raw.last_mut().unwrap() ^= 1;
        }
        18 => return after(member, |m| m.measure(EntryKind::Binary, "communication", Digest::of(b"evil"))),
        19 => {
            // The path of some entry: "/usr/bin/7".
            let raw = bytes(&mut e.ima);
            let at = raw.windows(9).position(|w| w == b"/usr/bin/").unwrap();
            raw[at + 1] ^= 1;
        }
        20 => {
            let raw = bytes(&mut e.ima);
            let parsed = gtvp_appraisal::ima::ImaLog::parse(&member.machine.ima).unwrap();
            let [a, b] = [&parsed.entries()[5], &parsed.entries()[6]];
            raw.drain(a.offset..b.offset);
        }
        21 => e.ima = LogPart::Absent,
        22 => return after(member, |m| m.execute("/tmp/miner", &BANK.hash(b"miner"))),
        _ => return after(member, |m| m.resets += 1),
    }
    e
}

#[test]
fn every_corrupted_evidence_is_refused_by_its_right_name() {
    let count: usize = std::env::var("GTVP_CORPUS").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let mut manifests = vec![programs()];
    for log in LOGS {
        manifests.push(manifest(log, 1, Machine::booted(log).boot_rules(Status::Current)));
    }
    let files = (0..20u8)
        .map(|n| Rule::File(FileRule { digest: BANK.hash(&[n]), path: None, status: Status::Current }));
    manifests.push(manifest("files", 1, files.collect()));
    let references = references(&manifests);
    let mut members: Vec<Member> = (0..2 * LOGS.len()).map(|n| member(n, &references)).collect();
    let other = {
        let mut machine = Machine::booted("ga_ubuntu_2104_shielded_vm_no_secure_boot_eventlog");
        machine.start();
        machine
    };

    let mut random = Random(SEED);
    let mut refused: BTreeMap<&str, usize> = BTreeMap::new();
    for n in 0..count {
        let which = random.below(members.len());
        let member = &mut members[which];
        let way = (n % 100 == 99).then(|| (n / 100) % WAYS.len());
        let evidence = match way {
            Some(way) => corrupt(way, member, &other, &mut random),
            None => member.machine.evidence(NONCE),
        };
        // Through the wire, as it comes.
        let evidence = Evidence::decode(&evidence.encode()).unwrap();
        // Half of them in a session that goes on; a reset only shows there, and a log that was shown before is missed.
        let held = Some(&member.held).filter(|_| match way {
            Some(21) => false,
            Some(23) => true,
            _ => random.below(2) == 0,
        });
        let found = appraise(&evidence, &question(&member.attester, held), &references, NOW).verdict;
        match way {
            None => assert_eq!(found.state, State::Trusted, "{n} of seed {SEED:x}: {:?}", found.told()),
            Some(way) => {
                let (what, name) = WAYS[way];
                assert_ne!(found.state, State::Trusted, "{n} of seed {SEED:x}: {what}");
                let told = found.told();
                assert_eq!(told[0].name, name, "{n} of seed {SEED:x}: {what}: {told:?}");
                *refused.entry(name).or_default() += 1;
            }
        }
    }
    let corrupted: usize = refused.values().sum();
    println!("{count} appraisals, {corrupted} corrupted, each refused by its name: {refused:?}");
    assert_eq!(corrupted, count / 100);
}
