//! Tells other members how this one is: what it has seen, signed by `security`, passed on by `communication`. Nobody waits for it, and
//! nothing rests on it.

use std::sync::Arc;
use std::time::Duration;

use gtvp_ipc::{communication, components, security};
use gtvp_model::boxview::BoxState;

use crate::peers;
use crate::runtime::Runtime;

/// How often it is looked at: less often than makes other domains keep what they need for an answer (ipc/src/server.rs). `security` says when
/// it is told: at most once a period.
const EVERY: Duration = Duration::from_secs(30);
const MIB: u64 = 1024 * 1024;

/// Looks and tells for as long as this domain lives.
pub fn tell(runtime: &Arc<Runtime>) {
    loop {
        // Outside of a union, and while another domain is away, there is nobody to tell.
        if let Ok(security::SignedStatus { entry: Some(entry) }) =
            seen(runtime).and_then(|status| peers::ask(&security::SignStatus { status }))
        {
            let _ = peers::tell(&communication::SpreadStatus { entry });
        }
        std::thread::sleep(EVERY);
    }
}

fn seen(runtime: &Runtime) -> Result<security::Status, gtvp_model::fault::Fault> {
    // Whoever is in no union is spared the looking.
    peers::ask(&security::ShowUnion {})?;
    let status = runtime.status()?;
    let components = peers::ask(&components::List {})?;
    let boxes = runtime.engine().boxes().filter(|r| r.state == BoxState::Running).count();
    let mib = |bytes: u64| u32::try_from(bytes / MIB).unwrap_or(u32::MAX);
    Ok(security::Status {
        load: status.load,
        cpus: status.cpus,
        memory_free_mib: mib(status.memory_available_bytes),
        memory_mib: mib(status.memory_bytes),
        boxes: u32::try_from(boxes).unwrap_or(u32::MAX),
        version: env!("CARGO_PKG_VERSION").into(),
        record: 0,
        components_mib: components.iter().map(|c| c.content_bytes).fold(0, u64::saturating_add) / MIB,
    })
}
