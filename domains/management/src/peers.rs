//! Calls to the other domains.

use std::ops::ControlFlow;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use gtvp_ipc::place::SOCKETS;
use gtvp_ipc::{CallError, Client, Method};
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::operation::Progress;

use crate::operations::Handle;

/// Times that a call which may be made twice is made when its callee goes away.
const TRIES: u32 = 4;

fn connect<M: Method>() -> Result<Client, CallError> {
    Client::connect(&Path::new(SOCKETS).join(format!("{}.sock", M::CALLEE)))
        .map_err(|source| CallError::Unreachable { callee: M::CALLEE, source })
}

/// Makes a call that can be made twice: again when the callee goes away, since the supervisor brings it back.
pub fn ask<M: Method>(params: &M) -> Result<M::Reply, Fault> {
    again(|| connect::<M>()?.call(params, &[], |_| ControlFlow::Continue(())).map(|(reply, _)| reply))
}

/// Makes a call once, with descriptors both ways.
pub fn ask_fds<M: Method>(params: &M) -> Result<Vec<OwnedFd>, Fault> {
    Ok(connect::<M>()?.call(params, &[], |_| ControlFlow::Continue(())).map(|(_, fds)| fds)?)
}

/// Makes a call once, with descriptors that go with it.
pub fn give<M: Method>(params: &M, fds: &[BorrowedFd<'_>]) -> Result<M::Reply, Fault> {
    Ok(connect::<M>()?.call(params, fds, |_| ControlFlow::Continue(())).map(|(reply, _)| reply)?)
}

/// Makes a call once that can not be made twice.
pub fn tell<M: Method>(params: &M) -> Result<M::Reply, Fault> {
    Ok(connect::<M>()?.call(params, &[], |_| ControlFlow::Continue(())).map(|(reply, _)| reply)?)
}

/// Makes a call for an operation: its progress becomes the operation's, cancelling the operation hangs it up.
pub fn work<M: Method<Progress = Progress>>(
    operation: &Handle,
    params: &M,
    fds: &[BorrowedFd<'_>],
) -> Result<(M::Reply, Vec<OwnedFd>), Fault> {
    work_with(operation, params, fds, |p| p)
}

/// [`work`] for a call whose progress is of another form.
pub fn work_with<M: Method>(
    operation: &Handle,
    params: &M,
    fds: &[BorrowedFd<'_>],
    progress: impl Fn(M::Progress) -> Progress,
) -> Result<(M::Reply, Vec<OwnedFd>), Fault> {
    let outcome = (|| {
        let mut client = connect::<M>()?;
        let stream = client
            .stream()
            .try_clone()
            .map_err(|source| CallError::Unreachable { callee: M::CALLEE, source })?;
        operation.calling(Some(stream))?;
        client.call(params, fds, |p| operation.progress(progress(p)))
    })();
    // The end of a call is always noted; only its beginning can be refused.
    let _ = operation.calling(None);
    outcome.map_err(|e| match e {
        _ if operation.is_cancelled() => Fault::new(FaultKind::Cancelled, "cancelled"),
        e => e.into(),
    })
}

/// [`work`] for a call that can be made twice.
pub fn work_again<M: Method<Progress = Progress>>(operation: &Handle, params: &M) -> Result<M::Reply, Fault> {
    let mut tries = 1;
    loop {
        match work(operation, params, &[]) {
            Err(f) if f.kind == FaultKind::Unavailable && tries < TRIES => pause(&mut tries),
            other => return other.map(|(reply, _)| reply),
        }
    }
}

fn again<R>(mut call: impl FnMut() -> Result<R, CallError>) -> Result<R, Fault> {
    let mut tries = 1;
    loop {
        match call() {
            Err(CallError::Unreachable { .. } | CallError::Lost { .. }) if tries < TRIES => pause(&mut tries),
            other => return Ok(other?),
        }
    }
}

fn pause(tries: &mut u32) {
    std::thread::sleep(Duration::from_millis(100) * *tries);
    *tries += 1;
}
