//! The record on this member's disk: an entry a file, each with the head that made it count; the last promise; whose record it is.
//!
//! A file is replaced whole and made durable before the next is. Entries of one offer are written in their order, and the head stands with
//! the last: after a crash those without one have not been taken. A whole record is written in one go, made durable as a whole, and then
//! appears at once, by renaming its folder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use gtvp_model::digest::Digest;
use gtvp_model::union::{MemberId, RecordHead, UnionId, UnixTime};
use gtvp_protocol::csp::Record;
use gtvp_protocol::csp::follow::{Fork, Recoveries};
use gtvp_protocol::csp::page::Committed;
use gtvp_protocol::frame::wire;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::Ecdsa;
use super::chain::{BadChain, Chain, MAX_COMMITTED, Whole};
use crate::tpm::saved;

/// Where the record is, in the state folder.
const FOLDER: &str = "record";
/// Where one is put together.
const NEW: &str = "record.new";
/// Whose record it is.
const OWN: &str = "own";
/// The last promise.
const PROMISE: &str = "promise";
/// Proof that a majority has said two things.
const FORK: &str = "fork";
/// The entry that may replace the voters, by its administrator's word.
const FOLLOW: &str = "follow";
/// What is put in the place of a union's id where a record's first entry does not say it.
const UNKNOWN: &str = "unknown";
/// Longest of these.
const MAX_SMALL: u64 = 8 * 1024 * 1024;

/// Why a record on the disk is none.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// A file is no part of it.
    #[error("{0} is not part of a record")]
    Stray(String),
    /// The folder, or a file that is no entry, cannot be read.
    #[error("{0} cannot be read: {1}")]
    Unreadable(String, io::Error),
    /// The entries.
    #[error(transparent)]
    Chain(#[from] BadChain),
}

/// The last promise, as it is on the disk.
#[derive(serde::Serialize, serde::Deserialize)]
struct Promise {
    #[serde(flatten)]
    at: RecordHead,
    /// It is an entry of this member's own that replaces the voters: nobody else hears of it before it is in the record.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    recovers: bool,
}

/// What is there.
pub struct Kept {
    /// Whose.
    pub own: MemberId,
    /// The record.
    pub whole: Whole,
    /// The last promise.
    pub promised: Option<RecordHead>,
    /// A recovery of this member's was cut short: what was promised last is its entry, which is not in the record.
    pub unfinished: bool,
    /// Proof that a majority has said two things.
    pub fork: Option<Fork>,
    /// The entry that may replace the voters.
    pub follow: Option<Digest>,
}

/// The record's place.
#[derive(Debug, Clone)]
pub struct Disk {
    state: PathBuf,
    folder: PathBuf,
}

impl Disk {
    /// In this state folder.
    pub fn new(state: &Path) -> Self {
        Self { state: state.to_owned(), folder: state.join(FOLDER) }
    }

    /// What is there; `None` if there is no record.
    pub fn load(&self) -> Result<Option<Kept>, Damage> {
        let unreadable = |what: &str, e| Damage::Unreadable(what.to_owned(), e);
        let names = match fs::read_dir(&self.folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| unreadable("its folder", e))?,
        };
        let mut numbers = Vec::new();
        for name in names {
            let name = name.map_err(|e| unreadable("its folder", e))?.file_name();
            let text = name.to_string_lossy();
            // `.new`: a write that did not come to its end.
            if text.ends_with(".new") || [OWN, PROMISE, FORK, FOLLOW].contains(&&*text) {
                continue;
            }
            let number = text.parse::<u64>().ok().filter(|n| n.to_string() == text);
            numbers.push(number.ok_or_else(|| Damage::Stray(text.chars().take(80).collect()))?);
        }
        numbers.sort_unstable();
        let missing = || unreadable(OWN, io::ErrorKind::NotFound.into());
        let own: MemberId = self.json(OWN)?.ok_or_else(missing)?;
        // Of what was checked when it was taken, the time is not looked at again: this clock may be wrong now.
        let mut chain = Chain::new(own, UnixTime(u64::MAX), Recoveries::UpTo(u64::MAX));
        for number in numbers {
            if number != chain.next() {
                return Err(BadChain::Unreadable(chain.next(), io::ErrorKind::NotFound.into()).into());
            }
            chain = chain.with(self.entry(number)?)?;
        }
        // Those without a head were never taken.
        let (whole, _) = chain.finish()?;
        let head = whole.follower.record().view().head;
        let promise: Option<Promise> = self.json(PROMISE)?;
        let unfinished = promise.as_ref().is_some_and(|p| p.recovers && p.at.number > head.number);
        let promised = promise.map(|p| p.at);
        // What is forked takes nothing but a recovery, and that ends it: the proof stays, and is of what was.
        let fork = self.json(FORK)?.filter(|fork: &Fork| fork.ours.number >= head.number);
        let follow = self.json(FOLLOW)?;
        Ok(Some(Kept { own, whole, promised, unfinished, fork, follow }))
    }

    fn small(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.folder.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_SMALL).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Damage> {
        let read = self.small(name).and_then(|bytes| match bytes {
            None => Ok(None),
            Some(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from),
        });
        read.map_err(|e| Damage::Unreadable(name.to_owned(), e))
    }

    /// An entry.
    pub fn entry(&self, number: u64) -> Result<Committed, BadChain> {
        let cannot = |e| BadChain::Unreadable(number, e);
        let file = File::open(self.folder.join(number.to_string())).map_err(cannot)?;
        let mut bytes = Vec::new();
        file.take(MAX_COMMITTED as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
        wire::decode(&bytes).map_err(|e| BadChain::Form(number, e))
    }

    /// Adds entries, the first of which is entry `from`.
    pub fn append(&self, from: u64, items: &[Committed]) -> io::Result<()> {
        (from..).zip(items).try_for_each(|(number, item)| {
            saved::replace(&self.folder, &number.to_string(), &wire::encode(item))
        })
    }

    /// Writes down a promise.
    pub fn promise(&self, at: RecordHead) -> io::Result<()> {
        self.promised(&Promise { at, recovers: false })
    }

    /// The same for the entry of a recovery by this member.
    pub fn promise_recovery(&self, at: RecordHead) -> io::Result<()> {
        self.promised(&Promise { at, recovers: true })
    }

    fn promised(&self, promise: &Promise) -> io::Result<()> {
        saved::replace(&self.folder, PROMISE, &serde_json::to_vec(promise)?)
    }

    /// Writes down which entry may replace the voters.
    pub fn follow(&self, entry: Digest) -> io::Result<()> {
        saved::replace(&self.folder, FOLLOW, &serde_json::to_vec(&entry)?)
    }

    /// Writes down that the record has gone two ways.
    pub fn forked(&self, fork: &Fork) -> io::Result<()> {
        saved::replace(&self.folder, FORK, &serde_json::to_vec(fork)?)
    }

    /// What its first entry says, if that can be read and is good.
    pub fn first(&self) -> Option<Record> {
        Record::begin(&self.entry(0).ok()?.entry, &Ecdsa).ok()
    }

    fn union(&self) -> Option<UnionId> {
        self.first().map(|record| record.view().union)
    }

    /// Moves the record aside, good or not, where it is not looked at any more: nobody deletes what people might miss, and what it has
    /// binds this server when it joins that union again. Says its name then.
    pub fn aside(&self) -> io::Result<String> {
        let short = self.union().map_or_else(|| UNKNOWN.to_owned(), |union| union.short());
        let (mut name, mut n) = (format!("{FOLDER}.{short}"), 1);
        while self.state.join(&name).exists() {
            name = format!("{FOLDER}.{short}-{n}");
            n += 1;
        }
        fs::rename(&self.folder, self.state.join(&name))?;
        File::open(&self.state)?.sync_all()?;
        Ok(name)
    }

    /// What was moved aside of this union, of others whose ids begin as its does, and of those whose id could not be read.
    pub fn asides(&self, union: UnionId) -> io::Result<Vec<(String, Self)>> {
        let begins = [union.short(), UNKNOWN.to_owned()].map(|short| format!("{FOLDER}.{short}"));
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.state)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let mut rest = begins.iter().filter_map(|begins| name.strip_prefix(begins));
            if rest.any(|rest| rest.is_empty() || rest.starts_with('-')) {
                found.push((name, Self { state: self.state.clone(), folder: entry.path() }));
            }
        }
        Ok(found)
    }

    /// A record that is being put together.
    pub fn begin(&self, own: MemberId) -> io::Result<NewRecord> {
        let folder = self.state.join(NEW);
        match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        fs::create_dir(&folder)?;
        let new = NewRecord { disk: Self { state: self.state.clone(), folder } };
        saved::replace(&new.disk.folder, OWN, &serde_json::to_vec(&own)?)?;
        Ok(new)
    }
}

/// See [`Disk::begin`]. What is not finished is gone when the next begins.
pub struct NewRecord {
    disk: Disk,
}

impl NewRecord {
    /// Adds an entry. It is durable after [`Self::sync`].
    pub fn add(&self, number: u64, item: &Committed) -> io::Result<()> {
        let place = self.disk.folder.join(number.to_string());
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(place)?;
        file.write_all(&wire::encode(item))
    }

    /// Makes all that was added durable: one pass after the last, as nothing counts before it is in its place.
    pub fn sync(&self) -> io::Result<()> {
        for file in fs::read_dir(&self.disk.folder)? {
            File::open(file?.path())?.sync_all()?;
        }
        File::open(&self.disk.folder)?.sync_all()
    }

    /// The record's promise.
    pub fn promise(&self, promised: RecordHead) -> io::Result<()> {
        self.disk.promise(promised)
    }

    /// Puts it, durable as it is, into the record's place, at once. An older record of the same union is gone, as this one has all of it;
    /// one of another union is moved aside: what was promised there stays promised.
    pub fn finish(self) -> io::Result<()> {
        let Disk { state, folder: new } = &self.disk;
        let before = Disk::new(state);
        if before.folder.exists() {
            if before.union().is_some_and(|union| self.disk.union() == Some(union)) {
                renameat_with(CWD, new, CWD, &before.folder, RenameFlags::EXCHANGE)?;
                File::open(state)?.sync_all()?;
                return fs::remove_dir_all(new);
            }
            // First: what lies where a record is put together is deleted by whoever begins the next.
            before.aside()?;
        }
        fs::rename(new, &before.folder)?;
        File::open(state)?.sync_all()
    }
}
