//! A connection: what TLS gives (order, two keys, an exporter), delay, and how it ends. Loss is delay here, as TCP has it; who is cut
//! off loses the connection.

use std::collections::VecDeque;

use gtvp_model::union::{Epoch, MemberId, UnionView};
use gtvp_protocol::csp::node::Event as Told;
use gtvp_protocol::frame::Frame;
use gtvp_protocol::hsp::join::{CredentialSecret, Joiner, Verifier};
use gtvp_protocol::hsp::{
    Appraisal, AttestedChannel, Command, Context, Event, Grant, Millis, Request, Session, Step,
};

use super::adversary::Mischief;
use super::tpm::Tpm;
use super::{At, What};
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
    /// Whose TLS key the other end has shown.
    pub expects: Option<MemberId>,
    /// Whom it has called.
    pub called: Option<MemberId>,
    pub early: Vec<Frame>,
    pub learning: Vec<u8>,
    pub learned: bool,
    pub secret: Option<CredentialSecret>,
    pub timer: Option<u64>,
    pub over: bool,
    /// It says that it has taken an entry, and has not.
    pub lies: bool,
    /// Its appraisal says again what it said last, before it says what is so.
    pub echoes: bool,
    /// What its appraisal believed last.
    pub said_yes: Option<(Request, Appraisal)>,
    /// Its random numbers stand still: every nonce is this one.
    pub stuck: Option<[u8; 32]>,
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
            called: None,
            early: Vec::new(),
            learning: Vec::new(),
            learned: false,
            secret: None,
            timer: None,
            over: false,
            lies: false,
            echoes: false,
            said_yes: None,
            stuck: None,
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
        let Some(item) = self.hsp.links.get_mut(&at.0).and_then(|l| l.queues[at.1].pop_front()) else {
            return;
        };
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
    pub(crate) fn hsp_told(&mut self, at: At, frame: Frame) {
        let Some(end) = self.hsp_end(at) else { return };
        let (Some(m), Some(peer)) = (end.member(), end.channel.as_ref().map(AttestedChannel::peer)) else {
            return;
        };
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
}
