//! The API of one member, over its unix socket: requests, answers, lines and frames.
//!
//! While a part of the member restarts, requests that change nothing are made again for [`PATIENCE`]; others fail with
//! the member's own words, since nobody knows whether they were carried out.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use gtvp_model::api::STREAM_PROTOCOL;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::stream::{self, StreamKind};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// How long a request that changes nothing is made again while the member does not answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause before the first new try; it doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_millis(400);
/// How long an answer may take to begin. Long work is an operation, which is answered at once; a TPM may take its time.
const ANSWER: Duration = Duration::from_secs(90);
/// Most bytes of an answer, or of a line: what one message between domains may have, and some.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// A member's API.
pub struct Api {
    socket: PathBuf,
    /// A member that answered once is restarting when it does not answer now.
    answered: Cell<bool>,
}

impl Api {
    /// The API at this socket.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, answered: Cell::new(false) }
    }

    /// Reads; tried again while the member restarts.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Fault> {
        let response = self.patiently(path).await?;
        read_json(response).await
    }

    /// Reads bytes, at most `most`; tried again while the member restarts.
    pub async fn bytes(&self, path: &str, most: usize) -> Result<Bytes, Fault> {
        collect(self.patiently(path).await?, most).await
    }

    /// Begins to read lines or frames; tried again while the member restarts.
    pub async fn patiently(&self, path: &str) -> Result<Response<Incoming>, Fault> {
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            match self.send(Method::GET, path, Bytes::new(), false).await {
                Err(fault) if fault.retryable && begun.elapsed() + pause < PATIENCE => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                }
                other => return other,
            }
        }
    }

    /// Changes something, once.
    pub async fn change<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<T, Fault> {
        let body =
            serde_json::to_vec(body).map_err(|e| Fault::internal("the request cannot be written", &e))?;
        read_json(self.send(method, path, body.into(), false).await?).await
    }

    /// Changes something, once, without a body.
    pub async fn act<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, Fault> {
        read_json(self.send(method, path, Bytes::new(), false).await?).await
    }

    /// Changes something, once; the answer has no body.
    pub async fn tell<B: Serialize>(&self, path: &str, body: &B) -> Result<(), Fault> {
        let body =
            serde_json::to_vec(body).map_err(|e| Fault::internal("the request cannot be written", &e))?;
        self.send(Method::POST, path, body.into(), false).await.map(|_| ())
    }

    /// Asks for a connection that carries frames both ways.
    pub async fn upgrade<B: Serialize>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<TokioIo<hyper::upgrade::Upgraded>, Fault> {
        let body =
            serde_json::to_vec(body).map_err(|e| Fault::internal("the request cannot be written", &e))?;
        let response = self.send(Method::POST, path, body.into(), true).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(Fault::new(FaultKind::Internal, "the member did not switch to frames"));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|e| went_away(&e))?;
        Ok(TokioIo::new(upgraded))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        upgrade: bool,
    ) -> Result<Response<Incoming>, Fault> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(&e))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| went_away(&e))?;
        // How the connection ends is seen by whoever reads from it.
        tokio::spawn(async move { drop(connection.with_upgrades().await) });
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        if upgrade {
            request = request.header("connection", "upgrade").header("upgrade", STREAM_PROTOCOL);
        }
        let request = request
            .body(Full::new(body))
            .map_err(|e| Fault::internal("the request cannot be written", &e))?;
        let response = tokio::time::timeout(ANSWER, sender.send_request(request)).await;
        let response = response.map_err(|_| no_answer())?.map_err(|e| went_away(&e))?;
        self.answered.set(true);
        if response.status().is_client_error() || response.status().is_server_error() {
            let status = response.status();
            let bytes = collect(response, MAX_ANSWER).await?;
            return Err(serde_json::from_slice(&bytes).unwrap_or_else(|_| {
                Fault::new(
                    FaultKind::Internal,
                    format!("the member answered {status} with something unreadable"),
                )
            }));
        }
        Ok(response)
    }

    fn unreachable(&self, e: &io::Error) -> Fault {
        let at = self.socket.display();
        match e.kind() {
            // A member that is there but for its socket is starting, or starting again.
            io::ErrorKind::NotFound
                if !self.answered.get() && !self.socket.parent().is_some_and(Path::is_dir) =>
            {
                Fault::new(FaultKind::NotFound, format!("no member is at {at}"))
                    .hint("gtvp lab ls lists the members of labs; gtvp doctor looks closer")
            }
            io::ErrorKind::PermissionDenied => Fault::new(FaultKind::Denied, format!("you may not use {at}"))
                .hint("be root, or a member of the group that member.toml names as api_group"),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Fault::new(FaultKind::Unavailable, format!("the member at {at} does not answer"))
                    .because(e.to_string())
                    .hint("the same again in a moment; gtvp doctor looks closer")
            }
            _ => Fault::new(FaultKind::Unavailable, format!("the member at {at} cannot be reached"))
                .caused_by(e),
        }
    }
}

/// The member is there and says nothing.
fn no_answer() -> Fault {
    Fault::new(FaultKind::Unavailable, format!("the member has not answered for {} s", ANSWER.as_secs()))
        .because("one of its parts does not come up, or waits for something")
        .hint("see what gtvpd says: its log of a lab is in gtvp lab ls, on a server: journalctl -u gtvpd")
}

/// The member was there and is not any more.
fn went_away(e: &(dyn std::error::Error + 'static)) -> Fault {
    Fault::new(FaultKind::Unavailable, "the member went away during the request")
        .caused_by(e)
        .hint("see whether it was carried out, then the same again: gtvp box ls")
}

async fn collect(response: Response<Incoming>, most: usize) -> Result<Bytes, Fault> {
    let body = http_body_util::Limited::new(response.into_body(), most);
    Ok(body.collect().await.map_err(|e| went_away(&*e))?.to_bytes())
}

async fn read_json<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, Fault> {
    let bytes = collect(response, MAX_ANSWER).await?;
    serde_json::from_slice(&bytes).map_err(|e| {
        Fault::internal("the member answered something unreadable", &e)
            .hint("are gtvp and gtvpd of one version?")
    })
}

/// A value as one part of a path.
pub fn segment(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for b in value.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~:=+".contains(&b) {
            out.push(char::from(b));
        } else {
            out += &format!("%{b:02X}");
        }
    }
    out
}

/// A body that goes on.
pub struct Flow {
    body: Incoming,
    buffer: BytesMut,
    ended: bool,
}

impl Flow {
    /// Of this response.
    pub fn new(response: Response<Incoming>) -> Self {
        Self { body: response.into_body(), buffer: BytesMut::new(), ended: false }
    }

    /// More bytes; `false` at the end. Safe to drop half-way.
    async fn more(&mut self) -> Result<bool, Fault> {
        while !self.ended {
            match self.body.frame().await {
                None => self.ended = true,
                Some(Err(e)) => return Err(went_away(&e)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }

    /// The next line, without its line feed; `None` at the end. Safe to drop half-way.
    pub async fn line(&mut self) -> Result<Option<Bytes>, Fault> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(searched + at).freeze();
                self.buffer.advance(1);
                return Ok(Some(line));
            }
            searched = self.buffer.len();
            if searched > MAX_ANSWER {
                return Err(Fault::new(FaultKind::Internal, "the member sent a line without an end"));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// The next frame; `None` at the end. Safe to drop half-way.
    pub async fn frame(&mut self) -> Result<Option<(StreamKind, Bytes)>, Fault> {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            if !self.more().await? {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(went_away(&io::Error::from(io::ErrorKind::UnexpectedEof))),
                };
            }
        }
    }
}

/// A whole frame from the front of `buffer`, if one is there.
pub fn take_frame(buffer: &mut BytesMut) -> Result<Option<(StreamKind, Bytes)>, Fault> {
    let Some(header) = buffer.first_chunk::<8>() else { return Ok(None) };
    let (kind, length) = stream::header_of(*header)
        .map_err(|e| Fault::internal("the member sent something that is no frame", &e))?;
    if buffer.len() < 8 + length {
        return Ok(None);
    }
    buffer.advance(8);
    Ok(Some((kind, buffer.split_to(length).freeze())))
}

/// The runtime that the commands run on: one thread.
pub fn runtime() -> Result<tokio::runtime::Runtime, Fault> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Fault::internal("no runtime can be had", &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_one_part_of_a_path() {
        assert_eq!(segment("deb:g++=4:12.2.0-3"), "deb:g++=4:12.2.0-3");
        assert_eq!(segment("../x?y#z %"), "..%2Fx%3Fy%23z%20%25");
    }

    #[test]
    fn frames_are_taken_whole() {
        let wire = stream::encode(StreamKind::Stdout, b"hello");
        let mut buffer = BytesMut::from(&wire[..7]);
        assert_eq!(take_frame(&mut buffer).unwrap(), None);
        buffer.extend_from_slice(&wire[7..]);
        assert_eq!(take_frame(&mut buffer).unwrap().unwrap().1, "hello");
        assert!(take_frame(&mut BytesMut::from(&b"garbage!"[..])).is_err());
    }
}
