//! SSD (GTVP §2.2): keys, signatures, appraisal, policy verdicts; the only holder of the TPM. The process is `main.rs`.

pub mod attest;
pub mod engine;
pub mod evidence;
pub mod kernel_logs;
pub mod key;
pub mod others;
pub mod peers;
pub mod platform;
pub mod reference;
pub mod tpm;
pub mod turns;
pub mod union;
pub mod vendors;
pub mod vtpm;
