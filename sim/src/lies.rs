//! A voter that lies: it has two entries decided, forges what it offers, makes heads newer than they are. A liar is a compromised
//! `communication`: its `security` gives its word once. A traitor has its keys as well, and signs all it is asked to.

use gtvp_protocol::csp::node::Message;
use gtvp_protocol::csp::node::message::Voted;
use gtvp_protocol::csp::{Act, CoSigned, Entry, Head, SignedEntry};
use gtvp_protocol::frame::Frame;

use crate::config::{Bug, Story};
use crate::keys::{Cheap, Keys, token};
use crate::member::promise_bytes;
use crate::world::World;
use gtvp_model::union::{RecordHead, UnixTime};

impl World {
    /// What it sends in place of this.
    pub(crate) fn lie(&mut self, from: usize, to: usize, frame: Frame) -> Vec<Frame> {
        let Ok(mut message) = Message::decode(&frame) else { return vec![frame] };
        let keys = self.members[from].keys.clone();
        // The others are fooled in two halves.
        let other_half = to % 2 == 1;
        let second = if other_half && self.rng.permille(100) { self.second(from) } else { None };
        match &mut message {
            Message::Raft(raft) if other_half => {
                let mut entries = raft.entries.as_slice().to_vec();
                for logged in &mut entries {
                    if let Some(entry) = &mut logged.entry {
                        *entry = self.other(&keys, entry);
                    }
                }
                raft.entries = entries.try_into().unwrap_or_default();
            }
            Message::Voted(voted) if other_half && self.config.story == Story::Traitor => {
                let same = self.instead.get(&voted.head.at.hash).map(SignedEntry::hash);
                if let Some(hash) = same {
                    voted.head.at.hash = hash;
                    voted.vote = keys.vote(&voted.head);
                    return vec![frame, message.frame()];
                }
            }
            Message::Announce(announce) => match self.rng.between(0, 3) {
                0 => announce.head.head.time = UnixTime(announce.head.head.time.0 + 50),
                1 => {
                    let Some(life) = &self.members[from].alive else { return vec![frame] };
                    let forged = self.forged(&keys, life.at());
                    let head = Head { at: forged.1, ..announce.head.head };
                    announce.head = self.alone(&keys, head, &announce.head);
                }
                _ => {}
            },
            Message::Offered(offered) => {
                let Some(life) = &self.members[from].alive else { return vec![frame] };
                let at = life.at();
                let (entry, place) = self.forged(&keys, at);
                let old = life.head.clone();
                match (&mut offered.offer, self.rng.between(0, 2)) {
                    // An entry of its own under the voters' words for another.
                    (Some(offer), 0) => {
                        if let Some(last) = offer.entries.last_mut() {
                            *last = self.other(&keys, last);
                        }
                    }
                    (Some(offer), 1) => {
                        if let Some(last) = offer.entries.last_mut() {
                            *last = self.other(&keys, last);
                            let at = RecordHead { hash: last.hash(), ..offer.head.head.at };
                            offer.head = self.alone(&keys, Head { at, ..offer.head.head }, &offer.head);
                        }
                    }
                    (None, _) => {
                        let head = self.alone(&keys, Head { at: place, ..old.head }, &old);
                        offered.offer = Some(gtvp_protocol::csp::Offer { entries: vec![entry], head });
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        std::iter::once(message.frame()).chain(second).collect()
    }

    /// Its own `security` is asked to promise the other entry as well, and does if it has forgotten that it promised one.
    fn second(&mut self, from: usize) -> Option<Frame> {
        let wall = self.ctx(from).wall;
        let bug = self.config.bug;
        let member = &mut self.members[from];
        let life = member.alive.as_mut()?;
        let next = life.at().number + 1;
        let other = self
            .instead
            .values()
            .find(|e| Entry::decode(e.entry.as_slice()).is_ok_and(|e| e.number == next))?;
        let head = life.keeper.promise(other, wall, &Cheap).ok()?;
        member.disk.promise.write(promise_bytes(head.at));
        if bug != Some(Bug::PromiseNotSynced) {
            member.disk.promise.sync();
            member.counter = member.counter.max(head.at.number);
        }
        let vote = member.keys.vote(&head);
        Some(Message::from(Voted { head, vote }).frame())
    }

    /// An entry by the liar in the place of this one.
    fn other(&mut self, keys: &Keys, entry: &SignedEntry) -> SignedEntry {
        let hash = entry.hash();
        if let Some(other) = self.instead.get(&hash) {
            return other.clone();
        }
        let Ok(decoded) = Entry::decode(entry.entry.as_slice()) else { return entry.clone() };
        let number = 1_000_000 + u64::from(hash.0[0]) * 256 + u64::from(hash.0[1]);
        let other = keys.signed(&Entry { author: keys.id(), act: Act::TokenMade(token(number)), ..decoded });
        self.instead.insert(hash, other.clone());
        other
    }

    fn forged(&self, keys: &Keys, head: RecordHead) -> (SignedEntry, RecordHead) {
        let union =
            self.members.iter().find_map(|m| m.alive.as_ref()).map(|l| l.keeper.record().view().union);
        let entry = keys.signed(&Entry {
            union: union.unwrap_or_else(|| [0; 32].into()),
            number: head.number + 1,
            previous: head.hash,
            author: keys.id(),
            time: UnixTime(crate::world::WALL),
            act: Act::TokenMade(token(2_000_000 + head.number)),
        });
        let at = RecordHead { number: head.number + 1, hash: entry.hash() };
        (entry, at)
    }

    /// A head that no majority has signed: by the traitor alone, as often as it likes; or with what was signed for another.
    fn alone(&self, keys: &Keys, head: Head, old: &CoSigned) -> CoSigned {
        let vote = keys.vote(&head);
        let votes = match self.config.story {
            Story::Traitor => vec![vote.clone(), vote.clone(), vote].try_into().unwrap_or_default(),
            _ => old.votes.clone(),
        };
        CoSigned { head, votes }
    }
}
