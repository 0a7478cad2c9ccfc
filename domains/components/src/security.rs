//! What `security` is asked: a signature for a manifest, an appraisal before a component is linked.

use std::path::PathBuf;
use std::time::Duration;

use gtvp_ipc::Method;
use gtvp_ipc::security::{AppraiseComponent, SignManifest, Signature};
use gtvp_model::boxview::Appraisal;
use gtvp_model::digest::Digest;
use gtvp_model::fault::Fault;

/// How often and how far apart a restarting `security` is asked again: it is back within a second.
const ATTEMPTS: u32 = 20;
/// See [`ATTEMPTS`].
const PAUSE: Duration = Duration::from_millis(100);

/// The two questions.
pub trait Security: Send + Sync {
    /// Signs a manifest.
    fn sign(&self, digest: Digest) -> Result<Signature, Fault>;
    /// Appraises a component.
    fn appraise(&self, component: AppraiseComponent) -> Result<Appraisal, Fault>;
}

/// The member's own `security`.
pub struct Domain {
    /// Its socket.
    pub socket: PathBuf,
}

impl Domain {
    fn call<M: Method>(&self, params: &M) -> Result<M::Reply, Fault> {
        let mut attempt = 0;
        loop {
            match gtvp_ipc::call(&self.socket, params).map_err(Fault::from) {
                Err(fault) if fault.retryable && attempt < ATTEMPTS => {
                    attempt += 1;
                    std::thread::sleep(PAUSE);
                }
                other => return other,
            }
        }
    }
}

impl Security for Domain {
    fn sign(&self, digest: Digest) -> Result<Signature, Fault> {
        self.call(&SignManifest { digest })
    }

    fn appraise(&self, component: AppraiseComponent) -> Result<Appraisal, Fault> {
        self.call(&component)
    }
}
