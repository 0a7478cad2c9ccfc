//! Who has proved no token hears no word of the record (docs/spec/hsp.md, "A join"; threat 14).

use super::{Invariant, Seen};

/// Has nothing to remember.
pub struct Strangers;

impl Invariant for Strangers {
    fn name(&self) -> &'static str {
        "strangers hear nothing"
    }

    fn see(&mut self, seen: &Seen, _: u64) -> Result<(), String> {
        match seen {
            Seen::Told { server } => Err(format!("m{server} has no token, and was sent the record")),
            _ => Ok(()),
        }
    }
}
