//! A member's disk: what was written is there after a crash only if it was synchronized; of what was not, some is.

use crate::rng::Rng;

/// A file that is replaced as a whole (written beside, then renamed): after a crash it is the old one or the new one.
#[derive(Debug, Clone, Default)]
pub struct Whole {
    durable: Option<Vec<u8>>,
    written: Option<Vec<u8>>,
}

impl Whole {
    /// Replaces it.
    pub fn write(&mut self, bytes: Vec<u8>) {
        self.written = Some(bytes);
    }

    /// What was written stays.
    pub fn sync(&mut self) {
        if let Some(bytes) = self.written.take() {
            self.durable = Some(bytes);
        }
    }

    /// As a reader finds it after a start.
    pub fn read(&self) -> Option<&[u8]> {
        self.durable.as_deref()
    }

    fn crash(&mut self, rng: &mut Rng) {
        if rng.permille(500) {
            self.sync();
        }
        self.written = None;
    }
}

/// A file that grows: after a crash its end may be torn.
#[derive(Debug, Clone, Default)]
pub struct Growing {
    durable: Vec<u8>,
    written: Vec<u8>,
}

impl Growing {
    /// Appends.
    pub fn append(&mut self, bytes: &[u8]) {
        self.written.extend_from_slice(bytes);
    }

    /// What was appended stays.
    pub fn sync(&mut self) {
        self.durable.append(&mut self.written);
    }

    /// As a reader finds it after a start.
    pub fn read(&self) -> &[u8] {
        &self.durable
    }

    /// Cuts a torn end off.
    pub fn truncate(&mut self, length: usize) {
        self.durable.truncate(length);
    }

    fn crash(&mut self, rng: &mut Rng) {
        let kept = rng.between(0, self.written.len() as u64);
        self.written.truncate(usize::try_from(kept).unwrap_or(0));
        self.sync();
    }
}

/// All of a member's files.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// The record: `csp::page`.
    pub record: Growing,
    /// The newest co-signed head.
    pub head: Whole,
    /// The last promise: number and hash.
    pub promise: Whole,
    /// What the node persists.
    pub raft: Whole,
}

impl Disk {
    /// Power goes.
    pub fn crash(&mut self, rng: &mut Rng) {
        self.record.crash(rng);
        self.head.crash(rng);
        self.promise.crash(rng);
        self.raft.crash(rng);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_synchronized_is_sure_to_be_there() {
        let (mut kept, mut lost, mut torn) = (0, 0, 0);
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let mut disk = Disk::default();
            disk.raft.write(vec![1]);
            disk.raft.sync();
            disk.raft.write(vec![2]);
            disk.record.append(&[1; 10]);
            disk.record.sync();
            disk.record.append(&[2; 10]);
            disk.crash(&mut rng);
            assert_eq!(&disk.record.read()[..10], &[1; 10]);
            torn += u32::from((11..20).contains(&disk.record.read().len()));
            match disk.raft.read() {
                Some([1]) => lost += 1,
                Some([2]) => kept += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(kept > 50 && lost > 50 && torn > 100, "{kept} {lost} {torn}");
    }
}
