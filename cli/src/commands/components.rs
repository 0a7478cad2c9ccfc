//! `gtvp component …`.

use gtvp_ipc::components::ShowReply;
use gtvp_model::api::ImportBody;
use gtvp_model::component::ComponentView;
use gtvp_model::fault::Fault;
use gtvp_model::operation::Operation;
use hyper::Method;

use crate::args::{ComponentCommand, Format};
use crate::client::{Api, segment};
use crate::commands::boxes::short;
use crate::follow::{Interrupts, ended_well, follow};
use crate::output::{Column, ago, column, facts, listing, print, size, time, value, wide};

/// Does it; gives the exit status.
pub async fn run(api: &Api, command: &ComponentCommand) -> Result<u8, Fault> {
    match command {
        ComponentCommand::Ls(output) => {
            let components: Vec<ComponentView> = api.get("/v1/components").await?;
            listing(output.output, &components, COLUMNS)?;
        }
        ComponentCommand::Show { reference, output } => {
            let shown: ShowReply = api.get(&format!("/v1/components/{}", segment(reference))).await?;
            match output.output {
                Format::Json | Format::Yaml => value(output.output, &shown)?,
                _ => print(&show(&shown)),
            }
        }
        ComponentCommand::Import { need, output, quiet } => {
            let mut interrupts = Interrupts::take()?;
            let body = ImportBody { need: need.clone() };
            let operation: Operation = api.change(Method::POST, "/v1/components", &body).await?;
            let (operation, interrupted) = follow(api, &operation.id, *quiet, &mut interrupts).await?;
            if let Some(signal) = interrupted {
                return Ok(signal.exit_code());
            }
            let operation = ended_well(operation)?;
            match (output.output, operation.result.map(serde_json::from_value::<ComponentView>)) {
                (Format::Table | Format::Wide, Some(Ok(view))) => print(&facts(&view_facts(&view))),
                (Format::Table | Format::Wide, _) => print(&format!("{need} imported\n")),
                (format, Some(Ok(view))) => value(format, &view)?,
                (format, _) => value(format, &serde_json::json!({ "need": need }))?,
            }
        }
    }
    Ok(0)
}

const COLUMNS: &[Column<ComponentView>] = &[
    column("REFERENCE", |c| c.reference.clone()),
    column("DIGEST", |c| short(&c.digest)),
    column("PACKAGE", |c| size(c.source_bytes)),
    column("CONTENT", |c| size(c.content_bytes)),
    column("AGE", |c| ago(c.imported_ms)),
    wide("PATHS", |c| c.entries.to_string()),
    wide("ORIGIN", |c| c.origin.clone()),
    wide("CHECKED", |c| c.appraisal.checked.join(", ")),
    wide("NOT CHECKED", |c| c.appraisal.not_checked.join(", ")),
];

fn view_facts(view: &ComponentView) -> Vec<(&'static str, String)> {
    vec![
        ("reference", view.reference.clone()),
        ("digest", view.digest.clone()),
        ("origin", view.origin.clone()),
        ("package", size(view.source_bytes)),
        ("content", size(view.content_bytes)),
        ("paths", view.entries.to_string()),
        ("imported", time(view.imported_ms)),
        ("checked", view.appraisal.checked.join("\n")),
        ("not checked", view.appraisal.not_checked.join("\n")),
    ]
}

fn show(shown: &ShowReply) -> String {
    let mut pairs = view_facts(&shown.view);
    pairs.push(("needs", shown.needs.join("\n")));
    pairs.push(("provides", shown.provides.join("\n")));
    pairs.push(("first paths", shown.paths.join("\n")));
    facts(&pairs)
}
