//! CD (GTVP §2.2): the only sockets to other members. A member that has joined no union is alone, and says so.

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;

use gtvp_ipc::communication::{Request, UnionReply};
use gtvp_ipc::{Answer, Caller, Place, Service, Session};
use gtvp_model::fault::Fault;
use gtvp_model::ids::{Domain, MemberName};

struct Communication {
    own_name: MemberName,
}

impl Service for Communication {
    type Request = Request;

    fn handle(
        &self,
        _caller: &Caller,
        request: Request,
        _fds: Vec<OwnedFd>,
        _session: &mut Session,
    ) -> Result<Answer, Fault> {
        match request {
            Request::Union(_) => Ok(Answer::of(&UnionReply { members: vec![self.own_name.to_string()] })),
        }
    }
}

fn run() -> Result<std::convert::Infallible, Box<dyn std::error::Error>> {
    let place = Place::open(Domain::Communication)?;
    let listener = place.listener()?;
    let service = Communication { own_name: place.config.name.clone() };
    Err(gtvp_ipc::serve(&listener, place.acl(), Arc::new(service)).into())
}

fn main() -> ExitCode {
    match run() {
        Err(e) => gtvp_ipc::place::ended(Domain::Communication, e.as_ref()),
    }
}
