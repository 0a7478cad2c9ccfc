//! How a channel comes to be and how a connection ends, for the member's node and for the run.

use gtvp_protocol::csp::node::Event as Told;
use gtvp_protocol::hsp::{Event, Grant, Lengths, Refusal};

use super::invariant::Seen;
use super::link::{End, Link, Machine, Who};
use super::{At, PERIOD, What};
use crate::world::World;

impl World {
    /// The channel is there for this end.
    pub(crate) fn hsp_up(&mut self, at: At) {
        let now = self.now;
        let Some(end) = self.hsp_end_mut(at) else { return };
        let (Some(m), Some(channel), false) = (end.member(), &end.channel, end.up) else {
            // Who attacks has what it wanted.
            return;
        };
        let (peer, grant, lies) = (channel.peer(), channel.grant(), end.lies);
        let alive = self.members[m].alive.as_ref();
        if !lies && alive.is_none_or(|l| l.keeper.record().member(&peer).is_none()) {
            // Who is no member any more when the channel is there has none.
            return self.hsp_event(at, Event::ViewChanged);
        }
        let Some(end) = self.hsp_end_mut(at) else { return };
        (end.up, end.since, end.fresh) = (true, now, now);
        let early = std::mem::take(&mut end.early);
        let Some(p) = self.ids.get(&peer).copied() else { return };
        self.record(210, m, peer.as_bytes());
        self.note(m, || format!("has a channel with m{p}: {grant:?}"));
        self.hsp.count(if grant == Grant::Full { "channels" } else { "narrow channels" });
        if let Some(link) = self.hsp.links.get(&at.0)
            && link.suffers.is_none()
            && let [Some(a), Some(b)] = link.ends.each_ref().map(End::server)
        {
            let said = link.said.iter().filter(|f| f.kind < 32).cloned().collect();
            self.hsp.recorded.insert((a, b), said);
        }
        self.hsp_opened(at);
        let old = self.members[m].channels.insert(p, (at.0, grant));
        if let Some((old, _)) = old {
            self.event(m, Told::Down(peer));
            for i in 0..2 {
                if self.hsp_end((old, i)).is_some_and(|e| e.member() == Some(m)) {
                    self.hsp_event((old, i), Event::End);
                }
            }
        }
        self.event(m, Told::Up(peer, grant));
        self.hsp_renew_later(at);
        if grant == Grant::RecordOnly && at.1 == 0 {
            self.hsp_after(3000, What::Narrow(at));
        }
        early.into_iter().for_each(|f| self.hsp_told(at, f));
    }

    /// This end is over.
    pub(crate) fn hsp_close(&mut self, at: At, refusal: &Refusal) {
        let Some(end) = self.hsp_end_mut(at) else { return };
        if end.over {
            return;
        }
        (end.over, end.machine) = (true, Machine::Gone);
        let (up, server, member) = (std::mem::take(&mut end.up), end.server(), end.member());
        let (peer, mut lost) = (end.channel.take().map(|c| c.peer()), None);
        if let Some(s) = server {
            self.record(211, s, refusal.name().as_bytes());
            self.note(s, || format!("closes {at:?}: {refusal}"));
            self.hsp_closed(at, s, refusal);
        }
        if let (Some(m), Some(peer), true) = (member, peer, up)
            && let Some(p) = self.ids.get(&peer).copied()
            && self.members[m].channels.get(&p).is_some_and(|(c, _)| *c == at.0)
        {
            self.members[m].channels.remove(&p);
            self.event(m, Told::Down(peer));
            lost = Some((m, p));
        }
        self.hsp_put(at, None);
        let bad = matches!(refusal, Refusal::EvidenceRejected { .. } | Refusal::NotAppraised { .. });
        if bad {
            self.hsp.count("not believed");
        }
        self.hsp_over(at.0, bad);
        if let Some((m, p)) = lost {
            self.review(m, p);
        }
    }

    /// Whoever wanted this connection may begin anew; a connection that nobody has is forgotten.
    fn hsp_over(&mut self, l: u64, bad: bool) {
        let Some(link) = self.hsp.links.get_mut(&l) else { return };
        let pair = link.pair.take();
        let joins = link.ends.iter().find_map(|e| if let Who::Joiner(s) = e.who { Some(s) } else { None });
        if link.ends.iter().all(|e| e.over || e.server().is_none()) {
            self.hsp.links.remove(&l);
        }
        if let Some(s) = joins.filter(|s| self.hsp.joining.get(s) == Some(&l)) {
            self.hsp.joining.remove(&s);
            let wait = self.rng.between(1000, 5000);
            self.hsp_after(wait, What::Try(s));
        }
        if let Some((a, b)) = pair {
            self.connecting.remove(&(a, b));
            if bad {
                self.connecting.insert((a, b));
                let wait = self.rng.between(500, 3000);
                self.after(wait, crate::world::What::Connect(a, b));
            } else {
                self.review(a, b);
            }
        }
    }

    /// Power is gone.
    pub(crate) fn hsp_crash(&mut self, s: usize) {
        if !self.hsp.on {
            return;
        }
        let server = &mut self.hsp.servers[s];
        server.life += 1;
        server.batcher = gtvp_protocol::hsp::Batcher::new(Lengths::of(PERIOD));
        // Now and then power is gone, and not the processes alone.
        if self.rng.permille(500) {
            self.hsp_reboots(s);
        }
        let server = &mut self.hsp.servers[s];
        server.appraiser = super::appraiser::Appraiser::new(self.config.omitted.clone());
        for at in self.hsp_ends(|end| end.server() == Some(s)) {
            if let Some(end) = self.hsp_end_mut(at) {
                (end.over, end.up, end.machine, end.channel) = (true, false, Machine::Gone, None);
            }
            if let Some(link) = self.hsp.links.get_mut(&at.0) {
                link.broken = true;
            }
            let wait = self.rng.between(0, 2000);
            self.hsp_after(wait, What::Lost((at.0, 1 - at.1)));
            self.hsp_over(at.0, false);
        }
    }

    /// Ends of these that are not over.
    fn hsp_ends(&self, mine: impl Fn(&End) -> bool) -> Vec<At> {
        let of = |l: &Link, i: usize| mine(&l.ends[i]) && !l.ends[i].over;
        let links = self.hsp.links.iter();
        links.flat_map(|(n, l)| (0..2).filter(|i| of(l, *i)).map(|i| (*n, i))).collect()
    }

    /// This member's record has changed.
    pub(crate) fn hsp_changed(&mut self, m: usize) {
        self.hsp_ends(|end| end.member() == Some(m))
            .into_iter()
            .for_each(|at| self.hsp_event(at, Event::ViewChanged));
        let out = self.hsp_channels(m);
        self.hsp_see(&Seen::Changed { by: m, strangers: out });
    }
}
