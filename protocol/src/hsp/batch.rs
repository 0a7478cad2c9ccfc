//! One quote for many challengers: leaves wait for each other, their tree's root is quoted, each gets its path.
//!
//! A member has one of these for its TPM. It decides when to quote; it neither quotes nor knows who asked.
//!
//! Challengers whose answers come at one moment ask again at one moment. Those whose channels were opened at other times fall into step:
//! one quote in a period is the *anchor*, and whoever comes before the next one is due waits for a second window, so that it comes later
//! each time until it comes with the others. So all are answered by one quote in a period, from the eighth period on.

use std::collections::VecDeque;

use gtvp_model::digest::Digest;

use super::binding::{Binding, MAX_LEAVES, tree};
use super::command::Millis;
use super::lengths::Lengths;
use super::message::{Path, Selection};

/// What is to be quoted for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed<K> {
    /// The PCRs.
    pub selection: Selection,
    /// qualifyingData.
    pub qualifying_data: Digest,
    /// Each challenger and its path.
    pub answers: Vec<(K, Path)>,
}

/// More challengers than one quote can answer are waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_LEAVES} challengers are waiting for a quote")]
pub struct Full;

struct Group<K> {
    selection: Selection,
    due: Millis,
    /// Somebody in it does not wait.
    urgent: bool,
    /// It has waited for a second window.
    late: bool,
    leaves: Vec<(K, Digest)>,
}

/// Leaves that wait for a quote. One quote is under way at a time: a TPM does one thing at a time.
pub struct Batcher<K> {
    lengths: Lengths,
    anchor: Option<Millis>,
    waiting: VecDeque<Group<K>>,
    quoting: bool,
    count: usize,
}

impl<K> Batcher<K> {
    /// Leaves that can wait do so for a window, or two.
    pub fn new(lengths: Lengths) -> Self {
        Self { lengths, anchor: None, waiting: VecDeque::new(), quoting: false, count: 0 }
    }

    /// Takes a leaf. An `urgent` one, of a handshake, takes those that wait with it at once.
    ///
    /// # Errors
    /// [`Full`].
    pub fn add(
        &mut self,
        key: K,
        binding: &Binding,
        selection: &Selection,
        urgent: bool,
        now: Millis,
    ) -> Result<(), Full> {
        if self.count == MAX_LEAVES {
            return Err(Full);
        }
        let due = if urgent { now } else { now.after(self.lengths.window) };
        let leaf = (key, binding.leaf());
        match self.waiting.iter_mut().find(|g| g.selection == *selection) {
            Some(group) => {
                group.urgent |= urgent;
                if !group.late || urgent {
                    group.due = group.due.min(due);
                }
                group.leaves.push(leaf);
            }
            None => {
                let (selection, leaves) = (selection.clone(), vec![leaf]);
                self.waiting.push_back(Group { selection, due, urgent, late: false, leaves });
            }
        }
        self.count += 1;
        Ok(())
    }

    /// What is to be quoted now. The caller quotes it and calls [`Self::done`], whatever came of it.
    pub fn poll(&mut self, now: Millis) -> Option<Sealed<K>> {
        if self.quoting {
            return None;
        }
        let Lengths { period, window } = self.lengths;
        // Those that the last anchor has answered come so early at most.
        let early = self.anchor.is_some_and(|at| now < at.after(period.saturating_sub(window / 2)));
        if early {
            for group in self.waiting.iter_mut().filter(|g| g.due <= now && !g.urgent && !g.late) {
                (group.due, group.late) = (group.due.after(window), true);
            }
        }
        // The one that has waited longest past its time, so that no selection starves another.
        let (at, _) =
            self.waiting.iter().enumerate().filter(|(_, g)| g.due <= now).min_by_key(|(_, g)| g.due)?;
        let group = self.waiting.remove(at)?;
        if !early && !group.urgent {
            self.anchor = Some(now);
        }
        let leaves: Vec<Digest> = group.leaves.iter().map(|(_, leaf)| *leaf).collect();
        let tree = tree(&leaves)?;
        self.count -= leaves.len();
        self.quoting = true;
        let answers = group.leaves.into_iter().map(|(key, _)| key).zip(tree.paths).collect();
        Some(Sealed { selection: group.selection, qualifying_data: tree.qualifying_data, answers })
    }

    /// The quote is there, or failed.
    pub fn done(&mut self) {
        self.quoting = false;
    }

    /// When [`Self::poll`] is worth asking. `None`: after `add` or `done`.
    pub fn deadline(&self) -> Option<Millis> {
        if self.quoting { None } else { self.waiting.iter().map(|g| g.due).min() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsp::binding::{Role, qualifying_data};
    use crate::hsp::message::Bank;

    fn binding(nonce: u8) -> Binding {
        Binding {
            union: [1; 32].into(),
            epoch: gtvp_model::union::Epoch(1),
            role: Role::Responder,
            attester: [2; 32].into(),
            challenger: [nonce; 32].into(),
            exporter: [nonce; 32],
            nonce: [nonce; 32],
            attester_tls: vec![1],
            challenger_tls: vec![2],
            transcript: Digest([nonce; 32]),
        }
    }

    fn pcrs(pcrs: u32) -> Selection {
        vec![Bank { algorithm: 0x000B, pcrs }].try_into().unwrap()
    }

    #[test]
    fn n_challengers_in_a_period_make_one_quote() {
        for n in [2u8, 64, 200] {
            let mut batcher = Batcher::new(Lengths { period: 16_000, window: 2000 });
            for i in 0..n {
                batcher.add(i, &binding(i), &pcrs(1), false, Millis(u64::from(i))).unwrap();
                assert_eq!(batcher.poll(Millis(u64::from(i))), None, "before the period's end");
            }
            assert_eq!(batcher.deadline(), Some(Millis(2000)));
            let sealed = batcher.poll(Millis(2000)).unwrap();
            assert_eq!(sealed.answers.len(), usize::from(n));
            for (i, path) in &sealed.answers {
                assert_eq!(qualifying_data(binding(*i).leaf(), path), Some(sealed.qualifying_data));
                assert_ne!(
                    qualifying_data(binding(i.wrapping_add(1)).leaf(), path),
                    Some(sealed.qualifying_data)
                );
            }
            assert_eq!(batcher.poll(Millis(9000)), None);
        }
    }

    #[test]
    fn a_handshake_does_not_wait_and_takes_the_others_with_it() {
        let mut batcher = Batcher::new(Lengths { period: 16_000, window: 2000 });
        batcher.add('a', &binding(1), &pcrs(1), false, Millis(0)).unwrap();
        batcher.add('b', &binding(2), &pcrs(1), true, Millis(5)).unwrap();
        assert_eq!(batcher.poll(Millis(5)).unwrap().answers.len(), 2);
        batcher.add('c', &binding(3), &pcrs(1), true, Millis(6)).unwrap();
        assert_eq!(batcher.poll(Millis(6)), None, "one quote at a time");
        batcher.done();
        assert_eq!(batcher.poll(Millis(6)).unwrap().answers.len(), 1);
    }

    #[test]
    fn challengers_that_began_at_other_times_fall_into_step() {
        let lengths = Lengths { period: 2_000, window: 250 };
        for offset in (0..2_000).step_by(50) {
            let mut batcher = Batcher::new(lengths);
            let (mut next, mut quotes) = ([Millis(0), Millis(offset)], Vec::new());
            for ms in 0..40_000 {
                let now = Millis(ms);
                for who in (0..2).filter(|who| next[*who] == now) {
                    batcher.add(who, &binding(u8::try_from(who).unwrap()), &pcrs(1), false, now).unwrap();
                }
                if let Some(sealed) = batcher.poll(now) {
                    batcher.done();
                    quotes.push(ms);
                    sealed.answers.iter().for_each(|(who, _)| next[*who] = now.after(lengths.next(ms)));
                }
            }
            let last = quotes.iter().filter(|ms| **ms >= 20_000).count();
            assert!((9..=11).contains(&last), "{last} quotes in 10 periods, {offset} ms apart");
        }
    }

    #[test]
    fn other_pcrs_are_another_quote_and_the_line_is_bounded() {
        let mut batcher = Batcher::new(Lengths { period: 0, window: 0 });
        batcher.add(0, &binding(1), &pcrs(1), true, Millis(0)).unwrap();
        batcher.add(1, &binding(1), &pcrs(2), true, Millis(0)).unwrap();
        assert_eq!(batcher.poll(Millis(0)).unwrap().selection, pcrs(1));
        batcher.done();
        assert_eq!(batcher.poll(Millis(0)).unwrap().selection, pcrs(2));
        for i in 0..MAX_LEAVES {
            batcher.add(i, &binding(1), &pcrs(1), false, Millis(0)).unwrap();
        }
        assert_eq!(batcher.add(9999, &binding(1), &pcrs(1), false, Millis(0)), Err(Full));
    }
}
