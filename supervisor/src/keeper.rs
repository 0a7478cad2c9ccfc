//! Keeping what a process that is restarted has stored (`gtvp_ipc::keeper`). One thread for each such process waits for
//! its words, so that one that says half a word stops nobody.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use gtvp_ipc::keeper::Held;

/// Stack of a keeper's thread.
const STACK: usize = 128 * 1024;
/// Most bytes that a process may store: a device in words and a thousand linked components are a quarter of it.
const MAX_STORED: usize = 1024 * 1024;

/// Makes the socket that the process inherits.
pub fn listener(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    Ok(UnixListener::bind(path)?.into())
}

/// A copy, with descriptors of its own.
pub fn copy(held: &Held) -> io::Result<Held> {
    let fds = held.fds.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
    Ok(Held { state: held.state.clone(), fds })
}

/// Connects to the process, tells it `held`, gives everything that it stores to `store` until it goes, and calls `gone`
/// then. The next is not read before `store` has returned: a process that stores without end waits, and nobody else does.
pub fn start(
    name: String,
    path: &Path,
    held: Held,
    store: impl Fn(Held) -> bool + Send + 'static,
    gone: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let stream = UnixStream::connect(path)?;
    let talk = move || {
        if let Err(e) = held.send(&stream) {
            say!("{name} did not take what was kept for it: {e}");
            return;
        }
        drop(held);
        loop {
            match Held::recv_at_most(&stream, MAX_STORED) {
                Ok(Some(held)) => {
                    if !store(held) {
                        return;
                    }
                }
                Ok(None) => return,
                Err(e) => {
                    // A process that is killed in the middle of a word is told as its end.
                    if e.kind() != io::ErrorKind::UnexpectedEof && e.kind() != io::ErrorKind::ConnectionReset
                    {
                        say!("{name} stored something unreadable, which is not kept: {e}");
                    }
                    return;
                }
            }
        }
    };
    let talk = move || {
        talk();
        gone();
    };
    std::thread::Builder::new().stack_size(STACK).spawn(talk).map(drop)
}
