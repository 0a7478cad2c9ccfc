//! Stands between `components` and the administrator's package sources, in three shapes of one small program:
//!
//! * `fetch`: has a network and nothing else; runs apt's own acquire methods and answers with untrusted bytes;
//! * `apt`: has no network; runs apt over what the fetcher brings, so that signatures are checked where no network is;
//! * started by apt under the name of a method (`http`, `https`, …): carries that method's messages between the two.
//!
//! It decides nothing: what is asked for comes from `components`, what is to be believed is decided by apt's signature
//! check and, for packages, by `components` itself.

mod acquire;
mod apt;
mod channel;
mod message;
mod range;
mod relay;

use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Why the program ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("started with arguments that topology.toml does not have")]
    Arguments,
    #[error("descriptor {0} is not a socket")]
    Descriptor(String),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("gtvp-fetcher: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<(), Ended> {
    let name = args.first().and_then(|a| Path::new(a).file_name()).map(|n| n.to_string_lossy().into_owned());
    if let (Some(method), Some(path)) = (name.filter(|n| relay::METHODS.contains(&n.as_str())), args.first())
    {
        return Ok(relay::run(&method, Path::new(path))?);
    }
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "fetch", folder, control, relays] => {
            acquire::serve(&PathBuf::from(folder), socket(control)?, Some(socket(relays)?));
            Ok(())
        }
        [program, "apt", folder, control, relays] => {
            Ok(apt::serve(program, Path::new(folder), socket(control)?, socket(relays)?)?)
        }
        _ => Err(Ended::Arguments),
    }
}

/// A socket that the supervisor passed under this number.
fn socket(number: &str) -> Result<UnixStream, Ended> {
    let bad = || Ended::Descriptor(number.to_owned());
    let fd: i32 = number.parse().ok().filter(|n| *n > 2).ok_or_else(bad)?;
    // SAFETY: the number comes from the supervisor, which passed the descriptor to this process for this use; nothing
    // else has taken it, since this runs first and once for each argument. A number that is not open fails below.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    if rustix::net::sockopt::socket_type(&owned).is_err() {
        std::mem::forget(owned);
        return Err(bad());
    }
    // Neither apt nor its methods may have it.
    rustix::io::fcntl_setfd(&owned, rustix::io::FdFlags::CLOEXEC).map_err(|_| bad())?;
    Ok(UnixStream::from(owned))
}
