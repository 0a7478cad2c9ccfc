//! Commands of HSP that are calls to `security`: made on other threads, their outcomes left in the link's inbox.

use std::sync::Arc;

use gtvp_ipc::security::{
    ActivateCredential, AppraiseCertification, AppraiseEvidence, AppraiseKeys, Asking, Certify, DueReply,
    HearResult, HeardResult, LearnRecord, LogSpan, MakeCredential,
};
use gtvp_model::fault::Fault;
use gtvp_model::union::{MemberId, RecordHead, UnionId};
use gtvp_protocol::csp::page;
use gtvp_protocol::hsp::join::MAX_RECORD;
use gtvp_protocol::hsp::message::Ask;
use gtvp_protocol::hsp::{Appraisable, Binding, Durable, Event, Lengths, Rejection, RejectionKind, Request};

use crate::pool::Pool;
use crate::quoter::{Quoter, Wanted};
use crate::security::{Checked, Security};
use crate::switch::{Inbox, Note};

/// What one link makes its calls with.
pub struct Calls {
    /// Who answers.
    pub security: Arc<dyn Security>,
    /// Who waits for the answers.
    pub pool: Pool,
    /// For quotes.
    pub quoter: Quoter,
    /// Where the outcomes go.
    pub inbox: Arc<Inbox>,
}

/// No answer is not "believed".
fn checked<T>(outcome: Checked<T>) -> Result<T, Rejection> {
    outcome.unwrap_or_else(|fault| Err(Rejection { kind: RejectionKind::Unknown, why: fault.to_string() }))
}

fn said<T>(outcome: Result<T, Fault>) -> Result<T, String> {
    outcome.map_err(|fault| fault.to_string())
}

impl Calls {
    fn note(&self, call: impl FnOnce(&dyn Security) -> Note + Send + 'static) {
        let (security, inbox) = (self.security.clone(), self.inbox.clone());
        self.pool.run(move || inbox.put(call(&*security)));
    }

    fn call(&self, call: impl FnOnce(&dyn Security) -> Event + Send + 'static) {
        self.note(move |security| Note::Outcome(call(security)));
    }

    /// Our own evidence.
    pub fn quote(&self, request: Request, binding: Box<Binding>, ask: Ask, waits: Option<Lengths>) {
        let inbox = self.inbox.clone();
        let reply = Box::new(move |outcome| inbox.put(Note::Outcome(Event::Quoted { request, outcome })));
        self.quoter.ask(Wanted { binding, ask, waits, reply });
    }

    /// The peer's evidence.
    pub fn appraise(&self, request: Request, what: Appraisable) {
        self.call(move |security| {
            let Appraisable { of, evidence, logs, binding, ask } = what;
            let span = |l: &gtvp_protocol::hsp::LogDelta| LogSpan {
                log: l.log,
                from: l.from,
                length: l.bytes.len() as u64,
            };
            let ask = AppraiseEvidence {
                of: Box::new(of),
                // `security` is the check.
                evidence: Box::new(evidence.unchecked().clone()),
                binding: Box::new(binding),
                ask,
                logs: logs.iter().map(span).collect(),
            };
            let bytes: Vec<u8> = logs.into_iter().flat_map(|l| l.bytes).collect();
            Event::Appraised { request, outcome: checked(security.appraise_evidence(&ask, &bytes)) }
        });
    }

    /// A joiner's keys.
    pub fn appraise_keys(&self, request: Request, what: AppraiseKeys) {
        self.call(move |s| Event::KeysAppraised { request, outcome: checked(s.appraise_keys(&what)) });
    }

    /// A credential for a joiner.
    pub fn make_credential(&self, request: Request, what: MakeCredential) {
        self.call(move |s| {
            let made = said(s.make_credential(&what));
            Event::CredentialMade { request, outcome: made.map(|m| Box::new(m.credential)) }
        });
    }

    /// Open a verifier's credential.
    pub fn activate(&self, request: Request, what: ActivateCredential) {
        self.call(move |s| Event::Activated { request, outcome: said(s.activate_credential(&what)) });
    }

    /// Certify our TLS key.
    pub fn certify(&self, request: Request, what: Certify) {
        self.call(move |s| Event::Certified { request, outcome: said(s.certify(&what)).map(Box::new) });
    }

    /// A joiner's certification.
    pub fn appraise_certification(&self, request: Request, what: AppraiseCertification) {
        self.call(move |s| {
            let outcome = checked(s.appraise_certification(&what));
            Event::CertificationAppraised { request, outcome }
        });
    }

    /// A whole record that a verifier sent.
    pub fn learn(&self, request: Request, what: LearnRecord, record: Vec<u8>) {
        self.call(move |s| {
            let outcome = s.learn_record(&what, &record).unwrap_or_else(|fault| Err(fault.to_string()));
            Event::RecordLearned { request, outcome }
        });
    }

    /// Something that must survive a crash.
    pub fn persist(&self, what: Durable) {
        self.note(move |s| Note::Persisted(said(s.keep_membership(what))));
    }

    /// The record up to an entry, to be sent.
    pub fn read_record(&self, to: RecordHead) {
        self.note(move |s| Note::Record(read_up_to(s, to)));
    }

    /// The time has come to ask for fresh evidence of the peer: what for, if it is needed?
    pub fn renew(&self, of: MemberId) {
        self.note(move |s| match said(s.due(of)) {
            Ok(DueReply::Ask(asking)) => asked(Ok(asking)),
            Ok(DueReply::Rest(ms)) => Note::Rest(ms),
            Err(why) => Note::NoAsk(why),
        });
    }

    /// Fresh evidence of the peer is to be asked for, whoever's word stands.
    pub fn renew_now(&self, of: MemberId) {
        self.note(move |s| asked(said(s.ask_of(of))));
    }

    /// Hears another member's attestation result.
    pub fn hear(
        &self,
        what: HearResult,
        heard: impl FnOnce(HearResult, Result<HeardResult, String>) + Send + 'static,
    ) {
        let security = self.security.clone();
        self.pool.run(move || {
            let outcome = said(security.hear_result(&what)).and_then(|heard| heard);
            heard(what, outcome);
        });
    }
}

fn asked(asking: Result<Asking, String>) -> Note {
    match asking {
        Ok(Asking { nonce, ask }) => Note::Outcome(Event::Renew { nonce, ask }),
        Err(why) => Note::NoAsk(why),
    }
}

/// The record's beginning that ends with this entry: others may have come meanwhile. `security` gives it in parts.
fn read_up_to(security: &dyn Security, to: RecordHead) -> Result<Vec<u8>, String> {
    let gone = || format!("the record does not have entry {} as it was", to.number);
    let (mut bytes, mut entries) = (Vec::new(), 0u64);
    let (mut at, mut last) = (0usize, 0usize);
    while entries <= to.number {
        let part = said(security.read_record(entries, MAX_RECORD))?;
        if part.is_empty() {
            return Err(gone());
        }
        bytes.extend(part);
        if bytes.len() as u64 > MAX_RECORD {
            return Err("the record is longer than any joiner takes".into());
        }
        while at < bytes.len() && entries <= to.number {
            let rest = bytes.get(at..).unwrap_or_default();
            let length = rest.first_chunk::<4>().map(|l| u32::from_be_bytes(*l)).ok_or_else(gone)?;
            last = at;
            at = at.saturating_add(4).saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
            entries += 1;
        }
    }
    let page = bytes.get(last..at).ok_or_else(gone)?;
    let page = page::split(page).map_err(|e| e.to_string())?;
    if page.first().map(|last| last.entry.hash()) != Some(to.hash) {
        return Err(gone());
    }
    bytes.truncate(at);
    Ok(bytes)
}

/// What a learned record must be.
pub fn learned(union: UnionId, known: RecordHead, end: RecordHead, from: MemberId) -> LearnRecord {
    LearnRecord { union, known, end, from }
}
