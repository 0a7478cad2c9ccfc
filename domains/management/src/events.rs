//! What happened, kept in a file of JSON lines and told to those who follow.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gtvp_model::event::{Event, Severity};

/// Events kept in memory, which is what `gtvp events` can show; the files have more.
const REMEMBERED: usize = 2000;
/// Size at which the file becomes `events.1.jsonl`, and the one before is dropped.
const ROTATE_AT: u64 = 4 * 1024 * 1024;

struct Inner {
    recent: VecDeque<Event>,
    next: u64,
    file: File,
    size: u64,
}

/// The log of events.
pub struct Events {
    path: PathBuf,
    member: String,
    inner: Mutex<Inner>,
    grew: Condvar,
}

impl Events {
    /// Opens the log and reads its end.
    pub fn open(state: &Path, member: String) -> io::Result<Self> {
        let path = state.join("events.jsonl");
        let mut recent = VecDeque::new();
        for file in [path.with_extension("1.jsonl"), path.clone()] {
            let Ok(file) = File::open(file) else { continue };
            // A line torn by a crash does not parse and is passed over.
            for event in BufReader::new(file)
                .lines()
                .map_while(Result::ok)
                .filter_map(|l| serde_json::from_str(&l).ok())
            {
                recent.push_back(event);
                if recent.len() > REMEMBERED {
                    recent.pop_front();
                }
            }
        }
        let next = recent.back().map_or(1, |e: &Event| e.seq + 1);
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        // After a torn line the next one begins on its own.
        file.write_all(b"\n")?;
        let size = file.metadata()?.len();
        let inner = Mutex::new(Inner { recent, next, file, size });
        Ok(Self { path, member, inner, grew: Condvar::new() })
    }

    /// Tells of something.
    pub fn tell(&self, severity: Severity, kind: &str, box_name: Option<String>, message: String) {
        let mut inner = self.lock();
        let event = Event {
            seq: inner.next,
            time_ms: crate::now_ms(),
            member: self.member.clone(),
            severity,
            kind: kind.to_owned(),
            box_name,
            message,
        };
        inner.next += 1;
        if let Err(e) = self.keep(&mut inner, &event) {
            // The disk is full or broken: those who follow still hear of it.
            eprintln!("gtvp-management: event {} is not kept: {e}", event.seq);
        }
        inner.recent.push_back(event);
        if inner.recent.len() > REMEMBERED {
            inner.recent.pop_front();
        }
        self.grew.notify_all();
    }

    fn keep(&self, inner: &mut Inner, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        if inner.size + line.len() as u64 > ROTATE_AT {
            fs::rename(&self.path, self.path.with_extension("1.jsonl"))?;
            inner.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            inner.size = 0;
        }
        inner.file.write_all(&line)?;
        inner.size += line.len() as u64;
        Ok(())
    }

    /// Events after number `after`, at most the last `tail`.
    pub fn after(&self, after: u64, tail: Option<u64>) -> Vec<Event> {
        let inner = self.lock();
        let mut found: Vec<Event> = inner.recent.iter().filter(|e| e.seq > after).cloned().collect();
        if let Some(tail) = tail.and_then(|t| usize::try_from(t).ok()) {
            found.drain(..found.len().saturating_sub(tail));
        }
        found
    }

    /// Number of the last event.
    pub fn last(&self) -> u64 {
        self.lock().next - 1
    }

    /// Waits until there is an event after number `after`, or the time is over.
    pub fn wait_after(&self, after: u64, at_most: Duration) {
        let inner = self.lock();
        let _ = self.grew.wait_timeout_while(inner, at_most, |i| i.next <= after + 1);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_numbered_on_across_restarts_and_torn_lines() {
        let dir = std::env::temp_dir().join(format!("gtvp-events-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let tell = |n: &str| {
            let log = Events::open(&dir, "m1".into()).unwrap();
            log.tell(Severity::Info, "test.event", None, n.into());
            log.after(0, None)
        };
        tell("one");
        OpenOptions::new()
            .append(true)
            .open(dir.join("events.jsonl"))
            .unwrap()
            .write_all(b"{\"seq\":9")
            .unwrap();
        let seen = tell("two");
        assert_eq!(
            seen.iter().map(|e| (e.seq, e.message.as_str())).collect::<Vec<_>>(),
            [(1, "one"), (2, "two")]
        );
        fs::remove_dir_all(&dir).unwrap();
    }
}
