//! What this domain asks of `security`: over its socket, or in a test of somebody who plays it.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use gtvp_ipc::bulk;
use gtvp_ipc::security::{
    ActivateCredential, AppraiseCertification, AppraiseEvidence, AppraiseKeys, AskOf, Asking, Certify,
    CredentialMade, Due, DueReply, HearResult, HearStanding, HearStatus, HeardResult, KeepMembership,
    LearnRecord, MakeCredential, OwnKeys, OwnKeysReply, OwnResult, OwnUnion, Quote, Quoted, ReadRecord,
    SignTls, StatusHeard, TakeOffer, TlsSignature, VoteAgain, VoteFor, Voted, WatchResults, WatchUnion,
    WriteAdmission, WriteHousekeeping,
};
use gtvp_ipc::{CallError, Method, call, call_with};
use gtvp_model::fault::Fault;
use gtvp_model::union::{MemberId, UnionView};
use gtvp_protocol::csp::{Offer, SignedEntry};
use gtvp_protocol::frame::wire;
use gtvp_protocol::gossip;
use gtvp_protocol::hsp::join::{CheckedKeys, CredentialSecret, MAX_RECORD};
use gtvp_protocol::hsp::message::{Certification, LogKind};
use gtvp_protocol::hsp::{Appraisal, Durable, Rejection};

/// What comes of a check: what was believed, or why not; or no answer at all, which is not "believed".
pub type Checked<T> = Result<Result<T, Rejection>, Fault>;

/// See ipc/src/security.rs for each of them.
pub trait Security: Send + Sync + 'static {
    /// Tells the union at once and after each change, until the stream ends; says why it did.
    fn watch_union(&self, changed: &mut dyn FnMut(Option<OwnUnion>)) -> Fault;
    /// See [`OwnKeys`].
    fn own_keys(&self) -> Result<OwnKeysReply, Fault>;
    /// See [`SignTls`].
    fn sign_tls(&self, what: &SignTls) -> Result<TlsSignature, Fault>;
    /// See [`Quote`]; with the bytes of the logs.
    fn quote(&self, what: &Quote) -> Result<(Quoted, Vec<u8>), Fault>;
    /// See [`AskOf`].
    fn ask_of(&self, member: MemberId) -> Result<Asking, Fault>;
    /// See [`Due`].
    fn due(&self, member: MemberId) -> Result<DueReply, Fault>;
    /// Tells this member's attestation results: those that count now, and each new one, until the stream ends; says why it did.
    fn watch_results(&self, new: &mut dyn FnMut(OwnResult)) -> Fault;
    /// See [`HearResult`].
    fn hear_result(&self, what: &HearResult) -> Result<Result<HeardResult, String>, Fault>;
    /// See [`HearStanding`].
    fn hear_standing(&self, what: &HearStanding) -> Result<(), Fault>;
    /// See [`HearStatus`].
    fn hear_status(&self, entry: Box<gossip::Entry>) -> Result<StatusHeard, Fault>;
    /// See [`AppraiseEvidence`].
    fn appraise_evidence(&self, what: &AppraiseEvidence, logs: &[u8]) -> Checked<Appraisal>;
    /// See [`AppraiseKeys`].
    fn appraise_keys(&self, what: &AppraiseKeys) -> Checked<Box<CheckedKeys>>;
    /// See [`MakeCredential`].
    fn make_credential(&self, what: &MakeCredential) -> Result<CredentialMade, Fault>;
    /// See [`ActivateCredential`].
    fn activate_credential(&self, what: &ActivateCredential) -> Result<CredentialSecret, Fault>;
    /// See [`Certify`].
    fn certify(&self, what: &Certify) -> Result<Certification, Fault>;
    /// See [`AppraiseCertification`].
    fn appraise_certification(&self, what: &AppraiseCertification) -> Checked<()>;
    /// See [`LearnRecord`].
    fn learn_record(
        &self,
        what: &LearnRecord,
        record: &[u8],
    ) -> Result<Result<Box<UnionView>, String>, Fault>;
    /// See [`KeepMembership`].
    fn keep_membership(&self, what: Durable) -> Result<(), Fault>;
    /// See [`ReadRecord`]; the bytes are `csp::page`'s.
    fn read_record(&self, from: u64, most: u64) -> Result<Vec<u8>, Fault>;
    /// See [`WriteAdmission`].
    fn write_admission(&self, what: &WriteAdmission) -> Result<SignedEntry, Fault>;
    /// See [`WriteHousekeeping`].
    fn write_housekeeping(&self, reachable: Vec<MemberId>) -> Result<Option<SignedEntry>, Fault>;
    /// See [`VoteFor`].
    fn vote_for(&self, entry: SignedEntry) -> Result<Voted, Fault>;
    /// See [`VoteAgain`].
    fn vote_again(&self) -> Result<Voted, Fault>;
    /// See [`TakeOffer`]; how many entries were new.
    fn take_offer(&self, from: MemberId, offer: &Offer) -> Result<u64, Fault>;
}

/// Most bytes of logs that `security` hands out at once: each at its longest.
const MAX_LOGS: u64 = LogKind::Boot.max() + LogKind::Ima.max() + LogKind::Own.max();

/// The real one. Each call has a connection of its own.
pub struct Ipc {
    socket: PathBuf,
}

impl Ipc {
    /// Behind this socket.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    fn ask<M: Method>(&self, what: &M) -> Result<M::Reply, Fault> {
        Ok(call(&self.socket, what)?)
    }

    fn give<M: Method>(&self, what: &M, bytes: &[u8]) -> Result<M::Reply, Fault> {
        let fd = bulk::give(bytes).map_err(|e| Fault::internal("no memory for a descriptor", &e))?;
        let called = call_with(&self.socket, what, &[fd.as_fd()], |_| ControlFlow::Continue(()));
        Ok(called.map(|(reply, _)| reply)?)
    }

    fn take<M: Method>(&self, what: &M, most: u64) -> Result<(M::Reply, Vec<u8>), Fault> {
        let mut client = gtvp_ipc::Client::connect(&self.socket)
            .map_err(|source| CallError::Unreachable { callee: M::CALLEE, source })?;
        let (reply, fds) = client.call(what, &[], |_| ControlFlow::Continue(()))?;
        let bytes =
            one(fds, most).map_err(|e| Fault::internal("the bytes of security cannot be read", &e))?;
        Ok((reply, bytes))
    }
}

fn one(fds: Vec<OwnedFd>, most: u64) -> io::Result<Vec<u8>> {
    let fd = fds.into_iter().next().ok_or(io::ErrorKind::UnexpectedEof)?;
    bulk::take(fd, usize::try_from(most).unwrap_or(usize::MAX))
}

/// Why a stream that has no end is over.
fn over<T>(told: Result<T, CallError>) -> Fault {
    match told {
        Ok(_) => Fault::new(gtvp_model::fault::FaultKind::Unavailable, "security ended the stream"),
        Err(e) => e.into(),
    }
}

impl Security for Ipc {
    fn watch_union(&self, changed: &mut dyn FnMut(Option<OwnUnion>)) -> Fault {
        over(call_with(&self.socket, &WatchUnion {}, &[], |now| {
            changed(now.union.map(|u| *u));
            ControlFlow::Continue(())
        }))
    }

    fn watch_results(&self, new: &mut dyn FnMut(OwnResult)) -> Fault {
        over(call_with(&self.socket, &WatchResults {}, &[], |result| {
            new(result);
            ControlFlow::Continue(())
        }))
    }

    fn due(&self, member: MemberId) -> Result<DueReply, Fault> {
        self.ask(&Due { member })
    }

    fn hear_result(&self, what: &HearResult) -> Result<Result<HeardResult, String>, Fault> {
        self.ask(what)
    }

    fn hear_standing(&self, what: &HearStanding) -> Result<(), Fault> {
        self.ask(what).map(|_| ())
    }

    fn hear_status(&self, entry: Box<gossip::Entry>) -> Result<StatusHeard, Fault> {
        self.ask(&HearStatus { entry })
    }

    fn own_keys(&self) -> Result<OwnKeysReply, Fault> {
        self.ask(&OwnKeys {})
    }

    fn sign_tls(&self, what: &SignTls) -> Result<TlsSignature, Fault> {
        self.ask(what)
    }

    fn quote(&self, what: &Quote) -> Result<(Quoted, Vec<u8>), Fault> {
        self.take(what, MAX_LOGS)
    }

    fn ask_of(&self, member: MemberId) -> Result<Asking, Fault> {
        self.ask(&AskOf { member })
    }

    fn appraise_evidence(&self, what: &AppraiseEvidence, logs: &[u8]) -> Checked<Appraisal> {
        self.give(what, logs)
    }

    fn appraise_keys(&self, what: &AppraiseKeys) -> Checked<Box<CheckedKeys>> {
        self.ask(what)
    }

    fn make_credential(&self, what: &MakeCredential) -> Result<CredentialMade, Fault> {
        self.ask(what)
    }

    fn activate_credential(&self, what: &ActivateCredential) -> Result<CredentialSecret, Fault> {
        self.ask(what)
    }

    fn certify(&self, what: &Certify) -> Result<Certification, Fault> {
        self.ask(what)
    }

    fn appraise_certification(&self, what: &AppraiseCertification) -> Checked<()> {
        self.ask(what)
    }

    fn learn_record(
        &self,
        what: &LearnRecord,
        record: &[u8],
    ) -> Result<Result<Box<UnionView>, String>, Fault> {
        self.give(what, record)
    }

    fn keep_membership(&self, what: Durable) -> Result<(), Fault> {
        self.ask(&KeepMembership { what }).map(|_| ())
    }

    fn read_record(&self, from: u64, most: u64) -> Result<Vec<u8>, Fault> {
        // One entry comes, however little is wanted.
        let bound = most.max(MAX_RECORD);
        self.take(&ReadRecord { from, most }, bound).map(|(_, bytes)| bytes)
    }

    fn write_admission(&self, what: &WriteAdmission) -> Result<SignedEntry, Fault> {
        self.ask(what)
    }

    fn write_housekeeping(&self, reachable: Vec<MemberId>) -> Result<Option<SignedEntry>, Fault> {
        self.ask(&WriteHousekeeping { reachable }).map(|h| h.entry)
    }

    fn vote_for(&self, entry: SignedEntry) -> Result<Voted, Fault> {
        self.ask(&VoteFor { entry })
    }

    fn vote_again(&self) -> Result<Voted, Fault> {
        self.ask(&VoteAgain {})
    }

    fn take_offer(&self, from: MemberId, offer: &Offer) -> Result<u64, Fault> {
        self.give(&TakeOffer { from }, &wire::encode(offer)).map(|taken| taken.new)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use gtvp_ipc::wire as messages;
    use serde_json::json;

    use super::*;

    /// Answers one call with these bytes; says what was asked, and which bytes came.
    fn answers(name: &str, reply: serde_json::Value, bytes: &'static [u8]) -> (Ipc, Told) {
        let path = std::env::temp_dir().join(format!("gtvp-security-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let at = path.clone();
        let told = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let (asked, fds) = messages::recv(&stream).unwrap().unwrap();
            let came = fds.into_iter().map(|fd| bulk::take(fd, 1000).unwrap()).collect();
            let given = bulk::give(bytes).unwrap();
            messages::send(&stream, reply.to_string().as_bytes(), &[given.as_fd()]).unwrap();
            std::fs::remove_file(at).unwrap();
            (serde_json::from_slice(&asked).unwrap(), came)
        });
        (Ipc::new(path), told)
    }

    type Told = std::thread::JoinHandle<(serde_json::Value, Vec<Vec<u8>>)>;

    #[test]
    fn bytes_go_and_come_by_descriptors() {
        let (security, told) = answers("reads", json!({ "done": {} }), b"a page");
        assert_eq!(security.read_record(7, 10).unwrap(), b"a page");
        assert_eq!(
            told.join().unwrap().0,
            json!({ "method": "read_record", "params": { "from": 7, "most": 10 } })
        );

        let union = [1; 32].into();
        let head = gtvp_model::union::RecordHead { number: 1, hash: gtvp_model::digest::Digest([2; 32]) };
        let what = LearnRecord { union, known: head, end: head, from: [3; 32].into() };
        let (security, told) = answers("learns", json!({ "done": { "Err": "it is empty" } }), b"");
        assert_eq!(security.learn_record(&what, b"a record").unwrap(), Err("it is empty".into()));
        assert_eq!(told.join().unwrap().1, [b"a record".to_vec()]);
    }

    #[test]
    fn a_security_that_is_not_there_believes_nothing() {
        let nobody = Ipc::new("/nonexistent/security.sock".into());
        assert!(nobody.ask_of([1; 32].into()).unwrap_err().retryable);
        assert!(nobody.watch_union(&mut |_| panic!("nobody says anything")).retryable);
    }
}
