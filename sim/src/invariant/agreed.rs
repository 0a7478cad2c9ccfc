//! Where nobody lies, voters promise the same entry of a number: that is what Raft is for (docs/spec/csp.md, "Raft orders"). If they
//! did not, there might never be a majority for any.

use std::collections::BTreeMap;

use gtvp_model::digest::Digest;

use super::{Invariant, Seen};

/// What any voter has promised.
#[derive(Default)]
pub struct Agreed(BTreeMap<u64, (Digest, usize)>);

impl Invariant for Agreed {
    fn name(&self) -> &'static str {
        "voters promise the same entry"
    }

    fn see(&mut self, seen: &Seen, _: u64) -> Result<(), String> {
        let Seen::Promised { voter, at } = seen else { return Ok(()) };
        let (hash, other) = self.0.entry(at.number).or_insert((at.hash, *voter));
        if *hash == at.hash {
            return Ok(());
        }
        Err(format!("m{voter} and m{other} have promised different entries {}", at.number))
    }
}
