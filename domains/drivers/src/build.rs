//! Boots a machine until its guest waits to hear which box it is, and saves it there: a template (docs/design/templates.md).
//!
//! It is a box's machine in everything, with a disk and a tap that nobody uses, and ends when it is saved. No box's name, address,
//! key or program is ever told to it.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gtvp_ipc::Session;
use gtvp_ipc::drivers::BuildTemplate;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::guest::{GuestState, PROTOCOL, ToHost};
use gtvp_model::template::TemplateView;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::accelerator::Accelerator;
use crate::agent::{Agent, Said};
use crate::engine::BOOT;
use crate::handed::{self, Handed};
use crate::link::QEMU;
use crate::service::Shared;
use crate::start::{self, Given};
use crate::talk::Talk;
use crate::templates::{Key, Templates};
use crate::{console, qmp, record, tap, words};

/// How long saving may take: QEMU looks at all of the memory, at some 0.5 GB/s.
const SAVE: Duration = Duration::from_secs(120);
/// How often it is noticed that nobody wants the template any more.
const LOOK: Duration = Duration::from_millis(200);
/// Size of a disk that no driver of the guest looks at.
const DISK: u64 = 1024 * 1024;

/// Does it all; gives the template.
pub fn template(
    shared: &Shared,
    asked: &BuildTemplate,
    given: &Given,
    session: &mut Session,
) -> Result<TemplateView, Fault> {
    let failed = |e: std::io::Error| {
        let kind =
            if e.raw_os_error() == Some(libc::ENOSPC) { FaultKind::NoRoom } else { FaultKind::Internal };
        Fault::new(kind, "the template cannot be prepared").caused_by(&e)
    };
    let accelerator = start::choose(shared, asked.slot, given, session)?;
    let _alone = shared.templates.build();
    start::say(session, "boot", "booting a machine for the template")?;
    let workshop = shared.templates.workshop().map_err(failed)?;
    let sockets = shared.folders.sockets(asked.slot);
    let built = machine(shared, asked, given, session, &accelerator, &workshop);
    // Whether it was started or not, saved or not.
    let killed = shared.link.kill(asked.slot);
    let outcome = built.and_then(|qemu| {
        killed?;
        start::say(session, "keep", "checking what was saved")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        let key = Key::new(asked.shape, &accelerator);
        let template = shared
            .templates
            .add(key, &workshop, &qemu, now.try_into().unwrap_or(0))
            .map_err(|e| Fault::internal("the template cannot be kept", &e))?;
        Ok(shared.templates.view(&template))
    });
    for path in [&workshop, &sockets] {
        record::remove(path)
            .unwrap_or_else(|e| eprintln!("drivers: {} cannot be removed: {e}", path.display()));
    }
    outcome
}

/// Boots the machine and saves it; gives QEMU's version.
fn machine(
    shared: &Shared,
    asked: &BuildTemplate,
    given: &Given,
    session: &mut Session,
    accelerator: &Accelerator,
    workshop: &Path,
) -> Result<String, Fault> {
    let failed = |what: &'static str| move |e: std::io::Error| Fault::internal(what, &e);
    let cannot = failed("the template's machine cannot be prepared");
    let slot = asked.slot;
    let sockets = shared.folders.sockets(slot);
    let [qmp, agent] = handed::listen(&sockets).map_err(cannot)?;
    let handed = Handed {
        qmp,
        agent,
        console: console::create(&console::path(workshop)).map_err(cannot)?,
        stderr: console::create(&console::stderr_path(workshop)).map_err(cannot)?,
        disk: disk(workshop).map_err(cannot)?,
        tap: asked.shape.network.then(|| tap::open(slot)).transpose().map_err(cannot)?,
        kvm: shared.chooser.device_of(accelerator).map_err(failed("/dev/kvm cannot be opened"))?,
    };
    let params = start::parameters(shared, "template", slot, &asked.shape, accelerator, false);
    shared.link.spawn(QEMU, slot, params, &handed.descriptors(given))?;
    let agent = Agent::connect(&sockets.join("agent")).map_err(failed("QEMU cannot be reached"))?;
    let _host = until_waiting(agent, session).map_err(|fault| {
        let (console, stderr) =
            (words::tail(&console::path(workshop)), words::tail(&console::stderr_path(workshop)));
        let known = words::Known { console: &console, stderr: &stderr, how: "killed", shutdown: None };
        if fault.kind == FaultKind::Cancelled { fault } else { fault.because(words::last_words(&known)) }
    })?;
    start::say(session, "save", "saving the machine")?;
    let image = Templates::new_image(workshop).map_err(cannot)?;
    let save = || {
        let mut talk = Talk::begin(&sockets.join("qmp"), SAVE)?;
        talk.ask(qmp::Command::Stop)?;
        talk.save(image.as_fd())?;
        Ok(talk.version().to_owned())
    };
    save().map_err(|e: crate::talk::Broken| {
        Fault::new(FaultKind::Internal, "the template's machine cannot be saved").caused_by(&e)
    })
}

fn disk(workshop: &Path) -> std::io::Result<File> {
    let path = workshop.join("disk");
    let disk = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    disk.set_len(DISK)?;
    record::remove(&path)?;
    Ok(disk)
}

/// Waits until the guest has booted and waits for its configuration. It keeps the way to the host open until the machine is saved: the
/// box that is loaded finds a host there too.
fn until_waiting(mut agent: Agent, session: &Session) -> Result<Agent, Fault> {
    let failed =
        |why: String| Fault::new(FaultKind::BoxFailed, "the template's machine did not boot").because(why);
    let deadline = Instant::now() + BOOT;
    loop {
        agent.flush().map_err(|e| failed(e.to_string()))?;
        let mut flags = PollFlags::IN;
        flags.set(PollFlags::OUT, agent.wants_write());
        let mut fds = [PollFd::from_borrowed_fd(agent.as_fd(), flags)];
        let look = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
        // An interruption is a look too many, nothing else.
        let _ = poll(&mut fds, Some(&look));
        let heard = !(fds[0].revents() - PollFlags::OUT).is_empty();
        for said in if heard { agent.receive().map_err(|e| failed(e.to_string()))? } else { Vec::new() } {
            match said {
                Said::Control(ToHost::Welcome { protocol: PROTOCOL, state: GuestState::Waiting, .. }) => {
                    return Ok(agent);
                }
                Said::Control(ToHost::Welcome { protocol, state, .. }) => {
                    return Err(failed(format!(
                        "its guest-init speaks protocol {protocol} and is {state:?}"
                    )));
                }
                _ => {}
            }
        }
        if session.cancelled() {
            return Err(Fault::new(FaultKind::Cancelled, "the template is not wanted any more"));
        }
        if Instant::now() >= deadline {
            return Err(failed(format!("its guest said nothing for {} seconds", BOOT.as_secs())));
        }
    }
}
