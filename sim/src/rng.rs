//! All chance of a run comes from its seed.

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// With a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x6774_7670_2D73_696D)
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both of which may be had.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.bits() % (high - low + 1)
    }

    /// `true` in so many of 1,000 times.
    pub fn permille(&mut self, of: u64) -> bool {
        self.bits() % 1000 < of
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() {
            None
        } else {
            of.get(usize::try_from(self.bits() % of.len() as u64).ok()?).copied()
        }
    }

    /// A stream of its own.
    pub fn fork(&mut self) -> Self {
        Self(self.bits())
    }
}
