//! What a test machine is made of, fetched once with the machine's own apt and kept in the target folder.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub struct Parts {
    pub kernel: PathBuf,
    modules: PathBuf,
    busybox: PathBuf,
    pub virtiofsd: PathBuf,
}

/// The parts; fetches them the first time.
pub fn get() -> &'static Parts {
    static PARTS: OnceLock<Parts> = OnceLock::new();
    PARTS.get_or_init(|| {
        let package =
            std::env::var_os("GTVP_TEST_KERNEL").map_or_else(|| fetch(&newest_kernel()), PathBuf::from);
        let busybox = fetch("busybox-static");
        Parts {
            kernel: find(&package, &|name| name.starts_with("vmlinuz-")).expect("a kernel in its package"),
            modules: find(&package, &|name| name == "modules.builtin").unwrap().parent().unwrap().into(),
            busybox: find(&busybox, &|name| name == "busybox").expect("busybox in its package"),
            virtiofsd: virtiofsd(),
        }
    })
}

impl Parts {
    /// An initramfs as guest-init's README asks for.
    pub fn initramfs(&self, init: &Path) -> Vec<u8> {
        let readme = include_str!("../../README.md");
        let mut cpio = Cpio::default();
        cpio.add("init", 0o100755, &fs::read(init).unwrap());
        cpio.add("modules", 0o040755, b"");
        for (in_readme, name) in [("modules", "order"), ("late", "late")] {
            let list =
                readme.split(&format!("```{in_readme}\n")).nth(1).unwrap().split("```").next().unwrap();
            let mut order = String::new();
            for name in list.lines() {
                let plain = format!("{name}.ko");
                let Some(file) = find(&self.modules, &|n| n == plain || n == format!("{plain}.xz")) else {
                    continue;
                };
                let bytes = if file.extension().is_some_and(|e| e == "xz") {
                    run(Command::new("xz").arg("-dc").arg(&file))
                } else {
                    fs::read(&file).unwrap()
                };
                cpio.add(&format!("modules/{plain}"), 0o100644, &bytes);
                order.push_str(&format!("{plain}\n"));
            }
            cpio.add(&format!("modules/{name}"), 0o100644, order.as_bytes());
        }
        cpio.end()
    }

    /// A small root: busybox under every name it has, a few users, a script whose interpreter is missing.
    pub fn root(&self, at: &Path) -> PathBuf {
        for dir in ["bin", "etc", "usr/bin", "var/www", "opt/old"] {
            fs::create_dir_all(at.join(dir)).unwrap();
        }
        fs::copy(&self.busybox, at.join("bin/busybox")).unwrap();
        let names = String::from_utf8(run(Command::new(&self.busybox).arg("--list"))).unwrap();
        for name in names.lines().filter(|n| *n != "busybox") {
            symlink("busybox", at.join("bin").join(name)).unwrap();
        }
        let write = |path: &str, text: &str, mode: u32| {
            fs::write(at.join(path), text).unwrap();
            fs::set_permissions(at.join(path), fs::Permissions::from_mode(mode)).unwrap();
        };
        write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/var/www:/bin/sh\n", 0o644);
        write("etc/group", "root:x:0:\nwww:x:33:\nadm:x:4:www\n", 0o644);
        symlink("/run/resolver/resolv.conf", at.join("etc/resolv.conf")).unwrap();
        write("usr/bin/scripted", "#!/usr/bin/perl5\n", 0o755);
        write("opt/old/a", "a\n", 0o644);
        write("opt/old/b", "b\n", 0o644);
        at.into()
    }

    /// Options of the server that is there: QEMU's old one and the one in Rust differ.
    pub fn virtiofsd_options(&self) -> &'static [&'static str] {
        &["-o", "xattr"]
    }
}

/// The newest kernel package that apt knows of.
fn newest_kernel() -> String {
    let show =
        String::from_utf8(run(Command::new("apt-cache").args(["show", "linux-image-cloud-amd64"]))).unwrap();
    let depends =
        show.lines().find_map(|l| l.strip_prefix("Depends: ")).expect("a cloud kernel in apt's lists");
    depends.split([' ', ',']).next().unwrap().to_string()
}

/// A stock virtio-fs server: installed, or of a package that has one.
fn virtiofsd() -> PathBuf {
    for installed in ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"] {
        if Path::new(installed).exists() {
            return installed.into();
        }
    }
    let is_there = |package: &str| !run(Command::new("apt-cache").args(["madison", package])).is_empty();
    let package = if is_there("virtiofsd") {
        "virtiofsd".to_string()
    } else {
        // Debian 12: QEMU 7.2 brought its own.
        let versions = run(Command::new("apt-cache").args(["madison", "qemu-system-common"]));
        let versions = String::from_utf8(versions).unwrap();
        let version = versions.lines().filter_map(|l| l.split('|').nth(1)).map(str::trim);
        let old = version.into_iter().find(|v| v.starts_with("1:7.2")).expect("a package with virtiofsd");
        format!("qemu-system-common={old}")
    };
    find(&fetch(&package), &|name| name == "virtiofsd").expect("virtiofsd in its package")
}

/// Downloads and extracts a package, once.
fn fetch(package: &str) -> PathBuf {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
    let at = cache.join(package.replace(['=', ':', '/'], "_"));
    if at.exists() {
        return at;
    }
    let download = cache.join(format!("download-{}", std::process::id()));
    fs::create_dir_all(&download).unwrap();
    run(Command::new("apt-get").args(["download", "-q", package]).current_dir(&download));
    let deb = find(&download, &|name| name.ends_with(".deb")).expect("a package");
    run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(download.join("x")));
    // Whole or not at all: another test may look for it now.
    let _ = fs::rename(download.join("x"), &at);
    fs::remove_dir_all(&download).unwrap();
    at
}

fn run(command: &mut Command) -> Vec<u8> {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

fn find(dir: &Path, wanted: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(dir).ok()?.flatten().map(|e| e.path()).collect();
    entries.sort();
    let name = |p: &Path| p.file_name().is_some_and(|n| wanted(&n.to_string_lossy()));
    let here = entries.iter().find(|p| p.is_file() && name(p)).cloned();
    here.or_else(|| entries.iter().filter(|p| p.is_dir() && !p.is_symlink()).find_map(|d| find(d, wanted)))
}

/// An archive in the format that the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    fn add(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.entries += 1;
        let fields =
            [self.entries, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        fields.iter().for_each(|f| self.bytes.extend_from_slice(format!("{f:08x}").as_bytes()));
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, b"");
        self.bytes
    }
}
