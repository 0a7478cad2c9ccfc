//! What `communication` may have the TLS identity key sign: a TLS 1.3 CertificateVerify and nothing else. Whoever holds the
//! key looks here first, so that `communication`, which asks for such signatures, cannot have anything else signed.
//!
//! The AK needs no such gate: it is restricted, and quotes are asked for by their binding.

use super::binding::Role;

/// Content of a CertificateVerify (RFC 8446 §4.4.3), taken apart: who asks for a signature hands on the parts, and who
/// signs puts them together again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertificateVerify<'a> {
    /// Which end of the connection signs.
    pub role: Role,
    /// The transcript hash: 32 (SHA-256) or 48 (SHA-384) bytes.
    pub transcript: &'a [u8],
}

/// Something else was to be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the TLS identity key signs the CertificateVerify of a TLS 1.3 handshake and nothing else")]
pub struct NotSignable;

const PAD: [u8; 64] = [0x20; 64];
const SERVER: &[u8] = b"TLS 1.3, server CertificateVerify\0";
const CLIENT: &[u8] = b"TLS 1.3, client CertificateVerify\0";

impl<'a> CertificateVerify<'a> {
    /// Checks the whole of what is to be signed.
    ///
    /// # Errors
    /// [`NotSignable`].
    pub fn parse(content: &'a [u8]) -> Result<Self, NotSignable> {
        let rest = content.strip_prefix(&PAD).ok_or(NotSignable)?;
        let (role, transcript) = match (rest.strip_prefix(SERVER), rest.strip_prefix(CLIENT)) {
            (Some(hash), _) => (Role::Responder, hash),
            (_, Some(hash)) => (Role::Initiator, hash),
            _ => return Err(NotSignable),
        };
        if matches!(transcript.len(), 32 | 48) { Ok(Self { role, transcript }) } else { Err(NotSignable) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_certificate_verify_is_signed() {
        let of = |context: &[u8], hash: usize| [&PAD[..], context, &vec![7; hash]].concat();
        for (context, hash, role) in [(SERVER, 48, Role::Responder), (CLIENT, 32, Role::Initiator)] {
            let transcript = &vec![7; hash][..];
            let content = of(context, hash);
            assert_eq!(CertificateVerify::parse(&content), Ok(CertificateVerify { role, transcript }));
        }
        let tls12 = [7; 64];
        let attest = [&0xFF54_4347u32.to_be_bytes()[..], &[0x80, 0x18], &[0; 100]].concat();
        let others =
            [of(SERVER, 31), of(SERVER, 0), of(b"TLS 1.3, exporter\0", 32), tls12.to_vec(), attest, vec![]];
        for other in others {
            assert_eq!(CertificateVerify::parse(&other), Err(NotSignable), "{other:x?}");
        }
    }
}
