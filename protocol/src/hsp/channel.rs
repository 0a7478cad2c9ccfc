//! Proof that a handshake was finished: whoever holds an [`AttestedChannel`] has a peer whose evidence was believed.

use gtvp_model::digest::Digest;
use gtvp_model::union::{MemberId, SpkiDigest, TpmClass, UnionId};

/// What may be said on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Grant {
    /// All of GTVP's protocols.
    Full,
    /// The record and nothing else: one of the two has not caught up, and may learn so.
    RecordOnly,
}

/// A finished handshake. It is not cloned, and nothing outside of HSP makes one. When HSP says `Close`, it is over:
/// whoever holds it lets go of it.
///
/// ```compile_fail,E0423
/// let channel = gtvp_protocol::hsp::AttestedChannel(());
/// ```
/// ```compile_fail,E0599
/// fn twice(channel: gtvp_protocol::hsp::AttestedChannel) {
///     let _ = channel.clone();
/// }
/// ```
/// ```compile_fail,E0451
/// fn other(channel: gtvp_protocol::hsp::AttestedChannel) {
///     let _ = gtvp_protocol::hsp::AttestedChannel { grant: gtvp_protocol::hsp::Grant::Full, ..channel };
/// }
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct AttestedChannel {
    union: UnionId,
    peer: MemberId,
    class: TpmClass,
    spki: SpkiDigest,
    exporter: [u8; 32],
    grant: Grant,
    result: Option<Digest>,
}

/// What only HSP knows.
pub(super) struct Facts {
    pub union: UnionId,
    pub peer: MemberId,
    pub class: TpmClass,
    pub spki: SpkiDigest,
    pub exporter: [u8; 32],
    pub grant: Grant,
    pub result: Option<Digest>,
}

impl AttestedChannel {
    pub(super) fn new(f: Facts) -> Self {
        let Facts { union, peer, class, spki, exporter, grant, result } = f;
        Self { union, peer, class, spki, exporter, grant, result }
    }

    /// The union that both belong to.
    pub fn union(&self) -> UnionId {
        self.union
    }

    /// Who is at the other end.
    pub fn peer(&self) -> MemberId {
        self.peer
    }

    /// What stands behind the peer's keys.
    pub fn class(&self) -> TpmClass {
        self.class
    }

    /// The key that TLS must go on to show.
    pub fn spki(&self) -> SpkiDigest {
        self.spki
    }

    /// What other protocols bind to this connection with.
    pub fn exporter(&self) -> &[u8; 32] {
        &self.exporter
    }

    /// What may be said.
    pub fn grant(&self) -> Grant {
        self.grant
    }

    /// The attestation result, by its digest. `None`: the peer has no TPM and proved nothing but its key.
    pub fn result(&self) -> Option<Digest> {
        self.result
    }
}
