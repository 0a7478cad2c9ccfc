//! The way to package sources: two jailed processes that exist while something is asked of them, `apt` without a network
//! and `fetcher` with one and nothing else. What the fetcher brings is believed by nobody: apt checks the indices'
//! signatures, and packages are checked against those indices where they are imported.

use std::any::Any;
use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use gtvp_ipc::fetcher::apt::{Program, ReadIndex, Run, Setup};
use gtvp_ipc::fetcher::{Acquire, Range};
use gtvp_ipc::supervisor::{Param, Spawn};
use gtvp_ipc::{CallError, Client, wire};
use gtvp_model::fault::{Fault, FaultKind};

/// Most bytes that one of apt's programs may write: `apt-cache show` of a large closure is a few MiB.
const MAX_OUTPUT: u64 = 256 * 1024 * 1024;
/// How long the two processes stay after the last use: the next one finds open connections.
const LINGER: Duration = Duration::from_secs(20);

/// Starts the two processes.
pub trait Launcher: Send + Sync {
    /// Starts one, with these named sockets; it ends when what is returned is dropped.
    fn start(
        &self,
        template: &str,
        fds: Vec<(&'static str, UnixStream)>,
    ) -> Result<Box<dyn Any + Send + Sync>, Fault>;
}

/// Starts them through gtvpd, from the templates in topology.toml.
pub struct BySupervisor {
    /// gtvpd's socket.
    pub socket: PathBuf,
}

impl Launcher for BySupervisor {
    fn start(
        &self,
        template: &str,
        fds: Vec<(&'static str, UnixStream)>,
    ) -> Result<Box<dyn Any + Send + Sync>, Fault> {
        let unavailable =
            |e: std::io::Error| Fault::new(FaultKind::Unavailable, "gtvpd cannot be reached").caused_by(&e);
        let mut client = Client::connect(&self.socket).map_err(unavailable)?;
        let spawn = Spawn {
            template: template.to_owned(),
            slot: None,
            params: std::collections::BTreeMap::<String, Param>::new(),
            fds: fds.iter().map(|(name, _)| (*name).to_owned()).collect(),
        };
        let borrowed: Vec<_> = fds.iter().map(|(_, fd)| fd.as_fd()).collect();
        client.call(&spawn, &borrowed, |_| ControlFlow::Continue(()))?;
        // The template is tied: the process ends with this connection.
        Ok(Box::new(client))
    }
}

/// Makes sessions, and keeps the last one for a while.
pub struct Sources {
    launcher: Box<dyn Launcher>,
    current: Mutex<Weak<Session>>,
    /// Architectures whose Contents indices are wanted.
    contents: Mutex<Vec<String>>,
}

/// The two processes while they run.
pub struct Session {
    /// Locked while a message is written: messages of two threads must not mix.
    apt: Mutex<UnixStream>,
    fetcher: Mutex<UnixStream>,
    config: OnceLock<Vec<String>>,
    _processes: Vec<Box<dyn Any + Send + Sync>>,
}

/// What one of apt's programs said.
#[derive(Debug)]
pub struct Output {
    /// Whether it ended with status 0.
    pub ok: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Sources {
    /// Through this launcher.
    pub fn new(launcher: Box<dyn Launcher>, contents: Vec<String>) -> Self {
        Self { launcher, current: Mutex::default(), contents: Mutex::new(contents) }
    }

    /// The session that runs, or a new one.
    pub fn session(&self) -> Result<Arc<Session>, Fault> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = current.upgrade() {
            if session.alive() {
                return Ok(session);
            }
        }
        let session = Arc::new(self.start()?);
        *current = Arc::downgrade(&session);
        // Somebody holds it for a while after the last user has gone.
        let held = session.clone();
        let _ = std::thread::Builder::new().stack_size(64 * 1024).spawn(move || {
            let mut users = 2;
            while users > 1 {
                std::thread::sleep(LINGER);
                users = Arc::strong_count(&held);
            }
        });
        Ok(session)
    }

    fn start(&self) -> Result<Session, Fault> {
        let pair = || UnixStream::pair().map_err(|e| Fault::internal("no socket can be made", &e));
        let ((apt, apt_end), (fetcher, fetcher_end), (relay_a, relay_b)) = (pair()?, pair()?, pair()?);
        let fetcher_process =
            self.launcher.start("fetcher", vec![("control", fetcher_end), ("relay", relay_b)])?;
        let apt_process = self.launcher.start("apt", vec![("control", apt_end), ("relay", relay_a)])?;
        let session = Session {
            apt: Mutex::new(apt),
            fetcher: Mutex::new(fetcher),
            config: OnceLock::new(),
            _processes: vec![fetcher_process, apt_process],
        };
        let contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner).clone();
        session.setup(contents)?;
        Ok(session)
    }

    /// Wants the Contents index of one more architecture from the next update on.
    pub fn want_contents(&self, session: &Session, arch: &str) -> Result<Vec<String>, Fault> {
        let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        contents.push(arch.to_owned());
        session.setup(contents.clone())?;
        Ok(contents.clone())
    }

    /// From the next update on: the Contents indices that are wanted, or none.
    pub fn use_contents(&self, session: &Session, wanted: bool) -> Result<(), Fault> {
        let contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner).clone();
        session.setup(if wanted { contents } else { Vec::new() })
    }

    /// Whether this architecture's Contents index is fetched.
    pub fn has_contents(&self, arch: &str) -> bool {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|a| a == arch)
    }
}

/// A connection of its own to one of the two.
fn channel(control: &Mutex<UnixStream>) -> Result<Client, Fault> {
    let gone = |e: std::io::Error| {
        Fault::new(FaultKind::Unavailable, "the fetcher's process has gone").caused_by(&e)
    };
    let (ours, theirs) = UnixStream::pair().map_err(gone)?;
    let control = control.lock().unwrap_or_else(PoisonError::into_inner);
    wire::send(&control, b"{}", &[theirs.as_fd()]).map_err(gone)?;
    Ok(Client::over(ours))
}

impl Session {
    fn alive(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let apt = self.apt.lock().unwrap_or_else(PoisonError::into_inner);
        let fetcher = self.fetcher.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fds = [PollFd::new(&*apt, PollFlags::RDHUP), PollFd::new(&*fetcher, PollFlags::RDHUP)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
    }

    fn setup(&self, contents: Vec<String>) -> Result<(), Fault> {
        channel(&self.apt)?.call(&Setup { contents }, &[], |_| ControlFlow::Continue(()))?;
        Ok(())
    }

    /// Runs one of apt's programs.
    pub fn run(&self, program: Program, args: &[&str]) -> Result<Output, Fault> {
        let run = Run { program, args: args.iter().map(|a| (*a).to_owned()).collect() };
        let (ran, fds) = channel(&self.apt)?.call(&run, &[], |_| ControlFlow::Continue(()))?;
        let mut texts = fds.into_iter().map(|fd| {
            let (mut file, mut bytes) = (File::from(fd), Vec::new());
            let read =
                std::io::Seek::rewind(&mut file).and_then(|()| file.take(MAX_OUTPUT).read_to_end(&mut bytes));
            read.map(|_| String::from_utf8_lossy(&bytes).into_owned())
        });
        let mut next = || texts.next().unwrap_or_else(|| Ok(String::new()));
        let bad = |e| Fault::internal("what apt wrote cannot be read", &e);
        let (out, err) = (next().map_err(bad)?, next().map_err(bad)?);
        Ok(Output { ok: ran.code == Some(0), out, err })
    }

    /// Opens one of apt's index files.
    pub fn index(&self, path: &str) -> Result<File, Fault> {
        let ask = ReadIndex { path: path.to_owned() };
        let (_, fds) = channel(&self.apt)?.call(&ask, &[], |_| ControlFlow::Continue(()))?;
        one(fds)
    }

    /// apt's configuration of its acquire methods, as the host's administrator wrote it.
    fn config(&self) -> Result<&[String], Fault> {
        if let Some(config) = self.config.get() {
            return Ok(config);
        }
        let dump = self.run(Program::AptConfig, &["dump", "Acquire"])?;
        let items = dump.out.lines().filter_map(|line| {
            let (name, value) = line.strip_suffix(';')?.split_once(' ')?;
            let value = value.strip_prefix('"')?.strip_suffix('"')?;
            (!value.is_empty()).then(|| format!("{name}={value}"))
        });
        Ok(self.config.get_or_init(|| items.collect()))
    }

    /// Fetches what is at a URI: unchecked bytes. `on_bytes` hears how many have come, and may end it.
    pub fn fetch(
        &self,
        uri: &str,
        size: u64,
        mut on_bytes: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<File, Fault> {
        let ask = Acquire { uri: uri.to_owned(), size, config: self.config()?.to_vec() };
        match channel(&self.fetcher)?.call(&ask, &[], |p| on_bytes(p.bytes)) {
            Ok((_, fds)) => one(fds),
            Err(e @ (CallError::Lost { .. } | CallError::Unreachable { .. })) => {
                Err(Fault::new(FaultKind::SourceUnreachable, format!("{uri} cannot be reached"))
                    .caused_by(&e)
                    .hint("the fetcher starts again by itself: make the same call again"))
            }
            Err(e) => Err(e.into()),
        }
    }

    /// The bytes at `from` of what is at a URI, unchecked; `None` when they cannot be had.
    pub fn peek(&self, uri: &str, from: u64, length: u64) -> Option<Vec<u8>> {
        let proxy = self.proxy()?;
        let ask = Range { uri: uri.to_owned(), from, length, proxy };
        let (_, fds) = channel(&self.fetcher).ok()?.call(&ask, &[], |_| ControlFlow::Continue(())).ok()?;
        let mut bytes = Vec::new();
        one(fds).ok()?.take(length).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// The proxy for `http`; the outer `None` when apt would do something that we can't (a proxy of another kind, or one that
    /// a program finds).
    fn proxy(&self) -> Option<Option<String>> {
        let config = self.config().ok()?;
        let value = |name: &str| {
            config.iter().find_map(|c| c.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
        };
        if value("Acquire::http::Proxy-Auto-Detect").is_some()
            || value("Acquire::http::ProxyAutoDetect").is_some()
        {
            return None;
        }
        match value("Acquire::http::Proxy") {
            None => Some(None),
            Some(direct) if direct == "DIRECT" => Some(None),
            Some(proxy) if proxy.starts_with("http://") && !proxy.contains('@') => Some(Some(proxy)),
            Some(_) => None,
        }
    }
}

fn one(fds: Vec<std::os::fd::OwnedFd>) -> Result<File, Fault> {
    let fd = fds.into_iter().next();
    Ok(fd.ok_or_else(|| Fault::new(FaultKind::Internal, "the fetcher answered without a file"))?.into())
}
