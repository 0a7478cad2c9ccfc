//! Requests on their way: taken from a queue, answered at once where everything is at hand, and otherwise set aside until what
//! they need has been fetched, so that no request waits for another's fetch. Requests with the same need wait for one fetch.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::event::{PollFd, PollFlags, poll};

use crate::fetch::Fetch;
use crate::fuse::{self, MAX_REQUEST, OUT_HEADER, Request, errno};
use crate::inflight::{Inflight, MAX_QUEUES};
use crate::locked;
use crate::log::say;
use crate::memory::Segment;
use crate::pool::Pool;
use crate::queue::{Pin, Queue, Stopped};
use crate::ring::Broken;
use crate::serve::{Need, Reply, Root, Step};

/// Fetches under way at once.
const MAX_FETCHES: usize = 16;
/// Reads at once that wait for the disk.
const MAX_READS: usize = 4;
/// Fetches for one request; each brings it forward, so that this is reached only when what was fetched is lost again at once.
const MAX_TRIES: u8 = 8;

/// A request that was taken.
struct Job {
    queue: usize,
    epoch: u64,
    head: u16,
    writable: Vec<Segment>,
    request: Request,
    tries: u8,
}

/// Everything that answers requests.
pub struct Engine {
    /// The queues, by number.
    pub queues: Vec<Queue>,
    root: Arc<Root>,
    fetch: Fetch,
    fetches: Pool,
    reads: Pool,
    waiting: Mutex<HashMap<Need, Vec<Job>>>,
}

enum Outcome {
    Answered,
    /// The disk has to be asked.
    WouldWait,
}

impl Engine {
    /// For one root.
    pub fn new(root: Arc<Root>, fetch: Fetch, inflight: &Arc<Inflight>) -> Arc<Self> {
        Arc::new(Self {
            queues: (0..MAX_QUEUES).map(|n| Queue::new(n, inflight.clone())).collect(),
            root,
            fetch,
            fetches: Pool::new(MAX_FETCHES),
            reads: Pool::new(MAX_READS),
            waiting: Mutex::default(),
        })
    }

    /// Takes requests from a queue until it stops, beginning with those to do again.
    pub fn serve(
        self: &Arc<Self>,
        number: usize,
        epoch: u64,
        kick: &OwnedFd,
        stop: &OwnedFd,
        again: Vec<u16>,
    ) {
        let result = again.into_iter().try_for_each(|head| self.begin(number, epoch, head));
        let result = result.and_then(|()| self.take_all(number, epoch, kick, stop));
        if let Err(End::Broken(e)) = result {
            say!("the guest broke queue {number}, it rests until it is set up again: {e}");
        }
    }

    fn take_all(
        self: &Arc<Self>,
        number: usize,
        epoch: u64,
        kick: &OwnedFd,
        stop: &OwnedFd,
    ) -> Result<(), End> {
        let queue = &self.queues[number];
        loop {
            while let Some(head) = queue.take(epoch)?? {
                self.begin(number, epoch, head)?;
            }
            if queue.listen(epoch)?? {
                continue;
            }
            let mut fds = [PollFd::new(kick, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
            match poll(&mut fds, None) {
                Err(e) if e != rustix::io::Errno::INTR => return Err(End::Stopped),
                _ => {}
            }
            if !fds[1].revents().is_empty() {
                return Err(End::Stopped);
            }
            if fds[0].revents().contains(PollFlags::IN) {
                let _ = rustix::io::read(kick, &mut [0; 8]);
            } else if !fds[0].revents().is_empty() {
                return Err(End::Stopped);
            }
        }
    }

    /// Begins with the request at `head`.
    fn begin(self: &Arc<Self>, number: usize, epoch: u64, head: u16) -> Result<(), End> {
        let pin = self.queues[number].pin(epoch).ok_or(Stopped)?;
        let chain = pin.layout.chain(&pin.memory, head)?;
        let mut bytes = [0; MAX_REQUEST];
        let n = pin.memory.gather(&chain.readable, &mut bytes).map_err(Broken::from)?;
        match Request::parse(&bytes[..n]) {
            Ok(request) => {
                let writable = chain.writable;
                drop(pin);
                self.carry_on(Job { queue: number, epoch, head, writable, request, tries: 0 }, false);
            }
            Err(fuse::TooShort) => pin.answer(head, 0)?,
        }
        Ok(())
    }

    /// Answers a request, or sets it aside. With `may_wait` this thread may wait for the disk.
    fn carry_on(self: &Arc<Self>, job: Job, may_wait: bool) {
        // A queue that stopped meanwhile has it in its record.
        let Some(pin) = self.queues[job.queue].pin(job.epoch) else { return };
        match self.root.step(&job.request.operation, job.room()) {
            Step::Done(reply) => {
                let outcome = self.reply(&pin, &job, &reply, may_wait);
                drop(pin);
                match outcome {
                    Ok(Outcome::Answered) => {}
                    Ok(Outcome::WouldWait) => {
                        let this = self.clone();
                        self.reads.run(move || this.carry_on(job, true));
                    }
                    Err(e) => say!("the guest broke a request: {e}"),
                }
            }
            Step::Blocked(need) => {
                drop(pin);
                self.set_aside(need, job);
            }
        }
    }

    fn set_aside(self: &Arc<Self>, need: Need, mut job: Job) {
        job.tries += 1;
        if job.tries > MAX_TRIES {
            return self.fail(&job, errno::EIO);
        }
        let mut waiting = locked(&self.waiting);
        if let Some(jobs) = waiting.get_mut(&need) {
            return jobs.push(job);
        }
        waiting.insert(need.clone(), vec![job]);
        drop(waiting);
        let this = self.clone();
        self.fetches.run(move || {
            let result = this.fetch.fetch(&need);
            let jobs = locked(&this.waiting).remove(&need).unwrap_or_default();
            for job in jobs {
                match result {
                    Ok(()) => this.carry_on(job, true),
                    Err(e) => this.fail(&job, e),
                }
            }
        });
    }

    fn fail(&self, job: &Job, error: i32) {
        if let Some(pin) = self.queues[job.queue].pin(job.epoch) {
            if let Err(e) = self.reply(&pin, job, &Reply::Error(error), true) {
                say!("the guest broke a request: {e}");
            }
        }
    }

    fn reply(&self, pin: &Pin<'_>, job: &Job, reply: &Reply, may_wait: bool) -> Result<Outcome, Broken> {
        let unique = job.request.unique;
        let (error, bytes): (i32, &[u8]) = match reply {
            Reply::Nothing => {
                pin.answer(job.head, 0)?;
                return Ok(Outcome::Answered);
            }
            Reply::Error(e) => (*e, &[]),
            Reply::Bytes(b) if b.len() <= job.room() => (0, b),
            Reply::Bytes(_) => (errno::EIO, &[]),
            Reply::File { object, offset, len } => {
                let read = |no_wait| {
                    pin.memory.read_file(&job.writable, OUT_HEADER, object.as_fd(), *offset, *len, no_wait)
                };
                let result = match read(!may_wait) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Outcome::WouldWait),
                    // A file system that does not know the question keeps its files in memory.
                    Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => read(false),
                    other => other,
                };
                match result {
                    Ok(n) if n == *len => {
                        let header = fuse::out_header(unique, 0, *len);
                        pin.memory.scatter(&job.writable, &header)?;
                        pin.answer(job.head, u32::try_from(OUT_HEADER + len).unwrap_or(u32::MAX))?;
                        return Ok(Outcome::Answered);
                    }
                    _ => (errno::EIO, &[]),
                }
            }
        };
        if job.writable.iter().map(|s| s.len as usize).sum::<usize>() < OUT_HEADER {
            // Nowhere to put an answer: that is the guest's wish.
            pin.answer(job.head, 0)?;
            return Ok(Outcome::Answered);
        }
        let mut out = fuse::out_header(unique, error, bytes.len()).to_vec();
        out.extend_from_slice(bytes);
        pin.memory.scatter(&job.writable, &out)?;
        pin.answer(job.head, u32::try_from(out.len()).unwrap_or(u32::MAX))?;
        Ok(Outcome::Answered)
    }
}

impl Job {
    /// Bytes that an answer may have behind its header.
    fn room(&self) -> usize {
        self.writable.iter().map(|s| s.len as usize).sum::<usize>().saturating_sub(OUT_HEADER)
    }
}

/// Why no more is taken from a queue.
enum End {
    Stopped,
    Broken(Broken),
}

impl From<Stopped> for End {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<Broken> for End {
    fn from(e: Broken) -> Self {
        Self::Broken(e)
    }
}

#[cfg(test)]
mod tests;
