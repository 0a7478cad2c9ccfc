//! A server of a test: `security`'s functions on a real software TPM, and what communication does around them.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use gtvp_appraisal::alg::HashAlg;
use gtvp_appraisal::bootlog::BootLog;
use gtvp_appraisal::ownlog::EntryKind;
use gtvp_ipc::bulk;
use gtvp_ipc::security::{
    AppraiseEvidence, AskOf, Asking, BeginUnion, Challenged, LogSpan, Quote, Quoted, Wish, WriteEntry,
    Written,
};
use gtvp_ipc::supervisor::KernelLog;
use gtvp_model::digest::Digest;
use gtvp_model::fault::Fault;
use gtvp_model::union::{Hardware, Identity, MemberId, RecordHead, RosterEntry, TpmClass, UnionView};
use gtvp_model::unionview::UnionBegin;
use gtvp_protocol::csp::{CoSigned, Offer, SignedEntry};
use gtvp_protocol::frame::wire;
use gtvp_protocol::hsp::message::{Ask, Evidence};
use gtvp_protocol::hsp::{Appraisal, Binding, LogDelta, OwnEvidence, Rejection, Role};
use gtvp_security::kernel_logs::KernelLogs;
use gtvp_security::peers::{Now, Peers};
use gtvp_security::platform::Platform;
use gtvp_security::tpm::actor::{Measured, Tpm};
use gtvp_security::tpm::client::Client;
use gtvp_security::tpm::pcrs::Bank;
use gtvp_security::union::{Means, Union};

use super::SoftwareTpm;

pub const NOW: u64 = 1_795_000_000;

/// The wall's clock and the other, together; a test moves them.
pub fn at(ms: u64) -> Now {
    Now { wall_ms: NOW * 1000 + ms, ms: 1_000_000 + ms }
}

pub fn measured(kind: EntryKind, subject: &str, n: u8) -> Measured {
    Measured { kind, subject: subject.into(), value: Digest([n; 32]) }
}

pub struct Server {
    pub tpm: SoftwareTpm,
    pub actor: Tpm,
    pub platform: Arc<Platform>,
    pub union: Arc<Union>,
    pub peers: Peers,
    pub name: &'static str,
}

impl Server {
    /// Runs the same programs as every other, with a configuration of its own.
    pub fn start(name: &'static str) -> Self {
        let tpm = SoftwareTpm::start();
        let server = Self::over(tpm, name);
        server.boot();
        server
    }

    /// On a TPM that is there.
    pub fn over(tpm: SoftwareTpm, name: &'static str) -> Self {
        let actor = Tpm::start(tpm.address(), tpm.state()).unwrap();
        let platform = Arc::new(Platform::of(TpmClass::Software, Some(actor.clone())));
        let union = Arc::new(Union::open(&tpm.state(), name.parse().unwrap(), platform.clone()));
        let peers = Peers::new(union.clone(), platform.clone(), &tpm.state());
        Self { tpm, actor, platform, union, peers, name }
    }

    /// On a server whose firmware has measured this log.
    pub fn booted(name: &'static str, log: &[u8]) -> Self {
        let server = Self::booted_on(SoftwareTpm::start(), name, log);
        server.boot();
        server
    }

    /// The same on a TPM that is there, which passes for a device, and before gtvpd has measured anything.
    pub fn booted_on(tpm: SoftwareTpm, name: &'static str, log: &[u8]) -> Self {
        extend(&tpm, log);
        let place = tpm.folder.join("boot-log");
        std::fs::write(&place, log).unwrap();
        let logs = || KernelLogs::of([(KernelLog::Boot, File::open(&place).unwrap())]);
        let actor = Tpm::start(tpm.address(), tpm.state()).unwrap();
        let platform = Platform::of(TpmClass::Hardware, Some(actor.clone())).with_logs(logs());
        let platform = Arc::new(platform);
        let union = Arc::new(Union::open(&tpm.state(), name.parse().unwrap(), platform.clone()));
        let peers = Peers::new(union.clone(), platform.clone(), &tpm.state());
        Self { tpm, actor, platform, union, peers, name }
    }

    /// What gtvpd measures when it starts.
    pub fn boot(&self) {
        let own = Digest::of(self.name.as_bytes());
        for m in [
            measured(EntryKind::Start, "0.1.0", 1),
            measured(EntryKind::Topology, "topology.toml", 2),
            Measured { kind: EntryKind::Configuration, subject: "member.toml".into(), value: own },
            measured(EntryKind::Binary, "security", 3),
            measured(EntryKind::Binary, "communication", 4),
        ] {
            self.actor.measure(m).unwrap();
        }
    }

    /// The process is started again: memory is gone, the TPM is as it was.
    pub fn restart(self) -> Self {
        self.restart_after(|_| ())
    }

    /// The same, and in between somebody else has the TPM.
    pub fn restart_after(self, between: impl FnOnce(&SoftwareTpm)) -> Self {
        let Self { tpm, actor, platform, union, peers, name, .. } = self;
        drop((actor, platform, union, peers));
        between(&tpm);
        Self::over(tpm, name)
    }

    pub fn id(&self) -> MemberId {
        self.identity().member_id()
    }

    pub fn identity(&self) -> Identity {
        self.union.own_keys().unwrap().identity
    }

    pub fn view(&self) -> UnionView {
        self.union.known().unwrap().unwrap().state.view.clone()
    }

    pub fn head(&self) -> RecordHead {
        self.view().head
    }

    pub fn entry(&self) -> RosterEntry {
        self.union.known().unwrap().unwrap().own.clone().unwrap()
    }

    /// A server that has no TPM. The one that is started is not used.
    pub fn without_tpm(name: &'static str) -> Self {
        let Self { tpm, actor, .. } = Self::over(SoftwareTpm::start(), name);
        let key = gtvp_security::key::load_or_make_identity(&tpm.state()).unwrap();
        let platform = Arc::new(Platform::bare(key));
        let union = Arc::new(Union::open(&tpm.state(), name.parse().unwrap(), platform.clone()));
        let peers = Peers::new(union.clone(), platform.clone(), &tpm.state());
        Self { tpm, actor, platform, union, peers, name }
    }

    pub fn begin(&self) -> Result<(), Fault> {
        self.begin_with(false)
    }

    pub fn begin_with(&self, without_tpm: bool) -> Result<(), Fault> {
        // Nobody vouches for a test's TPM but the test.
        let device = self.platform.class() == TpmClass::Hardware;
        let ek = self.platform.view().ek.filter(|_| device);
        let begin = BeginUnion {
            union: UnionBegin {
                ek,
                name: "lab".parse().unwrap(),
                software_tpms: true,
                without_tpm,
                attest_every_ms: Some(2000),
            },
            hardware: hardware(),
        };
        self.union.begin(&begin, at(0).unix()).map(drop)
    }

    /// A token is made by what the record says, also where no head has come since a restart: tests/fence.rs is about that.
    pub fn wish(&self, wish: Wish) -> Result<Written, Fault> {
        if let Wish::Token { .. } = wish {
            let means = Means { seen: &|_| Ok(None), trusted: &|_| false };
            return self.union.wish(&wish, &means, at(0).unix());
        }
        self.peers.write_entry(&WriteEntry { wish, operator_uid: 0 }, at(0))
    }

    /// The voters decide on an entry: all of `voters` vote, and everybody of `all` takes it.
    pub fn decide(entry: &SignedEntry, voters: &[&Server], all: &[&Server]) -> Result<(), Fault> {
        let offer = co_signed(entry, voters)?;
        all.iter().try_for_each(|s| s.take(voters[0].id(), &offer))
    }

    pub fn take(&self, from: MemberId, offer: &Offer) -> Result<(), Fault> {
        let fd = bulk::give(&wire::encode(offer)).unwrap();
        self.union.take(from, vec![fd], at(0).unix()).map(drop)
    }

    /// What it is asked by `challenger`, and bound to.
    pub fn challenge(&self, challenger: &Server, role: Role) -> (Binding, Ask) {
        let Asking { nonce, ask } = challenger.peers.ask_of(&AskOf { member: self.id() }, at(0)).unwrap();
        let view = challenger.view();
        let binding = Binding {
            union: view.union,
            epoch: view.epoch,
            role,
            attester: self.id(),
            challenger: challenger.id(),
            exporter: [9; 32],
            nonce,
            attester_tls: self.identity().tls_name(),
            challenger_tls: challenger.identity().tls_name(),
            transcript: Digest([8; 32]),
        };
        (binding, ask)
    }

    pub fn quote(&self, binding: &Binding, ask: &Ask) -> Result<OwnEvidence, Fault> {
        let challenges = vec![Challenged { binding: binding.clone(), held: ask.held.clone() }];
        let (quoted, fd) = self.peers.quote(&Quote { selection: ask.selection.clone(), challenges })?;
        Ok(own_evidence(quoted, fd, 0))
    }

    /// Its evidence as `challenger` gets it: round 0 begins a session.
    pub fn evidence(&self, challenger: &Server, round: u32) -> Sent {
        let (binding, ask) = self.challenge(challenger, Role::Responder);
        let own = self.quote(&binding, &ask).unwrap();
        Sent { of: self.entry(), evidence: sent(&own, round), logs: own.logs, binding, ask }
    }
}

/// Has firmware measure all of a boot log.
pub fn extend(tpm: &SoftwareTpm, log: &[u8]) {
    let mut client = Client::open(&tpm.address()).unwrap();
    for event in BootLog::parse(log).unwrap().events().iter().filter(|e| e.extends()) {
        let digest = event.digest(HashAlg::Sha256).unwrap();
        client.pcr_extend(event.pcr, &[(Bank::Sha256.algorithm(), digest.as_bytes())]).unwrap();
    }
}

/// Evidence on its way, to be changed by whoever is in between.
#[derive(Clone)]
pub struct Sent {
    pub of: RosterEntry,
    pub evidence: Evidence,
    pub logs: Vec<LogDelta>,
    pub binding: Binding,
    pub ask: Ask,
}

impl Sent {
    pub fn appraised_by(&self, server: &Server, ms: u64) -> Result<Appraisal, Rejection> {
        appraise(server, self, ms)
    }
}

pub fn appraise(server: &Server, sent: &Sent, ms: u64) -> Result<Appraisal, Rejection> {
    appraise_at(server, sent, at(ms))
}

pub fn appraise_at(server: &Server, sent: &Sent, now: Now) -> Result<Appraisal, Rejection> {
    let spans = sent.logs.iter().map(|l| LogSpan { log: l.log, from: l.from, length: l.bytes.len() as u64 });
    let bytes: Vec<u8> = sent.logs.iter().flat_map(|l| l.bytes.clone()).collect();
    let asked = AppraiseEvidence {
        of: Box::new(sent.of.clone()),
        evidence: Box::new(sent.evidence.clone()),
        binding: Box::new(sent.binding.clone()),
        ask: sent.ask.clone(),
        logs: spans.collect(),
    };
    server.peers.appraise_evidence(&asked, vec![bulk::give(&bytes).unwrap()], now).unwrap()
}

pub fn own_evidence(quoted: Quoted, fd: OwnedFd, nth: usize) -> OwnEvidence {
    let bytes = bulk::take(fd, 64 << 20).unwrap();
    let answer = &quoted.answers[nth];
    let mut at = 0;
    let mut logs = Vec::new();
    for (span, from) in quoted.logs.iter().zip(&answer.from) {
        let whole = &bytes[at..at + span.length as usize];
        at += span.length as usize;
        let bytes = whole[(from - span.from) as usize..].to_vec();
        logs.push(LogDelta { log: span.log, from: *from, bytes });
    }
    OwnEvidence {
        attest: quoted.attest,
        signature: quoted.signature,
        pcrs: quoted.pcrs,
        path: answer.path.clone(),
        ak: quoted.ak,
        logs,
    }
}

pub fn sent(own: &OwnEvidence, round: u32) -> Evidence {
    let ends = gtvp_protocol::hsp::message::LogKind::ALL
        .map(|kind| own.logs.iter().find(|l| l.log == kind).map_or(0, |l| l.from + l.bytes.len() as u64));
    Evidence {
        round,
        attest: own.attest.clone().try_into().unwrap(),
        signature: own.signature.clone().try_into().unwrap(),
        pcrs: own.pcrs.clone().try_into().unwrap(),
        path: own.path.clone(),
        ends: ends.to_vec().try_into().unwrap(),
        ak: own.ak.clone().try_into().unwrap(),
    }
}

pub fn hardware() -> Hardware {
    Hardware::new(2, 4096, "").unwrap()
}

/// An entry that these voters have signed the head with.
pub fn co_signed(entry: &SignedEntry, voters: &[&Server]) -> Result<Offer, Fault> {
    let votes: Vec<_> =
        voters.iter().map(|v| v.union.vote_for(entry, at(0).unix())).collect::<Result<_, _>>()?;
    let head = votes[0].head;
    let votes: Vec<_> = votes.into_iter().map(|v| v.vote).collect();
    Ok(Offer { entries: vec![entry.clone()], head: CoSigned { head, votes: votes.try_into().unwrap() } })
}
