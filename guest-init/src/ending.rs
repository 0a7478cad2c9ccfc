//! When the box may power off: pure, so that every case can be tested.
//!
//! ```text
//! application runs ── Shutdown ──► asked ── grace over ──► killed
//!        │ ends                      │ ends
//!        ▼                           ▼
//!      ended ── AckExited ─► off   ended, asked ── AckExited, or 5 s ─► off
//!        │ Shutdown ─► off
//!        │ no host for 60 s ─► off
//! ```
//! A host that is there and does not acknowledge holds the box: it still wants something from it.

use std::time::{Duration, Instant};

/// How long a host that asked for the end may take to note it.
const ACK_WAIT: Duration = Duration::from_secs(5);
/// How long the guest waits for a host that is away, restarting, to tell it how the application ended.
const HOST_WAIT: Duration = Duration::from_secs(60);

/// What to do about the box's end now.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before this moment, if one is given.
    Wait(Option<Instant>),
    /// Kill the application: its grace is over.
    Kill,
    /// Power off, for this reason.
    Off(&'static str),
}

/// How near the box is to its end.
#[derive(Default)]
pub struct Ending {
    asked: bool,
    kill_at: Option<Instant>,
    ended: Option<Instant>,
    host_away: Option<Instant>,
    acknowledged: bool,
    off: Option<&'static str>,
}

impl Ending {
    /// The host asks for the end. `running` says whether there is an application to ask, `told` whether the host knows
    /// how it ended.
    pub fn shutdown(&mut self, grace: Duration, running: bool, told: bool, now: Instant) {
        if running {
            // Asked twice, the shorter grace holds.
            let at = now + grace;
            self.kill_at = Some(self.kill_at.map_or(at, |k| k.min(at)));
        } else if told || self.ended.is_none() {
            self.off = Some("power off as asked");
        }
        self.asked = true;
    }

    /// The application has ended or could not be started.
    pub fn ended(&mut self, now: Instant) {
        self.ended = Some(now);
        self.kill_at = None;
    }

    /// The host has noted the end.
    pub fn acknowledge(&mut self) {
        if self.ended.is_some() {
            self.acknowledged = true;
        }
    }

    /// The host has come or gone.
    pub fn host(&mut self, there: bool, now: Instant) {
        self.host_away = if there { None } else { self.host_away.or(Some(now)) };
    }

    /// What to do now.
    pub fn step(&mut self, now: Instant) -> Step {
        if let Some(why) = self.off {
            return Step::Off(why);
        }
        let Some(ended) = self.ended else {
            return match self.kill_at {
                Some(at) if now >= at => {
                    self.kill_at = None;
                    Step::Kill
                }
                at => Step::Wait(at),
            };
        };
        if self.acknowledged {
            return Step::Off("power off: the application has ended");
        }
        let away = self.host_away.map(|since| since.max(ended) + HOST_WAIT);
        let limit = if self.asked { Some(ended + ACK_WAIT) } else { away };
        match limit {
            Some(at) if now >= at => Step::Off("power off: nobody notes that the application has ended"),
            at => Step::Wait(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn grace_then_kill_once_then_five_seconds_for_the_host() {
        let t = Instant::now();
        let mut e = Ending::default();
        e.shutdown(s(10), true, false, t);
        assert_eq!(e.step(t), Step::Wait(Some(t + s(10))));
        assert_eq!(e.step(t + s(10)), Step::Kill);
        assert_eq!(e.step(t + s(10)), Step::Wait(None));
        e.ended(t + s(11));
        assert_eq!(e.step(t + s(12)), Step::Wait(Some(t + s(16))));
        assert!(matches!(e.step(t + s(16)), Step::Off(_)));
    }

    #[test]
    fn a_host_that_is_there_holds_the_box() {
        let t = Instant::now();
        let mut e = Ending::default();
        e.ended(t);
        assert_eq!(e.step(t + s(1000)), Step::Wait(None));
        e.shutdown(s(10), false, true, t);
        assert!(matches!(e.step(t), Step::Off(_)));
    }

    #[test]
    fn an_acknowledged_end_is_the_end_but_not_before_it() {
        let t = Instant::now();
        let mut e = Ending::default();
        e.acknowledge();
        e.ended(t);
        assert_eq!(e.step(t), Step::Wait(None));
        e.acknowledge();
        assert!(matches!(e.step(t), Step::Off(_)));
    }

    #[test]
    fn a_host_that_is_away_has_a_minute_from_the_end_on() {
        let t = Instant::now();
        let mut e = Ending::default();
        e.host(false, t);
        e.ended(t + s(500));
        assert_eq!(e.step(t + s(501)), Step::Wait(Some(t + s(560))));
        e.host(true, t + s(530));
        assert_eq!(e.step(t + s(561)), Step::Wait(None));
        e.host(false, t + s(600));
        assert!(matches!(e.step(t + s(660)), Step::Off(_)));
    }
}
