//! What firmware and kernel have logged, as bytes, from descriptors that gtvpd opens once. It understands neither log.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use gtvp_ipc::supervisor::{KernelLog, OpenKernelLogs};
use gtvp_ipc::{CallError, Client};

/// The logs that there are.
pub struct KernelLogs {
    open: Vec<(KernelLog, Mutex<File>)>,
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
        Self { open: logs.into_iter().map(|(log, file)| (log, Mutex::new(file))).collect() }
    }

    /// A log from this offset on: empty if it is shorter, `None` if the machine keeps none.
    pub fn read(&self, log: KernelLog, from: u64) -> io::Result<Option<Vec<u8>>> {
        let Some((_, file)) = self.open.iter().find(|(name, _)| *name == log) else { return Ok(None) };
        // One reader at a time: they share the file's position. The kernel makes the text anew from there.
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(from))?;
        let most = most(log);
        let mut bytes = Vec::new();
        (&mut *file).take(most as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > most {
            return Err(io::Error::other("the log is longer than any that a verifier reads"));
        }
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_from_where_it_is_known_and_never_without_bound() {
        let path = std::env::temp_dir().join(format!("gtvp-kernel-log-{}", std::process::id()));
        std::fs::write(&path, "firmware, loader, kernel").unwrap();
        let open = || vec![(KernelLog::Boot, Mutex::new(File::open(&path).unwrap()))];
        let logs = KernelLogs { open: open() };
        let read = |from| logs.read(KernelLog::Boot, from).unwrap().unwrap();
        assert_eq!(read(0), b"firmware, loader, kernel");
        assert_eq!(read(18), b"kernel");
        assert_eq!(read(0), b"firmware, loader, kernel", "again from the beginning");
        assert_eq!(read(1000), b"");
        assert_eq!(logs.read(KernelLog::Ima, 0).unwrap(), None);
        File::create(&path).unwrap().set_len(most(KernelLog::Boot) as u64 + 1).unwrap();
        let logs = KernelLogs { open: open() };
        assert!(logs.read(KernelLog::Boot, 0).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
