//! Who stands behind a request: the kernel's word about the person's own connection, which the gateway hands over.
//!
//! The gateway is outside the TCB and could hand over any descriptor that it has. `SO_PEERCRED` alone would believe it: at the
//! calling end of a connection to a socket of gtvpd's, and at the listening socket itself, it names root. So only the accepted
//! end of a connection to the API socket counts, and only while somebody is at its other end.

use std::os::fd::AsFd;
use std::path::Path;

use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::member::{MemberConfig, UIDS_PER_MEMBER};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SocketAddrUnix, SocketType, getsockname, sockopt};

/// The uid at the other end of `connection`, if it may administer this member: root always, others where member.toml names a
/// group, since the API socket's permissions let in only that group.
pub fn behind(connection: impl AsFd, config: &MemberConfig) -> Result<u32, Fault> {
    let fd = connection.as_fd();
    if !is_to(fd, &config.api_socket) {
        return Err(nobody("its descriptor is no connection that the API socket has accepted"));
    }
    if has_gone(fd) {
        return Err(nobody("the person has hung up"));
    }
    let credentials =
        sockopt::socket_peercred(fd).map_err(|_| nobody("its descriptor is not a unix socket"))?;
    may_administer(credentials.uid.as_raw(), config)
}

/// A request that brought no connection.
pub fn nobody(why: &str) -> Fault {
    Fault::new(FaultKind::Denied, "nobody stands behind this request").because(why.to_owned())
}

/// Whether this is the accepted end of a connection to the socket that gtvpd bound to `path`: it has the listening socket's
/// name, and no other end has it, since the name is taken.
fn is_to(fd: impl AsFd, path: &Path) -> bool {
    let accepted = sockopt::socket_acceptconn(&fd).is_ok_and(|listens| !listens)
        && sockopt::socket_type(&fd).is_ok_and(|kind| kind == SocketType::STREAM);
    let name = getsockname(&fd).ok().and_then(|a| SocketAddrUnix::try_from(a).ok());
    let bound =
        name.as_ref().and_then(|a| a.path_bytes()).is_some_and(|p| p == path.as_os_str().as_encoded_bytes());
    accepted && bound
}

fn has_gone(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::empty())];
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    // A person who only says no more is still there; HUP is that both directions are closed.
    poll(&mut fds, Some(&none)).is_err()
        || fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)
}

fn may_administer(uid: u32, config: &MemberConfig) -> Result<u32, Fault> {
    if uid.checked_sub(config.uid_base).is_some_and(|offset| offset < UIDS_PER_MEMBER) {
        return Err(nobody("it is one of the member's own processes"));
    }
    if uid != 0 && config.api_group.is_none() {
        return Err(Fault::new(FaultKind::Denied, format!("uid {uid} may not administer this member"))
            .hint("use root, or set api_group in member.toml"));
    }
    Ok(uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::PathBuf;

    /// A folder of this test's own, gone afterwards.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("gtvp-person-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn config(folder: &Folder, group: bool) -> MemberConfig {
        let group = if group { "api_group='gtvp'\n" } else { "" };
        gtvp_model::member::parse(&format!(
            "name='m1'\nstate_dir='/s'\nrun_dir='/r'\napi_socket='{}'\nuid_base=200000\nbox_network='10.77.0.0'\n\
             transit_network='10.78.0.0'\n{group}",
            folder.0.join("api.sock").display()
        ))
        .unwrap()
    }

    #[test]
    fn a_gateway_that_is_taken_over_cannot_pass_for_root() {
        let folder = Folder::new("forged");
        // With a group every uid that the socket lets in may administer: a descriptor of the gateway's own must not count.
        for group in [false, true] {
            let config = config(&folder, group);
            let _ = std::fs::remove_file(&config.api_socket);
            let api = UnixListener::bind(&config.api_socket).unwrap();
            let other = UnixListener::bind(folder.0.join(format!("management-{group}.sock"))).unwrap();
            let denied = |fd: &dyn AsFd, what: &str| {
                let fault = behind(fd.as_fd(), &config).expect_err(what);
                assert_eq!(fault.kind, FaultKind::Denied, "{what}");
            };
            // gtvpd, root, listens on these: each names it as the peer.
            denied(&api, "the listening socket");
            denied(
                &UnixStream::connect(&config.api_socket).unwrap(),
                "the calling end of a connection to the API socket",
            );
            api.accept().unwrap();
            let calling = UnixStream::connect(folder.0.join(format!("management-{group}.sock"))).unwrap();
            denied(&calling, "the calling end of a connection to another domain");
            denied(&other.accept().unwrap().0, "a connection that another socket has accepted");
            let (one, _two) = UnixStream::pair().unwrap();
            denied(&one, "a pair of its own");
            denied(&std::fs::File::open("/dev/null").unwrap(), "no socket");
        }
    }

    #[test]
    fn a_person_counts_while_they_are_there() {
        let folder = Folder::new("there");
        // The test may run as root or not: with a group both may.
        let config = config(&folder, true);
        let api = UnixListener::bind(&config.api_socket).unwrap();
        let person = UnixStream::connect(&config.api_socket).unwrap();
        let (accepted, _) = api.accept().unwrap();
        let uid = rustix::process::getuid().as_raw();
        assert_eq!(behind(&accepted, &config).unwrap(), uid);
        person.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(behind(&accepted, &config).unwrap(), uid, "who says no more still waits for the answer");
        drop(person);
        assert_eq!(
            behind(&accepted, &config).unwrap_err().kind,
            FaultKind::Denied,
            "a connection kept for later"
        );
    }

    #[test]
    fn the_members_own_processes_are_no_persons() {
        let folder = Folder::new("own");
        let with = config(&folder, true);
        assert!(may_administer(200_006, &with).is_err(), "the gateway itself");
        assert!(may_administer(204_095, &with).is_err());
        assert_eq!(may_administer(204_096, &with).unwrap(), 204_096);
        assert_eq!(may_administer(0, &config(&folder, false)).unwrap(), 0);
        assert!(may_administer(1000, &config(&folder, false)).is_err());
    }
}
