//! What a person asks for: a lazy box from a list of needs.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::fault::{Fault, FaultKind};
use crate::ids::BoxName;
use crate::units::Bytes;

/// Most needs in one spec; a closure is found by the resolver, so people list tens.
pub const MAX_NEEDS: usize = 256;
/// Most ports that one box publishes.
pub const MAX_PUBLISH: usize = 64;
/// Most bytes in all of a spec's arguments and environment together; Linux's own bound for one string is 128 KiB.
pub const MAX_ARGS_BYTES: usize = 128 * 1024;
/// Least memory for a box: Debian's cloud kernel and its initramfs do not boot in less.
pub const MIN_MEMORY: Bytes = Bytes::mib(128);

/// Largest writable layer: a file of ext4 ends at 16 TiB, and that is what it is on most members.
pub const MAX_DISK: Bytes = Bytes::mib(8 * 1024 * 1024);

/// A lazy box as asked for. The file form (`gtvp run -f`) is the same in TOML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BoxSpec {
    /// The box's name and host name: a-z, 0-9 and '-', at most 63 characters.
    pub name: BoxName,
    /// What the application needs, for example `nginx` or `deb:nginx=1.22.1-9`. The closure follows by itself.
    pub needs: Vec<Need>,
    /// The application: program and arguments.
    pub command: Vec<String>,
    /// Environment of the application, beside PATH, HOME and the like.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// User of the application, by name or number. Default: root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Working directory. Default: `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Memory of the virtual machine. Default: 512M.
    #[serde(default = "default_memory")]
    pub memory: Bytes,
    /// Virtual processors. Default: 1.
    #[serde(default = "default_cpus")]
    pub cpus: u16,
    /// Size of the writable layer. It takes only what is written. Default: 8G.
    #[serde(default = "default_disk")]
    pub disk: Bytes,
    /// Ports of the member that lead to ports of the box, for example `8080:80` or `5353:53/udp`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Publish>,
    /// Boot it at each start, and never start it from a template, with which boxes of this member have what a kernel draws while it
    /// boots in common.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cold: bool,
}

fn default_memory() -> Bytes {
    Bytes::mib(512)
}
fn default_cpus() -> u16 {
    1
}
fn default_disk() -> Bytes {
    Bytes::mib(8 * 1024)
}

impl BoxSpec {
    /// A spec with the defaults.
    pub fn new(name: BoxName, needs: Vec<Need>, command: Vec<String>) -> Self {
        Self {
            name,
            needs,
            command,
            env: BTreeMap::new(),
            user: None,
            workdir: None,
            memory: default_memory(),
            cpus: default_cpus(),
            disk: default_disk(),
            publish: Vec::new(),
            cold: false,
        }
    }

    /// Checks what no single field can: bounds, and ports published twice.
    pub fn check(&self) -> Result<(), Fault> {
        let invalid = |m: String| Fault::new(FaultKind::Invalid, m);
        if self.command.is_empty() || self.command[0].is_empty() {
            return Err(invalid("the box has no command".into())
                .hint("say what to run after --, for example: -- nginx -g 'daemon off;'"));
        }
        if self.needs.is_empty() {
            return Err(invalid("the box has no needs".into())
                .hint("name at least one package with --needs, for example: --needs nginx"));
        }
        if self.needs.len() > MAX_NEEDS {
            return Err(invalid(format!("{} needs are more than {MAX_NEEDS}", self.needs.len())));
        }
        let bytes: usize = self.command.iter().map(String::len).sum::<usize>()
            + self.env.iter().map(|(k, v)| k.len() + v.len() + 2).sum::<usize>();
        if bytes > MAX_ARGS_BYTES {
            return Err(invalid(format!(
                "command and environment are {bytes} bytes, more than {MAX_ARGS_BYTES}"
            )));
        }
        if self.command.iter().any(|a| a.contains('\0')) {
            return Err(invalid("an argument contains a NUL byte".into()));
        }
        if let Some((key, _)) =
            self.env.iter().find(|(k, v)| k.is_empty() || k.contains(['=', '\0']) || v.contains('\0'))
        {
            return Err(invalid(format!("environment variable {key:?} is not usable")));
        }
        if self.memory < MIN_MEMORY {
            return Err(invalid(format!("{} of memory is less than a kernel needs", self.memory))
                .hint(format!("give it at least {MIN_MEMORY}")));
        }
        if self.cpus == 0 || self.cpus > 255 {
            return Err(invalid(format!("{} processors: between 1 and 255 are possible", self.cpus)));
        }
        if self.disk < Bytes::mib(64) {
            return Err(
                invalid(format!("a writable layer of {} is too small", self.disk)).hint("at least 64M")
            );
        }
        if self.disk > MAX_DISK {
            return Err(invalid(format!("a writable layer of {} is too large", self.disk))
                .hint(format!("at most {MAX_DISK}")));
        }
        if self.workdir.as_deref().is_some_and(|d| !d.starts_with('/') || d.contains('\0')) {
            return Err(invalid("the working directory is not an absolute path".into()));
        }
        if self.publish.len() > MAX_PUBLISH {
            return Err(invalid(format!(
                "{} published ports are more than {MAX_PUBLISH}",
                self.publish.len()
            )));
        }
        for (i, p) in self.publish.iter().enumerate() {
            if self.publish[..i].iter().any(|q| (q.host, q.protocol) == (p.host, p.protocol)) {
                return Err(invalid(format!("port {}/{} is published twice", p.host, p.protocol)));
            }
        }
        Ok(())
    }
}

/// One thing that an application needs: a package of Debian's archive, at any version or at one.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Need {
    /// Package name (Debian Policy §5.6.1).
    pub package: String,
    /// Exact version, if pinned (Debian Policy §5.6.12).
    pub version: Option<String>,
}

/// Why a need was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a need: write a package name, or deb:NAME=VERSION")]
pub struct BadNeed(String);

impl FromStr for Need {
    type Err = BadNeed;
    fn from_str(s: &str) -> Result<Self, BadNeed> {
        let bad = || BadNeed(s.chars().take(80).collect());
        let rest = s.strip_prefix("deb:").unwrap_or(s);
        let (package, version) = match rest.split_once('=') {
            Some((p, v)) => (p, Some(v)),
            None => (rest, None),
        };
        let name_ok = package.len() >= 2
            && package.len() <= 128
            && package.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && package
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.'));
        let version_ok = version.is_none_or(|v| {
            !v.is_empty()
                && v.len() <= 128
                && v.starts_with(|c: char| c.is_ascii_digit())
                && v.bytes().all(|b| b.is_ascii_alphanumeric() || b".+-~:".contains(&b))
        });
        if !name_ok || !version_ok {
            return Err(bad());
        }
        Ok(Self { package: package.to_owned(), version: version.map(str::to_owned) })
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "deb:{}", self.package)?;
        self.version.iter().try_for_each(|v| write!(f, "={v}"))
    }
}

impl TryFrom<String> for Need {
    type Error = BadNeed;
    fn try_from(s: String) -> Result<Self, BadNeed> {
        s.parse()
    }
}

impl From<Need> for String {
    fn from(n: Need) -> String {
        n.to_string()
    }
}

/// Transport protocol of a published port.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of the member that leads to a port of the box: `HOST:BOX[/tcp|/udp]`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Publish {
    /// Port on the member, 1 to 65535.
    pub host: u16,
    /// Port in the box, 1 to 65535.
    pub guest: u16,
    /// TCP unless said otherwise.
    pub protocol: Protocol,
}

/// Why a published port was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a published port: write HOST:BOX or HOST:BOX/udp, for example 8080:80")]
pub struct BadPublish(String);

impl FromStr for Publish {
    type Err = BadPublish;
    fn from_str(s: &str) -> Result<Self, BadPublish> {
        let bad = || BadPublish(s.chars().take(80).collect());
        let (ports, protocol) = match s.split_once('/') {
            None | Some((_, "tcp")) => (s.split('/').next().unwrap_or(s), Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some(_) => return Err(bad()),
        };
        let (host, guest) = ports.split_once(':').ok_or_else(bad)?;
        let port = |t: &str| match t.parse::<u16>() {
            Ok(n) if n > 0 && t.bytes().all(|b| b.is_ascii_digit()) => Ok(n),
            _ => Err(bad()),
        };
        Ok(Self { host: port(host)?, guest: port(guest)?, protocol })
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.guest)?;
        if self.protocol == Protocol::Udp { f.write_str("/udp") } else { Ok(()) }
    }
}

impl TryFrom<String> for Publish {
    type Error = BadPublish;
    fn try_from(s: String) -> Result<Self, BadPublish> {
        s.parse()
    }
}

impl From<Publish> for String {
    fn from(p: Publish) -> String {
        p.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_read_and_print() {
        assert_eq!("nginx".parse::<Need>().unwrap().to_string(), "deb:nginx");
        assert_eq!("deb:g++=4:12.2.0-3".parse::<Need>().unwrap().version.unwrap(), "4:12.2.0-3");
        for bad in ["", "x", "Nginx", "-o", "a b", "nginx=", "../etc", "oci:x", "nginx=-1"] {
            assert!(bad.parse::<Need>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn published_ports_read_and_print() {
        let p: Publish = "8080:80".parse().unwrap();
        assert_eq!((p.host, p.guest, p.protocol), (8080, 80, Protocol::Tcp));
        assert_eq!("5353:53/udp".parse::<Publish>().unwrap().to_string(), "5353:53/udp");
        for bad in ["", "80", "0:80", "80:0", "70000:1", "80:80/sctp", "+80:80", "a:b"] {
            assert!(bad.parse::<Publish>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_and_defaults_are_filled() {
        let ok = "name='w'\nneeds=['nginx']\ncommand=['nginx']\n";
        let spec: BoxSpec = toml::from_str(ok).unwrap();
        assert_eq!(spec.memory, Bytes::mib(512));
        assert!(spec.check().is_ok());
        let e = toml::from_str::<BoxSpec>(&format!("{ok}memroy='1G'\n")).unwrap_err();
        assert!(e.to_string().contains("memroy"), "{e}");
    }

    #[test]
    fn a_writable_layer_has_a_least_and_a_most() {
        let mut spec = BoxSpec::new("w".parse().unwrap(), vec!["nginx".parse().unwrap()], vec!["x".into()]);
        for (disk, fits) in [("1M", false), ("64M", true), ("8T", true), ("9T", false)] {
            spec.disk = disk.parse().unwrap();
            assert_eq!(spec.check().is_ok(), fits, "{disk}");
        }
    }

    #[test]
    fn a_port_published_twice_is_refused() {
        let mut spec = BoxSpec::new("w".parse().unwrap(), vec!["nginx".parse().unwrap()], vec!["x".into()]);
        spec.publish = vec!["80:80".parse().unwrap(), "80:81".parse().unwrap()];
        assert!(spec.check().is_err());
    }
}
