//! PID 1 of a lazy box: loads the kernel's modules, makes the box's root of its components and a writable layer, runs
//! the application and does what the member's `drivers` domain asks over one virtio-serial port
//! ([`gtvp_model::guest`] is that protocol).
//!
//! It decides nothing about the box, starts no services of its own, and knows no package format.

mod accounts;
mod agent;
mod archive;
mod command;
mod console;
mod early;
mod ending;
mod export;
mod link;
mod output;
mod peer_command;
mod peers;
mod power;
mod ready;
mod session;
mod setup;
mod signals;
mod spawn;

use std::time::Duration;

use console::say;

/// How long the port may take to appear: its name comes from the host after the driver's start, and an emulated
/// processor is slow.
const PORT_WAIT: Duration = Duration::from_secs(60);

fn main() {
    if peer_command::is_called() {
        std::process::exit(peer_command::run());
    }
    if rustix::process::getpid().as_raw_nonzero().get() != 1 {
        say!("this is PID 1 of a lazy box, not a command");
        std::process::exit(2);
    }
    power::off_at_panic();
    early::mount();
    if early::probe_asked() {
        // A whole line of its own: firmware may have left one unfinished.
        console::line("\nGTVP-PROBE-OK");
        power::off();
    }
    early::limits();
    early::insert_modules(early::EARLY_MODULES);
    peer_command::place();
    let mut agent = match agent::Agent::start(PORT_WAIT) {
        Ok(agent) => agent,
        Err(why) => {
            say!("{why}");
            power::off();
        }
    };
    let why = agent.run();
    say!("{why}");
    power::end_everything(agent.disk());
    power::off();
}
