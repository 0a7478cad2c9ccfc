//! What is so: who is really at the other end, what really runs there, which TPM really holds a key. Invariants compare it with what
//! members believe; no engine ever hears of it.

use gtvp_protocol::csp::{Act, Entry};
use gtvp_protocol::hsp::{Appraisable, AttestedChannel, Grant, Refusal, Rejection};

use super::adversary::{Mischief, Trick};
use super::invariant::{Open, Seen};
use super::link::End;
use super::{At, What};
use crate::world::World;

impl World {
    pub(crate) fn hsp_see(&mut self, seen: &Seen) {
        let now = self.now;
        let verdict = self.hsp.invariants.as_mut().map(|all| all.see(seen, now));
        if let Some(Err(violation)) = verdict {
            self.violate(violation.invariant, violation.what);
        }
    }

    /// The channel of this end, as it is.
    fn hsp_open(&self, at: At) -> Option<Open> {
        let link = self.hsp.links.get(&at.0)?;
        let (end, other) = (link.ends.get(at.1)?, link.ends.get(1 - at.1)?);
        let channel = end.channel.as_ref().filter(|_| end.up)?;
        let by = end.member()?;
        let peer = self.ids.get(&channel.peer()).copied()?;
        let life = self.members[by].alive.as_ref()?;
        let server = &self.hsp.servers[peer];
        // Of a TPM that was put back, who has not seen it later cannot tell; nor can anybody once its clock is where it was.
        let tells = server.known_by.get(&by);
        let tells =
            tells.is_some_and(|(life, until)| *life == self.hsp.servers[by].life && *until > self.now);
        let hidden = server.trick == Some(Trick::Rollback) && !tells;
        Some(Open {
            by,
            peer,
            full: channel.grant() == Grant::Full,
            since: end.since,
            rested: life.paused,
            there: other.server(),
            another: end.called.is_some_and(|c| c != channel.peer()),
            one: link.exporters[0] == link.exporters[1],
            epochs: [end.epoch, other.epoch],
            // Who lies about the entry knows that there is none.
            known: end.lies || life.keeper.record().member(&channel.peer()).is_some(),
            tampered: server.tampered.filter(|_| !hidden),
        })
    }

    pub(crate) fn hsp_opened(&mut self, at: At) {
        if let Some(open) = self.hsp_open(at) {
            self.hsp_see(&Seen::Opened(open));
        }
    }

    /// Channels with those who are no members any more.
    pub(crate) fn hsp_channels(&self, m: usize) -> Vec<usize> {
        let ends = self.hsp.links.keys().flat_map(|l| [(*l, 0), (*l, 1)]);
        let mine = ends.filter(|at| self.hsp_end(*at).is_some_and(|e| e.member() == Some(m)));
        mine.filter_map(|at| self.hsp_open(at)).filter(|o| !o.known).map(|o| o.peer).collect()
    }

    /// Appraisal at `s` has said no to what came by this end.
    pub(crate) fn hsp_judged(&mut self, at: At, s: usize, what: &Appraisable, no: Option<&Rejection>) {
        let Some(peer) = self.ids.get(&what.of.id()).copied() else { return };
        let Some(no) = no else {
            let evidence = what.evidence.unchecked();
            let (handshake, life) = (evidence.round == 0, super::appraiser::life(evidence));
            let verifier = (s, self.hsp.servers[s].life);
            return self.hsp_see(&Seen::Believed { verifier, of: peer, handshake, life });
        };
        let server = &self.hsp.servers[peer];
        let attacked = self.hsp.links.get(&at.0).is_none_or(|l| l.suffers.is_some());
        let other = self.hsp_end((at.0, 1 - at.1)).and_then(End::server);
        let healthy = server.tampered.is_none() && server.unsettled <= self.now && server.rogue.is_none();
        self.note(s, || format!("does not believe m{peer}: {no:?}"));
        if healthy && !attacked && other == Some(peer) {
            self.hsp_see(&Seen::Disbelieved { by: s, of: peer, why: no.why.clone() });
        }
    }

    pub(crate) fn hsp_closed(&mut self, at: At, s: usize, refusal: &Refusal) {
        let joiner = matches!(self.hsp_end(at).map(|e| &e.who), Some(super::link::Who::Joiner(_)));
        if joiner {
            let kept = !self.members[s].disk.record.read().is_empty();
            self.hsp_see(&Seen::NotJoined { server: s, kept });
            self.hsp.count("failed joins");
            if matches!(refusal, Refusal::PeerRefused { code: 41..=43, .. } | Refusal::TokenForOtherTpm) {
                // Another token is needed.
                self.hsp.servers[s].token = None;
                self.hsp.servers[s].making = None;
            }
        }
    }

    /// A member has these entries now.
    pub(crate) fn hsp_took(&mut self, m: usize, new: usize) {
        if !self.hsp.on {
            return;
        }
        let Some(life) = &self.members[m].alive else { return };
        let last = life.journal.iter().rev().take(new);
        let entries: Vec<Entry> = last.filter_map(|c| Entry::decode(c.entry.entry.as_slice()).ok()).collect();
        let seen = self.hsp.entries;
        for entry in entries.into_iter().rev().filter(|e| e.number >= seen) {
            if let Act::Admitted(admission) = &entry.act {
                let identity = &admission.member.identity;
                let real = self.hsp.servers.iter().position(|s| s.tpm.identity() == *identity);
                let seen = Seen::Admitted {
                    token: admission.token,
                    server: real,
                    genuine: real
                        .is_some_and(|s| matches!(self.hsp.servers[s].rogue, None | Some(Mischief::Again))),
                };
                self.hsp.count("admitted");
                self.hsp_see(&seen);
            }
            let gone = match &entry.act {
                Act::Evicted { member, .. } => self.ids.get(member),
                Act::Left => self.ids.get(&entry.author),
                _ => None,
            };
            if let Some(gone) = gone.copied() {
                self.hsp.gone.insert(gone);
                self.hsp.count("gone");
            }
        }
        let number = self.members[m].alive.as_ref().map_or(0, |l| l.at().number);
        self.hsp.entries = self.hsp.entries.max(number + 1);
    }

    pub(crate) fn hsp_audit(&mut self) {
        self.hsp_after(500, What::Audit);
        let ends = self.hsp.links.keys().flat_map(|l| [(*l, 0), (*l, 1)]);
        let open: Vec<Open> = ends.filter_map(|at| self.hsp_open(at)).collect();
        self.hsp_see(&Seen::Audit(open));
    }

    /// Faults are over: what was tampered with is installed anew.
    pub(crate) fn hsp_mend(&mut self) {
        if !self.hsp.on {
            return;
        }
        self.hsp.next = None;
        for s in 0..self.hsp.servers.len() {
            let server = &self.hsp.servers[s];
            if server.rogue != Some(Mischief::Tampered) && server.tampered.is_some() {
                self.hsp_repair(s);
            }
        }
    }

    /// Some time has passed since.
    pub(crate) fn hsp_settled(&mut self) {
        // A voter whose disk has gone back may hold the union up.
        if !self.hsp.on || self.config.rolls_back {
            return;
        }
        let members = self.in_union();
        let fresh = |a: usize, b: usize| {
            let (l, grant) = self.members[a].channels.get(&b)?;
            let end = self.hsp.links.get(l)?.ends.iter().find(|e| e.member() == Some(a) && e.up)?;
            let id = end.channel.as_ref().map(AttestedChannel::peer);
            (*grant == Grant::Full && id == Some(self.members[b].id())).then_some(self.now - end.fresh)
        };
        let mut apart = Vec::new();
        for a in &members {
            for b in members.iter().filter(|b| *b != a) {
                // As long as a verdict holds.
                if fresh(*a, *b).is_none_or(|age| age > u64::from(super::PERIOD) * 5 / 2) {
                    apart.push((*a, *b));
                }
            }
        }
        let honest = self.hsp.servers.iter().enumerate().filter(|(_, s)| s.rogue.is_none());
        let outside = honest.map(|(s, _)| s).skip(self.config.members);
        let outside = outside.filter(|s| !members.contains(s) && !self.hsp.gone.contains(s)).collect();
        self.hsp_see(&Seen::Settled { apart, outside });
    }
}
