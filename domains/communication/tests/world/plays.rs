//! The calls of a `security` that is played.

use std::sync::atomic::Ordering;
use std::time::Duration;

use data_encoding::HEXLOWER;
use gtvp_communication::security::{Checked, Security};
use gtvp_ipc::security::*;
use gtvp_model::digest::Digest;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::union::{KeyName, MemberId, TpmKind, UnionView};
use gtvp_protocol::csp::page;
use gtvp_protocol::csp::{Act, Offer, SignedEntry};
use gtvp_protocol::hsp::join::{CheckedKeys, CredentialSecret};
use gtvp_protocol::hsp::message::{Ask, Bank, Certification, Credential, Held, JoinKeys, LogKind, Pcr};
use gtvp_protocol::hsp::{Appraisal, Batcher, Durable, Lengths, Millis, Rejection, RejectionKind};

use super::{P256, Player, extended, now};

const SHA256: u16 = 0x000B;

fn fault(why: &str) -> Fault {
    Fault::new(FaultKind::Internal, why)
}

fn reject<T>(kind: RejectionKind, why: &str) -> Checked<T> {
    Ok(Err(Rejection { kind, why: why.to_owned() }))
}

fn tag(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    Digest::of(&[key, b"|", bytes].concat()).0.to_vec()
}

impl Player {
    fn log_bytes(&self) -> Vec<u8> {
        self.log.lock().unwrap().iter().flat_map(|l| format!("{l}\n").into_bytes()).collect()
    }
}

impl Security for Player {
    fn watch_union(&self, changed: &mut dyn FnMut(Option<OwnUnion>)) -> Fault {
        let mut last = None;
        loop {
            let (union, version) = self.union();
            if last != Some(version) {
                changed(union);
                last = Some(version);
            }
            let ledger = self.world.ledger();
            if last == Some(ledger.version) {
                let _ = self.world.changed.wait_timeout(ledger, Duration::from_millis(500));
            }
        }
    }

    fn own_keys(&self) -> Result<OwnKeysReply, Fault> {
        let bytes = |b: &[u8]| b.to_vec();
        let keys = JoinKeys {
            ek_certificate: bytes(b"certificate").try_into().unwrap(),
            ek: bytes(&self.keys.ek).try_into().unwrap(),
            ak: bytes(&self.keys.ak).try_into().unwrap(),
            tls: bytes(&self.keys.spki).try_into().unwrap(),
        };
        let spki = self.keys.spki.clone();
        Ok(OwnKeysReply { keys: Some(keys), identity: self.keys.identity(), spki })
    }

    fn sign_tls(&self, what: &SignTls) -> Result<TlsSignature, Fault> {
        let context: &[u8] = match what.role {
            TlsRole::Server => b"TLS 1.3, server CertificateVerify\0",
            TlsRole::Client => b"TLS 1.3, client CertificateVerify\0",
        };
        let hash = HEXLOWER.decode(what.transcript.as_bytes()).unwrap();
        let content = [&[0x20; 64], context, &hash].concat();
        Ok(TlsSignature { value: HEXLOWER.encode(&self.keys.sign(&content)) })
    }

    fn quote(&self, what: &Quote) -> Result<(Quoted, Vec<u8>), Fault> {
        while self.hangs.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.quotes.fetch_add(1, Ordering::SeqCst);
        let mut batcher = Batcher::new(Lengths { period: 0, window: 0 });
        for (i, c) in what.challenges.iter().enumerate() {
            batcher.add(i, &c.binding, &what.selection, true, Millis(0)).unwrap();
        }
        let sealed = batcher.poll(Millis(0)).unwrap();
        let (log, pcr) = (self.log_bytes(), *self.pcr.lock().unwrap());
        let attest = [sealed.qualifying_data.0, pcr.0].concat();
        let begins = |c: &Challenged| {
            let held = c.held.as_slice().iter().find(|h| h.log == LogKind::Own);
            held.map_or(0, |h| h.bytes).min(log.len() as u64)
        };
        let least = what.challenges.iter().map(begins).min().unwrap();
        let answers = sealed
            .answers
            .into_iter()
            .map(|(i, path)| QuoteAnswer { path, from: vec![begins(&what.challenges[i])] });
        let rest = log[usize::try_from(least).unwrap()..].to_vec();
        let value = pcr.0.to_vec().try_into().unwrap();
        let quoted = Quoted {
            signature: tag(&self.keys.ak, &attest),
            attest,
            pcrs: vec![Pcr { algorithm: SHA256, index: 14, value }],
            ak: self.keys.ak.clone(),
            logs: vec![LogSpan { log: LogKind::Own, from: least, length: rest.len() as u64 }],
            answers: answers.collect(),
        };
        Ok((quoted, rest))
    }

    fn ask_of(&self, member: MemberId) -> Result<Asking, Fault> {
        let held = self.held.lock().unwrap();
        let held = held.get(&member).map(|log| Held {
            log: LogKind::Own,
            bytes: log.len() as u64,
            digest: Digest::of(log),
        });
        let ask = Ask {
            selection: vec![Bank { algorithm: SHA256, pcrs: 1 << 14 }].try_into().unwrap(),
            held: held.into_iter().collect::<Vec<_>>().try_into().unwrap(),
        };
        Ok(Asking { nonce: gtvp_communication::clock::random().unwrap(), ask })
    }

    fn due(&self, member: MemberId) -> Result<DueReply, Fault> {
        match self.rests.load(Ordering::SeqCst) {
            0 => self.ask_of(member).map(DueReply::Ask),
            ms => Ok(DueReply::Rest(ms)),
        }
    }

    fn watch_results(&self, new: &mut dyn FnMut(OwnResult)) -> Fault {
        let mut told = 0;
        loop {
            let all = self.results.lock().unwrap().clone();
            all.iter().skip(told).cloned().for_each(&mut *new);
            told = all.len();
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn hear_result(&self, what: &HearResult) -> Result<Result<HeardResult, String>, Fault> {
        self.heard.lock().unwrap().push((what.from, what.ak.clone(), what.result.clone()));
        // A played result begins with whom it is about; a real one has been checked by then.
        let of = what.result.first_chunk::<32>().map_or_else(|| what.from, |b| (*b).into());
        let issued = what.result.get(32..40).and_then(|b| b.first_chunk::<8>());
        let issued = issued.map_or(0, |b| u64::from_be_bytes(*b));
        Ok(match what.ak.as_slice() == b"forged" {
            true => Err("forged".into()),
            false => Ok(HeardResult { of, issued, expires: issued + 60 }),
        })
    }

    fn hear_standing(&self, what: &HearStanding) -> Result<(), Fault> {
        self.standing.lock().unwrap().insert(what.from, what.standing);
        Ok(())
    }

    fn hear_status(&self, entry: Box<gtvp_protocol::gossip::Entry>) -> Result<StatusHeard, Fault> {
        let good = entry.signature.as_slice() == b"good";
        if good {
            self.statuses.lock().unwrap().push(*entry);
        }
        Ok(if good { StatusHeard::Good } else { StatusHeard::Forged })
    }

    fn appraise_evidence(&self, what: &AppraiseEvidence, logs: &[u8]) -> Checked<Appraisal> {
        self.appraised.fetch_add(1, Ordering::SeqCst);
        if self.blind.lock().unwrap().contains(&what.of.id()) {
            return reject(RejectionKind::Unknown, "it cannot be told");
        }
        let evidence = &what.evidence;
        let (attest, ak) = (evidence.attest.as_slice(), evidence.ak.as_slice());
        let gtvp_model::union::Identity::Tpm { ak: name, .. } = &what.of.identity else {
            return reject(RejectionKind::Signature, "no AK");
        };
        if KeyName::sha256(ak) != *name || evidence.signature.as_slice() != tag(ak, attest) {
            return reject(RejectionKind::Signature, "not signed by its AK");
        }
        let want = what.binding.qualifying_data(&evidence.path).unwrap();
        if attest[..32] != want.0 {
            return reject(RejectionKind::BoundElsewhere, "bound elsewhere");
        }
        let mut held = self.held.lock().unwrap();
        let before = held.get(&what.of.id()).cloned().unwrap_or_default();
        let from = what.logs.iter().find(|l| l.log == LogKind::Own).map_or(0, |l| l.from);
        let log = [&before[..usize::try_from(from).unwrap()], logs].concat();
        let text = String::from_utf8(log.clone()).unwrap();
        let replayed = text.lines().fold(Digest([0; 32]), extended);
        if attest[32..] != replayed.0 {
            return reject(RejectionKind::Replay, "the log does not replay");
        }
        if let Some(bad) = text.lines().find(|l| !l.starts_with("good")) {
            return reject(RejectionKind::Reference, bad);
        }
        held.insert(what.of.id(), log);
        Ok(Ok(Appraisal { result: Digest::of(attest) }))
    }

    fn appraise_keys(&self, what: &AppraiseKeys) -> Checked<Box<CheckedKeys>> {
        let keys = &what.keys;
        Ok(Ok(Box::new(CheckedKeys {
            kind: TpmKind::Hardware(Default::default()),
            ek: Digest::of(keys.ek.as_slice()).0.into(),
            ek_public: keys.ek.as_slice().to_vec(),
            ak: KeyName::sha256(keys.ak.as_slice()),
            ak_public: keys.ak.as_slice().to_vec(),
            tls: KeyName::sha256(keys.tls.as_slice()),
            spki: Digest::of(keys.tls.as_slice()).0.into(),
        })))
    }

    fn make_credential(&self, what: &MakeCredential) -> Result<CredentialMade, Fault> {
        let secret: [u8; 32] = gtvp_communication::clock::random().unwrap();
        let id_object = Digest::of(&[&what.ek[..], what.ak.as_bytes()].concat()).0.to_vec();
        let credential = Credential {
            id_object: id_object.try_into().unwrap(),
            secret: secret.to_vec().try_into().unwrap(),
        };
        self.secrets.lock().unwrap().push((what.ak.clone(), CredentialSecret(secret)));
        Ok(CredentialMade { credential })
    }

    fn activate_credential(&self, what: &ActivateCredential) -> Result<CredentialSecret, Fault> {
        let mine = [&self.keys.ek[..], KeyName::sha256(&self.keys.ak).as_bytes()].concat();
        if what.credential.id_object.as_slice() != Digest::of(&mine).0 {
            return Err(fault("TPM_RC_INTEGRITY"));
        }
        Ok(CredentialSecret(what.credential.secret.as_slice().try_into().unwrap()))
    }

    fn certify(&self, what: &Certify) -> Result<Certification, Fault> {
        let attest = what.binding.certify_data().0.to_vec();
        let signature = tag(&self.keys.ak, &attest).try_into().unwrap();
        Ok(Certification { attest: attest.try_into().unwrap(), signature })
    }

    fn appraise_certification(&self, what: &AppraiseCertification) -> Checked<()> {
        let secrets = self.secrets.lock().unwrap();
        let of = secrets.iter().filter(|(ak, _)| *ak == what.keys.ak);
        if !of.into_iter().any(|(_, s)| what.binding.is_proved(s, &what.keys, &what.proof)) {
            return reject(RejectionKind::Credential, "the credential was not opened");
        }
        let attest = what.certification.attest.as_slice();
        if attest != what.binding.certify_data().0
            || what.certification.signature.as_slice() != tag(&what.keys.ak_public, attest)
        {
            return reject(RejectionKind::Signature, "not certified");
        }
        Ok(Ok(()))
    }

    fn learn_record(
        &self,
        what: &LearnRecord,
        record: &[u8],
    ) -> Result<Result<Box<UnionView>, String>, Fault> {
        let learn = || {
            let page = page::split(record).map_err(|e| e.to_string())?;
            let follower = page::learn(what.union, &page, what.known, what.end, what.from, now(), &P256)
                .map_err(|e| e.to_string())?;
            let view = follower.record().view().clone();
            *self.learned.lock().unwrap() = Some((page, follower));
            Ok(Box::new(view))
        };
        Ok(learn())
    }

    fn keep_membership(&self, what: Durable) -> Result<(), Fault> {
        if self.forgets.load(Ordering::SeqCst) {
            return Err(fault("the disk is full"));
        }
        if matches!(what, Durable::Membership { .. }) {
            if let (true, Some((page, follower))) = (self.world.real, self.learned.lock().unwrap().take()) {
                self.world.replace(page, follower);
            }
            self.becomes_member();
        }
        Ok(())
    }

    /// In parts of a few entries.
    fn read_record(&self, from: u64, _most: u64) -> Result<Vec<u8>, Fault> {
        let ledger = self.world.ledger();
        let rest = ledger.page.get(usize::try_from(from).unwrap()..).unwrap_or_default();
        Ok(page::join(rest.get(..3).unwrap_or(rest)))
    }

    fn write_admission(&self, what: &WriteAdmission) -> Result<SignedEntry, Fault> {
        Ok(self.world.next(&self.keys, Act::Admitted(what.admission.clone())))
    }

    /// Three vote, if there are three.
    fn write_housekeeping(&self, reachable: Vec<MemberId>) -> Result<Option<SignedEntry>, Fault> {
        let mut voters = self.world.ledger().follower.record().voters().clone();
        let new = reachable.into_iter().find(|m| !voters.contains(m));
        match new.filter(|_| self.world.real && voters.len() < 3) {
            Some(new) => {
                voters.insert(new);
                Ok(Some(self.world.next(&self.keys, Act::Voters(voters))))
            }
            None => Ok(None),
        }
    }

    fn vote_for(&self, entry: SignedEntry) -> Result<Voted, Fault> {
        let (head, vote) = self.world.vote(&entry)?;
        Ok(Voted { head, vote })
    }

    fn vote_again(&self) -> Result<Voted, Fault> {
        let (head, vote) = self.world.vote_again()?;
        Ok(Voted { head, vote })
    }

    fn take_offer(&self, from: MemberId, offer: &Offer) -> Result<u64, Fault> {
        self.world.take(from, offer).map(|new| new as u64)
    }
}
