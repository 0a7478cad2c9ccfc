//! One member as gtvpd sees it: its configuration, the topology, its folders. Reads files; changes nothing.

use std::io;
use std::path::{Path, PathBuf};

use gtvp_model::digest::Digest;
use gtvp_model::ids::Slot;
use gtvp_model::member::MemberConfig;
use gtvp_model::topology::Topology;

/// A member's configuration and where its things are.
#[derive(Debug, Clone)]
pub struct Member {
    /// member.toml.
    pub config: MemberConfig,
    /// topology.toml.
    pub topology: Topology,
    /// The folder with GTVP's programs.
    pub lib: PathBuf,
    /// SHA-256 of member.toml, as it was read.
    pub config_digest: Digest,
    /// SHA-256 of topology.toml, as it was read.
    pub topology_digest: Digest,
}

/// Why gtvpd cannot serve this member.
#[derive(Debug, thiserror::Error)]
pub enum BadMemberFiles {
    /// A file cannot be read.
    #[error("{0} cannot be read: {1}")]
    Read(PathBuf, #[source] io::Error),
    /// member.toml is wrong.
    #[error("{0}: {1}")]
    Config(PathBuf, #[source] gtvp_model::member::BadMember),
    /// topology.toml is wrong.
    #[error("{0}: {1}")]
    Topology(PathBuf, #[source] gtvp_model::topology::BadTopology),
}

impl Member {
    /// Reads `config` and the topology.toml beside gtvpd.
    pub fn open(config: &Path) -> Result<Self, BadMemberFiles> {
        let read =
            |path: &Path| std::fs::read_to_string(path).map_err(|e| BadMemberFiles::Read(path.to_owned(), e));
        let own = PathBuf::from("/proc/self/exe");
        let own = std::fs::canonicalize(&own).map_err(|e| BadMemberFiles::Read(own, e))?;
        let lib = own.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned);
        let config_text = read(config)?;
        let topology_path = lib.join("topology.toml");
        let topology_text = read(&topology_path)?;
        Ok(Self {
            config: gtvp_model::member::parse(&config_text)
                .map_err(|e| BadMemberFiles::Config(config.to_owned(), e))?,
            topology: Topology::parse(&topology_text)
                .map_err(|e| BadMemberFiles::Topology(topology_path, e))?,
            lib,
            config_digest: Digest::of(config_text.as_bytes()),
            topology_digest: Digest::of(topology_text.as_bytes()),
        })
    }

    /// The run directory's `name`.
    pub fn run(&self, name: &str) -> PathBuf {
        self.config.run_dir.join(name)
    }

    /// A domain's folder in the state directory.
    pub fn state_of(&self, domain: &str) -> PathBuf {
        self.config.state_dir.join(domain)
    }

    /// A domain's folder in the run directory.
    pub fn run_of(&self, domain: &str) -> PathBuf {
        self.config.run_dir.join(domain)
    }

    /// The socket of a domain, or of `supervisor`.
    pub fn socket_of(&self, domain: &str) -> PathBuf {
        self.run("ipc").join(format!("{domain}.sock"))
    }

    /// The folder with the sockets that `caller` may connect to. Seen in its jail as /gtvp/ipc.
    pub fn ways_of(&self, caller: &str) -> PathBuf {
        self.run("ways").join(caller)
    }

    /// The domains (and `supervisor`) that `caller` may call.
    pub fn callees_of(&self, caller: &str) -> Vec<String> {
        let domains = self.topology.domain.iter().filter(|(_, row)| row.callers.contains_key(caller));
        let mut callees: Vec<String> = domains.map(|(name, _)| name.clone()).collect();
        if self.topology.supervisor_callers.contains_key(caller) {
            callees.push("supervisor".into());
        }
        callees
    }

    /// Every row that can call: domains and templates.
    pub fn callers(&self) -> impl Iterator<Item = &String> {
        self.topology.domain.keys().chain(self.topology.template.keys())
    }

    /// The folder in which a template's process makes the socket that it listens on: for a box's, one in the template's.
    pub fn sockets_of(&self, template: &str, slot: Option<Slot>) -> PathBuf {
        let folder = self.run("sockets").join(template);
        slot.map_or_else(|| folder.clone(), |s| folder.join(s.get().to_string()))
    }

    /// The keeper socket of a process that is restarted.
    pub fn keeper_of(&self, template: &str, slot: Option<Slot>) -> PathBuf {
        self.run("keeper").join(format!("{}.sock", instance(template, slot)))
    }

    /// The member's name in what the whole server sees. Two members of one name can run on one server (two labs), but never
    /// with the same uids.
    pub fn server_wide_name(&self) -> String {
        format!("gtvp-{}-{:x}", self.config.name, self.config.uid_base)
    }

    /// The name of the boxes' network namespace.
    pub fn box_netns(&self) -> String {
        format!("{}-box", self.server_wide_name())
    }

    /// The name of the sources' network namespace.
    pub fn source_netns(&self) -> String {
        format!("{}-src", self.server_wide_name())
    }
}

/// A process of a template, in file names and messages.
pub fn instance(template: &str, slot: Option<Slot>) -> String {
    slot.map_or_else(|| template.to_owned(), |s| format!("{template}-{}", s.get()))
}
