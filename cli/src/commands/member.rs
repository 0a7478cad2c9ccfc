//! `gtvp member …`.

use gtvp_model::hex::hex;
use std::io::IsTerminal;

use gtvp_appraisal::explain::explain_file;
use gtvp_appraisal::file::{EvidenceFile, MAX_FILE};
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::MemberName;
use gtvp_model::member::{DomainStatus, MemberView, TpmView};
use gtvp_model::union::TpmClass;
use gtvp_model::unionview::{CheckRow, Eviction, MemberHeld, MemberRow, PeerView, StatusView};
use hyper::Method;

use crate::args::{Attest, Format, MemberCommand, Output};
use crate::client::Api;
use crate::commands::{doctor, union};
use crate::failure::{clean, invalid};
use crate::output::{
    Column, ago, column, facts, listing, print, print_bytes, size, table, time, until, value, wide,
};

/// Does it.
pub async fn run(api: &Api, command: &MemberCommand) -> Result<(), Fault> {
    match command {
        MemberCommand::Ls(output) => {
            let members: Vec<MemberRow> = api.get("/v1/members").await?;
            listing(output.output, &members, MEMBERS)
        }
        MemberCommand::Show { name: None, output } => show_member(api, *output).await,
        MemberCommand::Show { name: Some(name), output } => show_peer(api, name, *output).await,
        MemberCommand::Evict { name, reason } => {
            let path = format!("/v1/members/{name}/evict");
            union::told(&api.change(Method::POST, &path, &Eviction { reason: reason.clone() }).await?);
            Ok(())
        }
        MemberCommand::History { name, output } => {
            union::history(api, &format!("/v1/members/{name}/history"), *output).await
        }
        MemberCommand::Leave(words) => union::leave(api, words).await,
        MemberCommand::Attest { name: None, words } => attest(api, "/v1/member/evidence", words).await,
        MemberCommand::Attest { name: Some(name), words } => {
            attest(api, &format!("/v1/members/{name}/evidence"), words).await
        }
    }
}

async fn show_member(api: &Api, output: Output) -> Result<(), Fault> {
    let member: MemberView = api.get("/v1/member").await?;
    match output.output {
        Format::Json | Format::Yaml => value(output.output, &member)?,
        format => print(&show(&member, format == Format::Wide)),
    }
    Ok(())
}

async fn show_peer(api: &Api, name: &MemberName, output: Output) -> Result<(), Fault> {
    let peer: PeerView = api.get(&format!("/v1/members/{name}")).await?;
    match output.output {
        Format::Json | Format::Yaml => value(output.output, &peer),
        format => {
            let r = &peer.row;
            let mut text = facts(&[
                ("name", r.name.clone()),
                ("id", r.id.clone().unwrap_or_default()),
                ("verdict", r.verdict.clone()),
                ("since", r.since_ms.map(time).unwrap_or_default()),
                ("attested by", r.attested_by.clone().unwrap_or_default()),
                ("next attestation", r.next_attestation_ms.map(time).unwrap_or_default()),
                ("tpm", r.tpm_by.clone().unwrap_or_else(|| class(r.tpm).to_owned())),
                ("platform identity", r.platform_identity.map(|p| p.to_string()).unwrap_or_default()),
                (
                    "votes",
                    match (r.voter, r.only_voter) {
                        (true, true) => {
                            "alone: without it no other member starts a box after a minute".into()
                        }
                        (true, false) => "yes".into(),
                        (false, _) => "no".into(),
                    },
                ),
                ("says of itself", r.status.as_ref().map(status).unwrap_or_default()),
                ("result", peer.result.clone().unwrap_or_default()),
            ]);
            if let Some(held) = &peer.held {
                text += "\nHolds\n";
                text += &facts(&holds(held));
            }
            text += "\nChecks\n";
            text += &table(&peer.checks, CHECKS, format == Format::Wide);
            print(&text);
            Ok(())
        }
    }
}

fn holds(held: &MemberHeld) -> Vec<(&'static str, String)> {
    let list = |what: &[String]| if what.is_empty() { "none".to_owned() } else { what.join("\n") };
    vec![
        ("channel", held.channel.clone().unwrap_or_else(|| "none".into())),
        ("vote", if held.voter { "yes".into() } else { "no".into() }),
        ("reference values", list(&held.references)),
        ("join tokens", list(&held.tokens)),
        ("boxes on it", held.boxes.as_deref().map_or_else(|| "not known to this member".into(), list)),
    ]
}

/// Evidence from this path, written or explained.
pub async fn attest(api: &Api, path: &str, words: &Attest) -> Result<(), Fault> {
    if !words.explain && std::io::stdout().is_terminal() {
        return Err(invalid("evidence is bytes, which no terminal shows")
            .hint("write it into a file: … > evidence.cbor, or read it: --explain"));
    }
    let nonce = words.nonce.as_ref().map_or_else(random, |n| Ok(n.0.clone()))?;
    let bytes = api.bytes(&format!("{path}?nonce={}", hex(&nonce)), MAX_FILE).await?;
    if !words.explain {
        print_bytes(&bytes);
        return Ok(());
    }
    let file = EvidenceFile::decode(&bytes).map_err(|e| {
        Fault::internal("the member answered with something that is no evidence", &e)
            .hint("are gtvp and gtvpd of one version?")
    })?;
    let mut text = String::new();
    for section in explain_file(&file) {
        text += &format!("{}\n", section.heading);
        for line in section.lines {
            text += &format!("  {}\n", clean(&line));
        }
    }
    print(&text);
    Ok(())
}

/// A nonce that nobody has chosen.
fn random() -> Result<Vec<u8>, Fault> {
    let mut bytes = [0; 32];
    // The kernel gives so few bytes at once, or none.
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(n) if n == bytes.len() => Ok(bytes.to_vec()),
        Ok(_) => Err(Fault::new(FaultKind::Internal, "the kernel gave too few random bytes")),
        Err(e) => Err(Fault::internal("the kernel gives no random bytes", &std::io::Error::from(e))),
    }
}

fn show(m: &MemberView, everything: bool) -> String {
    let promised = format!("{} of {} promised to boxes", size(m.memory_promised_bytes), size(m.memory_bytes));
    let mut text = facts(&[
        ("name", m.name.clone()),
        ("version", m.version.clone()),
        ("verdict", m.verdict.clone()),
        ("not checked", m.not_checked.join("\n")),
        ("tpm", tpm(&m.tpm)),
        ("accelerator", m.accelerator.clone()),
        ("cpus", m.cpus.to_string()),
        ("memory", promised),
        ("running", m.boxes_running.to_string()),
        ("addresses", m.addresses.join(", ")),
    ]);
    text += "\nDomains\n";
    text += &table(&m.domains, DOMAINS, everything);
    if everything && !m.host.is_empty() {
        text += "\nHost\n";
        text += &table(&m.host, doctor::COLUMNS, true);
    }
    text
}

fn class(class: TpmClass) -> &'static str {
    match class {
        TpmClass::Hardware => "hardware",
        TpmClass::Pinned => {
            "pinned: an administrator has named its endorsement key, no vendor vouches for it"
        }
        TpmClass::Software => "SOFTWARE: root of that server can make it say anything",
        TpmClass::None => "NONE: this member cannot prove what it booted",
    }
}

fn tpm(t: &TpmView) -> String {
    let mut lines = vec![class(t.class).to_owned()];
    if let Some(problem) = &t.problem {
        lines.push(format!("cannot be used: {problem}"));
    }
    if let Some(ek) = &t.ek {
        let vouched = if t.ek_certificate { "with a certificate" } else { "without a certificate" };
        lines.push(format!("endorsement key {ek}, {vouched}"));
    }
    if let Some(e) = &t.epoch {
        let safe = if e.safe { "" } else { ", after a power loss" };
        lines.push(format!(
            "epoch {}.{}, powered {} s{safe}",
            e.reset_count,
            e.restart_count,
            e.clock_ms / 1000
        ));
    }
    if let Some(log) = &t.log {
        lines.push(format!("log {log}"));
    }
    lines.join("\n")
}

fn load(s: &StatusView) -> String {
    format!("{}.{:02} of {}", s.load / 100, s.load % 100, s.cpus)
}

fn memory(s: &StatusView) -> String {
    let mib = |n: u32| size(u64::from(n) * 1024 * 1024);
    format!("{} of {}", mib(s.memory_free_mib), mib(s.memory_mib))
}

/// A status in words, with its age: nobody else has looked at how it is.
fn status(s: &StatusView) -> String {
    format!(
        "{}: load {}, memory free {}, boxes {}, GTVP {}, record {}, components {}",
        ago(s.said_ms),
        load(s),
        memory(s),
        s.boxes,
        s.version,
        s.record,
        size(s.components_mib * 1024 * 1024),
    )
}

const MEMBERS: &[Column<MemberRow>] = &[
    column("NAME", |m| if m.own { format!("{} (this one)", m.name) } else { m.name.clone() }),
    column("VERDICT", |m| m.verdict.clone()),
    column("SINCE", |m| m.since_ms.map_or_else(|| "-".into(), ago)),
    column("ATTESTED BY", |m| m.attested_by.clone().unwrap_or_else(|| "-".into())),
    column("TPM", |m| match (m.tpm, &m.tpm_by) {
        (TpmClass::Hardware, Some(by)) => by.clone(),
        (TpmClass::Hardware, None) => "hardware".into(),
        (TpmClass::Pinned, _) => "pinned".into(),
        (class, _) => format!("{class} (!)"),
    }),
    column("PLATFORM IDENTITY", |m| m.platform_identity.map_or_else(|| "-".into(), |p| p.to_string())),
    column("NEXT", |m| m.next_attestation_ms.map_or_else(|| "-".into(), until)),
    column("VOTES", |m| match (m.voter, m.only_voter) {
        (true, true) => "alone (!)".into(),
        (true, false) => "yes".into(),
        (false, _) => "no".into(),
    }),
    wide("LOAD", |m| m.status.as_ref().map_or_else(|| "-".into(), load)),
    wide("MEMORY FREE", |m| m.status.as_ref().map_or_else(|| "-".into(), memory)),
    wide("BOXES", |m| m.status.as_ref().map_or_else(|| "-".into(), |s| s.boxes.to_string())),
    wide("GTVP", |m| m.status.as_ref().map_or_else(|| "-".into(), |s| s.version.clone())),
    wide("RECORD", |m| m.status.as_ref().map_or_else(|| "-".into(), |s| s.record.to_string())),
    wide("SAID", |m| m.status.as_ref().map_or_else(|| "-".into(), |s| ago(s.said_ms))),
    wide("ID", |m| m.id.clone().unwrap_or_default()),
];

const CHECKS: &[Column<CheckRow>] = &[
    column("CHECK", |c| c.check.clone()),
    column("OUTCOME", |c| c.outcome.replace('_', " ")),
    column("DETAIL", |c| c.detail.clone()),
];

const DOMAINS: &[Column<DomainStatus>] = &[
    column("DOMAIN", |d| d.domain.clone()),
    column("PID", |d| d.pid.map_or_else(|| "restarting".into(), |p| p.to_string())),
    column("RESTARTS", |d| d.restarts.to_string()),
    column("UP", |d| if d.pid.is_some() { ago(d.started_ms) } else { String::new() }),
    wide("LAST EXIT", |d| d.last_exit.clone().unwrap_or_default()),
];
