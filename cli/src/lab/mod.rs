//! `gtvp lab`: members on this machine, each in a network namespace of its own, to try things out and to test. On a server systemd
//! starts the same gtvpd; here [`keep`] plays its part.
//!
//! ```text
//!   host ── bridge gtvplI 10.88.I.1/24 ──┬── gtvplIm1 ═ eth0 10.88.I.11   netns gtvp-LAB-m1: gtvpd of m1
//!     │                                  └── gtvplIm2 ═ eth0 10.88.I.12   netns gtvp-LAB-m2: gtvpd of m2
//!     └── masquerade to wherever the host reaches
//! ```
//!
//! `up` and `down` look at what is there and make, or take away, what is missing, or left: both may be run again after
//! anything.

pub mod down;
pub mod keep;
pub mod list;
pub mod net;
pub mod plan;
pub mod processes;
pub mod state;
pub mod up;

pub use plan::MAX_MEMBERS;

use gtvp_model::fault::{Fault, FaultKind};

use crate::args::LabCommand;

/// Does it; gives the exit status.
pub fn run(command: &LabCommand) -> Result<u8, Fault> {
    match command {
        LabCommand::Up(words) => up::up(words)?,
        LabCommand::Down(words) => down::down(words)?,
        LabCommand::Ls(output) => list::list(output.output)?,
        LabCommand::Keep { run, gtvpd, netns } => keep::keep(run, gtvpd, netns)?,
    }
    Ok(0)
}

/// A lab makes network namespaces and jails: only root can.
fn need_root(what: &str) -> Result<(), Fault> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Fault::new(FaultKind::Denied, format!("{what} needs root"))
        .because("a lab has network namespaces, a firewall table and jails of its own")
        .hint(format!("sudo {what}")))
}
