//! How often something has changed, for whoever waits for that.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// See the module.
#[derive(Debug, Default)]
pub struct Turns {
    count: Mutex<u64>,
    more: Condvar,
}

impl Turns {
    /// Changes so far.
    pub fn now(&self) -> u64 {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more.
    pub fn bump(&self) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.more.notify_all();
    }

    /// Waits until there were others than `seen`, or `longest` has gone by. Gives how many there were then.
    pub fn wait(&self, seen: u64, longest: Duration) -> u64 {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.more.wait_timeout_while(count, longest, |count| *count == seen);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
