//! `gtvp union init|show`.

use gtvp_model::fault::Fault;
use gtvp_model::unionview::{UnionBegin, UnionSummary};
use hyper::Method;

use crate::args::{Format, UnionCommand};
use crate::client::Api;
use crate::output::{facts, print, value};

/// Does it.
pub async fn run(api: &Api, command: &UnionCommand) -> Result<(), Fault> {
    let (union, output): (UnionSummary, _) = match command {
        UnionCommand::Init { name, allow_software_tpm, allow_no_tpm, output } => {
            let begin = UnionBegin {
                name: name.clone(),
                software_tpms: *allow_software_tpm,
                without_tpm: *allow_no_tpm,
            };
            (api.change(Method::POST, "/v1/union", &begin).await?, output)
        }
        UnionCommand::Show(output) => (api.get("/v1/union").await?, output),
    };
    match output.output {
        Format::Json | Format::Yaml => value(output.output, &union)?,
        _ => print(&show(&union)),
    }
    Ok(())
}

fn show(u: &UnionSummary) -> String {
    let mut admits = vec!["hardware TPMs"];
    admits.extend(u.software_tpms.then_some("SOFTWARE TPMs (!)"));
    admits.extend(u.without_tpm.then_some("members WITHOUT a TPM (!)"));
    facts(&[
        ("name", u.name.clone()),
        ("id", u.id.clone()),
        ("members", u.members.to_string()),
        ("voters", u.voters.join(", ")),
        ("admits", admits.join("\n")),
        ("epoch", u.epoch.to_string()),
        ("entries", u.entries.to_string()),
        ("head", u.head.clone()),
    ])
}
