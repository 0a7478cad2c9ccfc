//! A box's evidence, and the vertical chain from its member to it (docs/spec/evidence.md, "Boxes").
//!
//! The member's quote covers its own log; that log names the box's composition and its vTPM's key; that key signs a quote
//! which is bound to the member's quote; that quote covers the box's log of components. A box is never better than its
//! member: whether the member is trusted is for [`crate::appraise`] to say, of the same evidence.

use gtvp_model::composition::Composition;
use gtvp_model::digest::Digest;
use gtvp_model::ids::BoxName;
use serde::{Deserialize, Serialize};

use crate::alg::HashAlg;
use crate::appraise::{Attester, AttesterRefusal, TpmClass};
use crate::ownlog::{self, EntryKind, OwnLog, OwnLogError};
use crate::tpm::{Attest, Attested, Malformed, PcrValues, Signature, SignatureRefusal};

/// Most packages of a composition in evidence: the largest desktop closures have some thousands.
pub const MAX_ITEMS: usize = 16_384;

/// Subject of the entry that names the template from which a box was started.
pub const TEMPLATE: &str = "template";

/// What is not made for a box that was started from one.
pub const TEMPLATE_NOT_MADE: &str =
    "what was in the memory of the template that the box started from: only its member has seen it boot";

const LABEL: &[u8] = b"gtvp-box/1\0";

/// What a box shows, together with its member's evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoxEvidence {
    /// The box.
    pub name: BoxName,
    /// What its root is made of.
    pub composition: Composition,
    /// Its vTPM's AK: contents of TPM2B_PUBLIC.
    #[serde(with = "crate::bytes")]
    pub ak: Vec<u8>,
    /// Contents of the vTPM quote's TPM2B_ATTEST, over at least [`ownlog::PCR`].
    #[serde(with = "crate::bytes")]
    pub quote: Vec<u8>,
    /// TPMT_SIGNATURE over it.
    #[serde(with = "crate::bytes")]
    pub signature: Vec<u8>,
    /// Values of the quoted PCRs.
    pub pcrs: PcrValues,
    /// The box's log, in the format of GTVP's own log: its components.
    #[serde(with = "crate::bytes")]
    pub log: Vec<u8>,
}

/// qualifyingData of a vTPM's quote that belongs to a member's quote: SHA-256(label ‖ SHA-256(member's TPMS_ATTEST) ‖
/// nonce).
pub fn qualifying_data(member_quote: &[u8], nonce: &[u8]) -> Digest {
    let member = Digest::of(member_quote);
    Digest::of(&[LABEL, &member.0, nonce].concat())
}

/// Why a box's evidence is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BoxRefusal {
    /// More packages than [`MAX_ITEMS`].
    #[error("the composition has {0} packages")]
    TooManyItems(usize),
    /// The member's log is malformed.
    #[error("the member's log: {0}")]
    MemberLog(OwnLogError),
    /// The member never measured a composition for this box.
    #[error("the member measured no composition for {0}")]
    NoComposition(BoxName),
    /// The member measured another composition for it, last.
    #[error("the member measured composition {measured} for {name}, the box shows {shown}")]
    OtherComposition {
        /// The box.
        name: BoxName,
        /// In the member's log.
        measured: Digest,
        /// Of the shown composition.
        shown: Digest,
    },
    /// The member never measured this vTPM's key for this box, or another one since.
    #[error("the member did not measure this vTPM's key for {0}")]
    OtherVtpm(BoxName),
    /// The vTPM's key is no AK.
    #[error("the vTPM's key: {0}")]
    Key(AttesterRefusal),
    /// The quote or its signature is malformed.
    #[error("the vTPM's quote: {0}")]
    Malformed(Malformed),
    /// The signature does not count.
    #[error("the vTPM's signature: {0}")]
    Signature(SignatureRefusal),
    /// Not a quote.
    #[error("the vTPM's key signed something that is no quote")]
    NotAQuote,
    /// It belongs to another member's quote, or answers another nonce.
    #[error("the vTPM's quote is bound to something else")]
    BoundElsewhere,
    /// The values are not the quoted ones, or not of one SHA-2 bank with the log's PCR.
    #[error("the vTPM's PCR values are not the quoted ones of one bank")]
    PcrValues,
    /// The box's log is malformed.
    #[error("the box's log: {0}")]
    Log(OwnLogError),
    /// The box's log does not give the quoted value.
    #[error("the box's log does not give the quoted PCR")]
    PcrMismatch,
    /// It was started from more than one template.
    #[error("entry {entry} of the box's log at byte {offset} names a second template")]
    SecondTemplate {
        /// Its number.
        entry: usize,
        /// Its offset.
        offset: usize,
    },
    /// An entry that does not belong into a box's log.
    #[error("entry {entry} of the box's log at byte {offset} is a {kind}")]
    OtherEntry {
        /// Its number.
        entry: usize,
        /// Its offset.
        offset: usize,
        /// Its kind.
        kind: EntryKind,
    },
    /// A component of the composition's name with another digest.
    #[error("entry {entry} of the box's log at byte {offset}: {reference} is not the composition's")]
    OtherComponent {
        /// Its number.
        entry: usize,
        /// Its offset.
        offset: usize,
        /// Its reference.
        reference: String,
    },
}

/// What a box turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoxFinding {
    /// The box.
    pub name: BoxName,
    /// Its composition's digest, as its member measured it.
    pub composition: Digest,
    /// Components of the composition that were linked.
    pub linked: Vec<String>,
    /// Components that were linked later and are in no composition: reference, digest. Each is for the reader to know.
    pub later: Vec<(String, Digest)>,
    /// The template that it was started from, which its member says it booted; none when the box booted by itself. A memory image
    /// cannot be appraised: this is the member's word, and worth what the member is.
    pub template: Option<Digest>,
}

/// Checks the chain from a member's own log and quote to a box, for the `nonce` that was asked with.
pub fn check(
    evidence: &BoxEvidence,
    member_own_log: &[u8],
    member_quote: &[u8],
    nonce: &[u8],
) -> Result<BoxFinding, BoxRefusal> {
    let composition = measured_by_member(evidence, member_own_log)?;
    quoted_by_vtpm(evidence, &qualifying_data(member_quote, nonce))?;

    let bank = evidence.pcrs.bank();
    let log = OwnLog::parse(&evidence.log).map_err(BoxRefusal::Log)?;
    let value = log.replay(ownlog::PCR.initial(bank));
    if evidence.pcrs.get(ownlog::PCR) != Some(&value) {
        return Err(BoxRefusal::PcrMismatch);
    }
    let known: std::collections::HashMap<&str, Digest> = evidence
        .composition
        .items
        .iter()
        .chain([&evidence.composition.kernel])
        .map(|i| (i.reference.as_str(), i.source))
        .collect();
    let mut finding = BoxFinding {
        name: evidence.name.clone(),
        composition,
        linked: vec![],
        later: vec![],
        template: None,
    };
    for placed in log.entries() {
        let (entry, offset, e) = (placed.number, placed.offset, placed.entry);
        if e.kind == EntryKind::Booted && e.subject == TEMPLATE {
            if finding.template.replace(e.value).is_some() {
                return Err(BoxRefusal::SecondTemplate { entry, offset });
            }
            continue;
        }
        if e.kind != EntryKind::Component {
            return Err(BoxRefusal::OtherEntry { entry, offset, kind: e.kind });
        }
        match known.get(e.subject) {
            Some(source) if *source == e.value => finding.linked.push(e.subject.to_owned()),
            Some(_) => {
                return Err(BoxRefusal::OtherComponent { entry, offset, reference: e.subject.to_owned() });
            }
            None => finding.later.push((e.subject.to_owned(), e.value)),
        }
    }
    Ok(finding)
}

/// The member measured this composition and this vTPM for the box, and nothing else for it since.
fn measured_by_member(evidence: &BoxEvidence, member_own_log: &[u8]) -> Result<Digest, BoxRefusal> {
    let name = &evidence.name;
    if evidence.composition.items.len() > MAX_ITEMS {
        return Err(BoxRefusal::TooManyItems(evidence.composition.items.len()));
    }
    let log = OwnLog::parse(member_own_log).map_err(BoxRefusal::MemberLog)?;
    let last = |kind| {
        let of_box = |e: &&ownlog::Placed<'_>| e.entry.kind == kind && e.entry.subject == name.as_str();
        log.entries().iter().rev().find(of_box).map(|e| e.entry.value)
    };
    let measured = last(EntryKind::Composition).ok_or_else(|| BoxRefusal::NoComposition(name.clone()))?;
    let shown = evidence.composition.digest();
    if measured != shown {
        return Err(BoxRefusal::OtherComposition { name: name.clone(), measured, shown });
    }
    if last(EntryKind::Vtpm) != Some(Digest::of(&evidence.ak)) {
        return Err(BoxRefusal::OtherVtpm(name.clone()));
    }
    Ok(measured)
}

fn quoted_by_vtpm(evidence: &BoxEvidence, qualifying: &Digest) -> Result<(), BoxRefusal> {
    let vtpm = Attester::new(&evidence.ak, TpmClass::Software).map_err(BoxRefusal::Key)?;
    let signature = Signature::parse(&evidence.signature).map_err(BoxRefusal::Malformed)?;
    vtpm.key().verify(&evidence.quote, &signature).map_err(BoxRefusal::Signature)?;
    let attest = Attest::parse(&evidence.quote).map_err(BoxRefusal::Malformed)?;
    let Attested::Quote { selection, digest } = &attest.attested else { return Err(BoxRefusal::NotAQuote) };
    if attest.extra_data != qualifying.0 {
        return Err(BoxRefusal::BoundElsewhere);
    }
    let bank = selection.single_bank().ok().filter(|b| HashAlg::is_trusted(*b));
    let values = evidence.pcrs.digest(selection, signature.hash());
    match (bank, values) {
        (Some(bank), Some(values))
            if values.as_bytes() == digest && selection.contains(bank, ownlog::PCR) =>
        {
            Ok(())
        }
        _ => Err(BoxRefusal::PcrValues),
    }
}
