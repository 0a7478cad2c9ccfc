//! Signatures over what is passed on among members (docs/spec/gossip.md): by the identity key, with a label of their own.

use gtvp_model::digest::Digest;
use gtvp_model::fault::Fault;
use gtvp_model::union::{RosterEntry, SpkiDigest, UnionId};
use gtvp_protocol::csp::Signatures;
use gtvp_protocol::frame::wire;
use gtvp_protocol::gossip::Entry;

use super::{Ecdsa, Union};

impl Union {
    /// An entry of this member's, with its signature.
    ///
    /// # Errors
    /// This member's TPM.
    pub fn sign_gossip(&self, union: UnionId, mut entry: Entry) -> Result<Entry, Fault> {
        let large = |e: wire::TooManyBytes| Fault::internal("a key or a signature is too large", &e);
        let value = self.platform.sign_gossip(union, &entry)?;
        entry.public = self.own_keys()?.spki.try_into().map_err(large)?;
        entry.signature = value.concat().try_into().map_err(large)?;
        Ok(entry)
    }
}

/// Whether this member's identity key made `signature` over `content`.
pub fn is_by(member: &RosterEntry, spki: &[u8], content: &[u8], signature: &[u8]) -> bool {
    SpkiDigest::new(Digest::of(spki)) == member.identity.spki() && Ecdsa.holds(spki, content, signature)
}
