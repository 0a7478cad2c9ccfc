//! Connections that arrive as descriptors on a socket, each answered by a thread of its own.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use gtvp_ipc::wire;
use gtvp_model::fault::{Fault, FaultKind};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Answers every connection that arrives on `control` with `handle`, until the other side goes.
pub fn serve_all(control: &UnixStream, handle: impl Fn(UnixStream) + Clone + Send + 'static) {
    while let Ok(Some((_, fds))) = wire::recv(control) {
        for fd in fds {
            let handle = handle.clone();
            // Without a thread the connection is dropped, which its caller sees.
            let _ = std::thread::Builder::new()
                .stack_size(512 * 1024)
                .spawn(move || handle(UnixStream::from(fd)));
        }
    }
}

/// The next request on a connection; `None` when the caller has gone. What cannot be read is answered here.
pub fn next<R: DeserializeOwned>(stream: &UnixStream) -> Option<(R, Vec<OwnedFd>)> {
    loop {
        let (json, fds) = wire::recv(stream).ok()??;
        match serde_json::from_slice(&json) {
            Ok(request) => return Some((request, fds)),
            Err(e) => {
                let fault = Fault::new(FaultKind::Invalid, "the request cannot be read").caused_by(&e);
                answer::<()>(stream, Err(fault))?;
            }
        }
    }
}

/// Answers; `None` when the caller has gone.
pub fn answer<T: Serialize>(stream: &UnixStream, result: Result<(T, Vec<OwnedFd>), Fault>) -> Option<()> {
    let (json, fds) = match result {
        Ok((value, fds)) => (serde_json::json!({ "done": value }), fds),
        Err(fault) => (serde_json::json!({ "fault": fault }), Vec::new()),
    };
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    wire::send(stream, json.to_string().as_bytes(), &fds).ok()
}

/// Says how far the call is; `None` when the caller has gone.
pub fn progress<T: Serialize>(stream: &UnixStream, progress: &T) -> Option<()> {
    wire::send(stream, serde_json::json!({ "progress": progress }).to_string().as_bytes(), &[]).ok()
}
