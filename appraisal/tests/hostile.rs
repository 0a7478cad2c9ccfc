//! Every decoder on bytes that nobody meant: cut, changed, doubled, spliced. None panics, and none takes long.
//! The bytes follow from a seed. `GTVP_HOSTILE=N` tries more.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::time::{Duration, Instant};

use gtvp_appraisal::bootlog::BootLog;
use gtvp_appraisal::ek::{self, Roots};
use gtvp_appraisal::evidence::Evidence;
use gtvp_appraisal::file::EvidenceFile;
use gtvp_appraisal::ima::{ImaLog, Way};
use gtvp_appraisal::ownlog::OwnLog;
use gtvp_appraisal::reference::SignedManifest;
use gtvp_appraisal::result::SignedResult;
use gtvp_appraisal::tpm::{Attest, Public, Signature, VerifyingKey};
use support::*;

/// What one decoder may take for one input of these sizes, with a debug build on a busy machine: far above what it needs,
/// far below what a quadratic one would.
const LONGEST: Duration = Duration::from_secs(5);

struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() % n.max(1)
    }
}

/// One to four changes to `seed`, or to a piece of it.
fn mutate(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut out = seed.to_vec();
    for _ in 0..=random.below(4) {
        if out.is_empty() {
            break;
        }
        let at = random.below(out.len());
        match random.below(7) {
            0 => out[at] ^= 1 << random.below(8),
            1 => out[at] = [0, 1, 0x7f, 0x80, 0xfe, 0xff][random.below(6)],
            2 => out.truncate(at),
            3 => {
                out.drain(..at);
            }
            4 => {
                let end = (at + random.below(64)).min(out.len());
                let piece = out[at..end].to_vec();
                let to = random.below(out.len());
                out.splice(to..to, piece);
            }
            // A length field: four bytes of a large number, of either order.
            5 => {
                let number = [u32::MAX, 0x7fff_ffff, 0x0100_0000, 1][random.below(4)];
                let bytes = if random.below(2) == 0 { number.to_be_bytes() } else { number.to_le_bytes() };
                out.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = from);
            }
            _ => out.extend((0..random.below(32)).map(|_| 0xff)),
        }
    }
    out
}

fn attack(name: &str, seeds: &[Vec<u8>], decode: impl Fn(&[u8])) {
    let tries: usize = std::env::var("GTVP_HOSTILE").ok().and_then(|n| n.parse().ok()).unwrap_or(1500);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for n in 0..tries {
        let bytes = mutate(&seeds[n % seeds.len()], &mut random);
        let begin = Instant::now();
        decode(&bytes);
        assert!(begin.elapsed() < LONGEST, "{name}: try {n} took {:?}", begin.elapsed());
    }
    for n in 0..64 {
        let bytes: Vec<u8> = (0..n * 7).map(|_| random.next() as u8).collect();
        decode(&bytes);
    }
}

#[test]
fn tpm_structures() {
    let seeds: Vec<_> = ["gce_ak.pub", "gce_q_sha256.att", "gce_q_sha256.sig"]
        .iter()
        .map(|n| vector(&format!("quote/{n}")))
        .chain([Key::ak().public])
        .collect();
    attack("tpm", &seeds, |bytes| {
        if let Ok(public) = Public::parse(bytes) {
            let _ = VerifyingKey::of(&public);
        }
        let _ = Attest::parse(bytes);
        let _ = Signature::parse(bytes);
    });
}

#[test]
fn boot_logs() {
    // The shorter ones: a mutation in 70 KB is seldom in a header.
    let seeds: Vec<_> =
        ["gtt_arch-linux-workstation.bin", "ga_crypto_agile_eventlog", "ga_short_no_action_eventlog"]
            .iter()
            .map(|n| vector(&format!("logs/{n}")))
            .collect();
    attack("boot log", &seeds, |bytes| {
        let Ok(log) = BootLog::parse(bytes) else { return };
        for bank in log.format().banks() {
            let _ = log.replay(bank);
            log.events().iter().for_each(|e| {
                let _ = (e.covers(bank), e.kind().subject().map(str::len));
            });
        }
    });
}

#[test]
fn ima_logs() {
    let ascii = vector("ima/ascii_runtime_measurements")[..4000].to_vec();
    let mut machine = Machine::software();
    (0..20u8).for_each(|n| machine.execute("/usr/bin/x", &BANK.hash(&[n])));
    attack("IMA log", &[ascii, machine.ima.clone()], |bytes| {
        let Ok(log) = ImaLog::parse(bytes) else { return };
        log.entries().iter().for_each(|e| drop((e.extended(BANK, Way::Recomputed), e.file.to_string())));
    });
}

#[test]
fn own_logs() {
    let mut machine = Machine::software();
    machine.start();
    attack("own log", std::slice::from_ref(&machine.own), |bytes| {
        if let Ok(log) = OwnLog::parse(bytes) {
            let _ = log.replay(pcr(14).initial(BANK));
        }
    });
}

#[test]
fn certificates() {
    let seeds: Vec<_> =
        ["st_sha256_with_rsa_der.der", "nuvoton_ecdsa_sha256_der.der", "NUVO_2110.pem", "STM_RSA_RT.pem"]
            .iter()
            .map(|n| vector(&format!("ek/{n}")))
            .collect();
    let mut roots = Roots::new();
    roots.add(&seeds[2]).unwrap();
    roots.add(&seeds[3]).unwrap();
    attack("certificate", &seeds, |bytes| {
        let _ = Roots::new().add(bytes);
        let _ = ek::verify(bytes, &[bytes.to_vec()], &roots, NOW);
    });
}

#[test]
fn signed_objects_and_files() {
    let mut machine = Machine::software();
    machine.start();
    let evidence = machine.evidence(NONCE).encode();
    attack("evidence", std::slice::from_ref(&evidence), |bytes| drop(Evidence::decode(bytes)));
    let authority = Key::ak();
    let made = programs();
    let name = *authority.parsed().name();
    let scheme = gtvp_appraisal::tpm::Scheme::Ecdsa(BANK);
    let unsigned = made.unsigned(scheme, &name).unwrap();
    let signature = Signature::parse(&authority.sign(&unsigned.to_be_signed())).unwrap();
    let manifest = made.signed(unsigned, &signature).unwrap();
    let key = VerifyingKey::of(&authority.parsed()).unwrap();
    attack("manifest", std::slice::from_ref(&manifest), |bytes| {
        if let Ok(m) = SignedManifest::parse(bytes).and_then(|m| m.verify(&key, &name)) {
            assert_eq!(*m.manifest(), made, "a changed manifest was believed");
        }
        if let Ok(r) = SignedResult::parse(bytes) {
            let _ = r.verify(&key, &name, NOW);
        }
        let _ = EvidenceFile::decode(bytes);
    });
}

#[test]
fn nesting_and_announced_lengths_end_soon() {
    for bytes in
        [vec![0x81; 100_000], vec![0xd2; 100_000], vec![0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]]
    {
        assert!(Evidence::decode(&bytes).is_err());
        assert!(EvidenceFile::decode(&bytes).is_err());
        assert!(SignedManifest::parse(&bytes).is_err());
        assert!(SignedResult::parse(&bytes[..bytes.len().min(30_000)]).is_err());
    }
    // A byte string of 4 GiB that is not there.
    let announced = [0x5b, 0, 0, 0, 1, 0, 0, 0, 0];
    assert!(Evidence::decode(&announced).is_err() && EvidenceFile::decode(&announced).is_err());
}
