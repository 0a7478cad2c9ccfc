//! What firmware and kernel have logged, as bytes, from descriptors that gtvpd opens once. It understands neither log.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gtvp_ipc::supervisor::{KernelLog, OpenKernelLogs};
use gtvp_ipc::{CallError, Client};

/// The logs that there are.
pub struct KernelLogs {
    open: Vec<(KernelLog, Mutex<Open>)>,
}

/// A log, and how many bytes it has at least: while this machine runs it only grows.
struct Open {
    file: File,
    known: u64,
}

/// The most that a verifier reads of each.
fn most(log: KernelLog) -> usize {
    match log {
        KernelLog::Boot => gtvp_appraisal::bootlog::MAX_LOG,
        KernelLog::Ima => gtvp_appraisal::ima::MAX_LOG,
    }
}

impl KernelLogs {
    /// Has gtvpd open them. `supervisor` is its socket.
    pub fn open(supervisor: &Path) -> Result<Self, CallError> {
        let go_on = |_| ControlFlow::Continue(());
        let unreachable = |source| CallError::Unreachable { callee: "supervisor", source };
        let mut client = Client::connect(supervisor).map_err(unreachable)?;
        let (reply, fds) = client.call(&OpenKernelLogs {}, &[], go_on)?;
        Ok(Self::of(reply.logs.into_iter().zip(fds.into_iter().map(File::from))))
    }

    /// These.
    pub fn of(logs: impl IntoIterator<Item = (KernelLog, File)>) -> Self {
        Self {
            open: logs.into_iter().map(|(log, file)| (log, Mutex::new(Open { file, known: 0 }))).collect(),
        }
    }

    /// A log from this offset on: empty if it is shorter, `None` if the machine keeps none.
    pub fn read(&self, log: KernelLog, from: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(mut open) = self.opened(log) else { return Ok(None) };
        open.file.seek(SeekFrom::Start(from))?;
        let most = most(log);
        let mut bytes = Vec::new();
        (&mut open.file).take(most as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > most {
            return Err(io::Error::other("the log is longer than any that a verifier reads"));
        }
        if !bytes.is_empty() {
            open.known = open.known.max(from.saturating_add(bytes.len() as u64));
        }
        Ok(Some(bytes))
    }

    /// How long a log is, zero if the machine keeps none; counted no further than one byte beyond `most`. Nothing of it stays in memory, and
    /// what was counted before is not read again.
    pub fn length(&self, log: KernelLog, most: u64) -> io::Result<u64> {
        let Some(mut open) = self.opened(log) else { return Ok(0) };
        let mut known = open.known;
        if known <= most {
            open.file.seek(SeekFrom::Start(known))?;
            let rest = most.saturating_add(1).saturating_sub(known);
            known = known.saturating_add(io::copy(&mut (&mut open.file).take(rest), &mut io::sink())?);
            open.known = known;
        }
        Ok(known)
    }

    /// One reader at a time: they share the file's position. The kernel makes the text anew from there.
    fn opened(&self, log: KernelLog) -> Option<MutexGuard<'_, Open>> {
        let (_, open) = self.open.iter().find(|(name, _)| *name == log)?;
        Some(open.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_from_where_it_is_known_and_never_without_bound() {
        let path = std::env::temp_dir().join(format!("gtvp-kernel-log-{}", std::process::id()));
        std::fs::write(&path, "firmware, loader, kernel").unwrap();
        let open = || KernelLogs::of([(KernelLog::Boot, File::open(&path).unwrap())]);
        let logs = open();
        let read = |from| logs.read(KernelLog::Boot, from).unwrap().unwrap();
        assert_eq!(read(0), b"firmware, loader, kernel");
        assert_eq!(read(18), b"kernel");
        assert_eq!(read(0), b"firmware, loader, kernel", "again from the beginning");
        assert_eq!(read(1000), b"");
        assert_eq!(logs.read(KernelLog::Ima, 0).unwrap(), None);
        assert_eq!(logs.length(KernelLog::Ima, 100).unwrap(), 0);
        for logs in [&logs, &open()] {
            assert_eq!(logs.length(KernelLog::Boot, 100).unwrap(), 24);
            assert_eq!(logs.length(KernelLog::Boot, 100).unwrap(), 24, "it has not grown");
        }
        let fresh = open();
        assert_eq!(fresh.length(KernelLog::Boot, 10).unwrap(), 11, "and is counted no further");
        assert_eq!(fresh.length(KernelLog::Boot, 100).unwrap(), 24);
        assert_eq!(fresh.read(KernelLog::Boot, 18).unwrap().unwrap(), b"kernel");
        File::create(&path).unwrap().set_len(most(KernelLog::Boot) as u64 + 1).unwrap();
        let logs = open();
        assert!(logs.read(KernelLog::Boot, 0).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
