//! What both evidence exchanges of a session share: who is at either end, what quotes are bound to, what evidence must fit.

use gtvp_model::digest::Digest;
use gtvp_model::union::{Epoch, RosterEntry, UnionId};

use super::{Expect, Setup};
use crate::Untrusted;
use crate::hsp::binding::Binding;
use crate::hsp::channel::{AttestedChannel, Facts, Grant};
use crate::hsp::command::{Appraisable, Appraisal, Command, Context, OwnEvidence};
use crate::hsp::logs::Collected;
use crate::hsp::message::{Ask, BELIEVED, Evidence, LogKind, PCRS};
use crate::hsp::refusal::Refusal;
use crate::planted::{Check, check, demand};

/// What is known once both hellos are there.
#[derive(Debug)]
pub struct Link {
    pub(super) setup: Setup,
    pub(super) union: UnionId,
    pub(super) peer: RosterEntry,
    pub(super) epoch: Epoch,
    pub(super) peer_epoch: Epoch,
    pub(super) nonce: [u8; 32],
    pub(super) hellos: Digest,
    pub(super) requests: u32,
}

impl Link {
    pub(super) fn ours(&self, nonce: [u8; 32], transcript: Digest) -> Binding {
        Binding {
            union: self.union,
            epoch: self.epoch,
            role: self.setup.role,
            attester: self.setup.own.id(),
            challenger: self.peer.id(),
            exporter: self.setup.exporter,
            nonce,
            attester_tls: self.setup.own.identity.tls_name(),
            challenger_tls: self.peer.identity.tls_name(),
            transcript,
        }
    }

    pub(super) fn theirs(&self, nonce: [u8; 32], transcript: Digest) -> Binding {
        Binding {
            union: self.union,
            epoch: self.peer_epoch,
            role: self.setup.role.other(),
            attester: self.peer.id(),
            challenger: self.setup.own.id(),
            exporter: self.setup.exporter,
            nonce,
            attester_tls: self.peer.identity.tls_name(),
            challenger_tls: self.setup.own.identity.tls_name(),
            transcript,
        }
    }

    /// Both ends are members with the keys that this session began with.
    pub(super) fn still_members(&self, ctx: &Context<'_>) -> Result<(), Refusal> {
        let is = |entry: &RosterEntry| {
            ctx.view.members.get(&entry.id()).is_some_and(|now| now.identity == entry.identity)
        };
        if !matches!(self.setup.expect, Expect::Candidate(_)) {
            let member = self.peer.id();
            check(Check::Evicted, is(&self.peer), || Refusal::Evicted { member })?;
        }
        if self.setup.admitted {
            check(Check::Evicted, is(&self.setup.own), || Refusal::WeAreOut)?;
        }
        Ok(())
    }

    pub(super) fn grant(&self) -> Grant {
        let same = check(Check::EpochGrant, self.epoch == self.peer_epoch, || ());
        if same.is_ok() { Grant::Full } else { Grant::RecordOnly }
    }

    pub(super) fn channel(&self, result: Option<Appraisal>) -> AttestedChannel {
        AttestedChannel::new(Facts {
            union: self.union,
            peer: self.peer.id(),
            class: self.peer.identity.class(),
            spki: self.peer.identity.spki(),
            exporter: self.setup.exporter,
            grant: self.grant(),
            result: result.map(|r| r.result),
        })
    }
}

pub(super) fn check_ask(ask: &Ask) -> Result<(), Refusal> {
    let banks = ask.selection.as_slice();
    let weak = banks.iter().find(|b| !BELIEVED.contains(&b.algorithm) || b.pcrs == 0 || b.pcrs & !PCRS != 0);
    let algorithm = weak.map_or(0, |b| b.algorithm);
    check(Check::AskedBank, weak.is_none() && !banks.is_empty(), || Refusal::WeakBank { algorithm })
}

/// Exactly the PCRs that were asked, each once.
pub(super) fn check_pcrs(evidence: &Evidence, ask: &Ask) -> Result<(), Refusal> {
    let mut asked: Vec<(u16, u8)> = Vec::new();
    for bank in ask.selection.as_slice() {
        asked.extend((0u8..24).filter(|n| bank.pcrs >> n & 1 == 1).map(|n| (bank.algorithm, n)));
    }
    let got: Vec<_> = evidence.pcrs.as_slice().iter().map(|p| (p.algorithm, p.index)).collect();
    check(Check::PcrSelection, got == asked, || Refusal::OtherPcrs)
}

/// Logs, then the quote.
pub(super) fn send_evidence(evidence: &OwnEvidence, round: u32) -> Result<Vec<Command>, Refusal> {
    let too_long = |what: &str| Refusal::NoQuote { why: format!("{what} is longer than HSP carries") };
    let mut ends = Vec::new();
    let mut commands = Vec::new();
    for log in LogKind::ALL {
        let delta = evidence.logs.iter().find(|d| d.log == log);
        ends.push(delta.map_or(0, |d| d.from.saturating_add(d.bytes.len() as u64)));
        let pieces = delta.into_iter().flat_map(|d| d.pieces());
        commands.extend(pieces.map(|piece| Command::Send(piece.into())));
    }
    let message = Evidence {
        round,
        attest: evidence.attest.clone().try_into().map_err(|_| too_long("the quote"))?,
        signature: evidence.signature.clone().try_into().map_err(|_| too_long("its signature"))?,
        pcrs: evidence.pcrs.clone().try_into().map_err(|_| too_long("the list of PCRs"))?,
        path: evidence.path.clone(),
        ends: ends.try_into().map_err(|_| too_long("the list of logs"))?,
        ak: evidence.ak.clone().try_into().map_err(|_| too_long("the attestation key"))?,
    };
    commands.push(Command::Send(message.into()));
    Ok(commands)
}

pub(super) fn out_of_turn(message: &'static str, state: &'static str) -> Refusal {
    Refusal::OutOfTurn { message, state }
}

pub(super) fn appraisable(
    peer: &RosterEntry,
    evidence: Evidence,
    logs: Collected,
    round: u32,
    binding: &Binding,
    ask: &Ask,
) -> Result<Appraisable, Refusal> {
    let got = evidence.round;
    demand(got == round, || Refusal::OtherRound { got, want: round })?;
    check_pcrs(&evidence, ask)?;
    let logs = logs.finish(evidence.ends.as_slice(), ask)?;
    let (of, binding, ask) = (peer.clone(), binding.clone(), ask.clone());
    Ok(Appraisable { of, evidence: Untrusted::new(evidence), logs, binding, ask })
}
