//! The gateway's process: takes the people's socket from the supervisor and relays until it ends. Decides nothing.

use std::process::ExitCode;

use gtvp_ipc::Place;
use gtvp_ipc::place::{SECOND_LISTEN_FD, take_listener};
use gtvp_model::ids::Domain;

fn main() -> ExitCode {
    match run() {
        Ok(never) => match never {},
        Err(e) => {
            eprintln!("gateway: {}", gtvp_model::fault::Fault::internal("it cannot go on", &*e));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<std::convert::Infallible, Box<dyn std::error::Error>> {
    // The people's socket first: nothing may have been opened under its number.
    let people = take_listener(SECOND_LISTEN_FD)?;
    let place = Place::open(Domain::Gateway)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Err(runtime.block_on(gtvp_gateway::serve(people, place.socket(Domain::Management))).into())
}
