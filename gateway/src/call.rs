//! One call of `management` without a thread: the wire format of [`gtvp_ipc::wire`], awaited. Dropping a call cancels it.

use std::io::{self, IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use gtvp_ipc::wire::{MAX_FDS, MAX_MESSAGE};
use gtvp_ipc::{CallError, Method};
use gtvp_model::fault::Fault;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// Most that is set aside before the bytes of a message have come.
const FIRST_READ: usize = 64 * 1024;

/// A call under way.
pub struct Call<M> {
    stream: UnixStream,
    method: PhantomData<fn() -> M>,
}

/// What `management` says next.
pub enum Message<M: Method> {
    /// It is still at it.
    Progress(M::Progress),
    /// It is done.
    Done(M::Reply, Vec<OwnedFd>),
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Incoming<R, P> {
    Progress(P),
    Done(R),
    Fault(Fault),
}

#[derive(serde::Serialize)]
struct Outgoing<'a, M> {
    method: &'static str,
    params: &'a M,
}

impl<M: Method> Call<M> {
    /// Connects and sends the request, with the person's connection as its first descriptor.
    pub async fn start(socket: &Path, params: &M, person: BorrowedFd<'_>) -> Result<Self, Fault> {
        let request = serde_json::to_vec(&Outgoing { method: M::NAME, params }).map_err(unreadable::<M>)?;
        let mut stream = UnixStream::connect(socket)
            .await
            .map_err(|source| CallError::Unreachable { callee: M::CALLEE, source })?;
        send(&mut stream, &request, person).await.map_err(lost::<M>)?;
        Ok(Self { stream, method: PhantomData })
    }

    /// The next message. Not to be dropped half-way unless the call is dropped too.
    pub async fn next(&mut self) -> Result<Message<M>, Fault> {
        let (json, fds) = recv(&mut self.stream).await.map_err(lost::<M>)?;
        match serde_json::from_slice::<Incoming<M::Reply, M::Progress>>(&json).map_err(unreadable::<M>)? {
            Incoming::Progress(p) => Ok(Message::Progress(p)),
            Incoming::Done(reply) => Ok(Message::Done(reply, fds)),
            Incoming::Fault(fault) => Err(fault),
        }
    }

    /// The answer, whatever is said before it.
    pub async fn done(mut self) -> Result<(M::Reply, Vec<OwnedFd>), Fault> {
        loop {
            if let Message::Done(reply, fds) = self.next().await? {
                return Ok((reply, fds));
            }
        }
    }
}

fn lost<M: Method>(source: io::Error) -> Fault {
    CallError::Lost { callee: M::CALLEE, method: M::NAME, source }.into()
}

fn unreadable<M: Method>(source: serde_json::Error) -> Fault {
    CallError::Unreadable { callee: M::CALLEE, method: M::NAME, source }.into()
}

async fn send(stream: &mut UnixStream, json: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
    if json.len() > MAX_MESSAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "message is too large"));
    }
    let length = u32::try_from(json.len()).map_err(|_| io::ErrorKind::InvalidInput)?.to_le_bytes();
    let sent = stream
        .async_io(Interest::WRITABLE, || {
            let fds = [fd];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            Ok(rustix::net::sendmsg(
                stream.as_fd(),
                &[IoSlice::new(&length)],
                &mut ancillary,
                SendFlags::NOSIGNAL,
            )?)
        })
        .await?;
    stream.write_all(&length[sent..]).await?;
    stream.write_all(json).await
}

async fn recv(stream: &mut UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut length = [0; 4];
    let mut fds = Vec::new();
    let mut have = 0;
    while have < length.len() {
        let n = stream
            .async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
                let mut ancillary = RecvAncillaryBuffer::new(&mut space);
                let mut into = [IoSliceMut::new(&mut length[have..])];
                let n =
                    rustix::net::recvmsg(stream.as_fd(), &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
                for message in ancillary.drain() {
                    if let RecvAncillaryMessage::ScmRights(received) = message {
                        fds.extend(received);
                    }
                }
                Ok(n.bytes)
            })
            .await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        have += n;
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_MESSAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message is too long"));
    }
    // Read as it comes: a length alone does not make us allocate.
    let mut json = Vec::with_capacity(length.min(FIRST_READ));
    stream.take(length as u64).read_to_end(&mut json).await?;
    if json.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((json, fds))
}
