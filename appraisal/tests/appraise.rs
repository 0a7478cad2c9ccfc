//! Whole appraisals: what a healthy member gets, and what each way of not being one gets, by its right name.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use gtvp_appraisal::alg::{HashAlg, LogDigest};
use gtvp_appraisal::appraise::{
    Appraisal, Binding, Check, Failure, Held, KnownFrom, LogName, NotMade, Question, State, TpmClass,
    appraise,
};
use gtvp_appraisal::bootlog::BootLog;
use gtvp_appraisal::evidence::{Evidence, LogPart};
use gtvp_appraisal::ownlog::EntryKind;
use gtvp_appraisal::reference::{
    BootMatch, BootRule, Demand, Demands, FileRule, Manifest, Pattern, ReferenceSet, Rule, Status,
};
use gtvp_model::digest::Digest;
use support::*;

/// A booted, healthy member and the reference values that say so.
fn healthy() -> (Machine, ReferenceSet) {
    let mut machine = Machine::booted("kl_bbm_sb");
    machine.start();
    let boot = manifest("rhel-9", 1, machine.boot_rules(Status::Current));
    (machine, references(&[boot, programs()]))
}

fn ask(machine: &Machine, evidence: &Evidence, references: &ReferenceSet, held: Option<&Held>) -> Appraisal {
    let attester = machine.ak.attester(TpmClass::Hardware);
    appraise(evidence, &question(&attester, held), references, NOW)
}

fn first(appraisal: &Appraisal) -> &Failure {
    appraisal.verdict.failed.first().unwrap_or_else(|| panic!("{:?}", appraisal.verdict))
}

#[test]
fn a_healthy_member_is_trusted_and_the_verdict_says_what_was_not_checked() {
    let (machine, references) = healthy();
    let found = ask(&machine, &machine.evidence(NONCE), &references, None);
    assert_eq!(found.verdict.state, State::Trusted, "{:?}", found.verdict.told());
    assert!(found.verdict.failed.is_empty());
    let without_ima: Vec<Check> =
        Check::ALL.into_iter().filter(|c| ![Check::ImaReplay, Check::Files].contains(c)).collect();
    assert_eq!(found.verdict.passed, without_ima);
    assert_eq!(found.verdict.not_made, [NotMade::FilesNotMeasured]);
    assert_eq!(found.verdict.not_made[0].to_string(), "files executed after boot: not measured");
    assert_eq!(found.verdict.heads.boot, machine.boot.len() as u64);
    assert!(found.held.is_some());
}

#[test]
fn evidence_that_cannot_be_believed_makes_unknown() {
    let (machine, references) = healthy();
    let other = Machine::booted("kl_bbm_sb");
    let good = machine.evidence(NONCE);
    let name = |evidence: &Evidence| {
        let found = ask(&machine, evidence, &references, None);
        assert_eq!(found.verdict.state, State::Unknown);
        assert!(found.held.is_none());
        first(&found).name()
    };
    // HSP 1, 3, 4, 5, 12: a quote that answers something else.
    assert_eq!(name(&machine.evidence(b"another question")), "bound-elsewhere");
    // HSP 6, 8: a TPM that is not this member's.
    assert_eq!(name(&other.evidence(NONCE)), "other-ak");
    // Its AK in the evidence, another's signature.
    assert_eq!(name(&Evidence { signature: other.ak.sign(&good.quote), ..good.clone() }), "signature");
    assert_eq!(name(&Evidence { ak: Key::with(0x0004_0072).public, ..good.clone() }), "bad-ak");
    // HSP 9: SHA-1, a missing PCR, other values.
    let sha1 = machine.attest(NONCE, 4);
    assert_eq!(
        name(&Evidence { signature: machine.ak.sign(&sha1), quote: sha1, ..good.clone() }),
        "sha1-bank"
    );
    for left_out in [0u8, 4, 7, 10, 14] {
        let mut fewer = Machine { ak: Key::ak(), ..healthy().0 };
        fewer.quoted.retain(|p| *p != left_out);
        let found = ask(&fewer, &fewer.evidence(NONCE), &references, None);
        assert_eq!(*first(&found), Failure::PcrNotQuoted(pcr(left_out)));
    }
    let mut values = machine.values();
    values.set(pcr(4), LogDigest::filled(BANK, 1));
    assert_eq!(name(&Evidence { pcrs: values, ..good.clone() }), "pcr-values");
    // A certification of a key is no quote, although the AK signed it.
    let mut certify = vec![0xff, b'T', b'C', b'G', 0x80, 0x17];
    sized(&mut certify, &[0; 34]);
    sized(&mut certify, NONCE);
    certify.extend([0; 16]);
    certify.push(1);
    certify.extend([0; 8]);
    sized(&mut certify, &machine.ak.parsed().name().to_bytes());
    sized(&mut certify, &[0; 34]);
    let signature = machine.ak.sign(&certify);
    assert_eq!(name(&Evidence { signature, quote: certify, ..good.clone() }), "not-a-quote");
    // Logs that are withheld.
    assert_eq!(name(&Evidence { boot: LogPart::Absent, ..good.clone() }), "log-absent");
    assert_eq!(name(&Evidence { own: LogPart::whole(Vec::new()), ..good.clone() }), "log-absent");
    let from = LogPart::From { from: 100, bytes: machine.own[100..].to_vec() };
    assert_eq!(name(&Evidence { own: from, ..good }), "log-from");
}

#[test]
fn checks_after_the_one_that_failed_are_told_as_not_made() {
    let (machine, references) = healthy();
    let found = ask(&machine, &machine.evidence(b"another"), &references, None);
    assert_eq!(found.verdict.passed, [Check::Key, Check::Signature]);
    let not_reached: Vec<Check> = found
        .verdict
        .not_made
        .iter()
        .filter_map(|n| if let NotMade::NotReached { check } = n { Some(*check) } else { None })
        .collect();
    assert_eq!(not_reached, Check::ALL[3..]);
}

#[test]
fn every_rewritten_cut_or_extended_log_is_untrusted_with_its_place() {
    let (machine, references) = healthy();
    let good = machine.evidence(NONCE);
    let untrusted = |evidence: Evidence| {
        let found = ask(&machine, &evidence, &references, None);
        assert_eq!(found.verdict.state, State::Untrusted, "{:?}", found.verdict.told());
        found.verdict.failed.first().unwrap().clone()
    };
    let log = BootLog::parse(&machine.boot).unwrap();
    let last = log.events().last().unwrap().offset;
    // HSP 10: cut between entries, inside one, an entry twice, two swapped, a changed digest.
    let cut = untrusted(Evidence { boot: LogPart::whole(machine.boot[..last].to_vec()), ..good.clone() });
    assert!(
        matches!(&cut, Failure::PcrMismatch { pcr, last: Some(at), .. }
        if pcr.get() == 5 && at.log == LogName::Boot),
        "{cut:?}"
    );
    let inside =
        untrusted(Evidence { boot: LogPart::whole(machine.boot[..last + 9].to_vec()), ..good.clone() });
    assert!(matches!(&inside, Failure::BootLog(e) if e.offset == last && e.reason.name() == "cut"));
    let entry = |n: usize| {
        let end = log.events().get(n + 1).map_or(machine.boot.len(), |e| e.offset);
        &machine.boot[log.events()[n].offset..end]
    };
    let twice = [&machine.boot, entry(98)].concat();
    assert_eq!(untrusted(Evidence { boot: LogPart::whole(twice), ..good.clone() }).name(), "pcr-mismatch");
    let swapped: Vec<u8> = (0..99)
        .map(|n| match n {
            60 => 61,
            61 => 60,
            n => n,
        })
        .flat_map(|n| entry(n).to_vec())
        .collect();
    assert_eq!(untrusted(Evidence { boot: LogPart::whole(swapped), ..good.clone() }).name(), "pcr-mismatch");
    let mut changed = machine.boot.clone();
    changed[last + 20] ^= 1;
    assert_eq!(untrusted(Evidence { boot: LogPart::whole(changed), ..good.clone() }).name(), "pcr-mismatch");
    // GTVP's own log: cut by its last entry, and rewritten.
    let shorter = machine.own[..machine.own.len() - 41].to_vec();
    let cut = untrusted(Evidence { own: LogPart::whole(shorter), ..good.clone() });
    assert!(matches!(&cut, Failure::PcrMismatch { pcr, .. } if pcr.get() == 14), "{cut:?}");
    let mut rewritten = machine.own.clone();
    let at = rewritten.len() - 1;
    rewritten[at] ^= 1;
    assert_eq!(untrusted(Evidence { own: LogPart::whole(rewritten), ..good }).name(), "pcr-mismatch");
    // An extend that no log knows, of each PCR that is quoted.
    for n in gtvp_appraisal::evidence::QUOTED {
        let (mut machine, references) = healthy();
        machine.extend(n, &BANK.hash(b"unlogged"));
        let found = ask(&machine, &machine.evidence(NONCE), &references, None);
        let name = if n == 10 { "pcr-unexplained" } else { "pcr-mismatch" };
        assert_eq!((found.verdict.state, first(&found).name()), (State::Untrusted, name), "PCR {n}");
    }
}

#[test]
fn an_entry_that_no_reference_value_knows_is_named() {
    let (machine, _) = healthy();
    // Reference values without the kernel's entries in PCR 9.
    let rules = machine
        .boot_rules(Status::Current)
        .into_iter()
        .filter(|r| !matches!(r, Rule::Boot(b) if b.about.contains("/vmlinuz")))
        .collect();
    let references = references(&[manifest("rhel-9", 1, rules), programs()]);
    let found = ask(&machine, &machine.evidence(NONCE), &references, None);
    assert_eq!(found.verdict.state, State::Untrusted);
    let kernel =
        found.verdict.failed.iter().find(|f| matches!(f, Failure::BootEntry { pcr: 9, .. })).unwrap();
    let at = kernel.entry().unwrap();
    let log = BootLog::parse(&machine.boot).unwrap();
    assert_eq!(log.events()[at.entry as usize].offset as u64, at.offset);
    assert!(kernel.to_string().contains("vmlinuz-5.14.0"), "{kernel}");
    // All checks but this one were made.
    assert!(!found.verdict.passed.contains(&Check::BootEntries));
    assert!(found.verdict.passed.contains(&Check::OwnEntries));
}

#[test]
fn a_replaced_program_and_a_changed_topology_are_named() {
    for (kind, subject) in [(EntryKind::Binary, "drivers"), (EntryKind::Topology, "topology.toml")] {
        let (mut machine, references) = healthy();
        machine.measure(kind, subject, Digest::of(b"evil"));
        let found = ask(&machine, &machine.evidence(NONCE), &references, None);
        assert_eq!(found.verdict.state, State::Untrusted);
        assert!(matches!(first(&found), Failure::OwnEntry { at, subject: s, .. }
            if s == subject && at.entry == PROGRAMS.len() as u64));
    }
    // Any composition is started and told as not compared.
    let (mut machine, references) = healthy();
    machine.measure(EntryKind::Composition, "web", Digest::of(b"nginx"));
    let found = ask(&machine, &machine.evidence(NONCE), &references, None);
    assert_eq!(found.verdict.state, State::Trusted);
    assert!(found.verdict.not_made.contains(&NotMade::OwnUnchecked { entries: 1 }));
}

#[test]
fn a_file_of_each_members_own_is_told_as_not_checked_and_no_other_is_left_out() {
    use gtvp_appraisal::ownlog::OwnLog;
    use gtvp_appraisal::reference::{OwnMatch, OwnRule, Pattern, Rule, RuleRefusal, rules_for_own};
    let (mut machine, references_before) = healthy();
    machine.measure(EntryKind::Configuration, "member.toml", Digest::of(b"this server's"));
    let found = ask(&machine, &machine.evidence(NONCE), &references_before, None);
    assert!(matches!(first(&found), Failure::OwnEntry { subject, .. } if subject == "member.toml"));
    // As it is learned: the value is nobody else's.
    let own = rules_for_own(&OwnLog::parse(&machine.own).unwrap(), Status::Current, |_| true);
    let boot = manifest("rhel-9", 1, machine.boot_rules(Status::Current));
    let learnt = references(&[boot, manifest("gtvp", 1, own)]);
    machine.measure(EntryKind::Configuration, "member.toml", Digest::of(b"changed since"));
    let found = ask(&machine, &machine.evidence(NONCE), &learnt, None).verdict;
    assert_eq!(found.state, State::Trusted, "{:?}", found.told());
    let open: Vec<_> = found.not_made.iter().filter(|n| n.to_string().starts_with("member.toml")).collect();
    assert_eq!(open, [&NotMade::ConfigurationUnchecked { file: "member.toml".to_owned() }], "said once");
    assert_eq!(open[0].to_string(), "member.toml: not checked, it is each member's own");
    machine.measure(EntryKind::Configuration, "other.toml", Digest::of(b"x"));
    let found = ask(&machine, &machine.evidence(NONCE), &learnt, None);
    assert!(matches!(first(&found), Failure::OwnEntry { subject, .. } if subject == "other.toml"));
    // Nobody leaves more unchecked than one file by its name, and no program.
    let rule = |kind, subject: Option<&str>| {
        let subject = subject.map(|s| Pattern::new(s).unwrap());
        let status = Status::Current;
        Rule::Own(OwnRule { kind, subject, is: OwnMatch::Unchecked, part: None, status }).check()
    };
    let configuration = EntryKind::Configuration;
    assert_eq!(rule(configuration, Some("member.toml")), Ok(()));
    for bad in [None, Some("member*"), Some("*.toml")] {
        assert_eq!(rule(configuration, bad), Err(RuleRefusal::UncheckedOwn(configuration)));
    }
    for kind in [EntryKind::Binary, EntryKind::Topology, EntryKind::Template, EntryKind::Start] {
        assert_eq!(rule(kind, Some("member.toml")), Err(RuleRefusal::UncheckedOwn(kind)));
    }
}

#[test]
fn a_part_that_was_not_measured_is_missed() {
    let mut machine = Machine::booted("kl_bbm_sb");
    let boot = manifest("rhel-9", 1, machine.boot_rules(Status::Current));
    let references = references(&[boot, programs()]);
    machine.measure(EntryKind::Start, "0.1.0", Digest::of(b"0.1.0"));
    let found = ask(&machine, &machine.evidence(NONCE), &references, None);
    let missing: Vec<_> = found.verdict.failed.iter().map(ToString::to_string).collect();
    assert_eq!(missing.len(), PROGRAMS.len() - 1);
    assert!(missing.iter().any(|m| m == "no \"gtvp-security\" was measured"), "{missing:?}");
}

#[test]
fn an_update_is_accepted_before_it_is_made_and_the_old_one_until_it_is_retired() {
    let mut before = Machine::booted("kl_bbm_sb");
    before.start();
    let mut after = Machine::booted("ga_crypto_agile_eventlog");
    after.start();
    let now = manifest("host", 1, before.boot_rules(Status::Current));
    let old_only = references(&[now.clone(), programs()]);
    assert_eq!(ask(&after, &after.evidence(NONCE), &old_only, None).verdict.state, State::Untrusted);

    let mut next = now;
    next.version = 2;
    next.rules.extend(after.boot_rules(Status::Next));
    let both = references(&[next.clone(), programs()]);
    let found = ask(&before, &before.evidence(NONCE), &both, None);
    assert_eq!((found.verdict.state, found.verdict.next_seen), (State::Trusted, 0));
    let found = ask(&after, &after.evidence(NONCE), &both, None);
    assert_eq!(found.verdict.state, State::Trusted);
    assert!(found.verdict.next_seen > 0, "the update was seen");

    next.version = 3;
    next.rules.retain(|r| matches!(r, Rule::Boot(b) if b.status == Status::Next));
    let retired = references(&[next, programs()]);
    assert_eq!(ask(&before, &before.evidence(NONCE), &retired, None).verdict.state, State::Untrusted);
}

#[test]
fn a_command_line_is_accepted_by_its_words() {
    let mut machine = Machine::booted("kl_bbm_sb");
    machine.start();
    let mut rules = machine.boot_rules(Status::Current);
    rules.retain(|r| !matches!(r, Rule::Boot(b) if b.pcr == pcr(8)));
    let log = BootLog::parse(&machine.boot).unwrap();
    for event in log.events().iter().filter(|e| e.pcr == 8) {
        let kind = event.kind();
        let text = kind.subject().unwrap().replace("5.14.0-503.11.1", "5.*");
        rules.push(Rule::Boot(BootRule {
            pcr: pcr(8),
            kind: event.kind_id,
            is: BootMatch::Text(Pattern::new(&text).unwrap()),
            part: None,
            about: "grub".to_owned(),
            status: Status::Current,
        }));
    }
    let references = references(&[manifest("rhel-9", 1, rules.clone()), programs()]);
    let found = ask(&machine, &machine.evidence(NONCE), &references, None);
    assert_eq!(found.verdict.state, State::Trusted, "{:?}", found.verdict.told());
    // The same words, but for another PCR: not these.
    rules.retain(|r| !matches!(r, Rule::Boot(BootRule { is: BootMatch::Text(t), .. }) if t.as_str().starts_with("linux")));
    let fewer = support::references(&[manifest("rhel-9", 1, rules), programs()]);
    let found = ask(&machine, &machine.evidence(NONCE), &fewer, None);
    assert_eq!(first(&found).name(), "boot-entry");
}

#[test]
fn what_is_left_unchecked_is_counted() {
    let (machine, _) = healthy();
    let log = BootLog::parse(&machine.boot).unwrap();
    let unchecked = log.events().iter().filter(|e| e.pcr == 1 && e.kind_id.0 == 0x8000_0002).count() as u64;
    let mut rules = machine.boot_rules(Status::Current);
    rules.retain(|r| !matches!(r, Rule::Boot(b) if b.pcr == pcr(1) && b.kind.0 == 0x8000_0002));
    rules.push(Rule::Boot(BootRule {
        pcr: pcr(1),
        kind: gtvp_appraisal::bootlog::EventType::EFI_VARIABLE_BOOT,
        is: BootMatch::Unchecked,
        part: None,
        about: "boot order".to_owned(),
        status: Status::Current,
    }));
    let references = references(&[manifest("rhel-9", 1, rules), programs()]);
    let found = ask(&machine, &machine.evidence(NONCE), &references, None);
    assert_eq!(found.verdict.state, State::Trusted, "{:?}", found.verdict.told());
    assert!(unchecked > 0 && found.verdict.not_made.contains(&NotMade::BootUnchecked { events: unchecked }));
}

/// A member with IMA, and rules for its files.
fn with_files() -> (Machine, Vec<Manifest>) {
    let (mut machine, _) = healthy();
    machine.start_ima();
    let files: Vec<LogDigest> = (0..5u8).map(|n| BANK.hash(&[n])).collect();
    let rules =
        files.iter().map(|d| Rule::File(FileRule { digest: *d, path: None, status: Status::Current }));
    let files_manifest = manifest("files", 1, rules.collect());
    for (n, digest) in files.iter().enumerate() {
        machine.execute(&format!("/usr/bin/{n}"), digest);
    }
    let boot = manifest("rhel-9", 1, machine.boot_rules(Status::Current));
    (machine, vec![boot, programs(), files_manifest])
}

#[test]
fn files_are_compared_if_reference_values_know_some() {
    let (mut machine, manifests) = with_files();
    let all = references(&manifests);
    let found = ask(&machine, &machine.evidence(NONCE), &all, None);
    assert_eq!(found.verdict.state, State::Trusted, "{:?}", found.verdict.told());
    assert!(found.verdict.passed.contains(&Check::Files) && found.verdict.passed.contains(&Check::ImaReplay));
    assert!(found.verdict.not_made.is_empty(), "{:?}", found.verdict.not_made);

    let without = references(&manifests[..2]);
    let found = ask(&machine, &machine.evidence(NONCE), &without, None);
    assert_eq!(found.verdict.state, State::Trusted);
    assert_eq!(found.verdict.not_made, [NotMade::FilesNotCompared { files: 5 }]);
    assert!(!found.verdict.passed.contains(&Check::Files));

    machine.execute("/tmp/evil", &BANK.hash(b"evil"));
    let found = ask(&machine, &machine.evidence(NONCE), &all, None);
    assert_eq!(found.verdict.state, State::Untrusted);
    assert!(matches!(first(&found), Failure::File { at, path, .. } if path == "/tmp/evil" && at.entry == 6));
    // A SHA-1 file digest is not compared with anything.
    let (mut machine, _) = with_files();
    machine.execute("/usr/bin/old", &HashAlg::Sha1.hash(b"old"));
    assert_eq!(first(&ask(&machine, &machine.evidence(NONCE), &all, None)).name(), "file");
}

#[test]
fn a_demanded_file_log_must_be_there_and_have_files() {
    let (machine, manifests) = with_files();
    let demand = Demands { files: Some(Demand::Required), ..Demands::default() };
    let mut demanding = manifests;
    demanding[2].demands = demand;
    let references = references(&demanding);
    assert_eq!(ask(&machine, &machine.evidence(NONCE), &references, None).verdict.state, State::Trusted);
    let (without, _) = healthy();
    let found = ask(&without, &without.evidence(NONCE), &references, None);
    assert_eq!(*first(&found), Failure::LogAbsent(LogName::Ima));
    let (mut idle, _) = healthy();
    idle.start_ima();
    let found = ask(&idle, &idle.evidence(NONCE), &references, None);
    assert_eq!(*first(&found), Failure::LogAbsent(LogName::Ima), "only the boot aggregate");
    // Withheld, while PCR 10 says that there is one.
    let evidence = Evidence { ima: LogPart::Absent, ..machine.evidence(NONCE) };
    let lenient = support::references(&demanding[..2]);
    let found = ask(&machine, &evidence, &lenient, None);
    assert_eq!((found.verdict.state, first(&found).name()), (State::Untrusted, "pcr-unexplained"));
}

#[test]
fn a_kernel_that_measures_by_sha1_is_told() {
    let (_, manifests) = with_files();
    let mut machine = Machine::booted("kl_bbm_sb");
    machine.way = gtvp_appraisal::ima::Way::PaddedSha1;
    machine.start();
    machine.start_ima();
    (0..5u8).for_each(|n| machine.execute(&format!("/usr/bin/{n}"), &BANK.hash(&[n])));
    let references = references(&manifests);
    let found = ask(&machine, &machine.evidence(NONCE), &references, None);
    assert_eq!(found.verdict.state, State::Trusted, "{:?}", found.verdict.told());
    assert_eq!(found.verdict.not_made, [NotMade::FilesBySha1]);
    // And while it goes on.
    let held = found.held.unwrap();
    machine.execute("/usr/bin/0", &BANK.hash(&[0]));
    let found = ask(&machine, &machine.update(NONCE, &held), &references, Some(&held));
    assert_eq!(
        (found.verdict.state, &found.verdict.not_made[..]),
        (State::Trusted, &[NotMade::FilesBySha1][..])
    );
}

#[test]
fn imas_boot_is_the_quoted_boot() {
    let (mut machine, references) = healthy();
    machine.execute("boot_aggregate", &BANK.hash(b"another boot"));
    machine.execute("/usr/bin/0", &BANK.hash(&[0]));
    let found = ask(&machine, &machine.evidence(NONCE), &references, None);
    assert_eq!(first(&found).name(), "boot-aggregate");
}

#[test]
fn attestation_goes_on_from_what_is_held() {
    let (mut machine, manifests) = with_files();
    let references = references(&manifests);
    let held = ask(&machine, &machine.evidence(NONCE), &references, None).held.unwrap();

    // Nothing new.
    machine.clock += 2000;
    let idle = machine.update(NONCE, &held);
    assert!(idle.encode().len() < 1600, "{} bytes", idle.encode().len());
    let found = ask(&machine, &idle, &references, Some(&held));
    assert_eq!(found.verdict.state, State::Trusted, "{:?}", found.verdict.told());

    // A box started, a file executed.
    machine.measure(EntryKind::Composition, "web", Digest::of(b"nginx"));
    machine.execute("/usr/bin/1", &BANK.hash(&[1]));
    let found = ask(&machine, &machine.update(NONCE, &held), &references, Some(&held));
    assert_eq!(found.verdict.state, State::Trusted, "{:?}", found.verdict.told());
    let later = found.held.unwrap();
    assert_eq!(later.heads.own, machine.own.len() as u64);

    // A bad file then: its number is the whole log's.
    machine.execute("/tmp/evil", &BANK.hash(b"evil"));
    machine.measure(EntryKind::Binary, "security", Digest::of(b"evil"));
    let found = ask(&machine, &machine.update(NONCE, &later), &references, Some(&later));
    assert!(
        matches!(&found.verdict.failed[..], [Failure::File { at: file, .. }, Failure::OwnEntry { at: own, .. }]
        if file.entry == 7 && own.entry == PROGRAMS.len() as u64 + 1),
        "{:?}",
        found.verdict.told()
    );
    assert!(matches!(&found.verdict.failed[0], Failure::File { at, .. }
        if at.offset == later.heads.ima));

    // What was measured cannot be unsaid: the tampered member sends what it sent before.
    let lie = Evidence { own: idle.own, ima: idle.ima, ..machine.update(NONCE, &later) };
    assert_eq!(ask(&machine, &lie, &references, Some(&held)).verdict.state, State::Untrusted);
    // The whole logs say the same as the parts.
    let whole = ask(&machine, &machine.evidence(NONCE), &references, None);
    assert_eq!(whole.verdict.told(), found.verdict.told());
    // Held state travels through the verifier's own disk.
    let mut bytes = Vec::new();
    ciborium::into_writer(&later, &mut bytes).unwrap();
    assert_eq!(ciborium::from_reader::<Held, _>(bytes.as_slice()).unwrap(), later);
}

#[test]
fn a_reset_and_a_clock_that_goes_back_are_named() {
    let (mut machine, references) = healthy();
    let held = ask(&machine, &machine.evidence(NONCE), &references, None).held.unwrap();
    // HSP 11: reset, and extended to the same values again.
    machine.resets += 1;
    let found = ask(&machine, &machine.evidence(NONCE), &references, Some(&held));
    assert_eq!((found.verdict.state, first(&found).name()), (State::Untrusted, "tpm-reset"));
    // As a new member of the session it may come in again.
    assert_eq!(ask(&machine, &machine.evidence(NONCE), &references, None).verdict.state, State::Trusted);
    machine.resets -= 1;
    machine.clock -= 1;
    let found = ask(&machine, &machine.evidence(NONCE), &references, Some(&held));
    assert_eq!(first(&found).name(), "clock-back");
}

#[test]
fn what_is_held_of_one_member_counts_for_no_other() {
    let (machine, references) = healthy();
    let held = ask(&machine, &machine.evidence(NONCE), &references, None).held.unwrap();
    let other = Machine { ak: Key::ak(), ..healthy().0 };
    let found = ask(&other, &other.update(NONCE, &held), &references, Some(&held));
    assert_eq!((found.verdict.state, first(&found).name()), (State::Unknown, "log-from"));
}

#[test]
fn other_reference_values_judge_anew() {
    let (machine, references) = healthy();
    let held = ask(&machine, &machine.evidence(NONCE), &references, None).held.unwrap();
    let boot = manifest("rhel-9", 2, machine.boot_rules(Status::Current));
    let newer = support::references(&[boot, programs()]);
    let found = ask(&machine, &machine.update(NONCE, &held), &newer, Some(&held));
    assert_eq!((found.verdict.state, first(&found).name()), (State::Unknown, "log-from"));
    assert_eq!(ask(&machine, &machine.evidence(NONCE), &newer, Some(&held)).verdict.state, State::Trusted);
}

#[test]
fn a_software_tpm_needs_an_explicit_word_and_is_told() {
    let mut machine = Machine::software();
    machine.start();
    let ordinary = references(&[programs()]);
    let found = ask(&machine, &machine.evidence(NONCE), &ordinary, None);
    assert_eq!(*first(&found), Failure::LogAbsent(LogName::Boot));

    let mut lab = manifest("lab", 1, Vec::new());
    lab.demands.boot = Some(Demand::MayBeAbsent);
    let lab = references(&[lab, programs()]);
    let attester = machine.ak.attester(TpmClass::Software);
    let found = appraise(&machine.evidence(NONCE), &question(&attester, None), &lab, NOW);
    assert_eq!(found.verdict.state, State::Trusted, "{:?}", found.verdict.told());
    assert_eq!(
        found.verdict.not_made,
        [NotMade::SoftwareTpm, NotMade::BootNotMeasured, NotMade::FilesNotMeasured]
    );
    // A machine that measured its boot and withholds the log is not let in this way.
    let mut real = Machine::booted("kl_bbm_sb");
    real.start();
    let evidence = Evidence { boot: LogPart::Absent, ..real.evidence(NONCE) };
    let found = ask(&real, &evidence, &lab, None);
    assert_eq!((found.verdict.state, first(&found).name()), (State::Untrusted, "pcr-unexplained"));
}

#[test]
fn offline_it_says_what_nobody_vouches_for() {
    let (machine, references) = healthy();
    let attester = machine.ak.attester(TpmClass::Hardware);
    let question = Question {
        attester: &attester,
        known_from: KnownFrom::Claim,
        binding: Binding::NotChecked,
        held: None,
        newest: None,
    };
    let found = appraise(&machine.evidence(b"whatever"), &question, &references, NOW);
    assert_eq!(found.verdict.state, State::Unknown);
    assert!(found.verdict.failed.is_empty() && found.held.is_none());
    assert!(found.verdict.not_made.starts_with(&[NotMade::KeyClaimed, NotMade::Freshness]));
    assert!(!found.verdict.passed.contains(&Check::Binding) && !found.verdict.passed.contains(&Check::Key));
}

#[test]
fn entries_in_a_pcr_that_nothing_proves_do_not_stand_for_a_part() {
    let mut machine = Machine::booted("kl_bbm_sb");
    machine.start();
    // An entry in PCR 11 that the TPM never saw.
    let mut forged = machine.boot.clone();
    forged.extend(11u32.to_le_bytes());
    forged.extend(0x0du32.to_le_bytes());
    forged.extend(1u32.to_le_bytes());
    forged.extend(0x0bu16.to_le_bytes());
    let digest = BANK.hash(b"a signed kernel");
    forged.extend(digest.as_bytes());
    forged.extend(0u32.to_le_bytes());
    let rule = Rule::Boot(BootRule {
        pcr: pcr(11),
        kind: gtvp_appraisal::bootlog::EventType::IPL,
        is: BootMatch::Digest(digest),
        part: Some("kernel".to_owned()),
        about: "kernel".to_owned(),
        status: Status::Current,
    });
    let mut boot = manifest("rhel-9", 1, machine.boot_rules(Status::Current));
    boot.rules.push(rule);
    boot.required_parts.push("kernel".to_owned());
    let references = references(&[boot, programs()]);
    for quoted in [false, true] {
        if quoted {
            machine.quoted = (0..=15).collect();
        }
        let evidence = Evidence { boot: LogPart::whole(forged.clone()), ..machine.evidence(NONCE) };
        let found = ask(&machine, &evidence, &references, None);
        assert_eq!(*first(&found), Failure::PartMissing("kernel".to_owned()));
        assert!(found.verdict.not_made.contains(&NotMade::BootNotQuoted { events: 1 }));
    }
    // Positive control: the TPM saw it.
    machine.extend(11, &digest);
    machine.boot = forged;
    let found = ask(&machine, &machine.evidence(NONCE), &references, None);
    assert_eq!(found.verdict.state, State::Trusted, "{:?}", found.verdict.told());
}

#[test]
fn a_real_quote_with_its_real_log_passes_up_to_what_nobody_gave() {
    use gtvp_appraisal::appraise::Attester;
    use gtvp_appraisal::tpm::PcrValues;
    let mut pcrs = PcrValues::new(BANK);
    for line in String::from_utf8(vector("quote/gce_q_sha256.pcrs")).unwrap().lines() {
        let (index, hex) = line.split_once(' ').unwrap();
        pcrs.set(pcr(index.parse().unwrap()), format!("sha256:{hex}").parse().unwrap());
    }
    let evidence = Evidence {
        version: 1,
        ak: vector("quote/gce_ak.pub"),
        quote: vector("quote/gce_q_sha256.att"),
        signature: vector("quote/gce_q_sha256.sig"),
        pcrs,
        boot: LogPart::whole(vector("logs/gce9009_eventlog")),
        ima: LogPart::Absent,
        own: LogPart::Absent,
    };
    let attester = Attester::new(&evidence.ak, TpmClass::Software).unwrap();
    let question = Question { binding: Binding::Qualifying(&[0x90, 0x09]), ..question(&attester, None) };
    let boot = vector("logs/gce9009_eventlog");
    let rules = gtvp_appraisal::reference::rules_for_boot(
        &BootLog::parse(&boot).unwrap(),
        BANK,
        Status::Current,
        |_| true,
    );
    let mut gce = manifest("gce", 1, rules);
    gce.demands.own = Some(Demand::MayBeAbsent);
    let found = appraise(&evidence, &question, &references(&[gce]), NOW);
    // IMA extended PCR 10 of that machine, and its log was not kept.
    assert_eq!(first(&found).to_string(), "PCR 10 was extended, and no IMA log says by what");
    assert_eq!(
        found.verdict.passed,
        [Check::Key, Check::Signature, Check::Binding, Check::Epoch, Check::Pcrs]
    );
    assert_eq!(found.verdict.clock.unwrap().reset_count, 10);
}

#[test]
fn evidence_is_explained_and_words_without_a_digest_are_marked() {
    let (mut machine, _) = with_files();
    machine.measure(EntryKind::Composition, "web", Digest::of(b"nginx"));
    let sections = gtvp_appraisal::explain::explain(&machine.evidence(NONCE));
    let of = |heading: &str| sections.iter().find(|s| s.heading.starts_with(heading)).unwrap();
    let boot = &of("boot log").lines;
    assert_eq!(boot.len(), BootLog::parse(&machine.boot).unwrap().events().len());
    let line = |what: &str| boot.iter().find(|l| l.contains(what)).unwrap();
    assert!(line("shimx64.efi").ends_with("(unproven)"), "a path is what firmware says");
    assert!(line("EV_EFI_VARIABLE_DRIVER_CONFIG").ends_with("SecureBoot"), "a variable is what was measured");
    assert!(of("IMA log").lines.iter().any(|l| l.ends_with("/usr/bin/3")));
    assert!(of("GTVP log").lines.last().unwrap().contains("composition web"));
    assert!(of("quote").lines[0].contains("bound to 7468652061"));
    let broken = Evidence { boot: LogPart::whole(vec![1, 2, 3]), ..machine.evidence(NONCE) };
    let sections = gtvp_appraisal::explain::explain(&broken);
    assert!(sections[3].lines[0].contains("cut"), "{:?}", sections[3]);
}

#[test]
fn what_failed_can_be_accepted_and_then_is_healthy() {
    use gtvp_appraisal::ownlog::OwnLog;
    use gtvp_appraisal::reference::{rule_accepting, rules_for_own};
    let (mut machine, manifests) = with_files();
    machine.execute("/usr/bin/new", &BANK.hash(b"new"));
    machine.measure(EntryKind::Binary, "security", Digest::of(b"0.1.1"));
    let mut rules = manifests[0].rules.clone();
    rules.truncate(rules.len() - 3);
    let before = [manifest("rhel-9", 1, rules.clone()), manifests[1].clone(), manifests[2].clone()];
    let found = ask(&machine, &machine.evidence(NONCE), &references(&before), None).verdict;
    assert_eq!(found.failed.len(), 5, "{:?}", found.told());
    rules.extend(found.failed.iter().map(|f| rule_accepting(f, Status::Next).unwrap()));
    let after = [manifest("rhel-9", 2, rules), manifests[1].clone(), manifests[2].clone()];
    let found = ask(&machine, &machine.evidence(NONCE), &references(&after), None).verdict;
    assert_eq!((found.state, found.next_seen), (State::Trusted, 5), "{:?}", found.told());
    // What no reference value can mend.
    assert_eq!(rule_accepting(&Failure::BoundElsewhere, Status::Next), None);
    let sha1 = Failure::File {
        at: gtvp_appraisal::appraise::LogEntryRef { log: LogName::Ima, entry: 0, offset: 0 },
        path: "/x".to_owned(),
        digest: format!("sha1:{}", "0".repeat(40)),
    };
    assert_eq!(rule_accepting(&sha1, Status::Next), None);

    // A first member's own log becomes rules.
    let (mut first, _) = healthy();
    first.measure(EntryKind::Composition, "web", Digest::of(b"nginx"));
    let own = rules_for_own(&OwnLog::parse(&first.own).unwrap(), Status::Current, |_| true);
    let boot = manifest("rhel-9", 1, first.boot_rules(Status::Current));
    let learnt = references(&[boot, manifest("gtvp", 1, own)]);
    assert_eq!(ask(&first, &first.evidence(NONCE), &learnt, None).verdict.state, State::Trusted);
}
