//! Whether one certificate signed another: RSA and ECDSA with SHA-2. SHA-1 and everything else is refused by name.

use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{self as aws, UnparsedPublicKey};
use x509_parser::certificate::X509Certificate;
use x509_parser::public_key::PublicKey;
use x509_parser::signature_algorithm::SignatureAlgorithm;
use x509_parser::x509::AlgorithmIdentifier;

/// What a signature turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Signed {
    Yes,
    No,
    /// An algorithm that is not believed.
    Weak(String),
}

pub(super) fn signed(cert: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> Signed {
    let algorithm = &cert.signature_algorithm;
    // RFC 5280 §4.1.1.2: the signed copy of the algorithm must be the same.
    let message = cert.tbs_certificate.as_ref();
    if cert.signature_value.unused_bits != 0
        || cert.tbs_certificate.signature != *algorithm
        || !same_algorithm(cert.as_raw(), message)
    {
        return Signed::No;
    }
    by(issuer, algorithm, message, &cert.signature_value.data)
}

/// Whether this issuer's key signed these bytes.
pub(super) fn by(
    issuer: &X509Certificate<'_>,
    algorithm: &AlgorithmIdentifier<'_>,
    message: &[u8],
    signature: &[u8],
) -> Signed {
    let weak = || Signed::Weak(name(&algorithm.algorithm.to_id_string()));
    let Ok(key) = issuer.public_key().parsed() else { return Signed::No };
    match key {
        PublicKey::RSA(rsa) => {
            let parameters = match algorithm.algorithm.to_id_string().as_str() {
                "1.2.840.113549.1.1.11" => &aws::RSA_PKCS1_2048_8192_SHA256,
                "1.2.840.113549.1.1.12" => &aws::RSA_PKCS1_2048_8192_SHA384,
                "1.2.840.113549.1.1.13" => &aws::RSA_PKCS1_2048_8192_SHA512,
                "1.2.840.113549.1.1.10" => {
                    let Ok(SignatureAlgorithm::RSASSA_PSS(pss)) = SignatureAlgorithm::try_from(algorithm)
                    else {
                        return weak();
                    };
                    match pss.hash_algorithm_oid().to_id_string().as_str() {
                        "2.16.840.1.101.3.4.2.1" => &aws::RSA_PSS_2048_8192_SHA256,
                        "2.16.840.1.101.3.4.2.2" => &aws::RSA_PSS_2048_8192_SHA384,
                        "2.16.840.1.101.3.4.2.3" => &aws::RSA_PSS_2048_8192_SHA512,
                        _ => return weak(),
                    }
                }
                _ => return weak(),
            };
            let strip = |b: &[u8]| b.iter().copied().skip_while(|b| *b == 0).collect::<Vec<u8>>();
            let key = PublicKeyComponents { n: strip(rsa.modulus), e: strip(rsa.exponent) };
            if key.verify(parameters, message, signature).is_ok() { Signed::Yes } else { Signed::No }
        }
        PublicKey::EC(point) => {
            let point = point.data();
            let parameters = match (algorithm.algorithm.to_id_string().as_str(), point.len()) {
                ("1.2.840.10045.4.3.2", 65) => &aws::ECDSA_P256_SHA256_ASN1,
                ("1.2.840.10045.4.3.2", 97) => &aws::ECDSA_P384_SHA256_ASN1,
                ("1.2.840.10045.4.3.3", 65) => &aws::ECDSA_P256_SHA384_ASN1,
                ("1.2.840.10045.4.3.3", 97) => &aws::ECDSA_P384_SHA384_ASN1,
                ("1.2.840.10045.4.3.3", 133) => &aws::ECDSA_P521_SHA384_ASN1,
                ("1.2.840.10045.4.3.4", 65) => &aws::ECDSA_P256_SHA512_ASN1,
                ("1.2.840.10045.4.3.4", 97) => &aws::ECDSA_P384_SHA512_ASN1,
                ("1.2.840.10045.4.3.4", 133) => &aws::ECDSA_P521_SHA512_ASN1,
                _ => return weak(),
            };
            match UnparsedPublicKey::new(parameters, point).verify(message, signature) {
                Ok(()) => Signed::Yes,
                Err(_) => Signed::No,
            }
        }
        _ => weak(),
    }
}

/// The unsigned algorithm, byte for byte, stands in the signed part: the parser is lenient about its tags.
fn same_algorithm(raw: &[u8], signed: &[u8]) -> bool {
    let find = || {
        let header = match raw.get(1)? {
            long if *long >= 0x80 => 2 + usize::from(long & 0x7f),
            _ => 2,
        };
        let after = raw.get(header.checked_add(signed.len())?..)?;
        let length = after.get(1).filter(|l| **l < 0x80)?;
        let algorithm = after.get(..2 + usize::from(*length))?;
        Some(signed.windows(algorithm.len()).any(|w| w == algorithm))
    };
    find().unwrap_or(false)
}

fn name(oid: &str) -> String {
    match oid {
        "1.2.840.113549.1.1.5" => "RSA with SHA-1".to_owned(),
        "1.2.840.113549.1.1.4" => "RSA with MD5".to_owned(),
        "1.2.840.10045.4.1" => "ECDSA with SHA-1".to_owned(),
        "1.2.840.113549.1.1.10" => "RSA-PSS with a weak hash".to_owned(),
        other => other.to_owned(),
    }
}
