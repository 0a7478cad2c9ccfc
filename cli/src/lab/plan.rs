//! Who has which name, address and uids in a lab. Pure: everything follows from the lab's name and numbers.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use gtvp_model::fault::Fault;
use gtvp_model::ids::MemberName;
use gtvp_model::member::{MEMBERS_PORT, MemberConfig, TpmChoice, UIDS_PER_MEMBER};
use serde::{Deserialize, Serialize};

use crate::failure::invalid;

/// Most members of a lab.
pub const MAX_MEMBERS: u8 = 64;
/// Labs at once.
pub const MAX_LABS: u8 = 8;
/// Second numbers of the labs' networks 10.X.I.0/24, in the order in which they are tried.
pub const NETWORKS: [u8; 3] = [88, 188, 208];
/// Members' networks for boxes are 10.(90 + I).N.0/24, what leads to them 10.(100 + I).N.0/30.
const BOXES: u8 = 90;
const TRANSIT: u8 = 100;
/// Where labs keep what they keep unless said otherwise, each in a directory of its name.
pub const DEFAULT_DIR: &str = "/var/lib/gtvp/lab";
/// First uid of all labs: above the ranges that distributions and systemd hand out to users and containers.
const UIDS: u32 = 1_879_100_000;
/// Longest name: network namespaces and sockets have it in their own.
const MAX_NAME: usize = 24;

/// A lab, as kept in `lab.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lab {
    /// Its name.
    pub name: MemberName,
    /// Its number: networks and uids follow.
    pub index: u8,
    /// Its network is 10.`network`.`index`.0/24.
    pub network: u8,
    /// Where its members keep what they keep.
    pub dir: PathBuf,
}

/// One member of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// `m1`, `m2`, …
    pub name: String,
    /// Its network namespace.
    pub netns: String,
    /// The host's end of its cable.
    pub veth: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// What gtvpd is told.
    pub config: MemberConfig,
}

impl Lab {
    /// Checks what no type does.
    pub fn check(&self) -> Result<(), Fault> {
        if self.name.as_str().len() > MAX_NAME {
            return Err(invalid(format!(
                "the lab's name {} is longer than {MAX_NAME} characters",
                self.name
            )));
        }
        if self.index >= MAX_LABS || !NETWORKS.contains(&self.network) || !self.dir.is_absolute() {
            return Err(invalid(format!("lab.toml of {} has a value that is not usable", self.name)));
        }
        Ok(())
    }

    /// The bridge that its members hang on.
    pub fn bridge(&self) -> String {
        format!("gtvpl{}", self.index)
    }

    /// Its firewall table. By number, as its bridge: two roots on one network may each have a lab of the same name.
    pub fn table(&self) -> String {
        format!("gtvp_lab_{}", self.index)
    }

    /// Its network, a /24.
    pub fn subnet(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.network, self.index, 0)
    }

    /// The host's address in it.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.network, self.index, 1)
    }

    /// Where its members have their sockets.
    pub fn run_dir(&self, run_root: &Path) -> PathBuf {
        run_root.join("lab").join(self.name.as_str())
    }

    /// The first uid of its members.
    pub fn uids(&self) -> std::ops::Range<u32> {
        let first = UIDS + (u32::from(self.index) * u32::from(MAX_MEMBERS) + 1) * UIDS_PER_MEMBER;
        first..first + u32::from(MAX_MEMBERS) * UIDS_PER_MEMBER
    }

    /// Member `n`, from 1.
    pub fn member(&self, n: u8, run_root: &Path) -> Result<Member, Fault> {
        if !(1..=MAX_MEMBERS).contains(&n) {
            return Err(invalid(format!("a lab has members m1 to m{MAX_MEMBERS}")));
        }
        let name = format!("m{n}");
        let number = u32::from(self.index) * u32::from(MAX_MEMBERS) + u32::from(n);
        let run_dir = self.run_dir(run_root).join(&name);
        Ok(Member {
            netns: format!("gtvp-{}-{name}", self.name),
            veth: format!("{}{name}", self.bridge()),
            address: Ipv4Addr::new(10, self.network, self.index, 10 + n),
            config: MemberConfig {
                name: name
                    .parse()
                    .map_err(|e: gtvp_model::ids::BadName| Fault::internal("a member's name is wrong", &e))?,
                state_dir: self.dir.join(&name),
                api_socket: run_dir.join("api.sock"),
                run_dir,
                api_group: None,
                uid_base: UIDS + number * UIDS_PER_MEMBER,
                box_network: Ipv4Addr::new(10, BOXES + self.index, n, 0),
                transit_network: Ipv4Addr::new(10, TRANSIT + self.index, n, 0),
                endpoint: format!("10.{}.{}.{}:{MEMBERS_PORT}", self.network, self.index, 10 + n)
                    .parse()
                    .ok(),
                // Its members are processes of one server, which has one TPM at most.
                tpm: Some(TpmChoice::Software),
            },
            name,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn lab(name: &str, index: u8) -> Lab {
        Lab {
            name: name.parse().unwrap(),
            index,
            network: 88,
            dir: Path::new("/var/lib/gtvp/lab").join(name),
        }
    }

    #[test]
    fn the_first_member_is_where_the_guide_says() {
        let m = lab("lab", 0).member(1, Path::new("/run/gtvp")).unwrap();
        assert_eq!((m.netns.as_str(), m.address.to_string().as_str()), ("gtvp-lab-m1", "10.88.0.11"));
        assert_eq!(m.config.box_network.to_string(), "10.90.1.0");
        assert_eq!(m.config.api_socket, Path::new("/run/gtvp/lab/lab/m1/api.sock"));
        assert_eq!(m.config.state_dir, Path::new("/var/lib/gtvp/lab/lab/m1"));
    }

    #[test]
    fn no_two_members_of_any_labs_share_anything() {
        let mut seen = BTreeSet::new();
        for index in 0..MAX_LABS {
            let lab = lab(&format!("lab-{index}"), index);
            for n in 1..=MAX_MEMBERS {
                let m = lab.member(n, Path::new("/run/gtvp")).unwrap();
                let c = &m.config;
                for value in [
                    m.netns.clone(),
                    m.veth.clone(),
                    m.address.to_string(),
                    c.box_network.to_string(),
                    c.transit_network.to_string(),
                    c.uid_base.to_string(),
                    c.state_dir.display().to_string(),
                ] {
                    assert!(seen.insert(value.clone()), "{value} twice");
                }
                assert!(
                    lab.uids().contains(&c.uid_base)
                        && lab.uids().contains(&(c.uid_base + UIDS_PER_MEMBER - 1))
                );
                assert!(m.veth.len() <= 15, "{} is too long for an interface", m.veth);
                let text = toml::to_string(c).unwrap();
                assert_eq!(&gtvp_model::member::parse(&text).unwrap(), c);
            }
        }
    }

    #[test]
    fn sockets_of_the_longest_lab_fit_into_a_socket_address() {
        let lab = lab(&"x".repeat(MAX_NAME), 7);
        lab.check().unwrap();
        let m = lab.member(MAX_MEMBERS, Path::new("/run/gtvp")).unwrap();
        assert!(m.config.run_dir.join("ipc/communication.sock").as_os_str().len() < 108);
    }
}
