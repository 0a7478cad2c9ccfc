//! The back end's state in the stream in which QEMU saves a machine (QEMU docs/interop/vhost-user.rst, "Back-end state").
//!
//! So far that is a word which says that nothing is under way: a template is saved before the guest has mounted anything. A machine
//! with unanswered requests is not saved, rather than without them.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use crate::device::Refused;

/// The state of a back end without unanswered requests.
const IDLE: &[u8] = b"gtvp-lazyfs 1 idle\n";
/// The answer to SET_DEVICE_STATE_FD that takes QEMU's descriptor (bit 8: the back end has none of its own).
pub const TAKEN: u64 = 1 << 8;

/// Writes the state to where QEMU reads it.
pub fn save(to: OwnedFd, unanswered: usize) -> Result<(), Refused> {
    if unanswered > 0 {
        return Err(Refused(format!(
            "{unanswered} requests are unanswered, and a machine with such is not saved"
        )));
    }
    std::fs::File::from(to).write_all(IDLE).map_err(|e| Refused(format!("the state cannot be written: {e}")))
}

/// Reads the state that QEMU has written, to its end.
pub fn load(from: OwnedFd) -> Result<(), Refused> {
    let mut state = Vec::new();
    // One byte more than it may have: a longer one differs.
    let most = IDLE.len() as u64 + 1;
    std::fs::File::from(from)
        .take(most)
        .read_to_end(&mut state)
        .map_err(|e| Refused(format!("the state cannot be read: {e}")))?;
    if state == IDLE { Ok(()) } else { Err("a state that this version does not know".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (OwnedFd, OwnedFd) {
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
    }

    #[test]
    fn what_is_saved_can_be_loaded_and_nothing_else() {
        let (reading, writing) = pipe();
        save(writing, 0).unwrap();
        load(reading).unwrap();
        for bad in [&b""[..], b"gtvp-lazyfs 2 idle\n", b"gtvp-lazyfs 1 idle\n\n"] {
            let (reading, writing) = pipe();
            std::fs::File::from(writing).write_all(bad).unwrap();
            assert!(load(reading).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn unanswered_requests_are_not_left_behind() {
        let (reading, writing) = pipe();
        assert!(save(writing, 3).is_err());
        assert!(load(reading).is_err());
    }
}
