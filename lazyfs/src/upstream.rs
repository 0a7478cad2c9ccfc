//! The way to `components`: the calls that a file-system server makes, tried again for a while when `components` is restarting.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use gtvp_ipc::components::{Attach, Damaged, Layer, Missing, Names, ReadManifest, ReadObject};
use gtvp_ipc::{CallError, Client, Method};
use gtvp_model::component::{Entry, MAX_MANIFEST_BYTES, Manifest, RootPath};
use gtvp_model::digest::Digest;
use gtvp_model::fault::Fault;

use crate::locked;

/// How long a restarting `components` is waited for: it is back within a second, or something is badly wrong.
const PATIENCE: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Connections kept for the next call.
const MAX_IDLE: usize = 2;

/// Why something could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// `components` refused, failed or stayed away.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// It answered without the descriptor that belongs to the answer.
    #[error("components answered without a descriptor")]
    NoDescriptor,
    /// A manifest that cannot be read.
    #[error("manifest {0:?} cannot be read")]
    Unreadable(Digest, #[source] io::Error),
    /// A manifest that is not what its digest says.
    #[error("manifest {0:?} is damaged")]
    Damaged(Digest),
    /// A manifest that is refused.
    #[error("manifest {0:?} is not usable")]
    Manifest(Digest, #[source] gtvp_model::component::BadManifest),
}

/// Where layers, manifests and contents come from.
pub trait Source: Send + Sync {
    /// The box's layers.
    fn attach(&self) -> Result<Vec<Layer>, Unavailable>;
    /// A manifest's entries, checked.
    fn manifest(&self, digest: Digest) -> Result<Vec<Entry>, Unavailable>;
    /// Links whoever provides `path`.
    fn missing(&self, path: RootPath) -> Result<Vec<Layer>, Unavailable>;
    /// Names in `dir` that unlinked components provide.
    fn names(&self, dir: RootPath) -> Result<Vec<RootPath>, Unavailable>;
    /// A file's contents, not verified.
    fn object(&self, digest: Digest) -> Result<OwnedFd, Unavailable>;
    /// Tells that contents are damaged.
    fn damaged(&self, digest: Digest) -> Result<(), Unavailable>;
}

/// `components`, by its socket.
pub struct Components {
    socket: PathBuf,
    idle: Mutex<Vec<Client>>,
}

impl Components {
    /// By the socket at `socket`.
    pub fn at(socket: PathBuf) -> Self {
        Self { socket, idle: Mutex::new(Vec::new()) }
    }

    /// Every call of this interface may be made twice: each only asks, or makes something so that already may be.
    fn call<M: Method>(&self, params: &M) -> Result<(M::Reply, Vec<OwnedFd>), Unavailable> {
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let kept = locked(&self.idle).pop();
            let was_kept = kept.is_some();
            let error = match kept.map_or_else(|| Client::connect(&self.socket), Ok) {
                Ok(mut client) => match client.call(params, &[], |_| ControlFlow::Continue(())) {
                    Ok(answer) => {
                        let mut idle = locked(&self.idle);
                        if idle.len() < MAX_IDLE {
                            idle.push(client);
                        }
                        return Ok(answer);
                    }
                    // It ended since the last call: that says nothing of now.
                    Err(CallError::Lost { .. }) if was_kept => continue,
                    Err(e) => e,
                },
                Err(source) => CallError::Unreachable { callee: M::CALLEE, source },
            };
            let fault = Fault::from(error);
            if !fault.retryable || begun.elapsed() + pause > PATIENCE {
                return Err(fault.into());
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn descriptor<M: Method>(&self, params: &M) -> Result<OwnedFd, Unavailable> {
        let (_, mut fds) = self.call(params)?;
        if fds.len() == 1 { fds.pop() } else { None }.ok_or(Unavailable::NoDescriptor)
    }
}

impl Source for Components {
    fn attach(&self) -> Result<Vec<Layer>, Unavailable> {
        Ok(self.call(&Attach {})?.0.layers)
    }

    fn manifest(&self, digest: Digest) -> Result<Vec<Entry>, Unavailable> {
        read_manifest(digest, self.descriptor(&ReadManifest { manifest: digest })?)
    }

    fn missing(&self, path: RootPath) -> Result<Vec<Layer>, Unavailable> {
        Ok(self.call(&Missing { path })?.0.layers)
    }

    fn names(&self, dir: RootPath) -> Result<Vec<RootPath>, Unavailable> {
        Ok(self.call(&Names { dir })?.0.names)
    }

    fn object(&self, digest: Digest) -> Result<OwnedFd, Unavailable> {
        self.descriptor(&ReadObject { digest })
    }

    fn damaged(&self, digest: Digest) -> Result<(), Unavailable> {
        self.call(&Damaged { digest }).map(|_| ())
    }
}

/// Reads, verifies and checks a manifest. Its digest is that of its bytes, so the canonical form needs no second look.
fn read_manifest(digest: Digest, fd: OwnedFd) -> Result<Vec<Entry>, Unavailable> {
    let unreadable = |e| Unavailable::Unreadable(digest, e);
    let file = std::fs::File::from(fd);
    let size = file.metadata().map_err(unreadable)?.len();
    if size > MAX_MANIFEST_BYTES {
        return Err(unreadable(io::ErrorKind::FileTooLarge.into()));
    }
    let mut bytes =
        vec![0; usize::try_from(size).map_err(|_| unreadable(io::ErrorKind::FileTooLarge.into()))?];
    file.read_exact_at(&mut bytes, 0).map_err(unreadable)?;
    if Digest::of(&bytes) != digest {
        return Err(Unavailable::Damaged(digest));
    }
    let manifest: Manifest =
        serde_json::from_slice(&bytes).map_err(|e| Unavailable::Manifest(digest, e.into()))?;
    manifest.check().map_err(|e| Unavailable::Manifest(digest, e))?;
    Ok(manifest.entries)
}
