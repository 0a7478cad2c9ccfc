//! Everything that a machine needs before it runs: its ports, disk, accelerator, sockets, tap and logs; then the machine, which boots, or is
//! loaded from a template.
//!
//! What was taken is given back when any of it fails.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gtvp_ipc::Session;
use gtvp_ipc::drivers::{BoxHappening, Shape, Start, TEMPLATE_FAILED};
use gtvp_ipc::supervisor::Param;
use gtvp_model::boxspec::Protocol;
use gtvp_model::digest::Digest;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::guest::{GuestConfig, GuestNetwork};
use gtvp_model::ids::Slot;
use gtvp_model::operation::Progress;

use crate::accelerator::Accelerator;
use crate::agent::Agent;
use crate::applog::AppLog;
use crate::engine::{Life, Phase};
use crate::handed::{self, Handed};
use crate::inbox::Inbox;
use crate::link::{Params, QEMU};
use crate::monitor::Monitor;
use crate::record::{self, FORMAT, Record};
use crate::runtime::{Machine, News, Notes};
use crate::service::{Handle, Shared};
use crate::sessions::Sessions;
use crate::talk::Talk;
use crate::templates::{Key, Template};
use crate::{console, disk, qmp, tap};

/// Prefix length of the boxes' network.
const PREFIX: u8 = 24;
/// The kernel's arguments, as topology.toml has them: under TCG without what would only be slow there.
const ARGUMENTS_TCG: &str = "console=ttyS0 panic=-1 quiet cryptomgr.notests=1 8250.nr_uarts=1 no_timer_check tsc=reliable random.trust_cpu=on audit=0";
const ARGUMENTS_KVM: &str = "console=ttyS0 panic=-1 quiet 8250.nr_uarts=1 random.trust_cpu=on audit=0";

/// How long QEMU may take to load a machine: it reads some 90 MB, which the host mostly has in memory.
const LOAD: Duration = Duration::from_secs(30);

/// The descriptors that come with a start.
pub struct Given {
    /// The file-system server's end of vhost-user.
    pub root: OwnedFd,
    /// The kernel.
    pub kernel: OwnedFd,
    /// The initramfs.
    pub initrd: OwnedFd,
}

impl Given {
    /// Three, in this order.
    pub fn new(fds: Vec<OwnedFd>) -> Result<Self, Fault> {
        let Ok([root, kernel, initrd]) = <[OwnedFd; 3]>::try_from(fds) else {
            return Err(Fault::new(
                FaultKind::Invalid,
                "a start comes with three descriptors: root, kernel, initramfs",
            ));
        };
        Ok(Self { root, kernel, initrd })
    }
}

/// Gives back what was taken, unless the machine has it.
struct Taken<'a> {
    shared: &'a Shared,
    slot: Slot,
    ports: bool,
    new_disk: bool,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.ports {
            if let Err(e) = self.shared.link.publish(self.slot, &[]) {
                eprintln!("drivers: the ports of box {} cannot be given back: {e}", self.slot.get());
            }
        }
        let folder = self.shared.folders.of_box(self.slot);
        self.shared.keeper.leave(&folder);
        let mut leftovers = vec![self.shared.folders.sockets(self.slot), folder.join("run.json")];
        leftovers.extend(self.new_disk.then(|| folder.join("upper.img")));
        for path in leftovers {
            if let Err(e) = record::remove(&path) {
                eprintln!("drivers: {} cannot be removed: {e}", path.display());
            }
        }
    }
}

/// Starts a box's machine; gives its thread's work and the accelerator in words.
pub fn machine(
    shared: &Arc<Shared>,
    start: &Start,
    given: &Given,
    handle: &Handle,
    session: &mut Session,
) -> Result<(Machine, Arc<Inbox<News>>), Fault> {
    let slot = start.slot;
    let folder = shared.folders.of_box(slot);
    let sockets = shared.folders.sockets(slot);
    let failed = |what: &'static str| {
        move |e: std::io::Error| {
            let kind =
                if e.raw_os_error() == Some(libc::ENOSPC) { FaultKind::NoRoom } else { FaultKind::Internal };
            Fault::new(kind, what).caused_by(&e)
        }
    };
    record::private_dir(&folder).map_err(failed("the box's folder cannot be made"))?;
    shared.hub.forget(slot);
    let mut taken = Taken { shared, slot, ports: false, new_disk: false };
    if !start.publish.is_empty() {
        taken.ports = true;
        shared.link.publish(slot, &start.publish)?;
    }

    say(session, "disk", "preparing the writable layer")?;
    let (disk, new_disk) = disk::open(&shared.link, slot, &folder, start.disk, || !session.cancelled())?;
    taken.new_disk = new_disk;

    let accelerator = choose(shared, slot, given, session)?;
    let template = start.template.map(|digest| template(shared, start, &accelerator, &digest)).transpose()?;
    let how = if template.is_some() { "loading its template" } else { "starting the virtual machine" };
    say(session, "boot", how)?;
    let kvm = shared.chooser.device_of(&accelerator).map_err(failed("/dev/kvm cannot be opened"))?;
    let [qmp, agent] = handed::listen(&sockets).map_err(failed("the box's sockets cannot be made"))?;
    let tap = start
        .network
        .then(|| tap::open(slot))
        .transpose()
        .map_err(failed("the box's network interface cannot be made"))?;
    let keep = |path: &Path| {
        let file = console::create(path)?;
        shared.keeper.keep(path, &handle.bell)?;
        std::io::Result::Ok(file)
    };
    let logs = |e| failed("the box's logs cannot be made")(e);
    let (console, stderr): (File, File) =
        (keep(&console::path(&folder)).map_err(logs)?, keep(&console::stderr_path(&folder)).map_err(logs)?);
    let mut log = AppLog::open(&folder).map_err(logs)?;
    log.mark_start().map_err(logs)?;
    let config =
        configuration(shared, start, &folder).map_err(failed("the box's identity cannot be made"))?;

    let record = Record {
        format: FORMAT,
        name: start.name.to_string(),
        accelerator: accelerator.to_string(),
        memory: start.memory.0,
        hold: start.hold,
        publish: start.publish.clone(),
        state: Phase::Booting,
        paused: false,
        template: start.template,
    };
    record.save(&folder).map_err(failed("the box's record cannot be written"))?;
    let starter = Arc::new(Inbox::new().map_err(failed("out of descriptors"))?);
    let handed = Handed { disk, qmp, agent, console, stderr, tap, kvm };
    let params =
        parameters(shared, start.name.as_str(), slot, &shape(start), &accelerator, template.is_some());
    let spawned = shared.link.spawn(QEMU, slot, params, &handed.descriptors(given))?;

    // From here on the machine is there, and its thread gives everything back.
    let reached = || -> Result<(Agent, Monitor), Fault> {
        let cannot = failed("QEMU cannot be reached");
        // First, so that the guest finds the host where it was when the machine was saved.
        let agent = Agent::connect(&sockets.join("agent")).map_err(failed("QEMU cannot be reached"))?;
        if let Some((template, image)) = &template {
            load(&sockets.join("qmp"), template, image)
                .inspect_err(|_| shared.templates.discard(template))?;
        }
        Ok((agent, Monitor::connect(&sockets.join("qmp")).map_err(cannot)?))
    };
    let (agent, monitor) = match reached() {
        Ok(both) => both,
        Err(fault) => return Err(shared.link.kill(slot).err().unwrap_or(fault)),
    };
    std::mem::forget(taken);
    if let Some((template, _)) = &template {
        shared.templates.used(&template.digest);
    }
    let machine = Machine {
        shared: shared.clone(),
        slot,
        process: spawned.process,
        record,
        life: match template {
            Some(_) => Life::loaded(start.hold, Instant::now()),
            None => Life::new(start.hold, Instant::now()),
        },
        config: Some(config),
        inbox: handle.inbox.clone(),
        bell: handle.bell.clone(),
        starter: Some(starter.clone()),
        agent: Some(agent),
        monitor: Some(monitor),
        log,
        new_disk,
        sessions: Sessions::default(),
        notes: Notes::default(),
    };
    Ok((machine, starter))
}

fn shape(start: &Start) -> Shape {
    Shape { memory: start.memory, cpus: start.cpus, network: start.network, boot: start.boot }
}

/// The template that the start is to use, which must be the one for its machine.
fn template(
    shared: &Shared,
    start: &Start,
    accelerator: &Accelerator,
    digest: &Digest,
) -> Result<(Template, File), Fault> {
    let failed = |why: String| {
        Fault::new(FaultKind::WrongState, TEMPLATE_FAILED).because(TEMPLATE_FAILED).because(why)
    };
    match shared.templates.find(&Key::new(shape(start), accelerator)) {
        Ok(Some((template, image))) if template.digest == *digest => Ok((template, image)),
        Ok(_) => Err(failed(format!("template {} is not there, or for other machines", digest.short()))),
        Err(e) => Err(failed(e.to_string())),
    }
}

/// Loads the machine and lets it go on.
fn load(monitor: &Path, template: &Template, image: &File) -> Result<(), Fault> {
    let failed = |e: &dyn std::error::Error| {
        Fault::new(FaultKind::BoxFailed, TEMPLATE_FAILED).because(TEMPLATE_FAILED).caused_by(e)
    };
    let mut talk = Talk::begin(monitor, LOAD).map_err(|e| failed(&e))?;
    if talk.version() != template.qemu {
        let why = format!("QEMU is {} now, and {} saved it", talk.version(), template.qemu);
        return Err(Fault::new(FaultKind::WrongState, TEMPLATE_FAILED).because(TEMPLATE_FAILED).because(why));
    }
    talk.load(image.as_fd()).and_then(|()| talk.ask(qmp::Command::Cont)).map(drop).map_err(|e| failed(&e))
}

/// Tells the caller how far the start is; a caller that has gone has cancelled it.
pub fn say(session: &mut Session, phase: &str, message: &str) -> Result<(), Fault> {
    let progress = Progress { phase: phase.into(), message: message.into(), ..Progress::default() };
    let gone = session.progress(&progress).is_err() || session.cancelled();
    if gone { Err(Fault::new(FaultKind::Cancelled, "the start was cancelled")) } else { Ok(()) }
}

/// What the machine runs on; the watchers hear it when that was not known.
pub fn choose(
    shared: &Shared,
    slot: Slot,
    given: &Given,
    session: &mut Session,
) -> Result<Accelerator, Fault> {
    let progress = Progress {
        phase: "probe".into(),
        message: "trying whether KVM runs a guest here".into(),
        ..Progress::default()
    };
    let (kernel, initrd) = (given.kernel.as_fd(), given.initrd.as_fd());
    let chosen = {
        let session = std::cell::RefCell::new(&mut *session);
        // A caller that has gone is noticed by `wanted`.
        let probing = || drop(session.borrow_mut().progress(&progress));
        let wanted = || !session.borrow().cancelled();
        shared.chooser.choose(&shared.link, kernel, initrd, probing, wanted)
    };
    let (accelerator, news) = chosen?;
    if news {
        let message = match &accelerator {
            Accelerator::Kvm => "boxes run on KVM: a guest was tried".to_owned(),
            Accelerator::Tcg(why) => format!("boxes run on QEMU's translation (TCG), which is slow: {why}"),
        };
        shared.hub.emit(slot, BoxHappening::Notice { message });
    }
    Ok(accelerator)
}

/// QEMU's parameters for a machine; `load` when it is loaded and does not boot.
pub fn parameters(
    shared: &Shared,
    name: &str,
    slot: Slot,
    shape: &Shape,
    accelerator: &Accelerator,
    load: bool,
) -> Params {
    let append = match accelerator {
        Accelerator::Kvm => ARGUMENTS_KVM,
        Accelerator::Tcg(_) => ARGUMENTS_TCG,
    };
    let words = [
        // The template's bound; it is only what a process listing shows.
        ("name", format!("gtvp-{}-{name}", shared.config.name).chars().take(80).collect()),
        ("accel", accelerator.word().into()),
        ("cpu", accelerator.cpu().into()),
        ("append", append.into()),
        ("mac", shared.config.box_mac(slot)),
        ("incoming", if load { "defer" } else { "none" }.into()),
    ];
    let numbers = [("cpus", u64::from(shape.cpus)), ("memory_mib", shape.memory.as_mib())];
    let words = words.into_iter().map(|(name, word)| (name.to_owned(), Param::Word(word)));
    words.chain(numbers.map(|(name, n)| (name.to_owned(), Param::Int(n)))).collect()
}

fn configuration(shared: &Shared, start: &Start, folder: &Path) -> std::io::Result<GuestConfig> {
    let network = start.network.then(|| GuestNetwork {
        mac: shared.config.box_mac(start.slot),
        address: shared.config.box_address(start.slot),
        prefix: PREFIX,
        gateway: shared.config.box_gateway(),
        nameservers: start.nameservers.clone(),
    });
    let ports = |protocol| -> Vec<u16> {
        let published = start.publish.iter().filter(|p| p.protocol == protocol).map(|p| p.guest);
        published.collect::<BTreeSet<_>>().into_iter().collect()
    };
    Ok(GuestConfig {
        hostname: start.name.to_string(),
        machine_id: record::machine_id(folder)?,
        // Told when it is sent.
        time_ms: 0,
        entropy: record::random_hex(32)?,
        network,
        program: start.program.clone(),
        ready_ports: ports(Protocol::Tcp),
        ready_udp_ports: ports(Protocol::Udp),
    })
}
