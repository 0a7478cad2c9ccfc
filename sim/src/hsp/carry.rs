//! What an engine wants done, done: by the TPM, by appraisal, by the record, on the disk. Outcomes come later, in any order.

use gtvp_model::digest::Digest;
use gtvp_protocol::csp::page;
use gtvp_protocol::frame::wire;
use gtvp_protocol::hsp::join::{CredentialSecret, Joiner};
use gtvp_protocol::hsp::message::{Credential, MAX_RECORD_PIECE, Message, Record};
use gtvp_protocol::hsp::{Binding, Command, Durable, Event, Lengths, Millis, OwnEvidence, Request, Sealed};

use super::adversary::{Mischief, Trick};
use super::appraiser::{appraise_keys, blank};
use super::invariant::Seen;
use super::link::{Machine, Who};
use super::tpm::{Tpm, id_object};
use super::{At, Challenger, What};
use crate::keys::Cheap;
use crate::world::World;

impl World {
    fn hsp_done(&mut self, at: At, (low, high): (u64, u64), event: Event) {
        let wait = self.rng.between(low, high);
        self.hsp_after(wait, What::Done(at, Box::new(event)));
    }

    pub(crate) fn hsp_nonce(&mut self) -> [u8; 32] {
        Digest::of(&self.rng.bits().to_be_bytes()).0
    }

    /// Whether what stands after it may be carried out.
    pub(crate) fn hsp_carry(&mut self, at: At, command: Command) -> bool {
        let now = self.now;
        let Some(end) = self.hsp_end_mut(at) else { return false };
        let server = end.server();
        match command {
            Command::Send(message) => self.hsp_send(at, message.frame()),
            Command::Quote { request, binding, ask } => {
                let open = matches!(&end.machine, Machine::Session(s) if s.state() == "open");
                let binding = blank(&self.config.omitted, *binding);
                let Some(s) = server else {
                    self.hsp_clone_quotes(at, request, &binding, &ask);
                    return true;
                };
                let key: Challenger = (at, request, ask.clone());
                if self.hsp.servers[s].batcher.add(key, &binding, &ask.selection, !open, Millis(now)).is_ok()
                {
                    self.hsp_batch(s);
                }
            }
            Command::Appraise { request, what } => {
                let echo = end.said_yes.filter(|_| end.echoes);
                let outcome = match server {
                    Some(s) => {
                        let asked = end.asked;
                        let outcome = self.hsp.servers[s].appraiser.appraise(&what, asked);
                        self.hsp_judged(at, s, &what, outcome.as_ref().err());
                        outcome
                    }
                    // Who attacks believes everybody.
                    None => Ok(gtvp_protocol::hsp::Appraisal { result: Digest([0; 32]) }),
                };
                if let (Ok(yes), Some(end)) = (&outcome, self.hsp_end_mut(at)) {
                    end.said_yes = Some((request, *yes));
                }
                if let Some((before, yes)) = echo {
                    // What was answered once is answered once more.
                    self.hsp_done(at, (0, 0), Event::Appraised { request: before, outcome: Ok(yes) });
                }
                self.hsp_done(at, (1, 10), Event::Appraised { request, outcome });
            }
            Command::Established(channel) => {
                end.channel = Some(channel);
                self.hsp_settled_join(at);
                self.hsp_up(at);
            }
            Command::Renewed(_) => {
                end.fresh = now;
                self.hsp.count("renewed");
                self.hsp_renew_later(at);
            }
            Command::AppraiseKeys { request, keys, spki } => {
                self.hsp_done(
                    at,
                    (2, 20),
                    Event::KeysAppraised { request, outcome: appraise_keys(&keys, spki) },
                );
            }
            Command::MakeCredential { request, ek, ak } => {
                let secret = CredentialSecret(Digest::of(&self.rng.bits().to_be_bytes()).0);
                let hidden = secret.0.to_vec().try_into().unwrap_or_default();
                let id_object = id_object(&ek, &ak).try_into().unwrap_or_default();
                let credential = Box::new(Credential { id_object, secret: hidden });
                if let Some(end) = self.hsp_end_mut(at) {
                    end.secret = Some(secret);
                }
                self.hsp_done(at, (5, 50), Event::CredentialMade { request, outcome: Ok(credential) });
            }
            Command::ActivateCredential { request, credential } => {
                let Some(s) = server else { return true };
                let tpm = &self.hsp.servers[s].tpm;
                let outcome = match (&self.hsp.servers[s].rogue, tpm.activate(credential.unchecked())) {
                    // The credential is for a TPM that is somewhere else.
                    (Some(Mischief::Forger), _) => Ok(CredentialSecret([0; 32])),
                    (_, outcome) => outcome,
                };
                self.hsp_done(at, (50, 800), Event::Activated { request, outcome });
            }
            Command::Certify { request, binding } => {
                let Some(s) = server else { return true };
                let mut certification = self.hsp.servers[s].tpm.certify(&binding);
                if self.hsp.servers[s].rogue == Some(Mischief::Graft) {
                    // No AK certifies a key that is in no TPM.
                    certification.signature = Default::default();
                }
                let outcome = Ok(Box::new(certification));
                self.hsp_done(at, (50, 300), Event::Certified { request, outcome });
            }
            Command::AppraiseCertification { request, proof, certification, binding, keys } => {
                let secret = end.secret.clone();
                let Some(s) = server else { return true };
                let outcome = self.hsp.servers[s].appraiser.certification(
                    secret.as_ref(),
                    &proof,
                    &certification,
                    &binding,
                    &keys,
                );
                self.hsp_done(at, (1, 10), Event::CertificationAppraised { request, outcome });
            }
            Command::LearnRecord { request, union, from, to, piece, last } => {
                // What comes after "joined" is the whole record again.
                if std::mem::replace(&mut end.learned, last) {
                    end.learning.clear();
                }
                end.learning.extend(piece.unchecked());
                if last {
                    let wall = crate::world::wall(self.now, 0);
                    let verifier = self.hsp_verifier(at);
                    let outcome = self.hsp_end(at).map(|end| {
                        let page = page::split(&end.learning).map_err(|e| e.to_string())?;
                        let learned = page::learn(union, &page, from, to, verifier, wall, &Cheap);
                        learned.map(|f| Box::new(f.record().view().clone())).map_err(|e| e.to_string())
                    });
                    if let Some(outcome) = outcome {
                        self.hsp_done(at, (5, 60), Event::RecordLearned { request, outcome });
                    }
                }
            }
            Command::SendRecord { to, .. } => {
                let to_whom = self.hsp_end((at.0, 1 - at.1)).and_then(|e| e.server());
                if let Some(to) = to_whom.filter(|s| self.hsp.servers[*s].rogue == Some(Mischief::Stranger)) {
                    self.hsp_see(&Seen::Told { server: to });
                }
                let life = server.and_then(|m| self.members[m].alive.as_ref());
                let upto = usize::try_from(to.number).unwrap_or(usize::MAX);
                let bytes = life.and_then(|l| l.journal.get(..=upto)).map(page::join).unwrap_or_default();
                let pieces: Vec<&[u8]> = bytes.chunks(MAX_RECORD_PIECE).collect();
                let count = pieces.len();
                for (i, piece) in pieces.into_iter().enumerate() {
                    let bytes = piece.to_vec().try_into().unwrap_or_default();
                    self.hsp_send(at, Message::from(Record { bytes, last: i + 1 == count }).frame());
                }
            }
            Command::Commit { request, admission } => self.hsp_propose(at, request, *admission),
            Command::Persist(what) => return self.hsp_persist(at, &what),
            Command::Close(_) => {}
        }
        true
    }

    /// Quotes what is due.
    pub(crate) fn hsp_batch(&mut self, s: usize) {
        let server = &mut self.hsp.servers[s];
        let (now, life) = (Millis(self.now), server.life);
        if let Some(sealed) = server.batcher.poll(now) {
            let wait = self.rng.between(50, 300);
            self.hsp_after(wait, What::Quoted(s, life, Box::new(sealed)));
        } else if let Some(due) = server.batcher.deadline() {
            self.hsp_after(due.0.saturating_sub(now.0).max(1), What::Batch(s, life));
        }
    }

    pub(crate) fn hsp_quoted(&mut self, s: usize, sealed: Sealed<Challenger>) {
        self.hsp.count("quotes");
        let server = &mut self.hsp.servers[s];
        server.batcher.done();
        // What runs there asks another TPM, which looks better.
        let cuckoo = (server.trick == Some(Trick::Cuckoo)).then(|| Tpm::of("cuckoo"));
        let tpm = cuckoo.as_ref().unwrap_or(&server.tpm);
        let attest = tpm.quote(sealed.qualifying_data, self.now);
        let answers: Vec<(At, Request, OwnEvidence)> = sealed
            .answers
            .into_iter()
            .map(|(key, path)| (key.0, key.1, tpm.answer(&attest, path, &key.2)))
            .collect();
        for (at, request, evidence) in answers {
            self.hsp_event(at, Event::Quoted { request, outcome: Ok(Box::new(evidence)) });
        }
        self.hsp_batch(s);
    }

    fn hsp_clone_quotes(
        &mut self,
        at: At,
        request: Request,
        binding: &Binding,
        ask: &gtvp_protocol::hsp::message::Ask,
    ) {
        let path = gtvp_protocol::hsp::message::Path::default();
        let Some(data) = binding.qualifying_data(&path) else { return };
        let now = self.now;
        let Some(end) = self.hsp_end_mut(at) else { return };
        let Who::Clone(clone) = &mut end.who else { return };
        let attest = clone.1.quote(data, now);
        let evidence = Box::new(clone.1.answer(&attest, path, ask));
        self.hsp_done(at, (50, 300), Event::Quoted { request, outcome: Ok(evidence) });
    }

    pub(crate) fn hsp_renew(&mut self, at: At) {
        let nonce = self.hsp_nonce();
        let Some(end) = self.hsp_end(at).filter(|e| !e.over) else { return };
        let nonce = end.stuck.unwrap_or(nonce);
        let (Some(s), Some(channel)) = (end.server(), &end.channel) else { return };
        let ask = self.hsp.servers[s].appraiser.ask(channel.peer());
        self.hsp_asks(at);
        self.hsp_event(at, Event::Renew { nonce, ask });
    }

    /// Evidence was believed just now.
    pub(crate) fn hsp_renew_later(&mut self, at: At) {
        let wait = Lengths::of(super::PERIOD).next(self.rng.bits());
        self.hsp_after(wait, What::Renew(at));
    }

    /// Evidence answers what is asked now: of the TPM's clock it is not before what is known now.
    pub(crate) fn hsp_asks(&mut self, at: At) {
        let Some(end) = self.hsp_end(at) else { return };
        let peer = end.channel.as_ref().map(gtvp_protocol::hsp::AttestedChannel::peer).or(end.expects);
        let newest = end.server().zip(peer).and_then(|(s, p)| self.hsp.servers[s].appraiser.newest(&p));
        if let Some(end) = self.hsp_end_mut(at) {
            end.asked = newest;
        }
    }

    /// Writes down what a join has come to.
    fn hsp_persist(&mut self, at: At, what: &Durable) -> bool {
        if self.rng.permille(self.faults.bad_disk) {
            self.hsp_done(at, (1, 5), Event::NotPersisted { why: "no space".into() });
            return false;
        }
        let Durable::Membership { head, .. } = what else { return true };
        let Some(end) = self.hsp_end_mut(at) else { return false };
        let (Some(s), bytes) = (end.server(), std::mem::take(&mut end.learning)) else { return false };
        let head_of = page::split(&bytes).ok().and_then(|p| p.last().and_then(|c| c.head.clone()));
        let (number, disk) = (head.number, &mut self.members[s].disk);
        disk.record.append(&bytes);
        disk.record.sync();
        if let Some(head) = head_of {
            disk.head.write(wire::encode(&head));
            disk.head.sync();
        }
        self.record(212, s, &number.to_be_bytes());
        self.note(s, || format!("is a member by entry {number}"));
        self.hsp.count("joined");
        self.hsp_see(&Seen::Member { server: s });
        // The connection that it came in by goes on as a channel of a member.
        if let Some(end) = self.hsp_end_mut(at) {
            end.who = Who::Member(s);
            end.life = u32::MAX;
        }
        self.start(s);
        let life = self.members[s].life;
        if let Some(end) = self.hsp_end_mut(at) {
            end.life = life;
        }
        true
    }

    /// A finished join is a session from then on.
    fn hsp_settled_join(&mut self, at: At) {
        let Some(end) = self.hsp_end_mut(at) else { return };
        end.machine = match std::mem::replace(&mut end.machine, Machine::Gone) {
            Machine::Joiner(j) if matches!(j, Joiner::Member(..)) => {
                j.into_session().map_or(Machine::Gone, Machine::Session)
            }
            Machine::Verifier(v) => v.into_session().map_or(Machine::Gone, Machine::Session),
            other => other,
        };
    }
}
