//! What the host offers: looked at when someone asks, never in the background.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use gtvp_model::member::{HostCheck, MemberConfig, TPM_DEVICE, TpmChoice};

use crate::member::Member;
use crate::network::{Networks, output};
use crate::sys;

fn check(name: &str, status: &str, detail: impl Into<String>, hint: Option<&str>) -> HostCheck {
    HostCheck { name: name.into(), status: status.into(), detail: detail.into(), hint: hint.map(Into::into) }
}

/// `ok` when the path exists, else `missing`.
fn exists(name: &str, path: &str, ok: &str, missing: &str, hint: &str) -> HostCheck {
    if Path::new(path).exists() {
        check(name, "ok", format!("{path}: {ok}"), None)
    } else {
        check(name, "missing", format!("no {path}: {missing}"), Some(hint))
    }
}

/// Every check.
pub fn checks(config: &MemberConfig, cgroups: Option<&str>) -> Vec<HostCheck> {
    vec![
        exists(
            "kvm_device",
            "/dev/kvm",
            "present; whether a guest really runs on it is the check `accelerator`",
            "boxes are emulated, which is slow",
            "turn on virtualization in the firmware, or nested virtualization on the host",
        ),
        tpm(config),
        ima(),
        fs_verity(),
        cgroup("cgroup_memory", "memory", cgroups),
        cgroup("cgroup_cpu", "cpu", cgroups),
        landlock(),
        seccomp(),
        user_namespaces(),
        exists("vsock", "/dev/vhost-vsock", "present", "not used", "modprobe vhost_vsock"),
        program("apt", "apt-get", "Debian packages cannot become components", "GTVP needs a Debian system"),
        program("qemu", "qemu-system-x86_64", "no box can run", "apt install qemu-system-x86"),
        program("nft", "nft", "boxes have no network", "apt install nftables"),
        program("ip", "ip", "boxes have no network", "apt install iproute2"),
    ]
}

fn tpm(config: &MemberConfig) -> HostCheck {
    let present = Path::new(TPM_DEVICE).exists();
    let on = "turn on the TPM in the firmware";
    match (config.tpm, present) {
        (Some(TpmChoice::Software), _) if !Path::new(SWTPM).exists() => check(
            "tpm",
            "failed",
            format!("member.toml asks for a software TPM, and there is no {SWTPM}"),
            Some("apt install swtpm"),
        ),
        (Some(TpmChoice::Software), _) => {
            check("tpm", "ok", "software: it shows what root of this server wants it to show", None)
        }
        (Some(TpmChoice::Device), false) => check(
            "tpm",
            "failed",
            format!("member.toml asks for the server's TPM, and there is no {TPM_DEVICE}"),
            Some(on),
        ),
        (Some(TpmChoice::Device) | None, true) => check("tpm", "ok", format!("{TPM_DEVICE}: present"), None),
        (Some(TpmChoice::None), _) => check(
            "tpm",
            "missing",
            "turned off in member.toml: this member cannot prove what it booted",
            Some("tpm = \"device\" in member.toml"),
        ),
        (None, false) => check(
            "tpm",
            "missing",
            format!("no {TPM_DEVICE}: this member has no TPM and cannot prove what it booted"),
            Some(on),
        ),
    }
}

/// What the template `tpm` starts.
const SWTPM: &str = "/usr/bin/swtpm";

fn ima() -> HostCheck {
    let log = "/sys/kernel/security/ima/ascii_runtime_measurements";
    if Path::new(log).exists() {
        return check("ima", "ok", "the kernel measures files", None);
    }
    let detail = if Path::new("/sys/kernel/security/integrity").exists()
        || Path::new("/sys/kernel/security").exists()
    {
        "the kernel keeps no measurement list: what runs on this member is not proved"
    } else {
        "securityfs is not mounted: whether the kernel measures is not known"
    };
    check("ima", "missing", detail, Some("boot with ima_policy=tcb"))
}

fn fs_verity() -> HostCheck {
    if Path::new("/sys/fs/ext4/features/verity").exists()
        || Path::new("/sys/fs/verity").exists()
        || Path::new("/proc/sys/fs/verity").exists()
    {
        return check(
            "fs_verity",
            "ok",
            "the kernel can enforce file digests where the store's file system has them",
            None,
        );
    }
    let detail = "the kernel has no fs-verity: digests are checked when files are first used";
    check(
        "fs_verity",
        "missing",
        detail,
        Some("a kernel with CONFIG_FS_VERITY, and ext4 with the verity feature"),
    )
}

fn cgroup(name: &str, controller: &str, memory_kind: Option<&str>) -> HostCheck {
    let v2 = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let v1 = Path::new("/sys/fs/cgroup").join(controller).join("cgroup.procs").exists();
    if v2.split_ascii_whitespace().any(|c| c == controller) {
        let used = if controller == "memory" { memory_kind.is_some() } else { true };
        if used {
            return check(name, "ok", "version 2", None);
        }
    } else if v1 && (controller != "memory" || memory_kind.is_some()) {
        return check(name, "ok", "version 1", None);
    }
    check(
        name,
        "missing",
        format!("gtvpd cannot limit {controller} of domains"),
        Some("run on a host with a writable cgroup file system"),
    )
}

fn landlock() -> HostCheck {
    match sys::landlock_abi() {
        0 => check(
            "landlock",
            "missing",
            "the kernel has no Landlock: jails rest on namespaces and seccomp alone",
            Some("a kernel with CONFIG_SECURITY_LANDLOCK, and landlock in lsm="),
        ),
        abi if abi < 4 => check("landlock", "ok", format!("ABI {abi}; from 4 on it also covers TCP"), None),
        abi => check("landlock", "ok", format!("ABI {abi}"), None),
    }
}

fn seccomp() -> HostCheck {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if status.lines().any(|l| l.starts_with("Seccomp:")) {
        check("seccomp", "ok", "filters are enforced", None)
    } else {
        check(
            "seccomp",
            "failed",
            "the kernel has no seccomp: no domain starts",
            Some("a kernel with CONFIG_SECCOMP_FILTER"),
        )
    }
}

fn user_namespaces() -> HostCheck {
    let most: u64 = fs::read_to_string("/proc/sys/user/max_user_namespaces")
        .ok()
        .and_then(|t| t.trim().parse().ok())
        .unwrap_or(0);
    if most > 0 {
        check("user_namespaces", "ok", format!("at most {most}"), None)
    } else {
        check(
            "user_namespaces",
            "failed",
            "user namespaces are turned off: drivers and boxes do not start",
            Some("sysctl user.max_user_namespaces=10000"),
        )
    }
}

/// Versions of programs do not change while gtvpd runs, except by an upgrade that one can wait to see.
static VERSIONS: OnceLock<std::sync::Mutex<std::collections::BTreeMap<String, String>>> = OnceLock::new();

fn program(name: &str, program: &str, without: &str, hint: &str) -> HostCheck {
    let versions = VERSIONS.get_or_init(Default::default);
    let known = versions.lock().ok().and_then(|v| v.get(program).cloned());
    let version = known.map_or_else(|| version_of(program), Ok);
    match version {
        Ok(version) => {
            if let Ok(mut versions) = versions.lock() {
                versions.insert(program.to_owned(), version.clone());
            }
            check(name, "ok", version, None)
        }
        Err(e) => check(name, "failed", format!("{without}: {e}"), Some(hint)),
    }
}

fn version_of(program: &str) -> Result<String, crate::network::NetworkError> {
    let flag = if program == "ip" { "-Version" } else { "--version" };
    let text = output(program, &[flag], None)?;
    Ok(text.lines().next().unwrap_or_default().trim().chars().take(120).collect())
}

/// The member's own addresses, without loopback and without GTVP's own ways.
pub fn addresses(member: &Member) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Link {
        ifname: Option<String>,
        #[serde(default)]
        addr_info: Vec<Address>,
    }
    #[derive(serde::Deserialize)]
    struct Address {
        local: Option<String>,
    }
    let text = output("ip", &["-json", "-4", "addr", "show", "up"], None).unwrap_or_default();
    let links: Vec<Link> = serde_json::from_str(&text).unwrap_or_default();
    let others = links
        .into_iter()
        .filter(|l| l.ifname.as_deref().is_some_and(|name| name != "lo" && !Networks::is_ours(member, name)));
    others.flat_map(|l| l.addr_info).filter_map(|a| a.local).collect()
}

/// Name servers that other namespaces reach: a server on the host's loopback is asked for its own.
pub fn nameservers() -> Vec<String> {
    for path in ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"] {
        let found = parse_nameservers(&fs::read_to_string(path).unwrap_or_default());
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

fn parse_nameservers(text: &str) -> Vec<String> {
    let servers = text.lines().filter_map(|l| l.trim().strip_prefix("nameserver")).map(str::trim);
    // Boxes have IPv4 only.
    let v4 = servers.filter_map(|s| s.parse::<std::net::Ipv4Addr>().ok());
    v4.filter(|a| !a.is_loopback()).map(|a| a.to_string()).collect()
}

/// resolv.conf for a jail that reaches the outside.
pub fn resolv_conf() -> String {
    nameservers().iter().map(|s| format!("nameserver {s}\n")).collect()
}

/// Processors.
pub fn cpus() -> u16 {
    std::thread::available_parallelism().map_or(1, |n| u16::try_from(n.get()).unwrap_or(u16::MAX))
}

/// Memory in all and available now, bytes.
pub fn memory() -> (u64, u64) {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|l| l.split_ascii_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    };
    (field("MemTotal"), field("MemAvailable"))
}

/// Load of the processors in hundredths of one, the mean of a minute.
pub fn load() -> u32 {
    parse_load(&fs::read_to_string("/proc/loadavg").unwrap_or_default())
}

/// The first number of proc_loadavg(5): it has two digits behind its point.
fn parse_load(text: &str) -> u32 {
    let first = text.split_ascii_whitespace().next().and_then(|n| n.split_once('.'));
    let number = first.map(|(whole, part)| format!("{whole}{part}"));
    number.and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_in_hundredths() {
        assert_eq!(parse_load("1.25 0.40 0.10 1/300 4242\n"), 125);
        assert_eq!(parse_load("0.07 0.40 0.10 1/300 4242\n"), 7);
        assert_eq!(parse_load("what"), 0);
    }

    #[test]
    fn a_server_on_loopback_is_none_for_boxes() {
        assert_eq!(parse_nameservers("nameserver 127.0.0.53\noptions edns0\n"), Vec::<String>::new());
        assert_eq!(
            parse_nameservers("# x\nnameserver 10.1.1.1\nnameserver fe80::1\n nameserver 10.1.1.2"),
            ["10.1.1.1", "10.1.1.2"]
        );
    }

    #[test]
    fn every_check_has_a_known_status() {
        for c in checks(&crate::plan::tests::member().config, None) {
            assert!(["ok", "missing", "failed"].contains(&c.status.as_str()), "{c:?}");
            assert!(c.status == "ok" || c.hint.is_some(), "{c:?}");
        }
    }
}
