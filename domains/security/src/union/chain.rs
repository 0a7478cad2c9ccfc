//! A record put together from its entries, one at a time: from this member's disk, or as another member has sent it. Every entry and every
//! head is checked here again, whoever it comes from; a record of any length takes no more memory than what it comes to.

use std::io::{self, Read};

use gtvp_model::union::{MemberId, RecordHead, UnionId, UnixTime};
use gtvp_protocol::csp::entry::MAX_ENTRY;
use gtvp_protocol::csp::follow::{Follower, MAX_ENTRIES, MAX_LEAD, OfferRefusal, Recoveries};
use gtvp_protocol::csp::page::Committed;
use gtvp_protocol::csp::{CoSigned, Entry, Offer, Record, Refusal, SignedEntry};
use gtvp_protocol::frame::wire::{self, BodyFault};

use super::Ecdsa;
use super::book::Book;

/// Longest entry with its signature and the head after it, which has seven others: each key and signature below 1200 bytes.
pub const MAX_COMMITTED: usize = MAX_ENTRY + 16 * 1024;

/// Why entries are no record.
#[derive(Debug, thiserror::Error)]
pub enum BadChain {
    /// They cannot be read.
    #[error("entry {0} cannot be read: {1}")]
    Unreadable(u64, #[source] io::Error),
    /// They are no entries.
    #[error("entry {0} is not an entry: {1}")]
    Form(u64, BodyFault),
    /// There is nothing.
    #[error("it is empty")]
    Empty,
    /// Of another union.
    #[error("it is of another union")]
    OtherUnion,
    /// An entry or a head is refused.
    #[error("{0}")]
    Refused(OfferRefusal),
    /// No majority stands behind so many entries, or behind its end.
    #[error("no majority of voters has signed entry {0}")]
    Unsigned(u64),
    /// It does not have the entry that is known to be in it.
    #[error("it does not have entry {0} as it is known: this is another record")]
    Elsewhere(u64),
    /// It does not end where it was said to.
    #[error("it ends at entry {0}, not where its member said")]
    End(u64),
}

impl BadChain {
    fn entry(number: u64, refusal: Refusal) -> Self {
        Self::Refused(OfferRefusal::Entry { number, refusal })
    }
}

/// What entries came to.
pub struct Whole {
    /// The record.
    pub follower: Follower,
    /// A majority's word for its end.
    pub head: CoSigned,
    /// What else is in the entries.
    pub book: Book,
}

/// Entries so far.
pub struct Chain {
    now: UnixTime,
    recoveries: Recoveries,
    follower: Option<Follower>,
    book: Book,
    head: Option<CoSigned>,
    pending: Vec<SignedEntry>,
}

impl Chain {
    /// Nothing yet. Its end must not be later than `now`, as far as clocks go; of heads before it the time is past in any case, whatever
    /// a voter's clock once said. These entries that replace the voters are taken.
    pub fn new(own: MemberId, now: UnixTime, recoveries: Recoveries) -> Self {
        Self { now, recoveries, follower: None, book: Book::new(own), head: None, pending: Vec::new() }
    }

    /// The number of the next entry.
    pub fn next(&self) -> u64 {
        let have = self.follower.as_ref().map_or(0, |f| f.record().view().head.number.saturating_add(1));
        have.saturating_add(self.pending.len() as u64)
    }

    /// The same with an entry more. Those without a head count with the next that has one. What was refused is gone, with all before it.
    pub fn with(mut self, item: Committed) -> Result<Self, BadChain> {
        let number = self.next();
        let follower = match self.follower.take() {
            Some(follower) => {
                self.pending.push(item.entry);
                follower
            }
            None => {
                let record = Record::begin(&item.entry, &Ecdsa).map_err(|r| BadChain::entry(0, r))?;
                note(&mut self.book, &item.entry)?;
                Follower::new(record).allowing(self.recoveries)
            }
        };
        let Some(head) = item.head else {
            self.follower = Some(follower);
            return if self.pending.len() < MAX_ENTRIES { Ok(self) } else { Err(BadChain::Unsigned(number)) };
        };
        let offer = Offer { entries: std::mem::take(&mut self.pending), head };
        let then = offer.head.head.time;
        self.follower = Some(follower.grown(&offer, then, &Ecdsa).map_err(BadChain::Refused)?);
        offer.entries.iter().try_for_each(|e| note(&mut self.book, e))?;
        self.head = Some(offer.head);
        Ok(self)
    }

    /// What they came to, up to the last head; and how many entries came after it.
    pub fn finish(self) -> Result<(Whole, usize), BadChain> {
        let follower = self.follower.ok_or(BadChain::Empty)?;
        let head = self.head.ok_or(BadChain::Unsigned(0))?;
        if head.head.time.0 > self.now.0.saturating_add(MAX_LEAD) {
            let (theirs, now) = (head.head.time, self.now);
            return Err(BadChain::Refused(OfferRefusal::Ahead { theirs, now }));
        }
        // What comes after it is decided by the union's voters.
        let follower = follower.allowing(Recoveries::None);
        Ok((Whole { follower, head, book: self.book }, self.pending.len()))
    }
}

fn note(book: &mut Book, signed: &SignedEntry) -> Result<(), BadChain> {
    let entry =
        Entry::decode(signed.entry.as_slice()).map_err(|bad| BadChain::entry(0, Refusal::Bad(bad)))?;
    book.note(&entry);
    Ok(())
}

/// Entries as they are sent (`csp::page`), read one after the other.
pub struct Pages<R>(pub R);

impl<R: Read> Pages<R> {
    /// The next one, which would be entry `number`.
    pub fn next(&mut self, number: u64) -> Result<Option<Committed>, BadChain> {
        let cannot = |e| BadChain::Unreadable(number, e);
        let mut length = [0; 4];
        // The end is where an entry would begin, and nowhere else.
        match self.0.read(&mut length[..1]).map_err(cannot)? {
            0 => return Ok(None),
            _ => self.0.read_exact(&mut length[1..]).map_err(cannot)?,
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_COMMITTED {
            return Err(BadChain::Form(number, BodyFault::Shape("it is longer than any entry".into())));
        }
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).map_err(cannot)?;
        wire::decode(&bytes).map(Some).map_err(|e| BadChain::Form(number, e))
    }
}

/// What a whole record must be.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// Its union.
    pub union: UnionId,
    /// Entries that must be in it.
    pub known: [RecordHead; 3],
    /// Where it must end.
    pub end: RecordHead,
}

/// Reads a whole record; `each` sees every entry before it is checked.
pub fn learn(
    bytes: impl Read,
    expected: &Expected,
    mut chain: Chain,
    mut each: impl FnMut(u64, &Committed) -> Result<(), BadChain>,
) -> Result<Whole, BadChain> {
    let mut pages = Pages(bytes);
    let mut missing = expected.known.to_vec();
    while let Some(item) = pages.next(chain.next())? {
        let number = chain.next();
        if number > expected.end.number {
            return Err(BadChain::End(number));
        }
        let hash = item.entry.hash();
        if number == 0 && UnionId::new(hash) != expected.union {
            return Err(BadChain::OtherUnion);
        }
        missing.retain(|known| known.number != number || known.hash != hash);
        each(number, &item)?;
        chain = chain.with(item)?;
    }
    let (whole, after) = chain.finish()?;
    let head = whole.follower.record().view().head;
    if after > 0 {
        return Err(BadChain::Unsigned(head.number.saturating_add(after as u64)));
    }
    if let Some(known) = missing.first() {
        return Err(BadChain::Elsewhere(known.number));
    }
    if head != expected.end { Err(BadChain::End(head.number)) } else { Ok(whole) }
}
