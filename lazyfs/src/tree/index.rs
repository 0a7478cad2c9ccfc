//! Nodes by number.

use super::{NONE, Node};

/// Nodes by number, by open addressing: the numbers are hashes already.
#[derive(Default)]
pub struct Index {
    slots: Vec<u32>,
    len: usize,
}

impl Index {
    /// The node numbered `n`.
    pub fn get(&self, nodes: &[Node], n: u64) -> Option<u32> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = usize::try_from(n).unwrap_or(0) & mask;
        loop {
            match self.slots[at] {
                NONE => return None,
                id if nodes[id as usize].hash == n => return Some(id),
                _ => at = (at + 1) & mask,
            }
        }
    }

    /// Adds node `id`, whose number is not in it.
    pub fn insert(&mut self, nodes: &[Node], id: u32) {
        if self.slots.len() * 3 <= (self.len + 1) * 4 {
            let old = std::mem::take(&mut self.slots);
            self.slots = vec![NONE; (old.len() * 2).max(64)];
            old.into_iter().filter(|id| *id != NONE).for_each(|id| self.place(nodes, id));
        }
        self.place(nodes, id);
        self.len += 1;
    }

    fn place(&mut self, nodes: &[Node], id: u32) {
        let mask = self.slots.len() - 1;
        let mut at = usize::try_from(nodes[id as usize].hash).unwrap_or(0) & mask;
        while self.slots[at] != NONE {
            at = (at + 1) & mask;
        }
        self.slots[at] = id;
    }
}
