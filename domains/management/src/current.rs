//! A member that was started a moment ago does not know yet what its union has decided meanwhile, and grants nothing new: whoever asks
//! then waits a moment and asks again.

use std::time::{Duration, Instant};

use gtvp_ipc::security::RULE_CURRENT;
use gtvp_model::fault::Fault;

/// How long is waited for the union's voters to sign this member's record: they do so every 5 s, and elect a leader in 2 s.
const WITHIN: Duration = Duration::from_secs(15);
/// Pause before it is asked again.
const AGAIN: Duration = Duration::from_millis(250);

/// Asks, again after each pause while only the record's age is in the way.
///
/// # Errors
/// Those of what is asked and of the pause.
pub fn once_current<T>(
    mut ask: impl FnMut() -> Result<T, Fault>,
    mut pause: impl FnMut(Duration) -> Result<(), Fault>,
) -> Result<T, Fault> {
    let deadline = Instant::now() + WITHIN;
    loop {
        match ask() {
            Err(fault) if ends_by_itself(&fault) && Instant::now() < deadline => pause(AGAIN)?,
            other => return other,
        }
    }
}

/// Whether a head that comes ends this. That `security` does not answer is something else.
fn ends_by_itself(fault: &Fault) -> bool {
    fault.causes.iter().any(|cause| cause.starts_with(RULE_CURRENT))
}

#[cfg(test)]
mod tests {
    use gtvp_model::fault::FaultKind;

    use super::*;

    #[test]
    fn only_a_record_that_is_not_current_is_waited_for() {
        let gone = || Fault::new(FaultKind::Unavailable, "security does not answer");
        let old = || gone().because(format!("{RULE_CURRENT}: whoever does not know"));
        let mut answers = vec![Ok(7), Err(old()), Err(old())];
        let mut pauses = 0;
        let mut pause = |_| {
            pauses += 1;
            Ok(())
        };
        assert_eq!(once_current(|| answers.pop().unwrap(), &mut pause).unwrap(), 7);
        once_current::<()>(|| Err(gone()), &mut pause).unwrap_err();
        assert_eq!(pauses, 2);
        let cancelled = || Err(Fault::new(FaultKind::Cancelled, "cancelled"));
        let ended = once_current::<()>(|| Err(old()), |_| cancelled()).unwrap_err();
        assert_eq!(ended.kind, FaultKind::Cancelled);
    }
}
