//! Lines for the log. A guest can cause some of them as often as it likes, so there are at most so many a minute; the file that
//! they go to is in the member's memory.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::locked;

/// Most lines a minute, all threads together.
const MOST: u32 = 60;
const MINUTE: Duration = Duration::from_secs(60);

/// Counts lines.
#[derive(Default)]
struct Limit {
    since: Option<Instant>,
    lines: u32,
}

static LIMIT: Mutex<Limit> = Mutex::new(Limit { since: None, lines: 0 });

impl Limit {
    /// How many more may come in this minute, with this one.
    fn left(&mut self, now: Instant) -> u32 {
        if self.since.is_none_or(|since| now.duration_since(since) > MINUTE) {
            *self = Self { since: Some(now), lines: 0 };
        }
        self.lines = self.lines.saturating_add(1);
        (MOST + 1).saturating_sub(self.lines)
    }
}

/// Writes a line, if there may be one.
pub fn line(words: fmt::Arguments<'_>) {
    match locked(&LIMIT).left(Instant::now()) {
        0 => {}
        1 => eprintln!("lazyfs: {words} (the last line for a minute)"),
        _ => eprintln!("lazyfs: {words}"),
    }
}

/// Writes a line, if there may be one: as `eprintln!`.
macro_rules! say {
    ($($words:tt)*) => { $crate::log::line(format_args!($($words)*)) };
}
pub(crate) use say;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_causes_lines_without_end_gets_a_minutes_worth() {
        let mut limit = Limit::default();
        let now = Instant::now();
        assert_eq!((0..100_000).filter(|_| limit.left(now) > 0).count(), MOST as usize);
        assert_eq!((0..100_000).filter(|_| limit.left(now + 2 * MINUTE) > 0).count(), MOST as usize);
    }
}
