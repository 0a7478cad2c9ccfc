//! Gossip (`gtvp_protocol::gossip`) among many members, on the same seeded chance as the record's runs. The engines are the product's,
//! with cheap signatures; no check is replaced.
//!
//! `safety` runs a union with faults and a member that lies, held to the invariants; `spread` measures how long one change takes to be
//! everywhere among a thousand members; `busy` what links carry when all of them have something to say.

mod evil;
mod figures;
mod invariant;
mod network;
mod safety;

pub use evil::Evil;
pub use figures::{Busy, Spread, Template, busy, rounds_allowed};
pub use safety::{Outcome, Setup, safety};
