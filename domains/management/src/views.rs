//! Boxes and the member as the API shows them.

use gtvp_ipc::components::LinkedReply;
use gtvp_ipc::security::VerdictReply;
use gtvp_ipc::supervisor::StatusReply;
use gtvp_model::boxview::{BoxDetail, BoxState, BoxView};
use gtvp_model::member::{MemberConfig, MemberView, TpmView};
use gtvp_model::unionview::ChannelRow;

use crate::engine::{self, Engine};
use crate::records::BoxRecord;

/// A box in a listing.
pub fn summary(config: &MemberConfig, record: &BoxRecord) -> BoxView {
    let spec = &record.spec;
    BoxView {
        name: spec.name.to_string(),
        state: record.state,
        member: config.name.to_string(),
        kind: "lazy".into(),
        address: config.box_address(record.slot).to_string(),
        published: spec.publish.iter().map(|p| format!("{}:{}/{}", p.host, p.guest, p.protocol)).collect(),
        composition: record.composition.map(|d| d.to_string()),
        ready_ms: record.ready_ms,
        exit: record.exit.clone(),
        failure: record.failure.clone(),
        memory_bytes: record.memory_now.0,
        cpus: record.cpus_now,
        pending: engine::pending(record),
        created_ms: record.created_ms,
    }
}

/// A box in full.
pub fn detail(config: &MemberConfig, record: &BoxRecord, linked: LinkedReply) -> BoxDetail {
    BoxDetail {
        summary: summary(config, record),
        spec: record.spec.clone(),
        accelerator: record.accelerator.clone(),
        template: record.template.map(|t| t.to_string()),
        linked: linked.linked,
        closure: linked.closure,
        phases: record.phases.clone(),
    }
}

/// The member.
pub fn member(
    config: &MemberConfig,
    engine: &Engine,
    status: StatusReply,
    verdict: VerdictReply,
    tpm: TpmView,
    accelerator: String,
) -> MemberView {
    MemberView {
        name: config.name.to_string(),
        version: env!("CARGO_PKG_VERSION").into(),
        verdict: verdict.verdict,
        not_checked: verdict.not_checked,
        tpm,
        accelerator,
        cpus: status.cpus,
        memory_bytes: status.memory_bytes,
        memory_promised_bytes: engine.promised().0,
        boxes_running: engine.boxes().filter(|r| r.state == BoxState::Running).count() as u64,
        addresses: status.addresses,
        domains: status.domains,
        host: status.host,
    }
}

/// Counters and gauges in the Prometheus text format (version 0.0.4).
pub fn metrics(
    engine: &Engine,
    status: &StatusReply,
    channels: &[ChannelRow],
    events: u64,
    operations: usize,
) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    let mut gauge = |name: &str, kind: &str, help: &str, rows: &[(String, u64)]| {
        let _ = writeln!(out, "# HELP gtvp_{name} {help}\n# TYPE gtvp_{name} {kind}");
        for (labels, value) in rows {
            let _ = writeln!(out, "gtvp_{name}{labels} {value}");
        }
    };
    let states = [
        BoxState::Starting,
        BoxState::Running,
        BoxState::Paused,
        BoxState::Stopping,
        BoxState::Stopped,
        BoxState::Failed,
    ];
    let boxes: Vec<_> = states
        .iter()
        .map(|s| {
            let n = engine.boxes().filter(|r| r.state == *s && !r.builder).count() as u64;
            (format!("{{state=\"{}\"}}", engine::word(*s)), n)
        })
        .collect();
    gauge("boxes", "gauge", "Boxes of this member by state.", &boxes);
    let one = |v: u64| [(String::new(), v)];
    gauge("memory_bytes", "gauge", "Memory of the member.", &one(status.memory_bytes));
    gauge(
        "memory_available_bytes",
        "gauge",
        "Memory that could be used now.",
        &one(status.memory_available_bytes),
    );
    gauge("memory_promised_bytes", "gauge", "Memory promised to boxes.", &one(engine.promised().0));
    gauge("events_total", "counter", "Events told so far.", &one(events));
    gauge("operations", "gauge", "Operations that are remembered.", &one(operations as u64));
    let domains = |value: fn(&gtvp_model::member::DomainStatus) -> u64| -> Vec<_> {
        status.domains.iter().map(|d| (format!("{{domain=\"{}\"}}", d.domain), value(d))).collect()
    };
    gauge(
        "domain_restarts_total",
        "counter",
        "Restarts of each domain since gtvpd began.",
        &domains(|d| d.restarts),
    );
    let of_channels = |value: fn(&ChannelRow) -> Option<u64>| -> Vec<_> {
        let row = |c: &ChannelRow| Some((format!("{{member=\"{}\"}}", c.member), value(c)?));
        channels.iter().filter_map(row).collect()
    };
    gauge(
        "channel_open",
        "gauge",
        "Whether there is an attested channel with this other member.",
        &of_channels(|c| Some(u64::from(c.state == "open"))),
    );
    gauge(
        "channel_tls_microseconds",
        "gauge",
        "How long TLS took when the channel was opened, from its first packet on.",
        &of_channels(|c| c.took.map(|t| t.tls_us)),
    );
    gauge(
        "channel_opening_microseconds",
        "gauge",
        "How long opening the channel took, until both members had proved themselves.",
        &of_channels(|c| c.took.map(|t| t.all_us)),
    );
    gauge("domain_up", "gauge", "Whether the domain runs.", &domains(|d| u64::from(d.pid.is_some())));
    out
}
