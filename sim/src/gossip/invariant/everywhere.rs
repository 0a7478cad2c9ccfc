//! When faults are over, all members come to have the newest of each (docs/spec/gossip.md, "How it spreads").

use super::{Invariant, Seen};

/// Has nothing to remember.
pub struct Everywhere;

impl Invariant for Everywhere {
    fn name(&self) -> &'static str {
        "what is said comes to be everywhere"
    }

    fn see(&mut self, seen: &Seen<'_>, _: u64) -> Result<(), String> {
        let Seen::Settled { all } = seen else { return Ok(()) };
        for (author, newest, have) in *all {
            if let Some((by, has)) = have.iter().find(|(_, has)| *has != Some(*newest)) {
                return Err(format!("m{author} has said {newest}, and m{by} has {has:?}"));
            }
        }
        Ok(())
    }
}
