//! A join that fails leaves the joiner as it was, and who holds itself a member is one (docs/spec/hsp.md, "A transaction"). That a failed
//! join leaves the union as it was is what `proved` and `once` say of the record.

use std::collections::BTreeSet;

use super::{Invariant, Seen};

/// Who was admitted.
#[derive(Default)]
pub struct Transaction(BTreeSet<usize>);

impl Invariant for Transaction {
    fn name(&self) -> &'static str {
        "a join is whole or nothing"
    }

    fn see(&mut self, seen: &Seen, _: u64) -> Result<(), String> {
        match seen {
            Seen::Admitted { server: Some(s), .. } => {
                self.0.insert(*s);
            }
            Seen::Member { server } if !self.0.contains(server) => {
                return Err(format!("m{server} holds itself a member, and no record has it"));
            }
            Seen::NotJoined { server, kept: true } => {
                return Err(format!("m{server} was not let in, and has the record on its disk"));
            }
            _ => {}
        }
        Ok(())
    }
}
