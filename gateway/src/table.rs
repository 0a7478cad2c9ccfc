//! What the API has: the router and the OpenAPI document are both made from these rows.

use gtvp_ipc::components::ShowReply;
use gtvp_ipc::management::SetReply;
use gtvp_model::api::{BoxChange, EVIDENCE_TYPE, ExecBody, ImportBody, LINES_TYPE, STREAM_TYPE, SignalBody};
use gtvp_model::boxspec::BoxSpec;
use gtvp_model::boxview::{BoxDetail, BoxView};
use gtvp_model::component::ComponentView;
use gtvp_model::event::Event;
use gtvp_model::member::{HostCheck, MemberView};
use gtvp_model::operation::Operation;
use gtvp_model::template::{TemplateView, TemplateWish};
use gtvp_model::unionview::{
    Change, Departure, Eviction, ForcedLeave, HistoryRow, MemberRow, PeerView, Recovery, RecoveryFollow,
    RecoveryWish, ReferenceRow, ReferenceWish, TokenMade, TokenRow, TokenWish, UnionBegin, UnionJoin,
    UnionSummary,
};
use hyper::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::handlers::{self, Working};
use crate::request::Context;

/// One thing that people may ask for.
pub struct Route {
    /// HTTP's method.
    pub method: Method,
    /// The path; a name in braces stands for one value.
    pub path: &'static str,
    /// OpenAPI's operationId, unique.
    pub id: &'static str,
    /// What it is about.
    pub tag: &'static str,
    /// What it does, one sentence.
    pub summary: &'static str,
    /// What may stand in the query. Anything else is refused.
    pub query: &'static [Query],
    /// The request's body, if it has one.
    pub body: Option<Content>,
    /// Status of success.
    pub status: u16,
    /// The response's body, if it has one.
    pub reply: Option<Content>,
    /// Faults beyond the ones that every row may answer: HTTP statuses.
    pub faults: &'static [u16],
    /// What it does.
    pub handler: fn(Context) -> Working,
}

/// A parameter of a query.
pub struct Query {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// `boolean`, `integer`, the words that are possible, or bytes.
    pub kind: QueryKind,
}

/// What a parameter of a query may be.
pub enum QueryKind {
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Number,
    /// One of these words.
    Words(&'static [&'static str]),
    /// Bytes in hexadecimal, from so many to so many. Never left out.
    Hex(usize, usize),
}

/// A body.
pub struct Content {
    /// Media type.
    pub media: &'static str,
    /// Its schema; none for bytes.
    pub schema: Option<fn(&mut SchemaGenerator) -> Schema>,
    /// An example, in JSON.
    pub example: &'static str,
}

const fn json<T: JsonSchema>(example: &'static str) -> Option<Content> {
    Some(Content { media: "application/json", schema: Some(schema::<T>), example })
}

const fn lines<T: JsonSchema>(example: &'static str) -> Option<Content> {
    Some(Content { media: LINES_TYPE, schema: Some(schema::<T>), example })
}

const fn bytes(media: &'static str, example: &'static str) -> Option<Content> {
    Some(Content { media, schema: None, example })
}

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

const OPERATION: &str = r#"{"id":"op-7","kind":"run","target":"web","state":"running","progress":{"phase":"fetch",
    "message":"fetching nginx","done":1048576,"total":4194304,"unit":"bytes"},"phases":[{"phase":"resolve","ms":210}],"started_ms":1790000000000}"#;
const BOX: &str = r#"{"name":"web","state":"running","member":"m1","kind":"lazy","address":"10.90.1.2","published":["8080:80/tcp"],
    "memory_bytes":536870912,"cpus":1,"created_ms":1790000000000}"#;
const BOXES: &str = r#"[{"name":"web","state":"running","member":"m1","kind":"lazy","address":"10.90.1.2","published":["8080:80/tcp"],
    "memory_bytes":536870912,"cpus":1,"created_ms":1790000000000}]"#;
const SPEC: &str = r#"{"name":"web","needs":["nginx"],"command":["nginx","-g","daemon off;"],"publish":["8080:80"],"memory":"512M"}"#;

const UNION: &str = r#"{"name":"lab","id":"5f0c…","epoch":0,"entries":1,"head":"5f0c…","voters":["m1"],"members":1,"software_tpms":true,
    "without_tpm":false}"#;

const HISTORY: &str = r#"[{"number":0,"time":1790000000,"author":"m1","act":"genesis","about":"union lab begins with m1","hash":"5f0c…"}]"#;

const FOLLOW: Query = Query { name: "follow", summary: "Go on as more comes.", kind: QueryKind::Flag };

/// Every row.
// A table: one row of it is read as one.
#[rustfmt::skip]
pub static ROUTES: &[Route] = &[
    Route {
        method: Method::GET, path: "/v1/boxes", id: "listBoxes", tag: "boxes", summary: "Every box.",
        query: &[], body: None, status: 200, reply: json::<Vec<BoxView>>(BOXES), faults: &[], handler: handlers::list_boxes,
    },
    Route {
        method: Method::POST, path: "/v1/boxes", id: "createBox", tag: "boxes",
        summary: "Make a box and start it, as an operation. A box whose first start fails or is cancelled is removed again.",
        query: &[], body: json::<BoxSpec>(SPEC), status: 202, reply: json::<Operation>(OPERATION),
        faults: &[404, 409, 422, 502, 507], handler: handlers::create_box,
    },
    Route {
        method: Method::GET, path: "/v1/boxes/{name}", id: "showBox", tag: "boxes",
        summary: "One box in full, with its linked components.",
        query: &[], body: None, status: 200, reply: json::<BoxDetail>(""), faults: &[404], handler: handlers::show_box,
    },
    Route {
        method: Method::PATCH, path: "/v1/boxes/{name}", id: "setBox", tag: "boxes",
        summary: "Change a box: live where it can be, else at its next start.",
        query: &[], body: json::<BoxChange>(r#"{"memory":"512M","cpus":1}"#), status: 200,
        reply: json::<SetReply>(r#"{"applied":["memory is 512M now"],"pending":[]}"#), faults: &[404, 409, 507], handler: handlers::set_box,
    },
    Route {
        method: Method::DELETE, path: "/v1/boxes/{name}", id: "removeBox", tag: "boxes",
        summary: "Remove a box with its writable layer, as an operation.",
        query: &[Query { name: "force", summary: "Also when it runs.", kind: QueryKind::Flag }],
        body: None, status: 202, reply: json::<Operation>(OPERATION), faults: &[404, 409], handler: handlers::remove_box,
    },
    Route {
        method: Method::POST, path: "/v1/boxes/{name}/start", id: "startBox", tag: "boxes", summary: "Start a stopped box, as an operation.",
        query: &[], body: None, status: 202, reply: json::<Operation>(OPERATION), faults: &[404, 409, 422, 507], handler: handlers::start_box,
    },
    Route {
        method: Method::POST, path: "/v1/boxes/{name}/stop", id: "stopBox", tag: "boxes", summary: "Stop a box, as an operation.",
        query: &[Query { name: "grace_ms", summary: "Milliseconds that the application gets; 10000 unless said.", kind: QueryKind::Number }],
        body: None, status: 202, reply: json::<Operation>(OPERATION), faults: &[404, 409], handler: handlers::stop_box,
    },
    Route {
        method: Method::POST, path: "/v1/boxes/{name}/pause", id: "pauseBox", tag: "boxes", summary: "Halt a box's processors.",
        query: &[], body: None, status: 200, reply: json::<BoxView>(BOX), faults: &[404, 409], handler: handlers::pause_box,
    },
    Route {
        method: Method::POST, path: "/v1/boxes/{name}/resume", id: "resumeBox", tag: "boxes", summary: "Let a box's processors go on.",
        query: &[], body: None, status: 200, reply: json::<BoxView>(BOX), faults: &[404, 409], handler: handlers::resume_box,
    },
    Route {
        method: Method::POST, path: "/v1/boxes/{name}/signal", id: "signalBox", tag: "boxes", summary: "Send a signal to a box's application.",
        query: &[], body: json::<SignalBody>(r#"{"signal":15}"#), status: 204, reply: None, faults: &[404, 409], handler: handlers::signal_box,
    },
    Route {
        method: Method::GET, path: "/v1/boxes/{name}/logs", id: "boxLogs", tag: "boxes",
        summary: "A box's log, as frames: one byte kind (1 standard output, 2 standard error, 4 exit status, 5 fault), three zero bytes, a big-endian u32 length, the payload.",
        query: &[
            Query { name: "source", summary: "Which log.", kind: QueryKind::Words(&["application", "console"]) },
            FOLLOW,
            Query { name: "tail", summary: "Only this many lines from the end.", kind: QueryKind::Number },
        ],
        body: None, status: 200, reply: bytes(STREAM_TYPE, ""), faults: &[404], handler: handlers::box_logs,
    },
    Route {
        method: Method::POST, path: "/v1/boxes/{name}/exec", id: "execBox", tag: "boxes",
        summary: "Run a command in a box. Send `Connection: Upgrade` and `Upgrade: gtvp-stream/1`; after 101 the connection carries frames both ways (to the command: 0 input, 3 terminal size, 6 signal).",
        query: &[], body: json::<ExecBody>(r#"{"argv":["uname","-a"]}"#), status: 101, reply: None,
        faults: &[404, 409, 422, 426], handler: handlers::exec_box,
    },
    Route {
        method: Method::GET, path: "/v1/operations", id: "listOperations", tag: "operations", summary: "Every operation that is remembered.",
        query: &[], body: None, status: 200, reply: json::<Vec<Operation>>(""), faults: &[], handler: handlers::list_operations,
    },
    Route {
        method: Method::GET, path: "/v1/operations/{id}", id: "showOperation", tag: "operations", summary: "One operation.",
        query: &[], body: None, status: 200, reply: json::<Operation>(OPERATION), faults: &[404], handler: handlers::show_operation,
    },
    Route {
        method: Method::GET, path: "/v1/operations/{id}/watch", id: "watchOperation", tag: "operations",
        summary: "An operation as it goes on, one JSON value a line, until it ends. A last line {\"fault\":…} means that the answer broke off.",
        query: &[], body: None, status: 200, reply: lines::<Operation>(OPERATION), faults: &[404], handler: handlers::watch_operation,
    },
    Route {
        method: Method::DELETE, path: "/v1/operations/{id}", id: "cancelOperation", tag: "operations",
        summary: "Cancel an operation. Its end shows whether it could still be cancelled.",
        query: &[], body: None, status: 200, reply: json::<Operation>(OPERATION), faults: &[404, 409], handler: handlers::cancel_operation,
    },
    Route {
        method: Method::GET, path: "/v1/events", id: "events", tag: "member",
        summary: "What happened, one JSON value a line. A last line {\"fault\":…} means that the answer broke off.",
        query: &[
            Query { name: "after", summary: "Only events after this number.", kind: QueryKind::Number },
            Query { name: "tail", summary: "Only this many from the end.", kind: QueryKind::Number },
            FOLLOW,
        ],
        body: None, status: 200,
        reply: lines::<Event>(r#"{"seq":1,"time_ms":1790000000000,"member":"m1","severity":"info","kind":"box.started","box_name":"web","message":"web started"}"#),
        faults: &[], handler: handlers::events,
    },
    Route {
        method: Method::GET, path: "/v1/components", id: "listComponents", tag: "components", summary: "Every component in the store.",
        query: &[], body: None, status: 200, reply: json::<Vec<ComponentView>>(""), faults: &[], handler: handlers::list_components,
    },
    Route {
        method: Method::GET, path: "/v1/components/{reference}", id: "showComponent", tag: "components",
        summary: "One component, by its reference or a unique beginning of its digest.",
        query: &[], body: None, status: 200, reply: json::<ShowReply>(""), faults: &[404, 409], handler: handlers::show_component,
    },
    Route {
        method: Method::POST, path: "/v1/components", id: "importComponent", tag: "components", summary: "Import a component, as an operation.",
        query: &[], body: json::<ImportBody>(r#"{"need":"deb:nginx"}"#), status: 202, reply: json::<Operation>(OPERATION),
        faults: &[404, 422, 502, 507], handler: handlers::import_component,
    },
    Route {
        method: Method::GET, path: "/v1/templates", id: "listTemplates", tag: "templates",
        summary: "Every template: a machine that this member booted and saved, from which boxes start.",
        query: &[], body: None, status: 200, reply: json::<Vec<TemplateView>>(""), faults: &[], handler: handlers::list_templates,
    },
    Route {
        method: Method::POST, path: "/v1/templates", id: "buildTemplate", tag: "templates", summary: "Boot a template, as an operation.",
        query: &[], body: json::<TemplateWish>(r#"{"memory":"512M","cpus":1}"#), status: 202, reply: json::<Operation>(OPERATION),
        faults: &[409, 422, 502, 507], handler: handlers::build_template,
    },
    Route {
        method: Method::DELETE, path: "/v1/templates/{digest}", id: "removeTemplate", tag: "templates",
        summary: "Remove a template, by a unique beginning of its digest. Boxes that were started from it run on.",
        query: &[], body: None, status: 200, reply: json::<TemplateView>(""), faults: &[404, 409], handler: handlers::remove_template,
    },
    Route {
        method: Method::GET, path: "/v1/member", id: "showMember", tag: "member", summary: "This member: its domains, its verdict, what it offers.",
        query: &[], body: None, status: 200, reply: json::<MemberView>(""), faults: &[], handler: handlers::show_member,
    },
    Route {
        method: Method::POST, path: "/v1/union", id: "beginUnion", tag: "union",
        summary: "Begin a union whose first member this server is. Software TPMs and members without one are let in only where this says so.",
        query: &[], body: json::<UnionBegin>(r#"{"name":"lab","software_tpms":true}"#), status: 200, reply: json::<UnionSummary>(UNION),
        faults: &[403, 409, 422], handler: handlers::begin_union,
    },
    Route {
        method: Method::GET, path: "/v1/union", id: "showUnion", tag: "union", summary: "The union that this member is in.",
        query: &[], body: None, status: 200, reply: json::<UnionSummary>(UNION), faults: &[404], handler: handlers::show_union,
    },
    Route {
        method: Method::GET, path: "/v1/members", id: "listMembers", tag: "union",
        summary: "Every member of the union; outside of one, this server alone.",
        query: &[], body: None, status: 200,
        reply: json::<Vec<MemberRow>>(r#"[{"name":"m1","verdict":"unknown","tpm":"hardware","own":true}]"#), faults: &[],
        handler: handlers::list_members,
    },
    Route {
        method: Method::GET, path: "/v1/union/history", id: "unionHistory", tag: "union", summary: "Every entry of the union's record, oldest first.",
        query: &[], body: None, status: 200, reply: json::<Vec<HistoryRow>>(HISTORY), faults: &[404], handler: handlers::union_history,
    },
    Route {
        method: Method::POST, path: "/v1/union/join", id: "joinUnion", tag: "union",
        summary: "Join the union of a token, as an operation. What fails leaves this server as it was, and can be tried again.",
        query: &[], body: json::<UnionJoin>(r#"{"token":"gtvp-join-…"}"#), status: 202, reply: json::<Operation>(OPERATION),
        faults: &[403, 404, 409, 422, 502], handler: handlers::join_union,
    },
    Route {
        method: Method::POST, path: "/v1/union/leave", id: "leaveUnion", tag: "union", summary: "Leave the union.",
        query: &[], body: None, status: 200, reply: json::<Change>(r#"{"about":"m2 has left the union"}"#), faults: &[404, 409],
        handler: handlers::leave_union,
    },
    Route {
        method: Method::POST, path: "/v1/union/leave/force", id: "leaveByForce", tag: "union",
        summary: "Leave the union without a majority's word, for a member that was given up or whose union is lost; unless it is confirmed, say what that gives up.",
        query: &[], body: json::<ForcedLeave>(r#"{"confirmed":false}"#), status: 200, reply: json::<Departure>(""), faults: &[404, 409],
        handler: handlers::leave_by_force,
    },
    Route {
        method: Method::POST, path: "/v1/union/recover", id: "recoverUnion", tag: "union",
        summary: "Make this member the only voter of a union whose voters are lost; unless it is confirmed, say what that gives up.",
        query: &[], body: json::<RecoveryWish>(r#"{"lost":["m3"],"reason":"burnt","confirmed":false}"#), status: 200,
        reply: json::<Recovery>(""), faults: &[404, 409], handler: handlers::recover_union,
    },
    Route {
        method: Method::POST, path: "/v1/union/recover/follow", id: "followRecovery", tag: "union",
        summary: "Say, on another member, that an entry may replace the union's voters.",
        query: &[], body: json::<RecoveryFollow>(r#"{"hash":"5f0c…"}"#), status: 200,
        reply: json::<Change>(r#"{"about":"entry 5f0c may replace the union's voters"}"#), faults: &[404, 409], handler: handlers::follow_recovery,
    },
    Route {
        method: Method::POST, path: "/v1/tokens", id: "createToken", tag: "union", summary: "Make a join token. It is shown once, and lets one server in.",
        query: &[], body: json::<TokenWish>(r#"{"expires_s":3600}"#), status: 200, reply: json::<TokenMade>(""), faults: &[403, 404, 409],
        handler: handlers::create_token,
    },
    Route {
        method: Method::GET, path: "/v1/tokens", id: "listTokens", tag: "union",
        summary: "Join tokens that can still be used: when they end, and who made them. Their secrets are shown to nobody.",
        query: &[], body: None, status: 200, reply: json::<Vec<TokenRow>>(""), faults: &[404], handler: handlers::list_tokens,
    },
    Route {
        method: Method::DELETE, path: "/v1/tokens/{token}", id: "endToken", tag: "union", summary: "End a join token that nobody has used.",
        query: &[], body: None, status: 200, reply: json::<Change>(r#"{"about":"the token is good no more"}"#), faults: &[404, 409],
        handler: handlers::end_token,
    },
    Route {
        method: Method::GET, path: "/v1/members/{name}", id: "showPeer", tag: "union",
        summary: "One member of the union: each check of its last appraisal, with the entry that failed.",
        query: &[], body: None, status: 200, reply: json::<PeerView>(""), faults: &[404], handler: handlers::show_peer,
    },
    Route {
        method: Method::POST, path: "/v1/members/{name}/evict", id: "evictMember", tag: "union",
        summary: "Remove a member by force: the epoch is raised, and every channel with it ends.",
        query: &[], body: json::<Eviction>(r#"{"reason":"stolen"}"#), status: 200, reply: json::<Change>(r#"{"about":"m3 is a member no more"}"#),
        faults: &[404, 409], handler: handlers::evict_member,
    },
    Route {
        method: Method::GET, path: "/v1/members/{name}/history", id: "memberHistory", tag: "union",
        summary: "Every entry of the union's record about a member, past ones too.",
        query: &[], body: None, status: 200, reply: json::<Vec<HistoryRow>>(HISTORY), faults: &[404], handler: handlers::member_history,
    },
    Route {
        method: Method::GET, path: "/v1/references", id: "listReferences", tag: "union", summary: "The reference values that count: what is healthy.",
        query: &[], body: None, status: 200, reply: json::<Vec<ReferenceRow>>(""), faults: &[404], handler: handlers::list_references,
    },
    Route {
        method: Method::POST, path: "/v1/references", id: "acceptReference", tag: "union",
        summary: "Have more count as healthy: what a member's evidence has that nothing knows, or a manifest.",
        query: &[], body: json::<ReferenceWish>(r#"{"member":"m2","next":false}"#), status: 200,
        reply: json::<Change>(r#"{"about":"2 entries of m2 count as healthy"}"#), faults: &[404, 409, 422], handler: handlers::accept_reference,
    },
    Route {
        method: Method::GET, path: "/v1/references/{name}", id: "showReference", tag: "union", summary: "One manifest of reference values, in full.",
        query: &[], body: None, status: 200, reply: Some(Content { media: "application/json", schema: None, example: "" }), faults: &[404],
        handler: handlers::show_reference,
    },
    Route {
        method: Method::DELETE, path: "/v1/references/{name}", id: "retireReference", tag: "union", summary: "Have a manifest count no more.",
        query: &[], body: None, status: 200, reply: json::<Change>(r#"{"about":"reference values m2 count no more"}"#), faults: &[404, 409],
        handler: handlers::retire_reference,
    },
    Route {
        method: Method::GET, path: "/v1/boxes/{name}/evidence", id: "attestBox", tag: "boxes",
        summary: "A running box's evidence, with its member's, as a file that anybody can check offline: CBOR, docs/spec/evidence.md.",
        query: &[Query { name: "nonce", summary: "What you have chosen: the TPMs' signatures cover it.", kind: QueryKind::Hex(16, 64) }],
        body: None, status: 200, reply: bytes(EVIDENCE_TYPE, ""), faults: &[404, 409], handler: handlers::attest_box,
    },
    Route {
        method: Method::GET, path: "/v1/member/evidence", id: "attestMember", tag: "member",
        summary: "This member's evidence as a file that anybody can check offline: CBOR, docs/spec/evidence.md.",
        query: &[Query { name: "nonce", summary: "What you have chosen: the TPM's signature covers it.", kind: QueryKind::Hex(16, 64) }],
        body: None, status: 200, reply: bytes(EVIDENCE_TYPE, ""), faults: &[409], handler: handlers::attest_member,
    },
    Route {
        method: Method::GET, path: "/v1/members/{name}/evidence", id: "attestPeer", tag: "union",
        summary: "Fresh evidence of a member of the union, which this one asks it for, as a file that anybody can check offline.",
        query: &[Query { name: "nonce", summary: "What you have chosen: the TPM's signature covers it.", kind: QueryKind::Hex(16, 64) }],
        body: None, status: 200, reply: bytes(EVIDENCE_TYPE, ""), faults: &[403, 404, 409, 503], handler: handlers::attest_peer,
    },
    Route {
        method: Method::GET, path: "/v1/doctor", id: "doctor", tag: "member", summary: "Every check of this member.",
        query: &[], body: None, status: 200,
        reply: json::<Vec<HostCheck>>(r#"[{"name":"accelerator","status":"missing","detail":"/dev/kvm runs no kernel","hint":"boxes run emulated, slower"}]"#),
        faults: &[], handler: handlers::doctor,
    },
    Route {
        method: Method::GET, path: "/metrics", id: "metrics", tag: "member", summary: "Counters and gauges in the Prometheus text format.",
        query: &[], body: None, status: 200, reply: bytes("text/plain; version=0.0.4", ""), faults: &[], handler: handlers::metrics,
    },
    Route {
        method: Method::GET, path: "/openapi.json", id: "openapi", tag: "api", summary: "This document.",
        query: &[], body: None, status: 200, reply: bytes("application/json", ""), faults: &[], handler: handlers::openapi_document,
    },
    Route {
        method: Method::GET, path: "/schema/boxspec.json", id: "boxspecSchema", tag: "api", summary: "JSON Schema of a box spec, for editors of the files of `gtvp run -f`.",
        query: &[], body: None, status: 200, reply: bytes("application/schema+json", ""), faults: &[], handler: handlers::boxspec_schema,
    },
    Route {
        method: Method::GET, path: "/healthz", id: "healthz", tag: "api", summary: "Whether the gateway itself answers.",
        query: &[], body: None, status: 200, reply: bytes("text/plain", "ok"), faults: &[], handler: handlers::healthz,
    },
];
