//! `gtvp template …`.

use gtvp_model::fault::Fault;
use gtvp_model::operation::Operation;
use gtvp_model::template::{TemplateView, TemplateWish};
use hyper::Method;

use crate::args::{Format, TemplateCommand};
use crate::client::{Api, segment};
use crate::commands::boxes::short;
use crate::follow::{Interrupts, ended_well, follow};
use crate::output::{Column, ago, column, facts, listing, print, size, time, value, wide};

/// Does it; gives the exit status.
pub async fn run(api: &Api, command: &TemplateCommand) -> Result<u8, Fault> {
    match command {
        TemplateCommand::Ls(output) => {
            let templates: Vec<TemplateView> = api.get("/v1/templates").await?;
            listing(output.output, &templates, COLUMNS)?;
        }
        TemplateCommand::Build { memory, cpus, output, quiet } => {
            let mut interrupts = Interrupts::take()?;
            let wish = TemplateWish { memory: *memory, cpus: *cpus };
            let operation: Operation = api.change(Method::POST, "/v1/templates", &wish).await?;
            let (operation, interrupted) = follow(api, &operation.id, *quiet, &mut interrupts).await?;
            if let Some(signal) = interrupted {
                return Ok(signal.exit_code());
            }
            let operation = ended_well(operation)?;
            match (output.output, operation.result.map(serde_json::from_value::<TemplateView>)) {
                (Format::Table | Format::Wide, Some(Ok(view))) => print(&facts(&view_facts(&view))),
                (format, Some(Ok(view))) => value(format, &view)?,
                (_, _) => print("booted\n"),
            }
        }
        TemplateCommand::Rm { digests } => {
            for digest in digests {
                let path = format!("/v1/templates/{}", segment(digest));
                let removed: TemplateView = api.act(Method::DELETE, &path).await?;
                print(&format!("{} removed\n", short(&removed.digest)));
            }
        }
    }
    Ok(0)
}

const COLUMNS: &[Column<TemplateView>] = &[
    column("DIGEST", |t| short(&t.digest)),
    column("MEMORY", |t| size(t.memory_bytes)),
    column("CPUS", |t| t.cpus.to_string()),
    column("DISK", |t| size(t.size_bytes)),
    column("AGE", |t| ago(t.created_ms)),
    column("STARTS", |t| t.starts.to_string()),
    wide("ON", |t| t.accelerator.clone()),
    wide("KERNEL", |t| short(&t.kernel)),
    wide("INITRAMFS", |t| short(&t.initramfs)),
    wide("QEMU", |t| t.qemu.clone()),
];

fn view_facts(view: &TemplateView) -> Vec<(&'static str, String)> {
    vec![
        ("digest", view.digest.clone()),
        ("memory", size(view.memory_bytes)),
        ("cpus", view.cpus.to_string()),
        ("disk", size(view.size_bytes)),
        ("on", view.accelerator.clone()),
        ("qemu", view.qemu.clone()),
        ("kernel", view.kernel.clone()),
        ("initramfs", view.initramfs.clone()),
        ("booted", time(view.created_ms)),
    ]
}
