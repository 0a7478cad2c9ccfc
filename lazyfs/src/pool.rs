//! Threads for what may wait: begun when there is work, at most so many, all but one gone when there is none.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::locked;

/// Stack of each of our threads.
pub const STACK: usize = 256 << 10;

type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    work: VecDeque<Work>,
    idle: usize,
    threads: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    more: Condvar,
}

/// A pool.
pub struct Pool {
    shared: Arc<Shared>,
    most: usize,
}

impl Pool {
    /// Of at most `most` threads.
    pub fn new(most: usize) -> Self {
        Self { shared: Arc::default(), most }
    }

    /// Has `work` done. Its callers bound how much there can be: a piece for each request that the queues hold.
    pub fn run(&self, work: impl FnOnce() + Send + 'static) {
        let mut state = locked(&self.shared.state);
        state.work.push_back(Box::new(work));
        if state.idle >= state.work.len() || state.threads >= self.most {
            self.shared.more.notify_one();
            return;
        }
        state.threads += 1;
        let none_else = state.threads == 1;
        drop(state);
        let shared = self.shared.clone();
        if std::thread::Builder::new().stack_size(STACK).spawn(move || shared.work()).is_err() {
            locked(&self.shared.state).threads -= 1;
            if none_else {
                // Better late than never: on the caller's thread.
                let work = locked(&self.shared.state).work.pop_front();
                if let Some(work) = work {
                    work();
                }
            }
        }
    }
}

impl Shared {
    fn work(&self) {
        let mut state = locked(&self.state);
        loop {
            if let Some(work) = state.work.pop_front() {
                drop(state);
                work();
                state = locked(&self.state);
            } else if state.idle > 0 {
                state.threads -= 1;
                return;
            } else {
                state.idle += 1;
                state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }
}
