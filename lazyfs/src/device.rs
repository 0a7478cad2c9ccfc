//! The device as QEMU sets it up: features, memory, queues; and its state in words, for the process after this one.
//!
//! Each message goes through three steps: `apply` brings words and descriptors up to date and stops what must not run,
//! then the supervisor holds the new state and the message is taken and answered, then `settle` starts what may run.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::inflight::{Inflight, MAX_QUEUES};
use crate::log::say;
use crate::memory::{GuestMemory, Region};
use crate::pool::STACK;
use crate::queue::agree;
use crate::ring::{Layout, MAX_SIZE};
use crate::stream;
use crate::vhost::{
    EVENT_INDEX, INDIRECT, LOG_ALL, Message, PROTOCOL_FEATURES, PROTOCOL_LOG, PROTOCOL_MQ,
    PROTOCOL_REPLY_ACK, PROTOCOL_STATE, VERSION_1,
};

const FEATURES: u64 = VERSION_1 | PROTOCOL_FEATURES | EVENT_INDEX | INDIRECT;
const PROTOCOL: u64 = PROTOCOL_MQ | PROTOCOL_REPLY_ACK | PROTOCOL_LOG | PROTOCOL_STATE;

/// A queue in words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueWords {
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
    base: u16,
    enabled: bool,
    kick: bool,
    call: bool,
}

/// The device in words. Descriptors beside them: the connection to QEMU, the record of unanswered requests, one for each region,
/// then for each queue its kick and its call, where it has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Words {
    features: u64,
    protocol: u64,
    regions: Vec<Region>,
    queues: Vec<QueueWords>,
}

struct Running {
    stop: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Parts {
    kick: Option<Arc<OwnedFd>>,
    call: Option<Arc<OwnedFd>>,
    running: Option<Running>,
}

/// Why what was left cannot be used, or a message is refused.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

impl From<&str> for Refused {
    fn from(s: &str) -> Self {
        Self(s.to_owned())
    }
}

/// The device.
pub struct Device {
    engine: Arc<Engine>,
    inflight: Arc<Inflight>,
    words: Words,
    memory: Arc<GuestMemory>,
    region_fds: Vec<Arc<OwnedFd>>,
    queues: Vec<Parts>,
    /// Where the state is that QEMU has us load; lost with this process, and the machine with it that was to start.
    loading: Option<OwnedFd>,
}

/// What the descriptors that were held are.
pub struct Descriptors {
    /// The connection to QEMU.
    pub vhost: OwnedFd,
    /// The record of unanswered requests.
    pub inflight: OwnedFd,
    regions: Vec<OwnedFd>,
    rings: Vec<(Option<OwnedFd>, Option<OwnedFd>)>,
}

impl Words {
    /// Sorts the descriptors that were held.
    pub fn sort(&self, fds: Vec<OwnedFd>) -> Result<Descriptors, Refused> {
        if self.queues.len() > MAX_QUEUES {
            return Err("there are more queues than there may be".into());
        }
        let mut fds = fds.into_iter();
        let mut next = || fds.next().ok_or(Refused::from("a descriptor is missing"));
        let vhost = next()?;
        let inflight = next()?;
        let regions = self.regions.iter().map(|_| next()).collect::<Result<_, _>>()?;
        let ring =
            |q: &QueueWords| Ok((q.kick.then(&mut next).transpose()?, q.call.then(&mut next).transpose()?));
        let rings = self.queues.iter().map(ring).collect::<Result<_, Refused>>()?;
        Ok(Descriptors { vhost, inflight, regions, rings })
    }
}

impl Device {
    /// A device that QEMU has not set up.
    pub fn new(engine: Arc<Engine>, inflight: Arc<Inflight>) -> Self {
        let words = Words { queues: vec![QueueWords::default(); MAX_QUEUES], ..Words::default() };
        let queues = (0..MAX_QUEUES).map(|_| Parts::default()).collect();
        Self {
            engine,
            inflight,
            words,
            memory: Arc::default(),
            region_fds: Vec::new(),
            queues,
            loading: None,
        }
    }

    /// The device that a process before us left.
    pub fn take_over(&mut self, mut words: Words, fds: Descriptors) -> Result<(), Refused> {
        words.queues.resize(MAX_QUEUES, QueueWords::default());
        let regions: Vec<_> = fds.regions.into_iter().map(Arc::new).collect();
        self.memory =
            Arc::new(GuestMemory::map(&words.regions, &regions).map_err(|e| Refused(e.to_string()))?);
        self.region_fds = regions;
        for (parts, (kick, call)) in self.queues.iter_mut().zip(fds.rings) {
            parts.kick = kick.map(Arc::new);
            parts.call = call.map(Arc::new);
        }
        self.words = words;
        Ok(())
    }

    /// Its state, to be held: words and descriptors without the connection to QEMU and the record.
    pub fn state(&self) -> (Words, Vec<Arc<OwnedFd>>) {
        let rings = self.queues.iter().flat_map(|p| p.kick.iter().chain(&p.call));
        (self.words.clone(), self.region_fds.iter().chain(rings).cloned().collect())
    }

    /// Whether acknowledgements were agreed on.
    pub fn acknowledges(&self) -> bool {
        self.words.protocol & PROTOCOL_REPLY_ACK != 0
    }

    /// Carries out a message as far as it may be done again by another process. Gives the number to answer with, for a message that
    /// has an answer.
    pub fn apply(&mut self, message: &Message, fds: Vec<OwnedFd>) -> Result<Option<u64>, Refused> {
        match message {
            Message::GetFeatures => return Ok(Some(FEATURES | LOG_ALL)),
            Message::GetProtocolFeatures => return Ok(Some(PROTOCOL)),
            Message::GetQueueNum => return Ok(Some(MAX_QUEUES as u64)),
            Message::SetFeatures(f) if f & !FEATURES == 0 && f & VERSION_1 != 0 => self.words.features = *f,
            Message::SetFeatures(_) => return Err("features that were not offered".into()),
            Message::SetProtocolFeatures(f) if f & !PROTOCOL == 0 => self.words.protocol = *f,
            Message::SetProtocolFeatures(_) => return Err("protocol features that were not offered".into()),
            Message::Ignored => {}
            Message::SetLogBase => return Ok(Some(0)),
            Message::SetDeviceState { load } => {
                let fd = fds.into_iter().next().ok_or("no descriptor for the state")?;
                if *load {
                    self.loading = Some(fd);
                } else {
                    stream::save(fd, self.unanswered())?;
                }
                return Ok(Some(stream::TAKEN));
            }
            Message::CheckDeviceState => {
                self.loading.take().map_or(Ok(()), stream::load)?;
                return Ok(Some(0));
            }
            Message::SetMemTable(regions) => {
                let fds: Vec<_> = fds.into_iter().map(Arc::new).collect();
                let memory = GuestMemory::map(regions, &fds).map_err(|e| Refused(e.to_string()))?;
                (0..MAX_QUEUES).for_each(|n| self.halt(n));
                (self.memory, self.region_fds, self.words.regions) = (Arc::new(memory), fds, regions.clone());
            }
            Message::SetVringNum { queue, size } => {
                let size = u16::try_from(*size).ok().filter(|s| *s <= MAX_SIZE && s.is_power_of_two());
                self.idle(*queue)?.size = size.ok_or("a queue's size that it cannot have")?;
            }
            Message::SetVringAddr { queue, descriptors, used, available } => {
                let words = self.idle(*queue)?;
                (words.descriptors, words.used, words.available) = (*descriptors, *used, *available);
            }
            Message::SetVringBase { queue, base } => {
                self.idle(*queue)?.base =
                    u16::try_from(*base).map_err(|_| "a base that a split queue cannot have")?;
            }
            Message::GetVringBase { queue } => {
                self.idle(*queue)?.kick = false;
                self.queues[*queue].kick = None;
                // The queue's number and its base, each 32 bits.
                let base = u64::from(self.words.queues[*queue].base);
                return Ok(Some(base << 32 | *queue as u64));
            }
            Message::SetVringKick { queue, descriptor } => {
                self.idle(*queue)?.kick = *descriptor;
                self.queues[*queue].kick = fds.into_iter().next().map(Arc::new);
                self.prepare(*queue)?;
            }
            Message::SetVringCall { queue, descriptor } => {
                self.words(*queue)?.call = *descriptor;
                let call = fds.into_iter().next().map(Arc::new);
                self.queues[*queue].call = call.clone();
                self.engine.queues[*queue].set_call(call);
            }
            Message::SetVringEnable { queue, on } => {
                self.words(*queue)?.enabled = *on;
                if !on {
                    self.halt(*queue);
                }
                self.prepare(*queue)?;
            }
            Message::Unknown => return Err("a message that is not known here".into()),
        }
        Ok(None)
    }

    fn words(&mut self, queue: usize) -> Result<&mut QueueWords, Refused> {
        self.words.queues.get_mut(queue).ok_or_else(|| "a queue that there is not".into())
    }

    /// The words of a queue that is stopped, if it was not, for a change.
    fn idle(&mut self, queue: usize) -> Result<&mut QueueWords, Refused> {
        self.words(queue)?;
        self.halt(queue);
        self.words(queue)
    }

    /// How many requests are unanswered, of queues that are stopped.
    fn unanswered(&self) -> usize {
        let of = |n| self.inflight.unanswered(n, self.inflight.used(n)).len();
        (0..MAX_QUEUES).map(of).sum()
    }

    /// Stops a queue; what is unanswered stays in the record.
    fn halt(&mut self, queue: usize) {
        let Some(running) = self.queues[queue].running.take() else { return };
        if let Some(taken) = self.engine.queues[queue].stop() {
            self.words.queues[queue].base = taken;
        }
        let _ = rustix::io::write(&running.stop, &1u64.to_ne_bytes());
        if running.thread.join().is_err() {
            say!("the thread of queue {queue} had failed");
        }
    }

    /// Where a queue is, if it may run.
    fn layout(&self, queue: usize) -> Option<Layout> {
        let words = &self.words.queues[queue];
        let enabled = words.enabled || self.words.features & PROTOCOL_FEATURES == 0;
        if !enabled || self.queues[queue].kick.is_none() || words.size == 0 {
            return None;
        }
        let find = |user, len| self.memory.guest_of_user(user, len);
        Some(Layout {
            size: words.size,
            descriptors: find(words.descriptors, Layout::descriptor_bytes(words.size))?,
            available: find(words.available, Layout::available_bytes(words.size))?,
            used: find(words.used, Layout::used_bytes(words.size))?,
        })
    }

    /// Before a queue that QEMU has set up is held as running: what is in the record must be its own, not of a device before
    /// a reset. Doing it twice changes nothing.
    fn prepare(&mut self, queue: usize) -> Result<(), Refused> {
        if self.queues[queue].running.is_some() {
            return Ok(());
        }
        let Some(layout) = self.layout(queue) else { return Ok(()) };
        let base = Some(self.words.queues[queue].base);
        agree(&self.inflight, queue, &layout, &self.memory, base).map_err(|e| Refused(e.to_string()))?;
        Ok(())
    }

    /// Starts the queues that may run and do not.
    pub fn settle(&mut self) {
        for queue in 0..MAX_QUEUES {
            if self.queues[queue].running.is_none() {
                if let Some(layout) = self.layout(queue) {
                    if let Err(e) = self.start(queue, layout) {
                        say!("queue {queue} cannot start: {e}");
                    }
                }
            }
        }
    }

    fn start(&mut self, number: usize, layout: Layout) -> Result<(), Refused> {
        let failed = |e: &dyn std::fmt::Display| Refused(e.to_string());
        let parts = &mut self.queues[number];
        let kick = parts.kick.clone().ok_or("it has no kick")?;
        let stop = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).map_err(|e| failed(&e))?;
        let stop = Arc::new(stop);
        let event_index = self.words.features & EVENT_INDEX != 0;
        let queue = &self.engine.queues[number];
        let (epoch, again) = queue
            .start(layout, self.memory.clone(), parts.call.clone(), event_index)
            .map_err(|e| failed(&e))?;
        if !again.is_empty() {
            say!("queue {number} does {} requests again", again.len());
        }
        let (engine, halt) = (self.engine.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || engine.serve(number, epoch, &kick, &halt, again))
            .map_err(|e| failed(&e))?;
        parts.running = Some(Running { stop, thread });
        Ok(())
    }

    /// A second descriptor of the record.
    pub fn record(&self) -> std::io::Result<OwnedFd> {
        self.inflight.file().as_fd().try_clone_to_owned()
    }
}
