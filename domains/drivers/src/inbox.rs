//! A bounded queue with a bell that `poll` can wait for, so that a thread waits for messages and sockets at once.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// Most messages that wait. A reader that is this far behind is as good as gone.
const MOST: usize = 4096;

/// The queue.
pub struct Inbox<T> {
    queue: Mutex<VecDeque<T>>,
    bell: OwnedFd,
}

impl<T> Inbox<T> {
    /// An empty one.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            queue: Mutex::default(),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Adds a message and rings; `false` when it is full, and the message lost.
    pub fn push(&self, message: T) -> bool {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let room = queue.len() < MOST;
        if room {
            queue.push_back(message);
        }
        drop(queue);
        self.ring();
        room
    }

    /// Rings without a message.
    pub fn ring(&self) {
        // It can only fail when it rings already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// Takes every message and stills the bell.
    pub fn take(&self) -> VecDeque<T> {
        let _ = rustix::io::read(&self.bell, &mut [0u8; 8]);
        std::mem::take(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> AsFd for Inbox<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
