//! A server that leaves its union without a majority's word: it was given up by a recovery, removed while it was away, or its union or
//! its copy of the record is lost. Its record is moved aside and nothing rests on it any more, but two things of it stay true for as long as it is there: this
//! server takes no record of that union that is behind it, or that parts from it elsewhere than at a recovery; and what it has promised as
//! a voter it does not promise otherwise.

use gtvp_ipc::security::LeaveByForce;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::union::{RecordHead, UnionId, UnixTime};
use gtvp_model::unionview::Departure;
use gtvp_protocol::csp::follow::CURRENT;
use gtvp_protocol::csp::page::Committed;
use gtvp_protocol::csp::{Act, Entry};

use super::chain::BadChain;
use super::disk::Disk;
use super::{Held, Known, Union, no_union};

/// What a server gives up with any membership.
const BOXES: &str = "that its boxes can prove themselves to others; those that run go on running";

impl Union {
    /// What leaving by force would give up, and, if that is confirmed, leaves.
    ///
    /// # Errors
    /// Outside of a union; the disk's.
    pub fn leave_by_force(&self, asked: &LeaveByForce, now: UnixTime) -> Result<Departure, Fault> {
        let _alone = self.writing();
        let mut held = self.held();
        let mut departure = match &*held {
            Held::Record(kept) if kept.known.has_us() => plan(&kept.known, now),
            Held::Damaged(why) => self.plan_damaged(why),
            Held::Nothing | Held::Record(_) => return Err(no_union()),
        };
        if !asked.confirmed {
            return Ok(departure);
        }
        let aside = self.disk.aside();
        let aside = aside.map_err(|e| Fault::internal("the record cannot be moved aside", &e))?;
        departure.aside = Some(aside);
        *held = Held::Nothing;
        drop(held);
        self.turns.bump();
        Ok(departure)
    }

    /// The same for a record that cannot be read: whatever was promised in it is as unknown as the rest.
    fn plan_damaged(&self, why: &str) -> Departure {
        let first = self.disk.first();
        let (union, which) = match &first {
            Some(first) => (first.name().to_string(), format!("union {}", first.name())),
            None => ("of unknown name".to_owned(), "any union that was begun elsewhere".to_owned()),
        };
        Departure {
            union,
            entries: 0,
            head_time: 0,
            heard: Vec::new(),
            instead: Some(
                "restore the state directory of security from a backup: a good record can be left in peace"
                    .into(),
            ),
            gives_up: vec![
                format!("this server's membership: its copy of the record is damaged ({why})"),
                format!(
                    "joining {which} for as long as what is put aside is there and cannot be read: nobody knows what this \
                     server has promised by it"
                ),
                BOXES.into(),
            ],
            aside: None,
        }
    }

    /// What was put aside of this union.
    ///
    /// # Errors
    /// What was put aside cannot be read any more: then nothing of that union is taken.
    pub(super) fn put_aside(&self, union: UnionId) -> Result<Aside, Fault> {
        let unreadable = |name: &str, e: &dyn std::error::Error| {
            Fault::new(FaultKind::Integrity, "what this server had of that union before cannot be read")
                .caused_by(e)
                .hint(format!(
                    "it is in {name}, with security's state: restore it from a backup; who removes it gives up that this server \
                     keeps the word that it gave there as a voter"
                ))
        };
        let mut records = Vec::new();
        for (name, disk) in self.disk.asides(union).map_err(|e| unreadable("the state directory", &e))? {
            let Some(kept) = disk.load().map_err(|e| unreadable(&name, &e))? else { continue };
            let view = kept.whole.follower.record().view();
            // Its name is only the beginning of a union's.
            if view.union == union {
                records.push(Before { disk, end: view.head, promised: kept.promised, parted: false });
            }
        }
        Ok(Aside(records))
    }
}

fn plan(known: &Known, now: UnixTime) -> Departure {
    let view = &known.state.view;
    let name = |id| known.name_of(id);
    let own = known.own.as_ref().map(gtvp_model::union::RosterEntry::id);
    let others: Vec<String> = view.members.keys().filter(|id| Some(**id) != own).map(name).collect();
    let time = known.state.head.head.time;
    let mut gives_up = vec![format!(
        "this server's membership of union {}: it comes back only by a new join token, like any other server",
        known.name
    )];
    let voters = &known.state.voters;
    if own.is_some_and(|own| voters.contains(&own)) {
        let (all, left) = (voters.len(), voters.len().saturating_sub(1));
        let then = match left > all / 2 {
            true => "the others can go on without it".to_owned(),
            false => "fewer than a majority: whoever still counts on it changes nothing any more, until \
                      gtvp union recover there"
                .to_owned(),
        };
        gives_up.push(format!("its vote: {left} of {all} voters are left; {then}"));
    }
    if !others.is_empty() {
        gives_up.push(format!(
            "that others know of it: those of {} who have it as a member list it until they remove it \
             (gtvp member evict), and let it in again only then",
            others.join(", ")
        ));
    }
    gives_up.push(BOXES.to_owned());
    let current = !known.forked && now.0.saturating_sub(time.0) <= CURRENT;
    let leave = "the union has its voters: gtvp union leave tells them, and gives up less";
    Departure {
        union: known.name.to_string(),
        entries: view.head.number.saturating_add(1),
        head_time: time.0,
        heard: Vec::new(),
        instead: (current && !others.is_empty()).then(|| leave.to_owned()),
        gives_up,
        aside: None,
    }
}

/// See [`Union::put_aside`].
pub(super) struct Aside(Vec<Before>);

struct Before {
    disk: Disk,
    end: RecordHead,
    promised: Option<RecordHead>,
    /// The record that is learned has gone another way, by a recovery.
    parted: bool,
}

impl Aside {
    /// Looks at an entry of a record that is learned.
    pub fn see(&mut self, number: u64, item: &Committed) -> Result<(), BadChain> {
        for before in self.0.iter_mut().filter(|b| !b.parted && number <= b.end.number) {
            if before.disk.entry(number)?.entry.hash() == item.entry.hash() {
                continue;
            }
            let entry = Entry::decode(item.entry.entry.as_slice());
            before.parted = entry.is_ok_and(|e| matches!(e.act, Act::Recovered { .. }));
            if !before.parted {
                return Err(BadChain::Elsewhere(before.end.number));
            }
        }
        Ok(())
    }

    /// Looks at its end.
    pub fn ends(&self, at: u64) -> Result<(), BadChain> {
        match self.0.iter().find(|b| !b.parted && at < b.end.number) {
            Some(before) => Err(BadChain::Elsewhere(before.end.number)),
            None => Ok(()),
        }
    }

    /// The last promise, of these and this one.
    pub fn promised(&self, other: Option<RecordHead>) -> Option<RecordHead> {
        self.0.iter().filter_map(|b| b.promised).chain(other).max_by_key(|p| p.number)
    }
}
