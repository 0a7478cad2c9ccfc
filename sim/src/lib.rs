//! gtvp-sim: the record among members (`gtvp_protocol::csp`) on a seeded network, clock and disk; gossip (`gossip`); and, exhaustively and
//! without a seed, how a box changes hands (`smp`).
//!
//! The nodes and keepers are the product's, with cheap signatures in place of the TPM's; no check is replaced. One seed is one run,
//! event for event. Nothing here has a real clock, thread, socket or file. In the story `union` channels come up by HSP's engines, and
//! servers join by them (`hsp`); in the others between members that have each other in their records, with the grant that HSP would give.
//!
//! `gtvp-sim run SEED honest|liar|traitor|rollback|union [-v]` replays a run; `gtvp-sim soak --minutes N` looks for one that fails.

mod chaos;
mod config;
mod disk;
pub mod gossip;
mod hsp;
mod invariant;
mod keys;
mod lies;
mod member;
mod rng;
pub mod smp;
mod work;
mod world;

pub use config::{Bug, Config, Faults, Omitted, Story};
pub use hsp::Mischief;
pub use invariant::Violation;
pub use world::{Outcome, Quiet, quiet, run};
