//! Enrolment: how a server that has a token becomes a member, once. [`Joiner`] and [`Verifier`] are its two sides.
//!
//! It is a transaction. What makes a member is one entry of the record; up to it neither side has changed, and after it
//! a joiner that did not hear of it asks again, with the same keys, and is told. The joiner keeps one thing before the
//! entry: which keys it asked with ([`crate::hsp::Durable::Intent`]), which makes it nothing.

mod joiner;
mod verifier;

use std::fmt;

use gtvp_model::digest::Digest;
use gtvp_model::token::{TokenId, TokenKey};
use gtvp_model::union::{EkDigest, Identity, KeyName, MemberId, SpkiDigest, TpmKind, UnionId};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::binding::labelled;
use super::message::{JoinChallenge, JoinHello, Message};
use crate::frame::wire::hex;

pub use joiner::{JoinSetup, Joiner};
pub use verifier::{Verifier, VerifierSetup};

/// How long an enrolment may take, milliseconds: the record may have to be read, and a discrete TPM opens a credential
/// in 1 to 2 s.
pub const DEADLINE: u64 = 60_000;

/// Longest record taken, bytes: 64 MiB are some 100,000 entries, and come in under a minute on 10 Mbit/s.
pub const MAX_RECORD: u64 = 64 * 1024 * 1024;

/// What MakeCredential hid and ActivateCredential found: 32 bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialSecret(#[serde(with = "hex")] pub [u8; 32]);

impl fmt::Debug for CredentialSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CredentialSecret(not shown)")
    }
}

/// A joiner's keys as appraisal found them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedKeys {
    /// Whose word the TPM is.
    pub kind: TpmKind,
    /// SHA-256 of the EK's public area.
    pub ek: EkDigest,
    /// TPMT_PUBLIC of the EK, to make a credential with.
    #[serde(with = "hex")]
    pub ek_public: Vec<u8>,
    /// Name of the AK, which has the attributes that it must have.
    pub ak: KeyName,
    /// TPMT_PUBLIC of the AK, to check what it signs.
    #[serde(with = "hex")]
    pub ak_public: Vec<u8>,
    /// Name of the TLS key.
    pub tls: KeyName,
    /// The TLS key as TLS shows it.
    pub spki: SpkiDigest,
}

impl CheckedKeys {
    /// The identity that they make.
    pub fn identity(&self) -> Identity {
        let Self { kind, ek, ak, tls, spki, .. } = self.clone();
        Identity::Tpm { kind, ek, ak, tls, spki }
    }
}

/// What a join's proofs and its certification are bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinBinding {
    /// The union.
    pub union: UnionId,
    /// The token.
    pub token: TokenId,
    /// The verifier.
    pub verifier: MemberId,
    /// Of this TLS connection.
    #[serde(with = "hex")]
    pub exporter: [u8; 32],
    /// SHA-256 over the joiner's hello and the verifier's challenge, as they were sent: both nonces are in them.
    pub transcript: Digest,
}

impl JoinBinding {
    /// qualifyingData of TPM2_Certify.
    pub fn certify_data(&self) -> Digest {
        self.hash(b"gtvp-hsp-certify/1\0")
    }

    fn hash(&self, label: &[u8]) -> Digest {
        let Self { union, token, verifier, exporter, transcript } = self;
        labelled(label, &[union.as_bytes(), token.as_bytes(), verifier.as_bytes(), exporter, &transcript.0])
    }

    /// HMAC(credential's secret, label ‖ this ‖ Name(AK) ‖ Name(TLS)).
    fn credential_proof(&self, secret: &CredentialSecret, ak: &KeyName, tls: &KeyName) -> Proof {
        let bound = self.hash(b"gtvp-hsp-credential/1\0");
        Proof::new(&secret.0, b"gtvp-hsp-join-proof/1\0", &[&bound.0, ak.as_bytes(), tls.as_bytes()])
    }

    /// The joiner's proof that it has opened the credential.
    pub fn prove(&self, secret: &CredentialSecret, ak: &KeyName, tls: &KeyName) -> [u8; 32] {
        self.credential_proof(secret, ak, tls).bytes()
    }

    /// Whether `proof` is by this secret, for these keys and this join.
    pub fn is_proved(&self, secret: &CredentialSecret, keys: &CheckedKeys, proof: &[u8; 32]) -> bool {
        self.credential_proof(secret, &keys.ak, &keys.tls).is(proof)
    }

    /// HMAC(token's key, label ‖ this ‖ H(SPKI)), for a joiner without a TPM.
    pub(crate) fn bare_proof(&self, key: &TokenKey, spki: SpkiDigest) -> Proof {
        let bound = self.hash(b"gtvp-hsp-bare/1\0");
        Proof::new(key.as_bytes(), b"gtvp-hsp-bare-proof/1\0", &[&bound.0, spki.as_bytes()])
    }
}

/// An HMAC-SHA-256 that is compared in constant time.
pub(crate) struct Proof(Hmac<Sha256>);

impl Proof {
    fn new(key: &[u8], label: &[u8], parts: &[&[u8]]) -> Self {
        // Keys here have 32 bytes; HMAC takes any length.
        let mut mac = match Hmac::<Sha256>::new_from_slice(key) {
            Ok(mac) => mac,
            Err(never) => unreachable!("HMAC takes keys of any length: {never}"),
        };
        mac.update(&labelled(label, parts).0);
        Self(mac)
    }

    pub(crate) fn bytes(self) -> [u8; 32] {
        self.0.finalize().into_bytes().into()
    }

    pub(crate) fn is(self, bytes: &[u8; 32]) -> bool {
        self.0.verify_slice(bytes).is_ok()
    }
}

/// The joiner's proof of its token: over its whole hello, with the proof left zero, on this channel.
pub(crate) fn token_proof(key: &TokenKey, exporter: &[u8; 32], hello: &JoinHello) -> Proof {
    let body = Message::from(JoinHello { proof: [0; 32], ..hello.clone() }).frame().body;
    Proof::new(key.as_bytes(), b"gtvp-hsp-join-hello/1\0", &[exporter, &body])
}

/// The verifier's: over the hello and its whole challenge, with the proof left zero.
pub(crate) fn verifier_proof(
    key: &TokenKey,
    exporter: &[u8; 32],
    hello: &[u8],
    challenge: &JoinChallenge,
) -> Proof {
    let body = Message::from(JoinChallenge { proof: [0; 32], ..challenge.clone() }).frame().body;
    Proof::new(key.as_bytes(), b"gtvp-hsp-join-challenge/1\0", &[exporter, hello, &body])
}

/// SHA-256 over the joiner's hello and the verifier's challenge, as they were sent.
pub(crate) fn transcript(hello: &[u8], challenge: &[u8]) -> Digest {
    labelled(b"gtvp-hsp-join/1\0", &[hello, challenge])
}
