//! Messages between gtvpd's loop and the threads of its callers. A message rings a descriptor, so that each side can
//! wait for messages and for other things at once, without waking up for nothing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

/// Messages that may wait. A reader that is further behind is given up.
const MAX_WAITING: usize = 4096;

/// The sending side.
#[derive(Debug)]
pub struct Post<T> {
    sender: Option<SyncSender<T>>,
    bell: Arc<OwnedFd>,
}

/// The receiving side.
#[derive(Debug)]
pub struct Mailbox<T> {
    receiver: Receiver<T>,
    bell: Arc<OwnedFd>,
}

/// A new pair.
pub fn mailbox<T>() -> io::Result<(Post<T>, Mailbox<T>)> {
    let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (sender, receiver) = sync_channel(MAX_WAITING);
    Ok((Post { sender: Some(sender), bell: bell.clone() }, Mailbox { receiver, bell }))
}

impl<T> Post<T> {
    /// Sends; `false` when the reader is gone or hopelessly behind.
    pub fn send(&self, message: T) -> bool {
        let sent = self.sender.as_ref().is_some_and(|s| s.try_send(message).is_ok());
        self.ring();
        sent
    }

    fn ring(&self) {
        // Full means rung already.
        let _ = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
    }
}

impl<T> Clone for Post<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), bell: self.bell.clone() }
    }
}

impl<T> Drop for Post<T> {
    fn drop(&mut self) {
        self.sender = None;
        self.ring();
    }
}

impl<T> Mailbox<T> {
    /// What to poll for.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Takes a message that is there.
    pub fn try_next(&self) -> Result<T, TryRecvError> {
        self.receiver.try_recv()
    }

    /// Silences the bell. To be called before the messages are taken.
    pub fn silence(&self) {
        let mut count = [0; 8];
        // Not rung is fine.
        let _ = rustix::io::read(&*self.bell, &mut count);
    }

    /// Waits for a message; `None` when the senders are gone, or the peer of `stream` is.
    pub fn next_or_hangup(&self, stream: &UnixStream) -> Option<T> {
        loop {
            self.silence();
            match self.try_next() {
                Ok(message) => return Some(message),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => {}
            }
            let mut fds = [PollFd::new(&*self.bell, PollFlags::IN), PollFd::new(stream, PollFlags::RDHUP)];
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return None,
                Ok(_) if !fds[1].revents().is_empty() => return None,
                Ok(_) => {}
            }
        }
    }

    /// Waits for a message, whatever the caller does; `None` when the senders are gone.
    pub fn next(&self) -> Option<T> {
        self.receiver.recv().ok()
    }
}
