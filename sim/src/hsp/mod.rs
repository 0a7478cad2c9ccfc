//! HSP in a run: members have connections by handshakes, prove themselves in each period, and servers join by tokens, while somebody on
//! the network plays back, reflects, relays and diverts, and while members are tampered with, reset, evicted and cut off.
//!
//! The engines are the product's (`gtvp_protocol::hsp`): sessions, joiners, verifiers, batches of quotes. A TPM and what appraisal
//! makes of its quotes are cheap ones (`tpm`, `appraiser`), with each check of the real ones that an attack here needs. TLS is two
//! keys and an exporter. The results plane is not in it: all appraise all.
//!
//! * `link` a connection: order, delay · `ends` how channels come and go · `carry` what engines want done · `dial` how one begins · `join` how servers join
//! * `adversary` who attacks, and by what · `truth` what is so, whoever believes what · `invariant` what must hold

mod adversary;
mod appraiser;
mod carry;
mod dial;
mod ends;
mod invariant;
mod join;
mod link;
mod tpm;
mod truth;

use std::collections::{BTreeMap, BTreeSet};

use gtvp_model::token::JoinToken;
use gtvp_protocol::frame::Frame;
use gtvp_protocol::hsp::message::{Ask, Evidence};
use gtvp_protocol::hsp::{Batcher, Event, Lengths, Request};

pub use self::adversary::Mischief;
use self::adversary::Trick;
use self::appraiser::Appraiser;
use self::invariant::Invariants;
use self::link::Link;
use self::tpm::Tpm;
use crate::config::{Config, Story};
use crate::world::World;

/// Members prove themselves anew after so long, ms.
pub const PERIOD: u32 = 2000;
/// Servers that join in a run, and those that must not.
pub const JOINERS: usize = 2;
pub const ROGUES: usize = 9;

/// One end of a connection: its number, and 0 for who dialled.
type At = (u64, usize);

/// Who waits for a quote.
type Challenger = (At, Request, Ask);

/// What happens next.
pub enum What {
    /// The next item of the queue to this end.
    Deliver(At),
    /// `security` has done something, for this end.
    Done(At, Box<Event>),
    /// A deadline of this end's engine.
    Timer(At),
    /// Fresh evidence is due.
    Renew(At),
    /// A channel for the record alone has served.
    Narrow(At),
    /// This end learns that the connection is gone.
    Lost(At),
    /// A batch is due.
    Batch(usize, u32),
    /// The TPM has quoted.
    Quoted(usize, u32, Box<gtvp_protocol::hsp::Sealed<Challenger>>),
    /// A verifier looks for the entry that it has proposed.
    Commit(At, Request),
    /// A server without a union looks for a token, and joins.
    Try(usize),
    /// Somebody does something.
    Mischief,
    /// What is so is compared with what is believed.
    Audit,
}

/// A server of the run, with what no crash takes from it.
pub struct Server {
    pub tpm: Tpm,
    /// What its `security` remembers, and its batches: gone when it ends.
    pub appraiser: Appraiser,
    pub batcher: Batcher<Challenger>,
    pub life: u32,
    /// The token that its administrator was given.
    pub token: Option<JoinToken>,
    /// The number of the token that is being made for it.
    pub making: Option<(u64, u64)>,
    /// It wants in, and must not come in: why.
    pub rogue: Option<Mischief>,
    /// What runs on it is not what should, and that can be seen in its TPM, since then.
    pub tampered: Option<u64>,
    /// How its `communication` hides that.
    pub trick: Option<Trick>,
    /// A state that its TPM was in, and when.
    pub saved: Option<(Tpm, u64)>,
    /// The life that its TPM was in before it was put back.
    pub left: u32,
    /// Who had seen a later state of a TPM that was put back, in which life of its own, and how long it can tell.
    pub known_by: BTreeMap<usize, (u32, u64)>,
    /// Its evidence may be of what it was, or its TPM's state a surprise, up to then.
    pub unsettled: u64,
    /// The evidence that it sent last, on a connection.
    pub last: BTreeMap<At, Evidence>,
    /// Where the log ends that it sent in place of its own.
    pub cut: BTreeMap<At, u64>,
}

/// All of HSP in a run.
#[derive(Default)]
pub struct State {
    /// The run has it.
    pub on: bool,
    pub servers: Vec<Server>,
    pub links: BTreeMap<u64, Link>,
    pub invariants: Option<Invariants>,
    /// Entries that verifiers have proposed: for whom, by which ticket, and whether it is still open.
    pub commits: BTreeMap<(At, Request), join::Commit>,
    /// What who dialled said on connections that became channels.
    pub recorded: BTreeMap<(usize, usize), Vec<Frame>>,
    /// What the next connection suffers.
    pub next: Option<Mischief>,
    /// Servers whose connection to join by is open.
    pub joining: BTreeMap<usize, u64>,
    /// Entries of the record that were looked at.
    pub entries: u64,
    /// What happened, how often.
    pub counts: BTreeMap<&'static str, u64>,
    /// Members that the record has lost.
    pub gone: BTreeSet<usize>,
}

impl State {
    /// Of this run.
    pub fn new(config: &Config) -> Self {
        if config.story != Story::Union {
            return Self::default();
        }
        let honest = config.members + JOINERS;
        let server = |n: usize| {
            let rogue = n.checked_sub(honest).and_then(|r| Mischief::ROGUES.get(r).copied());
            let mut tpm = Tpm::of(&format!("m{n}"));
            if rogue == Some(Mischief::Forger) {
                tpm.ek = b"ek of a genuine TPM".to_vec();
            }
            if rogue == Some(Mischief::Graft) {
                tpm.tls = b"a key in memory".to_vec();
            }
            if rogue == Some(Mischief::Tampered) {
                tpm.extend("bad:program");
            }
            Server {
                tpm,
                appraiser: Appraiser::new(config.omitted.clone()),
                batcher: Batcher::new(Lengths::of(PERIOD)),
                life: 0,
                token: None,
                making: None,
                rogue,
                tampered: (rogue == Some(Mischief::Tampered)).then_some(0),
                trick: None,
                saved: None,
                left: 0,
                known_by: BTreeMap::new(),
                unsettled: 0,
                last: BTreeMap::new(),
                cut: BTreeMap::new(),
            }
        };
        Self {
            on: true,
            servers: (0..honest + ROGUES).map(server).collect(),
            invariants: Some(Invariants::all()),
            ..Self::default()
        }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }
}

impl World {
    pub(crate) fn hsp_after(&mut self, ms: u64, what: What) {
        self.after(ms, crate::world::What::Hsp(what));
    }

    /// Whom it happens to, if to one.
    pub(crate) fn hsp_member(&self, what: &What) -> Option<usize> {
        match what {
            What::Deliver(at)
            | What::Done(at, _)
            | What::Timer(at)
            | What::Renew(at)
            | What::Narrow(at)
            | What::Lost(at)
            | What::Commit(at, _) => self.hsp_end(*at).and_then(link::End::member),
            What::Batch(s, _) | What::Quoted(s, ..) => Some(*s),
            What::Try(_) | What::Mischief | What::Audit => None,
        }
    }

    pub(crate) fn hsp_begin(&mut self) {
        if !self.hsp.on {
            return;
        }
        self.hsp_after(500, What::Audit);
        for s in self.config.members..self.hsp.servers.len() {
            let wait = self.rng.between(5000, 30_000);
            self.hsp_after(wait, What::Try(s));
        }
    }

    pub(crate) fn hsp_happen(&mut self, what: What) {
        match what {
            What::Deliver(at) => self.hsp_deliver(at),
            What::Done(at, event) => self.hsp_event(at, *event),
            What::Timer(at) => {
                if let Some(end) = self.hsp_end_mut(at) {
                    end.timer = None;
                }
                self.hsp_event(at, Event::Tick);
            }
            What::Renew(at) => self.hsp_renew(at),
            What::Narrow(at) => self.hsp_event(at, Event::End),
            What::Lost(at) => self.hsp_event(at, Event::Lost),
            What::Batch(s, life) => {
                if self.hsp.servers[s].life == life {
                    self.hsp_batch(s);
                }
            }
            What::Quoted(s, life, sealed) => {
                if self.hsp.servers[s].life == life {
                    self.hsp_quoted(s, *sealed);
                }
            }
            What::Commit(at, request) => self.hsp_commit(at, request),
            What::Try(s) => self.hsp_try(s),
            What::Mischief => self.hsp_mischief(),
            What::Audit => self.hsp_audit(),
        }
    }
}
