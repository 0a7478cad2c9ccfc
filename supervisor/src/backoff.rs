//! When to start again what has died: at once, unless it keeps dying at once. Pure.

use std::time::{Duration, Instant};

/// A life shorter than this counts as a failed start.
const SHORT_LIFE: Duration = Duration::from_secs(2);
/// Short lives in a row that are still followed by an immediate start.
const FREE: u32 = 3;
/// First delay.
const FIRST: Duration = Duration::from_millis(100);
/// Longest delay: a domain is back within a second.
const LONGEST: Duration = Duration::from_millis(800);

/// The lives of one process.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    short_lives: u32,
}

impl Backoff {
    /// It has died at `now`, having started at `started`: how long to wait before the next start.
    pub fn died(&mut self, started: Instant, now: Instant) -> Duration {
        if now.saturating_duration_since(started) >= SHORT_LIFE {
            self.short_lives = 0;
            return Duration::ZERO;
        }
        self.short_lives = self.short_lives.saturating_add(1);
        match self.short_lives.checked_sub(FREE + 1) {
            None => Duration::ZERO,
            Some(n) => (FIRST * 2u32.saturating_pow(n.min(8))).min(LONGEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_deaths_cost_nothing_and_no_delay_passes_a_second() {
        let mut b = Backoff::default();
        let t = Instant::now();
        let delays: Vec<u128> = (0..20).map(|_| b.died(t, t).as_millis()).collect();
        assert_eq!(delays[..7], [0, 0, 0, 100, 200, 400, 800]);
        assert!(delays.iter().all(|d| *d < 1000));
        assert_eq!(b.died(t, t + Duration::from_secs(60)), Duration::ZERO);
        assert_eq!(b.died(t, t), Duration::ZERO);
    }
}
