//! Log entries, each against the reference values. Failures are collected, so that a person sees all of them.

use super::planted::{Guard, left_out};
use super::verdict::MAX_LISTED;
use super::{Failure, Held, LogEntryRef, LogName, NotMade};
use crate::alg::{HashAlg, LogDigest};
use crate::bootlog::{BootLog, Event, EventType};
use crate::ima::ImaLog;
use crate::ownlog::{EntryKind, OwnLog};
use crate::reference::{BootVerdict, FileVerdict, OwnVerdict, ReferenceSet, Separated};
use crate::tpm::{PcrIndex, PcrValues};

/// Signatures of files that are checked in one appraisal, a second's work: what a server executes in its first hours is a few thousand
/// files, and what was appraised is not appraised again. Past it a file counts by its digest only.
const MAX_SIGNATURES: u32 = 20_000;

/// Entries compared so far.
pub(super) struct Seen<'a> {
    pub references: &'a ReferenceSet,
    pub bank: HashAlg,
    pub parts: u64,
    pub next: u64,
    pub failures: Vec<Failure>,
    pub more: u64,
    pub not_made: Vec<NotMade>,
}

impl Seen<'_> {
    fn fail(&mut self, of: Guard, failure: impl FnOnce() -> Failure) {
        if left_out(of) {
            return;
        }
        if self.failures.len() < MAX_LISTED {
            self.failures.push(failure());
        } else {
            self.more += 1;
        }
    }

    fn healthy(&mut self, next: bool, part: Option<u8>) {
        self.next += u64::from(next);
        self.parts |= part.map_or(0, |p| 1 << p);
    }

    pub fn keep(&mut self, held: Option<&Held>, of: fn(&NotMade) -> bool) {
        let kept = held.iter().flat_map(|h| &h.not_made).filter(|n| of(n)).cloned();
        self.not_made.extend(kept);
    }

    pub fn boot(&mut self, log: &BootLog<'_>, quoted: &PcrValues, unexplained: u32) {
        let (references, bank) = (self.references, self.bank);
        let (mut unchecked, mut not_quoted) = (0, 0);
        for event in log.events().iter().filter(|e| e.extends()) {
            let pcr = u8::try_from(event.pcr).ok().and_then(PcrIndex::new);
            // What the quote does not prove is not looked at: it must not stand for a required part.
            let proven = |pcr: PcrIndex| quoted.get(pcr).is_some() && unexplained >> pcr.get() & 1 == 0;
            if !pcr.is_some_and(proven) && !left_out(Guard::Proven) {
                not_quoted += 1;
                continue;
            }
            if event.kind_id == EventType::SEPARATOR {
                match references.separator(event, bank) {
                    Separated::Well => continue,
                    Separated::Failed => {
                        let (at, pcr) = (boot_at(event), event.pcr);
                        self.fail(Guard::BootEntries, || Failure::FirmwareError { at, pcr });
                        continue;
                    }
                    Separated::Otherwise => {}
                }
            }
            match references.boot(event, bank) {
                BootVerdict::Healthy { next, part } => self.healthy(next, part),
                BootVerdict::Unchecked => unchecked += 1,
                BootVerdict::Unknown => self.fail(Guard::BootEntries, || unknown_boot_event(event, bank)),
            }
        }
        for pcr in log.unseparated().filter_map(PcrIndex::new) {
            self.fail(Guard::BootEntries, || Failure::Unseparated(pcr));
        }
        if unchecked > 0 {
            self.not_made.push(NotMade::BootUnchecked { events: unchecked });
        }
        if not_quoted > 0 {
            self.not_made.push(NotMade::BootNotQuoted { events: not_quoted });
        }
    }

    pub fn files(&mut self, log: &ImaLog<'_>, covered: usize, from: u64, before: u64, quoted: &PcrValues) {
        let at = |number: usize, offset: usize| LogEntryRef {
            log: LogName::Ima,
            entry: before + number as u64,
            offset: from + offset as u64,
        };
        let (mut in_flux, mut not_compared, mut signatures) = (0, 0, MAX_SIGNATURES);
        for entry in log.entries().iter().take(covered) {
            if entry.violation {
                in_flux += 1;
                continue;
            }
            let known = entry.file.known();
            // The first entry, and one more after each kexec, which carries the list over.
            if entry.path == "boot_aggregate" {
                match known.filter(|d| d.alg() == self.bank) {
                    None => self.not_made.push(NotMade::BootAggregate),
                    Some(digest) if aggregates(quoted, self.bank, &digest) => {}
                    Some(_) => self.fail(Guard::Aggregate, || Failure::BootAggregate {
                        at: at(entry.number, entry.offset),
                    }),
                }
                continue;
            }
            if !self.references.knows_files() {
                not_compared += 1;
                continue;
            }
            let references = self.references;
            let compared = known.map(|digest| match references.file(&digest, &entry.path) {
                FileVerdict::Unknown if !entry.attached.is_empty() && entry.file.is_of_contents() => {
                    references.signed(&digest, &entry.path, &entry.attached, &mut signatures)
                }
                found => found,
            });
            match compared {
                Some(FileVerdict::Healthy { next }) => self.healthy(next, None),
                Some(FileVerdict::Unknown) | None => self.fail(Guard::Files, || Failure::File {
                    at: at(entry.number, entry.offset),
                    path: entry.path.chars().take(256).collect(),
                    digest: entry.file.to_string().chars().take(256).collect(),
                }),
            }
        }
        let after = (log.entries().len() - covered.min(log.entries().len())) as u64;
        if not_compared > 0 {
            self.not_made.push(NotMade::FilesNotCompared { files: not_compared });
        }
        if in_flux > 0 {
            self.not_made.push(NotMade::FilesInFlux { times: in_flux });
        }
        if after > 0 {
            self.not_made.push(NotMade::FilesAfterQuote { files: after });
        }
    }

    pub fn own(&mut self, log: &OwnLog<'_>, from: u64, before: u64) {
        let mut unchecked = 0;
        for placed in log.entries() {
            let entry = &placed.entry;
            match self.references.own(entry) {
                OwnVerdict::Healthy { next, part } => self.healthy(next, part),
                // One word for each file; entries of them are as many as gtvpd's starts.
                OwnVerdict::Unchecked
                    if entry.kind == EntryKind::Configuration && !self.references.is_none() =>
                {
                    let one = NotMade::ConfigurationUnchecked { file: entry.subject.to_owned() };
                    if !self.not_made.contains(&one) {
                        self.not_made.push(one);
                    }
                }
                OwnVerdict::Unchecked => unchecked += 1,
                OwnVerdict::Unknown => self.fail(Guard::OwnEntries, || Failure::OwnEntry {
                    at: LogEntryRef {
                        log: LogName::Own,
                        entry: before + placed.number as u64,
                        offset: from + placed.offset as u64,
                    },
                    kind: entry.kind,
                    subject: entry.subject.to_owned(),
                    value: entry.value,
                }),
            }
        }
        if unchecked > 0 {
            self.not_made.push(NotMade::OwnUnchecked { entries: unchecked });
        }
    }

    pub fn missing_parts(&mut self) {
        let missing = self.references.all_parts() & !self.parts;
        if missing == 0 {
            return;
        }
        let references = self.references;
        for (i, part) in references.required_parts().iter().enumerate() {
            if missing >> i & 1 == 1 {
                self.fail(Guard::Parts, || Failure::PartMissing(part.clone()));
            }
        }
    }
}

fn unknown_boot_event(event: &Event<'_>, bank: HashAlg) -> Failure {
    let kind = event.kind();
    let about = kind.subject().unwrap_or_default().chars().filter(|c| !c.is_control()).take(256).collect();
    Failure::BootEntry {
        at: boot_at(event),
        pcr: event.pcr,
        kind: event.kind_id,
        digest: Box::new(event.digest(bank).unwrap_or_else(|| LogDigest::filled(bank, 0))),
        about,
    }
}

/// ima_calc_boot_aggregate: the bank's digest over PCRs 0 to 7, since Linux 5.8 to 9 for banks other than SHA-1.
fn aggregates(quoted: &PcrValues, bank: HashAlg, digest: &LogDigest) -> bool {
    [8u8, 10].into_iter().any(|end| {
        let values: Vec<u8> = (0..end)
            .filter_map(|n| PcrIndex::new(n).and_then(|p| quoted.get(p)))
            .flat_map(|v| v.as_bytes().to_vec())
            .collect();
        bank.hash(&values) == *digest
    })
}

/// Where a boot event stands.
pub(super) fn boot_at(event: &Event<'_>) -> LogEntryRef {
    LogEntryRef { log: LogName::Boot, entry: event.number as u64, offset: event.offset as u64 }
}
