//! Attestation results: a verdict as signed EAR claims in CBOR (IETF draft-ietf-rats-ear-04, AR4SI; docs/spec/evidence.md,
//! "Results"), a COSE_Sign1 by the verifier's TPM key.
//!
//! A result is worth what its verifier is worth now, and not longer than it says. Who may issue one and whose is accepted
//! is the record's to say; here is what it says and that it was signed.

use std::collections::BTreeMap;

use ciborium::Value;
use gtvp_model::digest::Digest;
use gtvp_model::ids::BoxName;
use serde::{Deserialize, Serialize};

use crate::appraise::{Check, Heads, LogName, NotMade, State, Told, TpmClass, Verdict};
use crate::boxes::BoxFinding;
use crate::cose::{CoseRefusal, Sealed, Unsigned, from_cbor, to_cbor};
use crate::ek::Pin;
use crate::tpm::{ClockInfo, Name, Scheme, Signature, VerifyingKey};

/// Longest result: reasons are bounded, and gossip sends many.
pub const MAX_RESULT: usize = 32 * 1024;

/// Longest validity, in seconds: a day. Periods are seconds; what outlives them is for quorum losses.
pub const MAX_LIFETIME: i64 = 24 * 3600;

/// How far ahead of ours a verifier's clock may be, in seconds (threat 70: clocks an hour off are told, not believed).
pub const MAX_AHEAD: i64 = 60;

/// Components linked later that a result lists.
pub const MAX_LATER: usize = 32;

/// Failures in one result. The rest is counted: whoever wants all of them appraises the evidence.
const MAX_FAILURES: usize = 8;

const CONTENT: &str = "application/eat+cwt";
const PROFILE: &str = "tag:ietf.org,2026:rats/ear#04";
const DEVELOPER: &str = "gtvp";
/// The attester of a result.
const SUBMOD: &str = "member";
/// And its box.
const BOX: &str = "box";

// Claim keys: CWT (RFC 8392), EAT (RFC 9711), EAR. GTVP's own claims are one map under a text key.
const EXP: i64 = 4;
const IAT: i64 = 6;
const EAT_NONCE: i64 = 10;
const EAT_PROFILE: i64 = 265;
const SUBMODS: i64 = 266;
const EAR_STATUS: i64 = 1000;
const EAR_VECTOR: i64 = 1001;
const EAR_POLICY: i64 = 1003;
const EAR_VERIFIER: i64 = 1004;
const GTVP: &str = "gtvp";

/// What a result says beyond EAR's own claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Whose AK.
    pub ak: Name,
    /// Fingerprint of its EK; none for a member without.
    pub ek: Option<Pin>,
    /// Name of its TLS identity key.
    pub tls: Name,
    /// What its TPM is.
    pub class: TpmClass,
    /// Conclusion.
    pub state: State,
    /// Its TPM's clock and epoch, if the quote was believed.
    pub clock: Option<ClockInfo>,
    /// How far each log was appraised.
    pub heads: Heads,
    /// By which reference values.
    pub references: Digest,
    /// Checks that passed.
    pub passed: Vec<Check>,
    /// What failed.
    pub failed: Vec<Told>,
    /// What was not checked.
    pub not_made: Vec<NotMade>,
    /// The box that this is about, if it is about one of the member's.
    pub about: Option<BoxClaims>,
}

/// What a result says of a box. Its chain to the member was checked, or it would not stand here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoxClaims {
    /// The box.
    pub name: BoxName,
    /// Its composition.
    pub composition: Digest,
    /// How many of the composition's components were linked.
    pub linked: u64,
    /// Components linked later that are not in the composition: reference, digest. At most [`MAX_LATER`].
    pub later: Vec<(String, Digest)>,
    /// How many more of these.
    pub later_more: u64,
    /// The template that it was started from, which its member booted; none when it booted itself.
    pub template: Option<Digest>,
    /// For whom it was appraised.
    pub asked: Asked,
}

/// Which application a result about a box was made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// The box that asked, a box of the verifier.
    pub by: BoxName,
    /// What it chose, [`crate::file::NONCE`] bytes: the result is newer than that.
    #[serde(with = "crate::bytes")]
    pub nonce: Vec<u8>,
}

impl BoxClaims {
    fn of(f: &BoxFinding, asked: Asked) -> Self {
        Self {
            asked,
            name: f.name.clone(),
            composition: f.composition,
            linked: f.linked.len() as u64,
            later: f.later.iter().take(MAX_LATER).cloned().collect(),
            later_more: f.later.len().saturating_sub(MAX_LATER) as u64,
            template: f.template,
        }
    }
}

impl Claims {
    /// The same, about a box of the member, for an application that asked.
    #[must_use]
    pub fn about(mut self, finding: &BoxFinding, asked: Asked) -> Self {
        self.about = Some(BoxClaims::of(finding, asked));
        self
    }

    /// Of a verdict about the member with these keys.
    pub fn of(verdict: &Verdict, class: TpmClass, ek: Option<Pin>, tls: Name) -> Self {
        Self {
            ak: verdict.ak,
            ek,
            tls,
            class,
            state: verdict.state,
            clock: verdict.clock,
            heads: verdict.heads,
            references: verdict.references,
            passed: verdict.passed.clone(),
            failed: few(verdict.told()),
            not_made: verdict.not_made.clone(),
            about: None,
        }
    }

    /// AR4SI's tier: affirming, none (cannot be told), contraindicated.
    fn tier(&self) -> i64 {
        match self.state {
            State::Trusted => 2,
            State::Unknown => 0,
            State::Untrusted => 96,
        }
    }

    /// AR4SI's trustworthiness vector: instance identity (0), configuration (1), executables (2), file system (3),
    /// hardware (4). What was not checked is 0: no claim.
    fn vector(&self) -> BTreeMap<i64, i64> {
        let failed =
            |log: LogName| self.failed.iter().any(|t| t.entry.as_ref().is_some_and(|e| e.log == log));
        let of = |check: Check, log: LogName| match (self.passed.contains(&check), failed(log)) {
            (_, true) => 96,
            (true, false) => 2,
            (false, false) => 0,
        };
        let identity =
            if self.passed.contains(&Check::Key) && self.passed.contains(&Check::Signature) { 2 } else { 0 };
        let hardware = match (self.class, of(Check::BootEntries, LogName::Boot)) {
            // 32: genuine, and with known weaknesses.
            (TpmClass::Software, 0 | 2) => 32,
            (_, boot) => boot,
        };
        BTreeMap::from([
            (0, identity),
            (1, of(Check::OwnEntries, LogName::Own)),
            (2, of(Check::BootEntries, LogName::Boot)),
            (3, of(Check::Files, LogName::Ima)),
            (4, hardware),
        ])
    }
}

fn few(mut told: Vec<Told>) -> Vec<Told> {
    let more = told.len().saturating_sub(MAX_FAILURES);
    told.truncate(MAX_FAILURES);
    if more > 0 {
        told.push(Told { name: "more".to_owned(), text: format!("and {more} more"), entry: None });
    }
    told
}

/// A result: claims, by whom and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestationResult {
    /// What it says.
    pub claims: Claims,
    /// When it was issued, in seconds since 1970.
    pub issued: i64,
    /// When it ends.
    pub expires: i64,
}

/// Why a result is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResultRefusal {
    /// The signed object is not usable.
    #[error("the attestation result is not usable")]
    Cose(#[from] CoseRefusal),
    /// Not EAR claims as GTVP makes them.
    #[error("not an attestation result: {0}")]
    NotAResult(String),
    /// Another profile, verifier software or number of attesters.
    #[error("its claim {0} is missing or not GTVP's")]
    Claim(&'static str),
    /// Its EAR claims say something else than its own.
    #[error("its {0} contradicts what it says")]
    Contradiction(&'static str),
    /// Ends before it begins, or lasts longer than [`MAX_LIFETIME`].
    #[error("its validity, {issued} to {expires}, is none")]
    Lifetime {
        /// Issued.
        issued: i64,
        /// Expires.
        expires: i64,
    },
    /// It has ended.
    #[error("it ended at {expires}, now it is {now}")]
    Expired {
        /// Expires.
        expires: i64,
        /// The time given.
        now: i64,
    },
    /// It is from the future: a clock is wrong.
    #[error("it was issued at {issued}, now it is {now}")]
    FromTheFuture {
        /// Issued.
        issued: i64,
        /// The time given.
        now: i64,
    },
}

impl AttestationResult {
    /// The result, to be signed by the verifier's key `signer` with its `scheme`.
    pub fn unsigned(&self, scheme: Scheme, signer: &Name) -> Result<Unsigned, ResultRefusal> {
        self.check_lifetime()?;
        let int = |n: i64| Value::Integer(n.into());
        let vector = self.claims.vector().into_iter().map(|(k, v)| (int(k), int(v))).collect();
        let submod = Value::Map(vec![
            (int(EAR_STATUS), int(self.claims.tier())),
            (int(EAR_VECTOR), Value::Map(vector)),
            (int(EAR_POLICY), Value::Text(self.claims.references.to_string())),
            (Value::Text(GTVP.to_owned()), Value::Bytes(to_cbor(&self.claims))),
        ]);
        let mut submods = vec![(Value::Text(SUBMOD.to_owned()), submod)];
        if self.claims.about.is_some() {
            // A box is what its member is.
            let status = Value::Map(vec![(int(EAR_STATUS), int(self.claims.tier()))]);
            submods.push((Value::Text(BOX.to_owned()), status));
        }
        let verifier = Value::Map(vec![
            (int(0), Value::Text(DEVELOPER.to_owned())),
            (int(1), Value::Text(env!("CARGO_PKG_VERSION").to_owned())),
        ]);
        let mut claims = vec![(int(EXP), int(self.expires)), (int(IAT), int(self.issued))];
        if let Some(about) = &self.claims.about {
            claims.push((int(EAT_NONCE), Value::Bytes(about.asked.nonce.clone())));
        }
        claims.extend([
            (int(EAT_PROFILE), Value::Text(PROFILE.to_owned())),
            (int(SUBMODS), Value::Map(submods)),
            (int(EAR_VERIFIER), verifier),
        ]);
        Ok(Unsigned::new(CONTENT, to_cbor(&Value::Map(claims)), scheme, &signer.to_bytes())?)
    }

    /// The result, signed.
    pub fn signed(&self, unsigned: Unsigned, signature: &Signature) -> Result<Vec<u8>, ResultRefusal> {
        Ok(unsigned.signed(signature)?)
    }

    fn check_lifetime(&self) -> Result<(), ResultRefusal> {
        let Self { issued, expires, .. } = *self;
        match expires.checked_sub(issued) {
            Some(1..=MAX_LIFETIME) => Ok(()),
            _ => Err(ResultRefusal::Lifetime { issued, expires }),
        }
    }
}

/// A result that was read and not yet believed.
#[derive(Debug)]
pub struct SignedResult {
    sealed: Sealed,
}

impl SignedResult {
    /// Reads one.
    pub fn parse(bytes: &[u8]) -> Result<Self, ResultRefusal> {
        Ok(Self { sealed: Sealed::parse(bytes, CONTENT, MAX_RESULT)? })
    }

    /// Name of the key that it says signed it: which verifier to look up in the record.
    pub fn signer(&self) -> &[u8] {
        self.sealed.signer()
    }

    /// The result, if `verifier`, whose Name is `name`, signed it and it is valid at `now` (seconds since 1970).
    pub fn verify(
        &self,
        verifier: &VerifyingKey,
        name: &Name,
        now: i64,
    ) -> Result<AttestationResult, ResultRefusal> {
        let payload = self.sealed.open(verifier, &name.to_bytes())?;
        let result = read(payload)?;
        result.check_lifetime()?;
        let AttestationResult { issued, expires, .. } = result;
        if issued > now.saturating_add(MAX_AHEAD) {
            return Err(ResultRefusal::FromTheFuture { issued, now });
        }
        if expires <= now {
            return Err(ResultRefusal::Expired { expires, now });
        }
        Ok(result)
    }
}

fn read(payload: &[u8]) -> Result<AttestationResult, ResultRefusal> {
    let value: Value = from_cbor(payload).map_err(ResultRefusal::NotAResult)?;
    let number = |map: &Value, key: i64, what| {
        let value = get(map, &Value::Integer(key.into())).and_then(Value::as_integer);
        value.and_then(|i| i64::try_from(i).ok()).ok_or(ResultRefusal::Claim(what))
    };
    let issued = number(&value, IAT, "iat")?;
    let expires = number(&value, EXP, "exp")?;
    let profile = get(&value, &Value::Integer(EAT_PROFILE.into())).and_then(Value::as_text);
    if profile != Some(PROFILE) {
        return Err(ResultRefusal::Claim("eat_profile"));
    }
    let submods = get(&value, &Value::Integer(SUBMODS.into())).ok_or(ResultRefusal::Claim("submods"))?;
    let submod = get(submods, &Value::Text(SUBMOD.to_owned())).ok_or(ResultRefusal::Claim("submods"))?;
    let own = get(submod, &Value::Text(GTVP.to_owned())).and_then(Value::as_bytes);
    let claims: Claims =
        from_cbor(own.ok_or(ResultRefusal::Claim(GTVP))?).map_err(ResultRefusal::NotAResult)?;
    // Others read EAR's claims, GTVP its own: they must say the same.
    if number(submod, EAR_STATUS, "ear.status")? != claims.tier() {
        return Err(ResultRefusal::Contradiction("ear.status"));
    }
    let about = get(submods, &Value::Text(BOX.to_owned()));
    if submods.as_map().map(Vec::len) != Some(1 + usize::from(claims.about.is_some())) {
        return Err(ResultRefusal::Claim("submods"));
    }
    if claims.about.is_some() {
        let about = about.ok_or(ResultRefusal::Claim("submods"))?;
        if number(about, EAR_STATUS, "ear.status")? != claims.tier() {
            return Err(ResultRefusal::Contradiction("ear.status"));
        }
    }
    let nonce = get(&value, &Value::Integer(EAT_NONCE.into()));
    let asked = claims.about.as_ref().map(|b| Value::Bytes(b.asked.nonce.clone()));
    if nonce != asked.as_ref() {
        return Err(ResultRefusal::Contradiction("eat_nonce"));
    }
    if claims.state == State::Trusted && !claims.failed.is_empty() {
        return Err(ResultRefusal::Contradiction("list of failures"));
    }
    Ok(AttestationResult { claims, issued, expires })
}

fn get<'a>(map: &'a Value, key: &Value) -> Option<&'a Value> {
    let mut found = map.as_map()?.iter().filter(|(k, _)| k == key);
    match (found.next(), found.next()) {
        (Some((_, value)), None) => Some(value),
        _ => None,
    }
}
