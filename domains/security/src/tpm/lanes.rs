//! Who waits for the TPM, in three lanes: this member's own work, quotes first of all; what other members have asked for themselves, one at
//! a time (`others`); and what strangers cost, who have proved nothing yet. The TPM does one command after another, so whoever is in a
//! lower lane can hold up a quote by the one command that has begun and by no more. It knows no TPM.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Own questions that wait: as many as threads of callers can be (`gtvp_ipc` bounds them); the next waits in its own thread.
const OWN: usize = 64;
/// Strangers that wait: at a fifth of a second each, which a slow TPM takes, the last is served before its connection is given up.
pub const STRANGERS: usize = 32;
/// After so long nobody is at the other end of a stranger's connection any more: the TPM is spared.
const GIVEN_UP: Duration = Duration::from_secs(10);

/// Whose question it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// This member's own, and what it owes others to stay trusted.
    Own,
    /// What another member asked for and can do without. One at a time asks, so nobody is counted here.
    Member,
    /// Of somebody who may be anybody.
    Stranger,
}

/// Why a question is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// Too many strangers wait.
    Full,
    /// Nobody answers any more.
    Closed,
}

#[derive(Debug)]
struct State<T> {
    own: VecDeque<T>,
    members: VecDeque<T>,
    strangers: VecDeque<(Instant, T)>,
    closed: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Lanes<T> {
    state: Mutex<State<T>>,
    /// Something waits, or it was closed.
    came: Condvar,
    /// There is room for one of our own.
    room: Condvar,
}

impl<T> Default for Lanes<T> {
    /// Nobody waits.
    fn default() -> Self {
        let state = State {
            own: VecDeque::new(),
            members: VecDeque::new(),
            strangers: VecDeque::new(),
            closed: false,
        };
        Self { state: Mutex::new(state), came: Condvar::new(), room: Condvar::new() }
    }
}

impl<T> Lanes<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits in this lane. One of our own waits here for room.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub fn put(&self, lane: Lane, item: T) -> Result<(), NotTaken> {
        let mut state = self.state();
        match lane {
            Lane::Own => {
                let full = |s: &mut State<T>| !s.closed && s.own.len() >= OWN;
                state = self.room.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
            }
            Lane::Stranger if state.strangers.len() >= STRANGERS => return Err(NotTaken::Full),
            Lane::Member | Lane::Stranger => {}
        }
        if state.closed {
            return Err(NotTaken::Closed);
        }
        match lane {
            Lane::Own => state.own.push_back(item),
            Lane::Member => state.members.push_back(item),
            Lane::Stranger => state.strangers.push_back((Instant::now(), item)),
        }
        self.came.notify_one();
        Ok(())
    }

    /// The next: of a lower lane only where nobody waits in one above. `None` when it is closed and nobody waits.
    pub fn take(&self) -> Option<T> {
        let nobody = |s: &mut State<T>| {
            !s.closed && s.own.is_empty() && s.members.is_empty() && s.strangers.is_empty()
        };
        loop {
            let mut state =
                self.came.wait_while(self.state(), nobody).unwrap_or_else(PoisonError::into_inner);
            if let Some(own) = state.own.pop_front() {
                self.room.notify_one();
                return Some(own);
            }
            if let Some(member) = state.members.pop_front() {
                return Some(member);
            }
            match state.strangers.pop_front() {
                Some((since, item)) if since.elapsed() < GIVEN_UP => return Some(item),
                Some(_) => {}
                None => return None,
            }
        }
    }

    /// Takes nothing more. What waits is still taken.
    pub fn close(&self) {
        self.state().closed = true;
        self.came.notify_all();
        self.room.notify_all();
    }

    /// The same, and whoever waits is let go: nobody takes anything any more.
    pub fn end(&self) {
        self.close();
        let all = {
            let mut state = self.state();
            let State { own, members, strangers, .. } = &mut *state;
            (std::mem::take(own), std::mem::take(members), std::mem::take(strangers))
        };
        // Not under the lock: who waits may ask again.
        drop(all);
    }

    /// How many wait: our own, other members', strangers.
    pub fn waiting(&self) -> (usize, usize, usize) {
        let state = self.state();
        (state.own.len(), state.members.len(), state.strangers.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_come_first_and_strangers_are_few() {
        let lanes = Lanes::default();
        for n in 0..STRANGERS {
            lanes.put(Lane::Stranger, n).unwrap();
        }
        assert_eq!(lanes.put(Lane::Stranger, 0), Err(NotTaken::Full));
        assert_eq!(lanes.take(), Some(0), "begun before anybody else came");
        lanes.put(Lane::Own, 100).unwrap();
        lanes.put(Lane::Own, 101).unwrap();
        assert_eq!([lanes.take(), lanes.take(), lanes.take()], [Some(100), Some(101), Some(1)]);
        assert_eq!(lanes.waiting(), (0, 0, STRANGERS - 2));
        lanes.close();
        assert_eq!(lanes.put(Lane::Own, 1), Err(NotTaken::Closed));
        assert_eq!(lanes.take(), Some(2), "what waits is served");
        lanes.end();
        assert_eq!((lanes.waiting(), lanes.take()), ((0, 0, 0), None));
    }

    #[test]
    fn what_other_members_ask_for_waits_for_our_own_and_for_no_stranger() {
        let lanes = Lanes::default();
        for (lane, item) in [(Lane::Stranger, 3), (Lane::Member, 2), (Lane::Own, 1)] {
            lanes.put(lane, item).unwrap();
        }
        assert_eq!([lanes.take(), lanes.take(), lanes.take()], [Some(1), Some(2), Some(3)]);
    }

    #[test]
    fn whoever_has_waited_too_long_is_not_served() {
        let lanes = Lanes::default();
        lanes.put(Lane::Stranger, 1).unwrap();
        lanes.put(Lane::Stranger, 2).unwrap();
        if let Some(first) = lanes.state().strangers.front_mut() {
            first.0 = Instant::now().checked_sub(GIVEN_UP).unwrap();
        }
        assert_eq!(lanes.take(), Some(2));
    }
}
