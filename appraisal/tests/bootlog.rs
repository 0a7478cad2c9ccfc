//! Boot logs of real machines (tests/vectors/README.md): they replay, and no cut or changed byte goes unnoticed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use gtvp_appraisal::alg::{HashAlg, LogDigest};
use gtvp_appraisal::bootlog::{BootLog, BootLogFault, Covers, EventType, Kind, LogFormat};
use gtvp_appraisal::tpm::PcrIndex;

#[path = "support/boot.rs"]
mod boot;
use boot::Builder;

const LOGS: [(&str, usize, &[HashAlg]); 10] = {
    use HashAlg::{Sha1, Sha256, Sha384};
    [
        ("ga_coreos_36_shielded_vm_no_secure_boot_eventlog", 76, &[Sha1, Sha256, Sha384]),
        ("ga_crypto_agile_eventlog", 27, &[Sha256]),
        ("ga_option_rom_eventlog", 61, &[Sha1]),
        ("ga_short_no_action_eventlog", 1, &[Sha1]),
        ("ga_ubuntu_2104_shielded_vm_no_secure_boot_eventlog", 106, &[Sha1, Sha256, Sha384]),
        ("gce9009_eventlog", 45, &[Sha1, Sha256, Sha384]),
        ("gtt_arch-linux-workstation.bin", 25, &[Sha1, Sha256]),
        ("gtt_debian-10.bin", 25, &[Sha1]),
        ("gtt_rhel8-uefi.bin", 83, &[Sha1, Sha256, Sha384]),
        ("kl_bbm_sb", 99, &[Sha256]),
    ]
};

fn vector(path: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/vectors/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn log(name: &str) -> Vec<u8> {
    vector(&format!("logs/{name}"))
}

#[test]
fn every_log_parses_to_its_last_byte_and_replays_in_every_bank() {
    for (name, entries, banks) in LOGS {
        let bytes = log(name);
        let parsed = BootLog::parse(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(parsed.events().len(), entries, "{name}");
        assert_eq!(parsed.format().banks(), banks, "{name}");
        assert_eq!(parsed.padding(), 0, "{name}");
        for bank in banks {
            parsed.replay(*bank).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        let missing = HashAlg::ALL.into_iter().filter(|b| !banks.contains(b));
        for bank in missing.filter(|_| entries > 1) {
            assert!(parsed.replay(bank).is_err(), "{name} {bank}");
        }
        let unseparated: Vec<u8> = parsed.unseparated().collect();
        assert_eq!(unseparated.is_empty(), entries > 1, "{name}: {unseparated:?}");
    }
}

#[test]
fn a_log_replays_to_the_pcrs_that_its_tpm_quoted() {
    let bytes = log("gce9009_eventlog");
    let parsed = BootLog::parse(&bytes).unwrap();
    for bank in [HashAlg::Sha1, HashAlg::Sha256, HashAlg::Sha384] {
        let replayed = parsed.replay(bank).unwrap();
        let text = String::from_utf8(vector(&format!("quote/gce_q_{bank}.pcrs"))).unwrap();
        for line in text.lines() {
            let (index, hex) = line.split_once(' ').unwrap();
            let pcr = PcrIndex::new(index.parse().unwrap()).unwrap();
            let quoted: LogDigest = format!("{bank}:{hex}").parse().unwrap();
            // PCR 10 is IMA's.
            assert_eq!(replayed.get(pcr) == quoted, pcr.get() != 10, "{bank} PCR {pcr}");
            assert_eq!(replayed.is_extended(pcr), pcr.get() < 10, "{bank} PCR {pcr}");
        }
    }
}

#[test]
fn a_cut_log_is_refused_or_replays_to_other_values() {
    for (name, _, banks) in LOGS {
        let bytes = log(name);
        let whole = BootLog::parse(&bytes).unwrap();
        let bank = *banks.last().unwrap();
        let starts: Vec<usize> = whole.events().iter().map(|e| e.offset).collect();
        for end in 0..bytes.len() {
            match BootLog::parse(&bytes[..end]) {
                // Between two entries a cut shows only in the values.
                Ok(cut) => {
                    assert!(starts.contains(&end), "{name}: cut at {end} inside an entry was accepted");
                    let entry = &whole.events()[cut.events().len()];
                    if whole.events()[entry.number..].iter().any(|e| e.extends()) {
                        assert_ne!(cut.replay(bank).unwrap(), whole.replay(bank).unwrap(), "{name}: {end}");
                    }
                }
                Err(e) => {
                    // The header is entry 0 of both formats.
                    assert!(e.offset <= end && starts.contains(&e.offset), "{name}: {end}: {e}");
                    let named = matches!(e.reason, BootLogFault::Cut { .. } | BootLogFault::Empty);
                    assert!(named, "{name}: {end}: {e}");
                }
            }
        }
    }
}

#[test]
fn a_flipped_bit_is_refused_or_changes_what_the_log_says() {
    for (name, _, banks) in LOGS {
        let bytes = log(name);
        let whole = BootLog::parse(&bytes).unwrap();
        let bank = *banks.last().unwrap();
        let replayed = whole.replay(bank).unwrap();
        // All of the small logs, a sample of each large one.
        let step = 1 + bytes.len() / 4000;
        for i in (0..bytes.len()).step_by(step) {
            let mut changed = bytes.clone();
            changed[i] ^= 1 << (i % 8);
            let Ok(parsed) = BootLog::parse(&changed) else { continue };
            let entry = whole.events().iter().rev().find(|e| e.offset <= i).unwrap();
            let in_data = i
                >= entry.offset
                    + (bytes.len().min(next(&whole, entry.number, bytes.len()))
                        - entry.offset
                        - entry.data.len());
            let same = parsed.replay(bank).is_ok_and(|r| r == replayed);
            let digest = entry.digest(bank);
            let in_digest = digest.is_some_and(|d| {
                let raw = &bytes[entry.offset..entry.offset + 200.min(bytes.len() - entry.offset)];
                let at = raw.windows(d.as_bytes().len()).position(|w| w == d.as_bytes()).unwrap();
                (entry.offset + at..entry.offset + at + d.as_bytes().len()).contains(&i)
            });
            if in_digest && entry.extends() {
                assert!(!same, "{name}: digest byte {i} changed without a trace");
            }
            if same && in_data && entry.extends() {
                // Nothing but the data changed, so nobody vouches for all of them any more.
                assert_ne!(parsed.events()[entry.number].covers(bank), Covers::All, "{name}: {i}");
            }
        }
    }
}

fn next(log: &BootLog<'_>, number: usize, len: usize) -> usize {
    log.events().get(number + 1).map_or(len, |e| e.offset)
}

#[test]
fn an_entry_added_moved_or_doubled_changes_the_values() {
    let bytes = log("gce9009_eventlog");
    let whole = BootLog::parse(&bytes).unwrap();
    let replayed = whole.replay(HashAlg::Sha256).unwrap();
    let piece = |n: usize| bytes[whole.events()[n].offset..next(&whole, n, bytes.len())].to_vec();
    let rebuilt = |order: &[usize]| {
        let all: Vec<u8> = order.iter().flat_map(|n| piece(*n)).collect();
        BootLog::parse(&all).unwrap().replay(HashAlg::Sha256).unwrap()
    };
    let order: Vec<usize> = (0..whole.events().len()).collect();
    assert_eq!(rebuilt(&order), replayed);
    for n in 1..order.len() - 1 {
        let mut doubled = order.clone();
        doubled.insert(n, n);
        assert_ne!(rebuilt(&doubled), replayed, "entry {n} doubled");
        let mut moved = order.clone();
        moved.swap(n, n + 1);
        let [a, b] = [&whole.events()[n], &whole.events()[n + 1]];
        let differ = a.pcr == b.pcr && a.digest(HashAlg::Sha256) != b.digest(HashAlg::Sha256);
        assert_eq!(rebuilt(&moved) != replayed, differ, "entries {n} and {} swapped", n + 1);
    }
}

#[test]
fn entries_are_what_they_are() {
    let bytes = log("kl_bbm_sb");
    let parsed = BootLog::parse(&bytes).unwrap();
    let kinds: Vec<Kind<'_>> = parsed.events().iter().map(|e| e.kind()).collect();
    assert_eq!(kinds[0], Kind::Header);
    let secure_boot = kinds.iter().position(|k| k.subject() == Some("SecureBoot")).unwrap();
    assert!(matches!(&kinds[secure_boot], Kind::Variable { contents: [1], guid, .. }
        if guid == "8be4df61-93ca-11d2-aa0d-00e098032b8c"));
    assert_eq!(parsed.events()[secure_boot].covers(HashAlg::Sha256), Covers::All);
    let shim = kinds.iter().find_map(|k| match k {
        Kind::Image { path } if path.contains("shim") => Some(path.as_str()),
        _ => None,
    });
    assert_eq!(shim, Some("\\EFI\\redhat\\shimx64.efi"));
    let kernel = kinds
        .iter()
        .position(|k| {
            matches!(k, Kind::Text { prefix: "kernel_cmdline: ", text, .. }
            if text.starts_with("(hd0,gpt2)/vmlinuz-5.14.0"))
        })
        .unwrap();
    // GRUB hashes the string that follows its prefix.
    assert!(
        matches!(parsed.events()[kernel].covers(HashAlg::Sha256), Covers::Part(p) if p.starts_with(b"(hd0,gpt2)/vmlinuz"))
    );
    let file = parsed.events().iter().find(|e| e.pcr == 9).unwrap();
    assert_eq!(file.covers(HashAlg::Sha256), Covers::Nothing, "a file's name proves nothing");
    let separators = kinds.iter().filter(|k| **k == Kind::Separator { error: false }).count();
    assert_eq!(separators, 8);
    assert_eq!(EventType::EFI_GPT_EVENT.to_string(), "EV_EFI_GPT_EVENT");
    assert_eq!(EventType(0x77).to_string(), "event type 0x00000077");
}

const SM3: u16 = 0x12;

#[test]
fn unknown_algorithms_are_skipped_by_the_headers_size() {
    let (d32, sm3) = ([7; 32], [9; 24]);
    // Its real size is 32; only the header's counts.
    let log = Builder::new(&[(SM3, 24), (0x0b, 32)]).event(1, 4, &[(SM3, &sm3), (0x0b, &d32)], b"x").event(
        2,
        4,
        &[(0x0b, &d32), (SM3, &sm3)],
        b"y",
    );
    let parsed = BootLog::parse(&log.0).unwrap();
    assert_eq!(*parsed.format(), LogFormat::CryptoAgile(vec![(SM3, 24), (0x0b, 32)]));
    assert_eq!(parsed.events()[1].digest(HashAlg::Sha256).unwrap().as_bytes(), d32);
    assert_eq!(parsed.events()[2].digest(HashAlg::Sha256).unwrap().as_bytes(), d32);
    assert_eq!(parsed.events()[2].data, b"y");
}

#[test]
fn each_malformation_has_its_name_and_place() {
    let d = [7u8; 32];
    let ok: &[(u16, &[u8])] = &[(0x0b, &d)];
    let algs: &[(u16, u16)] = &[(0x0b, 32)];
    let new = || Builder::new(algs).event(0, 8, ok, b"v");
    assert!(BootLog::parse(&new().0).is_ok());
    assert_eq!(new().event(24, 4, ok, b"").fault(), (2, "no-such-pcr"));
    assert_eq!(new().event(0, 4, &[], b"").fault(), (2, "digest-count"));
    assert_eq!(new().event(0, 4, &[(0x0b, &d), (0x0b, &d)], b"").fault(), (2, "digest-count"));
    assert_eq!(new().event(0, 4, &[(0x0c, &d)], b"").fault(), (2, "unlisted-algorithm"));
    let two = Builder::new(&[(0x0b, 32), (0x04, 20)]);
    assert_eq!(two.event(0, 4, &[(0x0b, &d), (0x0b, &d)], b"").fault(), (1, "digest-twice"));
    assert_eq!(Builder::new(&[]).fault(), (0, "algorithm-count"));
    assert_eq!(Builder::new(&[(0x0b, 20)]).fault(), (0, "algorithm-size"));
    assert_eq!(Builder::new(&[(SM3, 0)]).fault(), (0, "algorithm-size"));
    assert_eq!(Builder::new(&[(0x0b, 32), (0x0b, 32)]).fault(), (0, "algorithm-twice"));
    let locality = |l: u8| [b"StartupLocality\0".as_slice(), &[l]].concat();
    assert_eq!(new().event(0, 3, ok, &locality(2)).fault(), (2, "locality"));
    let both = new().event(0, 3, ok, &locality(0)).event(0, 3, ok, &locality(3));
    assert_eq!(both.fault(), (3, "locality-twice"));
    let mut huge = new().0;
    huge.extend([0, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0x0b, 0]);
    huge.extend(d);
    huge.extend(u32::MAX.to_le_bytes());
    assert_eq!(Builder(huge).fault(), (2, "cut"));
    assert_eq!(BootLog::parse(&[]).unwrap_err().reason, BootLogFault::Empty);
    assert_eq!(BootLog::parse(&vec![0; 1 << 21]).unwrap_err().reason.name(), "too-long");
    let many = (0..9000).fold(new(), |b, _| b.event(0, 4, ok, b""));
    assert_eq!(many.fault(), (8192, "too-many-entries"));
}

#[test]
fn startup_locality_is_pcr_0s_first_value_and_no_action_extends_nothing() {
    let d = [7u8; 32];
    let ok: &[(u16, &[u8])] = &[(0x0b, &d)];
    let algs: &[(u16, u16)] = &[(0x0b, 32)];
    let started = |l: u8| {
        let data = [b"StartupLocality\0".as_slice(), &[l]].concat();
        let log =
            Builder::new(algs).event(0xffff_ffff, 3, ok, b"any").event(0, 3, ok, &data).event(0, 8, ok, b"v");
        BootLog::parse(&log.0).unwrap().replay(HashAlg::Sha256).unwrap().get(PcrIndex::new(0).unwrap())
    };
    let mut first = [0u8; 64];
    first[31] = 3;
    first[32..].copy_from_slice(&d);
    assert_eq!(started(3), HashAlg::Sha256.hash(&first));
    first[31] = 0;
    assert_eq!(started(0), HashAlg::Sha256.hash(&first));
    let h_crtm = Builder::new(algs).event(0, 0x8000_0010, ok, b"HCRTM");
    first[31] = 4;
    assert_eq!(
        BootLog::parse(&h_crtm.0).unwrap().replay(HashAlg::Sha256).unwrap().get(PcrIndex::new(0).unwrap()),
        HashAlg::Sha256.hash(&first)
    );
}

#[test]
fn a_log_areas_padding_is_no_entry_and_a_cut_is_no_padding() {
    let whole = log("gtt_rhel8-uefi.bin");
    let entries = BootLog::parse(&whole).unwrap().events().len();
    for fill in [0u8, 0xff] {
        let mut padded = whole.clone();
        padded.resize(whole.len() + 4096, fill);
        let parsed = BootLog::parse(&padded).unwrap();
        assert_eq!((parsed.events().len(), parsed.padding()), (entries, 4096));
        let mut short = whole.clone();
        short.resize(whole.len() + 8, fill);
        assert!(BootLog::parse(&short).is_err());
        padded.push(1);
        assert!(BootLog::parse(&padded).is_err());
    }
}
