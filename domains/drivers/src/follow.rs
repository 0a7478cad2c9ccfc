//! Logs for people: a thread for each reader writes a box's log, as frames of [`gtvp_model::stream`], into a pipe, and
//! sleeps until the box's bell rings.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use gtvp_ipc::drivers::LogSource;
use gtvp_model::boxview::ExitStatus;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::stream::{self, StreamKind};
use rustix::event::{PollFd, PollFlags, poll};

use crate::engine::Last;
use crate::inbox::Inbox;
use crate::{applog, console};

/// Most bytes in one frame of a console.
const PIECE: usize = 64 * 1024;
/// Most followers of one box: people and the CLI's own.
const MOST_FOLLOWERS: usize = 64;

/// How a followed log ends.
#[derive(Debug, Clone)]
pub enum End {
    /// With how the application ended.
    Exit(ExitStatus),
    /// With why there was no such end.
    Fault(Fault),
    /// With nothing to say.
    Plain,
}

impl From<&Last> for End {
    fn from(last: &Last) -> Self {
        match last {
            Last::Exited(status) => Self::Exit(status.clone()),
            Last::Died(why) => Self::Fault(Fault::new(FaultKind::BoxFailed, format!("the box died: {why}"))),
            Last::NeverStarted => Self::Plain,
        }
    }
}

/// Rings the followers of one box.
#[derive(Default)]
pub struct Bell {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    end: Option<End>,
    followers: Vec<Weak<Inbox<()>>>,
}

impl Bell {
    /// The log has grown.
    pub fn ring(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.followers.retain(|f| f.upgrade().map(|f| f.ring()).is_some());
    }

    /// The machine is gone: the logs grow no more.
    pub fn end(&self, end: End) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).end = Some(end);
        self.ring();
    }

    fn ended(&self) -> Option<End> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).end.clone()
    }

    fn follow(&self) -> Result<Arc<Inbox<()>>, Fault> {
        let inbox = Arc::new(Inbox::new().map_err(|e| Fault::internal("out of descriptors", &e))?);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.followers.retain(|f| f.strong_count() > 0);
        if inner.followers.len() >= MOST_FOLLOWERS {
            return Err(Fault::new(FaultKind::Unavailable, "too many follow this box's log"));
        }
        inner.followers.push(Arc::downgrade(&inbox));
        Ok(inbox)
    }
}

/// What to do at the log's present end.
pub enum Then {
    /// End.
    Stop,
    /// Go on until the bell's end.
    Follow(Arc<Bell>),
    /// The machine is gone already.
    End(End),
}

/// Starts to write a log; gives the reading end.
pub fn start(folder: &Path, source: LogSource, tail: Option<u64>, then: Then) -> Result<OwnedFd, Fault> {
    let failed = |e: io::Error| Fault::internal("the log cannot be read", &e);
    let inbox = match &then {
        Then::Follow(bell) => Some(bell.follow()?),
        _ => None,
    };
    let source = match source {
        LogSource::Application => Source::Application(applog::Reader::open(folder, tail).map_err(failed)?),
        LogSource::Console => Source::Console(Console::open(&console::path(folder), tail).map_err(failed)?),
    };
    let (reading, writing) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    let run = move || {
        // Only the reader's going is to be expected here; a disk that fails is told.
        if let Err(e) = write(source, &then, inbox.as_deref(), File::from(writing)) {
            if e.kind() != io::ErrorKind::BrokenPipe {
                eprintln!("drivers: a log cannot be read: {e}");
            }
        }
    };
    std::thread::Builder::new().name("log".into()).stack_size(128 * 1024).spawn(run).map_err(failed)?;
    Ok(reading)
}

enum Source {
    Application(applog::Reader),
    Console(Console),
}

impl Source {
    fn next(&mut self) -> io::Result<Option<(StreamKind, Vec<u8>)>> {
        match self {
            Self::Application(reader) => loop {
                let Some(record) = reader.next_record()? else { return Ok(None) };
                match record.fd {
                    1 => return Ok(Some((StreamKind::Stdout, record.bytes))),
                    2 => return Ok(Some((StreamKind::Stderr, record.bytes))),
                    _ => {}
                }
            },
            Self::Console(console) => Ok(console.next()?.map(|bytes| (StreamKind::Stdout, bytes))),
        }
    }
}

fn write(mut source: Source, then: &Then, inbox: Option<&Inbox<()>>, mut out: File) -> io::Result<()> {
    loop {
        // Asked before the log is read to its end: what was written before the end is read after it was known.
        let end = match then {
            Then::Stop => Some(End::Plain),
            Then::End(end) => Some(end.clone()),
            Then::Follow(bell) => bell.ended(),
        };
        while let Some((kind, bytes)) = source.next()? {
            stream::write(&mut out, kind, &bytes)?;
        }
        match (end, inbox) {
            (Some(End::Exit(status)), _) => {
                return stream::write(&mut out, StreamKind::Exit, &serde_json::to_vec(&status)?);
            }
            (Some(End::Fault(fault)), _) => {
                return stream::write(&mut out, StreamKind::Fault, &serde_json::to_vec(&fault)?);
            }
            (Some(End::Plain), _) | (None, None) => return Ok(()),
            (None, Some(inbox)) => {
                let mut fds = [
                    PollFd::from_borrowed_fd(inbox.as_fd(), PollFlags::IN),
                    // Asked for nothing, a pipe still tells that its reader has gone.
                    PollFd::from_borrowed_fd(out.as_fd(), PollFlags::empty()),
                ];
                match poll(&mut fds, None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(e) => return Err(e.into()),
                }
                if !fds[1].revents().is_empty() {
                    return Ok(());
                }
                inbox.take();
            }
        }
    }
}

/// A console being read.
struct Console {
    path: PathBuf,
    at: u64,
    ahead: Vec<u8>,
}

impl Console {
    fn open(path: &Path, tail: Option<u64>) -> io::Result<Self> {
        let mut ahead = read_from(&console::old(path), 0)?;
        let newer = read_from(path, 0)?;
        let at = newer.len() as u64;
        ahead.extend(newer);
        if let Some(lines) = tail {
            let keep = last_lines(&ahead, lines);
            ahead.drain(..keep);
        }
        Ok(Self { path: path.to_owned(), at, ahead })
    }

    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.ahead.is_empty() {
            let size = std::fs::metadata(&self.path).map_or(0, |m| m.len());
            if size < self.at {
                self.at = 0;
            }
            self.ahead = read_from(&self.path, self.at)?;
            self.at += self.ahead.len() as u64;
        }
        if self.ahead.is_empty() {
            return Ok(None);
        }
        let rest = self.ahead.split_off(self.ahead.len().min(PIECE));
        Ok(Some(std::mem::replace(&mut self.ahead, rest)))
    }
}

/// A kept file's bytes from `at` on, a few megabytes at most; nothing when there is no such file.
pub fn read_from(path: &Path, at: u64) -> io::Result<Vec<u8>> {
    /// More than any of these files has; a guest that floods cannot make us hold more.
    const MOST: u64 = 4 * 1024 * 1024;
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(mut file) => {
            file.seek(SeekFrom::Start(at))?;
            file.take(MOST).read_to_end(&mut bytes)?;
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    Ok(bytes)
}

/// Where the last `lines` lines begin.
fn last_lines(bytes: &[u8], lines: u64) -> usize {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if lines == 0 {
        return bytes.len();
    }
    let mut ends = body.iter().enumerate().rev().filter(|(_, b)| **b == b'\n');
    let nth = usize::try_from(lines - 1).unwrap_or(usize::MAX);
    ends.nth(nth).map_or(0, |(i, _)| i + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::applog::AppLog;
    use crate::tests::Folder;

    fn frames(fd: OwnedFd) -> Vec<(StreamKind, Vec<u8>)> {
        let mut file = File::from(fd);
        std::iter::from_fn(|| stream::read(&mut file).unwrap()).collect()
    }

    #[test]
    fn a_follower_hears_what_comes_and_then_the_end() {
        let folder = Folder::new();
        let mut log = AppLog::open(folder.path()).unwrap();
        log.append(1, 1, b"before").unwrap();
        let bell = Arc::new(Bell::default());
        let fd = start(folder.path(), LogSource::Application, None, Then::Follow(bell.clone())).unwrap();
        let mut file = File::from(fd);
        assert_eq!(stream::read(&mut file).unwrap().unwrap(), (StreamKind::Stdout, b"before".to_vec()));
        log.append(2, 2, b"after").unwrap();
        bell.ring();
        assert_eq!(stream::read(&mut file).unwrap().unwrap(), (StreamKind::Stderr, b"after".to_vec()));
        log.append(3, 1, b"last").unwrap();
        bell.end(End::Exit(ExitStatus::Code(7)));
        assert_eq!(stream::read(&mut file).unwrap().unwrap().1, b"last");
        assert_eq!(stream::read(&mut file).unwrap().unwrap(), (StreamKind::Exit, br#"{"code":7}"#.to_vec()));
        assert_eq!(stream::read(&mut file).unwrap(), None);
    }

    #[test]
    fn a_follower_that_goes_takes_its_thread_along() {
        let folder = Folder::new();
        let bell = Arc::new(Bell::default());
        let fd = start(folder.path(), LogSource::Application, None, Then::Follow(bell.clone())).unwrap();
        drop(fd);
        let left = || bell.inner.lock().unwrap().followers.iter().all(|f| f.strong_count() == 0);
        crate::tests::until("the follower is gone", left);
    }

    #[test]
    fn a_console_is_followed_over_its_being_cut() {
        let folder = Folder::new();
        let path = console::path(folder.path());
        std::fs::write(&path, "one\ntwo\nthree\n").unwrap();
        let got = frames(start(folder.path(), LogSource::Console, Some(2), Then::Stop).unwrap());
        assert_eq!(got, [(StreamKind::Stdout, b"two\nthree\n".to_vec())]);
        let mut console = Console::open(&path, None).unwrap();
        while console.next().unwrap().is_some() {}
        std::fs::write(&path, "new\n").unwrap();
        assert_eq!(console.next().unwrap().unwrap(), b"new\n");
    }
}
