//! The peer: the tree that a box shows, booted by hand with QEMU and stock virtiofsd.
//!
//! Its kernel and modules are the box's own files and so are the kernel's arguments, the emulated machine and its memory. It has
//! no disk, agent, balloon or firewall: what it need not do it does not do, and a start of GTVP has all of that in its time.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{install, kept, run};
use crate::{Ended, Lab, http_get, running, until};

/// The way to the machine: a tap of this machine with one address for each side.
const TAP: &str = "gtvpbench0";
const HOST: &str = "10.119.119.1";
const GUEST: &str = "10.119.119.2";
const MAC: &str = "52:54:00:67:74:76";
/// Modules of the box that the machine has a use for.
const MODULES: &[&str] = &["ring", "virtio.", "pci", "fuse", "virtiofs", "overlay", "failover", "virtio_net"];
const VIRTIOFSD: &str = "1.14.0";
/// Pause between two looks at the page.
const LOOK: Duration = Duration::from_millis(20);
/// How long a look waits: less than the second after which the kernel sends a lost packet again, so that the machine is not
/// busy with those while it starts.
const PATIENCE: Duration = Duration::from_millis(900);

/// Everything that is made once.
pub struct ByHand {
    tree: PathBuf,
    kernel: PathBuf,
    initramfs: PathBuf,
    virtiofsd: PathBuf,
    append: String,
    qemu: Vec<String>,
}

/// What is to be killed and taken away, whatever happens.
impl Drop for ByHand {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", TAP]).stderr(Stdio::null()).status();
    }
}

impl ByHand {
    /// Takes the tree of the box `name`, which runs, and what it booted; gets virtiofsd if it is not there.
    pub fn prepare(lab: &Lab, name: &str) -> Self {
        let dir = kept().join("by-hand");
        fs::create_dir_all(&dir).expect("target/bench/by-hand");
        install(&["busybox-static"]);
        let virtiofsd = virtiofsd();
        let qemu =
            *lab.processes(&["qemu-system-x86_64", &format!("-{name} ")]).first().expect("the box's machine");
        let inside = PathBuf::from(format!("/proc/{qemu}/root"));
        let line = fs::read(format!("/proc/{qemu}/cmdline")).expect("the machine's words");
        let words: Vec<String> =
            line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
        let after = |flag: &str| {
            let at = words.iter().position(|w| w == flag).unwrap_or_else(|| panic!("no {flag} in {words:?}"));
            words[at + 1].clone()
        };
        let (kernel, initramfs) = (dir.join("kernel"), dir.join("initramfs"));
        fs::copy(inside.join("kernel"), &kernel).expect("the box's kernel");
        make_initramfs(&dir, &fs::read(inside.join("initrd")).expect("the box's initramfs"), &initramfs);
        let mut arguments: Vec<String> = Vec::new();
        for flag in ["-machine", "-cpu", "-smp", "-m", "-accel"] {
            let value =
                if flag == "-accel" && after(flag).starts_with("kvm") { "kvm".into() } else { after(flag) };
            arguments.extend([flag.to_owned(), value]);
        }
        arguments.extend(["-object".into(), after("-object")]);
        let tree = export(lab, name, &dir);
        let _ = Command::new("ip").args(["link", "del", TAP]).stderr(Stdio::null()).status();
        for words in [
            vec!["tuntap", "add", TAP, "mode", "tap"],
            vec!["addr", "add", &format!("{HOST}/30"), "dev", TAP],
            vec!["link", "set", TAP, "up"],
            // So that no time is lost in asking for it.
            vec!["neigh", "replace", GUEST, "lladdr", MAC, "nud", "permanent", "dev", TAP],
        ] {
            run(Command::new("ip").args(words));
        }
        Self { tree, kernel, initramfs, virtiofsd, append: after("-append"), qemu: arguments }
    }

    /// From the start of virtiofsd and QEMU to the first answer of status 200.
    pub fn start(&self) -> Duration {
        let dir = kept().join("by-hand");
        let (socket, console) = (dir.join("virtiofsd.sock"), dir.join("console"));
        let _ = fs::remove_file(&socket);
        let log = |name: &str| fs::File::create(dir.join(name)).expect("a log");
        let begun = Instant::now();
        let _server = Ended(spawn(
            Command::new(&self.virtiofsd)
                .arg(format!("--socket-path={}", socket.display()))
                .arg(format!("--shared-dir={}", self.tree.display()))
                .args(["--cache=always", "--log-level=error"])
                .stderr(log("virtiofsd.log")),
        ));
        while !socket.exists() {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "virtiofsd does not come up: see {}",
                dir.display()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        let machine = Ended(spawn(
            Command::new("qemu-system-x86_64")
                .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
                .args(&self.qemu)
                .arg("-kernel")
                .arg(&self.kernel)
                .arg("-initrd")
                .arg(&self.initramfs)
                .args(["-append", &self.append])
                .args(["-serial", &format!("file:{}", console.display())])
                .args(["-chardev", &format!("socket,id=root,path={}", socket.display())])
                .args(["-device", "vhost-user-fs-pci,chardev=root,tag=gtvp-root,queue-size=256"])
                .args(["-netdev", &format!("tap,id=net0,ifname={TAP},script=no,downscript=no")])
                .args([
                    "-device",
                    &format!("virtio-net-pci,netdev=net0,mac={MAC},romfile=,disable-legacy=on"),
                ])
                .args(["-device", "virtio-rng-pci,disable-legacy=on"])
                .stderr(log("qemu.log")),
        ));
        let answered = first_answer(GUEST, 80, Duration::from_secs(300));
        let took =
            answered.unwrap_or_else(|| panic!("no page: see {}", console.display())).duration_since(begun);
        drop(machine);
        // It ends with the machine; the next one must find its lock free.
        let words = ["virtiofsd", "--socket-path", &dir.to_string_lossy()];
        until("virtiofsd has ended", Duration::from_secs(20), || running(&words).is_empty().then_some(()));
        took
    }
}

/// When the first answer of status 200 came. Each look is a thread of its own: one whose packets were lost, because nobody was
/// there yet, waits for them and must not hold the next look up.
fn first_answer(address: &'static str, port: u16, within: Duration) -> Option<Instant> {
    let (tell, told) = mpsc::channel();
    let begun = Instant::now();
    while begun.elapsed() < within {
        let tell = tell.clone();
        std::thread::spawn(move || {
            let to = SocketAddr::new(address.parse().expect("an address"), port);
            let there = TcpStream::connect_timeout(&to, PATIENCE).is_ok();
            if there && http_get(address, port, "/").is_ok_and(|(status, _)| status.contains(" 200 ")) {
                // Nobody listens any more when it is not the first.
                let _ = tell.send(Instant::now());
            }
        });
        if let Ok(when) = told.recv_timeout(LOOK) {
            return Some(when);
        }
    }
    None
}

fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// Stock virtiofsd, of crates.io, built once; what it needs to be built is installed.
fn virtiofsd() -> PathBuf {
    let root = kept();
    let path = root.join("bin/virtiofsd");
    if !path.exists() {
        println!("  installing virtiofsd {VIRTIOFSD} (in target/bench)");
        install(&["libseccomp-dev", "libcap-ng-dev", "busybox-static", "cpio"]);
        // As its makers build it: without this project's flags, so from a folder of its own.
        run(Command::new("cargo")
            .args([
                "install",
                "virtiofsd",
                "--locked",
                "--version",
                VIRTIOFSD,
                "--target",
                "x86_64-unknown-linux-gnu",
            ])
            .arg("--root")
            .arg(&root)
            .env("CARGO_TARGET_DIR", root.join("virtiofsd-build"))
            .env("RUSTFLAGS", "")
            .current_dir("/"));
    }
    path
}

/// The box's whole root as a folder. A file for each, read through the box itself.
fn export(lab: &Lab, name: &str, dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    let _ = fs::remove_dir_all(&tree);
    fs::create_dir_all(&tree).expect("target/bench/by-hand/tree");
    println!("  exporting the box's tree");
    let archive = dir.join("tree.tar");
    let out = fs::File::create(&archive).expect("target/bench/by-hand");
    let words =
        ["exec", name, "--", "tar", "--one-file-system", "--numeric-owner", "-C", "/", "-cf", "-", "."];
    let status = lab.command(&words).stdout(out).status().expect("gtvp runs");
    assert!(status.success(), "the tree cannot be exported: {status}");
    run(Command::new("tar").arg("-C").arg(&tree).args(["--numeric-owner", "-xpf"]).arg(&archive));
    for folder in ["dev", "proc", "sys", "run", "tmp"] {
        fs::create_dir_all(tree.join(folder)).expect("a mount point");
    }
    fs::remove_file(archive).expect("the archive is removed");
    tree
}

/// busybox, a script and the box's modules.
fn make_initramfs(dir: &Path, of_box: &[u8], to: &Path) {
    let staging = dir.join("initramfs.d");
    let _ = fs::remove_dir_all(&staging);
    for folder in [
        "of-box",
        "new/bin",
        "new/modules",
        "new/dev",
        "new/proc",
        "new/sys",
        "new/lower",
        "new/layer",
        "new/root",
    ] {
        fs::create_dir_all(staging.join(folder)).expect("target/bench/by-hand");
    }
    let archive = staging.join("initrd");
    fs::write(&archive, of_box).expect("the box's initramfs");
    let unpack = |words: &str, at: &str| {
        run(Command::new("sh").args(["-ec", words]).current_dir(staging.join(at)));
    };
    unpack("busybox cpio -idm <../initrd", "of-box");
    let list = |name: &str| fs::read_to_string(staging.join("of-box/modules").join(name)).expect("modules");
    let order = list("order") + &list("late");
    let wanted: Vec<&str> = order.lines().filter(|m| MODULES.iter().any(|w| m.contains(w))).collect();
    for module in &wanted {
        fs::copy(staging.join("of-box/modules").join(module), staging.join("new/modules").join(module))
            .expect("a module");
    }
    fs::copy("/bin/busybox", staging.join("new/bin/busybox")).expect("busybox-static is installed");
    fs::write(staging.join("new/init"), script(&wanted)).expect("the script");
    unpack(
        &format!("chmod 755 init bin/busybox && find . | busybox cpio -o -H newc >{}", to.display()),
        "new",
    );
}

fn script(modules: &[&str]) -> String {
    let modules: String = modules.iter().map(|m| format!("$b insmod /modules/{m}\n")).collect();
    format!(
        "#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
{modules}$b mount -t virtiofs -o ro,noatime gtvp-root /lower
$b mount -t tmpfs layer /layer
$b mkdir /layer/upper /layer/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work root /root
$b ip link set lo up
$b ip addr add {GUEST}/30 dev eth0
$b ip link set eth0 up
$b ip route add default via {HOST}
$b mount --move /dev /root/dev
$b mount --move /proc /root/proc
$b mount --move /sys /root/sys
$b mount -t tmpfs run /root/run
exec $b switch_root /root /usr/sbin/nginx -g 'daemon off;'
"
    )
}

/// Waits until nothing of a removed box runs any more, so that the next run has the machine for itself.
pub fn at_rest(lab: &Lab) {
    until("the box's processes have ended", Duration::from_secs(60), || {
        lab.processes(&["qemu-system-x86_64"]).is_empty().then_some(())
    });
}
