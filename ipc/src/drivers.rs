//! What `drivers` answers to `management`: virtual machines, their disks, their network, their consoles.

use gtvp_model::boxspec::Publish;
use gtvp_model::boxview::ExitStatus;
use gtvp_model::digest::Digest;
use gtvp_model::guest::{Program, TerminalSize};
use gtvp_model::ids::{BoxName, Slot};
use gtvp_model::operation::Progress;
use gtvp_model::peer::{PeerAnswer, PeerQuestion};
use gtvp_model::template::TemplateView;
use gtvp_model::units::Bytes;
use serde::{Deserialize, Serialize};

use crate::Nothing;
use crate::components::BootParts;

/// Start a box's virtual machine. Three descriptors travel with it, as `components` gave them: vhost-user socket, kernel,
/// initramfs. Answers when the guest has taken its configuration and the application was started, or with a
/// `BoxFailed` fault that has the box's last words. Cancelling kills the machine.
#[derive(Debug, Serialize, Deserialize)]
pub struct Start {
    /// The box.
    pub slot: Slot,
    /// Its name, which becomes its host name.
    pub name: BoxName,
    /// Memory.
    pub memory: Bytes,
    /// Processors.
    pub cpus: u16,
    /// Size of its writable layer, made at the first start.
    pub disk: Bytes,
    /// Published ports. Taken before anything is started: a port in use is an `InUse` fault that names it.
    pub publish: Vec<Publish>,
    /// Whether it has a network interface.
    pub network: bool,
    /// Name servers for it.
    pub nameservers: Vec<String>,
    /// The application.
    pub program: Program,
    /// Keep the machine when the application has ended, until [`Stop`]: a builder box's writable layer is still wanted.
    pub hold: bool,
    /// What it boots.
    pub boot: BootParts,
    /// The template that it starts from, of [`FindTemplate`]; without one it boots. When it does not come up from it, the fault has
    /// [`TEMPLATE_FAILED`] among its causes and the template is gone.
    pub template: Option<Digest>,
}

/// The cause that a start's fault has when the machine did not come up from its template: booted, it may.
pub const TEMPLATE_FAILED: &str = "it did not come up from its template";

/// What of a machine a template is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Memory.
    pub memory: Bytes,
    /// Processors.
    pub cpus: u16,
    /// Whether it has a network interface.
    pub network: bool,
    /// What it boots.
    pub boot: BootParts,
}

/// The template for a machine of this shape on what machines run on here, checked. None before the first start of all.
#[derive(Debug, Serialize, Deserialize)]
pub struct FindTemplate {
    /// The machine's.
    pub shape: Shape,
}

/// The answer to [`FindTemplate`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundTemplate {
    /// Its digest.
    pub template: Option<Digest>,
    /// Why one that is there cannot be used; it is gone then.
    pub problem: Option<String>,
}

/// Boot a machine of this shape, with the same descriptors as [`Start`], and save it where it would hear which box it is. Cancelling
/// kills it.
#[derive(Debug, Serialize, Deserialize)]
pub struct BuildTemplate {
    /// A slot that no box has.
    pub slot: Slot,
    /// The machine's shape.
    pub shape: Shape,
}

/// Every template.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListTemplates {}

/// Remove a template. Boxes that were started from it run on.
#[derive(Debug, Serialize, Deserialize)]
pub struct RemoveTemplate {
    /// A unique beginning of its digest.
    pub digest: String,
}

/// The answer to [`Start`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// `kvm`, or `tcg (…)` with the reason.
    pub accelerator: String,
    /// The template that it was started from.
    pub template: Option<Digest>,
}

/// Ask the application to end, kill the machine after the grace. Answers when the machine is gone.
#[derive(Debug, Serialize, Deserialize)]
pub struct Stop {
    /// The box.
    pub slot: Slot,
    /// Milliseconds from SIGTERM to SIGKILL; 0 kills at once.
    pub grace_ms: u64,
}

/// Halt the processors.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pause {
    /// The box.
    pub slot: Slot,
}

/// Let the processors go on.
#[derive(Debug, Serialize, Deserialize)]
pub struct Resume {
    /// The box.
    pub slot: Slot,
}

/// Change the memory of a running box, by its balloon. More than it was started with is a `WrongState` fault.
#[derive(Debug, Serialize, Deserialize)]
pub struct SetMemory {
    /// The box.
    pub slot: Slot,
    /// New amount.
    pub memory: Bytes,
}

/// Forget a box that does not run: its writable layer, its logs.
#[derive(Debug, Serialize, Deserialize)]
pub struct Remove {
    /// The box.
    pub slot: Slot,
}

/// Run a command beside the application. Answers with a connected stream socket that carries
/// [`gtvp_model::stream`] frames both ways.
#[derive(Debug, Serialize, Deserialize)]
pub struct Exec {
    /// The box.
    pub slot: Slot,
    /// The command.
    pub program: Program,
    /// A terminal of this size, or pipes.
    pub terminal: Option<TerminalSize>,
}

/// Send a signal to the application.
#[derive(Debug, Serialize, Deserialize)]
pub struct Signal {
    /// The box.
    pub slot: Slot,
    /// Linux signal number.
    pub signal: i32,
}

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogSource {
    /// What the application wrote.
    Application,
    /// The kernel's console.
    Console,
}

/// A box's log. Answers with the reading end of a stream of [`gtvp_model::stream`] frames (`Stdout`, `Stderr`; with `follow`, at the
/// machine's end `Exit` or `Fault`).
#[derive(Debug, Serialize, Deserialize)]
pub struct Logs {
    /// The box.
    pub slot: Slot,
    /// Which log.
    pub source: LogSource,
    /// Go on as it grows, until the machine ends.
    pub follow: bool,
    /// Only this many lines from the end.
    pub tail: Option<u64>,
}

/// The writable layer of a builder box as a tar archive, on the descriptor that comes with the answer. Its command has
/// ended before.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExportUpper {
    /// The box.
    pub slot: Slot,
}

/// What machines run on here: `kvm`, or `tcg (…)` with the reason; `unknown` before the first start.
#[derive(Debug, Serialize, Deserialize)]
pub struct Accelerator {}

/// The answer to [`Accelerator`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceleratorReply {
    /// In words.
    pub accelerator: String,
}

/// Answer what a box asked about another one. A question that nobody waits for any more is answered in vain.
#[derive(Debug, Serialize, Deserialize)]
pub struct AnswerPeer {
    /// The box that asked.
    pub slot: Slot,
    /// Its question's number.
    pub ask: u64,
    /// The answer.
    pub answer: PeerAnswer,
}

/// Hear of the boxes: first each one's present state, then changes. Does not end.
#[derive(Debug, Serialize, Deserialize)]
pub struct Watch {}

/// What a watcher hears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoxEvent {
    /// The box.
    pub slot: Slot,
    /// What happened.
    pub what: BoxHappening,
}

/// What happened to a box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum BoxHappening {
    /// Its machine runs and its application was started.
    Running {
        /// Every port that must listen does.
        ready: bool,
    },
    /// Its processors are halted.
    Paused,
    /// Its application has ended, and the machine is going or gone.
    Exited {
        /// How.
        status: ExitStatus,
    },
    /// Its machine is gone without its application having ended in order.
    Died {
        /// Why, with its last words.
        why: String,
    },
    /// Its machine is gone and its slot free for a new start.
    Gone,
    /// Every box's present state has been told; `slot` means nothing here.
    Current,
    /// A process of the box asks about another box: to be answered with [`AnswerPeer`].
    AsksAboutPeer {
        /// Its number; no other question of any box has it.
        ask: u64,
        /// The question, as the box wrote it.
        question: PeerQuestion,
    },
    /// Something to know about, for people.
    Notice {
        /// One sentence.
        message: String,
    },
}

crate::interface!("drivers" {
    /// See [`Start`].
    Start = "start" -> Started, progress Progress;
    /// See [`FindTemplate`].
    FindTemplate = "find_template" -> FoundTemplate;
    /// See [`BuildTemplate`].
    BuildTemplate = "build_template" -> TemplateView, progress Progress;
    /// See [`ListTemplates`].
    ListTemplates = "list_templates" -> Vec<TemplateView>;
    /// See [`RemoveTemplate`].
    RemoveTemplate = "remove_template" -> TemplateView;
    /// See [`Stop`].
    Stop = "stop" -> Nothing;
    /// See [`Pause`].
    Pause = "pause" -> Nothing;
    /// See [`Resume`].
    Resume = "resume" -> Nothing;
    /// See [`SetMemory`].
    SetMemory = "set_memory" -> Nothing;
    /// See [`Remove`].
    Remove = "remove" -> Nothing;
    /// See [`Exec`].
    Exec = "exec" -> Nothing;
    /// See [`Signal`].
    Signal = "signal" -> Nothing;
    /// See [`Logs`].
    Logs = "logs" -> Nothing;
    /// See [`ExportUpper`].
    ExportUpper = "export_upper" -> Nothing;
    /// See [`Accelerator`].
    Accelerator = "accelerator" -> AcceleratorReply;
    /// See [`AnswerPeer`].
    AnswerPeer = "answer_peer" -> Nothing;
    /// See [`Watch`].
    Watch = "watch" -> Nothing, progress BoxEvent;
});
