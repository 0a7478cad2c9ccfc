//! `topology.toml`: who may do what. The supervisor enforces it, the domains check their callers by it, the tests read
//! it, a newcomer reads it first.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// System calls that every Rust process needs; each jail has these and its own.
    pub base_syscalls: Vec<String>,
    /// The processes that gtvpd keeps running, by name.
    pub domain: BTreeMap<String, DomainRow>,
    /// The processes that gtvpd starts when a domain asks, by name.
    pub template: BTreeMap<String, TemplateRow>,
    /// Methods of the supervisor itself, by caller.
    pub supervisor_callers: BTreeMap<String, Vec<String>>,
}

/// A jail: what a process finds when it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jail {
    /// Its network.
    #[serde(default)]
    pub network: Network,
    /// A user namespace of its own, in which it has `capabilities`; its ids are the same inside and outside.
    #[serde(default)]
    pub user_namespace: bool,
    /// A pid namespace of its own with `/proc`.
    #[serde(default)]
    pub pid_namespace: bool,
    /// Capabilities kept, in its user namespace. None keeps none in the host's.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// What of the host's files it sees. Everything else does not exist for it.
    #[serde(default)]
    pub paths: Vec<PathRule>,
    /// Devices, by host path.
    #[serde(default)]
    pub devices: Vec<PathRule>,
    /// System calls beyond the base set. Empty with `seccomp = "own"`: the program brings its own filter (QEMU).
    #[serde(default)]
    pub syscalls: Vec<SyscallRule>,
    /// Who installs the filter.
    #[serde(default)]
    pub seccomp: Seccomp,
    /// Whether it may execute other programs that it sees (apt does).
    #[serde(default)]
    pub may_exec: bool,
    /// Size of its private /tmp, if it has one.
    #[serde(default)]
    pub tmp: Option<crate::units::Bytes>,
    /// Memory limit, where the host has a memory cgroup.
    #[serde(default)]
    pub memory_max: Option<crate::units::Bytes>,
    /// Most open files (RLIMIT_NOFILE).
    #[serde(default)]
    pub open_files: Option<u64>,
    /// Largest file that it may write (RLIMIT_FSIZE): what is past it ends the process.
    #[serde(default)]
    pub file_max: Option<crate::units::Bytes>,
}

/// A network place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// An empty network namespace.
    #[default]
    None,
    /// The member's: other members are reached here.
    Member,
    /// The boxes' switch.
    Boxes,
    /// Where package sources are reached.
    Sources,
}

/// Who installs a process' seccomp filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// gtvpd: base and `syscalls`, everything else ends the process.
    #[default]
    List,
    /// gtvpd: a short list of what it may *not* (mounts, modules, namespaces, ptrace, keys, reboot …), for programs
    /// that are not ours.
    Deny,
    /// The program itself, before it handles outside input.
    Own,
}

/// A path and what may be done with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathRule {
    /// Host path. `{state}` is the domain's folder in the member's state directory, `{run}` its folder in the run
    /// directory, both made and owned by it. `{sockets}` is a folder in which a template's process makes the socket that it
    /// listens on, and `{sockets:NAME}` is that of the template NAME: nobody without such a row reaches it.
    pub path: String,
    /// Where it appears; the same when not said.
    #[serde(default)]
    pub at: Option<String>,
    /// `r`, `rw`, `rx`.
    pub access: String,
    /// Not an error when the host lacks it.
    #[serde(default)]
    pub optional: bool,
    /// Why it is needed.
    pub why: String,
}

/// System calls and why they are needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyscallRule {
    /// Names.
    pub names: Vec<String>,
    /// Why.
    pub why: String,
}

/// A process that gtvpd keeps running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainRow {
    /// What it is for, one line.
    pub purpose: String,
    /// Uid relative to the member's base.
    pub uid: u32,
    /// Program, beside gtvpd.
    pub binary: String,
    /// Its jail.
    pub jail: Jail,
    /// Who may call which of its methods.
    #[serde(default)]
    pub callers: BTreeMap<String, Vec<String>>,
}

/// A process that gtvpd starts at a domain's request: fixed program, fixed arguments, typed parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateRow {
    /// What it is for, one line.
    pub purpose: String,
    /// The only domain that may ask for it.
    pub owner: String,
    /// Program: a path, or a name beside gtvpd.
    pub program: String,
    /// `box:0`, `box:1` … for a uid of the box, or a number relative to the member's base.
    pub uid: String,
    /// Its jail.
    pub jail: Jail,
    /// Arguments. `{name}` stands for a parameter, `{fd:name}` for the number of a descriptor handed over.
    #[serde(default)]
    pub argv: Vec<String>,
    /// Arguments that are added when the descriptor or parameter they need was given.
    #[serde(default)]
    pub group: Vec<ArgvGroup>,
    /// Parameters.
    #[serde(default)]
    pub params: BTreeMap<String, ParamType>,
    /// Descriptors that the owner hands over, by name. A trailing `?` makes one optional.
    #[serde(default)]
    pub fds: Vec<String>,
    /// Descriptors that appear as files at these paths in the jail.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Start it again with the descriptors that it stored, when it dies.
    #[serde(default)]
    pub restart: bool,
    /// End it when its owner's connection closes (an import); else it outlives everyone (a box).
    #[serde(default)]
    pub tied: bool,
    /// At most one runs on a member.
    #[serde(default)]
    pub single: bool,
}

/// Arguments that depend on something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArgvGroup {
    /// `fd:NAME` or `param:NAME=VALUE`.
    pub when: String,
    /// Arguments.
    pub argv: Vec<String>,
}

/// What a parameter may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParamType {
    /// A whole number in this range.
    Int([u64; 2]),
    /// One of these words.
    OneOf(Vec<String>),
    /// Letters, digits and `.+-_:~=/`, never beginning with `-`, at most this many.
    Word(usize),
    /// Any number of words, as arguments of their own, in the place of an argument that is just `{name}`.
    Words(usize),
}

/// Why topology.toml was refused.
#[derive(Debug, thiserror::Error)]
pub enum BadTopology {
    /// Not TOML of this shape.
    #[error("topology.toml cannot be read")]
    Syntax(#[from] toml::de::Error),
    /// Two rows share a uid.
    #[error("{0} and {1} have the same uid")]
    SharedUid(String, String),
    /// A caller, owner or domain that no row describes.
    #[error("{0} is named but has no row")]
    Unknown(String),
}

impl Topology {
    /// Reads and checks the file's text.
    pub fn parse(text: &str) -> Result<Self, BadTopology> {
        let t: Self = toml::from_str(text)?;
        let mut uids: BTreeMap<u32, &str> = BTreeMap::new();
        for (name, row) in &t.domain {
            if let Some(other) = uids.insert(row.uid, name) {
                return Err(BadTopology::SharedUid(other.to_owned(), name.clone()));
            }
            for caller in row.callers.keys() {
                t.known(caller)?;
            }
        }
        for row in t.template.values() {
            t.known(&row.owner)?;
        }
        t.supervisor_callers.keys().try_for_each(|c| t.known(c))?;
        Ok(t)
    }

    fn known(&self, name: &str) -> Result<(), BadTopology> {
        if self.domain.contains_key(name) || self.template.contains_key(name) {
            return Ok(());
        }
        Err(BadTopology::Unknown(name.to_owned()))
    }

    /// What a domain checks its callers by.
    pub fn callers(&self) -> Callers {
        let domains = self.domain.iter();
        let mut methods: BTreeMap<_, _> =
            domains.clone().map(|(name, row)| (name.clone(), row.callers.clone())).collect();
        methods.insert("supervisor".into(), self.supervisor_callers.clone());
        Callers {
            domain: domains.map(|(name, row)| (name.clone(), row.uid)).collect(),
            template: self.template.iter().map(|(name, row)| (name.clone(), row.uid.clone())).collect(),
            methods,
        }
    }
}

/// Who has which uid and may call what: all that a domain needs of the topology.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Callers {
    /// Uids of domains, relative to the member's base.
    pub domain: BTreeMap<String, u32>,
    /// Uids of templates, as their rows have them.
    pub template: BTreeMap<String, String>,
    /// Methods by callee and caller.
    pub methods: BTreeMap<String, BTreeMap<String, Vec<String>>>,
}

impl Callers {
    /// Whether `caller` may call `method` of `callee`. What no row allows is denied.
    pub fn allows(&self, caller: &str, callee: &str, method: &str) -> bool {
        let methods = self.methods.get(callee).and_then(|callers| callers.get(caller));
        methods.is_some_and(|methods| methods.iter().any(|m| m == method))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_row_allows_is_denied_to_callers_of_domains_too() {
        let callers = Topology::parse(include_str!("../../topology.toml")).unwrap().callers();
        // As a domain reads them in its jail.
        let callers: Callers = serde_json::from_str(&serde_json::to_string(&callers).unwrap()).unwrap();
        assert!(callers.allows("gateway", "management", "create_box"));
        assert!(callers.allows("components", "supervisor", "spawn"));
        for (caller, callee, method) in [
            ("gateway", "drivers", "start"),
            ("gateway", "management", "create"),
            ("lazyfs", "components", "compose"),
            ("gateway", "supervisor", "status"),
            ("nobody", "management", "list_boxes"),
            ("gateway", "nobody", "list_boxes"),
        ] {
            assert!(!callers.allows(caller, callee, method), "{caller} may call {callee}.{method}");
        }
        assert_eq!((callers.domain["drivers"], callers.template["lazyfs"].as_str()), (5, "box:1"));
    }
}
