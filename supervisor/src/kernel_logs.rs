//! The logs that firmware and kernel keep of what they have measured. Only root may open them, so gtvpd does, and hands them to
//! `security`, which reads. It reads nothing of them itself.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use gtvp_ipc::supervisor::KernelLog;

/// securityfs.
pub const FOLDER: &str = "/sys/kernel/security";

/// Where each is, below [`FOLDER`] (Documentation/security/tpm/tpm_event_log.rst, Documentation/ABI/testing/ima_policy).
const LOGS: &[(KernelLog, &str)] = &[
    (KernelLog::Boot, "tpm0/binary_bios_measurements"),
    (KernelLog::Ima, "ima/binary_runtime_measurements"),
];

/// Opens those that there are.
pub fn open(folder: &Path) -> io::Result<(Vec<KernelLog>, Vec<OwnedFd>)> {
    let mut found = (Vec::new(), Vec::new());
    for (log, path) in LOGS {
        match File::open(folder.join(path)) {
            Ok(file) => {
                found.0.push(*log);
                found.1.push(file.into());
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            // A log that is there and cannot be read is not one that is not there.
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;

    #[test]
    fn logs_that_are_there_are_opened_under_their_names() {
        let folder = std::env::temp_dir().join(format!("gtvp-logs-{}", std::process::id()));
        fs::create_dir_all(folder.join("ima")).unwrap();
        assert_eq!(open(&folder).unwrap().0, []);
        fs::write(folder.join("ima/binary_runtime_measurements"), "files").unwrap();
        let (names, mut fds) = open(&folder).unwrap();
        assert_eq!(names, [KernelLog::Ima]);
        let mut text = String::new();
        File::from(fds.remove(0)).read_to_string(&mut text).unwrap();
        assert_eq!(text, "files");
        fs::remove_dir_all(&folder).unwrap();
    }
}
