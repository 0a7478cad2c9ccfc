//! What the TLS identity key may sign: a TLS 1.3 CertificateVerify and nothing else. Whoever holds the key looks here
//! first, so that `communication`, which asks for such signatures, cannot have anything else signed.
//!
//! The AK needs no such gate: it is restricted, and quotes are asked for by their binding.

use super::binding::Role;

/// Content of a CertificateVerify (RFC 8446 §4.4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertificateVerify {
    /// Which end of the connection signs.
    pub role: Role,
    /// Length of the transcript hash: 32 (SHA-256) or 48 (SHA-384) bytes.
    pub hash: usize,
}

/// Something else was to be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the TLS identity key signs the CertificateVerify of a TLS 1.3 handshake and nothing else")]
pub struct NotSignable;

const PAD: [u8; 64] = [0x20; 64];
const SERVER: &[u8] = b"TLS 1.3, server CertificateVerify\0";
const CLIENT: &[u8] = b"TLS 1.3, client CertificateVerify\0";

impl CertificateVerify {
    /// Checks the whole of what is to be signed.
    ///
    /// # Errors
    /// [`NotSignable`].
    pub fn parse(content: &[u8]) -> Result<Self, NotSignable> {
        let rest = content.strip_prefix(&PAD).ok_or(NotSignable)?;
        let (role, hash) = match (rest.strip_prefix(SERVER), rest.strip_prefix(CLIENT)) {
            (Some(hash), _) => (Role::Responder, hash.len()),
            (_, Some(hash)) => (Role::Initiator, hash.len()),
            _ => return Err(NotSignable),
        };
        if matches!(hash, 32 | 48) { Ok(Self { role, hash }) } else { Err(NotSignable) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_certificate_verify_is_signed() {
        let of = |context: &[u8], hash: usize| [&PAD[..], context, &vec![7; hash]].concat();
        assert_eq!(
            CertificateVerify::parse(&of(SERVER, 48)),
            Ok(CertificateVerify { role: Role::Responder, hash: 48 })
        );
        assert_eq!(
            CertificateVerify::parse(&of(CLIENT, 32)),
            Ok(CertificateVerify { role: Role::Initiator, hash: 32 })
        );
        let tls12 = [7; 64];
        let attest = [&0xFF54_4347u32.to_be_bytes()[..], &[0x80, 0x18], &[0; 100]].concat();
        let others =
            [of(SERVER, 31), of(SERVER, 0), of(b"TLS 1.3, exporter\0", 32), tls12.to_vec(), attest, vec![]];
        for other in others {
            assert_eq!(CertificateVerify::parse(&other), Err(NotSignable), "{other:x?}");
        }
    }
}
