//! OSCD (GTVP §2.2): component store, compositions, what a box's root is made of.

mod apt;
mod archive;
mod boot;
mod catalogue;
mod closure;
mod compose;
mod configure;
mod control;
mod deb;
mod import;
mod layers;
mod ldcache;
mod roots;
mod security;
mod service;
mod sources;
mod stage;
mod store;
#[cfg(test)]
mod tests;
mod tmpfiles;
mod verity;
mod version;

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use gtvp_ipc::Place;
use gtvp_ipc::place::STATE;
use gtvp_model::ids::Domain;

use crate::compose::Composer;
use crate::import::Importer;
use crate::service::Components;
use crate::sources::{BySupervisor, Sources};

/// Where gtvpd puts the program that becomes PID 1 of a box.
const GUEST_INIT: &str = "/gtvp/guest-init";

fn run() -> Result<std::convert::Infallible, Box<dyn std::error::Error>> {
    let place = Place::open(Domain::Components)?;
    let listener = place.listener()?;
    let state = Path::new(STATE);
    let store = Arc::new(store::Store::open(&state.join("store"))?);
    let security = security::Domain { socket: place.socket(Domain::Security) };
    let importer = Arc::new(Importer::new(store, Box::new(security)));
    let supervisor = place.socket(Domain::Supervisor);
    let remembered = Composer::remembered(state);
    let launcher = BySupervisor { socket: supervisor.clone() };
    let sources = Arc::new(Sources::new(Box::new(launcher), remembered.contents.clone()));
    let service = Components {
        composer: Composer::new(state.to_owned(), importer.clone(), sources, remembered),
        importer,
        roots: roots::Roots::open(&state.join("roots"))?,
        supervisor,
        guest_init: GUEST_INIT.into(),
        watchers: Mutex::default(),
    };
    Err(gtvp_ipc::serve(&listener, place.acl(), Arc::new(service)).into())
}

fn main() -> ExitCode {
    match run() {
        Err(e) => gtvp_ipc::place::ended(Domain::Components, e.as_ref()),
    }
}

/// Milliseconds since 1970-01-01 UTC.
fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
