//! One member's appraisal, as `security` does it: whose key, signed, bound to what was asked, which life of which TPM, PCRs, replay,
//! reference values. A run can leave single checks out on purpose.

use std::collections::{BTreeMap, BTreeSet};

use gtvp_model::digest::Digest;
use gtvp_model::union::{Identity, KeyName, MemberId, SpkiDigest, TpmKind};
use gtvp_protocol::Untrusted;
use gtvp_protocol::hsp::join::{CheckedKeys, CredentialSecret, JoinBinding};
use gtvp_protocol::hsp::message::{Ask, Certification, Evidence, Held, JoinKeys, LogKind};
use gtvp_protocol::hsp::{Appraisable, Appraisal, Binding, Rejection, RejectionKind, Role};

use super::tpm::{GOOD, PCR, SHA256, ask, extend, sign};
use crate::config::Omitted;

/// The binding as a protocol without those fields would have it.
pub fn blank(omitted: &BTreeSet<Omitted>, mut b: Binding) -> Binding {
    for field in omitted {
        match field {
            Omitted::Role => b.role = Role::Initiator,
            Omitted::Exporter => b.exporter = [0; 32],
            Omitted::Nonce => b.nonce = [0; 32],
            Omitted::Transcript => b.transcript = Digest([0; 32]),
            _ => {}
        }
    }
    b
}

/// See the module. It is in memory: a member that was down begins anew.
#[derive(Debug, Clone, Default)]
pub struct Appraiser {
    omitted: BTreeSet<Omitted>,
    seen: BTreeMap<MemberId, (u32, u64)>,
    held: BTreeMap<MemberId, Vec<u8>>,
}

fn reject<T>(kind: RejectionKind, why: &str) -> Result<T, Rejection> {
    Err(Rejection { kind, why: why.to_owned() })
}

impl Appraiser {
    /// One that leaves these out.
    pub fn new(omitted: BTreeSet<Omitted>) -> Self {
        Self { omitted, ..Self::default() }
    }

    /// What there is to ask of this member: of its log what is new.
    pub fn ask(&self, id: MemberId) -> Ask {
        let held = self.held.get(&id).map(|log| Held {
            log: LogKind::Own,
            bytes: log.len() as u64,
            digest: Digest::of(log),
        });
        let held: Vec<Held> = held.into_iter().collect();
        Ask { held: held.try_into().unwrap_or_default(), ..ask() }
    }

    /// The newest life and clock of this member's TPM that was seen.
    pub fn newest(&self, id: &MemberId) -> Option<(u32, u64)> {
        self.seen.get(id).copied()
    }

    fn makes(&self, part: Omitted) -> bool {
        !self.omitted.contains(&part)
    }

    /// `asked`: the life and clock of the TPM that were known when this evidence was asked for. Two connections with one member are
    /// asked at different times, and answers overtake each other.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn appraise(
        &mut self,
        what: &Appraisable,
        asked: Option<(u32, u64)>,
    ) -> Result<Appraisal, Rejection> {
        let evidence = what.evidence.unchecked();
        let attest = evidence.attest.as_slice();
        let Identity::Tpm { ak, .. } = &what.of.identity else {
            return reject(RejectionKind::Signature, "no AK");
        };
        let signer = evidence.ak.as_slice();
        if KeyName::sha256(signer) != *ak && self.makes(Omitted::Ak) {
            return reject(RejectionKind::Signature, "another AK than the roster has");
        }
        if evidence.signature.as_slice() != sign(signer, attest) {
            return reject(RejectionKind::Signature, "not signed by that AK");
        }
        let [data, resets, clock, pcr] =
            split(attest).ok_or(Rejection { kind: RejectionKind::Malformed, why: "not a quote".into() })?;
        let want = blank(&self.omitted, what.binding.clone()).qualifying_data(&evidence.path);
        if want.as_ref().map(|d| &d.0[..]) != Some(data) {
            return reject(RejectionKind::BoundElsewhere, "bound elsewhere");
        }
        let resets = u32::from_be_bytes(resets.try_into().unwrap_or_default());
        let clock = u64::from_be_bytes(clock.try_into().unwrap_or_default());
        let id = what.of.id();
        if asked.is_some_and(|newest| newest > (resets, clock)) && self.makes(Omitted::Clock) {
            return reject(RejectionKind::TpmReset, "the TPM is in an earlier life");
        }
        if let Some(newest) = self.seen.get(&id) {
            if evidence.round > 0 && newest.0 != resets && self.makes(Omitted::Life) {
                return reject(RejectionKind::TpmReset, "the TPM was reset");
            }
        }
        let given = evidence.pcrs.as_slice().iter().find(|p| p.algorithm == SHA256 && p.index == PCR);
        if given.is_some_and(|p| p.value.as_slice() != pcr) {
            return reject(RejectionKind::Pcrs, "other PCRs than were quoted");
        }
        let mut log = Vec::new();
        for delta in what.logs.iter().filter(|d| d.log == LogKind::Own) {
            let held = self.held.get(&id).map_or(&[][..], |h| h.as_slice());
            let from = usize::try_from(delta.from).unwrap_or(usize::MAX);
            log = held.get(..from).unwrap_or_default().to_vec();
            log.extend(&delta.bytes);
        }
        let Ok(text) = std::str::from_utf8(&log) else { return reject(RejectionKind::Malformed, "no text") };
        // What a PCR that was not asked for would show, nobody knows: exactly those that were asked is the engine's check.
        if let Some(given) = given {
            let replayed = text.lines().fold(Digest([0; 32]), extend);
            if given.value.as_slice() != replayed.0 && self.makes(Omitted::Replay) {
                return reject(RejectionKind::Replay, "the log does not replay");
            }
            let bad = text.lines().find(|l| !l.starts_with(GOOD));
            if let Some(bad) = bad.filter(|_| self.makes(Omitted::Reference)) {
                return reject(RejectionKind::Reference, bad);
            }
        }
        let newest = self.seen.get(&id).copied().filter(|_| self.makes(Omitted::Clock));
        self.seen.insert(id, newest.unwrap_or_default().max((resets, clock)));
        self.held.insert(id, log);
        Ok(Appraisal { result: Digest::of(attest) })
    }

    /// # Errors
    /// The credential was not opened, or the certification is not of these keys and this join.
    pub fn certification(
        &self,
        secret: Option<&CredentialSecret>,
        proof: &[u8; 32],
        certification: &Untrusted<Certification>,
        binding: &JoinBinding,
        keys: &CheckedKeys,
    ) -> Result<(), Rejection> {
        let opened = secret.is_some_and(|s| binding.is_proved(s, keys, proof));
        if !opened && self.makes(Omitted::Credential) {
            return reject(RejectionKind::Credential, "the credential was not opened");
        }
        let c = certification.unchecked();
        let want = [&binding.certify_data().0[..], keys.tls.as_bytes()].concat();
        if c.attest.as_slice() != want || c.signature.as_slice() != sign(&keys.ak_public, &want) {
            return reject(RejectionKind::Signature, "not of this AK, this TLS key and this join");
        }
        Ok(())
    }
}

/// The life of the TPM that this evidence is of.
pub fn life(evidence: &Evidence) -> u32 {
    let resets = split(evidence.attest.as_slice()).and_then(|[_, resets, ..]| resets.try_into().ok());
    u32::from_be_bytes(resets.unwrap_or_default())
}

fn split(attest: &[u8]) -> Option<[&[u8]; 4]> {
    if attest.len() != 76 {
        return None;
    }
    Some([attest.get(..32)?, attest.get(32..36)?, attest.get(36..44)?, attest.get(44..)?])
}

/// # Errors
/// The TLS key is not the one that TLS showed.
pub fn appraise_keys(keys: &Untrusted<JoinKeys>, spki: SpkiDigest) -> Result<Box<CheckedKeys>, Rejection> {
    let JoinKeys { ek, ak, tls, .. } = keys.unchecked().clone();
    if SpkiDigest::new(Digest::of(tls.as_slice())) != spki {
        return reject(RejectionKind::Keys, "TLS shows another key");
    }
    let (ak_name, tls) = (KeyName::sha256(ak.as_slice()), KeyName::sha256(tls.as_slice()));
    let ek_digest = Digest::of(ek.as_slice()).0.into();
    let (ek_public, ak_public) = (ek.into_vec(), ak.into_vec());
    Ok(Box::new(CheckedKeys {
        kind: TpmKind::Hardware(Default::default()),
        ek: ek_digest,
        ek_public,
        ak: ak_name,
        ak_public,
        tls,
        spki,
    }))
}
