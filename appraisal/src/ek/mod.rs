//! Endorsement keys: who made the TPM (TCG EK Credential Profile for TPM 2.0, 2.5).
//!
//! Two ways in, never mixed: [`verify`] takes a certificate to a root that the administrator supplied; [`Pin`] is the
//! fingerprint of an EK that an administrator wrote down. A certificate that does not chain is refused here; that a pin may stand in its
//! place is the caller's to say ([`EkRefusal::proves_nothing`]).
//!
//! Real vendors' certificates break the rules of RFC 5280 in ways that do no harm: padding after the DER, a root that is
//! its own EK certificate, no subject, extensions wrongly critical, a validity that has ended. Those are accepted and told as [`Oddity`].
//! What this proves is who holds the certificate's key only after credential activation. Revocation is what lists say that were
//! supplied with the roots: nothing here reaches a network.

mod chain;
mod key;
mod revoked;
mod signed;

pub use chain::{Oddity, Roots, RootsRefusal, VerifiedEk, stacked, verify};
pub use key::{EkKey, Pin};
pub use revoked::Revocation;

/// Longest certificate taken: NV indices hold at most 2 KiB, certificates of CAs stay below 4 KiB.
pub const MAX_CERTIFICATE: usize = 8192;

/// Longest chain above the EK certificate: Intel's keys that are made on the die have five intermediates between them and the root, other
/// vendors' two at most.
pub const MAX_DEPTH: usize = 8;

/// Most certificates that a member may send beside its EK certificate.
pub const MAX_INTERMEDIATES: usize = 8;

/// Why an EK certificate is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EkRefusal {
    /// Longer than [`MAX_CERTIFICATE`].
    #[error("{0} bytes are longer than an EK certificate")]
    TooLong(usize),
    /// Not DER of a certificate.
    #[error("not an X.509 certificate: {0}")]
    NotACertificate(String),
    /// Bytes other than padding follow the certificate.
    #[error("{0} bytes that are no padding follow the certificate")]
    Trailing(usize),
    /// More than [`MAX_INTERMEDIATES`].
    #[error("{0} intermediate certificates are more than any vendor has")]
    TooManyIntermediates(usize),
    /// No root and no intermediate that leads to one issued it.
    #[error("{subject:?} was issued by {issuer:?}, which is no root here and does not lead to one")]
    Unchained {
        /// The certificate whose issuer is missing.
        subject: String,
        /// The missing issuer.
        issuer: String,
    },
    /// A certificate with the issuer's name is there, and did not sign it.
    #[error("{issuer:?} is known, and its key did not sign {subject:?}")]
    BadSignature {
        /// The certificate.
        subject: String,
        /// Its issuer.
        issuer: String,
    },
    /// The signature is of a kind that is not believed.
    #[error("{subject:?} is signed with {algorithm}")]
    WeakSignature {
        /// The certificate.
        subject: String,
        /// Object identifier or name of the algorithm.
        algorithm: String,
    },
    /// The issuer is not a CA, or may not have CAs below it.
    #[error("{issuer:?} may not issue certificates: {reason}")]
    NotAnIssuer {
        /// The issuer.
        issuer: String,
        /// What it lacks.
        reason: &'static str,
    },
    /// Its issuer has revoked it.
    #[error("{issuer:?} has revoked {subject:?}")]
    Revoked {
        /// The certificate.
        subject: String,
        /// Its issuer.
        issuer: String,
    },
    /// Before its validity.
    #[error("{subject:?} is valid from {from} to {to} (seconds since 1970), now it is {now}")]
    OutOfDate {
        /// The certificate.
        subject: String,
        /// notBefore.
        from: i64,
        /// notAfter.
        to: i64,
        /// The time given.
        now: i64,
    },
    /// Extended key usages are listed and tcg-kp-EKCertificate is not among them.
    #[error("the certificate is for something else than an endorsement key")]
    NotAnEk,
    /// A critical extension that GTVP does not understand.
    #[error("{subject:?} has the critical extension {oid}, which is not understood")]
    UnknownCritical {
        /// The certificate.
        subject: String,
        /// Object identifier.
        oid: String,
    },
    /// The chain is longer than [`MAX_DEPTH`].
    #[error("the chain is longer than {MAX_DEPTH} certificates")]
    TooDeep,
    /// The key is not one that an EK can be.
    #[error("the certificate's key is not usable as an EK: {0}")]
    Key(&'static str),
    /// The certificate is of another key than the EK shown.
    #[error("the certificate is of another key than the EK")]
    OtherKey,
    /// The pinned fingerprint is another.
    #[error("the EK's fingerprint is {got}, pinned is {want}")]
    NotPinned {
        /// Of the EK shown.
        got: gtvp_model::digest::Digest,
        /// As pinned.
        want: gtvp_model::digest::Digest,
    },
}

impl EkRefusal {
    /// Whether it says no more than that this certificate vouches for nothing here. Otherwise something speaks against the TPM: a
    /// signature that does not hold, another key, a revocation.
    pub fn proves_nothing(&self) -> bool {
        match self {
            Self::TooLong(_)
            | Self::NotACertificate(_)
            | Self::Trailing(_)
            | Self::TooManyIntermediates(_)
            | Self::Unchained { .. }
            | Self::WeakSignature { .. }
            | Self::NotAnIssuer { .. }
            | Self::OutOfDate { .. }
            | Self::UnknownCritical { .. }
            | Self::TooDeep
            | Self::Key(_) => true,
            Self::BadSignature { .. }
            | Self::Revoked { .. }
            | Self::NotAnEk
            | Self::OtherKey
            | Self::NotPinned { .. } => false,
        }
    }
}
