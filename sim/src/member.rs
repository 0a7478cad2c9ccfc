//! A member of a run: its node, its `security` (a keeper and a disk), and what is under way between them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use gtvp_model::digest::Digest;
use gtvp_model::union::{MemberId, RecordHead, UnixTime};
use gtvp_protocol::csp::node::{Command, Node, UnionState};
use gtvp_protocol::csp::page::{self, Committed};
use gtvp_protocol::csp::{CoSigned, Keeper, Offer, Record};
use gtvp_protocol::hsp::Grant;

use crate::disk::Disk;
use crate::keys::{Cheap, Keys};

/// A time that no head is of: what a member has on its own disk was checked when it was taken.
const LATER: UnixTime = UnixTime(u64::MAX);

/// What runs, until power goes.
pub struct Life {
    /// The node.
    pub node: Node,
    /// What `security` has.
    pub keeper: Keeper,
    /// The newest co-signed head.
    pub head: CoSigned,
    /// The record's entries.
    pub journal: Vec<Committed>,
    /// Commands that wait for the disk.
    pub todo: VecDeque<Command>,
    /// The node's state is being written.
    pub persisting: bool,
    /// When it was started: its clock that never goes back begins here.
    pub born: u64,
    /// When `security` is free again.
    pub security_free: u64,
    /// The timer that is set.
    pub timer: Option<u64>,
    /// Nothing happens to it until then.
    pub paused: u64,
}

/// See the module.
pub struct Member {
    /// Its keys.
    pub keys: Keys,
    /// Its files.
    pub disk: Disk,
    /// The highest number that it has promised: its TPM's counter, which nothing sets back.
    pub counter: u64,
    /// Seconds by which its clock is wrong.
    pub skew: i64,
    /// Counts starts: what was under way in an earlier life is void.
    pub life: u32,
    /// What runs.
    pub alive: Option<Life>,
    /// It lies, or its disk has gone back: what it has and signs is not held against the others.
    pub exempt: bool,
    /// Its channels: to whom, by which connection, for what.
    pub channels: BTreeMap<usize, (u64, Grant)>,
    /// Proposals that wait.
    pub tickets: BTreeMap<u64, RecordHead>,
}

impl Member {
    /// One that has this record on its disk.
    pub fn new(keys: Keys, record: &[Committed], head: &CoSigned) -> Self {
        let mut member = Self::outside(keys);
        let disk = &mut member.disk;
        disk.record.append(&page::join(record));
        disk.record.sync();
        disk.head.write(gtvp_protocol::frame::wire::encode(head));
        disk.head.sync();
        member
    }

    /// A server that is in no union yet.
    pub fn outside(keys: Keys) -> Self {
        Self {
            keys,
            disk: Disk::default(),
            counter: 0,
            skew: 0,
            life: 0,
            alive: None,
            exempt: false,
            channels: BTreeMap::new(),
            tickets: BTreeMap::new(),
        }
    }

    /// Its id.
    pub fn id(&self) -> MemberId {
        self.keys.id()
    }

    /// What is on the disk: a torn end is cut off.
    ///
    /// # Errors
    /// What is there is no record: nothing that this program writes.
    pub fn load(&mut self) -> Result<(Keeper, CoSigned, Vec<Committed>), String> {
        let bytes = self.disk.record.read().to_vec();
        let mut whole = 0;
        while let Some(length) =
            bytes.get(whole..whole + 4).and_then(|l| l.try_into().ok()).map(u32::from_be_bytes)
        {
            let end = whole + 4 + usize::try_from(length).map_err(|e| e.to_string())?;
            if end > bytes.len() {
                break;
            }
            whole = end;
        }
        let mut journal = page::split(bytes.get(..whole).unwrap_or_default()).map_err(|e| e.to_string())?;
        // An offer that did not come to the disk whole does not count.
        while journal.last().is_some_and(|c| c.head.is_none()) {
            journal.pop();
        }
        self.disk.record.truncate(page::join(&journal).len());
        let genesis = journal.first().ok_or("there is no record")?.entry.clone();
        let mut record = Record::begin(&genesis, &Cheap).map_err(|e| e.to_string())?;
        let union = record.view().union;
        for committed in journal.iter().skip(1) {
            record.apply(&committed.entry, &Cheap).map_err(|e| e.to_string())?;
        }
        let promised = self.disk.promise.read().and_then(promise_of);
        let mut keeper = Keeper::new(self.id(), record, promised).with_floor(self.counter);
        let mut head = journal.last().and_then(|c| c.head.clone()).ok_or("its end is not signed")?;
        let newer =
            self.disk.head.read().and_then(|b| gtvp_protocol::frame::wire::decode::<CoSigned>(b).ok());
        if let Some(newer) = newer.filter(|n| n.head.at == head.head.at && n.head.time > head.head.time) {
            head = newer;
        }
        // The keeper learns the head's time by it. The voters are those before the last entry if that changed them.
        let offer = Offer { entries: Vec::new(), head: head.clone() };
        let _ = (union, keeper.take(&offer, self.id(), LATER, &Cheap));
        Ok((keeper, head, journal))
    }
}

impl Life {
    /// The record as the node is told of it.
    pub fn state(&self) -> Arc<UnionState> {
        Arc::new(UnionState::of(self.keeper.record(), self.head.clone()))
    }

    /// The record's last entry.
    pub fn at(&self) -> RecordHead {
        self.keeper.record().view().head
    }
}

/// How a promise is written down.
pub fn promise_bytes(at: RecordHead) -> Vec<u8> {
    [&at.number.to_be_bytes()[..], &at.hash.0].concat()
}

fn promise_of(bytes: &[u8]) -> Option<RecordHead> {
    let (number, hash) = bytes.split_first_chunk::<8>()?;
    Some(RecordHead { number: u64::from_be_bytes(*number), hash: Digest(hash.try_into().ok()?) })
}
