//! Raft's log as this member keeps it: in memory, and as bytes that are written down whole whenever something in them must survive.
//! It stays short: what has been decided and is in the record, or never will be, leaves it.

use std::collections::{BTreeSet, VecDeque};

use gtvp_model::union::UnionId;
use minicbor::{Decode, Encode};
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot as RaftSnapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};

use super::message::{Does, Logged, MAX_CONF};
use crate::csp::SignedEntry;
use crate::frame::wire::{self, BodyFault, List, id};

const VERSION: u8 = 1;
/// Applied entries that stay, so that a voter that is a little behind gets them and no snapshot.
const KEPT: usize = 32;
/// Bytes of them.
const KEPT_BYTES: usize = 64 * 1024;
/// Most entries beside the log that are kept for being proposed again.
pub const MAX_OPEN: usize = 16;
/// Most entries, and bytes of them, that a log has before it takes no more: only a leader that lies appends so many.
const MAX_LOG: usize = 4096;
const MAX_LOG_BYTES: usize = 16 * 1024 * 1024;

/// See the module. It has also what else a node must know after a crash.
#[derive(Debug, Clone, Default)]
pub struct Log {
    pub term: u64,
    pub vote: u64,
    pub commit: u64,
    /// Where it begins: all before is gone.
    pub start: u64,
    pub start_term: u64,
    /// Raft's voters at `start`.
    pub voters: BTreeSet<u64>,
    entries: VecDeque<Entry>,
    bytes: usize,
}

#[derive(Encode, Decode)]
struct Kept {
    #[n(0)]
    version: u8,
    #[cbor(n(1), with = "id")]
    union: UnionId,
    #[n(2)]
    voter: bool,
    #[n(3)]
    term: u64,
    #[n(4)]
    vote: u64,
    #[n(5)]
    commit: u64,
    #[n(6)]
    start: u64,
    #[n(7)]
    start_term: u64,
    #[n(8)]
    voters: List<u64, MAX_CONF>,
    #[n(9)]
    entries: List<Logged, { MAX_LOG + 64 }>,
    #[n(10)]
    open: List<SignedEntry, MAX_OPEN>,
}

/// What was written down.
#[derive(Debug)]
pub struct Loaded {
    pub union: UnionId,
    /// Whether the record had this member as a voter.
    pub voter: bool,
    /// What this voter had promised, and others might have, if the record had not come to it.
    pub open: Vec<SignedEntry>,
    pub log: Log,
}

impl Log {
    /// An empty log, as if an entry 1 had made these the voters: of the first voter of a union, and of voters who agree on nothing
    /// any more. Term and vote are never forgotten.
    pub fn begin(voters: BTreeSet<u64>, term: u64, vote: u64) -> Self {
        Self { term: term.max(1), vote, commit: 1, start: 1, start_term: 1, voters, ..Self::default() }
    }

    /// The log of a new voter: a leader sends it its own.
    pub fn blank(term: u64, vote: u64) -> Self {
        Self { term: term.max(1), vote, ..Self::default() }
    }

    pub fn to_bytes(&self, union: UnionId, voter: bool, open: Vec<SignedEntry>) -> Vec<u8> {
        let entries: Vec<Logged> = self.entries.iter().map(logged).collect();
        wire::encode(&Kept {
            version: VERSION,
            union,
            voter,
            term: self.term,
            vote: self.vote,
            commit: self.commit,
            start: self.start,
            start_term: self.start_term,
            voters: self.voters.iter().copied().collect::<Vec<_>>().try_into().unwrap_or_default(),
            entries: entries.try_into().unwrap_or_default(),
            open: open.try_into().unwrap_or_default(),
        })
    }

    pub fn from_bytes(bytes: &[u8]) -> std::result::Result<Loaded, String> {
        let kept: Kept = wire::decode(bytes).map_err(|e: BodyFault| e.to_string())?;
        if kept.version != VERSION {
            return Err(format!("it is of version {}, this member reads version {VERSION}", kept.version));
        }
        let mut log = Self {
            term: kept.term,
            vote: kept.vote,
            commit: kept.start,
            start: kept.start,
            start_term: kept.start_term,
            voters: kept.voters.as_slice().iter().copied().collect(),
            ..Self::default()
        };
        let mut term = kept.start_term;
        for (i, entry) in (kept.start.saturating_add(1)..).zip(kept.entries.as_slice()) {
            if entry.term < term || entry.term > kept.term {
                return Err(format!("entry {i} has term {}", entry.term));
            }
            term = entry.term;
            log.push(unlogged(i, entry));
        }
        if kept.start_term > kept.term || (kept.start == 0) != (kept.start_term == 0) {
            return Err("it begins at a term that is not yet".into());
        }
        log.commit = kept.commit.clamp(log.start, log.last());
        Ok(Loaded { union: kept.union, voter: kept.voter, open: kept.open.as_slice().to_vec(), log })
    }

    pub fn last(&self) -> u64 {
        self.start.saturating_add(self.entries.len() as u64)
    }

    pub fn is_full(&self) -> bool {
        self.entries.len() >= MAX_LOG || self.bytes >= MAX_LOG_BYTES
    }

    /// Entries after `index`.
    pub fn after(&self, index: u64) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |e| e.index > index)
    }

    fn at(&self, index: u64) -> Option<&Entry> {
        let i = index.checked_sub(self.start)?.checked_sub(1)?;
        self.entries.get(usize::try_from(i).ok()?)
    }

    fn push(&mut self, entry: Entry) {
        self.bytes = self.bytes.saturating_add(entry.data.len());
        self.entries.push_back(entry);
    }

    /// Appends, in place of whatever was there from the first one's index on.
    pub fn append(&mut self, entries: Vec<Entry>) {
        if let Some(first) = entries.first() {
            let first = first.index;
            while self.last() >= first {
                let Some(gone) = self.entries.pop_back() else { break };
                self.bytes = self.bytes.saturating_sub(gone.data.len());
            }
        }
        entries.into_iter().for_each(|e| self.push(e));
    }

    /// The log begins here, and has nothing else.
    pub fn restart(&mut self, index: u64, term: u64, voters: BTreeSet<u64>) {
        self.entries.clear();
        self.bytes = 0;
        (self.start, self.start_term, self.voters) = (index, term, voters);
        self.commit = self.commit.max(index);
    }

    /// Lets go of entries up to `index`, except for the last few. Changes of who votes do not stay, so that a snapshot has the
    /// voters of now.
    pub fn compact(&mut self, index: u64) {
        let most = usize::try_from(index.saturating_sub(self.start)).unwrap_or(0).min(self.entries.len());
        let changes = self
            .entries
            .iter()
            .take(most)
            .enumerate()
            .filter(|(_, e)| change(e).is_some())
            .last()
            .map_or(0, |(i, _)| i + 1);
        let mut gone = 0;
        while gone < most && (gone < changes || most - gone > KEPT || self.bytes > KEPT_BYTES) {
            let Some(entry) = self.entries.pop_front() else { break };
            gone += 1;
            self.bytes = self.bytes.saturating_sub(entry.data.len());
            (self.start, self.start_term) = (entry.index, entry.term);
            if let Some(change) = change(&entry) {
                changed(&mut self.voters, change);
            }
        }
    }

    fn conf(&self) -> ConfState {
        ConfState { voters: self.voters.iter().copied().collect(), ..ConfState::default() }
    }
}

/// Who comes (`true`) or goes by this entry.
pub fn change(entry: &Entry) -> Option<(bool, u64)> {
    if entry.get_entry_type() != EntryType::EntryConfChange {
        return None;
    }
    let (does, node) = entry.context.split_first_chunk::<1>()?;
    let node = u64::from_be_bytes(node.try_into().ok()?);
    Some((does[0] == 1, node))
}

/// Carries a [`change`] out.
fn changed(voters: &mut BTreeSet<u64>, (add, node): (bool, u64)) {
    if add {
        voters.insert(node);
    } else {
        voters.remove(&node);
    }
}

/// What [`change`] reads.
pub fn change_context(add: bool, node: u64) -> Vec<u8> {
    [&[u8::from(add)][..], &node.to_be_bytes()].concat()
}

/// An entry of Raft as it is sent and kept.
pub fn logged(entry: &Entry) -> Logged {
    let (does, node) = match change(entry) {
        Some((true, node)) => (Does::Add, node),
        Some((false, node)) => (Does::Remove, node),
        None if entry.data.is_empty() => (Does::Nothing, 0),
        None => (Does::Entry, 0),
    };
    let signed = || wire::decode::<SignedEntry>(&entry.data).ok();
    let entry_of = (does == Does::Entry).then(signed).flatten();
    Logged { term: entry.term, does, node, entry: entry_of }
}

/// The entry of Raft that was sent or kept.
pub fn unlogged(index: u64, logged: &Logged) -> Entry {
    let mut entry = Entry { index, term: logged.term, ..Entry::default() };
    match logged.does {
        Does::Nothing => {}
        Does::Entry => {
            entry.data = logged.entry.as_ref().map(wire::encode).unwrap_or_default().into();
        }
        Does::Add | Does::Remove => {
            entry.set_entry_type(EntryType::EntryConfChange);
            entry.context = change_context(logged.does == Does::Add, logged.node).into();
        }
    }
    entry
}

fn lacking<T>(e: StorageError) -> Result<T> {
    Err(Error::Store(e))
}

impl Storage for Log {
    fn initial_state(&self) -> Result<RaftState> {
        let hard =
            HardState { term: self.term, vote: self.vote, commit: self.commit, ..HardState::default() };
        Ok(RaftState::new(hard, self.conf()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.start {
            return lacking(StorageError::Compacted);
        }
        let mut entries: Vec<Entry> =
            self.entries.iter().filter(|e| (low..high).contains(&e.index)).cloned().collect();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.start {
            return Ok(self.start_term);
        }
        if index < self.start {
            return lacking(StorageError::Compacted);
        }
        self.at(index).map_or_else(|| lacking(StorageError::Unavailable), |e| Ok(e.term))
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.start.saturating_add(1))
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, _: u64, _: u64) -> Result<RaftSnapshot> {
        if self.start == 0 {
            return lacking(StorageError::SnapshotTemporarilyUnavailable);
        }
        let mut snapshot = RaftSnapshot::default();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (self.start, self.start_term);
        metadata.set_conf_state(self.conf());
        Ok(snapshot)
    }
}
