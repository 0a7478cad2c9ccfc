//! Voters' words for heads, as they come together: for the entry that is to be next, and for the head as it is with a newer time.
//! Nothing is checked here that `security` checks when the head is taken.

use std::collections::BTreeMap;

use gtvp_model::union::{MemberId, RecordHead, UnionId, UnixTime};

use crate::csp::{CoSigned, Head, Vote};

/// One voter's newest word for each of the two.
#[derive(Debug, Default)]
pub struct Votes {
    next: BTreeMap<MemberId, (RecordHead, Vote)>,
    now: BTreeMap<MemberId, Vote>,
    /// Heads made of these words that were not taken: a word in them may be false.
    refused: usize,
}

impl Votes {
    /// The record has come to `head`.
    pub fn advance(&mut self, head: RecordHead) {
        self.next.retain(|_, (at, _)| at.number > head.number);
        self.now.clear();
        self.refused = 0;
    }

    /// A word for the entry that is to be next, or for the head as it is.
    pub fn add(&mut self, at: RecordHead, vote: Vote, head: RecordHead) {
        let new = if at == head {
            self.now.insert(vote.voter, vote.clone()).as_ref() != Some(&vote)
        } else {
            let word = (at, vote.clone());
            self.next.insert(vote.voter, word.clone()).as_ref() != Some(&word)
        };
        if new {
            self.refused = 0;
        }
    }

    /// Whether this voter has said something for the entry that is to be next.
    pub fn has_next(&self, voter: &MemberId) -> Option<&(RecordHead, Vote)> {
        self.next.get(voter)
    }

    /// What was made of them was not taken.
    pub fn refused(&mut self) {
        self.refused = self.refused.saturating_add(1);
    }

    /// Time has gone on: what was refused is tried again.
    pub fn again(&mut self) {
        self.refused = 0;
    }

    /// The entry for whose head `need` voters have given their word.
    pub fn next(&self, union: UnionId, need: usize) -> Option<CoSigned> {
        self.next.values().find_map(|(at, _)| {
            let votes = self.next.values().filter(|(other, _)| other == at).map(|(_, v)| v);
            self.co_signed(union, *at, votes.collect(), need)
        })
    }

    /// The head as it is, with a time newer than `than`.
    pub fn fresh(&self, union: UnionId, at: RecordHead, need: usize, than: UnixTime) -> Option<CoSigned> {
        self.co_signed(union, at, self.now.values().collect(), need).filter(|c| c.head.time > than)
    }

    /// The time is one that `need` voters have signed or passed. Where that was refused, one more may be needed.
    fn co_signed(&self, union: UnionId, at: RecordHead, votes: Vec<&Vote>, need: usize) -> Option<CoSigned> {
        let mut times: Vec<UnixTime> = votes.iter().map(|v| v.time).collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        let time = *times.get(need.checked_sub(1)?.saturating_add(self.refused))?;
        let votes: Vec<Vote> = votes.into_iter().filter(|v| v.time >= time).cloned().collect();
        Some(CoSigned { head: Head { union, at, time }, votes: votes.try_into().ok()? })
    }
}
