//! `gtvp operation …`.

use gtvp_model::fault::Fault;
use gtvp_model::operation::{Operation, OperationState};
use hyper::Method;

use crate::args::{Format, OperationCommand};
use crate::client::{Api, segment};
use crate::follow::Watch;
use crate::output::{Column, ago, column, facts, listing, print, time, value, wide};
use crate::progress::{Shown, milliseconds};

/// Does it; gives the exit status.
pub async fn run(api: &Api, command: &OperationCommand) -> Result<u8, Fault> {
    match command {
        OperationCommand::Ls(output) => {
            let operations: Vec<Operation> = api.get("/v1/operations").await?;
            listing(output.output, &operations, COLUMNS)?;
        }
        OperationCommand::Show { id, output } => {
            let operation: Operation = api.get(&format!("/v1/operations/{}", segment(id))).await?;
            match output.output {
                Format::Json | Format::Yaml => value(output.output, &operation)?,
                _ => print(&show(&operation)),
            }
        }
        OperationCommand::Cancel { id } => {
            let operation: Operation =
                api.act(Method::DELETE, &format!("/v1/operations/{}", segment(id))).await?;
            let operation = match operation.state {
                OperationState::Running => Watch::new(api, id).end(&mut Shown::new(true)).await?,
                _ => operation,
            };
            print(&format!("{id} {}\n", word(operation.state)));
            return Ok(u8::from(operation.state == OperationState::Done));
        }
    }
    Ok(0)
}

const COLUMNS: &[Column<Operation>] = &[
    column("ID", |o| o.id.clone()),
    column("KIND", |o| o.kind.clone()),
    column("TARGET", |o| o.target.clone()),
    column("STATE", |o| word(o.state).to_owned()),
    column("PHASE", |o| o.progress.phase.clone()),
    column("AGE", |o| ago(o.started_ms)),
    wide("TOOK", |o| o.ended_ms.map(|e| milliseconds(e.saturating_sub(o.started_ms))).unwrap_or_default()),
    wide("FAULT", |o| o.fault.as_ref().map(ToString::to_string).unwrap_or_default()),
];

fn word(state: OperationState) -> &'static str {
    match state {
        OperationState::Running => "running",
        OperationState::Done => "done",
        OperationState::Failed => "failed",
        OperationState::Cancelled => "cancelled",
    }
}

fn show(o: &Operation) -> String {
    let phases: Vec<String> =
        o.phases.iter().map(|p| format!("{} {}", p.phase, milliseconds(p.ms))).collect();
    facts(&[
        ("id", o.id.clone()),
        ("kind", o.kind.clone()),
        ("target", o.target.clone()),
        ("state", word(o.state).to_owned()),
        ("doing", o.progress.message.clone()),
        ("phases", phases.join("\n")),
        ("started", time(o.started_ms)),
        ("ended", o.ended_ms.map(time).unwrap_or_default()),
        ("fault", o.fault.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("try", o.fault.as_ref().and_then(|f| f.hint.clone()).unwrap_or_default()),
    ])
}
