//! Turning a booted kernel into the box that the host describes: entropy and clock, its own devices, root, names, /run, network.
//! Everything here is *late*: whatever of the machine is the box's own comes after the point at which templates are saved
//! (docs/design/templates.md). A box that is booted cold goes the same way.

mod clock;
mod names;
mod network;
mod root;
mod run;

use std::fmt::Display;

use gtvp_model::guest::GuestConfig;

use crate::console::say;
use crate::early;
use crate::export::Own;
pub use root::Root;

/// The step that failed, and why.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {reason}")]
pub struct SetupFailed {
    /// Which step.
    pub step: &'static str,
    /// Why, for people.
    pub reason: String,
}

impl SetupFailed {
    fn new(step: &'static str, what: &str, why: impl Display) -> Self {
        Self { step, reason: format!("{what}: {why}") }
    }
}

/// What the box is made of, once it is.
pub struct Setup {
    /// The root's layers.
    pub root: Root,
    /// Files written into the writable layer.
    pub own: Own,
}

/// Does it all. After this the process's root is the box's.
pub fn set_up(config: &GuestConfig) -> Result<Setup, SetupFailed> {
    // Before anything draws random numbers or takes the time. Another box may have begun with the same memory: without entropy of
    // its own it would draw the same numbers, so none is started then.
    clock::add_entropy(&config.entropy)
        .map_err(|e| SetupFailed::new("entropy", "the host's entropy cannot be mixed in", e))?;
    if let Err(e) = clock::set(config.time_ms) {
        say!("clock: {e}");
    }
    early::insert_modules(early::LATE_MODULES);
    rustix::system::sethostname(config.hostname.as_bytes())
        .map_err(|e| SetupFailed::new("names", "the host name cannot be set", e))?;
    let root = root::enter()?;
    let own = names::write(config);
    run::make();
    network::up(config.network.as_ref())?;
    Ok(Setup { root, own })
}
