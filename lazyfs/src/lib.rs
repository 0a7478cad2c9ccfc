//! A box's file-system server: the union of its composition over virtio-fs (GTVP: part of the OS Component Domain).
//!
//! It holds descriptors of linked objects only, never the store. It may die at any moment: what the next process needs is with the
//! supervisor ([`keeper`]), and QEMU and the box notice nothing. It does not decide what is linked; `components` does.

pub mod content;
pub mod device;
pub mod engine;
pub mod fetch;
pub mod fuse;
pub mod inflight;
pub mod keeper;
pub mod log;
pub mod memory;
pub mod pool;
pub mod queue;
pub mod ring;
pub mod serve;
pub mod stream;
pub mod tree;
pub mod upstream;
pub mod vhost;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use device::Device;
use engine::Engine;
use fetch::Fetch;
use inflight::Inflight;
use keeper::Keeper;
use log::say;
use serve::Root;
use upstream::Source;

/// Why the server ends without QEMU having gone.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The supervisor cannot be heard.
    #[error("what the supervisor holds cannot be had")]
    Keeper(#[source] io::Error),
    /// The first process of a box has no connection to QEMU.
    #[error("there is nothing to serve: neither a vhost descriptor nor anything held")]
    Nothing,
    /// What was held does not fit together.
    #[error("what the supervisor holds is of no use")]
    Left(#[from] device::Refused),
    /// The shared record cannot be had.
    #[error("the record of unanswered requests cannot be had")]
    Inflight(#[from] memory::BadRegion),
    /// The connection to QEMU failed.
    #[error("the connection to QEMU failed")]
    Vhost(#[source] io::Error),
}

/// Serves until QEMU goes. `vhost` is for the first process of a box; later ones find theirs with the supervisor.
pub fn run(keeper: UnixListener, vhost: Option<OwnedFd>, source: Box<dyn Source>) -> Result<(), Failure> {
    memory::limit_heap();
    // A defect ends the process, and the next one continues; a thread missing from it would hang the box.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::abort();
    }));
    let (keeper, left) = Keeper::open(keeper).map_err(Failure::Keeper)?;
    let (vhost, inflight, linked, left) = match left {
        Some(left) => {
            let fds = left.device.sort(left.fds)?;
            (
                fds.vhost.try_clone().map_err(Failure::Vhost)?,
                Inflight::open(fds.inflight.try_clone().map_err(Failure::Vhost)?)?,
                left.linked,
                Some((left.device, fds)),
            )
        }
        None => (vhost.ok_or(Failure::Nothing)?, Inflight::new()?, Vec::new(), None),
    };
    let inflight = Arc::new(inflight);
    let root = Arc::new(Root::default());
    let holding = keeper.clone();
    let fetch = Fetch::new(
        root.clone(),
        source,
        linked.clone(),
        Box::new(move |batches| holding.hold_linked(batches)),
    );
    let engine = Engine::new(root, fetch, &inflight);
    let mut device = Device::new(engine, inflight);
    if let Some((words, fds)) = left {
        device.take_over(words, fds)?;
    }
    let socket = UnixStream::from(vhost);
    let flags = rustix::fs::fcntl_getfl(&socket).map_err(|e| Failure::Vhost(e.into()))?;
    rustix::fs::fcntl_setfl(&socket, flags - rustix::fs::OFlags::NONBLOCK)
        .map_err(|e| Failure::Vhost(e.into()))?;
    let hold = |device: &Device| -> io::Result<()> {
        let (words, fds) = device.state();
        let connection = [OwnedFd::from(socket.try_clone()?), device.record()?].map(Arc::new);
        keeper.hold_device(words, connection.into_iter().chain(fds).collect());
        Ok(())
    };
    hold(&device).map_err(Failure::Vhost)?;
    device.settle();
    while let Some(mut received) = vhost::look(&socket).map_err(Failure::Vhost)? {
        let fds = std::mem::take(&mut received.fds);
        let answer = device.apply(&received.message, fds);
        if let Err(e) = &answer {
            say!("QEMU's message {} is refused: {e}", received.code);
        }
        hold(&device).map_err(Failure::Vhost)?;
        vhost::take(&socket, &received).map_err(Failure::Vhost)?;
        let number = match answer {
            Ok(Some(number)) => Some(number),
            Ok(None) => Some(0).filter(|_| received.acknowledge && device.acknowledges()),
            Err(_) => received
                .refusal()
                .or_else(|| Some(1).filter(|_| received.acknowledge && device.acknowledges())),
        };
        if let Some(number) = number {
            vhost::reply(&socket, received.code, number).map_err(Failure::Vhost)?;
        }
        device.settle();
    }
    Ok(())
}

/// A lock's content. A thread that panics ends the process, so no lock is ever poisoned.
pub(crate) fn locked<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn reading<T>(m: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    m.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn writing<T>(m: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    m.write().unwrap_or_else(PoisonError::into_inner)
}
