//! What machines run on: KVM only when a guest has really run on it, else TCG, with the reason in words.
//!
//! A device that opens proves nothing (nested hosts whose KVM runs no guest are common), so the first start on a host
//! boot boots the box's own kernel with `gtvp.probe`, and what came of it is remembered for that boot and that kernel.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gtvp_model::fault::{Fault, FaultKind};
use serde::{Deserialize, Serialize};

use crate::link::{Link, TiedEnd};
use crate::{record, words};

/// A guest on working hardware says its word within a second or two.
const LIMIT: Duration = Duration::from_secs(10);
/// What guest-init prints when the kernel's arguments have `gtvp.probe`.
const WORD: &str = "GTVP-PROBE-OK";
const KVM: &str = "/dev/kvm";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What a machine runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// The processor's own virtualization.
    Kvm,
    /// QEMU's translation; why.
    Tcg(String),
}

impl Accelerator {
    /// As QEMU's arguments and programs know it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg(_) => "tcg",
        }
    }

    /// The model of its processors.
    pub fn cpu(&self) -> &'static str {
        match self {
            Self::Kvm => "host",
            Self::Tcg(_) => "max,la57=off",
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kvm => f.write_str("kvm"),
            Self::Tcg(why) => write!(f, "tcg ({why})"),
        }
    }
}

/// What was found, and for what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Found {
    boot_id: String,
    kernel: String,
    accelerator: Accelerator,
}

/// The decision, and its memory.
pub struct Chooser {
    file: PathBuf,
    folder: PathBuf,
    device: PathBuf,
    found: Mutex<Option<Found>>,
}

impl Chooser {
    /// With what was found before on this host boot.
    pub fn new(state: &Path) -> Self {
        let file = state.join("accelerator.json");
        let boot_id = boot_id();
        let remembered = std::fs::read(&file).ok().and_then(|b| serde_json::from_slice::<Found>(&b).ok());
        let found = remembered.filter(|f| boot_id.as_ref() == Some(&f.boot_id));
        Self { file, folder: state.to_owned(), device: KVM.into(), found: Mutex::new(found) }
    }

    /// What machines run on, if it was found out.
    pub fn found(&self) -> Option<Accelerator> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.as_ref().map(|f| f.accelerator.clone())
    }

    /// What machines run on, in words.
    pub fn known(&self) -> String {
        self.found().map_or_else(|| "unknown".into(), |a| a.to_string())
    }

    fn device(&self) -> std::io::Result<File> {
        OpenOptions::new().read(true).write(true).open(&self.device)
    }

    /// The device, for a machine that runs on it.
    pub fn device_of(&self, accelerator: &Accelerator) -> std::io::Result<Option<File>> {
        (*accelerator == Accelerator::Kvm).then(|| self.device()).transpose()
    }

    /// What a box with this kernel runs on; `true` when that was not known before. `probing` is told when a guest has to be
    /// tried. Other starts wait.
    pub fn choose(
        &self,
        link: &Link,
        kernel: BorrowedFd<'_>,
        initrd: BorrowedFd<'_>,
        probing: impl FnOnce(),
        mut wanted: impl FnMut() -> bool,
    ) -> Result<(Accelerator, bool), Fault> {
        let identity = identity(kernel).map_err(|e| Fault::internal("the kernel cannot be read", &e))?;
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(f) = found.as_ref().filter(|f| f.kernel == identity) {
            return Ok((f.accelerator.clone(), false));
        }
        let known = found.as_ref().map(|f| f.accelerator.clone());
        let accelerator = match self.device() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Accelerator::Tcg(format!("this host has no {KVM}"))
            }
            Err(e) => Accelerator::Tcg(format!("{KVM} cannot be opened: {e}")),
            Ok(device) => {
                probing();
                self.probe(link, &device, kernel, initrd, &mut wanted)?
            }
        };
        let boot_id = boot_id();
        let new = Found {
            boot_id: boot_id.clone().unwrap_or_default(),
            kernel: identity,
            accelerator: accelerator.clone(),
        };
        if boot_id.is_some() {
            let saved = serde_json::to_vec_pretty(&new)
                .map_err(Into::into)
                .and_then(|b| record::replace(&self.file, &b));
            if let Err(e) = saved {
                eprintln!("drivers: what machines run on cannot be remembered: {e}");
            }
        }
        *found = Some(new);
        let news = known.as_ref() != Some(&accelerator);
        Ok((accelerator, news))
    }

    fn probe(
        &self,
        link: &Link,
        device: &File,
        kernel: BorrowedFd<'_>,
        initrd: BorrowedFd<'_>,
        wanted: &mut impl FnMut() -> bool,
    ) -> Result<Accelerator, Fault> {
        let failed = |e: std::io::Error| Fault::internal("the probe cannot be prepared", &e);
        let create = |name: &str| {
            let path = self.folder.join(name);
            record::remove(&path)?;
            let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
            std::io::Result::Ok((path, file))
        };
        let (console_path, console) = create("probe.log").map_err(failed)?;
        let (stderr_path, stderr) = create("probe.err").map_err(failed)?;
        let fds = [
            ("console", console.as_fd()),
            ("kvm", device.as_fd()),
            ("kernel", kernel),
            ("initrd", initrd),
            ("stderr", stderr.as_fd()),
        ];
        let mut cancelled = false;
        let end = link.run("qemu-probe", None, &fds, LIMIT, || {
            cancelled = !wanted();
            !cancelled
        });
        let (said, errors) = (words::tail(&console_path), words::tail(&stderr_path));
        record::remove(&console_path).and_then(|()| record::remove(&stderr_path)).map_err(failed)?;
        if cancelled {
            return Err(Fault::new(FaultKind::Cancelled, "the start was cancelled"));
        }
        Ok(verdict(&end?, &said, &errors))
    }
}

fn verdict(end: &TiedEnd, console: &str, stderr: &str) -> Accelerator {
    if console.contains(WORD) {
        return Accelerator::Kvm;
    }
    let reason = match (words::first_line(stderr), end) {
        (Some(line), _) => line.trim_start_matches("qemu-system-x86_64: ").to_owned(),
        (None, TiedEnd::GivenUp) => format!("it said nothing for {} seconds", LIMIT.as_secs()),
        (None, TiedEnd::Ended(end)) => format!("QEMU ended ({})", end.how),
    };
    Accelerator::Tcg(format!("{KVM} opens, but a guest does not run on it: {reason}"))
}

/// This boot of the host.
pub fn boot_id() -> Option<String> {
    std::fs::read_to_string(BOOT_ID).ok().map(|id| id.trim().to_owned()).filter(|id| !id.is_empty())
}

/// Which kernel this is. It is an object of the component store, so file, size and time stand for its contents; hashing it
/// would cost every start what a digest of tens of megabytes costs.
fn identity(kernel: BorrowedFd<'_>) -> std::io::Result<String> {
    let m = File::from(kernel.try_clone_to_owned()?).metadata()?;
    Ok(format!("{}:{}:{}:{}", m.dev(), m.ino(), m.size(), m.mtime()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gtvp_ipc::supervisor::Ended;

    fn ended(how: &str) -> TiedEnd {
        TiedEnd::Ended(Ended {
            process: 1,
            template: "qemu-probe".into(),
            slot: None,
            code: Some(0),
            how: how.into(),
        })
    }

    #[test]
    fn only_the_guests_own_word_makes_it_kvm() {
        assert_eq!(verdict(&ended("exit status 0"), "…\r\nGTVP-PROBE-OK\r\n", ""), Accelerator::Kvm);
        let said = |end: &TiedEnd, stderr: &str| verdict(end, "booting", stderr).to_string();
        assert_eq!(
            said(
                &ended("signal 6"),
                "qemu-system-x86_64: error: failed to set MSR 0x10a\nAssertion failed\n"
            ),
            "tcg (/dev/kvm opens, but a guest does not run on it: error: failed to set MSR 0x10a)"
        );
        assert!(said(&TiedEnd::GivenUp, "").contains("nothing for 10 seconds"));
        assert!(said(&ended("exit status 0"), "").contains("exit status 0"));
    }

    #[test]
    fn a_host_without_the_device_is_known_at_once() {
        let folder = crate::tests::Folder::new();
        let chooser = Chooser { device: folder.path().join("no-kvm"), ..Chooser::new(folder.path()) };
        assert_eq!(chooser.known(), "unknown");
        let file = File::open("/dev/null").unwrap();
        let nobody = Link::new(Path::new("/nonexistent"));
        let choose =
            || chooser.choose(&nobody, file.as_fd(), file.as_fd(), || unreachable!(), || true).unwrap();
        let (first, news) = choose();
        assert!(news && first.to_string() == "tcg (this host has no /dev/kvm)");
        assert!(!choose().1, "it is told once");
        assert_eq!(Chooser::new(folder.path()).known(), first.to_string(), "it is remembered");
    }
}
