//! gtvp-appraisal: evidence in, verdict out. What `security` appraises members with, what `gtvp verify` runs offline and
//! what the simulator runs a thousand times a second is this one crate.
//!
//! It is pure: bytes, roots, reference values and the time are arguments. It opens no file, no socket, no TPM and no
//! clock, and it holds no private key (whoever signs is handed the bytes to sign).
//!
//! Everything that comes in is hostile. Each parser is bounded by named constants, refuses by a named reason, and
//! gives positions (entry number and byte offset) that a person can look up.

pub mod alg;
pub mod appraise;
pub mod bootlog;
pub mod boxes;
pub mod cose;
pub mod ek;
pub mod evidence;
pub mod explain;
pub mod file;
pub mod ima;
pub mod ownlog;
pub mod reference;
pub mod result;
pub mod tpm;

mod bytes;
mod reader;

// The tests' played machine speaks of this crate by its name, from inside as from outside.
#[cfg(test)]
extern crate self as gtvp_appraisal;
