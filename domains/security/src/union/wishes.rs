//! Entries that an administrator asks for, that admit a joiner, or that the union needs by its own rules. Each is written for the place
//! after the last entry: whoever is overtaken has it written anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gtvp_appraisal::appraise::{Failure, State};
use gtvp_appraisal::reference::{Manifest, ReferenceSet, Status, rule_accepting};
use gtvp_ipc::security::{Housekeeping, Wish, Written, WrittenToken};
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::MemberName;
use gtvp_model::token::{TokenId, TokenSecret};
use gtvp_model::union::{Admission, EkDigest, MemberId, PlatformIdentity, TokenRecord, UnixTime, Whom};
use gtvp_model::unionview::ReferenceRow;
use gtvp_protocol::csp::act::MAX_NAME;
use gtvp_protocol::csp::{Act, Entry, SignedEntry};

use super::housekeeping::{self, Candidate};
use super::{Draft, Kept, Known, Union};
use crate::attest::Manifests;
use crate::reference;

/// Longest life of a token, seconds: thirty days. One that is found later is of no use.
const MAX_TOKEN_LIFE: u64 = 30 * 24 * 3600;
/// For how long somebody who wants to go is not made a voter again.
const LEAVING: Duration = Duration::from_secs(60);
/// Most bytes of a manifest that an administrator gives, JSON: what an entry holds is less.
const MAX_JSON: usize = 4 * 1024 * 1024;

/// Most accepted entries that are told one by one, and most characters of each.
const TOLD: usize = 16;
const LONGEST: usize = 200;

/// What was seen of somebody's last evidence.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Of whom.
    pub name: MemberName,
    /// What failed.
    pub failed: Vec<Failure>,
}

/// What a wish may be answered with beside the record.
pub struct Means<'a> {
    /// The last evidence of somebody.
    pub seen: &'a dyn Fn(&Whom) -> Result<Option<Seen>, Fault>,
    /// Whether somebody was found healthy here lately.
    pub trusted: &'a dyn Fn(&MemberId) -> bool,
}

impl Union {
    /// Writes an entry that an administrator asks for.
    ///
    /// # Errors
    /// What the record or a rule says no to; this member's TPM.
    pub fn wish(&self, wish: &Wish, means: &Means<'_>, now: UnixTime) -> Result<Written, Fault> {
        // What the TPM signs beside the entry is signed first: nobody waits for the record meanwhile.
        match wish {
            Wish::Token { expires_s, ek, platform_identity } => {
                self.token(*expires_s, *ek, *platform_identity, now)
            }
            Wish::EndToken(id) => self.end_token(id, now),
            Wish::Leave => self.leave(means, now),
            Wish::Evict { member, reason } => self.evict(member, reason, means, now),
            Wish::AcceptReference { member, next } => self.accept(member, *next, means, now),
            Wish::Reference { manifest } => {
                let fits = Some(manifest).filter(|m| m.len() <= MAX_JSON);
                let read = fits.ok_or("it is too long".to_owned());
                let read = read.and_then(|m| serde_json::from_str::<Manifest>(m).map_err(|e| e.to_string()));
                let manifest = read.map_err(|why| invalid("that is no manifest of reference values", why))?;
                let about = format!("reference values {} {} count", manifest.name, manifest.version);
                let written = self.manifest(manifest, about, now)?;
                self.keeps_us(&written.entry, now).map(|()| written)
            }
            Wish::RetireReference { name } => {
                let about = format!("reference values {name} count no more");
                let written = self.act(Act::ReferenceRetired { name: name.clone() }, about, now)?;
                self.keeps_us(&written.entry, now).map(|()| written)
            }
        }
    }

    fn act(&self, act: Act, about: String, now: UnixTime) -> Result<Written, Fault> {
        let draft = self.read(|kept| self.draft(kept, act, now))?;
        Ok(Written { entry: self.seal(draft)?, token: None, about, more: false })
    }

    fn token(
        &self,
        expires_s: u64,
        ek: Option<EkDigest>,
        level: Option<PlatformIdentity>,
        now: UnixTime,
    ) -> Result<Written, Fault> {
        if !(1..=MAX_TOKEN_LIFE).contains(&expires_s) {
            return Err(Fault::new(FaultKind::Invalid, "a token lives 1 second to 30 days"));
        }
        let mut bytes = [0; 16];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|e| Fault::internal("there is no randomness", &e))?;
        let secret = TokenSecret::new(bytes);
        let (draft, written, about) = self.read(|kept| {
            // As every member reads it: not before the time that a majority has put on the record.
            let begins = now.0.max(kept.record().view().head_time.0);
            let token = TokenRecord {
                key: secret.key(),
                expires: UnixTime(begins.saturating_add(expires_s)),
                ek,
                platform_identity: level.unwrap_or(kept.book.founder_level()),
                used_by: None,
            };
            let about = format!("join token {}, until {}", token.key.id().short(), token.expires);
            let written = WrittenToken { id: token.key.id(), secret: secret.clone(), expires: token.expires };
            Ok((self.draft(kept, Act::TokenMade(token), now)?, written, about))
        })?;
        Ok(Written { entry: self.seal(draft)?, token: Some(written), about, more: false })
    }

    fn end_token(&self, id: &TokenId, now: UnixTime) -> Result<Written, Fault> {
        self.act(Act::TokenEnded(*id), format!("join token {} ends", id.short()), now)
    }

    fn leave(&self, means: &Means<'_>, now: UnixTime) -> Result<Written, Fault> {
        let own = self.own_keys()?.identity.member_id();
        let (draft, about, more) = self.read(|kept| {
            if kept.record().voters().contains(&own) {
                return self.cease(kept, own, means, now);
            }
            Ok((self.draft(kept, Act::Left, now)?, "this server leaves the union".to_owned(), false))
        })?;
        Ok(Written { entry: self.seal(draft)?, token: None, about, more })
    }

    fn evict(
        &self,
        name: &MemberName,
        reason: &str,
        means: &Means<'_>,
        now: UnixTime,
    ) -> Result<Written, Fault> {
        let own = self.own_keys()?.identity.member_id();
        let (draft, about, more) = self.read(|kept| {
            let member = kept.record().view().members.values().find(|m| m.name == *name);
            let id = member.ok_or_else(|| no_such(name))?.id();
            if id == own {
                return Err(Fault::new(FaultKind::Invalid, "a server does not remove itself")
                    .hint("to leave: gtvp member leave"));
            }
            if kept.record().voters().contains(&id) {
                return self.cease(kept, id, means, now);
            }
            let act = Act::Evicted { member: id, reason: reason.to_owned() };
            Ok((self.draft(kept, act, now)?, format!("{name} is removed from the union"), false))
        })?;
        Ok(Written { entry: self.seal(draft)?, token: None, about, more })
    }

    /// A voter that is to go ceases to vote first: the entry, what it does, and that another comes after it.
    fn cease(
        &self,
        kept: &Kept,
        id: MemberId,
        means: &Means<'_>,
        now: UnixTime,
    ) -> Result<(Draft, String, bool), Fault> {
        self.leaving().insert(id, Instant::now());
        let members = self.candidates(&kept.known, means.trusted, means.trusted);
        let voters = kept.record().voters();
        let next = housekeeping::without(&members, voters, id).ok_or_else(|| {
            Fault::new(FaultKind::WrongState, "it is the only member that can vote").because(
                "the record of a union is kept by healthy members with a TPM, and no other one is known here",
            )
        })?;
        let name = |id: &MemberId| kept.known.name_of(id);
        let about = match next.difference(voters).next() {
            Some(new) => format!("{} votes first, so that {} can cease to", name(new), name(&id)),
            None => format!("{} ceases to vote first", name(&id)),
        };
        Ok((self.draft(kept, Act::Voters(next), now)?, about, true))
    }

    fn leaving(&self) -> std::sync::MutexGuard<'_, BTreeMap<MemberId, Instant>> {
        let mut leaving = self.leaving.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        leaving.retain(|_, since| since.elapsed() < LEAVING);
        leaving
    }

    fn candidates(
        &self,
        known: &Known,
        reachable: &dyn Fn(&MemberId) -> bool,
        trusted: &dyn Fn(&MemberId) -> bool,
    ) -> Vec<Candidate> {
        let leaving = self.leaving();
        let own = known.own.as_ref().map(gtvp_model::union::RosterEntry::id);
        let candidate = |m: &gtvp_model::union::RosterEntry| Candidate {
            id: m.id(),
            class: m.identity.class(),
            level: m.platform_identity,
            reachable: own == Some(m.id()) || reachable(&m.id()),
            trusted: own == Some(m.id()) || trusted(&m.id()),
            leaving: leaving.contains_key(&m.id()),
        };
        known.state.view.members.values().map(candidate).collect()
    }

    /// Writes the entry that the union needs next by its own rules.
    ///
    /// # Errors
    /// `Denied` for a member that does not vote; this member's TPM; outside of a union.
    pub fn housekeeping(
        &self,
        reachable: &[MemberId],
        trusted: &[MemberId],
        now: UnixTime,
    ) -> Result<Housekeeping, Fault> {
        let own = self.own_keys()?.identity.member_id();
        let reachable: BTreeSet<MemberId> = reachable.iter().copied().collect();
        let draft = self.read(|kept| {
            if !kept.record().voters().contains(&own) {
                return Err(Fault::new(FaultKind::Denied, "who does not vote does not say who should"));
            }
            let members =
                self.candidates(&kept.known, &|id| reachable.contains(id), &|id| trusted.contains(id));
            let next = housekeeping::next(&members, kept.record().voters());
            next.map(|voters| self.draft(kept, Act::Voters(voters), now)).transpose()
        })?;
        Ok(Housekeeping { entry: draft.map(|draft| self.seal(draft)).transpose()? })
    }

    /// Writes the entry that admits a joiner. Whether it is believed is for the caller to have seen. This member's clock may be slow, but
    /// it is not before the time that a majority has put on the record: no token is good for longer because of it.
    ///
    /// # Errors
    /// What the record says no to; this member's TPM.
    pub fn admission(&self, admission: &Admission, now: UnixTime) -> Result<SignedEntry, Fault> {
        let draft = self.read(|kept| {
            let now = now.max(kept.record().view().head_time);
            self.draft(kept, Act::Admitted(admission.clone()), now)
        })?;
        self.seal(draft)
    }

    fn accept(&self, whom: &Whom, next: bool, means: &Means<'_>, now: UnixTime) -> Result<Written, Fault> {
        let nothing = |why: String| {
            Fault::new(FaultKind::WrongState, format!("there is nothing of {whom} to accept")).because(why)
        };
        let seen = (means.seen)(whom)?;
        let seen = seen.ok_or_else(|| nothing("no evidence of it was seen here lately".into()))?;
        let status = if next { Status::Next } else { Status::Current };
        let rules: Vec<_> =
            seen.failed.iter().filter_map(|f| rule_accepting(f, status).map(|rule| (f, rule))).collect();
        if rules.is_empty() {
            let why = seen.failed.first().map(ToString::to_string);
            return Err(nothing(why.unwrap_or_else(|| "its last evidence was healthy".into())));
        }
        let name = &seen.name;
        let title: String = format!("accepted-{name}").chars().take(MAX_NAME).collect();
        let held = self.read(|kept| Ok(kept.book.accepted().get(&title).map(|a| a.manifest.clone())))?;
        let held = held.transpose().map_err(|why| invalid("its reference values cannot be read", why))?;
        let mut manifest = match held {
            Some(held) => held.manifest().clone(),
            None => Manifest {
                name: title,
                version: 0,
                issued: 0,
                demands: Default::default(),
                required_parts: Vec::new(),
                rules: Vec::new(),
            },
        };
        let mut what: Vec<String> = Vec::new();
        for (failure, rule) in rules {
            if !manifest.rules.contains(&rule) {
                manifest.rules.push(rule);
                what.push(failure.to_string().chars().take(LONGEST).collect());
            }
        }
        manifest.version = manifest.version.saturating_add(1);
        manifest.issued = i64::try_from(now.0).unwrap_or(i64::MAX);
        let new = what.len();
        let left = seen.failed.len().saturating_sub(new);
        let left = if left > 0 {
            format!("; {left} findings are nothing that can be accepted")
        } else {
            String::new()
        };
        let when = if next { "from its next start on" } else { "now" };
        let more = new.saturating_sub(TOLD);
        what.truncate(TOLD);
        if more > 0 {
            what.push(format!("and {more} more"));
        }
        let what = what.join("; ");
        let about = format!("{new} measurements of {name} count as healthy {when}{left}: {what}");
        self.manifest(manifest, about, now)
    }

    fn manifest(&self, manifest: Manifest, about: String, now: UnixTime) -> Result<Written, Fault> {
        let keys = self.own_keys()?;
        let (name, manifest) = reference::signed(&self.platform, keys.in_tpm()?, &manifest)?;
        self.act(Act::ReferenceAccepted { name, manifest }, about, now)
    }

    /// That this member is still healthy with this entry, if it is without: nobody shuts out the very server that they stand at, and with
    /// it perhaps the voters who could take it back.
    fn keeps_us(&self, signed: &SignedEntry, now: UnixTime) -> Result<(), Fault> {
        let keys = self.own_keys()?;
        let Some(tpm) = &keys.tpm else { return Ok(()) };
        let entry = Entry::decode(signed.entry.as_slice())
            .map_err(|e| Fault::internal("this member's own entry cannot be read", &e))?;
        let before = self.read(|kept| Ok(kept.book.clone()))?;
        let mut after = before.clone();
        after.note(&entry);
        let now = i64::try_from(now.0).unwrap_or(i64::MAX);
        let healthy = |set: Result<Arc<ReferenceSet>, String>| match set {
            Ok(set) => reference::own_verdict(&self.platform, tpm, &set, now),
            Err(why) => Err(Fault::new(FaultKind::WrongState, why)),
        };
        let with = match healthy(after.set()) {
            Ok(verdict) if verdict.state == State::Trusted => return Ok(()),
            Ok(verdict) => verdict.failed.first().map_or_else(String::new, ToString::to_string),
            Err(fault) => fault.message,
        };
        match healthy(before.set()) {
            Ok(verdict) if verdict.state == State::Trusted => {
                Err(Fault::new(FaultKind::WrongState, "this very server would be healthy no more")
                    .because(with)
                    .hint("have other reference values count first: gtvp reference accept"))
            }
            _ => Ok(()),
        }
    }

    /// The reference values that count.
    ///
    /// # Errors
    /// Outside of a union.
    pub fn references(&self) -> Result<Vec<ReferenceRow>, Fault> {
        self.read(|kept| {
            let row = |(name, accepted): (&String, &super::book::Accepted)| {
                let digest = gtvp_model::digest::Digest::of(accepted.blob.as_slice()).to_string();
                let Ok(trusted) = &accepted.manifest else {
                    return ReferenceRow {
                        name: name.clone(),
                        version: 0,
                        issued: 0,
                        rules: 0,
                        next: 0,
                        digest,
                    };
                };
                let manifest = trusted.manifest();
                let next = manifest.rules.iter().filter(|r| r.status() == Status::Next).count() as u64;
                ReferenceRow {
                    name: name.clone(),
                    version: manifest.version,
                    issued: manifest.issued,
                    rules: (manifest.rules.len() as u64).saturating_sub(next),
                    next,
                    digest,
                }
            };
            Ok(kept.book.accepted().iter().map(row).collect())
        })
    }

    /// The same as they are signed, with the keys: for an evidence file. None outside of a union.
    pub fn manifests(&self) -> Manifests {
        let of = |a: &super::book::Accepted| {
            super::book::parts(&a.blob).map(|(key, signed)| (key.to_vec(), signed.to_vec()))
        };
        self.read(|kept| Ok(kept.book.accepted().values().filter_map(of).collect())).unwrap_or_default()
    }

    /// One of them, in full.
    ///
    /// # Errors
    /// `NotFound`; outside of a union.
    pub fn reference(&self, name: &str) -> Result<serde_json::Value, Fault> {
        self.read(|kept| {
            let accepted = kept.book.accepted().get(name).ok_or_else(|| {
                let short: String = name.chars().take(MAX_NAME).collect();
                Fault::new(FaultKind::NotFound, format!("no reference values are called {short:?}"))
                    .hint("gtvp reference ls")
            })?;
            match &accepted.manifest {
                Ok(trusted) => serde_json::to_value(trusted.manifest())
                    .map_err(|e| Fault::internal("they cannot be shown", &e)),
                Err(why) => Err(Fault::new(FaultKind::Integrity, "they cannot be read").because(why.clone())),
            }
        })
    }
}

fn no_such(name: &MemberName) -> Fault {
    Fault::new(FaultKind::NotFound, format!("the union has no member {name}")).hint("gtvp member ls")
}

fn invalid(what: &str, why: String) -> Fault {
    Fault::new(FaultKind::Invalid, what).because(why)
}
