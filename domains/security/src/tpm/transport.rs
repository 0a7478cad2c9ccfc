//! The way to the TPM: the kernel's resource manager (`/dev/tpmrm0`) or a software TPM's unix socket. One command, one
//! response; it understands neither.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::wire::{HEADER, MAX_MESSAGE};

/// Longest wait for a software TPM. It makes an RSA key in a few seconds on a slow machine; hardware has the kernel's own limit.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longest wait for the socket of a software TPM that is being started, and how often it is looked for.
const STARTING: Duration = Duration::from_secs(3);
const STEP: Duration = Duration::from_millis(5);

/// Where the TPM is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A character device with a resource manager: other programs of the host use it too.
    Device(PathBuf),
    /// The data socket of swtpm, which is ours alone: we start it, and what it holds we have left there.
    Software {
        /// The socket.
        socket: PathBuf,
        /// The uid that must be listening there, where it is known.
        uid: Option<u32>,
    },
}

impl Address {
    /// Whether nobody else uses it.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Software { .. })
    }
}

/// Sends a command, waits for its response.
pub trait Transport: Send {
    /// One exchange. After an error nothing is known about the command, and the transport is not to be used again.
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>>;
}

/// Opens the way.
pub fn open(address: &Address) -> io::Result<Box<dyn Transport>> {
    Ok(match address {
        Address::Device(path) => Box::new(Device(OpenOptions::new().read(true).write(true).open(path)?)),
        Address::Software { socket, uid } => Box::new(connect(socket, *uid)?),
    })
}

struct Device(File);

impl Transport for Device {
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        // The driver takes a command in one write and gives its response in one read.
        if self.0.write(command)? != command.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let mut response = vec![0; MAX_MESSAGE];
        let n = loop {
            match self.0.read(&mut response) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        response.truncate(n);
        Ok(response)
    }
}

fn connect(path: &Path, uid: Option<u32>) -> io::Result<UnixStream> {
    let begun = Instant::now();
    let stream = loop {
        match UnixStream::connect(path) {
            // It may have been started a moment ago.
            Err(e) if is_not_yet(&e) && begun.elapsed() < STARTING => std::thread::sleep(STEP),
            other => break other?,
        }
    };
    let peer = rustix::net::sockopt::socket_peercred(&stream)?.uid.as_raw();
    if uid.is_some_and(|uid| uid != peer) {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("uid {peer} listens there, which is not the software TPM"),
        ));
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// swtpm binds its socket first, listens, and then lets others to it.
fn is_not_yet(e: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
    matches!(e.kind(), NotFound | ConnectionRefused | PermissionDenied)
}

impl Transport for UnixStream {
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.write_all(command)?;
        let mut response = vec![0; HEADER];
        self.read_exact(&mut response)?;
        let size = match response.get(2..6).and_then(|b| b.try_into().ok()) {
            Some(bytes) => usize::try_from(u32::from_be_bytes(bytes)).unwrap_or(usize::MAX),
            None => return Err(io::ErrorKind::InvalidData.into()),
        };
        if !(HEADER..=MAX_MESSAGE).contains(&size) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a response of {size} bytes")));
        }
        response.resize(size, 0);
        self.read_exact(&mut response[HEADER..])?;
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc::channel;

    use rustix::thread::set_thread_uid;

    use super::*;

    /// Needs root, to be somebody else in one thread.
    #[test]
    fn a_socket_that_lets_nobody_in_yet_is_waited_for() {
        let dir = std::env::temp_dir().join(format!("gtvp-transport-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("tpm.sock");
        set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        let _listener = UnixListener::bind(&path).unwrap();
        set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let (sender, answers) = channel();
        let of = path.clone();
        let client = std::thread::spawn(move || {
            set_thread_uid(rustix::process::Uid::from_raw(65_534)).expect("this test needs root");
            let refused = UnixStream::connect(&of).unwrap_err().kind();
            sender.send(refused).unwrap();
            connect(&of, Some(0)).map(drop)
        });
        assert_eq!(answers.recv().unwrap(), io::ErrorKind::PermissionDenied, "control");
        // Some of its steps.
        std::thread::sleep(STEP * 10);
        set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        client.join().unwrap().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
