//! The whole path against the machine's real apt sources, without gtvpd: the two source processes are plain children here.
//! They run the same program with the same sockets as in their jails.

use std::any::Any;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use gtvp_ipc::security::{AppraiseComponent, Signature};
use gtvp_model::boxview::Appraisal;
use gtvp_model::component::{EntryKind, RootPath};
use gtvp_model::digest::Digest;
use gtvp_model::fault::{Fault, FaultKind};

use crate::compose::{Composer, SourcesState};
use crate::import::Importer;
use crate::layers;
use crate::security::Security;
use crate::sources::{Launcher, Sources};
use crate::stage::Stage;
use crate::store::{Record, Store};

/// A folder of this test, gone when it ends.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("gtvp-components-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Signs everything, and says what it was asked.
pub struct Trusting;

impl Security for Trusting {
    fn sign(&self, digest: Digest) -> Result<Signature, Fault> {
        Ok(Signature { algorithm: "none".into(), key: digest, value: String::new() })
    }
    fn appraise(&self, component: AppraiseComponent) -> Result<Appraisal, Fault> {
        Ok(Appraisal { checked: component.checked_before, not_checked: Vec::new() })
    }
}

/// Starts the two processes as children.
struct Plain(PathBuf);

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Launcher for Plain {
    fn start(
        &self,
        template: &str,
        fds: Vec<(&'static str, UnixStream)>,
    ) -> Result<Box<dyn Any + Send + Sync>, Fault> {
        let mode = if template == "apt" { "apt" } else { "fetch" };
        let folder = self.0.join(mode);
        fs::create_dir_all(&folder).unwrap();
        for (_, fd) in &fds {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).unwrap();
        }
        let numbers: Vec<String> = fds.iter().map(|(_, fd)| fd.as_raw_fd().to_string()).collect();
        let child = Command::new(fetcher()).arg(mode).arg(folder).args(numbers).spawn().unwrap();
        Ok(Box::new(Ended(child)))
    }
}

/// The fetcher beside this test's own program; built here when it is missing.
fn fetcher() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().and_then(Path::parent).unwrap().join("gtvp-fetcher");
    static BUILT: std::sync::Once = std::sync::Once::new();
    BUILT.call_once(|| {
        let profile = if path.parent().unwrap().ends_with("release") { "release" } else { "dev" };
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "gtvp-fetcher", "--profile", profile])
            .status()
            .unwrap();
        assert!(built.success() && path.exists());
    });
    path
}

struct Member {
    composer: Composer,
    folder: Folder,
}

fn member(contents: &[&str]) -> Member {
    let folder = Folder::new();
    let store = Arc::new(Store::open(&folder.0.join("store")).unwrap());
    let importer = Arc::new(Importer::new(store, Box::new(Trusting)));
    let contents: Vec<String> = contents.iter().map(|c| (*c).to_owned()).collect();
    let sources = Arc::new(Sources::new(Box::new(Plain(folder.0.clone())), contents.clone()));
    let remembered = SourcesState { contents, ..SourcesState::default() };
    Member { composer: Composer::new(folder.0.clone(), importer, sources, remembered), folder }
}

#[test]
fn a_real_package_is_found_checked_and_imported() {
    let m = member(&[]);
    let quiet = &mut |_| ControlFlow::Continue(());
    let package = m.composer.find(&"hostname".parse().unwrap(), quiet, &|w| eprintln!("{w}")).unwrap();
    let sources = || m.composer.sources.session();
    let imported = m.composer.importer.package(&package, &sources, quiet_bytes()).unwrap();
    assert_eq!(imported.fetched, package.size);
    let store = &m.composer.importer.store;
    let manifest = store.manifest(&imported.record.manifest).unwrap();
    let entry =
        manifest.entries.iter().find(|e| e.path == RootPath::new(b"usr/bin/hostname").unwrap()).unwrap();
    let EntryKind::File { digest, size, .. } = &entry.kind else { panic!("{entry:?}") };
    let mut bytes = Vec::new();
    store.open_checked(digest).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, *size);
    assert!(bytes.starts_with(b"\x7fELF"));
    // A second import fetches nothing.
    assert_eq!(m.composer.importer.package(&package, &sources, quiet_bytes()).unwrap().fetched, 0);
    // A source that lies about a package is found out, and leaves nothing.
    let mut lied = package.clone();
    lied.source = Digest::of(b"another package");
    let fault = m.composer.importer.package(&lied, &sources, quiet_bytes()).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Integrity, "{fault}");
    assert!(store.record(&lied.source).is_none());
    // A name that does not exist has near ones.
    let fault = m.composer.find(&"hostnme".parse().unwrap(), quiet, &|_| ()).unwrap_err();
    assert_eq!(fault.kind, FaultKind::NotFound);
    assert!(fault.hint.as_deref().is_some_and(|h| h.contains("hostname")), "{fault:?}");
}

fn quiet_bytes() -> &'static mut dyn FnMut(u64) -> ControlFlow<()> {
    Box::leak(Box::new(|_| ControlFlow::Continue(())))
}

#[test]
fn needs_become_a_composition_that_is_the_same_every_time() {
    let m = member(&["amd64"]);
    let begun = std::time::Instant::now();
    let mut on = |p: gtvp_model::operation::Progress| {
        eprintln!("{:7} ms {} {} {}/{}", begun.elapsed().as_millis(), p.phase, p.message, p.done, p.total);
        ControlFlow::Continue(())
    };
    let need = std::env::var("GTVP_TEST_NEEDS").unwrap_or_else(|_| "nginx".into());
    let needs: Vec<_> = need.split(',').map(|n| n.parse().unwrap()).collect();
    let first = m.composer.compose(&needs, &mut on, &|w| eprintln!("{w}")).unwrap();
    eprintln!(
        "{} packages, {} bytes, {} fetched, {} with scripts",
        first.composition.items.len(),
        first.composition.closure_bytes(),
        first.fetched_bytes,
        first.scripts
    );
    let again = m.composer.compose(&needs, &mut on, &|w| eprintln!("{w}")).unwrap();
    assert_eq!((again.digest, again.fetched_bytes), (first.digest, 0));
    let closure = m.composer.closure(&first.digest).unwrap();
    let store = &m.composer.importer.store;
    let lacking: BTreeMap<&str, u64> = closure
        .packages
        .iter()
        .filter(|p| store.record(&p.source).is_none())
        .map(|p| (p.name.as_str(), p.size))
        .collect();
    eprintln!("not imported: {lacking:?}");
    let catalogue = m.composer.catalogue(&first.digest).unwrap();
    let who = |p: &str| {
        catalogue
            .providers(&RootPath::new(p.as_bytes()).unwrap())
            .into_iter()
            .map(|n| closure.packages[n as usize].name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(who("usr/bin/dash"), ["dash"]);
    assert_eq!(who("usr/lib/x86_64-linux-gnu/libc.so.6"), ["libc6"]);
    assert!(who("usr/bin/nothing-has-this").is_empty());
    let kernel = store.record(&closure.kernel.source).unwrap();
    let init = m.folder.0.join("init");
    fs::write(&init, b"init").unwrap();
    let t = std::time::Instant::now();
    let (mut kernel, _initramfs, _parts) = crate::boot::open(&m.composer.importer, &kernel, &init).unwrap();
    let mut magic = [0; 4];
    kernel.read_exact(&mut magic).unwrap();
    eprintln!("kernel {:?} {} bytes in {:?}", magic, kernel.metadata().unwrap().len(), t.elapsed());
    assert_eq!(&magic, b"\x7fELF");
    if let Ok(keep) = std::env::var("GTVP_TEST_KEEP") {
        fs::rename(&m.folder.0, keep).unwrap();
    }
}

/// Puts a component's paths into a folder of the host, over what is there. Only tests unpack.
fn unpack(store: &Store, manifest: &Digest, to: &Path) {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
    for entry in store.manifest(manifest).unwrap().entries {
        let at = to.join(std::ffi::OsStr::from_bytes(entry.path.as_bytes()));
        match &entry.kind {
            // What is there is from higher up. It may be a link into the host (/var/lock), which is not followed.
            _ if fs::symlink_metadata(&at).is_ok() => continue,
            EntryKind::Dir { .. } => fs::create_dir_all(&at).unwrap(),
            EntryKind::File { digest, .. } => {
                fs::create_dir_all(at.parent().unwrap()).unwrap();
                let mut from = store.open_object(digest).unwrap();
                std::io::copy(&mut from, &mut fs::File::create(&at).unwrap()).unwrap();
            }
            EntryKind::Symlink { target } => {
                fs::create_dir_all(at.parent().unwrap()).unwrap();
                symlink(target, &at).unwrap();
            }
            EntryKind::Fifo | EntryKind::Whiteout => continue,
        }
        if let EntryKind::Symlink { .. } = entry.kind {
            lchown(&at, Some(entry.uid), Some(entry.gid)).unwrap();
        } else {
            chown(&at, Some(entry.uid), Some(entry.gid)).unwrap();
            fs::set_permissions(&at, fs::Permissions::from_mode(entry.mode)).unwrap();
            // Compiled Python names its source's time.
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(entry.mtime.unsigned_abs());
            fs::File::open(&at).unwrap().set_modified(time).unwrap();
        }
    }
}

/// What a builder box does, in a namespace of this machine: needs root and overlayfs. `layers` from the highest on; the
/// derived component is filed under `inputs`.
fn run_scripts(m: &Member, layers: &[Digest], inputs: &Digest) -> Arc<Record> {
    let store = &m.composer.importer.store;
    let work = Folder::new();
    let lower = work.0.join("lower");
    fs::create_dir_all(lower.join("usr/bin")).unwrap();
    for (alias, target) in
        [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")]
    {
        std::os::unix::fs::symlink(target, lower.join(alias)).unwrap();
    }
    for source in layers {
        unpack(store, &store.record(source).unwrap().manifest, &lower);
    }
    for dir in ["upper", "work", "root"] {
        fs::create_dir_all(work.0.join(dir)).unwrap();
    }
    let script = format!(
        "mount -t overlay overlay -o lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work {0}/root && mount -t proc proc {0}/root/proc \
         && mount -t tmpfs tmp {0}/root/dev && mknod -m 666 {0}/root/dev/null c 1 3 && mount -t tmpfs tmp {0}/root/tmp && mount -t tmpfs tmp {0}/root/run \
         && exec chroot {0}/root /bin/sh /{1}",
        work.0.display(),
        crate::configure::SCRIPT
    );
    let t = std::time::Instant::now();
    let status = Command::new("unshare")
        .args(["-m", "-n", "-p", "-f", "sh", "-c", &script])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .status()
        .unwrap();
    eprintln!("scripts ran in {:?}", t.elapsed());
    assert!(status.success(), "{status}");
    let tar = Command::new("tar")
        .arg("-C")
        .arg(work.0.join("upper"))
        .args(["--xattrs", "--xattrs-include=*", "-cf", "-", "."])
        .output()
        .unwrap();
    crate::configure::derive(&m.composer.importer, inputs, tar.stdout.as_slice()).unwrap()
}

/// What a component has, for people who compare: without its times.
fn contents(store: &Store, manifest: &Digest) -> BTreeMap<String, String> {
    let text = |e: &gtvp_model::component::Entry| format!("{:o} {}:{} {:?}", e.mode, e.uid, e.gid, e.kind);
    store.manifest(manifest).unwrap().entries.iter().map(|e| (e.path.to_string(), text(e))).collect()
}

#[test]
fn scripts_run_in_two_stages_leave_what_one_run_leaves() {
    let m = member(&["amd64"]);
    let mut on = |_| ControlFlow::Continue(());
    let need = std::env::var("GTVP_TEST_NEEDS").unwrap_or_else(|_| "nginx".into());
    let needs: Vec<_> = need.split(',').map(|n| n.parse().unwrap()).collect();
    let store = m.composer.importer.store.clone();
    let session = m.composer.sources.session().unwrap();
    let mut stages = Vec::new();
    let closure = loop {
        let composed = m.composer.compose(&needs, &mut on, &|_| ()).unwrap();
        let closure = m.composer.closure(&composed.digest).unwrap();
        let Some(configure) = composed.configure else { break closure };
        eprintln!("{} scripts: {:?}", configure.packages.len(), configure.packages);
        m.composer.import_all(&closure.packages, &session, &mut on).unwrap();
        let mut layers = vec![closure.builder.unwrap(), closure.dpkg.unwrap()];
        layers.extend(closure.beneath);
        layers.extend(closure.packages.iter().map(|p| p.source));
        layers.push(closure.base.unwrap());
        stages.push(run_scripts(&m, &layers, &closure.inputs.unwrap()));
    };
    assert_eq!(stages.len(), 2, "the base, then the rest");
    let mut both = contents(&store, &stages[0].manifest);
    both.extend(contents(&store, &stages[1].manifest));
    let once = layers::builder(&m.composer.importer, &closure, &Stage::default()).unwrap();
    let mut all = vec![once, closure.dpkg.unwrap()];
    all.extend(closure.packages.iter().map(|p| p.source));
    all.push(closure.base.unwrap());
    let record = run_scripts(&m, &all, &Digest::of(b"in one go"));
    let one = contents(&store, &record.manifest);
    let mut different = Vec::new();
    // What is random by its nature, such as a key and its certificate, is left out.
    let is_random =
        |path: &str| path.starts_with("etc/ssl/") || record.shared.iter().any(|s| s[1..] == *path);
    for path in both.keys().chain(one.keys()).collect::<std::collections::BTreeSet<_>>() {
        if both.get(path) != one.get(path) && !is_random(path) {
            different.push(format!(
                "{path}:\n   two stages {:?}\n   one        {:?}",
                both.get(path),
                one.get(path)
            ));
        }
    }
    assert!(one.contains_key("etc/passwd"));
    assert!(different.is_empty(), "{}", different.join("\n"));
}
