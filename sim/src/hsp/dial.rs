//! How a connection begins: a member dials another, and somebody on the network may have it end elsewhere.

use gtvp_model::union::{MemberId, RosterEntry};
use gtvp_protocol::hsp::message::Message;
use gtvp_protocol::hsp::{Context, Expect, Millis, Role, Session, Setup, Step, Timing};

use super::adversary::Mischief;
use super::link::{End, Link, Machine, Who};
use super::tpm::{Tpm, ask};
use super::{At, What};
use crate::world::{World, wall};

impl World {
    fn hsp_entry(&self, m: usize, of: &MemberId) -> Option<RosterEntry> {
        self.members[m].alive.as_ref()?.keeper.record().member(of).cloned()
    }

    /// One of the two dials the other.
    pub(crate) fn hsp_connect(&mut self, a: usize, b: usize) {
        let (from, to) = if self.rng.permille(500) { (a, b) } else { (b, a) };
        let paused = |m: usize| self.members[m].alive.as_ref().is_none_or(|l| l.paused > self.now);
        let cut = self.cut.contains(&(a, b)) || self.cut.contains(&(b, a));
        let (own, id) = (self.members[from].id(), self.members[to].id());
        let known = self.hsp_entry(from, &id).is_some() && self.hsp_entry(from, &own).is_some();
        if cut || paused(a) || paused(b) || !known {
            // As members do that dial again.
            self.connecting.insert((a.min(b), a.max(b)));
            let wait = self.rng.between(1000, 3000);
            self.after(wait, crate::world::What::Connect(a, b));
            return;
        }
        self.connecting.insert((a.min(b), a.max(b)));
        let suffers = self.hsp.next.take();
        let l = self.hsp_new_link();
        let (mut ends, mut callee) = ([self.hsp_new_end(from), self.hsp_new_end(to)], to);
        let mut spki = [self.hsp.servers[from].tpm.spki(), self.hsp.servers[to].tpm.spki()];
        let exporter = self.hsp_nonce();
        let mut exporters = [exporter; 2];
        match suffers {
            // In the middle is one who has both TLS keys: two connections, and every byte is passed on.
            Some(Mischief::Relay) => exporters[1] = self.hsp_nonce(),
            Some(Mischief::Divert) => {
                let others: Vec<usize> =
                    self.in_union().into_iter().filter(|m| *m != from && *m != to).collect();
                if let Some(other) = self.rng.pick(&others) {
                    (ends[1], callee) = (self.hsp_new_end(other), other);
                    spki[1] = self.hsp.servers[other].tpm.spki();
                }
            }
            Some(Mischief::Clone) => {
                let tpm = Tpm::of("a clone");
                let Some(view) = self.members[from].alive.as_ref().map(|l| l.keeper.record().view().clone())
                else {
                    return;
                };
                spki[0] = tpm.spki();
                ends[0] = End::new(Who::Clone(Box::new((from, tpm, view))), 0);
            }
            Some(Mischief::Replay) => {
                let said = self.hsp.recorded.get(&(from, to)).cloned().unwrap_or_default();
                ends[0] = End::new(Who::Player(said), 0);
            }
            Some(Mischief::Reflect) => {
                // It has the key of the one that dials.
                spki[1] = spki[0];
                ends[1] = End::new(Who::Mirror, 0);
            }
            _ => {}
        }
        if let Some(what) = suffers {
            self.hsp.count(what.name());
            self.note(from, || format!("{} on its connection {l} to m{to}", what.name()));
        }
        let mut link = Link::new(ends, exporters);
        (link.suffers, link.pair) = (suffers, Some((a.min(b), a.max(b))));
        self.hsp.links.insert(l, link);
        self.hsp_session((l, 1), callee, spki[0], Expect::Member);
        self.hsp_session((l, 0), from, spki[1], Expect::Dialled(id));
        if suffers == Some(Mischief::Replay) {
            self.hsp_play(l);
        }
    }

    pub(crate) fn hsp_new_link(&mut self) -> u64 {
        self.connections += 1;
        self.connections
    }

    pub(crate) fn hsp_new_end(&self, m: usize) -> End {
        End::new(Who::Member(m), self.members[m].life)
    }

    /// Has this end, of this member or of who passes for it, begin.
    fn hsp_session(&mut self, at: At, m: usize, peer_spki: gtvp_model::union::SpkiDigest, expect: Expect) {
        let Some(link) = self.hsp.links.get(&at.0) else { return };
        if matches!(link.ends[at.1].who, Who::Player(_) | Who::Mirror) {
            return;
        }
        let Some(life) = &self.members[m].alive else { return };
        let own = life.keeper.record().member(&self.members[m].id()).cloned();
        let role = if at.1 == 0 { Role::Initiator } else { Role::Responder };
        let setup = Setup {
            role,
            first: role == Role::Initiator,
            own: own.unwrap_or_else(|| self.members[m].keys.entry.clone()),
            admitted: true,
            exporter: link.exporters[at.1],
            peer_spki,
            ask: match &expect {
                Expect::Dialled(id) => self.hsp.servers[m].appraiser.ask(*id),
                _ => ask(),
            },
            expect: expect.clone(),
            timing: Timing::default(),
        };
        let born = if matches!(link.ends[at.1].who, Who::Clone(_)) { 0 } else { life.born };
        let (now, epoch) = (Millis(self.now - born), life.keeper.record().view().epoch);
        let nonce = self.hsp_nonce();
        let suffers = |what| self.working && self.config.attack == Some(what);
        let (echoes, stuck) = (suffers(Mischief::Echo), suffers(Mischief::Stuck) && self.rng.permille(300));
        let Some(life) = &self.members[m].alive else { return };
        let view = life.keeper.record().view();
        let ctx = Context { now, wall: wall(self.now, self.members[m].skew), view };
        let view_of_key = |e: &&RosterEntry| e.identity.spki() == peer_spki;
        let expects = view.members.values().find(view_of_key).map(RosterEntry::id);
        let step: Step<Session> = Session::start(setup, nonce, &ctx);
        if let Some(end) = self.hsp_end_mut(at) {
            (end.epoch, end.expects) = (epoch, expects);
            (end.echoes, end.stuck) = (echoes, stuck.then_some(nonce));
            end.called = if let Expect::Dialled(id) = expect { Some(id) } else { None };
        }
        self.hsp_asks(at);
        self.hsp_take(at, step.map(Machine::Session));
    }

    /// Who plays back says all but its last word at once.
    fn hsp_play(&mut self, l: u64) {
        let Some(end) = self.hsp_end_mut((l, 0)) else { return };
        let Who::Player(frames) = &mut end.who else { return };
        let accept = |f: &gtvp_protocol::frame::Frame| f.kind == 5;
        let at = frames.iter().position(accept).unwrap_or(frames.len());
        let rest = frames.split_off(at);
        let first = std::mem::replace(frames, rest.into_iter().take(1).collect());
        first.into_iter().for_each(|f| self.hsp_put((l, 0), Some(f)));
        self.hsp_after(60_000, What::Lost((l, 1)));
    }

    /// A message out of this end as a tampered member's `communication` lets it pass.
    pub(crate) fn hsp_tricked(
        &mut self,
        at: At,
        frame: gtvp_protocol::frame::Frame,
    ) -> Vec<gtvp_protocol::frame::Frame> {
        let server = self.hsp_end(at).and_then(End::server);
        let Some(s) = server else { return vec![frame] };
        let Ok(message) = Message::decode(&frame) else { return vec![frame] };
        let out = self.hsp_trick(at, s, message);
        out.iter().map(Message::frame).collect()
    }
}
