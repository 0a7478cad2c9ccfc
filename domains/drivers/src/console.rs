//! Consoles and QEMU's standard errors: files that QEMU appends to by itself, kept small while it does. One thread waits
//! for inotify, for all boxes; it sleeps while nobody writes.
//!
//! A file that is full is copied to `<name>.1` and cut to nothing. What is written between the two is lost: with a
//! descriptor that only QEMU holds there is no better way, and a console is for last words.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::inotify;

use crate::follow::Bell;
use crate::record;

/// Size at which a file is full.
const MOST_BYTES: u64 = 1024 * 1024;
/// A guest that floods its console byte by byte wakes the thread this often and not more.
const REST: Duration = Duration::from_millis(20);

/// The console of a box.
pub fn path(folder: &Path) -> PathBuf {
    folder.join("console.log")
}

/// What QEMU itself says.
pub fn stderr_path(folder: &Path) -> PathBuf {
    folder.join("qemu.log")
}

/// The older part of a file.
pub fn old(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Makes a file for a machine that starts; what an earlier machine wrote becomes the older part.
pub fn create(path: &Path) -> io::Result<File> {
    if path.exists() {
        std::fs::rename(path, old(path))?;
    }
    // Opened for reading too: QEMU's descriptor set hands out only what fits the flags it asks for.
    OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)
}

/// Keeps the files small and tells their followers.
pub struct Keeper {
    inotify: OwnedFd,
    files: Mutex<HashMap<i32, Watched>>,
}

#[derive(Clone)]
struct Watched {
    path: PathBuf,
    bell: Arc<Bell>,
}

impl Keeper {
    /// Starts its thread.
    pub fn start() -> io::Result<Arc<Self>> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        let keeper = Arc::new(Self { inotify, files: Mutex::default() });
        let thread = keeper.clone();
        std::thread::Builder::new()
            .name("consoles".into())
            .stack_size(128 * 1024)
            .spawn(move || thread.run())?;
        Ok(keeper)
    }

    /// Keeps this file from now on.
    pub fn keep(&self, path: &Path, bell: &Arc<Bell>) -> io::Result<()> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let wd = inotify::add_watch(&self.inotify, path, inotify::WatchFlags::MODIFY)?;
        files.insert(wd, Watched { path: path.to_owned(), bell: bell.clone() });
        drop(files);
        bound(path)
    }

    /// A machine is gone: its files grow no more.
    pub fn leave(&self, folder: &Path) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|wd, watched| {
            let leave = watched.path.starts_with(folder);
            if leave {
                // It ends by itself when the file was removed meanwhile.
                let _ = inotify::remove_watch(&self.inotify, *wd);
            }
            !leave
        });
    }

    fn run(&self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            let wd = match reader.next() {
                Ok(event) => event.wd(),
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => {
                    eprintln!("drivers: consoles cannot be watched any more: {e}");
                    return;
                }
            };
            let watched = self.files.lock().unwrap_or_else(PoisonError::into_inner).get(&wd).cloned();
            if let Some(watched) = watched {
                if let Err(e) = bound(&watched.path) {
                    eprintln!("drivers: {} cannot be kept small: {e}", watched.path.display());
                }
                watched.bell.ring();
            }
            if reader.is_buffer_empty() {
                std::thread::sleep(REST);
            }
        }
    }
}

/// Copies and cuts the file when it is full.
fn bound(path: &Path) -> io::Result<()> {
    let size = std::fs::metadata(path)?.len();
    if size < MOST_BYTES {
        return Ok(());
    }
    let mut kept = crate::follow::read_from(path, size - MOST_BYTES)?;
    kept.truncate(usize::try_from(MOST_BYTES).unwrap_or(usize::MAX));
    record::remove(&old(path))?;
    record::replace(&old(path), &kept)?;
    OpenOptions::new().write(true).open(path)?.set_len(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_flooded_console_stays_small_and_keeps_its_end() {
        let folder = crate::tests::Folder::new();
        let keeper = Keeper::start().unwrap();
        let path = path(folder.path());
        let mut console = create(&path).unwrap();
        keeper.keep(&path, &Arc::new(Bell::default())).unwrap();
        for _ in 0..40 {
            console.write_all(&[b'x'; 100_000]).unwrap();
            crate::tests::until("the console is cut", || path.metadata().unwrap().len() < MOST_BYTES);
        }
        console.write_all(b"last words\n").unwrap();
        let old = old(&path).metadata().unwrap().len();
        assert!(old <= MOST_BYTES && old > 0, "{old}");
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("last words\n"));
        keeper.leave(folder.path());
        console.write_all(&vec![b'x'; 2_000_000]).unwrap();
        assert!(path.metadata().unwrap().len() > 2_000_000, "it is left alone");
    }
}
