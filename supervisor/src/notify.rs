//! Telling systemd how gtvpd is (sd_notify(3)), when systemd started it.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// All domains run.
pub fn ready() {
    send("READY=1");
}

/// The end has begun.
pub fn stopping() {
    send("STOPPING=1");
}

fn send(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    // systemd that does not listen is systemd's matter.
    let _ = address.and_then(|a| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &a));
}
