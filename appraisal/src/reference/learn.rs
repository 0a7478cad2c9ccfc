//! Rules from a log that an administrator accepts: the first member's at `gtvp union init`, or an update's.

use super::{BootMatch, BootRule, Rule, Separators, Status};
use crate::alg::HashAlg;
use crate::bootlog::{BootLog, EventType, Kind};
use crate::tpm::PcrIndex;

/// A rule for each boot event of `log` whose entry number `accept` says yes to. Separators need none. Digests in `bank`
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
        if separators.is_good(event, bank) {
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
