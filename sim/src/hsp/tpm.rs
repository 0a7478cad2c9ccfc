//! A TPM with one PCR, one log and cheap signatures: what signs is SHA-256 over key and content, and nobody in a run signs with a key
//! of another one's TPM. What is signed, and what it is checked for, is as with a real one.

use gtvp_model::digest::Digest;
use gtvp_model::union::{Identity, KeyName, SpkiDigest, TpmKind};
use gtvp_protocol::hsp::join::{CredentialSecret, JoinBinding};
use gtvp_protocol::hsp::message::{Ask, Bank, Certification, Credential, JoinKeys, LogKind, Path, Pcr};
use gtvp_protocol::hsp::{LogDelta, OwnEvidence};

/// The PCR that members extend.
pub const PCR: u8 = 14;
/// TPM_ALG_ID of its bank.
pub const SHA256: u16 = 0x000B;
/// Log entries that reference values know begin with this.
pub const GOOD: &str = "good:";

/// See the module.
#[derive(Debug, Clone)]
pub struct Tpm {
    pub ek: Vec<u8>,
    pub ak: Vec<u8>,
    pub tls: Vec<u8>,
    pub log: String,
    pub pcr: Digest,
    pub resets: u32,
    /// Milliseconds that its clock is behind the run's.
    pub behind: u64,
}

/// A signature by this key.
pub fn sign(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    Digest::of(&[key, b"|", bytes].concat()).0.to_vec()
}

/// The PCR after an entry more.
pub fn extend(pcr: Digest, entry: &str) -> Digest {
    Digest::of(&[&pcr.0[..], entry.as_bytes()].concat())
}

/// What evidence must show.
pub fn ask() -> Ask {
    let banks = vec![Bank { algorithm: SHA256, pcrs: 1 << PCR }];
    Ask { selection: banks.try_into().unwrap_or_default(), held: Default::default() }
}

/// What a credential for this EK and AK hides its secret behind.
pub fn id_object(ek: &[u8], ak: &KeyName) -> Vec<u8> {
    Digest::of(&[ek, ak.as_bytes()].concat()).0.to_vec()
}

impl Tpm {
    /// That of the server with this name, as `keys` has its public parts.
    pub fn of(name: &str) -> Self {
        let mut tpm = Self {
            ek: format!("ek of {name}").into_bytes(),
            ak: name.as_bytes().to_vec(),
            tls: format!("key of {name}").into_bytes(),
            log: String::new(),
            pcr: Digest([0; 32]),
            resets: 1,
            behind: 0,
        };
        tpm.extend("good:start");
        tpm
    }

    pub fn extend(&mut self, entry: &str) {
        self.pcr = extend(self.pcr, entry);
        self.log.push_str(entry);
        self.log.push('\n');
    }

    /// Power went, and came back.
    pub fn reboot(&mut self) {
        self.resets += 1;
        (self.pcr, self.log) = (Digest([0; 32]), String::new());
        self.extend("good:start");
    }

    pub fn spki(&self) -> SpkiDigest {
        SpkiDigest::new(Digest::of(&self.tls))
    }

    pub fn identity(&self) -> Identity {
        Identity::Tpm {
            kind: TpmKind::Hardware(Default::default()),
            ek: Digest::of(&self.ek).0.into(),
            ak: KeyName::sha256(&self.ak),
            tls: KeyName::sha256(&self.tls),
            spki: self.spki(),
        }
    }

    pub fn keys(&self) -> JoinKeys {
        let short = |b: &[u8]| b.to_vec().try_into().unwrap_or_default();
        JoinKeys {
            ek_certificate: b"certificate".to_vec().try_into().unwrap_or_default(),
            ek: short(&self.ek),
            ak: short(&self.ak),
            tls: short(&self.tls),
        }
    }

    /// One quote, qualifyingData ‖ resets ‖ clock ‖ PCR, over the root of a tree.
    pub fn quote(&self, data: Digest, now: u64) -> Vec<u8> {
        let clock = now.saturating_sub(self.behind);
        let mut attest = data.0.to_vec();
        attest.extend(self.resets.to_be_bytes());
        attest.extend(clock.to_be_bytes());
        attest.extend(self.pcr.0);
        attest
    }

    /// It, as one challenger gets it.
    pub fn answer(&self, attest: &[u8], path: Path, ask: &Ask) -> OwnEvidence {
        let log = self.log.as_bytes();
        let held = ask.held.as_slice().iter().find(|h| h.log == LogKind::Own);
        let known = held.and_then(|h| Some((log.get(..usize::try_from(h.bytes).ok()?)?, h.digest)));
        let from =
            known.filter(|(part, digest)| Digest::of(part) == *digest).map_or(0, |(part, _)| part.len());
        let value = attest.get(44..).unwrap_or_default().to_vec().try_into().unwrap_or_default();
        OwnEvidence {
            ak: self.ak.clone(),
            signature: sign(&self.ak, attest),
            attest: attest.to_vec(),
            pcrs: vec![Pcr { algorithm: SHA256, index: PCR, value }],
            path,
            logs: vec![LogDelta {
                log: LogKind::Own,
                from: from as u64,
                bytes: log.get(from..).unwrap_or_default().to_vec(),
            }],
        }
    }

    pub fn certify(&self, binding: &JoinBinding) -> Certification {
        let attest = [&binding.certify_data().0[..], KeyName::sha256(&self.tls).as_bytes()].concat();
        let signature = sign(&self.ak, &attest).try_into().unwrap_or_default();
        Certification { attest: attest.try_into().unwrap_or_default(), signature }
    }

    /// # Errors
    /// The credential is for another EK or AK.
    pub fn activate(&self, credential: &Credential) -> Result<CredentialSecret, String> {
        if credential.id_object.as_slice() != id_object(&self.ek, &KeyName::sha256(&self.ak)) {
            return Err("TPM_RC_INTEGRITY".into());
        }
        let secret = credential.secret.as_slice().try_into().map_err(|_| "TPM_RC_SIZE")?;
        Ok(CredentialSecret(secret))
    }
}
