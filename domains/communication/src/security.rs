//! What this domain asks of `security`: over its socket, or in a test of somebody who plays it.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use gtvp_ipc::bulk;
use gtvp_ipc::security::{
    ActivateCredential, AppraiseCertification, AppraiseEvidence, AppraiseKeys, AskOf, Certify,
    CredentialMade, KeepMembership, LearnRecord, MakeCredential, OwnKeys, OwnKeysReply, OwnUnion, Quote,
    Quoted, ReadRecord, SignTls, TakeOffer, TlsSignature, VoteAgain, VoteFor, Voted, WatchUnion,
    WriteAdmission, WriteHousekeeping,
};
use gtvp_ipc::{CallError, Method, call, call_with};
use gtvp_model::fault::Fault;
use gtvp_model::union::{MemberId, UnionView};
use gtvp_protocol::csp::{Offer, SignedEntry};
use gtvp_protocol::frame::wire;
use gtvp_protocol::hsp::join::{CheckedKeys, CredentialSecret, MAX_RECORD};
use gtvp_protocol::hsp::message::{Ask, Certification, LogKind};
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
    fn ask_of(&self, member: MemberId) -> Result<Ask, Fault>;
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

impl Security for Ipc {
    fn watch_union(&self, changed: &mut dyn FnMut(Option<OwnUnion>)) -> Fault {
        let told = call_with(&self.socket, &WatchUnion {}, &[], |now| {
            changed(now.union.map(|u| *u));
            ControlFlow::Continue(())
        });
        match told {
            Ok(_) => Fault::new(gtvp_model::fault::FaultKind::Unavailable, "security ended the stream"),
            Err(e) => e.into(),
        }
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

    fn ask_of(&self, member: MemberId) -> Result<Ask, Fault> {
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
