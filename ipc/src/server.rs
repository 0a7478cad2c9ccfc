//! The answering side: one thread a connection, a bounded number of connections.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::Slot;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::place::Acl;
use crate::{Requests, wire};

/// Most connections at once. Each box has a few, each person some; a caller past it is told to come back.
const MAX_CONNECTIONS: usize = 2048;
/// Stack of a connection's thread.
const STACK: usize = 256 * 1024;

/// Who calls, by the kernel's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Row of topology.toml.
    pub name: String,
    /// The box that it belongs to, for a box's process.
    pub slot: Option<Slot>,
}

/// A method's result and the descriptors that go with it.
pub struct Answer {
    value: serde_json::Value,
    fds: Vec<OwnedFd>,
}

impl Answer {
    /// An answer. Types of the interfaces always serialize; one that did not would reach the caller as unreadable.
    pub fn of<T: Serialize>(value: &T) -> Self {
        Self { value: serde_json::to_value(value).unwrap_or(serde_json::Value::Null), fds: Vec::new() }
    }

    /// An answer without content.
    pub fn nothing() -> Self {
        Self::of(&crate::Nothing {})
    }

    /// Adds descriptors.
    pub fn with_fds(mut self, fds: Vec<OwnedFd>) -> Self {
        self.fds = fds;
        self
    }
}

/// The call under way.
pub struct Session {
    stream: UnixStream,
}

impl Session {
    /// Tells the caller how far the call is. An error means that it has gone.
    pub fn progress<T: Serialize>(&mut self, progress: &T) -> std::io::Result<()> {
        #[derive(Serialize)]
        struct Message<'a, T> {
            progress: &'a T,
        }
        wire::send(&self.stream, &serde_json::to_vec(&Message { progress })?, &[])
    }

    /// Whether the caller has hung up.
    pub fn cancelled(&self) -> bool {
        let mut fds = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut fds, Some(&none)), Ok(n) if n > 0)
    }

    /// The caller's socket, to `poll` for its end together with other things.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }
}

/// A domain's interface, answered.
pub trait Service: Send + Sync + 'static {
    /// Its requests.
    type Request: Requests;
    /// Answers one request. Runs on a thread of the connection; may take as long as it needs.
    fn handle(
        &self,
        caller: &Caller,
        request: Self::Request,
        fds: Vec<OwnedFd>,
        session: &mut Session,
    ) -> Result<Answer, Fault>;
}

/// Answers calls on `listener` until the process ends.
pub fn serve<S: Service>(listener: &UnixListener, acl: Acl, service: Arc<S>) -> std::io::Error {
    let acl = Arc::new(acl);
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            // Out of descriptors: the connections that hold them end by themselves.
            Err(e) if matches!(e.raw_os_error(), Some(23 | 24)) => {
                std::thread::sleep(std::time::Duration::from_millis(10));
                continue;
            }
            Err(e) => return e,
        };
        if open.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            open.fetch_sub(1, Ordering::Relaxed);
            refuse(&stream, &Fault::new(FaultKind::Unavailable, "too many calls at once"));
            continue;
        }
        let (acl, service, counter) = (acl.clone(), service.clone(), open.clone());
        let spawned = std::thread::Builder::new().stack_size(STACK).spawn(move || {
            connection(stream, &acl, &*service);
            counter.fetch_sub(1, Ordering::Relaxed);
        });
        if spawned.is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[derive(serde::Deserialize)]
struct MethodOnly {
    method: String,
}

fn connection<S: Service>(stream: UnixStream, acl: &Acl, service: &S) {
    let caller = match acl.identify(&stream) {
        Ok(caller) => caller,
        Err(fault) => return refuse(&stream, &fault),
    };
    let Ok(reply_stream) = stream.try_clone() else { return };
    let mut session = Session { stream };
    while let Ok(Some((json, fds))) = wire::recv(&session.stream) {
        let outcome = parse::<S::Request>(acl, &caller, &json)
            .and_then(|request| service.handle(&caller, request, fds, &mut session));
        match outcome {
            Ok(answer) => {
                let message = serde_json::json!({ "done": answer.value }).to_string();
                let fds: Vec<_> = answer.fds.iter().map(AsFd::as_fd).collect();
                if wire::send(&reply_stream, message.as_bytes(), &fds).is_err() {
                    return;
                }
            }
            Err(fault) => refuse(&reply_stream, &fault),
        }
    }
}

/// Checks the row in topology.toml before anything else of the request is looked at.
fn parse<R: Requests>(acl: &Acl, caller: &Caller, json: &[u8]) -> Result<R, Fault> {
    let unreadable = |e: &serde_json::Error| {
        Fault::new(FaultKind::Invalid, "the request cannot be read").caused_by(e)
    };
    let method: MethodOnly = serde_json::from_slice(json).map_err(|e| unreadable(&e))?;
    if !acl.allows(caller, &method.method) {
        let method: String = method.method.chars().take(64).collect();
        return Err(Fault::new(FaultKind::Denied, format!("{} may not call {}.{method}", caller.name, acl.callee()))
            .hint("topology.toml says who may call what"));
    }
    serde_json::from_slice(json).map_err(|e| unreadable(&e))
}

fn refuse(stream: &UnixStream, fault: &Fault) {
    let message = serde_json::json!({ "fault": fault }).to_string();
    // A caller that has gone needs no answer.
    let _ = wire::send(stream, message.as_bytes(), &[]);
}
