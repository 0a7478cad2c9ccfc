//! A few threads that make the calls to `security` which a link must not wait for.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Threads: `security` has one TPM and a core or two to appraise on.
const THREADS: usize = 4;
/// Calls that wait. Each link has one or two; past it a call is dropped, and whoever waits for it gives up in its time.
const WAITING: usize = 1024;
/// Stack of one: evidence and its logs are on the heap.
const STACK: usize = 512 * 1024;

type Job = Box<dyn FnOnce() + Send>;

/// See the module.
#[derive(Clone)]
pub struct Pool(SyncSender<Job>);

impl Pool {
    /// Starts it. Its threads end when nobody has it any more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start() -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(WAITING);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..THREADS {
            let receiver = receiver.clone();
            std::thread::Builder::new()
                .name("calls".into())
                .stack_size(STACK)
                .spawn(move || work(&receiver))?;
        }
        Ok(Self(sender))
    }

    /// Has it done by and by.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        if self.0.try_send(Box::new(job)).is_err() {
            eprintln!("gtvp-communication: too many calls to security wait; one is given up");
        }
    }
}

fn work(jobs: &Mutex<Receiver<Job>>) {
    loop {
        // Let go of before the work begins.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        job();
    }
}
