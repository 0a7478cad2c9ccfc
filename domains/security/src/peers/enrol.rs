//! Enrolment, both sides: whether a joiner's keys are what they must be and in one TPM, and what this member's TPM does to join.

use gtvp_appraisal::ek::EkKey;
use gtvp_appraisal::tpm::{
    Curve, KeyRefusal, Malformed, Public, SignatureRefusal, VerifyingKey, check_ak, check_ak_certified,
    check_ek, check_tls_key,
};
use gtvp_ipc::security::{
    ActivateCredential, AppraiseCertification, AppraiseKeys, Certify, CredentialMade, MakeCredential,
    OwnKeysReply,
};
use gtvp_model::digest::Digest;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::union::{EkDigest, KeyName, RosterEntry, SpkiDigest, TokenRecord, TpmKind};
use gtvp_protocol::frame::wire::TooManyBytes;
use gtvp_protocol::hsp::join::{CheckedKeys, CredentialSecret};
use gtvp_protocol::hsp::message::{Certification, Credential, JoinKeys};
use gtvp_protocol::hsp::{Rejection, RejectionKind};

use super::{Now, Peers};
use crate::platform::{chain, fault};
use crate::tpm::credential::make_credential;
use crate::tpm::keys;
use crate::vendors::{self, NoClass};

const NOT_BELIEVED: &str = "these keys were not believed here in the last two minutes";

fn rejection(kind: RejectionKind, why: impl Into<String>) -> Rejection {
    Rejection { kind, why: why.into() }
}

fn bad_key(what: &str, e: &KeyRefusal) -> Rejection {
    let kind = match e {
        KeyRefusal::Malformed(_) => RejectionKind::Malformed,
        KeyRefusal::Signature(_) => RejectionKind::Signature,
        KeyRefusal::BoundElsewhere => RejectionKind::BoundElsewhere,
        _ => RejectionKind::Keys,
    };
    rejection(kind, format!("{what}: {}", chain(e)))
}

fn public(what: &str, bytes: &[u8]) -> Result<Public, Rejection> {
    Public::parse(bytes)
        .map_err(|e: Malformed| rejection(RejectionKind::Malformed, format!("{what}: {}", chain(&e))))
}

fn usable(what: &str, key: &Public) -> Result<VerifyingKey, Rejection> {
    VerifyingKey::of(key)
        .map_err(|e: SignatureRefusal| rejection(RejectionKind::Keys, format!("{what}: {}", chain(&e))))
}

fn name(what: &str, key: &Public) -> Result<KeyName, Rejection> {
    KeyName::new(&key.name().to_bytes()).map_err(|e| rejection(RejectionKind::Keys, format!("{what}: {e}")))
}

impl Peers {
    /// This member's keys as others see them.
    ///
    /// # Errors
    /// With a TPM that cannot be reached.
    pub fn own_keys(&self) -> Result<OwnKeysReply, Fault> {
        let own = self.union.own_keys()?;
        let large = |e: TooManyBytes| Fault::internal("a key of this member's TPM is too large", &e);
        let shown = |tpm: keys::Identity| {
            Ok::<_, Fault>(JoinKeys {
                ek_certificate: tpm.ek_certificate.unwrap_or_default().try_into().map_err(large)?,
                ek: tpm.ek_public.try_into().map_err(large)?,
                ak: tpm.ak_public.try_into().map_err(large)?,
                tls: tpm.tls_public.try_into().map_err(large)?,
            })
        };
        let keys = own.tpm.map(shown).transpose()?;
        // What the union thinks of the TPM is the union's to say.
        let known = self.union.known().ok().flatten().filter(|k| k.has_us());
        let recorded = known.and_then(|k| k.own.clone()).map(|own| own.identity);
        let identity = recorded.filter(|i| i.same_keys(&own.identity)).unwrap_or(own.identity);
        Ok(OwnKeysReply { keys, identity, spki: own.spki })
    }

    /// Whether a joiner's keys are what they must be. That they are in one TPM is what comes after.
    pub fn appraise_keys(&self, asked: &AppraiseKeys, now: Now) -> Result<Box<CheckedKeys>, Rejection> {
        let keys = &asked.keys;
        let ek = public("its endorsement key", keys.ek.as_slice())?;
        check_ek(&ek).map_err(|e| bad_key("its endorsement key", &e))?;
        let ak = public("its attestation key", keys.ak.as_slice())?;
        check_ak(&ak).map_err(|e| bad_key("its attestation key", &e))?;
        usable("its attestation key", &ak)?;
        let tls = public("its TLS key", keys.tls.as_slice())?;
        check_tls_key(&tls).map_err(|e| bad_key("its TLS key", &e))?;
        let tls_key = EkKey::of_public(&tls);
        // What signs heads and entries: the record knows one algorithm.
        if !matches!(tls_key, EkKey::Ecc(Curve::P256, _)) {
            return Err(rejection(RejectionKind::Keys, "its TLS key is not on P-256"));
        }
        let spki = SpkiDigest::new(Digest::of(&tls_key.spki()));
        if spki != asked.spki {
            return Err(rejection(RejectionKind::Keys, "its TLS key is not the one that TLS showed"));
        }
        let checked = CheckedKeys {
            kind: self.kind(keys.ek_certificate.as_slice(), &ek, now)?,
            ek: EkDigest::new(EkKey::of_public(&ek).fingerprint().0),
            ek_public: keys.ek.as_slice().to_vec(),
            ak: name("its attestation key", &ak)?,
            ak_public: keys.ak.as_slice().to_vec(),
            tls: name("its TLS key", &tls)?,
            spki,
        };
        self.believed().keys(&checked, now.ms);
        Ok(Box::new(checked))
    }

    /// Whose word its TPM is. That an administrator has named its key is read from the record, in a token that still lets it in.
    fn kind(&self, certificate: &[u8], ek: &Public, now: Now) -> Result<TpmKind, Rejection> {
        let known = self.union.known().ok().flatten();
        let view = known.as_ref().map(|k| &k.state.view);
        let of = EkDigest::new(EkKey::of_public(ek).fingerprint().0);
        let good = |t: &TokenRecord| t.ek == Some(of) && (t.used_by.is_some() || now.unix() < t.expires);
        let pinned = view.is_some_and(|v| v.tokens.values().any(good));
        let software = view.is_some_and(|v| v.settings.software_tpms);
        vendors::kind(&self.roots, certificate, ek, pinned, software, now.seconds()).map_err(|e| {
            let why = match &e {
                NoClass::Nobody { ek, why } => format!(
                    "no vendor vouches for its endorsement key. To let it in by your own word: gtvp token create --ek {ek} ({why})"
                ),
                NoClass::Certificate(_) => chain(&e),
            };
            rejection(RejectionKind::Keys, why)
        })
    }

    /// A credential that only the TPM with this EK opens, for this AK. Its secret stays here.
    ///
    /// # Errors
    /// `Denied` for keys that were not believed here a short time ago; an EK that none can be made for.
    pub fn make_credential(&self, asked: &MakeCredential, now: Now) -> Result<CredentialMade, Fault> {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).map_err(|e| Fault::internal("there is no randomness", &e))?;
        let made = make_credential(&asked.ek, asked.ak.as_bytes(), &secret)
            .map_err(|e| Fault::new(FaultKind::Invalid, "no credential can be made").because(chain(&e)))?;
        if !self.believed().credential(&asked.ek, &asked.ak, &CredentialSecret(secret), now.ms) {
            return Err(Fault::new(FaultKind::Denied, "no credential is made").because(NOT_BELIEVED));
        }
        let large = |e: TooManyBytes| Fault::internal("the credential is too large", &e);
        let credential = Credential {
            id_object: made.blob.try_into().map_err(large)?,
            secret: made.secret.try_into().map_err(large)?,
        };
        Ok(CredentialMade { credential })
    }

    /// Opens a credential in this member's TPM.
    ///
    /// # Errors
    /// The TPM's: it is for another TPM, or another key.
    pub fn activate_credential(&self, asked: &ActivateCredential) -> Result<CredentialSecret, Fault> {
        let Credential { id_object, secret } = &asked.credential;
        let opened = self
            .platform
            .tpm()?
            .activate_credential(id_object.as_slice().to_vec(), secret.as_slice().to_vec())
            .map_err(|e| fault(&e))?;
        opened
            .try_into()
            .map(CredentialSecret)
            .map_err(|_| Fault::new(FaultKind::Integrity, "what is in the credential is not 32 bytes long"))
    }

    /// Has this member's AK certify its TLS key, bound to a join of its own.
    ///
    /// # Errors
    /// `Denied` for a union whose record was not learned; the TPM's.
    pub fn certify(&self, asked: &Certify) -> Result<Certification, Fault> {
        if !self.union.joins(asked.binding.union) {
            return Err(Fault::new(FaultKind::Denied, "this server is not joining that union"));
        }
        let bound = asked.binding.certify_data().0.to_vec();
        let made = self.platform.tpm()?.certify_tls(bound).map_err(|e| fault(&e))?;
        let large = |e: TooManyBytes| Fault::internal("the certification is too large", &e);
        Ok(Certification {
            attest: made.attest.try_into().map_err(large)?,
            signature: made.signature.try_into().map_err(large)?,
        })
    }

    /// Whether a joiner has opened the credential, so that its AK is in the TPM of its EK, and its AK has certified its TLS key, both for
    /// this very join.
    pub fn appraise_certification(&self, asked: &AppraiseCertification, now: Now) -> Result<(), Rejection> {
        let identity = asked.keys.identity();
        let believed = self.believed().known(&identity, now.ms);
        let keys = believed
            .filter(|k| *k == asked.keys)
            .ok_or_else(|| rejection(RejectionKind::Keys, NOT_BELIEVED))?;
        let elsewhere = |what| rejection(RejectionKind::BoundElsewhere, format!("it is bound to {what}"));
        let known = self.union.known().ok().flatten().filter(|k| k.has_us());
        if known.as_ref().map(|k| k.state.view.union) != Some(asked.binding.union) {
            return Err(elsewhere("another union"));
        }
        if known.and_then(|k| k.own.as_ref().map(RosterEntry::id)) != Some(asked.binding.verifier) {
            return Err(elsewhere("another verifier"));
        }
        let secret = self.believed().secret(&identity, now.ms);
        if !secret.is_some_and(|s| asked.binding.is_proved(&s, &keys, &asked.proof)) {
            return Err(rejection(
                RejectionKind::Credential,
                "its attestation key is not in the TPM of its endorsement key: the credential was not opened",
            ));
        }
        let what = "the certification";
        let ak = usable("its attestation key", &public("its attestation key", &keys.ak_public)?)?;
        let tls = gtvp_appraisal::tpm::Name::parse(keys.tls.as_bytes())
            .map_err(|e| rejection(RejectionKind::Malformed, chain(&e)))?;
        let Certification { attest, signature } = &asked.certification;
        let bound = asked.binding.certify_data();
        check_ak_certified(&ak, attest.as_slice(), signature.as_slice(), &bound.0, &tls)
            .map_err(|e| bad_key(what, &e))?;
        self.believed().proven(&identity, now.ms);
        Ok(())
    }
}
