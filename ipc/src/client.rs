//! The calling side.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use gtvp_model::fault::{Fault, FaultKind};
use serde::Serialize;

use crate::{Method, wire};

/// Why a call brought no reply.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The callee cannot be reached: it is restarting, or this caller has no way to it.
    #[error("{callee} cannot be reached")]
    Unreachable {
        /// The domain.
        callee: &'static str,
        /// What connect said.
        source: io::Error,
    },
    /// The callee went away while the call was in flight. Whether it was carried out is not known.
    #[error("{callee} went away during {method}")]
    Lost {
        /// The domain.
        callee: &'static str,
        /// The call.
        method: &'static str,
        /// What the socket said.
        source: io::Error,
    },
    /// The callee answered something that this interface does not have.
    #[error("{callee} answered {method} with something unreadable")]
    Unreadable {
        /// The domain.
        callee: &'static str,
        /// The call.
        method: &'static str,
        /// What was wrong.
        source: serde_json::Error,
    },
    /// The callee refused or failed.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The caller's own progress handler asked to stop.
    #[error("the call was cancelled")]
    Cancelled,
}

impl From<CallError> for Fault {
    fn from(e: CallError) -> Self {
        match e {
            CallError::Fault(f) => f,
            CallError::Cancelled => Fault::new(FaultKind::Cancelled, "cancelled"),
            CallError::Unreachable { .. } | CallError::Lost { .. } => {
                Fault::new(FaultKind::Unavailable, e.to_string())
                    .hint("it restarts by itself: try again in a second")
            }
            CallError::Unreadable { .. } => Fault::internal("two domains do not understand each other", &e),
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Incoming<R, P> {
    Progress(P),
    Done(R),
    Fault(Fault),
}

#[derive(Serialize)]
struct Outgoing<'a, M> {
    method: &'static str,
    params: &'a M,
}

/// A connection to one domain; its calls follow each other.
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects to the socket at `path`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self { stream: UnixStream::connect(path)? })
    }

    /// Over a socket that is connected already.
    pub fn over(stream: UnixStream) -> Self {
        Self { stream }
    }

    /// The socket, for `poll`.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Makes one call. `on_progress` sees each progress message and may end the call.
    pub fn call<M: Method>(
        &mut self,
        params: &M,
        fds: &[BorrowedFd<'_>],
        mut on_progress: impl FnMut(M::Progress) -> ControlFlow<()>,
    ) -> Result<(M::Reply, Vec<OwnedFd>), CallError> {
        let lost = |source| CallError::Lost { callee: M::CALLEE, method: M::NAME, source };
        let unreadable = |source| CallError::Unreadable { callee: M::CALLEE, method: M::NAME, source };
        let request = serde_json::to_vec(&Outgoing { method: M::NAME, params }).map_err(unreadable)?;
        match wire::send(&self.stream, &request, fds) {
            // A callee that refuses by who we are answers and hangs up without reading: its answer is there to be read.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
            other => other.map_err(lost)?,
        }
        loop {
            let (json, fds) = wire::recv(&self.stream)
                .map_err(lost)?
                .ok_or_else(|| lost(io::ErrorKind::UnexpectedEof.into()))?;
            match serde_json::from_slice::<Incoming<M::Reply, M::Progress>>(&json).map_err(unreadable)? {
                Incoming::Done(reply) => return Ok((reply, fds)),
                Incoming::Fault(fault) => return Err(fault.into()),
                Incoming::Progress(p) => {
                    if on_progress(p).is_break() {
                        // The connection is dropped by the caller; its end is what cancels.
                        return Err(CallError::Cancelled);
                    }
                }
            }
        }
    }
}

/// Connects, makes one call without descriptors and progress, and hangs up.
pub fn call<M: Method>(socket: &Path, params: &M) -> Result<M::Reply, CallError> {
    call_with(socket, params, &[], |_| ControlFlow::Continue(())).map(|(reply, _)| reply)
}

/// Connects, makes one call, and hangs up.
pub fn call_with<M: Method>(
    socket: &Path,
    params: &M,
    fds: &[BorrowedFd<'_>],
    on_progress: impl FnMut(M::Progress) -> ControlFlow<()>,
) -> Result<(M::Reply, Vec<OwnedFd>), CallError> {
    let mut client =
        Client::connect(socket).map_err(|source| CallError::Unreachable { callee: M::CALLEE, source })?;
    client.call(params, fds, on_progress)
}
