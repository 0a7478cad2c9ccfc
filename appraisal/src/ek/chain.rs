//! From an EK certificate to a root.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{X509Name, X509Version};

use super::revoked::{Lists, Revocation};
use super::signed::{Signed, signed};
use super::{EkKey, EkRefusal, MAX_CERTIFICATE, MAX_DEPTH, MAX_INTERMEDIATES, Pin};
use crate::tpm::Public;

/// tcg-kp-EKCertificate.
const EK_USAGE: &str = "2.23.133.8.1";

/// id-ce-subjectDirectoryAttributes.
const DIRECTORY_ATTRIBUTES: &str = "2.5.29.9";

/// Roots in one set: all vendors together have about a hundred.
const MAX_ROOTS: usize = 1024;

/// Signatures checked for one certificate: names that many certificates share must not make work.
const MAX_SIGNATURES: usize = 64;

/// Why a file of roots is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootsRefusal {
    /// A certificate in it is not readable.
    #[error("root certificate {number} is not usable")]
    Certificate {
        /// Its number in the file, from 0.
        number: usize,
        /// Why.
        #[source]
        source: EkRefusal,
    },
    /// A revocation list in it is not readable.
    #[error("revocation list {number} is not usable: {why}")]
    List {
        /// Its number in the file, from 0.
        number: usize,
        /// Why.
        why: String,
    },
    /// Nothing in it.
    #[error("there is no certificate and no revocation list in it")]
    Empty,
    /// More than the set holds.
    #[error("more than {MAX_ROOTS} roots, or {} revocation lists", super::revoked::MAX_LISTS)]
    TooMany,
}

/// Certificates that are believed without an issuer, as an administrator supplied them: roots, or vendors' intermediates; and lists of
/// what vendors have revoked. An empty set believes nobody.
#[derive(Debug, Clone, Default)]
pub struct Roots {
    certificates: Vec<Vec<u8>>,
    lists: Lists,
}

impl Roots {
    /// Nobody yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the certificates and revocation lists of one file: PEM (one or more) or DER (one). Nothing is added if any of them is unusable.
    pub fn add(&mut self, file: &[u8]) -> Result<(), RootsRefusal> {
        let (mut found, mut lists) = (Vec::new(), Vec::new());
        if file.first() == Some(&0x30) {
            if Lists::is_one(file) { lists.push(file.to_vec()) } else { found.push(file.to_vec()) }
        } else {
            for (number, pem) in Pem::iter_from_buffer(file).enumerate() {
                let bad =
                    |e: String| RootsRefusal::Certificate { number, source: EkRefusal::NotACertificate(e) };
                let pem = pem.map_err(|e| bad(e.to_string()))?;
                match pem.label.as_str() {
                    "CERTIFICATE" => found.push(pem.contents),
                    "X509 CRL" => lists.push(pem.contents),
                    label => {
                        return Err(bad(format!("it is a {:?}", label.chars().take(40).collect::<String>())));
                    }
                }
            }
        }
        if found.is_empty() && lists.is_empty() {
            return Err(RootsRefusal::Empty);
        }
        if self.certificates.len() + found.len() > MAX_ROOTS || !self.lists.has_room(lists.len()) {
            return Err(RootsRefusal::TooMany);
        }
        for (number, der) in found.iter().enumerate() {
            parse(der).map_err(|source| RootsRefusal::Certificate { number, source })?;
        }
        for (number, der) in lists.iter().enumerate() {
            Lists::check(der).map_err(|why| RootsRefusal::List { number, why })?;
        }
        self.certificates.extend(found);
        self.lists.extend(lists);
        Ok(())
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.certificates.len()
    }

    /// Whether nobody is believed.
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }
}

/// A rule that a certificate breaks without harm.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Oddity {
    /// Padding follows the certificate in its NV index; its length in bytes.
    Padded(usize),
    /// The EK certificate says that it is a CA.
    IsCa,
    /// It is itself one of the roots.
    IsRoot,
    /// Subject alternative name critical (it should be when the subject is empty, and then often is not).
    CriticalAltName,
    /// It does not say what its key is for.
    NoKeyUsage,
    /// It does not name the TPM's maker.
    NoManufacturer,
    /// Its validity has ended, at this time (seconds since 1970). A TPM goes on after its certificate, and its vendor's word about where
    /// the key is from does not become untrue (EK Credential Profile §3.2.6).
    Ended(i64),
    /// The same of a certificate between it and the root.
    IssuerEnded(i64),
    /// It lies in its NV index as TPM 1.2 had it, with a header before it.
    Wrapped,
}

/// A certificate that leads to a root, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedEk {
    /// The certified key.
    pub key: EkKey,
    /// TPM manufacturer as in the certificate ("id:53544D20" is STM).
    pub manufacturer: Option<String>,
    /// TPM model.
    pub model: Option<String>,
    /// TPM firmware version.
    pub version: Option<String>,
    /// Name of the root that was reached.
    pub root: String,
    /// Certificates between it and the root.
    pub intermediates: usize,
    /// Rules that it breaks.
    pub oddities: Vec<Oddity>,
    /// Whether its issuer has revoked it, as far as lists were given.
    pub revocation: Revocation,
}

impl VerifiedEk {
    /// Whether the EK that a TPM shows is the certified one.
    pub fn check(&self, public: &Public) -> Result<(), EkRefusal> {
        if EkKey::of_public(public) == self.key { Ok(()) } else { Err(EkRefusal::OtherKey) }
    }

    /// The certified key's fingerprint.
    pub fn fingerprint(&self) -> Pin {
        self.key.fingerprint()
    }
}

/// TCG_PCCLIENT_STORED_CERT of TPM 1.2 (TCG PC Client Specific Implementation 1.21, §7.3.2) around a certificate, taken off: tag 1001, type 0, the
/// length, perhaps the tag 1002 of a full certificate.
fn unwrapped(bytes: &[u8]) -> Option<&[u8]> {
    let [0x10, 0x01, 0, high, low, rest @ ..] = bytes else { return None };
    let inner = rest.get(..usize::from(u16::from_be_bytes([*high, *low])))?;
    Some(inner.strip_prefix(&[0x10, 0x02]).unwrap_or(inner))
}

/// The certificates that lie one behind the other at the beginning of `bytes`, each as it is, up to what is none: a vendor's chain in a TPM's
/// memory is written so (EK Credential Profile §2.2.1.5.2), and so is [`verify`]'s `certificate`. Nothing but their lengths is looked at.
pub fn stacked(bytes: &[u8]) -> Vec<&[u8]> {
    let (mut found, mut rest) = (Vec::new(), bytes);
    while let Some((one, after)) = sequence(rest).and_then(|length| rest.split_at_checked(length)) {
        found.push(one);
        rest = after;
    }
    found
}

/// The length of the SEQUENCE at the beginning, header and all. Certificates are longer than 127 bytes and shorter than 64 KiB.
fn sequence(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [0x30, 0x81, length, ..] => Some(3 + usize::from(*length)),
        [0x30, 0x82, high, low, ..] => Some(4 + usize::from(u16::from_be_bytes([*high, *low]))),
        _ => None,
    }
}

/// A certificate, those of its chain behind it, and the bytes of padding after them.
fn parse_stacked(bytes: &[u8]) -> Result<(X509Certificate<'_>, Vec<X509Certificate<'_>>, usize), EkRefusal> {
    let (leaf, mut rest) = one(bytes)?;
    let mut behind = Vec::new();
    while rest.first() == Some(&0x30) {
        if behind.len() == MAX_INTERMEDIATES {
            return Err(EkRefusal::TooManyIntermediates(behind.len() + 1));
        }
        let (next, after) = one(rest)?;
        behind.push(next);
        rest = after;
    }
    padding(rest).map(|padding| (leaf, behind, padding))
}

/// A certificate and the bytes of padding after it.
fn parse(bytes: &[u8]) -> Result<(X509Certificate<'_>, usize), EkRefusal> {
    let (cert, rest) = one(bytes)?;
    padding(rest).map(|padding| (cert, padding))
}

/// A certificate and what follows it.
fn one(bytes: &[u8]) -> Result<(X509Certificate<'_>, &[u8]), EkRefusal> {
    if bytes.len() > MAX_CERTIFICATE {
        return Err(EkRefusal::TooLong(bytes.len()));
    }
    let (rest, cert) =
        X509Certificate::from_der(bytes).map_err(|e| EkRefusal::NotACertificate(e.to_string()))?;
    // The outer length is not signed, and the parser leaves what it does not need.
    if !cert.as_raw().ends_with(&cert.signature_value.data) {
        return Err(EkRefusal::NotACertificate("its length is not its contents'".to_owned()));
    }
    Ok((cert, rest))
}

/// NV indices are as long as they were made; the rest of them is all ones or zeros.
fn padding(rest: &[u8]) -> Result<usize, EkRefusal> {
    let padding = rest.first().copied().unwrap_or(0xff);
    if (padding != 0xff && padding != 0) || rest.iter().any(|b| *b != padding) {
        return Err(EkRefusal::Trailing(rest.len()));
    }
    Ok(rest.len())
}

/// Takes an EK certificate to one of `roots`, through `intermediates` (untrusted, DER) if need be, which may also stand behind it
/// ([`stacked`]). `now` in seconds since 1970. `roots` are believed whatever their dates.
pub fn verify(
    certificate: &[u8],
    intermediates: &[Vec<u8>],
    roots: &Roots,
    now: i64,
) -> Result<VerifiedEk, EkRefusal> {
    let inner = unwrapped(certificate);
    let (leaf, mut between, padding) = parse_stacked(inner.unwrap_or(certificate))?;
    let count = between.len() + intermediates.len();
    if count > MAX_INTERMEDIATES {
        return Err(EkRefusal::TooManyIntermediates(count));
    }
    for one in intermediates {
        between.push(parse(one)?.0);
    }
    let anchors: Vec<_> =
        roots.certificates.iter().map(|r| parse(r).map(|(c, _)| c)).collect::<Result<_, _>>()?;
    let mut oddities = leaf_rules(&leaf)?;
    oddities.extend(in_date(&leaf, now)?.map(Oddity::Ended));
    oddities.extend(inner.map(|_| Oddity::Wrapped));
    if padding > 0 {
        oddities.push(Oddity::Padded(padding));
    }
    let lists = &roots.lists;
    let mut search = Search { between: &between, anchors: &anchors, lists, now, left: MAX_SIGNATURES };
    let Path { root, intermediates, ended, revocation } =
        if anchors.iter().any(|a| a.as_raw() == leaf.as_raw()) {
            oddities.push(Oddity::IsRoot);
            match signed(&leaf, &leaf) {
                Signed::Yes => Path::ends(name(leaf.subject()), 0, lists.find(&leaf, &leaf, now)?),
                _ => search.up(&leaf, 0)?,
            }
        } else {
            search.up(&leaf, 0)?
        };
    oddities.extend(ended.map(Oddity::IssuerEnded));
    let [manufacturer, model, version] = tpm_names(&leaf);
    if manufacturer.is_none() {
        oddities.push(Oddity::NoManufacturer);
    }
    let key = EkKey::of_spki(leaf.public_key())?;
    Ok(VerifiedEk { key, manufacturer, model, version, root, intermediates, oddities, revocation })
}

/// From a certificate to a root.
struct Path {
    root: String,
    intermediates: usize,
    /// When the first of the intermediates ended, if one has.
    ended: Option<i64>,
    /// Of the certificate itself. One above it that is revoked is a refusal.
    revocation: Revocation,
}

impl Path {
    fn ends(root: String, intermediates: usize, revocation: Revocation) -> Self {
        Self { root, intermediates, ended: None, revocation }
    }
}

struct Search<'a> {
    between: &'a [X509Certificate<'a>],
    anchors: &'a [X509Certificate<'a>],
    lists: &'a Lists,
    now: i64,
    left: usize,
}

impl Search<'_> {
    /// The root above `cert`, and how many intermediates are used. The first refusal that says more than "unchained" is
    /// kept.
    fn up(&mut self, cert: &X509Certificate<'_>, below: usize) -> Result<Path, EkRefusal> {
        if below >= MAX_DEPTH {
            return Err(EkRefusal::TooDeep);
        }
        let (subject, issuer) = (name(cert.subject()), name(cert.issuer()));
        let mut refusal = None;
        let (anchors, between) = (self.anchors, self.between);
        let candidates = anchors.iter().map(|a| (a, true)).chain(between.iter().map(|b| (b, false)));
        for (candidate, anchor) in candidates.filter(|(c, _)| same_name(c.subject(), cert.issuer())) {
            if !anchor && candidate.as_raw() == cert.as_raw() {
                continue;
            }
            if self.left == 0 {
                return Err(EkRefusal::TooDeep);
            }
            self.left -= 1;
            let found = match signed(cert, candidate) {
                Signed::No => {
                    Err(EkRefusal::BadSignature { subject: subject.clone(), issuer: issuer.clone() })
                }
                Signed::Weak(algorithm) => {
                    Err(EkRefusal::WeakSignature { subject: subject.clone(), algorithm })
                }
                Signed::Yes => may_issue(candidate, anchor, below).and_then(|()| {
                    let revocation = self.lists.find(cert, candidate, self.now)?;
                    if anchor {
                        return Ok(Path::ends(name(candidate.subject()), below, revocation));
                    }
                    let ended = in_date(candidate, self.now)?;
                    known_critical(candidate)?;
                    let above = self.up(candidate, below + 1)?;
                    Ok(Path { ended: above.ended.or(ended), revocation, ..above })
                }),
            };
            match found {
                Ok(found) => return Ok(found),
                Err(e) => refusal = refusal.or(Some(e)),
            }
        }
        Err(refusal.unwrap_or(EkRefusal::Unchained { subject, issuer }))
    }
}

pub(super) fn name(name: &X509Name<'_>) -> String {
    name.to_string().chars().take(256).collect()
}

/// Equal as encoded, or as text without regard to case and white space (RFC 5280 §7.1: the string types may differ).
pub(super) fn same_name(a: &X509Name<'_>, b: &X509Name<'_>) -> bool {
    let text = |n: &X509Name<'_>| {
        n.to_string().to_lowercase().chars().filter(|c| !c.is_whitespace()).collect::<String>()
    };
    a.as_raw() == b.as_raw() || text(a) == text(b)
}

/// When it has ended, if it has. One that is not valid yet is refused: nobody has put it into a TPM.
fn in_date(cert: &X509Certificate<'_>, now: i64) -> Result<Option<i64>, EkRefusal> {
    let (from, to) = (cert.validity().not_before.timestamp(), cert.validity().not_after.timestamp());
    if now < from {
        return Err(EkRefusal::OutOfDate { subject: name(cert.subject()), from, to, now });
    }
    Ok((now > to).then_some(to))
}

/// RFC 5280 §6.1.4 (k) to (n). `below`: intermediates between this issuer and the EK certificate.
fn may_issue(issuer: &X509Certificate<'_>, anchor: bool, below: usize) -> Result<(), EkRefusal> {
    let no = |reason| EkRefusal::NotAnIssuer { issuer: name(issuer.subject()), reason };
    let twice = |_| no("it has an extension twice");
    match issuer.basic_constraints().map_err(twice)? {
        Some(c) if !c.value.ca => return Err(no("it is no CA")),
        Some(c) if c.value.path_len_constraint.is_some_and(|max| below > max as usize) => {
            return Err(no("the path below it is longer than it allows"));
        }
        Some(_) => {}
        // Version 1 has no extensions; that this one issues is the administrator's word.
        None if anchor && issuer.version() == X509Version::V1 => {}
        None => return Err(no("it does not say that it is a CA")),
    }
    match issuer.key_usage().map_err(twice)? {
        Some(usage) if !usage.value.key_cert_sign() => Err(no("its key may not sign certificates")),
        _ => Ok(()),
    }
}

fn known_critical(cert: &X509Certificate<'_>) -> Result<(), EkRefusal> {
    for extension in cert.extensions().iter().filter(|e| e.critical) {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(_)
            | ParsedExtension::KeyUsage(_)
            | ParsedExtension::ExtendedKeyUsage(_)
            | ParsedExtension::SubjectAlternativeName(_)
            | ParsedExtension::SubjectKeyIdentifier(_)
            | ParsedExtension::AuthorityKeyIdentifier(_)
            // No policy is asked for, so whatever limits policies limits nothing here.
            | ParsedExtension::CertificatePolicies(_)
            | ParsedExtension::PolicyConstraints(_)
            | ParsedExtension::PolicyMappings(_)
            | ParsedExtension::InhibitAnyPolicy(_)
            // Where to look for more, and other names: nothing that limits anything.
            | ParsedExtension::AuthorityInfoAccess(_)
            | ParsedExtension::SubjectInfoAccess(_)
            | ParsedExtension::CRLDistributionPoints(_)
            | ParsedExtension::IssuerAlternativeName(_) => {}
            // What the TPM says of itself (EK Credential Profile §3.2.10); some vendors made it critical.
            _ if extension.oid.to_id_string() == DIRECTORY_ATTRIBUTES => {}
            _ => {
                return Err(EkRefusal::UnknownCritical {
                    subject: name(cert.subject()),
                    oid: extension.oid.to_id_string(),
                });
            }
        }
    }
    Ok(())
}

/// What an EK certificate must be, and what it may oddly be.
fn leaf_rules(leaf: &X509Certificate<'_>) -> Result<Vec<Oddity>, EkRefusal> {
    known_critical(leaf)?;
    let mut oddities = Vec::new();
    let twice = |_| EkRefusal::NotACertificate("it has an extension twice".to_owned());
    match leaf.extended_key_usage().map_err(twice)? {
        Some(usage) if !usage.value.other.iter().any(|o| o.to_id_string() == EK_USAGE) => {
            return Err(EkRefusal::NotAnEk);
        }
        Some(_) => {}
        None => oddities.push(Oddity::NoKeyUsage),
    }
    if leaf.is_ca() {
        oddities.push(Oddity::IsCa);
    }
    if leaf.subject_alternative_name().map_err(twice)?.is_some_and(|san| san.critical) {
        oddities.push(Oddity::CriticalAltName);
    }
    Ok(oddities)
}

/// tcg-at-tpmManufacturer, -tpmModel, -tpmVersion of the alternative name (EK profile §3.2.9), or of the subject.
fn tpm_names(cert: &X509Certificate<'_>) -> [Option<String>; 3] {
    let san = cert.subject_alternative_name().ok().flatten();
    let directories = san.iter().flat_map(|s| &s.value.general_names).filter_map(|n| match n {
        GeneralName::DirectoryName(name) => Some(name),
        _ => None,
    });
    let names: Vec<&X509Name<'_>> = directories.chain([cert.subject()]).collect();
    ["2.23.133.2.1", "2.23.133.2.2", "2.23.133.2.3"].map(|oid| {
        let attributes = names.iter().flat_map(|n| n.iter_attributes());
        let value = attributes.filter(|a| a.attr_type().to_id_string() == oid).find_map(|a| a.as_str().ok());
        value.map(|v| v.chars().take(64).collect())
    })
}
