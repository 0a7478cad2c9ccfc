//! What goes wrong: links, power, clocks, disks.

use gtvp_protocol::csp::node::Event;
use gtvp_protocol::frame::Frame;
use gtvp_protocol::hsp::Grant;

use crate::config::{Faults, Story};
use crate::world::{Mend, What, World};

impl World {
    /// Puts a frame on its way.
    pub(crate) fn send(&mut self, from: usize, to: usize, frame: Frame) {
        let Some((connection, _)) = self.members[from].channels.get(&to).copied() else { return };
        if self.hsp.on {
            return self.hsp_send_on(connection, from, frame);
        }
        let frames = if self.liar == Some(from) { self.lie(from, to, frame) } else { vec![frame] };
        for frame in frames {
            if self.rng.permille(self.faults.loss) {
                continue;
            }
            let (low, high) = self.faults.delay;
            let copies = 1 + u64::from(self.rng.permille(self.faults.duplicates));
            for _ in 0..copies {
                let wait = self.rng.between(low, high);
                self.after(wait, What::Deliver { from, to, connection, frame: frame.clone() });
            }
        }
    }

    pub(crate) fn review_all(&mut self) {
        (0..self.members.len()).for_each(|m| self.review_of(m));
    }

    pub(crate) fn review_of(&mut self, m: usize) {
        (0..self.members.len()).filter(|o| *o != m).for_each(|o| self.review(m, o));
    }

    /// Has two members connect that could be.
    pub(crate) fn review(&mut self, a: usize, b: usize) {
        let (a, b) = (a.min(b), a.max(b));
        let both =
            |w: &Self| w.members[a].channels.contains_key(&b) && w.members[b].channels.contains_key(&a);
        let alive = self.members[a].alive.is_some() && self.members[b].alive.is_some();
        if !alive || both(self) || !self.connecting.insert((a, b)) {
            return;
        }
        let wait = self.rng.between(20, 600);
        self.after(wait, What::Connect(a, b));
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut.contains(&(a, b)) || self.cut.contains(&(b, a))
    }

    fn knows(&self, a: usize, b: usize) -> bool {
        let id = self.members[b].id();
        self.members[a].alive.as_ref().is_some_and(|l| l.keeper.record().member(&id).is_some())
    }

    fn grant(&self, a: usize, b: usize) -> Option<Grant> {
        let epoch = |m: usize| self.members[m].alive.as_ref().map(|l| l.keeper.record().view().epoch);
        let (ours, theirs) = (epoch(a)?, epoch(b)?);
        Some(if ours == theirs { Grant::Full } else { Grant::RecordOnly })
    }

    pub(crate) fn connect(&mut self, a: usize, b: usize) {
        self.connecting.remove(&(a, b));
        if self.hsp.on {
            let there = |x: usize, y: usize| self.members[x].channels.contains_key(&y);
            let alive = self.members[a].alive.is_some() && self.members[b].alive.is_some();
            if alive && !(there(a, b) && there(b, a)) {
                self.hsp_connect(a, b);
            }
            return;
        }
        let Some(grant) = self.grant(a, b) else { return };
        let paused = |m: usize| self.members[m].alive.as_ref().is_some_and(|l| l.paused > self.now);
        if self.is_cut(a, b) || paused(a) || paused(b) || !self.knows(a, b) || !self.knows(b, a) {
            // As members do that dial again.
            self.connecting.insert((a, b));
            let wait = self.rng.between(1000, 3000);
            self.after(wait, What::Connect(a, b));
            return;
        }
        self.connections += 1;
        for (m, peer) in [(a, b), (b, a)] {
            let id = self.members[peer].id();
            if self.members[m].channels.insert(peer, (self.connections, grant)).is_some() {
                self.event(m, Event::Down(id));
            }
        }
        for (m, peer) in [(a, b), (b, a)] {
            let id = self.members[peer].id();
            self.event(m, Event::Up(id, grant));
        }
    }

    fn close(&mut self, a: usize, b: usize) {
        for (m, peer) in [(a, b), (b, a)] {
            if self.members[m].channels.remove(&peer).is_some() {
                let id = self.members[peer].id();
                self.event(m, Event::Down(id));
            }
        }
        self.review(a, b);
    }

    /// This member's record has changed: sessions of another epoch end, and with those who are no members.
    pub(crate) fn regrant(&mut self, m: usize) {
        if self.hsp.on {
            return self.hsp_changed(m);
        }
        let channels: Vec<_> = self.members[m].channels.iter().map(|(p, (_, g))| (*p, *g)).collect();
        for (peer, grant) in channels {
            if !self.knows(m, peer) || self.grant(m, peer).is_some_and(|g| g != grant) {
                self.close(m, peer);
            }
        }
    }

    fn notice(&mut self, a: usize, b: usize) {
        if self.hsp.on {
            return;
        }
        for (at, peer) in [(a, b), (b, a)] {
            if let Some((connection, _)) = self.members[at].channels.get(&peer).copied() {
                let wait = self.rng.between(500, 5000);
                self.after(wait, What::Notice { at, peer, connection });
            }
        }
    }

    fn partition(&mut self) {
        let n = self.members.len();
        let side: Vec<bool> = (0..n).map(|_| self.rng.permille(500)).collect();
        let one_way = self.rng.permille(200);
        for a in 0..n {
            for b in 0..n {
                if side[a] && !side[b] {
                    self.cut.insert((a, b));
                    if !one_way {
                        self.cut.insert((b, a));
                    }
                    self.notice(a, b);
                }
            }
        }
        let wait = self.rng.between(500, 20_000);
        self.after(wait, What::Mend(Mend::Links));
    }

    /// Something goes wrong, and the next time is set.
    pub(crate) fn fault(&mut self) {
        if !self.working {
            return;
        }
        let wait = self.rng.between(self.faults.pace / 10, self.faults.pace);
        self.after(wait, What::Fault);
        if (self.config.story == Story::Rollback || self.config.rolls_back) && self.old_disk.is_none() {
            self.rolled = self.rolled.or_else(|| self.a_voter());
            if let Some(voter) = self.rolled {
                let mut old = self.members[voter].disk.clone();
                old.crash(&mut self.rng.fork());
                self.old_disk = Some(old);
                let wait = self.rng.between(1000, 15_000);
                self.after(wait, What::Mend(Mend::Disk(voter)));
            }
        }
        let all: Vec<usize> = (0..self.members.len()).collect();
        let Some(m) = self.rng.pick(&all) else { return };
        match self.rng.between(0, 3) {
            0 if self.faults.partitions => self.partition(),
            1 if self.faults.crashes => {
                // Now and then the power of the whole rack.
                let gone = if self.rng.permille(150) { all } else { vec![m] };
                for m in gone {
                    self.crash(m);
                    let wait = self.rng.between(100, 15_000);
                    self.after(wait, What::Start(m));
                }
            }
            2 if self.faults.pauses => {
                let until = self.now + self.rng.between(100, 30_000);
                if let Some(life) = &mut self.members[m].alive {
                    // What stood still already goes on when that pause ends: no later one is shorter.
                    life.paused = life.paused.max(until);
                }
            }
            3 if self.faults.skew > 0 => {
                let skew = i64::try_from(self.rng.between(0, self.faults.skew)).unwrap_or(0);
                self.members[m].skew = if self.rng.permille(500) { skew } else { -skew };
            }
            _ => {}
        }
    }

    /// A voter's disk is what it was some time ago.
    pub(crate) fn go_back(&mut self, m: usize) {
        self.crash(m);
        if let Some(old) = self.old_disk.take() {
            self.members[m].disk = old;
            self.members[m].exempt = true;
        }
        self.after(500, What::Start(m));
    }

    /// Faults are over.
    pub(crate) fn mend(&mut self) {
        self.working = false;
        self.faults = Faults::NONE;
        self.cut.clear();
        self.hsp_mend();
        for m in 0..self.members.len() {
            let wait = self.rng.between(10, 500);
            self.after(wait, What::Start(m));
        }
        self.review_all();
    }
}
