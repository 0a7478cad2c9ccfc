//! A machine for the tests: kernel, initramfs with the guest-init under test, a root of busybox by a stock virtio-fs
//! server, and the host's side of the port. Everything it starts ends with it.

mod host;
mod parts;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub use host::{Event, Host, config, program};

/// An emulated machine on a busy computer.
pub const LIMIT: Duration = Duration::from_secs(120);

/// What a machine has.
pub struct Options {
    /// Whether there is a file system for the root.
    pub root: bool,
    /// Whether there is a disk for the writable layer.
    pub disk: bool,
    /// Added to the kernel's arguments.
    pub append: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self { root: true, disk: false, append: "" }
    }
}

/// MAC address of the machine's interface.
pub const MAC: &str = "52:54:00:12:34:56";

pub struct Machine {
    dir: PathBuf,
    qemu: Child,
    virtiofsd: Option<Child>,
}

impl Machine {
    /// Boots one. `name` is the test's.
    pub fn boot(name: &str, options: Options) -> Self {
        let parts = parts::get();
        let dir = std::env::temp_dir().join(format!("gtvp-boot-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let initrd = dir.join("initrd");
        fs::write(&initrd, parts.initramfs(Path::new(env!("CARGO_BIN_EXE_gtvp-guest-init")))).unwrap();
        let append = format!("console=ttyS0 panic=-1 quiet {}", options.append);
        let agent = dir.join("agent");
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine"])
            .arg("q35,accel=tcg,memory-backend=ram,usb=off,hpet=off,graphics=off,sata=off")
            .args(["-cpu", "max,la57=off", "-m", "256M"])
            .args(["-object", "memory-backend-memfd,id=ram,size=256M,share=on"])
            .args(["-append", &append, "-initrd"])
            .arg(&initrd)
            .arg("-kernel")
            .arg(&parts.kernel)
            .args(["-serial", &format!("file:{}", dir.join("console").display())])
            .args(["-device", "virtio-serial-pci,id=serial0,max_ports=2"])
            .args(["-chardev", &format!("socket,id=agent,path={},server=on,wait=off", agent.display())])
            .args(["-device", "virtserialport,bus=serial0.0,chardev=agent,name=org.gtvp.agent.1,nr=1"])
            .args(["-device", "virtio-rng-pci", "-device", "virtio-balloon-pci,deflate-on-oom=on"])
            .args(["-netdev", "user,id=net0,restrict=on", "-device"])
            .arg(format!("virtio-net-pci,netdev=net0,mac={MAC}"));
        let virtiofsd = options.root.then(|| {
            let root = parts.root(&dir.join("root"));
            let socket = dir.join("virtiofs");
            qemu.args(["-chardev", &format!("socket,id=root,path={}", socket.display())])
                .args(["-device", "vhost-user-fs-pci,chardev=root,tag=gtvp-root"]);
            let server = Command::new(&parts.virtiofsd)
                .arg(format!("--socket-path={}", socket.display()))
                .args(["-o", &format!("source={}", root.display()), "-o", "cache=auto"])
                .args(parts.virtiofsd_options())
                .stderr(File::create(dir.join("virtiofsd.log")).unwrap())
                .spawn()
                .unwrap();
            wait_until("the virtio-fs server listens", || socket.exists());
            server
        });
        if options.disk {
            let image = dir.join("disk");
            File::create(&image).unwrap().set_len(64 << 20).unwrap();
            let made = Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(&image).status().unwrap();
            assert!(made.success());
            qemu.args(["-drive", &format!("if=none,id=upper,format=raw,file={}", image.display())])
                .args(["-device", "virtio-blk-pci,drive=upper,serial=gtvp-upper"]);
        }
        let log = File::create(dir.join("qemu.log")).unwrap();
        let qemu = qemu.stdin(Stdio::null()).stderr(log).spawn().unwrap();
        Self { dir, qemu, virtiofsd }
    }

    /// Connects to the port.
    pub fn host(&self) -> Host {
        let path = self.dir.join("agent");
        let mut socket = None;
        wait_until("the port listens", || {
            socket = std::os::unix::net::UnixStream::connect(&path).ok();
            socket.is_some()
        });
        Host::new(socket.unwrap())
    }

    /// What the console has shown.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("console")).unwrap_or_default()).into_owned()
    }

    /// Waits until the machine is off.
    pub fn wait_off(&mut self) {
        wait_until("the machine is off", || self.qemu.try_wait().unwrap().is_some());
    }

    /// Whether it is on.
    pub fn is_on(&mut self) -> bool {
        self.qemu.try_wait().unwrap().is_none()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if let Some(server) = &mut self.virtiofsd {
            let _ = server.kill();
            let _ = server.wait();
        }
        if std::thread::panicking() {
            eprintln!("console:\n{}", self.console());
            for log in ["qemu.log", "virtiofsd.log"] {
                eprintln!("{log}: {}", fs::read_to_string(self.dir.join(log)).unwrap_or_default());
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Waits for a condition.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < end, "waited {LIMIT:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
