//! `gtvp box …`.

use gtvp_ipc::management::SetReply;
use gtvp_model::api::BoxChange;
use gtvp_model::boxview::{BoxDetail, BoxState, BoxView, ExitStatus, LinkedComponent};
use gtvp_model::fault::Fault;
use gtvp_model::ids::BoxName;
use gtvp_model::operation::{Operation, PhaseTime};
use hyper::Method;

use crate::args::{BoxCommand, Format};
use crate::client::{Api, segment};
use crate::commands::{logs, member};
use crate::failure::tell;
use crate::follow::{Interrupts, Watch, ended_well, follow};
use crate::output::{Column, ago, column, facts, listing, print, size, table, time, value, wide};
use crate::progress::{Shown, milliseconds};

/// Does it; gives the exit status.
pub async fn run(api: &Api, command: &BoxCommand) -> Result<u8, Fault> {
    match command {
        BoxCommand::Ls(output) => {
            let boxes: Vec<BoxView> = api.get("/v1/boxes").await?;
            listing(output.output, &boxes, COLUMNS)?;
        }
        BoxCommand::Show { name, output } => {
            let detail: BoxDetail = api.get(&path(name, "")).await?;
            match output.output {
                Format::Json | Format::Yaml => value(output.output, &detail)?,
                format => print(&show(&detail, format == Format::Wide)),
            }
        }
        BoxCommand::Attest { name, words } => {
            member::attest(api, &path(name, "/evidence"), words).await?;
        }
        BoxCommand::Logs(words) => logs::logs(api, words).await?,
        BoxCommand::Stop { names, grace } => {
            // At most 86,400,000: `args` bounds it.
            let ms = (grace * 1000.0) as u64;
            return each(names, async |name| {
                operate(api, Method::POST, &path(name, &format!("/stop?grace_ms={ms}"))).await?;
                print(&format!("{name} stopped\n"));
                Ok(())
            })
            .await;
        }
        BoxCommand::Start { names, quiet } => {
            let mut interrupts = Interrupts::take()?;
            for name in names {
                let operation: Operation = api.act(Method::POST, &path(name, "/start")).await?;
                let (operation, interrupted) = follow(api, &operation.id, *quiet, &mut interrupts).await?;
                if let Some(signal) = interrupted {
                    return Ok(signal.exit_code());
                }
                ended_well(operation)?;
                print(&format!("{name} started\n"));
            }
        }
        BoxCommand::Pause { names } => {
            return each(names, async |name| {
                api.act::<BoxView>(Method::POST, &path(name, "/pause")).await?;
                print(&format!("{name} paused\n"));
                Ok(())
            })
            .await;
        }
        BoxCommand::Resume { names } => {
            return each(names, async |name| {
                api.act::<BoxView>(Method::POST, &path(name, "/resume")).await?;
                print(&format!("{name} resumed\n"));
                Ok(())
            })
            .await;
        }
        BoxCommand::Rm { names, force } => {
            return each(names, async |name| {
                operate(api, Method::DELETE, &path(name, &format!("?force={force}"))).await?;
                print(&format!("{name} removed\n"));
                Ok(())
            })
            .await;
        }
        BoxCommand::Set { name, memory, cpus, output } => {
            let change = BoxChange { memory: *memory, cpus: *cpus };
            let reply: SetReply = api.change(Method::PATCH, &path(name, ""), &change).await?;
            match output.output {
                Format::Json | Format::Yaml => value(output.output, &reply)?,
                _ => {
                    let applied = reply.applied.iter().map(|s| format!("applied: {s}\n"));
                    let pending = reply.pending.iter().map(|s| format!("not now: {s}\n"));
                    print(&applied.chain(pending).collect::<String>());
                }
            }
        }
    }
    Ok(0)
}

fn path(name: &BoxName, rest: &str) -> String {
    format!("/v1/boxes/{}{rest}", segment(name.as_str()))
}

/// Does it for each box; one that fails is told and does not keep the others from their turn.
async fn each(names: &[BoxName], act: impl AsyncFn(&BoxName) -> Result<(), Fault>) -> Result<u8, Fault> {
    let mut failed = 0;
    for name in names {
        if let Err(fault) = act(name).await {
            failed = crate::failure::FAILED;
            tell(&fault);
        }
    }
    Ok(failed)
}

/// Begins an operation and waits for its end.
async fn operate(api: &Api, method: Method, path: &str) -> Result<Operation, Fault> {
    let operation: Operation = api.act(method, path).await?;
    ended_well(Watch::new(api, &operation.id).end(&mut Shown::new(true)).await?)
}

const COLUMNS: &[Column<BoxView>] = &[
    column("NAME", |b| b.name.clone()),
    column("STATE", |b| word(b.state).to_owned()),
    column("MEMBER", |b| b.member.clone()),
    column("KIND", |b| b.kind.clone()),
    column("ADDRESS", |b| b.address.clone()),
    column("PUBLISHED", |b| b.published.join(",")),
    column("AGE", |b| ago(b.created_ms)),
    wide("MEMORY", |b| size(b.memory_bytes)),
    wide("CPUS", |b| b.cpus.to_string()),
    wide("EXIT", |b| b.exit.as_ref().map(exit).unwrap_or_default()),
    wide("FAILURE", |b| b.failure.as_deref().unwrap_or("").lines().next().unwrap_or("").to_owned()),
    wide("COMPOSITION", |b| short(b.composition.as_deref().unwrap_or(""))),
    wide("PENDING", |b| b.pending.join("; ")),
];

fn word(state: BoxState) -> &'static str {
    match state {
        BoxState::Starting => "starting",
        BoxState::Running => "running",
        BoxState::Paused => "paused",
        BoxState::Stopping => "stopping",
        BoxState::Stopped => "stopped",
        BoxState::Failed => "failed",
    }
}

fn exit(status: &ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => code.to_string(),
        ExitStatus::Signal(signal) => format!("signal {signal}"),
    }
}

/// The beginning of a digest: enough to tell a few thousand apart.
pub fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

fn show(detail: &BoxDetail, everything: bool) -> String {
    let b = &detail.summary;
    let spec = &detail.spec;
    let mut text = facts(&[
        ("name", b.name.clone()),
        ("state", word(b.state).to_owned()),
        ("member", b.member.clone()),
        ("kind", b.kind.clone()),
        ("address", b.address.clone()),
        ("published", b.published.join(", ")),
        ("exit", b.exit.as_ref().map(exit).unwrap_or_default()),
        ("failure", b.failure.clone().unwrap_or_default()),
        ("needs", spec.needs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        ("command", spec.command.iter().map(|a| quoted(a)).collect::<Vec<_>>().join(" ")),
        ("env", spec.env.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join("\n")),
        ("user", spec.user.clone().unwrap_or_default()),
        ("workdir", spec.workdir.clone().unwrap_or_default()),
        ("memory", size(b.memory_bytes)),
        ("cpus", b.cpus.to_string()),
        ("disk", spec.disk.to_string()),
        ("pending", b.pending.join("\n")),
        ("accelerator", detail.accelerator.clone().unwrap_or_default()),
        ("started from", started_from(detail)),
        ("composition", b.composition.clone().unwrap_or_default()),
        ("created", time(b.created_ms)),
        ("ready", b.ready_ms.map(time).unwrap_or_default()),
        ("closure", closure(detail)),
    ]);
    if !detail.phases.is_empty() {
        text += "\nLast start\n";
        text += &table(&detail.phases, PHASES, everything);
    }
    if !detail.linked.is_empty() {
        text += "\nLinked components\n";
        text += &table(&detail.linked, LINKED, everything);
    }
    text
}

fn started_from(detail: &BoxDetail) -> String {
    match (&detail.template, &detail.accelerator) {
        (Some(digest), _) => format!("template {}, booted by this member", short(digest)),
        (None, Some(_)) => "its own boot".into(),
        (None, None) => String::new(),
    }
}

fn closure(detail: &BoxDetail) -> String {
    let c = &detail.closure;
    format!(
        "{} of {} components linked, {} of {}",
        c.linked,
        c.components,
        size(c.linked_bytes),
        size(c.bytes)
    )
}

/// As a shell would take it.
fn quoted(argument: &str) -> String {
    let plain = !argument.is_empty()
        && argument.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&b));
    if plain { argument.to_owned() } else { format!("'{}'", argument.replace('\'', r"'\''")) }
}

const PHASES: &[Column<PhaseTime>] =
    &[column("PHASE", |p| p.phase.clone()), column("TOOK", |p| milliseconds(p.ms))];

const LINKED: &[Column<LinkedComponent>] = &[
    column("COMPONENT", |l| l.component.clone()),
    column("LINKED", |l| time(l.linked_ms)),
    column("BECAUSE OF", |l| l.because_of.clone().unwrap_or_else(|| "start".into())),
    column("MS", |l| l.took_ms.to_string()),
    column("FETCHED", |l| size(l.fetched_bytes)),
    wide("DIGEST", |l| short(&l.digest)),
    wide("CHECKED", |l| l.appraisal.checked.join(", ")),
    wide("NOT CHECKED", |l| l.appraisal.not_checked.join(", ")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_a_shell_would_take_it() {
        assert_eq!(quoted("nginx"), "nginx");
        assert_eq!(quoted("daemon off;"), "'daemon off;'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
