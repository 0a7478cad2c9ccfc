//! Turning a booted kernel into the box that the host describes: clock and entropy, root, names, /run, network.

mod clock;
mod names;
mod network;
mod root;
mod run;

use std::fmt::Display;

use gtvp_model::guest::GuestConfig;

use crate::console::say;
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
    // Before anything draws random numbers or takes the time.
    if let Err(e) = clock::add_entropy(&config.entropy) {
        say!("entropy: {e}");
    }
    if let Err(e) = clock::set(config.time_ms) {
        say!("clock: {e}");
    }
    rustix::system::sethostname(config.hostname.as_bytes())
        .map_err(|e| SetupFailed::new("names", "the host name cannot be set", e))?;
    let root = root::enter()?;
    let own = names::write(config);
    run::make();
    network::up(config.network.as_ref())?;
    Ok(Setup { root, own })
}
