//! From rows of topology.toml to jails. Pure: decides what belongs into a jail, builds none.

use std::path::{Path, PathBuf};

use gtvp_ipc::place;
use gtvp_model::ids::Slot;
use gtvp_model::topology::{Jail, Network, Seccomp, TemplateRow};

use crate::member::Member;
use crate::spec::{Access, Bind, Descriptor, FileFrom, FilterPlan, JailSpec, NetPlan, UserPlan};

/// Most open files where the row does not say.
const DEFAULT_OPEN_FILES: u64 = 4096;
/// Devices that every program may expect.
const COMMON_DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"];

/// Why a row makes no jail.
#[derive(Debug, thiserror::Error)]
pub enum BadRow {
    /// `access` is none of r, rw, rx.
    #[error("{path}: access {access:?} is none of r, rw, rx")]
    Access {
        /// The rule's path.
        path: String,
        /// What it says.
        access: String,
    },
    /// A capability without a name of Linux.
    #[error("{0} is no capability")]
    Capability(String),
    /// `uid` of a template is neither a number nor `box:N`.
    #[error("uid {0:?} is neither a number nor box:N")]
    Uid(String),
    /// A template with a box's uid was asked for without a box.
    #[error("it belongs to a box, and no box was named")]
    NoSlot,
}

/// Descriptors that the launcher passes for namespaces, by their place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Namespaces {
    /// The boxes' network namespace.
    pub boxes_net: Option<usize>,
    /// The user namespace that owns it.
    pub boxes_user: Option<usize>,
    /// The sources' network namespace.
    pub sources_net: Option<usize>,
}

/// What a jail holds beyond its row.
#[derive(Debug, Default)]
pub struct Contents {
    /// Program of the host.
    pub program: PathBuf,
    /// Arguments.
    pub argv: Vec<String>,
    /// Environment.
    pub env: Vec<(String, String)>,
    /// Descriptors under their numbers.
    pub descriptors: Vec<Descriptor>,
    /// Files from descriptors.
    pub files: Vec<FileFrom>,
    /// Text files.
    pub texts: Vec<(String, String)>,
    /// The box whose process it is.
    pub slot: Option<Slot>,
}

/// The jail of a domain's or template's row.
pub fn jail(
    member: &Member,
    name: &str,
    row: &Jail,
    uid: u32,
    contents: Contents,
    namespaces: Namespaces,
) -> Result<JailSpec, BadRow> {
    let mut binds: Vec<Bind> = COMMON_DEVICES.iter().map(|d| device(d, Access::Rw, false)).collect();
    let mut folders: Vec<String> = ["/dev", "/gtvp"].map(String::from).into();
    for rule in &row.paths {
        let from = expand(member, name, contents.slot, &rule.path);
        let at = rule.at.clone().unwrap_or_else(|| rule.path.clone());
        // The host's own may name a server on its loopback, which no other namespace reaches.
        if at == RESOLV_CONF && contents.texts.iter().any(|(path, _)| path == RESOLV_CONF) {
            continue;
        }
        binds.push(Bind {
            from,
            at,
            access: access(&rule.path, &rule.access)?,
            optional: rule.optional,
            device: false,
        });
    }
    for rule in &row.devices {
        binds.push(device(&rule.path, access(&rule.path, &rule.access)?, rule.optional));
    }
    for (from, at) in [
        (member.run("gtvp/member.json"), place::MEMBER_FILE),
        (member.run("gtvp/callers.json"), place::CALLERS_FILE),
    ] {
        binds.push(read_only(from, at));
    }
    if member.callees_of(name).is_empty() {
        folders.push(place::SOCKETS.into());
    } else {
        binds.push(read_only(member.ways_of(name), place::SOCKETS));
    }
    // A program of ours is one static file; a foreign one comes with the paths of its row.
    let program = if contents.program.starts_with(&member.lib) {
        let file = contents.program.file_name().map(|f| f.to_string_lossy().into_owned()).unwrap_or_default();
        let at = format!("/bin/{file}");
        binds.push(Bind { access: Access::Rx, ..read_only(contents.program, &at) });
        at
    } else {
        contents.program.to_string_lossy().into_owned()
    };
    binds.sort_by(|a, b| a.at.cmp(&b.at));
    let network = match (row.network, namespaces.boxes_net, namespaces.sources_net) {
        (Network::Member, ..) => NetPlan::Keep,
        (Network::Boxes, Some(n), _) | (Network::Sources, _, Some(n)) => NetPlan::Join(n),
        _ => NetPlan::Empty,
    };
    let user = match (row.user_namespace, row.network, namespaces.boxes_user) {
        (false, ..) => UserPlan::Host,
        // Capabilities over the boxes' network come from the namespace that owns it.
        (true, Network::Boxes, Some(n)) => UserPlan::Join(n),
        (true, ..) => UserPlan::New,
    };
    let capabilities = row
        .capabilities
        .iter()
        .map(|c| capability(c).ok_or_else(|| BadRow::Capability(c.clone())))
        .collect::<Result<_, _>>()?;
    Ok(JailSpec {
        name: name.to_owned(),
        program,
        argv: contents.argv,
        env: contents.env,
        uid,
        root_point: member.run("root"),
        binds,
        folders,
        files: contents.files,
        file_systems: vec![member.config.state_dir.clone(), member.config.run_dir.clone()],
        texts: contents.texts,
        descriptors: contents.descriptors,
        network,
        user,
        pid_namespace: row.pid_namespace,
        capabilities,
        filter: filter(member, row),
        tell_filter: false,
        tmp: row.tmp.map(|b| b.0),
        open_files: row.open_files.unwrap_or(DEFAULT_OPEN_FILES),
        file_max: row.file_max.map(|b| b.0),
        dies_with: None,
    })
}

/// Where name servers stand.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

fn filter(member: &Member, row: &Jail) -> FilterPlan {
    match row.seccomp {
        Seccomp::Own => FilterPlan::Own,
        Seccomp::Deny => FilterPlan::Deny,
        Seccomp::List => {
            let own = row.syscalls.iter().flat_map(|rule| rule.names.iter());
            let mut names: Vec<String> = member.topology.base_syscalls.iter().chain(own).cloned().collect();
            names.sort();
            names.dedup();
            FilterPlan::List { names, internet: row.network != Network::None, may_fork: row.may_exec }
        }
    }
}

fn access(path: &str, text: &str) -> Result<Access, BadRow> {
    Access::parse(text).ok_or_else(|| BadRow::Access { path: path.to_owned(), access: text.to_owned() })
}

fn device(path: &str, access: Access, optional: bool) -> Bind {
    Bind { from: path.into(), at: path.to_owned(), access, optional, device: true }
}

fn read_only(from: PathBuf, at: &str) -> Bind {
    Bind { from, at: at.to_owned(), access: Access::R, optional: false, device: false }
}

/// Where a template's process makes the socket that it listens on.
pub const SOCKETS: &str = "{sockets}";

/// A rule's host path.
fn expand(member: &Member, name: &str, slot: Option<Slot>, path: &str) -> PathBuf {
    let under = |base: PathBuf, rest: &str| base.join(rest.trim_start_matches('/'));
    if let Some(rest) = path.strip_prefix("{state}") {
        under(member.state_of(name), rest)
    } else if let Some(rest) = path.strip_prefix("{run}") {
        under(member.run_of(name), rest)
    } else if path == SOCKETS {
        member.sockets_of(name, slot)
    } else if let Some(of) = path.strip_prefix("{sockets:").and_then(|p| p.strip_suffix('}')) {
        member.sockets_of(of, None)
    } else if let Some(rest) = path.strip_prefix("{lib}") {
        under(member.lib.clone(), rest)
    } else {
        PathBuf::from(path)
    }
}

/// A template's program on the host.
pub fn program(member: &Member, row: &TemplateRow) -> PathBuf {
    let path = Path::new(&row.program);
    if path.is_absolute() { path.to_owned() } else { member.lib.join(path) }
}

/// The uid that a template's process runs under.
pub fn template_uid(member: &Member, row: &TemplateRow, slot: Option<Slot>) -> Result<u32, BadRow> {
    let bad = || BadRow::Uid(row.uid.clone());
    match row.uid.strip_prefix("box:") {
        Some(which) => {
            let which = which.parse().ok().filter(|n| *n < 4).ok_or_else(bad)?;
            Ok(member.config.box_uid(slot.ok_or(BadRow::NoSlot)?, which))
        }
        None => Ok(member.config.uid(row.uid.parse().ok().filter(|n| *n < 1024).ok_or_else(bad)?)),
    }
}

/// Capabilities that a row may keep. The list is short on purpose: a new one is a decision.
fn capability(name: &str) -> Option<u32> {
    match name {
        "CAP_NET_BIND_SERVICE" => Some(10),
        "CAP_NET_ADMIN" => Some(12),
        "CAP_NET_RAW" => Some(13),
        _ => None,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const CONFIG: &str = "name='m1'\nstate_dir='/var/lib/gtvp'\nrun_dir='/run/gtvp'\napi_socket='/run/gtvp/api.sock'\n\
        uid_base=200000\nbox_network='10.77.0.0'\ntransit_network='10.78.0.0'\n";

    /// A member with the repository's own topology.
    pub fn member() -> Member {
        let text = include_str!("../../topology.toml");
        Member {
            config: gtvp_model::member::parse(CONFIG).unwrap(),
            topology: gtvp_model::topology::Topology::parse(text).unwrap(),
            lib: "/usr/lib/gtvp".into(),
            config_digest: gtvp_model::digest::Digest([0; 32]),
            topology_digest: gtvp_model::digest::Digest([0; 32]),
        }
    }

    fn domain(name: &str) -> JailSpec {
        let m = member();
        let row = &m.topology.domain[name];
        let contents = Contents { program: m.lib.join(&row.binary), ..Contents::default() };
        let ns = Namespaces { boxes_net: Some(0), boxes_user: Some(1), sources_net: Some(2) };
        jail(&m, name, &row.jail, m.config.uid(row.uid), contents, ns).unwrap()
    }

    #[test]
    fn each_row_of_the_topology_makes_a_jail_with_a_filter() {
        let m = member();
        for name in m.topology.domain.keys() {
            let spec = domain(name);
            crate::seccomp::programs(&spec.filter, crate::seccomp::Mismatch::Kill).unwrap();
        }
        for (name, row) in &m.topology.template {
            let uid = template_uid(&m, row, Slot::new(3)).unwrap();
            let contents = Contents { program: program(&m, row), ..Contents::default() };
            let spec = jail(&m, name, &row.jail, uid, contents, Namespaces::default()).unwrap();
            crate::seccomp::programs(&spec.filter, crate::seccomp::Mismatch::Kill).unwrap();
        }
    }

    #[test]
    fn only_drivers_sees_kvm_and_the_boxes_network_and_only_security_the_tpm() {
        for name in member().topology.domain.keys() {
            let spec = domain(name);
            let sees = |path| spec.binds.iter().any(|b| b.at == path);
            assert_eq!(sees("/dev/kvm"), name == "drivers", "{name}");
            assert_eq!(sees("/dev/net/tun"), name == "drivers", "{name}");
            assert_eq!(sees("/dev/tpmrm0"), name == "security", "{name}");
            assert_eq!(spec.network == NetPlan::Join(0), name == "drivers", "{name}");
            assert_eq!(spec.network == NetPlan::Keep, name == "communication", "{name}");
            assert_eq!(spec.capabilities.is_empty(), name != "drivers", "{name}");
        }
    }

    #[test]
    fn only_security_reaches_the_software_tpm() {
        let at = PathBuf::from("/run/gtvp/sockets/tpm");
        for name in member().topology.domain.keys() {
            assert_eq!(domain(name).binds.iter().any(|b| b.from == at), name == "security", "{name}");
        }
        let m = member();
        for (name, row) in &m.topology.template {
            let uid = template_uid(&m, row, Slot::new(3)).unwrap();
            let contents = Contents { program: program(&m, row), ..Contents::default() };
            let spec = jail(&m, name, &row.jail, uid, contents, Namespaces::default()).unwrap();
            assert_eq!(spec.binds.iter().any(|b| b.from == at), name == "tpm", "{name}");
        }
    }

    #[test]
    fn only_security_and_the_box_itself_reach_its_vtpm() {
        let m = member();
        let all = PathBuf::from("/run/gtvp/sockets/vtpm");
        for name in m.topology.domain.keys() {
            assert_eq!(domain(name).binds.iter().any(|b| b.from == all), name == "security", "{name}");
        }
        for (name, row) in &m.topology.template {
            let uid = template_uid(&m, row, Slot::new(3)).unwrap();
            let contents = Contents { program: program(&m, row), slot: Slot::new(3), ..Contents::default() };
            let spec = jail(&m, name, &row.jail, uid, contents, Namespaces::default()).unwrap();
            let seen: Vec<_> = spec.binds.iter().filter(|b| b.from.starts_with(&all)).collect();
            assert!(seen.iter().all(|b| b.from == all.join("3")), "{name}");
            assert_eq!(!seen.is_empty(), name == "vtpm", "{name}");
        }
    }

    #[test]
    fn a_box_template_has_its_boxes_uid() {
        let m = member();
        let lazyfs = &m.topology.template["lazyfs"];
        assert_eq!(template_uid(&m, lazyfs, Slot::new(2)).unwrap(), 200_000 + 1024 + 2 * 4 + 1);
        assert!(matches!(template_uid(&m, lazyfs, None), Err(BadRow::NoSlot)));
    }
}
