//! Of each attestation key that this member has appraised, the newest clock: a TPM does not go back to an earlier life. It is on the disk, too, so
//! that a member that was started again still knows a software TPM that was put back together with its server's disk. Nothing else notices
//! that: such a TPM has forgotten what it promised.
//!
//! Written at once when a life of a TPM is seen for the first time, which is once a start of a server; else once a minute. What a crash loses
//! is a minute of a life's clock, never the life. It judges nothing: `gtvp_appraisal::appraise` does.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use gtvp_appraisal::tpm::{ClockInfo, Epoch, Name};
use gtvp_model::hex::hex;
use serde::{Deserialize, Serialize};

use crate::tpm::saved;

/// In the state folder.
const FILE: &str = "clocks.json";
/// One that could not be read.
const DAMAGED: &str = "clocks.damaged";
/// Keys that are remembered: every member of the largest union, and as many that have left.
pub const MOST: usize = 2_048;
/// [`MOST`] rows of some 200 bytes.
const MAX_FILE: u64 = 1024 * 1024;
/// Steps of one key's clock that are remembered: answers overtake each other within a handshake's time, of some connections at once.
const STEPS: usize = 8;
/// Milliseconds between two writes of clocks that went on.
const GOES_ON: u64 = 60_000;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// By the key's Name, in hexadecimal.
    clocks: BTreeMap<String, ClockInfo>,
}

/// See the module.
#[derive(Debug)]
pub struct Clocks {
    folder: PathBuf,
    kept: Kept,
    /// Changes so far, of all keys.
    count: u64,
    /// What each key's clock was before the last changes of it, with their numbers. In memory, as questions are.
    steps: BTreeMap<String, VecDeque<(u64, Option<ClockInfo>)>>,
    /// When it was written, in the time of `Now::ms`.
    written: Option<u64>,
    /// A life that the file does not have.
    new_life: bool,
}

fn key(ak: &Name) -> String {
    hex(&ak.to_bytes())
}

fn age(clock: &ClockInfo) -> (Epoch, u64) {
    (clock.epoch(), clock.clock)
}

impl Clocks {
    /// What was written down in this folder. What cannot be read is told and put aside: this member then takes what it sees first, and the
    /// others still know.
    pub fn open(folder: &Path) -> Self {
        let kept = read(folder).unwrap_or_else(|e| {
            eprintln!("gtvp-security: {FILE} cannot be read, and is put aside as {DAMAGED}: {e}");
            let _ = fs::rename(folder.join(FILE), folder.join(DAMAGED));
            Kept::default()
        });
        Self {
            folder: folder.to_owned(),
            kept,
            count: 0,
            steps: BTreeMap::new(),
            written: None,
            new_life: false,
        }
    }

    /// The newest that a key has shown.
    pub fn newest(&self, ak: &Name) -> Option<ClockInfo> {
        self.kept.clocks.get(&key(ak)).copied()
    }

    /// How many changes there were: the time of a question, for [`Self::newest_at`].
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The newest that a key had shown when there were `count` changes. Of what is no longer remembered, a newer one.
    pub fn newest_at(&self, ak: &Name, count: u64) -> Option<ClockInfo> {
        let later = self.steps.get(&key(ak)).and_then(|steps| steps.iter().find(|(n, _)| *n > count));
        later.map_or_else(|| self.newest(ak), |(_, before)| *before)
    }

    /// Whether this was shown before the newest, and not before what was known when there were `count` changes: an answer that another
    /// one has overtaken.
    pub fn overtaken(&self, ak: &Name, clock: &ClockInfo, count: u64) -> bool {
        let older = |than: Option<ClockInfo>| than.is_some_and(|than| age(clock) < age(&than));
        older(self.newest(ak)) && !older(self.newest_at(ak, count))
    }

    /// A key has shown this, in evidence of its own. Of a stranger (`member`: whether it is none) only what is known already goes on. Where
    /// there are too many, one goes that `known` does not have.
    pub fn saw(&mut self, ak: &Name, clock: ClockInfo, member: bool, known: impl Fn(&str) -> bool, ms: u64) {
        let key = key(ak);
        let clocks = &mut self.kept.clocks;
        let before = clocks.get(&key).copied();
        match clocks.get_mut(&key) {
            Some(newest) if age(newest) >= age(&clock) => return,
            Some(newest) => {
                self.new_life |= newest.epoch() != clock.epoch();
                *newest = clock;
            }
            None if !member => return,
            None => {
                if clocks.len() >= MOST {
                    let gone = clocks.keys().find(|k| !known(k)).cloned();
                    let Some(gone) = gone else { return };
                    clocks.remove(&gone);
                    self.steps.remove(&gone);
                }
                clocks.insert(key.clone(), clock);
                self.new_life = true;
            }
        }
        self.count += 1;
        let steps = self.steps.entry(key).or_default();
        if steps.len() >= STEPS {
            steps.pop_front();
        }
        steps.push_back((self.count, before));
        if self.new_life || self.written.is_none_or(|at| ms.saturating_sub(at) >= GOES_ON) {
            self.write(ms);
        }
    }

    fn write(&mut self, ms: u64) {
        self.written = Some(ms);
        let written = serde_json::to_vec(&self.kept).map_err(io::Error::from);
        match written.and_then(|json| saved::replace(&self.folder, FILE, &json)) {
            Ok(()) => self.new_life = false,
            Err(e) => eprintln!("gtvp-security: {FILE} cannot be written: {e}"),
        }
    }
}

fn read(folder: &Path) -> io::Result<Kept> {
    let file = match File::open(folder.join(FILE)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
        other => other?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    let kept: Kept = serde_json::from_slice(&bytes)?;
    if kept.clocks.len() > MOST {
        return Err(io::Error::other("it has more keys than any union"));
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gtvp_appraisal::tpm::ClockInfo;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("gtvp-clocks-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn ak(n: u16) -> Name {
        let mut bytes = vec![0, 0x0b];
        bytes.extend([0; 30]);
        bytes.extend(n.to_be_bytes());
        Name::parse(&bytes).unwrap()
    }

    fn clock(reset_count: u32, clock: u64) -> ClockInfo {
        ClockInfo { clock, reset_count, restart_count: 0, safe: true }
    }

    #[test]
    fn a_new_life_is_on_the_disk_at_once_and_a_clock_that_goes_on_once_a_minute() {
        let folder = folder("life");
        let mut clocks = Clocks::open(&folder);
        let on_disk = || Clocks::open(&folder).newest(&ak(1));
        clocks.saw(&ak(1), clock(1, 10), true, |_| true, 0);
        assert_eq!(on_disk(), Some(clock(1, 10)));
        clocks.saw(&ak(1), clock(1, 20), true, |_| true, 30_000);
        assert_eq!(on_disk(), Some(clock(1, 10)), "not for each evidence");
        clocks.saw(&ak(1), clock(2, 5), true, |_| true, 30_001);
        assert_eq!(on_disk(), Some(clock(2, 5)));
        // An older one changes nothing, here and there.
        clocks.saw(&ak(1), clock(1, 99), true, |_| true, 200_000);
        assert_eq!((clocks.newest(&ak(1)), on_disk()), (Some(clock(2, 5)), Some(clock(2, 5))));
        clocks.saw(&ak(1), clock(2, 6), true, |_| true, 90_001);
        assert_eq!(on_disk(), Some(clock(2, 6)));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn an_answer_is_overtaken_only_if_it_is_not_older_than_what_was_known_when_it_was_asked() {
        let folder = folder("steps");
        let mut clocks = Clocks::open(&folder);
        let none = clocks.count();
        clocks.saw(&ak(1), clock(1, 10), true, |_| true, 0);
        let asked = clocks.count();
        clocks.saw(&ak(2), clock(9, 9), true, |_| true, 0);
        clocks.saw(&ak(1), clock(1, 20), true, |_| true, 0);
        clocks.saw(&ak(1), clock(2, 5), true, |_| true, 0);
        assert_eq!(clocks.newest_at(&ak(1), none), None);
        assert_eq!(clocks.newest_at(&ak(1), asked), Some(clock(1, 10)));
        assert_eq!(clocks.newest_at(&ak(1), clocks.count()), Some(clock(2, 5)));
        let overtaken = |c: ClockInfo| clocks.overtaken(&ak(1), &c, asked);
        assert!(overtaken(clock(1, 10)) && overtaken(clock(1, 30)) && overtaken(clock(2, 4)));
        assert!(!overtaken(clock(1, 9)), "behind what was known: it has gone back");
        assert!(!overtaken(clock(2, 5)) && !overtaken(clock(2, 6)), "it is the newest");
        assert!(!clocks.overtaken(&ak(3), &clock(1, 1), asked), "of a stranger nothing is known");
        // Of too many steps the first are forgotten: what was asked before is compared with more than was known.
        (0..STEPS as u64).for_each(|n| clocks.saw(&ak(1), clock(3, n), true, |_| true, 0));
        assert_eq!(clocks.newest_at(&ak(1), none), Some(clock(2, 5)));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn strangers_fill_nothing_and_members_push_out_whoever_is_none() {
        let folder = folder("bound");
        let mut clocks = Clocks::open(&folder);
        clocks.saw(&ak(1), clock(1, 1), false, |_| true, 0);
        assert_eq!(clocks.newest(&ak(1)), None);
        for n in 0..MOST as u16 {
            clocks.kept.clocks.insert(key(&ak(n)), clock(1, 1));
        }
        let gone = key(&ak(7));
        clocks.saw(&ak(9_999), clock(1, 1), true, |k| k != gone, 0);
        assert_eq!(clocks.newest(&ak(7)), None);
        assert!(clocks.newest(&ak(9_999)).is_some() && clocks.newest(&ak(8)).is_some());
        assert_eq!(clocks.kept.clocks.len(), MOST);
        // Who was a member and joins again is known.
        clocks.saw(&ak(8), clock(3, 1), false, |_| true, 0);
        assert_eq!(clocks.newest(&ak(8)), Some(clock(3, 1)));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_that_is_none_is_kept_aside() {
        let folder = folder("damaged");
        fs::write(folder.join(FILE), b"{\"clocks\":").unwrap();
        assert_eq!(Clocks::open(&folder).newest(&ak(1)), None);
        assert!(folder.join(DAMAGED).exists());
        fs::remove_dir_all(folder).unwrap();
    }
}
