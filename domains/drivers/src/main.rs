//! DDD (GTVP §2.2): QEMU, disks, taps, consoles, the boxes' switch.
//!
//! The supervisor has confined this process before it began; the boxes' machines are processes of their own that
//! outlive it.

mod accelerator;
mod agent;
mod applog;
mod build;
mod console;
mod disk;
mod engine;
mod exec;
mod follow;
mod handed;
mod hub;
mod image;
mod inbox;
mod link;
mod monitor;
mod peer;
mod qmp;
mod record;
mod runtime;
mod service;
mod sessions;
mod start;
mod talk;
mod tap;
mod templates;
#[cfg(test)]
mod tests;
mod words;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use gtvp_ipc::{Place, place};
use gtvp_model::ids::Domain;

fn main() -> ExitCode {
    match run() {
        Ok(never) => match never {},
        Err(e) => {
            let mut text = e.to_string();
            let mut next = e.source();
            while let Some(cause) = next {
                text.push_str(": ");
                text.push_str(&cause.to_string());
                next = cause.source();
            }
            eprintln!("drivers: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<std::convert::Infallible, Box<dyn Error>> {
    let place = Place::open(Domain::Drivers)?;
    let listener = place.listener()?;
    let folders = record::Folders { state: place::STATE.into(), run: place::RUN.into() };
    let link = link::Link::new(&place.socket(Domain::Supervisor));
    // Callers wait in the listening socket until the boxes have been found again.
    let drivers = service::Drivers::open(place.config.clone(), folders, link)?;
    Err(gtvp_ipc::serve(&listener, place.acl(), Arc::new(drivers)).into())
}
