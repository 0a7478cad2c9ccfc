//! What a box asks about other boxes: how often it may. Everything that its guest says is outside input, and a guest that floods is
//! answered here, where it costs nobody else anything.

use std::time::{Duration, Instant};

/// Questions that may come at once after a quiet time.
const BURST: u32 = 2;
/// One more each.
const EVERY: Duration = Duration::from_secs(1);
/// After so long a question counts as lost: longer than `management` waits for what others do.
const LOST: Duration = Duration::from_secs(45);

/// One box's questions.
#[derive(Debug, Default)]
pub struct Asking {
    budget: Option<(u32, Instant)>,
    /// The guest's number, ours, and since when.
    open: Option<(u32, u64, Instant)>,
}

impl Asking {
    /// The guest asks under `theirs`; it is to be known as `ours`.
    ///
    /// # Errors
    /// Why not now.
    pub fn ask(&mut self, theirs: u32, ours: u64, now: Instant) -> Result<(), &'static str> {
        if self.open.is_some_and(|(.., since)| now.saturating_duration_since(since) < LOST) {
            return Err("this box asks already: one question at a time");
        }
        let (mut left, mut at) = self.budget.unwrap_or((BURST, now));
        let more = now.saturating_duration_since(at).as_secs() / EVERY.as_secs();
        let more = u32::try_from(more).unwrap_or(BURST).min(BURST);
        left = left.saturating_add(more).min(BURST);
        at = if left == BURST { now } else { at + EVERY * more };
        let spent = left.checked_sub(1);
        self.budget = Some((spent.unwrap_or(0), at));
        if spent.is_none() {
            return Err("this box asks too often: once a second");
        }
        self.open = Some((theirs, ours, now));
        Ok(())
    }

    /// The guest's number of a question that is answered now; `None`: nobody waits for it.
    pub fn answered(&mut self, ours: u64) -> Option<u32> {
        let (theirs, ..) = self.open.take_if(|(_, number, _)| *number == ours)?;
        Some(theirs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_one_a_second() {
        let (mut asking, begun) = (Asking::default(), Instant::now());
        assert_eq!(asking.ask(7, 1, begun), Ok(()));
        assert!(asking.ask(8, 2, begun).unwrap_err().contains("at a time"));
        assert_eq!(asking.answered(2), None, "another box's");
        assert_eq!(asking.answered(1), Some(7));
        assert_eq!(asking.answered(1), None);
        assert_eq!(asking.ask(8, 3, begun), Ok(()));
        asking.answered(3);
        for ms in 0..1000 {
            let now = begun + Duration::from_millis(ms);
            assert!(asking.ask(9, 4, now).unwrap_err().contains("too often"));
        }
        assert_eq!(asking.ask(9, 4, begun + EVERY), Ok(()));
        // What is never answered does not block it for ever.
        assert!(asking.ask(10, 5, begun + EVERY + LOST - Duration::from_millis(1)).is_err());
        assert_eq!(asking.ask(10, 5, begun + EVERY + LOST), Ok(()));
        assert_eq!(asking.answered(4), None);
    }

    #[test]
    fn a_flood_is_counted_and_nothing_grows() {
        let (mut asking, begun) = (Asking::default(), Instant::now());
        let asked = |ms: u64| {
            let taken = asking.ask(1, ms, begun + Duration::from_millis(ms)).is_ok();
            asking.answered(ms);
            taken
        };
        assert_eq!((0..60_000).map(asked).filter(|taken| *taken).count(), 61);
    }
}
