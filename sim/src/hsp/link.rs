//! A connection: what TLS gives (order, two keys, an exporter), delay, and how it ends. Loss is delay here, as TCP has it; who is cut
//! off loses the connection.

use std::collections::VecDeque;

use gtvp_model::union::{Epoch, MemberId, UnionView};
use gtvp_protocol::csp::node::Event as Told;
use gtvp_protocol::frame::Frame;
use gtvp_protocol::hsp::join::{CredentialSecret, Joiner, Verifier};
use gtvp_protocol::hsp::{AttestedChannel, Command, Context, Event, Grant, Millis, Refusal, Session, Step};

use super::adversary::Mischief;
use super::invariant::Seen;
use super::tpm::Tpm;
use super::{At, PERIOD, What};
use crate::world::World;

/// Frames of other protocols that wait until the channel is there: what comes in a round trip.
const EARLY: usize = 256;

/// Who is at an end.
pub enum Who {
    /// A member.
    Member(usize),
    /// A server that joins.
    Joiner(usize),
    /// Who has a member's disk, and another TPM.
    Clone(Box<(usize, Tpm, UnionView)>),
    /// Who has a member's TLS key, and plays back what that member said once.
    Player(Vec<Frame>),
    /// Who says what it hears.
    Mirror,
}

/// What runs at an end.
pub enum Machine {
    Session(Session),
    Joiner(Joiner),
    Verifier(Verifier),
    Gone,
}

/// See the module.
pub struct End {
    pub who: Who,
    pub life: u32,
    pub machine: Machine,
    pub channel: Option<AttestedChannel>,
    pub up: bool,
    /// When evidence was last believed.
    pub fresh: u64,
    /// When the channel came to be.
    pub since: u64,
    /// Its epoch, as its hello said.
    pub epoch: Epoch,
    /// Life and clock of the peer's TPM that were known when evidence was asked for.
    pub asked: Option<(u32, u64)>,
    /// Whom it has called, or who its TLS key says has called.
    pub expects: Option<MemberId>,
    pub early: Vec<Frame>,
    pub learning: Vec<u8>,
    pub learned: bool,
    pub secret: Option<CredentialSecret>,
    pub timer: Option<u64>,
    pub over: bool,
    /// It says that it has taken an entry, and has not.
    pub lies: bool,
}

/// See the module.
pub struct Link {
    pub ends: [End; 2],
    pub exporters: [[u8; 32]; 2],
    /// To each end; `None` is the close.
    pub queues: [VecDeque<Option<Frame>>; 2],
    last: [u64; 2],
    pub broken: bool,
    pub suffers: Option<Mischief>,
    /// The pair that is waiting for it.
    pub pair: Option<(usize, usize)>,
    /// What who dialled has said.
    pub said: Vec<Frame>,
}

impl End {
    pub fn new(who: Who, life: u32) -> Self {
        Self {
            who,
            life,
            machine: Machine::Gone,
            channel: None,
            up: false,
            fresh: 0,
            since: 0,
            epoch: Epoch(0),
            asked: None,
            expects: None,
            early: Vec::new(),
            learning: Vec::new(),
            learned: false,
            secret: None,
            timer: None,
            over: false,
            lies: false,
        }
    }

    /// The member that this end is.
    pub fn member(&self) -> Option<usize> {
        if let Who::Member(m) = self.who { Some(m) } else { None }
    }

    /// The server whose TPM and software this end is.
    pub fn server(&self) -> Option<usize> {
        match self.who {
            Who::Member(s) | Who::Joiner(s) => Some(s),
            _ => None,
        }
    }

    /// It has a channel for everything.
    pub fn full(&self) -> bool {
        self.up && self.channel.as_ref().is_some_and(|c| c.grant() == Grant::Full)
    }
}

impl Link {
    pub fn new(ends: [End; 2], exporters: [[u8; 32]; 2]) -> Self {
        Self {
            ends,
            exporters,
            queues: Default::default(),
            last: [0; 2],
            broken: false,
            suffers: None,
            pair: None,
            said: Vec::new(),
        }
    }
}

impl World {
    pub(crate) fn hsp_end(&self, at: At) -> Option<&End> {
        self.hsp.links.get(&at.0).and_then(|l| l.ends.get(at.1))
    }

    pub(crate) fn hsp_end_mut(&mut self, at: At) -> Option<&mut End> {
        self.hsp.links.get_mut(&at.0).and_then(|l| l.ends.get_mut(at.1))
    }

    /// A frame goes to the other end, behind those before it.
    pub(crate) fn hsp_send(&mut self, at: At, frame: Frame) {
        let frames = if frame.kind < 32 { self.hsp_tricked(at, frame) } else { vec![frame] };
        frames.into_iter().for_each(|f| self.hsp_put(at, Some(f)));
    }

    /// A frame of another protocol, by the connection that is this member's channel.
    pub(crate) fn hsp_send_on(&mut self, connection: u64, from: usize, frame: Frame) {
        let at = [(connection, 0), (connection, 1)].into_iter();
        let mut mine = at.filter(|at| self.hsp_end(*at).is_some_and(|e| e.member() == Some(from) && e.up));
        if let Some(at) = mine.next() {
            self.hsp_send(at, frame);
        }
    }

    pub(crate) fn hsp_put(&mut self, (l, i): At, item: Option<Frame>) {
        let j = 1 - i;
        let Some(link) = self.hsp.links.get_mut(&l) else { return };
        if link.broken {
            return;
        }
        let of = |end: &End| end.server();
        let cut = of(&link.ends[i]).zip(of(&link.ends[j])).is_some_and(|pair| self.cut.contains(&pair));
        if cut {
            // Whoever waits for an answer may find out before TCP does.
            link.broken = true;
            for end in [i, j] {
                let wait = self.rng.between(500, 5000);
                self.hsp_after(wait, What::Lost((l, end)));
            }
            return;
        }
        if i == 0 && link.said.len() < 64 {
            link.said.extend(item.clone());
        }
        let (low, high) = self.faults.delay;
        let mut wait = self.rng.between(low, high);
        while self.rng.permille(self.faults.loss) {
            wait += 200;
        }
        let when = (self.now + wait).max(link.last[j]);
        link.last[j] = when;
        link.queues[j].push_back(item);
        let wait = when - self.now;
        self.hsp_after(wait, What::Deliver((l, j)));
    }

    pub(crate) fn hsp_deliver(&mut self, at: At) {
        let Some(item) = self.hsp.links.get_mut(&at.0).and_then(|l| l.queues[at.1].pop_front()) else { return };
        let Some(end) = self.hsp_end_mut(at) else { return };
        let Some(frame) = item else { return self.hsp_event(at, Event::Lost) };
        match &mut end.who {
            Who::Mirror => return self.hsp_put(at, Some(frame)),
            Who::Player(frames) => {
                // Its last word is that it believes the other, once that has said so.
                if frame.kind == 5 && !frames.is_empty() {
                    let last = std::mem::take(frames);
                    last.into_iter().for_each(|f| self.hsp_put(at, Some(f)));
                }
                return;
            }
            _ => {}
        }
        if frame.kind < 32 {
            let (kind, member) = (frame.kind, end.server().unwrap_or(usize::MAX));
            self.record(kind, member, &frame.body);
            return self.hsp_event(at, Event::Frame(frame));
        }
        if !end.up {
            if end.early.len() < EARLY {
                end.early.push(frame);
            }
            return;
        }
        self.hsp_told(at, frame);
    }

    /// A frame of another protocol.
    fn hsp_told(&mut self, at: At, frame: Frame) {
        let Some(end) = self.hsp_end(at) else { return };
        let (Some(m), Some(peer)) = (end.member(), end.channel.as_ref().map(AttestedChannel::peer)) else { return };
        if self.members[m].alive.is_some() {
            self.record(frame.kind, m, &frame.body);
            self.event(m, Told::Frame(peer, frame));
        }
    }

    /// Has this end's engine look at something.
    pub(crate) fn hsp_event(&mut self, at: At, event: Event) {
        let now = self.now;
        let Some(end) = self.hsp.links.get_mut(&at.0).and_then(|l| l.ends.get_mut(at.1)) else { return };
        if end.over {
            return;
        }
        let machine = std::mem::replace(&mut end.machine, Machine::Gone);
        let (view, born, skew) = match &end.who {
            Who::Member(m) => match &self.members[*m].alive {
                Some(life) if self.members[*m].life == end.life => {
                    (Some(life.keeper.record().view()), life.born, self.members[*m].skew)
                }
                _ => return,
            },
            Who::Clone(clone) => (Some(&clone.2), 0, 0),
            _ => (None, 0, 0),
        };
        let millis = Millis(now - born);
        let step: Step<Machine> = match (machine, view) {
            (Machine::Joiner(s), _) => s.on(event, millis).map(Machine::Joiner),
            (Machine::Session(s), Some(view)) => {
                let ctx = Context { now: millis, wall: crate::world::wall(now, skew), view };
                s.on(event, &ctx).map(Machine::Session)
            }
            (Machine::Verifier(s), Some(view)) => {
                let ctx = Context { now: millis, wall: crate::world::wall(now, skew), view };
                s.on(event, &ctx).map(Machine::Verifier)
            }
            _ => return,
        };
        self.hsp_take(at, step);
    }

    pub(crate) fn hsp_take(&mut self, at: At, step: Step<Machine>) {
        let Some(end) = self.hsp_end_mut(at) else { return };
        end.machine = step.next;
        for command in step.commands {
            if let Command::Close(refusal) = command {
                return self.hsp_close(at, &refusal);
            }
            if !self.hsp_carry(at, command) {
                break;
            }
        }
        self.hsp_timer(at);
    }

    fn hsp_timer(&mut self, at: At) {
        let Some(end) = self.hsp_end(at) else { return };
        let deadline = match &end.machine {
            Machine::Session(s) => s.deadline(),
            Machine::Joiner(s) => s.deadline(),
            Machine::Verifier(s) => s.deadline(),
            Machine::Gone => None,
        };
        let born = end.member().and_then(|m| self.members[m].alive.as_ref()).map_or(0, |l| l.born);
        let (Some(deadline), now) = (deadline, self.now) else { return };
        let when = (born + deadline.0).max(now + 1);
        let Some(end) = self.hsp_end_mut(at) else { return };
        if end.timer.is_none_or(|t| t > when) {
            end.timer = Some(when);
            self.hsp_after(when - now, What::Timer(at));
        }
    }

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
        let jitter = self.rng.between(0, 200);
        self.hsp_after(u64::from(PERIOD) + jitter, What::Renew(at));
        if grant == Grant::RecordOnly && at.1 == 0 {
            self.hsp_after(3000, What::Narrow(at));
        }
        early.into_iter().for_each(|f| self.hsp_told(at, f));
    }

    /// This end is over.
    fn hsp_close(&mut self, at: At, refusal: &Refusal) {
        let Some(end) = self.hsp_end_mut(at) else { return };
        if end.over {
            return;
        }
        (end.over, end.machine) = (true, Machine::Gone);
        let (up, server, member) = (std::mem::take(&mut end.up), end.server(), end.member());
        let peer = end.channel.take().map(|c| c.peer());
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
        }
        self.hsp_put(at, None);
        self.hsp_over(at.0, matches!(refusal, Refusal::EvidenceRejected { .. }));
        let judged = matches!(refusal, Refusal::EvidenceRejected { .. } | Refusal::KeysRejected { .. });
        if judged {
            self.hsp.count("not believed");
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
        server.batcher = gtvp_protocol::hsp::Batcher::new(u64::from(PERIOD) / 8);
        // Now and then power is gone, and not the processes alone.
        if self.rng.permille(500) {
            self.hsp_reboots(s);
        }
        let server = &mut self.hsp.servers[s];
        server.appraiser = super::appraiser::Appraiser::new(self.config.omitted.clone());
        let mine = |l: &Link, i: usize| l.ends[i].server() == Some(s) && !l.ends[i].over;
        let all: Vec<At> = self
            .hsp
            .links
            .iter()
            .flat_map(|(n, l)| (0..2).filter(|i| mine(l, *i)).map(|i| (*n, i)))
            .collect();
        for at in all {
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

    /// This member's record has changed.
    pub(crate) fn hsp_changed(&mut self, m: usize) {
        let mine = |l: &Link, i: usize| l.ends[i].member() == Some(m) && !l.ends[i].over;
        let all: Vec<At> = self
            .hsp
            .links
            .iter()
            .flat_map(|(n, l)| (0..2).filter(|i| mine(l, *i)).map(|i| (*n, i)))
            .collect();
        all.into_iter().for_each(|at| self.hsp_event(at, Event::ViewChanged));
        let out = self.hsp_channels(m);
        self.hsp_see(&Seen::Changed { by: m, strangers: out });
    }
}
