//! What `management` answers to the gateway, which relays people's requests. The first descriptor of every request is the person's
//! own connection: `management` asks the kernel who is at its other end, and takes nobody's word for it.

use gtvp_model::boxspec::BoxSpec;
use gtvp_model::boxspec::Need;
use gtvp_model::boxview::{BoxDetail, BoxView};
use gtvp_model::component::ComponentView;
use gtvp_model::event::Event;
use gtvp_model::guest::{Program, TerminalSize};
use gtvp_model::ids::MemberName;
use gtvp_model::member::{HostCheck, MemberView};
use gtvp_model::operation::Operation;
use gtvp_model::template::{TemplateView, TemplateWish};
use gtvp_model::token::TokenId;
use gtvp_model::unionview::{
    Change, Departure, Eviction, ForcedLeave, HistoryRow, MemberRow, PeerView, Recovery, RecoveryFollow,
    RecoveryWish, ReferenceRow, ReferenceWish, TokenMade, TokenRow, TokenWish, UnionBegin, UnionJoin,
    UnionSummary,
};
use gtvp_model::units::Bytes;
use serde::{Deserialize, Serialize};

use crate::Nothing;
use crate::components::ShowReply;
use crate::drivers::LogSource;

/// Make a box and start it, as an operation. A box whose first start fails or is cancelled is removed again.
#[derive(Debug, Serialize, Deserialize)]
pub struct CreateBox {
    /// What is asked for.
    pub spec: BoxSpec,
}

/// Start a stopped box, as an operation.
#[derive(Debug, Serialize, Deserialize)]
pub struct StartBox {
    /// Its name.
    pub name: String,
}

/// Stop a box, as an operation.
#[derive(Debug, Serialize, Deserialize)]
pub struct StopBox {
    /// Its name.
    pub name: String,
    /// Milliseconds that the application gets.
    pub grace_ms: u64,
}

/// Halt a box's processors.
#[derive(Debug, Serialize, Deserialize)]
pub struct PauseBox {
    /// Its name.
    pub name: String,
}

/// Let a box's processors go on.
#[derive(Debug, Serialize, Deserialize)]
pub struct ResumeBox {
    /// Its name.
    pub name: String,
}

/// Remove a box with its writable layer, as an operation. A running one needs `force`.
#[derive(Debug, Serialize, Deserialize)]
pub struct RemoveBox {
    /// Its name.
    pub name: String,
    /// Also when it runs.
    pub force: bool,
}

/// Change a box.
#[derive(Debug, Serialize, Deserialize)]
pub struct SetBox {
    /// Its name.
    pub name: String,
    /// Memory.
    pub memory: Option<Bytes>,
    /// Processors.
    pub cpus: Option<u16>,
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SetReply {
    /// Applied to the running box, one sentence each.
    pub applied: Vec<String>,
    /// To be applied at the next start, with the reason.
    pub pending: Vec<String>,
}

/// Every box.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListBoxes {}

/// One box in full.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShowBox {
    /// Its name.
    pub name: String,
}

/// A box's log; the answer's descriptor carries [`gtvp_model::stream`] frames.
#[derive(Debug, Serialize, Deserialize)]
pub struct BoxLogs {
    /// Its name.
    pub name: String,
    /// Which log.
    pub source: LogSource,
    /// Go on as it grows.
    pub follow: bool,
    /// Only this many lines from the end.
    pub tail: Option<u64>,
}

/// Run a command in a box; the answer's descriptor carries [`gtvp_model::stream`] frames both ways.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExecBox {
    /// Its name.
    pub name: String,
    /// The command.
    pub program: Program,
    /// A terminal of this size, or pipes.
    pub terminal: Option<TerminalSize>,
}

/// Send a signal to a box's application.
#[derive(Debug, Serialize, Deserialize)]
pub struct SignalBox {
    /// Its name.
    pub name: String,
    /// Linux signal number.
    pub signal: i32,
}

/// Every operation that is remembered.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListOperations {}

/// One operation.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShowOperation {
    /// Its id.
    pub id: String,
}

/// An operation as it goes on: its present state, then each change; answers with its last state.
#[derive(Debug, Serialize, Deserialize)]
pub struct WatchOperation {
    /// Its id.
    pub id: String,
}

/// Cancel an operation. Answers at once; its end shows whether it could still be cancelled.
#[derive(Debug, Serialize, Deserialize)]
pub struct CancelOperation {
    /// Its id.
    pub id: String,
}

/// What happened, as progress messages; with `follow` it does not end.
#[derive(Debug, Serialize, Deserialize)]
pub struct Events {
    /// Only events after this number.
    pub after: u64,
    /// Only this many from the end.
    pub tail: Option<u64>,
    /// Go on.
    pub follow: bool,
}

/// Every component.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListComponents {}

/// One component.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShowComponent {
    /// Reference or a unique beginning of a digest.
    pub reference: String,
}

/// Import a component, as an operation.
#[derive(Debug, Serialize, Deserialize)]
pub struct ImportComponent {
    /// Which.
    pub need: Need,
}

/// Every template.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListTemplates {}

/// Boot a template, as an operation.
#[derive(Debug, Serialize, Deserialize)]
pub struct BuildTemplate {
    /// Which.
    pub wish: TemplateWish,
}

/// Remove a template. Boxes that were started from it run on.
#[derive(Debug, Serialize, Deserialize)]
pub struct RemoveTemplate {
    /// A unique beginning of its digest.
    pub digest: String,
}

/// This member.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShowMember {}

/// Begin a union whose first member this one is.
#[derive(Debug, Serialize, Deserialize)]
pub struct BeginUnion {
    /// What it begins with.
    pub union: UnionBegin,
}

/// The union that this member is in.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShowUnion {}

/// Its members; outside of a union this one alone.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListMembers {}

/// Make a join token.
#[derive(Debug, Serialize, Deserialize)]
pub struct CreateToken {
    /// Which.
    pub wish: TokenWish,
}

/// Join tokens that can still be used.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListTokens {}

/// End a join token that nobody has used.
#[derive(Debug, Serialize, Deserialize)]
pub struct EndToken {
    /// Its name in the record.
    pub id: TokenId,
}

/// Join a union, as an operation.
#[derive(Debug, Serialize, Deserialize)]
pub struct JoinUnion {
    /// With what.
    pub join: UnionJoin,
}

/// Leave the union.
#[derive(Debug, Serialize, Deserialize)]
pub struct LeaveUnion {}

/// What leaving the union by force would give up; and, if that is confirmed, that.
#[derive(Debug, Serialize, Deserialize)]
pub struct LeaveByForce {
    /// Whether it is to be done.
    pub wish: ForcedLeave,
}

/// Remove a member from the union.
#[derive(Debug, Serialize, Deserialize)]
pub struct EvictMember {
    /// Its name.
    pub name: MemberName,
    /// Why.
    pub eviction: Eviction,
}

/// A member of the union, and why its verdict is what it is.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShowPeer {
    /// Its name.
    pub name: MemberName,
}

/// What the record says, oldest first.
#[derive(Debug, Serialize, Deserialize)]
pub struct History {
    /// Only about this member.
    pub member: Option<MemberName>,
}

/// What a recovery of the union would give up; and, if that is confirmed, the recovery.
#[derive(Debug, Serialize, Deserialize)]
pub struct RecoverUnion {
    /// Which.
    pub wish: RecoveryWish,
}

/// Say that an entry may replace the union's voters.
#[derive(Debug, Serialize, Deserialize)]
pub struct FollowRecovery {
    /// Which.
    pub follow: RecoveryFollow,
}

/// The reference values that count.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListReferences {}

/// One manifest of them.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShowReference {
    /// Its name.
    pub name: String,
}

/// Have more count as healthy.
#[derive(Debug, Serialize, Deserialize)]
pub struct AcceptReference {
    /// What.
    pub wish: ReferenceWish,
}

/// Have a manifest count no more.
#[derive(Debug, Serialize, Deserialize)]
pub struct RetireReference {
    /// Its name.
    pub name: String,
}

/// A running box's evidence as a file, with its member's; the answer's descriptor can be read to its end.
#[derive(Debug, Serialize, Deserialize)]
pub struct AttestBox {
    /// Its name.
    pub name: String,
    /// What the person has chosen, in hexadecimal: 16 to 64 bytes.
    pub nonce: String,
}

/// A member's evidence as a file; the answer's descriptor can be read to its end.
#[derive(Debug, Serialize, Deserialize)]
pub struct AttestMember {
    /// Another member of the union; none: this one.
    pub name: Option<MemberName>,
    /// What the person has chosen, in hexadecimal: 16 to 64 bytes.
    pub nonce: String,
}

/// Every check of this member.
#[derive(Debug, Serialize, Deserialize)]
pub struct Doctor {}

/// Counters and gauges in the Prometheus text format.
#[derive(Debug, Serialize, Deserialize)]
pub struct Metrics {}

crate::interface!("management" {
    /// See [`CreateBox`].
    CreateBox = "create_box" -> Operation;
    /// See [`StartBox`].
    StartBox = "start_box" -> Operation;
    /// See [`StopBox`].
    StopBox = "stop_box" -> Operation;
    /// See [`PauseBox`].
    PauseBox = "pause_box" -> BoxView;
    /// See [`ResumeBox`].
    ResumeBox = "resume_box" -> BoxView;
    /// See [`RemoveBox`].
    RemoveBox = "remove_box" -> Operation;
    /// See [`SetBox`].
    SetBox = "set_box" -> SetReply;
    /// See [`ListBoxes`].
    ListBoxes = "list_boxes" -> Vec<BoxView>;
    /// See [`ShowBox`].
    ShowBox = "show_box" -> BoxDetail;
    /// See [`BoxLogs`].
    BoxLogs = "box_logs" -> Nothing;
    /// See [`ExecBox`].
    ExecBox = "exec_box" -> Nothing;
    /// See [`SignalBox`].
    SignalBox = "signal_box" -> Nothing;
    /// See [`ListOperations`].
    ListOperations = "list_operations" -> Vec<Operation>;
    /// See [`ShowOperation`].
    ShowOperation = "show_operation" -> Operation;
    /// See [`WatchOperation`].
    WatchOperation = "watch_operation" -> Operation, progress Operation;
    /// See [`CancelOperation`].
    CancelOperation = "cancel_operation" -> Operation;
    /// See [`Events`].
    Events = "events" -> Nothing, progress Event;
    /// See [`ListComponents`].
    ListComponents = "list_components" -> Vec<ComponentView>;
    /// See [`ShowComponent`].
    ShowComponent = "show_component" -> ShowReply;
    /// See [`ImportComponent`].
    ImportComponent = "import_component" -> Operation;
    /// See [`ListTemplates`].
    ListTemplates = "list_templates" -> Vec<TemplateView>;
    /// See [`BuildTemplate`].
    BuildTemplate = "build_template" -> Operation;
    /// See [`RemoveTemplate`].
    RemoveTemplate = "remove_template" -> TemplateView;
    /// See [`ShowMember`].
    ShowMember = "show_member" -> MemberView;
    /// See [`BeginUnion`]. A member that is in a union already, and a TPM that the union would not let in, are refused.
    BeginUnion = "begin_union" -> UnionSummary;
    /// See [`ShowUnion`]. Outside of a union: `NotFound`.
    ShowUnion = "show_union" -> UnionSummary;
    /// See [`ListMembers`].
    ListMembers = "list_members" -> Vec<MemberRow>;
    /// See [`CreateToken`].
    CreateToken = "create_token" -> TokenMade;
    /// See [`ListTokens`].
    ListTokens = "list_tokens" -> Vec<TokenRow>;
    /// See [`EndToken`].
    EndToken = "end_token" -> Change;
    /// See [`JoinUnion`].
    JoinUnion = "join_union" -> Operation;
    /// See [`LeaveUnion`].
    LeaveUnion = "leave_union" -> Change;
    /// See [`LeaveByForce`].
    LeaveByForce = "leave_by_force" -> Departure;
    /// See [`EvictMember`].
    EvictMember = "evict_member" -> Change;
    /// See [`ShowPeer`].
    ShowPeer = "show_peer" -> PeerView;
    /// See [`History`].
    History = "history" -> Vec<HistoryRow>;
    /// See [`RecoverUnion`].
    RecoverUnion = "recover_union" -> Recovery;
    /// See [`FollowRecovery`].
    FollowRecovery = "follow_recovery" -> Change;
    /// See [`ListReferences`].
    ListReferences = "list_references" -> Vec<ReferenceRow>;
    /// See [`ShowReference`].
    ShowReference = "show_reference" -> serde_json::Value;
    /// See [`AcceptReference`].
    AcceptReference = "accept_reference" -> Change;
    /// See [`RetireReference`].
    RetireReference = "retire_reference" -> Change;
    /// See [`AttestBox`].
    AttestBox = "attest_box" -> Nothing;
    /// See [`AttestMember`].
    AttestMember = "attest_member" -> Nothing;
    /// See [`Doctor`].
    Doctor = "doctor" -> Vec<HostCheck>;
    /// See [`Metrics`].
    Metrics = "metrics" -> String;
});
