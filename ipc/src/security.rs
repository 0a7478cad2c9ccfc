//! What `security` answers. It signs what it has made sense of, under a label of its own: never bytes as they come.

use gtvp_model::boxspec::BoxSpec;
use gtvp_model::boxview::Appraisal;
use gtvp_model::digest::Digest;
use serde::{Deserialize, Serialize};

/// A signature by this member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Algorithm: `ES256` (ECDSA, P-256, SHA-256).
    pub algorithm: String,
    /// SHA-256 of the public key (SEC1, uncompressed).
    pub key: Digest,
    /// r ‖ s, in hexadecimal.
    pub value: String,
}

/// Sign a component's manifest.
#[derive(Debug, Serialize, Deserialize)]
pub struct SignManifest {
    /// The manifest's digest.
    pub digest: Digest,
}

/// Appraise a component before it is linked.
#[derive(Debug, Serialize, Deserialize)]
pub struct AppraiseComponent {
    /// For people.
    pub reference: String,
    /// The manifest's digest, computed from the bytes that will be served.
    pub manifest: Digest,
    /// The signature found with it.
    pub signature: Signature,
    /// What `components` itself has checked, for example `apt signature chain`.
    pub checked_before: Vec<String>,
}

/// May this box run here?
#[derive(Debug, Serialize, Deserialize)]
pub struct PermitRun {
    /// What was asked for.
    pub spec: BoxSpec,
    /// Uid of the operator.
    pub operator_uid: u32,
}

/// Leave to do one thing. Only `security` makes one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permit {
    /// The rule that allows it.
    pub rule: String,
    /// What was not checked.
    pub not_checked: Vec<String>,
}

/// What this member can say of itself.
#[derive(Debug, Serialize, Deserialize)]
pub struct Verdict {}

/// The answer to [`Verdict`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictReply {
    /// `trusted`, `untrusted` or `unknown`.
    pub verdict: String,
    /// What was not checked.
    pub not_checked: Vec<String>,
}

crate::interface!("security" {
    /// See [`SignManifest`].
    SignManifest = "sign_manifest" -> Signature;
    /// See [`AppraiseComponent`]. A signature that does not hold is an `Integrity` fault.
    AppraiseComponent = "appraise_component" -> Appraisal;
    /// See [`PermitRun`]. A refusal is a `Denied` fault that names the rule.
    PermitRun = "permit_run" -> Permit;
    /// See [`Verdict`].
    Verdict = "verdict" -> VerdictReply;
});
