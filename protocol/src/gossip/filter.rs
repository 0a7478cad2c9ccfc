//! What a member has, in a few bytes: a Bloom filter (Bloom 1970) over its entries' marks, with a salt of its own each time, so that
//! what one filter hides by accident the next one shows.

/// Most bytes: with the entries that answer it a link has less than 2 KiB a round.
pub const MAX_BITS: usize = 1_024;
/// Bits for each entry, while there is room: one of a hundred that is missing looks as if it were there.
const EACH: usize = 10;
/// Most probes.
const MAX_PROBES: u8 = 7;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    salt: u64,
    probes: u8,
    bits: Vec<u8>,
}

/// Finalizer of SplitMix64 (Steele, Lea, Flood 2014).
fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Filter {
    /// Over these marks, of which there are `count`.
    pub fn over(marks: impl Iterator<Item = u64>, count: usize, salt: u64) -> Self {
        let bytes = (count.saturating_mul(EACH) / 8).clamp(8, MAX_BITS);
        let each = bytes * 8 / count.max(1);
        // ln 2 of the bits that each has.
        let probes = u8::try_from(each * 7 / 10).unwrap_or(MAX_PROBES).clamp(1, MAX_PROBES);
        let mut filter = Self { salt, probes, bits: vec![0; bytes] };
        for mark in marks {
            for (byte, bit) in filter.places(mark) {
                if let Some(byte) = filter.bits.get_mut(byte) {
                    *byte |= bit;
                }
            }
        }
        filter
    }

    /// As it came.
    pub fn of(salt: u64, probes: u8, bits: Vec<u8>) -> Self {
        Self { salt, probes: probes.clamp(1, MAX_PROBES), bits }
    }

    fn places(&self, mark: u64) -> impl Iterator<Item = (usize, u8)> + use<> {
        let bits = self.bits.len().saturating_mul(8).max(1) as u64;
        let first = mixed(mark ^ self.salt);
        let step = mixed(first) | 1;
        (0..u64::from(self.probes)).map(move |i| {
            let at = first.wrapping_add(i.wrapping_mul(step)) % bits;
            (usize::try_from(at / 8).unwrap_or(usize::MAX), 1u8 << (at % 8))
        })
    }

    /// Whether this may be in it. An empty one has nothing.
    pub fn has(&self, mark: u64) -> bool {
        self.places(mark).all(|(byte, bit)| self.bits.get(byte).is_some_and(|b| b & bit != 0))
    }

    /// As it is sent: salt, probes, bits.
    pub fn parts(self) -> (u64, u8, Vec<u8>) {
        (self.salt, self.probes, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_it_is_found_and_little_else() {
        for (count, most) in [(1usize, 50), (10, 40), (100, 40), (800, 40), (6_000, 750)] {
            let marks: Vec<u64> = (0..count as u64).map(|i| mixed(i + 1)).collect();
            let filter = Filter::over(marks.iter().copied(), count, 7);
            assert!(filter.bits.len() <= MAX_BITS && marks.iter().all(|m| filter.has(*m)));
            let wrong = (0..1_000u64).filter(|i| filter.has(mixed(1_000_000 + i))).count();
            assert!(wrong <= most, "{wrong} of 1,000 are said to be among {count}");
        }
        assert!(!Filter::of(1, 255, vec![]).has(5), "an empty one has nothing");
    }

    #[test]
    fn what_one_filter_hides_another_one_shows() {
        let marks: Vec<u64> = (0..5_000u64).map(mixed).collect();
        let hidden = |salt| Filter::over(marks.iter().copied(), marks.len(), salt).has(u64::MAX);
        assert!((0..64).any(|salt| !hidden(salt)));
    }
}
