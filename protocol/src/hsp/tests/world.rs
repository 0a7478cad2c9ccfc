//! Members, their TPMs, their appraisal and their record, in a test: signatures are cheap, checks are not left out
//! unless a test says which.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use gtvp_model::digest::Digest;
use gtvp_model::token::{JoinToken, TokenSecret};
use gtvp_model::union::{
    Admission, Epoch, Hardware, Identity, KeyName, MemberId, PlatformIdentity, RecordHead, RosterEntry,
    SpkiDigest, TokenRecord, TpmKind, UnionSettings, UnionView, UnixTime,
};

use crate::frame::Frame;
use crate::hsp::join::{
    CheckedKeys, CredentialSecret, JoinBinding, JoinSetup, Joiner, Verifier, VerifierSetup,
};
use crate::hsp::message::{
    Ask, Bank, Certification, Credential, Held, JoinKeys, LogKind, Message, Path, Pcr, Record,
};
use crate::hsp::{
    Appraisable, Appraisal, AttestedChannel, Binding, Command, Context, Durable, Event, Expect, LogDelta,
    Millis, OwnEvidence, Refusal, Rejection, RejectionKind, Request, Role, Session, Setup, Step, Timing,
};
use crate::{Check, Untrusted, without_all};

/// What one member's appraisal, or both ends' binding, can be made to leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guard {
    /// A check of the engines.
    Engine(Check),
    /// A field of the binding.
    Field(Field),
    /// A check of appraisal.
    Appraisal(Part),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    Union,
    Epoch,
    Role,
    Attester,
    Challenger,
    Exporter,
    Nonce,
    AttesterTls,
    ChallengerTls,
    Transcript,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The AK is that of the roster.
    Ak,
    /// The TPM was not reset, its clock went on.
    Clock,
    /// Logs replay to PCRs.
    Replay,
    /// PCRs are those of the quote.
    Pcrs,
    /// Entries are known.
    Reference,
}

/// The guards that a run leaves out.
#[derive(Debug, Clone, Default)]
pub struct Lab {
    out: BTreeSet<Guard>,
}

impl Lab {
    pub fn without(guards: &[Guard]) -> Self {
        Self { out: guards.iter().copied().collect() }
    }

    fn lacks(&self, part: Part) -> bool {
        self.out.contains(&Guard::Appraisal(part))
    }

    pub fn checks(&self) -> Vec<Check> {
        let check = |g: &Guard| if let Guard::Engine(c) = g { Some(*c) } else { None };
        self.out.iter().filter_map(check).collect()
    }

    /// The binding as a protocol without those fields would have it.
    fn blank(&self, mut b: Binding) -> Binding {
        for guard in &self.out {
            match guard {
                Guard::Field(Field::Union) => b.union = [0; 32].into(),
                Guard::Field(Field::Epoch) => b.epoch = Epoch(0),
                Guard::Field(Field::Role) => b.role = Role::Initiator,
                Guard::Field(Field::Attester) => b.attester = [0; 32].into(),
                Guard::Field(Field::Challenger) => b.challenger = [0; 32].into(),
                Guard::Field(Field::Exporter) => b.exporter = [0; 32],
                Guard::Field(Field::Nonce) => b.nonce = [0; 32],
                Guard::Field(Field::AttesterTls) => b.attester_tls.clear(),
                Guard::Field(Field::ChallengerTls) => b.challenger_tls.clear(),
                Guard::Field(Field::Transcript) => b.transcript = Digest([0; 32]),
                Guard::Engine(_) | Guard::Appraisal(_) => {}
            }
        }
        b
    }
}

pub const PCR: u8 = 14;
pub const SHA256: u16 = 0x000B;
/// Log entries that reference values know begin with this.
pub const GOOD: &str = "good:";

/// A TPM. Whoever has its public areas could sign: nobody in these tests does.
#[derive(Debug, Clone)]
pub struct Tpm {
    pub ek: Vec<u8>,
    pub ak: Vec<u8>,
    pub tls: Vec<u8>,
    pub log: Vec<String>,
    pub pcr: Digest,
    pub resets: u32,
    pub clock: u64,
    pub quotes: usize,
}

fn sign(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    Digest::of(&[key, b"|", bytes].concat()).0.to_vec()
}

fn extend(pcr: Digest, entry: &str) -> Digest {
    Digest::of(&[&pcr.0[..], entry.as_bytes()].concat())
}

pub fn log_bytes(entries: &[String]) -> Vec<u8> {
    entries.iter().flat_map(|e| format!("{e}\n").into_bytes()).collect()
}

impl Tpm {
    pub fn new(name: &str) -> Self {
        let key = |what: &str| format!("{what} of {name}").into_bytes();
        let pcr = Digest([0; 32]);
        let (ek, ak, tls) = (key("EK"), key("AK restricted"), key("TLS"));
        let mut tpm = Self { ek, ak, tls, log: vec![], pcr, resets: 1, clock: 0, quotes: 0 };
        tpm.extend("good:start");
        tpm
    }

    pub fn extend(&mut self, entry: &str) {
        self.pcr = extend(self.pcr, entry);
        self.log.push(entry.to_owned());
    }

    /// An extend that nobody logs.
    pub fn extend_unlogged(&mut self, entry: &str) {
        self.pcr = extend(self.pcr, entry);
    }

    pub fn reset(&mut self) {
        *self = Self { pcr: Digest([0; 32]), log: vec![], resets: self.resets + 1, clock: 0, ..self.clone() };
    }

    pub fn spki(&self) -> SpkiDigest {
        SpkiDigest::new(Digest::of(&self.tls))
    }

    pub fn identity(&self) -> Identity {
        Identity::Tpm {
            kind: TpmKind::Hardware(Default::default()),
            ek: Digest::of(&self.ek).0.into(),
            ak: KeyName::sha256(&self.ak),
            tls: KeyName::sha256(&self.tls),
            spki: self.spki(),
        }
    }

    pub fn keys(&self) -> JoinKeys {
        let bytes = |b: &[u8]| b.to_vec();
        JoinKeys {
            ek_certificate: bytes(b"certificate").try_into().unwrap(),
            ek: bytes(&self.ek).try_into().unwrap(),
            ak: bytes(&self.ak).try_into().unwrap(),
            tls: bytes(&self.tls).try_into().unwrap(),
        }
    }

    /// qualifyingData ‖ resets ‖ clock ‖ PCR.
    pub fn quote(&mut self, binding: &Binding, ask: &Ask) -> OwnEvidence {
        let path = Path::default();
        let data = binding.qualifying_data(&path).unwrap();
        self.quote_over(data, path, ask)
    }

    /// A quote over a root, with the way from one leaf to it.
    pub fn quote_over(&mut self, data: Digest, path: Path, ask: &Ask) -> OwnEvidence {
        self.quotes += 1;
        self.clock += 1;
        let mut attest = data.0.to_vec();
        attest.extend(self.resets.to_be_bytes());
        attest.extend(self.clock.to_be_bytes());
        attest.extend(self.pcr.0);
        let bytes = log_bytes(&self.log);
        let held = ask.held.as_slice().iter().find(|h| h.log == LogKind::Own);
        let held = held.map(|h| h.bytes as usize);
        let from = held.filter(|n| *n <= bytes.len()).unwrap_or(0);
        let pcr = |b: &Bank| Pcr {
            algorithm: b.algorithm,
            index: PCR,
            value: self.pcr.0.to_vec().try_into().unwrap(),
        };
        OwnEvidence {
            ak: self.ak.clone(),
            signature: sign(&self.ak, &attest),
            attest,
            pcrs: ask.selection.as_slice().iter().map(pcr).collect(),
            path,
            logs: vec![LogDelta { log: LogKind::Own, from: from as u64, bytes: bytes[from..].to_vec() }],
        }
    }

    fn certify(&self, binding: &JoinBinding) -> Certification {
        let attest = [&binding.certify_data().0[..], KeyName::sha256(&self.tls).as_bytes()].concat();
        let signature = sign(&self.ak, &attest).try_into().unwrap();
        Certification { attest: attest.try_into().unwrap(), signature }
    }

    fn activate(&self, credential: &Credential) -> Result<CredentialSecret, String> {
        let mine = [&self.ek[..], KeyName::sha256(&self.ak).as_bytes()].concat();
        if credential.id_object.as_slice() != Digest::of(&mine).0 {
            return Err("TPM_RC_INTEGRITY".into());
        }
        Ok(CredentialSecret(credential.secret.as_slice().try_into().unwrap()))
    }
}

fn reject<T>(kind: RejectionKind, why: &str) -> Result<T, Rejection> {
    Err(Rejection { kind, why: why.to_owned() })
}

/// One member's appraisal, with what it remembers.
#[derive(Debug, Clone, Default)]
pub struct Appraiser {
    seen: BTreeMap<MemberId, (u32, u64)>,
    held: BTreeMap<MemberId, Vec<u8>>,
    pub appraised: usize,
}

impl Appraiser {
    pub fn appraise(&mut self, lab: &Lab, what: &Appraisable) -> Result<Appraisal, Rejection> {
        self.appraised += 1;
        let evidence = what.evidence.unchecked();
        let attest = evidence.attest.as_slice();
        let Identity::Tpm { ak, .. } = &what.of.identity else {
            return reject(RejectionKind::Signature, "no AK");
        };
        let signer = evidence.ak.as_slice();
        if KeyName::sha256(signer) != *ak && !lab.lacks(Part::Ak) {
            return reject(RejectionKind::Signature, "another AK than the roster has");
        }
        if evidence.signature.as_slice() != sign(signer, attest) {
            return reject(RejectionKind::Signature, "not signed by that AK");
        }
        if attest.len() != 76 {
            return reject(RejectionKind::Malformed, "not a quote");
        }
        let want = lab.blank(what.binding.clone()).qualifying_data(&evidence.path);
        if want.map(|d| d.0.to_vec()).as_deref() != Some(&attest[..32]) {
            return reject(RejectionKind::BoundElsewhere, "bound elsewhere");
        }
        let resets = u32::from_be_bytes(attest[32..36].try_into().unwrap());
        let clock = u64::from_be_bytes(attest[36..44].try_into().unwrap());
        let id = what.of.id();
        if let Some((r, c)) = self.seen.get(&id)
            && (*r != resets || clock < *c)
            && !lab.lacks(Part::Clock)
        {
            return reject(RejectionKind::TpmReset, "the TPM was reset");
        }
        if !lab.lacks(Part::Pcrs)
            && evidence.pcrs.as_slice().iter().any(|p| p.value.as_slice() != &attest[44..])
        {
            return reject(RejectionKind::Pcrs, "other PCRs than were quoted");
        }
        let mut log = Vec::new();
        for delta in what.logs.iter().filter(|d| d.log == LogKind::Own) {
            let held = self.held.get(&id).map_or(&[][..], |h| h.as_slice());
            log = held.get(..delta.from as usize).unwrap_or_default().to_vec();
            log.extend(&delta.bytes);
        }
        let Ok(text) = std::str::from_utf8(&log) else { return reject(RejectionKind::Malformed, "no text") };
        let replayed = text.lines().fold(Digest([0; 32]), extend);
        let given = evidence.pcrs.as_slice().iter().find(|p| p.algorithm == SHA256 && p.index == PCR);
        if let Some(pcr) = given
            && pcr.value.as_slice() != replayed.0
            && !lab.lacks(Part::Replay)
        {
            return reject(RejectionKind::Replay, "the log does not replay");
        }
        if given.is_some()
            && !lab.lacks(Part::Reference)
            && let Some(bad) = text.lines().find(|l| !l.starts_with(GOOD))
        {
            return reject(RejectionKind::Reference, bad);
        }
        self.seen.insert(id, (resets, clock));
        self.held.insert(id, log);
        Ok(Appraisal { result: Digest::of(attest) })
    }

    pub fn held(&self, id: MemberId) -> Option<Held> {
        let log = self.held.get(&id)?;
        Some(Held { log: LogKind::Own, bytes: log.len() as u64, digest: Digest::of(log) })
    }
}

/// The record: a chain of payloads, and the union at each head.
#[derive(Debug, Clone)]
pub struct Ledger {
    pub view: UnionView,
    payloads: Vec<Digest>,
    heads: Vec<RecordHead>,
    at: Vec<UnionView>,
    pub refuses: Option<String>,
    /// Says that it has taken an entry, and has not.
    pub lies: bool,
}

fn chain(head: RecordHead, payload: Digest) -> RecordHead {
    RecordHead { number: head.number + 1, hash: Digest::of(&[head.hash.0, payload.0].concat()) }
}

impl Ledger {
    pub fn new(union: u8, members: &[RosterEntry], settings: UnionSettings) -> Self {
        let head = RecordHead { number: 0, hash: Digest([union; 32]) };
        let members = members.iter().map(|m| (m.id(), m.clone())).collect();
        let view = UnionView {
            union: [union; 32].into(),
            epoch: Epoch(1),
            head,
            head_time: UnixTime(1_000_000),
            settings,
            members,
            tokens: BTreeMap::new(),
            boxes: BTreeMap::new(),
        };
        Self { at: vec![view.clone()], view, payloads: vec![], heads: vec![head], refuses: None, lies: false }
    }

    pub fn change(&mut self, change: impl FnOnce(&mut UnionView)) {
        change(&mut self.view);
        let payload = Digest::of(format!("{:?}", self.view).as_bytes());
        self.view.head = chain(self.view.head, payload);
        self.payloads.push(payload);
        self.heads.push(self.view.head);
        self.at.push(self.view.clone());
    }

    pub fn token(&mut self, secret: u8, change: impl FnOnce(&mut TokenRecord)) -> JoinToken {
        let secret = TokenSecret::new([secret; 16]);
        let mut record = TokenRecord {
            key: secret.key(),
            expires: UnixTime(2_000_000),
            ek: None,
            platform_identity: PlatformIdentity::default(),
            used_by: None,
        };
        change(&mut record);
        let token = JoinToken {
            union: self.view.union,
            head: self.view.head,
            endpoint: "192.0.2.1:7600".parse().unwrap(),
            expires: record.expires,
            ek: record.ek,
            secret,
        };
        self.change(|v| {
            v.tokens.insert(record.key.id(), record);
        });
        token
    }

    /// What a record does with an admission; a naive one takes all of them.
    fn commit(&mut self, admission: &Admission) -> Result<RecordHead, String> {
        if let Some(why) = self.refuses.clone() {
            return Err(why);
        }
        if self.lies {
            return Ok(self.view.head);
        }
        let Admission { member, token, .. } = admission.clone();
        self.change(|v| {
            v.members.insert(member.id(), member.clone());
            if let Some(t) = v.tokens.get_mut(&token) {
                t.used_by = Some(member.id());
            }
        });
        Ok(self.view.head)
    }

    fn pieces(&self, from: u64, to: RecordHead) -> Vec<Message> {
        let payloads = &self.payloads[from.min(to.number) as usize..to.number as usize];
        let bytes: Vec<u8> = payloads.iter().flat_map(|p| p.0).collect();
        let mut pieces: Vec<_> = bytes.chunks(64).map(<[u8]>::to_vec).collect();
        if pieces.is_empty() {
            pieces.push(vec![]);
        }
        let n = pieces.len();
        let record =
            |(i, piece): (usize, Vec<u8>)| Record { bytes: piece.try_into().unwrap(), last: i + 1 == n };
        pieces.into_iter().enumerate().map(record).map(Message::from).collect()
    }

    fn learn(&self, from: RecordHead, to: RecordHead, bytes: &[u8]) -> Result<UnionView, String> {
        let payloads = bytes.chunks_exact(32).map(|p| Digest(p.try_into().unwrap()));
        let head = payloads.fold(from, chain);
        let known = self.heads.iter().position(|h| *h == head);
        match known {
            Some(at) if head == to => Ok(self.at[at].clone()),
            _ => Err(format!("entry {} is not what was said", to.number)),
        }
    }
}

/// What a node runs.
#[derive(Debug)]
pub enum Machine {
    Session(Session),
    Joiner(Joiner),
    Verifier(Verifier),
    Gone,
}

impl Machine {
    pub fn state(&self) -> &'static str {
        match self {
            Self::Session(s) => s.state(),
            Self::Joiner(s) => s.state(),
            Self::Verifier(s) => s.state(),
            Self::Gone => "gone",
        }
    }

    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Session(Session::Closed(r))
            | Self::Joiner(Joiner::Closed(r))
            | Self::Verifier(Verifier::Closed(r)) => Some(r),
            _ => None,
        }
    }
}

/// One end of a connection, with its member's TPM and appraisal.
#[derive(Debug)]
pub struct Node {
    pub machine: Machine,
    pub tpm: Tpm,
    pub appraiser: Appraiser,
    pub ledger: Ledger,
    pub now: Millis,
    pub wall: UnixTime,
    pub channel: Option<AttestedChannel>,
    pub renewed: usize,
    pub durable: Vec<Durable>,
    pub committed: Vec<Admission>,
    pub outbox: VecDeque<Frame>,
    pub sent: Vec<Frame>,
    pub outcomes: VecDeque<Event>,
    /// Outcomes wait until they are asked for.
    pub slow: bool,
    /// Quotes wait to be made together.
    pub holds_quotes: bool,
    pub held_quotes: Vec<(Request, Binding, Ask)>,
    /// This node, an attacker's, makes up what its TPM would not give.
    pub forges: bool,
    /// Checks that this node, an attacker's, does not make.
    pub own_way: Vec<Check>,
    pub learning: Vec<u8>,
    /// Of the credential that was made.
    pub secret: Option<CredentialSecret>,
    pub commands: Vec<String>,
    /// Every event so far: what the machine is a function of.
    pub history: Vec<Event>,
}

pub fn hardware() -> Hardware {
    Hardware::new(4, 8192, "Test").unwrap()
}

pub fn entry(name: &str, tpm: &Tpm) -> RosterEntry {
    RosterEntry::new(name.parse().unwrap(), tpm.identity(), PlatformIdentity::default(), hardware())
}

pub fn bare(name: &str) -> RosterEntry {
    let identity = Identity::Bare { spki: SpkiDigest::new(Digest::of(name.as_bytes())) };
    RosterEntry::new(name.parse().unwrap(), identity, PlatformIdentity::default(), hardware())
}

pub fn ask() -> Ask {
    let banks = vec![Bank { algorithm: SHA256, pcrs: 1 << PCR }];
    Ask { selection: banks.try_into().unwrap(), held: Default::default() }
}

pub fn setup(role: Role, own: &RosterEntry, exporter: u8, peer_spki: SpkiDigest, expect: Expect) -> Setup {
    let timing = Timing::default();
    let (own, exporter) = (own.clone(), [exporter; 32]);
    let first = role == Role::Initiator;
    Setup { role, first, own, admitted: true, exporter, peer_spki, ask: ask(), expect, timing }
}

impl Node {
    fn new(machine: Machine, tpm: &Tpm, ledger: &Ledger) -> Self {
        Self {
            machine,
            tpm: tpm.clone(),
            appraiser: Appraiser::default(),
            ledger: ledger.clone(),
            now: Millis(0),
            wall: UnixTime(1_000_000),
            channel: None,
            renewed: 0,
            durable: vec![],
            committed: vec![],
            outbox: VecDeque::new(),
            sent: vec![],
            outcomes: VecDeque::new(),
            slow: false,
            holds_quotes: false,
            held_quotes: vec![],
            forges: false,
            own_way: vec![],
            learning: vec![],
            secret: None,
            commands: vec![],
            history: vec![],
        }
    }

    pub fn session(lab: &Lab, tpm: &Tpm, ledger: &Ledger, setup: Setup, nonce: u8) -> Self {
        let mut node = Self::new(Machine::Gone, tpm, ledger);
        let ctx = Context { now: node.now, wall: node.wall, view: &ledger.view };
        let step = Session::start(setup, [nonce; 32], &ctx);
        node.take(lab, step.map(Machine::Session));
        node
    }

    pub fn joiner(lab: &Lab, tpm: &Tpm, ledger: &Ledger, setup: JoinSetup) -> Self {
        let mut node = Self::new(Machine::Gone, tpm, ledger);
        match Joiner::start(setup, node.now) {
            Ok(step) => node.take(lab, step.map(Machine::Joiner)),
            Err(refusal) => node.machine = Machine::Joiner(Joiner::Closed(refusal)),
        }
        node
    }

    pub fn verifier(tpm: &Tpm, ledger: &Ledger, setup: VerifierSetup) -> Self {
        Self::hostile_verifier(tpm, ledger, setup, &[])
    }

    /// One that does not make those checks of its own.
    pub fn hostile_verifier(tpm: &Tpm, ledger: &Ledger, setup: VerifierSetup, own_way: &[Check]) -> Self {
        let verifier = without_all(own_way, || Verifier::start(setup, Millis(0)).unwrap());
        let mut node = Self::new(Machine::Verifier(verifier), tpm, ledger);
        node.own_way = own_way.to_vec();
        node
    }

    pub fn refusal(&self) -> Option<&Refusal> {
        self.machine.refusal()
    }

    /// What other end's messages, time and the runtime make of the machine.
    pub fn on(&mut self, lab: &Lab, event: Event) {
        self.history.push(event.clone());
        let machine = std::mem::replace(&mut self.machine, Machine::Gone);
        let ctx = Context { now: self.now, wall: self.wall, view: &self.ledger.view };
        let mut out = lab.checks();
        out.extend(&self.own_way);
        let step = without_all(&out, || match machine {
            Machine::Session(s) => s.on(event, &ctx).map(Machine::Session),
            Machine::Joiner(s) => s.on(event, ctx.now).map(Machine::Joiner),
            Machine::Verifier(s) => s.on(event, &ctx).map(Machine::Verifier),
            Machine::Gone => Step::stay(Machine::Gone),
        });
        self.take(lab, step);
    }

    fn take(&mut self, lab: &Lab, step: Step<Machine>) {
        self.machine = step.next;
        for command in step.commands {
            let name = format!("{command:?}");
            self.commands.push(name.split([' ', '(', '{']).next().unwrap_or_default().to_owned());
            if let Some(event) = self.carry_out(lab, command) {
                self.outcomes.push_back(event);
            }
        }
        while let Some(event) = (!self.slow).then(|| self.outcomes.pop_front()).flatten() {
            self.on(lab, event);
        }
    }

    fn send(&mut self, message: &Message) {
        self.outbox.push_back(message.frame());
        self.sent.push(message.frame());
    }

    fn carry_out(&mut self, lab: &Lab, command: Command) -> Option<Event> {
        match command {
            Command::Send(message) => self.send(&message),
            Command::Quote { request, binding, ask } if self.holds_quotes => {
                self.held_quotes.push((request, *binding, ask));
            }
            Command::Quote { request, binding, ask } => {
                let evidence = self.tpm.quote(&lab.blank(*binding), &ask);
                return Some(Event::Quoted { request, outcome: Ok(Box::new(evidence)) });
            }
            Command::Appraise { request, what } => {
                return Some(Event::Appraised { request, outcome: self.appraiser.appraise(lab, &what) });
            }
            Command::Established(channel) => self.channel = Some(channel),
            Command::Renewed(_) => self.renewed += 1,
            Command::AppraiseKeys { request, keys, spki } => {
                return Some(Event::KeysAppraised { request, outcome: appraise_keys(&keys, spki) });
            }
            Command::MakeCredential { request, ek, ak } => {
                let id_object = Digest::of(&[&ek[..], ak.as_bytes()].concat()).0.to_vec();
                let secret = CredentialSecret([77; 32]);
                let hidden = secret.0.to_vec().try_into().unwrap();
                let credential = Credential { id_object: id_object.try_into().unwrap(), secret: hidden };
                self.secret = Some(secret);
                return Some(Event::CredentialMade { request, outcome: Ok(Box::new(credential)) });
            }
            Command::ActivateCredential { request, credential } => {
                let outcome = self.tpm.activate(credential.unchecked());
                let outcome = if self.forges { Ok(CredentialSecret([0; 32])) } else { outcome };
                return Some(Event::Activated { request, outcome });
            }
            Command::Certify { request, binding } => {
                let outcome = Ok(Box::new(self.tpm.certify(&binding)));
                return Some(Event::Certified { request, outcome });
            }
            Command::AppraiseCertification { request, proof, certification, binding, keys } => {
                let opened = self.secret.as_ref().is_some_and(|s| binding.is_proved(s, &keys, &proof));
                // The secret is appraisal's, and so is this check of it.
                let outcome = match opened || lab.out.contains(&Guard::Engine(Check::Credential)) {
                    false => reject(RejectionKind::Credential, "the credential was not opened"),
                    true => appraise_certification(&certification, &binding, &keys),
                };
                return Some(Event::CertificationAppraised { request, outcome });
            }
            Command::LearnRecord { request, from, to, piece, last, .. } => {
                self.learning.extend(piece.unchecked());
                if last {
                    let bytes = std::mem::take(&mut self.learning);
                    let outcome = self.ledger.learn(from, to, &bytes).map(Box::new);
                    return Some(Event::RecordLearned { request, outcome });
                }
            }
            Command::SendRecord { from, to } => {
                for piece in self.ledger.pieces(from, to) {
                    self.send(&piece);
                }
            }
            Command::Commit { request, admission } => {
                let outcome = self.ledger.commit(&admission);
                if outcome.is_ok() {
                    self.committed.push(*admission);
                }
                return Some(Event::Committed { request, outcome });
            }
            Command::Persist(durable) => self.durable.push(durable),
            Command::Close(_) => self.channel = None,
        }
        None
    }

    pub fn is_member(&self) -> bool {
        self.durable.iter().any(|d| matches!(d, Durable::Membership { .. }))
    }
}

fn appraise_keys(keys: &Untrusted<JoinKeys>, spki: SpkiDigest) -> Result<Box<CheckedKeys>, Rejection> {
    let JoinKeys { ek_certificate, ek, ak, tls } = keys.unchecked().clone();
    let restricted = ak.as_slice().windows(10).any(|w| w == b"restricted");
    if !restricted || SpkiDigest::new(Digest::of(tls.as_slice())) != spki {
        return reject(RejectionKind::Keys, "the AK is not restricted, or TLS shows another key");
    }
    let kind = if ek_certificate.as_slice().is_empty() {
        TpmKind::Software
    } else {
        TpmKind::Hardware(Default::default())
    };
    let (ak_name, tls_name) = (KeyName::sha256(ak.as_slice()), KeyName::sha256(tls.as_slice()));
    let ek_digest = Digest::of(ek.as_slice()).0.into();
    let (ek_public, ak_public) = (ek.into_vec(), ak.into_vec());
    Ok(Box::new(CheckedKeys { kind, ek: ek_digest, ek_public, ak: ak_name, ak_public, tls: tls_name, spki }))
}

fn appraise_certification(
    certification: &Untrusted<Certification>,
    binding: &JoinBinding,
    keys: &CheckedKeys,
) -> Result<(), Rejection> {
    let c = certification.unchecked();
    let want = [&binding.certify_data().0[..], keys.tls.as_bytes()].concat();
    if c.attest.as_slice() != want || c.signature.as_slice() != sign(&keys.ak_public, &want) {
        return reject(
            RejectionKind::Signature,
            "the certification is not of this AK, this TLS key and this join",
        );
    }
    Ok(())
}

/// What happens to a message on its way: what comes out instead.
pub type Way<'w> = &'w mut dyn FnMut(bool, Frame) -> Vec<Frame>;

/// Carries messages between two ends until none is left. `true` is from `a` to `b`.
pub fn carry(lab: &Lab, a: &mut Node, b: &mut Node, way: Way<'_>) {
    loop {
        let (from_a, frame) = match (a.outbox.pop_front(), b.outbox.is_empty()) {
            (Some(frame), _) => (true, frame),
            (None, false) => (false, b.outbox.pop_front().unwrap()),
            (None, true) => return,
        };
        for frame in way(from_a, frame) {
            let (to, other) = if from_a { (&mut *b, &*a) } else { (&mut *a, &*b) };
            if matches!(to.machine, Machine::Joiner(_)) {
                // A joiner knows nothing of the union but how its record is checked.
                to.ledger = other.ledger.clone();
            }
            to.on(lab, Event::Frame(frame));
        }
    }
}

/// As it is.
pub fn straight(lab: &Lab, a: &mut Node, b: &mut Node) {
    carry(lab, a, b, &mut |_, frame| vec![frame]);
}

/// Two members, their TPMs, and the union that has both.
pub struct Pair {
    pub a: Tpm,
    pub b: Tpm,
    pub ledger: Ledger,
}

pub fn pair() -> Pair {
    let (a, b) = (Tpm::new("alpha"), Tpm::new("beta"));
    let members = [entry("alpha", &a), entry("beta", &b)];
    let ledger = Ledger::new(1, &members, UnionSettings::default());
    Pair { a, b, ledger }
}

impl Pair {
    pub fn alpha(&self) -> RosterEntry {
        entry("alpha", &self.a)
    }

    pub fn beta(&self) -> RosterEntry {
        entry("beta", &self.b)
    }

    /// Alpha, who dialled beta.
    pub fn dialling(&self, lab: &Lab, exporter: u8, nonce: u8) -> Node {
        let expect = Expect::Dialled(self.beta().id());
        let setup = setup(Role::Initiator, &self.alpha(), exporter, self.b.spki(), expect);
        Node::session(lab, &self.a, &self.ledger, setup, nonce)
    }

    /// Beta, who was called, by a connection that showed alpha's TLS key.
    pub fn called(&self, lab: &Lab, exporter: u8, nonce: u8) -> Node {
        let setup = setup(Role::Responder, &self.beta(), exporter, self.a.spki(), Expect::Member);
        Node::session(lab, &self.b, &self.ledger, setup, nonce)
    }
}

pub fn join_setup(tpm: &Tpm, token: &JoinToken, name: &str, exporter: u8, peer: &Tpm) -> JoinSetup {
    JoinSetup {
        token: token.clone(),
        name: name.parse().unwrap(),
        hardware: hardware(),
        keys: Some(tpm.keys()),
        identity: tpm.identity(),
        exporter: [exporter; 32],
        peer_spki: peer.spki(),
        ask: ask(),
        timing: Timing::default(),
        nonce: [11; 32],
        session_nonce: [12; 32],
    }
}

pub fn verifier_setup(own: &RosterEntry, exporter: u8, peer_spki: SpkiDigest) -> VerifierSetup {
    VerifierSetup {
        own: own.clone(),
        exporter: [exporter; 32],
        peer_spki,
        ask: ask(),
        timing: Timing::default(),
        nonce: [21; 32],
        session_nonce: [22; 32],
    }
}

/// A server that joins, and the member that it asks: both ends of one connection.
pub fn enrolment(
    lab: &Lab,
    ledger: &Ledger,
    own: &Tpm,
    tpm: &Tpm,
    token: &JoinToken,
    exporter: u8,
) -> (Node, Node) {
    let joiner = Node::joiner(lab, tpm, ledger, join_setup(tpm, token, "gamma", exporter, own));
    let verifier = Node::verifier(own, ledger, verifier_setup(&entry("alpha", own), exporter, tpm.spki()));
    (joiner, verifier)
}
