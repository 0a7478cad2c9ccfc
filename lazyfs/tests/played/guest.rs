//! A real guest: QEMU under TCG with Debian's cloud kernel, and an initramfs of one static busybox that does what the test says on
//! its console.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::supervisor::hand_over;

/// Longest that the guest may take for one thing.
const PATIENCE: Duration = Duration::from_secs(120);

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs tmp /tmp
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo -onlcr
mount -t virtiofs -o ro gtvp-root /mnt
echo "@@ $?"
while read -r line; do eval "$line"; echo "@@ $?"; done
"#;

/// A file of Debian's, taken from the machine, or from its archive into the build's own folder.
fn debian_file(
    package: &str,
    variable: &str,
    installed: &[PathBuf],
    inside: impl Fn(&Path) -> Option<PathBuf>,
) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    if let Some(path) = installed.iter().find(|p| p.exists()) {
        return path.clone();
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(package);
    if let Some(found) = inside(&folder) {
        return found;
    }
    let help = format!(
        "this test needs a file of Debian's package {package}: install it, or say where the file is with {variable}"
    );
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{package}.{}", std::process::id()));
    fs::create_dir_all(&scratch).unwrap();
    let run = |c: &mut Command| assert!(c.status().is_ok_and(|s| s.success()), "{help}");
    run(Command::new("apt-get")
        .args(["-qq", "download", package])
        .current_dir(&scratch)
        .stderr(Stdio::null()));
    let deb = fs::read_dir(&scratch)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "deb"));
    run(Command::new("dpkg-deb").arg("-x").arg(deb.expect(&help)).arg(&scratch));
    if fs::rename(&scratch, &folder).is_err() {
        // Another test was faster.
        let _ = fs::remove_dir_all(&scratch);
    }
    inside(&folder).expect(&help)
}

fn kernels(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).into_iter().flatten().map(|e| e.unwrap().path());
    files
        .filter(|p| {
            p.file_name().is_some_and(|n| {
                n.to_string_lossy().starts_with("vmlinuz-") && n.to_string_lossy().contains("cloud")
            })
        })
        .collect()
}

/// One that has virtio-fs built in: Debian's since 6.12.
fn kernel() -> PathBuf {
    let dependency = |meta: &str| {
        let out = Command::new("apt-cache").args(["depends", meta]).output().ok()?;
        let out = String::from_utf8_lossy(&out.stdout).into_owned();
        out.lines().find_map(|l| l.trim().strip_prefix("Depends: ")).map(str::to_owned)
    };
    let package =
        ["linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64"].into_iter().find_map(dependency);
    let package = package.unwrap_or_else(|| "linux-image-cloud-amd64".into());
    debian_file(&package, "GTVP_TEST_KERNEL", &[], |f| kernels(&f.join("boot")).pop())
}

fn busybox() -> PathBuf {
    debian_file("busybox-static", "GTVP_TEST_BUSYBOX", &[], |f| {
        ["bin/busybox", "usr/bin/busybox"].iter().map(|p| f.join(p)).find(|p| p.exists())
    })
}

/// An archive in the form that the kernel unpacks (cpio newc).
fn initramfs() -> Vec<u8> {
    let mut out = Vec::new();
    let mut number = 0;
    let mut add = |name: &str, mode: u32, device: (u32, u32), content: &[u8]| {
        number += 1;
        let words = [
            number,
            mode,
            0,
            0,
            1,
            0,
            content.len() as u32,
            0,
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0,
        ];
        out.extend(b"070701");
        words.iter().for_each(|w| out.extend(format!("{w:08x}").into_bytes()));
        out.extend(name.as_bytes());
        out.push(0);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(content);
        out.resize(out.len().next_multiple_of(4), 0);
    };
    for dir in ["bin", "dev", "proc", "sys", "tmp", "mnt"] {
        add(dir, 0o040_755, (0, 0), b"");
    }
    add("dev/console", 0o020_600, (5, 1), b"");
    add("bin/busybox", 0o100_755, (0, 0), &fs::read(busybox()).unwrap());
    add("init", 0o100_755, (0, 0), INIT.as_bytes());
    add("TRAILER!!!", 0, (0, 0), b"");
    out
}

/// The guest.
pub struct Guest {
    qemu: Child,
    console: UnixStream,
    qmp: UnixStream,
    heard: Vec<u8>,
}

impl Guest {
    /// Boots it with its root behind `vhost`, and waits until it is mounted.
    pub fn boot(folder: &Path, vhost: OwnedFd) -> Self {
        let initrd = folder.join("initrd");
        fs::write(&initrd, initramfs()).unwrap();
        let (console, console_of_qemu) = UnixStream::pair().unwrap();
        let (qmp, qmp_of_qemu) = UnixStream::pair().unwrap();
        let (console_of_qemu, qmp_of_qemu) = (OwnedFd::from(console_of_qemu), OwnedFd::from(qmp_of_qemu));
        let mut c = Command::new("qemu-system-x86_64");
        c.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        c.args([
            "-machine",
            "q35,accel=tcg,memory-backend=ram,usb=off,vmport=off,smbus=off,hpet=off,graphics=off,sata=off",
        ]);
        c.args([
            "-cpu",
            "max,la57=off",
            "-m",
            "256M",
            "-object",
            "memory-backend-memfd,id=ram,size=256M,share=on",
        ]);
        c.arg("-kernel").arg(kernel()).arg("-initrd").arg(&initrd);
        c.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off cryptomgr.notests=1 8250.nr_uarts=1 no_timer_check tsc=reliable random.trust_cpu=on audit=0 loglevel=1"]);
        c.arg("-chardev").arg(format!("socket,id=root,fd={}", vhost.as_raw_fd()));
        c.args(["-device", "vhost-user-fs-pci,chardev=root,tag=gtvp-root,queue-size=256"]);
        c.arg("-chardev").arg(format!("socket,id=console,fd={}", console_of_qemu.as_raw_fd()));
        c.args(["-serial", "chardev:console"]);
        c.arg("-chardev").arg(format!("socket,id=qmp,fd={}", qmp_of_qemu.as_raw_fd()));
        c.args(["-mon", "chardev=qmp,mode=control"]);
        hand_over(&mut c, &[&vhost, &console_of_qemu, &qmp_of_qemu]);
        let qemu = c
            .stdin(Stdio::null())
            .spawn()
            .expect("this test needs qemu-system-x86_64 (Debian: qemu-system-x86)");
        console.set_read_timeout(Some(PATIENCE)).unwrap();
        qmp.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut this = Self { qemu, console, qmp, heard: Vec::new() };
        this.qmp(r#"{"execute":"qmp_capabilities"}"#);
        let (status, said) = this.answer();
        assert_eq!(status, 0, "the root was not mounted: {said}");
        this
    }

    /// Has the guest's shell do `command`. Gives its exit status and what it said.
    pub fn run(&mut self, command: &str) -> (i32, String) {
        self.tell(command);
        self.answer()
    }

    /// Has the shell do `command`, which must succeed. Gives what it said.
    pub fn ok(&mut self, command: &str) -> String {
        let (status, said) = self.run(command);
        assert_eq!(status, 0, "{command}: {said}");
        said
    }

    pub fn tell(&mut self, command: &str) {
        assert!(!command.contains('\n'));
        self.console.write_all(format!("{command}\n").as_bytes()).unwrap();
    }

    /// Waits for the end of what the shell does.
    pub fn answer(&mut self) -> (i32, String) {
        let begun = Instant::now();
        loop {
            let text = String::from_utf8_lossy(&self.heard).replace('\r', "");
            if let Some((said, rest)) = text.split_once("@@ ") {
                if let Some((status, _)) = rest.split_once('\n') {
                    let result = (status.trim().parse().unwrap(), said.to_owned());
                    self.heard.clear();
                    return result;
                }
            }
            let mut chunk = [0; 65536];
            let n = self.console.read(&mut chunk).unwrap_or(0);
            assert!(n > 0 && begun.elapsed() < PATIENCE, "the guest does not answer; it said: {text}");
            self.heard.extend_from_slice(&chunk[..n]);
        }
    }

    /// One QMP command; waits for its result.
    pub fn qmp(&mut self, command: &str) {
        self.qmp.write_all(command.as_bytes()).unwrap();
        let mut heard = Vec::new();
        while !String::from_utf8_lossy(&heard).contains("\"return\"") {
            let mut chunk = [0; 4096];
            let n = self.qmp.read(&mut chunk).unwrap();
            assert!(n > 0, "QMP ended: {}", String::from_utf8_lossy(&heard));
            heard.extend_from_slice(&chunk[..n]);
        }
    }

    pub fn quit(mut self) {
        self.qmp.write_all(br#"{"execute":"quit"}"#).unwrap();
        self.qemu.wait().unwrap();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
