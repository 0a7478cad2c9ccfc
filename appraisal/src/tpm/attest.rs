//! TPMS_ATTEST (Part 2 §10.12.8): quotes, key certifications and NV certifications.
//!
//! Parsed values say what the bytes say; that a TPM said them is known only after [`super::VerifyingKey::verify`].

use serde::{Deserialize, Serialize};

use super::{Malformed, Name, PcrSelection, bad, sized, whole};
use crate::reader::Reader;

const TPM_GENERATED: u32 = 0xff54_4347;

/// TPMS_CLOCK_INFO (Part 2 §10.11.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockInfo {
    /// Milliseconds that this TPM has been powered, over its life.
    pub clock: u64,
    /// How often the TPM was reset: each boot of the machine.
    pub reset_count: u32,
    /// How often it was restarted or resumed (suspend) since the last reset.
    pub restart_count: u32,
    /// Whether `clock` has never been given out greater before.
    pub safe: bool,
}

/// What must stay the same for a member's state to continue: one boot of one TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Epoch {
    /// TPM resets.
    pub reset_count: u32,
    /// Restarts and resumes since.
    pub restart_count: u32,
}

impl ClockInfo {
    /// The epoch it is in.
    pub fn epoch(&self) -> Epoch {
        Epoch { reset_count: self.reset_count, restart_count: self.restart_count }
    }
}

/// What was attested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attested {
    /// TPMS_QUOTE_INFO: PCRs.
    Quote {
        /// Which PCRs.
        selection: PcrSelection,
        /// Digest over their values, by the hash of the signing scheme.
        digest: Vec<u8>,
    },
    /// TPMS_CERTIFY_INFO: an object in the same TPM.
    Certify {
        /// The object's Name.
        name: Name,
        /// Its qualified Name: through its parents.
        qualified_name: Vec<u8>,
    },
    /// TPMS_NV_CERTIFY_INFO: contents of an NV index.
    Nv {
        /// Name of the index: its public area.
        index_name: Vec<u8>,
        /// Offset of the contents.
        offset: u16,
        /// The contents.
        contents: Vec<u8>,
    },
}

/// A parsed attestation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attest {
    /// Qualified Name of the signing key.
    pub qualified_signer: Vec<u8>,
    /// qualifyingData of the command: what it is bound to.
    pub extra_data: Vec<u8>,
    /// Clock and counters. Only genuine for keys of the endorsement and platform hierarchies; the TPM obfuscates the
    /// counters for others (Part 1 §36.7).
    pub clock: ClockInfo,
    /// Vendor's firmware version.
    pub firmware_version: u64,
    /// What is attested.
    pub attested: Attested,
}

impl Attest {
    /// An attestation from the contents of a TPM2B_ATTEST.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        whole(bytes, |r| {
            if r.u32_be("magic")? != TPM_GENERATED {
                return Err(Malformed::NotTpmGenerated);
            }
            let kind = r.u16_be("type")?;
            let qualified_signer = sized(r, "qualifiedSigner")?.to_vec();
            let extra_data = sized(r, "extraData")?.to_vec();
            let clock = clock(r)?;
            let firmware_version = r.u64_be("firmwareVersion")?;
            let attested = match kind {
                0x8018 => {
                    let selection = PcrSelection::read(r)?;
                    Attested::Quote { selection, digest: sized(r, "pcrDigest")?.to_vec() }
                }
                0x8017 => {
                    let name = Name::parse(sized(r, "name")?)?;
                    Attested::Certify { name, qualified_name: sized(r, "qualifiedName")?.to_vec() }
                }
                0x8014 => Attested::Nv {
                    index_name: sized(r, "indexName")?.to_vec(),
                    offset: r.u16_be("offset")?,
                    contents: sized(r, "nvContents")?.to_vec(),
                },
                other => return bad("attestation type", other),
            };
            Ok(Self { qualified_signer, extra_data, clock, firmware_version, attested })
        })
    }
}

fn clock(r: &mut Reader<'_>) -> Result<ClockInfo, Malformed> {
    Ok(ClockInfo {
        clock: r.u64_be("clock")?,
        reset_count: r.u32_be("resetCount")?,
        restart_count: r.u32_be("restartCount")?,
        safe: match r.u8("safe")? {
            0 => false,
            1 => true,
            other => return bad("safe", other),
        },
    })
}
