//! Reference values that this member makes: manifests of what counts as healthy, signed by its attestation key, for the record.

use gtvp_appraisal::alg::HashAlg;
use gtvp_appraisal::appraise::{Attester, Binding, KnownFrom, Question, State, Verdict, appraise};
use gtvp_appraisal::bootlog::BootLog;
use gtvp_appraisal::evidence::{Evidence, LogPart};
use gtvp_appraisal::ownlog::{EntryKind, OwnLog};
use gtvp_appraisal::reference::{
    Demand, Demands, Manifest, OwnMatch, OwnRule, ReferenceSet, Rule, SignedManifest, Status, rules_for_boot,
    rules_for_own,
};
use gtvp_appraisal::tpm::{Public, VerifyingKey};
use gtvp_model::digest::Digest;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::Domain;
use gtvp_model::union::{TpmClass, UnionSettings, UnixTime};
use gtvp_protocol::csp::act::Blob;

use crate::evidence;
use crate::platform::{Platform, chain, fault};
use crate::tpm::keys::Identity;
use crate::union::book;

/// Name of the first reference values of a union.
pub const FOUNDER: &str = "founder";
/// Begins what evidence for this member itself is bound to.
const LABEL: &[u8] = b"gtvp-own/1\0";

/// The class of a TPM as appraisal has it; none without one.
pub fn class(class: TpmClass) -> Option<gtvp_appraisal::appraise::TpmClass> {
    match class {
        TpmClass::Hardware | TpmClass::Pinned => Some(gtvp_appraisal::appraise::TpmClass::Hardware),
        TpmClass::Software => Some(gtvp_appraisal::appraise::TpmClass::Software),
        TpmClass::None => None,
    }
}

fn unfit(what: &str, e: &dyn std::error::Error) -> Fault {
    Fault::new(FaultKind::WrongState, what).because(chain(e))
}

/// A manifest, signed, for an entry: its name and its blob (`union::book`).
pub fn signed(platform: &Platform, keys: &Identity, manifest: &Manifest) -> Result<(String, Blob), Fault> {
    let invalid = |e: &dyn std::error::Error| {
        Fault::new(FaultKind::Invalid, "the reference values are refused").because(chain(e))
    };
    let public = Public::parse(&keys.ak_public).map_err(|e| invalid(&e))?;
    let unsigned = manifest.unsigned(public.scheme, public.name()).map_err(|e| invalid(&e))?;
    let bytes = platform.tpm()?.sign_result(unsigned).map_err(|e| fault(&e))?;
    let blob = book::blob(&keys.ak_public, &bytes).map_err(|e| invalid(&e))?;
    Ok((manifest.name.clone(), blob))
}

/// This member's own evidence, bound to nothing but a number of its own.
fn shown(platform: &Platform, keys: &Identity) -> Result<(Evidence, Digest), Fault> {
    let mut nonce = [0; 32];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|e| Fault::internal("there is no randomness", &e))?;
    let bound = Digest::of(&[LABEL, &nonce].concat());
    let logs = platform.kernel_logs();
    let shown = evidence::make(platform.tpm()?, logs, keys.ak_public.clone(), bound.0.to_vec())?;
    Ok((shown, bound))
}

fn appraised(
    platform: &Platform,
    (shown, bound): &(Evidence, Digest),
    set: &ReferenceSet,
    now: i64,
) -> Result<Verdict, Fault> {
    let no_tpm = || Fault::new(FaultKind::WrongState, "this server has no TPM");
    let class = class(platform.class()).ok_or_else(no_tpm)?;
    let attester =
        Attester::new(&shown.ak, class).map_err(|e| unfit("this server's attestation key is no good", &e))?;
    let binding = Binding::Qualifying(&bound.0);
    let question =
        Question { attester: &attester, known_from: KnownFrom::Record, binding, held: None, newest: None };
    Ok(appraise(shown, &question, set, now).verdict)
}

/// What others would find in this member's evidence now. Nothing rests on it: it is for an administrator, who accepts an update of this
/// very server.
pub fn own_verdict(
    platform: &Platform,
    keys: &Identity,
    set: &ReferenceSet,
    now: i64,
) -> Result<Verdict, Fault> {
    let _turn = evidence::turn();
    appraised(platform, &shown(platform, keys)?, set, now)
}

/// The first manifest of a union: what its founder shows of itself now. It must itself be trusted by it.
pub fn of_founder(
    platform: &Platform,
    keys: &Identity,
    settings: &UnionSettings,
    now: UnixTime,
) -> Result<(String, Blob), Fault> {
    let _turn = evidence::turn();
    let shown = shown(platform, keys)?;
    let issued = i64::try_from(now.0).unwrap_or(i64::MAX);
    let manifest = learn(&shown.0.boot, &shown.0.own, settings, issued)?;
    let (name, blob) = signed(platform, keys, &manifest)?;

    let what = "this server's own evidence is not healthy by its own reference values";
    let public = Public::parse(&keys.ak_public).map_err(|e| unfit(what, &e))?;
    let key = VerifyingKey::of(&public).map_err(|e| unfit(what, &e))?;
    let (_, cose) = book::parts(&blob).unwrap_or_default();
    let trusted = SignedManifest::parse(cose).and_then(|m| m.verify(&key, public.name()));
    let set = ReferenceSet::compose(&[trusted.map_err(|e| unfit(what, &e))?]).map_err(|e| unfit(what, &e))?;
    let verdict = appraised(platform, &shown, &set, issued)?;
    if verdict.state != State::Trusted {
        let fault = Fault::new(FaultKind::WrongState, what);
        return Err(verdict.failed.iter().take(8).fold(fault, |f, why| f.because(why.to_string())));
    }
    Ok((name, blob))
}

fn learn(boot: &LogPart, own: &LogPart, settings: &UnionSettings, issued: i64) -> Result<Manifest, Fault> {
    let mut rules = Vec::new();
    let mut demands = Demands::default();
    match boot {
        LogPart::From { bytes, .. } => {
            let log =
                BootLog::parse(bytes).map_err(|e| unfit("this server's boot log cannot be read", &e))?;
            rules.extend(rules_for_boot(&log, HashAlg::Sha256, Status::Current, |_| true));
        }
        // Otherwise nobody is trusted without one, and not this server either.
        LogPart::Absent if settings.software_tpms => demands.boot = Some(Demand::MayBeAbsent),
        LogPart::Absent => {}
    }
    let bytes = match own {
        LogPart::From { bytes, .. } => bytes.as_slice(),
        LogPart::Absent => &[],
    };
    let log = OwnLog::parse(bytes).map_err(|e| unfit("this server's own log cannot be read", &e))?;
    rules.extend(rules_for_own(&log, Status::Current, |_| true));
    // What changes with use is nobody's to know before: the verdict counts it.
    for kind in [EntryKind::Composition, EntryKind::Vtpm, EntryKind::Union] {
        let rule = Rule::Own(OwnRule {
            kind,
            subject: None,
            is: OwnMatch::Unchecked,
            part: None,
            status: Status::Current,
        });
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    let required_parts = required().filter(|part| rules.iter().any(|r| is_of(r, part))).collect();
    Ok(Manifest { name: FOUNDER.into(), version: 1, issued, demands, required_parts, rules })
}

/// Without these no evidence can have come into being: whoever does not show them hides them.
fn required() -> impl Iterator<Item = String> {
    let binaries = [Domain::Security, Domain::Communication].map(|d| format!("{} {d}", EntryKind::Binary));
    binaries.into_iter().chain([format!("{} topology.toml", EntryKind::Topology)])
}

fn is_of(rule: &Rule, part: &str) -> bool {
    matches!(rule, Rule::Own(OwnRule { part: Some(p), .. }) if p == part)
}
