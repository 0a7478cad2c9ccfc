//! CD (GTVP §2.2): the only sockets to other members. A member that has joined no union is alone, and listens to nobody.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;

use gtvp_communication::runtime::{Config, Runtime};
use gtvp_communication::security::Ipc;
use gtvp_communication::service::Communication;
use gtvp_ipc::Place;
use gtvp_model::ids::Domain;
use gtvp_model::member::MEMBERS_PORT;
use gtvp_model::token::Endpoint;

fn run() -> Result<std::convert::Infallible, Box<dyn std::error::Error>> {
    let place = Place::open(Domain::Communication)?;
    let listener = place.listener()?;
    let port = place.config.endpoint.as_ref().map_or(MEMBERS_PORT, Endpoint::port);
    // Both kinds of addresses, or the older one where the newer is switched off.
    let all = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    let config = Config {
        name: place.config.name.clone(),
        folder: gtvp_ipc::place::STATE.into(),
        listen: all.map(|address| SocketAddr::new(address, port)).to_vec(),
        endpoint: place.config.endpoint.clone(),
    };
    let security = Arc::new(Ipc::new(place.socket(Domain::Security)));
    let runtime = Runtime::start(config, security, gtvp_communication::node::csp)?;
    Err(gtvp_ipc::serve(&listener, place.acl(), Arc::new(Communication { runtime })).into())
}

fn main() -> ExitCode {
    match run() {
        Err(e) => gtvp_ipc::place::ended(Domain::Communication, e.as_ref()),
    }
}
