//! What other members ask of this one's evidence, beside what it owes them to stay trusted: files for persons there, and of boxes. One is made
//! at a time, in a lane of the TPM below this member's own work, and none that is longer than is sent, so that no member keeps this one
//! from its quotes by asking. It makes no file.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gtvp_model::fault::{Fault, FaultKind};

/// This member's own evidence for others, no more often than so: persons ask for it, and each asker no more often than each five seconds
/// (`communication`, which may be taken over).
pub const EVERY: Duration = Duration::from_secs(1);
/// How long somebody waits for whoever is before them: they are given up after 20 s.
const WAIT: Duration = Duration::from_secs(10);

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// This member: a person there wants a file.
    Itself,
    /// One of its boxes: an application there waits. What each may ask is counted by `communication`.
    Box,
}

#[derive(Debug, Default)]
struct State {
    at_work: bool,
    /// A file about this member is wanted or made.
    itself: bool,
    /// When the next one may be.
    next: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Others {
    state: Mutex<State>,
    free: Condvar,
}

/// Somebody is at work for another member.
#[derive(Debug)]
pub struct Turn<'a>(&'a Others, About);

fn busy(why: &str, wait: Duration) -> Fault {
    let seconds = wait.as_millis().div_ceil(1000).max(1);
    Fault::new(FaultKind::Unavailable, format!("busy: {why}: try again in {seconds} s"))
}

impl Others {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to work for another member, once nobody else does.
    ///
    /// # Errors
    /// `Unavailable`: too much is asked; when to ask again.
    pub fn begin(&self, about: About) -> Result<Turn<'_>, Fault> {
        let mut state = self.state();
        if about == About::Itself {
            let now = Instant::now();
            let rest = state.next.map_or(Duration::ZERO, |next| next.saturating_duration_since(now));
            if state.itself {
                return Err(busy("this member makes its evidence for another one", EVERY));
            }
            if !rest.is_zero() {
                return Err(busy("this member has just made its evidence for another one", rest));
            }
            (state.itself, state.next) = (true, Some(now + EVERY));
        }
        let waited = self.free.wait_timeout_while(state, WAIT, |s| s.at_work);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() && state.at_work {
            state.itself &= about != About::Itself;
            return Err(busy("this member answers others about its boxes", EVERY));
        }
        state.at_work = true;
        Ok(Turn(self, about))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.at_work = false;
        state.itself &= self.1 != About::Itself;
        drop(state);
        self.0.free.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_made_at_a_time_and_the_next_is_told_when() {
        let others = Others::default();
        let turn = others.begin(About::Itself).unwrap();
        let refused = others.begin(About::Itself).unwrap_err();
        assert_eq!(refused.kind, FaultKind::Unavailable);
        let said = "busy: this member makes its evidence for another one: try again in 1 s";
        assert_eq!(refused.message, said);
        drop(turn);
        let refused = others.begin(About::Itself).unwrap_err();
        assert!(refused.message.contains("has just made its evidence"), "{refused}");
        assert!(refused.message.ends_with("try again in 1 s"), "{refused}");
        // An application's question is none of these, and waits its turn.
        let of_a_box = others.begin(About::Box).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| others.begin(About::Box).map(drop));
            drop(of_a_box);
            second.join().unwrap().unwrap();
        });
        others.state().next = Some(Instant::now());
        assert!(others.begin(About::Itself).is_ok(), "the control: it comes back with time");
    }
}
