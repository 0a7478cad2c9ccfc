//! Attestation results between members (docs/spec/results.md): this member's are given out, others' are taken by what this member knows
//! of those who signed them, and a verdict found here goes on while its verifiers' results stand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use gtvp_appraisal::appraise::State;
use gtvp_appraisal::ek::Pin;
use gtvp_appraisal::result::{AttestationResult, SignedResult};
use gtvp_appraisal::tpm::{Public, VerifyingKey};
use gtvp_ipc::security::{AskOf, Due, DueReply, HearResult, HeardResult, OwnResult};
use gtvp_model::digest::Digest;
use gtvp_model::fault::Fault;
use gtvp_model::union::{Identity, MemberId, RosterEntry, TpmClass};
use gtvp_protocol::rota::{Shift, VERIFIERS, about, verifiers};

use super::heard::{Old, Said, seconds};
use super::rules::{self, Turn};
use super::{Now, Peers};
use crate::platform::chain;
use crate::union::Known;

/// Subjects whose last result is kept for whoever watches: every member that a union can have.
const MOST: usize = 1_024;

/// Why a result is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Disbelief {
    /// This server is in no union, or nothing counts as healthy there.
    #[error("this member believes nobody: {0}")]
    Nobody(String),
    /// It is not of a member that could be a verifier.
    #[error("who told it is no other member with a TPM")]
    NoVerifier,
    /// More than is listened to.
    #[error("it tells more results than is listened to")]
    TooMany,
    /// Its verifier is not trusted here, now.
    #[error("this member does not trust who signed it")]
    Untrusted,
    /// Another key.
    #[error("the key is not the attestation key of who told it: {0}")]
    OtherKey(String),
    /// The signature, the form, or its time.
    #[error("{0}")]
    Result(String),
    /// It says something of a box, or that somebody is not trusted, which evidence would have to show.
    #[error("it says something else than that a member is trusted")]
    OtherClaim,
    /// Lasts too long.
    #[error("it holds for {0} s, longer than a verdict does")]
    TooLong(i64),
    /// No such member with these keys.
    #[error("it is about keys that no member has")]
    NoSubject,
    /// Everybody could.
    #[error("it is about who signed it")]
    OfItself,
    /// By something else than what counts as healthy here.
    #[error("it is by other reference values than this member's")]
    OtherReferences,
    /// See [`Old`].
    #[error("{0}")]
    Old(#[from] Old),
}

/// Of each member the newest, with its number; and how many there were in all.
type Numbered = (u64, BTreeMap<MemberId, (u64, Arc<OwnResult>)>);

/// This member's results, for whoever tells them to others.
#[derive(Debug, Default)]
pub struct Outbox {
    results: Mutex<Numbered>,
    new: Condvar,
}

impl Outbox {
    fn put(&self, result: OwnResult) {
        let mut guard = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, results) = &mut *guard;
        *count += 1;
        if results.len() >= MOST && !results.contains_key(&result.of) {
            let oldest = results.iter().min_by_key(|(_, (n, _))| *n).map(|(id, _)| *id);
            oldest.map(|id| results.remove(&id));
        }
        results.insert(result.of, (*count, Arc::new(result)));
        drop(guard);
        self.new.notify_all();
    }

    fn after(&self, seen: u64, longest: Duration) -> (Vec<Arc<OwnResult>>, u64) {
        let guard = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.new.wait_timeout_while(guard, longest, |(count, _)| *count <= seen);
        let (guard, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let (count, results) = &*guard;
        let mut new: Vec<_> = results.values().filter(|(n, _)| *n > seen).collect();
        new.sort_by_key(|(n, _)| *n);
        (new.into_iter().map(|(_, result)| result.clone()).collect(), *count)
    }
}

pub(super) fn with_tpm(known: &Known) -> BTreeSet<MemberId> {
    let members = known.state.view.members.values();
    members.filter(|m| m.identity.class() != TpmClass::None).map(RosterEntry::id).collect()
}

impl Peers {
    /// A result of this member's, for all others.
    pub(super) fn tell(&self, of: MemberId, signed: &[u8], now: Now) -> Result<(), Fault> {
        if !signed.is_empty() {
            let ak = self.union.own_keys()?.in_tpm()?.ak_public.clone();
            let issued = now.wall_ms / 1000;
            let expires = issued.saturating_add(u64::try_from(seconds(self.period())).unwrap_or(0));
            self.outbox.put(OwnResult { of, ak, result: signed.to_vec(), issued, expires });
        }
        Ok(())
    }

    /// Results after the first `seen`, of each member the newest; waits for one, no longer than `longest`. And how many there were.
    pub fn results_after(&self, seen: u64, longest: Duration) -> (Vec<Arc<OwnResult>>, u64) {
        self.outbox.after(seen, longest)
    }

    /// Hears another member's result.
    ///
    /// # Errors
    /// Why it is not believed: a [`Disbelief`], in words.
    pub fn hear(&self, told: &HearResult, now: Now) -> Result<HeardResult, String> {
        self.hear_one(told, now).map_err(|why| why.to_string())
    }

    fn hear_one(&self, told: &HearResult, now: Now) -> Result<HeardResult, Disbelief> {
        let known = self.union.known().map_err(|e| Disbelief::Nobody(e.to_string()))?;
        let no_union = || Disbelief::Nobody("it is in no union".into());
        let known = known.filter(|k| k.has_us()).ok_or_else(no_union)?;
        self.only(&known);
        let own = known.own.as_ref().map(RosterEntry::id);
        let verifier = known.member(&told.from).filter(|v| Some(v.id()) != own);
        let Some(Identity::Tpm { ak, .. }) = verifier.map(|v| &v.identity) else {
            return Err(Disbelief::NoVerifier);
        };
        let period = self.period();
        let members = known.state.view.members.len() as u64;
        if !self.heard().may(told.from, members, now.ms, period) {
            return Err(Disbelief::TooMany);
        }
        if !self.trusts(&told.from, now, period) {
            return Err(Disbelief::Untrusted);
        }
        let other = |e: &dyn std::error::Error| Disbelief::OtherKey(chain(e));
        let public = Public::parse(&told.ak).map_err(|e| other(&e))?;
        if public.name().to_bytes() != ak.as_bytes() {
            return Err(Disbelief::OtherKey("its Name is not the one in the record".into()));
        }
        let key = VerifyingKey::of(&public).map_err(|e| other(&e))?;
        let bad = |e: &dyn std::error::Error| Disbelief::Result(chain(e));
        let signed = SignedResult::parse(&told.result).map_err(|e| bad(&e))?;
        let result = signed.verify(&key, public.name(), now.seconds()).map_err(|e| bad(&e))?;
        let subject = believable(&known, &result, period)?;
        if subject == told.from {
            return Err(Disbelief::OfItself);
        }
        let AttestationResult { claims, issued, expires } = result;
        let clock = claims.clock.ok_or(Disbelief::OtherClaim)?;
        let seen = self.table().last(&subject).and_then(|last| last.verdict.clock);
        if seen.is_some_and(|seen| clock.epoch() < seen.epoch()) {
            return Err(Old::ClockBack.into());
        }
        let digest = Digest::of(&told.result);
        let said = Said { at: now, since_ms: now.wall_ms, issued, expires, clock, digest };
        self.heard().take(subject, told.from, said, period)?;
        self.turns.bump();
        let seconds = |s: i64| u64::try_from(s).unwrap_or(0);
        Ok(HeardResult { of: subject, issued: seconds(issued), expires: seconds(expires) })
    }

    /// What others were trusted for ends when they are no members any more.
    pub(super) fn only(&self, known: &Known) {
        let member = |id: &MemberId| known.member(id).is_some();
        self.table().only(member);
        self.heard().only(member);
    }

    /// Whether somebody is trusted here by evidence that this member has appraised itself, or going on from there.
    fn trusts(&self, id: &MemberId, now: Now, period: u64) -> bool {
        rules::trusts(&self.table(), id, now, period)
    }

    /// The results about somebody that count now: by members whom this one trusts.
    pub(super) fn standing(&self, subject: &MemberId, now: Now, period: u64) -> Vec<(MemberId, Said)> {
        let said = self.heard().of(subject, now, period);
        rules::standing(&self.table(), said, subject, now, period)
    }

    /// How many results make somebody trusted without evidence of its own: two, where there are two who could.
    pub(super) fn needed(known: &Known, subject: &MemberId) -> usize {
        let own = known.own.as_ref().map(RosterEntry::id);
        let could = with_tpm(known).into_iter().filter(|v| v != subject && Some(*v) != own).count();
        could.clamp(1, VERIFIERS)
    }

    /// Whether a member's evidence is to be asked for now.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn due(&self, asked: &Due, now: Now) -> Result<DueReply, Fault> {
        let subject = asked.member;
        match self.rest(&subject, now) {
            Some(ms) => Ok(DueReply::Rest(ms)),
            None => self.ask_of(&AskOf { member: subject }, now).map(DueReply::Ask),
        }
    }

    /// For how long nothing is to be asked of a member, milliseconds.
    fn rest(&self, subject: &MemberId, now: Now) -> Option<u64> {
        let known = self.union.known().ok().flatten().filter(|k| k.has_us())?;
        self.only(&known);
        let (own, period) = (known.own.as_ref().map(RosterEntry::id)?, self.period());
        let shift = Shift::at(subject, now.wall_ms, period);
        let ours = || verifiers(subject, shift.number, &with_tpm(&known)).contains(&own);
        let lately = || about(subject, shift.number, &with_tpm(&known));
        let said = self.heard().of(subject, now, period);
        let turn = Turn { shift, ours: &ours, lately: &lately };
        rules::rest(&mut self.table(), said, subject, &turn, now, period)
    }
}

/// The member that a result is about, if it is one that counts.
fn believable(known: &Known, result: &AttestationResult, period: u64) -> Result<MemberId, Disbelief> {
    let AttestationResult { claims, issued, expires } = result;
    if claims.state != State::Trusted || claims.about.is_some() {
        return Err(Disbelief::OtherClaim);
    }
    let holds = expires.saturating_sub(*issued);
    if holds > seconds(period) {
        return Err(Disbelief::TooLong(holds));
    }
    let same = |m: &&RosterEntry| match &m.identity {
        Identity::Tpm { ek, ak, tls, .. } => {
            ak.as_bytes() == claims.ak.to_bytes()
                && tls.as_bytes() == claims.tls.to_bytes()
                && claims.ek == Some(Pin(ek.digest()))
                && crate::reference::class(m.identity.class()) == Some(claims.class)
        }
        Identity::Bare { .. } => false,
    };
    let subject = known.state.view.members.values().find(same).ok_or(Disbelief::NoSubject)?;
    let set = known.references.as_ref().map_err(|why| Disbelief::Nobody(why.clone()))?;
    if set.digest() != claims.references {
        return Err(Disbelief::OtherReferences);
    }
    Ok(subject.id())
}
