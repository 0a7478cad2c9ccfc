//! The member's networks: the boxes' namespace with its bridge, the fetcher's namespace, the ways between them and the
//! member's own namespace, address translation. Runs `ip` and `nft`; every step may be repeated.
//!
//! The boxes' namespace is owned by a user namespace of its own: `drivers` has powers over it and over nothing else.
//! Both outlive gtvpd, pinned at /run/netns as `ip netns` does it; where that does not last, a process holds them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::member::Member;
use crate::process::{self, Process};
use crate::ruleset::{self, Protocol2, Rules};
use crate::sys;

/// The boxes' bridge, in their namespace.
pub const BRIDGE: &str = "gtvp0";
/// The inner end of the ways into the boxes' and the fetcher's namespaces.
const UPLINK: &str = "uplink";
/// Where `ip netns` pins namespaces.
const NETNS: &str = "/run/netns";

/// Why a network is not there.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A program could not be run.
    #[error("{0} cannot be run: {1}")]
    Run(String, #[source] io::Error),
    /// A program said no.
    #[error("{command}: {said}")]
    Said {
        /// What was run.
        command: String,
        /// What it said.
        said: String,
    },
    /// A kernel interface said no.
    #[error("{0}: {1}")]
    Step(String, #[source] io::Error),
}

/// Published ports: what leads where.
pub type Published = BTreeMap<(Protocol2, u16), (Ipv4Addr, u16)>;

/// The member's networks.
#[derive(Debug)]
pub struct Networks {
    /// The boxes' network namespace.
    pub boxes: OwnedFd,
    /// The user namespace that owns it.
    pub boxes_user: OwnedFd,
    /// The fetcher's network namespace.
    pub sources: OwnedFd,
    rules: Rules,
}

/// Names and addresses of a member's networks.
fn rules(member: &Member) -> Rules {
    // Several members may share a host's own namespace: what they make there carries their uid_base.
    let n = member.config.uid_base / gtvp_model::member::UIDS_PER_MEMBER;
    let tag = format!("{n:x}");
    let [high, low] = u16::try_from(n % (64 * 64)).unwrap_or(0).to_be_bytes();
    let which = u16::from_be_bytes([high, low]);
    let third = 128 + u8::try_from(which / 64).unwrap_or(0);
    let fourth = u8::try_from(which % 64).unwrap_or(0) * 4;
    Rules {
        table: format!("gtvp_{}", member.config.name.as_str().replace('-', "_")),
        box_link: format!("gtvpb{tag}"),
        source_link: format!("gtvps{tag}"),
        box_network: member.config.box_network,
        transit: member.config.transit_network,
        source_transit: Ipv4Addr::new(169, 254, third, fourth),
        published: BTreeMap::new(),
    }
}

impl Networks {
    /// Makes what is missing, and leaves what is there. The rules of an earlier gtvpd go on leading published ports to
    /// their boxes until [`Self::publish`] replaces them: a new gtvpd is not a moment without them.
    pub fn ensure(member: &Member) -> Result<Self, NetworkError> {
        let rules = rules(member);
        let (box_name, source_name) = (member.box_netns(), member.source_netns());
        let ids = (member.config.uid_base, gtvp_model::member::UIDS_PER_MEMBER);
        let (boxes, new_boxes) = namespace(member, &box_name, Some(ids))?;
        let (sources, new_sources) = namespace(member, &source_name, None)?;
        let boxes_user = sys::owning_user_namespace(boxes.as_fd())
            .map_err(|e| NetworkError::Step("finding the boxes' user namespace".into(), e))?;
        for (link, name, new, base) in [
            (&rules.box_link, &box_name, new_boxes, rules.transit),
            (&rules.source_link, &source_name, new_sources, rules.source_transit),
        ] {
            if new {
                // A way into a namespace that was lost.
                let _ = ip(&["link", "del", link]);
            }
            if ip(&["link", "show", "dev", link]).is_err() {
                ip(&["link", "add", link, "type", "veth", "peer", "name", UPLINK, "netns", name])?;
            }
            let (ours, theirs) = (after(base, 1), after(base, 2));
            ip(&["addr", "replace", &format!("{ours}/30"), "dev", link])?;
            ip(&["link", "set", link, "up"])?;
            ip(&["-n", name, "addr", "replace", &format!("{theirs}/30"), "dev", UPLINK])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
            ip(&["-n", name, "link", "set", UPLINK, "up"])?;
            ip(&["-n", name, "route", "replace", "default", "via", &ours.to_string()])?;
        }
        if ip(&["-n", &box_name, "link", "show", "dev", BRIDGE]).is_err() {
            ip(&["-n", &box_name, "link", "add", BRIDGE, "type", "bridge", "mcast_snooping", "0"])?;
        }
        // Before any box is on it.
        in_namespace(&boxes, || nft(&ruleset::box_ports(&member.config)))?;
        let gateway = member.config.box_gateway();
        ip(&["-n", &box_name, "addr", "replace", &format!("{gateway}/24"), "dev", BRIDGE])?;
        ip(&["-n", &box_name, "link", "set", BRIDGE, "up"])?;
        let (network, via) = (format!("{}/24", rules.box_network), after(rules.transit, 2).to_string());
        ip(&["route", "replace", &network, "via", &via, "dev", &rules.box_link])?;

        sysctl("net/ipv4/ip_forward", "1")?;
        sysctl(&format!("net/ipv4/conf/{}/route_localnet", rules.box_link), "1")?;
        in_namespace(&boxes, || {
            sysctl("net/ipv4/ip_forward", "1")?;
            // A host without IPv6 has no such file.
            let _ = sysctl("net/ipv6/conf/all/disable_ipv6", "1");
            Ok(())
        })?;
        Ok(Self { boxes, boxes_user, sources, rules })
    }

    /// Opens what is there, and changes nothing. `seen_by` is a process that sees the pins, gtvpd.
    pub fn open(member: &Member, seen_by: u32) -> Result<Self, NetworkError> {
        let open = |name: String| {
            let path = PathBuf::from(format!("/proc/{seen_by}/root{NETNS}")).join(name);
            let file =
                fs::File::open(&path).map_err(|e| NetworkError::Step(path.display().to_string(), e))?;
            Ok::<OwnedFd, NetworkError>(file.into())
        };
        let (boxes, sources) = (open(member.box_netns())?, open(member.source_netns())?);
        let boxes_user = sys::owning_user_namespace(boxes.as_fd())
            .map_err(|e| NetworkError::Step("finding the boxes' user namespace".into(), e))?;
        Ok(Self { boxes, boxes_user, sources, rules: rules(member) })
    }

    /// Makes exactly these ports lead to boxes.
    pub fn publish(&self, published: &Published) -> Result<(), NetworkError> {
        nft(&Rules { published: published.clone(), ..self.rules.clone() }.text())
    }

    /// Interfaces of the member's namespace that are ours.
    pub fn is_ours(member: &Member, link: &str) -> bool {
        let rules = rules(member);
        link == rules.box_link || link == rules.source_link
    }

    /// Removes everything. What is not there is no error.
    pub fn remove(member: &Member) {
        let rules = rules(member);
        let _ = nft(&rules.removal());
        let _ = ip(&["link", "del", &rules.box_link]);
        let _ = ip(&["link", "del", &rules.source_link]);
        for name in [member.box_netns(), member.source_netns()] {
            if Path::new(NETNS).join(&name).exists() {
                let _ = ip(&["netns", "del", &name]);
            }
        }
        if let Some(holder) = holder(member) {
            holder.kill();
            holder.wait(Duration::from_secs(5));
        }
    }
}

/// The address `n` after `base`.
fn after(base: Ipv4Addr, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(base).saturating_add(n))
}

/// Opens the pinned namespace, or makes and pins it. With `ids` it is owned by a user namespace with these ids, and
/// outlives a gtvpd whose mounts do not outlive it.
fn namespace(member: &Member, name: &str, ids: Option<(u32, u32)>) -> Result<(OwnedFd, bool), NetworkError> {
    let step = |what: &'static str| move |e: io::Error| NetworkError::Step(what.into(), e);
    let path = Path::new(NETNS).join(name);
    if let Ok(file) = fs::File::open(&path) {
        if rustix::fs::fstatfs(&file).is_ok_and(|s| s.f_type == NSFS_MAGIC) {
            return Ok((file.into(), false));
        }
        // Where a pin was: the file remains when its mount is gone.
        let _ = fs::remove_file(&path);
    }
    if let Some(holder) = ids.and_then(|_| holder(member)) {
        let fd = fs::File::open(format!("/proc/{}/ns/net", holder.pid))
            .map_err(step("opening the boxes' namespace"))?;
        pin(name, holder.pid)?;
        return Ok((fd.into(), false));
    }
    let kind = if ids.is_some() { "user" } else { "plain" };
    let mut holder = Command::new("/proc/self/exe")
        .args(["hold-network", kind])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .current_dir("/")
        .spawn()
        .map_err(step("making a network namespace"))?;
    let pid = i32::try_from(holder.id()).unwrap_or(0);
    let (mut said, mut asked) = (holder.stdout.take(), holder.stdin.take());
    let mut stays = false;
    let result = (|| {
        let mut next = || -> io::Result<()> {
            let mut byte = [0];
            said.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.read_exact(&mut byte)
        };
        let mut go_on = || asked.as_mut().map_or(Ok(()), |pipe| pipe.write_all(b"g"));
        if let Some((first, count)) = ids {
            next().map_err(step("making a user namespace"))?;
            for map in ["uid_map", "gid_map"] {
                fs::write(format!("/proc/{pid}/{map}"), format!("{first} {first} {count}\n"))
                    .map_err(step("writing the user namespace's ids"))?;
            }
            go_on().map_err(step("making a namespace"))?;
        }
        next().map_err(step("making a network namespace"))?;
        let fd = fs::File::open(format!("/proc/{pid}/ns/net")).map_err(step("opening the new namespace"))?;
        pin(name, pid)?;
        if ids.is_some() && !in_first_mount_namespace() {
            let held = Holder { pid, start_time: process::start_time(pid).unwrap_or(0) };
            let json = serde_json::to_vec(&held).map_err(|e| step("writing the holder down")(e.into()))?;
            fs::write(member.run(HOLDER), json).map_err(step("writing the holder down"))?;
            go_on().map_err(step("leaving the holder"))?;
            next().map_err(step("leaving the holder"))?;
            stays = true;
        }
        Ok((OwnedFd::from(fd), true))
    })();
    if !stays {
        let _ = holder.kill();
        let _ = holder.wait();
    }
    result
}

/// `NSFS_MAGIC`.
const NSFS_MAGIC: i64 = 0x6e73_6673;
/// The record of the process that holds the boxes' namespace where a pin alone would not.
const HOLDER: &str = "network.json";

#[derive(serde::Serialize, serde::Deserialize)]
struct Holder {
    pid: i32,
    start_time: u64,
}

fn holder(member: &Member) -> Option<Process> {
    let held: Holder = serde_json::from_slice(&fs::read(member.run(HOLDER)).ok()?).ok()?;
    Process::adopt(held.pid, held.start_time)
}

/// Whether pins made here outlive gtvpd. In a mount namespace of its own (as `ip netns exec` makes one) they do not.
fn in_first_mount_namespace() -> bool {
    let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    of("1").is_some_and(|first| of("self") == Some(first))
}

fn pin(name: &str, pid: i32) -> Result<(), NetworkError> {
    run("ip", &["netns", "attach", name, &pid.to_string()], None)
}

/// The process that a new namespace begins with: `gtvpd hold-network user|plain`. It says a byte after each step and
/// waits for one; told to go on once more it stays.
pub fn hold(kind: &str) -> i32 {
    let held = (|| -> io::Result<()> {
        let mut out = io::stdout();
        let mut say = || out.write_all(b"s").and_then(|()| out.flush());
        let mut byte = [0];
        if kind == "user" {
            sys::unshare(libc::CLONE_NEWUSER)?;
            say()?;
            io::stdin().read_exact(&mut byte)?;
        }
        sys::unshare(libc::CLONE_NEWNET)?;
        say()?;
        io::stdin().read_exact(&mut byte)?;
        rustix::process::setsid()?;
        say()?;
        let null = fs::File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        loop {
            std::thread::park();
        }
    })();
    i32::from(held.is_err())
}

/// Runs `f` in a network namespace: on a thread of its own, which ends with it.
fn in_namespace(
    namespace: &OwnedFd,
    f: impl FnOnce() -> Result<(), NetworkError> + Send,
) -> Result<(), NetworkError> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            sys::join(namespace.as_fd(), libc::CLONE_NEWNET)
                .map_err(|e| NetworkError::Step("entering the boxes' network".into(), e))?;
            f()
        });
        thread.join().unwrap_or_else(|_| {
            Err(NetworkError::Step("entering the boxes' network".into(), io::ErrorKind::Other.into()))
        })
    })
}

fn sysctl(name: &str, value: &str) -> Result<(), NetworkError> {
    let path = PathBuf::from("/proc/sys").join(name);
    // Written only when it differs: /proc/sys may be read-only where the value is right already.
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|e| NetworkError::Step(path.display().to_string(), e))
}

fn ip(args: &[&str]) -> Result<(), NetworkError> {
    run("ip", args, None)
}

fn nft(rules: &str) -> Result<(), NetworkError> {
    run("nft", &["-f", "-"], Some(rules))
}

/// Folders in which the system's programs are, whatever gtvpd's own environment says.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

fn run(program: &str, args: &[&str], input: Option<&str>) -> Result<(), NetworkError> {
    output(program, args, input).map(drop)
}

/// Runs a program and returns what it printed.
pub fn output(program: &str, args: &[&str], input: Option<&str>) -> Result<String, NetworkError> {
    let failed = |e| NetworkError::Run(program.to_owned(), e);
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", PATH)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
        pipe.write_all(text.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().chars().take(400).collect();
    Err(NetworkError::Said { command: format!("{program} {}", args.join(" ")), said })
}
