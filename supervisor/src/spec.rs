//! What a jail is, as gtvpd tells it to the stage that builds it. Only words and numbers; descriptors travel beside it
//! and are meant by their place in that list.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A jail and the program that runs in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailSpec {
    /// Row of topology.toml, for messages.
    pub name: String,
    /// Program, as the jail sees it.
    pub program: String,
    /// Its arguments, without the program.
    pub argv: Vec<String>,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// Its uid and gid.
    pub uid: u32,
    /// An empty folder of the host on which the jail's root is put together.
    pub root_point: PathBuf,
    /// Host paths that it sees.
    pub binds: Vec<Bind>,
    /// Empty folders of the root.
    pub folders: Vec<String>,
    /// Files of the root, from descriptors.
    pub files: Vec<FileFrom>,
    /// Folders of the host on whose file systems such files may be.
    pub file_systems: Vec<PathBuf>,
    /// Text files of the root.
    pub texts: Vec<(String, String)>,
    /// Descriptors and the numbers under which the program finds them.
    pub descriptors: Vec<Descriptor>,
    /// Its network namespace.
    pub network: NetPlan,
    /// Its user namespace.
    pub user: UserPlan,
    /// It is the first process of a pid namespace.
    pub pid_namespace: bool,
    /// Capabilities kept, by number.
    pub capabilities: Vec<u32>,
    /// The system-call filter.
    pub filter: FilterPlan,
    /// Mismatches of the filter are told instead of ending the process.
    pub tell_filter: bool,
    /// Size of a private /tmp in bytes.
    pub tmp: Option<u64>,
    /// Most open files.
    pub open_files: u64,
    /// Most bytes of a file that it writes.
    pub file_max: Option<u64>,
    /// It dies with the process of this id, gtvpd.
    pub dies_with: Option<i32>,
}

/// A host path inside the jail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Host path.
    pub from: PathBuf,
    /// Path in the jail.
    pub at: String,
    /// What may be done with it.
    pub access: Access,
    /// Not an error when the host lacks it.
    pub optional: bool,
    /// A device node.
    pub device: bool,
}

/// What may be done with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Read.
    R,
    /// Read and write.
    Rw,
    /// Read and execute.
    Rx,
}

impl Access {
    /// As topology.toml writes it.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "r" => Some(Self::R),
            "rw" => Some(Self::Rw),
            "rx" => Some(Self::Rx),
            _ => None,
        }
    }
}

/// A descriptor that appears as a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFrom {
    /// Place of the descriptor.
    pub from: usize,
    /// Path in the jail.
    pub at: String,
    /// It was open for writing, and so is the file.
    pub writable: bool,
}

/// A descriptor under its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Place of the descriptor.
    pub from: usize,
    /// Its number in the program.
    pub number: i32,
}

/// A network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetPlan {
    /// An empty one.
    Empty,
    /// gtvpd's own, the member's.
    Keep,
    /// The one of this descriptor.
    Join(usize),
}

/// A user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserPlan {
    /// The host's.
    Host,
    /// A new one; gtvpd writes its maps when the stage asks.
    New,
    /// The one of this descriptor.
    Join(usize),
}

/// A system-call filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilterPlan {
    /// These calls and no others.
    List {
        /// Names.
        names: Vec<String>,
        /// It may open internet sockets.
        internet: bool,
        /// It may start processes.
        may_fork: bool,
    },
    /// All but a fixed list.
    Deny,
    /// The program installs its own.
    Own,
}

/// What the stage says to gtvpd. Nothing more is said when the program runs: the socket closes.
#[derive(Debug, Serialize, Deserialize)]
pub enum StageSays {
    /// It is in its new user namespace and waits for the maps; any message lets it go on.
    WriteMaps,
    /// The listener of a told filter travels with this.
    Listener,
    /// The jail could not be built.
    Failed(String),
}
