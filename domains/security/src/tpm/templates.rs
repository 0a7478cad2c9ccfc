//! The public areas of the keys that GTVP makes (TPMT_PUBLIC, Part 2 §12.2.4), as bytes.

use super::codes::{NIST_P256, alg, attribute as a};
use super::wire::{Malformed, Reader, Writer};

/// PolicyA of the EK Credential Profile (§2.1.5.3, B.6.2): TPM2_PolicySecret(TPM_RH_ENDORSEMENT), SHA-256.
const EK_POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd,
    0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];
/// Largest public area: RSA 4096 with a SHA-512 policy is below 700 bytes.
pub const MAX_PUBLIC: usize = 1024;
const EK: u32 = a::FIXED_TPM
    | a::FIXED_PARENT
    | a::SENSITIVE_DATA_ORIGIN
    | a::ADMIN_WITH_POLICY
    | a::RESTRICTED
    | a::DECRYPT;
const OWN: u32 = a::FIXED_TPM | a::FIXED_PARENT | a::SENSITIVE_DATA_ORIGIN | a::USER_WITH_AUTH | a::NO_DA;

/// Which endorsement key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EkKind {
    /// Template L-2: ECC NIST P-256.
    EccP256,
    /// Template L-1: RSA 2048.
    Rsa2048,
}

fn head(kind: u16, attributes: u32, policy: &[u8]) -> Writer {
    Writer::new().u16(kind).u16(alg::SHA256).u32(attributes).sized(policy)
}

/// The storage parents' and EKs' parameters: AES-128-CFB, no scheme.
fn protects(w: Writer) -> Writer {
    w.u16(alg::AES).u16(128).u16(alg::CFB).u16(alg::NULL)
}

/// An endorsement key (EK Credential Profile, B.3.3 and B.3.4).
pub fn endorsement(kind: EkKind) -> Vec<u8> {
    match kind {
        EkKind::EccP256 => protects(head(alg::ECC, EK, &EK_POLICY))
            .u16(NIST_P256)
            .u16(alg::NULL)
            .sized(&[0; 32])
            .sized(&[0; 32])
            .done(),
        EkKind::Rsa2048 => protects(head(alg::RSA, EK, &EK_POLICY)).u16(2048).u32(0).sized(&[0; 256]).done(),
    }
}

/// A storage key under which the others are made (as TCG TPM v2.0 Provisioning Guidance §7.5.1 has it for a storage root key).
pub fn storage() -> Vec<u8> {
    protects(head(alg::ECC, OWN | a::RESTRICTED | a::DECRYPT, &[]))
        .u16(NIST_P256)
        .u16(alg::NULL)
        .sized(&[0; 32])
        .sized(&[0; 32])
        .done()
}

fn signing(attributes: u32) -> Vec<u8> {
    let head = head(alg::ECC, attributes | a::SIGN, &[]);
    head.u16(alg::NULL)
        .u16(alg::ECDSA)
        .u16(alg::SHA256)
        .u16(NIST_P256)
        .u16(alg::NULL)
        .sized(&[])
        .sized(&[])
        .done()
}

/// The attestation key: restricted, so that it signs only what the TPM itself has put together.
pub fn attestation() -> Vec<u8> {
    signing(OWN | a::RESTRICTED)
}

/// The key of this member's TLS identity.
pub fn tls() -> Vec<u8> {
    signing(OWN)
}

/// Whether `made` is what `asked` asked for: the same but for `unique`, which is where they differ.
pub fn is_made_from(made: &[u8], asked: &[u8]) -> bool {
    let fixed = |public| fixed_part(public).ok();
    fixed(made).is_some() && fixed(made) == fixed(asked)
}

/// A public area up to `unique`.
fn fixed_part(public: &[u8]) -> Result<&[u8], Malformed> {
    let mut r = Reader::new(public);
    let kind = r.u16("the type")?;
    r.take(6, "the attributes")?;
    r.sized(64, "the policy")?;
    if r.u16("the symmetric algorithm")? != alg::NULL {
        r.take(4, "the symmetric algorithm")?;
    }
    if r.u16("the scheme")? != alg::NULL {
        r.take(2, "the scheme")?;
    }
    // Key bits and exponent, or curve and key derivation.
    r.take(if kind == alg::RSA { 6 } else { 4 }, "the parameters")?;
    let used = public.len() - r.left();
    public.get(..used).ok_or(Malformed::Short("the parameters"))
}

/// A key's Name (Part 1 §16): its name algorithm and the digest of its public area. Only SHA-256, which all keys here have.
pub fn name(public: &[u8]) -> Vec<u8> {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, public);
    Writer::new().u16(alg::SHA256).bytes(digest.as_ref()).done()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_have_the_sizes_that_the_profile_gives() {
        // B.3.3 and B.3.4: 314 and 122 bytes.
        assert_eq!(endorsement(EkKind::Rsa2048).len(), 314);
        assert_eq!(endorsement(EkKind::EccP256).len(), 122);
    }

    #[test]
    fn a_key_of_another_kind_is_not_what_was_asked_for() {
        let mut made = attestation();
        made.truncate(made.len() - 4);
        let made = Writer::new().bytes(&made).sized(&[1; 32]).sized(&[2; 32]).done();
        assert!(is_made_from(&made, &attestation()));
        assert!(!is_made_from(&made, &tls()), "unrestricted");
        assert!(!is_made_from(&made[..9], &attestation()));
    }
}
