//! A join that fails leaves the joiner as it was, and who holds itself a member is one (docs/spec/hsp.md, "A transaction"). That a failed
//! join leaves the union as it was is what `proved` and `once` say of the record.

use std::collections::BTreeSet;

use super::{Invariant, Seen};

/// Who was admitted, and who has written down that it is a member: by another connection than one that it had given up, perhaps.
#[derive(Default)]
pub struct Transaction(BTreeSet<usize>, BTreeSet<usize>);

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
            Seen::Member { server } => {
                self.1.insert(*server);
            }
            Seen::NotJoined { server, kept: true } if !self.1.contains(server) => {
                return Err(format!("m{server} was not let in, and has the record on its disk"));
            }
            _ => {}
        }
        Ok(())
    }
}
