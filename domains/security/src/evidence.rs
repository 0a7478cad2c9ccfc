//! This member's own evidence: a quote, and the logs that explain it, read after it. What is quoted is put together by whoever asks here,
//! inside `security`.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use gtvp_appraisal::alg::{HashAlg, LogDigest};
use gtvp_appraisal::evidence::{Evidence, LogPart, QUOTED, VERSION};
use gtvp_appraisal::tpm::{PcrIndex, PcrValues};
use gtvp_ipc::supervisor::KernelLog;
use gtvp_model::fault::{Fault, FaultKind};

use crate::kernel_logs::KernelLogs;
use crate::platform::fault;
use crate::tpm::actor::Tpm;
use crate::tpm::pcrs::{Bank, Quote, Selection};

/// Whoever has long logs in memory holds this: IMA's can have a quarter of what this process may use. What is made for other members is no
/// longer than is sent to them, and one at a time (`others`): it does not take the turn of a quote.
static TURN: Turns = Turns::new();

/// Waits for the turn to have long logs in memory. A quote that others wait for ([`turn_for_quote`]) comes first.
pub fn turn() -> Turn<'static> {
    TURN.take(false)
}

/// The same for a quote that this member must give to stay trusted.
pub fn turn_for_quote() -> Turn<'static> {
    TURN.take(true)
}

struct Turns {
    state: Mutex<Waiting>,
    free: Condvar,
}

struct Waiting {
    taken: bool,
    quotes: usize,
    others: usize,
}

/// Whoever has it has the turn.
pub struct Turn<'a>(&'a Turns);

impl Turns {
    const fn new() -> Self {
        Self { state: Mutex::new(Waiting { taken: false, quotes: 0, others: 0 }), free: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, quote: bool) -> Turn<'_> {
        let mut state = self.state();
        *state.lane(quote) += 1;
        let waits = |s: &mut Waiting| s.taken || (!quote && s.quotes > 0);
        let mut state = self.free.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner);
        *state.lane(quote) -= 1;
        state.taken = true;
        Turn(self)
    }
}

impl Waiting {
    fn lane(&mut self, quote: bool) -> &mut usize {
        if quote { &mut self.quotes } else { &mut self.others }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.state().taken = false;
        self.0.free.notify_all();
    }
}

/// The PCRs that evidence must be over, SHA-256.
pub fn selection() -> Result<Selection, Fault> {
    let quoted = Selection::new(Bank::Sha256, QUOTED.map(u32::from));
    quoted.ok_or_else(|| Fault::new(FaultKind::Internal, "there is no PCR to quote"))
}

/// A log of the kernel's, from an offset on.
pub fn kernel_log(logs: Option<&KernelLogs>, log: KernelLog, from: u64) -> Result<Option<Vec<u8>>, Fault> {
    let read = logs.map(|l| l.read(log, from)).transpose().map(Option::flatten);
    read.map_err(|e| Fault::new(FaultKind::Unavailable, "a log of the kernel cannot be read").caused_by(&e))
}

/// Evidence that is bound to this.
pub fn make(tpm: &Tpm, logs: Option<&KernelLogs>, ak: Vec<u8>, bound: Vec<u8>) -> Result<Evidence, Fault> {
    let found = tpm.evidence(selection()?, bound, 0).map_err(|e| fault(&e))?;
    // After the quote: the kernel adds to its log before it extends, so nothing that was quoted is missing.
    let kernel = |log| kernel_log(logs, log, 0).map(|bytes| bytes.map_or(LogPart::Absent, LogPart::whole));
    Ok(Evidence {
        version: VERSION,
        ak,
        pcrs: values(&found.quote)?,
        quote: found.quote.attest,
        signature: found.quote.signature,
        boot: kernel(KernelLog::Boot)?,
        ima: kernel(KernelLog::Ima)?,
        own: LogPart::whole(found.log),
    })
}

/// The values of a quote.
///
/// # Errors
/// A PCR that does not exist.
pub fn values(quote: &Quote) -> Result<PcrValues, Fault> {
    let mut values = PcrValues::new(HashAlg::Sha256);
    for (pcr, value) in quote.selection.pcrs().zip(&quote.values) {
        let pcr = u8::try_from(pcr).ok().and_then(PcrIndex::new);
        let value = LogDigest::new(HashAlg::Sha256, value);
        let set = pcr.zip(value.ok()).is_some_and(|(pcr, value)| values.set(pcr, value));
        if !set {
            return Err(Fault::new(FaultKind::Unavailable, "the TPM quoted a PCR that it does not have"));
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_comes_before_whatever_else_has_long_logs_in_memory() {
        let turns = Turns::new();
        let order = Mutex::new(Vec::new());
        let until = |quotes, others| {
            let waiting = || {
                let state = turns.state();
                (state.quotes, state.others)
            };
            while waiting() != (quotes, others) {
                std::thread::yield_now();
            }
        };
        std::thread::scope(|scope| {
            let turn = turns.take(false);
            let takes = |quote, name: &'static str| {
                let (turns, order) = (&turns, &order);
                scope.spawn(move || {
                    let _turn = turns.take(quote);
                    order.lock().unwrap().push(name);
                });
            };
            (0..3).for_each(|_| takes(false, "file"));
            until(0, 3);
            takes(true, "quote");
            until(1, 3);
            drop(turn);
        });
        assert_eq!(*order.lock().unwrap(), ["quote", "file", "file", "file"]);
    }
}
