//! What the TLS identity key signs for `communication`: a TLS 1.3 CertificateVerify (RFC 8446 §4.4.3) that is put together here, from
//! its role and a transcript hash. (Entries of the record, which it signs too, `security` makes itself, under a label.) Whoever asks chooses 32 or 48 bytes in a frame that means nothing outside a TLS handshake.

use aws_lc_rs::digest::{SHA256, digest};

/// Which side signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It was connected to.
    Server,
    /// It connected.
    Client,
}

/// A transcript hash of this length belongs to no cipher suite with SHA-256 or SHA-384.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a transcript hash has 32 or 48 bytes, not {0}")]
pub struct BadTranscript(pub usize);

/// Something that the TLS key may sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateVerify {
    role: Role,
    transcript: Vec<u8>,
}

impl CertificateVerify {
    /// Of this side, over this transcript hash.
    pub fn new(role: Role, transcript: Vec<u8>) -> Result<Self, BadTranscript> {
        match transcript.len() {
            32 | 48 => Ok(Self { role, transcript }),
            other => Err(BadTranscript(other)),
        }
    }

    /// Which side signs.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The signed content.
    pub fn content(&self) -> Vec<u8> {
        let context: &[u8] = match self.role {
            Role::Server => b"TLS 1.3, server CertificateVerify",
            Role::Client => b"TLS 1.3, client CertificateVerify",
        };
        [&[0x20; 64], context, &[0], self.transcript.as_slice()].concat()
    }

    /// Its digest, as `ecdsa_secp256r1_sha256` signs it.
    pub fn digest(&self) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(digest(&SHA256, &self.content()).as_ref());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_certificate_verify_can_be_signed() {
        for n in [0, 20, 31, 33, 64] {
            assert_eq!(CertificateVerify::new(Role::Server, vec![0; n]), Err(BadTranscript(n)));
        }
        let of = |role, n| CertificateVerify::new(role, vec![7; n]).unwrap().content();
        let content = of(Role::Server, 32);
        // 64 spaces, 33 characters, a zero, the hash.
        assert_eq!(content.len(), 64 + 33 + 1 + 32);
        assert_eq!(&content[..64], [b' '; 64]);
        assert_eq!(&content[64..98], b"TLS 1.3, server CertificateVerify\0");
        assert_ne!(content, of(Role::Client, 32));
        assert_eq!(of(Role::Client, 48).len(), 146);
    }
}
