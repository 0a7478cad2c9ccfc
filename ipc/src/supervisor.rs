//! What gtvpd does when a domain asks.

use std::collections::BTreeMap;

use gtvp_model::boxspec::Publish;
use gtvp_model::digest::Digest;
use gtvp_model::ids::Slot;
use gtvp_model::member::{DomainStatus, HostCheck};
use serde::{Deserialize, Serialize};

use crate::Nothing;

/// A parameter of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Param {
    /// A number.
    Int(u64),
    /// A word.
    Word(String),
    /// Several words.
    Words(Vec<String>),
}

/// Start a process from a template that the caller owns. The descriptors of `fds` travel with it, in that order;
/// `stdin`, `stdout` and `stderr` become 0, 1 and 2. A template with `tied` ends with this connection: its reply comes
/// when it has started, and [`Wait`] on the same connection gives its end.
#[derive(Debug, Serialize, Deserialize)]
pub struct Spawn {
    /// Row of topology.toml.
    pub template: String,
    /// The box, for a template with a box's uid. At most one process of a template runs for a slot.
    pub slot: Option<Slot>,
    /// Parameters.
    pub params: BTreeMap<String, Param>,
    /// Names of the descriptors.
    pub fds: Vec<String>,
}

/// A process that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawned {
    /// Its number with the supervisor.
    pub process: u64,
    /// Its process id on the member.
    pub pid: i32,
}

/// Wait for a process of the caller's to end.
#[derive(Debug, Serialize, Deserialize)]
pub struct Wait {
    /// Its number.
    pub process: u64,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its number.
    pub process: u64,
    /// Its template.
    pub template: String,
    /// Its box.
    pub slot: Option<Slot>,
    /// Its exit status: `Some(0)` is success; `None` when a signal ended it or the supervisor was not its parent.
    pub code: Option<i32>,
    /// In words, for people: `exit status 1`, `signal 9`, `unknown (…)`.
    pub how: String,
}

/// Kill (SIGKILL) the process of this template for this slot, and answer when it is gone. No such process is no error.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kill {
    /// Row of topology.toml.
    pub template: String,
    /// The box.
    pub slot: Slot,
}

/// Hear of the caller's processes: first every one that runs, then each end and each restart as it happens. Does not end.
#[derive(Debug, Serialize, Deserialize)]
pub struct Watch {}

/// What a watcher hears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessEvent {
    /// It runs.
    Running {
        /// Its number.
        process: u64,
        /// Its template.
        template: String,
        /// Its box.
        slot: Option<Slot>,
        /// Its process id on the member.
        pid: i32,
    },
    /// Every running process has been told.
    Current,
    /// It ended and was started again with what it had stored.
    Restarted {
        /// Its number, the same as before.
        process: u64,
        /// Its template.
        template: String,
        /// Its box.
        slot: Option<Slot>,
        /// Its new process id.
        pid: i32,
        /// How the one before ended.
        how: String,
    },
    /// It ended.
    Ended(Ended),
}

/// Make these ports of the member, and only these, lead to the box. An empty list takes all back.
#[derive(Debug, Serialize, Deserialize)]
pub struct SetPublished {
    /// The box.
    pub slot: Slot,
    /// Its ports.
    pub ports: Vec<Publish>,
}

/// Hear of what gtvpd has measured: first everything since it began, then each as it happens, before what it measured is
/// started. Does not end.
#[derive(Debug, Serialize, Deserialize)]
pub struct Measurements {}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeasuredKind {
    /// gtvpd itself: its version, its binary.
    Start,
    /// The binary of a process that gtvpd keeps.
    Binary,
    /// topology.toml.
    Topology,
    /// member.toml.
    Configuration,
    /// The program of a template.
    Template,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measurement {
    /// Of what kind.
    pub kind: MeasuredKind,
    /// Of what: a name from topology.toml, a version, a file's name.
    pub subject: String,
    /// SHA-256 of its bytes.
    pub value: Digest,
}

/// Open the logs that firmware and kernel keep of what they have measured.
#[derive(Debug, Serialize, Deserialize)]
pub struct OpenKernelLogs {}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelLog {
    /// The firmware's and boot loaders': TCG event log, binary.
    Boot,
    /// The kernel's of files: IMA's, binary.
    Ima,
}

/// The answer to [`OpenKernelLogs`]: which there are. A descriptor of each travels with it, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelLogs {
    /// Their names.
    pub logs: Vec<KernelLog>,
}

/// How the member is.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {}

/// The answer to [`Status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    /// The processes that gtvpd keeps.
    pub domains: Vec<DomainStatus>,
    /// What the host offers.
    pub host: Vec<HostCheck>,
    /// The member's addresses, where published ports are reached.
    pub addresses: Vec<String>,
    /// Name servers for boxes.
    pub nameservers: Vec<String>,
    /// Processors.
    pub cpus: u16,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Memory that could be used now, bytes.
    pub memory_available_bytes: u64,
    /// Load of the processors in hundredths of one, the mean of a minute.
    pub load: u32,
}

crate::interface!("supervisor" {
    /// See [`Spawn`].
    Spawn = "spawn" -> Spawned;
    /// See [`Wait`].
    Wait = "wait" -> Ended;
    /// See [`Kill`].
    Kill = "kill" -> Nothing;
    /// See [`Watch`].
    Watch = "watch" -> Nothing, progress ProcessEvent;
    /// See [`SetPublished`].
    SetPublished = "set_published" -> Nothing;
    /// See [`Measurements`].
    Measurements = "measurements" -> Nothing, progress Measurement;
    /// See [`OpenKernelLogs`].
    OpenKernelLogs = "open_kernel_logs" -> KernelLogs;
    /// See [`Status`].
    Status = "status" -> StatusReply;
});
