//! One queue while it runs: who takes from it, who answers into it, and how it stops without losing a request.
//!
//! Whoever touches the guest's memory for a request holds a [`Pin`]; stopping waits for pins, which are short, and never
//! for what a request needs from elsewhere. A request whose queue stopped meanwhile is dropped by whoever works on it: it is
//! still in the record of unanswered ones and is done again when the queue starts again, by this process or the next.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::inflight::Inflight;
use crate::locked;
use crate::memory::GuestMemory;
use crate::ring::{Broken, Layout, Ring};

struct Running {
    ring: Ring,
    memory: Arc<GuestMemory>,
    call: Option<Arc<OwnedFd>>,
}

#[derive(Default)]
struct State {
    running: Option<Running>,
    epoch: u64,
    pins: usize,
    stopping: bool,
}

/// A queue.
pub struct Queue {
    number: usize,
    inflight: Arc<Inflight>,
    state: Mutex<State>,
    unpinned: Condvar,
}

/// The queue was stopped since.
#[derive(Debug, PartialEq, Eq)]
pub struct Stopped;

/// Leave to touch the guest's memory.
pub struct Pin<'a> {
    queue: &'a Queue,
    /// The memory.
    pub memory: Arc<GuestMemory>,
    /// Where the queue is.
    pub layout: Layout,
}

/// Brings the record of unanswered requests in agreement with a queue that is about to start at `base`: a device that was reset
/// has none. Gives the heads to do again.
pub fn agree(
    inflight: &Inflight,
    number: usize,
    layout: &Layout,
    memory: &GuestMemory,
    base: Option<u16>,
) -> Result<Vec<u16>, Broken> {
    let used = layout.used_index(memory)?;
    let heads = inflight.unanswered(number, used);
    // Everything taken was answered or is in the record.
    let taken = u16::try_from(heads.len()).map(|n| used.wrapping_add(n));
    let agrees = base.is_none_or(|base| taken == Ok(base)) && heads.iter().all(|h| *h < layout.size);
    if agrees {
        return Ok(heads);
    }
    inflight.reset(number, used);
    Ok(Vec::new())
}

impl Queue {
    /// One that does not run.
    pub fn new(number: usize, inflight: Arc<Inflight>) -> Self {
        Self { number, inflight, state: Mutex::default(), unpinned: Condvar::new() }
    }

    /// Starts it where it stopped. Gives its epoch and the heads to do again.
    pub fn start(
        &self,
        layout: Layout,
        memory: Arc<GuestMemory>,
        call: Option<Arc<OwnedFd>>,
        event_index: bool,
    ) -> Result<(u64, Vec<u16>), Broken> {
        let heads = agree(&self.inflight, self.number, &layout, &memory, None)?;
        let used = layout.used_index(&memory)?;
        let taken = used.wrapping_add(u16::try_from(heads.len()).map_err(|_| Broken::Layout)?);
        let ring = Ring::new(layout, event_index, taken, used)?;
        let mut state = locked(&self.state);
        state.running = Some(Running { ring, memory, call });
        // The process before us may have died between an answer and its call.
        signal(state.running.as_ref());
        Ok((state.epoch, heads))
    }

    /// Stops it: nothing touches the guest's memory for it afterwards. Gives how many requests were taken.
    pub fn stop(&self) -> Option<u16> {
        let mut state = locked(&self.state);
        state.stopping = true;
        while state.pins > 0 {
            state = self.unpinned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.stopping = false;
        state.epoch += 1;
        state.running.take().map(|r| r.ring.taken)
    }

    /// Where to call the guest from now on.
    pub fn set_call(&self, call: Option<Arc<OwnedFd>>) {
        let mut state = locked(&self.state);
        if let Some(r) = state.running.as_mut() {
            r.call = call;
        }
        // An answer may have been called out on the descriptor before.
        signal(state.running.as_ref());
    }

    /// Leave to touch the guest's memory for a request of this epoch.
    pub fn pin(&self, epoch: u64) -> Option<Pin<'_>> {
        let mut state = locked(&self.state);
        if state.epoch != epoch || state.stopping {
            return None;
        }
        let running = state.running.as_ref()?;
        let (memory, layout) = (running.memory.clone(), *running.ring.layout());
        state.pins += 1;
        Some(Pin { queue: self, memory, layout })
    }

    /// The next request's head.
    pub fn take(&self, epoch: u64) -> Result<Result<Option<u16>, Broken>, Stopped> {
        self.with(epoch, |number, inflight, r| {
            r.ring.quiet(&r.memory)?;
            let Some(head) = r.ring.take(&r.memory)? else { return Ok(None) };
            if inflight.begin(number, head) { Ok(Some(head)) } else { Err(Broken::Twice(head)) }
        })
    }

    /// Asks for a kick with the next request. True when there is one already.
    pub fn listen(&self, epoch: u64) -> Result<Result<bool, Broken>, Stopped> {
        self.with(epoch, |_, _, r| r.ring.listen(&r.memory))
    }

    /// As after a reset of the device.
    #[cfg(test)]
    pub fn inflight_reset(&self) {
        self.inflight.reset(self.number, 0);
    }

    fn with<T>(
        &self,
        epoch: u64,
        f: impl FnOnce(usize, &Inflight, &mut Running) -> Result<T, Broken>,
    ) -> Result<Result<T, Broken>, Stopped> {
        let mut state = locked(&self.state);
        if state.epoch != epoch || state.stopping {
            return Err(Stopped);
        }
        let running = state.running.as_mut().ok_or(Stopped)?;
        Ok(f(self.number, &self.inflight, running))
    }
}

impl Pin<'_> {
    /// Answers the request at `head`, for which `written` bytes stand in its buffers.
    pub fn answer(&self, head: u16, written: u32) -> Result<(), Broken> {
        let (number, inflight) = (self.queue.number, &self.queue.inflight);
        let mut state = locked(&self.queue.state);
        let Some(r) = state.running.as_mut() else { return Ok(()) };
        r.ring.stage(&r.memory, head, written)?;
        inflight.ending(number, head);
        let used = r.ring.publish(&r.memory)?;
        inflight.ended(number, head, used);
        if r.ring.wants_call(&r.memory)? {
            signal(Some(r));
        }
        Ok(())
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        let mut state = locked(&self.queue.state);
        state.pins -= 1;
        if state.pins == 0 {
            self.queue.unpinned.notify_all();
        }
    }
}

/// Calls the guest. A full counter has called already.
fn signal(running: Option<&Running>) {
    if let Some(call) = running.and_then(|r| r.call.as_ref()) {
        let _ = rustix::io::write(call, &1u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests;
