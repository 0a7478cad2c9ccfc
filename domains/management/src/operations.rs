//! Long work as a resource: progress, cancel, result. Unfinished operations are kept, so that one that was under way
//! when this domain ended is known to have failed.

use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::operation::{Operation, OperationState, PhaseTime, Progress};

/// Finished operations that are remembered.
const REMEMBERED: usize = 200;

/// Every operation that is remembered.
pub struct Operations {
    dir: PathBuf,
    next: AtomicU64,
    all: Mutex<BTreeMap<u64, Arc<Handle>>>,
}

struct Inner {
    operation: Operation,
    phase_since: Instant,
    cancelled: bool,
    /// The call to another domain that is under way: its end is what cancels it.
    call: Option<UnixStream>,
    version: u64,
}

/// One operation.
pub struct Handle {
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Operations {
    /// Opens the folder; what was under way is now failed.
    pub fn open(state: &Path) -> io::Result<Self> {
        let dir = state.join("operations");
        std::fs::create_dir_all(&dir)?;
        let mut all = BTreeMap::new();
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            let number = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse::<u64>().ok());
            let (Some(number), Ok(bytes)) = (number, std::fs::read(&path)) else { continue };
            let Ok(mut operation) = serde_json::from_slice::<Operation>(&bytes) else { continue };
            if operation.state == OperationState::Running {
                operation.state = OperationState::Failed;
                operation.ended_ms = Some(crate::now_ms());
                operation.fault = Some(
                    Fault::new(
                        FaultKind::Unavailable,
                        format!("{} was interrupted: management restarted", operation.kind),
                    )
                    .hint("what it had begun is being undone; make the same call again"),
                );
            }
            all.insert(number, Arc::new(Handle::new(operation)));
        }
        let next = all.keys().next_back().map_or(1, |n| n + 1);
        let this = Self { dir, next: AtomicU64::new(next), all: Mutex::new(all) };
        for (number, handle) in this.lock().iter() {
            this.keep(*number, handle);
        }
        Ok(this)
    }

    /// Begins an operation.
    pub fn begin(&self, kind: &str, target: &str) -> Arc<Handle> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let handle = Arc::new(Handle::new(Operation {
            id: number.to_string(),
            kind: kind.to_owned(),
            target: target.to_owned(),
            state: OperationState::Running,
            progress: Progress::default(),
            phases: Vec::new(),
            started_ms: crate::now_ms(),
            ended_ms: None,
            fault: None,
            result: None,
        }));
        let mut all = self.lock();
        all.insert(number, handle.clone());
        let finished: Vec<u64> = all
            .iter()
            .filter(|(_, h)| h.snapshot().state != OperationState::Running)
            .map(|(n, _)| *n)
            .collect();
        for old in finished.iter().take(finished.len().saturating_sub(REMEMBERED)) {
            all.remove(old);
            let _ = std::fs::remove_file(self.path(*old));
        }
        drop(all);
        self.keep(number, &handle);
        handle
    }

    /// Ends an operation.
    pub fn end(&self, handle: &Handle, outcome: Result<serde_json::Value, Fault>) {
        handle.finish(outcome);
        if let Ok(number) = handle.snapshot().id.parse() {
            self.keep(number, handle);
        }
    }

    /// An operation by its id.
    pub fn get(&self, id: &str) -> Result<Arc<Handle>, Fault> {
        let number = id.parse::<u64>().ok();
        number.and_then(|n| self.lock().get(&n).cloned()).ok_or_else(|| {
            Fault::new(FaultKind::NotFound, format!("no operation {id:?} is remembered"))
                .hint("gtvp operation ls lists them")
        })
    }

    /// The operation that is under way on this target.
    pub fn running_on(&self, target: &str) -> Option<Arc<Handle>> {
        let is_it = |o: Operation| o.target == target && o.state == OperationState::Running;
        self.lock().values().rev().find(|h| is_it(h.snapshot())).cloned()
    }

    /// Every operation, oldest first.
    pub fn list(&self) -> Vec<Operation> {
        self.lock().values().map(|h| h.snapshot()).collect()
    }

    fn keep(&self, number: u64, handle: &Handle) {
        let kept = serde_json::to_vec(&handle.snapshot())
            .map_err(io::Error::from)
            .and_then(|bytes| crate::records::replace(&self.path(number), &bytes));
        if let Err(e) = kept {
            eprintln!("gtvp-management: operation {number} is not kept: {e}");
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number}.json"))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Handle>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handle {
    fn new(operation: Operation) -> Self {
        let inner =
            Inner { operation, phase_since: Instant::now(), cancelled: false, call: None, version: 1 };
        Self { inner: Mutex::new(inner), changed: Condvar::new() }
    }

    /// As it is now.
    pub fn snapshot(&self) -> Operation {
        self.lock().operation.clone()
    }

    /// Waits for a state newer than `version`, or for the time to be over; gives the version and the state.
    pub fn wait_newer(&self, version: u64, at_most: Duration) -> (u64, Operation) {
        let guard = self.lock();
        let guard = match self.changed.wait_timeout_while(guard, at_most, |i| i.version <= version) {
            Ok((guard, _)) => guard,
            Err(poisoned) => poisoned.into_inner().0,
        };
        (guard.version, guard.operation.clone())
    }

    /// Waits for its end, at most so long.
    pub fn wait_end(&self, at_most: Duration) {
        let running = |i: &mut Inner| i.operation.state == OperationState::Running;
        drop(self.changed.wait_timeout_while(self.lock(), at_most, running));
    }

    /// Takes progress in. `Break` when the operation has been cancelled.
    pub fn progress(&self, progress: Progress) -> ControlFlow<()> {
        let mut inner = self.lock();
        if progress.phase != inner.operation.progress.phase {
            inner.end_phase();
        }
        inner.operation.progress = progress;
        self.bump(&mut inner);
        if inner.cancelled { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Begins a phase.
    pub fn phase(&self, phase: &str, message: impl Into<String>) -> Result<(), Fault> {
        match self.progress(Progress { phase: phase.into(), message: message.into(), ..Progress::default() })
        {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(cancelled()),
        }
    }

    /// How long each phase took, the one that goes on as far as it is.
    pub fn phases(&self) -> Vec<PhaseTime> {
        let inner = self.lock();
        let now = PhaseTime { phase: inner.operation.progress.phase.clone(), ms: inner.in_phase() };
        inner.operation.phases.iter().cloned().chain([now]).collect()
    }

    /// Whether someone has cancelled it.
    pub fn is_cancelled(&self) -> bool {
        self.lock().cancelled
    }

    /// Cancels it: a call to another domain that is under way is hung up.
    pub fn cancel(&self) {
        let mut inner = self.lock();
        if inner.operation.state == OperationState::Running {
            inner.cancelled = true;
            if let Some(call) = &inner.call {
                let _ = call.shutdown(Shutdown::Both);
            }
            self.bump(&mut inner);
        }
    }

    /// Notes the call that is under way. Refuses when the operation has been cancelled.
    pub fn calling(&self, stream: Option<UnixStream>) -> Result<(), Fault> {
        let mut inner = self.lock();
        let ending = stream.is_none();
        inner.call = stream;
        if inner.cancelled && !ending { Err(cancelled()) } else { Ok(()) }
    }

    fn finish(&self, outcome: Result<serde_json::Value, Fault>) {
        let mut inner = self.lock();
        inner.end_phase();
        inner.operation.ended_ms = Some(crate::now_ms());
        match outcome {
            Ok(value) => {
                inner.operation.state = OperationState::Done;
                inner.operation.result = Some(value);
            }
            Err(fault) => {
                let cancelled = inner.cancelled || fault.kind == FaultKind::Cancelled;
                inner.operation.state =
                    if cancelled { OperationState::Cancelled } else { OperationState::Failed };
                inner.operation.fault = Some(fault);
            }
        }
        self.bump(&mut inner);
    }

    fn bump(&self, inner: &mut Inner) {
        inner.version += 1;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn end_phase(&mut self) {
        let ended = std::mem::take(&mut self.operation.progress.phase);
        if !ended.is_empty() {
            let ms = self.in_phase();
            self.operation.phases.push(PhaseTime { phase: ended, ms });
        }
        self.phase_since = Instant::now();
    }

    fn in_phase(&self) -> u64 {
        u64::try_from(self.phase_since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn cancelled() -> Fault {
    Fault::new(FaultKind::Cancelled, "cancelled")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_that_was_interrupted_is_failed_and_retryable() {
        let dir = std::env::temp_dir().join(format!("gtvp-operations-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let first = Operations::open(&dir).unwrap();
        let id = first.begin("run", "web").snapshot().id;
        let done = first.begin("stop", "db");
        first.end(&done, Ok(serde_json::Value::Null));
        let again = Operations::open(&dir).unwrap();
        let interrupted = again.get(&id).unwrap().snapshot();
        assert_eq!(interrupted.state, OperationState::Failed);
        assert!(interrupted.fault.unwrap().retryable);
        assert_eq!(again.get(&done.snapshot().id).unwrap().snapshot().state, OperationState::Done);
        assert_ne!(again.begin("run", "x").snapshot().id, id);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn cancelling_hangs_up_the_call_and_refuses_the_next() {
        let dir = std::env::temp_dir().join(format!("gtvp-operations-cancel-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let all = Operations::open(&dir).unwrap();
        let handle = all.begin("run", "web");
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        handle.calling(Some(ours)).unwrap();
        handle.cancel();
        assert_eq!(std::io::Read::read(&mut theirs, &mut [0; 1]).unwrap(), 0);
        assert!(handle.calling(Some(UnixStream::pair().unwrap().0)).is_err());
        all.end(&handle, Err(Fault::new(FaultKind::Unavailable, "lost")));
        assert_eq!(handle.snapshot().state, OperationState::Cancelled);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_runs_on_a_box_is_found_and_its_end_is_waited_for() {
        let dir = std::env::temp_dir().join(format!("gtvp-operations-on-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let all = Arc::new(Operations::open(&dir).unwrap());
        all.end(&all.begin("stop", "web"), Ok(serde_json::Value::Null));
        assert!(all.running_on("web").is_none());
        let start = all.begin("start", "web");
        let found = all.running_on("web").unwrap();
        assert_eq!(found.snapshot().kind, "start");
        let (ending, its) = (all.clone(), start.clone());
        let end = std::thread::spawn(move || ending.end(&its, Ok(serde_json::Value::Null)));
        found.wait_end(Duration::from_secs(60));
        assert_eq!(found.snapshot().state, OperationState::Done);
        end.join().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
