//! The logs: they give the quoted values, and each entry is healthy.

use super::entries::{Seen, boot_at};
use super::planted::{Guard, guard, left_out};
use super::quote::Quote;
use super::verdict::Heads;
use super::{Check, Failure, Held, LogEntryRef, LogName, NotMade, Verdict};
use crate::alg::{HashAlg, LogDigest};
use crate::bootlog::{BootLog, Event, Replayed};
use crate::evidence::{Evidence, LogPart, QUOTED};
use crate::ima::{ImaLog, ImaState, Way};
use crate::ownlog::{self, OwnLog};
use crate::reference::{Demand, ReferenceSet};
use crate::tpm::{PcrIndex, PcrValues};

/// PCR of IMA when its policy names no other.
const IMA: PcrIndex = PcrIndex::known(10);

/// A log's part, once it is known to go on from what is held.
struct Part<'a> {
    from: u64,
    bytes: &'a [u8],
}

pub(super) fn check(
    evidence: &Evidence,
    quote: &Quote<'_>,
    held: Option<&Held>,
    references: &ReferenceSet,
    verdict: &mut Verdict,
) -> Result<Held, Failure> {
    let bank = quote.bank;
    let heads = held.map(|h| h.heads).unwrap_or_default();
    let boot_part = part(&evidence.boot, LogName::Boot, heads.boot, references.boot_demand())?;
    let ima_part = part(&evidence.ima, LogName::Ima, heads.ima, references.files_demand())?;
    let own_part = part(&evidence.own, LogName::Own, heads.own, references.own_demand())?;

    // Replay: all logs against the quoted values, before any word of them is read.
    let boot_log = match &boot_part {
        Some(p) if p.from == 0 => Some(BootLog::parse(p.bytes)?),
        // A boot log never grows: what is held is all of it.
        Some(p) if !p.bytes.is_empty() => {
            return Err(Failure::LogFrom { log: LogName::Boot, from: p.from, held: heads.boot });
        }
        _ => None,
    };
    let boot = match (&boot_log, &boot_part, held) {
        (Some(log), _, _) => Boot::Replayed(Box::new(log.replay(bank)?)),
        (None, Some(_), Some(held)) => Boot::Held(&held.boot),
        _ => Boot::Replayed(Box::new(Replayed::fresh(bank))),
    };
    let ima_log =
        ima_part.as_ref().filter(|p| !p.bytes.is_empty()).map(|p| ImaLog::parse(p.bytes)).transpose()?;
    let own_log = OwnLog::parse(own_part.as_ref().map_or(&[], |p| p.bytes))?;

    // A whole log starts anew, whatever is held.
    let goes_on = |part: &Option<Part<'_>>| held.filter(|_| part.as_ref().is_some_and(|p| p.from > 0));
    let mut ima_state = goes_on(&ima_part).and_then(|h| h.ima.clone());
    let ima_before = ima_state.as_ref().map_or(0, |(_, entries)| *entries);
    let mut covered = 0;
    if let Some(log) = &ima_log {
        let from = ima_state.take().map_or_else(|| ImaState::new(bank), |(state, _)| state);
        match log.matching(&from, |pcr| boot.get(pcr), |pcr| quote.values.get(pcr).copied()) {
            Ok(found) => {
                covered = found.covered;
                ima_state = Some((found.state, ima_before + covered as u64));
            }
            Err(_) if left_out(Guard::ImaReplay) => {
                covered = log.entries().len();
                let pcrs = log.entries().iter().filter_map(|e| Some((e.pcr, *quote.values.get(e.pcr)?)));
                let state = ImaState { pcrs: pcrs.collect(), ..from };
                ima_state = Some((state, ima_before + covered as u64));
            }
            Err(e) => return Err(e.into()),
        }
    }
    let own_before = goes_on(&own_part).and_then(|h| h.own);
    let own_start = own_before.map_or_else(|| boot.get(ownlog::PCR), |(value, _)| value);
    let own_value = own_log.replay(own_start);
    let own_entries = own_before.map_or(0, |(_, entries)| entries);

    let explained = Explained {
        boot: &boot,
        boot_log: boot_log.as_ref(),
        ima: ima_state.as_ref().map(|(state, _)| state),
        own: own_value,
        own_last: own_log.entries().last().map(|e| LogEntryRef {
            log: LogName::Own,
            entry: own_entries + e.number as u64,
            offset: heads_from(&own_part) + e.offset as u64,
        }),
        boot_present: boot_part.is_some(),
        own_present: own_part.is_some(),
    };
    let unexplained = explained.check(quote.values)?;
    let pcrs = PcrIndex::all().filter(|pcr| unexplained >> pcr.get() & 1 == 1);
    verdict.not_made.extend(pcrs.map(|pcr| NotMade::PcrUnexplained { pcr }));
    if boot_part.is_some() {
        verdict.passed.push(Check::BootReplay);
    }
    if ima_part.is_some() {
        verdict.passed.push(Check::ImaReplay);
    }
    if own_part.is_some() {
        verdict.passed.push(Check::OwnReplay);
    }

    // Entries: each one against the reference values. Failures are collected, so that a person sees all of them.
    let mut seen = Seen {
        references,
        bank,
        parts: held.map_or(0, |h| h.parts),
        next: 0,
        failures: Vec::new(),
        more: 0,
        not_made: Vec::new(),
    };
    match (&boot_log, &boot_part) {
        (Some(log), _) => seen.boot(log, quote.values, unexplained),
        (None, None) => seen.not_made.push(NotMade::BootNotMeasured),
        (None, Some(_)) => seen.keep(held, NotMade::is_of_boot),
    }
    let compared = !references.is_none();
    let boot_failures = seen.failures.len();
    if boot_part.is_some() && boot_failures == 0 && compared {
        verdict.passed.push(Check::BootEntries);
    }
    match (&ima_log, &ima_part) {
        (_, None) => seen.not_made.push(NotMade::FilesNotMeasured),
        (log, Some(part)) => {
            if part.from > 0 {
                seen.keep(held, NotMade::is_of_files);
            }
            if let Some(log) = log {
                seen.files(log, covered, part.from, ima_before, quote.values);
            }
        }
    }
    if ima_state.as_ref().is_some_and(|(state, _)| state.way == Some(Way::PaddedSha1)) {
        seen.not_made.push(NotMade::FilesBySha1);
    }
    let file_failures = seen.failures.len();
    let files = ima_state.as_ref().map_or(0, |(_, entries)| *entries);
    if ima_part.is_some() && files <= 1 {
        // Only the boot aggregate: IMA is on and has no policy.
        seen.not_made.push(NotMade::FilesNotMeasured);
        if references.files_demand() == Demand::Required {
            return Err(Failure::LogAbsent(LogName::Ima));
        }
    } else if ima_part.is_some() && references.knows_files() && file_failures == boot_failures {
        verdict.passed.push(Check::Files);
    }
    match &own_part {
        None => seen.not_made.push(NotMade::OwnNotMeasured),
        Some(part) => {
            if part.from > 0 {
                seen.keep(held, NotMade::is_of_own);
            }
            seen.own(&own_log, part.from, own_entries);
        }
    }
    if own_part.is_some() && seen.failures.len() == file_failures && compared {
        verdict.passed.push(Check::OwnEntries);
    }
    seen.missing_parts();

    let ima_offset = ima_log.as_ref().map_or(0, |log| match log.entries().get(covered) {
        Some(next) => next.offset as u64,
        None => ima_part.as_ref().map_or(0, |p| p.bytes.len() as u64),
    });
    verdict.heads = Heads {
        boot: boot_part.as_ref().map_or(0, |p| p.from + p.bytes.len() as u64),
        ima: heads_from(&ima_part) + ima_offset,
        own: own_part.as_ref().map_or(0, |p| p.from + p.bytes.len() as u64),
    };
    verdict.next_seen = seen.next;
    let Seen { parts, failures, more, not_made, .. } = seen;
    if failures.is_empty() && compared {
        verdict.passed.push(Check::Parts);
    }
    verdict.failed.extend(failures);
    if more > 0 {
        verdict.failed.push(Failure::More(more));
    }
    let mut not_made = NotMade::merged(not_made);
    if !compared {
        not_made.retain(|n| !matches!(n, NotMade::BootUnchecked { .. } | NotMade::OwnUnchecked { .. }));
        not_made.insert(0, NotMade::NotCompared);
    }
    verdict.not_made.extend(not_made.iter().cloned());
    Ok(Held {
        ak: verdict.ak,
        references: references.digest(),
        clock: quote.clock,
        heads: verdict.heads,
        boot: boot.values(bank),
        ima: ima_state,
        own: own_part.is_some().then_some((own_value, own_entries + own_log.entries().len() as u64)),
        parts,
        not_made,
    })
}

fn heads_from(part: &Option<Part<'_>>) -> u64 {
    part.as_ref().map_or(0, |p| p.from)
}

/// A log that is there goes on from what is held, or is whole.
fn part(part: &LogPart, log: LogName, held: u64, demand: Demand) -> Result<Option<Part<'_>>, Failure> {
    match part {
        LogPart::From { from, bytes } if *from > 0 || !bytes.is_empty() => {
            guard(Guard::From, *from == 0 || *from == held, || Failure::LogFrom { log, from: *from, held })?;
            Ok(Some(Part { from: *from, bytes }))
        }
        _ if demand == Demand::Required && !left_out(Guard::Demand) => Err(Failure::LogAbsent(log)),
        // What was shown once cannot be gone.
        _ if held > 0 => Err(Failure::LogAbsent(log)),
        // An empty log measures as much as none.
        _ => Ok(None),
    }
}

/// Values after boot.
enum Boot<'a> {
    Replayed(Box<Replayed>),
    Held(&'a PcrValues),
}

impl Boot<'_> {
    fn get(&self, pcr: PcrIndex) -> LogDigest {
        match self {
            Self::Replayed(r) => r.get(pcr),
            Self::Held(v) => v.get(pcr).copied().unwrap_or_else(|| pcr.initial(v.bank())),
        }
    }

    fn values(&self, bank: HashAlg) -> PcrValues {
        let mut values = PcrValues::new(bank);
        PcrIndex::all().for_each(|pcr| {
            values.set(pcr, self.get(pcr));
        });
        values
    }
}

/// What the logs say that the PCRs hold.
struct Explained<'a> {
    boot: &'a Boot<'a>,
    boot_log: Option<&'a BootLog<'a>>,
    ima: Option<&'a ImaState>,
    own: LogDigest,
    own_last: Option<LogEntryRef>,
    boot_present: bool,
    own_present: bool,
}

impl Explained<'_> {
    /// A bit for each quoted PCR that no log explains and that need not be.
    fn check(&self, quoted: &PcrValues) -> Result<u32, Failure> {
        let mut unexplained = 0;
        for (pcr, value) in quoted.iter() {
            let by_ima = self.ima.and_then(|state| state.pcrs.get(&pcr).copied());
            let replayed = match by_ima {
                Some(value) => value,
                None if pcr == ownlog::PCR => self.own,
                None => self.boot.get(pcr),
            };
            if replayed == *value || left_out(Guard::Replay) {
                continue;
            }
            if !QUOTED.contains(&pcr.get()) {
                unexplained |= 1 << pcr.get();
                continue;
            }
            if pcr == IMA && by_ima.is_none() {
                return Err(Failure::PcrUnexplained { pcr, log: LogName::Ima });
            }
            if pcr == ownlog::PCR && !self.own_present {
                return Err(Failure::PcrUnexplained { pcr, log: LogName::Own });
            }
            if pcr != ownlog::PCR && !self.boot_present {
                return Err(Failure::PcrUnexplained { pcr, log: LogName::Boot });
            }
            let (quoted, replayed) = (Box::new(*value), Box::new(replayed));
            return Err(Failure::PcrMismatch { pcr, quoted, replayed, last: self.last(pcr) });
        }
        // Debug and dynamic PCRs can be reset: they are evidence of nothing, and nobody asks.
        Ok(unexplained & 0xffff)
    }

    /// The last entry that goes into `pcr`.
    fn last(&self, pcr: PcrIndex) -> Option<LogEntryRef> {
        if pcr == ownlog::PCR && self.own_last.is_some() {
            return self.own_last.clone();
        }
        let into = |e: &&Event<'_>| e.extends() && e.pcr == u32::from(pcr.get());
        self.boot_log.and_then(|log| log.events().iter().rev().find(into)).map(boot_at)
    }
}
