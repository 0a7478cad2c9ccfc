//! How a process that the supervisor restarts keeps its descriptors across its death, and how it survives the
//! supervisor's.
//!
//! A process of a template with `restart = true` inherits a listening socket named `keeper`. The supervisor connects to
//! it and says first what it holds for this process: [`Held`], with descriptors. Each time the process' state changes
//! it sends a [`Held`] that replaces the one before. When the supervisor itself was restarted it connects with an
//! empty one, and the process answers with its own.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};

use crate::wire;

/// State that outlives a process: words for it to read, and descriptors in the order that the words say.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Held {
    /// The process' own words; empty when nothing is held.
    pub state: String,
    /// The descriptors, sent beside.
    #[serde(skip)]
    pub fds: Vec<OwnedFd>,
}

impl Held {
    /// Sends it.
    pub fn send(&self, stream: &UnixStream) -> io::Result<()> {
        let fds: Vec<_> = self.fds.iter().map(AsFd::as_fd).collect();
        wire::send(stream, &serde_json::to_vec(self)?, &fds)
    }

    /// Receives one; `None` when the other side has gone.
    pub fn recv(stream: &UnixStream) -> io::Result<Option<Self>> {
        Self::recv_at_most(stream, wire::MAX_MESSAGE)
    }

    /// Receives one of at most `most` bytes.
    pub fn recv_at_most(stream: &UnixStream, most: usize) -> io::Result<Option<Self>> {
        let Some((json, fds)) = wire::recv_at_most(stream, most)? else { return Ok(None) };
        let mut held: Self = serde_json::from_slice(&json)?;
        held.fds = fds;
        Ok(Some(held))
    }
}
