//! One application asks about another, and this member says by its key what it found (GTVP §3.3, docs/design/peers.md): evidence of the
//! other box that is newer than the question, whose member is trusted now by this one's own appraisal. Who may ask about whom is no
//! question yet; each answer says so.

use gtvp_model::hex::unhex;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};

use gtvp_appraisal::appraise::{Attester, Binding, KnownFrom, Question, State, Verdict, appraise};
use gtvp_appraisal::boxes::{self, BoxFinding};
use gtvp_appraisal::ek::Pin;
use gtvp_appraisal::evidence::LogPart;
use gtvp_appraisal::file::{AboutBox, EvidenceFile};
use gtvp_appraisal::reference::ReferenceSet;
use gtvp_appraisal::result::{Asked, AttestationResult, Claims};
use gtvp_appraisal::tpm::{Name, Public};
use gtvp_ipc::bulk;
use gtvp_ipc::security::{ChallengePeer, PeerChallenge, PeerVouched, VouchForPeer};
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::BoxName;
use gtvp_model::union::{Identity, RosterEntry};
use gtvp_protocol::vouch::{MAX_EVIDENCE, NONCE};

use super::heard;
use super::{Now, Peers};
use crate::evidence::turn;
use crate::platform::{chain, fault};
use crate::reference;
use crate::union::Known;

/// How long a challenge is good, milliseconds: its evidence comes from another server, whose TPM may take seconds.
const LASTS_MS: u64 = 60_000;
/// Challenges at once: more than `management` asks for. With more, the oldest is of no use any more.
const MOST: usize = 64;
/// What no answer rests on.
const NO_POLICY: &str = "whether this box may ask about that one: there is no policy yet";
const NO_ALLOWED: &str = "whether anybody wants this composition to run: there is no policy yet";
const ITSELF: &str =
    "that the member is healthy by another one's word: both boxes are on it, and it speaks for itself";

/// Questions whose evidence is awaited, by their challenge.
#[derive(Debug, Default)]
pub struct Pending(BTreeMap<[u8; NONCE], Awaited>);

#[derive(Debug, Clone)]
struct Awaited {
    since: u64,
    member: RosterEntry,
    itself: bool,
    name: BoxName,
    asked: Asked,
}

impl Pending {
    fn put(&mut self, challenge: [u8; NONCE], awaited: Awaited) {
        self.0.retain(|_, a| awaited.since.saturating_sub(a.since) < LASTS_MS);
        if self.0.len() >= MOST {
            let oldest = self.0.iter().min_by_key(|(_, a)| a.since).map(|(challenge, _)| *challenge);
            oldest.map(|challenge| self.0.remove(&challenge));
        }
        self.0.insert(challenge, awaited);
    }

    fn take(&mut self, challenge: &[u8; NONCE], ms: u64) -> Option<Awaited> {
        self.0.remove(challenge).filter(|a| ms.saturating_sub(a.since) < LASTS_MS)
    }
}

fn denied(what: String, why: impl Into<String>) -> Fault {
    Fault::new(FaultKind::Denied, what).because(why)
}

impl Peers {
    /// See [`ChallengePeer`].
    ///
    /// # Errors
    /// A question that is none; a member that there is not; outside of a union.
    pub fn challenge_peer(&self, asked: &ChallengePeer, now: Now) -> Result<PeerChallenge, Fault> {
        self.may_grant("vouching for another box", now)?;
        let peer = asked.peer.check().map_err(|e| Fault::new(FaultKind::Invalid, e.to_string()))?;
        let (known, own) = self.in_union()?;
        let member = match &peer.member {
            None => own.clone(),
            Some(name) => {
                let found = known.state.view.members.values().find(|m| m.name == *name).cloned();
                found.ok_or_else(|| {
                    Fault::new(FaultKind::NotFound, format!("the union has no member {name}"))
                })?
            }
        };
        let nonce = Some(&asked.peer.nonce).and_then(unhex);
        let nonce = nonce.ok_or_else(|| Fault::new(FaultKind::Invalid, "the nonce is not hexadecimal"))?;
        let mut challenge = [0; NONCE];
        aws_lc_rs::rand::fill(&mut challenge).map_err(|e| Fault::internal("there is no randomness", &e))?;
        let itself = member.id() == own.id();
        let awaited = Awaited {
            since: now.ms,
            itself,
            name: peer.name,
            asked: Asked { by: asked.asker.clone(), nonce },
            member,
        };
        let member = Some(awaited.member.id()).filter(|_| !itself);
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).put(challenge, awaited);
        Ok(PeerChallenge { member, nonce: challenge })
    }

    fn in_union(&self) -> Result<(Arc<Known>, RosterEntry), Fault> {
        let known = self.union.known()?.filter(|k| k.has_us());
        let own = known.as_ref().and_then(|k| k.own.clone());
        known.zip(own).ok_or_else(|| {
            Fault::new(
                FaultKind::WrongState,
                "this server is in no union, and nothing counts as healthy for it",
            )
        })
    }

    /// See [`VouchForPeer`].
    ///
    /// # Errors
    /// `Denied`: the other box's evidence does not hold, or its member is not trusted now. A challenge that is not this member's, or too
    /// old; this member's own TPM.
    pub fn vouch_for_peer(
        &self,
        asked: &VouchForPeer,
        fds: Vec<OwnedFd>,
        now: Now,
    ) -> Result<PeerVouched, Fault> {
        let awaited = self.pending.lock().unwrap_or_else(PoisonError::into_inner).take(&asked.nonce, now.ms);
        let Some(awaited) = awaited else {
            return Err(Fault::new(FaultKind::WrongState, "nobody waits for this evidence, or not any more"));
        };
        self.may_grant("vouching for another box", now)?;
        let Awaited { member, itself, name, .. } = &awaited;
        let what = format!("{}/{name} is not vouched for", member.name);
        // Meanwhile it may have left.
        let (known, _) = self.in_union()?;
        let member = known.member(&member.id()).filter(|m| m.identity.same_keys(&member.identity));
        let member = member.ok_or_else(|| denied(what.clone(), "its member is no member any more"))?;
        if !itself {
            let current = self.table().current(&member.id(), now, self.period());
            let state = current.map_or(State::Unknown, |c| c.state);
            if state != State::Trusted {
                return Err(denied(what, format!("its member {} is {state} here", member.name)));
            }
        }
        let set = known.references.clone().map_err(|why| denied(what.clone(), why))?;
        let turn = turn();
        let file = read(fds).map_err(|why| denied(what.clone(), why))?;
        let found = self.appraised(member, &file, &awaited, &asked.nonce, &set, now);
        let (verdict, finding) = found.map_err(|why| denied(what.clone(), why))?;
        drop((file, turn));
        if !itself {
            // Another life of its TPM than the one that proved itself on the channel.
            let before = self.table().last(&member.id()).and_then(|l| l.verdict.clock).map(|c| c.epoch());
            if before != verdict.clock.map(|c| c.epoch()) {
                return Err(denied(what, "its member's TPM was reset since it proved itself last"));
            }
        }
        self.said(member, &verdict, &finding, &awaited, now)
    }

    /// What the evidence comes to, if it is trusted; else why not.
    fn appraised(
        &self,
        member: &RosterEntry,
        file: &EvidenceFile,
        awaited: &Awaited,
        challenge: &[u8; NONCE],
        set: &ReferenceSet,
        now: Now,
    ) -> Result<(Verdict, BoxFinding), String> {
        let evidence = &file.evidence;
        let Identity::Tpm { ak, .. } = &member.identity else { return Err("its member has no TPM".into()) };
        let class = reference::class(member.identity.class()).ok_or("its member has no TPM")?;
        let attester = Attester::new(&evidence.ak, class).map_err(|e| chain(&e))?;
        if Name::parse(ak.as_bytes()).as_ref() != Ok(attester.name()) {
            return Err("the evidence is by another attestation key than its member's".into());
        }
        // The quote is bound to the claims, and these are bound to us by the challenge in them.
        let Some(AboutBox { evidence: about, nonce }) = &file.about else {
            return Err("the evidence is about no box".into());
        };
        if file.claims.nonce != challenge || nonce != challenge {
            return Err("the evidence answers something else than was asked".into());
        }
        if about.name != awaited.name {
            return Err(format!("the evidence is about {}", about.name));
        }
        let whole = |part: &LogPart| matches!(part, LogPart::Absent | LogPart::From { from: 0, .. });
        if ![&evidence.boot, &evidence.ima, &evidence.own].into_iter().all(whole) {
            return Err("its logs begin in the middle".into());
        }
        let bound = file.claims.qualifying_data(&evidence.ak);
        let binding = Binding::Qualifying(&bound.0);
        let newest = self.clocks().newest(attester.name());
        let question =
            Question { attester: &attester, known_from: KnownFrom::Record, binding, held: None, newest };
        let verdict = appraise(evidence, &question, set, now.seconds()).verdict;
        if verdict.state != State::Trusted {
            let first = verdict.failed.first().map(|f| format!("{}: {f}", f.name()));
            return Err(first.unwrap_or_else(|| format!("its member is {}", verdict.state)));
        }
        let own: &[u8] = match &evidence.own {
            LogPart::From { bytes, .. } => bytes,
            LogPart::Absent => &[],
        };
        let finding = boxes::check(about, own, &evidence.quote, challenge).map_err(|e| chain(&e))?;
        Ok((verdict, finding))
    }

    fn said(
        &self,
        member: &RosterEntry,
        verdict: &Verdict,
        finding: &BoxFinding,
        awaited: &Awaited,
        now: Now,
    ) -> Result<PeerVouched, Fault> {
        let unfit = |e: &dyn std::error::Error| Fault::internal("there is no attestation result", e);
        let Identity::Tpm { ek, tls, .. } = &member.identity else {
            return Err(Fault::new(FaultKind::Internal, "a member without a TPM has no result"));
        };
        let class = reference::class(member.identity.class())
            .ok_or_else(|| Fault::new(FaultKind::Internal, "a member without a TPM has no result"))?;
        let tls = Name::parse(tls.as_bytes()).map_err(|e| unfit(&e))?;
        let claims = Claims::of(verdict, class, Some(Pin(ek.digest())), tls);
        let claims = claims.about(finding, awaited.asked.clone());
        let issued = now.seconds();
        let expires = issued.saturating_add(heard::seconds(self.period()));
        let result = AttestationResult { claims, issued, expires };
        let keys = self.union.own_keys()?;
        let public = Public::parse(&keys.in_tpm()?.ak_public).map_err(|e| unfit(&e))?;
        let unsigned = result.unsigned(public.scheme, public.name()).map_err(|e| unfit(&e))?;
        let signed = self.platform.tpm()?.sign_result(unsigned).map_err(|e| fault(&e))?;
        let mut not_checked: Vec<String> = verdict.not_made.iter().map(ToString::to_string).collect();
        not_checked.extend(finding.template.is_some().then(|| boxes::TEMPLATE_NOT_MADE.to_owned()));
        not_checked.extend(awaited.itself.then(|| ITSELF.to_owned()));
        not_checked.extend([NO_ALLOWED.to_owned(), NO_POLICY.to_owned()]);
        Ok(PeerVouched {
            result: signed,
            verdict: verdict.state.to_string(),
            member: member.name.clone(),
            name: finding.name.clone(),
            composition: finding.composition,
            expires,
            not_checked,
        })
    }
}

fn read(fds: Vec<OwnedFd>) -> Result<EvidenceFile, String> {
    let fd = fds.into_iter().next().ok_or("there is no evidence")?;
    let bytes = bulk::take(fd, MAX_EVIDENCE).map_err(|e| format!("the evidence cannot be read: {e}"))?;
    EvidenceFile::decode(&bytes).map_err(|e| chain(&e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gtvp_model::union::{Hardware, KeyName, PlatformIdentity, TpmKind};

    fn awaited(since: u64) -> Awaited {
        let identity = Identity::Tpm {
            kind: TpmKind::Software,
            ek: [1; 32].into(),
            ak: KeyName::sha256(&[1]),
            tls: KeyName::sha256(&[2]),
            spki: [1; 32].into(),
        };
        let hardware = Hardware::new(1, 1, "").unwrap();
        let member = RosterEntry::new("m".parse().unwrap(), identity, PlatformIdentity::default(), hardware);
        let asked = Asked { by: "a".parse().unwrap(), nonce: vec![0; 16] };
        Awaited { since, member, itself: false, name: "b".parse().unwrap(), asked }
    }

    #[test]
    fn a_challenge_is_good_once_and_not_for_long() {
        let mut pending = Pending::default();
        pending.put([1; NONCE], awaited(0));
        assert!(pending.take(&[2; NONCE], 0).is_none());
        assert!(pending.take(&[1; NONCE], LASTS_MS - 1).is_some());
        assert!(pending.take(&[1; NONCE], 0).is_none(), "a second time");
        pending.put([1; NONCE], awaited(0));
        assert!(pending.take(&[1; NONCE], LASTS_MS).is_none(), "too late");
    }

    #[test]
    fn many_challenges_make_nothing_grow() {
        let mut pending = Pending::default();
        (0..=255).for_each(|n| pending.put([n; NONCE], awaited(n.into())));
        assert_eq!(pending.0.len(), MOST);
        assert!(pending.take(&[255; NONCE], 255).is_some() && pending.take(&[0; NONCE], 255).is_none());
    }
}
