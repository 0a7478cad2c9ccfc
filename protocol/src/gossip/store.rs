//! The entries that a member has: of each key the newest, until it ends, and of each author no more than its share.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::entry::{Entry, Key, Kind};
use crate::frame::wire;
use gtvp_model::digest::Digest;
use gtvp_model::union::MemberId;

/// Most bytes of one author's entries: in turns a verifier has about five results that count, of about 1 KiB; a union of 1,024 that
/// all lie to the most makes 16 MiB of it.
pub const OF_AUTHOR: usize = 16 * 1024;

/// One that is here.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The entry.
    pub entry: Arc<Entry>,
    /// As it is sent.
    pub bytes: Arc<[u8]>,
    /// For filters.
    pub mark: u64,
    /// Not kept longer, by the clock that only goes forward.
    pub until: u64,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Store(BTreeMap<Key, Kept>);

/// All keys of an author.
fn of(author: MemberId) -> std::ops::RangeInclusive<Key> {
    let key = |kind, byte| Key { author, kind, subject: MemberId::new(Digest([byte; 32])) };
    key(Kind::Result, 0)..=key(Kind::Status, 255)
}

impl Store {
    /// The one with this key.
    pub fn get(&self, key: &Key) -> Option<&Kept> {
        self.0.get(key)
    }

    /// All.
    pub fn iter(&self) -> impl Iterator<Item = &Kept> {
        self.0.values()
    }

    /// All, from this key on and then from the beginning.
    pub fn from(&self, key: Key) -> impl Iterator<Item = &Kept> {
        self.0.range(key..).chain(self.0.range(..key)).map(|(_, kept)| kept)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes one in. Of an author that has more than its share what ends first goes: `false` if that is this one.
    pub fn put(&mut self, entry: Entry, until: u64) -> bool {
        let (key, author) = (entry.key(), entry.author);
        let bytes: Arc<[u8]> = wire::encode(&entry).into();
        let kept = Kept { mark: entry.mark(), entry: Arc::new(entry), bytes, until };
        self.0.insert(key, kept);
        let mut size: usize = self.0.range(of(author)).map(|(_, k)| k.bytes.len()).sum();
        while size > OF_AUTHOR {
            let of_author = self.0.range(of(author));
            let Some((first, bytes)) =
                of_author.min_by_key(|(_, k)| k.entry.expires).map(|(key, k)| (*key, k.bytes.len()))
            else {
                break;
            };
            self.0.remove(&first);
            size = size.saturating_sub(bytes);
        }
        self.0.contains_key(&key)
    }

    /// Keeps what this says.
    pub fn retain(&mut self, stays: impl Fn(&Kept) -> bool) {
        self.0.retain(|_, kept| stays(kept));
    }
}
