//! This member's own evidence: a quote, and the logs that explain it, read after it. What is quoted is put together by whoever asks here,
//! inside `security`.

use std::sync::{Mutex, MutexGuard, PoisonError};

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
static TURN: Mutex<()> = Mutex::new(());

/// Waits for the turn to have long logs in memory.
pub fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
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
