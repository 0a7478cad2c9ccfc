//! Who attacks: on the network, with members' TLS keys; on members, whose software is replaced and whose `communication` hides it; and
//! as servers that want in. Nobody has a key that is in somebody else's TPM, or a token's secret that was not given to somebody.

use gtvp_model::token::TokenSecret;
use gtvp_protocol::csp::Act;
use gtvp_protocol::hsp::message::{Evidence, LogPiece, Message, NoEvidence};

use super::tpm::GOOD;
use super::{At, What};
use crate::world::World;

/// What somebody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mischief {
    /// Stands between two members with both TLS keys.
    Relay,
    /// Has a call end at another member.
    Divert,
    /// Dials with a member's disk and another TPM.
    Clone,
    /// Dials with a member's TLS key and plays back what it said once.
    Replay,
    /// Answers with the caller's own words.
    Reflect,
    /// Wants in with the endorsement key of a TPM that it has not.
    Forger,
    /// Wants in with a token's key, and without its secret.
    Thief,
    /// Wants in by a token that another server has.
    Again,
    /// Wants in, and runs what it should not.
    Tampered,
    /// Wants in by a token that has ended.
    Late,
    /// Wants in by a token that was made for another TPM.
    Stray,
    /// Wants in under a member's name.
    Namesake,
    /// Wants in with a TLS key that is in no TPM.
    Graft,
    /// Has seen a token's id, and no more of it.
    Stranger,
    /// Stands between a joiner and a member with both TLS keys.
    RelayedJoin,
    /// A member's appraisal says again what it said last, before it says what is so.
    Echo,
    /// A member's random numbers stand still.
    Stuck,
}

impl Mischief {
    /// On connections.
    const LINKS: [Self; 5] = [Self::Relay, Self::Divert, Self::Clone, Self::Replay, Self::Reflect];
    /// Of servers.
    pub const ROGUES: [Self; super::ROGUES] = [
        Self::Forger,
        Self::Thief,
        Self::Again,
        Self::Tampered,
        Self::Late,
        Self::Stray,
        Self::Namesake,
        Self::Graft,
        Self::Stranger,
    ];

    /// In a word or two.
    pub fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Divert => "divert",
            Self::Clone => "clone",
            Self::Replay => "replay",
            Self::Reflect => "reflect",
            Self::Forger => "forger",
            Self::Thief => "thief",
            Self::Again => "token again",
            Self::Tampered => "tampered joiner",
            Self::Late => "ended token",
            Self::Stray => "another's token",
            Self::Namesake => "namesake",
            Self::Graft => "key in no TPM",
            Self::Stranger => "stranger",
            Self::RelayedJoin => "relayed join",
            Self::Echo => "an answer twice",
            Self::Stuck => "a nonce twice",
        }
    }
}

/// How a member that was tampered with hides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trick {
    /// Not at all.
    None,
    /// The log comes without the entry.
    CutLog,
    /// The PCR is not sent.
    NoPcr,
    /// "I have no TPM."
    NoTpm,
    /// A healthy TPM that is not its own quotes.
    Cuckoo,
    /// The evidence of the round before.
    OldRound,
    /// Silence.
    Silent,
    /// Its TPM is put back to before.
    Rollback,
}

const TRICKS: [Trick; 8] = [
    Trick::None,
    Trick::CutLog,
    Trick::NoPcr,
    Trick::NoTpm,
    Trick::Cuckoo,
    Trick::OldRound,
    Trick::Silent,
    Trick::Rollback,
];

impl World {
    /// Somebody does something, and the next time is set.
    pub(crate) fn hsp_mischief(&mut self) {
        if !self.working {
            return;
        }
        let wait = self.rng.between(300, 3000);
        self.hsp_after(wait, What::Mischief);
        let any = self.in_union();
        let Some(m) = self.rng.pick(&any) else { return };
        match self.rng.between(0, 9) {
            0..=2 => {
                let any = self.rng.pick(&Mischief::LINKS);
                self.hsp.next = self.config.attack.or(any);
                // A connection that is there ends, so that there is a next one.
                let own = |l: &super::link::Link| l.ends.iter().any(|e| e.full() && e.member() == Some(m));
                let links: Vec<u64> =
                    self.hsp.links.iter().filter(|(_, l)| own(l)).map(|(n, _)| *n).collect();
                if let Some(l) = self.rng.pick(&links) {
                    self.hsp_after(0, What::Lost((l, 0)));
                }
            }
            3 | 4 => self.hsp_tamper(m),
            5 => {
                let ill: Vec<usize> =
                    any.into_iter().filter(|m| self.hsp.servers[*m].tampered.is_some()).collect();
                if let Some(m) = self.rng.pick(&ill) {
                    self.hsp_repair(m);
                }
            }
            // Without a start of the server: its TPM alone.
            6 if self.hsp.servers[m].tampered.is_none() => {
                self.hsp_reboots(m);
                self.hsp.count("resets");
            }
            7 => {
                let now = self.now;
                self.hsp.servers[m].tpm.extend(&format!("good:component started at {now}"));
                let copy = (self.hsp.servers[m].tpm.clone(), now);
                if self.hsp.servers[m].tampered.is_none() {
                    self.hsp.servers[m].saved = Some(copy);
                }
            }
            8 if self.rng.permille(300) => {
                let record = self.members[m].alive.as_ref().map(|l| l.keeper.record().clone());
                let Some(record) = record else { return };
                let ids = record.view().members.keys();
                let others: Vec<_> = ids.copied().filter(|id| !record.voters().contains(id)).collect();
                if record.view().members.len() > 4
                    && let Some(member) = self.rng.pick(&others).filter(|id| *id != self.members[m].id())
                {
                    self.propose(m, Act::Evicted { member, reason: "sim".into() });
                }
            }
            _ => {}
        }
    }

    fn hsp_unsettle(&mut self, m: usize) {
        self.hsp.servers[m].unsettled = self.now + 20_000;
    }

    /// Its TPM begins anew; what runs is what ran.
    pub(crate) fn hsp_reboots(&mut self, m: usize) {
        let server = &mut self.hsp.servers[m];
        server.tpm.reboot();
        if server.tampered.is_some() {
            server.tpm.extend("bad:program");
            if server.trick == Some(Trick::Rollback) {
                // Who had not seen the later state could not tell until now.
                (server.trick, server.tampered) = (Some(Trick::None), Some(self.now));
            }
        }
        self.hsp_unsettle(m);
    }

    fn hsp_tamper(&mut self, m: usize) {
        let ill = self.hsp.servers.iter().filter(|s| s.rogue.is_none() && s.tampered.is_some()).count();
        if ill >= 2 || self.hsp.servers[m].tampered.is_some() {
            return;
        }
        let trick = self.rng.pick(&TRICKS).unwrap_or(Trick::None);
        let now = self.now;
        self.note(m, || format!("is tampered with: {trick:?}"));
        self.hsp.count("tampered");
        let server = &mut self.hsp.servers[m];
        (server.tampered, server.trick) = (Some(now), Some(trick));
        match (trick, &server.saved) {
            (Trick::Rollback, Some((saved, at))) => {
                let back = now - at;
                server.left = server.tpm.resets;
                server.tpm = saved.clone();
                server.tpm.behind += back;
                let behind = server.tpm.behind;
                let (resets, clock) = (saved.resets, at.saturating_sub(saved.behind));
                let id = self.members[m].id();
                let knows = |(o, s): (usize, &super::Server)| {
                    let newest = s.appraiser.newest(&id).filter(|n| *n > (resets, clock))?;
                    // Of the same life its clock comes to where it was: from then on nobody can tell.
                    let until = if newest.0 > resets { u64::MAX } else { newest.1 + behind };
                    Some((o, (s.life, until)))
                };
                let known = self.hsp.servers.iter().enumerate().filter_map(knows).collect();
                self.hsp.servers[m].known_by = known;
            }
            (Trick::Rollback, None) => {
                server.trick = Some(Trick::None);
                server.tpm.extend("bad:program");
            }
            _ => server.tpm.extend("bad:program"),
        }
    }

    /// It is installed anew, and its TPM is what it was, and reset.
    pub(crate) fn hsp_repair(&mut self, m: usize) {
        let server = &mut self.hsp.servers[m];
        (server.tampered, server.trick) = (None, None);
        // A TPM that was put back is its own again, and has been in later lives than the one it was put back to.
        server.tpm.resets = server.left.max(server.tpm.resets) + 1;
        server.tpm.reboot();
        server.last.clear();
        server.cut.clear();
        server.tpm.behind = 0;
        server.saved = None;
        self.hsp_unsettle(m);
    }

    /// What is said in place of this.
    pub(crate) fn hsp_trick(&mut self, at: At, s: usize, message: Message) -> Vec<Message> {
        let server = &mut self.hsp.servers[s];
        if server.rogue == Some(Mischief::Thief)
            && let Message::JoinAccept(mut accept) = message
        {
            accept.secret = TokenSecret::new([0; 16]);
            return vec![accept.into()];
        }
        if server.rogue == Some(Mischief::Stranger)
            && let Message::JoinHello(mut hello) = message
        {
            hello.proof = [0; 32];
            return vec![hello.into()];
        }
        // What it said while it was well, it has.
        if let (None, Message::Evidence(evidence)) = (server.trick, &message) {
            server.last.insert(at, evidence.clone());
            while server.last.len() > 32 {
                server.last.pop_first();
            }
        }
        let Some(trick) = server.trick else { return vec![message] };
        match (trick, message) {
            (Trick::CutLog, Message::LogPiece(piece)) => {
                let text = String::from_utf8_lossy(piece.bytes.as_slice()).into_owned();
                let kept: String =
                    text.lines().filter(|l| l.starts_with(GOOD)).flat_map(|l| [l, "\n"]).collect();
                let end = piece.from + kept.len() as u64;
                server.cut.insert(at, end);
                vec![LogPiece { bytes: kept.into_bytes().try_into().unwrap_or_default(), ..piece }.into()]
            }
            (Trick::CutLog, Message::Evidence(evidence)) => {
                let end = server.cut.remove(&at);
                let ends =
                    end.map_or(evidence.ends.clone(), |e| vec![0, 0, e].try_into().unwrap_or_default());
                vec![Evidence { ends, ..evidence }.into()]
            }
            (Trick::NoPcr, Message::Evidence(evidence)) => {
                vec![Evidence { pcrs: Default::default(), ..evidence }.into()]
            }
            (Trick::NoTpm, Message::LogPiece(_)) => Vec::new(),
            (Trick::NoTpm, Message::Evidence(evidence)) if evidence.round == 0 => vec![NoEvidence {}.into()],
            (Trick::Silent, Message::Evidence(evidence)) if evidence.round > 0 => Vec::new(),
            (Trick::OldRound, Message::LogPiece(_)) => Vec::new(),
            (Trick::OldRound, Message::Evidence(evidence)) if evidence.round > 0 => {
                match server.last.get(&at) {
                    Some(old) => vec![Evidence { round: evidence.round, ..old.clone() }.into()],
                    None => vec![evidence.into()],
                }
            }
            (_, message) => vec![message],
        }
    }
}
