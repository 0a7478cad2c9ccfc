//! What was asked of others and is not answered yet. Nonces are made here and not by whoever carries them: each counts for one appraisal, of
//! what was asked with it, and not for long. So evidence that is believed was made after it was asked for, whatever `communication` says.
//! Pure: it is told the time and the chance.

use std::collections::VecDeque;
use std::sync::Arc;

use gtvp_model::digest::Digest;
use gtvp_protocol::hsp::message::Ask;

use super::table::Logs;

/// For how long a nonce counts: a joiner's evidence comes within the minute that an enrolment may take.
pub const LASTS_MS: u64 = 90_000;
/// For how long evidence may go on from what other reference values judged, which counted when it was asked for: a handshake's time.
pub const GOES_ON_MS: u64 = 10_000;
/// Nonces at once: each member of the largest union has some, and joiners; with more, the oldest counts no more.
const MOST: usize = 4_096;

/// Something that was asked.
#[derive(Clone)]
pub struct Asked {
    nonce: [u8; 32],
    since: u64,
    /// What.
    pub ask: Ask,
    /// What was known then.
    pub known: Known,
}

/// What was known when something was asked. An answer is compared with this and not with what is known when it comes: two connections'
/// answers may overtake each other.
#[derive(Clone, Default)]
pub struct Known {
    /// By which reference values the logs in it were judged, if evidence may go on from some.
    pub references: Option<Digest>,
    /// The logs that the answer may go on from.
    pub logs: Option<Arc<Logs>>,
    /// How far `Clocks` were, by its own count.
    pub clocks: u64,
}

impl Asked {
    /// Whether evidence may go on from logs that these reference values have judged.
    pub fn goes_on_from(&self, references: Digest, ms: u64) -> bool {
        self.known.references == Some(references) && ms.saturating_sub(self.since) < GOES_ON_MS
    }
}

/// See the module.
#[derive(Default)]
pub struct Asks(VecDeque<Asked>);

impl Asks {
    /// This goes out with this nonce.
    pub fn give(&mut self, nonce: [u8; 32], ask: Ask, known: Known, ms: u64) {
        if self.0.len() >= MOST {
            self.0.pop_front();
        }
        self.0.push_back(Asked { nonce, since: ms, ask, known });
    }

    /// What went out with this nonce; once.
    pub fn take(&mut self, nonce: &[u8; 32], ms: u64) -> Option<Asked> {
        self.0.retain(|a| ms.saturating_sub(a.since) < LASTS_MS);
        let at = self.0.iter().position(|a| a.nonce == *nonce)?;
        self.0.remove(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_counts_once_and_not_for_long() {
        let mut asks = Asks::default();
        let references = Digest([7; 32]);
        for n in 1..=3 {
            let known = Known { references: Some(references), ..Known::default() };
            asks.give([n; 32], Ask::default(), known, u64::from(n));
        }
        assert!(asks.take(&[9; 32], 3).is_none(), "nobody asked");
        let asked = asks.take(&[2; 32], 3).unwrap();
        assert!(asks.take(&[2; 32], 3).is_none(), "twice");
        assert!(asked.goes_on_from(references, 2 + GOES_ON_MS - 1));
        assert!(!asked.goes_on_from(references, 2 + GOES_ON_MS) && !asked.goes_on_from(Digest([8; 32]), 2));
        assert!(asks.take(&[3; 32], 3 + LASTS_MS - 1).is_some());
        assert!(asks.take(&[1; 32], 1 + LASTS_MS).is_none(), "too long ago");
    }

    #[test]
    fn many_are_forgotten_from_the_first_on() {
        let mut asks = Asks::default();
        let nonce = |n: usize| Digest::of(&n.to_be_bytes()).0;
        (0..=MOST).for_each(|n| asks.give(nonce(n), Ask::default(), Known::default(), 0));
        assert_eq!(asks.0.len(), MOST);
        assert!(asks.take(&nonce(0), 0).is_none() && asks.take(&nonce(MOST), 0).is_some());
    }
}
