//! Lists of certificates that their issuers have revoked (RFC 5280 §5), as an administrator supplied them: nothing here reaches a network. A
//! list counts for what it has, if its issuer signed it; that something is not in it says little once the list has ended.

use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::EkRefusal;
use super::chain::{name, same_name};
use super::signed::{Signed, by};

/// Lists in one set: a few a vendor.
pub const MAX_LISTS: usize = 256;
/// Bytes of one: the longest of a vendor's that was seen has a few KiB; a list of 100,000 has 4 MiB.
pub const MAX_LIST: usize = 4 * 1024 * 1024;
/// reasonCode removeFromCRL.
const REMOVED: u8 = 8;

/// What is known of whether a certificate was revoked. One that was is a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Revocation {
    /// There is no list of its issuer.
    NotChecked,
    /// It is not in its issuer's list, which ended then (seconds since 1970), or does not stand for all that its issuer issued.
    OldList(i64),
    /// It is not in its issuer's list, which is current until then.
    Checked(i64),
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Lists(Vec<Vec<u8>>);

impl Lists {
    pub(super) fn is_one(der: &[u8]) -> bool {
        Self::check(der).is_ok()
    }

    pub(super) fn check(der: &[u8]) -> Result<(), String> {
        if der.len() > MAX_LIST {
            return Err(format!("it has more than {MAX_LIST} bytes"));
        }
        match CertificateRevocationList::from_der(der) {
            Ok(([], _)) => Ok(()),
            Ok((rest, _)) => Err(format!("{} bytes follow it", rest.len())),
            Err(e) => Err(e.to_string()),
        }
    }

    pub(super) fn has_room(&self, more: usize) -> bool {
        self.0.len() + more <= MAX_LISTS
    }

    pub(super) fn extend(&mut self, lists: Vec<Vec<u8>>) {
        self.0.extend(lists);
    }

    /// Whether `cert`, which `issuer` has signed, is in a list of this issuer's.
    pub(super) fn find(
        &self,
        cert: &X509Certificate<'_>,
        issuer: &X509Certificate<'_>,
        now: i64,
    ) -> Result<Revocation, EkRefusal> {
        let mut best = Revocation::NotChecked;
        for der in &self.0 {
            // It was read when it was added.
            let Ok((_, list)) = CertificateRevocationList::from_der(der) else { continue };
            if !same_name(list.issuer(), issuer.subject()) || !is_by(&list, issuer) {
                continue;
            }
            let same = |raw: &[u8]| number(raw) == number(cert.raw_serial());
            let here = list.iter_revoked_certificates().find(|r| same(r.raw_serial()));
            if here.is_some_and(|r| r.reason_code().is_none_or(|(_, reason)| reason.0 != REMOVED)) {
                return Err(EkRefusal::Revoked {
                    subject: name(cert.subject()),
                    issuer: name(issuer.subject()),
                });
            }
            let until = list.next_update().map_or(list.last_update().timestamp(), |t| t.timestamp());
            // A part of a list, or changes to another one: what is not in it may be elsewhere.
            let whole = !list.extensions().iter().any(|e| e.critical);
            let found =
                if whole && until >= now { Revocation::Checked(until) } else { Revocation::OldList(until) };
            best = match (best, found) {
                (Revocation::Checked(_), Revocation::OldList(_)) => best,
                _ => found,
            };
        }
        Ok(best)
    }
}

/// A number's bytes without leading zeros: some vendors write negative ones.
fn number(raw: &[u8]) -> &[u8] {
    let zeros = raw.iter().take_while(|b| **b == 0).count();
    raw.get(zeros..).unwrap_or_default()
}

fn is_by(list: &CertificateRevocationList<'_>, issuer: &X509Certificate<'_>) -> bool {
    let may = issuer.key_usage().ok().flatten().is_none_or(|usage| usage.value.crl_sign());
    let signature = &list.signature_value;
    may && signature.unused_bits == 0
        && list.tbs_cert_list.signature == list.signature_algorithm
        && by(issuer, &list.signature_algorithm, list.tbs_cert_list.as_ref(), &signature.data) == Signed::Yes
}
