//! Boot logs that firmware in the field writes beside what the specification says, and such that nobody's firmware writes: the former are
//! taken for what they are, the latter refused by name, and neither is ever taken for something better.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

#[path = "support/boot.rs"]
mod boot;

use boot::Builder;
use gtvp_appraisal::alg::{HashAlg, LogDigest};
use gtvp_appraisal::appraise::{Failure, State, TpmClass, appraise};
use gtvp_appraisal::bootlog::{BootLog, Covers, Kind, LogFormat};
use gtvp_appraisal::reference::{Status, rule_accepting};
use support::{BANK, Machine, NOW, manifest, pcr, programs, question, references};

const SHA1: u16 = 0x04;
const SHA256: u16 = 0x0b;
const NO_ACTION: u32 = 3;
const SEPARATOR: u32 = 4;
const CRTM_VERSION: u32 = 8;
const HCRTM: u32 = 0x8000_0010;

const D: [u8; 32] = [7; 32];
const ONE: &[(u16, &[u8])] = &[(SHA256, &D)];

fn sha256() -> Builder {
    Builder::new(&[(SHA256, 32)])
}

fn locality(rest: &[u8]) -> Vec<u8> {
    [b"StartupLocality\0", rest].concat()
}

/// TCG_PCR_EVENT, the format of TPM 1.2.
fn old(pcr: u32, kind: u32, digest: &[u8; 20], data: &[u8]) -> Vec<u8> {
    let head = [pcr.to_le_bytes(), kind.to_le_bytes()].concat();
    [&head, &digest[..], &(data.len() as u32).to_le_bytes(), data].concat()
}

/// PCR 0 after `first` and one digest of sevens.
fn pcr_0(bank: HashAlg, first: u8) -> LogDigest {
    let mut before = vec![0; bank.size()];
    *before.last_mut().unwrap() = first;
    before.extend(vec![7; bank.size()]);
    bank.hash(&before)
}

fn replayed(log: &[u8], bank: HashAlg) -> LogDigest {
    BootLog::parse(log).unwrap().replay(bank).unwrap().get(pcr(0))
}

#[test]
fn a_log_that_announces_nothing_newer_is_of_the_old_format() {
    // What real logs begin with that have no header of the newer format.
    let no_action: [&[u8]; 5] = [
        b"Spec ID Event00\0\0\0\0\0",
        b"Spec ID Event02\0\0\0\0\0\0\x02\0\x01\0",
        &locality(&[0]),
        b"",
        b"SP800-155 Event",
    ];
    for first in no_action {
        let log = [old(0, NO_ACTION, &[0; 20], first), old(0, CRTM_VERSION, &[7; 20], b"v")].concat();
        assert_eq!(*BootLog::parse(&log).unwrap().format(), LogFormat::Sha1);
        assert_eq!(replayed(&log, HashAlg::Sha1), pcr_0(HashAlg::Sha1, 0));
    }
    // A first event that is extended (HP), and a locality in a log without a header.
    let action =
        [old(5, 0x8000_0007, &[1; 20], b"Entering ROM Based Setup"), old(0, CRTM_VERSION, &[7; 20], b"v")]
            .concat();
    assert_eq!(replayed(&action, HashAlg::Sha1), pcr_0(HashAlg::Sha1, 0));
    let moved = [old(0, NO_ACTION, &[0; 20], &locality(&[3])), old(0, CRTM_VERSION, &[7; 20], b"v")].concat();
    assert_eq!(replayed(&moved, HashAlg::Sha1), pcr_0(HashAlg::Sha1, 3));
    // What a SHA-256 quote is about it says nothing of, and that has a name.
    let missing = BootLog::parse(&moved).unwrap().replay(HashAlg::Sha256).unwrap_err();
    assert_eq!((missing.entry, missing.bank), (1, HashAlg::Sha256));
}

#[test]
fn a_header_counts_where_it_stands_first_and_nowhere_else() {
    // After an entry of the old format a header is an entry like others, and what follows it in the newer format is not read by it.
    let newer = sha256().event(0, CRTM_VERSION, ONE, b"v").0;
    let log = [old(0, CRTM_VERSION, &[7; 20], b"v"), newer].concat();
    assert!(
        BootLog::parse(&log).is_err_and(|e| e.entry == 2),
        "it ends inside what is no entry of that format"
    );
    // A second header changes nothing.
    let header = sha256().0;
    let again = sha256().event(0, NO_ACTION, ONE, &header[32..]).event(0, CRTM_VERSION, ONE, b"v");
    assert_eq!(replayed(&again.0, BANK), pcr_0(BANK, 0));
}

#[test]
fn a_header_is_as_long_as_it_says_and_no_longer_than_a_tpm_has_banks() {
    let with = |count: u32, vendor: &[u8], rest: &[u8]| {
        let mut data = b"Spec ID Event03\0".to_vec();
        data.extend([0, 0, 0, 0, 0, 2, 106, 2]);
        data.extend(count.to_le_bytes());
        data.extend([SHA256.to_le_bytes(), 32u16.to_le_bytes()].concat());
        data.extend(vendor);
        data.extend(rest);
        Builder(old(0, NO_ACTION, &[0; 20], &data)).event(0, CRTM_VERSION, ONE, b"v")
    };
    // Vendors write what they like into their part of it, and some leave room behind it.
    let long: Vec<u8> = std::iter::once(255).chain([0xaa; 255]).collect();
    for log in [with(1, &[0], &[]), with(1, &long, &[]), with(1, &[4, 1, 2, 3, 4], &[0; 16])] {
        assert_eq!(replayed(&log.0, BANK), pcr_0(BANK, 0));
    }
    assert_eq!(with(1, &[200, 1], &[]).fault(), (0, "cut"));
    assert_eq!(with(1, &[], &[]).fault(), (0, "cut"), "it does not say how long its vendor's part is");
    assert_eq!(with(2, &[0], &[]).fault(), (0, "cut"), "an algorithm more than there is");
    for many in [17, 0x1_0000, u32::MAX] {
        assert_eq!(with(many, &[0], &[]).fault(), (0, "algorithm-count"));
    }
}

#[test]
fn banks_that_we_do_not_compute_are_passed_over_and_stand_for_nothing() {
    // SM3, SHA3-256, -384, -512, and one that nobody has heard of.
    let others: [(u16, u16); 5] = [(0x12, 32), (0x27, 32), (0x28, 48), (0x29, 64), (0x7fff, 200)];
    let digests: Vec<Vec<u8>> = others.iter().map(|(_, size)| vec![9; usize::from(*size)]).collect();
    let listed: Vec<(u16, u16)> = others.into_iter().chain([(SHA256, 32)]).collect();
    let all: Vec<(u16, &[u8])> = others
        .iter()
        .zip(&digests)
        .map(|((alg, _), d)| (*alg, d.as_slice()))
        .chain([(SHA256, &D[..])])
        .collect();
    let log = Builder::new(&listed).event(0, CRTM_VERSION, &all, b"v");
    assert_eq!(BootLog::parse(&log.0).unwrap().format().banks(), [BANK]);
    assert_eq!(replayed(&log.0, BANK), pcr_0(BANK, 0));
    // A digest of 32 bytes under another name is not SHA-256's.
    let only = Builder::new(&listed).event(0, CRTM_VERSION, &all[..2], b"v");
    let missing = BootLog::parse(&only.0).unwrap().replay(BANK).unwrap_err();
    assert_eq!((missing.entry, missing.bank), (1, BANK));
    // Nor is one that the header gives another length.
    assert_eq!(Builder::new(&[(SHA256, 48)]).fault(), (0, "algorithm-size"));
}

#[test]
fn an_entry_that_lacks_a_bank_costs_that_bank_and_no_other() {
    let listed = &[(SHA1, 20), (SHA256, 32)];
    let log = Builder::new(listed).event(0, CRTM_VERSION, &[(SHA256, &D)], b"v").event(
        0,
        NO_ACTION,
        &[],
        b"nothing is extended, and no digest is needed",
    );
    assert_eq!(replayed(&log.0, BANK), pcr_0(BANK, 0));
    let parsed = BootLog::parse(&log.0).unwrap();
    assert_eq!(parsed.replay(HashAlg::Sha1).unwrap_err().entry, 1);
    assert_eq!(Builder::new(listed).event(0, CRTM_VERSION, &[], b"v").fault(), (1, "digest-count"));
}

#[test]
fn a_digest_of_zeros_is_extended_and_an_entry_without_action_is_not() {
    let zeros: &[(u16, &[u8])] = &[(SHA256, &[0; 32])];
    let with = |kind, digests| sha256().event(0, kind, digests, b"x").event(0, CRTM_VERSION, ONE, b"v");
    assert_ne!(replayed(&with(CRTM_VERSION, zeros).0, BANK), pcr_0(BANK, 0), "zeros are no nothing");
    // Whatever digest it carries, and whatever PCR it names.
    assert_eq!(replayed(&with(NO_ACTION, ONE).0, BANK), pcr_0(BANK, 0));
    for number in [24, 0xff, u32::MAX] {
        let log = sha256().event(number, NO_ACTION, zeros, b"x").event(0, CRTM_VERSION, ONE, b"v");
        assert_eq!(replayed(&log.0, BANK), pcr_0(BANK, 0));
        assert_eq!(sha256().event(number, CRTM_VERSION, ONE, b"x").fault(), (1, "no-such-pcr"));
    }
}

#[test]
fn where_a_tpm_was_started_from_is_pcr_0s_first_value() {
    let with = |before: Builder| replayed(&before.event(0, CRTM_VERSION, ONE, b"v").0, BANK);
    let says = |rest: &[u8]| sha256().event(0, NO_ACTION, ONE, &locality(rest));
    for l in [0, 3, 4] {
        assert_eq!(with(says(&[l])), pcr_0(BANK, l));
        // Said twice the same; followed by what a vendor has to say.
        assert_eq!(with(says(&[l]).event(0, NO_ACTION, ONE, &locality(&[l, 0, 0, 0]))), pcr_0(BANK, l));
    }
    for l in [1, 2, 5, 0xff] {
        assert_eq!(says(&[l]).fault(), (1, "locality"));
    }
    assert_eq!(says(&[0]).event(0, NO_ACTION, ONE, &locality(&[3])).fault(), (2, "locality-twice"));
    // One that does not say which, or says it in other words, says nothing; one that is extended is an entry.
    assert_eq!(with(says(&[])), pcr_0(BANK, 0));
    assert_eq!(with(sha256().event(0, NO_ACTION, ONE, b"startupLocality\0\x03")), pcr_0(BANK, 0));
    assert_ne!(with(sha256().event(0, CRTM_VERSION, ONE, &locality(&[3]))), pcr_0(BANK, 3));
}

#[test]
fn hardware_that_measures_first_is_pcr_0s_first_value_wherever_firmware_starts_the_tpm() {
    let h = |number: u32, before: Builder| replayed(&before.event(number, HCRTM, ONE, b"HCRTM").0, BANK);
    assert_eq!(h(0, sha256()), pcr_0(BANK, 4));
    for l in [0, 3, 4] {
        let log = sha256().event(0, NO_ACTION, ONE, &locality(&[l]));
        assert_eq!(h(0, log), pcr_0(BANK, 4), "locality {l} comes after it");
    }
    // In another PCR it is no such sequence.
    assert_eq!(h(1, sha256().event(0, CRTM_VERSION, ONE, b"v")), pcr_0(BANK, 0));
}

/// A healthy machine, and what its log is judged by: its own boot, so that what is added to it is what a refusal is about.
struct Scene {
    machine: Machine,
    learned: bool,
}

impl Scene {
    fn with(separator: u32, digest: &LogDigest, data: &[u8], learned: bool) -> Self {
        let mut machine = Machine::booted("kl_bbm_sb");
        let rest = Builder(Vec::new()).event(separator, SEPARATOR, &[(SHA256, digest.as_bytes())], data);
        machine.boot.extend(rest.0);
        machine.extend(u8::try_from(separator).unwrap(), digest);
        machine.start();
        Self { machine, learned }
    }

    fn verdict(&self) -> (State, Vec<Failure>) {
        let of = if self.learned { &self.machine } else { &Machine::booted("kl_bbm_sb") };
        let references = references(&[manifest("boot", 1, of.boot_rules(Status::Current)), programs()]);
        let attester = self.machine.ak.attester(TpmClass::Hardware);
        let found =
            appraise(&self.machine.evidence(support::NONCE), &question(&attester, None), &references, NOW);
        (found.verdict.state, found.verdict.failed)
    }
}

#[test]
fn a_separator_that_says_neither_well_nor_failed_is_judged_by_reference_values() {
    // Once more what there was before, in either of its two forms: harmless.
    for good in [[0; 4], [0xff; 4]] {
        assert_eq!(Scene::with(5, &BANK.hash(&good), &good, false).verdict().0, State::Trusted);
    }
    // Nothing, and a word of the vendor's own, as some firmware measures: refused by its entry while nobody knows it, and then not.
    for odd in [&b""[..], b"WBCL", &[0; 8]] {
        let (state, failed) = Scene::with(5, &BANK.hash(odd), odd, false).verdict();
        assert_eq!((state, failed[0].name()), (State::Untrusted, "boot-entry"), "{odd:?}");
        assert!(rule_accepting(&failed[0], Status::Current).is_some());
        assert_eq!(Scene::with(5, &BANK.hash(odd), odd, true).verdict().0, State::Trusted, "{odd:?}");
    }
    // What stands beside the digest vouches for nothing: a failure that calls itself well is one, and nobody can accept it.
    for failed in [[1, 0, 0, 0], [0, 0, 0, 1]] {
        for said in [&failed[..], &[0; 4], b"no error at all"] {
            let (state, failed) = Scene::with(4, &BANK.hash(&failed), said, true).verdict();
            assert_eq!((state, failed[0].name()), (State::Untrusted, "firmware-error"));
            assert!(rule_accepting(&failed[0], Status::Current).is_none());
        }
    }
    // The reverse: a log that tells of an error which the TPM has not seen does not say what it was extended by.
    let lies = Scene::with(4, &BANK.hash(&[0; 4]), &[1, 0, 0, 0], false);
    assert_eq!(lies.verdict().0, State::Trusted);
}

/// UEFI_VARIABLE_DATA.
fn variable(name_units: u64, length: u64, rest: &[u8]) -> Vec<u8> {
    [&[0x50; 16][..], &name_units.to_le_bytes(), &length.to_le_bytes(), rest].concat()
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[test]
fn variables_are_what_their_lengths_say_and_lengths_that_lie_are_no_variables() {
    const DRIVER_CONFIG: u32 = 0x8000_0001;
    const AUTHORITY: u32 = 0x8000_00e0;
    let of = |kind: u32, digest: &LogDigest, data: &[u8]| {
        let log = sha256().event(7, kind, &[(SHA256, digest.as_bytes())], data).0;
        let parsed = BootLog::parse(&log).unwrap();
        let event = parsed.events()[1];
        let name = match event.kind() {
            Kind::Variable { name, contents, .. } => Some((name, contents.to_vec())),
            Kind::Other => None,
            other => panic!("{other:?}"),
        };
        let covers = match event.covers(BANK) {
            Covers::All => "all",
            Covers::Part(_) => "contents",
            Covers::Nothing => "nothing",
        };
        (name, covers)
    };
    // shim's authorities have bytes behind the certificate that belong to nothing; what is hashed is with them or without.
    let certificate = b"a certificate";
    let shim = [variable(4, 13, &utf16("Shim")), certificate.to_vec(), vec![0xee; 9]].concat();
    let found = Some(("Shim".to_owned(), certificate.to_vec()));
    assert_eq!(of(AUTHORITY, &BANK.hash(&shim), &shim), (found.clone(), "all"));
    assert_eq!(of(AUTHORITY, &BANK.hash(certificate), &shim), (found.clone(), "contents"));
    assert_eq!(of(AUTHORITY, &BANK.hash(b"another"), &shim), (found, "nothing"));
    // Without contents (an empty dbx, MokList that is not there), with a name that ends early.
    let empty = variable(3, 0, &utf16("dbx"));
    assert_eq!(of(DRIVER_CONFIG, &BANK.hash(&empty), &empty), (Some(("dbx".into(), vec![])), "all"));
    let ends = [variable(11, 1, &utf16("SecureBoot\0")), vec![1]].concat();
    assert_eq!(of(DRIVER_CONFIG, &BANK.hash(&ends), &ends).0, Some(("SecureBoot".into(), vec![1])));
    // Lengths in bytes in place of characters, beyond the end, or with which sums overflow; and less than a variable's head.
    for (name, length) in [(20, 1), (10, 2), (u64::MAX, 1), (1 << 63, 1), (10, u64::MAX)] {
        let lies = [variable(name, length, &utf16("SecureBoot")), vec![1]].concat();
        assert_eq!(of(DRIVER_CONFIG, &BANK.hash(&lies), &lies), (None, "all"), "{name} {length}");
    }
    assert_eq!(of(DRIVER_CONFIG, &BANK.hash(&[0; 31]), &[0; 31]), (None, "all"));
}

#[test]
fn programs_and_blobs_whose_descriptions_lie_are_known_by_their_digests_only() {
    let kind = |id: u32, data: &[u8]| {
        let log = sha256().event(4, id, ONE, data).0;
        let parsed = BootLog::parse(&log).unwrap();
        assert_eq!(parsed.events()[1].digest(BANK).unwrap().as_bytes(), D);
        match parsed.events()[1].kind() {
            Kind::Image { path } => format!("image {path}"),
            Kind::FirmwareBlob { description, length, .. } => format!("blob {description} {length}"),
            Kind::Other => "other".into(),
            other => panic!("{other:?}"),
        }
    };
    let image = |length: u64, nodes: &[u8]| [&[0; 24][..], &length.to_le_bytes(), nodes].concat();
    let file = [&[4, 4, 12, 0][..], &utf16("\\a\0\0"), &[0x7f, 0xff, 4, 0]].concat();
    const APPLICATION: u32 = 0x8000_0003;
    assert_eq!(kind(APPLICATION, &image(file.len() as u64, &file)), "image \\a");
    assert_eq!(kind(APPLICATION, &image(0, &[])), "image ", "a program without a path");
    for lies in [u64::MAX, file.len() as u64 + 1] {
        assert_eq!(kind(APPLICATION, &image(lies, &file)), "other");
    }
    // Nodes of no length would never end; one that reaches beyond its path ends it.
    for node in [[4, 4, 0, 0], [4, 4, 3, 0], [4, 4, 0xff, 0xff]] {
        assert_eq!(kind(APPLICATION, &image(4, &node)), "image ");
    }
    let many = [4, 4, 4, 0].repeat(10_000);
    assert_eq!(kind(APPLICATION, &image(many.len() as u64, &many)), "image ");
    // POST code of nine bytes (Lenovo) and none; blobs with a description that is longer than they are.
    const BLOB2: u32 = 0x8000_000a;
    assert_eq!(kind(1, b"ACPI DATA"), "other");
    assert_eq!(kind(1, b""), "other");
    let blob = [&[3][..], b"FV0", &[0; 8], &9u64.to_le_bytes()].concat();
    assert_eq!(kind(BLOB2, &blob), "blob FV0 9");
    assert_eq!(kind(BLOB2, &[0xff, b'F']), "other");
    assert_eq!(kind(0x8000_0008, &[0; 15]), "other");
}
