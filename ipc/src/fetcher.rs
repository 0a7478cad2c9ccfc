//! What `components` asks of the two processes that stand between it and package sources. Neither listens anywhere: each
//! is born with one socket, on which every message hands it one end of a connection of its own; on that connection
//! calls follow each other as in every interface here.
//!
//! `fetcher` has a network and nothing else; what it answers is untrusted bytes. `apt` has no network: it runs Debian's
//! own programs over what the fetcher brings, and it is here that the archive's signatures are checked.

use serde::{Deserialize, Serialize};

use crate::Nothing;

/// Most bytes that one [`Range`] may ask for: the control part of the largest packages is about 1 MiB.
pub const MAX_RANGE: u64 = 4 * 1024 * 1024;

/// Fetch what is at a URI. Answers with a descriptor of its bytes, which nobody has checked.
#[derive(Debug, Serialize, Deserialize)]
pub struct Acquire {
    /// The URI, with a scheme for which apt has a method.
    pub uri: String,
    /// Bytes it should have, and may not exceed.
    pub size: u64,
    /// apt's configuration of its acquire methods, `Name=value`.
    pub config: Vec<String>,
}

/// How far an [`Acquire`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// Bytes so far.
    pub bytes: u64,
}

/// The first bytes of what is at an `http` URI. Answers with a descriptor of them.
#[derive(Debug, Serialize, Deserialize)]
pub struct Range {
    /// The URI.
    pub uri: String,
    /// First byte.
    pub from: u64,
    /// Bytes, at most [`MAX_RANGE`].
    pub length: u64,
    /// The proxy, if one is to be used: `http://HOST:PORT`.
    pub proxy: Option<String>,
}

/// Turn this connection into one of apt's acquire methods. What follows on it are its messages.
#[derive(Debug, Serialize, Deserialize)]
pub struct Method {
    /// `http`, `https`, `ftp`.
    pub name: String,
}

/// One message of apt's method protocol, as text; a file that it speaks of is the descriptor beside it.
#[derive(Debug, Serialize, Deserialize)]
pub struct MethodMessage {
    /// The message with its empty line.
    pub text: String,
}

crate::interface!("fetcher" {
    /// See [`Acquire`].
    Acquire = "acquire" -> Fetched, progress Fetched;
    /// See [`Range`].
    Range = "range" -> Fetched;
    /// See [`Method`].
    Method = "method" -> Nothing;
});

/// The jailed apt.
pub mod apt {
    use serde::{Deserialize, Serialize};

    use crate::Nothing;

    /// Write apt's configuration.
    #[derive(Debug, Serialize, Deserialize)]
    pub struct Setup {
        /// Architectures whose Contents indices are wanted, for example `amd64`, `all`.
        pub contents: Vec<String>,
    }

    /// One of Debian's programs that may be run.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Program {
        /// apt-get.
        AptGet,
        /// apt-cache.
        AptCache,
        /// apt-config.
        AptConfig,
    }

    /// Run a program. Answers with two descriptors: what it wrote to standard output and to standard error.
    #[derive(Debug, Serialize, Deserialize)]
    pub struct Run {
        /// Which.
        pub program: Program,
        /// Arguments.
        pub args: Vec<String>,
    }

    /// How it ended.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Ran {
        /// Its exit status, none when a signal ended it.
        pub code: Option<i32>,
    }

    /// Read one of apt's index files. Answers with a descriptor.
    #[derive(Debug, Serialize, Deserialize)]
    pub struct ReadIndex {
        /// Its path as `apt-get indextargets` told it.
        pub path: String,
    }

    crate::interface!("apt" {
        /// See [`Setup`].
        Setup = "setup" -> Nothing;
        /// See [`Run`].
        Run = "run" -> Ran;
        /// See [`ReadIndex`].
        ReadIndex = "read_index" -> Nothing;
    });
}
