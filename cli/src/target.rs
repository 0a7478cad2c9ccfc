//! Which member the command line talks to.

use std::path::{Path, PathBuf};

use gtvp_model::fault::{Fault, FaultKind};

use crate::args::Cli;
use crate::failure::invalid;
use crate::lab::state;

/// Names another place for /run/gtvp, for tests.
const RUN_ENV: &str = "GTVP_RUN";

/// Where members of this machine have their sockets.
pub fn run_root() -> PathBuf {
    std::env::var_os(RUN_ENV).map_or_else(|| PathBuf::from("/run/gtvp"), PathBuf::from)
}

/// The API socket of the member that was chosen: by `--socket`, by `--member`, else this server's own member, else the only
/// member of a lab.
pub fn socket(cli: &Cli) -> Result<PathBuf, Fault> {
    if let Some(path) = &cli.socket {
        return Ok(path.clone());
    }
    let own = run_root().join("api.sock");
    let lab = state::members(&run_root());
    if let Some(wanted) = &cli.member {
        return by_name(wanted, &lab);
    }
    if own.exists() {
        return Ok(own);
    }
    match lab.as_slice() {
        [] => Err(nobody(&own)),
        [only] => Ok(only.config.api_socket.clone()),
        several => {
            let names: Vec<String> = several.iter().map(state::LabMember::full_name).collect();
            Err(invalid(format!("this machine has {} members: {}", several.len(), names.join(", ")))
                .hint(format!("choose one: --member {} or GTVP_MEMBER={}", names[0], names[0])))
        }
    }
}

fn by_name(wanted: &str, lab: &[state::LabMember]) -> Result<PathBuf, Fault> {
    let found: Vec<&state::LabMember> =
        lab.iter().filter(|m| m.config.name.as_str() == wanted || m.full_name() == wanted).collect();
    match found.as_slice() {
        [one] => Ok(one.config.api_socket.clone()),
        [] => {
            let names: Vec<String> = lab.iter().map(state::LabMember::full_name).collect();
            let fault =
                Fault::new(FaultKind::NotFound, format!("no lab on this machine has a member {wanted:?}"));
            Err(match names.is_empty() {
                true => fault.hint("start a lab: gtvp lab up"),
                false => fault.hint(format!("there are {}", names.join(", "))),
            })
        }
        several => Err(invalid(format!("{} labs have a member {wanted}", several.len()))
            .hint(format!("say which: --member {}", several[0].full_name()))),
    }
}

/// Nobody to talk to.
fn nobody(socket: &Path) -> Fault {
    Fault::new(FaultKind::NotFound, "no member runs on this machine")
        .because(format!("{} is not there and no lab is up", socket.display()))
        .hint("gtvp lab up starts one to try things out; on a server: systemctl start gtvpd")
}
