//! A member's configuration, and a member as the API shows it.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ids::{MemberName, Slot};
use crate::token::Endpoint;
use crate::union::TpmClass;

/// `member.toml`: what an administrator tells `gtvpd` about this server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberConfig {
    /// This member's name.
    pub name: MemberName,
    /// Kept across reboots; gtvpd makes one folder for each domain in it.
    pub state_dir: PathBuf,
    /// Sockets and process records; lost at reboot.
    pub run_dir: PathBuf,
    /// Unix socket of the API for the local CLI.
    pub api_socket: PathBuf,
    /// Who may use the API socket, beside root.
    #[serde(default)]
    pub api_group: Option<String>,
    /// First of the 4096 uids (and gids) that this member's domains and boxes run under.
    pub uid_base: u32,
    /// The boxes' network, a /24: `.1` is the gateway, boxes follow.
    pub box_network: Ipv4Addr,
    /// The /30 between the member's network and the boxes': `.1` is the member, `.2` the boxes' switch.
    pub transit_network: Ipv4Addr,
    /// Where other members reach it: told to them, and written into join tokens. Where nothing is said: the address by which it reaches
    /// others, and [`MEMBERS_PORT`]. Its port is the one that `communication` listens on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// Its TPM. Where nothing is said: the server's if it has one, else none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmChoice>,
}

/// TCP port that members listen on, where `endpoint` says no other.
pub const MEMBERS_PORT: u16 = 7433;

/// What an administrator says about the TPM. What was asked for and is not there is an error, never something weaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TpmChoice {
    /// The server's: [`TPM_DEVICE`].
    Device,
    /// A software one, which gtvpd starts. Whoever is root on the server owns it.
    Software,
    /// None, even if there is one.
    None,
}

/// The server's TPM, behind the kernel's resource manager.
pub const TPM_DEVICE: &str = "/dev/tpmrm0";

/// Uids of one member, relative to [`MemberConfig::uid_base`].
pub const UIDS_PER_MEMBER: u32 = 4096;
/// First uid of the boxes, relative to the base.
const BOX_UIDS: u32 = 1024;
/// Uids a box may have: QEMU, file-system server, swtpm, one spare.
const UIDS_PER_BOX: u32 = 4;

impl MemberConfig {
    /// Uid (and gid) number `offset` of topology.toml.
    pub fn uid(&self, offset: u32) -> u32 {
        self.uid_base + offset
    }

    /// Uid of a box's process: `which` is 0 for QEMU, 1 for the file-system server, 2 for swtpm.
    pub fn box_uid(&self, slot: Slot, which: u32) -> u32 {
        self.uid_base + BOX_UIDS + u32::from(slot.get()) * UIDS_PER_BOX + which
    }

    /// The box whose process has `uid`, and which of its processes that is.
    pub fn box_of_uid(&self, uid: u32) -> Option<(Slot, u32)> {
        let n = uid.checked_sub(self.uid_base + BOX_UIDS)?;
        let slot = Slot::new(u16::try_from(n / UIDS_PER_BOX).ok()?)?;
        Some((slot, n % UIDS_PER_BOX))
    }

    /// Address of a box.
    pub fn box_address(&self, slot: Slot) -> Ipv4Addr {
        let [a, b, c, _] = self.box_network.octets();
        // Slot::MAX keeps this below 255.
        Ipv4Addr::new(a, b, c, u8::try_from(slot.get() + 2).unwrap_or(254))
    }

    /// Hardware address of a box's network interface. Only meant to keep boxes, and members on one wire, apart.
    pub fn box_mac(&self, slot: Slot) -> String {
        // FNV-1a, folded.
        let name = self.name.as_str().bytes();
        let hash = name.fold(0x811c_9dc5u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
        let [a, b, ..] = (hash ^ (hash >> 16)).to_le_bytes();
        format!("52:54:00:{a:02x}:{b:02x}:{:02x}", slot.get())
    }

    /// Name of a box's network interface on the member's side, in the boxes' network namespace.
    pub fn box_tap(slot: Slot) -> String {
        format!("gtvp-t{}", slot.get())
    }

    /// Which TPM it is, given whether the server has one.
    pub fn tpm_class(&self, has_device: bool) -> TpmClass {
        match self.tpm {
            Some(TpmChoice::Device) => TpmClass::Hardware,
            Some(TpmChoice::Software) => TpmClass::Software,
            None if has_device => TpmClass::Hardware,
            Some(TpmChoice::None) | None => TpmClass::None,
        }
    }

    /// The boxes' gateway.
    pub fn box_gateway(&self) -> Ipv4Addr {
        let [a, b, c, _] = self.box_network.octets();
        Ipv4Addr::new(a, b, c, 1)
    }
}

/// One process that gtvpd keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DomainStatus {
    /// Its name.
    pub domain: String,
    /// Its process id on the member, none while it restarts.
    pub pid: Option<i32>,
    /// Times it was restarted since gtvpd began.
    pub restarts: u64,
    /// When it started: milliseconds since 1970-01-01 UTC.
    pub started_ms: u64,
    /// How the one before ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<String>,
}

/// A property of the host that GTVP uses, or would use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct HostCheck {
    /// Stable name, for example `kvm`, `tpm`, `cgroup_memory`.
    pub name: String,
    /// `ok`, `missing` (GTVP does without, see `detail`), `unknown` (not tried yet) or `failed` (GTVP cannot do its work).
    pub status: String,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A member's TPM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TpmView {
    /// What it is.
    pub class: TpmClass,
    /// SHA-256 of the endorsement key (DER SubjectPublicKeyInfo), in hexadecimal: what a join token can name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek: Option<String>,
    /// Whether it came with a certificate of its vendor's. Whether that holds is the verifiers' to say.
    #[serde(default)]
    pub ek_certificate: bool,
    /// Which life of the TPM this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<TpmEpoch>,
    /// How GTVP's own log and its PCR stand to each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// Why it cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// TPMS_CLOCK_INFO: which life of a TPM it is, and how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TpmEpoch {
    /// Times that it was reset, with its PCRs.
    pub reset_count: u32,
    /// Restarts and resumes since then.
    pub restart_count: u32,
    /// Milliseconds that it was powered, ever.
    pub clock_ms: u64,
    /// Whether no larger `clock_ms` can have been told before.
    pub safe: bool,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct MemberView {
    /// Name.
    pub name: String,
    /// GTVP's version.
    pub version: String,
    /// `trusted`, `untrusted` or `unknown`.
    pub verdict: String,
    /// What the verdict did not check.
    pub not_checked: Vec<String>,
    /// Its TPM.
    pub tpm: TpmView,
    /// `kvm`, or `tcg` with the reason; `unknown` before the first box.
    pub accelerator: String,
    /// Processors.
    pub cpus: u16,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Memory promised to boxes, bytes.
    pub memory_promised_bytes: u64,
    /// Boxes that run.
    pub boxes_running: u64,
    /// Address at which published ports are reached.
    pub addresses: Vec<String>,
    /// The processes.
    pub domains: Vec<DomainStatus>,
    /// What the host offers.
    pub host: Vec<HostCheck>,
}

/// Why member.toml was refused.
#[derive(Debug, thiserror::Error)]
pub enum BadMember {
    /// Not TOML of this shape.
    #[error("member.toml cannot be read")]
    Syntax(#[from] toml::de::Error),
    /// A value outside its range.
    #[error("{0}")]
    Value(&'static str),
}

/// Reads and checks member.toml's text.
pub fn parse(text: &str) -> Result<MemberConfig, BadMember> {
    check(toml::from_str(text)?).map_err(BadMember::Value)
}

/// Checks what no field's type does; the error is what is wrong.
pub fn check(c: MemberConfig) -> Result<MemberConfig, &'static str> {
    let bad = Err;
    if c.uid_base < 100_000 || c.uid_base.checked_add(UIDS_PER_MEMBER).is_none_or(|end| end > 4_294_000_000) {
        return bad("uid_base must leave room for 4096 uids above 100000");
    }
    if c.box_network.octets()[3] != 0 || !c.box_network.is_private() {
        return bad("box_network must be a private /24, ending in .0");
    }
    if c.transit_network.octets()[3] % 4 != 0 {
        return bad("transit_network must be a /30: its last number is a multiple of 4");
    }
    if [&c.state_dir, &c.run_dir, &c.api_socket].iter().any(|p| !p.is_absolute()) {
        return bad("state_dir, run_dir and api_socket must be absolute paths");
    }
    Ok(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tpm_that_was_asked_for_is_never_replaced_by_something_weaker() {
        let member = |tpm: &str| {
            let text = format!(
                "name='m'\nstate_dir='/s'\nrun_dir='/r'\napi_socket='/a'\nuid_base=200000\nbox_network='10.77.0.0'\n\
                 transit_network='10.78.0.0'\n{tpm}\n"
            );
            parse(&text)
        };
        for (text, with, without) in [
            ("", TpmClass::Hardware, TpmClass::None),
            ("tpm='device'", TpmClass::Hardware, TpmClass::Hardware),
            ("tpm='software'", TpmClass::Software, TpmClass::Software),
            ("tpm='none'", TpmClass::None, TpmClass::None),
        ] {
            let m = member(text).unwrap();
            assert_eq!((m.tpm_class(true), m.tpm_class(false)), (with, without), "{text}");
            assert_eq!(parse(&toml::to_string(&m).unwrap()).unwrap(), m);
        }
        assert!(member("tpm='swtpm'").is_err());
    }

    #[test]
    fn a_mac_is_the_same_each_time_and_another_for_each_slot_and_member() {
        let member = |name: &str| {
            let text = format!(
                "name='{name}'\nstate_dir='/s'\nrun_dir='/r'\napi_socket='/a'\nuid_base=200000\nbox_network='10.77.0.0'\n\
                 transit_network='10.78.0.0'\n"
            );
            parse(&text).unwrap()
        };
        let slot = |n| Slot::new(n).unwrap();
        let (m1, m2) = (member("m1"), member("m2"));
        assert_eq!(m1.box_mac(slot(3)), m1.box_mac(slot(3)));
        assert!(m1.box_mac(slot(251)).starts_with("52:54:00:") && m1.box_mac(slot(251)).ends_with(":fb"));
        assert_ne!(m1.box_mac(slot(3)), m2.box_mac(slot(3)));
    }
}
