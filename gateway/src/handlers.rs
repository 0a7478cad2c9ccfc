//! What each row of the table does: one call of `management`, its answer in JSON, as lines, or as a stream.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use gtvp_ipc::drivers::LogSource;
use gtvp_ipc::management as m;
use gtvp_ipc::{Method, Nothing};
use gtvp_model::api::{BoxChange, EVIDENCE_TYPE, ExecBody, ImportBody, SignalBody};
use gtvp_model::boxspec::BoxSpec;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::MemberName;
use gtvp_model::operation::Operation;
use hyper::Response;
use hyper::header::{HeaderValue, LOCATION};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::call::{Call, Message};
use crate::request::Context;
use crate::respond::{Body, Lines, Refusal, full, json, response};
use crate::{openapi, stream};

/// What a handler gives.
pub type Outcome = Result<Response<Body>, Refusal>;
/// A handler at work.
pub type Working = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// How long a stop waits for the application unless said otherwise.
const DEFAULT_GRACE_MS: u64 = 10_000;
/// Lines that wait for a slow reader before `management` has to wait.
const LINES_AHEAD: usize = 16;
/// A refusal comes within this time; lines may come much later, and the response begins without one.
const FIRST_LINE: Duration = Duration::from_millis(200);

async fn call<M: Method>(
    context: &Context,
    params: &M,
) -> Result<(M::Reply, Vec<std::os::fd::OwnedFd>), Fault> {
    Call::start(&context.management, params, context.person()).await?.done().await
}

async fn relay<M>(context: &Context, params: &M) -> Outcome
where
    M: Method,
    M::Reply: Serialize,
{
    json(200, &call(context, params).await?.0)
}

async fn accept<M: Method<Reply = Operation>>(context: &Context, params: &M) -> Outcome {
    let operation = call(context, params).await?.0;
    let mut response = json(202, &operation)?;
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/operations/{}", operation.id)) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

async fn empty<M: Method<Reply = Nothing>>(context: &Context, params: &M) -> Outcome {
    call(context, params).await?;
    let mut response = response(204, "application/json", full(Bytes::new()));
    response.headers_mut().remove(hyper::header::CONTENT_TYPE);
    Ok(response)
}

/// Progress messages as lines. `last` is the answer's own line, if it has one.
async fn lines<M>(context: &Context, params: &M, last: fn(M::Reply) -> Option<Bytes>) -> Outcome
where
    M: Method + 'static,
    M::Progress: Serialize + Send,
    M::Reply: Send,
{
    let mut call = Call::start(&context.management, params, context.person()).await?;
    let (lines, mut rest) = mpsc::channel(LINES_AHEAD);
    tokio::spawn(async move {
        loop {
            let message = tokio::select! {
                message = call.next() => message,
                () = lines.closed() => return,
            };
            let (line, end) = match message {
                Ok(Message::Progress(p)) => (line_of(&p).map(Ok), false),
                Ok(Message::Done(reply, _)) => (last(reply).map(Ok), true),
                Err(fault) => (Some(Err(fault)), true),
            };
            if let Some(line) = line {
                // A reader that has gone ends it at the next turn.
                let _ = lines.send(line).await;
            }
            if end {
                return;
            }
        }
    });
    let first = match tokio::time::timeout(FIRST_LINE, rest.recv()).await {
        Ok(Some(Err(fault))) => return Err(fault.into()),
        Ok(Some(Ok(line))) => Some(line),
        Ok(None) | Err(_) => None,
    };
    // The status has been said: a fault from here on is the last line.
    Ok(Lines { first, rest }.into_response())
}

/// One value and a line feed.
pub fn line_of<T: Serialize>(value: &T) -> Option<Bytes> {
    let mut line = serde_json::to_vec(value).ok()?;
    line.push(b'\n');
    Some(line.into())
}

/// The member that the path names.
fn member(context: &Context) -> Result<MemberName, Fault> {
    let name = context.value();
    name.parse().map_err(|e: gtvp_model::ids::BadName| Fault::new(FaultKind::Invalid, e.to_string()))
}

macro_rules! handlers {
    ($( $(#[$doc:meta])* $name:ident($c:ident) $body:block )*) => {
        $( $(#[$doc])* pub fn $name(#[allow(unused_mut)] mut $c: Context) -> Working { Box::pin(async move { $body }) } )*
    };
}

handlers! {
    /// Every box.
    list_boxes(c) { relay(&c, &m::ListBoxes {}).await }
    /// Make a box and start it.
    create_box(c) {
        let spec: BoxSpec = c.body().await?;
        accept(&c, &m::CreateBox { spec }).await
    }
    /// One box.
    show_box(c) { relay(&c, &m::ShowBox { name: c.value() }).await }
    /// Change a box.
    set_box(c) {
        let BoxChange { memory, cpus } = c.body().await?;
        relay(&c, &m::SetBox { name: c.value(), memory, cpus }).await
    }
    /// Remove a box.
    remove_box(c) { accept(&c, &m::RemoveBox { name: c.value(), force: c.flag("force")? }).await }
    /// Start a box.
    start_box(c) { accept(&c, &m::StartBox { name: c.value() }).await }
    /// Stop a box.
    stop_box(c) {
        let grace_ms = c.number("grace_ms")?.unwrap_or(DEFAULT_GRACE_MS);
        accept(&c, &m::StopBox { name: c.value(), grace_ms }).await
    }
    /// Pause a box.
    pause_box(c) { relay(&c, &m::PauseBox { name: c.value() }).await }
    /// Resume a box.
    resume_box(c) { relay(&c, &m::ResumeBox { name: c.value() }).await }
    /// Signal a box's application.
    signal_box(c) {
        let SignalBody { signal } = c.body().await?;
        empty(&c, &m::SignalBox { name: c.value(), signal }).await
    }
    /// A box's log.
    box_logs(c) {
        let source = match c.query("source") {
            None | Some("application") => LogSource::Application,
            Some("console") => LogSource::Console,
            Some(other) => {
                return Err(Fault::new(FaultKind::Invalid, format!("there is no log {other:?}"))
                    .hint("application or console").into());
            }
        };
        let params = m::BoxLogs { name: c.value(), source, follow: c.flag("follow")?, tail: c.number("tail")? };
        stream::from_fd(stream::only(call(&c, &params).await?.1)?)
    }
    /// Run a command in a box.
    exec_box(c) {
        let upgrade = stream::wanted_upgrade(&mut c.request)?;
        let ExecBody { program, terminal } = c.body().await?;
        let (_, fds) = call(&c, &m::ExecBox { name: c.value(), program, terminal }).await?;
        stream::upgrade(stream::only(fds)?, upgrade)
    }
    /// Every operation.
    list_operations(c) { relay(&c, &m::ListOperations {}).await }
    /// One operation.
    show_operation(c) { relay(&c, &m::ShowOperation { id: c.value() }).await }
    /// An operation until it ends.
    watch_operation(c) { lines(&c, &m::WatchOperation { id: c.value() }, |last| line_of(&last)).await }
    /// Cancel an operation.
    cancel_operation(c) { relay(&c, &m::CancelOperation { id: c.value() }).await }
    /// What happened.
    events(c) {
        let (after, tail) = (c.number("after")?.unwrap_or(0), c.number("tail")?);
        lines(&c, &m::Events { after, tail, follow: c.flag("follow")? }, |Nothing {}| None).await
    }
    /// Every component.
    list_components(c) { relay(&c, &m::ListComponents {}).await }
    /// One component.
    show_component(c) { relay(&c, &m::ShowComponent { reference: c.value() }).await }
    /// Import a component.
    import_component(c) {
        let ImportBody { need } = c.body().await?;
        accept(&c, &m::ImportComponent { need }).await
    }
    /// Every template.
    list_templates(c) { relay(&c, &m::ListTemplates {}).await }
    /// Boot a template.
    build_template(c) {
        let wish = c.body().await?;
        accept(&c, &m::BuildTemplate { wish }).await
    }
    /// Remove a template.
    remove_template(c) { relay(&c, &m::RemoveTemplate { digest: c.value() }).await }
    /// This member.
    show_member(c) { relay(&c, &m::ShowMember {}).await }
    /// Begin a union.
    begin_union(c) {
        let union = c.body().await?;
        relay(&c, &m::BeginUnion { union }).await
    }
    /// The union.
    show_union(c) { relay(&c, &m::ShowUnion {}).await }
    /// Its members.
    list_members(c) { relay(&c, &m::ListMembers {}).await }
    /// Make a join token.
    create_token(c) {
        let wish = c.body().await?;
        relay(&c, &m::CreateToken { wish }).await
    }
    /// Join tokens.
    list_tokens(c) { relay(&c, &m::ListTokens {}).await }
    /// End a join token.
    end_token(c) {
        let id = c.value();
        let id = id.parse().map_err(|_| {
            Fault::new(FaultKind::Invalid, "that is no token's name: 64 hexadecimal digits").hint("gtvp token create -o json shows it as id")
        })?;
        relay(&c, &m::EndToken { id }).await
    }
    /// Join a union.
    join_union(c) {
        let join = c.body().await?;
        accept(&c, &m::JoinUnion { join }).await
    }
    /// Leave the union.
    leave_union(c) { relay(&c, &m::LeaveUnion {}).await }
    /// Leave the union by force.
    leave_by_force(c) {
        let wish = c.body().await?;
        relay(&c, &m::LeaveByForce { wish }).await
    }
    /// One member of the union.
    show_peer(c) { relay(&c, &m::ShowPeer { name: member(&c)? }).await }
    /// Remove a member.
    evict_member(c) {
        let name = member(&c)?;
        let eviction = c.body().await?;
        relay(&c, &m::EvictMember { name, eviction }).await
    }
    /// What the record says about a member.
    member_history(c) { relay(&c, &m::History { member: Some(member(&c)?) }).await }
    /// What the record says.
    union_history(c) { relay(&c, &m::History { member: None }).await }
    /// Recover the union.
    recover_union(c) {
        let wish = c.body().await?;
        relay(&c, &m::RecoverUnion { wish }).await
    }
    /// Follow a recovery.
    follow_recovery(c) {
        let follow = c.body().await?;
        relay(&c, &m::FollowRecovery { follow }).await
    }
    /// Reference values.
    list_references(c) { relay(&c, &m::ListReferences {}).await }
    /// One manifest of reference values.
    show_reference(c) { relay(&c, &m::ShowReference { name: c.value() }).await }
    /// Have more count as healthy.
    accept_reference(c) {
        let wish = c.body().await?;
        relay(&c, &m::AcceptReference { wish }).await
    }
    /// Have a manifest count no more.
    retire_reference(c) { relay(&c, &m::RetireReference { name: c.value() }).await }
    /// A box's evidence.
    attest_box(c) {
        let nonce = c.query("nonce").unwrap_or_default().to_owned();
        let (_, fds) = call(&c, &m::AttestBox { name: c.value(), nonce }).await?;
        stream::from_file(stream::only(fds)?, EVIDENCE_TYPE)
    }
    /// This member's evidence.
    attest_member(c) {
        let nonce = c.query("nonce").unwrap_or_default().to_owned();
        stream::from_file(stream::only(call(&c, &m::AttestMember { name: None, nonce }).await?.1)?, EVIDENCE_TYPE)
    }
    /// Another member's evidence.
    attest_peer(c) {
        let nonce = c.query("nonce").unwrap_or_default().to_owned();
        let what = m::AttestMember { name: Some(member(&c)?), nonce };
        stream::from_file(stream::only(call(&c, &what).await?.1)?, EVIDENCE_TYPE)
    }
    /// Checks of this member.
    doctor(c) { relay(&c, &m::Doctor {}).await }
    /// Figures.
    metrics(c) {
        let (text, _) = call(&c, &m::Metrics {}).await?;
        Ok(response(200, "text/plain; version=0.0.4", full(text)))
    }
    /// The OpenAPI document.
    openapi_document(_c) { Ok(response(200, "application/json", full(openapi::document_text()))) }
    /// The schema of a box spec.
    boxspec_schema(_c) { Ok(response(200, "application/schema+json", full(openapi::boxspec_text()))) }
    /// The gateway lives.
    healthz(_c) { Ok(response(200, "text/plain", full("ok\n"))) }
}
