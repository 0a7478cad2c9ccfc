//! Entries that this member's own `security` wants in the record, and those that a leader was asked to put there.

use std::collections::{BTreeMap, VecDeque};

use gtvp_model::digest::Digest;

use gtvp_model::union::RecordHead;

use super::Proposal;
use crate::csp::{Entry, SignedEntry};
use crate::hsp::Millis;

/// How long a proposal is waited for, ms: an election (2 s), and some votes and disks.
pub const DEADLINE: u64 = 10_000;
/// Most proposals that wait, of this member and at a leader: administrators and joiners, not load.
pub const MAX_WAITING: usize = 64;
/// Most bytes of entries that a leader keeps waiting.
const MAX_QUEUED: usize = 8 * 1024 * 1024;

/// Where an entry says that it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub number: u64,
    pub previous: Digest,
    pub hash: Digest,
}

impl Place {
    pub fn of(entry: &SignedEntry) -> Option<Self> {
        let e = Entry::decode(entry.entry.as_slice()).ok()?;
        Some(Self { number: e.number, previous: e.previous, hash: entry.hash() })
    }

    /// Whether it may come next after `head`.
    pub fn follows(&self, head: RecordHead) -> bool {
        head.number.checked_add(1) == Some(self.number) && self.previous == head.hash
    }
}

/// One of this member's own.
#[derive(Debug)]
pub struct Own {
    pub place: Place,
    pub entry: SignedEntry,
    pub until: Millis,
}

/// What a leader was asked for.
#[derive(Debug)]
struct Queued {
    place: Place,
    entry: SignedEntry,
    until: Millis,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Proposals {
    pub own: BTreeMap<u64, Own>,
    queue: VecDeque<Queued>,
}

impl Proposals {
    /// Ends those that `head` decides about.
    pub fn at(
        &self,
        hash_at: impl Fn(u64) -> Option<Digest>,
        head: RecordHead,
    ) -> Vec<(u64, Option<Proposal>)> {
        let reached = self.own.iter().filter(|(_, o)| o.place.number <= head.number);
        let outcome = |(ticket, own): (&u64, &Own)| {
            let there =
                if own.place.number == head.number { Some(head.hash) } else { hash_at(own.place.number) };
            let outcome =
                there.map(|h| if h == own.place.hash { Proposal::Taken } else { Proposal::Overtaken });
            (*ticket, outcome)
        };
        reached.map(outcome).collect()
    }

    /// Takes an entry for the log, as the leader, unless it is there or cannot be next.
    pub fn queue(&mut self, entry: SignedEntry, head: RecordHead, now: Millis) {
        let Some(place) = Place::of(&entry) else { return };
        let bytes: usize = self.queue.iter().map(|q| q.entry.entry.as_slice().len()).sum();
        let full = self.queue.len() >= MAX_WAITING || bytes >= MAX_QUEUED;
        if full || place.number <= head.number || self.queue.iter().any(|q| q.place.hash == place.hash) {
            return;
        }
        self.queue.push_back(Queued { place, entry, until: now.after(DEADLINE) });
    }

    /// The first that can be next, and is none of these.
    pub fn pop(&mut self, head: RecordHead, but: &[Digest], now: Millis) -> Option<SignedEntry> {
        self.queue.retain(|q| q.place.number > head.number && q.until > now);
        let good = |q: &Queued| q.place.follows(head) && !but.contains(&q.place.hash);
        let i = self.queue.iter().position(good)?;
        self.queue.remove(i).map(|q| q.entry)
    }

    /// Who does not lead keeps nothing for the log.
    pub fn clear_queue(&mut self) {
        self.queue.clear();
    }
}
