//! What this domain asks of the supervisor.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use gtvp_ipc::supervisor::{Ended, Kill, Param, ProcessEvent, SetPublished, Spawn, Spawned, Wait, Watch};
use gtvp_ipc::{CallError, Client};
use gtvp_model::boxspec::Publish;
use gtvp_model::fault::Fault;
use gtvp_model::ids::Slot;

/// Row of topology.toml for a box's machine.
pub const QEMU: &str = "qemu";
/// How long a supervisor that does not answer is asked again when this domain starts.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(100);

/// The way to the supervisor.
#[derive(Debug, Clone)]
pub struct Link {
    socket: PathBuf,
}

/// Parameters of a template.
pub type Params = BTreeMap<String, Param>;

/// How a process that is tied to its call ended.
#[derive(Debug)]
pub enum TiedEnd {
    /// By itself.
    Ended(Ended),
    /// It was stopped: too long, or not wanted any more.
    GivenUp,
}

impl Link {
    /// Over the supervisor's socket.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    fn connect(&self) -> Result<Client, CallError> {
        Client::connect(&self.socket)
            .map_err(|source| CallError::Unreachable { callee: "supervisor", source })
    }

    /// Starts a process that outlives this domain.
    pub fn spawn(
        &self,
        template: &str,
        slot: Slot,
        params: Params,
        fds: &[(&str, BorrowedFd<'_>)],
    ) -> Result<Spawned, Fault> {
        let (spawn, fds) = request(template, Some(slot), params, fds);
        let mut client = self.connect()?;
        Ok(client.call(&spawn, &fds, |_| ControlFlow::Continue(()))?.0)
    }

    /// Starts a process that is tied to this call and waits for its end, at most `limit`. `wanted` is asked when something
    /// of the process' caller may have changed; `false` gives it up.
    pub fn run(
        &self,
        template: &str,
        slot: Option<Slot>,
        fds: &[(&str, BorrowedFd<'_>)],
        limit: Duration,
        mut wanted: impl FnMut() -> bool,
    ) -> Result<TiedEnd, Fault> {
        /// How often a caller that hangs up is noticed while such a process runs.
        const LOOK: Duration = Duration::from_millis(200);
        let (spawn, fds) = request(template, slot, Params::new(), fds);
        let mut client = self.connect()?;
        let process = client.call(&spawn, &fds, |_| ControlFlow::Continue(()))?.0.process;
        let line = client.stream().try_clone().map_err(|e| Fault::internal("out of descriptors", &e))?;
        let (tell, told) = mpsc::channel();
        let waiting = std::thread::spawn(move || {
            let end = client.call(&Wait { process }, &[], |_| ControlFlow::Continue(()));
            // Nobody listens when the process was given up.
            let _ = tell.send(end.map(|(ended, _)| ended));
        });
        let deadline = Instant::now() + limit;
        let outcome = loop {
            match told.recv_timeout(LOOK) {
                Ok(Ok(ended)) => break Ok(TiedEnd::Ended(ended)),
                Ok(Err(e)) => break Err(e.into()),
                Err(_) if Instant::now() >= deadline || !wanted() => break Ok(TiedEnd::GivenUp),
                Err(_) => {}
            }
        };
        // The end of the connection ends the process.
        let _ = line.shutdown(std::net::Shutdown::Both);
        let _ = waiting.join();
        outcome
    }

    /// Kills a box's machine and waits until it is gone.
    pub fn kill(&self, slot: Slot) -> Result<(), Fault> {
        gtvp_ipc::call(&self.socket, &Kill { template: QEMU.into(), slot })?;
        Ok(())
    }

    /// Makes the member's ports lead to the box.
    pub fn publish(&self, slot: Slot, ports: &[Publish]) -> Result<(), Fault> {
        gtvp_ipc::call(&self.socket, &SetPublished { slot, ports: ports.to_vec() })?;
        Ok(())
    }

    /// Calls `on_event` for every event of this domain's processes, on a thread of its own. Answers when every process that
    /// runs has been told.
    pub fn watch(&self, mut on_event: impl FnMut(ProcessEvent) + Send + 'static) -> io::Result<()> {
        let link = self.clone();
        let (tell, current) = mpsc::channel();
        std::thread::Builder::new().name("supervisor".into()).spawn(move || {
            let mut silent_since = None;
            loop {
                let call = link.connect().and_then(|mut client| {
                    client.call(&Watch {}, &[], |event| {
                        silent_since = None;
                        let last = event == ProcessEvent::Current;
                        on_event(event);
                        if last {
                            let _ = tell.send(());
                        }
                        ControlFlow::Continue(())
                    })
                });
                let since = *silent_since.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE {
                    let why = call.err().map_or_else(String::new, |e| Fault::from(e).to_string());
                    eprintln!("drivers: the supervisor does not answer, going away: {why}");
                    // It starts this domain again when it is back; the boxes are found again then.
                    std::process::exit(1);
                }
                std::thread::sleep(RETRY);
            }
        })?;
        current.recv().map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

fn request<'a>(
    template: &str,
    slot: Option<Slot>,
    params: Params,
    fds: &[(&str, BorrowedFd<'a>)],
) -> (Spawn, Vec<BorrowedFd<'a>>) {
    let names = fds.iter().map(|(name, _)| (*name).to_owned()).collect();
    (Spawn { template: template.into(), slot, params, fds: names }, fds.iter().map(|(_, fd)| *fd).collect())
}
