//! A lab's networks, by `ip` and `nft`: each function makes what is missing, or takes away what is there, and says whether
//! it had to.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use gtvp_model::fault::{Fault, FaultKind};

use super::plan::{Lab, Member};
use crate::failure::io;

/// Where `ip netns` keeps namespaces.
pub const NETNS_DIR: &str = "/run/netns";
const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
const NEIGHBOURS: &str = "/proc/sys/net/ipv4/neigh/default/gc_thresh";
/// Shortest prefix of another network that counts as a conflict: what is wider is a route to everywhere of some kind.
const NARROW: u32 = 0xffff_0000;

/// Runs a program; its words on standard error become the fault's cause.
fn run(program: &str, arguments: &[&str]) -> Result<String, Fault> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().map_err(|e| {
        let package = if program == "nft" { "nftables" } else { "iproute2" };
        io(format!("{program} cannot be run"), &e).hint(format!("apt-get install {package}"))
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Fault::new(FaultKind::Internal, format!("{program} {} failed", arguments.join(" "))).because(said))
}

fn ip(words: &str) -> Result<String, Fault> {
    run("ip", &words.split_whitespace().collect::<Vec<_>>())
}

/// Whether a bridge of this name is there and has members on it.
pub fn has_ports(bridge: &str) -> bool {
    let ports = std::fs::read_dir(format!("/sys/class/net/{bridge}/brif"));
    ports.is_ok_and(|mut ports| ports.next().is_some())
}

/// Whether another network of this machine lies where this /24 would.
pub fn taken(subnet: Ipv4Addr, own_bridge: &str) -> bool {
    std::fs::read_to_string("/proc/net/route").is_ok_and(|table| overlaps(&table, subnet, own_bridge))
}

/// `table` is /proc/net/route: interface, destination, …, mask as the eighth, numbers in hexadecimal as they lie in memory.
fn overlaps(table: &str, subnet: Ipv4Addr, own_bridge: &str) -> bool {
    let wanted = u32::from(subnet);
    table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number =
            |i: usize| fields.get(i).and_then(|f| u32::from_str_radix(f, 16).ok()).map(u32::swap_bytes);
        match (fields.first(), number(1), number(7)) {
            (Some(interface), Some(destination), Some(mask)) => {
                let common = mask & 0xffff_ff00;
                *interface != own_bridge && mask >= NARROW && wanted & common == destination & common
            }
            _ => false,
        }
    })
}

/// The bridge, the host's address on it, and the way out.
pub fn make_bridge(lab: &Lab) -> Result<bool, Fault> {
    let bridge = lab.bridge();
    let missing = !Path::new("/sys/class/net").join(&bridge).exists();
    if missing {
        ip(&format!("link add {bridge} type bridge"))?;
    }
    ip(&format!("addr replace {}/24 dev {bridge}", lab.gateway()))?;
    ip(&format!("link set {bridge} up"))?;
    Ok(missing)
}

/// Masquerade for the lab's members.
pub fn make_table(lab: &Lab) -> Result<bool, Fault> {
    let (table, subnet) = (lab.table(), lab.subnet());
    let missing = run("nft", &["list", "table", "ip", &table]).is_err();
    if missing {
        run(
            "nft",
            &[&format!(
                "add table ip {table}; \
                 add chain ip {table} postrouting {{ type nat hook postrouting priority srcnat; }}; \
                 add rule ip {table} postrouting ip saddr {subnet}/24 ip daddr != {subnet}/24 masquerade"
            )],
        )?;
    }
    Ok(missing)
}

/// Lets the host pass packets on. Gives whether it did not before.
pub fn forward() -> Result<bool, Fault> {
    let cannot = |e: std::io::Error| io(format!("{FORWARD} cannot be written"), &e);
    if std::fs::read_to_string(FORWARD).map_err(cannot)?.trim() == "1" {
        return Ok(false);
    }
    std::fs::write(FORWARD, "1").map_err(cannot)?;
    Ok(true)
}

/// Lets the host know so many neighbours: of all namespaces together it keeps 1,024 and forgets the rest, so that members of a
/// large lab, each of which knows all others, do not find each other. Gives whether it knew fewer.
pub fn neighbours(wanted: usize) -> Result<bool, Fault> {
    let cannot = |e: std::io::Error| io(format!("{NEIGHBOURS}* cannot be changed"), &e);
    let mut raised = false;
    // The first is how many are never forgotten, the last is the most.
    for n in (1..=3).rev() {
        let path = format!("{NEIGHBOURS}{n}");
        let most = std::fs::read_to_string(&path).map_err(cannot)?.trim().parse().unwrap_or(usize::MAX);
        if most < wanted {
            std::fs::write(&path, wanted.to_string()).map_err(cannot)?;
            raised = true;
        }
    }
    Ok(raised)
}

/// A member's namespace with its cable, its address and its route.
pub fn make_member(lab: &Lab, member: &Member) -> Result<bool, Fault> {
    let (netns, veth, bridge) = (&member.netns, &member.veth, lab.bridge());
    let mut made = false;
    if !netns_lives(netns) {
        if Path::new(NETNS_DIR).join(netns).exists() {
            // A name without a namespace behind it.
            ip(&format!("netns del {netns}"))?;
        }
        ip(&format!("netns add {netns}"))?;
        made = true;
    }
    if ip(&format!("-n {netns} link show dev eth0")).is_err() {
        // A cable whose other end has gone would be gone too; one with this name hangs somewhere else.
        let _ = ip(&format!("link del {veth}"));
        ip(&format!("link add {veth} type veth peer name eth0 netns {netns}"))?;
        made = true;
    }
    ip(&format!("link set {veth} master {bridge} up"))?;
    ip(&format!("-n {netns} link set lo up"))?;
    ip(&format!("-n {netns} addr replace {}/24 dev eth0", member.address))?;
    ip(&format!("-n {netns} link set eth0 up"))?;
    ip(&format!("-n {netns} route replace default via {}", lab.gateway()))?;
    Ok(made)
}

fn netns_lives(netns: &str) -> bool {
    Path::new(NETNS_DIR).join(netns).exists() && ip(&format!("-n {netns} link show dev lo")).is_ok()
}

/// Takes a member's namespace away; its cable goes with it.
pub fn remove_member(netns: &str) -> Result<bool, Fault> {
    if !Path::new(NETNS_DIR).join(netns).exists() {
        return Ok(false);
    }
    ip(&format!("netns del {netns}"))?;
    Ok(true)
}

/// The processes in a namespace.
pub fn processes_in(netns: &str) -> Vec<i32> {
    ip(&format!("netns pids {netns}"))
        .map(|t| t.lines().filter_map(|l| l.trim().parse().ok()).collect())
        .unwrap_or_default()
}

/// Takes the lab's bridge and its firewall table away.
pub fn remove_lab(lab: &Lab) -> Result<bool, Fault> {
    let mut removed = false;
    if Path::new("/sys/class/net").join(lab.bridge()).exists() {
        ip(&format!("link del {}", lab.bridge()))?;
        removed = true;
    }
    if run("nft", &["list", "table", "ip", &lab.table()]).is_ok() {
        run("nft", &["delete", "table", "ip", &lab.table()])?;
        removed = true;
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_narrow_network_of_someone_else_is_in_the_way() {
        let head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";
        let route = |interface: &str, destination: &str, mask: &str| {
            format!("{head}{interface}\t{destination}\t00000000\t0001\t0\t0\t0\t{mask}\t0\t0\t0\n")
        };
        let subnet = Ipv4Addr::new(10, 88, 0, 0);
        // 10.88.0.0/16, as container tools have it.
        assert!(overlaps(&route("cni0", "0000580A", "0000FFFF"), subnet, "gtvpl0"));
        // One host of it.
        assert!(overlaps(&route("tun0", "0500580A", "FFFFFFFF"), subnet, "gtvpl0"));
        // Our own, the default route, 10.0.0.0/8, another /24.
        for (interface, destination, mask) in [
            ("gtvpl0", "0000580A", "00FFFFFF"),
            ("eth0", "00000000", "00000000"),
            ("eth0", "0000000A", "000000FF"),
            ("eth0", "0001580A", "00FFFFFF"),
        ] {
            assert!(
                !overlaps(&route(interface, destination, mask), subnet, "gtvpl0"),
                "{interface} {destination}"
            );
        }
    }
}
