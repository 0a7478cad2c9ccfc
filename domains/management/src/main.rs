//! MD (GTVP §2.2): box lifecycle, inventory, events, the admin interface's other end.

mod boot;
mod current;
mod engine;
mod events;
mod operations;
mod peers;
mod person;
mod records;
mod runtime;
mod service;
mod status;
mod union;
mod verdicts;
mod views;
mod vouch;
mod watch;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use gtvp_ipc::Place;
use gtvp_model::ids::Domain;

/// Milliseconds since 1970-01-01 UTC.
fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

fn run() -> Result<std::convert::Infallible, Box<dyn std::error::Error>> {
    let place = Place::open(Domain::Management)?;
    let listener = place.listener()?;
    let acl = place.acl();
    let runtime = Arc::new(runtime::Runtime::open(place, Path::new(gtvp_ipc::place::STATE))?);
    watch::start(&runtime)?;
    Err(gtvp_ipc::serve(&listener, acl, Arc::new(service::Management { runtime })).into())
}

fn main() -> ExitCode {
    match run() {
        Err(e) => gtvp_ipc::place::ended(Domain::Management, e.as_ref()),
    }
}
