//! How much somebody may still say: so much at once, and so much in a while. Told the time.

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    left: u64,
    at: u64,
}

impl Bucket {
    /// A full one, at this time in milliseconds.
    pub fn full(most: u64, ms: u64) -> Self {
        Self { left: most, at: ms }
    }

    /// Takes `amount`, if it is there. `most` is what may be said at once, `more` what comes to it in `every` milliseconds.
    pub fn take(&mut self, amount: u64, (most, more, every): (u64, u64, u64), ms: u64) -> bool {
        let came = ms.saturating_sub(self.at).saturating_mul(more) / every.max(1);
        if came > 0 {
            *self = Self { left: self.left.saturating_add(came).min(most), at: ms };
        }
        let enough = self.left >= amount;
        if enough {
            self.left -= amount;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_much_at_once_and_so_much_in_a_while() {
        let limits = (10, 5, 1_000);
        let mut bucket = Bucket::full(10, 0);
        assert_eq!((0..100).filter(|_| bucket.take(1, limits, 0)).count(), 10);
        assert!(!bucket.take(1, limits, 199));
        assert!(bucket.take(1, limits, 200));
        assert_eq!((0..100).filter(|_| bucket.take(1, limits, 1_000_000)).count(), 10, "never more at once");
        assert!(!bucket.take(11, limits, u64::MAX));
    }
}
