//! The jailed apt: a private root in one folder, Debian's own programs, no network.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gtvp_ipc::Nothing;
use gtvp_ipc::fetcher::apt::{Program, Ran, Request};
use gtvp_ipc::wire;
use gtvp_model::fault::{Fault, FaultKind};

use crate::{channel, relay};

/// Debian's own acquire methods.
const METHODS: &str = "/usr/lib/apt/methods";
/// Most arguments of one run: `apt-cache show` of a closure names each package.
const MAX_ARGS: usize = 16 * 1024;
/// Bytes that must fit on the disk after a run; apt's caches are larger.
const LEAST_ROOM: usize = 1024 * 1024;

/// Answers until `components` goes. `folder` is the private root, `program` this program's own path.
pub fn serve(program: &str, folder: &Path, control: UnixStream, relays: UnixStream) -> io::Result<()> {
    prepare(program, folder)?;
    let socket = folder.join(relay::SOCKET);
    remove(&socket)?;
    let listener = UnixListener::bind(&socket)?;
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            if wire::send(&relays, b"{}", &[stream.as_fd()]).is_err() {
                return;
            }
        }
    });
    let folder = folder.to_owned();
    channel::serve_all(&control, move |stream| answer_all(&stream, &folder));
    Ok(())
}

fn answer_all(stream: &UnixStream, folder: &Path) {
    while let Some((request, _)) = channel::next::<Request>(stream) {
        let gone = match request {
            Request::Setup(p) => {
                let done = fs::write(config(folder), configuration(folder, &p.contents));
                channel::answer(
                    stream,
                    done.map(|()| (Nothing {}, vec![])).map_err(|e| failed("apt cannot be set up", &e)),
                )
            }
            Request::Run(p) => channel::answer(
                stream,
                run(folder, p.program, &p.args).map_err(|e| failed("apt cannot be run", &e)),
            ),
            Request::ReadIndex(p) => channel::answer(stream, read_index(folder, &p.path)),
        };
        if gone.is_none() {
            return;
        }
    }
}

fn failed(what: &str, e: &io::Error) -> Fault {
    if e.kind() != io::ErrorKind::StorageFull {
        return Fault::internal(what, e);
    }
    Fault::new(FaultKind::NoRoom, "the disk with the member's package lists is full")
        .caused_by(e)
        .hint("make room on the file system that holds the member's state")
}

fn config(folder: &Path) -> PathBuf {
    folder.join("apt.conf")
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Folders, an empty dpkg status, and the methods: apt's own where no network is needed, this program where one is.
fn prepare(program: &str, folder: &Path) -> io::Result<()> {
    for sub in ["lists/partial", "archives/partial", "methods", "tmp"] {
        fs::create_dir_all(folder.join(sub))?;
    }
    fs::write(folder.join("status"), "")?;
    for entry in fs::read_dir(folder)?.flatten() {
        // What an apt that was ended half-way left of a cache that it was making.
        if entry.file_name().to_string_lossy().contains("pkgcache.bin.") {
            remove(&entry.path())?;
        }
    }
    let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from(program));
    for entry in fs::read_dir(METHODS)? {
        let name = entry?.file_name();
        let (link, text) = (folder.join("methods").join(&name), name.to_string_lossy());
        remove(&link)?;
        if relay::METHODS.contains(&text.as_ref()) {
            symlink(&own, &link)?;
        } else {
            symlink(Path::new(METHODS).join(&name), &link)?;
        }
    }
    Ok(())
}

/// apt's configuration: read after the host's own, so that the host's proxies and sources count and its hooks don't.
fn configuration(folder: &Path, contents: &[String]) -> String {
    let folder = folder.display();
    let mut text = format!(
        r##"Dir "/";
Dir::State "{folder}";
Dir::State::status "{folder}/status";
Dir::State::lists "lists/";
Dir::Cache "{folder}";
Dir::Cache::archives "archives/";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
Dir::Log "{folder}";
Dir::Bin::methods "{folder}/methods";
APT::Architecture "amd64";
#clear APT::Architectures;
APT::Architectures "amd64";
APT::Sandbox::User "";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
#clear AptCli::Hooks;
#clear Acquire::Languages;
Acquire::Languages "none";
Acquire::GzipIndexes "true";
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::DEP-11-icons-small;
#clear Acquire::IndexTargets::deb::DEP-11-icons;
#clear Acquire::IndexTargets::deb::DEP-11-icons-hidpi;
#clear Acquire::IndexTargets::deb::DEP-11-icons-large;
#clear Acquire::IndexTargets::deb::DEP-11-icons-large-hidpi;
#clear Acquire::IndexTargets::deb::CNF;
#clear Acquire::IndexTargets::deb::Contents-deb;
"##
    );
    for arch in contents.iter().filter(|a| matches!(a.as_str(), "amd64" | "all")) {
        text.push_str(&format!(
            r#"Acquire::IndexTargets::deb::Contents-gtvp-{arch} {{
  MetaKey "$(COMPONENT)/Contents-{arch}";
  ShortDescription "Contents-{arch}";
  Description "$(RELEASE)/$(COMPONENT) {arch} Contents";
  KeepCompressed "true";
  KeepCompressedAs "gz";
  PDiffs "false";
  Optional "true";
}};
"#
        ));
    }
    text
}

fn run(folder: &Path, program: Program, args: &[String]) -> io::Result<(Ran, Vec<std::os::fd::OwnedFd>)> {
    if args.len() > MAX_ARGS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many arguments"));
    }
    let name = match program {
        Program::AptGet => "apt-get",
        Program::AptCache => "apt-cache",
        Program::AptConfig => "apt-config",
    };
    let (out, err) = (scratch(folder)?, scratch(folder)?);
    let status = Command::new(Path::new("/usr/bin").join(name))
        .arg("-c")
        .arg(config(folder))
        .args(args)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", folder)
        .env("TMPDIR", folder.join("tmp"))
        .env("DEBIAN_FRONTEND", "noninteractive")
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(err.try_clone()?)
        .status()?;
    // On a full disk apt's own words are lost too, and what is left of them says something else.
    if !status.success() || args.iter().any(|a| a == "update") {
        room(&mut scratch(folder)?)?;
    }
    Ok((Ran { code: status.code() }, vec![out.into(), err.into()]))
}

/// Whether so much can be written as apt at least needs.
fn room(file: &mut File) -> io::Result<()> {
    let block = [0; 64 * 1024];
    (0..LEAST_ROOM / block.len()).try_for_each(|_| file.write_all(&block))
}

/// A file without a name.
fn scratch(folder: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let n = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = folder.join("tmp").join(format!("out-{}-{n}", std::process::id()));
    let fd = rustix::fs::open(
        &path,
        OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o600),
    )?;
    fs::remove_file(&path)?;
    Ok(fd.into())
}

fn read_index(folder: &Path, path: &str) -> Result<(Nothing, Vec<std::os::fd::OwnedFd>), Fault> {
    let lists = folder.join("lists");
    let path = Path::new(path);
    if path.parent() != Some(&lists) {
        return Err(Fault::new(FaultKind::Denied, "that is not an index of apt's"));
    }
    let file = File::open(path).map_err(|e| Fault::internal("an index cannot be read", &e))?;
    Ok((Nothing {}, vec![file.into()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_called_one() {
        let mut full = File::options().write(true).open("/dev/full").unwrap();
        let fault = failed("apt cannot be run", &room(&mut full).unwrap_err());
        assert_eq!(fault.kind, FaultKind::NoRoom);
    }

    #[test]
    fn half_made_caches_are_removed_and_whole_ones_kept() {
        let dir = std::env::temp_dir().join(format!("gtvp-apt-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for name in ["pkgcache.bin", "pkgcache.bin.lz6vNZ", "srcpkgcache.bin.x"] {
            fs::write(dir.join(name), "").unwrap();
        }
        prepare("gtvp-fetcher", &dir).unwrap();
        assert!(dir.join("pkgcache.bin").exists());
        assert!(!dir.join("pkgcache.bin.lz6vNZ").exists() && !dir.join("srcpkgcache.bin.x").exists());
        fs::remove_dir_all(&dir).unwrap();
    }
}
