//! What a domain finds in its jail: the same for every domain, put there by the supervisor.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::Domain;
use gtvp_model::member::MemberConfig;
use gtvp_model::topology::{Callers, Topology};

use crate::server::Caller;

/// The member's configuration: member.toml as JSON, checked by the supervisor.
pub const MEMBER_FILE: &str = "/gtvp/member.json";
/// Who may call whom: that part of topology.toml, as JSON.
pub const CALLERS_FILE: &str = "/gtvp/callers.json";
/// The sockets of the domains that this one may call.
pub const SOCKETS: &str = "/gtvp/ipc";
/// The domain's folder in the member's state directory.
pub const STATE: &str = "/state";
/// The domain's folder in the member's run directory.
pub const RUN: &str = "/run";
/// The descriptor of the domain's own listening socket.
pub const LISTEN_FD: i32 = 3;
/// The descriptor of a second listening socket: the gateway's socket for people.
pub const SECOND_LISTEN_FD: i32 = 4;

/// Where a domain is: its member, who may call it, its ways to other domains.
pub struct Place {
    /// The domain.
    pub domain: Domain,
    /// The member's configuration.
    pub config: MemberConfig,
    /// Who may call whom.
    pub callers: Callers,
}

/// Why a domain could not start.
#[derive(Debug, thiserror::Error)]
pub enum BadPlace {
    /// A file that the supervisor puts into the jail cannot be read.
    #[error("{0} cannot be read")]
    File(&'static str, #[source] io::Error),
    /// Such a file is not what it should be.
    #[error("{0} cannot be understood")]
    Content(&'static str, #[source] serde_json::Error),
    /// The member's configuration has a value that it may not have.
    #[error("{MEMBER_FILE}: {0}")]
    Value(&'static str),
    /// A descriptor that the supervisor passes is not there.
    #[error("descriptor {0} is not a listening socket: domains are started by gtvpd, not by hand")]
    Descriptor(i32),
}

impl Place {
    /// Reads what the supervisor has put in place. To be called first: the process has one thread.
    pub fn open(domain: Domain) -> Result<Self, BadPlace> {
        crate::memory::prepare();
        let config = gtvp_model::member::check(read(MEMBER_FILE)?).map_err(BadPlace::Value)?;
        Ok(Self { domain, config, callers: read(CALLERS_FILE)? })
    }

    /// The domain's own listening socket. To be called once.
    pub fn listener(&self) -> Result<UnixListener, BadPlace> {
        take_listener(LISTEN_FD)
    }

    /// The socket of another domain.
    pub fn socket(&self, callee: Domain) -> PathBuf {
        Path::new(SOCKETS).join(format!("{callee}.sock"))
    }

    /// Who may call this domain.
    pub fn acl(&self) -> Acl {
        Acl { callee: self.domain, config: self.config.clone(), callers: self.callers.clone() }
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &'static str) -> Result<T, BadPlace> {
    let bytes = std::fs::read(path).map_err(|e| BadPlace::File(path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| BadPlace::Content(path, e))
}

/// The listening socket that the supervisor passed as descriptor `fd`. To be called once for each.
pub fn take_listener(fd: i32) -> Result<UnixListener, BadPlace> {
    // SAFETY: the supervisor passes this descriptor to the process for this use, and nothing else has taken it: callers
    // take each number once, before they open anything. A number that is not open fails in the check below.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    match rustix::net::sockopt::socket_acceptconn(&owned) {
        Ok(true) => Ok(UnixListener::from(owned)),
        _ => {
            // Not ours to close.
            std::mem::forget(owned);
            Err(BadPlace::Descriptor(fd))
        }
    }
}

/// Who may call one domain, and who a caller is.
#[derive(Clone)]
pub struct Acl {
    callee: Domain,
    config: MemberConfig,
    callers: Callers,
}

impl Acl {
    /// For the supervisor, which has no [`Place`].
    pub fn new(callee: Domain, config: MemberConfig, topology: &Topology) -> Self {
        Self { callee, config, callers: topology.callers() }
    }

    /// The domain that is called.
    pub fn callee(&self) -> &'static str {
        self.callee.as_str()
    }

    /// Whether topology.toml has a row for this.
    pub fn allows(&self, caller: &Caller, method: &str) -> bool {
        self.callers.allows(&caller.name, self.callee.as_str(), method)
    }

    /// The row of topology.toml whose uid the caller has.
    pub fn identify(&self, stream: &UnixStream) -> Result<Caller, Fault> {
        let unknown = |why: String| {
            Fault::new(FaultKind::Denied, "the caller is no domain of this member").because(why)
        };
        let uid =
            rustix::net::sockopt::socket_peercred(stream).map_err(|e| unknown(e.to_string()))?.uid.as_raw();
        let offset = uid.checked_sub(self.config.uid_base);
        if let Some((name, _)) = self.callers.domain.iter().find(|(_, uid)| Some(**uid) == offset) {
            return Ok(Caller { name: name.clone(), slot: None });
        }
        let of_box = self.config.box_of_uid(uid);
        let template = |which: String| self.callers.template.iter().find(|(_, uid)| **uid == which);
        if let Some((slot, which)) = of_box {
            if let Some((name, _)) = template(format!("box:{which}")) {
                return Ok(Caller { name: name.clone(), slot: Some(slot) });
            }
        } else if let Some((name, _)) = offset.and_then(|o| template(o.to_string())) {
            return Ok(Caller { name: name.clone(), slot: None });
        }
        Err(unknown(format!("uid {uid} has no row in topology.toml")))
    }
}

/// Ends a domain's `main`: tells why on standard error, the chain of causes once.
pub fn ended(domain: Domain, why: &dyn std::error::Error) -> std::process::ExitCode {
    let mut line = format!("gtvp-{domain}: {why}");
    let mut source = why.source();
    while let Some(cause) = source {
        line.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    eprintln!("{line}");
    std::process::ExitCode::FAILURE
}
