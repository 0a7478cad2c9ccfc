//! Descriptors from `management`, piped to and from the person as they are: nothing is kept beyond one read.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use gtvp_model::api::{STREAM_PROTOCOL, STREAM_TYPE};
use gtvp_model::fault::{Fault, FaultKind};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use crate::respond::{Body, Refusal, full, response};
use crate::set_nonblocking;

/// Bytes of one read.
const CHUNK: usize = 32 * 1024;

/// The one descriptor that must have come with an answer.
pub fn only(fds: Vec<OwnedFd>) -> Result<OwnedFd, Fault> {
    let count = fds.len();
    let mut fds = fds.into_iter();
    match (fds.next(), count) {
        (Some(fd), 1) => Ok(fd),
        _ => Err(Fault::new(
            FaultKind::Internal,
            format!("management answered with {count} descriptors instead of one"),
        )),
    }
}

/// A response whose body is what can be read from `fd`. It is closed when the person hangs up.
pub fn from_fd(fd: OwnedFd) -> Result<Response<Body>, Refusal> {
    let watched = set_nonblocking(&fd).and_then(|()| {
        // SAFETY: an `OwnedFd` is open and gives the same number until it is dropped, and `AsyncFd` owns it until then.
        unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
    });
    let fd = watched.map_err(|e| Fault::internal("the stream cannot be followed", &e))?;
    Ok(response(200, STREAM_TYPE, Piped { fd }.boxed_unsync()))
}

struct Piped {
    fd: AsyncFd<OwnedFd>,
}

impl hyper::body::Body for Piped {
    type Data = Bytes;
    type Error = io::Error;
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            let mut chunk = vec![0; CHUNK];
            match guard.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut chunk)?)) {
                Ok(Ok(0)) => return Poll::Ready(None),
                Ok(Ok(n)) => {
                    chunk.truncate(n);
                    return Poll::Ready(Some(Ok(Frame::data(chunk.into()))));
                }
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(e)) => return Poll::Ready(Some(Err(e))),
                Err(_would_block) => {}
            }
        }
    }
}

/// A response whose body is this file, to the length that it has now.
pub fn from_file(fd: OwnedFd, media: &'static str) -> Result<Response<Body>, Refusal> {
    let file = File::from(fd);
    let size = file.metadata().and_then(|m| match m.is_file() {
        true => Ok(m.len()),
        // Nothing else is read without waiting.
        false => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    });
    let left = size.map_err(|e| Fault::internal("management answered with no file", &e))?;
    Ok(response(200, media, Whole { file, left }.boxed_unsync()))
}

struct Whole {
    file: File,
    left: u64,
}

impl hyper::body::Body for Whole {
    type Data = Bytes;
    type Error = io::Error;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let most = usize::try_from(self.left).unwrap_or(CHUNK).min(CHUNK);
        if most == 0 {
            return Poll::Ready(None);
        }
        let mut chunk = vec![0; most];
        Poll::Ready(Some(match self.file.read(&mut chunk) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                self.left -= n as u64;
                chunk.truncate(n);
                Ok(Frame::data(chunk.into()))
            }
            Err(e) => Err(e),
        }))
    }

    /// The person's side sees an answer that breaks off.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The upgrade that the person asked for, or what is wrong with how they asked.
pub fn wanted_upgrade(request: &mut Request<Incoming>) -> Result<OnUpgrade, Refusal> {
    let asked = request.headers().get(UPGRADE).and_then(|v| v.to_str().ok());
    if !asked.is_some_and(|v| v.eq_ignore_ascii_case(STREAM_PROTOCOL)) {
        let fault = Fault::new(FaultKind::Invalid, "this needs a connection that carries frames both ways")
            .hint(format!("send the headers Connection: Upgrade and Upgrade: {STREAM_PROTOCOL}"));
        return Err(Refusal::with_status(426, fault));
    }
    Ok(hyper::upgrade::on(request))
}

/// Joins `fd`, a connected stream socket, and the person's connection once it is upgraded. Either side's end ends both: a
/// command's end of input is a frame, so a person's closed connection means that they have gone.
pub fn upgrade(fd: OwnedFd, upgrade: OnUpgrade) -> Result<Response<Body>, Refusal> {
    let far = set_nonblocking(&fd).and_then(|()| UnixStream::from_std(StdStream::from(fd)));
    let far = far.map_err(|e| Fault::internal("the stream cannot be followed", &e))?;
    tokio::spawn(async move {
        let Ok(near) = upgrade.await else { return };
        let (mut near_in, mut near_out) = tokio::io::split(TokioIo::new(near));
        let (mut far_in, mut far_out) = far.into_split();
        let inward = async {
            let end = tokio::io::copy(&mut near_in, &mut far_out).await;
            if end.is_err_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
                // The command takes no more, but its last frames may still be on their way out.
                std::future::pending::<()>().await;
            }
        };
        // Which of the two ended, and how, the frames themselves say.
        tokio::select! {
            () = inward => {}
            _ = tokio::io::copy(&mut far_in, &mut near_out) => {}
        }
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut near_out).await;
    });
    let mut response = response(101, STREAM_TYPE, full(Bytes::new()));
    response.headers_mut().remove(hyper::header::CONTENT_TYPE);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(STREAM_PROTOCOL));
    Ok(response)
}
