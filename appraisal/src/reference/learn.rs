//! Rules from a log that an administrator accepts: the first member's at `gtvp union init`, or an update's.

use super::{BootMatch, BootRule, FileRule, OwnMatch, OwnRule, Pattern, Rule, Separated, Separators, Status};
use crate::alg::{HashAlg, LogDigest};
use crate::appraise::Failure;
use crate::bootlog::{BootLog, EventType, Kind};
use crate::ownlog::{EntryKind, OwnLog};
use crate::tpm::PcrIndex;

/// A rule for each boot event of `log` whose entry number `accept` says yes to. Separators need none, unless they say what none
/// should, and for those that say that firmware failed there is none. Digests in `bank`
/// only; entries without one, or in PCRs that do not exist, give no rule.
pub fn rules_for_boot(
    log: &BootLog<'_>,
    bank: HashAlg,
    status: Status,
    accept: impl Fn(usize) -> bool,
) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    let separators = Separators::new();
    for event in log.events().iter().filter(|e| e.extends() && accept(e.number)) {
        let separates = event.kind_id == EventType::SEPARATOR;
        if separates && separators.says(event, bank) != Separated::Otherwise {
            continue;
        }
        let pcr = u8::try_from(event.pcr).ok().and_then(PcrIndex::new);
        let (Some(digest), Some(pcr)) = (event.digest(bank), pcr) else { continue };
        let kind = event.kind();
        let clean = |s: &str| s.chars().filter(|c| !c.is_control()).take(60).collect::<String>();
        let subject = kind.subject().map(clean).filter(|s| !s.trim().is_empty());
        let rule = Rule::Boot(BootRule {
            pcr,
            kind: event.kind_id,
            is: BootMatch::Digest(digest),
            part: part(&kind, event.kind_id, pcr).map(str::to_owned),
            about: subject.unwrap_or_else(|| event.kind_id.to_string()),
            status,
        });
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

/// A rule for each entry of `log` whose number `accept` says yes to: values of programs and configuration, each a part by
/// its kind and subject; what changes with use (compositions, vTPMs, unions), and configuration, which is each member's own, is left
/// unchecked.
pub fn rules_for_own(log: &OwnLog<'_>, status: Status, accept: impl Fn(usize) -> bool) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for placed in log.entries().iter().filter(|p| accept(p.number)) {
        let Some(rule) = own_rule(placed.entry.kind, placed.entry.subject, placed.entry.value, status) else {
            continue;
        };
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

fn own_rule(
    kind: EntryKind,
    subject: &str,
    value: gtvp_model::digest::Digest,
    status: Status,
) -> Option<Rule> {
    let (subject, is, part) = match kind {
        EntryKind::Composition | EntryKind::Vtpm | EntryKind::Union => (None, OwnMatch::Unchecked, None),
        EntryKind::Configuration => (Some(plain(subject)?), OwnMatch::Unchecked, None),
        _ => (Some(plain(subject)?), OwnMatch::Value(value), Some(format!("{kind} {subject}"))),
    };
    Some(Rule::Own(OwnRule { kind, subject, is, part, status }))
}

/// A subject, as a pattern that matches nothing else. One with a star of its own would be a pattern: it is nobody's name.
fn plain(subject: &str) -> Option<Pattern> {
    Some(subject).filter(|s| !s.contains('*')).and_then(|s| Pattern::new(s).ok())
}

/// The rule that would make a failed entry healthy: what an administrator accepts after having seen it (`gtvp reference
/// accept`). `None` for failures that no reference value can mend: those are not about an unknown entry.
pub fn rule_accepting(failure: &Failure, status: Status) -> Option<Rule> {
    match failure {
        Failure::BootEntry { pcr, kind, digest, about, .. } => Some(Rule::Boot(BootRule {
            pcr: u8::try_from(*pcr).ok().and_then(PcrIndex::new)?,
            kind: *kind,
            is: BootMatch::Digest(**digest),
            part: None,
            about: if about.trim().is_empty() { kind.to_string() } else { about.chars().take(60).collect() },
            status,
        })),
        Failure::File { digest, .. } => {
            // "verity:sha256:…" and "sha256:…" name the same kind of digest.
            let mut words = digest.rsplitn(3, ':');
            let (hex, alg) = (words.next()?, words.next()?);
            let digest: LogDigest = format!("{alg}:{hex}").parse().ok()?;
            let rule = Rule::File(FileRule { digest, path: None, status });
            rule.check().is_ok().then_some(rule)
        }
        Failure::OwnEntry { kind, subject, value, .. } => own_rule(*kind, subject, *value, status),
        _ => None,
    }
}

/// The part that an event is a version of, where that can be told.
fn part(kind: &Kind<'_>, id: EventType, pcr: PcrIndex) -> Option<&'static str> {
    match (kind, pcr.get()) {
        (_, 0) if id.is_code() => Some("firmware"),
        (Kind::Variable { name, .. }, 7) if name == "SecureBoot" => Some("secure-boot"),
        (Kind::Image { .. }, 4) => Some("boot-loader"),
        (Kind::Text { prefix, .. }, 8) if prefix.contains("kernel_cmdline") => Some("command-line"),
        _ => None,
    }
}
