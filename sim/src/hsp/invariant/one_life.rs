//! After a reset of its TPM a member is believed by a handshake first: a round goes on in the life that was seen last
//! (docs/spec/evidence.md; threat 11).

use std::collections::BTreeMap;

use super::{Invariant, Seen};

/// The life of each member's TPM that each verifier has seen last.
#[derive(Default)]
pub struct OneLife(BTreeMap<((usize, u32), usize), u32>);

impl Invariant for OneLife {
    fn name(&self) -> &'static str {
        "a session is one life of a TPM"
    }

    fn see(&mut self, seen: &Seen, _: u64) -> Result<(), String> {
        let Seen::Believed { verifier, of, handshake, life } = seen else { return Ok(()) };
        match self.0.insert((*verifier, *of), *life) {
            Some(before) if before != *life && !handshake => {
                let by = verifier.0;
                Err(format!("m{by} believes m{of} in a round, whose TPM was reset since the last"))
            }
            _ => Ok(()),
        }
    }
}
