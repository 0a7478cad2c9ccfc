//! How long what takes in a union of a period: when the next challenge goes out, and how long the first one waits for the others. Pure.
//!
//! All who challenge one member have its answer at the same moment, since one quote answers them all. They ask again within the same
//! part of a period, and the first of them waits for the others: one quote a period, however many they are.

use super::Timing;

/// Periods that are taken, milliseconds: a TPM does not quote faster, and a day without evidence is none.
const BOUNDS: (u64, u64) = (200, 86_400_000);
/// Longest window, milliseconds: with long periods nobody has to wait long for an answer.
const WINDOW: u64 = 3_750;
/// How long a quote and its appraisal may take beside the waiting, milliseconds: a discrete TPM quotes in 100 to 500 ms.
pub const WORK: u64 = 2_000;

/// The union's period, and what follows from it; milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    /// From one answer to the next.
    pub period: u64,
    /// How long the first challenge waits for the others.
    pub window: u64,
}

impl Lengths {
    /// Of this period.
    pub fn of(period: u32) -> Self {
        let period = u64::from(period).clamp(BOUNDS.0, BOUNDS.1);
        Self { period, window: (period / 8).min(WINDOW) }
    }

    /// How long the engines wait: whoever is out of step waits for two windows.
    pub fn timing(&self) -> Timing {
        Timing { round: (2 * self.window).saturating_add(WORK), ..Timing::default() }
    }

    /// How long after an answer the next challenge goes out, by any number that chance gives.
    pub fn next(&self, chance: u64) -> u64 {
        // The window comes last; chance is a part of that, so that not all ask in one moment.
        self.period.saturating_sub(self.window).saturating_sub(chance % (self.window / 2 + 1))
    }
}
