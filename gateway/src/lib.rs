//! People's HTTP API on a unix socket. Every request becomes one typed call of `management`, and the person's own
//! connection goes with it: `management` asks the kernel who that is.
//!
//! Decides nothing, keeps nothing, retries nothing. One table ([`table`]) says what there is; the router and the
//! OpenAPI document are both made from it.

mod call;
mod handlers;
pub mod openapi;
mod request;
mod respond;
mod stream;
pub mod table;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::request::Context;
use crate::respond::{Body, Refusal};

/// Most connections at once: with [`request::MAX_BODY`] each they stay well below the gateway's memory limit.
const MAX_CONNECTIONS: usize = 192;
/// Most bytes of a request's head: a long component reference in the path and some headers.
const MAX_HEAD: usize = 32 * 1024;
/// Most headers; programs send about ten.
const MAX_HEADERS: usize = 64;
/// Time for a request's head to arrive, and for a connection to stay without one.
const HEAD_TIME: Duration = Duration::from_secs(15);
/// What a connection past [`MAX_CONNECTIONS`] reads.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
connection: close\r\ncontent-length: 86\r\n\r\n\
{\"kind\":\"unavailable\",\"message\":\"too many connections at once\",\"retryable\":true}     \n";

/// Answers people on `listener` and relays to the `management` socket, until accepting fails for good.
pub async fn serve(listener: StdListener, management: PathBuf) -> io::Error {
    let listener = match set_nonblocking(&listener).and_then(|()| UnixListener::from_std(listener)) {
        Ok(l) => l,
        Err(e) => return e,
    };
    let management: Arc<std::path::Path> = management.into();
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {
                continue;
            }
            // Out of descriptors or memory: the connections that hold them end by themselves.
            Err(e) if matches!(e.raw_os_error(), Some(12 | 23 | 24 | 105)) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            Err(e) => return e,
        };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            // Best effort: a person who does not read it sees the connection end.
            let _ = stream.try_write(TOO_MANY);
            continue;
        };
        let management = management.clone();
        tokio::spawn(async move {
            connection(stream, management).await;
            drop(permit);
        });
    }
}

async fn connection(stream: UnixStream, management: Arc<std::path::Path>) {
    let person: Arc<OwnedFd> = match stream.as_fd().try_clone_to_owned() {
        Ok(fd) => Arc::new(fd),
        Err(_) => return,
    };
    let service = service_fn(move |request: Request<Incoming>| {
        let context = Context::new(request, person.clone(), management.clone());
        async move { Ok::<_, std::convert::Infallible>(answer(context).await) }
    });
    // How a connection ends (hang-up, malformed head, timeout) is between hyper and the person.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}

async fn answer(context: Result<Context, Refusal>) -> Response<Body> {
    let outcome = match context {
        Ok(context) => (context.route.handler)(context).await,
        Err(refusal) => Err(refusal),
    };
    outcome.unwrap_or_else(Refusal::into_response)
}

/// By `fcntl`: the gateway's jail has no `ioctl`.
fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    Ok(rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_ready_made_answer_is_well_formed() {
        let text = std::str::from_utf8(super::TOO_MANY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "body has {} bytes", body.len());
        assert!(serde_json::from_str::<gtvp_model::fault::Fault>(body).unwrap().retryable);
    }
}
