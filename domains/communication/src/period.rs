//! When fresh evidence is asked for, and when there has been none for too long.

use gtvp_protocol::hsp::{Lengths, Millis, WORK};

use crate::clock;

/// After how long it is tried again when nothing could be asked.
const AGAIN: u64 = 1_000;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Fresh evidence is to be asked for.
    Renew,
    /// There was none for too long.
    Over,
}

/// One channel's.
#[derive(Debug, Default)]
pub struct Period {
    renew: Option<Millis>,
    over: Option<Millis>,
}

impl Period {
    /// Evidence was believed just now.
    pub fn renewed(&mut self, lengths: &Lengths) {
        let Lengths { period, window } = *lengths;
        let now = clock::now();
        self.renew = Some(now.after(lengths.next(clock::chance())));
        self.over = Some(now.after(period.saturating_add(2 * window).saturating_add(2 * WORK)));
    }

    /// Nothing is to be asked for so many milliseconds: others' word stands. It ends if nothing comes of that.
    pub fn rests(&mut self, ms: u64, lengths: &Lengths) {
        let renew = clock::now().after(ms.min(lengths.period));
        self.renew = Some(renew);
        self.over = Some(renew.after((2 * lengths.window).saturating_add(2 * WORK)));
    }

    /// Nothing could be asked: again in a while.
    pub fn again(&mut self) {
        self.renew = Some(clock::now().after(AGAIN));
    }

    /// When [`Self::look`] is worth asking.
    pub fn due(&self) -> Option<Millis> {
        self.renew.into_iter().chain(self.over).min()
    }

    /// What is due now; once.
    pub fn look(&mut self, now: Millis) -> Option<Due> {
        if self.over.is_some_and(|at| at <= now) {
            (self.renew, self.over) = (None, None);
            return Some(Due::Over);
        }
        if self.renew.is_some_and(|at| at <= now) {
            self.renew = None;
            return Some(Due::Renew);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_others_words_stand_nothing_is_asked_and_it_does_not_last_by_itself() {
        let lengths = Lengths::of(2_000);
        let mut period = Period::default();
        period.renewed(&lengths);
        period.rests(500, &lengths);
        let now = clock::now();
        assert!(period.due().unwrap().0 - now.0 <= 500);
        assert_eq!(period.look(now.after(501)), Some(Due::Renew), "then it is looked at again");
        assert_eq!(period.look(now.after(501 + 500 + 2 * WORK)), Some(Due::Over), "and nothing came");
        period.rests(u64::MAX, &lengths);
        assert!(period.due().unwrap().0 - clock::now().0 <= 2_000, "never for longer than a period");
    }

    #[test]
    fn evidence_is_asked_for_within_a_period_and_its_absence_is_noticed() {
        for ms in [0, 200, 2_000, 30_000, u32::MAX] {
            let lengths = Lengths::of(ms);
            let mut period = Period::default();
            assert_eq!(period.look(Millis(u64::MAX)), None, "before the channel");
            period.renewed(&lengths);
            let now = clock::now();
            let renew = period.due().unwrap().0 - now.0;
            assert!(renew + lengths.window <= lengths.period, "{renew} of {lengths:?}");
            // Whoever waits for a quote waits for up to two windows too.
            assert!(lengths.timing().round > 2 * lengths.window);
            assert_eq!(period.look(now.after(renew)), Some(Due::Renew));
            assert_eq!(period.look(now.after(renew)), None, "once");
            assert_eq!(period.look(now.after(lengths.period * 2 + 3 * WORK)), Some(Due::Over));
            assert_eq!(period.due(), None);
        }
    }
}
