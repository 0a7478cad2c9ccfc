//! GTVP's own log as it lies in `/state`, in step with the PCR that it is extended into. What an entry says and how it replays is
//! `gtvp_appraisal::ownlog`'s; this keeps the two together.
//!
//! An entry is on disk before it is extended. So after a crash the file holds at most one entry more than the PCR, and that one
//! is extended then. Anything else means that the file was cut or changed, or that somebody else has extended the PCR; it is
//! called so, and stays so until the TPM is reset: nothing that is done later makes it look as if it had not been.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use gtvp_appraisal::alg::{HashAlg, LogDigest};
use gtvp_appraisal::ownlog::{MAX_ENTRIES, MAX_LOG, OwnEntry, OwnLog, OwnLogFault};

use super::saved::replace;

const NAME: &str = "measured.log";
/// What stands before the entries: this, resetCount, restartCount, the PCR's value before the first entry.
const MAGIC: &[u8] = b"gtvp-measured/1\n";
const HEADER: usize = MAGIC.len() + 4 + 4 + 32;
/// resetCount and restartCount. A reset begins PCRs anew. So does a restart, but not a resume, and both count as a restart.
pub type Life = (u32, u32);

/// Why the log cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be read or written.
    #[error("{NAME} cannot be read or written")]
    Io(#[from] io::Error),
    /// It is as large as a verifier reads.
    #[error("{NAME} is full: it begins anew when the TPM is reset, with the next boot")]
    Full,
}

/// How file and PCR stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The file replays to the PCR.
    In,
    /// It did not: the last entry was written and not extended. It has been.
    Repaired,
    /// It does not: the file was cut or changed, or somebody else has extended the PCR.
    Out,
    /// The file could not be read as a log and was put aside. Since then it is in step, but its beginning is missing.
    Damaged,
}

impl Step {
    /// In words, for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::In => "in step with the TPM",
            Self::Repaired => "in step with the TPM, after a crash between the two",
            Self::Out => {
                "not what the TPM has seen: it was cut or changed, or the PCR was extended by somebody else"
            }
            Self::Damaged => "without its beginning: the file was damaged",
        }
    }
}

/// The log of this life of the TPM.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    life: Life,
    /// The PCR's value before the first entry.
    base: LogDigest,
    entries: Vec<u8>,
    count: usize,
    /// What the entries replay to.
    value: LogDigest,
    step: Step,
    /// An append that failed may have left half an entry.
    torn: bool,
}

/// What is to be done after a log was opened.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// Nothing.
    Known,
    /// The last entry is to be extended, then [`Log::repaired`] to be told.
    ExtendLast,
    /// The log is new: everything that was measured in this life is to be appended.
    New,
}

impl Log {
    /// The log in `folder` for this life, in which the PCR has this `value` now.
    pub fn open(folder: &Path, life: Life, value: LogDigest) -> Result<(Self, Opened), LogError> {
        let path = folder.join(NAME);
        let Some(bytes) = read(&path)? else {
            return Self::begin(folder, life, value, Step::In);
        };
        let Some((known, base, entries)) = parse(&bytes) else {
            fs::rename(&path, folder.join(format!("{NAME}.damaged")))?;
            return Self::begin(folder, life, value, Step::Damaged);
        };
        if known.0 != life.0 {
            return Self::begin_after(folder, life, value);
        }
        let (entries, log) = match OwnLog::parse(entries) {
            Ok(log) => (entries, log),
            // The end of an entry that was being written during a crash: it was not extended.
            Err(e) if matches!(e.reason, OwnLogFault::Cut { .. }) => {
                let whole = entries.get(..e.offset).unwrap_or_default();
                let file = OpenOptions::new().write(true).open(&path)?;
                file.set_len((HEADER + whole.len()) as u64)?;
                file.sync_all()?;
                match OwnLog::parse(whole) {
                    Ok(log) => (whole, log),
                    Err(_) => (&[][..], OwnLog::parse(&[]).map_err(io::Error::other)?),
                }
            }
            Err(_) => {
                fs::rename(&path, folder.join(format!("{NAME}.damaged")))?;
                return Self::begin(folder, life, value, Step::Damaged);
            }
        };
        let replayed = log.replay(base);
        let before_last = log.entries().split_last().map(|(last, _)| last.offset).and_then(|end| {
            let before = entries.get(..end)?;
            Some(OwnLog::parse(before).ok()?.replay(base))
        });
        let (step, then) = if replayed == value {
            (Step::In, Opened::Known)
        } else if before_last == Some(value) {
            (Step::Out, Opened::ExtendLast)
        } else if known != life {
            // A restart, not a resume. If it was neither, verifiers miss the beginning: `base` is not what the boot log leaves.
            return Self::begin_after(folder, life, value);
        } else {
            (Step::Out, Opened::Known)
        };
        if known != life {
            replace(folder, NAME, &[&header(life, &base), entries].concat())?;
        }
        let (entries, count) = (entries.to_vec(), log.entries().len());
        Ok((Self { path, life, base, entries, count, value: replayed, step, torn: false }, then))
    }

    /// Puts the log of an earlier life aside.
    fn begin_after(folder: &Path, life: Life, value: LogDigest) -> Result<(Self, Opened), LogError> {
        fs::rename(folder.join(NAME), folder.join(format!("{NAME}.before")))?;
        Self::begin(folder, life, value, Step::In)
    }

    fn begin(folder: &Path, life: Life, base: LogDigest, step: Step) -> Result<(Self, Opened), LogError> {
        replace(folder, NAME, &header(life, &base))?;
        let path = folder.join(NAME);
        let log = Self { path, life, base, entries: Vec::new(), count: 0, value: base, step, torn: false };
        Ok((log, Opened::New))
    }

    /// The last entry has been extended.
    pub fn repaired(&mut self) {
        self.step = Step::Repaired;
    }

    /// How it stands to the PCR.
    pub fn step(&self) -> Step {
        self.step
    }

    /// The life that it belongs to.
    pub fn life(&self) -> Life {
        self.life
    }

    /// The PCR's value before the first entry.
    pub fn base(&self) -> LogDigest {
        self.base
    }

    /// What the PCR should be.
    pub fn value(&self) -> LogDigest {
        self.value
    }

    /// The entries, one after another.
    pub fn entries(&self) -> &[u8] {
        &self.entries
    }

    /// The last entry, to be extended again.
    pub fn last(&self) -> Option<(LogDigest, LogDigest)> {
        let log = OwnLog::parse(&self.entries).ok()?;
        let last = log.entries().last()?;
        Some((last.digest(HashAlg::Sha256), last.digest(HashAlg::Sha384)))
    }

    /// Whether the newest entry of this kind and subject says the same already.
    pub fn says(&self, entry: &OwnEntry<'_>) -> bool {
        OwnLog::parse(&self.entries).is_ok_and(|log| {
            let mut same = log.entries().iter().rev().map(|placed| &placed.entry);
            same.find(|e| e.kind == entry.kind && e.subject == entry.subject)
                .is_some_and(|e| e.value == entry.value)
        })
    }

    /// Writes an entry, durably. It is to be extended next.
    pub fn append(&mut self, entry: &OwnEntry<'_>) -> Result<(), LogError> {
        let encoded = entry.encode();
        if self.entries.len() + encoded.len() > MAX_LOG || self.count >= MAX_ENTRIES {
            return Err(LogError::Full);
        }
        let mut file = OpenOptions::new().append(true).open(&self.path)?;
        if self.torn {
            file.set_len((HEADER + self.entries.len()) as u64)?;
        }
        self.torn = true;
        file.write_all(&encoded)?;
        file.sync_all()?;
        self.torn = false;
        self.entries.extend(encoded);
        self.count += 1;
        let digest = entry.digest(HashAlg::Sha256);
        self.value = self.value.extended(&digest).unwrap_or(self.value);
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = Vec::new();
    // A file beyond the bound is damaged, and found so when it is parsed.
    file.take((HEADER + MAX_LOG) as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn header(life: Life, base: &LogDigest) -> Vec<u8> {
    [MAGIC, &life.0.to_be_bytes(), &life.1.to_be_bytes(), base.as_bytes()].concat()
}

fn parse(bytes: &[u8]) -> Option<(Life, LogDigest, &[u8])> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (reset, rest) = rest.split_first_chunk()?;
    let (restart, rest) = rest.split_first_chunk()?;
    let (base, entries) = rest.split_at_checked(32)?;
    let life = (u32::from_be_bytes(*reset), u32::from_be_bytes(*restart));
    Some((life, LogDigest::new(HashAlg::Sha256, base).ok()?, entries))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gtvp_appraisal::ownlog::EntryKind;
    use gtvp_model::digest::Digest;

    struct Folder(PathBuf);
    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("gtvp-log-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }
    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn entry(name: &'static str) -> OwnEntry<'static> {
        OwnEntry::new(EntryKind::Binary, name, Digest([7; 32])).unwrap()
    }

    fn zero() -> LogDigest {
        LogDigest::filled(HashAlg::Sha256, 0)
    }

    fn open(folder: &Folder, resets: u32, value: LogDigest) -> (Log, Opened) {
        Log::open(&folder.0, (resets, 0), value).unwrap()
    }

    #[test]
    fn a_crash_between_file_and_pcr_is_repaired_and_everything_else_is_called_out_of_step() {
        let folder = Folder::new("crash");
        let (mut log, then) = open(&folder, 4, zero());
        assert_eq!((then, log.step()), (Opened::New, Step::In));
        let values: Vec<LogDigest> = ["a", "b", "c"]
            .map(|name| {
                log.append(&entry(name)).unwrap();
                log.value()
            })
            .to_vec();
        assert!(log.says(&entry("b")) && !log.says(&entry("d")));
        // All three extended; only two; none of the last two.
        let (log, then) = open(&folder, 4, values[2]);
        assert_eq!((then, log.step()), (Opened::Known, Step::In));
        let (log, then) = open(&folder, 4, values[1]);
        assert_eq!(then, Opened::ExtendLast);
        let (last, _) = log.last().unwrap();
        assert_eq!(values[1].extended(&last), Some(values[2]));
        assert_eq!(open(&folder, 4, values[0]).0.step(), Step::Out);
        // The PCR was extended by somebody else.
        let other = values[2].extended(&zero()).unwrap();
        let (log, then) = open(&folder, 4, other);
        assert_eq!((then, log.step()), (Opened::Known, Step::Out));
        // A crash in the middle of writing: the half entry is gone, the rest in step.
        let path = folder.0.join(NAME);
        let whole = fs::read(&path).unwrap();
        for cut in 1..entry("c").encode().len() {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let (mut log, then) = open(&folder, 4, values[1]);
            assert_eq!((then, log.step()), (Opened::Known, Step::In), "cut by {cut}");
            log.append(&entry("c")).unwrap();
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
        // Cut by a whole entry that was extended; one byte changed.
        fs::write(&path, &whole[..whole.len() - entry("c").encode().len()]).unwrap();
        assert_eq!(open(&folder, 4, values[2]).0.step(), Step::Out);
        let mut changed = whole.clone();
        changed[HEADER + 5] ^= 1;
        fs::write(&path, &changed).unwrap();
        assert_eq!(open(&folder, 4, values[2]).0.step(), Step::Out);
    }

    #[test]
    fn a_full_log_is_told_and_stays_as_it_is() {
        let folder = Folder::new("full");
        let (mut log, _) = open(&folder, 4, zero());
        log.append(&entry("a")).unwrap();
        log.count = MAX_ENTRIES;
        assert!(matches!(log.append(&entry("b")), Err(LogError::Full)));
        let (log, then) = open(&folder, 4, log.value());
        assert_eq!((then, log.step(), log.says(&entry("b"))), (Opened::Known, Step::In, false));
    }

    #[test]
    fn a_resume_keeps_the_log_and_a_restart_begins_another() {
        let folder = Folder::new("resume");
        let (mut log, _) = open(&folder, 4, zero());
        log.append(&entry("a")).unwrap();
        let (value, other) = (log.value(), entry("b").digest(HashAlg::Sha256));
        let (log, then) = Log::open(&folder.0, (4, 1), value).unwrap();
        assert_eq!((then, log.step(), log.life()), (Opened::Known, Step::In, (4, 1)));
        // Now this is its life: in the same one a PCR that does not fit is out of step.
        assert_eq!(Log::open(&folder.0, (4, 1), other).unwrap().0.step(), Step::Out);
        let (log, then) = Log::open(&folder.0, (4, 2), other).unwrap();
        assert_eq!((then, log.step(), log.entries().len()), (Opened::New, Step::In, 0));
    }

    #[test]
    fn another_life_of_the_tpm_has_another_log_and_a_damaged_one_is_called_so() {
        let folder = Folder::new("life");
        let (mut log, _) = open(&folder, 4, zero());
        log.append(&entry("a")).unwrap();
        let (log, then) = open(&folder, 5, zero());
        assert_eq!((then, log.step(), log.entries().len()), (Opened::New, Step::In, 0));
        fs::write(folder.0.join(NAME), b"nonsense").unwrap();
        let (log, then) = open(&folder, 5, zero());
        assert_eq!((then, log.step()), (Opened::New, Step::Damaged));
        let mut unknown = header((5, 0), &zero());
        unknown.extend([99; 40]);
        fs::write(folder.0.join(NAME), &unknown).unwrap();
        assert_eq!(open(&folder, 5, zero()).0.step(), Step::Damaged);
    }
}
