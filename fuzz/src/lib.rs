//! gtvp-fuzz: a target for every parser of bytes from outside, and a driver that feeds it what nobody meant: seeds cut, changed,
//! doubled, spliced with each other. What is wrong: a panic, an input that takes long, memory that grows with what was announced
//! and not with what came, and bytes that are taken in a second form where a format has one.
//!
//! Everything follows from a seed, on stable Rust and without coverage: `make test` has a short run of each target, `make fuzz` a long
//! one. Whatever was found has a test beside the code that it was found in.

mod appraisal;
mod driver;
mod model;
mod protocol;
mod seeds;

pub use driver::{Found, run};

/// A parser, and what it should be fed with.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// What is real.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Feeds it.
    ///
    /// # Errors
    /// It took what it must not take.
    pub feed: fn(&[u8]) -> Result<(), String>,
}

/// All of them.
pub fn targets() -> Vec<Target> {
    [appraisal::TARGETS, model::TARGETS, protocol::TARGETS]
        .into_iter()
        .flatten()
        .map(|(name, seeds, feed)| Target { name, seeds: *seeds, feed: *feed })
        .collect()
}

type Row = (&'static str, fn() -> Vec<Vec<u8>>, fn(&[u8]) -> Result<(), String>);

/// What was taken must be written in the same way again.
fn same(what: &str, came: &[u8], written: &[u8]) -> Result<(), String> {
    if came == written { Ok(()) } else { Err(format!("{what} was taken in a form that it does not have")) }
}
