//! Answers: JSON, faults with their status, bodies that go on.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use gtvp_model::api::{BrokenOff, LINES_TYPE};
use gtvp_model::fault::Fault;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Frame;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::sync::mpsc;

/// A response's body.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A response of this media type.
pub fn response(status: u16, media: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// A value in JSON.
pub fn json<T: Serialize>(status: u16, value: &T) -> Result<Response<Body>, Refusal> {
    let bytes = serde_json::to_vec(value).map_err(|e| Fault::internal("the answer cannot be written", &e))?;
    Ok(response(status, "application/json", full(bytes)))
}

/// One JSON value a line, as they come.
pub struct Lines {
    /// The line that was waited for before the response began.
    pub first: Option<Bytes>,
    /// The lines after it; a fault is the last.
    pub rest: mpsc::Receiver<Result<Bytes, Fault>>,
}

impl Lines {
    /// The response.
    pub fn into_response(self) -> Response<Body> {
        response(200, LINES_TYPE, self.boxed_unsync())
    }
}

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = std::io::Error;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        self.rest.poll_recv(cx).map(|line| {
            let bytes = match line? {
                Ok(line) => line,
                Err(fault) => crate::handlers::line_of(&BrokenOff { fault }).unwrap_or_default(),
            };
            Some(Ok(Frame::data(bytes)))
        })
    }
}

/// A fault on its way to the person, with a status of its own where HTTP has a closer word than the fault's kind.
#[derive(Debug)]
pub struct Refusal {
    status: u16,
    fault: Box<Fault>,
    allow: Option<String>,
}

impl Refusal {
    /// With HTTP's closer word.
    pub fn with_status(status: u16, fault: Fault) -> Self {
        Self { status, fault: Box::new(fault), allow: None }
    }

    /// Says which methods are possible.
    pub fn allow(mut self, methods: String) -> Self {
        self.allow = Some(methods);
        self
    }

    /// The response.
    pub fn into_response(self) -> Response<Body> {
        let bytes = serde_json::to_vec(&self.fault).unwrap_or_default();
        let mut response = response(self.status, "application/json", full(bytes));
        let mut set = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                response.headers_mut().insert(name, value);
            }
        };
        if self.fault.retryable {
            set(RETRY_AFTER, "1");
        }
        if let Some(methods) = &self.allow {
            set(ALLOW, methods);
        }
        response
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::with_status(fault.http_status(), fault)
    }
}
