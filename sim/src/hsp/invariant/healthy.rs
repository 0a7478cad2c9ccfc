//! Who is well is never found untrusted, whatever the network does: unreachable is not untrusted. Of a TPM that was reset the session
//! ends, and that is no verdict on who it is.

use super::{Invariant, Seen};

/// Has nothing to remember.
pub struct Healthy;

impl Invariant for Healthy {
    fn name(&self) -> &'static str {
        "who is well is not found untrusted"
    }

    fn see(&mut self, seen: &Seen, _: u64) -> Result<(), String> {
        match seen {
            Seen::Disbelieved { by, of, why, .. } => Err(format!("m{by} does not believe m{of}: {why}")),
            _ => Ok(()),
        }
    }
}
