//! What keys must be: attestation key, TLS identity key, endorsement key (protocols.md, HSP step 3).
//!
//! Attributes are only as good as the chain that proves them: credential activation for the AK, certification by the AK
//! for the TLS key. [`check_ak_certified`] is that second step.

use super::{
    Attest, Attested, KeyKind, Malformed, Name, Public, Scheme, Signature, SignatureRefusal, VerifyingKey,
};

/// Why a key is not what it is shown as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefusal {
    /// An attribute is missing.
    #[error("the {key} is not {attribute}")]
    Lacks {
        /// Which key.
        key: &'static str,
        /// Name of the attribute (TPMA_OBJECT).
        attribute: &'static str,
    },
    /// An attribute that the key must not have.
    #[error("the {key} is {attribute}")]
    Has {
        /// Which key.
        key: &'static str,
        /// Name of the attribute.
        attribute: &'static str,
    },
    /// The Name is over SHA-1.
    #[error("the {0}'s name algorithm is SHA-1")]
    Sha1Name(&'static str),
    /// An AK without a fixed scheme, or with one that GTVP does not verify.
    #[error("the {key}'s scheme is {scheme:?}")]
    Scheme {
        /// Which key.
        key: &'static str,
        /// Its scheme.
        scheme: Scheme,
    },
    /// The certification is not readable.
    #[error("the certification is malformed")]
    Malformed(#[from] Malformed),
    /// The certification is of another kind.
    #[error("the attestation certifies no object")]
    NotACertification,
    /// It certifies another key.
    #[error("the certification is of another object, {0}")]
    OtherObject(Name),
    /// It is bound to something else.
    #[error("the certification is bound to another challenge")]
    BoundElsewhere,
    /// Its signature does not count.
    #[error("the certification's signature does not count")]
    Signature(#[from] SignatureRefusal),
}

fn need(key: &'static str, have: &[(bool, &'static str)]) -> Result<(), KeyRefusal> {
    match have.iter().find(|(ok, _)| !ok) {
        Some((_, attribute)) => Err(KeyRefusal::Lacks { key, attribute }),
        None => Ok(()),
    }
}

fn made_here(key: &'static str, public: &Public) -> Result<(), KeyRefusal> {
    if !public.name_alg.is_trusted() {
        return Err(KeyRefusal::Sha1Name(key));
    }
    let a = public.attributes;
    need(
        key,
        &[
            (a.fixed_tpm(), "fixedTPM"),
            (a.fixed_parent(), "fixedParent"),
            (a.sensitive_data_origin(), "sensitiveDataOrigin"),
        ],
    )
}

/// A restricted signing key that never leaves its TPM: signs only what that TPM made.
pub fn check_ak(public: &Public) -> Result<(), KeyRefusal> {
    const KEY: &str = "attestation key";
    made_here(KEY, public)?;
    let a = public.attributes;
    need(KEY, &[(a.restricted(), "restricted"), (a.sign(), "sign")])?;
    if a.decrypt() {
        return Err(KeyRefusal::Has { key: KEY, attribute: "decrypt" });
    }
    if a.x509_sign() {
        return Err(KeyRefusal::Has { key: KEY, attribute: "x509sign" });
    }
    match public.scheme {
        Scheme::Ecdsa(h) | Scheme::RsaSsa(h) | Scheme::RsaPss(h) if h.is_trusted() => Ok(()),
        scheme => Err(KeyRefusal::Scheme { key: KEY, scheme }),
    }
}

/// A TLS identity key: signs, unrestricted (it signs TLS transcripts), and never leaves its TPM.
pub fn check_tls_key(public: &Public) -> Result<(), KeyRefusal> {
    const KEY: &str = "TLS key";
    made_here(KEY, public)?;
    let a = public.attributes;
    need(KEY, &[(a.sign(), "sign")])?;
    if a.restricted() {
        return Err(KeyRefusal::Has { key: KEY, attribute: "restricted" });
    }
    if a.decrypt() {
        return Err(KeyRefusal::Has { key: KEY, attribute: "decrypt" });
    }
    Ok(())
}

/// An endorsement key: a restricted decryption key (TCG EK Credential Profile §2.1.5), with which MakeCredential makes
/// sense.
pub fn check_ek(public: &Public) -> Result<(), KeyRefusal> {
    const KEY: &str = "endorsement key";
    made_here(KEY, public)?;
    let a = public.attributes;
    need(
        KEY,
        &[
            (a.restricted(), "restricted"),
            (a.decrypt(), "decrypt"),
            (public.has_symmetric, "a storage key (no symmetric algorithm)"),
        ],
    )?;
    if a.sign() {
        return Err(KeyRefusal::Has { key: KEY, attribute: "sign" });
    }
    match &public.key {
        KeyKind::Ecc { .. } | KeyKind::Rsa { .. } => Ok(()),
    }
}

/// That `ak` certified the object `want` for `challenge`: TPM2_Certify over `attest` with `signature`, raw bytes.
pub fn check_ak_certified(
    ak: &VerifyingKey,
    attest: &[u8],
    signature: &[u8],
    challenge: &[u8],
    want: &Name,
) -> Result<(), KeyRefusal> {
    ak.verify(attest, &Signature::parse(signature)?)?;
    let parsed = Attest::parse(attest)?;
    let Attested::Certify { name, .. } = parsed.attested else { return Err(KeyRefusal::NotACertification) };
    if parsed.extra_data != challenge {
        return Err(KeyRefusal::BoundElsewhere);
    }
    if name != *want {
        return Err(KeyRefusal::OtherObject(name));
    }
    Ok(())
}
