//! The answering side: one thread a connection, a bounded number of connections.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::Slot;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::place::Acl;
use crate::{Requests, wire};

/// Most connections at once. Each box has a few, each person some; a caller past it is told to come back.
const MAX_CONNECTIONS: usize = 2048;
/// Most connections of one box's process: a file-system server has one for each of its 16 fetches. Past it only that box waits.
const MAX_OF_A_BOX: usize = 32;
/// Most connections of one domain: whoever takes one over leaves the others theirs.
const MAX_OF_A_DOMAIN: usize = 1024;
/// Most bytes of a request of a box's process. The longest has one path, each byte of which may be escaped.
const MAX_REQUEST_OF_A_BOX: usize = 64 * 1024;
/// Who is not asked anything for this long lets go of what the last answers needed. Short enough that a member which is asked
/// once a period, of 30 s, does so in between.
const QUIET: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// Stack of a connection's thread.
const STACK: usize = 256 * 1024;

/// Who calls, by the kernel's word.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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

/// The connections that there are, by caller.
#[derive(Default)]
struct Seats(Mutex<HashMap<Caller, usize>>);

/// One of them; free again when it is dropped.
struct Seat {
    seats: Arc<Seats>,
    caller: Caller,
}

impl Seats {
    fn take(self: &Arc<Self>, caller: &Caller) -> Option<Seat> {
        let most = if caller.slot.is_some() { MAX_OF_A_BOX } else { MAX_OF_A_DOMAIN };
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let own = taken.get(caller).copied().unwrap_or(0);
        if all >= MAX_CONNECTIONS || own >= most {
            return None;
        }
        taken.insert(caller.clone(), own + 1);
        Some(Seat { seats: self.clone(), caller: caller.clone() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.caller) {
            Some(n) if *n > 1 => *n -= 1,
            _ => drop(taken.remove(&self.caller)),
        }
    }
}

/// Answers calls on `listener` until the process ends.
pub fn serve<S: Service>(listener: &UnixListener, acl: Acl, service: Arc<S>) -> std::io::Error {
    let acl = Arc::new(acl);
    let seats = Arc::new(Seats::default());
    let asked = Arc::new(AtomicBool::new(true));
    let mut small = false;
    loop {
        if matches!(poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&QUIET)), Ok(0)) {
            let quiet = !asked.swap(false, Ordering::Relaxed);
            if quiet && !small {
                crate::memory::let_go();
            }
            small = quiet;
            continue;
        }
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
        // A refusal is small: a socket that is new takes it without waiting for its reader.
        let caller = match acl.identify(&stream) {
            Ok(caller) => caller,
            Err(fault) => {
                refuse(&stream, &fault);
                continue;
            }
        };
        let Some(seat) = seats.take(&caller) else {
            refuse(&stream, &Fault::new(FaultKind::Unavailable, "too many calls at once"));
            continue;
        };
        let (acl, service, asked) = (acl.clone(), service.clone(), asked.clone());
        // A thread that cannot be started gives its seat back with the closure.
        let _ = std::thread::Builder::new().stack_size(STACK).spawn(move || {
            connection(stream, &seat.caller, &acl, &*service, &asked);
        });
    }
}

#[derive(serde::Deserialize)]
struct MethodOnly {
    method: String,
}

fn connection<S: Service>(stream: UnixStream, caller: &Caller, acl: &Acl, service: &S, asked: &AtomicBool) {
    let Ok(reply_stream) = stream.try_clone() else { return };
    let most = if caller.slot.is_some() { MAX_REQUEST_OF_A_BOX } else { wire::MAX_MESSAGE };
    let mut session = Session { stream };
    while let Ok(Some((json, fds))) = wire::recv_at_most(&session.stream, most) {
        asked.store(true, Ordering::Relaxed);
        let outcome = parse::<S::Request>(acl, caller, &json)
            .and_then(|request| service.handle(caller, request, fds, &mut session));
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
    let unreadable =
        |e: &serde_json::Error| Fault::new(FaultKind::Invalid, "the request cannot be read").caused_by(e);
    let method: MethodOnly = serde_json::from_slice(json).map_err(|e| unreadable(&e))?;
    if !acl.allows(caller, &method.method) {
        let method: String = method.method.chars().take(64).collect();
        return Err(Fault::new(
            FaultKind::Denied,
            format!("{} may not call {}.{method}", caller.name, acl.callee()),
        )
        .hint("topology.toml says who may call what"));
    }
    serde_json::from_slice(json).map_err(|e| unreadable(&e))
}

fn refuse(stream: &UnixStream, fault: &Fault) {
    let message = serde_json::json!({ "fault": fault }).to_string();
    // A caller that has gone needs no answer.
    let _ = wire::send(stream, message.as_bytes(), &[]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_that_takes_every_connection_it_can_leaves_the_others_theirs() {
        let seats = Arc::new(Seats::default());
        let box_ = |n| Caller { name: "lazyfs".into(), slot: Slot::new(n) };
        let mut taken: Vec<Seat> = std::iter::from_fn(|| seats.take(&box_(1))).collect();
        assert_eq!(taken.len(), MAX_OF_A_BOX);
        assert!(seats.take(&box_(2)).is_some(), "another box");
        assert!(seats.take(&Caller { name: "management".into(), slot: None }).is_some(), "a domain");
        taken.pop();
        assert!(seats.take(&box_(1)).is_some(), "a connection that ended is free again");
        drop(taken);
        assert!(seats.0.lock().unwrap().is_empty(), "nothing is remembered of who has gone");
    }
}
