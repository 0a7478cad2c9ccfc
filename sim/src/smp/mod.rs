//! Exactly one owner: SMP's transition tables (`gtvp_protocol::smp`) and the record's rules about boxes, explored exhaustively. No chance,
//! no seed: every order of everything that can happen, within a budget of faults.
//!
//! The tables are the ones that the engine looks things up in, and the record's rules the record's own; a test can hand in tables
//! with a guard or a write taken out. What is not here: signatures and forged messages (the engine's tests have those), how the record comes
//! to a decision (`sim`'s other stories), what the state is made of.
//!
//! *Messages* that were once sent may come at any time, any number of times, in any order, or never; so may proposals. *Members* act at any
//! time or stand still. Each reads the record as late as it likes. A crash can cut every row between any two of its commands.

mod explore;
mod runs;
mod step;
mod world;

pub use explore::{Explored, Taken, explore};
pub use runs::{CALM, DEEP, RUNS, Run};
pub use step::{Crash, Label, Tables};
pub use world::{Budget, Model, World};
