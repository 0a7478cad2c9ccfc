//! Changes seeds, feeds them, watches.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::Target;

/// What one input may take, on a busy machine and without optimization: far above what any needs, far below what a quadratic one would.
const LONGEST: Duration = Duration::from_secs(3);
/// Inputs are no longer than this: longer ones show nothing new, and take time.
const MOST: usize = 1 << 20;

/// An input that shows something wrong.
#[derive(Debug)]
pub struct Found {
    /// The target.
    pub target: &'static str,
    /// What is wrong.
    pub what: String,
    /// The input.
    pub input: Vec<u8>,
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).unwrap_or(0)
    }
}

/// One to five changes.
fn mutate(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let pick = |random: &mut Random| seeds.get(random.below(seeds.len())).cloned().unwrap_or_default();
    let mut out = pick(random);
    for _ in 0..=random.below(5) {
        let at = random.below(out.len() + 1);
        match random.below(10) {
            0 => out.iter_mut().skip(at).take(1).for_each(|b| *b ^= 1 << (random.next() % 8)),
            1 => {
                let byte = [0, 1, 0x7f, 0x80, 0xfe, 0xff].get(random.below(6)).copied().unwrap_or(0);
                out.iter_mut().skip(at).take(1).for_each(|b| *b = byte);
            }
            2 => out.truncate(at),
            3 => drop(out.drain(..at)),
            4 => {
                // A piece of it, once more or often.
                let end = (at + random.below(64)).min(out.len());
                let piece = out.get(at..end).unwrap_or_default().repeat(1 + random.below(40));
                out.splice(at..at, piece);
            }
            5 => {
                // A length, of either order.
                let number =
                    [u32::MAX, 0x7fff_ffff, 0x0100_0000, 1, 0].get(random.below(5)).copied().unwrap_or(0);
                let bytes = if random.below(2) == 0 { number.to_be_bytes() } else { number.to_le_bytes() };
                out.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = from);
            }
            6 => {
                // The end of another.
                let other = pick(random);
                let from = random.below(other.len() + 1);
                out.truncate(at);
                out.extend_from_slice(other.get(from..).unwrap_or_default());
            }
            7 => {
                // CBOR's and JSON's own words.
                let word: &[u8] = [
                    &[0x9f][..],
                    &[0xff],
                    &[0xf6],
                    &[0x18, 1],
                    &[0x5f],
                    b"null",
                    b"1e999",
                    b"\"\\u0000\"",
                    b"[[",
                ]
                .get(random.below(9))
                .copied()
                .unwrap_or_default();
                out.splice(at..at, word.iter().copied());
            }
            8 => drop(out.drain(at..(at + random.below(8)).min(out.len()))),
            _ => out.extend((0..random.below(32)).map(|_| 0xff)),
        }
    }
    out.truncate(MOST);
    out
}

/// Feeds a target with so many inputs, or for so long.
///
/// # Errors
/// The first input that shows something wrong.
pub fn run(target: &Target, seed: u64, inputs: u64, until: Option<Instant>) -> Result<u64, Box<Found>> {
    let seeds = (target.seeds)();
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut fed = 0;
    for n in 0..inputs {
        let real = usize::try_from(n).ok().and_then(|n| seeds.get(n)).cloned();
        let is_real = real.is_some();
        let input = real.unwrap_or_else(|| mutate(&seeds, &mut random));
        let begin = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| (target.feed)(&input)));
        let took = begin.elapsed();
        let wrong = match outcome {
            Err(_) => Some("it panics".into()),
            Ok(Err(why)) => Some(why),
            Ok(Ok(())) if took > LONGEST => Some(format!("it takes {took:?}")),
            Ok(Ok(())) => None,
        };
        if let Some(what) = wrong {
            let what = if is_real { format!("of what is real: {what}") } else { what };
            return Err(Box::new(Found { target: target.name, what, input }));
        }
        fed += 1;
        if until.is_some_and(|end| Instant::now() >= end) {
            break;
        }
    }
    Ok(fed)
}
