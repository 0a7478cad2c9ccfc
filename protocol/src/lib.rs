//! gtvp-protocol: what a member may say to another, and what it may accept. Each protocol is a state machine that takes
//! an event and the time and returns what to do; `communication` carries it out, and so do the simulator and the tests.
//!
//! Nothing here has a clock, a random source, a socket, a file or a key: time, nonces and the outcomes of what the TPM
//! did come in with events. Structures of the TPM are opaque bounded byte strings; `gtvp-appraisal` reads them.
//!
//! docs/spec/ has one page a protocol, message by message.

pub mod csp;
mod fields;
pub mod frame;
pub mod gossip;
pub mod hsp;
pub mod neighbour;
mod planted;
pub mod results;
pub mod rota;
pub mod smp;
#[cfg(test)]
mod spec;
mod untrusted;
pub mod vouch;

pub use planted::Check;
#[cfg(any(test, feature = "planted"))]
pub use planted::{without, without_all};
pub use untrusted::Untrusted;
