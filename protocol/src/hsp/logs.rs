//! The logs that come with evidence: pieces put together, in order and within bounds. What they say is appraisal's.

use super::message::{Ask, LogKind, LogPiece, MAX_LOG_PIECE};
use super::refusal::Refusal;
use crate::planted::demand;

/// A log, from some offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogDelta {
    /// Which log.
    pub log: LogKind,
    /// Offset of the first byte: 0, or where the challenger's held part ends.
    pub from: u64,
    /// All bytes from there.
    pub bytes: Vec<u8>,
}

impl LogDelta {
    fn end(&self) -> u64 {
        self.from.saturating_add(self.bytes.len() as u64)
    }

    /// As it is sent.
    pub(super) fn pieces(&self) -> impl Iterator<Item = LogPiece> {
        let offsets = (self.from..).step_by(MAX_LOG_PIECE);
        self.bytes.chunks(MAX_LOG_PIECE).zip(offsets).filter_map(|(piece, from)| {
            Some(LogPiece { log: self.log, from, bytes: piece.to_vec().try_into().ok()? })
        })
    }
}

/// Pieces as they come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Collected(Vec<LogDelta>);

impl Collected {
    /// Takes a piece.
    pub fn add(&mut self, piece: LogPiece, ask: &Ask) -> Result<(), Refusal> {
        let LogPiece { log, from, bytes } = piece;
        let end = from.saturating_add(bytes.as_slice().len() as u64);
        if end > log.max() {
            return Err(Refusal::LogTooLong { log });
        }
        if let Some(delta) = self.0.iter_mut().find(|d| d.log == log) {
            let at = delta.end();
            demand(from == at, || Refusal::LogPieceMisplaced { log, from, at })?;
            delta.bytes.extend_from_slice(bytes.as_slice());
            return Ok(());
        }
        let at = held(ask, log);
        let begins = from == 0 || from == at;
        demand(begins, || Refusal::LogPieceMisplaced { log, from, at })?;
        self.0.push(LogDelta { log, from, bytes: bytes.into_vec() });
        Ok(())
    }

    /// All logs, if they end where the evidence says.
    pub fn finish(mut self, ends: &[u64], ask: &Ask) -> Result<Vec<LogDelta>, Refusal> {
        for (i, log) in LogKind::ALL.into_iter().enumerate() {
            let want = ends.get(i).copied().unwrap_or(0);
            let delta = match self.0.iter().find(|d| d.log == log) {
                Some(delta) => delta.end(),
                None if want == 0 => continue,
                None => {
                    let from = held(ask, log);
                    self.0.push(LogDelta { log, from, bytes: Vec::new() });
                    from
                }
            };
            demand(delta == want, || Refusal::LogEndsElsewhere { log, got: delta, want })?;
        }
        self.0.sort_by_key(|d| d.log);
        Ok(self.0)
    }
}

fn held(ask: &Ask, log: LogKind) -> u64 {
    ask.held.as_slice().iter().find(|h| h.log == log).map_or(0, |h| h.bytes)
}
