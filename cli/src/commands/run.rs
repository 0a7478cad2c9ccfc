//! `gtvp run`: make a box, follow it to its start, be its application's output and exit status. Whatever interrupts it,
//! at whatever moment, the box is gone when this ends.

use std::io::ErrorKind;
use std::time::Duration;

use gtvp_model::api::SignalBody;
use gtvp_model::boxspec::BoxSpec;
use gtvp_model::boxview::{BoxState, BoxView, ExitStatus};
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::member::MemberView;
use gtvp_model::operation::{Operation, OperationState, READY};
use hyper::Method;
use tokio::time::Instant;

use crate::args::Run;
use crate::client::{Api, segment};
use crate::commands::logs::{self, Heard, Tail};
use crate::failure::GTVP_FAILED;
use crate::follow::{Interrupt, Interrupts, Watch, ended_well, follow_until};
use crate::output::{facts, print};
use crate::progress::{Shown, note};
use crate::specfile;
use crate::spoken::Spoken;

/// What the application gets after Ctrl-C before its box is removed under it.
const GRACE: Duration = Duration::from_secs(10);
/// How long an interrupted request to make the box may go without an answer.
const LAST_WAIT: Duration = Duration::from_secs(10);
/// How long a box whose application has ended takes at most to come to rest.
const SETTLE: Duration = Duration::from_secs(10);
/// Pause between looks at it.
const LOOK: Duration = Duration::from_millis(50);

/// Runs it; gives the exit status.
pub async fn run(api: &Api, words: &Run) -> Result<u8, Fault> {
    let spec = specfile::spec(words)?;
    let mut interrupts = Interrupts::take()?;
    let (operation, interrupted) = create(api, &spec, &mut interrupts).await?;
    // What the application says is shown from its beginning, not from when it is ready.
    let runs = |o: &Operation| !words.detach && o.progress.phase == READY;
    let (operation, interrupted) =
        follow_until(api, &operation.id, words.quiet, &mut interrupts, interrupted, runs).await?;
    if let Some(signal) = interrupted {
        if operation.state == OperationState::Done {
            // It was too late to cancel.
            remove(api, spec.name.as_str()).await?;
        } else if operation.state == OperationState::Failed {
            ended_well(operation)?;
        }
        note(&format!("cancelled: box {} is gone", spec.name));
        return Ok(signal.exit_code());
    }
    if words.detach {
        return detached(api, &view_of(api, ended_well(operation)?, spec.name.as_str()).await?).await;
    }
    let start = match operation.state {
        OperationState::Running => Some(Watch::new(api, &operation.id)),
        _ => {
            started(api, &view_of(api, ended_well(operation)?, spec.name.as_str()).await?, words.quiet).await;
            None
        }
    };
    Attached { api, name: spec.name.as_str(), rm: words.rm, quiet: words.quiet, start }
        .follow(&mut interrupts)
        .await
}

/// A box that goes on without us: where it is. One whose application has ended already ends us as the application ended.
async fn detached(api: &Api, view: &BoxView) -> Result<u8, Fault> {
    print(&summary(view, &addresses(api).await));
    if let Some(status) = &view.exit {
        note(&format!("{0} has ended already: {1} (gtvp box logs {0})", view.name, logs::ended(status)));
        return Ok(code(status));
    }
    if let Some(line) = not_ready(view) {
        note(&line);
    }
    Ok(0)
}

/// Says where a box that has been started is reached.
async fn started(api: &Api, view: &BoxView, quiet: bool) {
    if let Some(line) = not_ready(view) {
        note(&line);
    }
    if !quiet && view.exit.is_none() {
        for line in published(view, &addresses(api).await) {
            note(&format!("{}: {line}", view.name));
        }
    }
}

/// Asks for the box. A signal meanwhile is kept for when the operation is known.
async fn create(
    api: &Api,
    spec: &BoxSpec,
    interrupts: &mut Interrupts,
) -> Result<(Operation, Option<Interrupt>), Fault> {
    let request = api.change(Method::POST, "/v1/boxes", spec);
    tokio::pin!(request);
    let signal = tokio::select! {
        operation = &mut request => return Ok((operation?, None)),
        signal = interrupts.next() => signal,
    };
    match tokio::time::timeout(LAST_WAIT, request).await {
        Ok(operation) => Ok((operation?, Some(signal))),
        Err(_) => Err(Fault::new(FaultKind::Unavailable, "the member does not say whether it made the box")
            .hint(format!("gtvp box rm --force {}", spec.name))),
    }
}

/// What to say of a box that runs, and does not serve yet what it publishes.
fn not_ready(view: &BoxView) -> Option<String> {
    let not_yet = view.state == BoxState::Running && view.ready_ms.is_none() && !view.published.is_empty();
    not_yet.then(|| {
        format!(
            "{0} runs, but its application does not listen on every published port yet ({1}): gtvp box logs {0}",
            view.name,
            view.published.join(", ")
        )
    })
}

async fn view_of(api: &Api, operation: Operation, name: &str) -> Result<BoxView, Fault> {
    match operation.result.map(serde_json::from_value) {
        Some(Ok(view)) => Ok(view),
        _ => api.get(&format!("/v1/boxes/{}", segment(name))).await,
    }
}

/// Addresses at which published ports are reached. Only for people: an answer that does not come leaves them out.
async fn addresses(api: &Api) -> Vec<String> {
    api.get::<MemberView>("/v1/member").await.map(|m| m.addresses).unwrap_or_default()
}

fn summary(view: &BoxView, addresses: &[String]) -> String {
    let published = published(view, addresses).join("\n");
    facts(&[("name", view.name.clone()), ("address", view.address.clone()), ("published", published)])
}

/// Where each published port is reached, as an address to click on.
pub fn published(view: &BoxView, addresses: &[String]) -> Vec<String> {
    let host = addresses.first().map_or("localhost", String::as_str);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    view.published.iter().map(|p| address_of(p, &host)).collect()
}

fn address_of(published: &str, host: &str) -> String {
    let (ports, protocol) = published.split_once('/').unwrap_or((published, "tcp"));
    let (outer, inner) = ports.split_once(':').unwrap_or((ports, ports));
    let scheme = match (protocol, inner) {
        ("tcp", "80" | "3000" | "5000" | "8000" | "8080") => "http",
        ("tcp", "443" | "8443") => "https",
        (other, _) => other,
    };
    let end = if scheme.starts_with("http") { "/" } else { "" };
    format!("{scheme}://{host}:{outer}{end}")
}

/// A box whose application's output is ours until it ends.
struct Attached<'a> {
    api: &'a Api,
    name: &'a str,
    rm: bool,
    quiet: bool,
    /// Its start, while that goes on: the application runs already and does not serve yet.
    start: Option<Watch<'a>>,
}

impl Attached<'_> {
    /// Follows it; gives the exit status.
    async fn follow(mut self, interrupts: &mut Interrupts) -> Result<u8, Fault> {
        let (api, name) = (self.api, self.name);
        let mut tail = Tail::of_application(api, name);
        let mut interrupted: Option<Interrupt> = None;
        let mut deadline: Option<Instant> = None;
        let (mut spoken, mut unread) = (Spoken::new(), false);
        let status = loop {
            let signal = tokio::select! {
                heard = tail.next() => match heard {
                    Ok(Heard::Output(kind, bytes)) => {
                        let broken = matches!(spoken.say(kind, &bytes), Err(e) if e.kind() == ErrorKind::BrokenPipe);
                        if !broken || std::mem::replace(&mut unread, true) {
                            continue;
                        }
                        Interrupt::Pipe
                    }
                    Ok(Heard::Exit(status)) => break Ok(status),
                    Ok(Heard::End) => match ended(api, name).await {
                        Ok(Some(status)) => break Ok(status),
                        // It goes on, its log did not.
                        Ok(None) => {
                            tokio::time::sleep(LOOK).await;
                            continue;
                        }
                        Err(fault) => break Err(fault),
                    },
                    Err(fault) => break Err(fault),
                },
                operation = next(&mut self.start) => match self.start_is_now(operation).await {
                    Ok(()) => continue,
                    Err(fault) => break Err(fault),
                },
                signal = interrupts.next() => signal,
                () = until(deadline) => {
                    remove(api, name).await?;
                    return Ok(interrupted.unwrap_or(Interrupt::Int).exit_code());
                }
            };
            let first = interrupted.is_none();
            interrupted.get_or_insert(signal);
            if first && signal_box(api, name, signal).await {
                note(&format!("stopping {name}… (again to stop it at once)"));
                deadline = Some(Instant::now() + GRACE);
            } else {
                deadline = Some(Instant::now());
            }
        };
        // How the start ended tells more than that its box is gone.
        let status = match self.start.take() {
            Some(start) => start.end(&mut Shown::new(true)).await.and_then(ended_well).and(status),
            None => status,
        };
        if self.rm || interrupted.is_some() {
            settled(api, name).await;
            remove(api, name).await?;
        } else if status.is_ok() {
            settled(api, name).await;
        }
        match (status, interrupted) {
            (_, Some(Interrupt::Pipe)) => Ok(Interrupt::Pipe.exit_code()),
            (Ok(status), _) => Ok(code(&status)),
            (Err(_), Some(signal)) => Ok(signal.exit_code()),
            (Err(fault), None) => Err(fault),
        }
    }

    /// Takes in how far the start is.
    async fn start_is_now(&mut self, operation: Result<Operation, Fault>) -> Result<(), Fault> {
        let operation = operation?;
        if operation.state != OperationState::Running {
            self.start = None;
            let view = view_of(self.api, ended_well(operation)?, self.name).await?;
            started(self.api, &view, self.quiet).await;
        }
        Ok(())
    }
}

/// The next state of a start that goes on.
async fn next(start: &mut Option<Watch<'_>>) -> Result<Operation, Fault> {
    match start {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

/// An application's status as ours.
fn code(status: &ExitStatus) -> u8 {
    u8::try_from(status.shell_code() & 0xff).unwrap_or(GTVP_FAILED)
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn signal_box(api: &Api, name: &str, signal: Interrupt) -> bool {
    let path = format!("/v1/boxes/{}/signal", segment(name));
    api.tell(&path, &SignalBody { signal: signal.number() }).await.is_ok()
}

/// How a box's application ended, if it has.
async fn ended(api: &Api, name: &str) -> Result<Option<ExitStatus>, Fault> {
    let view: BoxView = api.get(&format!("/v1/boxes/{}", segment(name))).await?;
    match (view.exit, view.failure, view.state) {
        (Some(status), ..) => Ok(Some(status)),
        (None, Some(why), _) => {
            Err(Fault::new(FaultKind::BoxFailed, format!("box {name} failed")).because(why))
        }
        (None, None, BoxState::Stopped) => {
            Err(Fault::new(FaultKind::BoxFailed, format!("box {name} was stopped")))
        }
        _ => Ok(None),
    }
}

/// Waits until a box whose application has ended is at rest, so that what is asked next finds it so.
async fn settled(api: &Api, name: &str) {
    let deadline = Instant::now() + SETTLE;
    while Instant::now() < deadline {
        match api.get::<BoxView>(&format!("/v1/boxes/{}", segment(name))).await {
            Ok(view) if !matches!(view.state, BoxState::Stopped | BoxState::Failed) => {
                tokio::time::sleep(LOOK).await
            }
            _ => return,
        }
    }
}

/// Removes a box, running or not, and waits until it is gone. While a part of the member restarts it is asked again: removing
/// twice is removing once.
async fn remove(api: &Api, name: &str) -> Result<(), Fault> {
    let path = format!("/v1/boxes/{}?force=true", segment(name));
    let deadline = Instant::now() + SETTLE;
    loop {
        let outcome = match api.act::<Operation>(Method::DELETE, &path).await {
            Ok(operation) => {
                Watch::new(api, &operation.id).end(&mut Shown::new(true)).await.and_then(ended_well)
            }
            Err(fault) => Err(fault),
        };
        match outcome {
            Ok(_) => return Ok(()),
            Err(fault) if fault.kind == FaultKind::NotFound => return Ok(()),
            Err(fault)
                if (fault.retryable || fault.kind == FaultKind::WrongState) && Instant::now() < deadline =>
            {
                tokio::time::sleep(LOOK).await;
            }
            Err(fault) => return Err(fault.hint(format!("gtvp box rm --force {name}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_that_does_not_serve_yet_is_not_called_ready() {
        let mut view: BoxView = serde_json::from_value(serde_json::json!({
            "name": "web", "state": "running", "member": "m1", "kind": "lazy", "address": "10.90.1.2",
            "published": ["8080:80/tcp"], "memory_bytes": 1, "cpus": 1, "created_ms": 1,
        }))
        .unwrap();
        assert!(not_ready(&view).unwrap().contains("8080:80/tcp"));
        view.ready_ms = Some(2);
        assert_eq!(not_ready(&view), None);
    }

    #[test]
    fn published_ports_become_addresses() {
        assert_eq!(address_of("8080:80/tcp", "10.88.0.11"), "http://10.88.0.11:8080/");
        assert_eq!(address_of("6379:6379/tcp", "10.88.0.11"), "tcp://10.88.0.11:6379");
        assert_eq!(address_of("5353:53/udp", "10.88.0.11"), "udp://10.88.0.11:5353");
        assert_eq!(address_of("8443:443", "h"), "https://h:8443/");
    }
}
