//! What apt finds where it looks for `http` and the like: the same messages, answered by the fetcher in its own jail.
//!
//! The bytes arrive on a descriptor and are copied to the file that apt named, so the fetcher never holds a file that
//! apt reads, and cannot change one that was checked. Checksums that the other side claims are dropped.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use gtvp_ipc::fetcher::MethodMessage;
use gtvp_ipc::wire;

use crate::message::{Message, is_claimed_hash};

/// Methods of apt's that need a network.
pub const METHODS: &[&str] = &["http", "https", "ftp"];
/// Where the apt process takes relays in, beside the folder of methods.
pub const SOCKET: &str = "relay.sock";

/// Which file apt wants a URI in.
/// Largest file that apt is brought: an index of all of Debian's paths is a tenth of it.
const MAX_FILE: u64 = 1024 * 1024 * 1024;

type Wanted = Arc<Mutex<HashMap<String, String>>>;

/// Carries messages between apt (standard input and output) and the fetcher until either ends.
pub fn run(method: &str, own_path: &Path) -> io::Result<()> {
    let folder = own_path.parent().and_then(Path::parent).ok_or(io::ErrorKind::InvalidInput)?;
    let stream = UnixStream::connect(folder.join(SOCKET))?;
    let hello = serde_json::json!({ "method": "method", "params": { "name": method } });
    wire::send(&stream, hello.to_string().as_bytes(), &[])?;
    let wanted = Wanted::default();
    let (upstream, noted) = (stream.try_clone()?, wanted.clone());
    std::thread::spawn(move || {
        let result = from_apt(&upstream, &noted);
        // apt has closed its end: the method ends, as apt's own do.
        let _ = upstream.shutdown(std::net::Shutdown::Both);
        result
    });
    to_apt(&stream, &wanted)
}

fn from_apt(stream: &UnixStream, wanted: &Wanted) -> io::Result<()> {
    let mut input = BufReader::new(io::stdin());
    while let Some(mut message) = Message::read(&mut input)? {
        match message.code() {
            600 => {
                let (Some(uri), Some(file)) = (message.get("URI"), message.get("Filename")) else { continue };
                wanted.lock().unwrap_or_else(PoisonError::into_inner).insert(uri.to_owned(), file.to_owned());
                message.fields.retain(|(k, _)| !k.eq_ignore_ascii_case("Filename"));
            }
            // What the methods look at, and nothing about this place.
            601 => message
                .fields
                .retain(|(_, v)| v.starts_with("Acquire::") || v.starts_with("APT::Architecture")),
            _ => {}
        }
        let text = serde_json::to_vec(&MethodMessage { text: message.to_text() })?;
        wire::send(stream, &text, &[])?;
    }
    Ok(())
}

/// Copies a file of at most `most` bytes. The fetcher could bring anything: what waits or never ends is refused.
fn copy(from: &File, to: &mut impl Write, most: u64) -> io::Result<()> {
    let refused = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why.to_owned()));
    if !from.metadata()?.is_file() {
        return refused("the fetcher brought something that is no file");
    }
    let mut bounded = io::Read::take(from, most);
    io::copy(&mut bounded, to)?;
    match io::Read::read(&mut { from }, &mut [0])? {
        0 => Ok(()),
        _ => refused("the fetcher brought more than any index has"),
    }
}

fn to_apt(stream: &UnixStream, wanted: &Wanted) -> io::Result<()> {
    let mut out = io::stdout();
    while let Some((json, fds)) = wire::recv(stream)? {
        let said: MethodMessage = serde_json::from_slice(&json)?;
        let Some(mut message) = Message::read(&mut said.text.as_bytes())? else { continue };
        message.fields.retain(|(k, _)| !is_claimed_hash(k));
        let uri = message.get("URI").unwrap_or_default().to_owned();
        let file = wanted.lock().unwrap_or_else(PoisonError::into_inner).get(&uri).cloned();
        match (message.code(), file) {
            (200 | 201, Some(file)) => {
                if let Some(fd) = fds.into_iter().next() {
                    copy(&File::from(fd), &mut File::create(&file)?, MAX_FILE)?;
                }
                message.fields.retain(|(k, _)| !k.eq_ignore_ascii_case("Filename"));
                message.set("Filename", &file);
            }
            // An answer to a question that apt did not ask.
            (200 | 201, None) => continue,
            _ => {}
        }
        out.write_all(message.to_text().as_bytes())?;
        out.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Seek;

    #[test]
    fn apt_is_brought_files_and_nothing_that_waits_or_never_ends() {
        let bytes = |n: usize| {
            let mut file =
                File::from(rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
            file.write_all(&vec![b'x'; n]).unwrap();
            file.rewind().unwrap();
            file
        };
        let mut out = Vec::new();
        copy(&bytes(10), &mut out, 10).unwrap();
        assert_eq!(out.len(), 10);
        assert!(copy(&bytes(11), &mut Vec::new(), 10).is_err());
        assert!(copy(&File::open("/dev/zero").unwrap(), &mut Vec::new(), 10).is_err());
        let (silent, _kept) = rustix::pipe::pipe().unwrap();
        assert!(copy(&silent.into(), &mut Vec::new(), 10).is_err());
    }
}
