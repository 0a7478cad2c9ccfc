//! What `security` answers. It signs what it has made sense of, under a label of its own: never bytes as they come.

use gtvp_model::boxspec::BoxSpec;
use gtvp_model::boxview::Appraisal;
use gtvp_model::digest::Digest;
use gtvp_model::ids::BoxName;
use gtvp_model::member::TpmView;
use gtvp_model::union::{Hardware, TpmClass};
use gtvp_model::unionview::{MemberRow, UnionBegin, UnionSummary};
use serde::{Deserialize, Serialize};

use crate::Nothing;

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

/// A box is about to be started on this composition: it goes into the log of measurements and the TPM first. Without a TPM nothing
/// happens.
#[derive(Debug, Serialize, Deserialize)]
pub struct MeasureBox {
    /// The box.
    pub name: BoxName,
    /// Its composition.
    pub composition: Digest,
}

/// How the member's TPM is.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tpm {}

/// What other members know this one's TPM by.
#[derive(Debug, Serialize, Deserialize)]
pub struct TpmIdentity {}

/// The answer to [`TpmIdentity`]. Everything is in hexadecimal; public areas are contents of TPM2B_PUBLIC (TCG TPM 2.0 Part 2
/// §12.2.5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TpmIdentityReply {
    /// What it is: never `none`, which is a `WrongState` fault.
    pub class: TpmClass,
    /// The endorsement key.
    pub ek_public: String,
    /// Its certificate, as it lies in the TPM.
    pub ek_certificate: Option<String>,
    /// The attestation key. Restricted: it signs only what the TPM has put together.
    pub ak_public: String,
    /// The key of this member's TLS identity.
    pub tls_public: String,
}

/// Sign this side's CertificateVerify of a TLS 1.3 handshake (RFC 8446 §4.4.3) with the key of the TLS identity. `security` puts
/// together what is signed; there is no way to have it sign other bytes.
#[derive(Debug, Serialize, Deserialize)]
pub struct SignTls {
    /// Which side this member is.
    pub role: TlsRole,
    /// The transcript hash, in hexadecimal: 32 or 48 bytes.
    pub transcript: String,
}

/// A side of a TLS connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsRole {
    /// It was connected to.
    Server,
    /// It connected.
    Client,
}

/// The answer to [`SignTls`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsSignature {
    /// r ‖ s, 64 bytes, in hexadecimal: ECDSA on P-256 with SHA-256.
    pub value: String,
}

/// Begin a union whose first member this one is.
#[derive(Debug, Serialize, Deserialize)]
pub struct BeginUnion {
    /// What it begins with.
    pub union: UnionBegin,
    /// What this member is made of.
    pub hardware: Hardware,
}

/// The union that this member is in.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShowUnion {}

/// Its members; outside of a union this one alone.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListMembers {}

/// Make this member's evidence a file. Answers with a descriptor that the file (docs/spec/evidence.md, "Files") can be read from.
/// The quote is bound to what `security` puts together around the nonce, never to the nonce as it came.
#[derive(Debug, Serialize, Deserialize)]
pub struct Attest {
    /// What the one who asks has chosen, in hexadecimal: 16 to 64 bytes.
    pub nonce: String,
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
    /// See [`MeasureBox`].
    MeasureBox = "measure_box" -> Nothing;
    /// See [`Tpm`]. A TPM that cannot be used is no fault: the answer says why.
    Tpm = "tpm" -> TpmView;
    /// See [`TpmIdentity`].
    TpmIdentity = "tpm_identity" -> TpmIdentityReply;
    /// See [`SignTls`].
    SignTls = "sign_tls" -> TlsSignature;
    /// See [`BeginUnion`]. A member that is in a union already, and a TPM that the union would not let in, are refused.
    BeginUnion = "begin_union" -> UnionSummary;
    /// See [`ShowUnion`]. Outside of a union: `NotFound`.
    ShowUnion = "show_union" -> UnionSummary;
    /// See [`ListMembers`].
    ListMembers = "list_members" -> Vec<MemberRow>;
    /// See [`Attest`].
    Attest = "attest" -> Nothing;
});
