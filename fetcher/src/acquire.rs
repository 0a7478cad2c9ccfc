//! Fetches by apt's own acquire methods, and plays those methods for a relay.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gtvp_ipc::fetcher::{Acquire, Fetched, MethodMessage, Request};
use gtvp_ipc::wire;
use gtvp_model::fault::{Fault, FaultKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::message::Message;
use crate::range::Ranges;
use crate::{channel, relay};

/// Debian's own acquire methods.
const METHODS: &str = "/usr/lib/apt/methods";
/// A source that sends us on more often than this goes in circles.
const MAX_REDIRECTS: usize = 8;
/// How often a caller hears how far a transfer is.
const REPORT: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
/// Idle methods kept for the next transfer: their connections stay open.
const MAX_IDLE: usize = 8;

/// The fetcher.
struct Fetcher {
    folder: PathBuf,
    next: AtomicU64,
    idle: Mutex<Vec<Method>>,
    ranges: Ranges,
}

/// Answers until `components` goes.
pub fn serve(folder: &Path, control: UnixStream, relays: Option<UnixStream>) {
    let fetcher = Arc::new(Fetcher {
        folder: folder.to_owned(),
        next: AtomicU64::new(0),
        idle: Mutex::default(),
        ranges: Ranges::default(),
    });
    if let Some(relays) = relays {
        let fetcher = fetcher.clone();
        std::thread::spawn(move || {
            channel::serve_all(&relays, move |stream| {
                // From the jail of apt only relays come.
                if let Some((Request::Method(m), _)) = channel::next(&stream) {
                    // The relay sees the end of the connection.
                    let _ = fetcher.play(&m.name, &stream);
                }
            });
        });
    }
    channel::serve_all(&control, move |stream| fetcher.answer_all(&stream));
}

impl Fetcher {
    fn answer_all(&self, stream: &UnixStream) {
        while let Some((request, _)) = channel::next::<Request>(stream) {
            let done = match request {
                Request::Acquire(a) => channel::answer(stream, self.acquire(&a, stream)),
                Request::Range(r) => channel::answer(stream, self.ranges.fetch(&r, &self.file_name())),
                Request::Method(_) => None,
            };
            if done.is_none() {
                return;
            }
        }
    }

    /// A file of its own for one transfer.
    fn file_name(&self) -> PathBuf {
        self.folder.join(format!(
            "fetch-{}-{}",
            std::process::id(),
            self.next.fetch_add(1, Ordering::Relaxed)
        ))
    }

    fn acquire(&self, want: &Acquire, caller: &UnixStream) -> Result<(Fetched, Vec<OwnedFd>), Fault> {
        let mut uri = want.uri.clone();
        for _ in 0..MAX_REDIRECTS {
            let scheme = scheme_of(&uri)?;
            let mut method =
                self.method(&scheme, &want.config).map_err(|e| unreachable(&uri, &e.to_string()))?;
            let file = self.file_name();
            let outcome = method.fetch(&uri, &file, want.size, caller);
            let opened = File::open(&file);
            // Only the descriptor remains, whatever happened.
            let _ = fs::remove_file(&file);
            match outcome.map_err(|e| unreachable(&uri, &e.to_string()))? {
                Outcome::Done => {
                    self.keep(method);
                    let fd = opened.map_err(|e| unreachable(&uri, &e.to_string()))?;
                    let bytes = fd.metadata().map_err(|e| unreachable(&uri, &e.to_string()))?.len();
                    return Ok((Fetched { bytes }, vec![fd.into()]));
                }
                Outcome::Redirect(next) => {
                    self.keep(method);
                    uri = next;
                }
                Outcome::Failed(why) => return Err(unreachable(&uri, &why)),
            }
        }
        Err(unreachable(&want.uri, "it sends us on and on"))
    }

    /// A method that is idle, or a new one.
    fn method(&self, scheme: &str, config: &[String]) -> io::Result<Method> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(i) = idle.iter().position(|m| m.scheme == scheme) {
            return Ok(idle.swap_remove(i));
        }
        drop(idle);
        Method::start(scheme, config)
    }

    fn keep(&self, method: Method) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(method);
        }
    }

    /// Plays the method `name` for a relay, until either side ends.
    fn play(&self, name: &str, relay: &UnixStream) -> io::Result<()> {
        if !relay::METHODS.contains(&name) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let Method { child, mut input, mut output, .. } = Method::spawn(name)?;
        let files: Arc<Mutex<HashMap<String, PathBuf>>> = Arc::default();
        let (back, noted) = (relay.try_clone()?, files.clone());
        let reader = std::thread::spawn(move || {
            let result = carry(&mut output, &back, &noted);
            let _ = back.shutdown(std::net::Shutdown::Both);
            result
        });
        while let Ok(Some((json, _))) = wire::recv(relay) {
            let Ok(said) = serde_json::from_slice::<MethodMessage>(&json) else { break };
            let Ok(Some(mut message)) = Message::read(&mut said.text.as_bytes()) else { break };
            if message.code() == 600 {
                let file = self.file_name();
                let uri = message.get("URI").unwrap_or_default().to_owned();
                message.set("Filename", &file.to_string_lossy());
                files.lock().unwrap_or_else(PoisonError::into_inner).insert(uri, file);
            }
            if input.write_all(message.to_text().as_bytes()).is_err() {
                break;
            }
        }
        drop(input);
        drop(child);
        let _ = reader.join();
        for file in files.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let _ = fs::remove_file(file);
        }
        Ok(())
    }
}

/// Messages from a method to its relay, with the file that a finished transfer made.
fn carry(
    output: &mut BufReader<ChildStdout>,
    relay: &UnixStream,
    files: &Mutex<HashMap<String, PathBuf>>,
) -> io::Result<()> {
    while let Some(message) = Message::read(output)? {
        let mut fds = Vec::new();
        let file = message
            .get("URI")
            .and_then(|uri| files.lock().unwrap_or_else(PoisonError::into_inner).get(uri).cloned());
        if let (201, Some(path)) = (message.code(), file) {
            if let Ok(file) = File::open(&path) {
                fds.push(OwnedFd::from(file));
                let _ = fs::remove_file(&path);
            }
        }
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        wire::send(relay, &serde_json::to_vec(&MethodMessage { text: message.to_text() })?, &borrowed)?;
    }
    Ok(())
}

enum Outcome {
    Done,
    Redirect(String),
    Failed(String),
}

/// A running acquire method.
struct Method {
    scheme: String,
    child: Ended,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Method {
    fn spawn(scheme: &str) -> io::Result<Self> {
        let mut child = Command::new(Path::new(METHODS).join(scheme))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        Ok(Self { scheme: scheme.to_owned(), child: Ended(child), input, output: BufReader::new(output) })
    }

    fn start(scheme: &str, config: &[String]) -> io::Result<Self> {
        let mut method = Self::spawn(scheme)?;
        // Its capabilities come first.
        Message::read(&mut method.output)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let fields = config
            .iter()
            .filter(|c| c.starts_with("Acquire::") && !c.contains('\n'))
            .map(|c| ("Config-Item".to_owned(), c.clone()))
            .collect();
        let setup = Message { head: "601 Configuration".into(), fields };
        method.input.write_all(setup.to_text().as_bytes())?;
        Ok(method)
    }

    fn fetch(&mut self, uri: &str, file: &Path, size: u64, caller: &UnixStream) -> io::Result<Outcome> {
        let limit = size.to_string();
        let ask = Message::new(
            "600 URI Acquire",
            &[("URI", uri), ("Filename", &file.to_string_lossy()), ("Maximum-Size", &limit)],
        );
        self.input.write_all(ask.to_text().as_bytes())?;
        loop {
            self.await_message(file, caller)?;
            let message = Message::read(&mut self.output)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            match message.code() {
                201 => return Ok(Outcome::Done),
                103 => return Ok(Outcome::Redirect(message.get("New-URI").unwrap_or_default().to_owned())),
                400..=499 => {
                    let why = message.get("Message").unwrap_or("the source gave no reason").to_owned();
                    return Ok(Outcome::Failed(why));
                }
                _ => {}
            }
        }
    }

    /// Waits for the method's next message, telling the caller meanwhile how far it is. A caller that has gone ends it.
    fn await_message(&mut self, file: &Path, caller: &UnixStream) -> io::Result<()> {
        let mut told = 0;
        while self.output.buffer().is_empty() {
            let mut fds =
                [PollFd::new(self.output.get_ref(), PollFlags::IN), PollFd::new(caller, PollFlags::RDHUP)];
            let ready = match poll(&mut fds, Some(&REPORT)) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            if !fds[1].revents().is_empty() {
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "nobody waits for it any more"));
            }
            if ready > 0 {
                self.output.fill_buf()?;
                return Ok(());
            }
            let bytes = fs::metadata(file).map_or(0, |m| m.len());
            if bytes != told {
                told = bytes;
                channel::progress(caller, &Fetched { bytes }).ok_or(io::ErrorKind::ConnectionAborted)?;
            }
        }
        Ok(())
    }
}

/// A child that ends when it is let go.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn scheme_of(uri: &str) -> Result<String, Fault> {
    let scheme = uri.split(':').next().unwrap_or_default();
    if relay::METHODS.contains(&scheme) && !uri.contains(['\n', '\r', '\0']) {
        return Ok(scheme.to_owned());
    }
    Err(Fault::new(FaultKind::Invalid, format!("{uri:?} is not fetched: only http, https and ftp are")))
}

pub(crate) fn unreachable(uri: &str, why: &str) -> Fault {
    Fault::new(FaultKind::SourceUnreachable, format!("{uri} cannot be reached"))
        .because(why)
        .hint("look at the member's network and at its sources in /etc/apt, then make the same call again")
}
