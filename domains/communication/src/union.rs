//! The union as `security` told it last: everything here rests on the newest.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gtvp_ipc::security::OwnUnion;

/// Whether this server is a member of the union that `security` told of.
pub fn is_member(union: &OwnUnion) -> bool {
    union.state.view.members.get(&union.own.id()).is_some_and(|m| m.identity == union.own.identity)
}

/// See the module.
#[derive(Debug, Default)]
pub struct Newest {
    union: Mutex<Option<Arc<OwnUnion>>>,
    changed: Condvar,
}

impl Newest {
    /// The last that was told, whether this server is still in it or not.
    pub fn told(&self) -> Option<Arc<OwnUnion>> {
        self.union.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The union that this server is a member of.
    pub fn own(&self) -> Option<Arc<OwnUnion>> {
        self.told().filter(|u| is_member(u))
    }

    /// Takes what was told.
    pub fn set(&self, union: Option<Arc<OwnUnion>>) {
        *self.union.lock().unwrap_or_else(PoisonError::into_inner) = union;
        self.changed.notify_all();
    }

    /// Waits until what is told has `good`, and gives that. `None`: not in this time.
    pub fn wait<T>(&self, good: impl Fn(&OwnUnion) -> Option<T>, most: Duration) -> Option<T> {
        let end = Instant::now() + most;
        let mut union = self.union.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = union.as_deref().and_then(&good) {
                return Some(found);
            }
            let left = end.checked_duration_since(Instant::now())?;
            union = self.changed.wait_timeout(union, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
