//! Each attack with its positive control: with the guard it is refused by its name, without the guard the same evidence
//! makes a trusted verdict. So no guard is idle, and none of the refusals comes from something else.

use gtvp_model::digest::Digest;

use super::planted::{Guard, without};
use super::{Held, Question, State, TpmClass, appraise};
use crate::bootlog::BootLog;
use crate::evidence::{Evidence, LogPart};
use crate::ownlog::EntryKind;
use crate::reference::{FileRule, ReferenceSet, Rule, Status};
use crate::tpm::ClockInfo;

#[path = "../../tests/support/mod.rs"]
mod support;
use support::*;

/// A member that is healthy, what says so, and what is held of it.
struct Scene {
    machine: Machine,
    references: ReferenceSet,
    held: Held,
}

fn scene() -> Scene {
    let mut machine = Machine::booted("kl_bbm_sb");
    machine.start();
    machine.start_ima();
    scene_of(machine)
}

/// With or without IMA, as the machine came.
fn scene_of(mut machine: Machine) -> Scene {
    if !machine.ima.is_empty() {
        (0..3u8).for_each(|n| machine.execute(&format!("/usr/bin/{n}"), &BANK.hash(&[n])));
    }
    let files = (0..3u8)
        .map(|n| Rule::File(FileRule { digest: BANK.hash(&[n]), path: None, status: Status::Current }));
    let files = manifest("files", 1, files.collect());
    let boot = manifest("rhel-9", 1, machine.boot_rules(Status::Current));
    let references = references(&[boot, programs(), files]);
    let attester = machine.ak.attester(TpmClass::Hardware);
    let found = appraise(&machine.evidence(NONCE), &question(&attester, None), &references, NOW);
    let held = found.held.unwrap_or_else(|| panic!("{:?}", found.verdict.told()));
    Scene { machine, references, held }
}

impl Scene {
    fn attacked(&self, evidence: &Evidence, held: bool) -> (State, Option<&'static str>) {
        let attester = self.machine.ak.attester(TpmClass::Hardware);
        let held = held.then_some(&self.held);
        let verdict = appraise(evidence, &question(&attester, held), &self.references, NOW).verdict;
        (verdict.state, verdict.failed.first().map(super::Failure::name))
    }

    /// Refused as `name`, and trusted without `guards`.
    fn control(&self, what: &str, evidence: &Evidence, held: bool, name: &str, guards: &[Guard]) {
        let (state, got) = self.attacked(evidence, held);
        assert_eq!(got, Some(name), "{what}");
        assert_ne!(state, State::Trusted, "{what}");
        let without_it = without(guards, || self.attacked(evidence, held));
        assert_eq!(without_it, (State::Trusted, None), "{what}: the attack without its guard");
        // Each of the guards is needed for it.
        for n in 0..guards.len() {
            let mut rest = guards.to_vec();
            rest.remove(n);
            let (state, _) = without(&rest, || self.attacked(evidence, held));
            assert_ne!(state, State::Trusted, "{what}: {:?} is idle", guards.get(n));
        }
    }
}

fn rewritten(part: &LogPart, change: impl FnOnce(&mut Vec<u8>)) -> LogPart {
    let LogPart::From { from, bytes } = part else { panic!("no log") };
    let mut bytes = bytes.clone();
    change(&mut bytes);
    LogPart::From { from: *from, bytes }
}

#[test]
fn quotes_that_are_not_this_members_answer_now() {
    let s = scene();
    let good = s.machine.evidence(NONCE);
    // HSP 1, 3, 4, 5, 12: another question's quote.
    s.control("replay", &s.machine.evidence(b"yesterday"), false, "bound-elsewhere", &[Guard::Binding]);
    // HSP 6, 8: another TPM with the same PCRs.
    let cuckoo = Machine { ak: Key::ak(), ..scene().machine };
    s.control("cuckoo", &cuckoo.evidence(NONCE), false, "other-ak", &[Guard::Key]);
    let signature = cuckoo.ak.sign(&good.quote);
    s.control("unsigned", &Evidence { signature, ..good.clone() }, false, "signature", &[Guard::Signature]);
    // HSP 9: a PCR that is not quoted hides what was extended into it.
    let mut without_ima = Machine::booted("kl_bbm_sb");
    without_ima.start();
    let mut h = scene_of(without_ima);
    h.machine.quoted.retain(|p| *p != 4);
    h.machine.extend(4, &BANK.hash(b"evil.efi"));
    let evidence = h.machine.evidence(NONCE);
    h.control("hidden PCR", &evidence, false, "pcr-not-quoted", &[Guard::Selection]);
    // Values that were never quoted: a tampered machine shows a healthy one's.
    let mut t = scene();
    let pcrs = t.machine.values();
    t.machine.extend(4, &BANK.hash(b"evil.efi"));
    let tampered = Evidence { pcrs, ..t.machine.evidence(NONCE) };
    t.control("old values", &tampered, false, "pcr-values", &[Guard::Values]);
}

#[test]
fn a_tpm_that_was_reset_or_set_back() {
    let mut s = scene();
    s.machine.resets += 1;
    let evidence = s.machine.evidence(NONCE);
    s.control("reset and re-extended", &evidence, true, "tpm-reset", &[Guard::Epoch]);
    s.machine.resets -= 1;
    s.machine.clock -= 1;
    let evidence = s.machine.evidence(NONCE);
    s.control("set back", &evidence, true, "clock-back", &[Guard::Clock]);
}

#[test]
fn a_tpm_of_an_earlier_life_does_not_begin_anew() {
    let s = scene();
    let attester = s.machine.ak.attester(TpmClass::Hardware);
    let evidence = s.machine.evidence(NONCE);
    let now = s.held.clock;
    let verdict = |newest| {
        let question = Question { newest: Some(newest), ..question(&attester, None) };
        let found = appraise(&evidence, &question, &s.references, NOW).verdict;
        (found.state, found.failed.first().map(super::Failure::name))
    };
    let resets = ClockInfo { reset_count: now.reset_count + 1, clock: 0, ..now };
    let restarts = ClockInfo { restart_count: now.restart_count + 1, ..now };
    for later in [resets, restarts] {
        assert_eq!(verdict(later), (State::Untrusted, Some("earlier-life")));
        assert_eq!(without(&[Guard::Life], || verdict(later)).0, State::Trusted);
    }
    let later = ClockInfo { clock: now.clock + 1, ..now };
    assert_eq!(verdict(later), (State::Untrusted, Some("clock-back")));
    assert_eq!(without(&[Guard::Clock], || verdict(later)).0, State::Trusted);
    let earlier = ClockInfo { reset_count: now.reset_count - 1, clock: now.clock + 1, ..now };
    assert_eq!((verdict(now).0, verdict(earlier).0), (State::Trusted, State::Trusted));
}

#[test]
fn logs_that_hide_what_was_measured() {
    // HSP 10, with a log that says nothing of the last entry.
    let mut s = scene();
    let before = s.machine.evidence(NONCE);
    s.machine.measure(EntryKind::Binary, "security", Digest::of(b"evil"));
    let hides = Evidence { own: before.own.clone(), ..s.machine.evidence(NONCE) };
    s.control("own log cut", &hides, false, "pcr-mismatch", &[Guard::Replay]);

    let mut s = scene();
    s.machine.execute("/tmp/evil", &BANK.hash(b"evil"));
    let hides = Evidence { ima: before.ima.clone(), ..s.machine.evidence(NONCE) };
    s.control("IMA log cut", &hides, false, "ima-mismatch", &[Guard::ImaReplay]);
    let withheld = Evidence { ima: LogPart::Absent, ..s.machine.evidence(NONCE) };
    s.control("IMA log withheld", &withheld, false, "pcr-unexplained", &[Guard::Replay]);

    let s = scene();
    let good = s.machine.evidence(NONCE);
    let last = BootLog::parse(&s.machine.boot).unwrap().events().last().unwrap().offset;
    let cut = Evidence { boot: rewritten(&good.boot, |b| b.truncate(last)), ..good.clone() };
    s.control("boot log cut", &cut, false, "pcr-mismatch", &[Guard::Replay]);
    let withheld = Evidence { boot: LogPart::Absent, ..good.clone() };
    s.control("boot log withheld", &withheld, false, "log-absent", &[Guard::Demand, Guard::Replay]);
    // A part that leaves out what lies between.
    let LogPart::From { bytes, .. } = &good.own else { panic!("no own log") };
    let own = LogPart::From { from: bytes.len() as u64 + 50, bytes: Vec::new() };
    s.control("a gap", &Evidence { own, ..good }, true, "log-from", &[Guard::From]);
}

#[test]
fn entries_that_are_not_healthy() {
    let mut s = scene();
    s.machine.measure(EntryKind::Topology, "topology.toml", Digest::of(b"wide open"));
    let evidence = s.machine.evidence(NONCE);
    s.control("changed topology", &evidence, false, "own-entry", &[Guard::OwnEntries]);

    let mut s = scene();
    s.machine.execute("/tmp/evil", &BANK.hash(b"evil"));
    let evidence = s.machine.evidence(NONCE);
    s.control("unknown file", &evidence, false, "file", &[Guard::Files]);

    let mut s = scene();
    s.machine.execute("boot_aggregate", &BANK.hash(b"another boot"));
    let evidence = s.machine.evidence(NONCE);
    s.control("IMA of another boot", &evidence, false, "boot-aggregate", &[Guard::Aggregate]);

    let mut s = scene();
    let digest = BANK.hash(b"evil.efi");
    s.machine.boot.extend([4, 0, 0, 0, 3, 0, 0, 0x80, 1, 0, 0, 0, 0x0b, 0]);
    s.machine.boot.extend(digest.as_bytes());
    s.machine.boot.extend([0; 4]);
    s.machine.extend(4, &digest);
    // IMA would have seen the longer boot as well.
    let evidence = s.machine.evidence(NONCE);
    let guards = [Guard::BootEntries, Guard::Aggregate];
    s.control("unknown boot program", &evidence, false, "boot-entry", &guards);
}

#[test]
fn a_part_that_was_not_measured() {
    let s = scene();
    // The member never measured its `security`.
    let mut without_security = Machine::booted("kl_bbm_sb");
    for (kind, subject) in PROGRAMS.iter().filter(|(_, subject)| *subject != "security") {
        without_security.measure(*kind, subject, Digest::of(subject.as_bytes()));
    }
    let scene = Scene { machine: without_security, ..s };
    let evidence = scene.machine.evidence(NONCE);
    scene.control("unmeasured", &evidence, false, "part-missing", &[Guard::Parts]);
}

#[test]
fn a_forged_entry_in_a_pcr_that_nobody_quoted() {
    use crate::bootlog::EventType;
    use crate::reference::{BootMatch, BootRule};
    let mut machine = Machine::booted("kl_bbm_sb");
    machine.start();
    let kernel = BANK.hash(b"a signed kernel");
    let mut boot = manifest("rhel-9", 1, machine.boot_rules(Status::Current));
    boot.required_parts.push("kernel".to_owned());
    boot.rules.push(Rule::Boot(BootRule {
        pcr: pcr(11),
        kind: EventType::IPL,
        is: BootMatch::Digest(kernel),
        part: Some("kernel".to_owned()),
        about: "kernel".to_owned(),
        status: Status::Current,
    }));
    let references = references(&[boot, programs()]);
    // It says so in its log; its TPM never saw it.
    machine.boot.extend([11, 0, 0, 0, 0x0d, 0, 0, 0, 1, 0, 0, 0, 0x0b, 0]);
    machine.boot.extend(kernel.as_bytes());
    machine.boot.extend([0; 4]);
    let scene = Scene { machine, references, ..scene() };
    let evidence = scene.machine.evidence(NONCE);
    scene.control("forged entry", &evidence, false, "part-missing", &[Guard::Proven]);
}
