//! What members want of the record: tokens, admissions, evictions, other voters, reference values; from anybody, at any time.

use std::collections::BTreeSet;

use gtvp_model::union::{MemberId, RecordHead};
use gtvp_protocol::csp::act::Blob;
use gtvp_protocol::csp::node::Event;
use gtvp_protocol::csp::{Act, Entry};

use crate::config::Story;
use crate::keys::{Cheap, Keys, admission, token};
use crate::member::Member;
use crate::world::{MOST, What, World};

impl World {
    /// Members that are alive, in the union and do not lie, as the longest record has it.
    pub(crate) fn in_union(&self) -> Vec<usize> {
        let honest = |m: &&Member| !m.exempt;
        let lives = self.members.iter().filter(honest).filter_map(|m| m.alive.as_ref());
        let Some(longest) = lives.max_by_key(|l| l.at().number) else { return Vec::new() };
        let record = longest.keeper.record();
        let there =
            |(_, m): &(usize, &Member)| m.alive.is_some() && !m.exempt && record.member(&m.id()).is_some();
        self.members.iter().enumerate().filter(there).map(|(i, _)| i).collect()
    }

    pub(crate) fn union_heads(&self) -> Vec<(usize, RecordHead)> {
        let head = |m: usize| self.members[m].alive.as_ref().map(|l| (m, l.at()));
        self.in_union().into_iter().filter_map(head).collect()
    }

    pub(crate) fn a_voter(&mut self) -> Option<usize> {
        let any = self.in_union();
        let record = self.members[*any.first()?].alive.as_ref()?.keeper.record();
        let voters: Vec<usize> =
            any.iter().copied().filter(|m| record.voters().contains(&self.members[*m].id())).collect();
        self.rng.pick(&voters)
    }

    pub(crate) fn propose(&mut self, m: usize, act: Act) -> Option<u64> {
        let wall = self.ctx(m).wall;
        let member = &mut self.members[m];
        let record = member.alive.as_ref()?.keeper.record();
        let entry = member.keys.write(record, wall, act);
        // `security` writes nothing that it would refuse.
        record.clone().apply(&entry, &Cheap).ok()?;
        let at = RecordHead { number: record.view().head.number + 1, hash: entry.hash() };
        self.tickets += 1;
        let ticket = self.tickets;
        self.members[m].tickets.insert(ticket, at);
        self.event(m, Event::Propose { ticket, entry });
        Some(ticket)
    }

    /// Somebody wants something, and the next time is set.
    pub(crate) fn work(&mut self) {
        if !self.working {
            return;
        }
        let wait = self.rng.between(100, 1500);
        self.after(wait, What::Work);
        let any = self.in_union();
        let Some(m) = self.rng.pick(&any) else { return };
        if self.members[m].alive.as_ref().is_some_and(|l| l.paused > self.now) {
            return;
        }
        if let Some(act) = self.act(m) {
            self.propose(m, act);
        }
    }

    fn act(&mut self, m: usize) -> Option<Act> {
        let record = self.members[m].alive.as_ref()?.keeper.record().clone();
        let (few, fixed) = (
            record.voters().len() < self.config.voters,
            self.config.rolls_back || !matches!(self.config.story, Story::Honest | Story::Union),
        );
        let members: Vec<MemberId> = record.view().members.keys().copied().collect();
        let voters = record.voters();
        let others: Vec<MemberId> = members.iter().copied().filter(|m| !voters.contains(m)).collect();
        let quiet = self.faults == crate::config::Faults::NONE;
        let chance = self.rng.between(0, 99);
        if few && (quiet || !fixed) && (quiet || chance < 40) {
            let more = self.rng.pick(&others)?;
            return Some(Act::Voters(voters.iter().copied().chain([more]).collect()));
        }
        match chance {
            0..=11 if !fixed => {
                let mut new: BTreeSet<MemberId> = voters.clone();
                if voters.len() > 1 && self.rng.permille(500) {
                    let go: Vec<MemberId> = voters.iter().copied().collect();
                    new.remove(&self.rng.pick(&go)?);
                } else if voters.len() < 5 {
                    new.insert(self.rng.pick(&others)?);
                }
                Some(Act::Voters(new))
            }
            12..=17 if !fixed && members.len() > 3 => {
                let member = self.rng.pick(&others)?;
                if member == self.members[m].id() {
                    return Some(Act::Left);
                }
                Some(Act::Evicted { member, reason: "sim".into() })
            }
            18..=30 if !self.hsp.on && self.members.len() < MOST => {
                let known = |w: &Self| w.joining.filter(|(_, since)| since + 30_000 > w.now);
                if known(self).is_some() {
                    return None;
                }
                let used = record.view().tokens.values().filter(|t| t.used_by.is_none()).map(|t| t.key.id());
                let used: BTreeSet<_> = used.collect();
                let number = (1000..=self.tokens).rev().find(|n| used.contains(&token(*n).key.id()))?;
                let new = self.members.len();
                self.joining = Some((new, self.now));
                Some(Act::Admitted(admission(&Keys::of(new), number)))
            }
            31..=40 => {
                let bytes = self.rng.pick(&[10, 1000, 200_000])?;
                let manifest = Blob::new(vec![7; bytes]).ok()?;
                Some(Act::ReferenceAccepted { name: format!("r{}", self.rng.between(0, 5)), manifest })
            }
            _ => {
                self.tokens += 1;
                Some(Act::TokenMade(token(self.tokens)))
            }
        }
    }

    /// Of the entries that this member has come to have, those that admit somebody have them begin.
    pub(crate) fn who_joined(&mut self, m: usize, new: usize) {
        let Some(life) = &self.members[m].alive else { return };
        let last = life.journal.iter().rev().take(new);
        let acts = last.filter_map(|c| Entry::decode(c.entry.entry.as_slice()).ok()).map(|e| e.act);
        let admitted = acts.filter_map(|a| match a {
            Act::Admitted(admission) => Some(admission.member.id()),
            _ => None,
        });
        let next = self.members.len();
        if admitted.into_iter().any(|id| id == Keys::of(next).id()) {
            let wait = self.rng.between(50, 500);
            self.after(wait, What::Join(next, m));
        }
    }

    pub(crate) fn join(&mut self, new: usize, by: usize) {
        if new != self.members.len() {
            return;
        }
        let Some(life) = &self.members[by].alive else {
            // Its verifier is gone; another one has it in the record too, and lets it in.
            let wait = self.rng.between(500, 2000);
            let any = self.in_union();
            if let Some(by) = self.rng.pick(&any) {
                self.after(wait, What::Join(new, by));
            }
            return;
        };
        if life.keeper.record().member(&Keys::of(new).id()).is_none() {
            return;
        }
        let member = Member::new(Keys::of(new), &life.journal, &life.head);
        self.ids.insert(member.id(), new);
        self.members.push(member);
        self.joining = None;
        self.after(10, What::Start(new));
    }
}
