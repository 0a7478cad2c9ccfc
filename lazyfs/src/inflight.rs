//! Which requests were taken from the queues and not answered yet, in shared memory that outlives the process: a new
//! process finds exactly these and does them again. The order of writes is vhost-user's inflight design.
//!
//! For each queue: a counter that orders requests, the used index as we last wrote it, the head answered last, and for
//! each head the counter's value when it was taken, or 0.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::memory::{BadRegion, Mapping};
use crate::ring::MAX_SIZE;

/// Most queues: one for urgent requests and 8 others.
pub const MAX_QUEUES: usize = 9;

const HEADER: u64 = 64;
const QUEUE_BYTES: u64 = HEADER + 8 * MAX_SIZE as u64;
const FILE_BYTES: u64 = QUEUE_BYTES * MAX_QUEUES as u64;

const COUNTER: u64 = 0;
const USED: u64 = 8;
const LAST: u64 = 16;

/// The record.
pub struct Inflight {
    map: Mapping,
    file: OwnedFd,
    /// In place of a word that cannot be outside; see [`Inflight::word`].
    nowhere: AtomicU64,
}

impl Inflight {
    /// An empty one.
    pub fn new() -> Result<Self, BadRegion> {
        let err = |e: rustix::io::Errno| BadRegion::Map(io::Error::from(e));
        let file = rustix::fs::memfd_create("inflight", rustix::fs::MemfdFlags::CLOEXEC).map_err(err)?;
        rustix::fs::ftruncate(&file, FILE_BYTES).map_err(err)?;
        Self::open(file)
    }

    /// The one that a process before us kept in `file`.
    pub fn open(file: OwnedFd) -> Result<Self, BadRegion> {
        Ok(Self { map: Mapping::new(file.as_fd(), 0, FILE_BYTES)?, file, nowhere: AtomicU64::new(0) })
    }

    /// Its file, to be kept.
    pub fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// Callers' queues and heads are checked before; an offset outside of the file is a defect, and harmless.
    fn word(&self, queue: usize, offset: u64) -> &AtomicU64 {
        let inside = queue < MAX_QUEUES && offset < QUEUE_BYTES;
        debug_assert!(inside);
        let word = inside.then(|| self.map.word(queue as u64 * QUEUE_BYTES + offset)).flatten();
        word.unwrap_or(&self.nowhere)
    }

    fn head(&self, queue: usize, head: u16) -> &AtomicU64 {
        self.word(queue, HEADER + 8 * u64::from(head))
    }

    /// Notes that `head` was taken. False when it is being worked on already.
    #[must_use]
    pub fn begin(&self, queue: usize, head: u16) -> bool {
        let n = self.word(queue, COUNTER).fetch_add(1, Ordering::SeqCst) + 1;
        self.head(queue, head).compare_exchange(0, n, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// To be called before the answer to `head` is published.
    pub fn ending(&self, queue: usize, head: u16) {
        self.word(queue, LAST).store(u64::from(head), Ordering::SeqCst);
    }

    /// To be called when it was, and the used index became `used`.
    pub fn ended(&self, queue: usize, head: u16, used: u16) {
        self.head(queue, head).store(0, Ordering::SeqCst);
        self.word(queue, USED).store(u64::from(used), Ordering::SeqCst);
    }

    /// Forgets what `queue` had, for one that starts with this used index.
    pub fn reset(&self, queue: usize, used: u16) {
        (0..MAX_SIZE).for_each(|h| {
            // Untouched pages stay untouched.
            if self.head(queue, h).load(Ordering::SeqCst) != 0 {
                self.head(queue, h).store(0, Ordering::SeqCst);
            }
        });
        self.word(queue, USED).store(u64::from(used), Ordering::SeqCst);
    }

    /// The used index that was noted last for `queue`.
    pub fn used(&self, queue: usize) -> u16 {
        u16::try_from(self.word(queue, USED).load(Ordering::SeqCst) & 0xffff).unwrap_or(0)
    }

    /// The heads to do again, in the order in which they were taken, given the used index that the guest sees.
    pub fn unanswered(&self, queue: usize, used: u16) -> Vec<u16> {
        let noted = self.word(queue, USED).load(Ordering::SeqCst);
        if noted & 0xffff != u64::from(used) {
            // Died between publishing and noting it: the head answered last is answered.
            if let Ok(last @ 0..MAX_SIZE) = u16::try_from(self.word(queue, LAST).load(Ordering::SeqCst)) {
                self.ended(queue, last, used);
            }
        }
        let taken = |h: u16| Some((self.head(queue, h).load(Ordering::SeqCst), h)).filter(|(n, _)| *n != 0);
        let mut heads: Vec<_> = (0..MAX_SIZE).filter_map(taken).collect();
        heads.sort_unstable();
        heads.into_iter().map(|(_, h)| h).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reopened(i: &Inflight) -> Inflight {
        Inflight::open(i.file().try_clone().unwrap()).unwrap()
    }

    #[test]
    fn a_new_process_finds_exactly_the_unanswered() {
        let i = Inflight::new().unwrap();
        i.reset(1, 7);
        for h in [5, 3, 900, 4] {
            assert!(i.begin(1, h));
        }
        assert!(!i.begin(1, 3), "a head at work is not taken again");
        i.ending(1, 3);
        i.ended(1, 3, 8);
        let i = reopened(&i);
        assert_eq!(i.unanswered(1, 8), [5, 900, 4], "in the order taken");
        assert!(i.unanswered(0, 0).is_empty());
    }

    #[test]
    fn a_death_on_either_side_of_publishing_is_told_apart() {
        let i = Inflight::new().unwrap();
        i.reset(1, 0xffff);
        assert!(i.begin(1, 1) && i.begin(1, 2));
        i.ending(1, 1);
        assert_eq!(reopened(&i).unanswered(1, 0xffff), [1, 2], "died before it was published");
        assert_eq!(reopened(&i).unanswered(1, 0), [2], "died right after");
        assert_eq!(reopened(&i).unanswered(1, 0), [2], "and again while recovering");
    }

    #[test]
    fn a_shorter_file_is_refused() {
        let fd = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        assert!(Inflight::open(fd).is_err());
    }
}
