//! IMA lists as kernels in the field write them beside the usual ones, and as none does: the former are read for what they are, the latter
//! refused by name, and nothing in either becomes a file that reference values know.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use gtvp_appraisal::alg::{HashAlg, LogDigest};
use gtvp_appraisal::appraise::{NotMade, State, TpmClass, appraise};
use gtvp_appraisal::evidence::{Evidence, LogPart};
use gtvp_appraisal::ima::{ImaLog, Way};
use gtvp_appraisal::reference::{FileRule, Rule, Status};
use gtvp_model::hex::hex;
use support::{BANK, Machine, NOW, manifest, programs, question, references};

fn data(fields: &[&[u8]]) -> Vec<u8> {
    fields.iter().flat_map(|f| [&(f.len() as u32).to_le_bytes()[..], f].concat()).collect()
}

/// An entry of the binary form.
fn binary(pcr: u32, listed: &[u8], template: &str, data: &[u8]) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&(bytes.len() as u32).to_le_bytes()[..], bytes].concat();
    [&pcr.to_le_bytes()[..], listed, &sized(template.as_bytes()), &sized(data)].concat()
}

fn entry(template: &str, fields: &[&[u8]]) -> Vec<u8> {
    let data = data(fields);
    binary(10, HashAlg::Sha1.hash(&data).as_bytes(), template, &data)
}

/// The same as a line, of what the kernel shows for each field.
fn line(template: &str, fields: &[&[u8]], shown: &str) -> Vec<u8> {
    format!("10 {} {template} {shown}\n", hex(HashAlg::Sha1.hash(&data(fields)).as_bytes())).into_bytes()
}

fn refused(log: &[u8]) -> &'static str {
    ImaLog::parse(log).unwrap_err().reason.name()
}

/// A digest field.
fn of(alg: &str, digest: &[u8]) -> Vec<u8> {
    [alg.as_bytes(), b":\0", digest].concat()
}

const PATH: &[u8] = b"/usr/bin/x\0";

#[test]
fn every_hash_that_linux_names_is_read_and_only_ours_are_known() {
    // hash_algo_name (crypto/hash_info.c), with the lengths of hash_digest_size.
    let all = [
        ("md4", 16),
        ("md5", 16),
        ("sha1", 20),
        ("rmd160", 20),
        ("sha256", 32),
        ("sha384", 48),
        ("sha512", 64),
        ("sha224", 28),
        ("rmd128", 16),
        ("rmd256", 32),
        ("rmd320", 40),
        ("wp256", 32),
        ("wp384", 48),
        ("wp512", 64),
        ("tgr128", 16),
        ("tgr160", 20),
        ("tgr192", 24),
        ("sm3", 32),
        ("streebog256", 32),
        ("streebog512", 64),
        ("sha3-256", 32),
        ("sha3-384", 48),
        ("sha3-512", 64),
    ];
    let ours = ["sha1", "sha256", "sha384", "sha512"];
    for (alg, size) in all {
        let digest = vec![0xab; size];
        let field = of(alg, &digest);
        let fields: &[&[u8]] = &[&field, PATH];
        let shown = format!("{alg}:{} /usr/bin/x", hex(&digest));
        for log in [entry("ima-ng", fields), line("ima-ng", fields, &shown)] {
            let parsed = ImaLog::parse(&log).unwrap_or_else(|e| panic!("{alg}: {e}"));
            let file = &parsed.entries()[0].file;
            assert_eq!((file.alg.as_ref(), file.bytes.as_ref()), (alg, &digest[..]));
            assert_eq!(file.known().is_some(), ours.contains(&alg), "{alg}");
        }
    }
    // One of ours with another length, in capitals, or with a name before it that is none of IMA's.
    for (alg, size) in [("sha256", 20), ("sha256", 64), ("sha256", 0), ("SHA256", 32), ("sha2", 32)] {
        let field = of(alg, &vec![7; size]);
        let log = entry("ima-ng", &[&field, PATH]);
        assert!(ImaLog::parse(&log).unwrap().entries()[0].file.known().is_none(), "{alg} {size}");
    }
    // What is no name of a hash.
    let long = "a".repeat(33);
    for alg in ["sha256 ", "sha\n256", "sha256:x:y", "ima:sha/256", long.as_str()] {
        assert_eq!(refused(&entry("ima-ng", &[&of(alg, &[7; 32]), PATH])), "unreadable", "{alg:?}");
    }
    for field in [&b"sha256"[..], b"sha256:", b"sha256\0", b"", b":\xff\0"] {
        assert_eq!(refused(&entry("ima-ng", &[field, PATH])), "unreadable", "{field:?}");
    }
}

#[test]
fn templates_are_whole_or_refused() {
    let file = of("sha256", &[7; 32]);
    let read = |template: &str, fields: &[&[u8]]| {
        let log = entry(template, fields);
        let parsed = ImaLog::parse(&log).map_err(|e| e.reason.name())?;
        Ok::<_, &str>((parsed.entries()[0].path.to_string(), parsed.entries()[0].attached.to_vec()))
    };
    let path = || "/usr/bin/x".to_owned();
    // Buffers that the kernel measures (keys, policies, its version, kexec's command line), empty or not.
    assert_eq!(
        read("ima-buf", &[&file, b"kernel_version\0", b"6.1"]),
        Ok(("kernel_version".into(), b"6.1".to_vec()))
    );
    assert_eq!(read("ima-buf", &[&file, b"kexec-cmdline\0", b""]), Ok(("kexec-cmdline".into(), vec![])));
    // A module with a signature of its own, and one without.
    assert_eq!(
        read("ima-modsig", &[&file, PATH, b"", &of("sha256", &[8; 32]), b"pkcs7"]),
        Ok((path(), b"pkcs7".to_vec()))
    );
    assert_eq!(read("ima-modsig", &[&file, PATH, &[3, 2, 4], b"", b""]), Ok((path(), vec![3, 2, 4])));
    // Signatures of any form, also those that nobody can read (CentOS has written lengths the wrong way round): they are bytes here.
    for signature in [&[][..], &[3], &[3, 2, 4, 0, 0, 0, 0, 0xff, 0xff], &[6, 2, 4], &[1; 4096]] {
        assert_eq!(read("ima-sig", &[&file, PATH, signature]), Ok((path(), signature.to_vec())));
    }
    // An administrator's own template: its name is its format.
    assert_eq!(read("d-ng|n-ng|sig|buf", &[&file, PATH, b"", b"b"]), Ok((path(), b"b".to_vec())));
    assert_eq!(read("n-ng|d-ng", &[PATH, &file]), Ok((path(), vec![])));
    // A field too few, too many, or cut; one that says that it is longer than the entry.
    assert_eq!(read("ima-ng", &[&file]), Err("cut"));
    assert_eq!(read("ima-sig", &[&file, PATH]), Err("cut"));
    assert_eq!(read("ima-ng", &[&file, PATH, b""]), Err("length"));
    let mut lies = data(&[&file, PATH]);
    lies[0] = 0xff;
    assert_eq!(refused(&binary(10, HashAlg::Sha1.hash(&lies).as_bytes(), "ima-ng", &lies)), "cut");
    lies[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(refused(&binary(10, HashAlg::Sha1.hash(&lies).as_bytes(), "ima-ng", &lies)), "cut");
    // Fields that nobody knows, none that says what was measured, too many, no name.
    let many = ["d-ng"; 17].join("|");
    for template in ["d-ng|n-ng|owner", "ima-sig2", "sig|buf", "", "|", &many] {
        assert_eq!(read(template, &[&file, &file]), Err("unknown-template"), "{template}");
    }
    assert_eq!(read("d-ng", &[&file]), Err("unknown-template"));
    assert_eq!(read("n-ng", &[PATH]), Err("unknown-template"));
    assert_eq!(read(&"x".repeat(257), &[]), Err("length"));
    // A number of another width.
    let xattrs: [&[u8]; 5] = [b"", b"security.ima\0", &[1, 0, 0, 0], &[6], &[0; 8]];
    let fields = [&[&file[..], PATH][..], &xattrs, &[&[0; 4], &[0; 2]]].concat();
    assert_eq!(read("evm-sig", &fields), Err("length"));
}

#[test]
fn a_name_is_no_line_of_its_own() {
    // Whoever may make files may name one so that the text form reads like two entries; the binary form, which members send, does not.
    let good = of("sha256", &[7; 32]);
    let second = String::from_utf8(line(
        "ima-ng",
        &[&good, b"/usr/bin/good\0"],
        &format!("sha256:{} /usr/bin/good", hex(&[7; 32])),
    ))
    .unwrap();
    let name = format!("/tmp/a\n{}", second.trim_end());
    let evil = of("sha256", &[0x66; 32]);
    let fields: &[&[u8]] = &[&evil, &[name.as_bytes(), b"\0"].concat()];
    let log = entry("ima-ng", fields);
    let parsed = ImaLog::parse(&log).unwrap();
    assert_eq!((parsed.entries().len(), parsed.entries()[0].path.as_ref()), (1, name.as_str()));
    let text = line("ima-ng", fields, &format!("sha256:{} {name}", hex(&[0x66; 32])));
    assert_eq!(refused(&text), "template-digest");
    // A zero in it, and none behind it: both are bytes of one name.
    for path in [&b"/usr/bin/x\0/tmp/evil\0"[..], b"/usr/bin/x"] {
        let log = entry("ima-ng", &[&good, path]);
        let parsed = ImaLog::parse(&log).unwrap();
        assert_eq!(parsed.entries()[0].path.as_bytes(), path.strip_suffix(b"\0").unwrap_or(path));
    }
}

/// A healthy machine on which `bytes` were measured, and its PCR 10 extended by `extended`.
fn measured(bytes: &[u8], extended: &[LogDigest]) -> (State, Option<&'static str>, Vec<NotMade>) {
    let known = BANK.hash(b"known");
    let mut machine = Machine::booted("kl_bbm_sb");
    machine.start();
    machine.start_ima();
    machine.execute("/usr/bin/known", &known);
    machine.ima.extend(bytes);
    extended.iter().for_each(|d| machine.extend(10, d));
    let files = vec![Rule::File(FileRule { digest: known, path: None, status: Status::Current })];
    let boot = manifest("boot", 1, machine.boot_rules(Status::Current));
    let references = references(&[boot, programs(), manifest("files", 1, files)]);
    let attester = machine.ak.attester(TpmClass::Hardware);
    let evidence = Evidence { ima: LogPart::whole(machine.ima.clone()), ..machine.evidence(support::NONCE) };
    let verdict = appraise(&evidence, &question(&attester, None), &references, NOW).verdict;
    (verdict.state, verdict.failed.first().map(|f| f.name()), verdict.not_made)
}

#[test]
fn a_violation_is_told_and_hides_nothing() {
    let known = of("sha256", BANK.hash(b"known").as_bytes());
    let evil = of("sha256", BANK.hash(b"evil").as_bytes());
    let zeros = of("sha256", &[0; 32]);
    let ones = LogDigest::filled(BANK, 0xff);
    // As kernels write it: with zeros for the file's digest, of whatever length, or with none.
    for file in [&zeros, &of("sha1", &[0; 20]), &of("sha256", &[])] {
        let (state, failed, told) = measured(&binary(10, &[0; 20], "ima-ng", &data(&[file, PATH])), &[ones]);
        assert_eq!((state, failed), (State::Trusted, None));
        assert!(told.contains(&NotMade::FilesInFlux { times: 1 }), "{told:?}");
    }
    // An entry that was extended, rewritten into one: its PCR has something else.
    let rewritten = binary(10, &[0; 20], "ima-ng", &data(&[&evil, PATH]));
    assert_eq!(measured(&rewritten, &[BANK.hash(&data(&[&evil, PATH]))]).1, Some("ima-mismatch"));
    // A violation that was rewritten into an entry of a file that is known.
    assert_eq!(measured(&entry("ima-ng", &[&known, PATH]), &[ones]).1, Some("ima-mismatch"));
    // Ones in the list are no violation, but a digest that is wrong.
    assert_eq!(refused(&binary(10, &[0xff; 20], "ima-ng", &data(&[&known, PATH]))), "template-digest");
    // A violation is not cut, empty, or of a template that nobody knows, either.
    assert_eq!(refused(&binary(10, &[0; 20], "ima-ng", &data(&[&known]))), "cut");
    assert_eq!(refused(&binary(10, &[0; 20], "whatever", b"")), "unknown-template");
}

#[test]
fn a_file_is_known_by_a_digest_that_is_one_and_by_nothing_like_it() {
    let known = BANK.hash(b"known");
    let with = |field: Vec<u8>| {
        let fields = data(&[&field, PATH]);
        let (state, failed, _) = measured(&entry("ima-ng", &[&field, PATH]), &[BANK.hash(&fields)]);
        (state, failed)
    };
    assert_eq!(with(of("sha256", known.as_bytes())), (State::Trusted, None));
    // The same bytes by another algorithm's name, cut, or with more behind them.
    for field in [
        of("sm3", known.as_bytes()),
        of("sha3-256", known.as_bytes()),
        of("sha256", &known.as_bytes()[..31]),
        of("sha256", &[known.as_bytes(), &[0]].concat()),
        of("md5", &known.as_bytes()[..16]),
    ] {
        assert_eq!(with(field.clone()), (State::Untrusted, Some("file")), "{field:?}");
    }
}

#[test]
fn a_list_in_a_bank_of_its_own_is_one_list() {
    // Newer kernels show one list for each bank; what is in one of another bank's length is no entry of it.
    for bank in [HashAlg::Sha256, HashAlg::Sha384, HashAlg::Sha512] {
        let fields = data(&[&of("sha256", &[7; 32]), PATH]);
        let one = binary(10, bank.hash(&fields).as_bytes(), "ima-ng", &fields);
        let zero = binary(10, &vec![0; bank.size()], "ima-ng", &fields);
        let log = [one.clone(), zero, one.clone()].concat();
        let parsed = ImaLog::parse(&log).unwrap();
        assert_eq!(parsed.entries().iter().map(|e| e.violation).collect::<Vec<_>>(), [false, true, false]);
        assert_eq!(parsed.entries()[0].extended(BANK, Way::Recomputed), BANK.hash(&fields));
        let mixed = [one, entry("ima-ng", &[&of("sha256", &[7; 32]), PATH])].concat();
        assert!(ImaLog::parse(&mixed).is_err(), "{bank}");
    }
    for pcr in [24, 255, u32::MAX] {
        let fields = data(&[&of("sha256", &[7; 32]), PATH]);
        let log = binary(pcr, HashAlg::Sha1.hash(&fields).as_bytes(), "ima-ng", &fields);
        assert_eq!(refused(&log), "no-such-pcr", "{pcr}");
    }
}
