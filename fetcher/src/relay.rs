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
                    io::copy(&mut File::from(fd), &mut File::create(&file)?)?;
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
