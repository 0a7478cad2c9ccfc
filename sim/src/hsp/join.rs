//! Servers that join: a token is made for them, they ask a member, and the voters decide. Whatever breaks, they ask again.

use gtvp_model::token::JoinToken;
use gtvp_model::union::{Admission, Hardware, MemberId, RecordHead, TokenRecord, UnixTime};
use gtvp_protocol::csp::Act;
use gtvp_protocol::csp::node::Proposal;
use gtvp_protocol::hsp::join::{JoinSetup, Joiner, Verifier, VerifierSetup};
use gtvp_protocol::hsp::{Event, Millis, Request, Timing};

use super::adversary::Mischief;
use super::invariant::Seen;
use super::link::{End, Link, Machine, Who};
use super::tpm::ask;
use super::{At, What};
use crate::keys::{secret, token};
use crate::world::World;

/// Most tokens of a run.
const TOKENS: u64 = 500_000;
/// How long ago a token of who comes too late has ended, seconds: more than any clock of a run is off.
const HOUR: u64 = 3600;

/// An entry that a verifier has proposed.
pub struct Commit {
    admission: Admission,
    ticket: Option<u64>,
    refused: Option<String>,
    until: u64,
}

impl World {
    /// A server without a union does what is next.
    pub(crate) fn hsp_try(&mut self, s: usize) {
        let there = self.members[s].alive.is_some() || self.hsp.joining.contains_key(&s);
        let rogue = self.hsp.servers[s].rogue;
        if there || !self.members[s].disk.record.read().is_empty() || rogue.is_some() && !self.working {
            return;
        }
        self.note(s, || "looks for a way in".into());
        let wait = self.rng.between(800, 3000);
        let any = self.in_union();
        let Some(m) = self.rng.pick(&any) else { return self.hsp_after(wait, What::Try(s)) };
        if self.hsp.servers[s].token.is_none() {
            self.hsp_token(s, m);
            return self.hsp_after(wait, What::Try(s));
        }
        let cut = self.cut.contains(&(s, m)) || self.cut.contains(&(m, s));
        if cut || self.members[m].alive.as_ref().is_none_or(|l| l.paused > self.now) {
            return self.hsp_after(wait, What::Try(s));
        }
        self.hsp_ask_in(s, m);
    }

    /// An administrator has a token made, and hands it over once the record has it.
    fn hsp_token(&mut self, s: usize, m: usize) {
        let rogue = self.hsp.servers[s].rogue;
        if matches!(rogue, Some(Mischief::Thief | Mischief::Again | Mischief::Stranger)) {
            // What somebody else was given. With its secret it is as good as theirs, once.
            let theirs = self.hsp.servers.iter().filter(|o| o.rogue.is_none()).find_map(|o| o.token.clone());
            if let (Some(token), Some(Mischief::Again)) = (&theirs, rogue) {
                self.hsp_see(&Seen::Given { server: s, token: token.secret.key().id() });
            }
            self.hsp.servers[s].token = theirs;
            return;
        }
        let (now, Some(life)) = (self.now, &self.members[m].alive) else { return };
        let view = life.keeper.record().view();
        if let Some((number, since)) = self.hsp.servers[s].making {
            let record = view.tokens.get(&token(number).key.id());
            if let Some(TokenRecord { used_by: None, expires, ek, .. }) = record {
                let endpoint = "192.0.2.1:7600".parse().unwrap_or_else(|_| unreachable!("an endpoint"));
                let (union, head) = (view.union, view.head);
                // What is written in the token its holder may change.
                let ek = ek.filter(|_| rogue != Some(Mischief::Stray));
                let given =
                    JoinToken { union, head, endpoint, expires: *expires, ek, secret: secret(number) };
                self.hsp_see(&Seen::Given { server: s, token: given.secret.key().id() });
                self.hsp.servers[s].token = Some(given);
                self.hsp.servers[s].making = None;
                return;
            }
            if since + 20_000 > now {
                return;
            }
        }
        let number = TOKENS + self.tokens;
        self.tokens += 1;
        let mut record = token(number);
        let named = match rogue {
            Some(Mischief::Stray) => Some(self.config.members),
            _ => self.rng.permille(300).then_some(s),
        };
        if let Some(named) = named {
            record.ek = match self.hsp.servers[named].tpm.identity() {
                gtvp_model::union::Identity::Tpm { ek, .. } => Some(ek),
                gtvp_model::union::Identity::Bare { .. } => None,
            };
        }
        record.expires = match rogue {
            Some(Mischief::Late) => UnixTime(crate::world::WALL - HOUR),
            _ => UnixTime(crate::world::WALL + now / 1000 + self.rng.between(120, 600)),
        };
        self.hsp.servers[s].making = Some((number, now));
        self.propose(m, Act::TokenMade(record));
    }

    /// A connection to join by.
    fn hsp_ask_in(&mut self, s: usize, m: usize) {
        let Some(token) = self.hsp.servers[s].token.clone() else { return };
        let rogue = self.hsp.servers[s].rogue;
        let l = self.hsp_new_link();
        let mut link = Link::new([End::new(Who::Joiner(s), 0), self.hsp_new_end(m)], [self.hsp_nonce(); 2]);
        link.ends[1].lies = self.working && self.rng.permille(100);
        let often = if self.config.attack == Some(Mischief::RelayedJoin) { 1000 } else { 100 };
        if self.working && rogue.is_none() && self.rng.permille(often) {
            // In the middle is one who has both TLS keys.
            link.exporters[1] = self.hsp_nonce();
            link.suffers = Some(Mischief::RelayedJoin);
            self.hsp.count(Mischief::RelayedJoin.name());
        }
        let exporters = link.exporters;
        self.hsp.links.insert(l, link);
        self.hsp.joining.insert(s, l);
        self.hsp.count(rogue.map_or("joins", Mischief::name));
        let timing = Timing::default();
        let (nonce, session_nonce) = (self.hsp_nonce(), self.hsp_nonce());
        let own = self.members[m].keys.entry.clone();
        let peer_spki = self.hsp.servers[s].tpm.spki();
        let setup = VerifierSetup {
            own,
            exporter: exporters[1],
            peer_spki,
            ask: ask(),
            timing,
            nonce,
            session_nonce,
        };
        let born = self.members[m].alive.as_ref().map_or(0, |l| l.born);
        if let (Ok(verifier), Some(end)) =
            (Verifier::start(setup, Millis(self.now - born)), self.hsp_end_mut((l, 1)))
        {
            end.machine = Machine::Verifier(verifier);
        }
        let tpm = &self.hsp.servers[s].tpm;
        let (identity, keys) = (tpm.identity(), Some(tpm.keys()));
        let name = if rogue == Some(Mischief::Namesake) { m } else { s };
        let setup = JoinSetup {
            token,
            name: format!("m{name}").parse().unwrap_or_else(|_| unreachable!("a name")),
            hardware: Hardware::new(2, 4096, "sim").unwrap_or_else(|_| unreachable!("hardware")),
            keys,
            identity,
            exporter: exporters[0],
            peer_spki: self.hsp.servers[m].tpm.spki(),
            ask: ask(),
            timing,
            nonce: self.hsp_nonce(),
            session_nonce: self.hsp_nonce(),
        };
        match Joiner::start(setup, Millis(self.now)) {
            Ok(step) => self.hsp_take((l, 0), step.map(Machine::Joiner)),
            Err(_) => self.hsp_happen(What::Lost((l, 0))),
        }
    }

    pub(crate) fn hsp_verifier(&self, (l, i): At) -> MemberId {
        let other = self.hsp_end((l, 1 - i)).and_then(End::server);
        other.map_or_else(|| [0; 32].into(), |m| self.members[m].id())
    }

    // The entry.

    pub(crate) fn hsp_propose(&mut self, at: At, request: Request, admission: Admission) {
        if self.hsp_end(at).is_some_and(|e| e.lies) {
            // It says that it has, and has not.
            let head = self.hsp_head(at);
            self.hsp.count("lies");
            self.hsp_after(50, What::Done(at, Box::new(Event::Committed { request, outcome: Ok(head) })));
            return;
        }
        let until = self.now + 60_000;
        self.hsp.commits.insert((at, request), Commit { admission, ticket: None, refused: None, until });
        self.hsp_commit(at, request);
    }

    fn hsp_head(&self, at: At) -> RecordHead {
        let life = self.hsp_end(at).and_then(End::member).and_then(|m| self.members[m].alive.as_ref());
        life.map_or(RecordHead { number: 0, hash: gtvp_model::digest::Digest([0; 32]) }, |l| l.at())
    }

    /// Whether it is in the record by now; else once more.
    pub(crate) fn hsp_commit(&mut self, at: At, request: Request) {
        let Some(m) = self.hsp_end(at).filter(|e| !e.over).and_then(End::member) else {
            self.hsp.commits.remove(&(at, request));
            return;
        };
        let Some(commit) = self.hsp.commits.get(&(at, request)) else { return };
        let Some(life) = &self.members[m].alive else { return };
        let view = life.keeper.record().view();
        let there = view.members.get(&commit.admission.member.id());
        let there = there.is_some_and(|e| e.identity.same_keys(&commit.admission.member.identity));
        let outcome = match (there, &commit.refused) {
            (true, _) => Some(Ok(view.head)),
            (_, Some(why)) => Some(Err(why.clone())),
            _ if commit.until <= self.now => Some(Err("nobody decides".into())),
            _ => None,
        };
        if let Some(outcome) = outcome {
            self.hsp.commits.remove(&(at, request));
            return self.hsp_event(at, Event::Committed { request, outcome });
        }
        if commit.ticket.is_none() {
            let act = Act::Admitted(commit.admission.clone());
            let ticket = self.propose(m, act);
            if let Some(commit) = self.hsp.commits.get_mut(&(at, request)) {
                commit.ticket = ticket;
                if ticket.is_none() {
                    commit.refused = Some("the record would refuse it".into());
                }
            }
        }
        let wait = self.rng.between(100, 400);
        self.hsp_after(wait, What::Commit(at, request));
    }

    /// What became of an entry.
    pub(crate) fn hsp_proposed(&mut self, ticket: u64, outcome: &Proposal) {
        for commit in self.hsp.commits.values_mut().filter(|c| c.ticket == Some(ticket)) {
            match outcome {
                Proposal::Taken => {}
                Proposal::Overtaken => commit.ticket = None,
                Proposal::Refused(why) | Proposal::Unknown(why) => commit.refused = Some(why.clone()),
            }
        }
    }
}
