//! Each guard that is the only thing between an attack and a trusted verdict has a name here, so that tests and the
//! simulator (feature `planted`) can leave it out and see the attack succeed. Everywhere else all of them always stand.

use super::Failure;

macro_rules! guards {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A guard of appraisal.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Guard { $($(#[$doc])* $name,)* }
    };
}

guards! {
    /// The evidence's key is the member's.
    Key,
    /// The quote is signed.
    Signature,
    /// The quote answers the question.
    Binding,
    /// The TPM was not reset.
    Epoch,
    /// It is no earlier life of the TPM than was seen.
    Life,
    /// The TPM's clock did not go back.
    Clock,
    /// Every PCR that must be quoted is.
    Selection,
    /// The values are the quoted ones.
    Values,
    /// A log that is required is there.
    Demand,
    /// A log goes on from what is held.
    From,
    /// Boot and own log give the quoted values, and what was extended has a log.
    Replay,
    /// The IMA log gives the quoted values.
    ImaReplay,
    /// Boot events are healthy.
    BootEntries,
    /// IMA saw the quoted boot.
    Aggregate,
    /// Files are healthy.
    Files,
    /// Own entries are healthy.
    OwnEntries,
    /// What the quote does not prove stands for nothing.
    Proven,
    /// Every part was measured.
    Parts,
}

#[cfg(any(test, feature = "planted"))]
mod state {
    use std::cell::RefCell;

    use super::Guard;

    thread_local! {
        static LEFT_OUT: RefCell<Vec<Guard>> = const { RefCell::new(Vec::new()) };
    }

    /// Runs `f` on this thread with these guards left out too.
    pub fn without<R>(guards: &[Guard], f: impl FnOnce() -> R) -> R {
        struct Reset(usize);
        impl Drop for Reset {
            fn drop(&mut self) {
                LEFT_OUT.with_borrow_mut(|out| out.truncate(self.0));
            }
        }
        let before = LEFT_OUT.with_borrow_mut(|out| {
            let before = out.len();
            out.extend_from_slice(guards);
            before
        });
        let _reset = Reset(before);
        f()
    }

    pub(in crate::appraise) fn left_out(guard: Guard) -> bool {
        LEFT_OUT.with_borrow(|out| out.contains(&guard))
    }
}

#[cfg(any(test, feature = "planted"))]
pub(super) use state::left_out;
#[cfg(any(test, feature = "planted"))]
pub use state::without;

#[cfg(not(any(test, feature = "planted")))]
#[inline(always)]
pub(super) fn left_out(_: Guard) -> bool {
    false
}

/// Fails unless `good`.
#[inline]
pub(super) fn guard(name: Guard, good: bool, failure: impl FnOnce() -> Failure) -> Result<(), Failure> {
    if good || left_out(name) { Ok(()) } else { Err(failure()) }
}
