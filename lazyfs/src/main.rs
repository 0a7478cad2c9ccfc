//! `gtvp-lazyfs --keeper FD [--vhost FD]`: started by gtvpd, with the numbers of its descriptors.

use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use gtvp_ipc::place::{SOCKETS, take_listener};
use gtvp_lazyfs::upstream::Components;

fn main() -> ExitCode {
    let (mut keeper, mut vhost) = (None, None);
    let mut args = std::env::args().skip(1);
    while let (Some(name), Some(value)) = (args.next(), args.next()) {
        match (name.as_str(), value.parse::<i32>()) {
            ("--keeper", Ok(fd @ 3..)) => keeper = Some(fd),
            ("--vhost", Ok(fd @ 3..)) => vhost = Some(fd),
            _ => {}
        }
    }
    let Some(keeper) = keeper.filter(|k| Some(*k) != vhost) else {
        eprintln!("usage: gtvp-lazyfs --keeper FD [--vhost FD]; it is started by gtvpd");
        return ExitCode::from(2);
    };
    let keeper = match take_listener(keeper) {
        Ok(keeper) => keeper,
        Err(e) => {
            eprintln!("lazyfs: {e}");
            return ExitCode::FAILURE;
        }
    };
    // SAFETY: gtvpd passes this descriptor for this use, its number differs from the one above, and nothing else has taken it.
    let vhost = vhost.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let components = Components::at(Path::new(SOCKETS).join("components.sock"));
    match gtvp_lazyfs::run(keeper, vhost, Box::new(components)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let causes = std::iter::successors(std::error::Error::source(&e), |e| e.source());
            let causes: String = causes.map(|c| format!(": {c}")).collect();
            eprintln!("lazyfs: {e}{causes}");
            ExitCode::FAILURE
        }
    }
}
