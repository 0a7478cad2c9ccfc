//! `gtvp lab ls`.

use std::net::Ipv4Addr;

use gtvp_model::fault::Fault;
use serde::Serialize;

use super::state;
use crate::args::Format;
use crate::output::{Column, column, listing, wide};
use crate::target::run_root;

/// A lab's member as listed.
#[derive(Serialize)]
struct Row {
    lab: String,
    member: String,
    kept: bool,
    address: Option<Ipv4Addr>,
    api_socket: String,
    run_dir: String,
    state_dir: String,
}

/// Lists the members of every lab.
pub fn list(format: Format) -> Result<(), Fault> {
    let root = run_root();
    let mut rows = Vec::new();
    for m in state::members(&root) {
        let lab = state::read_lab(&root.join("lab").join(&m.lab))?;
        let number = m.config.name.as_str().strip_prefix('m').and_then(|n| n.parse().ok());
        let address = lab.zip(number).and_then(|(lab, n)| Some(lab.member(n, &root).ok()?.address));
        rows.push(Row {
            lab: m.lab.clone(),
            member: m.config.name.to_string(),
            kept: m.keeper().is_some(),
            address,
            api_socket: m.config.api_socket.display().to_string(),
            run_dir: m.run_dir.display().to_string(),
            state_dir: m.config.state_dir.display().to_string(),
        });
    }
    listing(format, &rows, COLUMNS)
}

const COLUMNS: &[Column<Row>] = &[
    column("LAB", |r| r.lab.clone()),
    column("MEMBER", |r| r.member.clone()),
    column("KEPT", |r| if r.kept { "yes" } else { "no" }.to_owned()),
    column("ADDRESS", |r| r.address.map(|a| a.to_string()).unwrap_or_default()),
    column("API SOCKET", |r| r.api_socket.clone()),
    wide("STATE", |r| r.state_dir.clone()),
];
