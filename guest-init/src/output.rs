//! The application's output between its pipes and the host: numbered, kept until the host has acknowledged it, sent
//! again to a host that comes back. Pure: no descriptor, no clock.

use std::collections::VecDeque;

use gtvp_model::component::escape;
use gtvp_model::guest::{OUTPUT_WINDOW, ToHost};

struct Chunk {
    seq: u64,
    fd: u8,
    data: Vec<u8>,
}

/// Output that the host has not acknowledged.
#[derive(Default)]
pub struct Output {
    chunks: VecDeque<Chunk>,
    last_seq: u64,
    bytes: usize,
    /// How many of `chunks` were sent on this connection.
    sent: usize,
}

impl Output {
    /// Bytes that may be added.
    pub fn room(&self) -> usize {
        OUTPUT_WINDOW.saturating_sub(self.bytes)
    }

    /// Adds what the application wrote.
    pub fn push(&mut self, fd: u8, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        self.last_seq += 1;
        self.bytes += data.len();
        self.chunks.push_back(Chunk { seq: self.last_seq, fd, data: data.to_vec() });
    }

    /// The next message that this connection has not had.
    pub fn next_message(&mut self) -> Option<ToHost> {
        let chunk = self.chunks.get(self.sent)?;
        self.sent += 1;
        Some(ToHost::Output { seq: chunk.seq, fd: chunk.fd, data: escape(&chunk.data) })
    }

    /// Whether this connection has had everything.
    pub fn all_sent(&self) -> bool {
        self.sent == self.chunks.len()
    }

    /// The host has kept everything up to `seq`. Numbers that it was not sent yet are not acknowledged by it.
    pub fn acknowledge(&mut self, seq: u64) {
        while self.sent > 0 && self.chunks.front().is_some_and(|c| c.seq <= seq) {
            if let Some(chunk) = self.chunks.pop_front() {
                self.bytes -= chunk.data.len();
                self.sent -= 1;
            }
        }
    }

    /// Another connection: what was not acknowledged is sent again.
    pub fn rewind(&mut self) {
        self.sent = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seqs(o: &mut Output) -> Vec<u64> {
        std::iter::from_fn(|| o.next_message())
            .map(|m| if let ToHost::Output { seq, .. } = m { seq } else { 0 })
            .collect()
    }

    #[test]
    fn unacknowledged_output_is_sent_again_and_only_that() {
        let mut o = Output::default();
        for text in ["a", "b", "c"] {
            o.push(1, text.as_bytes());
        }
        assert_eq!(seqs(&mut o), [1, 2, 3]);
        assert!(o.all_sent());
        o.acknowledge(2);
        o.push(2, b"d");
        assert_eq!(seqs(&mut o), [4]);
        o.rewind();
        assert_eq!(seqs(&mut o), [3, 4]);
    }

    #[test]
    fn the_window_closes_and_opens() {
        let mut o = Output::default();
        o.push(1, &vec![b'x'; OUTPUT_WINDOW]);
        assert_eq!(o.room(), 0);
        o.acknowledge(1);
        assert_eq!(o.room(), 0, "acknowledged before it was sent");
        assert_eq!(seqs(&mut o), [1]);
        o.acknowledge(1);
        assert_eq!(o.room(), OUTPUT_WINDOW);
    }
}
