//! A union's shared values: who it is, who belongs to it and by which keys, what it lets in, how it is joined.
//!
//! Nothing here decides whether a member is trusted: that is an attestation result, never a field of the roster.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::digest::{BadDigest, Digest};
use crate::ids::{BadName, MemberName};
use crate::owner::{BoxId, Owned};
use crate::token::{TokenId, TokenKey, TokenSecret};

/// What a SubjectPublicKeyInfo of a P-256 key has before its point (RFC 5480 §2): SEQUENCE { SEQUENCE { ecPublicKey,
/// prime256v1 }, BIT STRING of 66 bytes, 0 of its bits unused }. The point follows, SEC1, uncompressed, 65 bytes.
pub const P256_SPKI_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01, 0x06, 0x08, 0x2A, 0x86,
    0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

macro_rules! digest_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(Digest);

        impl $name {
            /// From its 32 bytes.
            pub fn new(digest: Digest) -> Self {
                Self(digest)
            }

            /// Its digest.
            pub fn digest(&self) -> Digest {
                self.0
            }

            /// Its 32 bytes.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0.0
            }

            /// The first 12 hexadecimal digits, for people.
            pub fn short(&self) -> String {
                self.0.short()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl FromStr for $name {
            type Err = BadDigest;
            fn from_str(s: &str) -> Result<Self, BadDigest> {
                s.parse().map(Self)
            }
        }
        impl From<[u8; 32]> for $name {
            fn from(bytes: [u8; 32]) -> Self {
                Self(Digest(bytes))
            }
        }
        impl From<$name> for [u8; 32] {
            fn from(id: $name) -> [u8; 32] {
                id.0.0
            }
        }
    };
}
pub(crate) use digest_id;

digest_id!(
    /// A union: the hash of its record's first entry. Two unions of one name are two.
    UnionId
);
digest_id!(
    /// A member: derived from what it cannot change (see [`Identity::member_id`]), so that one TPM is never two
    /// members, and another TPM never the same one.
    MemberId
);
digest_id!(
    /// An endorsement key: SHA-256 of its SubjectPublicKeyInfo, DER, which a certificate of it has too.
    EkDigest
);
/// Somebody of whom evidence was seen: by name, or, where that does not say which, by endorsement key. A name is never as long as a
/// fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Whom {
    /// By name.
    Name(MemberName),
    /// By endorsement key.
    Ek(EkDigest),
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Ek(ek) => ek.fmt(f),
        }
    }
}

impl FromStr for Whom {
    type Err = BadName;
    fn from_str(s: &str) -> Result<Self, BadName> {
        s.parse().map(Self::Ek).or_else(|_| s.parse().map(Self::Name))
    }
}

impl TryFrom<String> for Whom {
    type Error = BadName;
    fn try_from(s: String) -> Result<Self, BadName> {
        s.parse()
    }
}

impl From<Whom> for String {
    fn from(whom: Whom) -> Self {
        whom.to_string()
    }
}

digest_id!(
    /// A TLS identity key, as TLS shows it: SHA-256 of its SubjectPublicKeyInfo, DER (RFC 5280 §4.1.2.7).
    SpkiDigest
);

/// A TPM object's Name: nameAlg ‖ H(TPMT_PUBLIC) (TCG TPM 2.0 Part 1 §16). SHA-256, SHA-384 and SHA-512 only.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyName(Vec<u8>);

/// Bytes that are not a Name of a supported algorithm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKeyName {
    /// Too short to have an algorithm.
    #[error("a TPM Name of {0} bytes has no algorithm")]
    Short(usize),
    /// SHA-1, or one that nobody here knows.
    #[error("TPM Name algorithm {0:#06x} is not SHA-256, SHA-384 or SHA-512")]
    Algorithm(u16),
    /// The digest's length is not the algorithm's.
    #[error("a TPM Name has {have} bytes of digest, its algorithm has {need}")]
    Length {
        /// What is there.
        have: usize,
        /// What the algorithm has.
        need: usize,
    },
    /// Not hexadecimal digits.
    #[error("a TPM Name is an even number of hexadecimal digits")]
    NotHex,
}

impl KeyName {
    /// Longest Name: two bytes of algorithm and SHA-512.
    pub const MAX: usize = 66;

    /// Checks the algorithm and the length.
    pub fn new(bytes: &[u8]) -> Result<Self, BadKeyName> {
        let Some((alg, digest)) = bytes.split_first_chunk::<2>() else {
            return Err(BadKeyName::Short(bytes.len()));
        };
        // TPM_ALG_ID (TCG TPM 2.0 Part 2 §6.3).
        let need = match u16::from_be_bytes(*alg) {
            0x000B => 32,
            0x000C => 48,
            0x000D => 64,
            other => return Err(BadKeyName::Algorithm(other)),
        };
        if digest.len() != need {
            return Err(BadKeyName::Length { have: digest.len(), need });
        }
        Ok(Self(bytes.to_vec()))
    }

    /// The SHA-256 Name of a public area (TPMT_PUBLIC) whose nameAlg is SHA-256.
    pub fn sha256(public: &[u8]) -> Self {
        let mut name = vec![0x00, 0x0B];
        name.extend_from_slice(&Digest::of(public).0);
        Self(name)
    }

    /// nameAlg ‖ digest.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for KeyName {
    type Error = BadKeyName;
    fn try_from(s: String) -> Result<Self, BadKeyName> {
        if s.len() % 2 != 0 || s.len() > 2 * Self::MAX || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(BadKeyName::NotHex);
        }
        let byte = |i| u8::from_str_radix(s.get(i..i + 2).unwrap_or(""), 16);
        let bytes: Result<Vec<u8>, _> = (0..s.len()).step_by(2).map(byte).collect();
        Self::new(&bytes.map_err(|_| BadKeyName::NotHex)?)
    }
}

impl From<KeyName> for String {
    fn from(name: KeyName) -> String {
        name.to_string()
    }
}

/// What stands behind a member's keys. Shown wherever a member is shown.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum TpmClass {
    /// A TPM whose EK certificate chains to a known vendor.
    Hardware,
    /// A TPM that an administrator has named by its endorsement key: hardware by that word, and no vendor's.
    Pinned,
    /// A software TPM: the host's root owns it.
    Software,
    /// No TPM: nothing that this member says about itself can be checked.
    None,
}

impl fmt::Display for TpmClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hardware => "hardware",
            Self::Pinned => "pinned",
            Self::Software => "SOFTWARE",
            Self::None => "NONE",
        })
    }
}

/// Who made a TPM, by its certificate: four characters of the TCG Vendor ID Registry, zeros where the certificate does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct TpmMaker([u8; 4]);

impl TpmMaker {
    /// Of tcg-at-tpmManufacturer: "id:" and eight hexadecimal digits. Anything else names nobody.
    pub fn of_certificate(text: Option<&str>) -> Self {
        let digits = text.and_then(|t| t.strip_prefix("id:")).filter(|d| d.len() == 8);
        let id = digits.and_then(crate::hex::unhex).and_then(|id| id.try_into().ok());
        Self(id.unwrap_or_default())
    }
}

impl fmt::Display for TpmMaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Those of whom there are EK certificates (TCG Vendor ID Registry 1.07, §2).
        f.write_str(match &self.0 {
            b"AMD\0" => "AMD",
            b"ATML" => "Atmel",
            b"BRCM" => "Broadcom",
            b"GOOG" => "Google",
            b"HISI" => "Huawei",
            b"IBM\0" => "IBM",
            b"IFX\0" => "Infineon",
            b"INTC" => "Intel",
            b"MSFT" => "Microsoft",
            b"NSM " | b"NSM\0" => "National Semiconductor",
            b"NSG\0" => "NSING",
            b"NTC\0" => "Nuvoton",
            b"NTZ\0" => "Nationz",
            b"QCOM" => "Qualcomm",
            b"SEAL" => "Wisekey",
            b"SMSN" => "Samsung",
            b"STM " | b"STM\0" => "STMicroelectronics",
            b"VMW0" | b"VMWW" => "VMware",
            [0, 0, 0, 0] => "a vendor that its certificate does not name",
            [a, b, c, d] => return write!(f, "vendor {a:02x}{b:02x}{c:02x}{d:02x}"),
        })
    }
}

/// A TPM that keeps a member's keys: never "none".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TpmKind {
    /// See [`TpmClass::Hardware`]; by this maker's word.
    Hardware(TpmMaker),
    /// See [`TpmClass::Pinned`].
    Pinned,
    /// See [`TpmClass::Software`].
    Software,
}

/// The keys that make a member this member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "class", rename_all = "snake_case", deny_unknown_fields)]
pub enum Identity {
    /// Keys in a TPM.
    Tpm {
        /// Whose word the TPM is.
        kind: TpmKind,
        /// Its endorsement key.
        ek: EkDigest,
        /// Name of the restricted attestation key.
        ak: KeyName,
        /// Name of the TLS identity key, in the same TPM.
        tls: KeyName,
        /// The TLS identity key as TLS shows it.
        spki: SpkiDigest,
    },
    /// A key in a file.
    Bare {
        /// The TLS identity key as TLS shows it.
        spki: SpkiDigest,
    },
}

impl Identity {
    /// The member that has this identity: SHA-256("gtvp-member/1" ‖ 0 ‖ H(EK)), without a TPM
    /// SHA-256("gtvp-member/1" ‖ 1 ‖ H(SPKI)).
    pub fn member_id(&self) -> MemberId {
        let (kind, root) = match self {
            Self::Tpm { ek, .. } => (0u8, ek.as_bytes()),
            Self::Bare { spki } => (1u8, spki.as_bytes()),
        };
        let mut h = Sha256::new();
        h.update(b"gtvp-member/1");
        h.update([kind]);
        h.update(root);
        MemberId(Digest(h.finalize().into()))
    }

    /// What stands behind it.
    pub fn class(&self) -> TpmClass {
        match self {
            Self::Tpm { kind: TpmKind::Hardware(_), .. } => TpmClass::Hardware,
            Self::Tpm { kind: TpmKind::Pinned, .. } => TpmClass::Pinned,
            Self::Tpm { kind: TpmKind::Software, .. } => TpmClass::Software,
            Self::Bare { .. } => TpmClass::None,
        }
    }

    /// What its class rests on, for people.
    pub fn rests_on(&self) -> String {
        match self {
            Self::Tpm { kind: TpmKind::Hardware(maker), .. } => format!("certified by {maker}"),
            Self::Tpm { kind: TpmKind::Pinned, .. } => {
                "pinned: an administrator has named its endorsement key, no vendor vouches for it".into()
            }
            Self::Tpm { kind: TpmKind::Software, .. } => {
                "SOFTWARE, or no vendor vouches for it: root of that server can make it say anything".into()
            }
            Self::Bare { .. } => "NONE: this member cannot prove what it booted".into(),
        }
    }

    /// The key that TLS must show.
    pub fn spki(&self) -> SpkiDigest {
        match self {
            Self::Tpm { spki, .. } | Self::Bare { spki } => *spki,
        }
    }

    /// Whether these are the same keys, whatever is thought of the TPM.
    pub fn same_keys(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tpm { ek, ak, tls, spki, .. }, Self::Tpm { ek: e, ak: a, tls: t, spki: s, .. }) => {
                (ek, ak, tls, spki) == (e, a, t, s)
            }
            (Self::Bare { spki }, Self::Bare { spki: s }) => spki == s,
            _ => false,
        }
    }

    /// What evidence binds as "TLS name": the Name in the TPM; without a TPM the SPKI digest.
    pub fn tls_name(&self) -> Vec<u8> {
        match self {
            Self::Tpm { tls, .. } => tls.as_bytes().to_vec(),
            Self::Bare { spki } => spki.as_bytes().to_vec(),
        }
    }
}

/// A member's reference security level: 0 (lowest) to [`PlatformIdentity::MAX`]. The union sets it; a member never does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct PlatformIdentity(u8);

/// A level that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("platform identity {0} is above {max}", max = PlatformIdentity::MAX)]
pub struct BadPlatformIdentity(u8);

impl PlatformIdentity {
    /// The highest: MLS systems get by with 16 levels (the paper uses four).
    pub const MAX: u8 = 15;

    /// The level's number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for PlatformIdentity {
    type Error = BadPlatformIdentity;
    fn try_from(n: u8) -> Result<Self, BadPlatformIdentity> {
        if n > Self::MAX { Err(BadPlatformIdentity(n)) } else { Ok(Self(n)) }
    }
}

impl From<PlatformIdentity> for u8 {
    fn from(p: PlatformIdentity) -> u8 {
        p.0
    }
}

/// What a member is made of, as it says itself: for people and placement, never for trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawHardware")]
pub struct Hardware {
    /// Processors that boxes can have.
    pub cpus: u16,
    /// Memory, MiB.
    pub memory_mib: u32,
    model: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHardware {
    cpus: u16,
    memory_mib: u32,
    model: String,
}

/// A description that cannot be shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a hardware model is at most {} printable characters", Hardware::MAX_MODEL)]
pub struct BadHardware;

impl Hardware {
    /// Longest model: an SMBIOS product name fits.
    pub const MAX_MODEL: usize = 64;

    /// Checks that the model can be shown.
    pub fn new(cpus: u16, memory_mib: u32, model: &str) -> Result<Self, BadHardware> {
        if model.len() > Self::MAX_MODEL || !model.bytes().all(|b| (0x20..0x7F).contains(&b)) {
            return Err(BadHardware);
        }
        Ok(Self { cpus, memory_mib, model: model.to_owned() })
    }

    /// Printable ASCII.
    pub fn model(&self) -> &str {
        &self.model
    }
}

impl TryFrom<RawHardware> for Hardware {
    type Error = BadHardware;
    fn try_from(raw: RawHardware) -> Result<Self, BadHardware> {
        Self::new(raw.cpus, raw.memory_mib, &raw.model)
    }
}

/// A member as the record has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawEntry")]
pub struct RosterEntry {
    id: MemberId,
    /// Its name, unique in the union.
    pub name: MemberName,
    /// Its keys.
    pub identity: Identity,
    /// Its reference security level, as the union set it.
    pub platform_identity: PlatformIdentity,
    /// What it is made of.
    pub hardware: Hardware,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    id: MemberId,
    name: MemberName,
    identity: Identity,
    platform_identity: PlatformIdentity,
    hardware: Hardware,
}

/// An entry whose id is another TPM's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("roster entry {name}: id {} is not that of its keys, {}", .have.short(), .want.short())]
pub struct IdOfOtherKeys {
    name: MemberName,
    have: MemberId,
    want: MemberId,
}

impl RosterEntry {
    /// An entry; the id follows from the identity.
    pub fn new(
        name: MemberName,
        identity: Identity,
        platform_identity: PlatformIdentity,
        hardware: Hardware,
    ) -> Self {
        Self { id: identity.member_id(), name, identity, platform_identity, hardware }
    }

    /// Who it is.
    pub fn id(&self) -> MemberId {
        self.id
    }
}

impl TryFrom<RawEntry> for RosterEntry {
    type Error = IdOfOtherKeys;
    fn try_from(raw: RawEntry) -> Result<Self, IdOfOtherKeys> {
        let want = raw.identity.member_id();
        if raw.id != want {
            return Err(IdOfOtherKeys { name: raw.name, have: raw.id, want });
        }
        Ok(Self::new(raw.name, raw.identity, raw.platform_identity, raw.hardware))
    }
}

/// How often members were removed by force. A session belongs to one; it ends when its member is no longer there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Seconds since 1970-01-01 UTC. Never used to order events of two members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct UnixTime(pub u64);

/// As RFC 3339 has it: `2026-11-24T06:30:00Z`.
impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, rest) = (self.0 / 86_400, self.0 % 86_400);
        // Days to a date of the proleptic Gregorian calendar, by eras of 400 years that begin on 1 March.
        let z = days + 719_468;
        let (era, day_of_era) = (z / 146_097, z % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// A place in the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RecordHead {
    /// The entry's number; the first is 0.
    pub number: u64,
    /// The entry's hash.
    pub hash: Digest,
}

/// What a union lets in. Nothing but hardware TPMs unless somebody said so at `union init`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnionSettings {
    /// Members whose TPM is software.
    pub software_tpms: bool,
    /// Members without a TPM.
    pub without_tpm: bool,
    /// How often each member proves itself anew, milliseconds.
    pub attest_every_ms: u32,
}

impl Default for UnionSettings {
    fn default() -> Self {
        Self { software_tpms: false, without_tpm: false, attest_every_ms: 30_000 }
    }
}

impl UnionSettings {
    /// Whether members of this class may join.
    pub fn admits(&self, class: TpmClass) -> bool {
        match class {
            TpmClass::Hardware | TpmClass::Pinned => true,
            TpmClass::Software => self.software_tpms,
            TpmClass::None => self.without_tpm,
        }
    }
}

/// A join token as the record has it: enough to check a proof of it, not enough to use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRecord {
    /// What proofs of it are made with.
    pub key: TokenKey,
    /// Not taken from then on.
    pub expires: UnixTime,
    /// Only this TPM may use it.
    pub ek: Option<EkDigest>,
    /// What its user becomes.
    pub platform_identity: PlatformIdentity,
    /// The member that used it.
    pub used_by: Option<MemberId>,
}

/// One record entry: a member, and the end of the token that let it in. The secret is there for every member to check:
/// whoever writes the entry cannot have made it up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admission {
    /// Who was admitted.
    pub member: RosterEntry,
    /// By which token.
    pub token: TokenId,
    /// What its holder alone had.
    pub secret: TokenSecret,
}

/// What a member holds as the union's state, read from the record that it has checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnionView {
    /// Which union.
    pub union: UnionId,
    /// Its epoch.
    pub epoch: Epoch,
    /// The last entry read.
    pub head: RecordHead,
    /// The time that a majority of voters put on it: time is not before that.
    pub head_time: UnixTime,
    /// What it lets in.
    pub settings: UnionSettings,
    /// Its members.
    pub members: BTreeMap<MemberId, RosterEntry>,
    /// Its open and used tokens.
    pub tokens: BTreeMap<TokenId, TokenRecord>,
    /// Its boxes, and whose they are.
    pub boxes: BTreeMap<BoxId, Owned>,
}

impl UnionView {
    /// A member that has this name and is not `but`.
    pub fn named(&self, name: &MemberName, but: MemberId) -> Option<&RosterEntry> {
        self.members.values().find(|m| m.name == *name && m.id() != but)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(ek: u8) -> RosterEntry {
        let identity = Identity::Tpm {
            kind: TpmKind::Hardware(TpmMaker::default()),
            ek: [ek; 32].into(),
            ak: KeyName::sha256(b"ak"),
            tls: KeyName::sha256(b"tls"),
            spki: [7; 32].into(),
        };
        let hardware = Hardware::new(8, 16384, "Some Server 2").unwrap();
        RosterEntry::new("alpha".parse().unwrap(), identity, PlatformIdentity(3), hardware)
    }

    #[test]
    fn an_entry_survives_json_and_one_with_another_tpms_id_does_not() {
        let json = serde_json::to_string(&entry(1)).unwrap();
        assert_eq!(serde_json::from_str::<RosterEntry>(&json).unwrap(), entry(1));
        let swapped = json.replace(&entry(1).id().to_string(), &entry(2).id().to_string());
        let refusal = serde_json::from_str::<RosterEntry>(&swapped).unwrap_err().to_string();
        assert!(refusal.contains("is not that of its keys"), "{refusal}");
    }

    #[test]
    fn a_name_has_a_known_algorithm_and_its_length() {
        assert!(KeyName::new(KeyName::sha256(b"x").as_bytes()).is_ok());
        let sha1 = [&[0u8, 4][..], &[0; 20]].concat();
        assert_eq!(KeyName::new(&sha1), Err(BadKeyName::Algorithm(4)));
        assert_eq!(KeyName::new(&[0, 0x0B, 1]), Err(BadKeyName::Length { have: 1, need: 32 }));
        assert_eq!(KeyName::new(&[0]), Err(BadKeyName::Short(1)));
        for bad in ["0", "zz", "000b+1", &"00".repeat(80)] {
            assert!(KeyName::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_but_hardware_is_let_in_unless_somebody_said_so() {
        let none = UnionSettings::default();
        assert!(none.admits(TpmClass::Hardware));
        assert!(!none.admits(TpmClass::Software) && !none.admits(TpmClass::None));
        assert!(serde_json::from_str::<UnionSettings>("{}").is_err(), "a missing setting is not a default");
    }

    #[test]
    fn a_model_that_would_garble_a_terminal_is_refused() {
        assert!(Hardware::new(1, 1, "a\u{1b}[2J").is_err());
        assert!(Hardware::new(1, 1, &"x".repeat(65)).is_err());
    }
}
