//! TPM2_MakeCredential in software: the verifier's side of credential activation, for which the joiner's EK is enough
//! (Part 1 §24, Annexes B.10 and C.6). Only the TPM that has the EK, and a key of that Name in it, gets the secret back.

use aws_lc_rs::agreement::{self, ECDH_P256, UnparsedPublicKey};
use aws_lc_rs::cipher::{AES_128, EncryptionContext, StreamingEncryptingKey, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey, PublicKeyComponents,
};
use aws_lc_rs::{digest, hmac, rand};

use super::codes::{NIST_P256, alg};
use super::templates::{self, EkKind};
use super::wire::{Malformed, Reader, Writer};

/// A secret for one key in one TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Contents of TPM2B_ID_OBJECT.
    pub blob: Vec<u8>,
    /// Contents of TPM2B_ENCRYPTED_SECRET.
    pub secret: Vec<u8>,
}

/// Why there is no credential.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The EK's public area cannot be read.
    #[error("the endorsement key cannot be read")]
    Malformed(#[from] Malformed),
    /// It is not of a default template.
    #[error("the endorsement key is not one of the EK Credential Profile's default templates L-1 and L-2")]
    NotDefault,
    /// The point or modulus is no key.
    #[error("the endorsement key is no valid public key")]
    BadKey,
    /// A secret is between 1 and 32 bytes.
    #[error("a secret has 1 to 32 bytes, not {0}")]
    SecretSize(usize),
    /// A Name is a SHA-256 one.
    #[error("the key's name is no SHA-256 name")]
    BadName,
}

const IDENTITY: &[u8] = b"IDENTITY\0";

/// Hides `secret` (1 to 32 bytes) so that only the TPM with the endorsement key `ek` (contents of TPM2B_PUBLIC) gives it back,
/// and only for a key of this Name.
pub fn make_credential(ek: &[u8], name: &[u8], secret: &[u8]) -> Result<Credential, CredentialError> {
    if !(1..=32).contains(&secret.len()) {
        return Err(CredentialError::SecretSize(secret.len()));
    }
    if name.len() != 34 || name.get(..2) != Some(&alg::SHA256.to_be_bytes()) {
        return Err(CredentialError::BadName);
    }
    let (seed, hidden) = match read_ek(ek)? {
        Ek::Ecc(x, y) => seed_for_point(&x, &y)?,
        Ek::Rsa(modulus) => seed_for_modulus(&modulus)?,
    };
    let identity = cfb(&kdfa(&seed, b"STORAGE\0", name, 16), &Writer::new().sized(secret).done())?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &kdfa(&seed, b"INTEGRITY\0", &[], 32));
    let mac = hmac::sign(&key, &[identity.as_slice(), name].concat());
    Ok(Credential { blob: Writer::new().sized(mac.as_ref()).bytes(&identity).done(), secret: hidden })
}

enum Ek {
    Ecc([u8; 32], [u8; 32]),
    Rsa(Vec<u8>),
}

fn read_ek(public: &[u8]) -> Result<Ek, CredentialError> {
    let kind = [EkKind::EccP256, EkKind::Rsa2048]
        .into_iter()
        .find(|kind| templates::is_made_from(public, &templates::endorsement(*kind)))
        .ok_or(CredentialError::NotDefault)?;
    let mut r = Reader::new(public);
    // Type, name algorithm, attributes, policy, symmetric algorithm, scheme: as the template has them.
    r.take(2 + 2 + 4 + 2 + 32 + 6 + 2, "the parameters")?;
    let ek = match kind {
        EkKind::EccP256 => {
            let curve = r.u16("the curve")?;
            if curve != NIST_P256 {
                return Err(CredentialError::NotDefault);
            }
            r.u16("the key derivation")?;
            Ek::Ecc(coordinate(r.sized(32, "x")?), coordinate(r.sized(32, "y")?))
        }
        EkKind::Rsa2048 => {
            r.take(6, "the parameters")?;
            let modulus = r.sized(256, "the modulus")?;
            if modulus.len() != 256 {
                return Err(CredentialError::BadKey);
            }
            Ek::Rsa(modulus.to_vec())
        }
    };
    r.end()?;
    Ok(ek)
}

/// Filled up to 32 bytes from the left.
fn coordinate(bytes: &[u8]) -> [u8; 32] {
    let mut full = [0; 32];
    if let Some(end) = full.len().checked_sub(bytes.len()).and_then(|n| full.get_mut(n..)) {
        end.copy_from_slice(bytes);
    }
    full
}

fn seed_for_point(x: &[u8; 32], y: &[u8; 32]) -> Result<([u8; 32], Vec<u8>), CredentialError> {
    let ours = agreement::PrivateKey::generate(&ECDH_P256).map_err(|_| CredentialError::BadKey)?;
    let public = ours.compute_public_key().map_err(|_| CredentialError::BadKey)?;
    let point = public.as_ref();
    let (Some(own_x), Some(own_y)) = (point.get(1..33), point.get(33..65)) else {
        return Err(CredentialError::BadKey);
    };
    let theirs = UnparsedPublicKey::new(&ECDH_P256, [&[4], x.as_slice(), y].concat());
    let seed = agreement::agree(&ours, theirs, CredentialError::BadKey, |z| Ok(kdfe(z, own_x, x)))?;
    Ok((seed, Writer::new().sized(own_x).sized(own_y).done()))
}

fn seed_for_modulus(modulus: &[u8]) -> Result<([u8; 32], Vec<u8>), CredentialError> {
    let mut seed = [0; 32];
    rand::fill(&mut seed).map_err(|_| CredentialError::BadKey)?;
    // The default exponent, which the template writes as 0.
    let components = PublicKeyComponents { n: modulus, e: [1, 0, 1].as_slice() };
    let key: PublicEncryptingKey = components.try_into().map_err(|_| CredentialError::BadKey)?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| CredentialError::BadKey)?;
    let mut hidden = vec![0; key.ciphertext_size()];
    let written = key
        .encrypt(&OAEP_SHA256_MGF1SHA256, &seed, &mut hidden, Some(IDENTITY))
        .map_err(|_| CredentialError::BadKey)?
        .len();
    hidden.truncate(written);
    Ok((seed, hidden))
}

/// KDFe (Part 1 §11.4.10.3) of 256 bits with SHA-256: one round.
fn kdfe(z: &[u8], party_u: &[u8], party_v: &[u8]) -> [u8; 32] {
    let text = [&1u32.to_be_bytes(), z, IDENTITY, party_u, party_v].concat();
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, &text).as_ref());
    out
}

/// KDFa (Part 1 §11.4.10.2) of at most 256 bits with HMAC-SHA256: one round.
fn kdfa(key: &[u8], label: &[u8], context: &[u8], bytes: usize) -> Vec<u8> {
    let bits = u32::try_from(bytes * 8).unwrap_or(u32::MAX);
    let text = [&1u32.to_be_bytes(), label, context, &bits.to_be_bytes()].concat();
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &text);
    mac.as_ref().iter().copied().take(bytes).collect()
}

/// AES-128 in CFB mode from a zero vector: the key is used once.
fn cfb(key: &[u8], text: &[u8]) -> Result<Vec<u8>, CredentialError> {
    let run = || {
        let key = UnboundCipherKey::new(&AES_128, key)?;
        let context = EncryptionContext::Iv128(FixedLength::from([0; 16]));
        let mut cipher = StreamingEncryptingKey::less_safe_cfb128(key, context)?;
        // The interface wants room for one more block.
        let mut out = vec![0; text.len() + 16];
        let mut written = cipher.update(text, &mut out)?.written().len();
        let rest = out.get_mut(written..).ok_or(aws_lc_rs::error::Unspecified)?;
        written += cipher.finish(rest)?.1.written().len();
        out.truncate(written);
        Ok::<_, aws_lc_rs::error::Unspecified>(out)
    };
    run().map_err(|_| CredentialError::BadKey)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Vec<u8> {
        templates::name(&templates::attestation())
    }

    #[test]
    fn only_default_endorsement_keys_with_valid_points_get_a_credential() {
        // A template is a public area whose point is (0, 0): not on the curve.
        let zero = templates::endorsement(EkKind::EccP256);
        assert!(matches!(make_credential(&zero, &name(), &[7; 32]), Err(CredentialError::BadKey)));
        let ak = templates::attestation();
        assert!(matches!(make_credential(&ak, &name(), &[7; 32]), Err(CredentialError::NotDefault)));
        assert!(matches!(make_credential(&[], &name(), &[7; 32]), Err(CredentialError::NotDefault)));
        for n in [0, 33] {
            assert!(matches!(
                make_credential(&zero, &name(), &vec![7; n]),
                Err(CredentialError::SecretSize(_))
            ));
        }
        assert!(matches!(make_credential(&zero, &[0; 34], &[7; 32]), Err(CredentialError::BadName)));
    }
}
