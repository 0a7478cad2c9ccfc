//! What outlives this process: the connection to QEMU, the guest's memory, the queues, the record of unanswered requests, and
//! the order in which layers were linked. The supervisor holds it; each change is sent to it before it takes effect.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use gtvp_ipc::{keeper::Held, wire};
use serde::{Deserialize, Serialize};

use crate::device::Words;
use crate::fetch::Batches;
use crate::locked;
use crate::log::say;

/// The form of the words, for a newer program that finds an older one's.
const FORMAT: u32 = 1;

/// The words beside the descriptors.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    format: u32,
    device: Words,
    linked: Batches,
}

struct Inner {
    supervisor: Option<UnixStream>,
    state: State,
    fds: Vec<Arc<OwnedFd>>,
}

/// The way to the supervisor.
pub struct Keeper(Mutex<Inner>);

/// What a process before this one left.
pub struct Left {
    /// Its device.
    pub device: Words,
    /// Its descriptors, as [`crate::device::Device`] orders them.
    pub fds: Vec<OwnedFd>,
    /// What it had linked.
    pub linked: Batches,
}

impl Keeper {
    /// Hears from the supervisor what it holds for us; `None` when this is the first process of its box. Afterwards answers it
    /// on a thread whenever it connects again.
    pub fn open(listener: UnixListener) -> io::Result<(Arc<Self>, Option<Left>)> {
        let (supervisor, held) = loop {
            let (stream, _) = accept(&listener)?;
            // One that went away at once connects again.
            if let Ok(Some(held)) = Held::recv(&stream) {
                break (stream, held);
            }
        };
        let left = if held.state.is_empty() {
            None
        } else {
            let state: State = serde_json::from_str(&held.state)?;
            if state.format != FORMAT {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "what the supervisor holds has another format",
                ));
            }
            Some(Left { device: state.device, fds: held.fds, linked: state.linked })
        };
        let linked = left.as_ref().map(|l| l.linked.clone()).unwrap_or_default();
        let state = State { format: FORMAT, linked, device: Words::default() };
        let this = Arc::new(Self(Mutex::new(Inner { supervisor: Some(supervisor), state, fds: Vec::new() })));
        let answering = this.clone();
        std::thread::Builder::new()
            .stack_size(crate::pool::STACK)
            .spawn(move || answering.answer(&listener))?;
        Ok((this, left))
    }

    fn answer(&self, listener: &UnixListener) {
        loop {
            match accept(listener) {
                // What it says is from before us or empty: ours is newer.
                Ok((stream, _)) => {
                    if let Ok(Some(_)) = Held::recv(&stream) {
                        let mut inner = locked(&self.0);
                        inner.supervisor = Some(stream);
                        inner.send();
                    }
                }
                Err(e) => {
                    say!("the supervisor's socket is of no use any more: {e}");
                    return;
                }
            }
        }
    }

    /// Holds this state of the device.
    pub fn hold_device(&self, device: Words, fds: Vec<Arc<OwnedFd>>) {
        let mut inner = locked(&self.0);
        inner.state.device = device;
        inner.fds = fds;
        inner.send();
    }

    /// Holds what is linked.
    pub fn hold_linked(&self, linked: &Batches) {
        let mut inner = locked(&self.0);
        inner.state.linked = linked.clone();
        inner.send();
    }
}

impl Inner {
    /// Without a supervisor there is nobody to restart us either; the next one gets it all. Nothing is sent before the device is
    /// known: it would replace what a process before us left, and we may die before the rest follows.
    fn send(&mut self) {
        if self.fds.is_empty() {
            return;
        }
        let Some(supervisor) = &self.supervisor else { return };
        let sent = serde_json::to_string(&self.state)
            .and_then(|state| serde_json::to_vec(&Held { state, fds: Vec::new() }))
            .map_err(io::Error::from)
            .and_then(|json| {
                let fds: Vec<_> = self.fds.iter().map(|f| f.as_fd()).collect();
                wire::send(supervisor, &json, &fds)
            });
        if sent.is_err() {
            self.supervisor = None;
        }
    }
}

fn accept(listener: &UnixListener) -> io::Result<(UnixStream, std::os::unix::net::SocketAddr)> {
    loop {
        match listener.accept() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gtvp_ipc::components::Layer;
    use gtvp_model::digest::Digest;

    #[test]
    fn what_was_left_is_not_replaced_by_half_of_it() {
        let folder = std::env::temp_dir().join(format!("gtvp-lazyfs-keeper-{}", std::process::id()));
        let _ = std::fs::remove_file(&folder);
        let listener = UnixListener::bind(&folder).unwrap();
        let supervisor = UnixStream::connect(&folder).unwrap();
        std::fs::remove_file(&folder).unwrap();
        let linked = vec![vec![Layer { precedence: 1, manifest: Digest::of(b"x") }]];
        let state = State { format: FORMAT, device: Words::default(), linked: linked.clone() };
        let state = serde_json::to_string(&state).unwrap();
        let null: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        Held { state, fds: vec![null.try_clone().unwrap()] }.send(&supervisor).unwrap();
        let (keeper, left) = Keeper::open(listener).unwrap();
        let left = left.unwrap();
        assert_eq!((left.linked, left.fds.len()), (linked.clone(), 1));
        keeper.hold_linked(&linked);
        keeper.hold_device(left.device, vec![Arc::new(null)]);
        let first = Held::recv(&supervisor).unwrap().unwrap();
        let state: State = serde_json::from_str(&first.state).unwrap();
        assert_eq!((state.linked, first.fds.len()), (linked, 1), "the first word is whole");
    }
}
