//! IMA logs: 200 lines of a real machine, and entries of each template as Linux writes them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use gtvp_appraisal::alg::{HashAlg, LogDigest};
use gtvp_appraisal::ima::{ImaLog, ImaMismatch, ImaState, Way};
use gtvp_appraisal::tpm::PcrIndex;
use gtvp_model::hex::hex;

fn real() -> Vec<u8> {
    let path = "/tests/vectors/ima/ascii_runtime_measurements";
    std::fs::read(format!("{}{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn pcr(n: u8) -> PcrIndex {
    PcrIndex::new(n).unwrap()
}

fn zero(bank: HashAlg) -> impl Fn(PcrIndex) -> LogDigest {
    move |_| LogDigest::filled(bank, 0)
}

/// What a kernel leaves in the PCR after `entries`.
fn value(log: &ImaLog<'_>, bank: HashAlg, way: Way, entries: usize) -> LogDigest {
    log.entries()
        .iter()
        .take(entries)
        .fold(LogDigest::filled(bank, 0), |v, e| v.extended(&e.extended(bank, way)).unwrap())
}

#[test]
fn a_real_log_replays_in_each_bank_and_way() {
    let bytes = real();
    let log = ImaLog::parse(&bytes).unwrap();
    assert_eq!(log.entries().len(), 200);
    assert_eq!(log.entries()[0].path, "boot_aggregate");
    assert_eq!(log.entries()[2].file.to_string(), "sha1:c90333979f56f38bbd41b81806015b0de502f3cc");
    for (bank, way) in [
        (HashAlg::Sha1, Way::Recomputed),
        (HashAlg::Sha256, Way::Recomputed),
        (HashAlg::Sha256, Way::PaddedSha1),
        (HashAlg::Sha384, Way::PaddedSha1),
    ] {
        // Quoted after all of it, or in the middle of the kernel's writing.
        for entries in [200, 117, 1] {
            let quoted = value(&log, bank, way, entries);
            let found = log.matching(&ImaState::new(bank), zero(bank), |_| Some(quoted)).unwrap();
            assert_eq!(found.covered, entries);
            assert_eq!(found.state.pcrs[&pcr(10)], quoted);
            assert_eq!(found.state.way, (bank != HashAlg::Sha1).then_some(way), "says which it was");
        }
        let elsewhere = bank.hash(b"elsewhere");
        let refused = log.matching(&ImaState::new(bank), zero(bank), |_| Some(elsewhere));
        assert!(matches!(refused, Err(ImaMismatch::Value { quoted, .. }) if *quoted == elsewhere));
        let unquoted = log.matching(&ImaState::new(bank), zero(bank), |_| None);
        assert!(matches!(unquoted, Err(ImaMismatch::NotQuoted { entry: 0, .. })));
    }
}

#[test]
fn the_sha1_bank_is_the_listed_digests() {
    // Independently of how this crate encodes fields: Linux lists what it extends into the SHA-1 bank.
    let bytes = real();
    let log = ImaLog::parse(&bytes).unwrap();
    let text = String::from_utf8(bytes.clone()).unwrap();
    for (entry, line) in log.entries().iter().zip(text.lines()) {
        let listed: LogDigest = format!("sha1:{}", line.split(' ').nth(1).unwrap()).parse().unwrap();
        assert_eq!(entry.extended(HashAlg::Sha1, Way::Recomputed), listed);
        let padded = entry.extended(HashAlg::Sha256, Way::PaddedSha1);
        assert_eq!(padded.as_bytes()[..20], *listed.as_bytes());
        assert_eq!(padded.as_bytes()[20..], [0; 12]);
    }
}

#[test]
fn it_goes_on_from_where_it_was() {
    let bytes = real();
    let log = ImaLog::parse(&bytes).unwrap();
    let bank = HashAlg::Sha256;
    let half = log.entries()[100].offset;
    let first = ImaLog::parse(&bytes[..half]).unwrap();
    let middle = value(&log, bank, Way::PaddedSha1, 100);
    let held = first.matching(&ImaState::new(bank), zero(bank), |_| Some(middle)).unwrap();
    assert_eq!(held.covered, 100);
    let rest = ImaLog::parse(&bytes[half..]).unwrap();
    let end = value(&log, bank, Way::PaddedSha1, 200);
    let found = rest.matching(&held.state, zero(bank), |_| Some(end)).unwrap();
    assert_eq!(found.covered, 100);
    // Nothing new: the quoted value is the held one, and no entry of the tail is covered.
    assert_eq!(rest.matching(&held.state, zero(bank), |_| Some(middle)).unwrap().covered, 0);
}

#[test]
fn a_changed_cut_or_moved_line_is_refused() {
    let all = real();
    // Every byte of the first lines: the others are of the same kind.
    let bytes = &all[..ImaLog::parse(&all).unwrap().entries()[25].offset];
    for i in 0..bytes.len() {
        let mut changed = bytes.to_vec();
        changed[i] ^= 1;
        let Err(e) = ImaLog::parse(&changed) else {
            // A PCR number is not part of the template digest, nor is the case of hexadecimal digits.
            let parsed = ImaLog::parse(&changed).unwrap();
            assert!(parsed.entries().iter().any(|e| e.pcr != pcr(10)), "byte {i} changed without a trace");
            continue;
        };
        assert!(e.offset <= i + 1, "{i}: {e}");
    }
    let whole = ImaLog::parse(bytes).unwrap();
    let starts: Vec<usize> = whole.entries().iter().map(|e| e.offset).collect();
    for end in 0..bytes.len() {
        match ImaLog::parse(&bytes[..end]) {
            // Between two lines, or a line that only lacks its end.
            Ok(cut) => {
                assert!(starts.contains(&end) || bytes[end] == b'\n', "{end}");
                let all = value(&whole, HashAlg::Sha1, Way::Recomputed, 25);
                let refused = cut.matching(&ImaState::new(HashAlg::Sha1), zero(HashAlg::Sha1), |_| Some(all));
                assert_eq!(refused.is_err(), cut.entries().len() < 25);
            }
            Err(e) => assert!(["cut", "empty"].contains(&e.reason.name()), "{end}: {e}"),
        }
    }
}

/// (template, fields as hashed, fields as shown in ASCII).
fn templates() -> Vec<(&'static str, Vec<Vec<u8>>, String)> {
    let d = [0xabu8; 32];
    let digest = |prefix: &str| [prefix.as_bytes(), b":\0", &d].concat();
    let path = b"/usr/bin/with_space\0".to_vec();
    let p = "/usr/bin/with_space";
    vec![
        ("ima-ng", vec![digest("sha256"), path.clone()], format!("sha256:{} {p}", hex(&d))),
        (
            "ima-sig",
            vec![digest("sha256"), path.clone(), vec![3, 2, 1]],
            format!("sha256:{} {p} 030201", hex(&d)),
        ),
        ("ima-sig", vec![digest("sha256"), path.clone(), vec![]], format!("sha256:{} {p} ", hex(&d))),
        ("ima-ngv2", vec![digest("ima:sha256"), path.clone()], format!("ima:sha256:{} {p}", hex(&d))),
        (
            "ima-sigv2",
            vec![digest("verity:sha256"), path.clone(), vec![9]],
            format!("verity:sha256:{} {p} 09", hex(&d)),
        ),
        (
            "ima-buf",
            vec![digest("sha256"), path.clone(), b"cmd".to_vec()],
            format!("sha256:{} {p} 636d64", hex(&d)),
        ),
        (
            "ima-modsig",
            vec![digest("sha256"), path.clone(), vec![], digest("sha256"), vec![7]],
            format!("sha256:{} {p}  sha256:{} 07", hex(&d), hex(&d)),
        ),
        (
            "evm-sig",
            vec![
                digest("sha256"),
                path.clone(),
                vec![5],
                b"security.ima\0".to_vec(),
                vec![1, 0, 0, 0],
                vec![6],
                vec![0xe8, 3, 0, 0],
                vec![0; 4],
                vec![0xed, 0x81],
            ],
            format!("sha256:{} {p} 05 security.ima 01000000 06 1000 0 33261", hex(&d)),
        ),
        ("d-ng|n-ng|buf", vec![digest("sha256"), path, vec![1]], format!("sha256:{} {p} 01", hex(&d))),
    ]
}

fn template_data(fields: &[Vec<u8>]) -> Vec<u8> {
    let mut data = Vec::new();
    for field in fields {
        data.extend((field.len() as u32).to_le_bytes());
        data.extend(field);
    }
    data
}

fn binary(pcr: u32, listed: &[u8], template: &str, data: &[u8]) -> Vec<u8> {
    let mut out = pcr.to_le_bytes().to_vec();
    out.extend(listed);
    out.extend((template.len() as u32).to_le_bytes());
    out.extend(template.as_bytes());
    out.extend((data.len() as u32).to_le_bytes());
    out.extend(data);
    out
}

#[test]
fn every_template_is_the_same_in_both_forms() {
    for list in [HashAlg::Sha1, HashAlg::Sha256] {
        let (mut raw, mut text) = (Vec::new(), String::new());
        for (template, fields, shown) in templates() {
            let data = template_data(&fields);
            let listed = list.hash(&data);
            raw.extend(binary(10, listed.as_bytes(), template, &data));
            text.push_str(&format!("10 {} {template} {shown}\n", hex(listed.as_bytes())));
        }
        let (raw, text) = (raw, text.into_bytes());
        let (a, b) = (ImaLog::parse(&raw).unwrap(), ImaLog::parse(&text).unwrap());
        assert_eq!(a.entries().len(), templates().len());
        for (a, b) in a.entries().iter().zip(b.entries()) {
            assert_eq!(a.path, "/usr/bin/with_space");
            assert_eq!((&a.file, &a.attached, a.violation), (&b.file, &b.attached, b.violation));
            for way in [Way::Recomputed, Way::PaddedSha1] {
                assert_eq!(a.extended(HashAlg::Sha256, way), b.extended(HashAlg::Sha256, way));
            }
            assert_eq!(a.file.known().unwrap(), LogDigest::filled(HashAlg::Sha256, 0xab));
        }
        assert_eq!(a.entries()[4].file.of.as_deref(), Some("verity"));

        // Every cut of the binary form ends inside an entry or between two.
        let starts: Vec<usize> = a.entries().iter().map(|e| e.offset).collect();
        for end in 1..raw.len() {
            match ImaLog::parse(&raw[..end]) {
                Ok(_) => assert!(starts.contains(&end), "{end}"),
                // Which list this is can be seen from the first template name.
                Err(e) if end < 80 => assert!(["cut", "length"].contains(&e.reason.name()), "{end}: {e}"),
                Err(e) => assert_eq!(e.reason.name(), "cut", "{end}: {e}"),
            }
            let mut changed = raw.clone();
            changed[end] ^= 0x10;
            if let Ok(parsed) = ImaLog::parse(&changed) {
                assert!(
                    parsed.entries().iter().any(|e| e.pcr != pcr(10)),
                    "byte {end} changed without a trace"
                );
            }
        }
    }
}

#[test]
fn the_original_template_pads_its_name() {
    let digest = [0x11u8; 20];
    let name = b"/sbin/init";
    let mut hashed = digest.to_vec();
    hashed.extend(name);
    hashed.resize(276, 0);
    let listed = HashAlg::Sha1.hash(&hashed);
    let mut raw = 10u32.to_le_bytes().to_vec();
    raw.extend(listed.as_bytes());
    raw.extend(3u32.to_le_bytes());
    raw.extend(b"ima");
    raw.extend(digest);
    raw.extend((name.len() as u32).to_le_bytes());
    raw.extend(name);
    let text = format!("10 {} ima {} /sbin/init\n", hex(listed.as_bytes()), hex(&digest)).into_bytes();
    for log in [&raw, &text] {
        let parsed = ImaLog::parse(log).unwrap();
        assert_eq!(parsed.entries()[0].path, "/sbin/init");
        assert_eq!(parsed.entries()[0].extended(HashAlg::Sha1, Way::Recomputed), listed);
        assert_eq!(
            parsed.entries()[0].extended(HashAlg::Sha256, Way::Recomputed),
            HashAlg::Sha256.hash(&hashed)
        );
    }
}

#[test]
fn a_violation_extends_all_ones() {
    let (template, fields, _) = templates().remove(0);
    let raw = binary(10, &[0; 20], template, &template_data(&fields));
    let log = ImaLog::parse(&raw).unwrap();
    let entry = &log.entries()[0];
    assert!(entry.violation);
    assert!(entry.extended(HashAlg::Sha256, Way::Recomputed).is_filled(0xff));
    let padded = entry.extended(HashAlg::Sha256, Way::PaddedSha1);
    assert_eq!(padded.as_bytes(), [[0xff; 20].as_slice(), &[0; 12]].concat());
}

#[test]
fn two_pcrs_are_matched_at_one_moment() {
    let (template, fields, _) = templates().remove(0);
    let data = template_data(&fields);
    let listed = HashAlg::Sha1.hash(&data);
    let one = |pcr| binary(pcr, listed.as_bytes(), template, &data);
    let raw = [one(10), one(11), one(10), one(11)].concat();
    let log = ImaLog::parse(&raw).unwrap();
    let bank = HashAlg::Sha256;
    let after = |n: usize| value(&log, bank, Way::Recomputed, n);
    let quote = |ten, eleven| {
        let quoted = move |p: PcrIndex| Some(if p.get() == 10 { after(ten) } else { after(eleven) });
        log.matching(&ImaState::new(bank), zero(bank), quoted).map(|m| m.covered)
    };
    assert_eq!(quote(2, 2), Ok(4));
    assert_eq!(quote(2, 1), Ok(3));
    assert_eq!(quote(1, 0), Ok(1));
    // PCR 11 has its second entry, PCR 10 not even its first.
    assert!(matches!(quote(0, 2), Err(ImaMismatch::NotOneMoment { .. })));
}

#[test]
fn a_path_is_bytes() {
    let name = b"/tmp/\xff\xfe_latin\xe9";
    let field = [b"sha256:\0".as_slice(), &[7; 32]].concat();
    let data = template_data(&[field, [name.as_slice(), b"\0"].concat()]);
    let listed = HashAlg::Sha1.hash(&data);
    let mut text = format!("10 {} ima-ng sha256:{} ", hex(listed.as_bytes()), hex(&[7; 32])).into_bytes();
    text.extend(name);
    text.push(b'\n');
    for log in [text, binary(10, listed.as_bytes(), "ima-ng", &data)] {
        let parsed = ImaLog::parse(&log).unwrap();
        assert_eq!(parsed.entries()[0].path, String::from_utf8_lossy(name));
        assert_eq!(
            parsed.entries()[0].extended(HashAlg::Sha256, Way::Recomputed),
            HashAlg::Sha256.hash(&data)
        );
    }
}

#[test]
fn malformed_logs_have_names() {
    let name = |bytes: &[u8]| ImaLog::parse(bytes).unwrap_err().reason.name();
    assert_eq!(name(b""), "empty");
    assert_eq!(name(b"10 zz ima-ng sha1:00 /x\n"), "unreadable");
    assert_eq!(name(b"10 00 ima-ng sha1:00 /x\n"), "length");
    let zeros = "0".repeat(40);
    assert_eq!(name(format!("10 {zeros} no-such sha1:00 /x\n").as_bytes()), "unknown-template");
    assert_eq!(name(format!("99 {zeros} ima-ng sha1:00 /x\n").as_bytes()), "no-such-pcr");
    assert_eq!(name(format!("10 {zeros} ima-ng sha1:00 /x y\n").as_bytes()), "unreadable");
    let ones = "1".repeat(40);
    assert_eq!(name(format!("10 {ones} ima-ng sha1:00 /x\n").as_bytes()), "template-digest");
    let mut huge = binary(10, &[0; 20], "ima-ng", &[]);
    let at = huge.len() - 4;
    huge[at..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(name(&huge), "length");
}
