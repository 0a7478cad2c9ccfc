//! Hears what the other domains report, for as long as this domain lives.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use gtvp_ipc::drivers::BoxHappening;
use gtvp_ipc::place::SOCKETS;
use gtvp_ipc::{call_with, components, drivers};

use crate::runtime::Runtime;

/// Pause before a domain that has gone away is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// Starts the threads that listen.
pub fn start(runtime: &Arc<Runtime>) -> io::Result<()> {
    let for_drivers = runtime.clone();
    std::thread::Builder::new().name("watch-drivers".into()).spawn(move || {
        loop {
            for_drivers.engine().drivers_connected();
            let socket = format!("{SOCKETS}/drivers.sock");
            // Its end, whatever the reason, is answered by connecting anew.
            let _ = call_with(socket.as_ref(), &drivers::Watch {}, &[], |e: drivers::BoxEvent| {
                match e.what {
                    BoxHappening::AsksAboutPeer { ask, question } => {
                        for_drivers.box_asks(e.slot, ask, question);
                    }
                    what => for_drivers.observed(e.slot, &what),
                }
                ControlFlow::Continue(())
            });
            std::thread::sleep(PAUSE);
        }
    })?;
    let for_components = runtime.clone();
    std::thread::Builder::new().name("watch-components".into()).spawn(move || {
        loop {
            let socket = format!("{SOCKETS}/components.sock");
            let _ = call_with(socket.as_ref(), &components::Watch {}, &[], |e: components::RootEvent| {
                let name = e.slot.and_then(|slot| {
                    let engine = for_components.engine();
                    engine.boxes().find(|r| r.slot == slot).map(|r| r.spec.name.to_string())
                });
                for_components.events.tell(e.severity, &e.kind, name, e.message);
                ControlFlow::Continue(())
            });
            std::thread::sleep(PAUSE);
        }
    })?;
    let for_asks = runtime.clone();
    std::thread::Builder::new().name("watch-asks".into()).spawn(move || for_asks.watch_asks())?;
    let for_union = runtime.clone();
    let for_verdicts = runtime.clone();
    std::thread::Builder::new().name("watch-verdicts".into()).spawn(move || for_verdicts.watch_verdicts())?;
    std::thread::Builder::new().name("watch-union".into()).spawn(move || for_union.watch_union())?;
    let for_status = runtime.clone();
    std::thread::Builder::new().name("status".into()).spawn(move || crate::status::tell(&for_status))?;
    Ok(())
}
