//! The file-system server with `components` at a socket of the caller's choice: for tests, never for a member.

use std::os::fd::{FromRawFd, OwnedFd};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, keeper, vhost, components] = &args[..] else {
        eprintln!("usage: standalone KEEPER_FD VHOST_FD|- COMPONENTS_SOCKET");
        std::process::exit(2);
    };
    let fd = |s: &String| s.parse::<i32>().ok().filter(|fd| *fd > 2);
    let Some(Ok(keeper)) = fd(keeper).map(gtvp_ipc::place::take_listener) else {
        eprintln!("standalone: no listening socket");
        std::process::exit(2);
    };
    // SAFETY: the test passes this descriptor for this use only.
    let vhost = fd(vhost).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let source = gtvp_lazyfs::upstream::Components::at(components.into());
    if let Err(e) = gtvp_lazyfs::run(keeper, vhost, Box::new(source)) {
        eprintln!("standalone: {e}: {:?}", std::error::Error::source(&e).map(ToString::to_string));
        std::process::exit(1);
    }
}
