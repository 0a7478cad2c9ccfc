//! Following an operation to its end, through restarts of the member's parts; and what Ctrl-C means while it runs.

use std::time::{Duration, Instant};

use gtvp_model::api::BrokenOff;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::operation::{Operation, OperationState};
use hyper::Method;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::client::{Api, Flow, segment};
use crate::progress::Shown;

/// How long answers may break off again and again before we give up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause before an answer that broke off is asked for again.
const PAUSE: Duration = Duration::from_millis(100);

/// Lines of JSON that are asked for again where they broke off.
pub struct Lines<'a> {
    api: &'a Api,
    flow: Option<Flow>,
    broken_since: Option<Instant>,
}

impl<'a> Lines<'a> {
    /// Nothing is asked for yet.
    pub fn new(api: &'a Api) -> Self {
        Self { api, flow: None, broken_since: None }
    }

    /// The next line; `None` at a clean end. `path` is where to go on from when it has to be asked for (again). Safe to drop
    /// half-way.
    pub async fn next(&mut self, path: &str) -> Result<Option<bytes::Bytes>, Fault> {
        loop {
            let flow = match &mut self.flow {
                Some(flow) => flow,
                none => none.insert(Flow::new(self.api.patiently(path).await?)),
            };
            let fault = match flow.line().await {
                Ok(None) => return Ok(None),
                Ok(Some(line)) => match serde_json::from_slice::<BrokenOff>(&line) {
                    Ok(BrokenOff { fault }) => fault,
                    Err(_) => {
                        self.broken_since = None;
                        return Ok(Some(line));
                    }
                },
                Err(fault) => fault,
            };
            self.again(fault).await?;
        }
    }

    /// Has the next call ask again, or gives up with `fault`.
    async fn again(&mut self, fault: Fault) -> Result<(), Fault> {
        self.flow = None;
        let since = *self.broken_since.get_or_insert_with(Instant::now);
        if !fault.retryable || since.elapsed() > PATIENCE {
            return Err(fault);
        }
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }
}

/// An operation as it goes on.
pub struct Watch<'a> {
    lines: Lines<'a>,
    path: String,
}

impl<'a> Watch<'a> {
    /// Of this operation.
    pub fn new(api: &'a Api, id: &str) -> Self {
        Self { lines: Lines::new(api), path: format!("/v1/operations/{}/watch", segment(id)) }
    }

    /// Its next state. Safe to drop half-way.
    pub async fn next(&mut self) -> Result<Operation, Fault> {
        loop {
            let Some(line) = self.lines.next(&self.path).await? else {
                let early =
                    Fault::new(FaultKind::Unavailable, "the member stopped telling how far the operation is");
                self.lines.again(early).await?;
                continue;
            };
            return serde_json::from_slice(&line)
                .map_err(|e| Fault::internal("the member answered something unreadable", &e));
        }
    }

    /// Follows it to its end.
    pub async fn end(mut self, shown: &mut Shown) -> Result<Operation, Fault> {
        loop {
            let operation = self.next().await?;
            shown.update(&operation);
            if operation.state != OperationState::Running {
                return Ok(operation);
            }
        }
    }
}

/// An operation that has ended, if it ended well.
pub fn ended_well(operation: Operation) -> Result<Operation, Fault> {
    match operation.state {
        OperationState::Done => Ok(operation),
        OperationState::Cancelled => Err(Fault::new(
            FaultKind::Cancelled,
            format!("{} of {} was cancelled", operation.kind, operation.target),
        )),
        _ => Err(operation.fault.unwrap_or_else(|| {
            Fault::new(
                FaultKind::Internal,
                format!("{} of {} failed without a reason", operation.kind, operation.target),
            )
        })),
    }
}

/// What the person, or whoever runs us, asks for with a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// Ctrl-C.
    Int,
    /// SIGTERM, or the terminal is gone.
    Term,
    /// Nobody reads the output any more (`gtvp run … | head`).
    Pipe,
}

impl Interrupt {
    /// The Linux signal that asks an application to end for this reason.
    pub fn number(self) -> i32 {
        match self {
            Self::Int => 2,
            Self::Term | Self::Pipe => 15,
        }
    }

    /// The exit status of a program that this signal ended.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Int => 130,
            Self::Term => 143,
            Self::Pipe => 141,
        }
    }
}

/// The signals that ask us to end, from when this is made.
pub struct Interrupts {
    int: Signal,
    term: Signal,
    hup: Signal,
}

impl Interrupts {
    /// Takes the signals.
    pub fn take() -> Result<Self, Fault> {
        let take = |kind| signal(kind).map_err(|e| Fault::internal("signals cannot be taken", &e));
        Ok(Self {
            int: take(SignalKind::interrupt())?,
            term: take(SignalKind::terminate())?,
            hup: take(SignalKind::hangup())?,
        })
    }

    /// The next one. Safe to drop half-way.
    pub async fn next(&mut self) -> Interrupt {
        tokio::select! {
            _ = self.int.recv() => Interrupt::Int,
            _ = self.term.recv() => Interrupt::Term,
            _ = self.hup.recv() => Interrupt::Term,
        }
    }
}

/// Follows an operation to its end; a signal cancels it. Gives its last state and the first signal.
pub async fn follow(
    api: &Api,
    id: &str,
    quiet: bool,
    interrupts: &mut Interrupts,
) -> Result<(Operation, Option<Interrupt>), Fault> {
    follow_until(api, id, quiet, interrupts, None, |_| false).await
}

/// The same, to where it is `enough` and nobody wants it cancelled.
pub async fn follow_until(
    api: &Api,
    id: &str,
    quiet: bool,
    interrupts: &mut Interrupts,
    mut interrupted: Option<Interrupt>,
    enough: impl Fn(&Operation) -> bool,
) -> Result<(Operation, Option<Interrupt>), Fault> {
    let mut shown = Shown::new(quiet);
    let mut watch = Watch::new(api, id);
    if interrupted.is_some() {
        cancel(api, id, &shown).await;
    }
    loop {
        tokio::select! {
            operation = watch.next() => {
                let operation = operation?;
                shown.update(&operation);
                if operation.state != OperationState::Running || (interrupted.is_none() && enough(&operation)) {
                    return Ok((operation, interrupted));
                }
            }
            signal = interrupts.next() => {
                interrupted.get_or_insert(signal);
                cancel(api, id, &shown).await;
            }
        }
    }
}

/// Asks for an operation to be cancelled. That it could not be asked for shows in how the operation ends; a restarting
/// member is asked again, since cancelling twice is cancelling once.
async fn cancel(api: &Api, id: &str, shown: &Shown) {
    shown.line("cancelling…");
    let begun = Instant::now();
    loop {
        match api.act::<Operation>(Method::DELETE, &format!("/v1/operations/{}", segment(id))).await {
            Err(fault) if fault.retryable && begun.elapsed() < PATIENCE => tokio::time::sleep(PAUSE).await,
            _ => return,
        }
    }
}
