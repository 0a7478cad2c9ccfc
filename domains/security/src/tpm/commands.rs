//! The commands that GTVP sends (TPM 2.0 Part 3), each with its answer taken apart. Which of them, when, and with which key is
//! decided elsewhere.

use super::client::{Client, TpmError};
use super::codes::{alg, cc, handle};
use super::templates::MAX_PUBLIC;
use super::wire::{Auth, Command, MAX_MESSAGE, Malformed, Reader, Writer};

/// A signature of ECDSA P-256 is below 80 bytes; RSA 4096's below 600.
const MAX_SIGNATURE: usize = 640;
/// TPMS_ATTEST of a quote over every bank is below 400 bytes.
const MAX_ATTEST: usize = 1024;
/// TPM2B_PRIVATE of the keys that are made here is below 300 bytes.
pub const MAX_PRIVATE: usize = 1024;
/// What is hashed at once: every TPM takes 1024 bytes (TPM2B_MAX_BUFFER).
const HASH_STEP: usize = 1024;
/// A secret of MakeCredential: at most the size of the name algorithm's digest (Part 1 §24).
const MAX_SECRET: usize = 32;
/// What is read of a non-volatile index at once: every TPM can give 512 bytes (TPM_PT_NV_BUFFER_MAX).
const NV_STEP: usize = 512;
/// Largest EK certificate; the largest of real vendors that were seen have 1.4 KiB.
pub const MAX_CERTIFICATE: usize = 4096;

/// A loaded key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its transient handle.
    pub handle: u32,
    /// Its public area (contents of TPM2B_PUBLIC).
    pub public: Vec<u8>,
}

/// A key as its TPM gave it out: only that TPM can load it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrapped {
    /// Contents of TPM2B_PUBLIC.
    pub public: Vec<u8>,
    /// Contents of TPM2B_PRIVATE, encrypted by the parent.
    pub private: Vec<u8>,
}

/// A structure of the TPM's own making, and its signature over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// Contents of TPM2B_ATTEST: the exact bytes that are signed.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
}

/// Of TPMS_NV_PUBLIC (Part 2 §13.5) what is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NvPublic {
    /// TPMA_NV.
    pub attributes: u32,
    /// Bytes.
    pub size: usize,
}

/// TPMS_CLOCK_INFO (Part 2 §10.11.1): which life of the TPM this is, and how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Clock {
    /// Milliseconds that the TPM was powered since it was made, or its owner cleared.
    pub clock: u64,
    /// TPM resets: PCRs began anew.
    pub reset_count: u32,
    /// Restarts and resumes since the last reset: PCRs lived on.
    pub restart_count: u32,
    /// Whether no larger `clock` can have been told before.
    pub safe: bool,
}

fn reading<T>(
    command: &'static str,
    bytes: &[u8],
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<T, TpmError> {
    let mut r = Reader::new(bytes);
    let value = read(&mut r).and_then(|value| r.end().map(|()| value));
    value.map_err(|source| TpmError::Malformed { command, source })
}

/// TPMS_CLOCK_INFO.
pub fn read_clock_info(r: &mut Reader<'_>) -> Result<Clock, Malformed> {
    Ok(Clock {
        clock: r.u64("the clock")?,
        reset_count: r.u32("resetCount")?,
        restart_count: r.u32("restartCount")?,
        safe: r.u8("safe")? == 1,
    })
}

/// TPMT_SIGNATURE of ECDSA with SHA-256: r and s, filled up to 32 bytes each.
pub fn ecdsa(signature: &[u8]) -> Result<[[u8; 32]; 2], Malformed> {
    let mut reader = Reader::new(signature);
    let scheme = reader.u16("the scheme")?;
    let hash = reader.u16("the hash")?;
    if (scheme, hash) != (alg::ECDSA, alg::SHA256) {
        return Err(Malformed::Unexpected { what: "the signature's algorithm", got: scheme.into() });
    }
    let mut numbers = [[0; 32]; 2];
    for number in &mut numbers {
        let got = reader.sized(32, "the signature")?;
        // A TPM may leave leading zeros out.
        if let Some(end) = number.get_mut(32 - got.len()..) {
            end.copy_from_slice(got);
        }
    }
    reader.end()?;
    Ok(numbers)
}

/// The last part of a message, and those before it.
fn split(message: &[u8]) -> (&[u8], impl Iterator<Item = &[u8]>) {
    let last = message.len().saturating_sub(1) / HASH_STEP * HASH_STEP;
    let (before, last) = message.split_at_checked(last).unwrap_or((&[], message));
    (last, before.chunks(HASH_STEP))
}

impl Client {
    /// TPM2_ReadClock.
    pub fn read_clock(&mut self) -> Result<Clock, TpmError> {
        const NAME: &str = "ReadClock";
        let said = self.run(NAME, &Command::plain(cc::READ_CLOCK))?;
        reading(NAME, &said.parameters, |r| {
            r.u64("the time")?;
            read_clock_info(r)
        })
    }

    /// TPM2_CreatePrimary under `hierarchy`, without a password.
    pub fn create_primary(&mut self, hierarchy: u32, template: &[u8]) -> Result<Loaded, TpmError> {
        const NAME: &str = "CreatePrimary";
        let parameters = Writer::new().sized(&[0, 0, 0, 0]).sized(template).sized(&[]).u32(0);
        let command = Command::plain(cc::CREATE_PRIMARY)
            .on_with(hierarchy, Auth::Empty)
            .with(parameters)
            .giving_handle();
        let said = self.run(NAME, &command)?;
        let public = reading(NAME, &said.parameters, |r| {
            let public = r.sized(MAX_PUBLIC, "the public area")?.to_vec();
            // Creation data, hash and ticket, and the name: nothing that is not known.
            r.rest();
            Ok(public)
        })?;
        Ok(Loaded { handle: said.handle.unwrap_or(handle::NULL), public })
    }

    /// TPM2_Create under `parent`, without a password.
    pub fn create(&mut self, parent: u32, template: &[u8]) -> Result<Wrapped, TpmError> {
        const NAME: &str = "Create";
        let parameters = Writer::new().sized(&[0, 0, 0, 0]).sized(template).sized(&[]).u32(0);
        let command = Command::plain(cc::CREATE).on_with(parent, Auth::Empty).with(parameters);
        let said = self.run(NAME, &command)?;
        reading(NAME, &said.parameters, |r| {
            let private = r.sized(MAX_PRIVATE, "the private area")?.to_vec();
            let public = r.sized(MAX_PUBLIC, "the public area")?.to_vec();
            r.rest();
            Ok(Wrapped { public, private })
        })
    }

    /// TPM2_Load under `parent`.
    pub fn load(&mut self, parent: u32, key: &Wrapped) -> Result<Loaded, TpmError> {
        let parameters = Writer::new().sized(&key.private).sized(&key.public);
        let command = Command::plain(cc::LOAD).on_with(parent, Auth::Empty).with(parameters).giving_handle();
        let said = self.run("Load", &command)?;
        Ok(Loaded { handle: said.handle.unwrap_or(handle::NULL), public: key.public.clone() })
    }

    /// TPM2_Quote by `key`, whose scheme it uses. `selection` is a TPML_PCR_SELECTION.
    pub fn quote(&mut self, key: u32, qualifying: &[u8], selection: &[u8]) -> Result<Attested, TpmError> {
        let parameters = Writer::new().sized(qualifying).u16(alg::NULL).bytes(selection);
        self.attest("Quote", &Command::plain(cc::QUOTE).on_with(key, Auth::Empty).with(parameters))
    }

    /// TPM2_Certify of `object` by `key`.
    pub fn certify(&mut self, object: u32, key: u32, qualifying: &[u8]) -> Result<Attested, TpmError> {
        let command = Command::plain(cc::CERTIFY).on_with(object, Auth::Empty).on_with(key, Auth::Empty);
        self.attest("Certify", &command.with(Writer::new().sized(qualifying).u16(alg::NULL)))
    }

    fn attest(&mut self, name: &'static str, command: &Command) -> Result<Attested, TpmError> {
        let said = self.run(name, command)?;
        reading(name, &said.parameters, |r| {
            let attest = r.sized(MAX_ATTEST, "the attestation")?.to_vec();
            let signature = r.rest().to_vec();
            if signature.len() > MAX_SIGNATURE {
                let got = signature.len();
                return Err(Malformed::TooLong { what: "the signature", got, most: MAX_SIGNATURE });
            }
            Ok(Attested { attest, signature })
        })
    }

    /// TPM2_Sign of a digest that was not made by the TPM: TPMT_SIGNATURE.
    pub fn sign(&mut self, key: u32, digest: &[u8; 32]) -> Result<Vec<u8>, TpmError> {
        // A hash check ticket that says nothing (Part 2 §10.7.6).
        let ticket = |w: Writer| w.u16(super::codes::ST_HASHCHECK).u32(handle::NULL).sized(&[]);
        let parameters = ticket(Writer::new().sized(digest).u16(alg::NULL));
        let command = Command::plain(cc::SIGN).on_with(key, Auth::Empty).with(parameters);
        Ok(self.run("Sign", &command)?.parameters)
    }

    /// TPM2_HashSequenceStart, TPM2_SequenceUpdate, TPM2_SequenceComplete, TPM2_Sign: a restricted key's signature (TPMT_SIGNATURE)
    /// over bytes that the TPM has hashed itself. It does so only for bytes that do not begin like its own attestations.
    pub fn sign_hashed(&mut self, key: u32, message: &[u8]) -> Result<Vec<u8>, TpmError> {
        const COMPLETE: &str = "SequenceComplete";
        let start = Command::plain(cc::HASH_SEQUENCE_START).with(Writer::new().sized(&[]).u16(alg::SHA256));
        let sequence = self.run("HashSequenceStart", &start.giving_handle())?.handle.unwrap_or(handle::NULL);
        let (last, mut parts) = split(message);
        let hashed = parts
            .try_for_each(|part| {
                let update = Command::plain(cc::SEQUENCE_UPDATE).on_with(sequence, Auth::Empty);
                self.run("SequenceUpdate", &update.with(Writer::new().sized(part))).map(drop)
            })
            .and_then(|()| {
                let complete = Command::plain(cc::SEQUENCE_COMPLETE).on_with(sequence, Auth::Empty);
                // The ticket is of the endorsement hierarchy, as the key is.
                self.run(COMPLETE, &complete.with(Writer::new().sized(last).u32(handle::ENDORSEMENT)))
            });
        let said = match hashed {
            Ok(said) => said,
            Err(e) => {
                // A sequence that was completed is gone; one that was not may be there still.
                let _ = self.flush(sequence);
                return Err(e);
            }
        };
        let (digest, ticket) = reading(COMPLETE, &said.parameters, |r| {
            Ok((r.sized(MAX_SECRET, "the digest")?.to_vec(), r.rest().to_vec()))
        })?;
        let parameters = Writer::new().sized(&digest).u16(alg::NULL).bytes(&ticket);
        let command = Command::plain(cc::SIGN).on_with(key, Auth::Empty).with(parameters);
        Ok(self.run("Sign", &command)?.parameters)
    }

    /// TPM2_PCR_Extend: several banks at once.
    pub fn pcr_extend(&mut self, pcr: u32, values: &[(u16, &[u8])]) -> Result<(), TpmError> {
        let mut parameters = Writer::new().u32(u32::try_from(values.len()).unwrap_or(u32::MAX));
        for (bank, digest) in values {
            parameters = parameters.u16(*bank).bytes(digest);
        }
        let command = Command::plain(cc::PCR_EXTEND).on_with(pcr, Auth::Empty).with(parameters);
        self.run("PCR_Extend", &command).map(drop)
    }

    /// A policy session that satisfies the EK's PolicyA: TPM2_StartAuthSession, TPM2_PolicySecret.
    pub fn endorsement_session(&mut self, nonce: &[u8; 32]) -> Result<u32, TpmError> {
        const POLICY: u8 = 1;
        let start = Writer::new().sized(nonce).sized(&[]).u8(POLICY).u16(alg::NULL).u16(alg::SHA256);
        let command = Command::plain(cc::START_AUTH_SESSION).on(handle::NULL).on(handle::NULL).with(start);
        let session = self.run("StartAuthSession", &command.giving_handle())?.handle.unwrap_or(handle::NULL);
        let nothing = Writer::new().sized(&[]).sized(&[]).sized(&[]).u32(0);
        let secret = Command::plain(cc::POLICY_SECRET)
            .on_with(handle::ENDORSEMENT, Auth::Empty)
            .on(session)
            .with(nothing);
        match self.run("PolicySecret", &secret) {
            Ok(_) => Ok(session),
            Err(e) => {
                // What is told is why there is no session; that it could not be removed either adds nothing.
                let _ = self.flush(session);
                Err(e)
            }
        }
    }

    /// TPM2_ActivateCredential: the secret that was made for `key` in this TPM. `session` ends with it.
    pub fn activate_credential(
        &mut self,
        key: u32,
        ek: u32,
        session: u32,
        blob: &[u8],
        secret: &[u8],
    ) -> Result<Vec<u8>, TpmError> {
        const NAME: &str = "ActivateCredential";
        let command = Command::plain(cc::ACTIVATE_CREDENTIAL)
            .on_with(key, Auth::Empty)
            .on_with(ek, Auth::Policy(session))
            .with(Writer::new().sized(blob).sized(secret));
        let said = self.run(NAME, &command)?;
        reading(NAME, &said.parameters, |r| Ok(r.sized(MAX_SECRET, "the secret")?.to_vec()))
    }

    /// What a non-volatile index is, `None` where there is none: TPM2_NV_ReadPublic.
    pub fn nv_public(&mut self, index: u32) -> Result<Option<NvPublic>, TpmError> {
        const NAME: &str = "NV_ReadPublic";
        let said = match self.run(NAME, &Command::plain(cc::NV_READ_PUBLIC).on(index)) {
            Err(TpmError::Refused { rc, .. }) if rc.is_lost_object() => return Ok(None),
            other => other?,
        };
        let read = reading(NAME, &said.parameters, |r| {
            let mut public = Reader::new(r.sized(MAX_PUBLIC, "the index")?);
            r.rest();
            // Index, algorithm.
            public.take(4 + 2, "the index")?;
            let attributes = public.u32("the attributes")?;
            public.sized(64, "the policy")?;
            let size = usize::from(public.u16("the size")?);
            public.end()?;
            Ok(NvPublic { attributes, size })
        });
        read.map(Some)
    }

    /// TPM2_NV_DefineSpace: an index with an empty password of its own. Its owner's password must be empty, too.
    pub fn nv_define(&mut self, index: u32, public: NvPublic) -> Result<(), TpmError> {
        let size = u16::try_from(public.size).unwrap_or(u16::MAX);
        let area =
            Writer::new().u32(index).u16(alg::SHA256).u32(public.attributes).sized(&[]).u16(size).done();
        let command = Command::plain(cc::NV_DEFINE_SPACE).on_with(handle::OWNER, Auth::Empty);
        self.run("NV_DefineSpace", &command.with(Writer::new().sized(&[]).sized(&area))).map(drop)
    }

    /// TPM2_NV_Write of the whole contents, by the index' own empty password.
    pub fn nv_write(&mut self, index: u32, contents: &[u8]) -> Result<(), TpmError> {
        let command = Command::plain(cc::NV_WRITE).on_with(index, Auth::Empty).on(index);
        self.run("NV_Write", &command.with(Writer::new().sized(contents).u16(0))).map(drop)
    }

    /// The contents of a non-volatile index, `None` where there is none: TPM2_NV_ReadPublic, TPM2_NV_Read with the index'
    /// own empty password, which EK certificates have.
    pub fn nv_read(&mut self, index: u32, most: usize) -> Result<Option<Vec<u8>>, TpmError> {
        let Some(NvPublic { size, .. }) = self.nv_public(index)? else { return Ok(None) };
        if size > most {
            let source = Malformed::TooLong { what: "the size", got: size, most };
            return Err(TpmError::Malformed { command: "NV_Read", source });
        }
        self.nv_contents(index, size).map(Some)
    }

    /// The same of an index that has this size.
    pub fn nv_contents(&mut self, index: u32, size: usize) -> Result<Vec<u8>, TpmError> {
        const READ: &str = "NV_Read";
        let mut contents = Vec::with_capacity(size);
        while contents.len() < size {
            let step = (size - contents.len()).min(NV_STEP);
            let short = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
            let part = Writer::new().u16(short(step)).u16(short(contents.len()));
            let command = Command::plain(cc::NV_READ).on_with(index, Auth::Empty).on(index).with(part);
            let said = self.run(READ, &command)?;
            let got =
                reading(READ, &said.parameters, |r| Ok(r.sized(MAX_MESSAGE, "the contents")?.to_vec()))?;
            if got.len() != step {
                return Err(TpmError::Untrue { command: READ, why: "it gave less than it was asked for" });
            }
            contents.extend(got);
        }
        Ok(contents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_numbers_of_a_signature_are_filled_up() {
        let signature = Writer::new().u16(alg::ECDSA).u16(alg::SHA256).sized(&[7; 31]).sized(&[8; 32]).done();
        let [r, s] = ecdsa(&signature).unwrap();
        assert_eq!((r[0], r[1], s[0]), (0, 7, 8));
        let long = Writer::new().u16(alg::ECDSA).u16(alg::SHA256).sized(&[7; 33]).sized(&[8; 32]).done();
        assert!(ecdsa(&long).is_err());
        let rsa = Writer::new().u16(0x14).u16(alg::SHA256).sized(&[7; 32]).sized(&[8; 32]).done();
        assert!(ecdsa(&rsa).is_err());
        assert!(ecdsa(&signature[..signature.len() - 1]).is_err());
    }
}
