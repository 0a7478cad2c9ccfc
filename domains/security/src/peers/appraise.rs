//! Somebody's evidence, by the union's reference values. What does not come to "trusted" is refused, with the entry that it is about.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use aws_lc_rs::digest::Context;
use gtvp_appraisal::alg::{HashAlg, LogDigest};
use gtvp_appraisal::appraise::{self, Attester, Failure, KnownFrom, Question, State, Verdict};
use gtvp_appraisal::ek::Pin;
use gtvp_appraisal::evidence::{Evidence, LogPart, QUOTED, VERSION};
use gtvp_appraisal::reference::ReferenceSet;
use gtvp_appraisal::result::{AttestationResult, Claims};
use gtvp_appraisal::tpm::{Attest, ClockInfo, Epoch, Name, PcrIndex, PcrValues, Public};
use gtvp_ipc::security::{AppraiseEvidence, AskOf, Asking, LogSpan};
use gtvp_model::digest::Digest;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::union::{EkDigest, Identity, KeyName, RosterEntry, TpmClass};
use gtvp_protocol::hsp::message::{self, Ask, Held, LogKind};
use gtvp_protocol::hsp::{Appraisal, Rejection, RejectionKind};
use rustix::fs::FileType;

use super::asks::{self, Asked};
use super::quote::{finished, hashed};
use super::table::{Last, Logs};
use super::{Now, Peers, heard};
use crate::evidence::turn;
use crate::platform::{chain, fault};

/// Logs above this, bytes, are in memory one member's at a time: taken apart they have several times their length.
const LONG: u64 = 64 * 1024;
/// Bytes of an attestation result's label where there is no TPM to sign it.
const UNSIGNED: &[u8] = b"gtvp-result-unsigned/1\0";

/// The kind of a rejection that a failure is.
pub fn kind_of(failure: &Failure) -> RejectionKind {
    match failure {
        Failure::OtherAk { .. } | Failure::Signature(_) => RejectionKind::Signature,
        Failure::BadAk(_) => RejectionKind::Keys,
        Failure::Malformed(_) | Failure::NotAQuote => RejectionKind::Malformed,
        Failure::BoundElsewhere => RejectionKind::BoundElsewhere,
        Failure::TpmReset { .. } | Failure::EarlierLife { .. } | Failure::ClockBack { .. } => {
            RejectionKind::TpmReset
        }
        Failure::Sha1Bank | Failure::Bank(_) | Failure::PcrNotQuoted(_) | Failure::PcrValues => {
            RejectionKind::Pcrs
        }
        Failure::LogAbsent(_)
        | Failure::LogFrom { .. }
        | Failure::BootLog(_)
        | Failure::BankMissing(_)
        | Failure::PcrMismatch { .. }
        | Failure::PcrUnexplained { .. }
        | Failure::Unseparated(_)
        | Failure::Ima(_)
        | Failure::ImaMismatch(_)
        | Failure::BootAggregate { .. }
        | Failure::Own(_) => RejectionKind::Replay,
        Failure::BootEntry { .. }
        | Failure::FirmwareError { .. }
        | Failure::File { .. }
        | Failure::OwnEntry { .. }
        | Failure::PartMissing(_)
        | Failure::More(_) => RejectionKind::Reference,
    }
}

fn refused(kind: RejectionKind, why: impl Into<String>) -> Rejection {
    Rejection { kind, why: why.into() }
}

/// A failure, told: its name, its sentence, and how many more there are.
fn rejection(verdict: &Verdict) -> Rejection {
    match verdict.failed.as_slice() {
        [] => refused(RejectionKind::Unknown, format!("the verdict is {}", verdict.state)),
        [first, rest @ ..] => {
            let more = if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
            refused(kind_of(first), format!("{}: {first}{more}", first.name()))
        }
    }
}

/// Whose evidence it must be, by the record or by what was believed of a joiner.
struct Attesting {
    entry: RosterEntry,
    ak: KeyName,
    ek: Pin,
    tls: KeyName,
    class: TpmClass,
    joins: bool,
    set: Arc<ReferenceSet>,
    /// The period of the union that this is about: this member may be joining it.
    period: u64,
}

impl Peers {
    /// What to ask a member for next time, with a nonce that counts once.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn ask_of(&self, asked: &AskOf, now: Now) -> Result<Asking, Fault> {
        let mut nonce = [0; 32];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|e| Fault::internal("there is no randomness", &e))?;
        let pcrs = QUOTED.iter().fold(0u32, |mask, pcr| mask | 1 << pcr);
        let bank = message::Bank { algorithm: HashAlg::Sha256.id(), pcrs };
        let selection = vec![bank].try_into().unwrap_or_default();
        let known = self.union.known().ok().flatten();
        let set = known.and_then(|k| k.references.clone().ok());
        let logs = self.table().logs(&asked.member);
        // Logs that other reference values judged are judged again, whole.
        let logs = logs.filter(|l| set.is_some_and(|s| s.digest() == l.held.references));
        let references = logs.as_ref().map(|l| l.held.references);
        let held = logs.as_ref().map(|l| held(l)).unwrap_or_default();
        let ask = Ask { selection, held: held.try_into().unwrap_or_default() };
        let known = asks::Known { references, logs, clocks: self.clocks().count() };
        self.asks().give(nonce, ask.clone(), known, now.ms);
        Ok(Asking { nonce, ask })
    }

    /// Appraises evidence.
    ///
    /// # Errors
    /// Outside: this member's own TPM, which did not sign the result. Inside: why it is not believed, or what is not healthy.
    pub fn appraise_evidence(
        &self,
        asked: &AppraiseEvidence,
        fds: Vec<OwnedFd>,
        now: Now,
    ) -> Result<Result<Appraisal, Rejection>, Fault> {
        let attesting = match self.attesting(asked, now) {
            Ok(attesting) => attesting,
            Err(why) => return Ok(Err(why)),
        };
        // What is refused here says nothing of the member: it is this one's `communication` that has not kept to what it was given.
        let given = self.asks().take(&asked.binding.nonce, now.ms).filter(|given| given.ask == asked.ask);
        let Some(given) = given else {
            let why = "it answers nothing that this member has asked lately, or that was not answered before";
            return Ok(Err(refused(RejectionKind::Unknown, why)));
        };
        let bytes: u64 = asked.logs.iter().map(|l| l.length).fold(0, u64::saturating_add);
        let turn = (bytes > LONG).then(turn);
        let evidence = match convert(asked, fds) {
            Ok(evidence) => evidence,
            Err(why) => return Ok(Err(why)),
        };
        let before = self.before(&given, &attesting, &evidence);
        let found = match judge(asked, &given, &attesting, &evidence, &before, now) {
            Ok(found) => found,
            Err(why) => return Ok(Err(why)),
        };
        if let Some(clock) = found.verdict.clock {
            let known = self.union.known().ok().flatten();
            let is = |k: &str| known.as_ref().is_some_and(|known| known.has_ak(k));
            self.clocks().saw(&found.verdict.ak, clock, !attesting.joins, is, now.ms);
        }
        let trusted = found.verdict.state == State::Trusted;
        let logs = found.held.filter(|_| trusted).map(|held| {
            let digests = digests(&evidence, &held, before.logs.as_deref());
            Arc::new(Logs { held, digests, set: found.set.clone() })
        });
        // The next may have its logs here while this member's TPM signs.
        let long = turn.is_some();
        let overtaken = before.overtaken;
        drop((evidence, before, turn));
        if long {
            gtvp_ipc::memory::settle();
        }
        let period = attesting.period;
        let result = match trusted {
            true => Some(self.result(&found.verdict, &attesting, period, now)?),
            false => None,
        };
        if attesting.joins {
            self.believed().evidence(&asked.of, trusted, now.ms);
        }
        let outcome = match &result {
            Some((result, _)) => Ok(Appraisal { result: *result }),
            None => Err(rejection(&found.verdict)),
        };
        // One that another answer has overtaken says nothing new of the member: what was found of it since stands.
        let mut table = self.table();
        let clock = found.verdict.clock.filter(|_| !attesting.joins);
        if clock
            .is_some_and(|c| overtaken || self.clocks().overtaken(&found.verdict.ak, &c, given.known.clocks))
        {
            let stands = table.current(&attesting.entry.id(), now, period).map(|c| c.state);
            if stands == Some(State::Trusted) {
                return Ok(outcome);
            }
            let last = table.last(&attesting.entry.id()).filter(|l| l.verdict.state != State::Trusted);
            let since =
                || refused(RejectionKind::Unknown, "an answer to a later question has come before it");
            return Ok(Err(last.map_or_else(since, |l| rejection(&l.verdict))));
        }
        let last = Last { at: now, verdict: found.verdict, result };
        let Attesting { entry, ek, joins, .. } = attesting;
        let told = last.result.as_ref().map(|(_, signed)| signed.clone()).filter(|_| !joins);
        let who = (&entry.name, EkDigest::new(ek.0));
        table.appraised(entry.id(), who, last, logs, period);
        drop(table);
        self.turns.bump();
        match told {
            Some(signed) => self.tell(entry.id(), &signed, now)?,
            // What others found before that is over.
            None if !trusted => self.heard().end(&entry.id()),
            None => {}
        }
        Ok(outcome)
    }

    /// What was known of a member when this was asked. Of logs that the answer does not go on from, what is held now.
    fn before(&self, given: &Asked, of: &Attesting, evidence: &Evidence) -> Before {
        let held = self.table().logs(&of.entry.id());
        let life = held.as_ref().map(|l| l.held.clock.epoch());
        let quoted = Attest::parse(&evidence.quote).ok().map(|a| a.clock);
        let (clocks, asked) = (self.clocks(), given.known.clocks);
        let ak = Name::parse(of.ak.as_bytes()).ok();
        let newest = ak.and_then(|ak| clocks.newest_at(&ak, asked));
        let overtaken = ak.zip(quoted).is_some_and(|(ak, clock)| {
            let now = clocks.newest(&ak);
            // Both in one millisecond: whichever was here first stands.
            let same = now == Some(clock) && now != newest;
            same || clocks.overtaken(&ak, &clock, asked)
        });
        Before { logs: given.known.logs.clone().or(held), life, quoted, newest, overtaken }
    }

    fn attesting(&self, asked: &AppraiseEvidence, now: Now) -> Result<Attesting, Rejection> {
        let AppraiseEvidence { of, binding, .. } = asked;
        let unknown = |why: &str| refused(RejectionKind::Unknown, why);
        let known = self.union.known_as(binding.union);
        let known = known.ok_or_else(|| unknown("this member has no record of that union"))?;
        let member = known.member(&of.id()).filter(|m| m.identity.same_keys(&of.identity)).cloned();
        let (entry, joins) = match member {
            Some(member) => (member, false),
            None => {
                let believed = self.believed().known(&of.identity, now.ms).filter(|_| known.has_us());
                let keys =
                    believed.ok_or_else(|| unknown("it is neither a member nor joining, with these keys"))?;
                let entry = RosterEntry::new(
                    of.name.clone(),
                    keys.identity(),
                    of.platform_identity,
                    of.hardware.clone(),
                );
                (entry, true)
            }
        };
        let own = self.union.own_keys().map_err(|e| unknown(&e.to_string()))?.identity;
        // What it must be bound to, this side's `communication` says: ends and keys that are not the record's are its own doing, or the
        // record's that has gone on since the connection began. That says nothing of the attester, and must not count against it. What a
        // quote is bound to, its attester says, from this very connection: no other connection, before or after it, comes into that.
        for (right, what) in [
            (binding.challenger == own.member_id(), "another challenger"),
            (binding.challenger_tls == own.tls_name(), "another TLS key of its challenger"),
            (binding.attester == entry.id(), "another attester"),
            (binding.attester_tls == entry.identity.tls_name(), "another TLS key of its attester"),
        ] {
            if !right {
                return Err(unknown(&format!("this member's communication has it bound to {what}")));
            }
        }
        let Identity::Tpm { ek, ak, tls, .. } = &entry.identity else {
            return Err(refused(RejectionKind::Keys, "it has no TPM, and nothing to attest with"));
        };
        let class = entry.identity.class();
        let set =
            known.references.clone().map_err(|why| unknown(&format!("nothing counts as healthy: {why}")))?;
        let (ak, ek, tls) = (ak.clone(), Pin(ek.digest()), tls.clone());
        let period = known.state.view.settings.attest_every_ms.into();
        Ok(Attesting { ak, ek, tls, class, joins, set, period, entry })
    }

    /// The attestation result, signed, and its digest.
    fn result(
        &self,
        verdict: &Verdict,
        of: &Attesting,
        period: u64,
        now: Now,
    ) -> Result<(Digest, Arc<[u8]>), Fault> {
        let unfit = |e: &dyn std::error::Error| Fault::internal("there is no attestation result", e);
        let no_class = || Fault::new(FaultKind::Internal, "a member without a TPM has no result");
        let class = crate::reference::class(of.class).ok_or_else(no_class)?;
        let tls = Name::parse(of.tls.as_bytes()).map_err(|e| unfit(&e))?;
        let claims = Claims::of(verdict, class, Some(of.ek), tls);
        let issued = now.seconds();
        let expires = issued.saturating_add(heard::seconds(period));
        let result = AttestationResult { claims, issued, expires };
        let keys = self.union.own_keys()?;
        let Ok(in_tpm) = keys.in_tpm() else {
            // Whoever has no TPM tells nobody else what it found.
            let what = format!("{:?}", result.claims);
            return Ok((Digest::of(&[UNSIGNED, what.as_bytes()].concat()), Arc::from([])));
        };
        let public = Public::parse(&in_tpm.ak_public).map_err(|e| unfit(&e))?;
        let unsigned = result.unsigned(public.scheme, public.name()).map_err(|e| unfit(&e))?;
        let signed = self.platform.tpm()?.sign_result(unsigned).map_err(|e| fault(&e))?;
        Ok((Digest::of(&signed), signed.into()))
    }
}

fn held(logs: &Logs) -> Vec<Held> {
    let heads = logs.held.heads;
    let all = LogKind::ALL.into_iter().zip([heads.boot, heads.ima, heads.own]).zip(&logs.digests);
    let known = all.filter_map(|((log, bytes), digest)| {
        let digest = finished(digest.as_ref().filter(|_| bytes > 0)?);
        Some(Held { log, bytes, digest })
    });
    known.collect()
}

/// What was known of a member when it was asked.
struct Before {
    logs: Option<Arc<Logs>>,
    /// The life of its TPM in which it was seen last.
    life: Option<Epoch>,
    /// What its TPM says in this answer, not yet believed.
    quoted: Option<ClockInfo>,
    newest: Option<ClockInfo>,
    /// Whether a later answer was here first.
    overtaken: bool,
}

struct Found {
    verdict: Verdict,
    held: Option<appraise::Held>,
    set: Arc<ReferenceSet>,
}

fn judge(
    asked: &AppraiseEvidence,
    given: &Asked,
    of: &Attesting,
    evidence: &Evidence,
    before: &Before,
    now: Now,
) -> Result<Found, Rejection> {
    let class = crate::reference::class(of.class)
        .ok_or_else(|| refused(RejectionKind::Keys, "it has no TPM, and nothing to attest with"))?;
    let told = |f: &Failure| refused(kind_of(f), format!("{}: {f}", f.name()));
    let attester = Attester::new(&evidence.ak, class).map_err(|e| told(&Failure::BadAk(e)))?;
    let want = Name::parse(of.ak.as_bytes()).map_err(|e| told(&Failure::Malformed(e)))?;
    if *attester.name() != want {
        return Err(told(&Failure::OtherAk { got: Box::new(*attester.name()), want: Box::new(want) }));
    }
    let bound = asked.binding.qualifying_data(&asked.evidence.path);
    let bound = bound.ok_or_else(|| told(&Failure::BoundElsewhere))?;
    // A new session may be with a TPM that was reset since the last, and then nothing is held of its clock. What is held of logs are
    // their bytes and what they come to, whichever life of the TPM they are shown in. Within a session there is one life, or one with
    // which another has begun meanwhile.
    let begins = |life| asked.evidence.round == 0 || before.life == Some(life);
    let other = |l: &Logs, clock: ClockInfo| l.held.clock.epoch() != clock.epoch() && begins(clock.epoch());
    let reborn = before.logs.as_deref().zip(before.quoted);
    let reborn = reborn.filter(|(l, clock)| before.overtaken || other(l, *clock));
    let reborn = reborn.map(|(l, clock)| Logs { held: l.held.clone().reborn(clock), ..l.clone() });
    let newest = before.newest;
    let before = reborn.as_ref().or(before.logs.as_deref());
    // What was asked for shortly before reference values changed goes on from what the old ones judged; the next time all is asked for.
    let part = |p: &LogPart| matches!(p, LogPart::From { from, .. } if *from > 0);
    let goes_on = [&evidence.boot, &evidence.ima, &evidence.own].into_iter().any(part);
    let old =
        |l: &&Logs| l.held.references == l.set.digest() && given.goes_on_from(l.held.references, now.ms);
    let set = before.filter(|l| goes_on && old(l)).map_or(&of.set, |l| &l.set);
    let binding = appraise::Binding::Qualifying(&bound.0);
    let held = before.map(|l| &l.held);
    let question = Question { attester: &attester, known_from: KnownFrom::Record, binding, held, newest };
    let appraise::Appraisal { verdict, held } = appraise::appraise(evidence, &question, set, now.seconds());
    Ok(Found { verdict, held, set: set.clone() })
}

/// SHA-256 of what was appraised of each log.
fn digests(evidence: &Evidence, held: &appraise::Held, before: Option<&Logs>) -> [Option<Context>; 3] {
    let heads = held.heads;
    let of = |part: &LogPart, head: u64, before: Option<&Context>| {
        let LogPart::From { from, bytes } = part else { return None };
        let upto = usize::try_from(head.checked_sub(*from)?).ok()?;
        let bytes = bytes.get(..upto)?;
        if *from == 0 {
            return Some(hashed(bytes));
        }
        let mut context = before?.clone();
        context.update(bytes);
        Some(context)
    };
    let [boot, ima, own] = before.map_or([None, None, None], |l| l.digests.clone());
    [
        of(&evidence.boot, heads.boot, boot.as_ref()),
        of(&evidence.ima, heads.ima, ima.as_ref()),
        of(&evidence.own, heads.own, own.as_ref()),
    ]
}

/// Evidence as it was sent, as appraisal has it.
fn convert(asked: &AppraiseEvidence, fds: Vec<OwnedFd>) -> Result<Evidence, Rejection> {
    let sent = &asked.evidence;
    let malformed = |why: String| refused(RejectionKind::Malformed, why);
    let first = sent.pcrs.as_slice().first();
    let bank = first.and_then(|p| HashAlg::from_id(p.algorithm));
    let bank = bank.ok_or_else(|| refused(RejectionKind::Pcrs, "there is no PCR of a bank that is known"))?;
    let mut pcrs = PcrValues::new(bank);
    for pcr in sent.pcrs.as_slice() {
        if pcr.algorithm != bank.id() {
            return Err(refused(RejectionKind::Pcrs, "the PCRs are of more than one bank"));
        }
        let value = LogDigest::new(bank, pcr.value.as_slice()).map_err(|e| malformed(chain(&e)))?;
        let index =
            PcrIndex::new(pcr.index).ok_or_else(|| malformed(format!("there is no PCR {}", pcr.index)))?;
        pcrs.set(index, value);
    }
    let mut logs = read(&asked.logs, fds).map_err(|e| malformed(format!("its logs cannot be read: {e}")))?;
    for (kind, end) in LogKind::ALL.into_iter().zip(sent.ends.as_slice().iter().chain([&0, &0, &0])) {
        let got = logs
            .iter()
            .find(|(span, _)| span.log == kind)
            .map_or(0, |(s, _)| s.from.saturating_add(s.length));
        if got != *end {
            return Err(malformed(format!("the {kind:?} log ends at {got}, the evidence says {end}")));
        }
    }
    let mut part = |kind| match logs.iter().position(|(span, _)| span.log == kind) {
        None => LogPart::Absent,
        Some(at) => {
            let (span, bytes) = logs.swap_remove(at);
            if span.from == 0 && bytes.is_empty() {
                LogPart::Absent
            } else {
                LogPart::From { from: span.from, bytes }
            }
        }
    };
    Ok(Evidence {
        version: VERSION,
        ak: sent.ak.as_slice().to_vec(),
        quote: sent.attest.as_slice().to_vec(),
        signature: sent.signature.as_slice().to_vec(),
        pcrs,
        boot: part(LogKind::Boot),
        ima: part(LogKind::Ima),
        own: part(LogKind::Own),
    })
}

/// The logs of a descriptor.
fn read(spans: &[LogSpan], fds: Vec<OwnedFd>) -> io::Result<Vec<(LogSpan, Vec<u8>)>> {
    let twice = |(i, s): (usize, &LogSpan)| spans.iter().take(i).any(|other| other.log == s.log);
    if spans.iter().enumerate().any(twice) {
        return Err(io::Error::other("a log is there twice"));
    }
    if spans.iter().all(|s| s.length == 0) {
        return Ok(spans.iter().map(|s| (*s, Vec::new())).collect());
    }
    let fd = fds.into_iter().next().ok_or_else(|| io::Error::other("no descriptor came with it"))?;
    if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no descriptor of memory"));
    }
    let mut file = File::from(fd);
    file.seek(SeekFrom::Start(0))?;
    let one = |span: &LogSpan| {
        if span.from.saturating_add(span.length) > span.log.max() {
            return Err(io::Error::other("it is longer than any that is taken"));
        }
        let mut bytes = Vec::new();
        (&file).take(span.length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != span.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((*span, bytes))
    };
    spans.iter().map(one).collect()
}
